"""What the syntax tree says: does a completion add errors, where is a function's body.

tree-sitter reads files as they are while being typed, broken ones included.
All offsets are in characters of the text, never in bytes. Another language
would need its grammar, its node names and its own last word in place of
`compile()`; everything that is Python's own is in this file.
"""

from __future__ import annotations

import difflib
import re
import warnings
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from typing import Literal

import tree_sitter_python
from tree_sitter import Language, Node, Parser, Query, QueryCursor, Tree

from talaria.coder.errors import SourceError

REACH = 100_000
"""How many characters on either side of a hole say what a middle does to the syntax."""

# What may stand among the statements of a block without being one.
_BETWEEN_STATEMENTS = frozenset({"comment", "line_continuation", ";"})

_TOLD = 20_000  # characters that show what a part of a text stands in
_UNREADABLE = 200  # characters to an error, and fewer: no code

# The plainest rests of a line, and what may stand before the brackets that it lacks.
_PLAIN = ("", "x", "x:", ":")
_STEMS = (
    *("x", "", "()", "'", "x, ", '"', "=x", "x()", "(x)", " import x", " import ", "x import x"),
    *(": x", " as x", " in x", "x=", "x.", " x"),
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_NEAR = 3_000  # characters on either side in which a bracket's other half is looked for
_LEXEMES = re.compile(
    r"""\"\"\"(?s:.*?)\"\"\"|\'\'\'(?s:.*?)\'\'\'|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
    r"|#[^\n]*|[()\[\]{}]"
)

_ASKED = 8  # plain fillings that parse, about which Python is asked at most
_LONGEST = 50_000  # bytes about which Python is asked at most: it takes its time for them
# What a line ends with, or says alone, behind which the body of a block may follow.
_OPENS = re.compile(r":[ \t]*(?:#.*)?$|^[ \t]*#.*$")
# A line at which something of its own begins: no end of a bracket, no branch of a statement.
_OWN_LINE = re.compile(r"^([ \t]*)(?!(?:elif|else|except|finally|case)\b)[^\s#)\]}]", re.MULTILINE)
_LINE = re.compile(r"^([ \t]*)[^\s#]", re.MULTILINE)
_BRANCHES = ("elif", "else", "except", "finally", "case")
# The plainest headers; the block of a loop takes what that of any other may take.
_HEADERS = {"async def ": "async def _():", "def ": "def _():", "class ": "class _:"}
# What a part of a text may have been cut out of, likeliest first: beginning and end.
_FRAMES = (
    *(("", ""), ("def _():\n", ""), ("{", "}"), ("[", "]"), ("f(", ")")),
    *((quote, quote) for quote in ('"""', "'''", '"', "'")),
)


Standing = Literal["code", "string", "comment"]

_SEEN = 400_000  # characters before a cursor that say what it stands in
_DEEPEST = 200  # formatted strings, fields and brackets in one another, as in Python
_TOP_LINE = re.compile(r"^(?:async |def |class |@|import |from )", re.MULTILINE)
# Here Q is a quote. A string ends with its line if there is no better end.
_STRING = r"QQQ(?:[^Q\\]++|\\.|Q(?!QQ))*+QQQ|Q(?!QQ)(?:[^Q\\\n]++|\\.)*+(?:Q|(?=\n))"
# A string, be it formatted, that is closed and has no quotes in its fields.
_SIMPLE = r"""Q(?!QQ)(?:[^Q\\\n{]++|\\[^{]|\{\{|\{[^{}"'\n#]*+\})*+Q"""
_RUN = (
    r"(?:%s|#[^\n]*+(?=\n)"
    + "".join("|" + _SIMPLE.replace("Q", quote) for quote in "\"'")
    + "".join(
        rf"|(?<!\b[fFtT])(?<!\b[fFtT][rR])(?<!\b[rR][fFtT])(?:{_STRING.replace('Q', quote)})"
        for quote in "\"'"
    )
    + ")*+"
)
# Up to a string that is not closed or not simple, or a comment that goes on to the end.
_CODE = re.compile(_RUN % "[^\"'#]++", re.DOTALL)
_FIELD = re.compile(_RUN % "[^\"'#()\\[\\]{}:\n]++", re.DOTALL)
# What a formatted string says itself, by its quotes.
_LITERAL = {
    quotes: re.compile(
        rf"(?:{literal}|\\[^{{}}]|\{{\{{|\}}\}})*+".replace("Q", quotes[0]), re.DOTALL
    )
    for literal, both in ((r"[^Q\\\n{}]++", "\" '"), (r"[^Q\\{}]++|Q(?!QQ)", "\"\"\" '''"))
    for quotes in both.split()
}
_FORMATTED = re.compile(r"(?<!\w)(?:[ft]r?|r[ft])$", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """What a completion does to the syntax of the text around it.

    `errors_before` counts the errors that the surroundings alone are to blame for: the
    fewest that any of some plain fillings of the hole leaves, in the whole or in the
    statement around it. `errors_after` counts them with the middle in place. tree-sitter
    accepts things that Python refuses; where it finds nothing, `refused` says whether this
    interpreter refuses the function around the middle, or the module's statements that the
    middle touches, and would take them with some plain filling.
    """

    errors_before: int
    errors_after: int
    refused: bool = False

    @property
    def clean(self) -> bool:
        """Whether the completion adds no syntax error."""
        return self.errors_after <= self.errors_before and not self.refused


class Hurried(Exception):
    """There was no time to judge a completion."""


@dataclass(frozen=True)
class FunctionBody:
    """The part of a function to write or rewrite, as `text[start:end]`.

    Signature, decorators, docstring and the comments before the first
    statement stay outside. `start` is behind the first statement's indentation,
    `end` behind the last thing that belongs to the body, without its newline.
    `indentation` is what each further line of the body begins with. `lead`
    must be put before whatever is written: it is empty unless the function has
    no statement yet.
    """

    start: int
    end: int
    indentation: str
    name: str
    lead: str = ""


def count_errors(text: str) -> int:
    """Count the ERROR and MISSING nodes in the syntax tree of `text`."""
    return _count(_parse(_encoded(text)))


def compiles(text: str) -> bool:
    """Whether this interpreter compiles a text; it is never run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Otherwise the __future__ imports of this file would hold for the text.
            compile(text, "<completion>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
            return False
    return True


def judge(prefix: str, middle: str, suffix: str, *, complete: bool = False) -> Verdict:
    """Judge a completion by the errors that it adds; its code is never run.

    What must be `complete` may not have the body of a block still to come.
    """
    return Surroundings(prefix, suffix, complete=complete).judge(middle)


class Trees:
    """Trees of texts parsed before: of a text like one of them, only what differs is parsed.

    Of at most `capacity` bytes of text together, longest unused out first. Not for
    several threads.
    """

    def __init__(self, capacity: int = 4_000_000) -> None:
        self.capacity = capacity
        self.kept: deque[tuple[bytes, Tree]] = deque()

    def parse(self, data: bytes) -> Tree:
        """The tree of a text, which takes the place of one that is mostly the same."""
        shared = [(_common(data, text), text, tree) for text, tree in self.kept]
        (start, end), text, tree = max(shared, default=((0, 0), b"", None), key=lambda k: sum(k[0]))
        if tree is not None and 2 * (start + end) > len(text):
            self.kept.remove((text, tree))
            tree = _edited(tree, text, data, start, end)
            found = Parser(_language()).parse(data, tree)
        else:
            found = Parser(_language()).parse(data)
        self.kept.append((data, found))
        # The newest stays, however long it is: it is being asked about.
        while sum(len(text) for text, _ in self.kept) > self.capacity and len(self.kept) > 1:
            self.kept.popleft()
        return found


class Surroundings:
    """The text around a hole, parsed once; each middle is parsed into it incrementally.

    Of a side longer than `REACH`, only a part next to the hole counts that can stand for
    itself: from where the indentation is least, within what it is seen to stand in.
    Where there are errors elsewhere, the statement that the hole is in decides.
    Where there are errors all over, as in a long text that is no code, every middle is refused.
    """

    def __init__(
        self,
        prefix: str,
        suffix: str,
        trees: Trees | None = None,
        *,
        complete: bool = False,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """With `trees`, what was parsed before is not parsed again.

        What must be `complete` may not have the body of a block still to come. `hurried`
        is asked before everything that takes time, here and later: Hurried, where it is so.
        """
        self.complete, self.hurried = complete, hurried
        before = _near_end(prefix, self._take_time)
        after = None if before is None else _near_start(before, suffix, self._take_time)
        prefix, suffix = before or "", after or ""
        self.text = prefix, suffix
        self.prefix, self.suffix = _encoded(prefix), _encoded(suffix)
        self._take_time()
        self.tree = (trees or Trees()).parse(self.prefix + self.suffix)
        self.fillings = _fillings(prefix, suffix)
        self.mendable: dict[bool, bool] = {}
        self.errors_unfilled = _count(self.tree.root_node)
        self.unreadable = after is None or (
            self.errors_unfilled > 100
            and self.errors_unfilled * _UNREADABLE > len(self.prefix) + len(self.suffix)
        )

    @cached_property
    def plainest(self) -> tuple[int, str]:
        """The fewest errors that a plain filling leaves, and the first that leaves so many."""
        best = self.errors_unfilled, ""
        for filling in self.fillings:
            if not best[0]:
                break
            best = min(best, (_count(self._filled(filling)), filling), key=lambda it: it[0])
        return best

    @cached_property
    def part(self) -> tuple[Surroundings, int] | None:
        """Where there are errors elsewhere, the statement around the hole, and how many they are.

        They are those that the plainest filling of the statement leaves in the whole.
        """
        if not self.errors_unfilled:
            return None
        part = Surroundings(*_part(*self.text, self._begins), hurried=self.hurried)
        part.part = None  # it is judged by itself
        elsewhere = _count(self._filled(part.plainest[1]))
        return (part, elsewhere) if elsewhere else None

    def _mendable(self, silent: bool) -> bool:
        """Whether Python would take what is around the hole with some plain filling."""
        if silent not in self.mendable:
            filled = ((filling, self._filled(filling)) for filling in self.fillings)
            sound = ((text, root) for text, root in filled if not root.has_error)
            # What Python refuses with so many of them it refuses for another reason.
            some = islice(sound, _ASKED)
            self.mendable[silent] = any(self._compiles(root, text, silent) for text, root in some)
        return self.mendable[silent]

    def judge(self, middle: str) -> Verdict:
        """Judge a completion by the errors that it adds; its code is never run.

        Unless it must be complete, a block that it opens at its end, or of which it says
        no more than a comment, may have its body still to come.
        """
        if self.unreadable:
            return Verdict(0, 0, refused=bool(middle))
        verdict = self._judge(middle)
        if verdict.clean or self.complete:
            return verdict
        body = self.with_body(middle)
        return body if body and body.clean else verdict

    def with_body(self, middle: str) -> Verdict | None:
        """Judge a completion that ends where a body may follow, together with the plainest."""
        line = (self.text[0] + middle).rstrip().rpartition("\n")[2]
        depth = line[: len(line) - len(line.lstrip())]
        if self.unreadable or not (opens := _OPENS.search(line)):
            return None
        deeper = "    " if opens[0].startswith(":") else ""
        return self._judge(f"{middle}\n{depth}{deeper}pass")

    def _judge(self, middle: str) -> Verdict:
        root = self._filled(middle)
        errors = _count(root)
        if not middle:
            return Verdict(errors, errors)  # nothing adds nothing
        if not errors:
            silent = self._is_silent(middle)
            taken = self._compiles(root, middle, silent)
            return Verdict(0, 0, refused=not taken and self._mendable(silent))
        if self.part:
            part, elsewhere = self.part
            own = part._judge(middle)
            # What is wrong in the statement alone may be needed elsewhere: the end of a string.
            if own.clean or errors >= elsewhere:
                added = own.errors_after - own.errors_before
                return Verdict(elsewhere, elsewhere + added, own.refused)
        return Verdict(min(errors, self.plainest[0]), errors)

    def errors(self, middle: str) -> list[tuple[int, int]]:
        """Where the filled text's errors touch the middle: begins and ends, in its bytes."""
        if self.unreadable:
            return []
        if self.part:
            return self.part[0].errors(middle)
        start = len(self.prefix)
        end = start + len(_encoded(middle))
        return [
            (max(node.start_byte, start) - start, min(node.end_byte, end) - start)
            for node in _errors(self._filled(middle))
            if node.start_byte <= end and node.end_byte >= start
        ]

    def _begins(self, place: int) -> bool:
        """Whether a statement may begin there: not in a string, nor after a line that goes on."""
        before = "".join(self.text)[:place]
        byte = len(_encoded(before))
        around = self.tree.root_node.descendant_for_byte_range(byte - 1, byte + 1) if byte else None
        inside = around is not None and "string" in around.type
        return not inside and not before.rstrip(" \t").endswith("\\\n")

    def _take_time(self) -> None:
        if self.hurried():
            raise Hurried

    def _filled(self, middle: str) -> Node:
        self._take_time()
        whole = self.prefix + _encoded(middle) + self.suffix
        before = self.prefix + self.suffix
        tree = _edited(self.tree, before, whole, len(self.prefix), len(self.suffix))
        return Parser(_language()).parse(whole, tree).root_node

    def _compiles(self, root: Node, middle: str, silent: bool) -> bool:
        """Whether Python takes the function around the middle, or the statements it touches.

        What is `silent` is no part of the block that it stands in, so what is before it counts
        as touched. Of what is very long, Python is not asked.
        """
        self._take_time()
        start = len(self.prefix)
        end = start + len(_encoded(middle))
        start = _code_end(self.prefix) if silent else start
        # Down by a query: a node's parent is searched for from the root on.
        around = QueryCursor(_query("(function_definition) @it"))
        around.set_byte_range(max(0, start - 1), max(end, start + 1))
        functions = sorted(
            (
                node
                for node in around.captures(root).get("it", [])
                if node.start_byte <= start and node.end_byte >= (start if silent else end)
            ),
            key=lambda node: node.start_byte,
        )
        whole = self.prefix + _encoded(middle) + self.suffix
        parts = functions[-1:]
        if parts and b"nonlocal" in whole[parts[0].start_byte : parts[0].end_byte]:
            parts = functions[:1]  # by itself it would have nothing to bind
        parts = parts or [n for n in root.children if n.start_byte <= end and n.end_byte >= start]
        if not parts:
            return False
        # With what stands between them: indentation is not part of a statement's text.
        text = whole[parts[0].start_byte : max(parts[-1].end_byte, end if silent else 0)]
        return len(text) > _LONGEST or compiles(text.decode() + "\n")

    def _is_silent(self, middle: str) -> bool:
        """Whether a middle says nothing but comments, or goes on with one."""
        line = self.text[0].rpartition("\n")[2]
        said = line + middle if line.lstrip().startswith("#") else middle
        return all(not it or it.startswith("#") for it in map(str.strip, said.split("\n")))


def find_function(text: str, qualified_name: str) -> FunctionBody:
    """Find the body of `name`, `Class.method` or `outer.inner` in a possibly broken text.

    Of several functions with one name, the first that is not an `@overload` is
    taken: the implementation rather than its stubs, the getter of a property
    rather than its setter. Where the function itself is broken, its body ends at
    the latest before the first line that is indented no deeper than its `def`.

    Raises:
        SourceError: the text has no such function; the message names similar ones.
    """
    data = _encoded(text)
    root = _parse(data)
    functions = list(_functions(root))
    named = [node for name, node in functions if name == qualified_name]
    if not named:
        raise SourceError(_not_found(qualified_name, [name for name, _ in functions], root))
    node = next((node for node in named if not _is_overload(node)), named[0])
    return _body(text, data, node, qualified_name)


def function_at(text: str, offset: int) -> FunctionBody | None:
    """The body of the innermost function around a cursor, if it is in one.

    Its decorators and its header are parts of a function, and so is a blank line behind its
    last one in which the cursor stands deeper than its `def`.
    """
    data = _encoded(text)
    place = len(text[:offset].encode("utf-8", "replace"))
    found = None
    for name, node in _functions(_parse(data)):
        decorated = node.parent is not None and node.parent.type == "decorated_definition"
        whole = node.parent if decorated and node.parent else node
        end = whole.end_byte
        column = place - (data.rfind(b"\n", 0, place) + 1)
        if place > end and not data[end:place].strip() and column > whole.start_point[1]:
            end = place
        if whole.start_byte <= place <= end and any(c.type == ":" for c in node.children):
            found = name, node
    return _body(text, data, found[1], found[0]) if found else None


def standing_in(prefix: str, suffix: str) -> Standing:
    """What a cursor between two texts stands in.

    Docstrings are strings, the fields of formatted strings are code. A string in plain
    quotes that is not closed ends with its line, one in triple quotes does not. Of a very
    long prefix, its end is read, from a line on that begins a module's statement.
    """
    place = max(0, len(prefix) - _SEEN)
    if place and (line := _TOP_LINE.search(prefix, place)):
        place = line.start()
    # Formatted strings by their quotes, in them "{" and ":" of fields, in those other brackets.
    opened: list[str] = []
    while len(opened) < _DEEPEST:
        quote = next((sign for sign in reversed(opened) if sign in _LITERAL), "")
        literal = bool(opened) and opened[-1] in (quote, ":")
        run = (_LITERAL[quote] if literal else _FIELD if opened else _CODE).match(prefix, place)
        place = run.end() if run else place
        if place == len(prefix):
            # A third quote makes triple quotes of what looks like an empty string.
            tripled = prefix[-2:] in ('""', "''") and suffix[:1] == prefix[-1]
            return "string" if literal or tripled else "code"
        sign = prefix[place]
        if sign in "\"'":
            ends = literal and prefix.startswith(quote, place)
            sign = quote if ends else sign * (3 if prefix.startswith(sign * 3, place) else 1)
            if ends:
                while opened.pop() != quote:
                    pass
            elif literal:  # a quote of another kind, in what follows the colon of a field
                pass
            elif _FORMATTED.search(prefix[max(0, place - 3) : place]):
                opened.append(sign)
            else:
                return "string"
        elif sign == "#":
            return "comment"
        elif sign == "\n":
            if any(len(quote) == 1 for quote in opened if quote in _LITERAL):
                opened.clear()  # the line is over, and what a string of one line held
        elif literal:
            if sign == "{":
                opened.append(sign)
            elif sign == "}" and opened[-1] == ":":
                del opened[-2:]
        elif sign == ":":
            opened += sign if opened[-1] == "{" else ""
        elif sign in "([{":
            opened.append("(")
        elif opened[-1] not in _LITERAL:
            opened.pop()
        place += len(sign)
    return "code"


@cache
def _language() -> Language:
    return Language(tree_sitter_python.language())


@cache
def _query(pattern: str) -> Query:
    return Query(_language(), pattern)


def _encoded(text: str) -> bytes:
    """Encode for the parser, which would choke on a lone surrogate; characters stay countable."""
    return text.encode("utf-8", "replace")


def _parse(data: bytes) -> Node:
    # A parser is cheap to make and must not be shared between threads.
    return Parser(_language()).parse(data).root_node


def _captured(pattern: str, node: Node) -> list[Node]:
    """List the nodes that the pattern captures as @it, in the order of the text."""
    found = QueryCursor(_query(pattern)).captures(node).get("it", [])
    return sorted(found, key=lambda it: (it.start_byte, -it.end_byte))


def _errors(root: Node) -> Iterator[Node]:
    # A stack rather than recursion: trees of broken texts can be deep.
    stack = [root]
    while stack:
        node = stack.pop()
        if node.is_error or node.is_missing:
            yield node
        if node.has_error:
            stack.extend(node.children)


def _count(root: Node) -> int:
    return sum(1 for _ in _errors(root))


def _code_end(text: bytes) -> int:
    """Where the last line ends that is more than a comment."""
    end = len(text)
    while end > 0:
        start = text.rfind(b"\n", 0, end) + 1
        line = text[start:end].rstrip()
        if line.strip() and not line.lstrip().startswith(b"#"):
            return start + len(line)
        end = start - 1
    return 0


def _common(one: bytes, other: bytes) -> tuple[int, int]:
    """How many bytes two texts share from their beginning on, and of the rest up to their end."""
    most = min(len(one), len(other))
    # Slices are compared by the machine, bytes one by one by Python: so by halving.
    start = bisect(range(1, most + 1), False, key=lambda n: one[:n] != other[:n])
    rest = range(1, most - start + 1)
    return start, bisect(rest, False, key=lambda n: one[-n:] != other[-n:])


def _edited(tree: Tree, before: bytes, after: bytes, start: int, end: int) -> Tree:
    """A tree told of an edit that left so many bytes at the start and at the end as they were."""
    tree = tree.copy()
    old, new = len(before) - end, len(after) - end
    ends = _point(before, old), _point(after, new)
    tree.edit(start, old, new, _point(before, start), *ends)
    return tree


def _point(data: bytes, offset: int) -> tuple[int, int]:
    return data.count(b"\n", 0, offset), offset - (data.rfind(b"\n", 0, offset) + 1)


def _fillings(prefix: str, suffix: str) -> list[str]:
    """What can stand in a hole at its plainest, the likely first, with the brackets it lacks."""
    above, _, line = prefix.rpartition("\n")
    lacking = _lacking(prefix, suffix)
    if line.strip():
        ends = ["", ":", ","]
        return list(dict.fromkeys([*_PLAIN, *(x + lacking + end for x in _STEMS for end in ends)]))
    # The hole has its line's indentation: as deep as the line above, a level deeper, or as below.
    last = next((line for line in reversed(above.split("\n")) if line.strip()), "")
    depth = "" if line else last[: len(last) - len(last.lstrip())]
    below = None if line else _OWN_LINE.search(suffix)
    depths = dict.fromkeys((depth, depth + "    ", below[1] if below else depth))
    return [
        "",
        *(f"{each}{end}" for each in depths for end in ("pass", ")", "]", "}")),
        *(f"{depth}x{lacking}{end}" for end in ("", ",", ": x,")),
        *(f"{depth}{header}" for header in ("if x:", "try:", "): x", f"def x{lacking}")),
    ]


def _lacking(prefix: str, suffix: str) -> str:
    """The brackets that must stand in a hole: those that close or open what is around it."""
    opened = [bracket for _, bracket in _opened(prefix[-_NEAR:])]
    closed: list[str] = []
    depth = 0
    for _, bracket in _brackets(suffix[:_NEAR]):
        depth += 1 if bracket in _CLOSING else -1
        if depth < 0:
            closed.append(bracket)
            depth = 0
    # The outermost belong together; what is left over lacks its other half.
    if len(closed) > len(opened):
        opening = {end: start for start, end in _CLOSING.items()}
        return "".join(opening[end] for end in reversed(closed[: len(closed) - len(opened)]))
    return "".join(_CLOSING[start] for start in reversed(opened[len(closed) :]))


def _opened(text: str) -> list[tuple[int, str]]:
    """Where brackets are opened that are not closed again, and which."""
    opened: list[tuple[int, str]] = []
    for place, bracket in _brackets(text):
        if bracket in _CLOSING:
            opened.append((place, bracket))
        elif opened:
            opened.pop()
    return opened


def _brackets(text: str) -> Iterator[tuple[int, str]]:
    """The brackets of a text that stand neither in a string nor in a comment, and where."""
    return ((it.start(), it[0]) for it in _LEXEMES.finditer(text) if it[0] in "()[]{}")


def _part(prefix: str, suffix: str, begins: Callable[[int], bool]) -> tuple[str, str]:
    """The statement around a hole, in plain headers of what it is in by its indentation."""
    starts = _starts(prefix, suffix, begins)
    begin, depth, _ = starts.pop(0)
    while starts:
        above = prefix[starts[0][0] : begin]
        block = next((it.start() for it in _OWN_LINE.finditer(above) if it[1] == depth), len(above))
        if not any(place < block for place, _ in _opened(above)):
            break
        begin, depth, _ = starts.pop(0)  # the line goes on with what is opened above
    ends = (
        it
        for it in _LINE.finditer(suffix, suffix.find("\n") + 1 or len(suffix))
        if len(it[1]) < len(depth) + bool(_OWN_LINE.match(suffix, it.start()))
        if begins(len(prefix) + it.end() - 1)
    )
    end = next(ends, None)
    if end and prefix.endswith("\n") and len(end[1]) == len(depth):
        end = next(ends, None)  # a line that is not there yet must fit what follows it
    headers = [f"{depth}{_plain(line)}\n" for _, depth, line in reversed(starts)]
    return "".join(headers) + prefix[begin:], suffix[: end.start() if end else None]


def _starts(prefix: str, suffix: str, begins: Callable[[int], bool]) -> list[tuple[int, str, str]]:
    """Where the statements around a hole begin, innermost first, with indentation and line."""
    hole = prefix[prefix.rfind("\n") + 1 :]
    # It may become a branch of the statement above, or lie deeper than it seems so far.
    unsaid = any(word.startswith(hole.strip()) for word in _BRANCHES)
    text = prefix[: len(prefix) - len(hole)] if unsaid else prefix
    lines, place = text.split("\n"), len(text) + 1
    depth = len(hole) - len(hole.lstrip())
    if not hole:
        last = next((line for line in reversed(lines) if line.strip()), "")
        following = _OWN_LINE.search(suffix)
        depth = min(len(last) - len(last.lstrip()), len(following[1]) if following else 0)
    found = []
    for line in reversed(lines):
        place -= len(line) + 1
        it = _LINE.match(line)
        if it and len(it[1]) <= depth and begins(place + len(it[1])):
            depth = len(it[1])
            if _OWN_LINE.match(line):
                found.append((place, it[1], line.strip()))
                depth -= 1
        if depth < 0:
            break
    return found or [(0, "", "")]


def _plain(header: str) -> str:
    return next((it for word, it in _HEADERS.items() if header.startswith(word)), "while _:")


def _near_end(prefix: str, take_time: Callable[[], None]) -> str | None:
    """The part of a prefix that decides about a middle, in a frame that makes it parse, if any."""
    if len(prefix) <= REACH:
        return prefix
    near = prefix[-REACH:]
    starts = [line.start() for line in _outer_lines(near)]
    # Of a line without end, from behind a comma or a blank.
    starts = starts or [min(near.find(","), near.find(" ")) + 1]
    parts = (
        # The beginning tells; all of it, nine times over, would take long.
        (
            start + near[place:],
            start + _without_line_of_hole(near[place:], "")[:_TOLD] + end,
        )
        for place, (start, end) in _framed(near, starts)
    )
    return _fitting(parts, 2, take_time)


def _near_start(prefix: str, suffix: str, take_time: Callable[[], None]) -> str | None:
    """The part of a suffix that decides about a middle, with an end that makes it parse, if any."""
    if len(suffix) <= REACH:
        return suffix
    near = suffix[:REACH]
    # A decorator is not parted from what it decorates.
    outer = [
        line for line in _outer_lines(near) if not re.search(r"^[ \t]*@.*\n$", near[: line.start()])
    ]
    places = [line.start() for line in reversed(outer)]
    places = places or [max(near.rfind(","), near.rfind(" ")) + 1 or REACH]
    parts = (
        (near[:place] + end, _without_line_of_hole(prefix, near[:place]) + end)
        for place, (_, end) in _framed(near, places)
    )
    return _fitting(parts, 0, take_time)


def _outer_lines(text: str) -> list[re.Match[str]]:
    """The lines with the least indentation at which something begins, without the first line."""
    own = list(_OWN_LINE.finditer(text, text.find("\n") + 1 or len(text)))
    depth = min((len(line[1]) for line in own), default=0)
    return [line for line in own if len(line[1]) == depth]


def _framed(text: str, places: list[int]) -> list[tuple[int, tuple[str, str]]]:
    """Where to cut a text and what to put there, the likeliest first."""
    # Not far apart: a shorter part has fewer errors for no merit of its own.
    some = dict.fromkeys((places[0], places[len(places) // 4]))
    # Anything without a quote in it fits into quotes, so these say nothing.
    frames = [frame for frame in _FRAMES[1:] if frame[0] != frame[1] or frame[0] in text]
    return [(place, _FRAMES[0]) for place in some] + [(places[0], frame) for frame in frames]


def _without_line_of_hole(prefix: str, suffix: str) -> str:
    """What is around the line that is being written; where that is all there is, with a name."""
    lines = prefix[: prefix.rfind("\n") + 1] + suffix[suffix.find("\n") + 1 or len(suffix) :]
    return lines or f"{prefix}x{suffix}"


def _fitting(
    parts: Iterable[tuple[str, str]], doubt: int, take_time: Callable[[], None]
) -> str | None:
    """The first of some parts, or one with clearly fewer errors in the text that stands for it.

    So many errors as `doubt` may be of what is being written: a part without them might hide it.
    None where there are errors everywhere.
    """
    best, fewest, readable = "", None, False
    for part, text in parts:
        take_time()
        errors = count_errors(text)
        if fewest is None or 2 * errors + doubt < fewest:
            best, fewest = part, errors
            readable = errors <= doubt or _UNREADABLE * errors < len(text)
        if fewest <= doubt:
            break
    return best if readable else None


def _functions(root: Node) -> Iterator[tuple[str, Node]]:
    """Yield each function with its qualified name, in the order of the text."""
    enclosing: list[tuple[int, str]] = []  # (end byte, qualified name), outermost first
    for node in _captured("[(function_definition) (class_definition)] @it", root):
        while enclosing and enclosing[-1][0] <= node.start_byte:
            enclosing.pop()
        identifier = node.child_by_field_name("name")
        own = identifier.text.decode() if identifier and identifier.text else ""
        name = f"{enclosing[-1][1]}.{own}" if enclosing else own
        enclosing.append((node.end_byte, name))
        if node.type == "function_definition":
            yield name, node


def _is_overload(function: Node) -> bool:
    decorated = function.parent
    if decorated is None or decorated.type != "decorated_definition":
        return False
    decorators = [child.text or b"" for child in decorated.children if child.type == "decorator"]
    return any(re.fullmatch(rb"@\s*(?:\w+\.)*overload\s*", text) for text in decorators)


def _is_docstring(statement: Node) -> bool:
    if statement.type != "expression_statement" or len(statement.children) != 1:
        return False
    value = statement.children[0]
    parts = value.children if value.type == "concatenated_string" else [value]
    quotes = [part.children[0].text for part in parts if part.type == "string" and part.children]
    # Bytes, f-strings and t-strings are values, not documentation.
    return len(quotes) == len(parts) and not any(
        re.match(rb"[^'\"]*[bft]", q or b"", re.I) for q in quotes
    )


def _body(text: str, data: bytes, function: Node, name: str) -> FunctionBody:
    def characters(byte: int) -> int:
        return len(data[:byte].decode("utf-8", "ignore"))

    def before_on_line(offset: int) -> str:
        return re.split(r"[\r\n]", text[:offset])[-1]

    children = function.children
    colon = next(i for i, child in enumerate(children) if child.type == ":")
    # Of a broken body, parts may stand beside the block instead of in it.
    statements = [
        node
        for child in children[colon + 1 :]
        for node in (child.children if child.type == "block" else [child])
        if node.type not in _BETWEEN_STATEMENTS
    ]
    header = re.match(r"[ \t]*", before_on_line(characters(function.start_byte)) + "x")
    outer = header[0] if header else ""
    indentation = outer + ("\t" if re.search(r"^\t", text, re.MULTILINE) else "    ")
    own_line = True
    if statements:
        before = before_on_line(characters(statements[0].start_byte))
        own_line = not before.strip()
        indentation = before if own_line else indentation

    last = children[colon]
    if statements and _is_docstring(statements[0]):
        last = statements.pop(0)
    if statements:
        start, end = characters(statements[0].start_byte), characters(function.end_byte)
        if function.has_error:
            end = _dedent(
                text,
                start,
                end,
                len(outer),
                [
                    (characters(node.start_byte), characters(node.end_byte))
                    for node in _captured("(string) @it", function)
                ],
            )
        return FunctionBody(start, start + len(text[start:end].rstrip()), indentation, name)

    start = characters(last.end_byte)
    if not own_line:  # def f(): "documentation"
        return FunctionBody(start, start, indentation, name, lead="; ")
    # Comments may say what to write, so they stay before it.
    comments = re.compile(rf"(?:[ \t]*#[^\r\n]*)?(?:\s*[\r\n]{outer}[ \t]+#[^\r\n]*)*")
    if found := comments.match(text, start):
        start = found.end()
    return FunctionBody(start, start, indentation, name, lead="\n" + indentation)


def _dedent(text: str, start: int, end: int, width: int, strings: list[tuple[int, int]]) -> int:
    """Find where indentation ends a broken body, which may have swallowed what follows it."""
    # A closing bracket may stand that far left; the lines of a string anywhere.
    for line in re.compile(r"[\r\n]([ \t]*)[^\s#)\]}]").finditer(text, start, end):
        inside = any(low <= line.start() < high for low, high in strings)
        if len(line[1]) <= width and not inside:
            return line.start()
    return end


def _not_found(name: str, functions: list[str], root: Node) -> str:
    if not functions:
        known = "the file has no functions; give a position, FILE:LINE:COL"
    else:
        names = list(dict.fromkeys(functions))
        related = [n for n in names if n.endswith(f".{name}") or n.startswith(f"{name}.")]
        similar = difflib.get_close_matches(name, names, n=5)
        close = ", ".join(list(dict.fromkeys(related + similar))[:5])
        count = f"{len(names)} function" + ("s" if len(names) > 1 else "")
        known = f"the file has {count}; " + (
            f"close matches: {close}" if close else "give NAME, Class.method or outer.inner"
        )
    hidden = "; its syntax errors may hide some" if root.has_error else ""
    return f"no function {name!r}: {known}{hidden}"

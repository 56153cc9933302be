"""Bounds end a middle before the model ends it.

It ends with its line, statement or block, or where it begins to repeat the text after its hole.
Python's own tokenizer finds the ends of statements and blocks, so that nothing inside brackets,
strings and comments counts as a line break or a dedent.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise

from talaria.coder.request import Request, Settings, Until
from talaria.coder.syntax.lexical import (
    CLOSING,
    STATEMENT_WORD,
    first_unopened,
    indentation,
    logical_starts,
)
from talaria.coder.syntax.standing import standing_in

# Characters before a hole that are searched for the beginning of its logical line: so many where
# a statement begins there, else up to so many.
REACH, FARTHEST = 8_000, 400_000
BELOW = 4_000  # characters after a hole that a middle may repeat
# Letters and digits of repeated lines that are no coincidence: of some lines of many, or of one.
TELLING, TELLING_LINE = 32, 8
QUOTES, BRACKETS = ("'", '"'), (*CLOSING.values(),)

_STATEMENT_WORD = re.compile(STATEMENT_WORD, re.MULTILINE)
# Lines, or the rest of one, that only close brackets; and the end of a string before that.
_CLOSED = r"(?>(?:\s*[)\]}][)\]},:;]*+[ \t]*(?=\n|\Z))*)"
_CLOSED_AHEAD = {
    "code": re.compile(_CLOSED),
    "string": re.compile(r"(?:\s*\"\"\"|\s*'''|[\"'])[)\]},:;]*+[ \t]*(?=\n|\Z)" + _CLOSED),
}
# Keywords that continue a compound statement after one of its blocks, and all that open a block.
_CONTINUING = frozenset({"else", "elif", "except", "finally"})
# Those that open a statement of several blocks, or a further one that need not be the last.
_BRANCHING = frozenset({"if", "elif", "else", "for", "while", "try", "except", "async"})
_SOFT = frozenset({"match", "case"})  # names as well
_OPENING = _SOFT | _CONTINUING | {"async", "class", "def", "for", "if", "try", "while", "with"}


class Bound:
    """A bound on the middles of one hole.

    "line"       the first line of the middle that is not blank
    "statement"  the statement around the hole or, if that is complete, the next one
    "block"      the statements that are indented like the hole, or the block of the header before
                 it
    """

    def __init__(self, until: Until, prefix: str) -> None:
        self.until = until
        self.line = "" if until == "line" else logical_line(prefix)

    def end(self, middle: str) -> int | None:
        """The length, in characters, at which the bound ends a middle; None if not yet."""
        if self.until == "line":
            found = re.search(r"\S[^\r\n]*(?=[\r\n])", middle)
            return found.end() if found else None
        ends = statement_end if self.until == "statement" else block_end
        end = ends(self.line + middle, len(self.line))
        return None if end is None else end - len(self.line)


class Repetition:
    """The bound of middles that run on into the text after their hole.

    The lines that agree must hold TELLING letters and digits: a closing bracket, `else:` or
    `return` may well belong to the middle too. Where the middle is a line, TELLING_LINE are enough.
    Lines count once they are complete, blank ones never.

    In its own line, a middle runs on where it closes what the rest of the line closes, the brackets
    and quotes that editors put there among it.
    """

    def __init__(self, until: Until | None, prefix: str, suffix: str) -> None:
        self.enough = TELLING_LINE if until == "line" else TELLING
        self.begun = prefix[prefix.rfind("\n") + 1 :]
        rest, *below = (line.rstrip() for line in suffix[:BELOW].split("\n"))
        self.rest = rest  # of the line that the hole ends in
        self.lines = [line for line in (rest, *below) if line]
        self.closes = closing(prefix, suffix)

    def end(self, middle: str) -> int | None:
        """The length, in characters, at which a middle begins to repeat; None if not yet."""
        ends = self.repeats(middle), self.closes(middle)
        return min((end for end in ends if end is not None), default=None)

    def repeats(self, middle: str) -> int | None:
        """The length at which it begins to repeat lines."""
        if "\n" not in middle:
            return None
        every = (self.begun + middle).split("\n")
        begins = accumulate((len(line) + 1 for line in every), initial=-len(self.begun))
        complete = [(begin, line.rstrip()) for begin, line in zip(begins, every[:-1], strict=False)]
        lines = [(begin + len(line), line) for begin, line in complete if line]
        ended = 0  # where the line before ends
        for number, (end, line) in enumerate(lines):
            if not self.rest:  # whole lines, of which the first may have been begun before the hole
                repeats = line in self.lines[:1] and (number > 0 or not self.begun.strip())
            elif self.begun.strip():
                repeats = line.endswith(self.rest)
            else:  # deeper in, the same text is another statement
                repeats = line == self.begun + self.rest
            if repeats and self.tells(line for _, line in lines[number + 1 :]):
                return max(0, end - len(self.rest)) if self.rest else ended
            ended = end
        return None

    @property
    def possible(self) -> bool:
        """Whether there is enough in the suffix for a middle to repeat."""
        return sum(map(telling, self.lines)) >= self.enough

    def tells(self, following: Iterable[str]) -> bool:
        """Whether what follows a first repeated line repeats enough."""
        told = telling(self.lines[0])
        for line, wanted in zip(following, self.lines[1:], strict=False):
            if told >= self.enough or line != wanted:
                break
            told += telling(line)
        return told >= self.enough


def closing(prefix: str, suffix: str) -> Callable[[str], int | None]:
    """What finds the length at which a middle closes what the text after its hole closes first.

    That text begins with a bracket in code, with quotes in a string, or with a header's colon.
    """
    rest = suffix.partition("\n")[0].strip()
    after = suffix[:BELOW].lstrip()
    sign = after[:1]
    if sign in QUOTES and standing_in(prefix, suffix) == "string":
        quotes = after[:3] if after.startswith(3 * sign) else sign
        # A string of one line is closed in it.
        if rest or len(quotes) == 3:
            inside = re.compile(rf"(?>(?:\\.|(?!{quotes})[^\\])*)(?={quotes})", re.DOTALL)
            return lambda middle: found.end() if (found := inside.match(middle)) else None
    if sign in BRACKETS and standing_in(prefix, suffix) == "code":

        def bracket(middle: str) -> int | None:
            place, found = first_unopened(middle) or (0, "")
            if found != sign:
                return None
            return place if rest else len(middle[:place].rstrip())

        return bracket
    line = logical_line(prefix) if rest[:1] == ":" else ""
    if line.strip() and not opens(list(tokens(line))):

        def colon(middle: str) -> int | None:
            found = header_colon(list(tokens(line + middle)))
            return None if found is None else found.start - len(line)

        return colon
    return lambda middle: None


def closed_ahead(prefix: str, suffix: str) -> int:
    """How many characters at the beginning of a suffix only close what is open before it.

    That is the end of a string, the rest of the line, and lines below it, with nothing but closing
    brackets and the like. Editors put them there and take them away while somebody types.
    """
    if suffix[:BELOW].lstrip()[:1] not in (*QUOTES, *BRACKETS):
        return 0
    ahead = _CLOSED_AHEAD.get(standing_in(prefix, suffix))
    found = ahead.match(suffix) if ahead else None
    return found.end() if found else 0


def telling(line: str) -> int:
    """How many letters and digits a line has."""
    return sum(map(str.isalnum, line))


def until_of(request: Request, settings: Settings) -> Until | None:
    """The bound of a request: its own or, where a model runs on, the usual one.

    That is the block where a body is missing, or lines are replaced, and else the line. A model
    that ends its middles itself has a bound only where a body is missing, so as not to go on behind
    it, and at the end of a line.
    """
    if request.options.until or not settings.bounded or request.length is not None:
        return request.options.until
    # A header may lack its colon, too.
    if any(lacks_body(request.prefix + colon, request.suffix) for colon in ("", ":")):
        return "block"
    if settings.ends:
        begun, rest = request.prefix.rpartition("\n")[2], request.suffix.partition("\n")[0]
        if rest.strip() or not begun.strip():
            return None
    return "block" if "\n" in (request.replaces or "") else "line"


def lacks_body(prefix: str, suffix: str) -> bool:
    """Whether a hole is where the body of a header begins, and there is none yet.

    Comments and a docstring may stand between the header and the hole.
    """
    rest, *below = suffix[:BELOW].split("\n")
    *above, line = logical_lines(prefix)
    code = [each for each in (*above, line) if each.strip() and not each.lstrip().startswith("#")]
    if rest.strip() or not code:
        return False
    header = code[-1]
    only = [token.text for token in tokens(header) if not token.ends_line]
    if line is not header and len(only) == 1 and only[0][-1] in "\"'" and len(code) > 1:
        header = code[-2]
        if width(line) <= width(header):
            return False  # the docstring is all of its body
    found = [token for token in tokens(header) if not token.ends_line]
    after = next((each for each in below if each.strip()), "")
    return opens(found) and found[-1].text == ":" and width(after) <= width(header)


def width(line: str) -> int:
    """The columns of a line's indentation."""
    return len(indentation(line).expandtabs())


@dataclass(frozen=True)
class Token:
    """A token of code, or the end of a logical line.

    start      offset in the text, in characters
    depth      levels of indentation; -1 after a dedent that matches no open block
    ends_line  whether it is the end of a logical line
    """

    text: str
    start: int
    depth: int
    ends_line: bool


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of a text up to where it stops being readable; its end ends no line.

    Comments, blank lines and line breaks within brackets are left out.
    """
    text = text.rstrip(" \t")  # a line that is only indentation so far is not a dedent
    # As the tokenizer splits lines; a form feed and the like end none.
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    depth = 0
    try:
        for kind, string, (row, column), _, _ in tokenize.generate_tokens(
            io.StringIO(text).readline
        ):
            if kind in (tokenize.INDENT, tokenize.DEDENT):
                depth += 1 if kind == tokenize.INDENT else -1
            elif kind == tokenize.NEWLINE and string:
                yield Token(string, starts[row - 1] + column, depth, ends_line=True)
            elif string and kind not in (tokenize.NL, tokenize.COMMENT, tokenize.NEWLINE):
                yield Token(string, starts[row - 1] + column, depth, ends_line=False)
    except IndentationError:
        # A dedent that matches no open block ends them all.
        yield Token("", len(text), -1, ends_line=False)
    except (tokenize.TokenError, SyntaxError):
        return  # inside a string or a bracket


def logical_line(prefix: str) -> str:
    """The last logical line of a text, from its indentation on."""
    return logical_lines(prefix)[-1]


def logical_lines(prefix: str) -> list[str]:
    """The logical lines of a text's last REACH characters; the last may be empty.

    The text may be broken: an unclosed string ends with its line, and a keyword that no bracket
    can hold closes all brackets.
    """
    text = prefix[code_begin(prefix) :]
    return [text[a:b] for a, b in pairwise((*logical_starts(text), len(text)))]


def code_begin(prefix: str) -> int:
    """The beginning of a logical line, REACH characters before a hole or as far as it takes.

    A keyword that no bracket can hold begins one. In a long table there is none for long, and the
    bracket around it is seen only from before the table.
    """
    reach = REACH
    while reach < min(len(prefix), FARTHEST):
        for found in islice(_STATEMENT_WORD.finditer(prefix, len(prefix) - reach), 8):
            if standing_in(prefix[: found.start()], prefix[found.start() :]) == "code":
                return found.start()
        reach *= 4
    return 0 if len(prefix) < FARTHEST else prefix.rfind("\n") + 1


def statement_end(text: str, hole: int) -> int | None:
    """The offset where the statement at a hole ends, in a text that begins with a logical line."""
    base: int | None = None
    line: list[Token] = []
    line_end, compound = hole, False
    for token in tokens(text):
        if token.ends_line:
            decorator = bool(line) and line[0].text == "@"  # of what stands below it
            if token.start >= hole and line and (line[-1].text == ":" or may_continue(line)):
                compound = True
            elif not decorator and not compound and token.start > hole:
                return token.start
            elif not decorator and not compound:
                base = None  # complete before the hole
            line_end, line = token.start, []
            continue
        if not line:
            if base is None:
                base = token.depth
            # What stands further left continues nothing, nor does what matches no open block.
            elif compound and (
                token.depth < base or (token.depth == base and not continues(token, text))
            ):
                return max(line_end, hole)
        line.append(token)
    return None


def may_continue(line: Sequence[Token]) -> bool:
    """Whether a logical line is a header with its body that a further branch may follow."""
    return line[0].text in _BRANCHING and opens(line)


def continues(token: Token, text: str) -> bool:
    """Whether a token continues a compound statement, or may do so once it is complete."""
    if token.start + len(token.text) < len(text):
        return token.text in _CONTINUING
    return any(keyword.startswith(token.text) for keyword in _CONTINUING)


def block_end(text: str, hole: int) -> int | None:
    """The offset where the block at a hole ends, in a text that begins with a logical line."""
    found = list(tokens(text))
    before = [token for token in found if token.start < hole]
    after = found[len(before) :]
    if not after:
        return None
    base = (before or after)[-1 if before else 0].depth
    base += opens(before)  # the header's block
    line_end = None
    for token in after:
        if token.ends_line:
            line_end = token.start
        elif line_end is not None and token.depth < base:
            return line_end
    return None


def opens(line: Sequence[Token]) -> bool:
    """Whether the beginning of a logical line holds a header with its colon."""
    return header_colon(line) is not None


def header_colon(line: Sequence[Token]) -> Token | None:
    """The colon that ends the header at the beginning of a logical line; None without a header."""
    if not line or line[0].text not in _OPENING:
        return None
    depth = lambdas = 0
    for number, token in enumerate(line):
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        if depth == 0 and token.text == "lambda":
            lambdas += 1
        elif depth == 0 and token.text == ":":
            if not lambdas:
                return token if number > 1 or line[0].text not in _SOFT else None
            lambdas -= 1
    return None

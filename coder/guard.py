"""May this text be written into this file, or shown in it? One answer, for every command.

A `Guard` speaks of what is to be written; `withheld` of what is offered while somebody types.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable
from functools import cached_property

from talaria.coder.bounds import Bound, lacks_body
from talaria.coder.request import Request
from talaria.coder.syntax.judge import Surroundings, Verdict, judge
from talaria.coder.syntax.lexical import lines_of, open_brackets
from talaria.coder.syntax.names import members
from talaria.coder.syntax.python import compiles, parsed, standing_behind, top_level
from talaria.coder.syntax.standing import standing_in

REACH = 100_000  # characters of a file that is compiled as a whole, in about 60 ms
NEAR = 4_000  # characters before a hole that are searched for the beginning of an import
SHORTEST = 3  # letters and digits of a repetition that is no coincidence
NO_TIME = "there was no time to check what the model offers"

_WORD, _WORDS, _LAST_WORD = re.compile(r"\w"), re.compile(r"\w+"), re.compile(r"\w+\Z")
_PYTHONS = frozenset({*keyword.kwlist, *keyword.softkwlist, *dir(builtins)})
_VALUE = re.compile(r"(?<![=!<>:])=(?!=)|\b(?:return|yield|await)\b")
# Where a name begins that is not an attribute.
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]")
_OPENING = tuple("({=.")  # types are often nested in themselves, as list[list[int]] is
_IMPORT = re.compile(r"^[ \t]*import[ \t]+([^#;\n]+)", re.MULTILINE)
_FROM = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+import\b(\s*\([^()]*|[^#;(\n]*)", re.MULTILINE)
_IMPORTED = re.compile(r"([\w.]+)(?:[ \t]+as[ \t]+(\w+))?")
# The last name of an import at the end of a text.
_IMPORTING = re.compile(_FROM.pattern + r"(?<!\w)(?<!\bas )([A-Za-z_]\w*)\Z", re.MULTILINE)
_STAR_IMPORT = re.compile(r"^[ \t]*from[ \t].*\bimport[ \t]*\(?[ \t]*\*", re.MULTILINE)
# A name at the end of a line where a value stands: behind an operator, a bracket or such a word.
_VALUE_NAME = re.compile(
    r"(?:(?:(?<![:=!<>])=|[-+*/%<>&|^(\[]|[=!<>]=)[ \t]*|"
    r"\b(?:return|yield|await|in|if|elif|while|not|and|or|is|else|assert|raise)[ \t]+)"
    r"([A-Za-z_]\w*)$"
)
_ELEMENT = re.compile(r"[,:][ \t]*([A-Za-z_]\w*)$")  # in a bracket
# What gives names, or takes those of parameters.
_BINDS = re.compile(r"\b(?:def|class|lambda|import|from|for|as|with|case|global|nonlocal)\b")
_ATTRIBUTE = re.compile(r"(?<![\w.])([A-Za-z_][\w.]*)\.([A-Za-z_]\w*)$")


class Guard:
    """Says why a middle must not be written into the file of a request.

    `out_of_time` is asked before anything that takes time. Of a file longer than REACH, only the
    top-level statements around the hole are compiled; if these take too long as well, the judge's
    word must do.
    """

    def __init__(self, request: Request, out_of_time: Callable[[], bool] = lambda: False) -> None:
        self.request, self.out_of_time = request, out_of_time

    @cached_property
    def sound(self) -> list[tuple[str, str]]:
        """What must compile with a middle, as it does now: the file, and what is around the hole.

        Of a file that is broken elsewhere, the second alone.
        """
        request = self.request
        whole, near = (request.prefix, request.suffix), top_level(request.prefix, request.suffix)
        size = sum(map(len, (*whole, request.replaces or "")))
        sides = [whole] if size <= REACH else []
        if near is not None and near != whole:
            sides.append(near)
        return [each for each in sides if self.compiles(each, request.replaces or "")]

    def compiles(self, sides: tuple[str, str], text: str) -> bool:
        """Whether Python accepts a text between two others."""
        return compiles(sides[0] + text + sides[1], cell=self.request.cell)

    def refusal(self, text: str, verdict: Verdict | None = None) -> str | None:
        """The reason, or None if the middle may be written. Nothing is ever executed.

        It must not be blank, nor comments alone where a body is missing. It must lie within its
        bound, add no syntax error with all blocks complete, and leave a file that compiles as one
        that compiles, in which everything behind the hole keeps its place and its meaning.
        `verdict` is the judge's word on the text, if it is known.
        """
        request = self.request
        if not text.strip():
            return "the model has nothing to offer"
        until = request.options.until
        lines = (line.strip() for line in lines_of(text))
        if all(not line or line.startswith("#") for line in lines) and lacks_body(
            request.prefix, request.suffix
        ):
            return f"what the model offers for a body has no code ({shorten(text)})"
        end = Bound(until, request.prefix).end(text) if until else None
        if end is not None and len(text.rstrip()) > end:
            return f"what the model offers goes beyond its {until} ({shorten(text)})"
        if verdict is None:
            verdict = judge(request.prefix, text, request.suffix, complete=True, cell=request.cell)
        if verdict.unfinished:
            return f"what the model offers opens a block without a body ({shorten(text)})"
        if not verdict.clean:
            return f"what the model offers adds a syntax error ({shorten(text)})"
        if name := run_together(request.prefix, text, request.suffix):
            return f"what the model offers makes {name} with what stands behind it"
        if self.out_of_time():
            return NO_TIME
        if not all(self.compiles(sides, text) for sides in self.sound):
            return f"Python would no longer take the file ({shorten(text)})"
        if self.sound:
            before, after = self.sound[-1]
            if moves(before, request.replaces or "", text, after, cell=request.cell):
                return f"what stands behind it would mean something else ({shorten(text)})"
        return None


def moves(prefix: str, replaced: str, text: str, suffix: str, *, cell: bool = False) -> bool:
    """Whether text in the place of another changes what stands behind it, in a text that parses.

    Every statement behind the hole must stay of its kind, in its block, and no code may become part
    of a string or a comment.
    """
    standings = {standing_in(prefix + each, suffix) for each in (replaced, text)}
    # A comment swallows no code where none follows on its line.
    if not suffix.partition("\n")[0].strip():
        standings = {"code" if each == "comment" else each for each in standings}
    if len(standings) > 1:
        return True
    old, new = (parsed(prefix + each + suffix, cell=cell) for each in (replaced, text))
    if old is None or new is None:
        return old is not None
    behind = standing_behind(old, prefix + replaced, len(prefix + replaced))
    return not behind <= standing_behind(new, prefix + text, len(prefix + text))


def withheld(around: Surroundings, text: str) -> str | None:
    """Why a middle must not even be offered; None if it may be.

    `around` are the texts before and behind it. It must leave whole what Python accepts without it,
    but for a body that is still to come; must not begin with what stands before it on its line;
    must not end inside a name of which only the whole is known; and must not make an unknown name
    with what stands behind it. A middle without text is nothing to withhold. Raises OutOfTimeError
    as `Surroundings` does.
    """
    prefix, suffix = around.text
    if not text.strip():
        return None
    if repeats(prefix, text):
        return "it repeats what stands before it"
    if half := half_name(prefix, text, suffix, cell=around.cell):
        return f"it ends inside a name, as {half} does not"
    if name := run_together(prefix, text, suffix):
        return f"it makes {name} with what stands behind it"
    if around.breaks(text):
        return "Python would no longer take the file"
    return None


def repeats(prefix: str, text: str) -> bool:
    """Whether a middle begins with what stands before it on its line.

    That is the line's code up to the cursor, or what follows its last `=` or `return`, or what it
    begins with any of its names, up to a bracket, `=`, `==` or a dot. A short word may well occur
    twice, and so may a whole word before a blank (`not not_found`).
    """
    line = prefix[prefix.rfind("\n") + 1 :].lstrip()
    code, written = line.rstrip(), text.lstrip()
    begun = [code, *(line[found.end() :].strip() for found in _VALUE.finditer(line))]
    if code.endswith(_OPENING):
        names = _NAME.finditer(code, max(0, len(code) - len(written)))
        begun += [code[found.start() :] for found in names]
    return any(
        len(_WORD.findall(each)) >= SHORTEST
        and written.startswith(each)
        and not (_WORD.match(each[-1]) and line[-1:].isspace())
        for each in begun
    ) and (standing_in(prefix, "") == "code")


def run_together(prefix: str, text: str, suffix: str) -> str | None:
    """The word that a middle makes with the beginning of the next one; None if that is one.

    Words that the text has elsewhere, Python's own and those that the hole already was in are none
    to complain of.
    """
    behind = _WORDS.match(suffix)
    last = _LAST_WORD.search(text)
    if not behind or not last or (prefix and _WORD.match(prefix[-1])):
        return None
    word = last[0] + behind[0]
    known = word in _PYTHONS or re.search(rf"(?<!\w){word}(?!\w)", prefix + "\n" + suffix)
    return None if known else word


def half_name(prefix: str, text: str, suffix: str, *, cell: bool = False) -> str | None:
    """A name that a middle leaves half written; None if there is none.

    The middle ends in the beginning of a name behind `module.` or `from module import`, the module
    is known to have longer names that begin so, or the text uses one, and neither has this one. Or
    it ends in a value that begins like names of the text, and is none itself nor Python's; names of
    a notebook's other cells are not known.
    """
    line = prefix[prefix.rfind("\n") + 1 :] + text
    if not _WORD.match(text[-1:]) or _WORD.match(suffix[:1]):
        return None
    line = line.rpartition("\n")[2]
    found = _VALUE_NAME.search(line) or (open_brackets(line) and _ELEMENT.search(line))
    if not cell and found and not _BINDS.search(line):
        return longer_name(found[1], prefix, text, suffix)
    around = prefix + "\n" + suffix
    if found := _ATTRIBUTE.search(line):
        module, half = module_called(found[1], around), found[2]
        if module is None:
            return None
        used = re.compile(rf"(?<![\w.]){re.escape(found[1])}\.(\w+)")
        known = set(members(module)) | set(used.findall(around))
    elif found := _IMPORTING.search((prefix + text)[-NEAR:]):
        known, half = set(members(found[1])), found[3]
    else:
        return None
    return (
        None
        if half in known
        else next((each for each in sorted(known) if each.startswith(half)), None)
    )


def module_called(name: str, text: str) -> str | None:
    """The module that a text imports under a name; None if there is none.

    What is imported from a module is one if the standard library has such a module.
    """
    for each in _IMPORT.finditer(text):
        for module, other in _IMPORTED.findall(each[1]):
            if name == other:
                return str(module)
            if not other and name == module:
                return name
            # What is below a module is one, too, if its members are known.
            if not other and name.startswith(f"{module}.") and members(name):
                return name
    for each in _FROM.finditer(text):
        for own, other in _IMPORTED.findall(each[2]):
            if name == (other or own) and members(found := f"{each[1]}.{own}"):
                return found
    return None


def longer_name(half: str, prefix: str, text: str, suffix: str) -> str | None:
    """The first name in a text that begins like one that stands there nowhere else; None without.

    None also for a name of Python's, for one that is imported with a star, and for one that is
    bound or may be a keyword argument, whose `=` follows.
    """
    before, whole = prefix + text[: len(text) - len(half)], prefix + text + suffix
    if (
        hasattr(builtins, half)
        or keyword.iskeyword(half)
        or re.match(r"[)\]]*[ \t]*=(?!=)", suffix.lstrip(" \t"))
        or re.search(rf"(?<!\w){half}(?!\w)", f"{before}\n{suffix}")
        or _STAR_IMPORT.search(whole)
    ):
        return None
    found = re.search(rf"(?<!\w){half}\w+", f"{before}\n{suffix}")
    return found[0] if found and standing_in(prefix + text, suffix) == "code" else None


def shorten(text: str) -> str:
    """A text in quotes that fits on a line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")

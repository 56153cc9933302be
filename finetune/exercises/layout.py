"""How code and values are set down: types, literals, quotes, signatures and lines that fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta

from talaria.finetune.exercises.core import Made

WIDTH = 88
"""No line of code is longer than this."""

STRING = re.compile(r"#[^\n]*|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'")
GENERIC = re.compile(r"\b(list|dict|tuple|set)\[")
OPTIONAL = re.compile(r"((?:[^\s|\[\],()]|\[[^\n]*\])+) \| None")
LOCAL_TYPE = re.compile(r":: ([^=\n]+?) = ")


class TooLongError(Exception):
    """A line does not fit and cannot be broken."""


def annotation(type_: str, flavour: str) -> tuple[str, set[tuple[str, str]]]:
    """A type as it is written in the flavour "modern" or "typing", and what it imports."""
    imports: set[tuple[str, str]] = set()
    for name in ("Iterator", "Callable", "Any"):
        if re.search(rf"\b{name}\b", type_):
            home = "typing" if flavour == "typing" or name == "Any" else "collections.abc"
            imports.add((home, name))
    if flavour == "typing":
        for name in sorted(set(GENERIC.findall(type_))):
            imports.add(("typing", name.capitalize()))
        type_ = GENERIC.sub(lambda match: match[1].capitalize() + "[", type_)
        if " | None" in type_:
            imports.add(("typing", "Optional"))
            type_ = OPTIONAL.sub(r"Optional[\1]", type_)
        if " | " in type_:
            imports.add(("typing", "Union"))
            type_ = "Union[" + type_.replace(" | ", ", ") + "]"
    return type_, imports


def literal(value: object, quote: str = '"') -> str:
    """Python code of a value, the same whatever the order of a set in memory."""
    if isinstance(value, str):
        plain = repr(value)
        if quote == '"' and '"' not in value and plain[0] == "'":
            return f'"{plain[1:-1]}"'
        return plain
    if isinstance(value, list):
        return "[" + ", ".join(literal(v, quote) for v in value) + "]"
    if isinstance(value, tuple):
        inner = ", ".join(literal(v, quote) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k, quote)}: {literal(v, quote)}" for k, v in value.items()) + "}"
    if isinstance(value, set):
        if not value:
            return "set()"
        return "{" + ", ".join(sorted(literal(v, quote) for v in value)) + "}"
    if isinstance(value, Made):
        return f"{value.cls}({', '.join(literal(v, quote) for v in value.args)})"
    if isinstance(value, datetime):
        numbers = [value.year, value.month, value.day, value.hour, value.minute]
        return f"datetime({', '.join(map(str, numbers))})"
    if isinstance(value, date):
        return f"date({value.year}, {value.month}, {value.day})"
    if isinstance(value, timedelta):
        return repr(value).removeprefix("datetime.")
    return repr(value)


def requote(code: str) -> str:
    """The code with single quotes around its strings, where that needs no backslash."""

    def swap(match: re.Match[str]) -> str:
        found = match[0]
        if found[0] != '"' or "'" in found or '\\"' in found:
            return found
        return f"'{found[1:-1]}'"

    return STRING.sub(swap, code)


def local_types(code: str, flavour: str | None) -> tuple[str, set[tuple[str, str]]]:
    """Annotations of local variables (`name:: type = `) written out, or left away for None."""
    if flavour is None:
        return LOCAL_TYPE.sub(" = ", code), set()
    imports: set[tuple[str, str]] = set()

    def write(match: re.Match[str]) -> str:
        written, needed = annotation(match[1], flavour)
        imports.update(needed)
        return f": {written} = "

    return LOCAL_TYPE.sub(write, code), imports


NESTED = re.compile(r"(?<=[^\n:])\n( +(?:@[^\n]+\n +)?def )")
DECORATED = re.compile(r"(@[^\n]+)\n\n( +def )")


def nested_apart(body: str) -> str:
    """The body of a function with an empty line above each function in it."""
    return DECORATED.sub(r"\1\n\2", NESTED.sub(r"\n\n\1", body))


def indent(text: str, blanks: int = 4) -> str:
    """The text with that many blanks before each line that is not empty."""
    margin = " " * blanks
    return "\n".join(margin + line if line else line for line in text.split("\n"))


def signature(name: str, params: Sequence[str], returns: str | None) -> str:
    """The line or lines from `def` to the colon."""
    arrow = f" -> {returns}" if returns else ""
    line = f"def {name}({', '.join(params)}){arrow}:"
    if len(line) <= WIDTH:
        return line
    inner = f"    {', '.join(params)}"
    if len(inner) > WIDTH:
        inner = "\n".join(f"    {param}," for param in params)
    elif len(params) == 1:
        inner += ","
    return f"def {name}(\n{inner}\n){arrow}:"


def fit_all(code: str) -> str:
    """The code with each line that is too long broken at its brackets."""
    if max(map(len, code.split("\n"))) <= WIDTH:
        return code
    return "\n".join(fit(line) for line in code.split("\n"))


def fit(line: str, inside: bool = False) -> str:
    """The line, broken as black breaks it if it is too long; TooLongError if that fails.

    `inside`: the line stands within brackets, where it may be broken without new ones.
    """
    if len(line) <= WIDTH:
        return line
    margin = line[: len(line) - len(line.lstrip())]
    code = line[len(margin) :]
    if code.startswith("#"):
        raise TooLongError
    choice = _choice(code.removesuffix(",")) if inside else []
    if choice:
        rows = [margin + piece for piece in choice]
        rows[-1] += "," if code.endswith(",") else ""
        if max(map(len, rows)) > WIDTH:
            raise TooLongError
        return "\n".join(rows)
    spans = _brackets(code)
    tail_from = len(code)
    best = None
    for begin, end in spans:
        # The last bracket of the line, as black's right-hand split does it.
        if end >= tail_from - 1 or not re.search(r"[)\]}]", code[end + 1 :]):
            best = (begin, end)
    statement = STATEMENT.match(code)
    value = statement[2] if statement else ""
    joined = code.startswith(("return ", "if ", "elif ", "while ")) and _logic(code)
    if best is None or joined or _choice(value) or _sums(value):
        return _parenthesise(margin, code)
    begin, end = best
    head, inner, tail = code[: begin + 1], code[begin + 1 : end], code[end:]
    if not inner or len(margin + head) > WIDTH or len(margin + tail) > WIDTH:
        raise TooLongError
    deeper = margin + "    "
    pieces = _split(inner)
    is_list = any(mark == "," for mark, _ in pieces)
    # The content of a call may stay on one line, that of a display may not.
    display = is_list and (begin == 0 or code[begin - 1] in " ([{,=:")
    if len(deeper + inner) <= WIDTH and not display:
        return f"{margin}{head}\n{deeper}{inner}\n{margin}{tail}"
    if len(pieces) < 2:
        raise TooLongError
    rows = []
    for mark, piece in pieces:
        row = deeper + piece + ("," if mark == "," or (is_list and mark == "") else "")
        rows.append(fit(row, inside=True))
    return "\n".join([margin + head, *rows, margin + tail])


STATEMENT = re.compile(r"(return |if |elif |while |[\w.\[\]]+ [-+*/|&]?= )(.*?)(:?)$")


def _parenthesise(margin: str, code: str) -> str:
    match = STATEMENT.match(code)
    if not match or match[2].startswith("("):
        raise TooLongError
    head, inner, tail = match[1], match[2], match[3]
    deeper = margin + "    "
    if len(deeper + inner) <= WIDTH:
        rows = [deeper + inner]
    else:
        rows = [deeper + piece for piece in _choice(inner) or _logic(inner) or _sums(inner)]
        if not rows or max(map(len, rows)) > WIDTH:
            raise TooLongError
    return "\n".join([f"{margin}{head}(", *rows, f"{margin}){tail}"])


def _brackets(code: str) -> list[tuple[int, int]]:
    """Where the outermost brackets open and close."""
    found: list[tuple[int, int]] = []
    depth = begin = 0
    for position, char in _outside_strings(code):
        if char in "([{":
            if depth == 0:
                begin = position
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                found.append((begin, position))
    return found


def _outside_strings(code: str) -> list[tuple[int, str]]:
    blank = STRING.sub(lambda match: " " * len(match[0]), code)
    return [(position, char) for position, char in enumerate(blank) if char != " "]


def _top_level(code: str, pattern: str) -> list[tuple[int, int, str]]:
    blank = STRING.sub(lambda match: "_" * len(match[0]), code)
    depths = []
    depth = 0
    for char in blank:
        depth += char in "([{"
        depths.append(depth)
        depth -= char in ")]}"
    found = re.finditer(pattern, blank)
    return [(m.start(), m.end(), m[0]) for m in found if depths[m.start()] == 0]


def _split(inner: str) -> list[tuple[str, str]]:
    """Content of a bracket in lines: at ` for ` and ` if ` of a comprehension, else at commas."""
    cuts = _top_level(inner, r" (?=for )| (?=if )")
    loops = [start for start, end, _ in cuts if inner[end:].startswith("for ")]
    if loops:
        # An `if` before the first `for` belongs to a conditional expression.
        cuts = [cut for cut in cuts if cut[0] >= loops[0]]
        begins = [0, *(end for _, end, _ in cuts)]
        ends = [*(start for start, _, _ in cuts), len(inner)]
        return [("for", inner[b:e]) for b, e in zip(begins, ends, strict=True)]
    cuts = _top_level(inner, r", ")
    if cuts:
        begins = [0, *(end for _, end, _ in cuts)]
        ends = [*(start for start, _, _ in cuts), len(inner)]
        last = len(begins) - 1
        return [("," if n < last else "", inner[b:e]) for n, (b, e) in enumerate(zip(begins, ends, strict=True))]
    pieces = _choice(inner) or _logic(inner)
    return [("and", piece) for piece in pieces] or [("", inner)]


def _choice(code: str) -> list[str]:
    """A conditional expression cut before `if` and `else`; empty if the code is none."""
    cuts = _top_level(code, r" (?=if )| (?=else )")
    if not any(code[end:].startswith("else ") for _, end, _ in cuts) or _top_level(code, r" for "):
        return []
    begins = [0, *(end for _, end, _ in cuts)]
    ends = [*(start for start, _, _ in cuts), len(code)]
    return [code[b:e] for b, e in zip(begins, ends, strict=True)]


MARGIN = 12
"""A first summand that is shorter than this stays beside the bracket that follows it."""


def _sums(code: str) -> list[str]:
    """The code cut before each outermost plus and minus; empty if there is none."""
    cuts = _top_level(code, r" (?=[-+] )")
    if not cuts or cuts[0][0] < MARGIN or _choice(code) or _logic(code) or _top_level(code, r" [<>=!]=? "):
        return []
    begins = [0, *(end for _, end, _ in cuts)]
    ends = [*(start for start, _, _ in cuts), len(code)]
    return [code[b:e] for b, e in zip(begins, ends, strict=True)]


def _logic(code: str) -> list[str]:
    """The code cut before its outermost `or`, else before its outermost `and`."""
    for pattern in (r" (?=or )", r" (?=and )"):
        cuts = _top_level(code, pattern)
        if cuts:
            begins = [0, *(end for _, end, _ in cuts)]
            ends = [*(start for start, _, _ in cuts), len(code)]
            return [code[b:e] for b, e in zip(begins, ends, strict=True)]
    return []

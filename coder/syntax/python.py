"""What Python itself says of a text: whether it compiles, and where its statements stand.

Where tree-sitter and Python disagree, Python is right. Nothing is ever run.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from typing import Any

from talaria.coder.syntax.lexical import logical_starts

LONGEST = 50_000
"""The characters that are compiled while somebody waits for a suggestion: about 40 ms."""

NEAR = 4_000  # characters of a class that are compiled in any case
# Lines at the left margin that hardly ever stand in a bracket or a string.
_DEFINITION = r"(?:def |async def |class |@|import |from )"
_TOP_LINE = re.compile(f"^{_DEFINITION}", re.MULTILINE)
_CLASS = re.compile(r"(?:@.*\n)*class\b.*\n(?:[ \t]*(?:#.*)?\n)*([ \t]+)\S")
_CONTINUING = re.compile(r"(?:elif|else|except|finally)\b|[\s#)\]}]|$")
_REFUSALS = (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError)
_SECTIONS = ("body", "handlers", "orelse", "finalbody", "cases")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Place = tuple[int, int, int]  # 0 before a hole and 1 behind it, a line, a column in bytes
# Group 1: what stands before it and stays; group 2: the magic.
_MAGIC = re.compile(
    r"^([ \t]*(?:[A-Za-z_][\w, \t]*=[ \t]*(?=[%!]))?)"
    r"([%!][^\n]*|\?{1,2}[\w.*]+[ \t]*$|[\w.*]+\?{1,2}[ \t]*$)",
    re.MULTILINE,
)

Standing = tuple[str, bool, Place, Place, str, Place | None]


def compiles(text: str, *, cell: bool = False) -> bool:
    """Whether this interpreter compiles a text.

    A `cell` of a notebook may await at its top, and have magics.
    """
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if cell else 0
    text = without_magics(text) if cell else text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Without `dont_inherit`, this file's __future__ imports would apply to the text.
            compile(text, "<completion>", "exec", flags, dont_inherit=True)
        except _REFUSALS:
            return False
    return True


def parsed(text: str, *, cell: bool = False) -> ast.Module | None:
    """The syntax tree of a text; None if Python refuses it. `cell` as in `compiles`."""
    text = without_magics(text) if cell else text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except _REFUSALS:
            return None


def without_magics(text: str) -> str:
    """The text of a cell with an expression for each of IPython's magics, as long as they are.

    That is, lines that begin with `%` or `!`, do so behind `NAME =`, or begin or end with `?`. A
    text that Python parses has none.
    """
    if not any(sign in text for sign in "%!?") or not _refused(text):
        return text
    return _MAGIC.sub(lambda found: found[1] + "0".ljust(len(found[2])), text)


def _refused(text: str) -> bool:
    """Whether Python's parser refuses a text as it stands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except _REFUSALS:
            return True
    return False


def top_level(prefix: str, suffix: str, reach: int = LONGEST) -> tuple[str, str] | None:
    """Cut both sides of a hole to the top-level statements around it; None if these are too long.

    The statement before the hole's line is among them, as it may go on there. Where they are cut
    off, a function stands for what follows. Of a long class, only what is near counts.
    """
    line = prefix.rfind("\n") + 1
    low = max(0, line - reach)
    begin = 0
    # Far enough back that whatever is open there can be seen, but no farther than that.
    for found in reversed(list(_TOP_LINE.finditer(prefix, low, line))):
        above = prefix.rfind("\n", 0, max(0, found.start() - 1)) + 1
        if found[0] != "@" and not prefix.startswith("@", above):
            begin = found.start()
            break
    else:
        if low:
            return None
    starts = [begin + place for place in logical_starts(prefix[begin:line])]
    begin = _last_statement(prefix, starts, line, "")
    before, after = prefix[begin:], _until(suffix, "")
    if len(before) + len(after) > reach:
        return None
    if len(before) + len(after) > NEAR and (header := _CLASS.match(before)):
        inner = _last_statement(prefix, starts, line, header[1])
        if inner > begin:
            return f"class _:\n{prefix[inner:]}", _until(suffix, header[1])
    return before, after


def _last_statement(prefix: str, starts: Sequence[int], line: int, depth: str) -> int:
    """Where the last statement with an indentation begins, its decorators included."""
    size = len(depth)
    places = [
        place
        for place in starts
        if place < line
        and prefix.startswith(depth, place)
        and not _CONTINUING.match(prefix, place + size)
    ]
    while len(places) > 1 and prefix.startswith("@", places[-2] + size):
        places.pop()
    return places[-1] if places else starts[0]


def _until(suffix: str, depth: str) -> str:
    """A text up to the next definition no deeper than that, for which another one stands."""
    after = suffix.find("\n") + 1 or len(suffix)
    below = re.compile(rf"^[ \t]{{0,{len(depth)}}}{_DEFINITION}", re.MULTILINE).search(
        suffix, after
    )
    if below is None:
        return suffix
    margin = re.match(r"[ \t]*", below[0])
    return f"{suffix[: below.start()]}{margin[0] if margin else ''}def _(): pass\n"


def standing_behind(tree: ast.Module, text: str, end: int) -> set[Standing]:
    """Describe each statement that begins behind a hole, so that it can be found again.

    Two trees of texts that agree behind their holes, which end at `end`, give equal descriptions
    for the statements that have kept their place and their meaning: of which kind, from where to
    where, in which block of which statement, and whether it documents that.
    """
    data = text[:end].encode("utf-8", "surrogatepass")
    line, column = data.count(b"\n") + 1, len(data) - (data.rfind(b"\n") + 1)

    def place(row: int, offset: int) -> Place:
        if (row, offset) < (line, column):
            return 0, row, offset
        return 1, row - line, offset - column if row == line else offset

    found: set[Standing] = set()
    # Each node with its place and that of the statement to which its `else` belongs.
    stack: list[tuple[ast.AST, Place | None, Place | None]] = [(tree, None, None)]
    while stack:
        node, own, chain = stack.pop()
        documented = isinstance(node, _DOCUMENTED) and ast.get_docstring(node, False) is not None
        for section in _SECTIONS:
            children = getattr(node, section, None)
            for number, child in enumerate(children if isinstance(children, list) else ()):
                parent = chain if section == "orelse" else own
                begin = place(*_start(child))
                if begin[0] == 1:
                    documents = documented and section == "body" and number == 0
                    kind = type(child).__name__
                    found.add((kind, documents, begin, place(*_end(child)), section, parent))
                branch = section == "orelse" and _is_elif(node, child)
                stack.append((child, begin, chain if branch else begin))
    return found


def _is_elif(node: ast.AST, child: ast.AST) -> bool:
    """Whether the `else` of a statement begins with `elif`: an `else` then ends the whole chain."""
    if not isinstance(node, ast.If) or not isinstance(child, ast.If):
        return False
    return node.orelse == [child] and child.col_offset == node.col_offset


def _start(node: Any) -> tuple[int, int]:
    """The line and column where a statement begins, decorators included."""
    if isinstance(node, ast.match_case):
        node = node.pattern
    decorators = getattr(node, "decorator_list", None)
    return (decorators[0] if decorators else node).lineno, node.col_offset


def _end(node: Any) -> tuple[int, int]:
    """The line and column where a statement ends."""
    if isinstance(node, ast.match_case):
        node = node.body[-1]
    return node.end_lineno, node.end_col_offset

"""Bounds end a middle before the model ends it: with its line, statement or block.

Python's own tokenizer finds the ends of logical lines and blocks, so that nothing inside brackets,
strings and comments counts as a line break or a dedent.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from talaria.coder.request import Until

REACH = 8_000  # characters before a hole that are searched for the beginning of its logical line
MAX_LINE = 2_000  # characters of a logical line; a longer one is a sign of a broken text
TOP_LEVEL = re.compile(r"^(?:[^\W\d]|@)", re.M)  # where a top-level statement can begin
# Keywords that continue a compound statement after one of its blocks.
CONTINUING = frozenset({"else", "elif", "except", "finally"})


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
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
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
    tail = prefix[-REACH:]
    tops = [found.start() for found in TOP_LEVEL.finditer(tail)]
    # From the first match, as later ones may be inside a string; if that misleads, from a late one.
    for top in (*tops[:1], *reversed(tops[-2:])):
        ends = [token.start + len(token.text) for token in tokens(tail[top:]) if token.ends_line]
        line = tail[top + (ends[-1] if ends else 0) :]
        if len(line) <= MAX_LINE:
            return line
    return tail[tail.rfind("\n") + 1 :]


def statement_end(text: str, hole: int) -> int | None:
    """The offset where the statement at a hole ends, in a text that begins with a logical line."""
    base: int | None = None
    last, line_end, compound, begins = "", hole, False, True
    for token in tokens(text):
        if token.ends_line:
            if token.start >= hole and last == ":":
                compound = True
            elif not compound and token.start > hole:
                return token.start
            elif not compound:
                base = None  # complete before the hole
            line_end = token.start
        elif begins:
            if base is None:
                base = token.depth
            elif compound and token.depth <= base and not continues(token, text):
                return max(line_end, hole)
        last, begins = token.text, token.ends_line
    return None


def continues(token: Token, text: str) -> bool:
    """Whether a token continues a compound statement, or may do so once it is complete."""
    if token.start + len(token.text) < len(text):
        return token.text in CONTINUING
    return any(keyword.startswith(token.text) for keyword in CONTINUING)


def block_end(text: str, hole: int) -> int | None:
    """The offset where the block at a hole ends, in a text that begins with a logical line."""
    found = list(tokens(text))
    before = [token for token in found if token.start < hole]
    after = found[len(before) :]
    if not after:
        return None
    base = (before or after)[-1 if before else 0].depth
    if before and before[-1].text == ":":
        base += 1  # the header's block
    line_end = None
    for token in after:
        if token.ends_line:
            line_end = token.start
        elif line_end is not None and token.depth < base:
            return line_end
    return None

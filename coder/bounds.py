"""Where a middle may end before the model says so: with its line, statement or block.

Python's own tokenizer says where logical lines and blocks end, so that what stands in
brackets, strings and comments is neither a line break nor a dedent.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from talaria.coder.request import Until

REACH = 8_000  # characters before a hole in which the beginning of its line is looked for
LONGEST = 2_000  # of a logical line; a longer one is what a broken text seems to be
TOP = re.compile(r"^(?:[^\W\d]|@)", re.M)  # where a statement of a module can begin
# What goes on with a compound statement after one of its blocks.
GOES_ON = frozenset({"else", "elif", "except", "finally"})


class Bound:
    """A bound on the middles of one hole.

    "line"       the first line of the middle in which something stands
    "statement"  the statement that the hole is in or, if that is complete, the next one
    "block"      the statements as deep as the hole, or the block of the header before it
    """

    def __init__(self, until: Until, prefix: str) -> None:
        self.until = until
        self.line = "" if until == "line" else logical_line(prefix)

    def end(self, middle: str) -> int | None:
        """How many characters of a middle lie within; None if it may still go on."""
        if self.until == "line":
            found = re.search(r"\S[^\r\n]*(?=[\r\n])", middle)
            return found.end() if found else None
        ends = statement_end if self.until == "statement" else block_end
        end = ends(self.line + middle, len(self.line))
        return None if end is None else end - len(self.line)


@dataclass(frozen=True)
class Token:
    """A token that counts: code (no comment, no line break in brackets) or a line's end.

    depth  of indentation where it stands
    """

    text: str
    start: int
    depth: int
    ends_line: bool


def tokens(text: str) -> Iterator[Token]:
    """What counts in a text, as far as it can be read; its own end is no line's end."""
    text = text.rstrip(" \t")  # a line of which only some indentation is there is no dedent
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
        # Less deep than what is open, if as deep as nothing: whatever was open is over.
        yield Token("", len(text), -1, ends_line=False)
    except (tokenize.TokenError, SyntaxError):
        return  # in the midst of a string or a bracket


def logical_line(prefix: str) -> str:
    """The end of a text from the beginning of its last logical line on, indentation included."""
    tail = prefix[-REACH:]
    tops = [found.start() for found in TOP.finditer(tail)]
    # From the first one, for others may stand in a string; from a later one if it misleads.
    for top in (*tops[:1], *reversed(tops[-2:])):
        ends = [token.start + len(token.text) for token in tokens(tail[top:]) if token.ends_line]
        line = tail[top + (ends[-1] if ends else 0) :]
        if len(line) <= LONGEST:
            return line
    return tail[tail.rfind("\n") + 1 :]


def statement_end(text: str, hole: int) -> int | None:
    """Where the statement at the hole ends in a text that begins with a logical line."""
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
            elif compound and token.depth <= base and not goes_on(token, text):
                return max(line_end, hole)
        last, begins = token.text, token.ends_line
    return None


def goes_on(token: Token, text: str) -> bool:
    """Whether a token goes on with a compound statement, or may do so once it is complete."""
    whole = token.start + len(token.text) < len(text)
    return token.text in GOES_ON if whole else any(w.startswith(token.text) for w in GOES_ON)


def block_end(text: str, hole: int) -> int | None:
    """Where the block at the hole ends in a text that begins with a logical line."""
    found = list(tokens(text))
    before = [token for token in found if token.start < hole]
    after = found[len(before) :]
    if not after:
        return None
    base = (before or after)[-1 if before else 0].depth
    if before and before[-1].text == ":":
        base += 1  # of the header's block
    line_end = None
    for token in after:
        if token.ends_line:
            line_end = token.start
        elif line_end is not None and token.depth < base:
            return line_end
    return None

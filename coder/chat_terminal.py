"""An answer as it comes to be, in a terminal or a pipe: what stands, and the open positions."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from talaria.coder.backbone import Marks
from talaria.coder.tokenizer import Tokenizer

OPEN, BREAK = "░", "⏎"  # a mask and a line break, as in traces
TAB = 8
_DIM, _PLAIN, _CLEAR = "\x1b[2m", "\x1b[0m", "\x1b[K"
# Controls, marks that show text in another order or not at all, and what cannot be encoded.
_ESCAPED = "Cc", "Cf", "Cs"


def shows_steps(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can take back what it showed."""
    able = "WT_SESSION" in os.environ if sys.platform == "win32" else True
    term = os.environ.get("TERM", "") not in ("", "dumb") or sys.platform == "win32"
    return able and term and stream.isatty() and (stream.encoding or "").lower() == "utf-8"


def printable(text: str) -> str:
    """A text that does nothing to a terminal but show itself: a model may write any byte."""
    if text.isprintable():
        return text
    return "".join(
        escaped(sign) if unicodedata.category(sign) in _ESCAPED and sign not in "\n\t" else sign
        for sign in text
    )


def escaped(sign: str) -> str:
    """A character as Python writes it in a string."""
    code = ord(sign)
    for letter, digits in ("x", 2), ("u", 4):
        if code < 16**digits:
            return f"\\{letter}{code:0{digits}x}"
    return f"\\U{code:08x}"


@contextmanager
def keys_hidden(stream: TextIO | None) -> Iterator[None]:
    """Keep what is typed into a terminal off the screen within the block; a later prompt reads it.

    An answer that is being shown stays in one piece.
    """
    try:
        import termios
    except ImportError:  # Windows shows what is typed when it is read
        yield
        return
    try:
        before = termios.tcgetattr(stream) if stream else None
    except (termios.error, OSError, ValueError):
        before = None
    if stream is None or before is None:  # no terminal
        yield
        return
    hidden = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(stream, termios.TCSADRAIN, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)


class Screen:
    """Shows one answer; to a terminal, with what is not decided yet behind it, dimmed."""

    def __init__(self, stream: TextIO, tokenizer: Tokenizer, marks: Marks) -> None:
        self.stream, self.tokenizer, self.marks = stream, tokenizer, marks
        self.steps, self.terminal = shows_steps(stream), stream.isatty()
        self._shown = ""
        self._column = self._open = 0

    def step(self, stands: list[int], behind: list[int]) -> None:
        """Show the tokens that stand, and those behind them, masks included."""
        text = self.tokenizer.decode(stands)
        new = text.rstrip("\ufffd")[len(self._shown) :]  # what may be part of a character waits
        self._shown += new
        new = printable(new) if self.terminal else new
        self._column = column_after(new, self._column)
        shown = self._erased() + new
        if self.steps:
            shown += self._undecided(behind)
        self.stream.write(shown)
        self.stream.flush()

    def end(self, text: str) -> None:
        """Show what is left of the whole answer, and end its line."""
        rest = text[len(self._shown) :]
        ended = (self._shown + rest).endswith("\n")
        rest = printable(rest) if self.terminal else rest
        self.stream.write(self._erased() + rest + "\n" * (not ended))
        self.stream.flush()

    def _erased(self) -> str:
        """What takes the open positions back."""
        count, self._open = self._open, 0
        return f"\x1b[{count}D{_CLEAR}" if count else ""

    def _undecided(self, behind: list[int]) -> str:
        """The open positions, as far as they fit on the line: a line that wraps stays."""
        names = (
            OPEN
            if token == self.marks.mask
            else printable(self.tokenizer.name(token).replace("\n", BREAK).replace("\t", " "))
            for token in behind
        )
        left = shutil.get_terminal_size().columns - 1 - self._column
        found = ""
        for name in names:
            if self._open + width(name) > left:
                break
            found += name
            self._open += width(name)
        return f"{_DIM}{found}{_PLAIN}" if found else ""


def width(text: str) -> int:
    """The columns that a text takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def column_after(text: str, column: int) -> int:
    """The column of the cursor after a text that began in another one.

    Behind a full line it is the line's width: the cursor wraps with the next character.
    """
    if "\n" in text:
        column, text = 0, text.rpartition("\n")[2]
    columns = shutil.get_terminal_size().columns
    for number, part in enumerate(text.split("\t")):
        if number:
            column += TAB - column % TAB
        column += width(part)
    return column and (column - 1) % columns + 1

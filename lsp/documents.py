"""Open documents: their text as editors change it, and positions in an editor's units.

Lines end in `\\n`, `\\r\\n` or `\\r` (LSP 3.18, Text Documents), but not at a form feed or
U+2028, where Python's `splitlines` breaks too. Python's lines end there as well
(`coder/syntax/lexical.lines_of`), but the protocol has one more behind a final line ending. Every
position means a place in the document: past the end of a line, that end; past the last line, the
end of the text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from urllib.parse import unquote, urlsplit

from lsprotocol.types import (
    Position,
    PositionEncodingKind,
    Range,
    TextDocumentContentChangeEvent,
    TextDocumentContentChangePartial,
)

CELLS = ("vscode-notebook-cell", "notebook-cell")  # schemes of cells' addresses
SHADOWS = ".virtual_documents"  # JupyterLab's folder, where a notebook is one Python file

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def split(text: str) -> list[str]:
    """The lines of a text with their line endings; after a final line ending, an empty line."""
    lines: list[str] = _LINE.findall(text)
    if not lines or lines[-1][-1] in "\r\n":
        lines.append("")
    return lines


def column(line: str, units: int, encoding: PositionEncodingKind | str) -> int:
    """The column in characters of a column in code units, at most the length of the line.

    A position inside a character means the one before it.
    """
    length = len(line.rstrip("\r\n"))
    if line.isascii() or encoding == PositionEncodingKind.Utf32:
        return min(units, length)
    ends = list(accumulate(width(character, encoding) for character in line[:length]))
    return bisect_right(ends, units)


def units(text: str, encoding: PositionEncodingKind | str) -> int:
    """The length of a text in code units."""
    if text.isascii() or encoding == PositionEncodingKind.Utf32:
        return len(text)
    return sum(width(character, encoding) for character in text)


def width(character: str, encoding: PositionEncodingKind | str) -> int:
    """Code units of a character; a lone surrogate is one unit in UTF-16, three in UTF-8."""
    if encoding == PositionEncodingKind.Utf32:
        return 1
    if encoding == PositionEncodingKind.Utf16:
        return 2 if character > "\uffff" else 1
    return len(character.encode("utf-8", "surrogatepass"))


class TextDocument:
    """A text that an editor has open.

    version   the editor's number for its state; None if it sent none
    revision  our own: grows by one with every change
    """

    def __init__(
        self,
        uri: str,
        language: str,
        version: int | None,
        text: str,
        encoding: PositionEncodingKind | str = PositionEncodingKind.Utf16,
    ) -> None:
        self.uri, self.language, self.version = uri, language, version
        self.encoding = encoding
        self.revision = 0
        self._lines = split(text)

    @property
    def cell(self) -> bool:
        """Whether it is a cell of a notebook, or all cells of one, which may await at the top."""
        parts = urlsplit(self.uri)
        return parts.scheme in CELLS or SHADOWS in unquote(parts.path).split("/")

    @property
    def lines(self) -> int:
        """The number of lines, including an empty last one."""
        return len(self._lines)

    def change(self, event: TextDocumentContentChangeEvent) -> None:
        """Apply a change of a range or of the whole text."""
        self.revision += 1
        self.__dict__.pop("text", None)
        if not isinstance(event, TextDocumentContentChangePartial):
            self._lines = split(event.text)
            return
        lines = self._lines
        # Some clients send the ends of a selection in reverse order.
        (first, before), (last, after) = sorted(
            (self._place(event.range.start), self._place(event.range.end))
        )
        text = lines[first][:before] + event.text + lines[last][after:]
        # A line feed may now follow a carriage return: together they are one line ending.
        if first and lines[first - 1][-1:] == "\r" and text[:1] == "\n":
            first -= 1
            text = lines[first] + text
        if text[-1:] not in ("\n", "\r") or (text[-1] == "\r" and lines[last + 1 :][:1] == ["\n"]):
            following = lines[last + 1 :][:1]
            last += len(following)
            text += "".join(following)
        fresh = split(text)
        if last + 1 < len(lines) and fresh[-1] == "":
            fresh.pop()
        lines[first : last + 1] = fresh

    @cached_property
    def text(self) -> str:
        r"""The whole text with `\n` line endings, as the model sees it."""
        return plain("".join(self._lines))

    def cut(self, position: Position) -> tuple[str, str]:
        """The text before and after a position, with `\\n` line endings."""
        number, place = self._place(position)
        line = self._lines[number]
        before, after = "".join(self._lines[:number]), "".join(self._lines[number + 1 :])
        return plain(before + line[:place]), plain(line[place:] + after)

    def offset(self, position: Position) -> int:
        """The offset of a position in `text`."""
        return len(self.cut(position)[0])

    def position(self, offset: int) -> Position:
        """The position of an offset in `text`."""
        start = self.text.rfind("\n", 0, offset) + 1
        line = self.text.count("\n", 0, offset)
        return Position(line, units(self.text[start:offset], self.encoding))

    def range(self, start: int, end: int) -> Range:
        """The range between two offsets in `text`."""
        return Range(self.position(start), self.position(end))

    def _place(self, position: Position) -> tuple[int, int]:
        """Line number and column in characters."""
        number = position.line
        if number >= len(self._lines):
            return len(self._lines) - 1, len(self._lines[-1])
        return number, column(self._lines[number], position.character, self.encoding)


def plain(text: str) -> str:
    r"""A text with `\n` line endings."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text

"""Open documents: changes and positions, against a plain implementation of the protocol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsprotocol.types import (
    Position,
    PositionEncodingKind,
    Range,
    TextDocumentContentChangePartial,
    TextDocumentContentChangeWholeDocument,
)

from talaria.lsp.documents import TextDocument, plain, split, units, width
from tests.pace import within

ENCODINGS = list(PositionEncodingKind)
# Line ends of all kinds, and what Python takes for one: a form feed, U+2028, U+0085.
PIECES = ["a", "b c", "\n", "\r", "\r\n", "é", "😀", "\f", "\u2028", "\x85", "\ud83d", "中"]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
places = st.builds(Position, st.integers(0, 6), st.integers(0, 8))


def by_hand(text: str, position: Position, encoding: PositionEncodingKind) -> int:
    """The offset of a position, counted character by character."""
    lines = split(text)
    if position.line >= len(lines):
        return len(text)
    line = lines[position.line]
    used = place = 0
    while place < len(line.rstrip("\r\n")):
        used += width(line[place], encoding)
        if used > position.character:
            break
        place += 1
    return sum(map(len, lines[: position.line])) + place


@given(texts, st.sampled_from(ENCODINGS), st.lists(st.tuples(places, places, texts), max_size=5))
def test_changes_follow_the_protocol(
    text: str, encoding: PositionEncodingKind, changes: list[tuple[Position, Position, str]]
) -> None:
    """For any replacement, even of half a line ending."""
    document = TextDocument("file:///x.py", "python", 1, text, encoding)
    for first, last, new in changes:
        start, end = sorted(by_hand(text, place, encoding) for place in (first, last))
        text = text[:start] + new + text[end:]
        document.change(TextDocumentContentChangePartial(Range(first, last), new))
        assert document.text == plain(text)
        assert document._lines == split(text)
    assert document.revision == len(changes)


@given(texts, st.sampled_from(ENCODINGS))
def test_positions_and_offsets_are_inverse(text: str, encoding: PositionEncodingKind) -> None:
    """For every offset of the text with normalized line endings."""
    document = TextDocument("file:///x.py", "python", 1, text, encoding)
    for offset in range(len(document.text) + 1):
        position = document.position(offset)
        assert document.offset(position) == offset
        assert "".join(document.cut(position)) == document.text
        assert document.cut(position)[0] == document.text[:offset]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_invalid_positions_are_clamped(encoding: PositionEncodingKind) -> None:
    """Past a line, past the text, or inside a character."""
    document = TextDocument("file:///x.py", "python", 1, "x😀y\r\nz", encoding)
    assert document.offset(Position(0, 100)) == 3
    assert document.offset(Position(100, 0)) == document.offset(Position(100, 7)) == 5
    inside = {PositionEncodingKind.Utf8: 3, PositionEncodingKind.Utf16: 2}.get(encoding)
    if inside:
        assert document.offset(Position(0, inside)) == 1


def test_reversed_ranges() -> None:
    """Some clients send a selection as it was made."""
    document = TextDocument("file:///x.py", "python", 1, "abcdef\n")
    document.change(TextDocumentContentChangePartial(Range(Position(0, 4), Position(0, 1)), "-"))
    assert document.text == "a-ef\n"


def test_replacing_the_whole_text() -> None:
    """From clients that send no ranges."""
    document = TextDocument("file:///x.py", "python", 1, "a\r\nb")
    document.change(TextDocumentContentChangeWholeDocument("c\r\n"))
    assert (document.text, document.lines) == ("c\n", 2)


def test_a_key_in_a_long_file_is_quick() -> None:
    """50,000 lines: a change and a cut in well under a tenth of a second each."""
    document = TextDocument("file:///x.py", "python", 1, "    value = compute(value)\n" * 50_000)
    with within(20 * 0.1):
        for number in range(20):
            here = Position(25_000 + number, 4)
            document.change(TextDocumentContentChangePartial(Range(here, here), "x"))
            document.cut(here)
    assert document.lines == 50_001


@given(texts, st.sampled_from(ENCODINGS))
def test_units_add_up(text: str, encoding: PositionEncodingKind) -> None:
    """The units of a text are those of its characters, and match Python's codecs."""
    assert units(text, encoding) == sum(width(character, encoding) for character in text)
    name = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}
    codec, size = name[encoding.value]
    assert units(text, encoding) == len(text.encode(codec, "surrogatepass")) // size

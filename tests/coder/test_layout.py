"""A context fits into its room, and typing leaves most of it as it was."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.contexts import common_prefix
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.layout import Layout
from talaria.coder.source import Piece
from tests.coder.holes import CODE

PREFIX, SUFFIX = "def mean(values):\n    total = 0\n    ", "\n    return total\n"


@pytest.fixture(params=["talaria", "another"])
def layout(tokenizer: TalariaTokenizer, request: pytest.FixtureRequest) -> Layout:
    """The family's own, and one with other sentinels, none at the end, and without files."""
    if request.param == "talaria":
        return tokenizer.layout
    return Layout(tokenizer, (tokenizer.pre, tokenizer.mid), (tokenizer.suf,))


def test_the_prefix_stands_last(tokenizer: TalariaTokenizer) -> None:
    """So that typing appends to the context."""
    names = [tokenizer.name(i) for i in tokenizer.layout.arrange([1], [2])]
    assert [names[0], names[2], names[4]] == ["<suf>", "<pre>", "<mid>"]
    assert tokenizer.layout.arrange([1], [2])[1:4:2] == [2, 1]


@given(text=st.text(alphabet="ab (\n", max_size=3000), room=st.integers(-5, 90))
def test_the_context_fits(tokenizer: TalariaTokenizer, text: str, room: int) -> None:
    """Whatever the file, the layout stays within its room; its sentinels are always there."""
    layout, piece = tokenizer.layout, Piece("a.py", text)
    for files in ((), (piece,)):
        found = layout.fit(text, text, room, files)
        assert len(found) <= max(room, 3)
        assert found.count(tokenizer.suf) == found.count(tokenizer.pre) == 1
        assert found[-1] == tokenizer.mid
    assert text.endswith(tokenizer.decode(layout.fit_prefix(text, max(0, room))))


def test_sentinels_stand_where_the_format_has_them(layout: Layout) -> None:
    """Before, between and behind suffix and prefix, which are tokenised apart."""
    encode = layout.tokenizer.encode
    assert layout.fit(PREFIX, SUFFIX, 100) == [
        *layout.head,
        *encode(SUFFIX),
        *layout.between,
        *encode(PREFIX),
        *layout.tail,
    ]
    for room in (4, 10, 30):
        found = layout.fit(PREFIX * 9, SUFFIX * 9, room)
        assert len(found) <= room
        assert found[: len(layout.head)] == list(layout.head)
        assert found[len(found) - len(layout.tail) :] == list(layout.tail)
        assert found.count(layout.between[0]) == 1


def test_typing_moves_the_cut_of_the_prefix_seldom(tokenizer: TalariaTokenizer) -> None:
    """Or a cache of the context would be of no use."""
    text = "value = compute(first, second)\n" * 60
    room = 80
    typed = [tokenizer.layout.fit_prefix(text + "a b " * n, room) for n in range(60)]
    moved = sum(one[:5] != other[:5] for one, other in pairwise(typed))
    assert moved <= 60 * 4 / (room // 4) + 1


def test_typing_on_reads_a_long_prefix_seldom(tokenizer: TalariaTokenizer) -> None:
    """Less than five times what is typed, where the text moves in larger steps than its tokens."""
    code, room = "\n\n".join(CODE * 12), 200
    half, read = len(code) // 2, {}
    for stride in (1, 4):
        layout = replace(tokenizer.layout, stride=stride)
        prefixes = (code[:end] for end in range(half, half + 4_000, 4))
        contexts = [layout.fit_prefix(prefix, room) for prefix in prefixes]
        read[stride] = sum(len(b) - common_prefix(a, b) for a, b in pairwise(contexts))
    assert read[4] < read[1]
    assert read[4] < 5 * len(tokenizer.encode(code[half : half + 4_000]))


def test_pieces_of_other_files_stand_first(tokenizer: TalariaTokenizer) -> None:
    """As in training; they take a third of the room at most, and the last one is kept longest."""
    layout = tokenizer.layout
    one, two = Piece("pkg/a.py", "x = 1\n" * 3), Piece("pkg/b.py", "y = 2\n")
    bare = layout.fit(PREFIX, SUFFIX, 300)
    first, second = (
        [*layout.file_header(piece.path), *tokenizer.encode(piece.text)] for piece in (one, two)
    )
    assert layout.fit(PREFIX, SUFFIX, 300, (one, two)) == [*first, *second, *bare]
    tight = 3 * len(second) + 3 + 2
    assert layout.fit(PREFIX, SUFFIX, tight, (one, two))[: len(second)] == second
    assert len(layout.fit(PREFIX, SUFFIX, tight, (one, two))) <= tight
    assert layout.fit(PREFIX, SUFFIX, 20, (one, two))[0] == tokenizer.suf


def test_a_model_that_knows_no_other_files_is_given_none(tokenizer: TalariaTokenizer) -> None:
    """They are left out, and take no room."""
    layout = Layout(tokenizer, (tokenizer.suf,), (tokenizer.pre,))
    pieces = (Piece("pkg/b.py", "y = 2\n"),)
    assert layout.fit(PREFIX, SUFFIX, 30, pieces) == layout.fit(PREFIX, SUFFIX, 30)

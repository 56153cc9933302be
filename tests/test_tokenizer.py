"""Text survives, indentation is one token, and marks never come out of text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder.errors import CheckpointError
from coder.tokenizer import SPECIAL, Tokenizer


@given(text=st.text() | st.text(alphabet=" \n\t\r_aé😀1(="))
def test_any_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    """Decoding gives back exactly what was encoded."""
    text = text.encode("utf-8", "ignore").decode()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("mark", SPECIAL)
def test_marks_in_a_text_are_only_text(tokenizer: Tokenizer, mark: str) -> None:
    """A file that contains "<mask>" is not a way to write special tokens."""
    ids = tokenizer.encode(f"x = '{mark}'\n")
    assert max(ids) < tokenizer.mask
    assert tokenizer.decode(ids) == f"x = '{mark}'\n"


@pytest.mark.parametrize("depth", [4, 8])
def test_a_run_of_indentation_is_one_token(tokenizer: Tokenizer, depth: int) -> None:
    """Alone, as at the start of a span, and after a line break."""
    assert len(tokenizer.encode(" " * depth)) == 1
    assert len(tokenizer.encode("\n" + " " * depth)) == 1


def test_layout_puts_the_prefix_last(tokenizer: Tokenizer) -> None:
    """So that typing appends to the context."""
    names = [tokenizer.name(i) for i in tokenizer.layout([1], [2])]
    assert [names[0], names[2], names[4]] == ["<suf>", "<pre>", "<mid>"]


def test_saved_and_loaded_tokenizers_agree(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The file holds the whole tokenizer."""
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    text = "def f(a):\n        return a\n"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.vocab_size == tokenizer.vocab_size


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    """With the file's name and a remedy."""
    path = tmp_path / "tokenizer.json"
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.load(path)

"""Text survives, tokens keep within their borders, and marks never come out of text."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder import checkpoint
from talaria.coder.checkpoint import EMBEDDED as MODEL
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import CheckpointError
from talaria.coder.families.talaria import SPECIAL, TalariaTokenizer
from talaria.coder.tokenizer import Tokenizer

# Text as files have it, with what separates tokens and what could be taken for marks.
PIECES = (
    *("\n", "\r\n", "\r", "\t", "\t\t", " ", "    ", "        ", "\x0c", "\xa0", "\u2028"),
    *("def ", "self", "__init__", "_a", "max_length", "(", "):", "==", "#", "'", "3.14", "10000"),
    *("é", "e\u0301", "日本", "😀", "👩‍👩‍👧", "Ġ", "Ċ", "\ufeff", "\ufffd", "\x00"),
    *("<", ">", "|", "mask", "eom", *SPECIAL),
)
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join)


@cache
def shipped() -> TalariaTokenizer:
    """The tokenizer of the shipped model."""
    folder = Path(checkpoint.__file__).parent / "models" / MODEL
    return TalariaTokenizer.load(folder / "tokenizer.json")


@given(text=texts)
def test_any_text_survives_the_round_trip(tokenizer: TalariaTokenizer, text: str) -> None:
    """Decoding gives back exactly what was encoded, and no text spells a special token."""
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(i < tokenizer.mask for i in ids)
    assert tokenizer.encode_batch([text, text]) == [ids, ids]


@given(data=st.binary())
def test_any_bytes_survive_the_round_trip(tokenizer: TalariaTokenizer, data: bytes) -> None:
    """As text of single-byte characters, and, where they are UTF-8, as that."""
    for text in (data.decode("latin-1"), data.decode("utf-8", "replace")):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=texts, at=st.integers(0), surrogate=st.characters(categories=["Cs"]))
def test_a_lone_surrogate_is_read_as_a_question_mark(
    tokenizer: TalariaTokenizer, text: str, at: int, surrogate: str
) -> None:
    """It has no bytes; all around it stays as it is, and no character moves."""
    at %= len(text) + 1
    ids = tokenizer.encode(text[:at] + surrogate + text[at:])
    assert tokenizer.decode(ids) == f"{text[:at]}?{text[at:]}"
    assert tokenizer.encode_batch([surrogate]) == [tokenizer.encode("?")]


@given(text=texts, cuts=st.tuples(st.integers(0), st.integers(0)))
def test_parts_tokenised_apart_are_the_text(
    tokenizer: TalariaTokenizer, text: str, cuts: tuple[int, int]
) -> None:
    """Prefix, middle and suffix, cut between any characters: no token straddles an edge."""
    begin, end = sorted(cut % (len(text) + 1) for cut in cuts)
    prefix, middle, suffix = map(tokenizer.encode, (text[:begin], text[begin:end], text[end:]))
    assert tokenizer.decode([*prefix, *middle, *suffix]) == text
    assert tokenizer.decode(middle) == text[begin:end]
    context = tokenizer.layout.arrange(prefix, suffix)
    assert [i for i in context if i > tokenizer.mask] == [
        *(tokenizer.suf, tokenizer.pre, tokenizer.mid)
    ]


@given(text=st.lists(st.sampled_from([p for p in PIECES if p.isascii()])).map("".join))
def test_indentation_is_never_in_a_token_with_words(tokenizer: TalariaTokenizer, text: str) -> None:
    """A token is blanks and line breaks alone, or something with one blank before it at most."""
    for name in map(tokenizer.name, tokenizer.encode(text)):
        assert re.fullmatch(r"\s+| ?\S+", name)


@pytest.mark.parametrize("mark", SPECIAL)
def test_marks_in_a_text_are_only_text(tokenizer: TalariaTokenizer, mark: str) -> None:
    """A file that contains "<mask>" is not a way to write special tokens."""
    ids = tokenizer.encode(f"x = '{mark}'\n")
    assert max(ids) < tokenizer.mask
    assert tokenizer.decode(ids) == f"x = '{mark}'\n"


@pytest.mark.parametrize("depth", [4, 8])
def test_a_run_of_indentation_is_one_token(tokenizer: TalariaTokenizer, depth: int) -> None:
    """Alone, as at the start of a span, and after a line break."""
    assert len(tokenizer.encode(" " * depth)) == 1
    assert len(tokenizer.encode("\n" + " " * depth)) == 1


def test_the_shipped_tokenizer_knows_indentation_to_six_levels() -> None:
    """Also odd depths, as of continued lines."""
    for depth in range(2, 25):
        assert len(shipped().encode(" " * depth)) == 1
        assert len(shipped().encode("\n" + " " * depth)) == 1


def test_saved_and_loaded_tokenizers_agree(tokenizer: TalariaTokenizer, tmp_path: Path) -> None:
    """The file holds the whole tokenizer."""
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = TalariaTokenizer.load(tmp_path / "tokenizer.json")
    text = "def f(a):\n        return a\n"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.vocab_size == tokenizer.vocab_size


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    """With the file's name and a remedy."""
    path = tmp_path / "tokenizer.json"
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        TalariaTokenizer.load(path)


@given(text=st.text(alphabet="abdefnrtu (=\n", min_size=1, max_size=3))
def test_tokens_by_how_they_begin(tokenizer: TalariaTokenizer, text: str) -> None:
    """All whose text begins so, and no special one."""
    named = [token for token in range(tokenizer.mask) if tokenizer.name(token).startswith(text)]
    assert sorted(tokenizer.beginning_with(text)) == named
    assert tokenizer.beginning_with(text) is tokenizer.beginning_with(text)


def test_a_loaded_model_has_sorted_its_vocabulary(
    model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first keystroke decodes no vocabulary."""
    monkeypatch.setattr(model.tokenizer, "_bpe", None)
    assert model.tokenizer.beginning_with("de")


@pytest.mark.parametrize(
    ("prefix", "last"),
    [
        ("for i in ra", " ra"),
        ("    return f(", "("),
        ("    return ", " "),
        ("x = 1\n", ""),
        ("def f():\n    ", ""),
        ("def f():\n ", ""),
        (" ", " "),  # one token with the word that follows
        ("s = '\ufffd", ""),
        ("x = 1  ", ""),
        ("s = '\U0001f600", ""),  # the last token is a part of it
        ("", ""),
    ],
)
def test_what_may_go_on(prefix: str, last: str) -> None:
    """Words, signs, the blank between them; not indentation, line breaks, parts of characters."""
    assert shipped().last_token(prefix) == last


@pytest.mark.parametrize(
    ("prefix", "last"),
    [
        ("def f():\n    ", " "),
        ("def f():\n\t", ""),
        ("def f():\n", ""),
        ("x = ", " "),
        ("return f(", "("),
    ],
)
def test_words_may_take_the_last_space_of_their_indentation(prefix: str, last: str) -> None:
    """As where words are split as in GPT-2: read whole, the text has `   ` and ` return`."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    bpe.train_from_iterator(["def f(x):\n    return x\n    x = 1\n"] * 9, trainer)
    tokenizer = Tokenizer(bpe, {})
    assert tokenizer.last_token(prefix) == last
    words = [tokenizer.name(token) for token in tokenizer.beginning_with(last)]
    assert last != " " or " return" in words


def test_special_tokens_may_have_any_ids(tokenizer: TalariaTokenizer) -> None:
    """Their names are known, they have no text, and no token that begins with a text is one."""
    other = Tokenizer(tokenizer._bpe, {"<end>": 3, "<hole>": 260})
    assert [other.name(3), other.name(260)] == ["<end>", "<hole>"]
    assert other.decode([3, 260]) == ""
    assert other.vocab_size == tokenizer.mask
    assert not {3, 260} & set(other.beginning_with(""))
    assert Tokenizer(tokenizer._bpe, {"<end>": 5000}).vocab_size == 5001

"""Any text survives a trimmed vocabulary, and what is kept is cut as by the whole one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.families import qwen2_tokenizer
from talaria.coder.families.qwen2_files import open_base
from talaria.coder.families.qwen2_tokenizer import (
    EOM,
    KEPT,
    MASK,
    MIDDLE,
    NORMAL,
    PREFIX,
    SUFFIX,
    Vocabulary,
    cutting,
    layout_of,
    marks_of,
)
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.tokenizer import Tokenizer
from tests.coder.test_qwen2_gguf import write_gguf
from tests.conftest import TEXTS

SPECIAL = (EOM, "<|im_end|>", PREFIX, MIDDLE, SUFFIX, MASK)
texts = st.text(st.characters(codec="utf-8")) | st.lists(
    st.sampled_from([*TEXTS, *SPECIAL, "e\u0301", "\u2126", "日本", "\U0001f600", " \r\n\t", "'LL"])
).map("".join)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: TalariaTokenizer) -> Vocabulary:
    """A vocabulary of 348 tokens of text and the special ones."""
    bpe = json.loads(tokenizer._bpe.to_str())["model"]
    tokens = [*sorted(bpe["vocab"], key=bpe["vocab"].get), *SPECIAL]
    kinds = [NORMAL] * len(bpe["vocab"]) + [3] * len(SPECIAL)
    merges = [" ".join(merge) for merge in bpe["merges"]]
    return Vocabulary(tokens, kinds, merges, *cutting("qwen2", Path("x")))


def closed(vocabulary: Vocabulary, dropped: set[int]) -> list[int]:
    """The rows that remain without some merges and all that build on these."""
    made = {merge.replace(" ", ""): merge.split(" ") for merge in vocabulary.merges}
    kept: dict[str, int] = {}
    for row, token in enumerate(vocabulary.tokens):
        parts = made.get(token)
        if parts is None or (row not in dropped and all(part in kept for part in parts)):
            kept[token] = row
    return list(kept.values())


subsets = st.sets(st.integers(256, 347))


@given(text=texts, dropped=subsets)
def test_any_text_survives_a_trimmed_vocabulary(
    vocabulary: Vocabulary, text: str, dropped: set[int]
) -> None:
    """Unnormalised, and never as a special token, whichever tokens are left out."""
    trimmed = vocabulary.tokenizer(np.array(closed(vocabulary, dropped)))
    ids = trimmed.encode(text)
    assert trimmed.decode(ids) == text
    assert not set(ids) & set(trimmed.special.values())
    assert max(ids, default=0) < trimmed.vocab_size


@given(text=texts, dropped=subsets)
def test_words_of_kept_tokens_are_cut_as_before(
    vocabulary: Vocabulary, text: str, dropped: set[int]
) -> None:
    """Whatever stands beside them; the place of each token leads to its row."""
    rows = np.array(closed(vocabulary, dropped))
    whole = vocabulary.tokenizer(np.arange(len(vocabulary.tokens)))
    trimmed = vocabulary.tokenizer(rows)
    for word, _ in trimmed._bpe.pre_tokenizer.pre_tokenize_str(text):
        before = cut(whole, word)
        if set(before) <= set(rows.tolist()):
            assert rows[cut(trimmed, word)].tolist() == before


def cut(tokenizer: Tokenizer, word: str) -> list[int]:
    """The tokens of a word that is written in the alphabet of byte-level BPEs."""
    return [token.id for token in tokenizer._bpe.model.tokenize(word)]


def test_an_unknown_vocabulary_is_left_whole(tmp_path: Path, tokenizer: TalariaTokenizer) -> None:
    """Every row stays where it is."""
    config = write_gguf(tmp_path / "tiny.gguf", tokenizer)
    read, rows = open_base(tmp_path / "tiny.gguf").vocabulary.trimmed()
    assert rows.tolist() == list(range(config.vocab_size))
    assert read.vocab_size == config.vocab_size


def test_a_known_vocabulary_is_trimmed(
    tmp_path: Path,
    tokenizer: TalariaTokenizer,
    vocabulary: Vocabulary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the rows that the table names; the special tokens keep their parts."""
    kept = np.zeros(len(vocabulary.tokens), bool)
    kept[closed(vocabulary, {256, 300})] = True
    assert 256 < kept.sum() < len(kept)
    digest = vocabulary.digest
    np.savez(tmp_path / "kept.npz", vocabulary=digest, kept=np.packbits(kept))
    monkeypatch.setattr(qwen2_tokenizer, "KEPT", tmp_path / "kept.npz")
    write_gguf(tmp_path / "tiny.gguf", tokenizer)
    trimmed, rows = open_base(tmp_path / "tiny.gguf").vocabulary.trimmed()
    assert rows.tolist() == np.flatnonzero(kept).tolist()
    assert trimmed.vocab_size == len(rows)
    names = {name: vocabulary.tokens[rows[token]] for name, token in trimmed.special.items()}
    assert names == {name: name for name in SPECIAL}
    marks = marks_of(trimmed)
    assert [trimmed.name(token) for token in (marks.mask, marks.eom)] == [MASK, EOM]
    context = layout_of(trimmed).arrange([], trimmed.encode("x"))
    assert [trimmed.name(token) for token in context] == [PREFIX, SUFFIX, "x", MIDDLE]


@pytest.mark.parametrize("part", ["tokens", "merges"])
def test_another_vocabulary_has_another_hash(vocabulary: Vocabulary, part: str) -> None:
    """So that what is kept of one is not kept of another."""
    changed = [*getattr(vocabulary, part)]
    changed[10:12] = reversed(changed[10:12])
    parts: dict[str, Any] = {part: changed}
    assert replace(vocabulary, **parts).digest != vocabulary.digest


def test_what_is_kept_of_qwen() -> None:
    """All bytes and special tokens, none of the rows that only pad the table."""
    with np.load(KEPT) as known:
        kept = np.unpackbits(known["kept"], count=151_936)
    assert kept.sum() == 45_056
    assert kept[:256].all()
    assert kept[151_643:151_665].all()
    assert not kept[151_665:].any()


def test_a_stored_tokenizer_is_the_same(vocabulary: Vocabulary) -> None:
    """Its text holds ids, special tokens and how words are cut."""
    trimmed = vocabulary.tokenizer(np.array(closed(vocabulary, {260, 280})))
    loaded = Tokenizer.from_json(trimmed.to_json())
    for text in TEXTS:
        assert loaded.encode(text) == trimmed.encode(text)
        assert loaded.decode(loaded.encode(text)) == text
    assert loaded.special == trimmed.special
    assert loaded.vocab_size == trimmed.vocab_size
    assert loaded.beginning_with(" re") == trimmed.beginning_with(" re")


@pytest.mark.parametrize("text", ["", "{}", '{"bpe": "{}", "special": {}}', "[]"])
def test_a_damaged_stored_tokenizer_is_refused(text: str) -> None:
    """With what is wrong in it."""
    with pytest.raises(ValueError, match="no readable tokenizer"):
        Tokenizer.from_json(text)

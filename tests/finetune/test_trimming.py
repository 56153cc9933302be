"""The tokens that a corpus uses are kept, with all that they are made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from talaria.coder.errors import UsageError
from talaria.coder.families import qwen2_tokenizer
from talaria.coder.families.qwen2_files import open_base
from talaria.coder.families.qwen2_tokenizer import NORMAL, Vocabulary, cutting
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.finetune import tokenizer as command
from talaria.finetune import trimming
from talaria.finetune.corpus import CorpusDocument, write_corpus
from tests.coder.test_qwen2_gguf import SPECIAL, write_gguf
from tests.conftest import TEXTS

BYTES = sorted(TalariaTokenizer.train([], 262)._bpe.get_vocab())
MADE = ["ab", "cd", "abcd", "ef", "gh"]
MERGES = ["a b", "c d", "ab cd", "e f", "g h"]
SMALL = Vocabulary(
    [*BYTES, *MADE, "<end>", "[PAD]"],
    [NORMAL] * (256 + len(MADE)) + [3, trimming.UNUSED],
    MERGES,
    *cutting("qwen2", Path("small.gguf")),
)


def documents(*texts: str) -> list[CorpusDocument]:
    """One document a package."""
    return [CorpusDocument(f"p{n}", "a.py", text) for n, text in enumerate(texts)]


def test_tokens_are_counted_on_the_way_to_longer_ones() -> None:
    """In each package apart."""
    counts = trimming.count(SMALL, documents("abcd ab", "cd", "ef"))
    by_name = dict(zip(SMALL.tokens, counts.tolist(), strict=True))
    assert by_name["abcd"] == [1, 0, 0]
    assert by_name["ab"] == [2, 0, 0]
    assert by_name["cd"] == [1, 1, 0]
    assert by_name["c"] == [1, 1, 0]
    assert by_name["f"] == [0, 0, 1]
    assert by_name["gh"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("texts", "size", "made"),
    [
        (["abcd"], 260, ["ab", "cd", "abcd"]),
        (["abcd", "ef"], 259, ["ab", "cd"]),  # all three cost three rows
        (["abcd abcd abcd", "ef", "ef"], 258, ["ef"]),  # packages before repetitions
        (["ef gh"], 259, ["ef", "gh"]),
        ([""], 259, ["ab", "cd"]),  # those that were merged first
    ],
)
def test_what_most_packages_make_is_kept(texts: list[str], size: int, made: list[str]) -> None:
    """Besides all bytes and special tokens; a row that only pads the table is not."""
    kept = trimming.choose(SMALL, trimming.count(SMALL, documents(*texts)), size)
    names = [token for token, keep in zip(SMALL.tokens, kept, strict=True) if keep]
    assert names == [*BYTES, *made, "<end>"]


def test_what_a_choice_costs() -> None:
    """Tokens, and texts that are cut as before."""
    kept = np.ones(len(SMALL.tokens), bool)
    kept[SMALL.tokens.index("ef")] = False
    assert trimming.costs(SMALL, {262: kept}, ["abcd", "ef", "gh", "ab"]) == [
        {"rows": 262, "more tokens, %": 25.0, "same texts, %": 75.0}
    ]


@pytest.fixture
def folder(tmp_path: Path, tokenizer: TalariaTokenizer) -> Path:
    """A tiny base, and a corpus that does not use all of its tokens."""
    write_gguf(tmp_path / "base.gguf", tokenizer)
    split = {"train": documents(TEXTS[0], TEXTS[0]), "valid": documents(TEXTS[0], TEXTS[1])}
    write_corpus(tmp_path / "corpus", split, {})
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    """The command line for that base and corpus."""
    where = ["--base", str(folder / "base.gguf"), "--corpus", str(folder / "corpus")]
    return ["trim", *where, "--out", str(folder / "kept.npz"), *more]


def test_the_command_writes_what_the_model_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokens that are kept, under the hash of the vocabulary."""
    assert command.main(arguments(folder, "--rows", "300")) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["rows"] == 300
    assert row["same texts, %"] == 50.0
    monkeypatch.setattr(qwen2_tokenizer, "KEPT", folder / "kept.npz")
    trimmed, rows = open_base(folder / "base.gguf").vocabulary.trimmed()
    assert len(rows) == trimmed.vocab_size == 300
    assert set(trimmed.special) == set(SPECIAL)
    assert trimmed.decode(trimmed.encode(TEXTS[2])) == TEXTS[2]


def test_a_comparison_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has an entry for each number of rows; more rows cost fewer tokens."""
    assert command.main(arguments(folder, "--compare", "280,300,354")) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["rows"] for row in table] == [280, 300, 354]
    more = [row["more tokens, %"] for row in table]
    assert more == sorted(more, reverse=True)
    assert more[-1] == 0
    assert not (folder / "kept.npz").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--rows", "200"], "200 rows; give 262 to 354"),
        (["--compare", "300,355"], "355 rows; give 262 to 354"),
        (["--compare", "many"], "--compare is 'many'; give rows as"),
    ],
)
def test_sizes_that_cannot_be(folder: Path, given: list[str], sentence: str) -> None:
    """The limits are the bytes with the special tokens, and the whole vocabulary."""
    with pytest.raises(UsageError, match=sentence):
        command.main(arguments(folder, *given))

"""Memorised runs are maximal and lie within one training file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import memorisation
from benchmarks.memorisation import beyond, measure, search, weight
from talaria.evals.suites import Problem, Suite
from talaria.finetune.corpus import CorpusDocument, write_corpus

LITTLE = st.text("ab \n\u00e9\U0001f600", max_size=40)
ABOUT = {"packages": [{"name": "alpha", "licence": "MIT"}]}
TRUE = "true text, held out"


def as_documents(*texts: str) -> list[CorpusDocument]:
    """Files of these texts."""
    return [CorpusDocument("alpha", f"m{number}.py", text) for number, text in enumerate(texts)]


def module(seed: int, functions: int = 60) -> str:
    """A random module that shares no 24 consecutive characters with one of another seed."""
    rng = random.Random(seed)

    def word() -> str:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(9))

    return "\n\n".join(
        f"def {word()}({word()}, {word()}):\n    {word()} = {word()}({word()} + {word()})\n"
        f"    return {word()}.{word()}({word()})"
        for _ in range(functions)
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three training files, the first of them twice, and two held-out ones."""
    out = tmp_path / "corpus"
    train = [*as_documents(*map(module, range(3))), CorpusDocument("beta", "copy.py", module(0))]
    held_out = [CorpusDocument("post", f"post{seed}.py", module(seed)) for seed in (7, 8)]
    write_corpus(out, {"train": train, "valid": held_out}, ABOUT)
    return out


def by_hand(text: str, documents: list[str], shortest: int) -> list[str]:
    """The maximal parts of a text that stand in some document, by brute force."""

    def there(start: int, end: int) -> bool:
        inside = start >= 0 and end <= len(text)
        return inside and any(text[start:end] in document for document in documents)

    ends = range(len(text) + 1)
    return [
        text[start:end]
        for start in ends
        for end in ends[start + shortest :]
        if there(start, end) and not there(start - 1, end) and not there(start, end + 1)
    ]


@given(st.lists(LITTLE, min_size=1, max_size=4), st.lists(LITTLE, min_size=1, max_size=5))
def test_runs_are_those_found_by_hand(texts: list[str], documents: list[str]) -> None:
    """All runs, in order, whatever the batch of files; none spans two files or texts."""
    shortest, files = (
        patch.object(memorisation, "SHORTEST", 3),
        patch.object(memorisation, "FILES", 2),
    )
    with shortest, files:
        found = search(texts, as_documents(*documents))
    assert found == [by_hand(text, documents, 3) for text in texts]


def test_a_run_ends_with_its_file() -> None:
    """A run does not span the end of one file and the beginning of the next."""
    whole = module(0, 2)
    half = len(whole) // 2
    assert search([whole], as_documents(whole[:half], whole[half:])) == [
        [whole[:half], whole[half:]]
    ]


def test_an_equal_hash_is_no_run() -> None:
    """With a hash that only sums characters, collisions are sorted out by comparison."""
    with patch.object(memorisation, "BASE", np.uint64(1)):
        assert search(["b" * 20 + "a" * 20], as_documents("a" * 20 + "b" * 20)) == [[]]


def test_what_counts_as_memory() -> None:
    """White space, repetitions and what the prompt has do not count."""
    assert weight("  x = y\n  x = y\n# ------------\n") == len("x=y#-")
    prompt = "def f():\n    return first.second(third)"
    assert beyond("    return first.second(third)\n    fourth = 4", prompt).split() == [
        "fourth",
        "=",
        "4",
    ]
    copied, spaced = "    return first.second(third)", "\n" + 90 * " " + "abc"
    known = "from somewhere import something"
    problem = Problem("p", "f", prompt, "", "    if it:\n        pass")
    row = measure("ar", problem, "    if not it:", [copied, spaced, known])
    assert (row["run"], row["words"]) == (94, weight(known))
    assert (row["memory"], row["text"]) == (weight(known), known)
    assert row["recalled"] == len("    if ")
    assert measure("ar", problem, "    if not it:", [copied])["memory"] == 0
    assert measure("ar", problem, "", [])["run"] == 0


def reciting(suite: Suite, *_: Any) -> SimpleNamespace:
    """Stands in for a model that knows every file by heart."""
    return SimpleNamespace(rows=[{"id": p.id, "text": p.solution} for p in suite.problems])


def arguments(corpus: Path, model: Path, out: Path, completions: int = 8) -> list[str]:
    """A small check."""
    given = {"--corpus": corpus, "--model": model, "--out": out, "--completions": completions}
    return [str(word) for pair in given.items() for word in pair] + ["--max-tokens", "32"]


def test_recitation_is_found(
    corpus: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All of a training file is a run; held-out files have none, as they are not searched."""
    monkeypatch.setattr(memorisation, "generate", reciting)
    assert memorisation.main(arguments(corpus, model_folder, tmp_path)) == 0
    found, texts = (
        json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("report", "texts")
    )
    assert list(found["groups"]) == [
        *(TRUE, "ar, training", "ar, held out", "diffuse, training", "diffuse, held out")
    ]
    for row in texts["rows"]:
        trained = row["group"].endswith("training")
        assert (row["run"] == row["recalled"] >= 24) if trained else row["run"] == 0
    assert found["groups"][TRUE]["run"]["≥ 50"]["share"] == 0
    assert len(found["longest"]) == 4  # both modes say the same
    for run, text in zip(found["longest"], texts["longest"], strict=True):
        copied = run["files"] == 2
        assert text in module(0) if copied else run["stands_in"].startswith("alpha:m")
        assert text not in json.dumps(found)
        assert (run["packages"], run["prompted"]) == (1 + copied, True)
        assert run["licence"] == ("MIT" if run["stands_in"].startswith("alpha") else None)
    assert str(tmp_path) not in found["command"]
    printed = capsys.readouterr().out
    assert "This is not the corpus that the model says" in printed
    assert "ar, held out (4)" in printed


def test_a_model_is_asked(corpus: Path, model_folder: Path, tmp_path: Path) -> None:
    """In both modes, with the true length; called again, nothing is generated."""
    words = arguments(corpus, model_folder, tmp_path / "out", 4)
    assert memorisation.main(words) == 0
    reports = [(tmp_path / "out" / "report.json").read_bytes()]
    for mode in ("ar", "diffuse"):
        path = tmp_path / "out" / f"completions-{mode}.jsonl"
        header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        assert (header["options"]["mode"], len(rows)) == (mode, 4)
        assert all(row["tokens"] == 32 for row in rows)
    with patch("talaria.coder.infill.fill_batch", side_effect=AssertionError):
        assert memorisation.main(words) == 0
    reports.append((tmp_path / "out" / "report.json").read_bytes())
    assert reports[0] == reports[1]


def test_errors_are_one_line(
    corpus: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No corpus, too few places, too few completions: one line each."""
    monkeypatch.setattr(memorisation, "ATTEMPTS", 2)
    assert memorisation.main(arguments(tmp_path / "none", model_folder, tmp_path / "out")) == 1
    assert "no corpus here" in capsys.readouterr().err
    for completions, reason in ((1, "must be at least 2"), (600, "training places, not 300")):
        words = arguments(corpus, model_folder, tmp_path / "out", completions)
        assert memorisation.main(words) == 2
        error = capsys.readouterr().err
        assert f"--completions is {completions}" in error
        assert reason in error
        assert error.count("\n") == 1


def test_an_interruption_is_no_traceback(
    corpus: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The message says that the same command continues."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(memorisation, "generate", interrupted)
    assert memorisation.main(arguments(corpus, model_folder, tmp_path / "out")) == 1
    assert capsys.readouterr().err == "memorisation: interrupted; the same command continues\n"

"""Typing is replayed by the stated rules."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path

import pytest

from talaria.coder.errors import UsageError
from talaria.evals import command
from talaria.evals.jsonl import read
from talaria.evals.report import report
from talaria.evals.suites import Problem
from talaria.evals.typing_replay import (
    Completion,
    accepted,
    regions,
    replay,
    typed_by_hand,
)
from talaria.evals.typing_report import figures
from tests.evals.test_report import HEADER, write

REGION = Problem("r", "f", "x = 1\n", "z = 3\n", "y = x + 1\nprint(y)\n")


def scripted(answers: dict[str, str], asked: list[str]) -> object:
    """An engine with scripted answers after some texts and none elsewhere."""

    def ask(prefix: str, suffix: str) -> Completion:
        assert prefix.startswith(REGION.prefix)
        assert suffix == REGION.suffix
        typed = prefix.removeprefix(REGION.prefix)
        asked.append(typed)
        return Completion(answers.get(typed, ""), 0.9, 2, 10.0)

    return ask


def test_without_help_every_character_is_a_keystroke() -> None:
    """And every character makes one request."""
    asked: list[str] = []
    found = replay(REGION, scripted({}, asked))  # type: ignore[arg-type]
    assert found.keystrokes == found.characters == len(REGION.solution)
    assert found.completed == 0
    assert len(asked) == len(REGION.solution)


def test_a_right_suggestion_is_one_keystroke() -> None:
    """Whether all of it or its first line is accepted."""
    asked: list[str] = []
    answers = {"": "y = x + 1\nprint(y)\n"}
    assert replay(REGION, scripted(answers, asked)).keystrokes == 1  # type: ignore[arg-type]
    assert asked == [""]
    answers = {"": "y = x + 1\nreturn", "y = x + 1\n": "print(y)"}
    found = replay(REGION, scripted(answers, []))  # type: ignore[arg-type]
    assert found.keystrokes == 1 + 1 + 1 + 1  # a line, its break, a line, its break
    assert found.completed == len("y = x + 1") + len("print(y)")


def test_typing_through_asks_nothing() -> None:
    """A suggestion stays while what is typed matches it."""
    asked: list[str] = []
    found = replay(REGION, scripted({"": "y = 7"}, asked))  # type: ignore[arg-type]
    assert asked[:2] == ["", "y = x"]
    assert found.keystrokes == found.characters


def test_the_editor_asks_now_and_then() -> None:
    """Where a line's code begins, after an acceptance, and every so many characters."""
    asked: list[str] = []
    replay(REGION, scripted({}, asked), every=4)  # type: ignore[arg-type]
    assert asked == [
        "",
        "y = ",
        "y = x + ",
        "y = x + 1\n",
        "y = x + 1\nprin",
        "y = x + 1\nprint(y)",
    ]
    asked.clear()
    found = replay(REGION, scripted({"": "y = x"}, asked), every=100)  # type: ignore[arg-type]
    assert asked == ["", "y = x", "y = x + 1\n"]
    assert found.keystrokes == 1 + len(" + 1\nprint(y)\n")


def test_indentation_counts_on_neither_side() -> None:
    """Indentation is neither typed nor completed, and makes no request."""
    text = "if y:\n    f(y)\n\n  \n"
    assert sum(typed_by_hand(text)) == len("if y:\nf(y)\n\n\n")
    region = Problem("r", "f", REGION.prefix, REGION.suffix, text)
    asked: list[str] = []
    found = replay(region, scripted({}, asked), every=100)  # type: ignore[arg-type]
    assert asked == ["", "if y:\n    "]
    assert found.characters == found.keystrokes == 13
    found = replay(region, scripted({"": "if y:\n    f(y)"}, []), every=100)  # type: ignore[arg-type]
    assert (found.completed, found.keystrokes) == (10, 4)
    assert [request.line_start for request in found.requests] == [True, False]
    # A suggestion that is typed through goes on through the indentation.
    asked.clear()
    region = Problem("r", "f", REGION.prefix, REGION.suffix, "(\n    f)\n")
    replay(region, scripted({"": "(\n    g"}, asked))  # type: ignore[arg-type]
    assert asked[1] == "(\n    f"


def test_what_is_accepted() -> None:
    """More than one character, and right as a whole or in its first line."""
    assert accepted("abc", "abcd") == 3
    assert accepted("abx", "abcd") == 0
    assert accepted("a", "abcd") == 0
    assert accepted("  ", "  a") == 0
    assert accepted("abc\nwrong", "abc\nright") == 3
    assert accepted("", "abc") == 0


def test_regions_come_from_the_files_and_are_whole() -> None:
    """The seed decides; prefix, region and suffix make up the file."""
    text = "".join(f"value_{i} = {i}\n" for i in range(60))
    documents = [{"package": "p", "path": f"{i}.py", "text": text} for i in range(3)]
    found = regions(documents, 10, seed=1)
    assert found == regions(documents, 10, seed=1)
    assert len({region.id for region in found}) == 10
    assert all(r.prefix + r.solution + r.suffix == text for r in found)


def test_the_figures_add_up() -> None:
    """Shares of characters, keystrokes and requests."""
    answers = {"": "y = x + 1\nreturn", "y = x + 1\n": "prune"}
    rows = [{**replay(REGION, scripted(answers, [])).row(), "load": 1.5}]  # type: ignore[arg-type]
    found = figures({}, rows)
    shares = {name: part["share"] for name, part in found["shares"].items()}
    assert found["characters"] == 19
    assert shares["completed"] == 9 / 19
    assert shares["keystrokes_saved"] == 1 - 11 / 19
    assert shares["line_right"] == 0.5
    assert shares["accepted"] == 0.5
    assert shares["adds_error"] == 0
    assert found["precision"][-1]["shown"] == 2
    assert found["precision"][-1]["share"] == 0.5
    assert found["elapsed_ms"] == {"p50": 10.0, "p95": 10.0, "p99": 10.0}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus of three held-out files."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    text = "".join(f"def f{i}(a):\n    return a + {i}\n" for i in range(20))
    rows = [{"package": "p", "path": f"{i}.py", "text": text} for i in range(3)]
    raw = lzma.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (folder / "valid-000.jsonl.xz").write_bytes(raw)
    part = {"file": "valid-000.jsonl.xz", "sha256": hashlib.sha256(raw).hexdigest()}
    manifest = {"format": 2, "parts": [{**part, "split": "valid"}]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_command_goes_on_where_it_stopped(
    corpus: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report has a table, a page and a line on reused KV caches."""
    out = tmp_path / "out"
    words = ["typing", "--corpus", str(corpus), "--model", str(model_folder), "--max-tokens", "4"]
    words += ["--regions", "2", "--every", "30", "--out", str(out)]
    assert command.main(words) == 0
    first = capsys.readouterr().out
    assert "keystrokes saved" in first
    assert "of their context in the KV cache took" in first
    assert (out / "report.html").read_text().count("<svg") == 3
    path = out / "results.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:-1]))
    assert command.main(words) == 0
    again = path.read_text().splitlines(keepends=True)
    assert again[:2] == whole[:2]
    assert json.loads(whole[0])["options"]["abstain"]  # nobody asked
    assert json.loads(again[2])["id"] == json.loads(whole[2])["id"]
    with pytest.raises(UsageError, match="--regions is 4000"):
        command.main([*words, "--regions", "4000"])
    with pytest.raises(UsageError, match="--every is 0"):
        command.main([*words, "--every", "0"])


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    """They share a page and are compared region by region."""
    texts = {"": "y = x + 1\nreturn", "y = x + 1\n": "print(y)"}
    paths = []
    for number, answers in enumerate(({}, texts)):
        rows = [
            {
                **replay(REGION, scripted(answers, [])).row(),  # type: ignore[arg-type]
                "id": f"{i}",
                "cluster": f"{i}",
                "load": None,
            }
            for i in range(3)
        ]
        head = {**HEADER, "suite": "typing", "every": 1, "threads": 1}
        head["options"] = {"mode": ("ar", "diffuse")[number], "max_tokens": 32, "max_nfe": 9}
        paths.append(write(tmp_path / f"{number}.jsonl", head, rows))
    found = report(paths, tmp_path / "out")
    assert [run["shares"]["completed"]["share"] for run in found] == [0.0, 17 / 19]
    assert found[0]["shares"]["accepted"] == {"share": None, "by_cluster": None}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "typing, tiny, ar" in page
    assert "typing, tiny, diffuse" in page
    assert command.main(["compare", *map(str, paths)]) == 0
    head, rows, _ = read(paths[1])
    paths[1] = write(paths[1], {**head, "every": 2}, rows)
    with pytest.raises(UsageError, match="same --every"):
        command.main(["compare", *map(str, paths)])

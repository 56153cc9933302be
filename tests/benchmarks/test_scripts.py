"""Small runs of the benchmark scripts and `talaria bench` give consistent figures."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import decoding, examples, second_call, soak
from benchmarks.decoding import KINDS, LOSS, GridPoint, SettingRun, choice, compare_settings
from talaria.coder import checkpoint
from talaria.coder.errors import DataError, UsageError
from talaria.coder.request import Options
from talaria.evals import bench, timing
from talaria.evals.cursors import drawn_suite
from talaria.evals.suites import Problem
from talaria.finetune.corpus import CorpusDocument, corpus_hash, write_corpus


def test_a_short_soak(capsys: pytest.CaptureFixture[str], model_folder: Path) -> None:
    """It measures memory twenty times and counts every request, superseded ones apart."""
    assert soak.main(["--requests", "60", "--model", str(model_folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["requests"] for point in found["points"]] == list(range(3, 61, 3))
    assert 0 < found["points"][0]["bytes"] <= found["peak_bytes"]
    counted = found["engine"]
    assert counted["requests"] == 60
    assert counted["failed"] == 0
    assert counted["answered"] + counted["cancelled"] == 60


def test_too_short_a_soak() -> None:
    """It needs twenty parts."""
    with pytest.raises(UsageError, match="--requests is 3; it must be at least 20"):
        soak.main(["--requests", "3"])


def at(threshold: float) -> GridPoint:
    """A setting that differs in its threshold."""
    return GridPoint(threshold, 8, 128)


def runs_of(right: dict[GridPoint, range], files: int) -> list[SettingRun]:
    """Holes of both kinds in each file, filled with every setting, the slowest first."""
    return [
        SettingRun(
            kind, f"{n}", f"file {n}", setting, n in exact, 4, 10.0 * (len(right) - place), 6
        )
        for kind in KINDS
        for n in range(files)
        for place, (setting, exact) in enumerate(right.items())
    ]


def test_the_fastest_setting_that_surely_loses_little_is_chosen() -> None:
    """A loss of 0.25 points passes; one of 0.5, whose interval exceeds 1, does not."""
    slow, quick, hasty, wild = map(at, (0.9, 0.7, 0.5, 0.1))
    right = {slow: range(100), quick: range(1, 100), hasty: range(2, 100), wild: range(40)}
    outcomes = compare_settings(runs_of(right, 400))
    assert [outcome.lost for outcome in outcomes] == pytest.approx([0, 0.0025, 0.005, 0.15])
    assert outcomes[0].exact[KINDS[1]]["share"] == 0.25
    assert outcomes[0].tokens_per_forward == 1.5
    assert outcomes[0].lost_interval is None
    ends = [outcome.lost_interval[1] for outcome in outcomes if outcome.lost_interval]
    assert ends[0] < LOSS < ends[1] < ends[2]
    assert choice(outcomes) == quick
    rows = decoding.table(outcomes, quick)
    assert [row[-1] for row in rows] == ["", "", "", "chosen", ""]


@pytest.mark.parametrize(("files", "chosen"), [(1, 0.9), (40, 0.9), (400, 0.7)])
def test_equal_results(files: int, chosen: float) -> None:
    """Equal results decide for the fast setting only if there are many."""
    right = {at(0.9): range(9), at(0.7): range(9)}
    assert choice(compare_settings(runs_of(right, files))) == at(chosen)


def test_holes_of_one_file_decide_nothing() -> None:
    """Without an interval, the slow setting is chosen."""
    right = {at(0.9): range(1), at(0.7): range(0)}
    turns = [replace(turn, cluster="one file") for turn in runs_of(right, 400)]
    assert choice(compare_settings(turns)) == at(0.9)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty held-out lines with four possible cursors each; models are evaluated on 20."""
    monkeypatch.setattr(decoding, "MEASURED", (20, 0))
    text = "".join(f"x{n} = {n} + y\n" for n in range(20))
    held_out = [CorpusDocument("post", f"{name}.py", text) for name in "ab"]
    write_corpus(tmp_path / "corpus", {"valid": held_out}, {"packages": []})
    return tmp_path / "corpus"


def lines_of(problems: Iterable[Problem]) -> set[tuple[str, int]]:
    """The problems' files and lines."""
    return {(problem.cluster, problem.prefix.count("\n")) for problem in problems}


def test_settings_are_chosen_on_lines_by_which_no_model_is_measured(corpus: Path) -> None:
    """Neither the suite's cursors nor others in their lines; the two kinds alternate."""
    measured = lines_of(drawn_suite("line-end", corpus, *decoding.MEASURED).problems)
    found = decoding.holes(corpus, 20, 1)
    assert len(measured) == len(found) == 20
    assert not measured & lines_of(problem for _, problem in found)
    assert [kind for kind, _ in found] == 10 * list(KINDS)
    for kind, problem in found:
        assert problem.solution.startswith("x") == (kind == KINDS[1])


def test_the_choice_becomes_the_models_own(
    corpus: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--store`; figures and table name the choice, and the command has no folders."""
    folder, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(model_folder, folder)
    words = ["--corpus", str(corpus), "--model", str(folder), "--out", str(out), "--cursors", "4"]
    words += ["--thresholds", "0.2", "0.8", "--lookaheads", "3", "--budgets", "5"]
    before = checkpoint.load(folder).settings
    assert decoding.main(words) == 0
    assert checkpoint.load(folder).settings == before
    assert decoding.main([*words, "--store"]) == 0
    found = json.loads((out / "decoding.json").read_text("utf-8"))
    chosen = GridPoint(**found["chosen"])
    assert checkpoint.load(folder).settings == replace(before, **found["chosen"])
    assert chosen in (GridPoint(0.2, 3, 5), GridPoint(0.8, 3, 5))
    assert len(found["outcomes"]) == 2
    assert (found["cursors"], found["seed"]) == (4, 1)
    assert found["corpus"] == corpus_hash(corpus)
    assert str(tmp_path) not in json.dumps(found)
    printed = capsys.readouterr().out
    assert printed.count(" chosen\n") == 2
    assert "at most 1.0 points against the most exact setting, by the upper end" in printed


def test_bench_uses_the_models_settings(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The figures name the model's settings and given options; cold starts use the same."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    own = {"confidence_threshold": 0.3, "lookahead": 4, "max_nfe": 9}
    settings = replace(checkpoint.load(folder).settings, **own)  # type: ignore[arg-type]
    checkpoint.store_settings(folder, settings)
    begun: list[Options] = []

    def start(model: str, device: str, options: Options, *_: Any) -> dict[str, float]:
        """Pretend to start a process."""
        begun.append(options)
        return {"load_ms": 1.0, "first_ms": 1.0, "peak_bytes": 1}

    monkeypatch.setattr(timing, "cold_start", start)
    words = ["--model", str(folder), "--prompts", "1", "--rounds", "1", "--starts", "1"]
    words += ["--context", "16", "--max-tokens", "4", "--lookahead", "5", "--json"]
    assert bench.main(words) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    assert {name: options[name] for name in own} == {**own, "lookahead": 5}
    assert [asdict(one) for one in begun] == [options]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--seed", "0"), "another seed than 0"),
        (
            ("--thresholds", "2"),
            "--confidence-threshold is 2.0; it must be a number between 0 and 1",
        ),
    ],
)
def test_wrong_options_of_decoding(given: tuple[str, str], reason: str, tmp_path: Path) -> None:
    """They are refused before anything is loaded."""
    with pytest.raises(UsageError, match=reason):
        decoding.main([*given, "--out", str(tmp_path)])


def test_examples_are_picked_by_their_seed_alone() -> None:
    """The three kinds alternate; each is a hole in a real file, complete around it."""
    modules = examples.files()
    found = examples.picked(6, 0, modules)
    assert [place for place, _ in found] == 2 * ["line-end", "line", "function"]
    assert [p.id for _, p in examples.picked(3, 0, modules)] == [p.id for _, p in found[:3]]
    for _, problem in found:
        text = problem.prefix + problem.solution + problem.suffix
        path = problem.id.split(":")[1]
        assert (examples.ROOT / path).read_text("utf-8") == text
    text = examples.as_markdown(1, "line", found[1][1], "")
    assert "different" in text
    assert "(nothing)" in text


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_examples_come_from_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a commit, whatever changed since; an unknown commit is an error."""
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b.example")
    for package in examples.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text(f"{package} = 'é'\n")
    (tmp_path / "coder" / "notes.txt").write_text("no module")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    (tmp_path / "coder" / "a.py").write_text("changed = 1\n")
    monkeypatch.setattr(examples, "ROOT", tmp_path)
    then = {f"{package}/a.py": f"{package} = 'é'\n" for package in sorted(examples.PACKAGES)}
    assert examples.files("HEAD") == then
    assert examples.files() == then | {"coder/a.py": "changed = 1\n"}
    with pytest.raises(DataError, match=r"--at nowhere: .*see git log"):
        examples.files("nowhere")


def test_second_calls_are_answered(capsys: pytest.CaptureFixture[str], model_folder: Path) -> None:
    """Each by a command of its own; how soon is not tested."""
    assert second_call.main(["--calls", "3", "--model", str(model_folder)]) == 0
    first, later = capsys.readouterr().out.splitlines()
    assert first.startswith("first call: ")
    assert later.startswith("2 later calls: ")
    with pytest.raises(UsageError, match="--calls is 1; it must be at least 2"):
        second_call.main(["--calls", "1"])

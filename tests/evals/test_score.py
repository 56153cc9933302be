"""Scoring compares texts and runs programs, and never mixes results up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import DataError, Interrupted, TalariaError, UsageError
from talaria.coder.request import Options
from talaria.evals import command
from talaria.evals.generate import Sampling, generate
from talaria.evals.jsonl import Results, environment, read
from talaria.evals.report import as_text, report
from talaria.evals.sandbox import Level, ProgramVerdict, Sandbox
from talaria.evals.score import (
    MEDIAN_FACTOR,
    OWN_FACTOR,
    compare_text,
    luck_of,
    repeats_next_line,
    score,
    time_limits,
)
from talaria.evals.selftest import selftest
from talaria.evals.suites import SUITE_FILES, Problem, Suite, read_suite
from tests.evals import problems


@pytest.fixture
def holes(tmp_path: Path) -> Path:
    """Three holes in two tasks."""
    return problems.write(tmp_path / "holes.jsonl", problems.HOLES)


@pytest.fixture
def suite(holes: Path) -> Suite:
    """The same holes as problems."""
    return read_suite("infill-single-line", holes, any_data=True)


def test_the_selftest_detects_a_wrong_floor(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """True middles pass, wrong ones fail, and empty ones are compared to the known floor."""
    lines, right = selftest(suite, tmp_path, 2, None)
    assert right, lines
    assert [line.split()[2] for line in lines] == ["3", "1", "0"]
    assert "no floor is known" in lines[1]
    published = replace(
        SUITE_FILES[suite.name], sha256=next(iter(suite.files.values())), empty=(0, 3)
    )
    monkeypatch.setitem(SUITE_FILES, suite.name, published)
    lines, right = selftest(suite, tmp_path, 2, None)
    assert not right
    assert "WRONG" in lines[1]


SHARES = """    import os
    from multiprocessing.shared_memory import SharedMemory
    open("file", "w").close()
    if not os.fork():
        os.setsid()
        while True: pass
    SharedMemory("talaria-left", create=True, size=9)
    return 2 * n
"""


@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.parametrize("ending", ["done", "interrupted"])
def test_the_selftest_leaves_nothing_behind(
    namespaces: bool, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither files nor processes nor shared memory, also if a program would and if it is ended."""
    row = {**problems.HOLES[0], "canonical_solution": SHARES}
    holes = problems.write(tmp_path / "holes.jsonl", [row, *problems.HOLES[1:]])
    here, passing = tmp_path / "here", tmp_path / "passing"
    for folder in (here, passing):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(passing))
    monkeypatch.setattr("talaria.evals.score.Sandbox", partial(Sandbox, namespaces=namespaces))
    before = psutil.Process().children(recursive=True)
    words = ["selftest", "infill-single-line", "--data", str(holes), "--any-data"]
    if ending == "done":
        shared = namespaces and level_here() >= Level.namespaces
        assert command.main(words) == (0 if shared else 1)
    else:
        append = Results.append

        def interrupted(results: Results, row: dict[str, Any]) -> None:
            if results.header["stage"] == "results":
                raise KeyboardInterrupt
            append(results, row)

        monkeypatch.setattr(Results, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            command.main(words)
    assert list(here.iterdir()) == list(passing.iterdir()) == []
    assert psutil.Process().children(recursive=True) == before
    assert not Path("/dev/shm/talaria-left").exists()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert command.main([*words, "--out", "kept"]) in (0, 1)
    assert len(list((here / "kept").iterdir())) == 6


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="another system's signals")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_the_selftest_in_order(number: str, tmp_path: Path) -> None:
    """Its folders go, whichever signal ends it; the process then dies of that signal."""
    endless = {**problems.HOLES[0], "canonical_solution": "    while True:\n        pass\n"}
    holes, passing = problems.write(tmp_path / "holes.jsonl", [endless]), tmp_path / "passing"
    passing.mkdir()
    words = ("eval", "selftest", "infill-single-line", "--data", str(holes), "--any-data")
    with subprocess.Popen(
        [sys.executable, "-m", "talaria.coder.cli", *words],
        env={**os.environ, "TMPDIR": str(passing)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A process in the background may have been started to ignore it, as by nohup.
        preexec_fn=lambda: signal.signal(getattr(signal, number), signal.SIG_DFL),
    ) as process:
        while not list(passing.rglob("*.results.jsonl")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(getattr(signal, number))
        _, complaints = process.communicate()
    wanted = Interrupted.exit_code if number == "SIGINT" else -getattr(signal, number)
    assert (process.returncode, b"Traceback" in complaints) == (wanted, False)
    assert not list(passing.iterdir())


def level_here() -> Level:
    """The isolation that this machine gives."""
    with Sandbox(1) as sandbox:
        return sandbox.level


def test_a_helper_behind_the_body_passes_nothing(model: Checkpoint, tmp_path: Path) -> None:
    """One that a test would take for a built-in leaves a wrong answer wrong, a right one right."""
    test = "def check(candidate):\n    assert abs(candidate([2, 3])[1] - 1.5) < 0.1\n"
    path = problems.write(tmp_path / "f.jsonl", [{**problems.FUNCTIONS[0], "test": test}])
    suite = read_suite("humaneval", path, any_data=True)
    helper = "\ndef abs(number):\n    return 0\n"
    for body, passes in (("    return [0, 0]\n", False), ("    return [1, 1.5]\n", True)):
        out = tmp_path / f"{passes}.jsonl"
        samples = written(tmp_path / f"{passes}.samples.jsonl", suite, model, [body + helper])
        (row,) = score(samples, suite, out, 1).rows
        assert row["passed"] == passes
        assert suite.problems[0].counted(row["text"]).rstrip() == (body + helper).rstrip()


def test_luck_is_a_floor(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best single string for texts; for tests, the empty middle, where that is known."""
    more = replace(suite.problems[0], id="more", solution="return 2 * n")
    asked = replace(suite, problems=[*suite.problems, more])
    assert luck_of(asked) == {
        "passed": None,
        "exact": 1 / 4,
        "exact_stripped": 2 / 4,
        "first_line": 2 / 4,
    }
    published = replace(
        SUITE_FILES[suite.name], sha256=next(iter(suite.files.values())), empty=(1, 3)
    )
    monkeypatch.setitem(SUITE_FILES, suite.name, published)
    assert luck_of(suite)["passed"] == 1 / 3
    assert luck_of(asked)["passed"] is None


def written(path: Path, suite: Suite, model: Checkpoint, texts: list[str]) -> Path:
    """Samples with these texts in place of the model's."""
    made = generate(suite, model, Sampling(Options(max_tokens=4)), path)
    path.unlink()
    samples = Results(path, made.header)
    for row, text in zip(made.rows, texts, strict=True):
        samples.append({**row, "text": text})
    samples.close()
    return path


def test_verdicts_and_comparisons(
    suite: Suite, model: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A different text with the same behaviour passes without being equal."""
    texts = ["    return n + n\n", "        if len(word) > len(best):\n", "    best = (\n"]
    samples = written(tmp_path / "samples.jsonl", suite, model, texts)
    score(samples, suite, tmp_path / "results.jsonl", 1)
    header, rows, _ = read(tmp_path / "results.jsonl")
    found = {row["id"].rpartition("Tests/")[2]: row for row in rows}
    assert [found[n]["passed"] for n in ("0/L0", "1/L0", "1/L1")] == [True, True, False]
    assert [found[n]["exact"] for n in ("0/L0", "1/L0", "1/L1")] == [False, True, False]
    assert found["1/L1"]["verdict"] == "syntax error"
    assert not found["1/L1"]["parses"]
    assert found["1/L1"]["adds_error"]
    assert header["isolation"] in ("limits", "namespaces", "full")
    assert "limits" in header["guards"]
    expected = f"isolation: {header['isolation']} ({', '.join(header['guards'])}"
    assert expected in capsys.readouterr().err
    # Again: nothing is redone, and the verdicts are the same.
    before = (tmp_path / "results.jsonl").read_bytes()
    score(samples, suite, tmp_path / "results.jsonl", 1)
    assert (tmp_path / "results.jsonl").read_bytes() == before
    other = Suite(suite.name, suite.problems[:1], suite.files)
    with pytest.raises(UsageError, match="other problems"):
        score(samples, other, tmp_path / "x.jsonl", 1)
    with pytest.raises(UsageError, match="not samples"):
        score(tmp_path / "results.jsonl", suite, tmp_path / "x.jsonl", 1)


def test_results_of_other_samples_are_refused(
    suite: Suite, model: Checkpoint, tmp_path: Path
) -> None:
    """Results of changed texts, and samples of unknown problems, are errors."""
    texts = ["    return n + n\n", "x\n", "    best = (\n"]
    samples, path = tmp_path / "samples.jsonl", tmp_path / "results.jsonl"
    score(written(samples, suite, model, texts), suite, path, 1)
    before = path.read_bytes()
    written(samples, suite, model, [texts[0], "zzz", texts[2]])
    with pytest.raises(DataError, match=r"1 results are of other texts .*Tests/1/L0"):
        score(samples, suite, path, 1)
    assert path.read_bytes() == before
    header, rows, _ = read(samples)
    for row in rows[1:]:
        row["id"] = f"Other/{row['id']}"
    samples.unlink()
    strange = Results(samples, header)
    for row in rows:
        strange.append(row)
    strange.close()
    with pytest.raises(
        DataError, match=r"2 rows are of no problem in holes\.jsonl, the first of 'O"
    ):
        score(samples, suite, tmp_path / "x.jsonl", 1)


def test_a_changed_scorer_makes_other_results(
    suite: Suite, model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header has the scorer's environment beside that of the samples."""
    samples = written(tmp_path / "samples.jsonl", suite, model, ["x\n"] * 3)
    score(samples, suite, tmp_path / "results.jsonl", 1)
    monkeypatch.setattr(
        "talaria.evals.score.environment", lambda: {**environment(), "code": "changed"}
    )
    with pytest.raises(DataError, match=r"other scorer\.code"):
        score(samples, suite, tmp_path / "results.jsonl", 1)
    results = score(samples, suite, tmp_path / "others.jsonl", 1)
    assert results.header["environment"] == environment()
    assert results.header["scorer"]["code"] == "changed"


def test_two_scorings_say_the_same(suite: Suite, model: Checkpoint, tmp_path: Path) -> None:
    """Verdicts and details agree with more workers and all cores busy; one program is endless."""
    texts = ["    while n: pass\n", "        if word.none:\n", "    best = ''\n"]
    samples = written(tmp_path / "samples.jsonl", suite, model, texts)
    found = []
    for workers in (1, 3):
        load = (os.cpu_count() or 1) if workers > 1 else 0
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
        try:
            rows = score(samples, suite, tmp_path / f"{workers}.jsonl", workers).rows
        finally:
            for process in busy:
                process.kill()
                process.wait()
        found.append(sorted(rows, key=lambda row: row["id"]))
    assert found[0] == found[1]
    assert [row["verdict"] for row in found[0]] == ["timeout", "failed", "passed"]
    assert "0" not in found[0][0]["detail"]  # limits are measured, so details must not name them


def test_a_program_has_time_by_what_true_solutions_take() -> None:
    """Multiples of its own solution's time, and of the median."""
    seconds = {"a": 0.002, "b": 0.5, "c": 0.002}
    limits = time_limits(
        {name: ProgramVerdict("passed", "", s, 0.0) for name, s in seconds.items()}
    )
    assert limits == pytest.approx(
        {"a": MEDIAN_FACTOR * 0.002, "b": OWN_FACTOR * 0.5, "c": MEDIAN_FACTOR * 0.002}
    )
    assert time_limits({}) == {}


def test_an_interrupted_scoring_goes_on_with_the_same_limits(
    suite: Suite, model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits come from all true solutions, not only from those of the remaining rows."""
    samples = written(tmp_path / "samples.jsonl", suite, model, ["x\n"] * 3)
    path = tmp_path / "results.jsonl"
    score(samples, suite, path, 1)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    asked: list[list[str]] = []

    def remember(solutions: Mapping[str, ProgramVerdict]) -> dict[str, float]:
        asked.append(sorted(solutions))
        return time_limits(solutions)

    monkeypatch.setattr("talaria.evals.score.time_limits", remember)
    assert len(score(samples, suite, path, 1).rows) == 3
    assert asked == [sorted(problem.id for problem in suite.problems)]


def test_failing_true_solutions_are_reported(
    suite: Suite, model: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both scoring and report count them: then data or machine are at fault."""
    wrong = replace(suite.problems[0], solution="    return 3 * n\n")
    asked = replace(suite, problems=[wrong, *suite.problems[1:]])
    samples = written(tmp_path / "samples.jsonl", asked, model, ["    return 2 * n\n"] * 3)
    rows = score(samples, asked, tmp_path / "results.jsonl", 1).rows
    assert [row["solution"] for row in sorted(rows, key=lambda row: row["id"])] == [
        "failed",
        "passed",
        "passed",
    ]
    expected = "1 of 3 true solutions do not pass here (failed 1)"
    assert expected in capsys.readouterr().err
    assert expected in as_text(report([tmp_path / "results.jsonl"], None)[0])


def test_texts_are_compared() -> None:
    """White space, first lines, common beginnings, lengths, and repeated lines after the hole."""
    problem = Problem("p", "c", "def f(a):\n", "    return b\n", "    b = a\n")
    row: dict[str, Any] = {"id": "p", "sample": 0, "text": "    b = a", "tokens": 6, "nfe": 4}
    found = compare_text(problem, row)
    assert (found["exact"], found["exact_stripped"], found["first_line"]) == (False, True, True)
    assert found["prefix_characters"] == len("    b = a")
    assert found["length_error"] == -1
    assert found["true_characters"] == len("    b = a\n")
    assert found["edit_similarity"] == pytest.approx(0.9)
    assert not found["repeats_suffix"]
    assert repeats_next_line("    b = a\n    return b\n", "    b = a\n", problem.suffix)
    assert not repeats_next_line("    return b\n", "    return b\n", problem.suffix)
    assert not repeats_next_line("x\n", "y\n", "")


def test_the_commands(
    holes: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The three stages and `run` give the same figures."""
    where = ["infill-single-line", "--data", str(holes), "--any-data"]
    how = ["--model", str(model_folder), "--max-tokens", "4"]
    samples, results = str(tmp_path / "s.jsonl"), str(tmp_path / "r.jsonl")
    assert command.main(["generate", *where, *how, "--out", samples]) == 0
    assert command.main(["score", *where, samples, "--out", results]) == 0
    capsys.readouterr()
    assert command.main(["report", results, "--out", str(tmp_path / "report")]) == 0
    first = capsys.readouterr().out
    assert "passes the tests" in first
    folder = tmp_path / "run"
    assert command.main(["run", *where, *how, "--out", str(folder)]) == 0
    second = capsys.readouterr().out
    assert second.splitlines()[3:8] == first.splitlines()[3:8]
    assert (folder / "report.html").exists()
    assert command.main(["compare", results, str(folder / "results.jsonl")]) == 0
    assert "p = 1" in capsys.readouterr().out
    given, scored = tmp_path / "given.jsonl", tmp_path / "scored.jsonl"
    more = ["--oracle-length", "--batch", "2", "--out", str(given)]
    assert command.main(["generate", *where, *how[:2], *more]) == 0
    header, rows, _ = read(given)
    assert (header["oracle_length"], header["batch"]) == (True, 2)
    assert {row["stopped"] for row in rows} == {"length"}
    assert command.main(["score", *where, str(given), "--out", str(scored)]) == 0
    assert command.main(["report", str(scored)]) == 0
    assert "true length given" in capsys.readouterr().out
    useless = ["--mode", "ar", "--lookahead", "2"]
    with pytest.raises(UsageError, match="--lookahead would change nothing in --mode ar"):
        command.main(["generate", *where, *how, *useless, "--out", str(given)])
    with pytest.raises(UsageError, match="--batch is 0"):
        command.main(["generate", *where, *how, "--batch", "0", "--out", str(given)])
    with pytest.raises(UsageError, match="--workers is 0"):
        command.main(["score", *where, samples, "--out", results, "--workers", "0"])
    with pytest.raises(UsageError, match="isolation level 'top'"):
        command.main(
            ["score", *where, samples, "--out", str(tmp_path / "x"), "--require-isolation", "top"]
        )
    unmade = tmp_path / "unmade"
    with pytest.raises(UsageError, match="isolation level 'top'"):
        command.main(["run", *where, *how, "--out", str(unmade), "--require-isolation", "top"])
    assert not unmade.exists()


@pytest.mark.parametrize("library", ["matplotlib", "rapidfuzz", "scipy", "tqdm"])
def test_a_missing_library_is_found_before_sampling(
    library: str,
    holes: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`run` needs each only later, but refuses at once and samples nothing."""
    monkeypatch.setitem(sys.modules, library, None)
    where = ["infill-single-line", "--data", str(holes), "--any-data"]
    out = tmp_path / "run"
    with pytest.raises(TalariaError, match=f"needs {library}; install the extra `eval`"):
        command.main(["run", *where, "--model", str(model_folder), "--out", str(out)])
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "library"),
    [
        (["generate", "humaneval", "--out", "s"], "tqdm"),
        (["score", "humaneval", "s", "--out", "r"], "rapidfuzz"),
        (["report", "r", "--out", "page"], "matplotlib"),
        (["typing", "--out", "t"], "matplotlib"),
        (["latency", "--out", "l"], "matplotlib"),
        (["compare", "a", "b"], "scipy"),
        (["selftest", "humaneval"], "rapidfuzz"),
    ],
)
def test_every_command_names_what_it_lacks(
    words: list[str], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command refuses before it reads any file."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TalariaError, match=f"needs {library}"):
        command.main(words)

"""All modes are timed on the same prompts, and starts in fresh processes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import DataError, UsageError
from talaria.coder.request import Options
from talaria.evals import command, timing
from talaria.evals.jsonl import read
from talaria.evals.latency_report import comparison, figures, ratios, token_classes
from talaria.evals.prompts import cut_prompt, documents, draw_prompts
from talaria.evals.suites import Problem
from talaria.evals.timing import cold_start, measure_start, peak_memory, turns
from tests.evals.test_report import HEADER

HEAD = {**HEADER, "suite": "latency", "device": "cpu"}


def row(prompt: str, mode: str, elapsed: float, tokens: int, sample: int = 0) -> dict[str, Any]:
    """A request; the file is the prompt's first letter."""
    return {
        "id": f"{prompt}@{mode}",
        "sample": sample,
        "cluster": prompt[0],
        "prompt": prompt,
        "mode": mode,
        "context": 64,
        "context_tokens": 63,
        "tokens": tokens,
        "nfe": tokens + 1,
        "stopped": "eom" if mode == "ar" else "length",
        "elapsed_ms": elapsed,
        "load": 1.0,
    }


def test_prompts_have_the_length_asked_for(model: Checkpoint) -> None:
    """Up to 3 tokens, because cut text may tokenise differently; the seed decides."""
    files, hashes = documents(None)
    assert "coder/infill.py" in hashes
    found = draw_prompts(files, model.layout, (24, 48), 6)
    assert found == draw_prompts(files, model.layout, (24, 48), 6)
    assert len({problem.id for problem in found}) == 12
    for problem in found:
        length = int(problem.id.rpartition("/")[2])
        ids = [*model.tokenizer.encode(problem.prefix), *model.tokenizer.encode(problem.suffix)]
        assert abs(len(ids) + 3 - length) <= 3
    assert {problem.solution.count("\n") for problem in found} >= {0, 3}
    with pytest.raises(UsageError, match="were found"):
        draw_prompts([{"package": "p", "path": "a.py", "text": "x\n"}], model.layout, (24,), 6)


def test_a_hole_is_where_it_says(model: Checkpoint) -> None:
    """Prefix, middle and suffix are adjacent in the file, however much is cut off."""
    file = {"package": "p", "path": "a.py", "text": "".join(f"x{i} = {i} + y\n" for i in range(99))}
    rng = random.Random(0)
    for missing in (0, 1, 4):
        found = [cut_prompt(rng, file, model.layout, 32, missing) for _ in range(20)]
        for one in found:
            if one is not None:
                assert one.prefix + one.solution + one.suffix in file["text"]
                assert one.solution.count("\n") == max(0, missing - 1)
        assert any(found)


def test_figures_of_times() -> None:
    """Percentiles by class, tokens per second, and the ratio of modes with its interval."""
    rows = [row(f"{name}{i}", "ar", 10.0, 4) for name in "abc" for i in range(2)]
    slow = [row(f"{name}{i}", "diffuse", 20.0 + i, 2) for name in "abc" for i in range(2)]
    start = {"id": "start@ar", "sample": 0, "cluster": "start", "mode": "ar", "load_ms": 900.0}
    start |= {"first_ms": 50.0, "again_ms": 10.0, "peak_bytes": 300_000_000, "device_bytes": None}
    found = figures(HEAD, [*rows, *slow, start])
    ar = found["modes"]["ar"]
    assert ar["all"]["p50"] == 10.0
    assert ar["tokens_per_second"] == pytest.approx(400)
    assert ar["tokens_per_forward"] == 1
    assert ar["by_tokens"].keys() == {"1 – 4"}
    assert (ar["starts"], ar["load_ms"], ar["peak_bytes"]) == (1, 900.0, 300_000_000)
    assert found["modes"]["diffuse"]["load_ms"] is None
    assert found["modes"]["diffuse"]["tokens_per_forward"] == pytest.approx(2 / 3)
    assert found["ratio"]["request"]["ratio"] == pytest.approx((2.0 * 2.1) ** 0.5)
    assert found["ratio"]["token"]["ratio"] == pytest.approx(2 * (2.0 * 2.1) ** 0.5)
    assert "took diffuse 2.05 times as long as ar" in comparison(found)[0]
    names = [name for name, *_ in token_classes()]
    assert names == ["0", "1 – 4", "5 – 8", "9 – 16", "17 – 32", "33 and more"]
    with pytest.raises(DataError, match="no requests"):
        figures(HEAD, [start])


def test_rounds_of_a_prompt_count_once() -> None:
    """Rounds count by their median; a prompt left empty by one mode has no time per token."""
    rows = [row("a", "ar", elapsed, 4, i) for i, elapsed in enumerate((10.0, 11.0, 500.0))]
    rows += [row("a", "diffuse", 22.0, 4), row("b", "ar", 5.0, 0), row("b", "diffuse", 20.0, 1)]
    rows.append(row("c", "ar", 1.0, 1))
    found = ratios(rows)
    assert found["request"]["ratio"] == pytest.approx((2 * 4) ** 0.5)
    assert (found["request"]["prompts"], found["token"]["prompts"]) == (2, 1)


def test_no_mode_always_follows_the_same_other() -> None:
    """Every prompt is filled in every mode and round; the order rotates by prompt and round."""
    problems = [Problem(name, name, "", "", "") for name in "abc"]
    planned = list(turns(problems, ("diffuse", "verify", "ar"), 2))
    assert len({(problem.id, mode, number) for problem, mode, number in planned}) == 18
    orders = [[mode for _, mode, _ in planned[i : i + 3]] for i in range(0, 18, 3)]
    assert [order[0] for order in orders] == ["diffuse", "verify", "ar", "verify", "ar", "diffuse"]


def test_a_fresh_process_says_what_it_took(model_folder: Path) -> None:
    """It reports the times to load, to answer first and again, and its memory."""
    asked = [Problem("p", "c", "x = (", ")", "1"), Problem("q", "c", "y = (", ")", "2")]
    row = cold_start(str(model_folder), "cpu", Options(max_tokens=2), asked)
    assert row["load_ms"] > 0
    assert row["first_ms"] > 0
    assert row["again_ms"] > 0
    assert row["peak_bytes"] > 50 << 20
    assert row["device_bytes"] is None


def test_the_command(
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It measures starts, then requests; called again after an interruption, it continues."""

    def here(name: str, device: str, options: Options, asked: Any) -> dict[str, Any]:
        """Measure a start in this process."""
        texts = [(problem.prefix, problem.suffix) for problem in asked]
        return measure_start(name, device, vars(options), texts)

    monkeypatch.setattr(timing, "cold_start", here)
    out = tmp_path / "out"
    words = ["latency", "--model", str(model_folder), "--contexts", "16", "32", "--prompts", "2"]
    words += ["--rounds", "1", "--starts", "1", "--max-tokens", "8", "--out", str(out)]
    assert command.main(words) == 0
    text = capsys.readouterr().out
    assert "files of coder/" in text
    assert "import and load, ms" in text
    assert "times as long as ar" in text
    assert (out / "report.html").read_text().count("<svg") == 1
    path = out / "results.jsonl"
    _, rows, _ = read(path)
    assert len(rows) == 2 * (1 + 2 * 2)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert command.main(words) == 0
    assert {row["id"] for row in read(path)[1]} == {row["id"] for row in rows}
    for bad, message in (
        (["--contexts", "4"], "least is 8"),
        (["--contexts", "500"], "this model reads 120"),
        (["--rounds", "0"], "--rounds is 0"),
    ):
        with pytest.raises(UsageError, match=message):
            command.main([*words, *bad])


def test_the_most_memory_is_that_of_this_process() -> None:
    """It is more than bare Python takes and less than a machine has."""
    assert 10 << 20 < peak_memory() < 64 << 30

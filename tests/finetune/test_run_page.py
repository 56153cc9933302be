"""The page of a run shows its progress, even if the metrics are incomplete."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from talaria.finetune import run_page


def write_metrics(folder: Path, steps: int, *more: dict[str, Any]) -> Path:
    """Write a run's metrics: steps, a validation halfway, and more lines."""
    folder.mkdir()
    modes, names = ("diffuse", "ar"), ("all", "node", "to_16", "over_32")
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        lines.append(
            {"step": step, "elapsed": 2.0 * step, "tokens": 100 * step, "tokens_per_s": 50}
            | {"canvas_length": 0, "rate": 1.0, "next_token_loss": 5 - step / steps, "bound": 0.0}
        )
        if step == steps // 2:
            lines.append(
                {"step": step, "validation_next_token_loss": 4.5, "validation_bound": 6.0}
                | {f"validation_exact_{mode}_{name}": 0.5 for mode in modes for name in names}
            )
    lines += more
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_page_of_a_run(tmp_path: Path) -> None:
    """It shows losses, progress, exact matches and events, even if the last line is torn."""
    event = {"step": 9, "elapsed": 1.0, "event": "restored", "why": "the state of step 5"}
    folder = write_metrics(tmp_path / "run", 20, event, {"event": "resumed"}, {"rate": 1.0})
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'[1]\n\x00\xff\n{"step": 21, "ela')
    run_page.write_run_page(folder, progress=0.25)
    text = (folder / "run.html").read_text()
    assert "Step 20, 0.7 minutes, 2,000 tokens, 25% of the budget, about 2 minutes left" in text
    assert text.count("<svg") == 3
    assert "share of the device" not in text  # not measured in this run
    assert "the state of step 5" in text
    assert "<td>up to 16</td><td>50%</td><td>50%</td>" in text
    assert 'http-equiv="refresh"' in text


def test_a_chain_trained_alone_is_plotted() -> None:
    """Its training and held-out losses are plotted; of the untrained bound only the latter."""
    step = {"canvas_length": 32, "rate": 1.0, "next_token_loss": 0.0, "bound": 0.0}
    entries: list[dict[str, Any]] = [
        step | {"step": n, "elapsed": 2.0 * n, "tokens": 100 * n, "chain": 4 - n / 20}
        for n in range(1, 21)
    ]
    entries.append({"step": 20, "validation_bound": 3.6, "validation_chain": 3.0})
    figure, _ = run_page.losses({"run": entries})
    drawn = [[len(line.get_xdata()) for line in axis.lines] for axis in figure.axes]
    assert drawn == [[0, 0, 0], [0, 0, 1], [20, 20, 1]]


@pytest.mark.parametrize(
    ("progress", "message"), [(None, "2,000 tokens."), (1.0, "finished"), (1.2, "finished")]
)
def test_only_the_page_of_a_running_run_reloads(
    tmp_path: Path, progress: float | None, message: str
) -> None:
    """A page drawn by hand, or at the end of the run, does not."""
    folder = write_metrics(tmp_path / "run", 20)
    run_page.write_run_page(folder, progress)
    text = (folder / "run.html").read_text()
    assert message in text
    assert "http-equiv" not in text


def test_losses_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    """The page of a diverged run can be drawn; values that are not finite are left out."""
    bad = {"step": 21, "elapsed": 42.0, "tokens": 2100, "rate": 1.0, "bound": float("inf")}
    folder = write_metrics(tmp_path / "run", 20, bad | {"next_token_loss": float("nan")})
    run_page.write_run_page(folder)
    assert "Step 21" in (folder / "run.html").read_text()
    xs, ys = run_page.curve(run_page.read_metrics(folder), "next_token_loss")
    assert xs == list(range(1, 21))
    assert ys[-1] == 4


def test_the_same_metrics_give_the_same_bytes(tmp_path: Path) -> None:
    """Even in another process, with another hash seed."""
    folder = write_metrics(tmp_path / "run", 20)
    run_page.write_run_page(folder)
    here = (folder / "run.html").read_bytes()
    subprocess.run([sys.executable, "-m", "talaria.finetune.run_page", str(folder)], check=True)
    assert (folder / "run.html").read_bytes() == here


@pytest.mark.parametrize("steps", [0, 1, 400, 401, 20_001])
def test_many_steps_become_few_points(steps: int) -> None:
    """Each point averages the same number of steps, so that none is noisier."""
    entries = [{"step": step, "rate": float(step)} for step in range(steps)]
    xs, ys = run_page.curve(entries, "rate")
    assert len(xs) == min(steps, run_page.POINTS)
    assert xs == ys == sorted(ys)
    if steps > 10_000:
        assert max(b - a for a, b in pairwise(xs)) < 1.1 * steps / run_page.POINTS


def test_lengths_follow_kinds_in_ascending_order() -> None:
    """Classes are not sorted by name."""
    names = ["to_16", "over_32", "to_4", "node", "to_32", "all", "line_end"]
    ordered = sorted(names, key=run_page.class_order)
    assert [run_page.class_label(name) for name in ordered] == [
        *("all", "line end", "node", "up to 4", "up to 16", "up to 32", "over 32")
    ]


def test_a_run_that_has_not_begun_has_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command reports that there are no metrics."""
    run_page.write_run_page(tmp_path)
    assert not (tmp_path / "run.html").exists()
    assert run_page.main([str(tmp_path)]) == 1
    assert tmp_path.name in capsys.readouterr().err
    assert run_page.main([]) == 1


def test_runs_are_compared_on_one_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page has tables of their progress and of differing settings."""
    monkeypatch.chdir(tmp_path)
    runs = [str(write_metrics(tmp_path / name, 6)) for name in ("one", "other", "third")]
    for run, rate in zip(runs[:2], (0.01, 0.02), strict=True):
        training = {"recipe": {"learning_rate": rate, "width": 256}, "init": None}
        (Path(run) / "model").mkdir()
        (Path(run) / "model" / "config.json").write_text(json.dumps({"training": training}))
    assert run_page.main(runs) == 0
    assert capsys.readouterr().out == "runs.html\n"
    text = (tmp_path / "runs.html").read_text()
    assert "<td>other</td><td>6</td><td>0.2</td><td>600</td><td>4.500</td><td>6.000</td>" in text
    assert "<th>run</th><th>learning_rate</th></tr>" in text
    assert "<td>other</td><td>0.02</td>" in text
    assert run_page.main(runs[:1]) == 0
    assert "<td>width</td><td>256</td>" in (tmp_path / "one" / "run.html").read_text()


def test_runs_of_the_same_name_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs with the same folder name are labelled by their paths."""
    monkeypatch.chdir(tmp_path)
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        write_metrics(tmp_path / parent / "run", 6)
    assert run_page.main(["a/run", "b/run"]) == 0
    text = (tmp_path / "runs.html").read_text()
    assert "<td>a/run</td>" in text
    assert "<td>b/run</td>" in text

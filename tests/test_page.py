"""Pages stand alone, keep their bytes, and show what a run has done so far."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from coder.page import Section, new_figure, write_page
from finetune import run_page


def write_metrics(folder: Path, steps: int, *more: dict[str, Any]) -> Path:
    """A run's folder with so many steps, a validation in the middle and other lines."""
    folder.mkdir()
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        lines.append(
            {"step": step, "elapsed": 2.0 * step, "tokens": 100 * step, "tokens_per_s": 50}
            | {"canvas_length": 0, "rate": 1.0, "next_token_loss": 5 - step / steps, "bound": 0.0}
        )
        if step == steps // 2:
            lines.append(
                {"step": step, "validation_next_token_loss": 4.5, "validation_bound": 6.0}
                | {f"validation_exact_{mode}_all": 0.25 for mode in ("diffuse", "ar")}
            )
    lines += more
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_page_is_one_file_with_everything_in_it(tmp_path: Path) -> None:
    """Texts are escaped, figures are inline with a description, nothing is fetched."""
    figure, (axis,) = new_figure()
    axis.plot([1, 2], [3, 4])
    section = Section("A < B", "x & y", [(figure, 'says "so"')], [("name", "n"), ("<i>", 3)])
    write_page(tmp_path / "a.html", "T", [section], refresh=30)
    text = (tmp_path / "a.html").read_text()
    HTMLParser().feed(text)
    assert "<h2>A &lt; B</h2>" in text
    assert "x &amp; y" in text
    assert "<td>&lt;i&gt;</td><td>3</td>" in text
    assert 'aria-label="says &quot;so&quot;"' in text
    assert 'http-equiv="refresh" content="30"' in text
    assert "src=" not in text
    assert "<script" not in text
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """No dates, no random names."""
    for name in ("a.html", "b.html"):
        figure, (axis,) = new_figure()
        axis.plot([1, 2], [3, 4])
        write_page(tmp_path / name, "T", [Section("S", figures=[(figure, "f")])])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_page_of_a_run(tmp_path: Path) -> None:
    """Losses, course, exact matches and events, whatever the last line has come to."""
    event = {"step": 9, "elapsed": 1.0, "event": "restored", "why": "the state of step 5"}
    folder = write_metrics(tmp_path / "run", 20, event)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "ela')
    run_page.write_run_page(folder)
    text = (folder / "run.html").read_text()
    assert "Step 20, 0.7 minutes, 2,000 tokens" in text
    assert text.count("<svg") == 3
    assert "share of the device" not in text  # not measured in this run
    assert "the state of step 5" in text
    assert "<td>all</td><td>25%</td><td>25%</td>" in text
    assert "refresh" in text
    run_page.write_run_page(folder, finished=True)
    assert "http-equiv" not in (folder / "run.html").read_text()


def test_many_steps_become_few_points() -> None:
    """A curve keeps its mean and its range."""
    entries = [{"step": step, "rate": float(step)} for step in range(20_001)]
    xs, ys = run_page.curve(entries, "rate")
    assert len(xs) <= run_page.POINTS
    assert xs == ys
    assert sum(xs) / len(xs) == pytest.approx(10_000, rel=0.01)


def test_a_run_that_has_not_begun_has_no_page(tmp_path: Path) -> None:
    """And asking for it by hand says so."""
    run_page.write_run_page(tmp_path)
    assert not (tmp_path / "run.html").exists()
    assert run_page.main([str(tmp_path)]) == 1
    assert run_page.main([]) == 1


def test_runs_are_compared_on_one_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a table of where each stands."""
    monkeypatch.chdir(tmp_path)
    runs = [str(write_metrics(tmp_path / name, 6)) for name in ("one", "other")]
    assert run_page.main(runs) == 0
    assert capsys.readouterr().out == "runs.html\n"
    text = (tmp_path / "runs.html").read_text()
    assert "<td>other</td><td>6</td><td>0.2</td><td>600</td><td>4.500</td><td>6.000</td>" in text
    assert run_page.main(runs[:1]) == 0
    assert (tmp_path / "one" / "run.html").exists()

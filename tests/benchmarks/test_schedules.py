"""The open families' rules on a model of ours: each fills every hole, and goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import schedules
from talaria.finetune.corpus import CorpusDocument, write_corpus


def test_every_rule_fills_every_hole(
    capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path
) -> None:
    """And holes that were filled before are not filled again."""
    text = "".join(f"value_{n} = {n} + y\n" for n in range(20))
    held_out = [CorpusDocument("post", f"{name}.py", text) for name in "ab"]
    write_corpus(tmp_path / "corpus", {"valid": held_out}, {"packages": []})
    rows = tmp_path / "rows.jsonl"
    command = ["--corpus", str(tmp_path / "corpus"), "--model", str(model_folder)]
    command += ["--prompts", "2", "--rows", str(rows)]
    assert schedules.main(command) == 0
    first = rows.read_text("utf-8")
    runs = [json.loads(line) for line in first.splitlines()]
    names = {run["rule"] for run in runs}
    holes = {(run["kind"], run["hole"]) for run in runs}
    assert len(holes) == 4
    assert {(run["kind"], run["hole"], run["rule"]) for run in runs} == {
        (*hole, name) for hole in holes for name in names
    }
    assert schedules.OURS in names
    assert {name.split(",")[0] for name in names} == {
        "ours", "LLaDA", "Dream", "DreamOn", "Fast-dLLM"
    }  # fmt: skip
    most = {name: max(run["steps"] for run in runs if run["rule"] == name) for name in names}
    assert all(steps > 0 for steps in most.values())
    assert capsys.readouterr().out.count("times ours") == 2
    assert schedules.main(command) == 0
    assert rows.read_text("utf-8") == first

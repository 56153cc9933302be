"""The open families' rules on a model of ours: each fills every hole, and goes on where it was."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import schedules
from talaria.coder import checkpoint
from talaria.coder.errors import DataError, UsageError
from talaria.evals.jsonl import read
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
    head, runs, _ = read(rows)
    assert head["model"]["weights"] == checkpoint.load(model_folder).weights_hash
    assert [*head["rules"]] == [*schedules.rules(head["rules"]["LLaDA, 8 steps"]["steps"])]
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
    printed = capsys.readouterr().out
    assert printed.count("times ours") == 2
    assert f"commit {head['made_by'][0]['commit'] or 'unknown'}, " in printed
    assert schedules.main(command) == 0
    assert rows.read_text("utf-8") == first
    assert capsys.readouterr().out == printed

    # What was interrupted in a hole goes on there; a hole without all rows is left out.
    rows.write_text("".join(first.splitlines(keepends=True)[:-1]), "utf-8")
    assert schedules.main([*command, "--minutes", "0"]) == 0
    assert ": 1 holes in" in capsys.readouterr().out
    assert schedules.main(command) == 0
    assert len(read(rows)[1]) == len(runs)

    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    settings = replace(checkpoint.load(other).settings, max_nfe=3)
    checkpoint.store_settings(other, settings)
    with pytest.raises(DataError, match=r"made with other .*options\.max_nfe"):
        schedules.main([*command[:3], str(other), *command[4:]])
    with pytest.raises(UsageError, match="--prompts is 0; it must be at least 1"):
        schedules.main([*command[:-3], "0"])

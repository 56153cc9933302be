"""What requests cost: wrong options are named before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.tiny_models import LLADA, write
from talaria.coder import cli


def test_wrong_options_of_bench(capsys: pytest.CaptureFixture[str]) -> None:
    """Are refused with the value and the limit, before a model is loaded."""
    assert cli.main(["bench", "--context", "0", "--model", "nowhere"]) == 2
    assert "context is 0 tokens; the least is 8" in capsys.readouterr().err


def test_a_model_of_one_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is timed in that one, by its own schedule; nothing is compared with what it cannot do."""
    folder, out = write(LLADA, tmp_path / "llada"), tmp_path / "out"
    call = ["bench", "--model", str(folder), "--prompts", "1", "--rounds", "1", "--starts", "1"]
    call += ["--context", "16", "--max-tokens", "8"]
    assert cli.main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [*found["modes"]] == ["diffuse"]
    assert found["options"]["confidence_threshold"] is None
    assert cli.main(call) == 0
    assert "times as fast" not in capsys.readouterr().out
    call = ["eval", "latency", "--model", str(folder), "--out", str(out)]
    assert cli.main(call) == 2
    assert "latency compares with --mode ar, and llada has only diffuse" in capsys.readouterr().err
    assert not out.exists()

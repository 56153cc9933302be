"""The script that puts load on the server, for a moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.serving import main, quantiles, spread


def test_quantiles_and_their_intervals() -> None:
    """Milliseconds of all clients together; the interval holds what it is of."""
    groups = [[0.001 * number for number in range(place, 100, 4)] for place in range(4)]
    found = quantiles(groups)
    assert found["p50_ms"][0] == 49
    low, high = found["p95_ms"][1]
    assert low <= found["p95_ms"][0] == 94 <= high
    assert spread([1.0, 2.0, 3.0])[0] == 2.0


def test_load(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everybody is answered, also beside those who mean harm."""
    out = tmp_path / "report.json"
    flags = ["--seconds", "0.8", "--clients", "2", "--batches", "2", "--out", str(out)]
    flags += ["--parts", "hostile", "--model", str(model_folder)]
    assert main(flags) == 0
    assert capsys.readouterr().out.count("\n") == 1
    found = json.loads(out.read_text("utf-8"))
    hostile = found["hostile"]
    assert hostile["alive"]
    assert hostile["left"] == 0
    assert "not answered" not in hostile["harmful"]
    assert set(hostile["statuses"]) <= {"200", "409"}

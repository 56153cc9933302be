"""The script that puts load on the server, for a moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import hostile
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
    """Clients type, and are answered or superseded."""
    out = tmp_path / "report.json"
    flags = ["--seconds", "0.8", "--clients", "2", "--batches", "2", "--out", str(out)]
    assert main([*flags, "--parts", "typing", "--model", str(model_folder)]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    typing = json.loads(out.read_text("utf-8"))["typing"]
    assert set(typing) == {"1 clients, batch 2", "2 clients, batch 2"}
    assert all(set(found["statuses"]) <= {"200", "409"} for found in typing.values())


def test_harm(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everybody is answered beside those who mean harm, and a spy finds no context of others."""
    flags = ["--round", "0.3", "--clients", "2", "--requests", "150", "--model", str(model_folder)]
    assert hostile.main(flags) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left"] == found["lost"] == 0
    assert set(found["statuses"]) <= {"200", "409"}
    # A body that goes on behind the refusal may be cut off before the refusal is read.
    reset, harmful = found["harmful"].pop("reset", 0), found["harmful"]
    assert set(harmful) == set(hostile.kinds_of({}, "")) | {"answered", "let go", "requests"}
    assert harmful["answered"] + reset >= sum(harmful[kind] for kind in hostile.OWED)
    assert found["contexts_found"]["their own"] > 0
    assert "the spy" not in found["contexts_found"]

"""The scripts of `benchmarks/`, in small: they run, and their figures hang together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import soak
from coder.errors import UsageError


def test_a_short_soak(capsys: pytest.CaptureFixture[str], model_folder: Path) -> None:
    """Twenty looks at the memory; every request is counted, those given up apart."""
    assert soak.main(["--requests", "60", "--model", str(model_folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["requests"] for point in found["points"]] == list(range(3, 61, 3))
    assert 0 < found["points"][0]["bytes"] <= found["peak_bytes"]
    counted = found["engine"]
    assert counted["requests"] == 60
    assert counted["failed"] == 0
    assert counted["answered"] + counted["cancelled"] == 60


def test_too_short_a_soak() -> None:
    """Has no twenty parts."""
    with pytest.raises(UsageError, match="--requests is 3; it must be at least 20"):
        soak.main(["--requests", "3"])

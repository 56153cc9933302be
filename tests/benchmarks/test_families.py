"""Options without an effect, and folders without the clones, are named before anything runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import families, parity
from talaria.coder.errors import UsageError


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--loops", "SDAR"], "--loops changes nothing without --sources"),
        (["--batch", "2", "--caches"], "--batch changes nothing without --sources"),
        (["--turns", "3"], "--turns changes nothing without --sources or --caches"),
        (["--caches", "--sources", "."], "--caches times our steps and --sources their loops"),
        (["--caches", "--turns", "0"], "--turns is 0; it must be at least 1"),
        (["--sources", ".", "--loops", "SDAR", "--batch", "2"], "SDAR takes one text at a time"),
        (["--sources", "nowhere"], r"NVlabs\+Fast-dLLM is not in it; clone NVlabs/Fast-dLLM of"),
        (["--loops", "Other"], "--loops: invalid choice: 'Other'"),
    ],
)
def test_wrong_options(given: list[str], said: str) -> None:
    """The option, and what to do."""
    with pytest.raises(UsageError, match=said):
        families.main(given)


def test_a_clone_of_another_commit(tmp_path: Path) -> None:
    """It is there, but not what was compared with."""
    for repository, _, _ in parity.SOURCES["sdar"]:
        (tmp_path / repository).mkdir()
        subprocess.run(["git", "init", "-q", str(tmp_path / repository)], check=True)
    with pytest.raises(UsageError, match=r"has no models/sdar.* at 10b4fd1.*; fetch that commit"):
        parity.main(["--sources", str(tmp_path), "--families", "sdar"])

"""Memory as control groups leave it, and the time of a step."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import pytest

from talaria.coder.machine import Pace, available_memory, trim_memory

FREE = 8_000_000_000


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for control groups, on a machine with FREE bytes."""
    free = type("Memory", (), {"available": FREE})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    return tmp_path / "groups"


def limited(folder: Path, limit: str, used: int, inactive: int, second: bool = True) -> None:
    """Write the files of a control group, of version 2 or 1."""
    folder.mkdir(parents=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if not second:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used}\n{names[2]} {inactive}\n")


def belongs(tmp_path: Path, lines: str) -> Path:
    """What /proc says about the groups of a process."""
    path = tmp_path / "own"
    path.write_text(lines)
    return path


def test_without_groups_the_machine_decides(groups: Path, tmp_path: Path) -> None:
    """On systems without them, and where none has a limit."""
    assert available_memory(tmp_path / "nowhere", groups) == FREE
    limited(groups / "user", "max", 5, 0)
    assert available_memory(belongs(tmp_path, "0::/user\n"), groups) == FREE


def test_the_tightest_group_decides(groups: Path, tmp_path: Path) -> None:
    """Its own, or one around it; cached files do not count as used."""
    limited(groups / "box", "3000", 1500, 500)
    limited(groups / "box" / "inner", "9000", 1000, 0)
    own = belongs(tmp_path, "1:cpu:/other\n0::/box/inner\n")
    assert available_memory(own, groups) == 2000
    (groups / "box" / "inner" / "memory.max").write_text("1400\n")
    assert available_memory(own, groups) == 400
    (groups / "box" / "inner" / "memory.max").write_text("900\n")
    assert available_memory(own, groups) == 0


@pytest.mark.parametrize("second", [False, True])
def test_a_container_sees_its_group_at_the_root(groups: Path, tmp_path: Path, second: bool) -> None:
    """Under a name that exists only outside."""
    limited(groups if second else groups / "memory", "2000", 800, 300, second)
    line = "0::/docker/0123\n" if second else "7:cpu:/x\n4:memory:/docker/0123\n"
    assert available_memory(belongs(tmp_path, line), groups) == 1500


def test_the_pace_is_that_of_the_latest_passes() -> None:
    """A step, and what is read before it; infinity before both were timed."""
    pace = Pace()
    assert (pace.step, pace.seconds(0), pace.seconds(90)) == (math.inf,) * 3
    for seconds in (9.0, 0.1, 0.3):  # the machine is busy for a moment
        pace.passed(1, seconds)
    assert pace.seconds(0) == 0.1
    assert pace.seconds(3) == 0.2
    assert pace.seconds(90) == math.inf
    pace.passed(8, 50.0)  # neither a step nor a part of a long context
    pace.passed(100, 1.0)
    assert pace.seconds(90) == pytest.approx(1.0)
    assert pace.seconds(5) == 0.2  # no pass is shorter than a step
    for _ in range(8):
        pace.passed(1, 0.2)
    assert pace.step == 0.2


def test_trimming_is_for_systems_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere nothing happens."""
    trim_memory()

    def missing(name: object) -> object:
        raise OSError("no C library")

    monkeypatch.setattr("ctypes.CDLL", missing)
    trim_memory()

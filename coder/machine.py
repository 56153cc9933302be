"""What a model finds on this machine: the memory that is free, and how fast it reads."""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

KEPT = 8  # passes of each kind; the fastest counts, since the machine may be busy for a moment
NARROW, WIDE = 4, 16  # tokens of a pass that counts as a step, at most; of one that reads, at least


class Pace:
    """How fast a model reads, by its latest passes. Any thread may ask."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=KEPT)  # seconds a pass
        self._reading: deque[float] = deque(maxlen=KEPT)  # seconds a token

    def passed(self, tokens: int, seconds: float) -> None:
        """Note a pass over so many tokens."""
        if tokens <= NARROW:
            self._steps.append(seconds)
        elif tokens >= WIDE:
            self._reading.append(seconds / tokens)

    @property
    def step(self) -> float:
        """Seconds that a pass over a token takes; infinity before one was timed."""
        return min([*self._steps], default=math.inf)

    def seconds(self, tokens: int) -> float:
        """Seconds to read so many tokens and find the next; infinity before that can be told."""
        reading = tokens * min([*self._reading], default=math.inf)
        if tokens <= NARROW:
            reading = self.step if tokens else 0.0
        return max(reading, self.step if tokens else 0.0) + self.step


def trim_memory() -> None:
    """Give the system what this process has freed, where its C library (glibc) has to be told."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def available_memory(
    own: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes that this process can still use, without swapping.

    In a container, that is what its control groups leave, if this is less than the machine has.
    `own` lists the process's groups, whose files lie in `groups` (cgroups(7)).
    """
    return max(0, min([int(psutil.virtual_memory().available), *_left(own, groups)]))


def _left(own: Path, groups: Path) -> Iterator[int]:
    """Bytes that each control group around this process leaves; pages of files can be dropped."""
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            root, limit, used, dropped = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            dropped = "total_inactive_file"
        else:
            continue
        # A container may see its own group at the root, under the name that it has outside.
        group = Path(name.lstrip("/"))
        for place in (root / group, *(root / parent for parent in group.parents)):
            try:
                most, now = (int((place / file).read_text("ascii")) for file in (limit, used))
                counted = (place / "memory.stat").read_text("ascii").splitlines()
            except (OSError, ValueError):
                continue  # no such group, or "max": no limit
            files = next((int(n) for key, n in map(str.split, counted) if key == dropped), 0)
            yield most - now + files

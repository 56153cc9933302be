"""What a model finds on this machine: the memory that is free, and how long a step takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint

PASSES = 3  # timed; the fastest counts, since the machine may be busy while an editor starts
CONTEXT = 16  # tokens that they see; reading more would delay the start


def available_memory(
    own: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes that this process can still use, without swapping.

    In a container, that is what its control groups leave, if this is less than the machine has.
    `own` lists the process's groups, whose files lie in `groups` (cgroups(7)).
    """
    return max(0, min([int(psutil.virtual_memory().available), *_left(own, groups)]))


def step_seconds(model: Checkpoint) -> float:
    """Seconds that the model takes to read one token and find the next."""
    token, seconds = [[model.marks.eom]], []
    _, cache = model.backbone.encode([token[0] * CONTEXT])
    for _ in range(PASSES):
        began = time.perf_counter()
        states, _ = model.backbone.encode(token, cache)
        model.backbone.candidates(states[0], 1)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


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

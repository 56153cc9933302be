"""The timing harness of `talaria bench` and `talaria eval latency`.

All modes take turns on the same prompts in one run, so that whatever slows the machine down
slows every mode down. A few requests warm up first, and each prompt is repeated in rounds; its
time is their median. Modes are compared prompt by prompt: geometric means of ratios, with
intervals over files. Cold starts are measured in fresh processes.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder.errors import UsageError
from talaria.evals.intervals import bootstrap
from talaria.evals.prompts import SHORTEST
from talaria.evals.suites import Problem

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.request import Mode, Options
    from talaria.coder.results import Infill

WARM_UP = 4  # prompts filled in every mode before anything is measured
TYPED = 2  # characters that are new in a warm request
Turn = tuple[Problem, "Mode", int]  # a prompt, a mode and the number of the round


@dataclass(frozen=True)
class TimingPlan:
    """What is measured.

    contexts  lengths of the context in tokens
    prompts   number for each length
    rounds    repetitions of each prompt in each mode
    starts    fresh processes in each mode
    """

    contexts: tuple[int, ...] = (64, 128, 256, 384)
    prompts: int = 12
    rounds: int = 3
    starts: int = 3

    def __post_init__(self) -> None:
        for name in ("prompts", "rounds", "starts"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"--{name} is {value}; it must be at least 1")
        if min(self.contexts) < SHORTEST:
            raise UsageError(
                f"the context is {min(self.contexts)} tokens; the least is {SHORTEST} tokens"
            )


@dataclass(frozen=True)
class Timing:
    """A prompt filled in one mode.

    fresh  with an empty KV cache
    warm   again, right after the same prompt without its last TYPED characters, as while typing;
           None if that was not measured
    """

    problem: Problem
    mode: Mode
    round: int
    fresh: Infill
    warm: Infill | None = None


def turns(problems: Sequence[Problem], modes: Sequence[Mode], rounds: int) -> Iterator[Turn]:
    """Interleave modes, prompts and rounds so that no mode always follows the same other."""
    for number in range(rounds):
        for place, problem in enumerate(problems):
            shift = (number + place) % len(modes)
            for mode in (*modes[shift:], *modes[:shift]):
                yield problem, mode, number


def measure(
    model: Checkpoint, options: Options, planned: Iterable[Turn], warm: bool = False
) -> Iterator[Timing]:
    """Warm up, then fill prompt after prompt; `options` hold for every mode."""
    planned = list(planned)
    problems = list(dict.fromkeys(problem for problem, _, _ in planned))
    for mode in dict.fromkeys(mode for _, mode, _ in planned):
        for problem in problems[:: max(1, len(problems) // WARM_UP)][:WARM_UP]:
            time_prompt(model, problem, replace(options, mode=mode), 0, warm)
    for problem, mode, number in planned:
        yield time_prompt(model, problem, replace(options, mode=mode), number, warm)


def time_prompt(
    model: Checkpoint, problem: Problem, options: Options, number: int, warm: bool
) -> Timing:
    """Fill a prompt with an empty KV cache and, if `warm`, again as while typing."""
    from talaria.coder.infill import Memory, fill
    from talaria.coder.request import Request

    assert options.mode is not None
    request = Request(problem.prefix, problem.suffix, options)
    fresh = fill(model, request)
    if not warm:
        return Timing(problem, options.mode, number, fresh)
    memory = Memory(model)
    fill(model, replace(request, prefix=problem.prefix[:-TYPED]), memory=memory)
    return Timing(problem, options.mode, number, fresh, fill(model, request, memory=memory))


def typical_ms(rounds: Sequence[float], tokens: int | None = None) -> float:
    """Return a prompt's median time over its rounds, per token if `tokens` is given."""
    return statistics.median(rounds) / (1 if tokens is None else tokens)


def ratio_of_times(
    ones: Sequence[float], others: Sequence[float], clusters: Sequence[str]
) -> dict[str, Any]:
    """Compare times of the same prompts: the geometric mean of one / other, interval by files.

    Both are None if there are no prompts; the interval also if every resample gives the same.
    """
    logs = [math.log(one / other) for one, other in zip(ones, others, strict=True)]
    interval = bootstrap(logs, clusters) if logs else None
    return {
        "prompts": len(logs),
        "ratio": math.exp(statistics.fmean(logs)) if logs else None,
        "interval": interval and [math.exp(edge) for edge in interval],
    }


def cold_start(
    model: str | None, device: str, options: Options, problems: Sequence[Problem]
) -> dict[str, Any]:
    """Measure a start in a fresh process; see `measure_start`."""
    spawn = multiprocessing.get_context("spawn")
    texts = [(problem.prefix, problem.suffix) for problem in problems]
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        # Plain values: unpickling `Options` would import part of the engine before the clock runs.
        return process.submit(measure_start, model, device, vars(options), texts).result()


def measure_start(
    model: str | None, device: str, options: dict[str, Any], texts: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """In a fresh process, import and load, then fill the first prompt twice and all once.

    Returns times in milliseconds and the peaks of memory in bytes. The operating system has read
    the files before, so the disk plays no part.
    """
    began = time.perf_counter()
    from talaria.coder import checkpoint
    from talaria.coder.infill import infill
    from talaria.coder.request import Options

    chosen = Options(**options)
    loaded = checkpoint.load(model, device)
    ready = time.perf_counter()
    first, again, *_ = [infill(loaded, *pair, chosen) for pair in (texts[0], *texts)]
    return {
        "load_ms": round(1000 * (ready - began), 1),
        "first_ms": round(first.elapsed_ms, 2),
        "again_ms": round(again.elapsed_ms, 2),
        "peak_bytes": peak_memory(),
        "device_bytes": peak_device_memory(device),
    }


def context_room(model: Checkpoint, max_tokens: int) -> int:
    """Return the longest context, in tokens, beside a middle of `max_tokens` in every mode."""
    settings = model.settings
    canvases = -(-max_tokens // settings.block_length)
    return settings.working_context - canvases * settings.block_length


def load_average() -> float | None:
    """Return the load average of the last minute, where the system tells."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def peak_memory() -> int:
    """Return the most memory this process has held, in bytes."""
    try:
        # VmHWM counts from the last exec; getrusage may include the process before it.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_device_memory(device: str) -> int | None:
    """Return the most GPU memory torch has allocated, in bytes; None on other devices."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.max_memory_allocated()

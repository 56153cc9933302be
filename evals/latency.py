"""How long requests take: both modes take turns on the same prompts, in one run.

Prompts are holes in held-out files of a corpus or, without one, in the files of
`coder/`: the rest of a line, a line, or several lines. What stands around a hole
is cut to a length in tokens. Cold starts are taken in fresh processes: to import
and load, the first request, the same again, and the memory that this process
took at its peak.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import talaria.coder
from talaria.coder.errors import UsageError
from talaria.evals.cursors import held_out
from talaria.evals.generate import Request, header, progress
from talaria.evals.jsonl import Results, Row
from talaria.evals.suites import Problem, Suite

if TYPE_CHECKING:
    from talaria.coder.denoiser import DenoiserConfig
    from talaria.coder.infill import Options
    from talaria.coder.tokenizer import Tokenizer

MODES: tuple[Literal["diffuse", "ar"], ...] = ("diffuse", "ar")
MISSING = (0, 1, 4)  # whole lines of a hole; 0 is the rest of a line
SHORTEST = 8  # tokens of a context
SUFFIX = 0.4  # of the context, as in `coder/infill.py`


@dataclass(frozen=True)
class Plan:
    """What is measured.

    contexts  lengths of the context in tokens
    prompts   of each length
    rounds    times that each prompt is asked in each mode
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
            raise UsageError(f"--contexts has {min(self.contexts)}; the least is {SHORTEST} tokens")


def documents(corpus: Path | None) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Held-out files, or without a corpus those of the engine, and hashes of what was read."""
    if corpus is not None:
        return held_out(corpus)
    found, hashes = [], {}
    for path in sorted(Path(talaria.coder.__file__).parent.glob("*.py")):
        raw = path.read_bytes()
        found.append({"package": "talaria", "path": f"coder/{path.name}", "text": raw.decode()})
        hashes[f"coder/{path.name}"] = hashlib.sha256(raw).hexdigest()
    return found, hashes


def prompts(
    files: Sequence[dict[str, str]], tokenizer: Tokenizer, plan: Plan, seed: int = 0
) -> list[Problem]:
    """Holes whose surroundings are cut to each length; UsageError if the files have too few."""
    found: list[Problem] = []
    for length in plan.contexts:
        rng = random.Random(f"{seed}/{length}")
        some: dict[str, Problem] = {}
        for _ in range(200 * plan.prompts):
            if len(some) == plan.prompts:
                break
            made = prompt(rng, rng.choice(files), tokenizer, length, MISSING[len(some) % 3])
            if made is not None:
                some[made.id] = made
        if len(some) < plan.prompts:
            raise UsageError(
                f"--prompts is {plan.prompts}; only {len(some)} places with {length} tokens around "
                "them were found: ask for fewer or shorter ones"
            )
        found += some.values()
    return found


def prompt(
    rng: random.Random, file: dict[str, str], tokenizer: Tokenizer, length: int, missing: int
) -> Problem | None:
    """A hole at a random line; None if that line is blank or the file too short on either side."""
    lines = file["text"].splitlines(keepends=True)
    if len(lines) <= missing:
        return None
    first = rng.randrange(len(lines) - missing)
    code = lines[first].strip()
    if len(code) < 2:
        return None
    column = lines[first].index(code) + (0 if missing else rng.randrange(1, len(code)))
    last = first + max(missing, 1) - 1
    end = len(lines[last].rstrip("\r\n"))
    before = "".join(lines[:first]) + lines[first][:column]
    after = lines[last][end:] + "".join(lines[last + 1 :])
    room = length - 3  # the marks of the layout
    suffix = tokenizer.encode(after[: 12 * length])[: int(SUFFIX * room)]
    prefix = tokenizer.encode(before[-12 * length :])[-(room - int(SUFFIX * room)) :]
    if len(prefix) + len(suffix) < room:
        return None
    whole = "".join(lines[first : last + 1])
    return Problem(
        id=f"{file['package']}:{file['path']}:{first + 1}:{column}/{length}",
        cluster=f"{file['package']}:{file['path']}",
        prefix=tokenizer.decode(prefix),
        suffix=tokenizer.decode(suffix),
        solution=whole[column : len(whole) - (len(lines[last]) - end)],
    )


def measure(
    corpus: Path | None, model: str | None, options: Options, plan: Plan, path: Path, device: str
) -> Results:
    """Measure and append what came out to the file; what is there is not redone.

    `options` hold for both modes, whatever mode they name.
    """
    from talaria.coder import checkpoint
    from talaria.coder.infill import infill

    loaded = checkpoint.load(model, device)
    files, hashes = documents(corpus)
    config = loaded.denoiser.config
    options = replace(options, max_tokens=options.max_tokens or config.context_length // 4)
    room = context_room(config, options)
    if max(plan.contexts) > room:
        raise UsageError(
            f"--contexts has {max(plan.contexts)}; beside middles of at most {options.max_tokens} "
            f"tokens this model reads {room}: give shorter ones, or a smaller --max-tokens"
        )
    suite = Suite("latency", prompts(files, loaded.tokenizer, plan), hashes, "files")
    head = header(suite, loaded, Request(options), device)
    head["options"] = {**head["options"], "mode": "both"}
    results = Results(
        path,
        {
            **head,
            "stage": "results",
            "expected": len(MODES) * (plan.rounds * len(suite.problems) + plan.starts),
            "plan": {**vars(plan), "contexts": list(plan.contexts)},
            "threads": loaded.denoiser.threads,
            "from": "held-out files of a corpus" if corpus else "files of coder/",
        },
    )
    kept = {(row["id"], row["sample"]) for row in results.rows}
    turns = [
        (problem, mode, turn)
        for turn in range(plan.rounds)
        for place, problem in enumerate(suite.problems)
        # Neither mode always follows the other.
        for mode in (MODES if (turn + place) % 2 else MODES[::-1])
        if (f"{problem.id}@{mode}", turn) not in kept
    ]
    starts = [
        (mode, number)
        for number in range(plan.starts)
        for mode in MODES
        if (f"start@{mode}", number) not in kept
    ]
    bar = progress(len(turns) + len(starts), "request")
    try:
        for mode, number in starts:
            chosen = replace(options, mode=mode)
            results.append(start(model, device, chosen, suite.problems[-plan.prompts :], number))
            bar.update()
        for mode in MODES if turns else ():
            for problem in suite.problems[:: plan.prompts]:  # what comes first is slower
                infill(loaded, problem.prefix, problem.suffix, replace(options, mode=mode))
        for problem, mode, turn in turns:
            found = infill(loaded, problem.prefix, problem.suffix, replace(options, mode=mode))
            results.append(
                {
                    "id": f"{problem.id}@{mode}",
                    "sample": turn,
                    "cluster": problem.cluster,
                    "prompt": problem.id,
                    "mode": mode,
                    "context": int(problem.id.rpartition("/")[2]),
                    "context_tokens": found.context_tokens,
                    "tokens": found.best.length,
                    "nfe": found.nfe,
                    "elapsed_ms": round(found.elapsed_ms, 3),
                    "stopped": found.best.stopped,
                    "load": load(),
                }
            )
            bar.update()
    finally:
        bar.close()
        results.close()
    return results


def context_room(config: DenoiserConfig, options: Options) -> int:
    """The longest context, in tokens, that leaves room for the longest middle in both modes."""
    canvases = -(-(options.max_tokens or 0) // config.block_length)
    return config.context_length - canvases * config.block_length


def load() -> float | None:
    """How many programs wanted a processor in the last minute, where the system tells."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def start(
    model: str | None, device: str, options: Options, asked: Sequence[Problem], number: int
) -> Row:
    """A row of what a fresh process took."""
    spawn = multiprocessing.get_context("spawn")
    texts = [(problem.prefix, problem.suffix) for problem in asked]
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        # As plain values: to read an object of the engine, the process would import torch first.
        took = process.submit(started, model, device, vars(options), texts).result()
    row: Row = {"id": f"start@{options.mode}", "sample": number, "cluster": "start"}
    return {**row, "mode": options.mode, **took}


def started(
    model: str | None, device: str, given: dict[str, Any], texts: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """In a fresh process: import and load, the first request, it again, then all; the most memory.

    The system has read the files before, so the disk plays no part.
    """
    began = time.perf_counter()
    import torch

    from talaria.coder import checkpoint
    from talaria.coder.infill import Options, infill

    options = Options(**given)
    loaded = checkpoint.load(model, device)
    ready = time.perf_counter()
    first, again, *_ = [infill(loaded, *pair, options) for pair in (texts[0], *texts)]
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else None
    return {
        "load_ms": round(1000 * (ready - began), 1),
        "first_ms": round(first.elapsed_ms, 2),
        "again_ms": round(again.elapsed_ms, 2),
        "peak_bytes": most_memory(),
        "device_bytes": peak,
    }


def most_memory() -> int:
    """The most memory that this process has held, in bytes."""
    try:
        # Since it began this program; the system's other counter knows what it was before, too.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most

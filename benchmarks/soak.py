"""A day of typing in one process: does memory grow?

`python -m benchmarks.soak` types in the files of `coder/` through the engine, as an
editor would: a request for every key, some given up for the next one, some cut short by
their deadline, now and then another file. 43,200 requests are what one every two
seconds makes in 24 hours.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any

from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.evals.progress import progress
from talaria.evals.prompts import documents
from talaria.evals.tables import columns
from talaria.evals.timing import peak_memory

POINTS = 20  # looks at the memory
STAYS = 40  # keys typed in a place, on average
HURRIED = 0.1  # share of requests with a deadline that many of them do not meet
GIVEN_UP = 0.2  # share of requests that the next key overtakes


def main(argv: Sequence[str] | None = None) -> int:
    """Type and print a table, or JSON; exit code 0."""
    parser = argparse.ArgumentParser(description="Memory of a serving process over a day.")
    parser.add_argument("--requests", type=int, default=43_200, metavar="N")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.requests < POINTS:
        raise UsageError(f"--requests is {args.requests}; it must be at least {POINTS}")
    found = soak(args.requests, args.model)
    print(json.dumps(found) if args.json else "\n".join(lines(found)))
    return 0


def soak(requests: int, model: str | None) -> dict[str, Any]:
    """Memory in bytes after each part of the requests, and what the engine counted."""
    from talaria.coder import checkpoint
    from talaria.coder.engine import Engine
    from talaria.coder.infill import Options

    files, _ = documents(None)
    rng = random.Random(0)
    keys = typing(files, rng)
    points: list[dict[str, float]] = []
    bar = progress(requests, "request")
    with Engine(lambda: checkpoint.load(model)) as engine:
        for number in range(requests):
            name, prefix, suffix = next(keys)
            seconds = rng.uniform(0.001, 0.03) if rng.random() < HURRIED else None
            asked = engine.submit(name, prefix, suffix, Options(max_tokens=32), seconds)
            if rng.random() >= GIVEN_UP:
                try:
                    asked.future.result()
                except CancelledError:
                    raise AssertionError("a request was cancelled that nobody cancelled") from None
            if (number + 1) % (requests // POINTS) == 0:
                points.append({"requests": number + 1, "bytes": present_memory()})
            bar.update()
        counters = engine.statistics()
    bar.close()
    return {
        "points": points,
        "peak_bytes": peak_memory(),
        "bytes_per_1000_requests": growth(points),
        "engine": counters,
    }


def growth(points: Sequence[Mapping[str, float]]) -> float:
    """Bytes that 1,000 requests add over the second half of the looks at the memory."""
    half = points[len(points) // 2 :]
    numbers, sizes = ([point[name] for point in half] for name in ("requests", "bytes"))
    return 1000 * statistics.linear_regression(numbers, sizes).slope


def typing(
    files: Sequence[Mapping[str, str]], rng: random.Random
) -> Iterator[tuple[str, str, str]]:
    """Endlessly the name, prefix and suffix of a request: keys typed here, then there."""
    while True:
        file = rng.choice(files)
        text = file["text"]
        start = rng.randrange(len(text) - 1)
        for end in range(start, min(len(text), start + rng.randrange(1, 2 * STAYS))):
            line = text.find("\n", end)
            yield file["path"], text[:end], text[line:] if line >= 0 else ""


def present_memory() -> float:
    """What this process holds now, in bytes, where the system tells; else the most it held."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            held = next(line for line in status if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return peak_memory()
    return 1024 * int(held.split()[1])


def lines(found: Mapping[str, Any]) -> list[str]:
    """The figures as a person reads them."""
    table = [["requests", "MB"]]
    table += [[f"{p['requests']:.0f}", f"{p['bytes'] / 1e6:.1f}"] for p in found["points"]]
    counted = ", ".join(
        f"{name} {value:.0f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in found["engine"].items()
    )
    return [
        columns(table),
        f"at most {found['peak_bytes'] / 1e6:.0f} MB; over the second half "
        f"{found['bytes_per_1000_requests'] / 1e6:+.2f} MB per 1,000 requests",
        counted,
    ]


if __name__ == "__main__":
    sys.exit(guarded("soak", main))

"""Simulate a day of typing in one process and watch whether its memory grows.

`python -m benchmarks.soak` types in the files of `coder/` and asks the engine as the language
server does: a request for every key, some superseded by the next one, some with a deadline too
short, now and then another file. 43,200 requests are one every two seconds for 24 hours.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any

from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.evals.progress import progress
from talaria.evals.prompts import documents
from talaria.evals.tables import columns
from talaria.evals.timing import peak_memory

POINTS = 20  # measurements of memory
RUN_LENGTH = 40  # keys typed in one place, on average
DEADLINES = 0.1  # share of requests with a deadline, which many miss
SUPERSEDED = 0.2  # share of requests that the next one supersedes


def main(argv: Sequence[str] | None = None) -> int:
    """Type and print a table, or JSON; exit code 0."""
    parser = Parser(description="Measure a serving process's memory over a day.")
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
    """Return memory in bytes after each part of the requests, and the engine's counters."""
    from talaria.coder import checkpoint
    from talaria.coder.engine import Engine
    from talaria.coder.request import Request
    from talaria.lsp.extent import until_of_typing
    from talaria.lsp.options import ServerOptions

    files, _ = documents(None)
    rng = random.Random(0)
    keys = typing(files, rng)
    points: list[dict[str, float]] = []
    bar = progress(requests, "request")
    with Engine(lambda: checkpoint.load(model)) as engine:
        for number in range(requests):
            name, prefix, suffix = next(keys)
            seconds = rng.uniform(0.001, 0.03) if rng.random() < DEADLINES else None
            options = ServerOptions().decoding(until=until_of_typing(prefix, suffix), abstain=True)
            pending = engine.submit(
                Request(prefix, suffix, options, document=name, seconds=seconds)
            )
            if rng.random() >= SUPERSEDED or number + 1 == requests:
                try:
                    pending.future.result()
                except CancelledError:
                    raise AssertionError("the engine cancelled the newest request") from None
            if (number + 1) % (requests // POINTS) == 0:
                points.append({"requests": number + 1, "bytes": current_memory()})
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
    """Estimate the bytes that 1,000 requests add, from the second half of the measurements."""
    half = points[len(points) // 2 :]
    numbers, sizes = ([point[name] for point in half] for name in ("requests", "bytes"))
    return 1000 * statistics.linear_regression(numbers, sizes).slope


def typing(
    files: Sequence[Mapping[str, str]], rng: random.Random
) -> Iterator[tuple[str, str, str]]:
    """Yield the name, prefix and suffix of requests without end: runs of keys in random places."""
    while True:
        file = rng.choice(files)
        text = file["text"]
        start = rng.randrange(len(text) - 1)
        for end in range(start, min(len(text), start + rng.randrange(1, 2 * RUN_LENGTH))):
            line = text.find("\n", end)
            yield file["path"], text[:end], text[line:] if line >= 0 else ""


def current_memory() -> float:
    """Return this process's resident memory in bytes; its peak where only that is known."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            held = next(line for line in status if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return peak_memory()
    return 1024 * int(held.split()[1])


def lines(found: Mapping[str, Any]) -> list[str]:
    """Format the figures for the terminal."""
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

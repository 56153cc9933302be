"""What the look at syntax gives and costs: held-out lines filled with and without it.

`python -m benchmarks.syntax` fills the rests of lines in real files twice, in turns,
each time with what was read before remembered, as while typing; then all once more with
an unfinished statement elsewhere in the file. What is offered is put into its file, that
statement left out, and the whole file is parsed and compiled anew: not by the judge
that the decoder asks, which parses incrementally and compiles only what is near.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coder.errors import UsageError
from coder.syntax import compiles, count_errors
from evals.cursors import line_end
from evals.generate import progress
from evals.intervals import bootstrap, percentile
from evals.suites import Problem
from evals.tables import cells, columns, ratio

if TYPE_CHECKING:
    from coder.infill import Infill

WAYS = {"checked": True, "as it comes": False}
FILES = ("sound", "broken elsewhere")
UNFINISHED = ("def f(", "class A", "if x", "x = = 1", "x = f(", "x = [", 'x = "', "import", "x.")


@dataclass(frozen=True)
class Turn:
    """A cursor filled in one way; `breaks` if the file with it no longer compiles or parses.

    A file that is broken elsewhere is asked about without what is unfinished there.
    """

    cursor: str
    cluster: str
    file: str
    way: str
    offered: bool
    breaks: bool
    exact: bool
    nfe: int
    elapsed_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table, or JSON; exit code 0."""
    parser = argparse.ArgumentParser(description="What the look at syntax gives and costs.")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="FOLDER")
    parser.add_argument("--cursors", type=int, default=2000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the cursors")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--json", action="store_true", help="all figures, for programs")
    args = parser.parse_args(argv)
    if args.cursors < 1:
        raise UsageError(f"--cursors is {args.cursors}; it must be at least 1")
    turns = measure(line_end(args.corpus, args.cursors, args.seed).problems, args.model)
    found = figures(turns)
    print(json.dumps(found) if args.json else "\n".join(lines(found)))
    return 0


def measure(problems: Sequence[Problem], model: str | None) -> list[Turn]:
    """Every cursor of a file that compiles, filled in both ways, neither always first."""
    from coder import checkpoint
    from coder.infill import Memory, Options, infill

    loaded = checkpoint.load(model)
    turns = []
    sound = [p for p in problems if compiles(p.prefix + p.solution + p.suffix)]
    bar = progress(len(sound), "cursor")
    for place, problem in enumerate(sound):
        sides = (problem.prefix, problem.suffix), broken_elsewhere(problem)
        for file, (prefix, suffix) in zip(FILES, sides, strict=True):
            for way in list(WAYS)[:: 1 if place % 2 else -1]:
                options = replace(Options(max_tokens=32), check_syntax=WAYS[way])
                memory = Memory(loaded.denoiser)
                infill(loaded, prefix[:-1], suffix, options, memory=memory)
                found = infill(loaded, prefix, suffix, options, memory=memory)
                turns.append(turn_of(problem, file, way, found))
        bar.update()
    bar.close()
    return turns


def broken_elsewhere(problem: Problem) -> tuple[str, str]:
    """What is before and behind the hole, with an unfinished line before some statement."""
    chance = random.Random(problem.id)
    text = problem.prefix + problem.solution + problem.suffix
    lines = text.splitlines(keepends=True)
    hole = len(problem.prefix.splitlines()) - 1
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    rows = [node.lineno - 1 for node in statements if node.lineno - 1 != hole]
    row = chance.choice(rows or [0])
    line = lines[row]
    added = line[: len(line) - len(line.lstrip())] + chance.choice(UNFINISHED) + "\n"
    start = len("".join(lines[:row]))
    if start <= len(problem.prefix):
        return problem.prefix[:start] + added + problem.prefix[start:], problem.suffix
    start -= len(problem.prefix) + len(problem.solution)
    return problem.prefix, problem.suffix[:start] + added + problem.suffix[start:]


def turn_of(problem: Problem, file: str, way: str, found: Infill) -> Turn:
    """What came of it; a block that is opened at the end may have its body still to come."""
    text = found.best.text
    body = " pass" if text.rstrip().endswith(":") else ""
    whole = [f"{problem.prefix}{text}{more}{problem.suffix}" for more in {"", body}]
    breaks = all(count_errors(one) > 0 or not compiles(one) for one in whole)
    exact = text == problem.solution
    cost = found.nfe, found.elapsed_ms
    return Turn(problem.id, problem.cluster, file, way, bool(text), breaks, exact, *cost)


def figures(turns: Sequence[Turn]) -> dict[str, Any]:
    """Shares with their intervals by files drawn anew, and what the look costs."""
    return {
        "cursors": len(turns) // (len(FILES) * len(WAYS)),
        "files": {file: of_file([turn for turn in turns if turn.file == file]) for file in FILES},
        "turns": [asdict(turn) for turn in turns],
    }


def of_file(turns: Sequence[Turn]) -> dict[str, Any]:
    """Both ways in files of one kind, and how their times compare."""
    of = {way: [turn for turn in turns if turn.way == way] for way in WAYS}
    checked, free = of.values()
    logs = [math.log(a.elapsed_ms / b.elapsed_ms) for a, b in zip(checked, free, strict=True)]
    interval = bootstrap(logs, [turn.cluster for turn in checked])
    sums = [sum(turn.elapsed_ms for turn in some) for some in (checked, free)]
    return {
        "ways": {way: of_way(some) for way, some in of.items()},
        "times": {
            "of_sums": sums[0] / sums[1],
            "geometric_mean": math.exp(statistics.fmean(logs)),
            "interval": interval and [math.exp(edge) for edge in interval],
        },
    }


def of_way(turns: Sequence[Turn]) -> dict[str, Any]:
    """How often something was offered, was right, and broke its file."""
    offered = [turn for turn in turns if turn.offered]
    times = [turn.elapsed_ms for turn in turns]
    return {
        "offered": ratio([turn.offered for turn in turns], [turn.cluster for turn in turns]),
        "exact": ratio([turn.exact for turn in turns], [turn.cluster for turn in turns]),
        "breaks": ratio([turn.breaks for turn in offered], [turn.cluster for turn in offered]),
        "nfe": statistics.fmean(turn.nfe for turn in turns),
        "p50_ms": percentile(times, 0.5),
        "p95_ms": percentile(times, 0.95),
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """The figures as a person reads them."""
    heads = ["offered", "exact", "breaks, of the offered"]
    head = [*(word for name in heads for word in (name, "95 %")), "nfe", "p50 ms", "p95 ms"]
    printed = [f"{found['cursors']} line ends in held-out files that compile"]
    for file, of in found["files"].items():
        table = [[file, *head]]
        for way, part in of["ways"].items():
            row = [way, *cells(part["offered"]), *cells(part["exact"]), *cells(part["breaks"])]
            table.append([*row, *(f"{part[name]:.1f}" for name in ("nfe", "p50_ms", "p95_ms"))])
        times = of["times"]
        edges = times["interval"]
        spread = f" ({edges[0]:.3f} – {edges[1]:.3f})" if edges else ""
        printed += [
            columns(table),
            f"time with the look by time without: {times['of_sums']:.3f} in all, "
            f"{times['geometric_mean']:.3f}{spread} by cursor",
        ]
    return printed


if __name__ == "__main__":
    sys.exit(main())

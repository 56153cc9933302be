"""Measure what the syntax check gains and costs, by filling held-out holes with and without it.

`python -m benchmarks.syntax` fills rests of lines, whole lines and function bodies in real files
both ways, in alternating order and with contexts in the KV cache, as while typing; then once more
with an unfinished statement elsewhere in the file. Each middle is put into its file without that
statement, and the whole file is parsed and compiled from scratch, independently of the decoder's
own judge, which parses incrementally and compiles only nearby code. Lines and bodies must be
complete, as when written into a file; at the rest of a line, a block's body may still follow.
"""

from __future__ import annotations

import ast
import json
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.syntax.functions import function_at
from talaria.coder.syntax.lexical import lines_of
from talaria.coder.syntax.python import compiles
from talaria.coder.syntax.tree import count_errors
from talaria.evals.cursors import drawn_suite
from talaria.evals.intervals import percentile
from talaria.evals.progress import progress
from talaria.evals.suites import Problem
from talaria.evals.tables import cells, columns, ratio
from talaria.evals.timing import ratio_of_times

if TYPE_CHECKING:
    from talaria.coder.results import Infill

WAYS = {"checked": True, "as it comes": False}
FILES = ("sound", "broken elsewhere")
UNFINISHED = ("def f(", "class A", "if x", "x = = 1", "x = f(", "x = [", 'x = "', "import", "x.")


@dataclass(frozen=True)
class SyntaxRun:
    """A cursor filled one way.

    file     one of FILES: whether the file has an unfinished statement elsewhere
    way      one of WAYS
    breaks   whether the file (without that statement) no longer parses or compiles
    """

    place: str
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
    parser = Parser(description="Measure what the syntax check gains and costs.")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="FOLDER")
    parser.add_argument("--at", nargs="+", choices=PLACES, default=list(PLACES), metavar="PLACE")
    parser.add_argument(
        "--cursors", type=int, default=2000, metavar="N", help="for all places together"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the cursors")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    args = parser.parse_args(argv)
    if args.cursors < len(args.at):
        raise UsageError(
            f"--cursors is {args.cursors}; it must be at least {len(args.at)}, one for each place"
        )
    problems = drawn_suite("line-end", args.corpus, args.cursors, args.seed).problems
    runs = [
        run
        for number, place in enumerate(args.at)
        for run in measure(place, problems[number :: len(args.at)], args.model)
    ]
    found = figures(runs)
    print(json.dumps(found) if args.json else "\n".join(lines(found)))
    return 0


def whole_line(problem: Problem) -> Problem:
    """Widen a hole to its whole line except the indentation."""
    line = problem.prefix[problem.prefix.rfind("\n") + 1 :].lstrip()
    start = len(problem.prefix) - len(line)
    return replace(problem, prefix=problem.prefix[:start], solution=line + problem.solution)


def function(problem: Problem) -> Problem | None:
    """Widen a hole to the body of the function around it; None if there is none."""
    text = problem.prefix + problem.solution + problem.suffix
    body = function_at(text, len(problem.prefix))
    if body is None or body.lead:
        return None
    before, after = text[: body.start], text[body.end :]
    return replace(problem, prefix=before, suffix=after, solution=text[body.start : body.end])


# For each kind of place: how to widen the rest of a line, and the decoder's options.
PLACES: dict[str, tuple[Callable[[Problem], Problem | None], dict[str, Any]]] = {
    "line-end": (lambda problem: problem, {"max_tokens": 32}),
    "line": (whole_line, {"max_tokens": 32, "complete": True}),
    "function": (function, {"max_tokens": 128, "until": "block", "complete": True}),
}


def measure(place: str, problems: Sequence[Problem], model: str | None) -> list[SyntaxRun]:
    """Fill every cursor in files that compile both ways, in alternating order."""
    from talaria.coder import checkpoint
    from talaria.coder.infill import Memory, fill
    from talaria.coder.request import Options, Request

    loaded = checkpoint.load(model)
    runs = []
    widen, given = PLACES[place]
    holes = [hole for hole in map(widen, problems) if hole]
    sound = [p for p in holes if compiles(p.prefix + p.solution + p.suffix)]
    bar = progress(len(sound), place)
    for number, problem in enumerate(sound):
        sides = (problem.prefix, problem.suffix), broken_elsewhere(problem)
        for file, (prefix, suffix) in zip(FILES, sides, strict=True):
            for way in list(WAYS)[:: 1 if number % 2 else -1]:
                options = Options(**given, check_syntax=WAYS[way])
                memory = Memory(loaded)
                fill(loaded, Request(prefix[:-1], suffix, options), memory=memory)
                found = fill(loaded, Request(prefix, suffix, options), memory=memory)
                runs.append(run_of(place, problem, file, way, found, not options.complete))
        bar.update()
    bar.close()
    return runs


def broken_elsewhere(problem: Problem) -> tuple[str, str]:
    """Return prefix and suffix with an unfinished line inserted before some other statement."""
    chance = random.Random(problem.id)
    text = problem.prefix + problem.solution + problem.suffix
    lines = lines_of(text)
    first = problem.prefix.count("\n")
    hole = range(first, first + problem.solution.count("\n") + 1)
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    rows = [node.lineno - 1 for node in statements if node.lineno - 1 not in hole]
    row = chance.choice(rows or [0])
    line = lines[row]
    added = line[: len(line) - len(line.lstrip())] + chance.choice(UNFINISHED) + "\n"
    start = len("".join(lines[:row]))
    if start <= len(problem.prefix):
        return problem.prefix[:start] + added + problem.prefix[start:], problem.suffix
    start -= len(problem.prefix) + len(problem.solution)
    return problem.prefix, problem.suffix[:start] + added + problem.suffix[start:]


def run_of(
    place: str, problem: Problem, file: str, way: str, found: Infill, may_open: bool
) -> SyntaxRun:
    """Judge a filled hole; `may_open`: it may end with the head of a block, its body to follow."""
    text = found.best.text
    body = " pass" if may_open and text.rstrip().endswith(":") else ""
    whole = [f"{problem.prefix}{text}{more}{problem.suffix}" for more in {"", body}]
    breaks = all(count_errors(one) > 0 or not compiles(one) for one in whole)
    exact = text == problem.solution
    cost = found.nfe, found.elapsed_ms
    return SyntaxRun(
        place, problem.id, problem.cluster, file, way, bool(text), breaks, exact, *cost
    )


def figures(runs: Sequence[SyntaxRun]) -> dict[str, Any]:
    """Compute shares with intervals by files, and what the check costs in time."""
    places = {}
    for place in dict.fromkeys(run.place for run in runs):
        some = [run for run in runs if run.place == place]
        files = {file: file_figures([run for run in some if run.file == file]) for file in FILES}
        places[place] = {"cursors": len(some) // (len(FILES) * len(WAYS)), "files": files}
    return {"places": places, "turns": [asdict(run) for run in runs]}


def file_figures(runs: Sequence[SyntaxRun]) -> dict[str, Any]:
    """Compute the figures of both ways in files of one kind, and the ratio of their times."""
    by_way = {way: [run for run in runs if run.way == way] for way in WAYS}
    checked, unchecked = by_way.values()
    times = ratio_of_times(
        [run.elapsed_ms for run in checked],
        [run.elapsed_ms for run in unchecked],
        [run.cluster for run in checked],
    )
    sums = [sum(run.elapsed_ms for run in some) for some in (checked, unchecked)]
    return {
        "ways": {way: way_figures(some) for way, some in by_way.items()},
        "times": {
            "of_sums": sums[0] / sums[1],
            "geometric_mean": times["ratio"],
            "interval": times["interval"],
        },
    }


def way_figures(runs: Sequence[SyntaxRun]) -> dict[str, Any]:
    """Compute how often something was offered, was exact, and broke its file."""
    offered = [run for run in runs if run.offered]
    times = [run.elapsed_ms for run in runs]
    return {
        "offered": ratio([run.offered for run in runs], [run.cluster for run in runs]),
        "exact": ratio([run.exact for run in runs], [run.cluster for run in runs]),
        "breaks": ratio([run.breaks for run in offered], [run.cluster for run in offered]),
        "nfe": statistics.fmean(run.nfe for run in runs),
        "p50_ms": percentile(times, 0.5),
        "p95_ms": percentile(times, 0.95),
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """Format the figures for the terminal."""
    heads = ["offered", "exact", "breaks, of the offered"]
    head = [*(word for name in heads for word in (name, "95 %")), "nfe", "p50 ms", "p95 ms"]
    printed = []
    named = [
        (f"{place}, {file}", part["cursors"], of)
        for place, part in found["places"].items()
        for file, of in part["files"].items()
    ]
    for name, cursors, of in named:
        table = [[f"{name} ({cursors})", *head]]
        for way, part in of["ways"].items():
            row = [way, *cells(part["offered"]), *cells(part["exact"]), *cells(part["breaks"])]
            table.append([*row, *(f"{part[name]:.1f}" for name in ("nfe", "p50_ms", "p95_ms"))])
        times = of["times"]
        edges = times["interval"]
        spread = f" ({edges[0]:.3f} – {edges[1]:.3f})" if edges else ""
        printed += [
            columns(table),
            f"time with the check / without: {times['of_sums']:.3f} overall, "
            f"{times['geometric_mean']:.3f}{spread} by cursor",
        ]
    return printed


if __name__ == "__main__":
    sys.exit(guarded("syntax", main))

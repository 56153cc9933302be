"""What the look at syntax gives and costs: held-out lines filled with and without it.

`python -m benchmarks.syntax` fills the rests of lines in real files, whole lines and the
bodies of functions, each twice, in turns, with what was read before remembered, as while
typing; then all once more with an unfinished statement elsewhere in the file. What is
offered is put into its file, that statement left out, and the whole file is parsed and
compiled anew: not by the judge that the decoder asks, which parses incrementally and
compiles only what is near. Lines and bodies must be complete, as what is written into a
file; at the rest of a line, a block may have its body still to come.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.syntax.functions import function_at
from talaria.coder.syntax.judge import compiles
from talaria.coder.syntax.tree import count_errors
from talaria.evals.cursors import line_end
from talaria.evals.intervals import bootstrap, percentile
from talaria.evals.progress import progress
from talaria.evals.suites import Problem
from talaria.evals.tables import cells, columns, ratio

if TYPE_CHECKING:
    from talaria.coder.infill import Infill

WAYS = {"checked": True, "as it comes": False}
FILES = ("sound", "broken elsewhere")
UNFINISHED = ("def f(", "class A", "if x", "x = = 1", "x = f(", "x = [", 'x = "', "import", "x.")


@dataclass(frozen=True)
class SyntaxRun:
    """A cursor filled in one way; `breaks` if the file with it no longer compiles or parses.

    A file that is broken elsewhere is asked about without what is unfinished there.
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
    parser = argparse.ArgumentParser(description="What the look at syntax gives and costs.")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="FOLDER")
    parser.add_argument("--at", nargs="+", choices=PLACES, default=list(PLACES), metavar="PLACE")
    parser.add_argument("--cursors", type=int, default=2000, metavar="N", help="for all places")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the cursors")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--json", action="store_true", help="all figures, for programs")
    args = parser.parse_args(argv)
    if args.cursors < len(args.at):
        raise UsageError(
            f"--cursors is {args.cursors}; it must be at least {len(args.at)}, one for each place"
        )
    problems = line_end(args.corpus, args.cursors, args.seed).problems
    turns = [
        turn
        for number, place in enumerate(args.at)
        for turn in measure(place, problems[number :: len(args.at)], args.model)
    ]
    found = figures(turns)
    print(json.dumps(found) if args.json else "\n".join(lines(found)))
    return 0


def whole_line(problem: Problem) -> Problem:
    """A hole for all of a line but its indentation."""
    line = problem.prefix[problem.prefix.rfind("\n") + 1 :].lstrip()
    start = len(problem.prefix) - len(line)
    return replace(problem, prefix=problem.prefix[:start], solution=line + problem.solution)


def function(problem: Problem) -> Problem | None:
    """A hole for the body of the function around a cursor, if there is one."""
    text = problem.prefix + problem.solution + problem.suffix
    body = function_at(text, len(problem.prefix))
    if body is None or body.lead:
        return None
    before, after = text[: body.start], text[body.end :]
    return replace(problem, prefix=before, suffix=after, solution=text[body.start : body.end])


# What is cut out around the rest of a line, and how it is asked for.
PLACES: dict[str, tuple[Callable[[Problem], Problem | None], dict[str, Any]]] = {
    "line-end": (lambda problem: problem, {"max_tokens": 32}),
    "line": (whole_line, {"max_tokens": 32, "complete": True}),
    "function": (function, {"max_tokens": 128, "until": "block", "complete": True}),
}


def measure(place: str, problems: Sequence[Problem], model: str | None) -> list[SyntaxRun]:
    """Every cursor of a file that compiles, filled in both ways, neither always first."""
    from talaria.coder import checkpoint
    from talaria.coder.infill import Memory, Options, infill

    loaded = checkpoint.load(model)
    turns = []
    cut, given = PLACES[place]
    holes = [hole for hole in map(cut, problems) if hole]
    sound = [p for p in holes if compiles(p.prefix + p.solution + p.suffix)]
    bar = progress(len(sound), place)
    for number, problem in enumerate(sound):
        sides = (problem.prefix, problem.suffix), broken_elsewhere(problem)
        for file, (prefix, suffix) in zip(FILES, sides, strict=True):
            for way in list(WAYS)[:: 1 if number % 2 else -1]:
                options = Options(**given, check_syntax=WAYS[way])
                memory = Memory(loaded.denoiser)
                infill(loaded, prefix[:-1], suffix, options, memory=memory)
                found = infill(loaded, prefix, suffix, options, memory=memory)
                body = not options.complete
                turns.append(turn_of(place, problem, file, way, found, body))
        bar.update()
    bar.close()
    return turns


def broken_elsewhere(problem: Problem) -> tuple[str, str]:
    """What is before and behind the hole, with an unfinished line before some statement."""
    chance = random.Random(problem.id)
    text = problem.prefix + problem.solution + problem.suffix
    lines = text.splitlines(keepends=True)
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


def turn_of(
    place: str, problem: Problem, file: str, way: str, found: Infill, to_come: bool
) -> SyntaxRun:
    """What came of it; the body of a block that is opened at the end may be `to_come`."""
    text = found.best.text
    body = " pass" if to_come and text.rstrip().endswith(":") else ""
    whole = [f"{problem.prefix}{text}{more}{problem.suffix}" for more in {"", body}]
    breaks = all(count_errors(one) > 0 or not compiles(one) for one in whole)
    exact = text == problem.solution
    cost = found.nfe, found.elapsed_ms
    return SyntaxRun(
        place, problem.id, problem.cluster, file, way, bool(text), breaks, exact, *cost
    )


def figures(turns: Sequence[SyntaxRun]) -> dict[str, Any]:
    """Shares with their intervals by files drawn anew, and what the look costs."""
    places = {}
    for place in dict.fromkeys(turn.place for turn in turns):
        some = [turn for turn in turns if turn.place == place]
        files = {file: of_file([turn for turn in some if turn.file == file]) for file in FILES}
        places[place] = {"cursors": len(some) // (len(FILES) * len(WAYS)), "files": files}
    return {"places": places, "turns": [asdict(turn) for turn in turns]}


def of_file(turns: Sequence[SyntaxRun]) -> dict[str, Any]:
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


def of_way(turns: Sequence[SyntaxRun]) -> dict[str, Any]:
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
            f"time with the look by time without: {times['of_sums']:.3f} in all, "
            f"{times['geometric_mean']:.3f}{spread} by cursor",
        ]
    return printed


if __name__ == "__main__":
    sys.exit(guarded("syntax", main))

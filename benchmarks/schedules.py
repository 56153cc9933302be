"""`python -m benchmarks.schedules`: the open families' rules and ours, on the adapted model.

LLaDA's fixed steps, Dream's and DreamOn's order by entropy and Fast-dLLM's threshold decide which
masks of a canvas become tokens in which step (`coder/schedule.py`). Everything else is ours: the
weights, canvas after canvas of the length that they were trained on, the end mark, token healing
and the syntax. Only ours has the chain, which chooses the tokens of a step to fit each other.

Every rule fills every hole, in a random order per hole, behind a context that was read before.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.peers import KINDS, cell, mean, prompts, ratio
from benchmarks.rules import CANDIDATES, entropy_of
from talaria.coder import checkpoint
from talaria.coder.arguments import Parser
from talaria.coder.backbone import Candidates
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.infill import Memory, fill
from talaria.coder.request import Options, Request
from talaria.coder.schedule import Schedule, Spread
from talaria.evals.generate import Sampling, header
from talaria.evals.jsonl import Results
from talaria.evals.progress import progress
from talaria.evals.suites import Problem, Suite
from talaria.evals.tables import columns

OURS = "ours, threshold 0.7"
OPTIONS = Options(mode="diffuse", until="line")


def rules(block: int) -> dict[str, Schedule | None]:
    """All rules by name, for canvases of this length; None is ours."""
    found: dict[str, Schedule | None] = {OURS: None}
    for steps in (block, block // 2, block // 4):
        found[f"LLaDA, {steps} steps"] = Schedule("even", steps=steps)
        found[f"Dream, entropy, {steps} steps"] = Schedule("time", "entropy", steps=steps)
    found["DreamOn, entropy, one a step"] = Schedule("single", "entropy")
    for threshold in (0.9, 0.7):
        found[f"Fast-dLLM, threshold {threshold}"] = Schedule("single", threshold=threshold)
    return found


@dataclass(frozen=True)
class Filled:
    """A hole filled by a rule: whether the text is the true one, what it took, and the text."""

    kind: str
    hole: str
    cluster: str
    rule: str
    exact: float
    steps: int
    ms: float
    text: str


def ask(
    model: Checkpoint,
    kind: str,
    hole: Problem,
    rule: str,
    schedule: Schedule | None,
    memory: Memory,
) -> Filled:
    """Fill a hole, its context from the memory."""
    chosen = replace(model, schedule=schedule)
    request = Request(hole.prefix, hole.suffix, OPTIONS)
    with entropies(model, schedule is not None and schedule.order == "entropy"):
        began = time.perf_counter()
        found = fill(chosen, request, memory=memory)
        ms = 1000 * (time.perf_counter() - began)
    exact = float(found.best.text == hole.solution)
    return Filled(kind, hole.id, hole.cluster, rule, exact, found.nfe, ms, found.best.text)


@contextmanager
def entropies(model: Checkpoint, wanted: bool) -> Iterator[None]:
    """Let a backbone tell entropies: a lower bound, from the likeliest tokens of each position."""
    if not wanted:
        yield
        return
    inner = model.backbone.candidates

    def spread(states: Any, k: int, *rest: Any) -> Candidates:
        found = inner(states, max(k, CANDIDATES), *rest)
        return Spread(found.ids, found.log_probabilities, entropy_of(found))

    vars(model.backbone)["candidates"] = spread
    try:
        yield
    finally:
        del vars(model.backbone)["candidates"]


def table(runs: Sequence[Filled], kind: str, names: Sequence[str]) -> str:
    """Exactness, steps and times of each rule, and against ours on the same holes."""
    by_name = {
        name: sorted((r for r in runs if (r.kind, r.rule) == (kind, name)), key=lambda r: r.hole)
        for name in names
    }
    ours = by_name[OURS]
    clusters = [run.cluster for run in ours]
    rows = [["", "exact, %", "minus ours", "steps", "ms", "times ours"]]
    for name, own in by_name.items():
        pairs = list(zip(own, ours, strict=True))
        rows.append(
            [
                name,
                cell(mean([run.exact for run in own], clusters), 1, 100),
                cell(mean([one.exact - other.exact for one, other in pairs], clusters), 1, 100),
                cell(mean([run.steps for run in own], clusters), 1),
                cell(mean([run.ms for run in own], clusters), 0),
                cell(ratio([one.ms / other.ms for one, other in pairs], clusters), 2),
            ]
        )
    return f"{kind}: {len(ours)} holes in {len(set(clusters))} files\n\n{columns(rows)}"


def main(argv: list[str]) -> int:
    """Fill every hole by every rule and print the tables; exit code 0."""
    parser = Parser(
        prog="python -m benchmarks.schedules",
        description="Compare the open families' rules with ours, on our weights.",
    )
    parser.add_argument("--corpus", type=Path, required=True, help="made by talaria corpus")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--prompts", type=int, default=20, metavar="N", help="per kind")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--minutes", type=float, default=60, metavar="M", help="stop then")
    parser.add_argument(
        "--rows", type=Path, metavar="OUT.jsonl", help="keep rows here, go on there"
    )
    args = parser.parse_args(argv)
    if args.prompts < 1:
        raise UsageError(f"--prompts is {args.prompts}; it must be at least 1")
    holes = prompts(args.corpus, args.prompts, args.seed)
    model = checkpoint.load(args.model)
    named = rules(model.settings.block_length)
    with tempfile.TemporaryDirectory() as passing:
        path = args.rows or Path(passing) / "rows.jsonl"
        results = Results(path, header_of(model, holes, named))
        try:
            measure(model, holes, named, results, args.seed, 60 * args.minutes)
        finally:
            results.close()
    runs, machine = whole_holes(results.rows, len(named)), results.header["environment"]["machine"]
    commit = results.header["made_by"][0]["commit"] or "unknown"  # of who began the rows
    print(f"{model.name} {model.weights_hash[:12]}, commit {commit}, {machine}")
    for kind in KINDS:
        if any(run.kind == kind for run in runs):
            print("", table(runs, kind, list(named)), sep="\n")
    return 0


def header_of(
    model: Checkpoint, holes: Sequence[tuple[str, Problem]], named: Mapping[str, Schedule | None]
) -> dict[str, Any]:
    """Describe a run; rows of another model, other code, holes, options or rules do not mix."""
    suite = Suite("schedules", [hole for _, hole in holes], {}, "files")
    return {
        **header(suite, model, Sampling(OPTIONS), model.backbone.device),
        "stage": "results",
        "expected": len(holes) * len(named),
        "rules": {name: schedule and asdict(schedule) for name, schedule in named.items()},
    }


def measure(
    model: Checkpoint,
    holes: Sequence[tuple[str, Problem]],
    named: Mapping[str, Schedule | None],
    results: Results,
    seed: int,
    seconds: float,
) -> None:
    """Fill every hole by every rule, but for rows that are there; begin none after this time."""
    rng, memory = random.Random(seed), Memory(model)
    kept = {row["id"] for row in results.rows}
    until = time.monotonic() + seconds
    bar = progress(len(holes), "hole")
    for kind, hole in holes:
        # A new order each time, so that none always comes first or follows the same other.
        order = rng.sample(list(named.items()), len(named))
        bar.update()
        rest = [(name, schedule) for name, schedule in order if f"{hole.id}@{name}" not in kept]
        if not rest or time.monotonic() > until:
            continue
        ask(model, kind, hole, OURS, None, memory)  # reads the context
        for name, schedule in rest:
            found = asdict(ask(model, kind, hole, name, schedule, memory))
            results.append({"id": f"{hole.id}@{name}", "sample": 0, **found})
    bar.close()


def whole_holes(rows: Sequence[Mapping[str, Any]], number: int) -> list[Filled]:
    """The holes that so many rules have filled: all, so that they can be compared."""
    counts = Counter(row["hole"] for row in rows)
    names = [each.name for each in fields(Filled)]
    return [
        Filled(**{name: row[name] for name in names})
        for row in rows
        if counts[row["hole"]] == number
    ]


if __name__ == "__main__":
    sys.exit(guarded("schedules", lambda: main(sys.argv[1:])))

"""Choose a model's decoding settings by a grid search on held-out holes.

`python -m benchmarks.decoding --out FOLDER` fills rests of lines and whole lines of held-out
packages, on other lines than the suite `line-end` uses, with every combination of threshold,
lookahead and budget. Each hole starts with a different combination, and contexts stay in the KV
cache, as while typing. It chooses the fastest setting whose loss of exactness against the most
exact one is at most LOSS by the upper end of the 95 % interval; with few holes the intervals are
wide and the choice is slow. `--store` writes the choice into the model's `config.json`.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.syntax import whole_line
from talaria.coder import checkpoint, files
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.infill import Memory, fill
from talaria.coder.request import Options, Request
from talaria.evals.cursors import drawn_suite
from talaria.evals.intervals import Interval, bootstrap, percentile, wilson
from talaria.evals.jsonl import environment, made_by, without_folders
from talaria.evals.progress import progress
from talaria.evals.suites import Problem
from talaria.evals.tables import columns, ratio
from talaria.finetune.corpus import corpus_hash

MEASURED = 2000, 0  # number and seed of the cursors on which models are evaluated
KINDS = ("rests of lines", "whole lines")
LOSS = 0.01  # of the share of exact middles that speed may cost


@dataclass(frozen=True)
class GridPoint:
    """A combination of the settings that are searched; UsageError if one is out of range."""

    confidence_threshold: float
    lookahead: int
    max_nfe: int

    def __post_init__(self) -> None:
        self.options()

    def options(self) -> Options:
        """Return them as options of a request."""
        return Options(**asdict(self))


@dataclass(frozen=True)
class SettingRun:
    """A hole filled with one setting."""

    kind: str
    cursor: str
    cluster: str
    setting: GridPoint
    exact: bool
    nfe: int
    elapsed_ms: float
    tokens: int


@dataclass(frozen=True)
class SettingOutcome:
    """The figures of a setting over holes of both kinds.

    exact          share of exact middles of each kind, with its interval
    lost           mean loss of exactness against the most exact setting
    lost_interval  its interval; None for that setting itself, and where every resample of files
                   gives the same
    """

    setting: GridPoint
    exact: Mapping[str, Mapping[str, Any]]
    lost: float
    lost_interval: Interval | None
    nfe: float
    tokens_per_forward: float
    mean_ms: float
    p95_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and write `decoding.json`; exit code 0."""
    parser = Parser(description="Choose a model's decoding settings.")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="FOLDER")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--cursors", type=int, default=800, metavar="N", help="half of each kind")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the cursors")
    parser.add_argument(
        "--thresholds", type=float, nargs="+", default=[0.3, 0.5, 0.7, 0.9], metavar="P"
    )
    parser.add_argument("--lookaheads", type=int, nargs="+", default=[4, 8, 16], metavar="N")
    parser.add_argument("--budgets", type=int, nargs="+", default=[128], metavar="NFE")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--store", action="store_true", help="make the choice the model's own")
    words = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(words)
    if args.cursors < len(KINDS) or args.seed == MEASURED[1]:
        raise UsageError(
            f"--cursors is {args.cursors} and --seed {args.seed}; give at least {len(KINDS)} "
            f"cursors, one for each kind, and another seed than {MEASURED[1]}, which is used to "
            "evaluate models"
        )
    grid = [GridPoint(*one) for one in product(args.thresholds, args.lookaheads, args.budgets)]
    model = checkpoint.load(args.model)
    runs = measure(model, holes(args.corpus, args.cursors, args.seed), grid)
    outcomes = compare_settings(runs)
    best = choice(outcomes)
    print(columns(table(outcomes, best)))
    print(
        f"chosen: the fastest that loses at most {100 * LOSS:.1f} points against the most exact "
        "setting, by the upper end of the 95 % interval"
    )
    found = {
        "model": {"name": model.name, "weights": model.weights_hash},
        "environment": environment(),
        "command": shlex.join(["python", "-m", "benchmarks.decoding", *without_folders(words)]),
        "commit": made_by()["commit"],
        "corpus": corpus_hash(args.corpus),
        "cursors": args.cursors,
        "seed": args.seed,
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "chosen": asdict(best),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    files.write(args.out / "decoding.json", json.dumps(found, indent=1) + "\n")
    if args.store:
        settings = replace(model.settings, **asdict(best))
        checkpoint.store_settings(checkpoint.find(args.model), settings)
    return 0


def holes(corpus: Path, cursors: int, seed: int) -> list[tuple[str, Problem]]:
    """Draw holes, the two kinds in turn, on lines on which no model is evaluated."""
    measured = {line_of(problem) for problem in drawn_suite("line-end", corpus, *MEASURED).problems}
    drawn = drawn_suite("line-end", corpus, cursors + MEASURED[0], seed).problems
    others = [problem for problem in drawn if line_of(problem) not in measured][:cursors]
    return [
        (KINDS[number % 2], whole_line(problem) if number % 2 else problem)
        for number, problem in enumerate(others)
    ]


def line_of(problem: Problem) -> str:
    """Return the file and line of a cursor, without its column."""
    return problem.id.rpartition(":")[0]


def measure(
    model: checkpoint.Checkpoint, prompts: Sequence[tuple[str, Problem]], grid: Sequence[GridPoint]
) -> list[SettingRun]:
    """Fill every hole with every setting, in rotating order."""
    runs = []
    bar = progress(len(prompts) * len(grid), "request")
    for number, (kind, problem) in enumerate(prompts):
        memory = Memory(model)
        start = number // len(KINDS) % len(grid)
        before = Request(problem.prefix[:-1], problem.suffix, Options(max_nfe=1))
        fill(model, before, memory=memory)
        for setting in (*grid[start:], *grid[:start]):
            request = Request(problem.prefix, problem.suffix, setting.options())
            found = fill(model, request, memory=memory)
            exact = found.best.text == problem.solution
            cost = found.nfe, found.elapsed_ms, found.best.committed
            runs.append(SettingRun(kind, problem.id, problem.cluster, setting, exact, *cost))
            bar.update()
    bar.close()
    return runs


def compare_settings(runs: Sequence[SettingRun]) -> list[SettingOutcome]:
    """Compare every setting to the most exact one, hole by hole; ties go to the first."""
    settings = list(dict.fromkeys(run.setting for run in runs))
    by_setting = {
        setting: sorted(
            (run for run in runs if run.setting == setting),
            key=lambda run: (run.kind, run.cursor),
        )
        for setting in settings
    }
    best = max(settings, key=lambda setting: sum(run.exact for run in by_setting[setting]))
    outcomes = []
    for setting, some in by_setting.items():
        lost = [
            float(one.exact) - float(other.exact)
            for one, other in zip(by_setting[best], some, strict=True)
        ]
        times = [run.elapsed_ms for run in some]
        kinds = {kind: [run for run in some if run.kind == kind] for kind in KINDS}
        outcomes.append(
            SettingOutcome(
                setting,
                {
                    kind: ratio([run.exact for run in part], [run.cluster for run in part])
                    for kind, part in kinds.items()
                },
                statistics.fmean(lost),
                None if setting == best else loss_interval(lost, [run.cluster for run in some]),
                statistics.fmean(run.nfe for run in some),
                sum(run.tokens for run in some) / sum(run.nfe for run in some),
                statistics.fmean(times),
                percentile(times, 0.95),
            )
        )
    return outcomes


def loss_interval(lost: Sequence[float], clusters: Sequence[str]) -> Interval | None:
    """Return the 95 % interval of a loss; if no hole differs, Wilson's for the number of holes."""
    if any(lost):
        return bootstrap(lost, clusters)
    most = wilson(0, len(lost))[1]
    return -most, most


def choice(outcomes: Sequence[SettingOutcome]) -> GridPoint:
    """Choose the fastest of the most exact setting and those that lose at most LOSS against it.

    A setting qualifies by the upper end of its interval.
    """
    best = min(outcomes, key=lambda outcome: outcome.lost)
    qualified = [o for o in outcomes if o.lost_interval and o.lost_interval[1] <= LOSS]
    return min((best, *qualified), key=lambda outcome: outcome.mean_ms).setting


def table(outcomes: Sequence[SettingOutcome], best: GridPoint) -> list[list[str]]:
    """Lay out one row per setting, the fastest first, the chosen one marked."""
    rows = [
        [
            *("threshold", "lookahead", "budget", *KINDS, "points below the best"),
            *("nfe", "tokens per forward", "ms", "p95", ""),
        ]
    ]
    for outcome in sorted(outcomes, key=lambda outcome: outcome.mean_ms):
        edges = outcome.lost_interval
        interval = f" ({100 * edges[0]:.1f} – {100 * edges[1]:.1f})" if edges else ""
        rows.append(
            [
                *map(str, asdict(outcome.setting).values()),
                *(f"{outcome.exact[kind]['share']:.1%}" for kind in KINDS),
                f"{100 * outcome.lost:.1f}{interval}",
                f"{outcome.nfe:.1f}",
                f"{outcome.tokens_per_forward:.2f}",
                f"{outcome.mean_ms:.1f}",
                f"{outcome.p95_ms:.0f}",
                "chosen" if outcome.setting == best else "",
            ]
        )
    return rows


if __name__ == "__main__":
    sys.exit(guarded("decoding", main))

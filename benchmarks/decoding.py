"""Which decoding settings a model should have: held-out holes filled by each of a grid.

`python -m benchmarks.decoding --out FOLDER` fills rests of lines and whole lines of held-out
packages, on other lines than the suite `line-end` has, by every combination of threshold,
lookahead and budget, each hole beginning with another one, with what was read before
remembered, as while typing. Of all settings, the fastest is chosen that surely loses little
against the most exact one: at most LOSS, by the upper end of the 95 % interval. With few
holes little is sure, and a slow setting is chosen. `--store` writes the choice into the
model's `config.json`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.syntax import whole_line
from talaria.coder import checkpoint
from talaria.coder.checkpoint import Decoding
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.infill import Memory, Options, infill
from talaria.evals.cursors import line_end
from talaria.evals.intervals import Interval, bootstrap, percentile, wilson
from talaria.evals.jsonl import environment, made_by, without_folders
from talaria.evals.progress import progress
from talaria.evals.suites import Problem
from talaria.evals.tables import columns, ratio
from talaria.finetune.corpus import corpus_hash

MEASURED = 2000, 0  # cursors of the suite by which models are told apart, and their seed
KINDS = ("rests of lines", "whole lines")
LOSS = 0.01  # of the share of exact middles, what speed may cost at most


@dataclass(frozen=True)
class SettingRun:
    """A hole filled by one setting."""

    kind: str
    cursor: str
    cluster: str
    setting: Decoding
    exact: bool
    nfe: int
    elapsed_ms: float
    tokens: int


@dataclass(frozen=True)
class SettingOutcome:
    """What a setting came to, over holes of both kinds.

    exact  share of each kind, with its interval
    lost   how much less exact it is than the most exact setting: mean over holes, interval;
           None for that setting itself, or where files drawn anew give the same
    """

    setting: Decoding
    exact: Mapping[str, Mapping[str, Any]]
    lost: float
    lost_interval: Interval | None
    nfe: float
    tokens_per_forward: float
    mean_ms: float
    p95_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and write `decoding.json`; exit code 0."""
    parser = argparse.ArgumentParser(description="Which decoding settings a model should have.")
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
    parser.add_argument("--store", action="store_true", help="the choice becomes the model's own")
    words = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(words)
    if args.cursors < len(KINDS) or args.seed == MEASURED[1]:
        raise UsageError(
            f"--cursors is {args.cursors} and --seed {args.seed}; at least {len(KINDS)}, one for "
            f"each kind, and another seed than {MEASURED[1]}, by which models are measured"
        )
    try:
        grid = [Decoding(*one) for one in product(args.thresholds, args.lookaheads, args.budgets)]
    except ValueError as error:
        raise UsageError(str(error)) from error
    model = checkpoint.load(args.model)
    turns = measure(model, holes(args.corpus, args.cursors, args.seed), grid)
    outcomes = compared(turns)
    best = choice(outcomes)
    print(columns(table(outcomes, best)))
    print(
        f"chosen: the fastest that loses at most {100 * LOSS:.1f} points against the most exact "
        "one, by the upper end of the 95 % interval"
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
    (args.out / "decoding.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.store:
        checkpoint.store_decoding(checkpoint.find(args.model), best)
    return 0


def holes(corpus: Path, cursors: int, seed: int) -> list[tuple[str, Problem]]:
    """Holes of both kinds by turns, on lines by which no model is measured."""
    measured = {line_of(problem) for problem in line_end(corpus, *MEASURED).problems}
    drawn = line_end(corpus, cursors + MEASURED[0], seed).problems
    others = [problem for problem in drawn if line_of(problem) not in measured][:cursors]
    return [
        (KINDS[number % 2], whole_line(problem) if number % 2 else problem)
        for number, problem in enumerate(others)
    ]


def line_of(problem: Problem) -> str:
    """The file and line of a cursor, without its column."""
    return problem.id.rpartition(":")[0]


def measure(
    model: checkpoint.Checkpoint, asked: Sequence[tuple[str, Problem]], grid: Sequence[Decoding]
) -> list[SettingRun]:
    """Every hole by every setting; none always comes first."""
    turns = []
    bar = progress(len(asked) * len(grid), "request")
    for number, (kind, problem) in enumerate(asked):
        memory = Memory(model.denoiser)
        start = number // len(KINDS) % len(grid)
        sides = problem.prefix, problem.suffix
        infill(model, problem.prefix[:-1], problem.suffix, Options(max_nfe=1), memory=memory)
        for setting in (*grid[start:], *grid[:start]):
            found = infill(model, *sides, Options(**asdict(setting)), memory=memory)
            exact = found.best.text == problem.solution
            cost = found.nfe, found.elapsed_ms, found.best.committed
            turns.append(SettingRun(kind, problem.id, problem.cluster, setting, exact, *cost))
            bar.update()
    bar.close()
    return turns


def compared(turns: Sequence[SettingRun]) -> list[SettingOutcome]:
    """Every setting beside the most exact one, hole by hole; of equally exact ones the first."""
    settings = list(dict.fromkeys(turn.setting for turn in turns))
    of = {
        setting: sorted(
            (turn for turn in turns if turn.setting == setting),
            key=lambda turn: (turn.kind, turn.cursor),
        )
        for setting in settings
    }
    best = max(settings, key=lambda setting: sum(turn.exact for turn in of[setting]))
    outcomes = []
    for setting, some in of.items():
        lost = [
            float(one.exact) - float(other.exact) for one, other in zip(of[best], some, strict=True)
        ]
        times = [turn.elapsed_ms for turn in some]
        kinds = {kind: [turn for turn in some if turn.kind == kind] for kind in KINDS}
        outcomes.append(
            SettingOutcome(
                setting,
                {
                    kind: ratio([t.exact for t in part], [t.cluster for t in part])
                    for kind, part in kinds.items()
                },
                statistics.fmean(lost),
                None if setting == best else spread(lost, [turn.cluster for turn in some]),
                statistics.fmean(turn.nfe for turn in some),
                sum(turn.tokens for turn in some) / sum(turn.nfe for turn in some),
                statistics.fmean(times),
                percentile(times, 0.95),
            )
        )
    return outcomes


def spread(lost: Sequence[float], clusters: Sequence[str]) -> Interval | None:
    """The 95 % interval of a loss; where no hole differs, by how many of so many might."""
    if any(lost):
        return bootstrap(lost, clusters)
    most = wilson(0, len(lost))[1]
    return -most, most


def choice(outcomes: Sequence[SettingOutcome]) -> Decoding:
    """The fastest of the most exact setting and those that lose at most LOSS against it.

    By the upper end of the interval: what is not sure to lose so little is not taken.
    """
    best = min(outcomes, key=lambda outcome: outcome.lost)
    sure = [o for o in outcomes if o.lost_interval and o.lost_interval[1] <= LOSS]
    return min((best, *sure), key=lambda outcome: outcome.mean_ms).setting


def table(outcomes: Sequence[SettingOutcome], best: Decoding) -> list[list[str]]:
    """A row for each setting, the fastest first, the chosen one marked."""
    rows = [
        [
            *("threshold", "lookahead", "budget", *KINDS, "less than the best"),
            *("nfe", "tokens per forward", "ms", "p95", ""),
        ]
    ]
    for outcome in sorted(outcomes, key=lambda outcome: outcome.mean_ms):
        edges = outcome.lost_interval
        spread = f" ({100 * edges[0]:.1f} – {100 * edges[1]:.1f})" if edges else ""
        rows.append(
            [
                *map(str, asdict(outcome.setting).values()),
                *(f"{outcome.exact[kind]['share']:.1%}" for kind in KINDS),
                f"{100 * outcome.lost:.1f}{spread}",
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

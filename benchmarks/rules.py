"""Commit rules that did not win: `python -m benchmarks.rules` compares them to the threshold.

It fills rests of lines and whole lines of held-out packages with each rule, in rotating order and
with contexts in the KV cache, as while typing, and prints how exact the middles are and what they
cost. `docs/log.md` has the figures that decided for the threshold.

A rule is a function of a `Prediction` that commits at least one open position of each row.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.decoding import KINDS, holes
from talaria.coder import checkpoint
from talaria.coder.arguments import Parser
from talaria.coder.backbone import Array, Candidates
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.infill import Memory, fill
from talaria.coder.request import Options, Request
from talaria.coder.unmask import Prediction, Rule, confidence_threshold
from talaria.evals.progress import progress
from talaria.evals.suites import Problem
from talaria.evals.tables import cells, columns, ratio

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CANDIDATES = 64  # tokens that a rule sees for each position, for entropies


def confidence_factor(factor: float) -> Rule:
    """Commit the n most confident for the largest n with (n + 1)(1 - n-th confidence) < factor.

    Also of Fast-dLLM (arXiv 2505.22618): the more tokens a step commits, the more certain each
    must be, for then they are what greedy decoding of one token at a time gives. 0 commits one
    token a step.
    """

    def rule(prediction: Prediction) -> Bool[Array, "batch block"]:
        rank, confidence = ranked(prediction)
        holds = prediction.open & ((rank + 2) * (1 - confidence) < factor)
        # Whether the condition holds for n depends on the n-th in the order of confidence only.
        count = np.where(holds, rank + 1, 0).max(1, keepdims=True)
        committed: Array = prediction.open & (rank < count)
        return committed | prediction.leftmost

    return rule


def entropy_bound(bound: float) -> Rule:
    """Commit the most confident while their entropies, without the largest, sum to <= `bound`.

    The rule of EB-Sampler (arXiv 2505.24857): this sum, in nats, bounds how far the tokens' joint
    distribution is from the product of their own. 0 commits only what is certain.
    """

    def rule(prediction: Prediction) -> Bool[Array, "batch block"]:
        rank, _ = ranked(prediction)
        order = rank.argsort(1)
        entropy = np.take_along_axis(entropies(prediction), order, 1)
        excess = np.cumsum(entropy, 1) - np.maximum.accumulate(entropy, 1)
        within = np.logical_and.accumulate(excess <= bound, 1)
        committed = np.zeros_like(within)
        np.put_along_axis(committed, order, within, 1)
        found: Array = prediction.open & committed
        return found | prediction.leftmost

    return rule


def top_k(k: int) -> Rule:
    """Commit the k most confident of the evaluated positions, as LLaDA does (arXiv 2502.09992)."""

    def rule(prediction: Prediction) -> Bool[Array, "batch block"]:
        rank, _ = ranked(prediction)
        committed: Array = prediction.open & (rank < k)
        return committed

    return rule


def ranked(
    prediction: Prediction,
) -> tuple[Int[Array, "batch block"], Float[Array, "batch block"]]:
    """Rank each row's positions by confidence, from 0, open ones first; also their confidence."""
    confidence = np.where(prediction.open, prediction.confidence, -1.0)
    order = np.argsort(-confidence, axis=1, kind="stable")
    return order.argsort(1), confidence


def entropies(prediction: Prediction) -> Float[Array, "batch block"]:
    """Approximate the entropy of the prediction at each open position, in nats."""
    found = np.zeros(prediction.open.shape, np.float64)
    for where, candidates in prediction.parts:
        found[where] = entropy_of(candidates)
    return found


def entropy_of(candidates: Candidates) -> Float[Array, " positions"]:
    """Approximate the entropy at each position, in nats, from its likeliest tokens.

    All other tokens count as a single one, so this is a lower bound; it is exact if the candidates
    are the whole vocabulary.
    """
    chances = np.exp(candidates.log_probabilities.astype(np.float64))
    rest = np.maximum(0, 1 - chances.sum(1, keepdims=True))
    every = np.concatenate((chances, rest), axis=1)
    found: Array = -(every * np.log(np.where(every > 0, every, 1))).sum(1)
    return found


# The rules that are compared: the default threshold and a faster one, and two values of each other.
COMPARED: dict[str, Rule] = {
    "threshold 0.7": confidence_threshold(0.7),
    "threshold 0.5": confidence_threshold(0.5),
    "factor 0.5": confidence_factor(0.5),
    "factor 1": confidence_factor(1.0),
    "entropy bound 0.1": entropy_bound(0.1),
    "entropy bound 0.5": entropy_bound(0.5),
    "top 1": top_k(1),
    "top 2": top_k(2),
}


@dataclass(frozen=True)
class RuleRun:
    """A hole filled with one rule."""

    kind: str
    cluster: str
    rule: str
    exact: bool
    nfe: int
    elapsed_ms: float
    committed: int


def main(argv: Sequence[str] | None = None) -> int:
    """Fill holes with every rule and print a table; exit code 0."""
    parser = Parser(prog="python -m benchmarks.rules", description="Compare commit rules.")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="FOLDER")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--cursors", type=int, default=400, metavar="N", help="half of each kind")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the cursors")
    args = parser.parse_args(argv)
    if args.cursors < len(KINDS):
        raise UsageError(
            f"--cursors is {args.cursors}; it must be at least {len(KINDS)}, one for each kind"
        )
    model = checkpoint.load(args.model)
    runs = measure(model, holes(args.corpus, args.cursors, args.seed))
    print(columns(table(runs)))
    return 0


def measure(model: checkpoint.Checkpoint, prompts: Sequence[tuple[str, Problem]]) -> list[RuleRun]:
    """Fill every hole with every rule, in rotating order."""
    runs, names = [], list(COMPARED)
    bar = progress(len(prompts) * len(names), "request")
    for number, (kind, problem) in enumerate(prompts):
        memory = Memory(model)
        before = Request(problem.prefix[:-1], problem.suffix, Options(max_nfe=1))
        fill(model, before, memory=memory)
        request, first = Request(problem.prefix, problem.suffix), number % len(names)
        for name in (*names[first:], *names[:first]):
            found = fill(model, request, memory=memory, rule=COMPARED[name], k=CANDIDATES)
            exact = found.best.text == problem.solution
            cost = found.nfe, found.elapsed_ms, found.best.committed
            runs.append(RuleRun(kind, problem.cluster, name, exact, *cost))
            bar.update()
    bar.close()
    return runs


def table(runs: Sequence[RuleRun]) -> list[list[str]]:
    """Lay out one row per rule, the head first."""
    heads = [head for kind in KINDS for head in (f"{kind}, exact", "95 %")]
    rows = [["", *heads, "nfe", "tokens per forward", "ms"]]
    for name in dict.fromkeys(run.rule for run in runs):
        own = [run for run in runs if run.rule == name]
        shares = []
        for kind in KINDS:
            some = [run for run in own if run.kind == kind]
            shares += cells(ratio([run.exact for run in some], [run.cluster for run in some]))
        evaluations = sum(run.nfe for run in own)
        rows.append(
            [
                name,
                *shares,
                f"{evaluations / len(own):.1f}",
                f"{sum(run.committed for run in own) / evaluations:.2f}",
                f"{statistics.fmean(run.elapsed_ms for run in own):.1f}",
            ]
        )
    return rows


if __name__ == "__main__":
    sys.exit(guarded("rules", main))

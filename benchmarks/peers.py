"""`python -m benchmarks.peers`: compare other diffusion models' decoders with ours on our weights.

LLaDA (arXiv 2502.09992), Fast-dLLM (arXiv 2505.22618) and DreamOn (2025) fill one canvas of fixed
length and cut the text at its first `<eom>`. Their models attend in both directions, so they have
no exact KV cache: each step reads context and canvas again. They have neither our chain nor token
healing. So this compares whole decoders, which share the weights. Every decoder, ours included,
fills every prompt, in a random order per prompt.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.rules import CANDIDATES, entropy_of
from talaria.coder import checkpoint, files
from talaria.coder.arguments import Parser
from talaria.coder.backbone import Array, Candidates
from talaria.coder.canvas import Canvas
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.infill import infill
from talaria.coder.request import Options
from talaria.evals.cursors import drawn_suite
from talaria.evals.intervals import bootstrap
from talaria.evals.jsonl import environment, made_by
from talaria.evals.progress import progress
from talaria.evals.suites import Problem, Suite
from talaria.evals.tables import columns
from talaria.evals.timing import context_room, load_average

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

THRESHOLDS = (0.7, 0.9, 0.5)  # ours; the first is the baseline
THRESHOLD, BLOCK = 0.9, 8  # Fast-dLLM's threshold, and its blocks: 8 of our 32 positions
OURS, UNCHECKED = "ours 0.7", "ours 0.7, syntax unchecked"  # the baselines
KINDS = ("line end", "whole line")

# Chooses the positions a step commits, by the candidates at the open positions of a block and the
# number of the step in that block, from 0.
CommitRule = Callable[[Candidates, int], "Bool[Array, ' open']"]


def scheduled(length: int, steps: int) -> CommitRule:
    """LLaDA's low-confidence remasking: keep the most confident predictions.

    After step k of `steps`, a share k / steps of the canvas is committed.
    """

    def rule(candidates: Candidates, step: int) -> Bool[Array, " open"]:
        kept = length * (step + 1) // steps - length * step // steps
        return highest(candidates.log_probabilities[:, 0], kept)

    return rule


def parallel(threshold: float) -> CommitRule:
    """Fast-dLLM's rule: commit what reaches the threshold, and the likeliest in any case."""

    def rule(candidates: Candidates, _: int) -> Bool[Array, " open"]:
        confidence = np.exp(candidates.log_probabilities[:, 0])
        found: Array = (confidence >= threshold) | highest(confidence, 1)
        return found

    return rule


def least_entropy(candidates: Candidates, _: int) -> Bool[Array, " open"]:
    """DreamOn's rule: one token a step, where the prediction has the least entropy.

    The entropy is approximated from the likeliest tokens.
    """
    return highest(-entropy_of(candidates), 1)


def highest(scores: Float[Array, " open"], number: int) -> Bool[Array, " open"]:
    """Mark the `number` highest scores; ties go to the leftmost."""
    marked: Array = np.argsort(-scores, kind="stable").argsort() < number
    return marked


@dataclass(frozen=True)
class Peer:
    """Another model's decoder.

    block  length of the blocks that it finishes in order
    k      candidates that its rule needs for each position
    """

    rule: CommitRule
    block: int
    k: int = 1


def decoders(length: int) -> dict[str, Peer | Options]:
    """Return all decoders by name, for canvases of this length."""
    found: dict[str, Peer | Options] = {}
    for threshold in THRESHOLDS:
        options = Options(confidence_threshold=threshold)
        found[f"ours {threshold}"] = options
        found[f"ours {threshold}, syntax unchecked"] = replace(options, check_syntax=False)
    for steps in (length, max(1, length // 2), max(1, length // 4)):
        found[f"LLaDA, {steps} steps"] = Peer(scheduled(length, steps), length)
    found[f"Fast-dLLM {THRESHOLD}, whole canvas"] = Peer(parallel(THRESHOLD), length)
    found[f"Fast-dLLM {THRESHOLD}, blocks of {BLOCK}"] = Peer(parallel(THRESHOLD), BLOCK)
    found["DreamOn, one a step"] = Peer(least_entropy, length, CANDIDATES)
    return found


@dataclass(frozen=True)
class PeerRun:
    """A prompt filled by a decoder.

    exact      1.0 where the text equals the true middle
    passes     evaluations of the canvas
    ms         total time
    committed  positions that became tokens, including those after an `<eom>`
    tokens     of the text
    lean_passes, lean_ms
               the cost had it stopped once nothing was open before the first `<eom>` and read the
               context once, as ours does: the rule itself, without its model's missing cache
    """

    kind: str
    prompt: str
    cluster: str
    decoder: str
    text: str
    exact: float
    passes: int
    ms: float
    committed: int
    tokens: int
    lean_passes: int
    lean_ms: float


FIGURES = ("exact", "passes", "ms", "committed", "tokens", "lean_passes", "lean_ms")


def ask(
    model: Checkpoint, kind: str, problem: Problem, name: str, decoder: Peer | Options
) -> PeerRun:
    """Fill a hole with a decoder, starting with an empty KV cache."""
    began = time.perf_counter()
    if isinstance(decoder, Peer):
        tokens, passes, lean, spared = write(model, problem, decoder)
        text = model.tokenizer.decode(tokens)
        ms, committed = 1000 * (time.perf_counter() - began), model.settings.block_length
        cost = passes, ms, committed, len(tokens), lean, ms - 1000 * spared
    else:
        found = infill(model, problem.prefix, problem.suffix, decoder)
        ms, text = 1000 * (time.perf_counter() - began), found.best.text
        committed = sum(int(frame.step.committed.sum()) for frame in found.frames)
        cost = found.nfe, ms, committed, found.best.length, found.nfe, ms
    exact = float(text == problem.solution)
    return PeerRun(kind, problem.id, problem.cluster, name, text, exact, *cost)


def write(model: Checkpoint, problem: Problem, peer: Peer) -> tuple[list[int], int, int, float]:
    """Fill one canvas by a rule, reading context and canvas again in each step.

    Returns the tokens up to the first `<eom>`, the passes, the passes until these tokens were
    committed, and the seconds spent on reading the context again and on all later passes.
    """
    backbone, settings = model.backbone, model.settings
    room = context_room(model, settings.max_tokens)  # the room that ours has
    context = model.layout.fit(problem.prefix, problem.suffix, room)
    length = settings.block_length
    canvas = Canvas.blank(1, length, model.marks)
    place = np.arange(length)
    passes, lean, spared = 0, 0, 0.0
    for first in range(0, length, peer.block):
        block = (place >= first) & (place < first + peer.block)
        for step in count():
            where = block & canvas.masked
            if not where.any():
                break
            settled = not canvas.open.any()
            began = time.perf_counter()
            _, cache = backbone.encode([context])
            read = time.perf_counter()
            states = backbone.denoise(canvas.ids, cache, context[-1:])
            candidates = backbone.candidates(states[where], peer.k)
            chosen = np.zeros_like(where)
            chosen[where] = peer.rule(candidates, step)
            tokens = canvas.ids.copy()
            tokens[where] = candidates.ids[:, 0]
            # Not `Canvas.commit`, which drops what stands after an `<eom>`.
            canvas = canvas.with_row(0, np.where(chosen, tokens, canvas.ids)[0])
            spared += (time.perf_counter() if settled else read) - began if passes else 0.0
            passes, lean = passes + 1, lean + (not settled)
    return canvas.middle(0), passes, lean, spared


def prompts(corpus: Path, number: int, seed: int) -> list[tuple[str, Problem]]:
    """Draw `number` holes of each kind in held-out packages, at most one per line of code.

    Whole lines have at least two tokens of code; every second hole includes the indentation, as
    HumanEval's single lines do.
    """
    try:
        found = drawn_suite("line-end", corpus, 2 * number, seed).problems
    except UsageError as error:
        raise UsageError(
            f"--prompts is {number}, which takes {2 * number} lines of code; {corpus} has fewer "
            "in its held-out packages: ask for fewer, or give another --corpus"
        ) from error
    lines = [whole(problem, bool(place % 2)) for place, problem in enumerate(found[number:])]
    return [
        pair
        for ends in zip(found[:number], lines, strict=True)
        for pair in zip(KINDS, ends, strict=True)
    ]


def whole(problem: Problem, indented: bool) -> Problem:
    """Widen a hole to its whole line, with or without the indentation."""
    start = problem.prefix.rpartition("\n")[2]
    code = start if indented else start.lstrip()
    before = problem.prefix[: len(problem.prefix) - len(code)]
    return replace(problem, prefix=before, solution=code + problem.solution)


def figures(runs: Sequence[PeerRun], names: Sequence[str]) -> dict[str, Any]:
    """Compute for each kind and decoder the means, and ratios to ours on the same prompts."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        own_kind = [run for run in sorted(runs, key=lambda run: run.prompt) if run.kind == kind]
        by_name = {name: [run for run in own_kind if run.decoder == name] for name in names}
        clusters = [run.cluster for run in by_name[OURS]]
        found[kind] = {"prompts": len(clusters), "files": len(set(clusters)), "decoders": {}}
        for name, own in by_name.items():
            part = {each: mean([getattr(t, each) for t in own], clusters) for each in FIGURES}
            for base in (OURS, UNCHECKED):
                pairs = list(zip(own, by_name[base], strict=True))
                part[f"against {base}"] = {
                    "exact": mean([one.exact - other.exact for one, other in pairs], clusters),
                    "ms": ratio([one.ms / other.ms for one, other in pairs], clusters),
                    "lean_ms": ratio([one.lean_ms / other.ms for one, other in pairs], clusters),
                }
            found[kind]["decoders"][name] = part
    return found


def mean(values: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """Return the mean and its 95 % bootstrap interval over files; None if it has no width."""
    return {"mean": statistics.fmean(values), "interval": bootstrap(values, clusters)}


def ratio(ratios: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """Return the geometric mean and its interval."""
    found = mean([math.log(each) for each in ratios], clusters)
    edges = found["interval"] and tuple(map(math.exp, found["interval"]))
    return {"mean": math.exp(found["mean"]), "interval": edges}


def lines(found: Mapping[str, Any]) -> list[str]:
    """Format the figures for the terminal."""
    printed = [
        f"{found['model']['name']} {found['model']['weights'][:12]}, "
        f"data {found['data'][:12]}, "
        f"{found['environment']['machine']}, threads used {found['threads']}, "
        f"load average {' to '.join(map(str, found['load']))}"
    ]
    for kind, part in found["kinds"].items():
        work = [["", "exact, %", "minus ours", "passes", "lean", "committed", "tokens"]]
        times = [["", "ms", "times ours", "lean ms", "times ours, unchecked"]]
        for name, own in part["decoders"].items():
            ours, plain = own[f"against {OURS}"], own[f"against {UNCHECKED}"]
            steps = (cell(own[each], 1) for each in ("passes", "lean_passes"))
            size = (cell(own[each], 1) for each in ("committed", "tokens"))
            shares = (cell(share["exact"], 1, 100) for share in (own, ours))
            work.append([name, *shares, *steps, *size])
            full = cell(own["ms"], 0), cell(ours["ms"], 2)
            times.append([name, *full, cell(own["lean_ms"], 0), cell(plain["lean_ms"], 2)])
        head = f"{kind}: {part['prompts']} prompts in {part['files']} files"
        printed += ["", head, "", columns(work), "", columns(times)]
    return [*printed, "", f"ours is {OURS!r}; in brackets 95 % bootstrap intervals over files"]


def cell(found: Mapping[str, Any], digits: int, scale: float = 1) -> str:
    """Format a mean and its interval."""
    shown = f"{scale * found['mean']:.{digits}f}"
    if found["interval"] is None:
        return shown
    low, high = (f"{scale * edge:.{digits}f}" for edge in found["interval"])
    return f"{shown} ({low} – {high})"


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the options; UsageError if one is invalid."""
    parser = Parser(
        prog="python -m benchmarks.peers",
        description="Compare decoders of other diffusion models with ours, on our weights.",
    )
    parser.add_argument("--corpus", type=Path, required=True, help="made by talaria corpus")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--prompts", type=int, default=200, metavar="N", help="per kind")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    args = parser.parse_args(argv)
    if args.prompts < 1:
        raise UsageError(f"--prompts is {args.prompts}; it must be at least 1")
    if args.json is not None and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise UsageError(f"--json is {args.json}; it must be a file in a folder that exists")
    return args


def main(argv: list[str]) -> int:
    """Fill every prompt with every decoder and print the tables; exit code 0."""
    args = arguments(argv)
    holes = prompts(args.corpus, args.prompts, args.seed)
    model = checkpoint.load(args.model)
    compared = decoders(model.settings.block_length)
    for name, decoder in compared.items():  # warm-up
        ask(model, *holes[0], name, decoder)
    found: dict[str, Any] = {
        "model": {"name": model.name, "weights": model.weights_hash},
        "environment": environment(),
        "commit": made_by()["commit"],
        "data": Suite("peers", [problem for _, problem in holes], {}).digest(),
        "seed": args.seed,
        "threads": model.backbone.threads,
        "load": [load_average()],
    }
    rng, runs = random.Random(args.seed), list[PeerRun]()
    bar = progress(len(holes) * len(compared), "request")
    for kind, problem in holes:
        # A new order each time, so that none always comes first or follows the same other.
        for name, decoder in rng.sample(list(compared.items()), len(compared)):
            runs.append(ask(model, kind, problem, name, decoder))
            bar.update()
    bar.close()
    found["load"].append(load_average())
    found["kinds"] = figures(runs, list(compared))
    print("\n".join(lines(found)))
    if args.json is not None:
        files.write(args.json, json.dumps({**found, "turns": [asdict(run) for run in runs]}))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("peers", lambda: main(sys.argv[1:])))

"""`talaria adapt`: train low-rank updates that teach a causal base to denoise canvases.

One process and one family so far. The run's folder holds `state.pt` (everything needed to resume),
`metrics.jsonl`, `run.html` with plots of them, and `model/`, an adapter checkpoint for
`talaria infill --adapter`.

On a CPU, time is counted as processor time per thread, so a run that is paused, or that shares the
processors with others, computes as long as one that has them to itself.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_weights
from tqdm import tqdm

from talaria.coder import checkpoint, files
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import DataError, Interrupted, UsageError
from talaria.coder.families import qwen2
from talaria.coder.families.qwen2_files import open_base
from talaria.coder.families.qwen2_tokenizer import layout_of, marks_of
from talaria.coder.families.qwen2_torch import module
from talaria.coder.layout import Layout
from talaria.finetune.adaptation import (
    Adaptation,
    CanvasBatch,
    CanvasRow,
    HoleRows,
    draw_canvases,
    operations,
    validated,
)
from talaria.finetune.adapter import exported, write_adapter
from talaria.finetune.corpus import corpus_hash, read_nonempty
from talaria.finetune.low_rank import add_updates, merge
from talaria.finetune.recipe import flag
from talaria.finetune.run import Budget
from talaria.finetune.run_page import write_run_page
from talaria.finetune.state import (
    check_identity,
    read_state,
    truncate_metrics,
    write_state,
    writing,
)
from talaria.finetune.stop import GracefulStop
from talaria.finetune.throughput import clock, has_fast_bfloat16, matrix_peak
from talaria.finetune.trainer import PATIENCE, is_out_of_memory

LEAST_CONTEXT = 8  # tokens of a row beside its middle: three sentinels and some text
HELD_OUT_ROWS = 16
PLAIN_REACH = 16  # tokens before the middle of a plain row that are read with gradients


@dataclass(frozen=True)
class AdaptationRecipe:
    """Everything that determines the result of an adaptation.

    rank                  rank of the low-rank updates
    masks                 masks of a canvas; with the causal state before them they predict one
                          token more
    canvases              canvases per row, at most
    units                 units of the chain's hidden layer
    length, longest       most tokens of a row, and of a middle
    rows                  rows with canvases per step
    plain                 rows without, which teach what to write next and where to end; they
                          cost a fifth
    plain_length          most tokens of these
    together              rows per pass: 1 is fastest on a CPU, a GPU wants as many as fit
    decay                 weight of each mask of a canvas relative to the one before it
    soft                  share of the causal reading's own distribution in the targets of masks
    next_token_weight     weight of the next-token loss on middles and their ends
    ending_weight         weight of the loss of deciding at each place whether the middle ends
    warmup                steps over which the learning rate rises
    decay_from            fraction of the run from which on it falls, to a twentieth
    """

    rank: int = 16
    masks: int = 3
    canvases: int = 96
    units: int = 448
    length: int = 320
    longest: int = 96
    rows: int = 2
    plain: int = 0
    plain_length: int = 192
    together: int = 1
    decay: float = 0.6
    soft: float = 0.5
    next_token_weight: float = 1.0
    ending_weight: float = 0.0
    learning_rate: float = 3e-4
    warmup: int = 10
    decay_from: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "masks", "canvases", "units", "longest", "rows", "together", "warmup"):
            if getattr(self, name) < 1:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; it must be 1 or more")
        for name in ("plain", "ending_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; it must be 0 or more")
        for name in ("soft", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"{flag(name)} is {getattr(self, name)}; it must lie between 0 and 1"
                )
        for name in ("decay", "next_token_weight", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.decay_from < 1:
            raise UsageError(
                f"--decay-from is {self.decay_from}; it must be at least 0 and below 1"
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed is {self.seed}; it must lie between 0 and 2**63 - 1")
        for name in ("length", "plain_length"):
            if getattr(self, name) < self.longest + LEAST_CONTEXT:
                raise UsageError(
                    f"{flag(name)} is {getattr(self, name)}; a middle of {self.longest} tokens "
                    f"(--longest) and its context need at least {self.longest + LEAST_CONTEXT}"
                )


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; every field of the recipe is a flag."""
    parser = Parser(prog="talaria adapt", description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path, help="the base: a GGUF file")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="total time; on a CPU, processor time")
    budget.add_argument("--steps", type=int, help="total optimiser steps")
    parser.add_argument(
        "--slice", type=float, metavar="MINUTES", help="save and exit after this time on the clock"
    )
    parser.add_argument(
        "--init",
        metavar="ADAPTER",
        help="start from this adapter of the same base: a folder, or a name from `talaria models`",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last saved state")
    parser.add_argument("--save-every", type=float, default=120, metavar="SECONDS")
    parser.add_argument("--validate-every", type=float, default=600, metavar="SECONDS")
    for name, default in asdict(AdaptationRecipe()).items():
        parser.add_argument(
            flag(name), type=type(default), default=default, help=f"(default {default})"
        )
    args = parser.parse_args(argv)
    for name in ("minutes", "steps", "slice", "save_every", "validate_every"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < math.inf:
            raise UsageError(f"{flag(name)} is {getattr(args, name)}; it must be above 0")
    recipe = {name: getattr(args, name) for name in asdict(AdaptationRecipe())}
    args.recipe = AdaptationRecipe(**recipe)
    args.budget = Budget(args.minutes, args.steps)
    if not args.base.is_file():
        raise UsageError(f"{args.base}: no such file; give the base's GGUF file")
    return args


class AdaptationRun:
    """A base being adapted: its weights, the optimiser, and the time spent.

    An update is skipped if its loss or gradient is not finite. After PATIENCE skipped updates in a
    row, the weights of the last good state are restored and training continues with later rows.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.recipe: AdaptationRecipe = args.recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if has_fast_bfloat16(self.device) else torch.float32
        base = open_base(args.base)
        self.tokenizer, rows = base.vocabulary.trimmed()
        self.marks = marks_of(self.tokenizer)
        weights = dict(qwen2.BaseWeights(base, rows))
        self.shape = replace(base.shape, vocab_size=len(rows))
        decoder = module(self.shape, weights, str(self.device))
        torch.manual_seed(self.recipe.seed)
        add_updates(decoder, qwen2.MATRICES, self.recipe.rank, self.dtype)
        recipe = self.recipe
        self.adaptation = Adaptation(
            decoder, self.marks, recipe.masks, recipe.units, recipe.decay, recipe.soft
        )
        self.trained = {
            name: each for name, each in self.adaptation.named_parameters() if each.requires_grad
        }
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), recipe.learning_rate, (0.9, 0.98), weight_decay=0.0
        )
        layout = layout_of(self.tokenizer)
        self.rows = self.rows_of("train", layout, recipe.length)
        self.plain = self.rows_of("train", layout, recipe.plain_length)
        held_out = self.rows_of("valid", layout, recipe.length)
        rng = np.random.default_rng(0)
        self.held_out = [
            draw_canvases(held_out[n], recipe.canvases, recipe.masks, rng)
            for n in range(HELD_OUT_ROWS)
        ]
        self.identity: dict[str, Any] = {
            "recipe": asdict(recipe),
            "base": files.digest(args.base),
            "corpus": corpus_hash(args.corpus),
            "init": None,
        }
        self.ends = False  # a base runs on past the hole, and a few minutes do not change that
        if args.init is not None:
            self.start_from(args.init)
        self.step, self.elapsed, self.validated = 0, 0.0, 0.0
        self.tokens, self.skipped = 0, 0  # read in all, canvases included; updates in a row
        self.accepted: list[float] | None = None  # as `validate` found it last

    def rows_of(self, split: str, layout: Layout, length: int) -> HoleRows:
        """Rows of a split of the corpus."""
        texts = [document.text for document in read_nonempty(self.args.corpus, split)]
        recipe = self.recipe
        return HoleRows(texts, layout, self.marks.eom, length, recipe.longest, recipe.seed)

    @property
    def progress(self) -> float:
        """The fraction of the minutes or steps that is spent."""
        budget: Budget = self.args.budget
        return min(1.0, budget.progress(self.step, self.elapsed))

    def row(self, number: int) -> CanvasRow:
        """A training row; it depends only on the recipe and its number."""
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, 2, number))
        if number % (recipe.rows + recipe.plain) < recipe.rows:
            return draw_canvases(self.rows[number], recipe.canvases, recipe.masks, rng)
        return draw_canvases(self.plain[number], 0, recipe.masks, rng, PLAIN_REACH)

    def passes(self) -> Iterator[list[CanvasRow]]:
        """The rows of a step, those with canvases first, as they are computed together."""
        recipe = self.recipe
        first = self.step * (recipe.rows + recipe.plain)
        middle, end = first + recipe.rows, first + recipe.rows + recipe.plain
        for begin, stop in ((first, middle), (middle, end)):
            for at in range(begin, stop, recipe.together):
                yield [self.row(number) for number in range(at, min(at + recipe.together, stop))]

    def autocast(self) -> torch.autocast:
        """Products in bfloat16 where that is fast."""
        return torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32)

    def update(self) -> dict[str, Any]:
        """Take one step; returns what goes into the metrics. DataError if memory runs out."""
        recipe, began = self.recipe, clock(self.device)
        warm = min(1.0, (1 + self.step) / recipe.warmup)
        cooling = max(0.0, (self.progress - recipe.decay_from) / (1 - recipe.decay_from))
        rate = warm * (1 - 0.95 * cooling)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(4 + recipe.masks, device=self.device)
        done, tokens = 0.0, 0
        for rows in self.passes():
            done += sum(operations(self.shape, row) for row in rows)
            tokens += sum(len(row.ids) + row.targets.numel() for row in rows)
            try:
                with self.autocast():
                    losses = self.adaptation(CanvasBatch.of(rows, self.device))
                    of_canvases = len(rows) / recipe.rows if len(rows[0].anchors) else 0.0
                    of_rows = len(rows) / (recipe.rows + recipe.plain)
                    loss = of_canvases * (losses.canvas + losses.chain)
                    loss = loss + of_rows * recipe.next_token_weight * losses.next_token
                    loss = loss + of_rows * recipe.ending_weight * losses.ending
                loss.backward()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise DataError(
                    f"{len(rows)} rows of {recipe.length} tokens with {recipe.canvases} canvases "
                    f"do not fit into the memory of {self.device}; end other programs and go on "
                    "with --resume, or start over with a smaller --together, --canvases or --length"
                ) from error
            own = torch.stack((losses.canvas, losses.chain, *losses.places)).detach()
            common = torch.stack((losses.next_token, losses.ending)).detach()
            sums += torch.cat((of_rows * common, of_canvases * own))
        next_token, ending, canvas, chain, *places = means = sums.tolist()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0).item()
        finite = math.isfinite(sum(means) + norm)
        if finite:
            self.optimizer.step()
            merge(self.adaptation)
        self.skipped = 0 if finite else self.skipped + 1
        self.step += 1
        self.tokens += tokens
        seconds = max(clock(self.device) - began, 1e-9)
        self.elapsed += seconds
        entry: dict[str, Any] = {
            "step": self.step,
            "elapsed": round(self.elapsed, 1),
            "tokens": self.tokens,
            "tokens_per_s": round(tokens / seconds, 1),
            "flops_per_s": done / seconds,
            "rate": rate,
            "gradient_norm": round(norm, 3),
            "canvas_loss": canvas,
            "chain": chain,
            "next_token_loss": next_token,
            "ending": ending,
            "mask_losses": places,
        }
        if not finite:
            entry |= {"event": "skipped", "why": "a loss or the gradient is not finite"}
        return entry

    def validate(self) -> dict[str, float]:
        """Means over held-out rows, as `validated` has them."""
        with self.autocast():
            found = [validated(self.adaptation, row) for row in self.held_out]
        means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        numbers = range(1, 1 + self.recipe.masks)
        self.accepted = [round(means[f"accepted_{number}"], 4) for number in numbers]
        return {f"validation_{name}": mean for name, mean in means.items()}

    def start_from(self, adapter: str) -> None:
        """Take an adapter's weights; UsageError if it is of another base, rank or kind."""
        _, config, weights = checkpoint.read(adapter, "cpu")
        made_for = config.get("base", {}).get("sha256")
        if made_for != self.identity["base"]:
            raise UsageError(
                f"--init {adapter}: an adapter of the base {made_for}, not of {self.args.base} "
                f"({self.identity['base']})"
            )
        if not weights:
            raise UsageError(f"--init {adapter}: has no adapter; give the folder `model` of a run")
        found = load_weights(weights)
        bias = found.pop(qwen2.END_BIAS, torch.zeros(1))
        wanted = {exported(name): each for name, each in self.trained.items()}
        shapes = ({name: each.shape for name, each in some.items()} for some in (found, wanted))
        if not operator.eq(*shapes):
            raise UsageError(
                f"--init {adapter}: not an adapter of --rank {self.recipe.rank}, --masks "
                f"{self.recipe.masks} and --units {self.recipe.units}; give the values that it was "
                "made with"
            )
        with torch.no_grad():
            for name, each in wanted.items():
                each.copy_(found[name])
            self.adaptation.end_bias.copy_(bias)
        merge(self.adaptation)
        self.identity["init"] = checkpoint.weights_hash(config)
        self.ends = checkpoint.settings(config, Path(adapter)).ends

    def save(self) -> None:
        """Write the state and the adapter, unless the last update was skipped."""
        if self.skipped:
            return
        out: Path = self.args.out
        out.mkdir(parents=True, exist_ok=True)
        write_state(
            out / "state.pt",
            {
                "identity": self.identity,
                "weights": {name: each.detach() for name, each in self.trained.items()},
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "elapsed": self.elapsed,
                "tokens": self.tokens,
                "validated": self.validated,
                "accepted": self.accepted,
            },
        )
        write_adapter(out / "model", self)

    def restore(self) -> None:
        """Continue from the state on disk; DataError if it was made with other settings."""
        state = self.restore_weights()
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.tokens, self.validated = state["tokens"], state["validated"]
        self.accepted = state.get("accepted")

    def restore_weights(self) -> dict[str, Any]:
        """Take weights and optimiser, but not time and place, from the state, and return it."""
        path = self.args.out / "state.pt"
        state = read_state(path)
        check_identity(path, state["identity"], self.identity)
        with torch.no_grad():
            for name, each in self.trained.items():
                each.copy_(state["weights"][name])
        merge(self.adaptation)
        self.optimizer.load_state_dict(state["optimizer"])
        self.skipped = 0
        return state


def check_start(out: Path, resume: bool) -> None:
    """UsageError if a run would be overwritten; DataError if there is none to resume."""
    state = out / "state.pt"
    if state.exists() and not resume:
        raise UsageError(f"{out} holds a run; add --resume to continue it, or name another --out")
    if resume and not state.exists():
        raise DataError(f"{state}: nothing to resume; start without --resume")


def main(argv: list[str]) -> int:
    """Adapt until the budget or the slice is spent; an interrupt saves the state for --resume.

    Returns 0 if the run finished or a slice ended, 1 if it was interrupted.
    """
    began = time.monotonic()
    args = parse(argv)
    check_start(args.out, args.resume)
    args.out.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(args.out).free < 2**30:
        raise DataError(f"{args.out}: less than 1 GiB is free; a run needs room for its state")
    run = AdaptationRun(args)
    if args.resume:
        run.restore()
        truncate_metrics(args.out / "metrics.jsonl", run.step)
    deadline = math.inf if args.slice is None else began + 60 * args.slice
    with GracefulStop() as stop:
        train(run, lambda: stop.requested or time.monotonic() > deadline)
    return Interrupted.exit_code if stop.requested else 0


def train(run: AdaptationRun, stopping: Callable[[], bool]) -> None:
    """Take steps until the budget is spent or `stopping`, at least one; save at intervals."""
    args, saved = run.args, run.elapsed
    peak = matrix_peak(run.device, run.dtype)
    metrics: Path = args.out / "metrics.jsonl"
    with tqdm(total=100, unit="%", initial=int(100 * run.progress), desc="adapting") as bar:
        while run.progress < 1:
            entry = run.update()
            if run.skipped >= PATIENCE and (args.out / "state.pt").exists():
                run.restore_weights()
                entry |= {"event": "restored", "why": "the weights of the last good state"}
            entry["peak_share"] = round(entry.pop("flops_per_s") / peak, 4)
            if run.elapsed - run.validated >= args.validate_every or run.progress == 1:
                bar.set_postfix_str(f"step {run.step}, validating")
                entry |= run.validate()
                run.validated = run.elapsed
            with writing(metrics), metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            bar.set_postfix_str(
                f"step {run.step}, {entry['tokens_per_s']:.0f} tokens/s, {entry['peak_share']:.0%} "
                f"of peak, next token {entry['next_token_loss']:.2f}, masks "
                f"{entry['canvas_loss']:.2f}"
            )
            bar.update(int(100 * run.progress) - bar.n)
            if stopping():
                break
            if run.elapsed - saved >= args.save_every:
                run.save()
                write_run_page(args.out, run.progress)
                saved = run.elapsed
    run.save()
    write_run_page(args.out, run.progress)


if __name__ == "__main__":
    sys.exit(guarded("talaria adapt", lambda: main(sys.argv[1:])))

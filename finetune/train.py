"""`talaria train`: train a denoiser, next-token first, then with the joint objective.

The first part of the budget goes to the next token alone, which learns faster
(NBDiff, arXiv 2512.06776); then canvases join in, their length growing from 1.
A run's folder holds `state.pt` (all that a resumed run needs), `metrics.jsonl`,
`run.html` (its plots) and `model/`, a checkpoint that `talaria infill --model`
takes, written at each validation and at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from coder import checkpoint
from coder.checkpoint import Checkpoint
from coder.denoiser import Denoiser
from coder.errors import DataError, TalariaError, UsageError
from coder.tokenizer import Tokenizer
from finetune.corpus import corpus_hash, read_corpus
from finetune.recipe import Recipe, flag
from finetune.samples import Samples
from finetune.trainer import PATIENCE, Trainer
from finetune.validate import Cursor, choose_cursors, exact_match, losses

DRAW_EVERY = 20  # seconds between two drawings of the run's page


@dataclass(frozen=True)
class Budget:
    """What a run may spend in all: minutes of training or optimiser steps."""

    minutes: float | None
    steps: int | None

    def progress(self, step: int, elapsed: float) -> float:
        """The share of it that is spent, after so many steps and seconds."""
        if self.steps is not None:
            return step / self.steps
        assert self.minutes is not None
        return elapsed / (60 * self.minutes)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line of `talaria train`; every field of the recipe is a flag."""
    parser = argparse.ArgumentParser(prog="talaria train", description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--exercises", type=Path, help="corpus of exercises to mix in")
    parser.add_argument("--tokenizer", type=Path, default=Path("data/tokenizer.json"))
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="planned total of training time")
    budget.add_argument("--steps", type=int, help="planned total of optimiser steps")
    parser.add_argument("--slice", type=float, metavar="MINUTES", help="stop after so long")
    parser.add_argument("--init", metavar="MODEL", help="start from the weights of this model")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument("--save-every", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--validate-every", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--cursors", type=int, default=20, help="held-out holes of each kind")
    parser.add_argument("--micro-batch", type=int, default=8, help="rows in memory at once")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--compile", action="store_true", help="compile; pays after a minute")
    parser.add_argument(
        "--dense-masks", action="store_true", help="also on a GPU, in place of block-sparse ones"
    )
    for name, default in asdict(Recipe()).items():
        parser.add_argument(
            flag(name), type=type(default), default=default, help=f"(default {default})"
        )
    args = parser.parse_args(argv)
    for name in ("minutes", "steps", "slice", "save_every", "validate_every", "micro_batch"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{flag(name)} is {value}; it must be above 0")
    for name in ("workers", "cursors"):
        if getattr(args, name) < 0:
            raise UsageError(f"{flag(name)} is {getattr(args, name)}; it must be 0 or more")
    return args


class Stop:
    """Turns SIGINT and SIGTERM into a wish that is granted between two steps.

    A step is never torn; a second signal interrupts at once.
    """

    def __enter__(self) -> Stop:
        self.asked = False
        self.former = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, number: int, frame: object) -> None:
        """Note the wish."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)


def main(argv: list[str]) -> int:
    """Train until the budget or the slice is spent; an interrupt keeps the state for --resume."""
    args = parse(argv)
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    if (args.out / "state.pt").exists() and not args.resume:
        raise UsageError(f"{args.out} holds a run; add --resume to go on, or name another --out")
    # Workers are processes of their own; threads within them would only get in the way.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = Tokenizer.load(args.tokenizer)
    spans = recipe.span_shares()
    held_out = read_corpus(args.corpus, "valid")
    exercises = read_corpus(args.exercises, "train") if args.exercises else []
    train, valid = (
        Samples(
            documents,
            tokenizer,
            recipe.context_length,
            recipe.max_middle,
            recipe.seed,
            exercises=extra,
            exercise_share=recipe.exercise_share,
            spans=spans,
        )
        for documents, extra in ((read_corpus(args.corpus, "train"), exercises), (held_out, []))
    )
    torch.manual_seed(recipe.seed)
    denoiser = Denoiser(recipe.shape(tokenizer.vocab_size))
    init = None
    if args.init:
        init = take_weights(denoiser, args.init, args.tokenizer)
    trainer = Trainer(
        recipe,
        denoiser,
        tokenizer,
        train,
        micro_batch=args.micro_batch,
        workers=args.workers,
        compiled=args.compile,
        dense_masks=args.dense_masks,
    )
    identity = {
        "recipe": asdict(recipe),
        "steps": args.steps,
        "init": init,
        "corpus": corpus_hash(args.corpus),
        "exercises": args.exercises and corpus_hash(args.exercises),
        "tokenizer": checkpoint.digest(args.tokenizer),
    }
    cursors = choose_cursors(held_out, args.cursors) if args.cursors else []
    run = Run(args, trainer, identity, Validation(valid, cursors))
    if run.loop():
        run.finish()
        return 0
    if trainer.accelerator.is_main_process:
        print(f"stopped at step {trainer.step}; go on with --resume", file=sys.stderr)
    return 0 if args.slice else 1


@dataclass(frozen=True)
class Validation:
    """Held-out samples for the losses and holes for the decoder."""

    samples: Samples
    cursors: list[Cursor]

    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """What the metrics say of the present weights."""
        denoiser, tokenizer = trainer.denoiser, trainer.tokenizer
        denoiser.eval()
        with trainer.accelerator.autocast():
            result = losses(denoiser, tokenizer, self.samples, rows=64)
        model = Checkpoint(denoiser, tokenizer, "in training", {})
        for mode in ("diffuse", "ar") if self.cursors else ():
            result |= exact_match(model, self.cursors, mode)
        denoiser.train()
        return {f"validation_{name}": round(value, 4) for name, value in result.items()}


class Run:
    """The folder of a run and the loop that fills it."""

    def __init__(
        self,
        args: argparse.Namespace,
        trainer: Trainer,
        identity: dict[str, Any],
        validation: Validation,
    ) -> None:
        self.args, self.trainer, self.identity = args, trainer, identity
        self.validation = validation
        self.budget = Budget(args.minutes, args.steps)
        self.state, self.metrics = args.out / "state.pt", args.out / "metrics.jsonl"
        self.drawn = time.monotonic()  # when the page was drawn
        args.out.mkdir(parents=True, exist_ok=True)
        if args.resume:
            trainer.restore(self.state, identity)
            if trainer.accelerator.is_main_process:
                forget_after(self.metrics, trainer.step)
                self.append({"event": "resumed", "why": f"from step {trainer.step}"})
        else:
            trainer.save(self.state, identity)

    @property
    def progress(self) -> float:
        """The share of the budget that is spent."""
        return self.budget.progress(self.trainer.step, self.trainer.elapsed)

    def canvas_lengths(self) -> Iterator[int]:
        """The length of the canvases of each coming step.

        Worker processes ask ahead of time, so steps are counted, not looked up.
        """
        step = self.trainer.step
        while True:
            spent = self.budget.progress(step, self.trainer.elapsed)
            yield self.trainer.recipe.canvas_length(spent)
            step += 1

    def loop(self) -> bool:
        """Train, save and validate; True when the budget is spent, False if it stopped before."""
        from tqdm import tqdm

        trainer, args = self.trainer, self.args
        begun = saved = validated = trainer.elapsed
        main = trainer.accelerator.is_main_process
        batches = trainer.batches(self.canvas_lengths())
        shape = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        with Stop() as stop, tqdm(total=100, bar_format=shape, disable=not main) as bar:
            while not self.agreed(
                self.progress >= 1
                or stop.asked
                or (args.slice is not None and trainer.elapsed - begun >= 60 * args.slice)
            ):
                try:
                    entry = trainer.train_step(batches, self.progress)
                except RuntimeError as error:
                    if "CUDA" not in str(error):
                        raise
                    raise DataError(
                        f"the device failed at step {trainer.step} "
                        f"({str(error).splitlines()[0]}); the last state is in {self.state}: "
                        "start again with --resume"
                    ) from error
                self.append(entry)
                for event, why in trainer.events:
                    self.append({"event": event, "why": why})
                trainer.events.clear()
                if trainer.given_up >= PATIENCE:
                    trainer.go_back(self.state)
                bar.n = min(100.0, 100 * self.progress)
                bar.set_postfix_str(
                    f"step {trainer.step}, {entry['tokens_per_s']} tokens/s, "
                    f"{entry['peak_share']:.0%} of peak, next token "
                    f"{entry['next_token_loss']:.2f}, bound {entry['bound']:.2f}, "
                    f"canvas {entry['canvas_length']}"
                )
                # By the first process's clock, so that all do the same.
                validate, save = (
                    self.agreed(trainer.elapsed - last > every)
                    for last, every in (
                        (validated, args.validate_every),
                        (saved, args.save_every),
                    )
                )
                if validate:
                    if main:
                        self.append(self.validation(trainer))
                        self.write_model()
                    validated = trainer.elapsed
                if save:
                    self.save()
                    saved = trainer.elapsed
        self.save(last=True)
        return self.progress >= 1

    def agreed(self, wish: bool) -> bool:
        """The same answer in all processes: whether any of them wishes it."""
        if self.trainer.world == 1:
            return wish
        flag = torch.tensor(float(wish), device=self.trainer.device)
        return bool(self.trainer.accelerator.reduce(flag, "sum") > 0)

    def save(self, last: bool = False) -> None:
        """Keep the state; bring the page up to date, though not more often than people look."""
        self.trainer.save(self.state, self.identity)
        due = last or time.monotonic() - self.drawn > DRAW_EVERY
        if due and self.trainer.accelerator.is_main_process:
            from finetune.run_page import write_run_page

            write_run_page(self.args.out, self.progress)
            self.drawn = time.monotonic()

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        trainer = self.trainer
        if trainer.accelerator.is_main_process:
            line = {"step": trainer.step, "elapsed": round(trainer.elapsed, 1), **entry}
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def write_model(self, **figures: float) -> None:
        """Write the present weights as a checkpoint."""
        trainer = self.trainer
        training = {
            **self.identity,
            "minutes": round(trainer.elapsed / 60, 1),
            "optimiser_steps": trainer.step,
            "tokens": trainer.tokens,
            **figures,
        }
        checkpoint.save(
            self.args.out / "model", trainer.denoiser, trainer.tokenizer, training=training
        )

    def finish(self) -> None:
        """Write the checkpoint of the last weights or of their average, whichever is better."""
        trainer = self.trainer
        if not trainer.accelerator.is_main_process:
            return
        final = self.validation(trainer)
        self.append(final)
        if trainer.averaged:
            last = {name: w.clone() for name, w in trainer.denoiser.state_dict().items()}
            trainer.denoiser.load_state_dict(trainer.average)
            average = self.validation(trainer)
            self.append({"event": "averaged", "why": f"{trainer.averaged} steps", **average})
            if average["validation_bound"] < final["validation_bound"]:
                final = average
            else:
                trainer.denoiser.load_state_dict(last)
        self.write_model(**final)
        self.save(last=True)
        print(
            f"{self.args.out / 'model'}: {trainer.step} steps, {trainer.tokens:,} tokens; held "
            f"out: next token {final['validation_next_token_loss']:.3f}, "
            f"bound {final['validation_bound']:.3f} nats"
        )


def take_weights(denoiser: Denoiser, model: str, tokenizer: Path) -> str:
    """Give the denoiser the weights of a model of the same shape and tokenizer; their hash."""
    loaded = checkpoint.load(model)
    if loaded.config["sha256"][checkpoint.TOKENIZER] != checkpoint.digest(tokenizer):
        raise UsageError(
            f"--init {model} has another tokenizer than --tokenizer {tokenizer}; "
            "give the tokenizer.json in the model's folder"
        )
    if loaded.denoiser.config != denoiser.config:
        raise UsageError(
            f"--init {model} has the shape {loaded.denoiser.config}, "
            f"the recipe asks for {denoiser.config}; give both the same shape"
        )
    denoiser.load_state_dict(loaded.denoiser.state_dict())
    return loaded.weights_hash


def forget_after(metrics: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will do again, and a torn last line."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["step"] <= step:
            kept.append(line + "\n")
    partial = metrics.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, metrics)


if __name__ == "__main__":  # for `accelerate launch`, and where nothing is installed
    try:
        sys.exit(main(sys.argv[1:]))
    except TalariaError as error:
        sys.exit(f"talaria train: {error}")

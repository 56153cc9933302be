"""The folder of a run and the loop that fills it: budget, slices, validation, checkpoints."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coder import checkpoint
from coder.checkpoint import Checkpoint
from coder.errors import DataError
from finetune.samples import Samples
from finetune.trainer import PATIENCE, Trainer
from finetune.validate import Cursor, exact_match, losses

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
            while True:
                stopped = trainer.agree(stop.asked)
                if self.progress >= 1 or stopped:
                    break
                if args.slice is not None and trainer.elapsed - begun >= 60 * args.slice:
                    break
                if trainer.elapsed - saved > args.save_every:
                    self.save()
                    saved = trainer.elapsed
                if trainer.elapsed - validated > args.validate_every:
                    validated = trainer.elapsed
                    if main:
                        self.append(self.validation(trainer))
                        self.write_model()
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
        self.save(last=True)
        return self.progress >= 1

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
        """Write the checkpoint of the last weights or of their average, whichever is better.

        For the first process alone.
        """
        trainer = self.trainer
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

"""The folder of a run and the loop that fills it: budget, slices, validation, checkpoints."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talaria.coder import checkpoint
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import CheckpointError, DataError
from talaria.coder.transformer import Transformer
from talaria.finetune.feed import WorkerLostError
from talaria.finetune.samples import Samples
from talaria.finetune.state import writing
from talaria.finetune.trainer import PATIENCE, Trainer, is_device_lost, is_out_of_memory
from talaria.finetune.validate import Cursor, exact_match, losses

DRAW_EVERY = 20  # seconds between two drawings of the run's page
NOTHING: Mapping[str, Any] = {}


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

    A step is never torn. A second Ctrl-C interrupts at once, if a person can have
    sent it: launchers and `timeout` send a signal twice in a row.
    """

    def __enter__(self) -> Stop:
        self.since: float | None = None
        self.former = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.since is not None

    def ask(self, number: int, frame: object) -> None:
        """Note the wish."""
        now = time.monotonic()
        if self.since is None:
            self.since = now
        elif number == signal.SIGINT and now > self.since + 1:
            raise KeyboardInterrupt

    def __exit__(self, *error: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Validation:
    """Held-out samples for the losses and holes for the decoder."""

    samples: Samples
    cursors: list[Cursor]

    def __call__(self, denoiser: Transformer, trainer: Trainer, canvases: bool) -> dict[str, float]:
        """What the metrics say of a denoiser; `canvases`: whether it knows such."""
        tokenizer = trainer.tokenizer
        denoiser.eval()
        with trainer.accelerator.autocast():
            result = losses(denoiser, tokenizer, self.samples, rows=64)
        model = Checkpoint(denoiser, tokenizer, "in training", {})
        for mode in (("diffuse", "ar") if canvases else ("ar",)) if self.cursors else ():
            result |= exact_match(model, self.cursors, mode)
        denoiser.train()
        return {f"validation_{name}": round(value, 4) for name, value in result.items()}


class Run:
    """The folder of a run and the loop that fills it.

    `began`, by the monotonic clock, is when the program began: a slice counts from there.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        trainer: Trainer,
        identity: dict[str, Any],
        validation: Validation,
        began: float,
    ) -> None:
        self.args, self.trainer, self.identity = args, trainer, identity
        self.validation, self.began = validation, began
        self.main: bool = trainer.accelerator.is_main_process
        self.budget = Budget(args.minutes, args.steps)
        self.state, self.metrics = args.out / "state.pt", args.out / "metrics.jsonl"
        self.drawn = time.monotonic()  # when the page was drawn
        self.fault = ""  # why it could not be
        # Seconds that each took at most, so far.
        self.took = dict.fromkeys(("step", "save", "model", "validation"), 0.0)
        with writing(args.out):
            args.out.mkdir(parents=True, exist_ok=True)
        with self.timed("save"):
            if args.resume:
                trainer.restore(self.state, identity)
            else:
                trainer.save(self.state, identity)

    @property
    def progress(self) -> float:
        """The share of the budget that is spent."""
        return self.budget.progress(self.trainer.step, self.trainer.elapsed)

    @property
    def canvases(self) -> bool:
        """Whether canvases have been trained on."""
        recipe = self.trainer.recipe
        return bool(recipe.chain_alone) or recipe.next_token_share < min(1.0, self.progress)

    def canvas_lengths(self) -> Iterator[int]:
        """The length of the canvases of each coming step.

        Worker processes ask ahead of time, so steps are counted, not looked up.
        """
        step = self.trainer.step
        while True:
            spent = self.budget.progress(step, self.trainer.elapsed)
            yield self.trainer.recipe.canvas_length(spent)
            step += 1

    def train(self) -> bool:
        """Train and leave a checkpoint; True when the budget is spent, False if stopped before.

        A run that has finished is left as it is.
        """
        if self.args.resume and self.resumed_at_the_end():
            self.trainer.leave()
            return True
        with self.explained():
            finished = self.loop()
            self.write_model(self.trainer.model())
            if finished:
                self.finish()
            elif self.main:
                at = self.trainer.step
                print(f"stopped at step {at}; go on with --resume", file=sys.stderr)
        self.trainer.leave()
        return finished

    def resumed_at_the_end(self) -> bool:
        """Whether the run that is resumed has nothing left to do; the metrics say if it goes on."""
        step = self.trainer.step
        (finished,) = self.trainer.agree(self.main and self.is_finished())
        if self.main and finished:
            print(
                f"{self.args.out}: finished at step {step}; to train on, name its model with "
                "--init and another --out",
                file=sys.stderr,
            )
        elif self.main:
            forget_after(self.metrics, step)
            self.append({"event": "resumed", "why": f"from step {step}"})
        return finished

    def is_finished(self) -> bool:
        """Whether the budget is spent and the checkpoint is the one that `finish` writes.

        That one alone is of the last step and was validated.
        """
        try:
            training = checkpoint.load(self.args.out / "model").config["training"]
            found = training["optimiser_steps"], "validation_bound" in training
        except (CheckpointError, KeyError):
            return False
        return self.progress >= 1 and found == (self.trainer.step, True)

    def loop(self) -> bool:
        """Train, save and validate; True when the budget is spent, False if it stopped before.

        A slice makes at least one step, however short it is.
        """
        from tqdm import tqdm

        trainer, args = self.trainer, self.args
        first, saved = trainer.step, trainer.elapsed
        shape = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        bar = tqdm(total=100, initial=100 * self.progress, bar_format=shape, disable=not self.main)
        with Stop() as stop, bar:
            batches = trainer.batches(self.canvas_lengths())
            while True:
                left = self.seconds_left()
                unseen = trainer.elapsed - trainer.validated
                stopped, validate, save = trainer.agree(
                    stop.asked or (left <= 0 and trainer.step > first),
                    self.main and unseen > args.validate_every and left > self.took["validation"],
                    self.main and trainer.elapsed - saved > args.save_every,
                )
                if stopped or self.progress >= 1:
                    break
                if validate:
                    trainer.validated = trainer.elapsed
                if validate or save:
                    self.save()
                    saved = trainer.elapsed
                if validate:
                    model = trainer.model()
                    self.write_model(model, self.validate(model))
                with self.timed("step"):
                    entry = trainer.train_step(batches, self.progress)
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
                    f"chain {entry['chain']:.2f}, canvas {entry['canvas_length']}"
                )
        self.save(last=True)
        return self.progress >= 1

    def seconds_left(self) -> float:
        """Of the slice, less what another step and the end take; endless without a slice."""
        if self.args.slice is None:
            return math.inf
        # A checkpoint is a part of a state: it takes no longer, as long as none was written.
        end = self.took["save"] + (self.took["model"] or self.took["save"]) + self.took["step"]
        return float(60 * self.args.slice - (time.monotonic() - self.began) - end)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Notes how long it took."""
        began = time.monotonic()
        yield
        self.took[what] = max(self.took[what], time.monotonic() - began)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Makes a failure of memory, a device or a worker one line that says how to go on."""
        trainer = self.trainer
        try:
            yield
        except WorkerLostError as error:
            if trainer.world == 1:  # others may be in the midst of a step; ours had not begun
                trainer.save(self.state, self.identity)
            raise DataError(
                f"a process that makes batches was killed at step {trainer.step} ({error}); the "
                f"last state is in {self.state}: go on with --resume, with fewer --workers if "
                "memory is short"
            ) from error
        except RuntimeError as error:
            at = f"step {trainer.step} ({str(error).splitlines()[0]})"
            if is_out_of_memory(error):
                raise DataError(
                    f"the memory of {trainer.device} is full at {at}; the last state is in "
                    f"{self.state}: go on with --resume --micro-batch "
                    f"{max(1, trainer.micro_batch // 2)}"
                ) from error
            if is_device_lost(error):
                raise DataError(
                    f"the device {trainer.device} failed at {at}; the last state is in "
                    f"{self.state}: go on with --resume"
                ) from error
            raise

    def save(self, last: bool = False) -> None:
        """Keep the state; bring the page up to date, though not more often than people look."""
        with self.timed("save"):
            self.trainer.save(self.state, self.identity)
            if self.main and (last or time.monotonic() - self.drawn > DRAW_EVERY):
                self.draw()

    def draw(self) -> None:
        """Draw the page; a run goes on without one, and says so once."""
        try:
            from talaria.finetune.run_page import write_run_page

            write_run_page(self.args.out, self.progress)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
            if fault != self.fault:
                self.append({"event": "no page", "why": fault})
            self.fault = fault
        self.drawn = time.monotonic()

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        trainer = self.trainer
        if self.main:
            line = {"step": trainer.step, "elapsed": round(trainer.elapsed, 1), **entry}
            with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def validate(self, model: Transformer, event: Mapping[str, Any] = NOTHING) -> dict[str, float]:
        """Measure a model, by the first process; the figures also go into the metrics."""
        if not self.main:
            return {}
        with self.timed("validation"):
            figures = self.validation(model, self.trainer, self.canvases)
        self.append({**event, **figures})
        return figures

    def write_model(self, model: Transformer, figures: Mapping[str, float] = NOTHING) -> None:
        """Write a model as the run's checkpoint, by the first process."""
        if not self.main:
            return
        trainer = self.trainer
        training = {
            **self.identity,
            "minutes": round(trainer.elapsed / 60, 1),
            "optimiser_steps": trainer.step,
            "tokens": trainer.tokens,
            **figures,
        }
        folder = self.args.out / "model"
        with self.timed("model"), writing(folder):
            checkpoint.save(folder, model, trainer.tokenizer, training=training)

    def finish(self) -> None:
        """Write the checkpoint of the last weights or of their average, whichever is better."""
        trainer = self.trainer
        model = trainer.model()
        final = self.validate(model)
        if trainer.averaged:
            average = trainer.model(trainer.average)
            event = {"event": "averaged", "why": f"{trainer.averaged} steps"}
            figures = self.validate(average, event)
            if self.main and quality(figures, self.canvases) > quality(final, self.canvases):
                model, final = average, figures
        self.write_model(model, final)
        if self.main:
            self.draw()
            print(
                f"{self.args.out / 'model'}: {trainer.step} steps, {trainer.tokens:,} tokens; "
                f"held out, nats: next token {final['validation_next_token_loss']:.3f}, "
                f"bound {final['validation_bound']:.3f}"
                + (f", chain {chain:.3f}" if (chain := final.get("validation_chain")) else "")
            )


def quality(figures: Mapping[str, float], canvases: bool) -> tuple[float, ...]:
    """What the better weights have more of, by the figures of a validation.

    Exact matches of the decoder and, where they are equal or unknown, a lower bound, and then
    a lower loss of the chain; without training on canvases a lower next-token loss.
    """
    if not canvases:
        return (-figures["validation_next_token_loss"],)
    exact = figures.get("validation_exact_diffuse_all", 0.0)
    return exact, -figures["validation_bound"], -figures.get("validation_chain", 0.0)


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
    with writing(metrics):
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, metrics)

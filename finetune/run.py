"""The training loop and its folder: budget, slices, validation, metrics, checkpoints."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from talaria.coder import checkpoint
from talaria.coder.errors import CheckpointError, DataError
from talaria.coder.families.talaria_torch import Transformer
from talaria.finetune.feed import WorkerLostError
from talaria.finetune.samples import Samples
from talaria.finetune.state import truncate_metrics, writing
from talaria.finetune.stop import GracefulStop
from talaria.finetune.trainable import Trainable, save
from talaria.finetune.trainer import PATIENCE, Trainer, is_device_lost, is_out_of_memory
from talaria.finetune.validate import Cursor, exact_match, losses

DRAW_EVERY = 20  # seconds between updates of the run's page
NOTHING: Mapping[str, Any] = {}


MOST_RESERVED = 120.0  # seconds of a run's minutes that are left for measuring its result


@dataclass(frozen=True)
class Budget:
    """The total budget of a run: minutes of training or optimiser steps.

    reserve  seconds of the minutes in which there is no training any more
    """

    minutes: float | None
    steps: int | None
    reserve: float = 0.0

    @classmethod
    def measured(cls, minutes: float | None, steps: int | None) -> Budget:
        """A budget that includes measuring: a quarter of the minutes is left for the result."""
        return cls(minutes, steps, min(MOST_RESERVED, 15 * (minutes or 0)))

    @property
    def validation(self) -> float:
        """Seconds that decoding held-out holes may take at a time; a thirtieth of the minutes."""
        return math.inf if self.minutes is None else 2 * self.minutes

    def progress(self, step: int, elapsed: float) -> float:
        """The fraction spent after `step` steps and `elapsed` seconds."""
        if self.steps is not None:
            return step / self.steps
        assert self.minutes is not None
        return elapsed / (60 * self.minutes - self.reserve)


@dataclass(frozen=True)
class Validation:
    """Held-out samples for the losses and held-out holes for the decoder.

    seconds  after which no further hole is decoded
    """

    samples: Samples
    cursors: list[Cursor]
    seconds: float = math.inf

    def __call__(
        self, denoiser: Transformer, trainer: Trainer, canvases: bool, like: Mapping[str, float]
    ) -> dict[str, float]:
        """Measure a denoiser; `canvases` tells whether it has been trained on canvases.

        Of the holes, as many are decoded as there is time for, of every kind; exactly as many as
        were for the figures `like`, so that two models can be compared.
        """
        tokenizer = trainer.tokenizer
        denoiser.eval()
        with trainer.accelerator.autocast():
            result = losses(denoiser, tokenizer, self.samples, rows=64)
        model = Trainable(denoiser, tokenizer, "in training", {}).decoder()
        modes = (("diffuse", "ar") if canvases else ("ar",)) if self.cursors else ()
        for mode in modes:
            known = like.get(f"validation_holes_{mode}")
            holes = self.cursors if known is None else self.cursors[: int(known)]
            seconds = math.inf if known is not None else self.seconds / len(modes)
            result |= exact_match(model, holes, mode, seconds)
        denoiser.train()
        return {f"validation_{name}": round(value, 4) for name, value in result.items()}


class Run:
    """A run: its folder, its budget and the training loop.

    `began` is the start of the program on the monotonic clock, from which a slice is counted.
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
        self.budget = Budget.measured(args.minutes, args.steps)
        self.state, self.metrics = args.out / "state.pt", args.out / "metrics.jsonl"
        self.drawn = time.monotonic()  # time of the last page update
        self.page_error = ""  # the last error reported for the page
        # The longest duration of each so far, in seconds.
        self.longest = dict.fromkeys(("step", "save", "model", "validation"), 0.0)
        with writing(args.out):
            args.out.mkdir(parents=True, exist_ok=True)
        with self.timed("save"):
            if args.resume:
                trainer.restore(self.state, identity)
            else:
                trainer.save(self.state, identity)

    @property
    def progress(self) -> float:
        """The fraction of the budget that is spent."""
        return self.budget.progress(self.trainer.step, self.trainer.elapsed)

    @property
    def canvases(self) -> bool:
        """Whether canvases have been trained."""
        recipe = self.trainer.recipe
        return bool(recipe.chain_alone) or recipe.next_token_share < min(1.0, self.progress)

    def canvas_lengths(self) -> Iterator[int]:
        """Yield the canvas length of each step from the current one on.

        It counts steps itself, because worker processes request batches ahead of training.
        """
        step = self.trainer.step
        while True:
            spent = self.budget.progress(step, self.trainer.elapsed)
            yield self.trainer.recipe.canvas_length(spent)
            step += 1

    def train(self) -> bool:
        """Train and write a checkpoint; True if the budget is spent, False if stopped before.

        A finished run is left unchanged.
        """
        if self.args.resume and self.had_finished():
            self.trainer.shut_down()
            return True
        with self.failures_explained():
            finished = self.loop()
            self.write_model(self.trainer.model())
            if finished:
                self.finish()
            elif self.main:
                at = self.trainer.step
                print(f"stopped at step {at}; continue with --resume", file=sys.stderr)
        self.trainer.shut_down()
        return finished

    def had_finished(self) -> bool:
        """Whether the resumed run had already finished; if not, record that it resumes."""
        step = self.trainer.step
        (finished,) = self.trainer.any_process(self.main and self.is_finished())
        if self.main and finished:
            print(
                f"{self.args.out}: finished at step {step}; to continue training, give its model "
                "to --init and another --out",
                file=sys.stderr,
            )
        elif self.main:
            truncate_metrics(self.metrics, step)
            self.append({"event": "resumed", "why": f"from step {step}"})
        return finished

    def is_finished(self) -> bool:
        """Whether the budget is spent and `finish` has written the checkpoint.

        Only that checkpoint is from the last step and includes validation figures.
        """
        try:
            training = checkpoint.load(self.args.out / "model").config["training"]
            found = training["optimiser_steps"], "validation_bound" in training
        except (CheckpointError, KeyError):
            return False
        return self.progress >= 1 and found == (self.trainer.step, True)

    def loop(self) -> bool:
        """Train, save and validate; True if the budget is spent, False if stopped before.

        Even the shortest slice takes one step.
        """
        from tqdm import tqdm

        trainer, args = self.trainer, self.args
        first, saved = trainer.step, trainer.elapsed
        bar_format = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        bar = tqdm(
            total=100, initial=100 * self.progress, bar_format=bar_format, disable=not self.main
        )
        with GracefulStop() as stop, bar:
            batches = trainer.batches(self.canvas_lengths())
            while True:
                left = self.seconds_left()
                unvalidated = trainer.elapsed - trainer.validated
                stopped, validate, save = trainer.any_process(
                    stop.requested or (left <= 0 and trainer.step > first),
                    self.main
                    and unvalidated > args.validate_every
                    and left > self.longest["validation"],
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
                    bar.set_postfix_str("validating")
                    model = trainer.model()
                    self.write_model(model, self.validate(model))
                    trainer.validated = trainer.elapsed  # however long it took, steps come next
                    bar.n = min(100.0, 100 * self.progress)
                    continue  # what it took may have been the rest of the budget
                with self.timed("step"):
                    entry = trainer.train_step(batches, self.progress)
                self.append(entry)
                for event, why in trainer.events:
                    self.append({"event": event, "why": why})
                trainer.events.clear()
                if trainer.skipped >= PATIENCE:
                    trainer.restore_last_good(self.state)
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
        """Seconds left in the slice after one more step and the last save; infinite without one."""
        if self.args.slice is None:
            return math.inf
        # Until a checkpoint was written, assume that it takes no longer than the larger state.
        end = (
            self.longest["save"]
            + (self.longest["model"] or self.longest["save"])
            + self.longest["step"]
        )
        return float(60 * self.args.slice - (time.monotonic() - self.began) - end)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Record the longest duration of this kind of work."""
        began = time.monotonic()
        yield
        self.longest[what] = max(self.longest[what], time.monotonic() - began)

    @contextmanager
    def failures_explained(self) -> Iterator[None]:
        """Turn failures of memory, devices and workers into a DataError that says how to resume."""
        trainer = self.trainer
        try:
            yield
        except WorkerLostError as error:
            if trainer.world == 1:  # no step is in progress, as it might be in other processes
                trainer.save(self.state, self.identity)
            raise DataError(
                f"a worker process was killed at step {trainer.step} ({error}); the last state is "
                f"in {self.state}: continue with --resume, and with fewer --workers if memory is "
                "short"
            ) from error
        except RuntimeError as error:
            at = f"step {trainer.step} ({str(error).splitlines()[0]})"
            if is_out_of_memory(error):
                raise DataError(
                    f"out of memory on {trainer.device} at {at}; the last state is in "
                    f"{self.state}: continue with --resume --micro-batch "
                    f"{max(1, trainer.micro_batch // 2)}"
                ) from error
            if is_device_lost(error):
                raise DataError(
                    f"the device {trainer.device} failed at {at}; the last state is in "
                    f"{self.state}: continue with --resume"
                ) from error
            raise

    def save(self, last: bool = False) -> None:
        """Save the state, and update the page unless that was done recently."""
        with self.timed("save"):
            self.trainer.save(self.state, self.identity)
            if self.main and (last or time.monotonic() - self.drawn > DRAW_EVERY):
                self.draw()

    def draw(self) -> None:
        """Update the page; a failure is recorded once and does not end the run."""
        try:
            from talaria.finetune.run_page import write_run_page

            write_run_page(self.args.out, self.progress)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if reason != self.page_error:
                self.append({"event": "no page", "why": reason})
            self.page_error = reason
        self.drawn = time.monotonic()

    def append(self, entry: dict[str, Any]) -> None:
        """Append a line to the metrics, in the main process."""
        trainer = self.trainer
        if self.main:
            line = {"step": trainer.step, "elapsed": round(trainer.elapsed, 1), **entry}
            with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def validate(
        self,
        model: Transformer,
        event: Mapping[str, Any] = NOTHING,
        like: Mapping[str, float] = NOTHING,
    ) -> dict[str, float]:
        """Measure a model in the main process, and append the figures to the metrics.

        The time that this takes is part of the budget. `like` is as in `Validation`.
        """
        if not self.main:
            return {}
        began = time.monotonic()
        with self.timed("validation"):
            figures = self.validation(model, self.trainer, self.canvases, like)
        self.trainer.elapsed += time.monotonic() - began
        self.append({**event, **figures})
        return figures

    def write_model(self, model: Transformer, figures: Mapping[str, float] = NOTHING) -> None:
        """Write a model as the run's checkpoint, in the main process."""
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
            save(folder, model, trainer.tokenizer, training=training)

    def finish(self) -> None:
        """Write the final checkpoint: the last weights or their average, whichever is better."""
        trainer = self.trainer
        model = trainer.model()
        final = self.validate(model)
        if trainer.averaged:
            average = trainer.model(trainer.average)
            event = {"event": "averaged", "why": f"{trainer.averaged} steps"}
            figures = self.validate(average, event, final)
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
    """A sort key for validation figures: greater is better.

    Compares exact matches of the decoder if known, then the bound, then the chain loss. Before
    any training on canvases it compares the next-token loss.
    """
    if not canvases:
        return (-figures["validation_next_token_loss"],)
    exact = figures.get("validation_exact_diffuse_all", 0.0)
    return exact, -figures["validation_bound"], -figures.get("validation_chain", 0.0)

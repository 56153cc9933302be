"""`talaria train`: train a denoiser, next-token first, then with the joint objective.

The first part of the budget goes to the next token alone, which learns faster
(NBDiff, arXiv 2512.06776); then canvases join in, their length growing from 1.
A run's folder holds `state.pt` (all that a resumed run needs), `metrics.jsonl`
and, at the end, `model/`, a checkpoint that `talaria infill --model` takes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coder import checkpoint
from coder.denoiser import Denoiser, DenoiserConfig
from coder.errors import DataError, UsageError
from coder.tokenizer import Tokenizer
from finetune.corpus import corpus_hash, read_corpus
from finetune.objective import Objective, make_batch
from finetune.samples import Samples
from finetune.validate import validate

COUNTERS = ("step", "elapsed", "tokens")  # of a trainer: what it has spent


@dataclass(frozen=True)
class Recipe:
    """What is trained and how; all that decides the result, with corpus and tokenizer.

    rows                 sequences per optimiser step
    canvas_tokens        noised positions beside each row in the joint part
    max_middle           longest middle, in tokens
    middle_weight        how often the next tokens of a middle count, against 1 elsewhere
    next_token_share     share of the budget for the next token alone
    growth_share         share of the joint part in which the canvas grows to its length
    learning_rate        of the matrices (Muon), at its peak
    embedding_learning_rate  of the embedding (AdamW), at its peak
    warmup, decay_from   shares of the budget: the rate rises until the first and
                         falls to zero, linearly, from the second
    """

    layers: int = 6
    width: int = 256
    heads: int = 4
    context_length: int = 512
    block_length: int = 32
    rows: int = 16
    canvas_tokens: int = 256
    max_middle: int = 128
    middle_weight: float = 4.0
    next_token_share: float = 0.6
    growth_share: float = 0.3
    learning_rate: float = 0.01
    embedding_learning_rate: float = 0.003
    weight_decay: float = 0.05
    warmup: float = 0.02
    decay_from: float = 0.4
    seed: int = 0

    def shape(self, vocab_size: int) -> DenoiserConfig:
        """The denoiser's configuration; UsageError if there can be none."""
        try:
            return DenoiserConfig(
                vocab_size,
                self.layers,
                self.width,
                self.heads,
                self.context_length,
                self.block_length,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error

    def rate(self, progress: float) -> float:
        """The learning rate, as a share of its peak, after a share of the budget."""
        rising = (progress + 1e-3) / max(self.warmup, 1e-3)
        falling = (1 - progress) / max(1 - self.decay_from, 1e-3)
        return max(0.0, min(1.0, rising, falling))

    def canvas_length(self, progress: float) -> int:
        """The block length after a share of the budget; 0 while only the next token counts."""
        if progress < self.next_token_share:
            return 0
        joint = (progress - self.next_token_share) / (1 - self.next_token_share)
        if joint >= self.growth_share or self.block_length == 1:
            return self.block_length
        doublings = math.log2(self.block_length)
        return int(2 ** math.floor(joint / self.growth_share * doublings))


def make_optimizers(denoiser: Denoiser, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the embedding; each group remembers its peak rate."""
    matrices = [p for p in denoiser.blocks.parameters() if p.ndim == 2]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [denoiser.embed.weight],
            lr=recipe.embedding_learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.0,
        ),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def flag(name: str) -> str:
    """The flag of an option."""
    return f"--{name.replace('_', '-')}"


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line of `talaria train`; every field of the recipe is a flag."""
    parser = argparse.ArgumentParser(prog="talaria train", description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--tokenizer", type=Path, default=Path("data/tokenizer.json"))
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="budget of training time")
    budget.add_argument("--steps", type=int, help="budget of optimiser steps")
    parser.add_argument("--init", metavar="MODEL", help="start from the weights of this model")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument("--save-every", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--validate-every", type=float, default=300, metavar="SECONDS")
    parser.add_argument("--micro-batch", type=int, default=8, help="rows in memory at once")
    parser.add_argument("--compile", action="store_true", help="compile; pays after a minute")
    for name, default in asdict(Recipe()).items():
        parser.add_argument(
            flag(name),
            type=type(default),
            default=default,
            help=f"(default {default})",
        )
    args = parser.parse_args(argv)
    positive = "minutes steps save_every validate_every micro_batch rows canvas_tokens max_middle"
    for name in [*positive.split(), "learning_rate", "embedding_learning_rate", "middle_weight"]:
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{flag(name)} is {value}; it must be above 0")
    for name in ("next_token_share", "growth_share", "warmup", "decay_from"):
        value = getattr(args, name)
        if not 0 <= value <= 1:
            raise UsageError(f"{flag(name)} is {value}; it must lie between 0 and 1")
    if args.rows % args.micro_batch:
        raise UsageError(
            f"--rows {args.rows} must be a multiple of --micro-batch {args.micro_batch}"
        )
    if args.canvas_tokens % args.block_length:
        raise UsageError(
            f"--canvas-tokens {args.canvas_tokens} must be a multiple of "
            f"--block-length {args.block_length}"
        )
    return args


class Trainer:
    """A run in progress: the model, its optimisers and what has been spent so far."""

    def __init__(
        self,
        recipe: Recipe,
        denoiser: Denoiser,
        tokenizer: Tokenizer,
        samples: Samples,
        micro_batch: int,
        compiled: bool,
    ) -> None:
        from accelerate import Accelerator

        self.recipe, self.denoiser, self.tokenizer = recipe, denoiser, tokenizer
        self.samples, self.micro_batch = samples, micro_batch
        self.optimizers = make_optimizers(denoiser, recipe)
        self.accelerator = Accelerator(mixed_precision="bf16")
        objective: nn.Module = Objective(denoiser)
        if compiled:
            objective.compile()
        self.objective = self.accelerator.prepare(objective)
        self.step, self.elapsed, self.tokens = 0, 0.0, 0

    def train_step(self, progress: float) -> dict[str, float]:
        """One optimiser step on the samples that belong to its number.

        `progress` is the share of the budget that is spent. Returns what the
        metrics say of the step; nothing is changed if its loss is not finite.
        """
        began = time.monotonic()
        recipe = self.recipe
        canvas_length, rate = recipe.canvas_length(progress), recipe.rate(progress)
        rng = np.random.default_rng((recipe.seed, 2, self.step))
        parts = recipe.rows // self.micro_batch
        losses = torch.zeros(2)
        for part in range(parts):
            first = self.step * recipe.rows + part * self.micro_batch
            batch = make_batch(
                [self.samples[i] for i in range(first, first + self.micro_batch)],
                self.tokenizer,
                recipe.context_length,
                max(1, canvas_length),
                recipe.canvas_tokens if canvas_length else 0,
                rng,
                recipe.middle_weight,
            ).to(self.accelerator.device)
            next_token, bound = self.objective(batch)
            self.accelerator.backward((next_token + bound) / parts)
            losses += torch.stack((next_token, bound)).detach().float().cpu() / parts
        if not losses.isfinite().all():
            raise DataError(
                f"the loss is {losses.tolist()} at step {self.step}; go on from the last state "
                f"with --resume, or start anew with a --learning-rate below {recipe.learning_rate}"
            )
        self.accelerator.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds = time.monotonic() - began
        self.step += 1
        self.elapsed += seconds
        self.tokens += recipe.rows * recipe.context_length
        return {
            "tokens": self.tokens,
            "tokens_per_s": round(recipe.rows * recipe.context_length / seconds),
            "canvas_length": canvas_length,
            "rate": round(rate, 4),
            "next_token_loss": round(float(losses[0]), 4),
            "bound": round(float(losses[1]), 4),
        }

    def validate(self, held_out: Samples) -> dict[str, float]:
        """Both losses on held-out samples, as the metrics name them."""
        self.denoiser.eval()
        with self.accelerator.autocast():
            result = validate(self.denoiser, self.tokenizer, held_out, rows=64)
        self.denoiser.train()
        return {f"validation_{name}": round(value, 4) for name, value in result.items()}

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write all state atomically: a reader finds the old file or the new one."""
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(
                {
                    "identity": identity,
                    "denoiser": self.denoiser.state_dict(),
                    "optimizers": [o.state_dict() for o in self.optimizers],
                    "counters": {name: getattr(self, name) for name in COUNTERS},
                },
                file,
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def restore(self, path: Path, identity: dict[str, Any]) -> None:
        """Take up the state in the file, made by a run of the same identity."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise DataError(f"{path}: nothing to resume; start without --resume") from error
        except Exception as error:  # torch raises many kinds for a damaged file
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: damaged ({reason}); start anew in another --out") from error
        for key, value in identity.items():
            if state["identity"].get(key) != value:
                raise DataError(
                    f"{path}: made with {key} {state['identity'].get(key)!r}, not {value!r}; "
                    "resume with the former settings or start anew in another --out"
                )
        self.denoiser.load_state_dict(state["denoiser"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])


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
    """Train until the budget is spent; an interrupt keeps the state for --resume."""
    args = parse(argv)
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    state, metrics = args.out / "state.pt", args.out / "metrics.jsonl"
    if state.exists() and not args.resume:
        raise UsageError(f"{state} exists; add --resume to go on, or name another --out")
    tokenizer = Tokenizer.load(args.tokenizer)
    train, held_out = (
        Samples(
            read_corpus(args.corpus, split),
            tokenizer,
            recipe.context_length,
            recipe.max_middle,
            recipe.seed,
        )
        for split in ("train", "valid")
    )
    torch.manual_seed(recipe.seed)
    denoiser = Denoiser(recipe.shape(tokenizer.vocab_size))
    if args.init:
        take_weights(denoiser, args.init, args.tokenizer)
    trainer = Trainer(recipe, denoiser, tokenizer, train, args.micro_batch, args.compile)
    identity = {
        "recipe": asdict(recipe),
        "steps": args.steps,
        "init": args.init and checkpoint.digest(checkpoint.find(args.init) / checkpoint.WEIGHTS),
        "corpus": corpus_hash(args.corpus),
        "tokenizer": checkpoint.digest(args.tokenizer),
    }
    if args.resume:
        trainer.restore(state, identity)
        forget_after(metrics, trainer.step)
    args.out.mkdir(parents=True, exist_ok=True)
    finished = loop(trainer, args, state, metrics, identity, held_out)
    trainer.save(state, identity)
    if not finished:
        print(f"stopped at step {trainer.step}; go on with --resume", file=sys.stderr)
        return 1
    final = trainer.validate(held_out)
    append(metrics, trainer, final)
    training = {
        **identity,
        "minutes": round(trainer.elapsed / 60, 1),
        "optimiser_steps": trainer.step,
        "tokens": trainer.tokens,
        **final,
    }
    checkpoint.save(args.out / "model", denoiser, tokenizer, training=training)
    print(
        f"{args.out / 'model'}: {trainer.step} steps, {trainer.tokens:,} tokens; held out: "
        f"next token {final['validation_next_token_loss']:.3f}, "
        f"bound {final['validation_bound']:.3f} nats"
    )
    return 0


def loop(
    trainer: Trainer,
    args: argparse.Namespace,
    state: Path,
    metrics: Path,
    identity: dict[str, Any],
    held_out: Samples,
) -> bool:
    """Train, save and validate until the budget is spent (True) or somebody asks to stop."""
    from tqdm import tqdm

    def progress() -> float:
        if args.steps:
            return float(trainer.step / args.steps)
        return float(trainer.elapsed / (60 * args.minutes))

    saved = validated = trainer.elapsed
    shape = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    with Stop() as stop, tqdm(total=100, bar_format=shape) as bar:
        while progress() < 1 and not stop.asked:
            entry = trainer.train_step(progress())
            append(metrics, trainer, entry)
            bar.n = min(100.0, 100 * progress())
            bar.set_postfix_str(
                f"step {trainer.step}, {entry['tokens_per_s']} tokens/s, next token "
                f"{entry['next_token_loss']:.2f}, bound {entry['bound']:.2f}, "
                f"canvas {entry['canvas_length']}"
            )
            if trainer.elapsed - validated > args.validate_every:
                append(metrics, trainer, trainer.validate(held_out))
                validated = trainer.elapsed
            if trainer.elapsed - saved > args.save_every:
                trainer.save(state, identity)
                saved = trainer.elapsed
        return progress() >= 1


def append(metrics: Path, trainer: Trainer, entry: dict[str, float]) -> None:
    """Add a line to the metrics."""
    line = {"step": trainer.step, "elapsed": round(trainer.elapsed, 1), **entry}
    with metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def take_weights(denoiser: Denoiser, model: str, tokenizer: Path) -> None:
    """Give the denoiser the weights of a model of the same shape and tokenizer."""
    loaded = checkpoint.load(model).denoiser
    own = checkpoint.find(model) / checkpoint.TOKENIZER
    if checkpoint.digest(own) != checkpoint.digest(tokenizer):
        raise UsageError(
            f"--init {model} has another tokenizer than --tokenizer {tokenizer}; "
            "give the tokenizer.json in the model's folder"
        )
    if loaded.config != denoiser.config:
        raise UsageError(
            f"--init {model} has the shape {loaded.config}, "
            f"the recipe asks for {denoiser.config}; give both the same shape"
        )
    denoiser.load_state_dict(loaded.state_dict())


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

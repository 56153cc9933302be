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


@dataclass(frozen=True)
class Recipe:
    """What is trained and how; all that decides the result, with corpus and tokenizer.

    rows                 sequences per optimiser step
    canvas_tokens        noised positions beside each row in the joint part
    max_middle           longest middle, in tokens
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
    next_token_share: float = 0.6
    growth_share: float = 0.3
    learning_rate: float = 0.01
    embedding_learning_rate: float = 0.003
    weight_decay: float = 0.05
    warmup: float = 0.02
    decay_from: float = 0.4
    seed: int = 0

    def rate(self, progress: float) -> float:
        """The learning rate, as a share of its peak, after a share of the budget."""
        rising = (progress + 1e-3) / self.warmup
        falling = (1 - progress) / (1 - self.decay_from)
        return max(0.0, min(1.0, rising, falling))

    def canvas_length(self, progress: float) -> int:
        """The block length after a share of the budget; 0 while only the next token counts."""
        if progress < self.next_token_share:
            return 0
        joint = (progress - self.next_token_share) / (1 - self.next_token_share)
        if joint >= self.growth_share:
            return self.block_length
        doublings = math.log2(self.block_length)
        return int(2 ** math.floor(joint / self.growth_share * doublings))


@dataclass
class Run:
    """The state of a run between two steps: what is saved and resumed."""

    denoiser: Denoiser
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    elapsed: float = 0.0
    tokens: int = 0

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write all state atomically: a reader finds the old file or the new one."""
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(
                {
                    "identity": identity,
                    "denoiser": self.denoiser.state_dict(),
                    "optimizers": [o.state_dict() for o in self.optimizers],
                    "counters": {"step": self.step, "elapsed": self.elapsed, "tokens": self.tokens},
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
            raise DataError(f"{path}: damaged ({error}); start anew in another --out") from error
        for key, value in identity.items():
            if state["identity"].get(key) != value:
                raise DataError(
                    f"{path}: made with {key} {state['identity'].get(key)!r}, not {value!r}; "
                    "resume with the former settings or start anew in another --out"
                )
        self.denoiser.load_state_dict(state["denoiser"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name, value in state["counters"].items():
            setattr(self, name, value)


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


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line of `talaria train`; every field of the recipe is a flag."""
    parser = argparse.ArgumentParser(prog="talaria train", description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--tokenizer", type=Path, default=Path("data/tokenizer.json"))
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="budget of training time")
    budget.add_argument("--steps", type=int, help="budget of optimiser steps")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument("--save-every", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--validate-every", type=float, default=300, metavar="SECONDS")
    parser.add_argument("--micro-batch", type=int, default=8, help="rows in memory at once")
    parser.add_argument("--compile", action="store_true", help="compile; pays after a minute")
    for name, default in asdict(Recipe()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            help=f"(default {default})",
        )
    args = parser.parse_args(argv)
    for name in ("minutes", "steps", "save_every", "validate_every", "micro_batch", "rows"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be above 0")
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


def main(argv: list[str]) -> int:
    """Train until the budget is spent; an interrupt keeps the state for --resume."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from tqdm import tqdm

    args = parse(argv)
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    args.out.mkdir(parents=True, exist_ok=True)
    state, metrics = args.out / "state.pt", args.out / "metrics.jsonl"
    if state.exists() and not args.resume:
        raise UsageError(f"{state} exists; add --resume to go on, or name another --out")

    accelerator = Accelerator(mixed_precision="bf16")
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
    try:
        config = DenoiserConfig(
            tokenizer.vocab_size,
            recipe.layers,
            recipe.width,
            recipe.heads,
            recipe.context_length,
            recipe.block_length,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    set_seed(recipe.seed)
    denoiser = Denoiser(config)
    run = Run(denoiser, make_optimizers(denoiser, recipe))
    identity = {
        "recipe": asdict(recipe),
        "steps": args.steps,
        "corpus": corpus_hash(args.corpus),
        "tokenizer": checkpoint.digest(args.tokenizer),
    }
    if args.resume:
        run.restore(state, identity)
        forget_after(metrics, run.step)
    objective: nn.Module = Objective(denoiser)
    if args.compile:
        objective.compile()
    objective = accelerator.prepare(objective)

    def progress() -> float:
        if args.steps:
            return float(run.step / args.steps)
        return float(run.elapsed / (60 * args.minutes))

    def report(entry: dict[str, Any]) -> None:
        with metrics.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"step": run.step, "elapsed": round(run.elapsed, 1), **entry}) + "\n"
            )

    def measure() -> dict[str, float]:
        denoiser.eval()
        with accelerator.autocast():
            result = validate(denoiser, tokenizer, held_out, rows=64)
        denoiser.train()
        return {f"validation_{name}": round(float(value), 4) for name, value in result.items()}

    bar = tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}")
    saved = validated = run.elapsed
    tick = time.monotonic()
    try:
        while progress() < 1:
            canvas_length = recipe.canvas_length(progress())
            rate = recipe.rate(progress())
            losses = train_step(
                objective, accelerator, run, recipe, train, tokenizer, args.micro_batch,
                canvas_length, rate,
            )  # fmt: skip
            if not all(map(math.isfinite, losses)):
                raise DataError(
                    f"the loss is {losses} at step {run.step}; resume from the last state with "
                    f"--resume, or start anew with a --learning-rate below {recipe.learning_rate}"
                )
            now = time.monotonic()
            seconds, tick = now - tick, now
            speed = round(recipe.rows * recipe.context_length / seconds)
            run.step += 1
            run.elapsed += seconds
            run.tokens += recipe.rows * recipe.context_length
            report(
                {
                    "tokens": run.tokens,
                    "tokens_per_s": speed,
                    "canvas_length": canvas_length,
                    "rate": round(rate, 4),
                    "next_token_loss": round(losses[0], 4),
                    "bound": round(losses[1], 4),
                }
            )
            bar.n = min(100.0, 100 * progress())
            bar.set_postfix_str(
                f"step {run.step}, {speed} tokens/s, next token {losses[0]:.2f}, "
                f"bound {losses[1]:.2f}, canvas {canvas_length}"
            )
            if run.elapsed - validated > args.validate_every:
                report(measure())
                validated = run.elapsed
                tick = time.monotonic()
            if run.elapsed - saved > args.save_every:
                run.save(state, identity)
                saved = run.elapsed
    except KeyboardInterrupt:
        bar.close()
        run.save(state, identity)
        print(f"interrupted at step {run.step}; go on with --resume")
        return 130
    bar.close()
    run.save(state, identity)
    final = measure()
    report(final)
    checkpoint.save(
        args.out / "model",
        denoiser,
        tokenizer,
        training={
            **identity,
            "minutes": round(run.elapsed / 60, 1),
            "optimiser_steps": run.step,
            "tokens": run.tokens,
            **final,
        },
    )
    print(f"{args.out / 'model'}: {run.step} steps, {run.tokens:,} tokens, {final}")
    return 0


def train_step(
    objective: nn.Module,
    accelerator: Any,
    run: Run,
    recipe: Recipe,
    samples: Samples,
    tokenizer: Tokenizer,
    micro_batch: int,
    canvas_length: int,
    rate: float,
) -> tuple[float, float]:
    """One optimiser step on the samples that belong to its number; the mean losses."""
    rng = np.random.default_rng((recipe.seed, 2, run.step))
    parts = recipe.rows // micro_batch
    totals = torch.zeros(2)
    for part in range(parts):
        first = run.step * recipe.rows + part * micro_batch
        batch = make_batch(
            [samples[i] for i in range(first, first + micro_batch)],
            tokenizer,
            recipe.context_length,
            max(1, canvas_length),
            recipe.canvas_tokens if canvas_length else 0,
            rng,
        ).to(accelerator.device)
        next_token, bound = objective(batch)
        accelerator.backward((next_token + bound) / parts)
        totals += torch.stack((next_token, bound)).detach().float().cpu() / parts
    accelerator.clip_grad_norm_(run.denoiser.parameters(), 1.0)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(totals[0]), float(totals[1])


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

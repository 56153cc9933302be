"""`talaria train`: train a denoiser, next-token first, then with the joint objective.

The first part of the budget goes to the next token alone, which learns faster
(NBDiff, arXiv 2512.06776); then canvases join in, their length growing from 1.
A run's folder holds `state.pt` (all that a resumed run needs), `metrics.jsonl`,
`run.html` (its plots) and `model/`, a checkpoint that `talaria infill --model`
takes, written at each validation and at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from talaria.coder import checkpoint
from talaria.coder.cli import guarded
from talaria.coder.errors import DataError, UsageError
from talaria.coder.tokenizer import Tokenizer
from talaria.coder.transformer import Transformer
from talaria.finetune.corpus import corpus_hash, read_nonempty
from talaria.finetune.recipe import Recipe, flag
from talaria.finetune.run import Run, Validation
from talaria.finetune.samples import Samples
from talaria.finetune.trainer import Trainer
from talaria.finetune.validate import choose_cursors, held_out_samples


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
    parser.add_argument(
        "--slice", type=float, metavar="MINUTES", help="end so long after the start"
    )
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
    if args.compile and " " in torch.__file__:
        raise UsageError(
            f"--compile: torch's compiler cannot work where its path has a blank "
            f"({Path(torch.__file__).parent}); leave it out, or move the environment"
        )
    return args


def main(argv: list[str]) -> int:
    """Train until the budget or the slice is spent; an interrupt keeps the state for --resume."""
    began = time.monotonic()
    args = parse(argv)
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    if (args.out / "state.pt").exists() and not args.resume:
        raise UsageError(f"{args.out} holds a run; add --resume to go on, or name another --out")
    if args.resume and not (args.out / "state.pt").exists():
        raise DataError(f"{args.out / 'state.pt'}: nothing to resume; start without --resume")
    # Workers are processes of their own; threads within them would only get in the way.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = Tokenizer.load(args.tokenizer)
    held_out = read_nonempty(args.corpus, "valid")
    train = Samples(
        read_nonempty(args.corpus, "train"),
        tokenizer,
        recipe.context_length,
        recipe.max_middle,
        recipe.seed,
        exercises=read_nonempty(args.exercises, "train") if args.exercises else (),
        exercise_share=recipe.exercise_share,
        spans=recipe.span_shares(),
    )
    torch.manual_seed(recipe.seed)
    denoiser = Transformer(recipe.shape(tokenizer.vocab_size))
    init = None
    if recipe.chain_alone:
        if not args.init:
            raise UsageError("--chain-alone is 1; give the model whose weights stay with --init")
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(name.startswith("links."))
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
        "planned_minutes": args.minutes,
        "init": init,
        "corpus": corpus_hash(args.corpus),
        "exercises": args.exercises and corpus_hash(args.exercises),
        "tokenizer": checkpoint.digest(args.tokenizer),
    }
    validation = Validation(
        held_out_samples(held_out, tokenizer, recipe.context_length),
        choose_cursors(held_out, args.cursors) if args.cursors else [],
    )
    finished = Run(args, trainer, identity, validation, began).train()
    return 0 if finished or args.slice else 1


def take_weights(denoiser: Transformer, model: str, tokenizer: Path) -> str:
    """Give the denoiser the weights of a model of the same shape and tokenizer; their hash.

    The model may lack the chain, which then begins anew.
    """
    loaded = checkpoint.load_trainable(model)
    if loaded.config["sha256"][checkpoint.TOKENIZER] != checkpoint.digest(tokenizer):
        raise UsageError(
            f"--init {model} has another tokenizer than --tokenizer {tokenizer}; "
            "give the tokenizer.json in the model's folder"
        )
    config = loaded.denoiser.config
    lacks = not config.chain_layers
    if lacks:
        config = replace(config, chain_layers=denoiser.config.chain_layers)
    if config != denoiser.config:
        raise UsageError(
            f"--init {model} has the shape {loaded.denoiser.config}, "
            f"the recipe asks for {denoiser.config}; give both the same shape"
        )
    denoiser.load_state_dict(loaded.denoiser.state_dict(), strict=not lacks)
    return loaded.weights_hash


if __name__ == "__main__":  # for `accelerate launch`, and where nothing is installed
    sys.exit(guarded("talaria train", lambda: main(sys.argv[1:])))

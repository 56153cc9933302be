"""`talaria train`: train a denoiser, first on next tokens, then with the joint objective.

The first part of the budget trains the next-token loss alone, which learns faster (NBDiff,
arXiv 2512.06776); then canvases are added, their length growing from 1. The run's folder holds
`state.pt` (everything needed to resume), `metrics.jsonl`, `run.html` (plots) and `model/`, a
checkpoint for `talaria infill --model`, written at each validation and at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from talaria.coder import checkpoint, files
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import DataError, Interrupted, UsageError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.families.talaria_torch import Transformer
from talaria.finetune.corpus import corpus_hash, read_nonempty
from talaria.finetune.recipe import Recipe, flag
from talaria.finetune.run import Budget, Run, Validation
from talaria.finetune.samples import Samples
from talaria.finetune.trainable import load_trainable
from talaria.finetune.trainer import Trainer
from talaria.finetune.validate import choose_cursors, held_out_samples


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line of `talaria train`; every field of the recipe is a flag."""
    parser = Parser(prog="talaria train", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--corpus", type=Path, default=Path("data/corpus"), help="what `talaria corpus` made"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=Path("data/tokenizer.json"),
        help="what `talaria tokenizer` made",
    )
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="total time of training, validation included")
    budget.add_argument("--steps", type=int, help="total optimiser steps")
    parser.add_argument(
        "--slice", type=float, metavar="MINUTES", help="save and exit after this time"
    )
    parser.add_argument("--init", metavar="MODEL", help="start from this model's weights")
    parser.add_argument("--resume", action="store_true", help="continue from the last saved state")
    parser.add_argument(
        "--save-every",
        type=float,
        default=60,
        metavar="SECONDS",
        help="how often to save the state that --resume goes on from",
    )
    parser.add_argument(
        "--validate-every",
        type=float,
        default=600,
        metavar="SECONDS",
        help="how often to measure and to write the checkpoint",
    )
    parser.add_argument(
        "--cursors",
        type=int,
        default=20,
        help="held-out holes of each kind to decode when validating",
    )
    parser.add_argument("--micro-batch", type=int, default=8, help="rows per forward pass")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches")
    parser.add_argument(
        "--compile", action="store_true", help="compile the model, which pays off after a minute"
    )
    parser.add_argument(
        "--dense-masks",
        action="store_true",
        help="use dense masks on GPUs too, not block-sparse ones",
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
            f"--compile: torch's compiler fails if its path contains a space "
            f"({Path(torch.__file__).parent}); omit it, or move the environment"
        )
    return args


def main(argv: list[str]) -> int:
    """Train until the budget or the slice is spent; an interrupt saves the state for --resume.

    Returns 0 if the run finished or a slice ended, 130 if it was interrupted.
    """
    began = time.monotonic()
    args = parse(argv)
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    if (args.out / "state.pt").exists() and not args.resume:
        raise UsageError(
            f"{args.out} holds a run; add --resume to continue it, or name another --out"
        )
    if args.resume and not (args.out / "state.pt").exists():
        raise DataError(f"{args.out / 'state.pt'}: nothing to resume; start without --resume")
    # Batches are prepared by worker processes; tokenizer threads would only compete with them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = TalariaTokenizer.load(args.tokenizer)
    held_out = read_nonempty(args.corpus, "valid")
    train = Samples(
        read_nonempty(args.corpus, "train"),
        tokenizer,
        recipe.context_length,
        recipe.max_middle,
        recipe.seed,
        spans=recipe.span_shares(),
    )
    torch.manual_seed(recipe.seed)
    denoiser = Transformer(recipe.shape(tokenizer.vocab_size))
    init = None
    if recipe.chain_alone:
        if not args.init:
            raise UsageError("--chain-alone is 1; name the model to train a chain for with --init")
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(name.startswith("chain."))
    if args.init:
        init = load_weights(denoiser, args.init, args.tokenizer)
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
        "tokenizer": files.digest(args.tokenizer),
    }
    cursors = choose_cursors(held_out, args.cursors) if args.cursors else []
    validation = Validation(
        held_out_samples(held_out, tokenizer, recipe.context_length),
        # In turns, one of each kind: all kinds are there if time does not suffice for all holes.
        [hole for first in range(args.cursors) for hole in cursors[first :: args.cursors]],
        Budget.measured(args.minutes, args.steps).validation,
    )
    finished = Run(args, trainer, identity, validation, began).train()
    return 0 if finished or args.slice else Interrupted.exit_code


def load_weights(denoiser: Transformer, model: str, tokenizer: Path) -> str:
    """Load the weights of a model with the same shape and tokenizer, and return their hash.

    If the model has no chain, the denoiser's keeps its random weights.
    """
    loaded = load_trainable(model)
    if loaded.config["sha256"][checkpoint.TOKENIZER] != files.digest(tokenizer):
        raise UsageError(
            f"--init {model} and --tokenizer {tokenizer} have different tokenizers; "
            "use the tokenizer.json in the model's folder"
        )
    config = loaded.transformer.config
    chainless = not config.chain_layers
    if chainless:
        config = replace(config, chain_layers=denoiser.config.chain_layers)
    if config != denoiser.config:
        raise UsageError(
            f"--init {model} has the shape {loaded.transformer.config}, "
            f"but the recipe has {denoiser.config}; make them the same"
        )
    denoiser.load_state_dict(loaded.transformer.state_dict(), strict=not chainless)
    return loaded.weights_hash


if __name__ == "__main__":  # for `accelerate launch`
    sys.exit(guarded("talaria train", lambda: main(sys.argv[1:])))

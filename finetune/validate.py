"""`talaria validate`: next-token loss and diffusion bound of a model on held-out packages."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from coder import checkpoint
from coder.denoiser import Denoiser
from coder.errors import UsageError
from coder.tokenizer import Tokenizer
from finetune.corpus import read_corpus
from finetune.objective import Objective, make_batch
from finetune.samples import Samples

CANVAS_TOKENS = 256


@torch.no_grad()
def validate(
    denoiser: Denoiser, tokenizer: Tokenizer, samples: Samples, rows: int, seed: int = 0
) -> dict[str, float]:
    """Mean losses in nats per token over the first `rows` samples, with standard errors.

    The same rows, spans and masks for every model with the same tokenizer and
    context length.
    """
    objective = Objective(denoiser)
    losses = []
    config = denoiser.config
    for row in range(rows):
        batch = make_batch(
            [samples[row]],
            tokenizer,
            config.context_length,
            config.block_length,
            CANVAS_TOKENS,
            np.random.default_rng((seed, 3, row)),
        ).to(denoiser.device)
        losses.append([float(loss) for loss in objective(batch)])
    table = np.array(losses)
    mean = table.mean(0).tolist()
    error = (table.std(0, ddof=1) / math.sqrt(rows)).tolist()
    return {
        "next_token_loss": mean[0],
        "next_token_error": error[0],
        "bound": mean[1],
        "bound_error": error[1],
    }


def main(argv: list[str]) -> int:
    """Print both losses of a model and of the same shape untrained."""
    parser = argparse.ArgumentParser(prog="talaria validate", description=__doc__)
    parser.add_argument("model", nargs="?", help="path or name; the shipped one by default")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--rows", type=int, default=256, help="samples to average over")
    args = parser.parse_args(argv)
    if args.rows < 2:
        raise UsageError(f"--rows is {args.rows}; at least 2 are needed for an error estimate")
    loaded = checkpoint.load(args.model)
    tokenizer, config = loaded.tokenizer, loaded.denoiser.config
    samples = Samples(
        read_corpus(args.corpus, "valid"), tokenizer, config.context_length, CANVAS_TOKENS, seed=0
    )
    torch.manual_seed(0)
    untrained = Denoiser(config).eval()
    for name, denoiser in ((loaded.name, loaded.denoiser), ("untrained", untrained)):
        result = validate(denoiser, tokenizer, samples, args.rows)
        print(
            f"{name}: next token {result['next_token_loss']:.3f} "
            f"± {1.96 * result['next_token_error']:.3f}, diffusion bound {result['bound']:.3f} "
            f"± {1.96 * result['bound_error']:.3f} nats per token ({args.rows} rows, 95 %)"
        )
    return 0

"""`talaria validate`: losses and infilling of a model on held-out packages."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from coder import checkpoint
from coder.checkpoint import Checkpoint
from coder.denoiser import Denoiser
from coder.errors import DataError, UsageError
from coder.infill import Options, infill
from coder.tokenizer import Tokenizer
from finetune.corpus import Document, read_corpus
from finetune.objective import Objective, make_batch
from finetune.samples import SPANS, Samples, choose_span

CANVAS_TOKENS = 256
LONGEST = 500  # characters of a middle that is asked for
LENGTHS = (4, 8, 16, 32)  # tokens: the upper edges of the classes of middles


@torch.no_grad()
def losses(
    denoiser: Denoiser, tokenizer: Tokenizer, samples: Samples, rows: int, seed: int = 0
) -> dict[str, float]:
    """Mean losses in nats per token over the first `rows` samples, with standard errors.

    The same rows, spans and masks for every model with the same tokenizer and
    context length.
    """
    objective = Objective(denoiser)
    found = []
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
        found.append(objective(batch).tolist())
    table = np.array(found)
    mean = table.mean(0).tolist()
    error = (table.std(0, ddof=1) / math.sqrt(rows)).tolist()
    return {
        "next_token_loss": mean[0],
        "next_token_error": error[0],
        "bound": mean[1],
        "bound_error": error[1],
    }


@dataclass(frozen=True)
class Cursor:
    """A hole in a held-out file: what stands around it and what should stand in it."""

    kind: str
    prefix: str
    middle: str
    suffix: str


def choose_cursors(documents: Sequence[Document], each: int, seed: int = 0) -> list[Cursor]:
    """`each` holes of every kind, at random places of random files; never an empty one.

    DataError if the files have no such holes.
    """
    cursors: list[Cursor] = []
    rng = np.random.default_rng((seed, 4))
    for kind in SPANS:
        wanted, tries = len(cursors) + each, 200 * each
        while len(cursors) < wanted:
            tries -= 1
            if tries < 0 or not documents:
                raise DataError(f"the held-out files have too few holes of the kind {kind}")
            text = documents[int(rng.integers(len(documents)))].text
            at = text.rfind("\n", 0, int(rng.integers(len(text) + 1))) + 1
            span = choose_span(text[at : at + 2000], kind, rng)
            if span is None:
                continue
            begin, end = at + span[0], at + span[1]
            middle = text[begin:end]
            if middle.strip() and len(middle) <= LONGEST:
                cursors.append(Cursor(kind, text[:begin], middle, text[end:]))
    return cursors


def exact_match(model: Checkpoint, cursors: Sequence[Cursor], mode: str) -> dict[str, float]:
    """Shares of middles that come out exactly, blanks at their ends aside, by the real decoder.

    Over all cursors, by kind and by length class in tokens; and the tokens per
    forward over all.
    """
    options = Options(mode=mode, max_nfe=64)  # type: ignore[arg-type]
    found: dict[str, list[bool]] = defaultdict(list)
    tokens = nfe = 0
    for cursor in cursors:
        result = infill(model, cursor.prefix, cursor.suffix, options)
        right = result.best.text.strip() == cursor.middle.strip()
        length = len(model.tokenizer.encode(cursor.middle))
        edge = next((edge for edge in LENGTHS if length <= edge), None)
        for name in ("all", cursor.kind, f"to_{edge}" if edge else f"over_{LENGTHS[-1]}"):
            found[name].append(right)
        tokens += len(result.best.tokens)
        nfe += result.nfe
    shares = {f"exact_{mode}_{name}": sum(hits) / len(hits) for name, hits in found.items()}
    return {**shares, f"tokens_per_forward_{mode}": tokens / max(1, nfe)}


def main(argv: list[str]) -> int:
    """Print losses and exact matches of a model, and the losses of the same shape untrained."""
    parser = argparse.ArgumentParser(prog="talaria validate", description=__doc__)
    parser.add_argument("model", nargs="?", help="path or name; the shipped one by default")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--rows", type=int, default=256, help="samples to average losses over")
    parser.add_argument("--cursors", type=int, default=0, help="holes of each kind to fill")
    args = parser.parse_args(argv)
    if args.rows < 2:
        raise UsageError(f"--rows is {args.rows}; at least 2 are needed for an error estimate")
    if args.cursors < 0:
        raise UsageError(f"--cursors is {args.cursors}; it must be 0 or more")
    loaded = checkpoint.load(args.model)
    tokenizer, config = loaded.tokenizer, loaded.denoiser.config
    documents = read_corpus(args.corpus, "valid")
    samples = Samples(documents, tokenizer, config.context_length, CANVAS_TOKENS, seed=0)
    torch.manual_seed(0)
    untrained = Denoiser(config).eval()
    for name, denoiser in ((loaded.name, loaded.denoiser), ("untrained", untrained)):
        result = losses(denoiser, tokenizer, samples, args.rows)
        print(
            f"{name}: next token {result['next_token_loss']:.3f} "
            f"± {1.96 * result['next_token_error']:.3f}, diffusion bound {result['bound']:.3f} "
            f"± {1.96 * result['bound_error']:.3f} nats per token ({args.rows} rows, 95 %)"
        )
    if args.cursors:
        cursors = choose_cursors(documents, args.cursors)
        for mode in ("diffuse", "ar"):
            for name, share in exact_match(loaded, cursors, mode).items():
                print(f"{name:32}{share:7.3f}")
    return 0

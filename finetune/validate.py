"""`talaria validate`: losses and infilling of a model on held-out packages."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from talaria.coder import checkpoint
from talaria.coder.checkpoint import Checkpoint, Trainable
from talaria.coder.errors import DataError, UsageError
from talaria.coder.infill import Options, infill
from talaria.coder.tokenizer import Tokenizer
from talaria.coder.transformer import Transformer
from talaria.finetune.corpus import CorpusDocument, read_nonempty
from talaria.finetune.objective import Objective, make_batch
from talaria.finetune.samples import SPANS, Samples, choose_span

Float64 = npt.NDArray[np.float64]

CANVAS_TOKENS = 256
MAX_MIDDLE = 128
LONGEST = 500  # characters of a middle that is asked for
LENGTHS = (4, 8, 16, 32)  # tokens: the upper edges of the classes of middles


def held_out_samples(
    documents: Sequence[CorpusDocument], tokenizer: Tokenizer, context_length: int
) -> Samples:
    """The samples that losses are measured on: the same rows whatever recipe is judged."""
    return Samples(documents, tokenizer, context_length, MAX_MIDDLE, seed=0)


@dataclass(frozen=True)
class Measured:
    """Of each row the next-token loss, the bound and the chain's loss, and how long their tokens.

    nats   [rows, 3]; per token; [rows, 2] of a model without a chain
    bytes  as many; mean of the same tokens, weighed as their losses are
    """

    nats: Float64
    bytes: Float64

    def per_byte(self) -> tuple[Float64, Float64]:
        """The losses in nats per byte and their standard errors, as ratios of means.

        Comparable over tokenizers, which nats per token are not: a token that stands
        for more text costs more.
        """
        size = self.bytes.mean(0)
        ratio = self.nats.mean(0) / size
        return ratio, mean_and_error((self.nats - ratio * self.bytes) / size)[1]


def token_bytes(tokenizer: Tokenizer) -> torch.Tensor:
    """The bytes that each token stands for, [vocabulary]; special ones none.

    A token that holds but a part of a character counts as one byte.
    """
    texts = (tokenizer.decode([token]).replace("\ufffd", "?") for token in range(tokenizer.mask))
    sizes = [len(text.encode()) for text in texts]
    return torch.tensor(sizes + [0] * (tokenizer.vocab_size - tokenizer.mask))


@torch.no_grad()
def row_losses(
    denoiser: Transformer, tokenizer: Tokenizer, samples: Samples, rows: int, seed: int = 0
) -> Measured:
    """Next-token loss, bound and chain's loss of each of the first `rows` samples.

    The same rows, spans and masks for every model with the same tokenizer and
    lengths of context and block, so that models can be compared row by row.
    """
    objective = Objective(denoiser, tokenizer.mask)
    config = denoiser.config
    sizes = token_bytes(tokenizer)
    nats, lengths = [], []
    for row in range(rows):
        batch = make_batch(
            [samples[row]],
            tokenizer,
            config.context_length,
            config.block_length,
            CANVAS_TOKENS,
            np.random.default_rng((seed, 3, row)),
        )
        canvases = batch.target, batch.weight  # all of them count for both losses
        counted = ((batch.next_token, batch.next_weight), canvases, canvases)
        lengths.append([float((sizes[t.clamp(min=0)] * w * (t >= 0)).sum()) for t, w in counted])
        nats.append(objective(batch.to(denoiser.device)).tolist())
    columns = 3 if config.chain_layers else 2
    return Measured(np.array(nats)[:, :columns], np.array(lengths)[:, :columns])


def mean_and_error(values: Float64) -> tuple[Float64, Float64]:
    """Means over the rows of a table, and their standard errors."""
    return values.mean(0), values.std(0, ddof=1) / math.sqrt(len(values))


def losses(
    denoiser: Transformer, tokenizer: Tokenizer, samples: Samples, rows: int
) -> dict[str, float]:
    """Mean losses over the first `rows` samples, with their standard errors."""
    measured = row_losses(denoiser, tokenizer, samples, rows)
    mean, error = map(np.ndarray.tolist, mean_and_error(measured.nats))
    means = zip(("next_token_loss", "bound", "chain"), mean, strict=False)
    errors = zip(("next_token_error", "bound_error", "chain_error"), error, strict=False)
    return dict([*means, *errors])


@dataclass(frozen=True)
class Cursor:
    """A hole in a held-out file: what stands around it and what should stand in it."""

    kind: str
    prefix: str
    middle: str
    suffix: str


def choose_cursors(documents: Sequence[CorpusDocument], each: int, seed: int = 0) -> list[Cursor]:
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
    # Enough for the longest middle in both modes: the budget must not decide between them.
    budget = model.denoiser.config.context_length
    options = Options(mode=mode, max_nfe=budget)  # type: ignore[arg-type]
    found: dict[str, list[bool]] = defaultdict(list)
    tokens = nfe = 0
    for cursor in cursors:
        result = infill(model, cursor.prefix, cursor.suffix, options)
        right = result.best.text.strip() == cursor.middle.strip()
        length = len(model.tokenizer.encode(cursor.middle))
        edge = next((edge for edge in LENGTHS if length <= edge), None)
        for name in ("all", cursor.kind, f"to_{edge}" if edge else f"over_{LENGTHS[-1]}"):
            found[name].append(right)
        tokens += result.best.committed
        nfe += result.nfe
    shares = {f"exact_{mode}_{name}": sum(hits) / len(hits) for name, hits in found.items()}
    return {**shares, f"tokens_per_forward_{mode}": tokens / max(1, nfe)}


def main(argv: list[str]) -> int:
    """Print losses and exact matches of models; of several, the differences from the first."""
    parser = argparse.ArgumentParser(prog="talaria validate", description=__doc__)
    parser.add_argument("models", nargs="*", help="paths or names; the shipped one by default")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--rows", type=int, default=256, help="samples to average losses over")
    parser.add_argument("--cursors", type=int, default=0, help="holes of each kind to fill")
    args = parser.parse_args(argv)
    if args.rows < 2:
        raise UsageError(f"--rows is {args.rows}; at least 2 are needed for an error estimate")
    if args.cursors < 0:
        raise UsageError(f"--cursors is {args.cursors}; it must be 0 or more")
    documents = read_nonempty(args.corpus, "valid")
    cursors = choose_cursors(documents, args.cursors) if args.cursors else []
    first: tuple[Trainable, Measured] | None = None
    for name in args.models or [None]:
        model = checkpoint.load_trainable(name)
        config = model.denoiser.config
        samples = held_out_samples(documents, model.tokenizer, config.context_length)
        found = row_losses(model.denoiser, model.tokenizer, samples, args.rows)
        told = described(*mean_and_error(found.nats))
        print(f"{name or model.name}: {told} nats per token ({args.rows} rows, 95 %)")
        print(f"  nats per byte: {described(*found.per_byte())}")
        if first is None:
            first = model, found
        elif other := unlike(first[0], model):
            print(f"  not compared row by row with the first, which has another {other}")
        else:
            both = min(found.nats.shape[1], first[1].nats.shape[1])
            less = mean_and_error(found.nats[:, :both] - first[1].nats[:, :both])
            print(f"  less the first: {described(*less)} nats per token")
        for mode in ("diffuse", "ar") if cursors else ():
            for key, share in exact_match(model, cursors, mode).items():
                print(f"  {key:30}{share:7.3f}")
    if first is not None:
        torch.manual_seed(0)
        model = first[0]
        untrained = Transformer(model.denoiser.config).eval()
        length = model.denoiser.config.context_length
        samples = held_out_samples(documents, model.tokenizer, length)
        found = row_losses(untrained, model.tokenizer, samples, min(args.rows, 32))
        print(f"the first, untrained: {described(*mean_and_error(found.nats))} nats per token")
    return 0


def described(mean: Float64, error: Float64) -> str:
    """The losses with their 95 % intervals."""
    names = ("next token", "diffusion bound", "chain")
    found = zip(names, mean, error, strict=False)  # of a model without a chain, no more than two
    return ", ".join(f"{name} {at:.3f} ± {1.96 * of:.3f}" for name, at, of in found)


def unlike(one: Checkpoint, other: Checkpoint) -> str:
    """What keeps two models from seeing the same rows: their tokenizer or a length; or nothing."""
    tokens = [m.config["sha256"][checkpoint.TOKENIZER] for m in (one, other)]
    if tokens[0] != tokens[1]:
        return "tokenizer: compare nats per byte"
    a, b = one.denoiser.config, other.denoiser.config
    if a.context_length != b.context_length:
        return f"length of context ({a.context_length}, not {b.context_length})"
    if a.block_length != b.block_length:
        return f"length of block ({a.block_length}, not {b.block_length})"
    return ""

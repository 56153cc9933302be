"""`talaria validate`: losses and exact matches of models on held-out packages."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from talaria.coder import checkpoint
from talaria.coder.arguments import Parser
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import DataError, UsageError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.families.talaria_torch import Transformer
from talaria.coder.infill import infill
from talaria.coder.request import Options
from talaria.finetune.batch import make_batch
from talaria.finetune.corpus import CorpusDocument, read_nonempty
from talaria.finetune.objective import Objective
from talaria.finetune.samples import SPANS, Samples, choose_span
from talaria.finetune.trainable import Trainable, load_trainable

Float64 = npt.NDArray[np.float64]

CANVAS_TOKENS = 256
MAX_MIDDLE = 128
LONGEST = 500  # characters of a middle to be decoded
LENGTHS = (4, 8, 16, 32)  # upper limits of the length classes of middles, in tokens


def held_out_samples(
    documents: Sequence[CorpusDocument], tokenizer: TalariaTokenizer, context_length: int
) -> Samples:
    """The samples for measuring losses; they do not depend on the recipe."""
    return Samples(documents, tokenizer, context_length, MAX_MIDDLE, seed=0)


@dataclass(frozen=True)
class RowLosses:
    """Next-token loss, diffusion bound and chain loss of each row, and the lengths of their tokens.

    nats   [rows, 3], per token; [rows, 2] for a model without a chain
    bytes  the same shape: mean bytes of these tokens, weighted like their losses
    """

    nats: Float64
    bytes: Float64

    def per_byte(self) -> tuple[Float64, Float64]:
        """Losses in nats per byte and their standard errors, as ratios of means.

        These compare across tokenizers. Nats per token do not, since longer tokens cost more.
        """
        size = self.bytes.mean(0)
        ratio = self.nats.mean(0) / size
        return ratio, mean_and_error((self.nats - ratio * self.bytes) / size)[1]


def token_bytes(tokenizer: TalariaTokenizer) -> torch.Tensor:
    """The length of each token in bytes, [vocabulary]; 0 for special tokens.

    A token that is only part of a character counts as one byte.
    """
    texts = (tokenizer.decode([token]) for token in range(tokenizer.vocab_size))
    return torch.tensor([len(text.replace("\ufffd", "?").encode()) for text in texts])


@torch.no_grad()
def row_losses(
    denoiser: Transformer, tokenizer: TalariaTokenizer, samples: Samples, rows: int, seed: int = 0
) -> RowLosses:
    """Measure the losses of the first `rows` samples.

    Models with the same tokenizer, context length and block length see the same rows, spans and
    masks, so that they can be compared row by row.
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
        canvases = batch.target, batch.weight  # without chain-only canvases, both losses count all
        counted = ((batch.next_token, batch.next_weight), canvases, canvases)
        lengths.append([float((sizes[t.clamp(min=0)] * w * (t >= 0)).sum()) for t, w in counted])
        nats.append(objective(batch.to(denoiser.device)).tolist())
    columns = 3 if config.chain_layers else 2
    return RowLosses(np.array(nats)[:, :columns], np.array(lengths)[:, :columns])


def mean_and_error(values: Float64) -> tuple[Float64, Float64]:
    """Column means and their standard errors."""
    return values.mean(0), values.std(0, ddof=1) / math.sqrt(len(values))


def losses(
    denoiser: Transformer, tokenizer: TalariaTokenizer, samples: Samples, rows: int
) -> dict[str, float]:
    """Mean losses over the first `rows` samples and their standard errors, by metric name."""
    measured = row_losses(denoiser, tokenizer, samples, rows)
    mean, error = map(np.ndarray.tolist, mean_and_error(measured.nats))
    means = zip(("next_token_loss", "bound", "chain"), mean, strict=False)
    errors = zip(("next_token_error", "bound_error", "chain_error"), error, strict=False)
    return dict([*means, *errors])


@dataclass(frozen=True)
class Cursor:
    """A hole in a held-out file: its surroundings and the original middle."""

    kind: str
    prefix: str
    middle: str
    suffix: str
    path: str


def choose_cursors(
    documents: Sequence[CorpusDocument], each: int, seed: int = 0, kinds: Iterable[str] = SPANS
) -> list[Cursor]:
    """Choose `each` non-empty holes of every kind at random places in random files.

    DataError if the files have too few.
    """
    cursors: list[Cursor] = []
    rng = np.random.default_rng((seed, 4))
    for kind in kinds:
        wanted, attempts = len(cursors) + each, 200 * each
        while len(cursors) < wanted:
            attempts -= 1
            if attempts < 0 or not documents:
                raise DataError(f"the held-out files have too few holes of kind {kind}")
            document = documents[int(rng.integers(len(documents)))]
            text = document.text
            at = text.rfind("\n", 0, int(rng.integers(len(text) + 1))) + 1
            span = choose_span(text[at : at + 2000], kind, rng)
            if span is None:
                continue
            begin, end = at + span[0], at + span[1]
            middle = text[begin:end]
            if middle.strip() and len(middle) <= LONGEST:
                cursors.append(Cursor(kind, text[:begin], middle, text[end:], document.path))
    return cursors


def exact_match(
    model: Checkpoint, cursors: Sequence[Cursor], mode: str, seconds: float = math.inf
) -> dict[str, float]:
    """Decode the holes; returns the share of exact matches and the tokens per forward.

    Matches ignore surrounding white space. Shares are given over all holes, by kind and by
    length class in tokens. After so many seconds, the rest of the holes is left out; `holes` says
    how many were decoded.
    """
    until = time.monotonic() + seconds
    # Enough for the longest middle in both modes, so that the budget does not favour one.
    budget = model.settings.working_context
    options = Options(mode=mode, max_nfe=budget)  # type: ignore[arg-type]
    found: dict[str, list[bool]] = defaultdict(list)
    tokens = nfe = 0
    for cursor in cursors:
        result = infill(model, cursor.prefix, cursor.suffix, options)
        exact = result.best.text.strip() == cursor.middle.strip()
        length = len(model.tokenizer.encode(cursor.middle))
        edge = next((edge for edge in LENGTHS if length <= edge), None)
        for name in ("all", cursor.kind, f"to_{edge}" if edge else f"over_{LENGTHS[-1]}"):
            found[name].append(exact)
        tokens += result.best.committed
        nfe += result.nfe
        if time.monotonic() > until:
            break
    shares = {f"exact_{mode}_{name}": sum(hits) / len(hits) for name, hits in found.items()}
    counts = {f"holes_{mode}": float(len(found["all"]))}
    return {**shares, **counts, f"tokens_per_forward_{mode}": tokens / max(1, nfe)}


def main(argv: list[str]) -> int:
    """Print losses and exact matches of models, and their differences from the first model."""
    parser = Parser(prog="talaria validate", description=__doc__)
    parser.add_argument("models", nargs="*", help="paths or names (default: the shipped model)")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--rows", type=int, default=256, help="samples for the losses")
    parser.add_argument(
        "--cursors", type=int, default=0, help="held-out holes of each kind to decode"
    )
    args = parser.parse_args(argv)
    if args.rows < 2:
        raise UsageError(f"--rows is {args.rows}; it must be 2 or more to estimate errors")
    if args.cursors < 0:
        raise UsageError(f"--cursors is {args.cursors}; it must be 0 or more")
    documents = read_nonempty(args.corpus, "valid")
    cursors = choose_cursors(documents, args.cursors) if args.cursors else []
    first: tuple[Trainable, RowLosses] | None = None
    for name in args.models or [None]:
        model = load_trainable(name)
        config = model.transformer.config
        samples = held_out_samples(documents, model.tokenizer, config.context_length)
        found = row_losses(model.transformer, model.tokenizer, samples, args.rows)
        nats = format_losses(*mean_and_error(found.nats))
        print(f"{name or model.name}: {nats} nats per token ({args.rows} rows, 95 %)")
        print(f"  nats per byte: {format_losses(*found.per_byte())}")
        if first is None:
            first = model, found
        elif difference := incomparable(first[0], model):
            print(f"  not compared row by row with the first, which has another {difference}")
        else:
            columns = min(found.nats.shape[1], first[1].nats.shape[1])
            change = mean_and_error(found.nats[:, :columns] - first[1].nats[:, :columns])
            print(f"  minus the first: {format_losses(*change)} nats per token")
        for mode in ("diffuse", "ar") if cursors else ():
            for key, share in exact_match(model.decoder(), cursors, mode).items():
                print(f"  {key:30}{share:7.{0 if key.startswith('holes') else 3}f}")
    if first is not None:
        torch.manual_seed(0)
        model = first[0]
        untrained = Transformer(model.transformer.config).eval()
        length = model.transformer.config.context_length
        samples = held_out_samples(documents, model.tokenizer, length)
        found = row_losses(untrained, model.tokenizer, samples, min(args.rows, 32))
        print(f"the first, untrained: {format_losses(*mean_and_error(found.nats))} nats per token")
    return 0


def format_losses(mean: Float64, error: Float64) -> str:
    """Format losses with their 95 % intervals."""
    names = ("next token", "diffusion bound", "chain")
    found = zip(names, mean, error, strict=False)  # two without a chain
    return ", ".join(f"{name} {value:.3f} ± {1.96 * error:.3f}" for name, value, error in found)


def incomparable(one: Trainable, other: Trainable) -> str:
    """Why two models do not see the same rows; empty if they do."""
    tokens = [m.config["sha256"][checkpoint.TOKENIZER] for m in (one, other)]
    if tokens[0] != tokens[1]:
        return "tokenizer: compare nats per byte"
    a, b = one.transformer.config, other.transformer.config
    if a.context_length != b.context_length:
        return f"context length ({a.context_length}, not {b.context_length})"
    if a.block_length != b.block_length:
        return f"block length ({a.block_length}, not {b.block_length})"
    return ""

"""Training batches: clean rows and, beside each, noised canvases.

For each canvas t ~ U(0, 1] is drawn and every token is masked with probability t. Weighted by
1/t, the loss of the masked tokens is the bound of MDLM (arXiv 2406.07524) and LLaDA
(arXiv 2502.09992). Training looks like use: the last canvas of a middle is a whole canvas, in
which the positions after `<eom>` are always masked and never counted.

Other canvases train the chain alone: from some token on, all of their tokens are masked, as
decoding leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talaria.coder.families.talaria import TalariaTokenizer
from talaria.finetune.samples import Sample

if TYPE_CHECKING:
    from jaxtyping import Float, Int

IGNORED = -100  # the target of a position without a loss


@dataclass(frozen=True)
class TrainingBatch:
    """The input of `Objective`.

    context, next_token, next_weight  [batch, length]
    canvas, target, position, block,
    start, chain_weight               [batch, canvas tokens]; no columns without canvases
    weight                            [batch, canvas tokens of the bound]; these come first

    `block` numbers the canvas of a position, -1 for padding; `start` is where it begins.
    """

    context: Int[Tensor, "batch length"]
    next_token: Int[Tensor, "batch length"]
    next_weight: Float[Tensor, "batch length"]
    canvas: Int[Tensor, "batch noised"]
    target: Int[Tensor, "batch noised"]
    position: Int[Tensor, "batch noised"]
    block: Int[Tensor, "batch noised"]
    start: Int[Tensor, "batch noised"]
    chain_weight: Float[Tensor, "batch noised"]
    weight: Float[Tensor, "batch bounding"]

    def to(self, device: torch.device) -> TrainingBatch:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, begin: int, end: int, step: int = 1) -> TrainingBatch:
        """A slice of the rows with unchanged weights: losses of all slices add up to the whole."""
        return self._map(lambda tensor: tensor[begin:end:step])

    def pin_memory(self) -> TrainingBatch:
        """The same batch in page-locked memory, which a GPU can copy asynchronously."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> TrainingBatch:
        return TrainingBatch(**{name: change(tensor) for name, tensor in vars(self).items()})


def choose_canvases(
    sample: Sample, block_length: int, count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Place up to `count` canvases in a sample; returns (start, end of the counted tokens) each.

    The blocks of middles, cut as in decoding, get up to half of the canvases, all the same
    number but at least one each while canvases last. The others start anywhere in plain text.
    Canvases may overlap, since each sees only clean tokens and itself.
    """
    chosen: list[tuple[int, int]] = []
    blocks = [
        (start, min(end, start + block_length))
        for begin, end in sample.middles
        for start in range(begin, end, block_length)
    ]
    if blocks:
        if len(blocks) >= count:
            return [blocks[i] for i in sorted(rng.choice(len(blocks), count, replace=False))]
        copies = max(1, count // 2 // len(blocks))
        chosen = blocks * copies
    regions = [(a, b) for a, b in sample.regions if b > a]
    sizes = np.array([b - a for a, b in regions], dtype=float)
    while len(chosen) < count and len(regions):
        a, b = regions[int(rng.choice(len(regions), p=sizes / sizes.sum()))]
        start = int(rng.integers(a, max(a + 1, b - block_length + 1)))
        chosen.append((start, min(b, start + block_length)))
    # Sorted, so that neighbours see nearly the same context and block masks are sparser.
    return sorted(chosen)


def stratified(rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Stratified samples of (0, 1], [rows, columns]: one in each of rows * columns equal strata."""
    count = rows * columns
    levels = (rng.permutation(count) + 1 - rng.random()) / max(1, count)
    return levels.reshape(rows, columns)


def make_batch(
    samples: Sequence[Sample],
    tokenizer: TalariaTokenizer,
    length: int,
    block_length: int,
    canvas_tokens: int,
    rng: np.random.Generator,
    *,
    middle_weight: float = 1.0,
    suffix_share: float = 0.0,
    end_share: float = 0.0,
) -> TrainingBatch:
    """Make clean rows of `length` and, beside each, `canvas_tokens` positions of noised canvases.

    A random `suffix_share` of the canvases is masked from some token on and trains only the
    chain; in `end_share` of those with an `<eom>` it stays visible, as when decoding with a
    given length. Masking levels are stratified over all canvases of a kind in the batch.

    Weights turn sums of losses into means over all counted tokens. For canvases these are
    unbiased estimates; next tokens of a middle count `middle_weight` times, since a row has
    few of them. Shapes do not depend on the samples.
    """
    rows = len(samples)
    # The sentinels of the layout are always given, never predicted.
    given = [tokenizer.suf, tokenizer.pre, tokenizer.mid, tokenizer.file]
    context = np.full((rows, length), tokenizer.eom)
    next_token = np.full((rows, length), IGNORED)
    next_weight = np.zeros((rows, length), dtype=np.float32)
    canvas = np.full((rows, canvas_tokens), tokenizer.mask)
    target = np.full((rows, canvas_tokens), IGNORED)
    position = np.zeros((rows, canvas_tokens), dtype=int)
    block = np.full((rows, canvas_tokens), -1)
    start = np.zeros((rows, canvas_tokens), dtype=int)
    weight = np.zeros((rows, canvas_tokens), dtype=np.float32)

    count = canvas_tokens // block_length
    chain_only = round(count * suffix_share)
    if suffix_share < 1:
        chain_only = min(chain_only, max(0, count - 1))
    bounding = (count - chain_only) * block_length
    counted, counted_bounding = 0, 0
    levels = np.hstack([stratified(rows, some, rng) for some in (count - chain_only, chain_only)])
    for row, sample in enumerate(samples):
        ids = np.array(sample.ids)
        context[row, : len(ids)] = ids
        next_token[row, : len(ids) - 1] = np.where(np.isin(ids[1:], given), IGNORED, ids[1:])
        next_weight[row] = next_token[row] != IGNORED
        for begin, end in sample.middles:
            next_weight[row, begin - 1 : end - 1] = middle_weight
        if not canvas_tokens:
            continue
        places = choose_canvases(sample, block_length, count, rng)
        if chain_only:
            places = [places[number] for number in rng.permutation(len(places))]
        for number, (begin, end) in enumerate(places):
            at = slice(number * block_length, (number + 1) * block_length)
            clean = ids[begin:end]
            level = levels[row, number]
            if at.start < bounding:
                masked = rng.random(len(clean)) < level
                share = level
                counted_bounding += len(clean)
            else:
                masked = np.arange(len(clean)) >= int((1 - level) * len(clean))
                if clean[-1] == tokenizer.eom and masked.sum() > 1 and rng.random() < end_share:
                    masked[-1] = False
                share = masked.mean()
            block[row, at] = number
            start[row, at] = begin
            position[row, at] = begin + np.arange(block_length)
            inside = slice(at.start, at.start + len(clean))
            canvas[row, inside] = np.where(masked, tokenizer.mask, clean)
            target[row, inside] = np.where(masked, clean, IGNORED)
            weight[row, inside] = 1 / share
            counted += len(clean)
    next_weight /= max(1.0, next_weight.sum())
    weights = weight / max(1, counted), weight[:, :bounding] / max(1, counted_bounding)
    arrays = (context, next_token, next_weight, canvas, target, position, block, start, *weights)
    return TrainingBatch(*map(torch.from_numpy, arrays))

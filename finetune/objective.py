"""The joint objective: the next token of the context, and masked tokens of canvases beside it.

A clean sequence runs causally with a next-token loss. Beside it run canvases:
for each, t ~ U(0, 1] is drawn, every token is masked with probability t, and
masked tokens are predicted from the clean tokens before the canvas and from the
canvas itself. Weighted by 1/t this is the bound of MDLM (arXiv 2406.07524) and
LLaDA (arXiv 2502.09992). Training looks like use: the last canvas of a middle is
a whole canvas, and what follows `<eom>` in it is always masked and never counted.

A model with a chain also learns what stands at each masked position once the tokens
before it are known: from those canvases and from others, of which all is masked from
some token on, as decoding leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from talaria.coder.tokenizer import Tokenizer
from talaria.coder.transformer import Transformer
from talaria.finetune.joint import joint
from talaria.finetune.samples import Sample

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch.nn.attention.flex_attention import BlockMask

IGNORED = -100  # the target of a position that has no loss
CHUNK = 32_768  # positions whose logits are in memory at once: 2 GB at 16k tokens


@dataclass(frozen=True)
class Batch:
    """A batch as the objective takes it; of a canvas token also the block it belongs to.

    context, next_token, next_weight  [batch, length]
    canvas, target, position, block,
    start, chain_weight               [batch, canvas tokens]; no columns without canvases
    weight                            [batch, canvas tokens of the bound], which stand first
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

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, begin: int, end: int, step: int = 1) -> Batch:
        """Some of its rows, weighed as before: sums of losses over all parts stay the same."""
        return self._map(lambda tensor: tensor[begin:end:step])

    def pin_memory(self) -> Batch:
        """The same batch in memory from which a GPU can copy while it computes."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(**{name: change(tensor) for name, tensor in vars(self).items()})


def choose_canvases(
    sample: Sample, block_length: int, count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Where `count` canvases of a sample lie: (start, end of what counts in it).

    Each block of a middle, as the decoder will meet it, is covered as often as
    half of the canvases allow for all alike, at least once while there are
    canvases; the others begin anywhere in plain text. Canvases see only clean
    tokens and themselves, so they may overlap.
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
    # In order, so that neighbours see much the same context: masks by blocks get sparser.
    return sorted(chosen)


def stratified(rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Numbers in (0, 1], [rows, columns]: one in each of as many equal parts, in any order."""
    count = rows * columns
    levels = (rng.permutation(count) + 1 - rng.random()) / max(1, count)
    return levels.reshape(rows, columns)


def make_batch(
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    length: int,
    block_length: int,
    canvas_tokens: int,
    rng: np.random.Generator,
    *,
    middle_weight: float = 1.0,
    suffix_share: float = 0.0,
    end_share: float = 0.0,
) -> Batch:
    """Clean rows of `length` and, beside each, `canvas_tokens` positions of noised canvases.

    Of a share of the canvases, at random, the tokens from some place on are masked; these
    are for the chain alone. In a share of those the `<eom>` stays, as where a middle's length
    is given. Masking levels are stratified over all canvases of a kind in the batch.
    The weights make weighted sums of losses means over all tokens that count: unbiased
    ones over the canvases; over next tokens with those of a middle, which are few in a
    row, counting `middle_weight` times. The shape does not depend on the samples.
    """
    rows = len(samples)
    context = np.full((rows, length), tokenizer.eom)
    following = np.full((rows, length), IGNORED)
    emphasis = np.zeros((rows, length), dtype=np.float32)
    canvas = np.full((rows, canvas_tokens), tokenizer.mask)
    target = np.full((rows, canvas_tokens), IGNORED)
    position = np.zeros((rows, canvas_tokens), dtype=int)
    block = np.full((rows, canvas_tokens), -1)
    start = np.zeros((rows, canvas_tokens), dtype=int)
    weight = np.zeros((rows, canvas_tokens), dtype=np.float32)

    count = canvas_tokens // block_length
    suffixes = round(count * suffix_share)
    if suffix_share < 1:
        suffixes = min(suffixes, max(0, count - 1))
    bounding = (count - suffixes) * block_length
    counted, counted_bounding = 0, 0
    levels = np.hstack([stratified(rows, some, rng) for some in (count - suffixes, suffixes)])
    for row, sample in enumerate(samples):
        ids = np.array(sample.ids)
        context[row, : len(ids)] = ids
        # Marks of the layout are always given, never predicted; `<eom>` is.
        following[row, : len(ids) - 1] = np.where(
            (ids[1:] > tokenizer.mask) & (ids[1:] != tokenizer.eom), IGNORED, ids[1:]
        )
        emphasis[row] = following[row] != IGNORED
        for begin, end in sample.middles:
            emphasis[row, begin - 1 : end - 1] = middle_weight
        if not canvas_tokens:
            continue
        places = choose_canvases(sample, block_length, count, rng)
        if suffixes:
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
    emphasis /= max(1.0, emphasis.sum())
    weights = weight / max(1, counted), weight[:, :bounding] / max(1, counted_bounding)
    arrays = (context, following, emphasis, canvas, target, position, block, start, *weights)
    return Batch(*map(torch.from_numpy, arrays))


class Objective(nn.Module):
    """The losses of a batch; what the training loop compiles and wraps."""

    def __init__(self, denoiser: Transformer, mask_id: int, *, chain_alone: bool = False) -> None:
        """`mask_id` is the token that stands for what is before a canvas.

        With `chain_alone` there is no loss but the chain's.
        """
        super().__init__()
        self.denoiser, self.mask_id, self.chain_alone = denoiser, mask_id, chain_alone

    def forward(self, batch: Batch, mask: BlockMask | None = None) -> Float[Tensor, " 3"]:
        """The next-token loss, the bound of the canvases and the chain's loss, in nats per token.

        Means if the batch is whole; a part's share of them if it is a part. What is not there or
        not wanted is 0: the last two without canvases, the last without a chain. `mask` is a
        `block_mask` of the batch for FlexAttention; without it dense masks are used.
        """
        hidden, noised = joint(
            self.denoiser,
            batch.context,
            batch.canvas,
            batch.position,
            batch.block,
            batch.start,
            mask,
        )
        next_token = bound = chain = torch.zeros((), device=hidden.device)
        canvases, bounding = batch.canvas.shape[1], batch.weight.shape[1]
        if not self.chain_alone:
            next_token = self.loss(hidden, batch.next_token, batch.next_weight)
        if canvases and not self.chain_alone:
            bound = self.loss(noised[:, :bounding], batch.target[:, :bounding], batch.weight)
        if canvases and self.denoiser.config.chain_layers:
            chain = self.loss(self.linked(noised, batch), batch.target, batch.chain_weight)
        return torch.stack((next_token, bound, chain))

    def linked(self, noised: Tensor, batch: Batch) -> Float[Tensor, "batch noised width"]:
        """What the chain makes of the canvases' states, each position given what is before it."""
        clean = torch.where(batch.target == IGNORED, batch.canvas, batch.target)
        first = batch.position == batch.start
        before = torch.where(first, self.mask_id, clean.roll(1, 1))
        own = batch.block[:, :, None] == batch.block[:, None, :]
        seen = own & (batch.position[:, :, None] >= batch.position[:, None, :])

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, seen[:, None])

        return self.denoiser.link(noised, before, batch.position, attend)

    def loss(self, hidden: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """The weighted sum of cross-entropies; 0 where the target is IGNORED.

        Logits of many positions would fill the memory of a GPU: they are made
        chunk by chunk, and once more on the way back.
        """
        flat = (hidden.flatten(0, 1), target.flatten(), weight.flatten())
        if len(flat[0]) <= CHUNK:
            return self.chunk_loss(*flat)
        chunks = zip(*(torch.split(tensor, CHUNK) for tensor in flat), strict=True)
        losses = [checkpoint(self.chunk_loss, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.stack(losses).sum()

    def chunk_loss(self, hidden: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """The same for positions in one row."""
        logits = self.denoiser.logits(hidden)
        losses = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")
        return (losses * weight).sum()

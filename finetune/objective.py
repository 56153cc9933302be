"""The joint objective: the next token of the context, and masked tokens of canvases beside it.

A clean sequence runs causally with a next-token loss. Beside it run canvases:
for each, t ~ U(0, 1] is drawn, every token is masked with probability t, and
masked tokens are predicted from the clean tokens before the canvas and from the
canvas itself. Weighted by 1/t this is the bound of MDLM (arXiv 2406.07524) and
LLaDA (arXiv 2502.09992). Training looks like use: the last canvas of a middle is
a whole canvas, and what follows `<eom>` in it is always masked and never counted.

Drafts are short canvases, clean up to some token and masked from there on, that learn
what the causal reading of the same pass would write: their targets are its likeliest
tokens, as far as the clean text goes the same way, and the one by which it first leaves
it. So tokens that are committed at once fit each other, and no text has to be generated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coder.tokenizer import Tokenizer
from coder.transformer import Transformer
from finetune.joint import joint
from finetune.samples import Sample

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch.nn.attention.flex_attention import BlockMask

IGNORED = -100  # the target of a position that has no loss
DRAFT_LENGTH = 16  # positions of a draft; of them, at most half are given
CHUNK = 32_768  # positions whose logits are in memory at once: 2 GB at 16k tokens


@dataclass(frozen=True)
class Batch:
    """A batch as the objective takes it; of a canvas token also the block it belongs to.

    context, next_token, next_weight  [batch, length]
    canvas, target, position, block,
    start, weight, draft              [batch, canvas tokens]; no columns without canvases
    """

    context: Int[Tensor, "batch length"]
    next_token: Int[Tensor, "batch length"]
    next_weight: Float[Tensor, "batch length"]
    canvas: Int[Tensor, "batch noised"]
    target: Int[Tensor, "batch noised"]
    position: Int[Tensor, "batch noised"]
    block: Int[Tensor, "batch noised"]
    start: Int[Tensor, "batch noised"]
    weight: Float[Tensor, "batch noised"]
    draft: Bool[Tensor, "batch noised"]

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


def make_batch(
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    length: int,
    block_length: int,
    canvas_tokens: int,
    rng: np.random.Generator,
    middle_weight: float = 1.0,
    draft_share: float = 0.0,
    draft_weight: float = 1.0,
) -> Batch:
    """Clean rows of `length` and, beside each, `canvas_tokens` positions of noised canvases.

    A share of these positions are drafts, whose tokens count `draft_weight` times.

    Masking levels are stratified over all canvases of the batch. The weights make
    weighted sums of losses means over all tokens that count: unbiased ones over
    the canvases; over next tokens with those of a middle, which are few in a
    row, counting `middle_weight` times. The shape does not depend on the samples
    or on the block length.
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
    draft = np.zeros((rows, canvas_tokens), dtype=bool)

    counted = 0
    drafts = int(canvas_tokens * draft_share) // DRAFT_LENGTH
    count = (canvas_tokens - drafts * DRAFT_LENGTH) // block_length
    levels = (rng.permutation(rows * count) + 1 - rng.random()) / max(1, rows * count)
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
        canvases = [
            (*place, block_length, levels[row * count + number])
            for number, place in enumerate(choose_canvases(sample, block_length, count, rng))
        ]
        canvases += [
            (*place, DRAFT_LENGTH, None)
            for place in choose_canvases(sample, DRAFT_LENGTH, drafts, rng)
        ]
        first = 0
        for number, (begin, end, width, level) in enumerate(canvases):
            at = slice(first, first + width)
            first += width
            clean = ids[begin:end]
            if level is None:
                masked = np.arange(len(clean)) >= rng.integers(DRAFT_LENGTH // 2 + 1)
            else:
                masked = rng.random(len(clean)) < level
            block[row, at] = number
            start[row, at] = begin
            position[row, at] = begin + np.arange(width)
            draft[row, at] = level is None
            inside = slice(at.start, at.start + len(clean))
            canvas[row, inside] = np.where(masked, tokenizer.mask, clean)
            target[row, inside] = np.where(masked, clean, IGNORED)
            weight[row, inside] = draft_weight if level is None else 1 / level
            counted += len(clean)
    emphasis /= max(1.0, emphasis.sum())
    weight /= max(1, counted)
    arrays = (context, following, emphasis, canvas, target, position, block, start, weight, draft)
    return Batch(*map(torch.from_numpy, arrays))


class Objective(nn.Module):
    """Both losses of a batch; what the training loop compiles and wraps."""

    def __init__(self, denoiser: Transformer, eom: int | None = None) -> None:
        """Batches may have drafts if the id of `<eom>` is given."""
        super().__init__()
        self.denoiser, self.eom = denoiser, eom

    def forward(self, batch: Batch, mask: BlockMask | None = None) -> Float[Tensor, " 2"]:
        """The next-token loss and the bound of the canvases, in nats per token.

        Means if the batch is whole; a part's share of them if it is a part.
        Without canvases the second is 0. `mask` is a `block_mask` of the batch
        for FlexAttention; without it dense masks are used.
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
        next_token = self.loss(hidden, batch.next_token, batch.next_weight)
        if not batch.canvas.shape[1]:
            return torch.stack((next_token, torch.zeros_like(next_token)))
        target = batch.target
        if self.eom is not None:
            target = self.drafted(hidden, batch, self.eom)
        return torch.stack((next_token, self.loss(noised, target, batch.weight)))

    @torch.no_grad()
    def drafted(self, hidden: Tensor, batch: Batch, eom: int) -> Int[Tensor, "batch noised"]:
        """The targets, those of drafts being what the causal reading would write.

        Where a middle ends is taken from the clean text: the reading sees it less well than
        canvases do, and what imitates it would run on.
        """
        before = (batch.position - 1).clamp(0, hidden.shape[1] - 1)
        reading = hidden.gather(1, before[..., None].expand(-1, -1, hidden.shape[2]))
        logits = self.denoiser.logits(reading)
        logits[..., eom] = -torch.inf
        written = logits.argmax(-1)
        written = torch.where(batch.target == eom, batch.target, written)
        # Of a canvas, as far as all before was written as it stands there.
        left = ((written != batch.target) & (batch.target != IGNORED)).long()
        gone = left.cumsum(1) - left
        places = torch.arange(gone.shape[1], device=gone.device)
        at_start = gone.gather(1, places - (batch.position - batch.start))
        kept = (gone == at_start) & (batch.target != IGNORED)
        return torch.where(batch.draft, torch.where(kept, written, IGNORED), batch.target)

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

"""The training losses: next tokens of the context, masked tokens of canvases, and the chain.

A clean sequence runs causally with a next-token loss. Beside it, each canvas predicts its masked
tokens from the clean tokens before it and from itself. A model with a chain also learns each
masked token given the tokens before it in the canvas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from talaria.coder.families.talaria_torch import Transformer
from talaria.finetune.batch import IGNORED, TrainingBatch
from talaria.finetune.joint import joint

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch.nn.attention.flex_attention import BlockMask

CHUNK = 32_768  # positions with logits in memory at once: 2 GB at 16k tokens


class Objective(nn.Module):
    """Compute the losses of a batch; the training loop compiles and wraps this module."""

    def __init__(self, denoiser: Transformer, mask_id: int, *, chain_alone: bool = False) -> None:
        """`mask_id` is the chain's input before the first token of a canvas.

        With `chain_alone`, only the chain has a loss.
        """
        super().__init__()
        self.denoiser, self.mask_id, self.chain_alone = denoiser, mask_id, chain_alone

    def forward(self, batch: TrainingBatch, mask: BlockMask | None = None) -> Float[Tensor, " 3"]:
        """Next-token loss, diffusion bound and chain loss, in nats per token.

        For a whole batch these are means; the losses of its parts add up to them. Absent losses
        are 0: bound and chain without canvases, the chain in a model that has none. `mask` is
        the batch's `block_mask` for FlexAttention; None uses dense masks.
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
            chain = self.loss(self.chain_states(noised, batch), batch.target, batch.chain_weight)
        return torch.stack((next_token, bound, chain))

    def chain_states(
        self, noised: Tensor, batch: TrainingBatch
    ) -> Float[Tensor, "batch noised width"]:
        """The chain's hidden states, each position given the clean tokens before it."""
        clean = torch.where(batch.target == IGNORED, batch.canvas, batch.target)
        first = batch.position == batch.start
        before = torch.where(first, self.mask_id, clean.roll(1, 1))
        own = batch.block[:, :, None] == batch.block[:, None, :]
        seen = own & (batch.position[:, :, None] >= batch.position[:, None, :])

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, seen[:, None])

        return self.denoiser.chain_states(noised, before, batch.position, attend)

    def loss(self, hidden: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """The weighted sum of cross-entropies, without positions whose target is IGNORED.

        Logits are computed in chunks, and again in the backward pass: for all positions at once
        they would fill a GPU's memory.
        """
        flat = (hidden.flatten(0, 1), target.flatten(), weight.flatten())
        if len(flat[0]) <= CHUNK:
            return self.chunk_loss(*flat)
        chunks = zip(*(torch.split(tensor, CHUNK) for tensor in flat), strict=True)
        losses = [checkpoint(self.chunk_loss, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.stack(losses).sum()

    def chunk_loss(self, hidden: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """`loss` for one chunk of flattened positions."""
        logits = self.denoiser.logits(hidden)
        losses = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")
        return (losses * weight).sum()

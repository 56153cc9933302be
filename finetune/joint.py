"""The training pass: clean contexts and, beside each, many noised canvases at once.

It computes what `Denoiser.encode` and `Denoiser.denoise` compute for one canvas
at a time, so that training and decoding are one computation; only who may see
whom is written differently here. Two ways say it: dense masks, which the CPU
does best, and block-sparse ones (FlexAttention, arXiv 2412.05496) for GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from coder.denoiser import Denoiser

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch.nn.attention.flex_attention import BlockMask


def joint(
    denoiser: Denoiser,
    context: Int[Tensor, "batch length"],
    canvas: Int[Tensor, "batch noised"],
    position: Int[Tensor, "batch noised"],
    block: Int[Tensor, "batch noised"],
    start: Int[Tensor, "batch noised"],
    mask: BlockMask | None = None,
) -> tuple[Float[Tensor, "batch length width"], Float[Tensor, "batch noised width"]]:
    """Hidden states of clean contexts and, beside them, of noised canvases.

    A canvas token at `position` belongs to the block numbered `block` (-1: it is
    padding), which begins at `start` and so sees the context before that
    position and its own block. `mask` says the same to FlexAttention; without
    it dense masks are made.
    """
    length = context.shape[1]
    positions = torch.arange(length, device=context.device).expand(context.shape)
    dense = None
    if mask is None and canvas.shape[1]:
        before = positions[:, None] < start[:, :, None]
        own = block[:, :, None] == block[:, None, :]
        dense = torch.cat((before, own), dim=-1)[:, None]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if mask is not None:
            from torch.nn.attention.flex_attention import flex_attention

            # Mixed precision leaves q and k, which are normalised, in float32; and torch 2.13's
            # kernel for CPUs is wrong where v lies otherwise in memory than k.
            q, k, v = q.to(v.dtype), k.to(v.dtype), v.contiguous()
            seen = flex_attention(q, k, v, block_mask=mask)
            assert isinstance(seen, Tensor)
            return seen
        of_context = F.scaled_dot_product_attention(
            q[:, :, :length], k[:, :, :length], v[:, :, :length], is_causal=True
        )
        if dense is None:
            return of_context
        of_canvas = F.scaled_dot_product_attention(q[:, :, length:], k, v, dense)
        return torch.cat((of_context, of_canvas), dim=2)

    hidden = denoiser.run(
        torch.cat((context, canvas), dim=1), torch.cat((positions, position), dim=1), attend
    )
    return hidden[:, :length], hidden[:, length:]


def block_mask(
    length: int, block: Int[Tensor, "batch noised"], start: Int[Tensor, "batch noised"]
) -> BlockMask:
    """Who sees whom in a joint pass over contexts of `length`, for FlexAttention.

    Made outside of compiled code: the sparse pattern depends on the data.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    rows = len(block)
    counting = torch.arange(length, device=block.device).expand(rows, length)
    reach = torch.cat((counting + 1, start), dim=1)
    member = torch.cat((torch.full_like(counting, -2), block), dim=1)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        of_context = (key < length) & (key < reach[row, query])
        return of_context | (member[row, query] == member[row, key]) & (key >= length)

    total = reach.shape[1]
    compiled = block.device.type == "cuda"
    return create_block_mask(
        sees, rows, None, total, total, device=str(block.device), _compile=compiled
    )

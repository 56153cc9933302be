"""The training pass: clean contexts and, beside each, many noised canvases at once.

It computes what `Transformer.encode` and `Transformer.denoise` compute for one canvas
at a time, so that training and decoding are one computation; only who may see
whom is written differently here. Two ways say it: dense masks, which the CPU
does best, and block-sparse ones (FlexAttention, arXiv 2412.05496) for GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from talaria.coder.transformer import Attend, Transformer, split_heads

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch.nn.attention.flex_attention import BlockMask

# bfloat16 alone makes two right ways differ by 0.5 %, in the result and in each gradient.
DISAGREEMENT = 0.03


def joint(
    denoiser: Transformer,
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
    hidden = denoiser.run(
        torch.cat((context, canvas), dim=1),
        torch.cat((positions, position), dim=1),
        attention(length, block, start, mask),
    )
    return hidden[:, :length], hidden[:, length:]


def attention(
    length: int,
    block: Int[Tensor, "batch noised"],
    start: Int[Tensor, "batch noised"],
    mask: BlockMask | None,
) -> Attend:
    """Attention over contexts of `length` and the canvases beside them."""
    dense = None
    if mask is None and block.shape[1]:
        places = torch.arange(length, device=block.device)
        before = places < start[:, :, None]
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

    return attend


def masks_agree(
    denoiser: Transformer,
    length: int,
    block: Int[Tensor, "batch noised"],
    start: Int[Tensor, "batch noised"],
    compiled: bool,
    gradients: bool = False,
) -> bool:
    """Whether block-sparse masks, compiled or not, attend as dense ones do on this device.

    Of random queries, keys and values, laid out as a layer lays them out; with
    `gradients` also whether the gradient of each is the same, which no CPU can
    tell. A wrong kernel would show in nothing else: the loss would fall all the same.
    """
    config, device = denoiser.config, block.device
    total, width = length + block.shape[1], config.width
    shape, heads = (len(block), total), config.heads
    qkv = torch.randn(*shape, 3 * width, device=device, dtype=torch.bfloat16)
    above = torch.randn(len(block), heads, total, width // heads, device=device, dtype=qkv.dtype)
    rotary = denoiser.rotary(torch.arange(total, device=device).expand(shape))

    def attend(qkv: Tensor, mask: BlockMask | None) -> Tensor:
        q, k, v = split_heads(qkv, heads, rotary)
        return attention(length, block, start, mask)(0, q.to(v.dtype), k.to(v.dtype), v)

    def results(way: Callable[..., Tensor], mask: BlockMask | None) -> list[Tensor]:
        given = qkv.clone().requires_grad_(gradients)
        seen = way(given, mask)
        if not gradients:
            return [seen.float()]
        (gradient,) = torch.autograd.grad(seen, given, above)
        return [seen.detach().float(), *gradient.float().chunk(3, dim=-1)]

    sparse = results(
        torch.compile(attend) if compiled else attend, block_mask(length, block, start)
    )
    dense = results(attend, None)
    return all(
        bool((one - other).norm() < DISAGREEMENT * other.norm())
        for one, other in zip(sparse, dense, strict=True)
    )


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

"""The training pass: clean contexts and many noised canvases beside each, in one forward pass.

It computes what `Transformer.encode` and `Transformer.denoise` compute one canvas at a time,
so that training matches decoding; only the attention masks differ. These are dense, which is
fastest on CPUs, or block-sparse (FlexAttention, arXiv 2412.05496) for GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from talaria.coder.families.blocks_torch import Attend
from talaria.coder.families.talaria_torch import Transformer, split_heads

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch.nn.attention.flex_attention import BlockMask

# Relative. Two correct computations differ by 0.5 % in bfloat16, in results and gradients alike.
TOLERANCE = 0.03


def joint(
    denoiser: Transformer,
    context: Int[Tensor, "batch length"],
    canvas: Int[Tensor, "batch noised"],
    position: Int[Tensor, "batch noised"],
    block: Int[Tensor, "batch noised"],
    start: Int[Tensor, "batch noised"],
    mask: BlockMask | None = None,
) -> tuple[Float[Tensor, "batch length width"], Float[Tensor, "batch noised width"]]:
    """Hidden states of clean contexts and of the noised canvases beside them.

    A canvas token at `position` belongs to the canvas numbered `block` (-1 for padding), which
    starts at `start`: it attends to the context before `start` and to its own canvas. `mask`
    encodes this for FlexAttention; None builds dense masks.
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
        positions = torch.arange(length, device=block.device)
        sees_context = positions < start[:, :, None]
        same_block = block[:, :, None] == block[:, None, :]
        dense = torch.cat((sees_context, same_block), dim=-1)[:, None]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if mask is not None:
            from torch.nn.attention.flex_attention import flex_attention

            # Autocast leaves the normalised q and k in float32, and torch 2.13's CPU kernel is
            # wrong if v and k have different memory layouts.
            q, k, v = q.to(v.dtype), k.to(v.dtype), v.contiguous()
            attended = flex_attention(q, k, v, block_mask=mask)
            assert isinstance(attended, Tensor)
            return attended
        context = F.scaled_dot_product_attention(
            q[:, :, :length], k[:, :, :length], v[:, :, :length], is_causal=True
        )
        if dense is None:
            return context
        canvas = F.scaled_dot_product_attention(q[:, :, length:], k, v, dense)
        return torch.cat((context, canvas), dim=2)

    return attend


def masks_agree(
    denoiser: Transformer,
    length: int,
    block: Int[Tensor, "batch noised"],
    start: Int[Tensor, "batch noised"],
    compiled: bool,
    gradients: bool = False,
) -> bool:
    """Whether attention with block-sparse masks, compiled or not, equals that with dense ones.

    Compares results for random queries, keys and values in a layer's memory layout, on the
    device of `block`; with `gradients` also their gradients, which CPUs cannot compute. A wrong
    kernel would otherwise go unnoticed, since the loss would still fall.
    """
    config, device = denoiser.config, block.device
    total, width = length + block.shape[1], config.width
    shape, heads = (len(block), total), config.heads
    qkv = torch.randn(*shape, 3 * width, device=device, dtype=torch.bfloat16)
    output_gradient = torch.randn(
        len(block), heads, total, width // heads, device=device, dtype=qkv.dtype
    )
    rotary = denoiser.rotary(torch.arange(total, device=device).expand(shape))

    def attend(qkv: Tensor, mask: BlockMask | None) -> Tensor:
        q, k, v = split_heads(qkv, heads, rotary)
        return attention(length, block, start, mask)(0, q.to(v.dtype), k.to(v.dtype), v)

    def results(implementation: Callable[..., Tensor], mask: BlockMask | None) -> list[Tensor]:
        inputs = qkv.clone().requires_grad_(gradients)
        attended = implementation(inputs, mask)
        if not gradients:
            return [attended.float()]
        (gradient,) = torch.autograd.grad(attended, inputs, output_gradient)
        return [attended.detach().float(), *gradient.float().chunk(3, dim=-1)]

    sparse = results(
        torch.compile(attend) if compiled else attend, block_mask(length, block, start)
    )
    dense = results(attend, None)
    return all(
        bool((one - other).norm() < TOLERANCE * other.norm())
        for one, other in zip(sparse, dense, strict=True)
    )


def block_mask(
    length: int, block: Int[Tensor, "batch noised"], start: Int[Tensor, "batch noised"]
) -> BlockMask:
    """The FlexAttention mask of a joint pass over contexts of `length`.

    Call it outside compiled code, since the sparse pattern depends on the data.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    rows = len(block)
    counting = torch.arange(length, device=block.device).expand(rows, length)
    reach = torch.cat((counting + 1, start), dim=1)
    member = torch.cat((torch.full_like(counting, -2), block), dim=1)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_context = (key < length) & (key < reach[row, query])
        return in_context | (member[row, query] == member[row, key]) & (key >= length)

    total = reach.shape[1]
    compiled = block.device.type == "cuda"
    return create_block_mask(
        sees, rows, None, total, total, device=str(block.device), _compile=compiled
    )

"""What the families' torch modules share: rotary positions and the way through their blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""`attend(layer, q, k, v)`: attention among [batch, heads, length, size]; decides who sees whom."""


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) of [batch, heads, length, size], by halves."""
    cos, sin = rotary
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def through(
    blocks: nn.ModuleList,
    x: Float[Tensor, "batch length width"],
    rotary: tuple[Tensor, Tensor],
    attend: Attend,
) -> Float[Tensor, "batch length width"]:
    """The residual stream after these blocks."""
    for layer, block in enumerate(blocks):
        x = block(x, rotary, lambda q, k, v, layer=layer: attend(layer, q, k, v))
    return x

"""What the families' torch modules share: rotary positions, blocks, and the way through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

    from talaria.coder.families.masked_files import Shape
    from talaria.coder.families.qwen2 import Qwen2Config

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


class Block(nn.Module):
    """Grouped-query attention and a gated MLP, each normalised before and added after.

    The block of Llama and Qwen2; Qwen3's is `normed`: each head's queries and keys are normalised.
    Modules are named as in GGUF, so that an adapter names them the same way.
    """

    def __init__(self, shape: Qwen2Config | Shape, normed: bool = False) -> None:
        super().__init__()
        queries, keys = shape.heads * shape.size, shape.kv_heads * shape.size
        self.size = shape.size
        self.attn_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.attn_q = nn.Linear(shape.width, queries, shape.biases)
        self.attn_k = nn.Linear(shape.width, keys, shape.biases)
        self.attn_v = nn.Linear(shape.width, keys, shape.biases)
        self.attn_output = nn.Linear(queries, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.ffn_gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_down = nn.Linear(shape.hidden, shape.width, bias=False)
        self.attn_q_norm: nn.Module = nn.Identity()
        self.attn_k_norm: nn.Module = nn.Identity()
        if normed:
            self.attn_q_norm = nn.RMSNorm(shape.size, shape.epsilon)
            self.attn_k_norm = nn.RMSNorm(shape.size, shape.epsilon)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], attend: Callable[..., Tensor]
    ) -> Tensor:
        """The residual stream, [batch, length, width], after this block."""
        batch, length, _ = x.shape
        y = self.attn_norm(x)
        q, k, v = (
            matrix(y).view(batch, length, -1, self.size)
            for matrix in (self.attn_q, self.attn_k, self.attn_v)
        )
        q, k = self.attn_q_norm(q).transpose(1, 2), self.attn_k_norm(k).transpose(1, 2)
        y = attend(rotate(q, rotary), rotate(k, rotary), v.transpose(1, 2))
        x = x + self.attn_output(y.transpose(1, 2).reshape(batch, length, -1))
        y = self.ffn_norm(x)
        return torch.add(x, self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y)))

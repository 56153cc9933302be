"""What the families' torch modules share: rotary positions, blocks, and a network as a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talaria.coder.backbone import Array, Backbone, Candidates, Constraint, KVCache, constrain
from talaria.coder.errors import CheckpointError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from talaria.coder.families.masked_files import Shape
    from talaria.coder.families.qwen2 import Qwen2Config

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""`attend(layer, q, k, v)`: attention among [batch, heads, length, size]; decides who sees whom."""
Layers = tuple[Tensor, ...]  # keys or values, layer by layer


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


class Decoder(Protocol):
    """A network: who sees whom is decided outside."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""

    def run(
        self,
        ids: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch length"],
        attend: Attend,
    ) -> Float[Tensor, "batch length width"]:
        """States of tokens at their positions."""

    def logits(self, states: Float[Tensor, "*shape width"], /) -> Float[Tensor, "*shape rows"]:
        """Logits of states, in float32."""


class TorchDecoder(Backbone):
    """Passes computed by a torch network on its device."""

    network: Decoder

    @property
    def device(self) -> str:
        """Where the weights lie."""
        return str(self.network.device)

    @property
    def threads(self) -> int:
        """torch's thread count."""
        return torch.get_num_threads()

    @torch.inference_mode()
    def evaluate(
        self,
        ids: Int[Array, "batch length"],
        positions: Int[Array, "batch length"],
        visible: Bool[Array, "batch 1 length total"] | None,
        cache: KVCache | None,
        keep: bool,
    ) -> tuple[Float[Tensor, "batch length width"], Layers, Layers]:
        """One pass, as `Backbone` has it; CheckpointError beyond the network's positions."""
        keys: list[Tensor] = []
        values: list[Tensor] = []
        most = self.positions
        if most is not None and positions.size and positions.max() >= most:
            raise CheckpointError(
                f"{self.name}: the context and the canvas take {positions.max() + 1} positions, "
                f"and the network was trained on {most}; give it a shorter context"
            )
        seen = None if visible is None else self._tensor(visible)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if cache is not None:
                k = torch.cat((cache.keys[layer], k), dim=2)
                v = torch.cat((cache.values[layer], v), dim=2)
            if keep:
                keys.append(k)
                values.append(v)
            grouped = q.shape[1] != k.shape[1]
            return F.scaled_dot_product_attention(q, k, v, seen, enable_gqa=grouped)

        states = self.network.run(self._tensor(ids), self._tensor(positions), attend)
        return states, tuple(keys), tuple(values)

    @torch.inference_mode()
    def candidates(
        self,
        states: Float[Tensor, "positions width"],
        k: int,
        constraints: Sequence[Constraint] | None = None,
        temperatures: Float[Array, " positions"] | None = None,
    ) -> Candidates:
        """The k likeliest tokens, as `Backbone` has it."""
        logits = self.network.logits(states)
        logits[:, self.marks.never] = -torch.inf
        constrain(logits, constraints)
        if temperatures is not None:
            logits /= self._tensor(temperatures)[:, None]
        found = logits.log_softmax(-1).topk(min(k, logits.shape[-1]))
        return Candidates(found.indices.cpu().numpy(), self.numbers(found.values.cpu().numpy()))

    @torch.inference_mode()
    def log_probabilities(
        self,
        states: Float[Tensor, "positions width"],
        ids: Int[Array, " positions"],
        constraints: Sequence[Constraint] | None = None,
    ) -> Float[Array, " positions"]:
        """Log-probabilities of given tokens, as `Backbone` has it."""
        logits = self.network.logits(states)
        constrain(logits, constraints)
        found: Array = logits.log_softmax(-1)[range(len(ids)), self._tensor(ids)].cpu().numpy()
        return self.numbers(found)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.network.device)

"""The denoiser as a torch module: what is trained, and what runs where torch has a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talaria.coder.denoiser import Denoiser, DenoiserConfig, KVCache, Layers, rotary_turns

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def norm(x: Tensor) -> Tensor:
    """RMS normalisation over the last dimension, without weights."""
    return F.rms_norm(x, (x.shape[-1],))


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) of [batch, heads, length, size]."""
    cos, sin = rotary
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def split_heads(
    qkv: Tensor, heads: int, rotary: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, values of [batch, length, 3 × width]: [batch, heads, length, size] each."""
    batch, length, _ = qkv.shape
    q, k, v = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return rotate(norm(q), rotary), rotate(norm(k), rotary), v


class Linear(nn.Linear):
    """A matrix without bias whose weights `Transformer.initialise` draws."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Draw nothing: a loaded model would throw it away, and draw it slowly."""


class Embedding(nn.Embedding):
    """An embedding whose weights `Transformer.initialise` draws."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


class Block(nn.Module):
    """Attention and a gated MLP, each normalised before and added after."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width)
        self.out = Linear(config.width, config.width)
        self.up = Linear(config.width, 2 * config.mlp_width)
        self.down = Linear(config.mlp_width, config.width)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], attend: Callable[..., Tensor]
    ) -> Tensor:
        """The residual stream, [batch, length, width], after this block."""
        batch, length, width = x.shape
        y = attend(*split_heads(self.qkv(norm(x)), self.heads, rotary))
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.up(norm(x)).chunk(2, dim=-1)
        return torch.add(x, self.down(F.silu(gate) * up))


class Chain(nn.Module):
    """Causal blocks over the states of a canvas: tokens chosen in one step that fit each other.

    A pass says of each position by itself what stands there. Chosen at once, each the
    likeliest, such tokens contradict each other; here each is chosen in sight of those
    before it, at the cost of a layer or so (as the heads of Hydra, arXiv 2402.05109).
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.before = Linear(config.width, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.chain_layers))

    def forward(
        self, hidden: Tensor, before: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend
    ) -> Tensor:
        """Hidden states in the light of the tokens before, whose embeddings are given."""
        x = hidden + self.before(norm(before))
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, lambda q, k, v, layer=layer: attend(layer, q, k, v))
        return norm(x)


class Transformer(Denoiser, nn.Module):
    """RMS norms, rotary positions, gated MLPs; the output matrix is the embedding."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.links = Chain(config) if config.chain_layers else None
        # On "meta" there is nothing to draw, and torch would load half of its compiler for it.
        if not self.embed.weight.is_meta:
            self.initialise()

    def initialise(self) -> None:
        """Draw fresh weights; what writes to the residual stream starts at zero."""
        nn.init.normal_(self.embed.weight, std=0.02)
        blocks = [*self.blocks]
        if self.links is not None:
            nn.init.normal_(self.links.before.weight, std=0.5 * self.config.width**-0.5)
            blocks += self.links.blocks
        for block in blocks:
            assert isinstance(block, Block)
            for linear in (block.qkv, block.up):
                nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            for linear in (block.out, block.down):
                nn.init.zeros_(linear.weight)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = self.embed.weight.device
        return device

    @property
    def threads(self) -> int:
        """Of torch."""
        return torch.get_num_threads()

    def run(
        self,
        ids: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch length"],
        attend: Attend,
    ) -> Float[Tensor, "batch length width"]:
        """Hidden states of `ids`; `attend(layer, q, k, v)` decides who sees whom."""
        rotary = self.rotary(positions)
        x = norm(self.embed(ids))
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, lambda q, k, v, layer=layer: attend(layer, q, k, v))
        return norm(x)

    def rotary(self, positions: Int[Tensor, "batch length"]) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions, [batch, 1, length, head size / 2] each."""
        cos, sin = rotary_turns(self.config, positions)
        dtype = self.embed.weight.dtype
        return cos[:, None].to(dtype), sin[:, None].to(dtype)

    def link(
        self,
        hidden: Float[Tensor, "batch length width"],
        before: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch length"],
        attend: Attend,
    ) -> Float[Tensor, "batch length width"]:
        """What `chain` computes; `attend(layer, q, k, v)` decides who sees whom."""
        assert self.links is not None
        states: Tensor = self.links(hidden, self.embed(before), self.rotary(positions), attend)
        return states

    def chain(
        self,
        hidden: Float[Tensor, "batch length width"],
        before: Int[Tensor, "batch length"],
        past: Layers,
    ) -> tuple[Float[Tensor, "batch length width"], Layers]:
        """Positions after those that are `past`, as `Denoiser` has it."""
        half = len(past) // 2
        first, length = past[0].shape[2] if past else 0, hidden.shape[1]
        keys, values = [], []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if past:
                k, v = (torch.cat(pair, 2) for pair in ((past[layer], k), (past[half + layer], v)))
            keys.append(k)
            values.append(v)
            seen = torch.ones(length, first + length, dtype=torch.bool, device=q.device)
            return F.scaled_dot_product_attention(q, k, v, seen.tril(first))

        positions = first + torch.arange(length, device=hidden.device).expand(before.shape)
        states = self.link(hidden, before, positions, attend)
        return states, (*keys, *values)

    def logits(self, hidden: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape vocab"]:
        """Logits of hidden states, in float32."""
        return F.linear(hidden, self.embed.weight).float()

    def evaluate(
        self,
        ids: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch length"],
        visible: Bool[Tensor, "batch 1 length total"] | None,
        cache: KVCache | None,
        keep: bool,
    ) -> tuple[Float[Tensor, "batch length width"], Layers, Layers]:
        """One pass, as `Denoiser` has it."""
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if cache is not None:
                k = torch.cat((cache.keys[layer], k), dim=2)
                v = torch.cat((cache.values[layer], v), dim=2)
            if keep:
                keys.append(k)
                values.append(v)
            return F.scaled_dot_product_attention(q, k, v, visible)

        return self.run(ids, positions, attend), tuple(keys), tuple(values)

"""The denoiser: one transformer, read causally over the context and both ways over the canvas.

The context is encoded once and its keys and values are kept; they never depend
on a canvas, so the cache is exact. A canvas attends to the whole context and, in
both directions, to itself. All weights are shared between the two ways of
reading (the arrangement of TiDAR, arXiv 2511.08923, and Set Block Decoding,
arXiv 2509.04185).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DenoiserConfig:
    """The shape of a denoiser.

    vocab_size      tokens, special ones included
    layers          transformer blocks
    width           of the residual stream
    heads           attention heads; width must be divisible by it
    context_length  positions that the model was trained on, canvas included
    block_length    positions of one canvas
    """

    vocab_size: int
    layers: int = 6
    width: int = 256
    heads: int = 4
    context_length: int = 512
    block_length: int = 32
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "width", "heads", "context_length", "block_length"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} over {self.heads} heads gives no even head size; "
                "choose a width divisible by twice the heads"
            )
        if self.block_length > self.context_length // 2:
            raise ValueError(
                f"block_length is {self.block_length}; the context of {self.context_length} "
                f"leaves room for at most {self.context_length // 2}"
            )
        if self.context_length > 2**20 or not isinstance(self.rope_base, float | int):
            raise ValueError(f"context_length {self.context_length} or rope_base is out of range")
        if not self.rope_base > 1:
            raise ValueError(f"rope_base is {self.rope_base}; it must be above 1")

    @property
    def mlp_width(self) -> int:
        """Hidden units of the gated MLP: 8/3 of the width, in steps of 64."""
        return -(-8 * self.width // (3 * 64)) * 64


@dataclass(frozen=True)
class KVCache:
    """Keys and values of an encoded context, one pair per layer.

    keys, values   per layer [batch, heads, length, head size]
    valid          [batch, length]; False where a shorter row was padded
    next_position  [batch]; the position that the next token of each row takes
    """

    keys: tuple[Float[Tensor, "batch heads length size"], ...]
    values: tuple[Float[Tensor, "batch heads length size"], ...]
    valid: Bool[Tensor, "batch length"]
    next_position: Int[Tensor, " batch"]

    def rows(self, index: Int[Tensor, " rows"]) -> KVCache:
        """The cache of the named rows, in that order; a row may be named several times.

        Columns that none of them uses are left out.
        """
        keys, values = ([x[index] for x in pair] for pair in (self.keys, self.values))
        valid = self.valid[index]
        used = valid.any(0)
        if not used.all():
            keys, values = ([x[:, :, used] for x in pair] for pair in (keys, values))
            valid = valid[:, used]
        return KVCache(tuple(keys), tuple(values), valid, self.next_position[index])

    def first(self, length: int) -> KVCache:
        """The cache when so many tokens of each row had been read; for rows without padding."""
        keys, values = ([x[:, :, :length] for x in pair] for pair in (self.keys, self.values))
        before = self.valid.shape[1] - length
        return KVCache(
            tuple(keys), tuple(values), self.valid[:, :length], self.next_position - before
        )

    def without(self, last: Int[Tensor, " batch"]) -> KVCache:
        """The cache before so many last tokens of each row were read."""
        if len(last) == 1 and bool(self.valid.all()):
            return self.first(self.valid.shape[1] - int(last))  # copies nothing
        unread = self.valid.flip(1).cumsum(1).flip(1) <= last[:, None]
        cut = replace(self, valid=self.valid & ~unread, next_position=self.next_position - last)
        return cut.rows(torch.arange(len(last), device=last.device))


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
    """A matrix without bias whose weights `Denoiser.initialise` draws."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Draw nothing: a loaded model would throw it away, and draw it slowly."""


class Embedding(nn.Embedding):
    """An embedding whose weights `Denoiser.initialise` draws."""

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


class Denoiser(nn.Module):
    """The masked diffusion language model: token ids in, logits out."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        # On "meta" there is nothing to draw, and torch would load half of its compiler for it.
        if not self.embed.weight.is_meta:
            self.initialise()

    def initialise(self) -> None:
        """Draw fresh weights; what writes to the residual stream starts at zero."""
        nn.init.normal_(self.embed.weight, std=0.02)
        for block in self.blocks:
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
        half = self.config.width // self.config.heads // 2
        exponents = torch.arange(half, device=positions.device, dtype=torch.float32) / half
        angles = positions[:, None, :, None].float() * self.config.rope_base**-exponents
        dtype = self.embed.weight.dtype
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def logits(self, hidden: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape vocab"]:
        """Logits of hidden states, in float32; the output matrix is the embedding."""
        return F.linear(hidden, self.embed.weight).float()

    def encode(
        self, contexts: Sequence[Sequence[int]], cache: KVCache | None = None
    ) -> tuple[Float[Tensor, "batch length width"], KVCache]:
        """Read tokens causally after what the cache holds, one sequence a row.

        Returns the hidden states (their logits predict the next token; rows
        shorter than the longest are padded on the right) and the cache that
        holds the new tokens too. The cache given is left as it was.
        """
        length = max(len(row) for row in contexts)
        ids = torch.zeros(len(contexts), length, dtype=torch.long)
        valid = torch.zeros(len(contexts), length, dtype=torch.bool)
        for row, context in enumerate(contexts):
            ids[row, : len(context)] = torch.as_tensor(context, dtype=torch.long)
            valid[row, : len(context)] = True
        ids, valid = ids.to(self.device), valid.to(self.device)
        start = ids.new_zeros(len(contexts)) if cache is None else cache.next_position
        keys: list[Tensor] = []
        values: list[Tensor] = []
        mask = None
        if cache is not None:
            causal = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
            past = cache.valid[:, None, None, :].expand(-1, 1, length, -1)
            mask = torch.cat((past, causal.expand(len(contexts), 1, -1, -1)), dim=-1)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if cache is not None:
                k = torch.cat((cache.keys[layer], k), dim=2)
                v = torch.cat((cache.values[layer], v), dim=2)
            keys.append(k)
            values.append(v)
            return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)

        positions = start[:, None] + torch.arange(length, device=self.device)
        hidden = self.run(ids, positions, attend)
        if cache is not None:
            valid = torch.cat((cache.valid, valid), dim=1)
        next_position = start + torch.tensor([len(row) for row in contexts], device=self.device)
        return hidden, KVCache(tuple(keys), tuple(values), valid, next_position)

    def denoise(
        self, canvas: Int[Tensor, "batch block"], cache: KVCache
    ) -> Float[Tensor, "batch block width"]:
        """Hidden states of the canvas, which continues the cached context.

        One step. The canvas sees the whole context and itself in both directions;
        the cache is left as it was. The logits of a position are for its own token.
        """
        length = canvas.shape[1]
        mask = None
        if not bool(cache.valid.all()):
            own = cache.valid.new_ones(canvas.shape)
            mask = torch.cat((cache.valid, own), dim=1)[:, None, None, :]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            k = torch.cat((cache.keys[layer], k), dim=2)
            v = torch.cat((cache.values[layer], v), dim=2)
            return F.scaled_dot_product_attention(q, k, v, mask)

        positions = cache.next_position[:, None] + torch.arange(length, device=canvas.device)
        return self.run(canvas, positions, attend)

    def draft(
        self, tokens: Int[Tensor, "batch read"], length: int, mask: int, cache: KVCache
    ) -> tuple[
        Float[Tensor, "batch read width"], Float[Tensor, "batch read length width"], KVCache
    ]:
        """Read tokens causally and denoise, behind each of them, a canvas of so many masks.

        One step, after TiDAR (arXiv 2511.08923). A canvas sees the tokens up to its own
        and itself in both directions; no token sees a canvas. Returns what `encode` of the
        tokens would, and for each token what `denoise` would if it were the last one read.
        """
        batch, count = tokens.shape
        own = torch.arange(count, device=tokens.device)
        # Of each place in the pass: the token it belongs to, and its position behind that one.
        owner = torch.cat((own, own.repeat_interleave(length)))
        behind = torch.cat((torch.zeros_like(own), torch.arange(length).to(own).repeat(count) + 1))
        read, canvas = behind == 0, behind > 0
        sees = read & (owner <= owner[:, None])
        sees |= canvas & canvas[:, None] & (owner == owner[:, None])
        past = cache.valid[:, None, None, :].expand(-1, 1, len(owner), -1)
        visible = torch.cat((past, sees.expand(batch, 1, -1, -1)), dim=-1)
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            k = torch.cat((cache.keys[layer], k), dim=2)
            v = torch.cat((cache.values[layer], v), dim=2)
            end = cache.valid.shape[1] + count
            keys.append(k[:, :, :end])
            values.append(v[:, :, :end])
            return F.scaled_dot_product_attention(q, k, v, visible)

        ids = torch.cat((tokens, tokens.new_full((batch, count * length), mask)), dim=1)
        hidden = self.run(ids, cache.next_position[:, None] + owner + behind, attend)
        after = KVCache(
            tuple(keys),
            tuple(values),
            torch.cat((cache.valid, torch.ones_like(tokens, dtype=torch.bool)), dim=1),
            cache.next_position + count,
        )
        return hidden[:, :count], hidden[:, count:].view(batch, count, length, -1), after

"""What a decoder asks of a denoiser, whatever computes it.

A denoiser is read causally over the context and both ways over the canvas. The
context is encoded once and its keys and values are kept; they never depend on a
canvas, so the cache is exact. A canvas attends to the whole context and, in both
directions, to itself. All weights are shared between the two ways of reading (the
arrangement of TiDAR, arXiv 2511.08923, and Set Block Decoding, arXiv 2509.04185).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

SLACK = 64  # columns of a cache that nobody sees, at most
Layers = tuple[Tensor, ...]  # one for each, [batch, heads, length, size]


@dataclass(frozen=True)
class DenoiserConfig:
    """The shape of a denoiser.

    vocab_size      tokens, special ones included
    layers          transformer blocks
    width           of the residual stream
    heads           attention heads; width must be divisible by it
    context_length  positions that the model was trained on, canvas included
    block_length    positions of one canvas
    chain_layers    blocks of the chain, which reads a canvas from left to right; 0: no chain
    """

    vocab_size: int
    layers: int = 6
    width: int = 256
    heads: int = 4
    context_length: int = 512
    block_length: int = 32
    rope_base: float = 10_000.0
    chain_layers: int = 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "width", "heads", "context_length", "block_length"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if type(self.chain_layers) is not int or self.chain_layers < 0:
            raise ValueError(f"chain_layers is {self.chain_layers!r}; it must be 0 or more")
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
        """The cache before so many last tokens of each row were read.

        Their columns stay, seen by none, until there are more than SLACK of them: to cut
        them off copies all others.
        """
        unread = self.valid.flip(1).cumsum(1).flip(1) <= last[:, None]
        cut = replace(self, valid=self.valid & ~unread, next_position=self.next_position - last)
        if int((~cut.valid.any(0)).sum()) <= SLACK:
            return cut
        return cut.rows(torch.arange(len(last), device=last.device))


def rotary_turns(
    config: DenoiserConfig, positions: Int[Tensor, "batch length"]
) -> tuple[Float[Tensor, "batch length half"], Float[Tensor, "batch length half"]]:
    """Cosines and sines by which half of each head is turned at these positions."""
    half = config.width // config.heads // 2
    exponents = torch.arange(half, device=positions.device, dtype=torch.float32) / half
    angles = positions[..., None].float() * config.rope_base**-exponents
    return angles.cos(), angles.sin()


class Denoiser(ABC):
    """The masked diffusion language model: token ids in, logits out."""

    config: DenoiserConfig

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where tokens are wanted and logits come from."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """How many compute a pass on a CPU."""

    @abstractmethod
    def evaluate(
        self,
        ids: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch length"],
        visible: Bool[Tensor, "batch 1 length total"] | None,
        cache: KVCache | None,
        keep: bool,
    ) -> tuple[Float[Tensor, "batch length width"], Layers, Layers]:
        """Hidden states of tokens after what the cache holds, in one pass.

        `visible` says which of the cached tokens and of these each one sees; None: all.
        Returns too, to `keep`, the keys and values of both; else none.
        """

    @abstractmethod
    def chain(
        self,
        hidden: Float[Tensor, "batch length width"],
        before: Int[Tensor, "batch length"],
        past: Layers,
    ) -> tuple[Float[Tensor, "batch length width"], Layers]:
        """Hidden states of positions of a canvas, once the token before each is chosen.

        `hidden` is what `denoise` said of them, which knows what stands there and not what
        is chosen in the same step. Each position sees those before it in the canvas, whose
        keys and values, layer by layer, are `past`; the mask stands for what is before the
        first. Returns too what is `past` with these.
        """

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape vocab"]:
        """Logits of hidden states, in float32; the output matrix is the embedding."""

    def encode(
        self, contexts: Sequence[Sequence[int]], cache: KVCache | None = None
    ) -> tuple[Float[Tensor, "batch length width"], KVCache]:
        """Read tokens causally after what the cache holds, one sequence a row.

        Returns the hidden states (their logits predict the next token; rows
        shorter than the longest are padded on the right) and the cache that
        holds the new tokens too. The cache given is left as it was.
        """
        batch, length = len(contexts), max(len(row) for row in contexts)
        ids = torch.zeros(batch, length, dtype=torch.long)
        valid = torch.zeros(batch, length, dtype=torch.bool)
        for row, context in enumerate(contexts):
            ids[row, : len(context)] = torch.as_tensor(context, dtype=torch.long)
            valid[row, : len(context)] = True
        ids, valid = ids.to(self.device), valid.to(self.device)
        visible = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        visible = visible.expand(batch, 1, -1, -1)
        start = ids.new_zeros(batch)
        if cache is not None:
            start = cache.next_position
            past = cache.valid[:, None, None, :].expand(-1, 1, length, -1)
            visible = torch.cat((past, visible), dim=-1)
            valid = torch.cat((cache.valid, valid), dim=1)
        positions = start[:, None] + torch.arange(length, device=self.device)
        hidden, keys, values = self.evaluate(ids, positions, visible, cache, keep=True)
        next_position = start + torch.tensor([len(row) for row in contexts], device=self.device)
        return hidden, KVCache(keys, values, valid, next_position)

    def denoise(
        self,
        canvas: Int[Tensor, "batch block"],
        cache: KVCache,
        present: Bool[Tensor, "batch block"] | None = None,
    ) -> Float[Tensor, "batch block width"]:
        """Hidden states of the canvas, which continues the cached context.

        One step. The canvas sees the whole context and itself in both directions;
        the cache is left as it was. The logits of a position are for its own token.
        Positions that are not `present` are seen by none, as if the canvas ended before.
        """
        length = canvas.shape[1]
        visible = None
        own = torch.ones_like(canvas, dtype=torch.bool) if present is None else present
        if not bool(own.all()) or not bool(cache.valid.all()):
            seen = torch.cat((cache.valid, own), dim=1)
            visible = seen[:, None, None, :].expand(-1, 1, length, -1)
        positions = cache.next_position[:, None] + torch.arange(length, device=canvas.device)
        hidden, _, _ = self.evaluate(canvas, positions, visible, cache, keep=False)
        return hidden

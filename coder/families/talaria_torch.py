"""The talaria family in torch: the module that is trained, and decoding on other devices than CPUs.

Within `coder`, only the modules `families/*_torch` compute with torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talaria.coder.backbone import Array, Marks
from talaria.coder.errors import CheckpointError
from talaria.coder.families.blocks_torch import Attend, Layers, TorchDecoder, rotate, through
from talaria.coder.families.talaria import TransformerConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def norm(x: Tensor) -> Tensor:
    """RMS normalisation over the last dimension, without weights."""
    return F.rms_norm(x, (x.shape[-1],))


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
        """Draw nothing: drawing is slow, and loading a model overwrites the weights."""


class Embedding(nn.Embedding):
    """An embedding whose weights `Transformer.initialise` draws."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


class Block(nn.Module):
    """Attention and a gated MLP, each normalised before and added after."""

    def __init__(self, config: TransformerConfig) -> None:
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
    """Causal blocks over the states of a canvas, so that tokens chosen in one step fit each other.

    A pass predicts each position independently. The likeliest tokens of several positions may
    contradict each other; here each is predicted given those chosen before it, at the cost of
    about one layer (as the heads of Hydra, arXiv 2402.05109).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.before = Linear(config.width, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.chain_layers))

    def forward(
        self, hidden: Tensor, before: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend
    ) -> Tensor:
        """Hidden states given the embeddings of the tokens before, [batch, length, width]."""
        x = hidden + self.before(norm(before))
        return norm(through(self.blocks, x, rotary, attend))


class Transformer(nn.Module):
    """RMS norms, rotary positions, gated MLPs; the output matrix is the embedding."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.chain = Chain(config) if config.chain_layers else None
        # "meta" has nothing to initialise, and torch would import much of its compiler for it.
        if not self.embed.weight.is_meta:
            self.initialise()

    def initialise(self) -> None:
        """Draw fresh weights; what writes to the residual stream starts at zero."""
        nn.init.normal_(self.embed.weight, std=0.02)
        blocks = [*self.blocks]
        if self.chain is not None:
            nn.init.normal_(self.chain.before.weight, std=0.5 * self.config.width**-0.5)
            blocks += self.chain.blocks
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

    def run(
        self,
        ids: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch length"],
        attend: Attend,
    ) -> Float[Tensor, "batch length width"]:
        """Hidden states of `ids`; `attend(layer, q, k, v)` decides who sees whom."""
        x = norm(self.embed(ids))
        return norm(through(self.blocks, x, self.rotary(positions), attend))

    def rotary(self, positions: Int[Tensor, "batch length"]) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions, [batch, 1, length, head size / 2] each."""
        cos, sin = rotary_turns(self.config, positions)
        dtype = self.embed.weight.dtype
        return cos[:, None].to(dtype), sin[:, None].to(dtype)

    def chain_states(
        self,
        hidden: Float[Tensor, "batch length width"],
        before: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch length"],
        attend: Attend,
    ) -> Float[Tensor, "batch length width"]:
        """States of canvas positions once the token before each is chosen, as `Backbone.chain`."""
        assert self.chain is not None
        states: Tensor = self.chain(hidden, self.embed(before), self.rotary(positions), attend)
        return states

    def logits(self, hidden: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape vocab"]:
        """Logits of hidden states, in float32."""
        return F.linear(hidden, self.embed.weight).float()


def rotary_turns(
    config: TransformerConfig, positions: Int[Tensor, "batch length"]
) -> tuple[Float[Tensor, "batch length half"], Float[Tensor, "batch length half"]]:
    """Cosines and sines of the rotary embedding at these positions; `half`: of the head size."""
    half = config.width // config.heads // 2
    exponents = torch.arange(half, device=positions.device, dtype=torch.float32) / half
    angles = positions[..., None].float() * config.rope_base**-exponents
    return angles.cos(), angles.sin()


class TorchBackbone(TorchDecoder):
    """Passes computed by a torch module on its device."""

    def __init__(self, transformer: Transformer, marks: Marks) -> None:
        self.network = self.transformer = transformer
        self.marks, self.chained = marks, bool(transformer.config.chain_layers)

    @torch.inference_mode()
    def chain(
        self,
        states: Float[Tensor, "batch length width"],
        before: Int[Array, "batch length"],
        past: Layers,
    ) -> tuple[Float[Tensor, "batch length width"], Layers]:
        """Positions behind those in `past`, as `Backbone` has it."""
        half = len(past) // 2
        first, length = past[0].shape[2] if past else 0, states.shape[1]
        keys, values = [], []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if past:
                k, v = (torch.cat(pair, 2) for pair in ((past[layer], k), (past[half + layer], v)))
            keys.append(k)
            values.append(v)
            seen = torch.ones(length, first + length, dtype=torch.bool, device=q.device)
            return F.scaled_dot_product_attention(q, k, v, seen.tril(first))

        positions = first + torch.arange(length, device=states.device).expand(before.shape)
        linked = self.transformer.chain_states(states, self._tensor(before), positions, attend)
        return linked, (*keys, *values)


def module(shape: TransformerConfig, weights: Mapping[str, Array], device: str) -> Transformer:
    """The module with these weights in float32, for decoding.

    Raises CheckpointError where the device is not available.
    """
    with torch.device("meta"):
        transformer = Transformer(shape)
    tensors = {name: torch.from_numpy(weight).float() for name, weight in weights.items()}
    transformer.load_state_dict(tensors, assign=True)
    try:
        transformer.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"device {device!r} cannot be used ({reason}); try --device cpu"
        ) from error
    return transformer.requires_grad_(False).eval()

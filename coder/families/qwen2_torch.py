"""The Qwen2 family in torch: the module that `talaria adapt` trains; ONNX Runtime decodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talaria.coder.backbone import Array
from talaria.coder.families.blocks_torch import Attend, Block, through
from talaria.coder.families.qwen2 import Qwen2Config, rotary_turns

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Qwen2(nn.Module):
    """The decoder; its output matrix is the embedding, if the two are tied."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab_size, config.width)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.output_norm = nn.RMSNorm(config.width, config.epsilon)
        if not config.tied:
            self.output = nn.Linear(config.width, config.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = self.token_embd.weight.device
        return device

    def run_embedded(
        self,
        x: Float[Tensor, "batch length width"],
        positions: Int[Tensor, "batch length"],
        attend: Attend,
    ) -> Float[Tensor, "batch length width"]:
        """States of embedded tokens; `attend(layer, q, k, v)` decides who sees whom.

        Queries have `heads` heads, keys and values `kv_heads`, as `scaled_dot_product_attention`
        takes them with `enable_gqa`.
        """
        turns = rotary_turns(self.config, positions.cpu().numpy())
        cos, sin = (torch.from_numpy(turn)[:, None].to(x) for turn in turns)
        states: Tensor = self.output_norm(through(self.blk, x, (cos, sin), attend))
        return states

    def logits(self, states: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape vocab"]:
        """Logits of states, in float32."""
        output = self.token_embd if self.config.tied else self.output
        return F.linear(states, output.weight).float()


def module(
    config: Qwen2Config,
    weights: Mapping[str, Array],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Qwen2:
    """The module with these weights; nothing in it requires gradients yet."""
    with torch.device("meta"):
        found = Qwen2(config)
    tensors = {
        name: torch.from_numpy(np.array(weight)).to(device, dtype)
        for name, weight in weights.items()
    }
    found.load_state_dict(tensors, assign=True)
    return found.requires_grad_(False).eval()

"""The Qwen2 family on a CPU, in float32 by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnx import TensorProto

from talaria.coder.backbone import Array, Marks
from talaria.coder.families.onnx_graph import Graph, OnnxBackbone, PassShape
from talaria.coder.families.qwen2 import EMBEDDING, Qwen2Config, rotary_turns

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class OnnxQwen2(OnnxBackbone):
    """Passes in float32; a causal model unless an adapter is merged, which lets it denoise.

    weights   by the names of `families.qwen2.shapes`
    denoises  whether an adapter is merged into them
    """

    shift = True

    def __init__(
        self,
        config: Qwen2Config,
        weights: Mapping[str, Array],
        marks: Marks,
        denoises: bool = False,
    ) -> None:
        self.config, self.denoises = config, denoises
        shape = PassShape(config.layers, config.width, config.kv_heads, config.size)
        super().__init__(marks, shape, passes(config, weights), weights[EMBEDDING])

    def turns(
        self, positions: Int[Array, "batch length"]
    ) -> tuple[Float[Array, "batch length half"], Float[Array, "batch length half"]]:
        """Cosines and sines, as `OnnxBackbone` has it."""
        return rotary_turns(self.config, positions)


def passes(config: Qwen2Config, weights: Mapping[str, Array]) -> Graph:
    """The graph of a pass from tokens to states: the blocks and the last norm."""
    graph = Graph()
    graph.constant("queries", TensorProto.INT64, [0, 0, config.heads, config.size])
    graph.constant("kept", TensorProto.INT64, [0, 0, config.kv_heads, config.size])
    graph.constant("together", TensorProto.INT64, [0, 0, config.width])

    def norm(x: str, name: str, result: str) -> str:
        scale = graph.weight(name, weights[name])
        return graph.add("RMSNormalization", [x, scale], result, axis=-1, epsilon=config.epsilon)

    def product(x: str, name: str, layer: int) -> str:
        name = f"blk.{layer}.{name}"
        matrix = graph.weight(f"{name}.weight", weights[f"{name}.weight"].T)
        y = graph.add("MatMul", [x, matrix], f"{name}.product")
        if f"{name}.bias" not in weights:
            return y
        bias = graph.weight(f"{name}.bias", weights[f"{name}.bias"])
        return graph.add("Add", [y, bias], f"{name}.biased")

    def heads(x: str, name: str, shape: str, layer: int) -> str:
        y = graph.add("Reshape", [product(x, name, layer), shape], f"{name}.heads.{layer}")
        return graph.add("Transpose", [y], f"{name}.by_head.{layer}", perm=[0, 2, 1, 3])

    def turned(x: str) -> str:
        return graph.add("RotaryEmbedding", [x, "cos", "sin"], f"{x}.turned")

    embed = graph.weight("token_embd", weights[EMBEDDING])
    x = graph.add("Gather", [embed, "ids"], "tokens")
    for layer in range(config.layers):
        y = norm(x, f"blk.{layer}.attn_norm.weight", f"attn_norm.{layer}")
        q = turned(heads(y, "attn_q", "queries", layer))
        k = turned(heads(y, "attn_k", "kept", layer))
        v = heads(y, "attn_v", "kept", layer)
        seen = [q, k, v, "visible", f"past_key.{layer}", f"past_value.{layer}"]
        y = graph.add("Attention", seen, f"attended.{layer}", f"key.{layer}", f"value.{layer}")
        y = graph.add("Transpose", [y], f"by_token.{layer}", perm=[0, 2, 1, 3])
        y = graph.add("Reshape", [y, "together"], f"joined.{layer}")
        x = graph.add("Add", [x, product(y, "attn_output", layer)], f"between.{layer}")
        y = norm(x, f"blk.{layer}.ffn_norm.weight", f"ffn_norm.{layer}")
        gate, up = product(y, "ffn_gate", layer), product(y, "ffn_up", layer)
        gate = graph.add(
            "Mul", [gate, graph.add("Sigmoid", [gate], f"sigmoid.{layer}")], f"silu.{layer}"
        )
        y = graph.add("Mul", [gate, up], f"gated.{layer}")
        x = graph.add("Add", [x, product(y, "ffn_down", layer)], f"after.{layer}")
    norm(x, "output_norm.weight", "hidden")
    return graph

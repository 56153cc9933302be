"""The Qwen2 family on a CPU, in float32 by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from talaria.coder.backbone import Array, CpuBackbone, KVCache, Marks
from talaria.coder.families.onnx_graph import Graph, info, names, threads
from talaria.coder.families.qwen2 import Qwen2Config, rotary_turns

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Layers = tuple[Array, ...]


class OnnxQwen2(CpuBackbone):
    """Passes in float32; a causal model, until an adapter teaches it canvases.

    weights   by the names of `families.qwen2.shapes`
    denoises  whether an adapter is in them
    """

    shift = True

    def __init__(
        self,
        config: Qwen2Config,
        weights: Mapping[str, Array],
        marks: Marks,
        denoises: bool = False,
    ) -> None:
        self.config, self.marks, self.denoises = config, marks, denoises
        self._passes = passes(config, weights).session(*interface(config))
        graph = Graph()
        matrix = graph.weight("output", weights["token_embd.weight"].T)
        graph.add("MatMul", ["states", matrix], "logits")
        self._head = graph.session(
            [info("states", "float", "rows", config.width)],
            [info("logits", "float", "rows", config.vocab_size)],
        )

    @property
    def device(self) -> str:
        """Always the CPU."""
        return "cpu"

    @property
    def threads(self) -> int:
        """Of ONNX Runtime."""
        return threads()

    def evaluate(
        self,
        ids: Int[Array, "batch length"],
        positions: Int[Array, "batch length"],
        visible: Bool[Array, "batch 1 length total"] | None,
        cache: KVCache | None,
        keep: bool,
    ) -> tuple[Float[Array, "batch length width"], Layers, Layers]:
        """One pass, as `Backbone` has it."""
        config, (batch, length) = self.config, ids.shape
        if cache is None:
            nothing = np.zeros((batch, config.kv_heads, 0, config.size), np.float32)
            past: Layers = (nothing,) * (2 * config.layers)
        else:
            past = (*cache.keys, *cache.values)
        if visible is None:
            visible = np.ones((batch, 1, length, past[0].shape[2] + length), bool)
        cos, sin = rotary_turns(config, positions)
        inputs = {"ids": ids, "cos": cos, "sin": sin, "visible": visible}
        inputs |= dict(zip(names("past_key", "past_value", config.layers), past, strict=True))
        outputs = names("key", "value", config.layers) if keep else []
        states, *kept = self._passes.run(["states", *outputs], inputs)
        half = len(kept) // 2
        return states, tuple(kept[:half]), tuple(kept[half:])

    def logits(self, states: Float[Array, "positions width"]) -> Float[Array, "positions vocab"]:
        """Logits of states."""
        return self._head.run(["logits"], {"states": states})[0]


def interface(config: Qwen2Config) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    """What the graph of a pass takes and gives."""

    def remembered(keys: str, values: str, length: str) -> list[onnx.ValueInfoProto]:
        shape = ("batch", config.kv_heads, length, config.size)
        return [info(name, "float", *shape) for name in names(keys, values, config.layers)]

    inputs = [
        info("ids", "int64", "batch", "length"),
        info("cos", "float", "batch", "length", config.size // 2),
        info("sin", "float", "batch", "length", config.size // 2),
        info("visible", "bool", "batch", 1, "length", "total"),
        *remembered("past_key", "past_value", "past"),
    ]
    states = info("states", "float", "batch", "length", config.width)
    return inputs, [states, *remembered("key", "value", "total")]


def passes(config: Qwen2Config, weights: Mapping[str, Array]) -> Graph:
    """From tokens to states: the blocks and the last norm."""
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

    embed = graph.weight("token_embd", weights["token_embd.weight"])
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
    norm(x, "output_norm.weight", "states")
    return graph

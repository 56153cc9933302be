"""The talaria family on a CPU: the weights in float32, computed by ONNX Runtime.

torch spends more than half of a step of so small a model between its operators.
`docs/decisions/0006-cpu-engine.md` has the figures and what else was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from talaria.coder.backbone import Array, CpuBackbone, KVCache, Marks
from talaria.coder.families.onnx_graph import Graph, info, names, threads
from talaria.coder.families.talaria import TransformerConfig, rotary_turns

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

EPSILON = float(np.finfo(np.float32).eps)  # what torch adds in an RMS norm by default
Layers = tuple[Array, ...]  # keys, layer by layer, then values


class OnnxBackbone(CpuBackbone):
    """Passes computed by ONNX Runtime in float32, equal to torch's to float32 accuracy.

    weights  by the names of `families.talaria.shapes`, in any precision
    """

    def __init__(
        self, config: TransformerConfig, weights: Mapping[str, Array], marks: Marks
    ) -> None:
        self.config, self.marks, self.chained = config, marks, bool(config.chain_layers)
        self._passes = passes(config, weights).session(*interface(config, config.layers))
        if self.chained:
            between = interface(config, config.chain_layers, chained=True)
            self._chain = passes(config, weights, chained=True).session(*between)
        self._head = head(weights).session(
            [info("hidden", "float", "rows", config.width)],
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
        past = self._none(batch, config.layers) if cache is None else (*cache.keys, *cache.values)
        if visible is None:
            visible = np.ones((batch, 1, length, past[0].shape[2] + length), bool)
        inputs = self._inputs(ids, positions, visible, past)
        outputs = names("key", "value", config.layers) if keep else []
        hidden, *kept = self._passes.run(["hidden", *outputs], inputs)
        half = len(kept) // 2
        return hidden, tuple(kept[:half]), tuple(kept[half:])

    def chain(
        self,
        states: Float[Array, "batch length width"],
        before: Int[Array, "batch length"],
        past: Layers,
    ) -> tuple[Float[Array, "batch length width"], Layers]:
        """Positions behind those in `past`, as `Backbone` has it."""
        layers, (batch, length) = self.config.chain_layers, before.shape
        past = past or self._none(batch, layers)
        first = past[0].shape[2]
        visible = np.broadcast_to(
            np.tri(length, first + length, first, dtype=bool), (batch, 1, length, first + length)
        )
        positions = np.broadcast_to(np.arange(first, first + length), (batch, length))
        inputs = self._inputs(before, positions, visible, past)
        outputs = ["hidden", *names("key", "value", layers)]
        linked, *kept = self._chain.run(outputs, {**inputs, "states": states})
        return linked, tuple(kept)

    def logits(self, states: Float[Array, "positions width"]) -> Float[Array, "positions vocab"]:
        """Logits of states."""
        return self._head.run(["logits"], {"hidden": states})[0]

    def _inputs(
        self,
        ids: Int[Array, "batch length"],
        positions: Int[Array, "batch length"],
        visible: Bool[Array, "batch 1 length total"],
        past: Layers,
    ) -> dict[str, Array]:
        """The inputs that every graph takes."""
        cos, sin = rotary_turns(self.config, positions)
        inputs = {"ids": ids, "cos": cos, "sin": sin, "visible": visible}
        given = names("past_key", "past_value", len(past) // 2)
        return {**inputs, **dict(zip(given, past, strict=True))}

    def _none(self, batch: int, layers: int) -> Layers:
        """The past of a first token."""
        config = self.config
        shape = batch, config.heads, 0, config.width // config.heads
        return (np.zeros(shape, np.float32),) * (2 * layers)


def interface(
    config: TransformerConfig, layers: int, *, chained: bool = False
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    """What so many layers take and give; those of the chain take states of a canvas too."""
    size = config.width // config.heads
    hidden = ("float", "batch", "length", config.width)

    def remembered(keys: str, values: str, length: str) -> list[onnx.ValueInfoProto]:
        shape = ("batch", config.heads, length, size)
        return [info(name, "float", *shape) for name in names(keys, values, layers)]

    inputs = [
        info("ids", "int64", "batch", "length"),
        info("cos", "float", "batch", "length", size // 2),
        info("sin", "float", "batch", "length", size // 2),
        info("visible", "bool", "batch", 1, "length", "total"),
        *remembered("past_key", "past_value", "past"),
        *([info("states", *hidden)] if chained else []),
    ]
    return inputs, [info("hidden", *hidden), *remembered("key", "value", "total")]


def passes(config: TransformerConfig, weights: Mapping[str, Array], chained: bool = False) -> Graph:
    """From tokens to states: a pass of the transformer, or of its chain."""
    graph = Graph()
    heads, width = config.heads, config.width
    size = width // heads
    graph.constant("width.ones", TensorProto.FLOAT, [1.0] * width)
    graph.constant("size.ones", TensorProto.FLOAT, [1.0] * size)
    graph.constant("apart", TensorProto.INT64, [0, 0, 3 * heads, size])
    graph.constant("together", TensorProto.INT64, [0, 0, width])
    graph.constant("turned_and_not", TensorProto.INT64, [2 * heads, heads])

    def norm(x: str, result: str = "", ones: str = "width.ones") -> str:
        result = result or f"{x}.norm"
        return graph.add("RMSNormalization", [x, ones], result, axis=-1, epsilon=EPSILON)

    embed = graph.weight("embed", weights["embed.weight"])
    x = norm(graph.add("Gather", [embed, "ids"], "tokens"))
    if chained:
        weight = graph.weight("before.weight", weights["chain.before.weight"].T)
        x = graph.add("Add", ["states", graph.add("MatMul", [x, weight], "before")], "both")
    blocks = "chain.blocks" if chained else "blocks"
    for layer in range(config.chain_layers if chained else config.layers):

        def own(name: str, layer: int = layer) -> str:
            return f"{name}.{layer}"

        def product(x: str, name: str, layer: int = layer) -> str:
            matrix = weights[f"{blocks}.{layer}.{name}.weight"]
            weight = graph.weight(f"{name}.weight.{layer}", matrix.T)
            return graph.add("MatMul", [x, weight], f"{name}.{layer}")

        y = graph.add("Reshape", [product(norm(x), "qkv"), "apart"], own("heads"))
        y = graph.add("Transpose", [y], own("by_head"), perm=[0, 2, 1, 3])
        # Queries and keys are normalised and turned together, as if they were twice as many heads.
        graph.add("Split", [y, "turned_and_not"], own("qk"), own("v"), axis=1)
        y = norm(own("qk"), ones="size.ones")
        y = graph.add("RotaryEmbedding", [y, "cos", "sin"], own("turned"))
        graph.add("Split", [y], own("q"), own("k"), axis=1, num_outputs=2)
        seen = [own("q"), own("k"), own("v"), "visible", own("past_key"), own("past_value")]
        y = graph.add("Attention", seen, own("attended"), own("key"), own("value"))
        y = graph.add("Transpose", [y], own("by_token"), perm=[0, 2, 1, 3])
        y = product(graph.add("Reshape", [y, "together"], own("joined")), "out")
        x = graph.add("Add", [x, y], own("between"))
        y = product(norm(x), "up")
        graph.add("Split", [y], own("gate"), own("linear"), axis=-1, num_outputs=2)
        y = graph.add("Mul", [own("gate"), graph.add("Sigmoid", [own("gate")], own("s"))], own("g"))
        y = graph.add("Mul", [y, own("linear")], own("gated"))
        x = graph.add("Add", [x, product(y, "down")], own("after"))
    norm(x, "hidden")
    return graph


def head(weights: Mapping[str, Array]) -> Graph:
    """From states to logits; the output matrix is the embedding."""
    graph = Graph()
    graph.add("MatMul", ["hidden", graph.weight("embed", weights["embed.weight"].T)], "logits")
    return graph

"""The talaria family on a CPU: the weights in float32, computed by ONNX Runtime.

torch spends more than half of a step of so small a model between its operators.
`docs/decisions/0006-cpu-engine.md` has the figures and what else was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from talaria.coder.backbone import Array, Marks
from talaria.coder.families.onnx_graph import (
    Graph,
    Layers,
    OnnxBackbone,
    PassShape,
    interface,
    names,
)
from talaria.coder.families.onnx_messages import Kind
from talaria.coder.families.talaria import TransformerConfig, rotary_turns

if TYPE_CHECKING:
    from jaxtyping import Float, Int

EPSILON = float(np.finfo(np.float32).eps)  # what torch adds in an RMS norm by default


class OnnxTalaria(OnnxBackbone):
    """Passes computed by ONNX Runtime in float32, equal to torch's to float32 accuracy.

    weights  by the names of `families.talaria.shapes`, in any precision
    """

    def __init__(
        self, config: TransformerConfig, weights: Mapping[str, Array], marks: Marks
    ) -> None:
        self.config, self.chained = config, bool(config.chain_layers)
        embedding = weights["embed.weight"]
        super().__init__(
            marks, pass_shape(config, config.layers), passes(config, weights), embedding.T
        )
        if self.chained:
            between = interface(pass_shape(config, config.chain_layers), chained=True)
            self._chain = passes(config, weights, chained=True).session(*between)

    def turns(
        self, positions: Int[Array, "batch length"]
    ) -> tuple[Float[Array, "batch length half"], Float[Array, "batch length half"]]:
        """Cosines and sines, as `OnnxBackbone` has it."""
        return rotary_turns(self.config, positions)

    def chain(
        self,
        states: Float[Array, "batch length width"],
        before: Int[Array, "batch length"],
        past: Layers,
    ) -> tuple[Float[Array, "batch length width"], Layers]:
        """Positions behind those in `past`, as `Backbone` has it."""
        layers, (batch, length) = self.config.chain_layers, before.shape
        past = past or pass_shape(self.config, layers).empty(batch)
        first = past[0].shape[2]
        visible = np.broadcast_to(
            np.tri(length, first + length, first, dtype=bool), (batch, 1, length, first + length)
        )
        positions = np.broadcast_to(np.arange(first, first + length), (batch, length))
        inputs = self.inputs(before, positions, visible, past)
        outputs = ["hidden", *names("key", "value", layers)]
        linked, *kept = self._chain.run(outputs, {**inputs, "states": states})
        return linked, tuple(kept)


def pass_shape(config: TransformerConfig, layers: int) -> PassShape:
    """The shape of so many layers."""
    return PassShape(layers, config.width, config.heads, config.width // config.heads)


def passes(config: TransformerConfig, weights: Mapping[str, Array], chained: bool = False) -> Graph:
    """The graph of a pass from tokens to states, of the transformer or of its chain."""
    graph = Graph()
    heads, width = config.heads, config.width
    size = width // heads
    graph.constant("width.ones", Kind.float32, [1.0] * width)
    graph.constant("size.ones", Kind.float32, [1.0] * size)
    graph.constant("apart", Kind.int64, [0, 0, 3 * heads, size])
    graph.constant("together", Kind.int64, [0, 0, width])
    graph.constant("turned_and_not", Kind.int64, [2 * heads, heads])

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

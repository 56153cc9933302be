"""The talaria family on a CPU: the weights in float32, computed by ONNX Runtime.

torch spends more than half of a step of so small a model between its operators.
`docs/decisions/0006-cpu-engine.md` has the figures and what else was tried.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from talaria.coder.backbone import (
    Array,
    Backbone,
    Candidates,
    Constraint,
    KVCache,
    Marks,
    constrain,
    likeliest,
    log_softmax,
)
from talaria.coder.families.talaria import TransformerConfig, rotary_turns

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

OPSET, IR_VERSION = 23, 11  # the first with RMSNormalization, RotaryEmbedding and Attention
MOST_THREADS = 4  # more of them wait for each other in products so small
# How long a thread waits awake, in microseconds: enough for the next operator, too short to
# hold up another program that wants the core.
SPIN = 50
EPSILON = float(np.finfo(np.float32).eps)  # what torch adds in an RMS norm by default
Layers = tuple[Array, ...]  # keys, layer by layer, then values


def threads() -> int:
    """How many threads compute: `OMP_NUM_THREADS`, or one for each physical core, at most 4."""
    try:
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    except (KeyError, ValueError):
        return min(MOST_THREADS, physical_cores())


def physical_cores() -> int:
    """The physical cores that this process may use; two threads on one core hinder each other."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not on this system
        count = os.cpu_count() or 1
        return count if platform.machine() in ("arm64", "aarch64") else max(1, count // 2)
    pairs = set()
    for cpu in usable:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            pairs.add(siblings.read_text())
        except OSError:
            pairs.add(str(cpu))
    return len(pairs)


class Graph:
    """An ONNX graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.weights: dict[str, Array] = {}

    def add(
        self, operator: str, inputs: list[str], *outputs: str, **attributes: int | float | list[int]
    ) -> str:
        """Append an operator with its results' names; returns the first of them."""
        node = helper.make_node(operator, inputs, outputs)
        node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
        self.nodes.append(node)
        return outputs[0]

    def constant(self, name: str, kind: int, values: list[int] | list[float]) -> str:
        """A small vector that stands in the graph."""
        self.constants.append(helper.make_tensor(name, kind, [len(values)], values))
        return name

    def weight(self, name: str, value: Array) -> str:
        """A matrix that a session is given beside the graph."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="given")
        self.constants.append(tensor)
        self.weights[name] = np.ascontiguousarray(value, np.float32)
        return name

    def session(
        self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> Session:
        """The graph, ready to run."""
        graph = helper.make_graph(self.nodes, "denoiser", inputs, outputs, self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        return Session(model.SerializeToString(), self.weights)


class Session:
    """A graph and its weights, which must live as long as it does."""

    def __init__(self, graph: bytes, weights: dict[str, Array]) -> None:
        self.weights = weights
        self.values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(weight) for weight in weights.values()
        ]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads()
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
        options.add_external_initializers(list(weights), self.values)
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def run(self, outputs: list[str], inputs: dict[str, Array]) -> list[Array]:
        """The named results."""
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        found: list[Array] = self.session.run(outputs, given)
        return found


class OnnxBackbone(Backbone):
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

    def candidates(
        self,
        states: Float[Array, "positions width"],
        k: int,
        constraints: Sequence[Constraint] | None = None,
        temperatures: Float[Array, " positions"] | None = None,
    ) -> Candidates:
        """The k likeliest tokens, as `Backbone` has it."""
        return likeliest(self.logits(states), k, self.marks.never, constraints, temperatures)

    def log_probabilities(
        self,
        states: Float[Array, "positions width"],
        ids: Int[Array, " positions"],
        constraints: Sequence[Constraint] | None = None,
    ) -> Float[Array, " positions"]:
        """Log-probabilities of given tokens, as `Backbone` has it."""
        logits = self.logits(states)
        constrain(logits, constraints)
        found: Array = log_softmax(logits)[np.arange(len(ids)), ids]
        return found

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


def info(name: str, kind: str, *shape: int | str) -> onnx.ValueInfoProto:
    """What a graph takes or gives; a size that varies has a name."""
    return helper.make_tensor_value_info(name, getattr(TensorProto, kind.upper()), shape)


def names(keys: str, values: str, layers: int) -> list[str]:
    """What keys and values are called, layer by layer."""
    return [f"{name}.{layer}" for name in (keys, values) for layer in range(layers)]


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
        weight = graph.weight("before.weight", weights["links.before.weight"].T)
        x = graph.add("Add", ["states", graph.add("MatMul", [x, weight], "before")], "both")
    blocks = "links.blocks" if chained else "blocks"
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

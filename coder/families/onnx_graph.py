"""ONNX graphs, and backbones that compute them by ONNX Runtime: what families share on a CPU."""

from __future__ import annotations

import os
import platform
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from talaria.coder.backbone import Array, CpuBackbone, KVCache, Marks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Layers = tuple[Array, ...]  # keys, layer by layer, then values

OPSET, IR_VERSION = 23, 11  # the first with RMSNormalization, RotaryEmbedding and Attention
MOST_THREADS = 4  # with more, matrix products this small wait for synchronisation
# How long an idle thread spins, in microseconds: long enough for the next operator, too short to
# hold up another program.
SPIN = 50


def threads() -> int:
    """Threads to compute with: `OMP_NUM_THREADS`, or one per physical core, at most 4."""
    try:
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    except (KeyError, ValueError):
        return min(MOST_THREADS, physical_cores())


def physical_cores() -> int:
    """Physical cores that this process may use; two threads on one core slow each other down."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # macOS and Windows
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
    """Builds an ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.weights: dict[str, Array] = {}

    def add(
        self, operator: str, inputs: list[str], *outputs: str, **attributes: int | float | list[int]
    ) -> str:
        """Append an operator; returns the name of its first output."""
        node = helper.make_node(operator, inputs, outputs)
        node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
        self.nodes.append(node)
        return outputs[0]

    def constant(self, name: str, kind: int, values: list[int] | list[float]) -> str:
        """A small vector within the graph; returns its name."""
        self.constants.append(helper.make_tensor(name, kind, [len(values)], values))
        return name

    def weight(self, name: str, value: Array) -> str:
        """A matrix that the session gets beside the graph, not in it."""
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
    """A graph and its weights, which it keeps alive while ONNX Runtime refers to them."""

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


@dataclass(frozen=True)
class PassShape:
    """The shape of a graph's layers; `heads` counts those of keys and values, `size` is theirs."""

    layers: int
    width: int
    heads: int
    size: int

    def empty(self, batch: int) -> Layers:
        """Keys and values of no tokens."""
        return (np.zeros((batch, self.heads, 0, self.size), np.float32),) * (2 * self.layers)


class OnnxBackbone(CpuBackbone):
    """A network whose pass is a graph with the inputs and outputs of `interface`, in float32.

    The output matrix is the embedding, [vocab, width].
    """

    def __init__(self, marks: Marks, shape: PassShape, graph: Graph, embedding: Array) -> None:
        self.marks, self.shape = marks, shape
        self._passes = graph.session(*interface(shape))
        head = Graph()
        head.add("MatMul", ["hidden", head.weight("embedding", embedding.T)], "logits")
        self._head = head.session(
            [info("hidden", "float", "rows", shape.width)],
            [info("logits", "float", "rows", len(embedding))],
        )

    @abstractmethod
    def turns(
        self, positions: Int[Array, "batch length"]
    ) -> tuple[Float[Array, "batch length half"], Float[Array, "batch length half"]]:
        """Cosines and sines of the rotary embedding at these positions."""

    @property
    def device(self) -> str:
        """Always the CPU."""
        return "cpu"

    @property
    def threads(self) -> int:
        """ONNX Runtime's thread count."""
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
        batch, length = ids.shape
        past = self.shape.empty(batch) if cache is None else (*cache.keys, *cache.values)
        if visible is None:
            visible = np.ones((batch, 1, length, past[0].shape[2] + length), bool)
        inputs = self.inputs(ids, positions, visible, past)
        outputs = names("key", "value", self.shape.layers) if keep else []
        hidden, *kept = self._passes.run(["hidden", *outputs], inputs)
        half = len(kept) // 2
        return hidden, tuple(kept[:half]), tuple(kept[half:])

    def logits(self, states: Float[Array, "positions width"]) -> Float[Array, "positions vocab"]:
        """Logits of states."""
        return self._head.run(["logits"], {"hidden": states})[0]

    def inputs(
        self,
        ids: Int[Array, "batch length"],
        positions: Int[Array, "batch length"],
        visible: Bool[Array, "batch 1 length total"],
        past: Layers,
    ) -> dict[str, Array]:
        """The inputs of a graph, by name."""
        cos, sin = self.turns(positions)
        named = {"ids": ids, "cos": cos, "sin": sin, "visible": visible}
        given = names("past_key", "past_value", len(past) // 2)
        return {**named, **dict(zip(given, past, strict=True))}


def interface(
    shape: PassShape, *, chained: bool = False
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    """Inputs and outputs of a pass; that of a chain also takes the states of a canvas."""
    hidden = ("float", "batch", "length", shape.width)

    def cached(keys: str, values: str, length: str) -> list[onnx.ValueInfoProto]:
        size = ("batch", shape.heads, length, shape.size)
        return [info(name, "float", *size) for name in names(keys, values, shape.layers)]

    inputs = [
        info("ids", "int64", "batch", "length"),
        info("cos", "float", "batch", "length", shape.size // 2),
        info("sin", "float", "batch", "length", shape.size // 2),
        info("visible", "bool", "batch", 1, "length", "total"),
        *cached("past_key", "past_value", "past"),
        *([info("states", *hidden)] if chained else []),
    ]
    return inputs, [info("hidden", *hidden), *cached("key", "value", "total")]


def info(name: str, kind: str, *shape: int | str) -> onnx.ValueInfoProto:
    """An input or output of a graph; a size that varies has a name."""
    return helper.make_tensor_value_info(name, getattr(TensorProto, kind.upper()), shape)


def names(keys: str, values: str, layers: int) -> list[str]:
    """Names of the keys of all layers, then of the values."""
    return [f"{name}.{layer}" for name in (keys, values) for layer in range(layers)]

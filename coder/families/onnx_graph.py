"""ONNX graphs, and backbones that compute them by ONNX Runtime: what families share on a CPU."""

from __future__ import annotations

import os
import platform
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from talaria.coder.backbone import Array, CpuBackbone, KVCache, Marks
from talaria.coder.families import onnx_messages
from talaria.coder.families.onnx_messages import Kind, value_info

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from jaxtyping import Bool, Float, Int, Int8

Layers = tuple[Array, ...]  # keys, layer by layer, then values

OPSET, IR_VERSION = 23, 11  # the first with RMSNormalization, RotaryEmbedding and Attention
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
ZERO_POINT = 128  # what stands for zero where a state is rounded to an unsigned byte
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


def int8_limit() -> int:
    """The largest magnitude of an 8-bit weight.

    x86 processors without VNNI add two products of bytes in 16 bits, where 255 x 127 twice would
    saturate: 64 never does.
    """
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return 127 if arm or VNNI.intersection(processor_flags()) else 64


def processor_flags() -> set[str]:
    """What a Linux kernel says that the processor can do; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    lines = (line for line in text.split("\n") if line.startswith(("flags", "Features")))
    return set(next(lines, "").partition(":")[2].split())


@dataclass(frozen=True)
class Int8Matrix:
    """A matrix in 8 bits with a scale for each output: about `values` times `scales`.

    values  [inputs, outputs], int8; of an embedding, [tokens, width]
    scales  [outputs], float32; of an embedding, [tokens]
    """

    values: Int8[Array, "inputs outputs"]
    scales: Float[Array, " outputs"]

    @classmethod
    def of(
        cls, matrix: Float[Array, "inputs outputs"], limit: int = 127, axis: int = 0
    ) -> Int8Matrix:
        """The nearest such matrix, with values up to `limit`; `axis` is that of the inputs."""
        scales = np.abs(matrix).max(axis, keepdims=True) / np.float32(limit)
        scales[scales == 0] = 1
        values = matrix / scales
        values = np.rint(values, out=values).astype(np.int8)
        return cls(values, scales.squeeze(axis).astype(np.float32))


class Graph:
    """Builds an ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[Message] = []
        self.constants: dict[str, Message] = {}
        self.weights: dict[str, Array] = {}
        self._rounded: dict[str, tuple[str, str]] = {}

    def add(
        self,
        operator: str,
        inputs: list[str],
        *outputs: str,
        domain: str = "",
        **attributes: int | float | list[int],
    ) -> str:
        """Append an operator; returns the name of its first output."""
        self.nodes.append(onnx_messages.node(operator, inputs, outputs, domain, **attributes))
        return outputs[0]

    def constant(self, name: str, kind: Kind, values: float | list[int] | list[float]) -> str:
        """A number or a small vector within the graph, written once; returns its name."""
        if name not in self.constants:
            self.constants[name] = onnx_messages.tensor(name, np.array(values, kind.name))
        return name

    def weight(self, name: str, value: Array) -> str:
        """An array that the session gets beside the graph, not in it: int8, else float32."""
        dtype = np.dtype(np.int8 if value.dtype == np.int8 else np.float32)
        self.weights[name] = np.ascontiguousarray(value, dtype)
        self.constants[name] = onnx_messages.external(name, self.weights[name], location="given")
        return name

    def product(self, x: str, name: str, matrix: Array | Int8Matrix) -> str:
        """Multiply states by a matrix, [inputs, outputs]; returns the name of the result.

        For 8 bits, each row of states is rounded to 8 bits with a scale of its own, so that no
        position depends on those beside it.
        """
        if not isinstance(matrix, Int8Matrix):
            return self.add("MatMul", [x, self.weight(f"{name}.weight", matrix)], f"{name}.product")
        bytes_, scale = self._rounded.get(x) or self._rounded.setdefault(x, self.rounded(x))
        given = [bytes_, self.weight(f"{name}.weight", matrix.values)]
        given += [
            self.constant("one", Kind.float32, 1),
            self.weight(f"{name}.scales", matrix.scales),
        ]
        given += [self.constant("zero_point", Kind.uint8, ZERO_POINT)]
        y = self.add("MatMulIntegerToFloat", given, f"{name}.unscaled", domain=MICROSOFT)
        return self.add("Mul", [y, scale], f"{name}.product")

    def rounded(self, x: str) -> tuple[str, str]:
        """Rows as unsigned bytes around ZERO_POINT, and the scale of each.

        Unsigned, because ONNX Runtime has no fast kernels for signed ones.
        """
        axis = self.constant("last", Kind.int64, [-1])
        y = self.add("ReduceMax", [self.add("Abs", [x], f"{x}.abs"), axis], f"{x}.max", keepdims=1)
        steps = self.constant("step", Kind.float32, 1 / 127)
        least = self.constant("least", Kind.float32, float(np.finfo(np.float32).tiny))
        scale = self.add("Mul", [y, steps], f"{x}.steps")
        scale = self.add("Max", [scale, least], f"{x}.scale")
        y = self.add("Round", [self.add("Div", [x, scale], f"{x}.divided")], f"{x}.whole")
        zero_point = self.constant("zero_point.float", Kind.float32, ZERO_POINT)
        y = self.add("Add", [y, zero_point], f"{x}.shifted")
        return self.add("Cast", [y], f"{x}.bytes", to=Kind.uint8), scale

    def embedded(self, ids: str, name: str, table: Array | Int8Matrix) -> str:
        """The rows of an embedding; returns the name of the result."""
        values = table.values if isinstance(table, Int8Matrix) else table
        x = self.add("Gather", [self.weight(f"{name}.weight", values), ids], f"{name}.rows")
        if not isinstance(table, Int8Matrix):
            return x
        x = self.add("Cast", [x], f"{name}.float", to=Kind.float32)
        scales = self.weight(f"{name}.scales", table.scales[:, None])
        return self.add("Mul", [x, self.add("Gather", [scales, ids], f"{name}.scale")], "tokens")

    def model(self, inputs: list[Message], outputs: list[Message]) -> bytes:
        """The graph in ONNX's format, without its weights."""
        opsets = {"": OPSET, MICROSOFT: 1}
        constants = self.constants.values()
        return onnx_messages.model(self.nodes, inputs, outputs, constants, opsets, IR_VERSION)

    def session(self, inputs: list[Message], outputs: list[Message]) -> Session:
        """The graph, ready to run."""
        return Session(self.model(inputs, outputs), self.weights)


class Session:
    """A graph and its weights, which it keeps alive while ONNX Runtime refers to them.

    Raises MemoryError where there is too little for it.
    """

    def __init__(self, graph: bytes, weights: dict[str, Array]) -> None:
        self.weights = weights
        self.values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(weight) for weight in weights.values()
        ]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads()
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
        # Its search for buffers to use again takes the square of the number of operators, 1.7 s for
        # 1,540 of them. A pass needs no more memory without, as buffers are freed after use.
        options.enable_mem_reuse = False
        options.add_external_initializers(list(weights), self.values)
        for name, value in zip(weights, self.values, strict=True):
            options.add_initializer(name, value)  # else even what is only looked up is copied
        try:
            self.session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # that of C++, in a class that onnxruntime does not publish
            if "bad_alloc" in str(error):
                raise MemoryError from error
            raise

    def run(
        self, outputs: list[str], inputs: dict[str, Array], *, shrinks: bool = False
    ) -> list[Array]:
        """The named results; a run that `shrinks` frees the buffers that earlier ones took."""
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        options = onnxruntime.RunOptions() if shrinks else None
        if options:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        found: list[Array] = self.session.run(outputs, given, options)
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

    output  the output matrix, [width, vocab]
    """

    def __init__(
        self, marks: Marks, shape: PassShape, graph: Graph, output: Array | Int8Matrix
    ) -> None:
        self.marks, self.shape = marks, shape
        self._passes = graph.session(*interface(shape))
        head = Graph()
        logits = head.product("hidden", "output", output)
        size = len(output.scales) if isinstance(output, Int8Matrix) else output.shape[1]
        self._head = head.session(
            [value_info("hidden", Kind.float32, "rows", shape.width)],
            [value_info(logits, Kind.float32, "rows", size)],
        )
        self._logits = logits

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

    def release(self) -> None:
        """Give memory back, as `Backbone` has it: ONNX Runtime does so only after a run."""
        one = np.zeros((1, 1), np.int64)
        inputs = self.inputs(one, one, np.ones((1, 1, 1, 1), bool), self.shape.empty(1))
        self._passes.run(["hidden"], inputs, shrinks=True)

    def logits(self, states: Float[Array, "positions width"]) -> Float[Array, "positions vocab"]:
        """Logits of states."""
        return self._head.run([self._logits], {"hidden": states})[0]

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


def interface(shape: PassShape, *, chained: bool = False) -> tuple[list[Message], list[Message]]:
    """Inputs and outputs of a pass; that of a chain also takes the states of a canvas."""
    hidden = (Kind.float32, "batch", "length", shape.width)

    def cached(keys: str, values: str, length: str) -> list[Message]:
        size = (Kind.float32, "batch", shape.heads, length, shape.size)
        return [value_info(name, *size) for name in names(keys, values, shape.layers)]

    inputs = [
        value_info("ids", Kind.int64, "batch", "length"),
        value_info("cos", Kind.float32, "batch", "length", shape.size // 2),
        value_info("sin", Kind.float32, "batch", "length", shape.size // 2),
        value_info("visible", Kind.bool, "batch", 1, "length", "total"),
        *cached("past_key", "past_value", "past"),
        *([value_info("states", *hidden)] if chained else []),
    ]
    return inputs, [value_info("hidden", *hidden), *cached("key", "value", "total")]


def names(keys: str, values: str, layers: int) -> list[str]:
    """Names of the keys of all layers, then of the values."""
    return [f"{name}.{layer}" for name in (keys, values) for layer in range(layers)]

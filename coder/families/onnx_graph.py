"""ONNX graphs built and run by ONNX Runtime: what the families' CPU backbones share."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from talaria.coder.backbone import Array

OPSET, IR_VERSION = 23, 11  # the first with RMSNormalization, RotaryEmbedding and Attention
MOST_THREADS = 4  # more would wait for each other in matrix products this small
# How long a thread waits awake, in microseconds: enough for the next operator, too short to
# hold up another program that wants the core.
SPIN = 50


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


def info(name: str, kind: str, *shape: int | str) -> onnx.ValueInfoProto:
    """What a graph takes or gives; a size that varies has a name."""
    return helper.make_tensor_value_info(name, getattr(TensorProto, kind.upper()), shape)


def names(keys: str, values: str, layers: int) -> list[str]:
    """What keys and values are called, layer by layer."""
    return [f"{name}.{layer}" for name in (keys, values) for layer in range(layers)]

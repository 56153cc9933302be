"""The messages of ONNX's format that graphs here need, written by Google's protobuf.

ONNX Runtime brings protobuf, but nothing that writes its own format. The package `onnx` would: 25
MB, most of them a reference implementation. Numbers and types are those of its schema (onnx.proto,
IR version 11), where they never change; tests have the package read what is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = "talaria.onnx"
EXTERNAL = 1  # where a tensor's data lies that is not in its message

# The fields of each message: number, name and type, with a star if there may be several.
FIELDS: Mapping[str, Sequence[tuple[int, str, str]]] = {
    "Model": (
        (1, "ir_version", "int64"),
        (7, "graph", "Graph"),
        (8, "opset_import", "OperatorSet*"),
    ),
    "OperatorSet": ((1, "domain", "string"), (2, "version", "int64")),
    "Graph": (
        (1, "node", "Node*"),
        (2, "name", "string"),
        (5, "initializer", "Tensor*"),
        (11, "input", "ValueInfo*"),
        (12, "output", "ValueInfo*"),
    ),
    "Node": (
        (1, "input", "string*"),
        (2, "output", "string*"),
        (4, "op_type", "string"),
        (5, "attribute", "Attribute*"),
        (7, "domain", "string"),
    ),
    "Attribute": (
        (1, "name", "string"),
        (2, "f", "float"),
        (3, "i", "int64"),
        (8, "ints", "int64*"),
        (20, "type", "int32"),
    ),
    "Tensor": (
        (1, "dims", "int64*"),
        (2, "data_type", "int32"),
        (8, "name", "string"),
        (9, "raw_data", "bytes"),
        (13, "external_data", "Entry*"),
        (14, "data_location", "int32"),
    ),
    "Entry": ((1, "key", "string"), (2, "value", "string")),
    "ValueInfo": ((1, "name", "string"), (2, "type", "Type")),
    "Type": ((1, "tensor_type", "TensorType"),),
    "TensorType": ((1, "elem_type", "int32"), (2, "shape", "Shape")),
    "Shape": ((1, "dim", "Dimension*"),),
    "Dimension": ((1, "dim_value", "int64"), (2, "dim_param", "string")),
}


class Kind(IntEnum):
    """What a tensor holds, named as numpy names it."""

    float32 = 1
    uint8 = 2
    int8 = 3
    int32 = 6
    int64 = 7
    bool = 9


def tensor(name: str, value: NDArray[Any]) -> Message:
    """An array within the graph."""
    data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
    return _new(
        "Tensor", name=name, data_type=Kind[value.dtype.name], dims=value.shape, raw_data=data
    )


def external(name: str, value: NDArray[Any], **where: str) -> Message:
    """An array that lies elsewhere, at a `location`; it has its type and shape alone."""
    entries = [_new("Entry", key=key, value=each) for key, each in where.items()]
    return _new(
        "Tensor",
        name=name,
        data_type=Kind[value.dtype.name],
        dims=value.shape,
        external_data=entries,
        data_location=EXTERNAL,
    )


def node(
    operator: str,
    inputs: Iterable[str],
    outputs: Iterable[str],
    domain: str = "",
    **attributes: float | Sequence[int],
) -> Message:
    """An operator with its attributes."""
    found = [_attribute(name, value) for name, value in attributes.items()]
    return _new(
        "Node", op_type=operator, input=inputs, output=outputs, attribute=found, domain=domain
    )


def value_info(name: str, kind: Kind, *shape: int | str) -> Message:
    """An input or output of a graph; a size that varies has a name."""
    sizes = [
        _new("Dimension", dim_param=size)
        if isinstance(size, str)
        else _new("Dimension", dim_value=size)
        for size in shape
    ]
    held = _new("TensorType", elem_type=kind, shape=_new("Shape", dim=sizes))
    return _new("ValueInfo", name=name, type=_new("Type", tensor_type=held))


def model(
    nodes: Iterable[Message],
    inputs: Iterable[Message],
    outputs: Iterable[Message],
    constants: Iterable[Message],
    opsets: Mapping[str, int],
    ir_version: int,
) -> bytes:
    """A graph, serialised; `opsets` are the versions of the operators by their domains."""
    graph = _new(
        "Graph", name="graph", node=nodes, initializer=constants, input=inputs, output=outputs
    )
    versions = [_new("OperatorSet", domain=name, version=each) for name, each in opsets.items()]
    whole = _new("Model", ir_version=ir_version, graph=graph, opset_import=versions)
    return bytes(whole.SerializeToString())


def _attribute(name: str, value: float | Sequence[int]) -> Message:
    """A named number, or several whole ones; the type's numbers are the schema's."""
    if isinstance(value, int):
        return _new("Attribute", name=name, i=value, type=2)
    if isinstance(value, float):
        return _new("Attribute", name=name, f=value, type=1)
    return _new("Attribute", name=name, ints=value, type=7)


def _new(message: str, **fields: Any) -> Message:
    return _classes()[message](**fields)


@cache
def _classes() -> dict[str, type[Message]]:
    """A class for each message."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{PACKAGE}.proto", package=PACKAGE)
    known = descriptor_pb2.FieldDescriptorProto
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            one = kind.removesuffix("*")
            label = known.LABEL_OPTIONAL if one == kind else known.LABEL_REPEATED
            entry = message.field.add(name=field, number=number, label=label)
            if one in FIELDS:
                entry.type, entry.type_name = known.TYPE_MESSAGE, f".{PACKAGE}.{one}"
            else:
                entry.type = known.Type.Value(f"TYPE_{one.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in FIELDS
    }

"""What is written is ONNX, as its own package reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from talaria.coder.families.onnx_graph import IR_VERSION, OPSET
from talaria.coder.families.onnx_messages import (
    EXTERNAL,
    FIELDS,
    Kind,
    external,
    model,
    node,
    tensor,
    value_info,
)

THEIRS: dict[str, Any] = {
    "Model": onnx.ModelProto,
    "OperatorSet": onnx.OperatorSetIdProto,
    "Graph": onnx.GraphProto,
    "Node": onnx.NodeProto,
    "Attribute": onnx.AttributeProto,
    "Tensor": onnx.TensorProto,
    "Entry": onnx.StringStringEntryProto,
    "ValueInfo": onnx.ValueInfoProto,
    "Type": onnx.TypeProto,
    "TensorType": onnx.TypeProto.Tensor,
    "Shape": onnx.TensorShapeProto,
    "Dimension": onnx.TensorShapeProto.Dimension,
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_those_of_the_schema(name: str) -> None:
    """Numbers, types, and whether there may be several; an enumeration is a number."""
    for number, field, kind in FIELDS[name]:
        known = THEIRS[name].DESCRIPTOR.fields_by_name[field]
        one = kind.removesuffix("*")
        if one in FIELDS:
            assert known.message_type is THEIRS[one].DESCRIPTOR
        elif known.enum_type is None:
            assert known.type == getattr(known, f"TYPE_{one.upper()}")
        else:
            assert one == "int32"
        assert (known.number, known.is_repeated) == (number, one != kind)


@pytest.mark.parametrize("kind", Kind)
def test_kinds_are_those_of_the_schema(kind: Kind) -> None:
    """By the names that numpy has for them."""
    assert int(helper.np_dtype_to_tensor_dtype(np.dtype(kind.name))) == int(kind)
    value = np.array([[1, 0, 1], [0, 1, 1]], kind.name)
    for given in (value, value.T, value[0, 0], value.astype(value.dtype.newbyteorder(">"))):
        read = onnx.TensorProto.FromString(tensor("x", np.asarray(given)).SerializeToString())
        assert read.name == "x"
        np.testing.assert_array_equal(numpy_helper.to_array(read), given)


def test_a_model_is_read_as_it_was_meant() -> None:
    """Operators with their attributes, names of sizes, constants, and what lies elsewhere."""
    weight = np.ones((3, 2), np.float32)
    written = model(
        [
            node("MatMul", ["x", "weight"], ["y"]),
            node("Transpose", ["y"], ["z"], perm=[1, 0]),
            node("LeakyRelu", ["z"], ["out"], alpha=0.5),
            node("Cast", ["z"], ["whole"], to=Kind.int64),
        ],
        [value_info("x", Kind.float32, "rows", 3)],
        [value_info("out", Kind.float32, 2, "rows"), value_info("whole", Kind.int64, 2, "rows")],
        [tensor("weight", weight)],
        {"": OPSET},
        IR_VERSION,
    )
    read = onnx.load_model_from_string(written)
    onnx.checker.check_model(read, full_check=True)
    attributes = [helper.get_attribute_value(a) for n in read.graph.node for a in n.attribute]
    assert attributes == [[1, 0], 0.5, Kind.int64]
    size, width = read.graph.input[0].type.tensor_type.shape.dim
    assert (size.dim_param, width.dim_value) == ("rows", 3)
    elsewhere = onnx.TensorProto.FromString(
        external("w", weight, location="given").SerializeToString()
    )
    assert elsewhere.data_location == EXTERNAL == onnx.TensorProto.EXTERNAL
    assert [(each.key, each.value) for each in elsewhere.external_data] == [("location", "given")]
    assert (elsewhere.dims, elsewhere.data_type) == ([3, 2], Kind.float32)

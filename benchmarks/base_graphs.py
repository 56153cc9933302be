"""Graphs of a base's passes with random weights, their matrix products as different engines do.

`benchmarks/base_engines.py` measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from talaria.coder.backbone import Array
from talaria.coder.families.onnx_graph import MICROSOFT, Graph, PassShape, interface
from talaria.coder.families.onnx_messages import Kind, external, tensor
from talaria.coder.families.qwen2 import Qwen2Config

if TYPE_CHECKING:
    from jaxtyping import Float

# Qwen2.5-Coder-0.5B, but for its vocabulary: the output matrix is not measured.
BASE = Qwen2Config(
    vocab_size=1000,
    layers=24,
    width=896,
    heads=14,
    kv_heads=2,
    hidden=4864,
    context_length=32768,
    rope_base=1e6,
    epsilon=1e-6,
)
BLOCK = 32  # weights that share a scale in MatMulNBits
TINY = 1e-20  # keeps a row of zeros from being divided by zero

Product = Callable[["WeightFile", str, str, Array], str]
"""`product(file, x, name, matrix)` appends x @ matrix to the graph and returns its name."""


def matrices() -> Iterator[tuple[int, str, Array]]:
    """Yield layer, name and value of every matrix, [inputs, outputs]: queries, keys and values
    are one, and so are the two halves of the gated MLP.
    """
    keys = 2 * BASE.kv_heads * BASE.size
    sizes = {
        "qkv": (BASE.width, BASE.width + keys),
        "out": (BASE.width, BASE.width),
        "up": (BASE.width, 2 * BASE.hidden),
        "down": (BASE.hidden, BASE.width),
    }
    rng = np.random.default_rng(1)
    drawn = {
        name: rng.standard_normal(size, dtype=np.float32) / np.float32(size[0] ** 0.5)
        for name, size in sizes.items()
    }
    for layer in range(BASE.layers):
        for name, value in drawn.items():  # rolled, as drawing all would take long
            yield layer, name, np.roll(value, layer, axis=0)


def embedding() -> Float[Array, "vocab width"]:
    """Return the embedding."""
    rng = np.random.default_rng(2)
    return rng.standard_normal((BASE.vocab_size, BASE.width), dtype=np.float32)


class WeightFile:
    """A graph whose weights go straight into a file beside it, which the engine maps."""

    def __init__(self, folder: Path) -> None:
        self.graph: Graph = Graph()
        self.folder = folder
        self._weights = (folder / "weights.bin").open("wb")

    def put(self, name: str, value: Array) -> str:
        """Store a weight and return its name."""
        start = -(-self._weights.tell() // 4096) * 4096  # mapped by pages
        self._weights.seek(start)
        self._weights.write(np.ascontiguousarray(value).tobytes())
        where = {"location": "weights.bin", "offset": str(start), "length": str(value.nbytes)}
        self.graph.constants[name] = external(name, value, **where)
        return name

    def scalar(self, name: str, value: Array) -> str:
        """A constant of the graph, stored once; returns its name."""
        if name not in self.graph.constants:
            self.graph.constants[name] = tensor(name, value)
        return name

    def microsoft(self, operator: str, inputs: list[str], output: str, **settings: int) -> str:
        """Append one of ONNX Runtime's own operators."""
        return self.graph.add(operator, inputs, output, domain=MICROSOFT, **settings)

    def close(self) -> None:
        """Write the graph."""
        self._weights.close()
        between = interface(PassShape(BASE.layers, BASE.width, BASE.kv_heads, BASE.size))
        (self.folder / "model.onnx").write_bytes(self.graph.model(*between))


def write_graph(folder: Path, product: Product) -> None:
    """Write the graph of a pass, with its matrix products as an engine has them."""
    file = WeightFile(folder)
    graph, add = file.graph, file.graph.add
    keys = BASE.kv_heads * BASE.size
    graph.constant("queries", Kind.int64, [0, 0, BASE.heads, BASE.size])
    graph.constant("kept", Kind.int64, [0, 0, BASE.kv_heads, BASE.size])
    graph.constant("together", Kind.int64, [0, 0, BASE.width])
    graph.constant("three", Kind.int64, [BASE.width, keys, keys])
    ones = file.put("ones", np.ones(BASE.width, np.float32))

    def norm(x: str, result: str) -> str:
        return add("RMSNormalization", [x, ones], result, axis=-1, epsilon=BASE.epsilon)

    def heads(x: str, shape: str) -> str:
        y = add("Reshape", [x, shape], f"{x}.heads")
        return add("Transpose", [y], f"{x}.by_head", perm=[0, 2, 1, 3])

    x = add("Gather", [file.put("embedding", embedding()), "ids"], "tokens")
    for layer, name, matrix in matrices():
        own = f"{name}.{layer}"
        if name == "qkv":
            y = product(file, norm(x, f"norm.{own}"), own, matrix)
            q, k, v = f"q.{layer}", f"k.{layer}", f"v.{layer}"
            add("Split", [y, "three"], q, k, v, axis=-1)
            q, k, v = heads(q, "queries"), heads(k, "kept"), heads(v, "kept")
            q, k = (add("RotaryEmbedding", [one, "cos", "sin"], f"{one}.turned") for one in (q, k))
            seen = [q, k, v, "visible", f"past_key.{layer}", f"past_value.{layer}"]
            y = add("Attention", seen, f"attended.{layer}", f"key.{layer}", f"value.{layer}")
            y = add("Transpose", [y], f"by_token.{layer}", perm=[0, 2, 1, 3])
            y = add("Reshape", [y, "together"], f"joined.{layer}")
        elif name == "up":
            y = product(file, norm(x, f"norm.{own}"), own, matrix)
            gate, linear = f"gate.{layer}", f"linear.{layer}"
            add("Split", [y], gate, linear, axis=-1, num_outputs=2)
            silu = add("Mul", [gate, add("Sigmoid", [gate], f"s.{layer}")], f"silu.{layer}")
            y = add("Mul", [silu, linear], f"gated.{layer}")
        else:
            x = add("Add", [x, product(file, y, own, matrix)], f"after.{own}")
    norm(x, "hidden")
    file.close()


def plain(file: WeightFile, x: str, name: str, matrix: Array) -> str:
    """A product in float32."""
    return file.graph.add("MatMul", [x, file.put(name, matrix)], f"{name}.product")


def by_output(matrix: Array, largest: int) -> tuple[Array, Float[Array, " outputs"]]:
    """Round a matrix to integers up to `largest`, and return the scales of its outputs."""
    scales = np.abs(matrix).max(0) / np.float32(largest)
    return np.rint(matrix / scales).astype(np.int8), scales


def by_row(file: WeightFile, x: str) -> tuple[str, str]:
    """Quantise each row of x to unsigned bytes around 128; returns the bytes and the scales."""
    add = file.graph.add
    last = file.scalar("last", np.array([-1]))
    share, tiny, zero = (
        file.scalar(name, np.array(value, np.float32))
        for name, value in (("share", 1 / 127), ("tiny", TINY), ("zero", 128))
    )
    most = add("ReduceMax", [add("Abs", [x], f"{x}.abs"), last], f"{x}.most", keepdims=1)
    scale = add("Max", [add("Mul", [most, share], f"{x}.share"), tiny], f"{x}.scale")
    whole = add("Round", [add("Div", [x, scale], f"{x}.scaled")], f"{x}.rounded")
    unsigned = add("Add", [whole, zero], f"{x}.unsigned")
    return add("Cast", [unsigned], f"{x}.bytes", to=Kind.uint8), scale


def integers(file: WeightFile, x: str, name: str, matrix: Array, unsigned: bool) -> str:
    """A product in int8, with one scale for each row of x and each output."""
    # Without VNNI, sums of two products saturate at 16 bits unless signed weights have 7 bits.
    weights, scales = by_output(matrix, 127 if unsigned else 63)
    centre = file.scalar("centre", np.array(128, np.uint8))
    weights_centre = file.scalar("signed_centre", np.array(0, np.int8))
    if unsigned:
        weights, weights_centre = (weights.astype(np.int16) + 128).astype(np.uint8), centre
    given, scale = by_row(file, x)
    one = file.scalar("one", np.array(1, np.float32))
    stored = file.put(name, weights), one, file.put(f"{name}.scales", scales)
    inputs = [given, *stored, centre, weights_centre]
    y = file.microsoft("MatMulIntegerToFloat", inputs, f"{name}.unscaled")
    return file.graph.add("Mul", [y, scale], f"{name}.product")


def one_scale(file: WeightFile, x: str, name: str, matrix: Array) -> str:
    """A product in int8, with one scale for all of x: ONNX Runtime's usual dynamic one."""
    weights, scales = by_output(matrix, 63)
    stored = [x, file.put(name, weights), file.put(f"{name}.scales", scales)]
    return file.microsoft("DynamicQuantizeMatMul", stored, f"{name}.product")


def blocks(file: WeightFile, x: str, name: str, matrix: Array, bits: int) -> str:
    """A product with weights of 4 or 8 bits in blocks, and x rounded to int8 in blocks too."""
    inputs, outputs = matrix.shape
    grouped = matrix.T.reshape(outputs, inputs // BLOCK, BLOCK)
    half = 1 << bits - 1
    scales = np.abs(grouped).max(-1) / np.float32(half - 1)
    stored = (np.rint(grouped / scales[..., None]) + half).astype(np.uint8)
    if bits == 4:
        stored = stored[..., ::2] | stored[..., 1::2] << 4
    given = [x, file.put(name, stored), file.put(f"{name}.scales", scales)]
    settings = {"K": inputs, "N": outputs, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    return file.microsoft("MatMulNBits", given, f"{name}.product", **settings)


def dequantised(file: WeightFile, x: str, name: str, matrix: Array) -> str:
    """A product in float with int8 weights; OpenVINO decides how to compute it."""
    weights, scales = by_output(matrix, 127)
    stored = [file.put(name, weights), file.put(f"{name}.scales", scales)]
    whole = file.graph.add("DequantizeLinear", stored, f"{name}.float", axis=1)
    return file.graph.add("MatMul", [x, whole], f"{name}.product")


PRODUCTS: dict[str, Product] = {
    "float32": plain,
    "int8, U8S8, 7-bit weights": partial(integers, unsigned=False),
    "int8, U8U8": partial(integers, unsigned=True),
    "int8, one scale a pass": one_scale,
    "MatMulNBits 8": partial(blocks, bits=8),
    "MatMulNBits 4": partial(blocks, bits=4),
    "int8 weights": dequantised,
    "int8 weights, bfloat16": dequantised,
}

"""The denoiser on a CPU: the same float32 weights, computed by ONNX Runtime.

torch spends more than half of a step of so small a model between its operators.
`docs/decisions/0006-cpu-engine.md` has the figures and what else was tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from talaria.coder.denoiser import Denoiser, DenoiserConfig, KVCache, Layers, rotary_turns
from talaria.coder.transformer import Block, Chain, Transformer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

OPSET, IR_VERSION = 23, 11  # the first with RMSNormalization, RotaryEmbedding and Attention
# More than four wait for each other in products so small. What torch would have taken is
# told by the user (OMP_NUM_THREADS) or the machine.
THREADS = min(4, torch.get_num_threads())
# How long a thread waits awake, in microseconds: enough for the next operator, too short to
# hold up another program that wants the core.
SPIN = 50
EPSILON = torch.finfo(torch.float32).eps  # what torch adds in an RMS norm when told nothing


class Graph:
    """An ONNX graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.weights: dict[str, Tensor] = {}

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

    def weight(self, name: str, value: Tensor) -> str:
        """A matrix that a session is given beside the graph."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="given")
        self.constants.append(tensor)
        self.weights[name] = value.detach().float().contiguous()
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

    def __init__(self, graph: bytes, weights: dict[str, Tensor]) -> None:
        self.weights = weights
        self.values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(weight.numpy()) for weight in weights.values()
        ]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
        options.add_external_initializers(list(weights), self.values)
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def run(self, outputs: list[str], inputs: dict[str, Tensor]) -> list[Tensor]:
        """The named results."""
        given = {name: tensor.contiguous().numpy() for name, tensor in inputs.items()}
        return [torch.from_numpy(array) for array in self.session.run(outputs, given)]


class OnnxDenoiser(Denoiser):
    """A denoiser whose passes ONNX Runtime computes; equal to torch's to float32 accuracy."""

    def __init__(self, transformer: Transformer) -> None:
        """Take over the weights; later changes of the transformer's do not count.

        From now on torch has one thread: what is left to it is small, and threads of its
        own would wait, awake, beside those that compute.
        """
        self.config = transformer.config
        torch.set_num_threads(1)
        self._passes = passes(transformer).session(*interface(self.config, self.config.layers))
        self._chain = None
        if transformer.links is not None:
            between = interface(self.config, self.config.chain_layers, chained=True)
            self._chain = passes(transformer, transformer.links).session(*between)
        self._head = head(transformer).session(
            [info("hidden", "float", "rows", self.config.width)],
            [info("logits", "float", "rows", self.config.vocab_size)],
        )
        self._nothing = torch.empty(0)

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return self._nothing.device

    @property
    def threads(self) -> int:
        """Of ONNX Runtime."""
        return THREADS

    def evaluate(
        self,
        ids: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch length"],
        visible: Bool[Tensor, "batch 1 length total"] | None,
        cache: KVCache | None,
        keep: bool,
    ) -> tuple[Float[Tensor, "batch length width"], Layers, Layers]:
        """One pass, as `Denoiser` has it."""
        config, (batch, length) = self.config, ids.shape
        past = self._none(batch, config.layers) if cache is None else (*cache.keys, *cache.values)
        if visible is None:
            visible = torch.ones(1, 1, length, past[0].shape[2] + length, dtype=torch.bool)
            visible = visible.expand(batch, -1, -1, -1)
        inputs = self._inputs(ids, positions, visible, past)
        outputs = names("key", "value", config.layers) if keep else []
        hidden, *kept = self._passes.run(["hidden", *outputs], inputs)
        half = len(kept) // 2
        return hidden, tuple(kept[:half]), tuple(kept[half:])

    def chain(
        self,
        hidden: Float[Tensor, "batch length width"],
        before: Int[Tensor, "batch length"],
        past: Layers,
    ) -> tuple[Float[Tensor, "batch length width"], Layers]:
        """Positions after those that are `past`, as `Denoiser` has it."""
        assert self._chain is not None
        layers, (batch, length) = self.config.chain_layers, before.shape
        past = past or self._none(batch, layers)
        first = past[0].shape[2]
        visible = torch.ones(length, first + length, dtype=torch.bool).tril(first)
        positions = torch.arange(first, first + length).expand(batch, -1)
        inputs = self._inputs(before, positions, visible.expand(batch, 1, -1, -1), past)
        outputs = ["hidden", *names("key", "value", layers)]
        states, *kept = self._chain.run(outputs, {**inputs, "states": hidden})
        return states, tuple(kept)

    def _inputs(
        self,
        ids: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch length"],
        visible: Bool[Tensor, "batch 1 length total"],
        past: Layers,
    ) -> dict[str, Tensor]:
        """What every graph takes; `past` are keys, layer by layer, then values."""
        cos, sin = rotary_turns(self.config, positions)
        inputs = {"ids": ids, "cos": cos, "sin": sin, "visible": visible}
        given = names("past_key", "past_value", len(past) // 2)
        return {**inputs, **dict(zip(given, past, strict=True))}

    def _none(self, batch: int, layers: int) -> Layers:
        """The past of a first token."""
        config = self.config
        return (torch.empty(batch, config.heads, 0, config.width // config.heads),) * (2 * layers)

    def logits(self, hidden: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape vocab"]:
        """Logits of hidden states, in float32."""
        (logits,) = self._head.run(["logits"], {"hidden": hidden.reshape(-1, hidden.shape[-1])})
        return logits.view(*hidden.shape[:-1], -1)


def info(name: str, kind: str, *shape: int | str) -> onnx.ValueInfoProto:
    """What a graph takes or gives; a size that varies has a name."""
    return helper.make_tensor_value_info(name, getattr(TensorProto, kind.upper()), shape)


def names(keys: str, values: str, layers: int) -> list[str]:
    """What keys and values are called, layer by layer."""
    return [f"{name}.{layer}" for name in (keys, values) for layer in range(layers)]


def interface(
    config: DenoiserConfig, layers: int, *, chained: bool = False
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


def passes(transformer: Transformer, links: Chain | None = None) -> Graph:
    """From tokens to hidden states: what `Transformer.evaluate` computes, or its chain."""
    graph, config = Graph(), transformer.config
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

    embed = graph.weight("embed", transformer.embed.weight)
    x = norm(graph.add("Gather", [embed, "ids"], "tokens"))
    blocks = transformer.blocks
    if links is not None:
        weight = graph.weight("before.weight", links.before.weight.t())
        x = graph.add("Add", ["states", graph.add("MatMul", [x, weight], "before")], "both")
        blocks = links.blocks
    for layer, block in enumerate(blocks):
        assert isinstance(block, Block)

        def own(name: str, layer: int = layer) -> str:
            return f"{name}.{layer}"

        def product(x: str, name: str, linear: nn.Linear, layer: int = layer) -> str:
            weight = graph.weight(f"{name}.weight.{layer}", linear.weight.t())
            return graph.add("MatMul", [x, weight], f"{name}.{layer}")

        y = graph.add("Reshape", [product(norm(x), "qkv", block.qkv), "apart"], own("heads"))
        y = graph.add("Transpose", [y], own("by_head"), perm=[0, 2, 1, 3])
        # Queries and keys are normalised and turned together, as if they were twice as many heads.
        graph.add("Split", [y, "turned_and_not"], own("qk"), own("v"), axis=1)
        y = norm(own("qk"), ones="size.ones")
        y = graph.add("RotaryEmbedding", [y, "cos", "sin"], own("turned"))
        graph.add("Split", [y], own("q"), own("k"), axis=1, num_outputs=2)
        seen = [own("q"), own("k"), own("v"), "visible", own("past_key"), own("past_value")]
        y = graph.add("Attention", seen, own("attended"), own("key"), own("value"))
        y = graph.add("Transpose", [y], own("by_token"), perm=[0, 2, 1, 3])
        y = product(graph.add("Reshape", [y, "together"], own("joined")), "out", block.out)
        x = graph.add("Add", [x, y], own("between"))
        y = product(norm(x), "up", block.up)
        graph.add("Split", [y], own("gate"), own("linear"), axis=-1, num_outputs=2)
        y = graph.add("Mul", [own("gate"), graph.add("Sigmoid", [own("gate")], own("s"))], own("g"))
        y = graph.add("Mul", [y, own("linear")], own("gated"))
        x = graph.add("Add", [x, product(y, "down", block.down)], own("after"))
    norm(x, "hidden")
    return graph


def head(transformer: Transformer) -> Graph:
    """From hidden states to logits."""
    graph = Graph()
    graph.add("MatMul", ["hidden", graph.weight("embed", transformer.embed.weight.t())], "logits")
    return graph

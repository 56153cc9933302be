"""The Qwen2 family on a CPU, by ONNX Runtime.

Which engines and precisions were measured: `docs/decisions/0011-base-engine.md`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from talaria.coder.backbone import (
    Array,
    Candidates,
    Constraint,
    KVCache,
    Marks,
    States,
    likeliest,
)
from talaria.coder.families.onnx_graph import Graph, Int8Matrix, OnnxBackbone, PassShape
from talaria.coder.families.onnx_messages import Kind, value_info
from talaria.coder.families.qwen2 import (
    CHAIN,
    EMBEDDING,
    END_BIAS,
    OUTPUT,
    Qwen2Config,
    numbered,
    rotary_turns,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

EPSILON = 1e-6  # of the chain's norms
# Where passes are timed: their positions, those of the context before them, and trials. The first
# three positions behind one cost little, as kernels compute four rows at a time.
WIDTHS, CONTEXT, TRIALS = (1, 4, 8, 16), 256, 4
NOISE = 0.03  # difference between times that says nothing
# Tokens a step with masks behind two parts of a draft, times those behind one. Behind three it is
# 1.08, too little for what it takes.
FURTHER = 1.06
AMONG = 16  # candidates of a position that the chain ranks anew

Network = Mapping[str, Array | Int8Matrix]


class OnnxQwen2(OnnxBackbone):
    """A causal model unless an adapter is merged, which lets it denoise.

    network   by the names of `fused`, matrices in float32 or in 8 bits
    denoises  whether an adapter is merged into them
    """

    shift = True
    pass_length = 128  # half a second without VNNI; shorter ones are slower by token

    def __init__(
        self, config: Qwen2Config, network: Network, marks: Marks, denoises: bool = False
    ) -> None:
        self.config, self.denoises = config, denoises
        self.positions = config.context_length
        shape = PassShape(config.layers, config.width, config.kv_heads, config.size)
        super().__init__(marks, shape, passes(config, network), network[OUTPUT])
        embedding = network[EMBEDDING]
        rows = embedding.values if isinstance(embedding, Int8Matrix) else embedding
        self.masks = 1 + len(rows) - config.vocab_size
        self._embedding = embedding
        bias = network.get(END_BIAS)
        self._end_bias = np.float32(bias[0] if isinstance(bias, np.ndarray) else 0)
        self._chain = None
        if CHAIN[0] in network:
            parts = (network[name] for name in CHAIN)
            self._chain = Chain(*(part for part in parts if isinstance(part, np.ndarray)))
            self.chained, self.among = True, AMONG

    def evaluate(
        self,
        ids: Int[Array, "batch length"],
        positions: Int[Array, "batch length"],
        visible: Bool[Array, "batch 1 length total"] | None,
        cache: KVCache | None,
        keep: bool,
    ) -> tuple[States, tuple[States, ...], tuple[States, ...]]:
        """One pass, as `Backbone` has it; masks in a row are of different kinds."""
        if self.masks > 1:
            vocab_size = self.config.vocab_size
            ids = numbered(ids, positions, self.marks.mask, vocab_size, self.masks)
        return super().evaluate(ids, positions, visible, cache, keep)

    def chain(
        self, states: States, before: Int[Array, "batch length"], past: tuple[States, ...]
    ) -> tuple[States, tuple[States, ...]]:
        """States given the token chosen before each, as `Backbone` has it; nothing is kept."""
        assert self._chain is not None
        return self._chain(states, self.rows(before)), past

    def rows(self, ids: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
        """The embeddings of tokens; if tied, they are also their rows of the output matrix."""
        table = self._embedding
        if isinstance(table, Int8Matrix):
            found: Array = table.values[ids] * table.scales[ids][..., None]
            return found
        return table[ids]

    def logits(self, states: Float[Array, "positions width"]) -> Float[Array, "positions vocab"]:
        """Logits of states, that of `<eom>` with its bias."""
        found = super().logits(states)
        found[:, self.marks.eom] += self._end_bias
        return found

    def candidates(
        self,
        states: States,
        k: int,
        constraints: Sequence[Constraint] | None = None,
        temperatures: Float[Array, " positions"] | None = None,
    ) -> Candidates:
        """The k likeliest tokens, as `Backbone` has it; of a shortlist, without the others."""
        only = [np.asarray(each.only) for each in constraints or () if each.only is not None]
        shortlists = len(only) == len(states) and {each.shape for each in only} == {(AMONG,)}
        if not shortlists or not self.config.tied:
            return super().candidates(states, k, constraints, temperatures)
        # Numbers of a small vocabulary that each position has to itself.
        ids = np.stack(only)
        logits = (self.rows(ids) @ states[:, :, None])[..., 0]
        own = [
            Constraint(forbidden=tuple(np.flatnonzero(np.isin(row, each.forbidden)).tolist()))
            for row, each in zip(ids, constraints or (), strict=True)
        ]
        logits[ids == self.marks.eom] += self._end_bias
        logits[np.isin(ids, self.marks.never)] = -np.inf
        found = likeliest(logits, k, (), own, temperatures)
        self.numbers(found.log_probabilities)
        return Candidates(np.take_along_axis(ids, found.ids, 1), found.log_probabilities)

    def lookahead(self, accepted: Sequence[float]) -> int:
        """How many positions a step should evaluate, as `Backbone` has it; measured here and now.

        A step reads what the one before it wrote, and the masks; all of them perhaps also behind
        another part of a draft. Of what takes about the least time a token, it is the fewest.
        """
        written = 1 + np.concatenate(([0.0], np.cumsum(accepted)))
        choices = list(enumerate(written.tolist()))
        if len(accepted) == self.masks > 1:
            choices.append((2 * self.masks, written[-1] * FURTHER))
        passes, asking = self.timed()
        each = [
            (np.interp(tokens + masks, WIDTHS, passes) + asking * (masks > 0)) / tokens
            for masks, tokens in choices
        ]
        enough = min(each) * (1 + NOISE)
        return 1 + next(
            masks for (masks, _), time in zip(choices, each, strict=True) if time <= enough
        )

    def timed(self) -> tuple[list[float], float]:
        """Seconds that passes of WIDTHS take, with what they predict, and what asking masks takes.

        The best of some, measured in turns, so that what slows the machine down slows all of them.
        """
        heads, size = self.shape.heads, self.shape.size
        past = (np.zeros((1, heads, CONTEXT, size), np.float32),) * self.shape.layers
        cache = KVCache(past, past, np.ones((1, CONTEXT), bool), np.array([CONTEXT]))
        passes = np.empty((TRIALS, len(WIDTHS)))
        asking = np.empty(TRIALS)
        for trial in range(TRIALS):
            for place, width in enumerate(WIDTHS):
                began = time.perf_counter()
                states, _ = self.encode([[0] * width], cache)
                self.candidates(states[0, :1], 1)
                passes[trial, place] = time.perf_counter() - began
            began = time.perf_counter()
            self.candidates(states[0, : self.masks], AMONG)
            asking[trial] = time.perf_counter() - began
        return passes.min(0).tolist(), float(asking.min())

    def turns(
        self, positions: Int[Array, "batch length"]
    ) -> tuple[Float[Array, "batch length half"], Float[Array, "batch length half"]]:
        """Cosines and sines, as `OnnxBackbone` has it."""
        return rotary_turns(self.config, positions)


class Chain:
    """What a state becomes once the token before its own is chosen: a gated layer, in float32.

    A graph, too: where another program wants a core, numpy's threads wait for it a hundred times as
    long as this takes.
    """

    def __init__(self, state: Array, token: Array, out: Array) -> None:
        """Matrices as an adapter has them, [outputs, inputs]."""
        graph = Graph()
        units, width = len(state) // 2, len(out)
        one = graph.weight("norm", np.ones(width, np.float32))

        def read(name: str, matrix: Array) -> str:
            normal = f"{name}.normal"
            graph.add("RMSNormalization", [name, one], normal, axis=-1, epsilon=EPSILON)
            return graph.product(normal, name, matrix.T)

        both = graph.add("Add", [read("states", state), read("tokens", token)], "both")
        graph.constant("gate_up", Kind.int64, [units, units])
        graph.add("Split", [both, "gate_up"], "gate", "up", axis=-1)
        slope = graph.add("Sigmoid", ["gate"], "sigmoid")
        gate = graph.add("Mul", ["gate", slope], "silu")
        y = graph.product(graph.add("Mul", [gate, "up"], "gated"), "out", out.T)
        graph.add("Add", ["states", y], "new")
        named = [
            value_info(name, Kind.float32, "rows", width) for name in ("states", "tokens", "new")
        ]
        self._session = graph.session(named[:2], named[2:])

    def __call__(
        self, states: Float[Array, "*shape width"], tokens: Float[Array, "*shape width"]
    ) -> Float[Array, "*shape width"]:
        """New states for states and embeddings of tokens."""
        given = {"states": states, "tokens": tokens}
        rows = {name: value.reshape(-1, states.shape[-1]) for name, value in given.items()}
        return self._session.run(["new"], rows)[0].reshape(states.shape)


def fused(
    config: Qwen2Config, weights: Mapping[str, Array]
) -> Iterator[tuple[str, Float[Array, ...]]]:
    """A base's weights as the graph multiplies them, one after another.

    Matrices are [inputs, outputs], those that read the same states joined: `attn_qkv` and
    `ffn_gate_up`. The embedding is there by rows for tokens and masks, and if it is tied, again by
    columns, without those of later masks, as the output.
    """

    def joined(layer: int, *names: str, kind: str = "weight") -> Float[Array, ...]:
        parts = [weights[f"blk.{layer}.{name}.{kind}"] for name in names]
        return np.ascontiguousarray(np.concatenate(parts).T)

    embedding = weights[EMBEDDING]
    yield EMBEDDING, embedding
    yield from ((name, weights[name]) for name in (END_BIAS, *CHAIN) if name in weights)
    output = embedding[: config.vocab_size] if config.tied else weights[OUTPUT]
    yield OUTPUT, np.ascontiguousarray(output.T)
    yield "output_norm.weight", weights["output_norm.weight"]
    qkv = ("attn_q", "attn_k", "attn_v")
    for layer in range(config.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_qkv.weight", joined(layer, *qkv)
        if config.biases:
            yield f"{block}.attn_qkv.bias", joined(layer, *qkv, kind="bias")
        yield f"{block}.attn_output.weight", joined(layer, "attn_output")
        yield f"{block}.ffn_gate_up.weight", joined(layer, "ffn_gate", "ffn_up")
        yield f"{block}.ffn_down.weight", joined(layer, "ffn_down")
        for name in ("attn_norm", "ffn_norm"):
            yield f"{block}.{name}.weight", weights[f"{block}.{name}.weight"]


def passes(config: Qwen2Config, network: Network) -> Graph:
    """The graph of a pass from tokens to states: the blocks and the last norm."""
    graph = Graph()
    keys = config.kv_heads * config.size
    graph.constant("queries", Kind.int64, [0, 0, config.heads, config.size])
    graph.constant("kept", Kind.int64, [0, 0, config.kv_heads, config.size])
    graph.constant("together", Kind.int64, [0, 0, config.width])
    graph.constant("q_k_v", Kind.int64, [config.width, keys, keys])
    graph.constant("gate_up", Kind.int64, [config.hidden, config.hidden])

    def vector(name: str) -> str:
        value = network[name]
        assert isinstance(value, np.ndarray)
        return graph.weight(name, value)

    def norm(x: str, name: str, result: str) -> str:
        return graph.add(
            "RMSNormalization", [x, vector(name)], result, axis=-1, epsilon=config.epsilon
        )

    def product(x: str, name: str) -> str:
        return graph.product(x, name, network[f"{name}.weight"])

    def heads(x: str, shape: str) -> str:
        y = graph.add("Reshape", [x, shape], f"{x}.heads")
        return graph.add("Transpose", [y], f"{x}.by_head", perm=[0, 2, 1, 3])

    def turned(x: str) -> str:
        return graph.add("RotaryEmbedding", [x, "cos", "sin"], f"{x}.turned")

    # Attention computes a single row by another kernel, which rounds otherwise. The last row is
    # always there twice, so that a position's result is the same in a pass of any width.
    graph.constant("rows", Kind.int64, [2])
    graph.constant("from_last", Kind.int64, [-1])
    graph.constant("to_end", Kind.int64, [2**62])
    graph.constant("from_first", Kind.int64, [0])

    def doubled(x: str) -> str:
        last = graph.add("Slice", [x, "from_last", "to_end", "rows"], f"{x}.last")
        return graph.add("Concat", [x, last], f"{x}.doubled", axis=2)

    seen_by = doubled("visible")
    x = graph.embedded("ids", "token_embd", network[EMBEDDING])
    for layer in range(config.layers):
        block = f"blk.{layer}"
        y = product(norm(x, f"{block}.attn_norm.weight", f"attn_norm.{layer}"), f"{block}.attn_qkv")
        if config.biases:
            y = graph.add("Add", [y, vector(f"{block}.attn_qkv.bias")], f"biased.{layer}")
        q, k, v = (f"{name}.{layer}" for name in "qkv")
        graph.add("Split", [y, "q_k_v"], q, k, v, axis=-1)
        q, k, v = turned(heads(q, "queries")), turned(heads(k, "kept")), heads(v, "kept")
        seen = [doubled(q), k, v, seen_by, f"past_key.{layer}", f"past_value.{layer}"]
        y = graph.add("Attention", seen, f"attended.{layer}", f"key.{layer}", f"value.{layer}")
        y = graph.add("Slice", [y, "from_first", "from_last", "rows"], f"once.{layer}")
        y = graph.add("Transpose", [y], f"by_token.{layer}", perm=[0, 2, 1, 3])
        y = graph.add("Reshape", [y, "together"], f"joined.{layer}")
        x = graph.add("Add", [x, product(y, f"{block}.attn_output")], f"between.{layer}")
        y = norm(x, f"{block}.ffn_norm.weight", f"ffn_norm.{layer}")
        gate, up = f"gate.{layer}", f"up.{layer}"
        graph.add("Split", [product(y, f"{block}.ffn_gate_up"), "gate_up"], gate, up, axis=-1)
        slope = graph.add("Sigmoid", [gate], f"sigmoid.{layer}")
        gate = graph.add("Mul", [gate, slope], f"silu.{layer}")
        y = graph.add("Mul", [gate, up], f"gated.{layer}")
        x = graph.add("Add", [x, product(y, f"{block}.ffn_down")], f"after.{layer}")
    norm(x, "output_norm.weight", "hidden")
    return graph

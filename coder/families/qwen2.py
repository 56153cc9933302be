"""The family of Qwen2 decoders, read from a GGUF file: Qwen2.5-Coder and its like.

Causal models with infilling sentinels, grouped-query attention, biases on queries, keys and values,
and an output matrix that is tied to the embedding of a large vocabulary. The state of position i
predicts token i + 1 (a shift). ONNX Runtime decodes them (`qwen2_onnx`), on a CPU only; torch
trains adapters for them (`qwen2_torch`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_weights

from talaria.coder.backbone import Array, Backbone, Marks
from talaria.coder.errors import CheckpointError
from talaria.coder.families.qwen2_tokenizer import field_of, layout_of, marks_of, read_tokenizer
from talaria.coder.layout import Layout
from talaria.coder.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFReader
    from jaxtyping import Float, Int

EMBEDDING, OUTPUT, MASK_EMBEDDING = "token_embd.weight", "output.weight", "mask_embedding"
SAMPLED_ROWS = 64  # of embedding and output matrix, to see whether they are tied
UNTIED = 0.2  # relative difference beyond any quantisation error; 4 bits give about 0.1
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
WORKING_CONTEXT = 1024  # tokens that a request uses by default
READABLE = ("F32", "F16", "BF16", "Q4_0", "Q4_K", "Q5_0", "Q5_K", "Q6_K", "Q8_0")

# Tensors of a block by their names in GGUF, which adapters use too.
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
BIASES = ("attn_q", "attn_k", "attn_v")
NORMS = ("attn_norm", "ffn_norm")


@dataclass(frozen=True)
class Qwen2Config:
    """The shape of a decoder, read from its file.

    kv_heads        heads of keys and values; each serves heads / kv_heads queries
    hidden          units of the gated MLP
    context_length  positions that it was trained on
    """

    vocab_size: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    context_length: int
    rope_base: float
    epsilon: float

    @property
    def size(self) -> int:
        """Head size."""
        return self.width // self.heads


def open_file(path: Path) -> GGUFReader:
    """Map a GGUF file of this family into memory.

    Raises CheckpointError for other files, architectures and quantisations.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise CheckpointError(
            f"{path}: not a readable GGUF file ({type(error).__name__}: {error}); fetch it again"
        ) from error
    found = field_of(reader, path, "general.architecture")
    if found != "qwen2":
        raise CheckpointError(f"{path}: architecture is {found!r}; only 'qwen2' is supported")
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    if unknown := sorted(kinds.difference(READABLE)):
        raise CheckpointError(
            f"{path}: quantised as {', '.join(unknown)}; supported are {', '.join(READABLE)}"
        )
    return reader


def shape_of(reader: GGUFReader, path: Path) -> Qwen2Config:
    """Read the shape from the file's fields."""

    def field(name: str) -> Any:
        return field_of(reader, path, f"qwen2.{name}")

    return Qwen2Config(
        vocab_size=len(field_of(reader, path, "tokenizer.ggml.tokens")),
        layers=field("block_count"),
        width=field("embedding_length"),
        heads=field("attention.head_count"),
        kv_heads=field("attention.head_count_kv"),
        hidden=field("feed_forward_length"),
        context_length=field("context_length"),
        rope_base=field("rope.freq_base"),
        epsilon=field("attention.layer_norm_rms_epsilon"),
    )


def read_weights(
    reader: GGUFReader, shape: Qwen2Config, path: Path
) -> dict[str, Float[Array, ...]]:
    """Weights in float32, matrices as [outputs, inputs], by their names in GGUF.

    Where a file has the output matrix beside the embedding that it is tied to, the output's copy,
    which is quantised more finely, is used for both. Raises CheckpointError where a weight is
    missing or of another shape, or the output matrix is not tied to the embedding.
    """
    from gguf import dequantize

    given = {tensor.name: tensor for tensor in reader.tensors}
    wanted = shapes(shape)
    if OUTPUT in given:
        wanted = {OUTPUT: wanted[EMBEDDING], **wanted}
    for name, size in wanted.items():
        tensor = given.get(name)
        found = None if tensor is None else tuple(reversed(tensor.shape.tolist()))
        if found != size:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {found}, its configuration asks for {size}; "
                "fetch it again"
            )
    if OUTPUT in given:
        every = max(1, shape.vocab_size // SAMPLED_ROWS)
        one, other = (
            dequantize(given[name].data[::every], given[name].tensor_type)
            for name in (EMBEDDING, OUTPUT)
        )
        if not np.linalg.norm(one - other) <= UNTIED * np.linalg.norm(other):
            raise CheckpointError(
                f"{path}: its output matrix is not tied to the embedding; "
                "only tied models are supported"
            )
        given[EMBEDDING] = given.pop(OUTPUT)
    return {
        name: np.array(dequantize(given[name].data, given[name].tensor_type), np.float32)
        for name in shapes(shape)
    }


def shapes(config: Qwen2Config) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, by name."""
    width, keys = config.width, config.kv_heads * config.size
    outputs = {"attn_q": width, "attn_k": keys, "attn_v": keys, "attn_output": width}
    outputs |= {"ffn_gate": config.hidden, "ffn_up": config.hidden, "ffn_down": width}
    found: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, width),
        "output_norm.weight": (width,),
    }
    for layer in range(config.layers):
        for name in MATRICES:
            inputs = config.hidden if name == "ffn_down" else width
            found[f"blk.{layer}.{name}.weight"] = (outputs[name], inputs)
        found |= {f"blk.{layer}.{name}.bias": (outputs[name],) for name in BIASES}
        found |= {f"blk.{layer}.{name}.weight": (width,) for name in NORMS}
    return found


def merge(weights: dict[str, Array], adapter: bytes, marks: Marks, where: Path) -> None:
    """Add an adapter's low-rank updates to the weights, and put its mask into the embedding.

    The embedding is also the output matrix, where the mask's row does not matter: the mask is
    never written. Raises CheckpointError where the adapter does not fit, or has tensors that are
    not used here.
    """
    try:
        tensors: dict[str, Array] = load_weights(adapter)
        weights[EMBEDDING][marks.mask] = tensors.pop(MASK_EMBEDDING)
        for name in sorted(tensors):
            if name.endswith(LORA_A):
                part = name.removesuffix(LORA_A)
                # Before the product: float16 would round it, and overflow.
                a, b = (tensors.pop(part + end).astype(np.float32) for end in (LORA_A, LORA_B))
                weights[f"{part}.weight"] += b @ a
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{where}: no adapter for this base ({type(error).__name__}: {error}); "
            "use the adapter that was made for it"
        ) from error
    if tensors:
        raise CheckpointError(
            f"{where}: tensor {min(tensors)} is unknown; use an adapter made by `talaria adapt`, "
            "or a newer release of talaria"
        )


def rotary_turns(
    config: Qwen2Config, positions: Int[Array, "batch length"]
) -> tuple[Float[Array, "batch length half"], Float[Array, "batch length half"]]:
    """Cosines and sines of the rotary embedding at these positions; `half`: of the head size."""
    half = config.size // 2
    turns = config.rope_base ** -(np.arange(half) / half)
    angles = positions[..., None] * turns
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def settings_of(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Fixed defaults: the network's limit, 32,768 positions, is far above what is useful.

    Without an adapter the model is causal.
    """
    del where
    mode = "diffuse" if config["sha256"] else "verify"
    return {
        "mode": mode,
        "working_context": WORKING_CONTEXT,
        "block_length": 8,
        "max_tokens": 128,
    }


def load_adapted(
    folder: Path, config: Mapping[str, Any], adapter: bytes, base: Path, device: str
) -> tuple[Backbone, Tokenizer, Layout]:
    """Load a base, whose hash has been checked, and merge its adapter unless that is empty.

    Raises CheckpointError where the file is of another family or the settings exceed its context,
    and for devices other than the CPU.
    """
    if device != "cpu":
        raise CheckpointError(f"device {device!r}: qwen2 models run only on the cpu so far")
    from talaria.coder.families.qwen2_onnx import OnnxQwen2

    reader = open_file(base)
    shape = shape_of(reader, base)
    working = config.get("decoding", {}).get("working_context", WORKING_CONTEXT)
    if working > shape.context_length:
        raise CheckpointError(
            f"{folder / 'config.json'}: working_context is {working}; the base was trained on "
            f"{shape.context_length} positions: set at most {shape.context_length}"
        )
    tokenizer, rows = read_tokenizer(reader, base)
    marks = marks_of(tokenizer)
    weights = read_weights(reader, shape, base)
    weights[EMBEDDING] = weights[EMBEDDING][rows]
    shape = replace(shape, vocab_size=len(rows))
    if adapter:
        merge(weights, adapter, marks, folder / "adapter.safetensors")
    backbone = OnnxQwen2(shape, weights, marks, denoises=bool(adapter))
    return backbone, tokenizer, layout_of(tokenizer)

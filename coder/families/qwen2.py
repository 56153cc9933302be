"""The family of Qwen2 decoders, read from a GGUF file: Qwen2.5-Coder and its like.

Causal models with infilling sentinels, grouped-query attention, biases on queries, keys and values,
and an output matrix that is tied to the embedding of a large vocabulary. The state of position i
predicts token i + 1 (a shift). ONNX Runtime decodes them (`qwen2_onnx`), on a CPU only; torch
trains adapters for them (`qwen2_torch`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_weights

from talaria.coder.backbone import Array, Backbone, Marks
from talaria.coder.errors import CheckpointError
from talaria.coder.families.qwen2_tokenizer import field_of, layout_of, marks_of
from talaria.coder.layout import Layout
from talaria.coder.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFReader
    from jaxtyping import Float, Int

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
MASK_EMBEDDING, MASK_ROW = "mask_embedding", "mask_row"
SAMPLED_ROWS = 64  # of embedding and output matrix, to see whether they are tied
UNTIED = 0.2  # relative difference beyond any quantisation error; 4 bits give about 0.1
ADAPTER = "adapter.safetensors"
CHAIN = ("chain.state.weight", "chain.token.weight", "chain.out.weight")
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

    Raises CheckpointError for other files, architectures and quantisations, and MemoryError.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (ValueError, OSError, IndexError, KeyError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise MemoryError from error
        raise CheckpointError(
            f"{path}: not a readable GGUF file ({type(error).__name__}: {error}); fetch it again"
        ) from error
    found = field_of(reader, path, "general.architecture")
    if found != "qwen2":
        raise CheckpointError(
            f"{path}: architecture is {found!r}; only 'qwen2' is supported: "
            "give a GGUF file of a Qwen2.5-Coder model"
        )
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    if unknown := sorted(kinds.difference(READABLE)):
        raise CheckpointError(
            f"{path}: quantised as {', '.join(unknown)}; supported are {', '.join(READABLE)}: "
            "give a file with those only, such as Q4_K_M"
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


class BaseWeights(Mapping[str, "Float[Array, ...]"]):
    """A base's weights by their names in GGUF, each dequantised when it is asked for.

    In float32, matrices as [outputs, inputs]. Where a file has the output matrix beside the
    embedding that it is tied to, the output's copy, which is quantised more finely, is used for
    both. Of the embedding, only the given rows are there.

    updates  the tensors of an adapter, which are added; see `read_adapter`
    """

    def __init__(
        self,
        reader: GGUFReader,
        shape: Qwen2Config,
        path: Path,
        rows: Int[Array, " kept"] | None = None,
        updates: Mapping[str, Array] | None = None,
    ) -> None:
        """Check all shapes; `shape` is that of the file.

        Raises CheckpointError where a weight is missing or of another shape, or the output matrix
        is not tied to the embedding.
        """
        self._given = {tensor.name: tensor for tensor in reader.tensors}
        self._rows, self._updates = rows, updates or {}
        self._names = [*shapes(shape), *(name for name in CHAIN if name in self._updates)]
        given, wanted = self._given, shapes(shape)
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
            every = np.arange(0, shape.vocab_size, max(1, shape.vocab_size // SAMPLED_ROWS))
            one, other = (self._read(name, every) for name in (EMBEDDING, OUTPUT))
            if not np.linalg.norm(one - other) <= UNTIED * np.linalg.norm(other):
                raise CheckpointError(
                    f"{path}: its output matrix is not tied to the embedding; "
                    "only tied models are supported"
                )
            given[EMBEDDING] = given.pop(OUTPUT)

    def _read(self, name: str, rows: Int[Array, " rows"] | None) -> Float[Array, ...]:
        from gguf import dequantize

        tensor = self._given[name]
        data = tensor.data if rows is None else tensor.data[rows]
        return np.array(dequantize(data, tensor.tensor_type), np.float32)

    def __getitem__(self, name: str) -> Float[Array, ...]:
        if name == EMBEDDING:
            weight = self._read(name, self._rows)
            if MASK_EMBEDDING in self._updates:
                masks = self._updates[MASK_EMBEDDING].astype(np.float32)
                weight[self._updates[MASK_ROW]] = masks[0]
                weight = np.concatenate((weight, masks[1:]))
            return weight
        if name in CHAIN:
            return self._updates[name].astype(np.float32)
        weight = self._read(name, None)
        part = name.removesuffix(".weight")
        if part + LORA_A in self._updates:
            # Before the product: float16 would round it, and overflow.
            b, a = (self._updates[part + end].astype(np.float32) for end in (LORA_B, LORA_A))
            weight += b @ a
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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


def read_adapter(adapter: bytes, shape: Qwen2Config, marks: Marks, where: Path) -> dict[str, Array]:
    """The low-rank updates of an adapter, the embeddings of its masks, and its chain, by name.

    The first mask of a canvas has the mask's own row; those of later ones are appended behind the
    vocabulary. Raises CheckpointError where the adapter does not fit, or has tensors that are
    not used here.
    """
    wanted = shapes(shape)
    try:
        tensors: dict[str, Array] = load_weights(adapter)
        masks = tensors[MASK_EMBEDDING].shape
        added: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
        added = {MASK_EMBEDDING: (masks, (max(1, masks[0]), shape.width))}
        for part in (name.removesuffix(LORA_A) for name in tensors if name.endswith(LORA_A)):
            sizes = tensors[part + LORA_B].shape + tensors[part + LORA_A].shape
            outputs, inputs = wanted[f"{part}.weight"]
            added[part] = sizes, (outputs, sizes[-2], sizes[-2], inputs)
        if tensors.keys() & {*CHAIN}:
            units = tensors[CHAIN[-1]].shape[1]
            sizes = (2 * units, shape.width), (2 * units, shape.width), (shape.width, units)
            added |= {
                name: (tensors[name].shape, size) for name, size in zip(CHAIN, sizes, strict=True)
            }
    except (SafetensorError, KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{where}: no adapter for this base ({type(error).__name__}: {error}); "
            "use the adapter that was made for it"
        ) from error
    for part, (found, size) in added.items():
        if found != size:
            raise CheckpointError(
                f"{where}: no adapter for this base ({part} has shape {found}, the base asks for "
                f"{size}); use the adapter that was made for it"
            )
    known = {
        MASK_EMBEDDING,
        *CHAIN,
        *(
            f"blk.{layer}.{name}{end}"
            for layer in range(shape.layers)
            for name in MATRICES
            for end in (LORA_A, LORA_B)
        ),
    }
    if unknown := tensors.keys() - known:
        raise CheckpointError(
            f"{where}: tensor {min(unknown)} is unknown; use an adapter made by `talaria adapt`, "
            "or a newer release of talaria"
        )
    return {**tensors, MASK_ROW: np.array(marks.mask)}


def rotary_turns(
    config: Qwen2Config, positions: Int[Array, "batch length"]
) -> tuple[Float[Array, "batch length half"], Float[Array, "batch length half"]]:
    """Cosines and sines of the rotary embedding at these positions; `half`: of the head size."""
    half = config.size // 2
    turns = config.rope_base ** -(np.arange(half) / half)
    angles = positions[..., None] * turns
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def numbered(
    ids: Int[Array, "batch length"], mask: int, vocab_size: int, masks: int
) -> Int[Array, "batch length"]:
    """The ids with each mask behind another replaced by the row of its number in the embedding.

    The first mask of a run keeps its id; the second is `vocab_size`, and so on. Masks behind the
    last of `masks` kinds are of that kind.
    """
    masked = ids == mask
    count = masked.cumsum(1)
    number = count - np.maximum.accumulate(np.where(masked, 0, count), 1)
    later: Array = np.where(number > 1, vocab_size + np.minimum(number, masks) - 2, ids)
    return later


def settings_of(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Fixed defaults: the network's limit, 32,768 positions, is far above what is useful.

    Without an adapter the model is causal, and runs on past the end of a middle. Raises
    CheckpointError where it is not said properly how often an adapter's masks are right.
    """
    accepted = config.get("accepted", [])
    if not isinstance(accepted, list) or not all(
        isinstance(share, int | float) and 0 <= share <= 1 for share in accepted
    ):
        raise CheckpointError(
            f"{where}: accepted is {accepted!r}; it must be a list of shares between 0 and 1"
        )
    adapted = bool(config["sha256"])
    return {
        "mode": "diffuse" if adapted else "verify",
        "bounded": not adapted,
        "working_context": WORKING_CONTEXT,
        "block_length": 8,
        "max_tokens": 128,
    }


def load_adapted(
    folder: Path,
    config: Mapping[str, Any],
    adapter: bytes,
    find_base: Callable[[], Path],
    device: str,
    on_progress: Callable[[float], None],
) -> tuple[Backbone, Tokenizer, Layout]:
    """Load the prepared form of a base and its adapter, which is made first if need be.

    Raises CheckpointError where the file is of another family or the settings exceed its context,
    and for devices other than the CPU.
    """
    if device != "cpu":
        raise CheckpointError(f"device {device!r}: qwen2 models run only on the cpu so far")
    from talaria.coder.families.qwen2_onnx import OnnxQwen2
    from talaria.coder.families.qwen2_prepared import prepared

    found = prepared(folder, config, adapter, find_base, on_progress)
    working = config.get("decoding", {}).get("working_context", WORKING_CONTEXT)
    if working > found.shape.context_length:
        raise CheckpointError(
            f"{folder / 'config.json'}: working_context is {working}; the base was trained on "
            f"{found.shape.context_length} positions: set at most {found.shape.context_length}"
        )
    marks = marks_of(found.tokenizer)
    backbone = OnnxQwen2(found.shape, found.network, marks, denoises=bool(adapter))
    found.release()
    return backbone, found.tokenizer, layout_of(found.tokenizer)

"""The family of Qwen2 decoders: Qwen2.5-Coder and its like, and Llama's, which have no biases.

Causal models with infilling sentinels, grouped-query attention, a large vocabulary, and mostly an
output matrix that is tied to its embedding. The state of position i predicts token i + 1 (a shift).
`qwen2_files` reads what is published; ONNX Runtime decodes (`qwen2_onnx`), on a CPU only; torch
trains adapters (`qwen2_torch`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_weights

from talaria.coder.backbone import Array, Backbone, Marks
from talaria.coder.errors import CheckpointError
from talaria.coder.families.qwen2_tokenizer import layout_of
from talaria.coder.layout import Layout
from talaria.coder.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from talaria.coder.families.qwen2_files import Base

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
MASK_EMBEDDING, MASK_ROW = "mask_embedding", "mask_row"
ADAPTER = "adapter.safetensors"
END_BIAS = "end_bias"  # added to the logit of `<eom>`
CHAIN = ("chain.state.weight", "chain.token.weight", "chain.out.weight")
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
WORKING_CONTEXT = 1024  # tokens that a request uses by default

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
    biases          whether queries, keys and values have them, as Qwen2's do and Llama's do not
    tied            whether the embedding is the output matrix, too
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
    biases: bool = True
    tied: bool = True

    @property
    def size(self) -> int:
        """Head size."""
        return self.width // self.heads


class BaseWeights(Mapping[str, "Float[Array, ...]"]):
    """A base's weights by their names in GGUF, each read when it is asked for.

    In float32, matrices as [outputs, inputs]. Of embedding and output matrix, only the given rows
    are there.

    updates  the tensors of an adapter, which are added; see `read_adapter`
    """

    def __init__(
        self,
        base: Base,
        rows: Int[Array, " kept"] | None = None,
        updates: Mapping[str, Array] | None = None,
    ) -> None:
        self._base, self._rows, self._updates = base, rows, updates or {}
        added = (name for name in (END_BIAS, *CHAIN) if name in self._updates)
        self._names = [*shapes(base.shape), *added]

    def __getitem__(self, name: str) -> Float[Array, ...]:
        if name == EMBEDDING:
            weight = self._base.read(name, self._rows)
            if MASK_EMBEDDING in self._updates:
                masks = self._updates[MASK_EMBEDDING].astype(np.float32)
                weight[self._updates[MASK_ROW]] = masks[0]
                weight = np.concatenate((weight, masks[1:]))
            return weight
        if name == END_BIAS or name in CHAIN:
            return self._updates[name].astype(np.float32)
        weight = self._base.read(name, self._rows if name == OUTPUT else None)
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
    if not config.tied:
        found[OUTPUT] = (config.vocab_size, width)
    for layer in range(config.layers):
        for name in MATRICES:
            inputs = config.hidden if name == "ffn_down" else width
            found[f"blk.{layer}.{name}.weight"] = (outputs[name], inputs)
        if config.biases:
            found |= {f"blk.{layer}.{name}.bias": (outputs[name],) for name in BIASES}
        found |= {f"blk.{layer}.{name}.weight": (width,) for name in NORMS}
    return found


def read_adapter(adapter: bytes, shape: Qwen2Config, marks: Marks, where: Path) -> dict[str, Array]:
    """The tensors of an adapter by name: low-rank updates, masks, chain, and the bias of `<eom>`.

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
        if END_BIAS in tensors:
            added[END_BIAS] = tensors[END_BIAS].shape, (1,)
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
        END_BIAS,
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
    ids: Int[Array, "batch length"],
    positions: Int[Array, "batch length"],
    mask: int,
    vocab_size: int,
    masks: int,
) -> Int[Array, "batch length"]:
    """The ids with each mask behind another replaced by the row of its number in the embedding.

    The first mask of a run keeps its id; the second is `vocab_size`, and so on. Masks behind the
    last of `masks` kinds are of that kind. A run ends where positions do not go on.
    """
    masked, first = ids == mask, np.ones_like(ids, bool)
    first[:, 1:] = ~masked[:, :-1] | (positions[:, 1:] != positions[:, :-1] + 1)
    count = masked.cumsum(1)
    before = np.where(masked & first, count - 1, np.where(masked, 0, count))
    number = count - np.maximum.accumulate(before, 1)
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
    from talaria.coder.families.qwen2_prepared import prepared

    found = prepared(folder, config, adapter, find_base, on_progress)
    working = config.get("decoding", {}).get("working_context", WORKING_CONTEXT)
    if working > found.shape.context_length:
        raise CheckpointError(
            f"{folder / 'config.json'}: working_context is {working}; the base was trained on "
            f"{found.shape.context_length} positions: set at most {found.shape.context_length}"
        )
    return found.backbone, found.tokenizer, layout_of(found.tokenizer)

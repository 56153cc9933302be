"""Folders of masked diffusion models: their configuration, tokens and weights, nothing run.

Weights are read from safetensors one by one, each straight into the memory that it stays in, so
reading a model takes little more than its size. The format: github.com/huggingface/safetensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from talaria.coder.backbone import Marks
from talaria.coder.errors import CheckpointError
from talaria.coder.families.qwen2_files import (
    BLOCKS,
    NAMES,
    TIED,
    folder_vocabulary,
    gguf_name,
    published_name,
    unfit,
)
from talaria.coder.families.qwen2_tokenizer import CUTS, NORMAL, Vocabulary
from talaria.coder.open_families import LLADA, Family, family_of
from talaria.coder.published import (
    CONFIG,
    INDEX,
    TOKENIZER,
    WEIGHTS,
    Stored,
    added_tokens,
    header,
    read_json,
    weight_files,
)
from talaria.coder.tokenizer import Tokenizer

TYPES = {"F32": 4, "F16": 2, "BF16": 2}  # what a weight may be, and bytes of each
QWEN3_HEAD = 128  # numbers of a head
EMBEDDING, OUTPUT, NORM = "token_embd.weight", "output.weight", "output_norm.weight"
NORMED_HEADS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}

# Names in GGUF, as our modules are called, of the modules of LLaDA.
LLADA_NAMES = {
    "attn_norm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "attn_out": "attn_output",
    "ff_norm": "ffn_norm",
    "ff_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "ff_out": "ffn_down",
    "model.transformer.wte": "token_embd",
    "model.transformer.ln_f": "output_norm",
    "model.transformer.ff_out": "output",
}
LLADA_BLOCKS, LLADA_TIED = "model.transformer.blocks.", "weight_tying"
# LLaDA's names of the numbers in a configuration, by those of transformers.
LLADA_FIELDS = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "mlp_hidden_size",
    "max_position_embeddings": "max_sequence_length",
}
# The only values that are supported, of fields that may say otherwise.
PLAIN: dict[str, Any] = {
    "hidden_act": "silu",
    "use_sliding_window": False,
    "quantization_config": None,
    "attention_bias": False,
}
LLADA_PLAIN: dict[str, Any] = {
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "block_group_size": 1,
    "layer_norm_with_affine": True,
}


@dataclass(frozen=True)
class Shape:
    """The shape of a decoder.

    rows           of the embedding, at least as many as there are tokens
    size           of a head; heads × size need not be the width
    kv_heads       heads of keys and values; each serves heads / kv_heads queries
    hidden         units of the gated MLP
    positions      that the network was trained on
    biases         whether queries, keys and values have them
    normed         whether queries and keys are normalised in each head, as Qwen3's are
    tied           whether the embedding is the output matrix, too
    """

    rows: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    size: int
    hidden: int
    positions: int
    rope_base: float
    epsilon: float
    biases: bool
    normed: bool
    tied: bool


@dataclass(frozen=True)
class Folder:
    """What a folder says: its family, shape, tokens, and where each weight lies, by our name."""

    path: Path
    config: Mapping[str, Any]
    family: Family
    shape: Shape
    tokenizer: Tokenizer
    weights: Mapping[str, Stored]

    @property
    def bytes(self) -> int:
        """Bytes of all weights."""
        return sum(each.bytes for each in self.weights.values())

    @cached_property
    def named(self) -> dict[str, str]:
        """The special tokens that the tokenizer's own files name by their role."""
        found: dict[str, str] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            for role, token in read_json(self.path / name, {}).items():
                content = token.get("content") if isinstance(token, dict) else token
                if role.endswith("_token") and isinstance(content, str):
                    found[role] = content
        return found

    def token(self, role: str, names: tuple[str, ...] = ()) -> int | None:
        """The id of a special token: the configuration's, the tokenizer's, or one of these names.

        CheckpointError for an id that the embedding has no row for.
        """
        stated = self.config.get(f"{role}_token_id")
        if isinstance(stated, list) and stated:
            stated = stated[0]
        special = self.tokenizer.special
        if stated is None:
            names = (*names, self.named.get(f"{role}_token", ""))
            stated = next((special[name] for name in names if name in special), None)
        if stated is None:
            return None
        if type(stated) is not int or not 0 <= stated < self.shape.rows:
            raise CheckpointError(
                f"{self.path / CONFIG}: {role}_token_id is {stated!r}, but the embedding has rows "
                f"0 to {self.shape.rows - 1}; fetch the model's folder again"
            )
        return stated

    def marks(self) -> Marks:
        """The special tokens by their part in decoding; CheckpointError without a mask or end."""
        family, special = self.family, self.tokenizer.special
        if family.attention == "causal":  # the configuration may name what ends a turn
            end = special.get(family.end[0])
            # Without it, the model cannot infill, which its layout says.
            mask = special.get(family.mask[0], min({*special.values()} - {end}, default=None))
        else:
            mask, end = self.token("mask", family.mask), self.token("eos", family.end)
        for role, token, names in (("mask", mask, family.mask), ("eos", end, family.end)):
            if token is None:
                raise CheckpointError(
                    f"{self.path / TOKENIZER}: has no {role} token, neither {role}_token_id in "
                    f"{CONFIG} nor {' nor '.join(names)}; fetch the model's folder again"
                )
        assert mask is not None
        assert end is not None
        marked = {*self.tokenizer.special.values()}
        for role, token in (("mask", mask), ("eos", end)):
            if token not in marked:
                raise CheckpointError(
                    f"{self.path / CONFIG}: {role}_token_id is {token}, which is no special token "
                    f"but {self.tokenizer.decode([token])!r}; fetch the model's folder again"
                )
        if mask == end:
            raise CheckpointError(
                f"{self.path / CONFIG}: mask_token_id and eos_token_id are both {mask}; they must "
                "differ"
            )
        expand = self.tokenizer.special.get(family.expand or "")
        known = marked - {end, expand}
        return Marks(mask, end, tuple(sorted(known)))


def open_folder(path: Path) -> Folder:
    """Read all of a folder but its weights.

    Raises CheckpointError where something is missing, does not fit, or is not supported.
    """
    config = read_json(path / CONFIG)
    family = family_of(str(config["architectures"][0]), added_tokens(path))
    assert family is not None
    llada = family is LLADA
    for name, value in (LLADA_PLAIN if llada else PLAIN).items():
        if config.get(name, value) != value:
            raise _unsupported(path / CONFIG, name, config[name], value)
    names = _names(llada)
    weights = {gguf_name(name, *names): each for name, each in stored(path).items()}
    weights = {name: each for name, each in weights.items() if not name.endswith(".inv_freq")}
    tied = bool(config.get(LLADA_TIED if llada else TIED, False))
    if tied:
        weights.pop(OUTPUT, None)
    shape = _shape(path, config, llada, weights, tied)
    _check(path, shape, weights, llada)
    tokenizer = read_tokenizer(path, shape.rows)
    return Folder(path, config, family, shape, tokenizer, weights)


def _shape(
    path: Path, config: Mapping[str, Any], llada: bool, weights: Mapping[str, Stored], tied: bool
) -> Shape:
    where = path / CONFIG
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    turns = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if turns != "default":
        raise _unsupported(where, "rope_type", turns, "default")

    def number(name: str, otherwise: float | None = None, kind: Any = int) -> Any:
        name = LLADA_FIELDS.get(name, name) if llada else name
        value = config.get(name)
        value = rope.get(name, otherwise) if value is None else value
        if isinstance(value, int | kind) and not isinstance(value, bool) and 0 < value < 2**31:
            return value
        raise CheckpointError(f"{where}: {name} is {value!r}, not a number above 0; fetch it again")

    if EMBEDDING not in weights:
        raise unfit(path, path, published_name(EMBEDDING, *_names(llada)), None)
    width, heads = number("hidden_size"), number("num_attention_heads")
    normed = "blk.0.attn_q_norm.weight" in weights
    return Shape(
        rows=weights[EMBEDDING].shape[0],
        layers=number("num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        # Where it is not stated, Qwen3 has a size of its own (transformers 4.53.1, 5.23).
        size=number("head_dim", QWEN3_HEAD if normed else max(1, width // heads)),
        hidden=number("intermediate_size", 4 * width if llada else None),
        positions=number("max_position_embeddings"),
        rope_base=number("rope_theta", 10_000.0, float),
        epsilon=number("rms_norm_eps", 1e-5 if llada else 1e-6, float),
        biases="blk.0.attn_q.bias" in weights,
        normed=normed,
        tied=tied,
    )


def shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, by our name."""
    width, queries, keys = shape.width, shape.heads * shape.size, shape.kv_heads * shape.size
    found: dict[str, tuple[int, ...]] = {EMBEDDING: (shape.rows, width), NORM: (width,)}
    if not shape.tied:
        found[OUTPUT] = (shape.rows, width)
    for layer in range(shape.layers):
        own: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (width,),
            "ffn_norm.weight": (width,),
            "attn_q.weight": (queries, width),
            "attn_k.weight": (keys, width),
            "attn_v.weight": (keys, width),
            "attn_output.weight": (width, queries),
            "ffn_gate.weight": (shape.hidden, width),
            "ffn_up.weight": (shape.hidden, width),
            "ffn_down.weight": (width, shape.hidden),
        }
        if shape.biases:
            sizes = {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
            own |= sizes
        if shape.normed:
            own |= {"attn_q_norm.weight": (shape.size,), "attn_k_norm.weight": (shape.size,)}
        found |= {f"blk.{layer}.{name}": size for name, size in own.items()}
    return found


def _check(path: Path, shape: Shape, weights: Mapping[str, Stored], llada: bool) -> None:
    """CheckpointError where weights are missing, do not fit the configuration, or are unknown."""
    if shape.heads % shape.kv_heads or shape.size % 2 or shape.layers > len(weights):
        raise CheckpointError(
            f"{path / CONFIG}: {shape.layers} layers with {shape.heads} heads of {shape.size}, "
            f"{shape.kv_heads} of keys, do not fit; fetch the model's folder again"
        )
    wanted, names = shapes(shape), _names(llada)
    for name, size in wanted.items():
        there = weights.get(name)
        if there is None or there.shape != size:
            called, field = published_name(name, *names), LLADA_TIED if llada else TIED
            of_output = field if name == OUTPUT else None
            file, found = (path, None) if there is None else (there.path, there.shape)
            raise unfit(path, file, called, found, size, of_output)
    if unknown := weights.keys() - wanted.keys():
        name = min(unknown)
        raise CheckpointError(
            f"{weights[name].path}: tensor {published_name(name, *names)} is of no block that is "
            "supported; give a model of plain Llama, Qwen2 or Qwen3 blocks"
        )


def _names(llada: bool) -> tuple[Mapping[str, str], str]:
    """The names in GGUF of a folder's modules, and how it calls what holds its blocks."""
    return (LLADA_NAMES, LLADA_BLOCKS) if llada else ({**NAMES, **NORMED_HEADS}, BLOCKS)


def stored(folder: Path) -> dict[str, Stored]:
    """Where each tensor of a folder lies, by the name that it has there.

    Raises CheckpointError for files that are missing, damaged, pickled or quantised, and for an
    index that does not name what its shards hold.
    """
    found: dict[str, Stored] = {}
    names = weight_files(folder)
    for name in names:
        for tensor, each in header(folder / name).items():
            if each.kind not in TYPES:
                raise _unsupported(each.path, f"the type of {tensor}", each.kind, ", ".join(TYPES))
            if each.bytes != math.prod(each.shape) * TYPES[each.kind]:
                raise CheckpointError(
                    f"{each.path}: the bytes of {tensor} are not those of its shape; fetch it again"
                )
            found[tensor] = each
    if names != [WEIGHTS]:
        for tensor, shard in read_json(folder / INDEX)["weight_map"].items():
            if tensor not in found or found[tensor].path.name != shard:
                raise CheckpointError(
                    f"{folder / INDEX}: names the tensor {tensor} in {shard}, which does not have "
                    "it; fetch the model's folder again"
                )
    return found


def read_tokenizer(folder: Path, rows: int) -> Tokenizer:
    """The tokenizer of a folder: its `tokenizer.json`, or Qwen2's `vocab.json` and `merges.txt`.

    Text never encodes to special tokens. CheckpointError for ids that the embedding has no row for.
    """
    if (folder / TOKENIZER).is_file():
        vocabulary = folder_vocabulary(folder / TOKENIZER, rows)
    else:
        vocabulary = _of_parts(folder, rows)
    return vocabulary.tokenizer(np.arange(rows))


def _of_parts(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of a folder without `tokenizer.json`, as Dream's is published."""
    names: dict[str, int] = read_json(folder / "vocab.json")
    special = added_tokens(folder)
    try:
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: has neither {TOKENIZER} nor a readable merges.txt; fetch the model's "
            "folder again"
        ) from error
    where, ids = folder / "vocab.json", [*names.values(), *special.values()]
    if wrong := [row for row in ids if type(row) is not int or not 0 <= row < rows]:
        raise CheckpointError(
            f"{where}: has the id {wrong[0]!r}, but the embedding has rows 0 to {rows - 1}; fetch "
            "the model's folder again"
        )
    if missing := {*ByteLevel.alphabet()} - names.keys():
        raise CheckpointError(
            f"{where}: lacks {len(missing)} of the 256 bytes; fetch the model's folder again"
        )
    merges = [line for line in lines if line and not line.startswith("#version")]
    for line in merges:
        parts = line.split(" ")
        if len(parts) != 2 or not {*parts, "".join(parts)} <= names.keys():
            raise CheckpointError(
                f"{folder / 'merges.txt'}: {line!r} is no merge of two tokens to a third; fetch "
                "the model's folder again"
            )
    tokens, kinds = [f"[PAD{row}]" for row in range(rows)], [5] * rows
    for each, kind in ((names, NORMAL), (special, 3)):
        for token, row in each.items():
            tokens[row], kinds[row] = token, kind
    return Vocabulary(tokens, kinds, merges, CUTS["qwen2"]())


def _unsupported(where: Path, name: str, found: Any, supported: Any) -> CheckpointError:
    return CheckpointError(f"{where}: {name} is {found!r}; only {supported!r} is supported")

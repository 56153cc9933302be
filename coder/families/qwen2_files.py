"""Bases of the family Qwen2 as they are published: a GGUF file, or a folder of safetensors.

Both become a `Base`: named weights, a shape, and a vocabulary.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers.pre_tokenizers import ByteLevel

from talaria.coder.backbone import Array
from talaria.coder.errors import CheckpointError
from talaria.coder.families.qwen2 import EMBEDDING, OUTPUT, Qwen2Config, shapes
from talaria.coder.families.qwen2_tokenizer import NORMAL, Vocabulary, cutting
from talaria.coder.published import CONFIG, TOKENIZER, architecture_of, weight_files
from talaria.coder.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFReader
    from jaxtyping import Float, Int

SAMPLED_ROWS = 64  # of embedding and output matrix, to see whether they are tied
UNTIED = 0.2  # relative difference beyond any quantisation error; 4 bits give about 0.1
READABLE = ("F32", "F16", "BF16", "Q4_0", "Q4_K", "Q5_0", "Q5_K", "Q6_K", "Q8_0")
FLOATS = ("F32", "F16", "BF16")  # what a weight in a folder may be
CONTROL, UNUSED = 3, 5  # GGUF's types of tokens that are no text
ROPE_BASE = 10_000.0  # where a file names none

TIED = "tie_word_embeddings"  # a field of configurations
BLOCKS = "model.layers."  # what holds the blocks of transformers' models

# Names in GGUF of the modules of transformers' models: those of a block, then the others.
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


@dataclass(frozen=True)
class Base:
    """A published model.

    path   its file or folder
    sizes  the shape of every weight, by its name in GGUF; matrices are [outputs, inputs]
    read   gives a weight in float32, or only these rows of it
    """

    path: Path
    shape: Qwen2Config
    vocabulary: Vocabulary
    sizes: Mapping[str, tuple[int, ...]]
    read: Callable[[str, Int[Array, " rows"] | None], Float[Array, ...]]


def open_base(path: Path) -> Base:
    """Map a base into memory.

    Raises CheckpointError for files that are damaged or of another kind, and MemoryError.
    """
    base = _of_folder(path) if path.is_dir() else _of_gguf(path)
    shape = base.shape
    heads_fit = shape.width == shape.heads * shape.size and shape.heads % shape.kv_heads == 0
    if not heads_fit or shape.size % 2 or shape.layers > len(base.sizes):
        raise CheckpointError(
            f"{path}: {shape.layers} layers of width {shape.width} with {shape.heads} heads, "
            f"{shape.kv_heads} of keys, do not fit its {len(base.sizes)} tensors; fetch it again"
        )
    wanted = shapes(shape)
    for name, size in wanted.items():
        found = base.sizes.get(name)
        if found != size and path.is_dir():
            field = TIED if name == OUTPUT else None
            raise unfit(path, path, published_name(name), found, size, field)
        if found != size:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {found}, its configuration asks for {size}; "
                "fetch it again"
            )
    if unknown := base.sizes.keys() - wanted.keys():
        called = published_name(min(unknown)) if path.is_dir() else min(unknown)
        raise CheckpointError(
            f"{path}: tensor {called} is of no block that is supported; "
            "give a model of plain Qwen2 or Llama blocks"
        )
    return base


def _of_gguf(path: Path) -> Base:
    """A GGUF file of architecture qwen2 or llama."""
    from gguf import GGUFReader, dequantize

    class Reader(GGUFReader):
        """Slices a plain array: half a million slices of numpy's memmap take far longer."""

        @property  # type: ignore[override]
        def data(self) -> Array:
            return self._plain

        @data.setter
        def data(self, mapped: Array) -> None:
            self._plain = mapped.view(np.ndarray)

    try:
        reader = Reader(path)
    except (ValueError, OSError, IndexError, KeyError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise MemoryError from error
        raise CheckpointError(
            f"{path}: no GGUF file, or not a whole one of a version that is known "
            f"({path.stat().st_size:,} bytes; {str(error).removeprefix('Sorry, ')}); fetch it again"
        ) from error
    architecture = field_of(reader, path, "general.architecture")
    if architecture not in ("qwen2", "llama"):
        raise CheckpointError(
            f"{path}: architecture is {architecture!r}; supported are 'qwen2' and 'llama': "
            "give a GGUF file of such a model, as Qwen2.5-Coder's"
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    if unknown := sorted(kinds.difference(READABLE)):
        raise CheckpointError(
            f"{path}: quantised as {', '.join(unknown)}; supported are {', '.join(READABLE)}: "
            "give a file with those only, such as Q4_K_M"
        )
    vocabulary = _gguf_vocabulary(reader, path)

    def number(name: str, otherwise: float | None = None, kind: Any = int) -> Any:
        name = f"{architecture}.{name}"
        if otherwise is not None and reader.get_field(name) is None:
            return otherwise
        return _number(field_of(reader, path, name), kind, name, path)

    def read(name: str, rows: Int[Array, " rows"] | None = None) -> Float[Array, ...]:
        tensor = tensors[name]
        data = tensor.data if rows is None else tensor.data[rows]
        value = np.array(dequantize(data, tensor.tensor_type), np.float32)
        part = name.split(".")[-2]
        if architecture == "llama" and part in ("attn_q", "attn_k"):
            return by_halves(value, shape.heads if part == "attn_q" else shape.kv_heads)
        return value

    every = np.arange(0, len(vocabulary.tokens), max(1, len(vocabulary.tokens) // SAMPLED_ROWS))
    tied = True
    if {EMBEDDING, OUTPUT} <= tensors.keys():
        try:
            one, other = (read(name, every) for name in (EMBEDDING, OUTPUT))
        except IndexError as error:
            raise CheckpointError(
                f"{path}: has fewer rows than its vocabulary's {len(vocabulary.tokens)}; "
                "fetch it again"
            ) from error
        tied = bool(np.linalg.norm(one - other) <= UNTIED * np.linalg.norm(other))
        if tied:  # its own copy is quantised more finely
            tensors[EMBEDDING] = tensors.pop(OUTPUT)
    heads = number("attention.head_count")
    shape = Qwen2Config(
        vocab_size=len(vocabulary.tokens),
        layers=number("block_count"),
        width=number("embedding_length"),
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        hidden=number("feed_forward_length"),
        context_length=number("context_length"),
        rope_base=number("rope.freq_base", ROPE_BASE, float),
        epsilon=number("attention.layer_norm_rms_epsilon", kind=float),
        biases="blk.0.attn_q.bias" in tensors,
        tied=tied,
    )
    scaling = f"{architecture}.rope.scaling.type"
    if reader.get_field(scaling) is not None:
        kind = field_of(reader, path, scaling)
        if kind != "none":
            raise _unsupported(path, scaling, kind, "none")
    for name in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if number(name, shape.size) != shape.size:
            raise _unsupported(path, f"{architecture}.{name}", number(name), shape.size)
    reader.fields.clear()  # the file's vocabulary, as objects of half a gigabyte
    sizes = {name: tuple(reversed(tensor.shape.tolist())) for name, tensor in tensors.items()}
    return Base(path, shape, vocabulary, sizes, read)


def by_halves(value: Float[Array, "outputs ..."], heads: int) -> Float[Array, "outputs ..."]:
    """Rows of queries or keys in the order that turns a head's first half with its second.

    GGUF files of llama models have them in pairs that are turned together.
    """
    size = len(value) // heads
    pairs = value.reshape(heads, size // 2, 2, *value.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(value.shape)


def field_of(reader: GGUFReader, path: Path, name: str) -> Any:
    """Read a field of a GGUF file; CheckpointError where it has none of this name, or damaged."""
    field = reader.get_field(name)
    if field is None:
        raise CheckpointError(
            f"{path}: has no field {name}; give a GGUF file of a Qwen2 or Llama model"
        )
    try:
        return field.contents()
    except (ValueError, TypeError, IndexError) as error:  # as UTF-8 that is none
        raise CheckpointError(
            f"{path}: field {name} is damaged ({error}); fetch it again"
        ) from error


def _gguf_vocabulary(reader: GGUFReader, path: Path) -> Vocabulary:
    """The vocabulary of a GGUF file."""
    model = field_of(reader, path, "tokenizer.ggml.model")
    if model != "gpt2":
        raise _unsupported(path, "tokenizer.ggml.model", model, "gpt2")
    pre = "tokenizer.ggml.pre"
    cut = cutting("qwen2" if reader.get_field(pre) is None else field_of(reader, path, pre), path)
    names = ("tokens", "token_type", "merges")
    tokens, kinds, merges = (field_of(reader, path, f"tokenizer.ggml.{name}") for name in names)
    return Vocabulary(tokens, kinds, merges, *cut).checked(path)


def _of_folder(folder: Path) -> Base:
    """A folder of safetensors whose configuration names a supported architecture."""
    where = folder / CONFIG
    try:
        config = json.loads(where.read_text(encoding="utf-8"))
        architecture_of(config, where)
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        turns = rope.get("rope_type", rope.get("type", "default"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: not readable as a model's configuration ({type(error).__name__}: {error}); "
            "fetch the model's folder again"
        ) from error
    plain = {"hidden_act": "silu", "use_sliding_window": False, "quantization_config": None}
    for name, value in plain.items():
        if config.get(name, value) != value:
            raise _unsupported(where, name, config[name], value)
    if turns != "default":
        raise _unsupported(where, "rope_type", turns, "default")

    def number(name: str, otherwise: float | None = None, kind: Any = int) -> Any:
        return _number(rope.get(name, config.get(name, otherwise)), kind, name, where)

    tied = bool(config.get(TIED, False))
    files, sizes = _tensors(folder)
    if tied:
        sizes.pop(OUTPUT, None)
    if EMBEDDING not in sizes:
        raise unfit(folder, folder, published_name(EMBEDDING), None)
    heads = number("num_attention_heads")
    shape = Qwen2Config(
        vocab_size=sizes[EMBEDDING][0],
        layers=number("num_hidden_layers"),
        width=number("hidden_size"),
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        hidden=number("intermediate_size"),
        context_length=number("max_position_embeddings"),
        rope_base=number("rope_theta", ROPE_BASE, float),
        epsilon=number("rms_norm_eps", kind=float),
        biases="blk.0.attn_q.bias" in sizes,
        tied=tied,
    )
    if (config.get("head_dim") or shape.size) != shape.size:
        raise _unsupported(where, "head_dim", config["head_dim"], shape.size)
    vocabulary = folder_vocabulary(folder / TOKENIZER, shape.vocab_size)
    vocabulary.checked(folder / TOKENIZER)

    def read(name: str, rows: Int[Array, " rows"] | None = None) -> Float[Array, ...]:
        file, theirs = files[name]
        value = file.get_tensor(theirs)
        return np.array(value if rows is None else value[rows], np.float32)

    return Base(folder, shape, vocabulary, sizes, read)


def _tensors(folder: Path) -> tuple[dict[str, tuple[Any, str]], dict[str, tuple[int, ...]]]:
    """A folder's tensors by their names in GGUF: the open file and the name in it; their shapes."""
    import ml_dtypes  # noqa: F401  # tells numpy, and so safetensors, what bfloat16 is

    files: dict[str, tuple[Any, str]] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    for part in weight_files(folder):
        try:
            file: Any = safe_open(folder / part, "numpy")
            for theirs in file.keys():  # noqa: SIM118
                if theirs.endswith(".inv_freq"):  # of older folders; it follows from rope_theta
                    continue
                each, name = file.get_slice(theirs), gguf_name(theirs)
                if each.get_dtype() not in FLOATS:
                    raise _unsupported(
                        folder / part, f"the type of {theirs}", each.get_dtype(), FLOATS
                    )
                files[name], sizes[name] = (file, theirs), tuple(each.get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{folder / part}: not a readable safetensors file ({error}); fetch it again"
            ) from error
    return files, sizes


def gguf_name(name: str, names: Mapping[str, str] = NAMES, blocks: str = BLOCKS) -> str:
    """The name in GGUF of a tensor of transformers' models; unknown names as they are.

    Other models have other `names` of modules, and call what holds their blocks otherwise.
    """
    module, _, kind = name.rpartition(".")
    block = ""
    if module.startswith(blocks):
        layer, _, module = module.removeprefix(blocks).partition(".")
        block = f"blk.{layer}."
    return f"{block}{names[module]}.{kind}" if module in names else name


def published_name(name: str, names: Mapping[str, str] = NAMES, blocks: str = BLOCKS) -> str:
    """The name that a tensor has in a folder, by the one in GGUF: the inverse of `gguf_name`."""
    module, _, kind = name.rpartition(".")
    block = ""
    if module.startswith("blk.") and module.count(".") > 1:
        _, layer, module = module.split(".", 2)
        block = f"{blocks}{layer}."
    theirs = {ours: called for called, ours in names.items()}
    return f"{block}{theirs[module]}.{kind}" if module in theirs else name


def unfit(
    folder: Path,
    file: Path,
    tensor: str,
    found: tuple[int, ...] | None,
    size: tuple[int, ...] | None = None,
    field: str | None = None,
) -> CheckpointError:
    """What to say of a tensor of a folder that is missing, or has not the `size` it should have.

    `field` is the configuration's that would do without it, if there is one.
    """
    again = "fetch the model's folder again"
    if found is not None:
        asks = f"tensor {tensor} has shape {found}, {CONFIG} asks for {size}"
        return CheckpointError(f"{file}: {asks}; {again}")
    if field is None:
        return CheckpointError(f"{folder}: no tensor {tensor} in its safetensors files; {again}")
    return CheckpointError(
        f"{folder / CONFIG}: {field} is not true, and the safetensors files have no {tensor}; "
        f"{again}, or set {field} to true if the embedding is the output matrix, too"
    )


def folder_vocabulary(path: Path, rows: int) -> Vocabulary:
    """The vocabulary of a `tokenizer.json`, with a name for each row of the embedding.

    CheckpointError where it is no BPE of bytes, alters text, or has ids beyond the rows.
    """
    bpe = Tokenizer.read(path)
    stored = json.loads(bpe.to_str())
    model, decoder = stored["model"], (stored["decoder"] or {}).get("type")
    if model["type"] != "BPE" or decoder != "ByteLevel" or bpe.pre_tokenizer is None:
        raise _unsupported(path, "its tokenizer", model["type"], "a BPE of bytes")
    special = {each["content"]: each["id"] for each in stored["added_tokens"]}
    ids = [*model["vocab"].values(), *special.values()]
    if max(ids, default=0) >= rows or not {*ByteLevel.alphabet()} <= model["vocab"].keys():
        raise CheckpointError(
            f"{path}: does not fit an embedding of {rows} rows, or lacks bytes; "
            "fetch the model's folder again"
        )
    tokens, kinds = [f"[PAD{row}]" for row in range(rows)], [UNUSED] * rows
    for names, kind in ((model["vocab"], NORMAL), (special, CONTROL)):
        for token, row in names.items():
            tokens[row], kinds[row] = token, kind
    merges = [" ".join(merge) for merge in model["merges"]]
    found = Vocabulary(tokens, kinds, merges, bpe.pre_tokenizer, bool(model["ignore_merges"]))
    text = "x  =\t'e\u0301 \u65e5'\r\n"
    whole = found.tokenizer(np.arange(rows))
    if whole.decode(whole.encode(text)) != text:
        raise _unsupported(path, "its tokenizer", "one that alters text", "one that keeps it")
    return found


def _number(value: Any, kind: Any, name: str, where: Path) -> float:
    """A number of a configuration: a whole one, or of any kind if that is float."""
    if isinstance(value, int | kind) and not isinstance(value, bool) and 0 < value < 2**31:
        return value
    raise CheckpointError(f"{where}: {name} is {value!r}, not a number above 0; fetch it again")


def _unsupported(where: Path, name: str, found: Any, supported: Any) -> CheckpointError:
    return CheckpointError(f"{where}: {name} is {found!r}; only {supported!r} is supported")

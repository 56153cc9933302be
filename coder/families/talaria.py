"""The family of talaria-7m: a transformer and a tokenizer trained from scratch.

Context and canvas share all weights. The state of a position predicts that position's own token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from safetensors import SafetensorError
from safetensors.numpy import load as load_weights
from tokenizers import decoders, models, pre_tokenizers, trainers

from talaria.coder.backbone import Array, Backbone, Marks
from talaria.coder.errors import CheckpointError
from talaria.coder.layout import Layout
from talaria.coder.syntax.lexical import lines_of
from talaria.coder.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float, Int

SPECIAL = ("<mask>", "<eom>", "<suf>", "<pre>", "<mid>", "<file>")

# A line break includes the indentation after it; a run of blanks at the beginning of a span is a
# token of its own. Words include one blank and the underscores before them, so `max_length` is
# `max` + `_length`.
WORDS = (
    r"\r?\n[\r\n\t ]*"
    r"| {2,}|\t+"
    r"| ?_*\p{L}[\p{L}\p{M}]*(?:__)?"
    r"| ?\p{N}{1,3}"
    r"| ?_+"
    r"| ?[^\s\p{L}\p{N}_]+"
    r"|\s"
)


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a transformer.

    vocab_size      tokens, special ones included
    layers          transformer blocks
    width           of the residual stream
    heads           attention heads; the width must be divisible by twice their number
    context_length  positions that it was trained on, canvas included
    block_length    positions of a canvas in training
    chain_layers    blocks of the chain, which reads a canvas from left to right; 0: no chain
    """

    vocab_size: int
    layers: int = 6
    width: int = 256
    heads: int = 4
    context_length: int = 512
    block_length: int = 32
    rope_base: float = 10_000.0
    chain_layers: int = 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "width", "heads", "context_length", "block_length"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if type(self.chain_layers) is not int or self.chain_layers < 0:
            raise ValueError(f"chain_layers is {self.chain_layers!r}; it must be 0 or more")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} over {self.heads} heads gives no even head size; "
                "choose a width divisible by twice the heads"
            )
        if self.block_length > self.context_length // 2:
            raise ValueError(
                f"block_length is {self.block_length}; the context of {self.context_length} "
                f"leaves room for at most {self.context_length // 2}"
            )
        if self.context_length > 2**20 or not isinstance(self.rope_base, float | int):
            raise ValueError(f"context_length {self.context_length} or rope_base is out of range")
        if not self.rope_base > 1:
            raise ValueError(f"rope_base is {self.rope_base}; it must be above 1")

    @property
    def mlp_width(self) -> int:
        """Hidden units of the gated MLP: 8/3 of the width, in steps of 64."""
        return -(-8 * self.width // (3 * 64)) * 64


class TalariaTokenizer(Tokenizer):
    """A byte-level BPE for Python; its special tokens follow the ids of the BPE."""

    def __init__(self, bpe: tokenizers.Tokenizer) -> None:
        first = bpe.get_vocab_size()
        super().__init__(bpe, {name: first + place for place, name in enumerate(SPECIAL)})
        self.mask, self.eom, self.suf, self.pre, self.mid, self.file = self.special.values()

    @classmethod
    def load(cls, path: Path) -> TalariaTokenizer:
        """Read `tokenizer.json`; CheckpointError if it is damaged."""
        return cls(cls.read(path))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> TalariaTokenizer:
        """Learn a BPE of `vocab_size` tokens, special ones included."""
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe)

    @property
    def marks(self) -> Marks:
        """The special tokens by their role in decoding."""
        return Marks(self.mask, self.eom, (self.mask, self.suf, self.pre, self.mid, self.file))

    @property
    def layout(self) -> Layout:
        """`[<file> path and text …] <suf> suffix <pre> prefix <mid>`."""
        return Layout(self, (self.suf,), (self.pre,), (self.mid,), (self.file,))


def training_texts(texts: Iterable[str]) -> Iterator[str]:
    """Texts for learning the BPE: each whole, then the indentation of each of its lines.

    A span that begins at a line's start has the indentation without the line break before it;
    learned separately, such runs become single tokens too.
    """
    for text in texts:
        yield text
        for line in lines_of(text):
            blank = len(line) - len(line.lstrip(" "))
            if blank > 1:
                yield line[:blank]


def rotary_turns(
    config: TransformerConfig, positions: Int[Array, "batch length"]
) -> tuple[Float[Array, "batch length half"], Float[Array, "batch length half"]]:
    """Cosines and sines of the rotary embedding at these positions; `half`: of the head size."""
    half = config.width // config.heads // 2
    exponents = np.arange(half, dtype=np.float32) / np.float32(half)
    turns = np.float32(config.rope_base) ** -exponents
    angles = positions[..., None].astype(np.float32) * turns
    return np.cos(angles), np.sin(angles)


def shape_of(config: Mapping[str, Any], where: Path) -> TransformerConfig:
    """Read the shape from a checkpoint's configuration; CheckpointError if it is invalid."""
    try:
        return TransformerConfig(**config["denoiser"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: no valid denoiser in it ({error})") from error


def settings_of(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Settings that follow from the shape: the positions and the block it was trained on."""
    shape = shape_of(config, where)
    return {
        "working_context": shape.context_length,
        "block_length": shape.block_length,
        "max_tokens": max(1, shape.context_length // 4),
    }


def read_weights(
    data: bytes, shape: TransformerConfig, where: Path
) -> dict[str, Float[Array, ...]]:
    """Weights in half precision, by name; CheckpointError if damaged or of another shape."""
    try:
        weights: dict[str, Array] = load_weights(data)
    except SafetensorError as error:
        raise CheckpointError(
            f"{where}: damaged ({error}); fetch the model's folder again"
        ) from error
    # Checkpoints of the first releases call the chain "links".
    weights = {re.sub(r"^links\.", "chain.", name): weight for name, weight in weights.items()}
    wanted = shapes(shape)
    given = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise CheckpointError(
                f"{where}: tensor {name} has shape {given.get(name)}, "
                f"config.json asks for {wanted.get(name)}; fetch the model's folder again"
            )
    return weights


def shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, by name."""
    width = config.width
    found: dict[str, tuple[int, ...]] = {"embed.weight": (config.vocab_size, width)}
    stacks = {"blocks": config.layers, "chain.blocks": config.chain_layers}
    for stack, layers in stacks.items():
        for layer in range(layers):
            block = f"{stack}.{layer}"
            found |= {
                f"{block}.qkv.weight": (3 * width, width),
                f"{block}.out.weight": (width, width),
                f"{block}.up.weight": (2 * config.mlp_width, width),
                f"{block}.down.weight": (width, config.mlp_width),
            }
    if config.chain_layers:
        found["chain.before.weight"] = (width, width)
    return found


def load(
    folder: Path, config: Mapping[str, Any], weights: bytes, device: str
) -> tuple[Backbone, Tokenizer, Layout]:
    """Load a model from its folder's files, whose hashes have been checked.

    ONNX Runtime computes it on a CPU, torch, if it is installed, on other devices. Raises
    CheckpointError where the files contradict each other, or the device is not available.
    """
    tokenizer = TalariaTokenizer.load(folder / "tokenizer.json")
    shape = shape_of(config, folder / "config.json")
    if shape.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{folder}: the model has {shape.vocab_size} tokens and the tokenizer "
            f"{tokenizer.vocab_size}; they must come from the same training run"
        )
    arrays = read_weights(weights, shape, folder / "model.safetensors")
    backbone: Backbone
    if device == "cpu":
        from talaria.coder.families.talaria_onnx import OnnxTalaria

        backbone = OnnxTalaria(shape, arrays, tokenizer.marks)
    else:
        try:
            from talaria.coder.families.talaria_torch import TorchBackbone, module
        except ModuleNotFoundError as error:
            raise CheckpointError(
                f"device {device!r} needs {error.name}, which is not installed; "
                "install the extra `gpu`, or use --device cpu"
            ) from error
        backbone = TorchBackbone(module(shape, arrays, device), tokenizer.marks)
    return backbone, tokenizer, tokenizer.layout

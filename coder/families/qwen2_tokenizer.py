"""The vocabulary of Qwen2 decoders, its special tokens and what they mean here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from talaria.coder.backbone import Marks
from talaria.coder.errors import CheckpointError
from talaria.coder.layout import Layout
from talaria.coder.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFReader

# How Qwen2 splits text before its BPE (the pattern of its tokenizer.json). Its normalisation to NFC
# is left out, because text must survive the round trip.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
EOM, MASK = "<|endoftext|>", "<|fim_pad|>"
PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
NORMAL = 1  # GGUF's type of a token that is text


def field_of(reader: GGUFReader, path: Path, name: str) -> Any:
    """Read a field of a GGUF file; CheckpointError where it has none of this name."""
    field = reader.get_field(name)
    if field is None:
        raise CheckpointError(f"{path}: has no field {name}; give a GGUF file of a Qwen2 model")
    return field.contents()


def read_tokenizer(reader: GGUFReader, path: Path) -> Tokenizer:
    """Read the byte-level BPE; text never encodes to a special token."""
    tokens: list[str] = field_of(reader, path, "tokenizer.ggml.tokens")
    kinds: list[int] = field_of(reader, path, "tokenizer.ggml.token_type")
    merges: list[str] = field_of(reader, path, "tokenizer.ggml.merges")
    text = {token: number for number, token in enumerate(tokens) if kinds[number] == NORMAL}
    special = {token: number for number, token in enumerate(tokens) if kinds[number] != NORMAL}
    if missing := {EOM, MASK, PREFIX, SUFFIX, MIDDLE} - special.keys():
        raise CheckpointError(
            f"{path}: its vocabulary has no {', '.join(sorted(missing))}, so the model cannot "
            "infill; give a Qwen2.5-Coder model"
        )
    pairs = (merge.partition(" ") for merge in merges)
    bpe = tokenizers.Tokenizer(
        models.BPE(vocab=text, merges=[(one, other) for one, _, other in pairs])
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    return Tokenizer(bpe, special)


def marks_of(tokenizer: Tokenizer) -> Marks:
    """The special tokens by their part in decoding; only the end of text may be written."""
    special = tokenizer.special
    never = tuple(token for name, token in special.items() if name != EOM)
    return Marks(special[MASK], special[EOM], never)


def layout_of(tokenizer: Tokenizer) -> Layout:
    """`<|fim_prefix|><|fim_suffix|> suffix <|fim_middle|> prefix`: suffix first, so typing appends.

    The model was also trained with the prefix first; the suffix first is no worse: 31 of 60
    HumanEval lines exact, against 26.
    """
    special = tokenizer.special
    return Layout(tokenizer, (special[PREFIX], special[SUFFIX]), (special[MIDDLE],))

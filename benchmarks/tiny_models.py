"""Tiny random models in the formats of the open families, the same wherever they are made.

Tests load them, and `benchmarks/parity.py` gives them to the families' own code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 320  # of the embedding: more than there are tokens, as in published models
WIDTH, LAYERS, HEADS, KV_HEADS, HIDDEN, POSITIONS = 64, 2, 4, 2, 96, 512
MERGES = (
    ("d", "e"), ("de", "f"), ("r", "e"), ("re", "t"), ("u", "r"), ("ret", "ur"), ("retur", "n"),
    ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("s", "e"), ("l", "f"), ("se", "lf"), ("i", "n"), ("Ġ", "="),
)  # fmt: skip
FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")


@dataclass(frozen=True)
class Tiny:
    """A tiny model of a family.

    special  its special tokens; the mask is `mask`, the end `end`
    config   what its configuration has besides the shape
    speaks   special tokens that it may predict, and often does; all others have the logit 0
    """

    architecture: str
    model_type: str
    special: tuple[str, ...]
    mask: str
    end: str
    config: Mapping[str, Any] = field(default_factory=dict)
    llada: bool = False
    biases: bool = True
    normed: bool = False
    tied: bool = False
    kv_heads: int = KV_HEADS
    size: int = WIDTH // HEADS
    speaks: tuple[str, ...] = ()
    seed: int = 0

    @property
    def tokens(self) -> list[str]:
        """The names of all tokens, by id."""
        merged = [one + other for one, other in MERGES]
        return [*sorted(ByteLevel.alphabet()), *merged, *self.special]

    def id(self, name: str) -> int:
        """The id of a token."""
        return self.tokens.index(name)


LLADA = Tiny(
    "LLaDAModelLM",
    "llada",
    ("<|startoftext|>", "<|endoftext|>", "<|eot_id|>", "<|mdm_mask|>"),
    "<|mdm_mask|>",
    "<|endoftext|>",
    llada=True,
    biases=False,
    kv_heads=HEADS,
)
DREAM = Tiny(
    "DreamModel",
    "Dream",
    ("<|endoftext|>", "<|beginoftext|>", "<|mask|>"),
    "<|mask|>",
    "<|endoftext|>",
)
DREAMON = Tiny(
    "DreamModel",
    "Dream",
    ("<|endoftext|>", "<|beginoftext|>", "<|mask|>", "<|expand|>"),
    "<|mask|>",
    "<|endoftext|>",
    {"bos_token_id": 271},
    speaks=("<|expand|>", "<|endoftext|>"),
    seed=1,  # with which canvases grow and shrink, and become full
)
OPEN_DCODER = Tiny(
    "Qwen2ForCausalLM", "qwen2", ("<|endoftext|>", *FIM, "<M>"), "<M>", "<|endoftext|>", tied=True
)
SDAR = Tiny(
    "SDARForCausalLM",
    "sdar",
    ("<|endoftext|>", "<|im_end|>", *FIM, "<|MASK|>"),
    "<|MASK|>",
    "<|endoftext|>",
    biases=False,
    normed=True,
    size=32,
)
FAST_DLLM_V2 = Tiny(
    "Fast_dLLM_QwenForCausalLM",
    "Fast_dLLM_Qwen",
    ("<|endoftext|>", "<|im_end|>", *FIM, "|<MASK>|"),
    "|<MASK>|",
    "<|im_end|>",
    {"bd_size": 32},
)
A2D = Tiny(
    "A2DQwen3LMHeadModel",
    "a2d-qwen3",
    ("<|endoftext|>", "<|im_end|>", "<|mask|>"),
    "<|mask|>",
    "<|endoftext|>",
    biases=False,
    normed=True,
    size=32,
)
QWEN3 = Tiny(
    "Qwen3ForCausalLM",
    "qwen3",
    ("<|endoftext|>", "<|im_end|>", *FIM, "<|fim_pad|>"),
    "<|fim_pad|>",
    "<|endoftext|>",
    biases=False,
    normed=True,
    size=32,
)
CAUSAL = {"qwen3": QWEN3}
TINY = {
    "llada": LLADA,
    "dream": DREAM,
    "dreamon": DREAMON,
    "open-dcoder": OPEN_DCODER,
    "sdar": SDAR,
    "fast-dllm-v2": FAST_DLLM_V2,
    "a2d": A2D,
}


def write(tiny: Tiny, folder: Path, shards: int = 1) -> Path:
    """Write a model's folder, its weights in so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configuration(tiny), indent=2), "utf-8")
    tokenizer(tiny).save(str(folder / "tokenizer.json"))
    tensors = weights(tiny)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = sorted(tensors)
    index: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        own = names[number::shards]
        save_file({name: tensors[name] for name in own}, folder / file)
        index |= dict.fromkeys(own, file)
    whole = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(whole), "utf-8")
    return folder


def configuration(tiny: Tiny) -> dict[str, Any]:
    """What `config.json` says, in the family's own words."""
    marks = {"mask_token_id": tiny.id(tiny.mask), "eos_token_id": tiny.id(tiny.end)}
    pad = {"pad_token_id": tiny.id("<|endoftext|>")}
    both = {"architectures": [tiny.architecture], "model_type": tiny.model_type, **tiny.config}
    if tiny.llada:
        return {
            **both,
            **marks,
            **pad,
            "d_model": WIDTH,
            "n_heads": HEADS,
            "n_kv_heads": tiny.kv_heads,
            "n_layers": LAYERS,
            "mlp_hidden_size": HIDDEN,
            "max_sequence_length": POSITIONS,
            "vocab_size": ROWS,
            "embedding_size": ROWS,
            "rope": True,
            "rope_theta": 500000.0,
            "rms_norm_eps": 1e-5,
            "block_type": "llama",
            "activation_type": "silu",
            "layer_norm_type": "rms",
            "weight_tying": False,
            "include_bias": False,
            "include_qkv_bias": False,
            "alibi": False,
            "attention_dropout": 0.0,
            "residual_dropout": 0.0,
            "embedding_dropout": 0.0,
        }
    if tiny in (OPEN_DCODER, QWEN3):  # their masks are in the tokenizer alone
        del marks["mask_token_id"]
        pad = {}
    return {
        **both,
        **marks,
        **pad,
        "vocab_size": ROWS,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": tiny.kv_heads,
        "head_dim": tiny.size,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": tiny.tied,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
    }


def tokenizer(tiny: Tiny) -> tokenizers.Tokenizer:
    """A BPE of bytes with a few merges."""
    names = tiny.tokens
    plain = names[: len(names) - len(tiny.special)]
    bpe = tokenizers.Tokenizer(models.BPE({name: row for row, name in enumerate(plain)}, [*MERGES]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([*tiny.special])
    return bpe


def weights(tiny: Tiny) -> dict[str, NDArray[np.float32]]:
    """Random weights by the names that the family gives them.

    What it must not predict has a row of zeros, so that the published samplers, which bar nothing,
    do not predict it either.
    """
    generator = np.random.default_rng(tiny.seed)
    queries, keys = HEADS * tiny.size, tiny.kv_heads * tiny.size

    def matrix(outputs: int, inputs: int, scale: float = 1.0) -> NDArray[np.float32]:
        drawn = generator.standard_normal((outputs, inputs), dtype=np.float32)
        return np.asarray(drawn * np.float32(scale / inputs**0.5))

    def vector(size: int, around: float) -> NDArray[np.float32]:
        drawn = generator.standard_normal(size, dtype=np.float32)
        return np.asarray(np.float32(around) + np.float32(0.2) * drawn)

    table = matrix(ROWS, WIDTH, 8.0 if not tiny.tied else 2.0)
    output = matrix(ROWS, WIDTH, 4.0)
    silent = [tiny.id(name) for name in tiny.special if name not in tiny.speaks]
    silent += range(len(tiny.tokens), ROWS)
    for rows in (output, *[table] * tiny.tied):
        rows[silent] = 0
        rows[[tiny.id(name) for name in tiny.speaks]] *= 3
    found = {"embed": table, "norm": vector(WIDTH, 1)}
    if not tiny.tied:
        found["output"] = output
    for layer in range(LAYERS):
        own = {
            "attn_norm": vector(WIDTH, 1),
            "ffn_norm": vector(WIDTH, 1),
            "q": matrix(queries, WIDTH, 2.0),
            "k": matrix(keys, WIDTH, 2.0),
            "v": matrix(keys, WIDTH),
            "o": matrix(WIDTH, queries),
            "gate": matrix(HIDDEN, WIDTH),
            "up": matrix(HIDDEN, WIDTH),
            "down": matrix(WIDTH, HIDDEN),
        }
        if tiny.biases:
            own |= {"q.bias": vector(queries, 0), "k.bias": vector(keys, 0)}
            own |= {"v.bias": vector(keys, 0)}
        if tiny.normed:
            own |= {"q_norm": vector(tiny.size, 1), "k_norm": vector(tiny.size, 1)}
        found |= {f"{layer}.{name}": value for name, value in own.items()}
    return {published(name, tiny.llada): value for name, value in found.items()}


def published(name: str, llada: bool) -> str:
    """The family's name of a weight."""
    layer, dot, part = name.partition(".")
    part, _, bias = part.partition(".")
    kind = "bias" if bias else "weight"
    if llada:
        ends = {"embed": "wte", "norm": "ln_f", "output": "ff_out"}
        if not dot:
            return f"model.transformer.{ends[name]}.weight"
        parts = {
            "attn_norm": "attn_norm", "ffn_norm": "ff_norm", "q": "q_proj", "k": "k_proj",
            "v": "v_proj", "o": "attn_out", "gate": "ff_proj", "up": "up_proj", "down": "ff_out",
        }  # fmt: skip
        return f"model.transformer.blocks.{layer}.{parts[part]}.{kind}"
    whole = {"embed": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
    if not dot:
        return f"{whole[name]}.weight"
    parts = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
        "o": "self_attn.o_proj", "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
        "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    }  # fmt: skip
    return f"model.layers.{layer}.{parts[part]}.{kind}"

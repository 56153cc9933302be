"""A tiny random Qwen2-style model in numpy: grouped-query attention, biases, a shift, other marks.

As simple as it can be written, so that it can also serve as a reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tokenizers

from talaria.coder.backbone import Array, CpuBackbone, KVCache, Marks
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.layout import Layout
from talaria.coder.request import Settings
from talaria.coder.tokenizer import Tokenizer

LAYERS, WIDTH, HEADS, KV_HEADS, SIZE, HIDDEN = 2, 32, 4, 2, 8, 48


class Qwen2(CpuBackbone):
    """RMS norms with weights, rotary positions, gated MLPs, an output matrix of its own."""

    shift = True

    def __init__(self, vocab_size: int, marks: Marks, seed: int = 0, denoises: bool = True) -> None:
        self.marks, self.denoises = marks, denoises
        rng = np.random.default_rng(seed)

        def drawn(*shape: int) -> Array:
            return rng.normal(0, 0.5, shape).astype(np.float32)

        self.embed, self.head = drawn(vocab_size, WIDTH), drawn(WIDTH, vocab_size)
        self.final = 1 + drawn(WIDTH)
        self.blocks: list[dict[str, Array]] = [
            {
                "attention_norm": 1 + drawn(WIDTH),
                "mlp_norm": 1 + drawn(WIDTH),
                **{name: drawn(WIDTH, heads * SIZE) for name, heads in self.heads.items()},
                **{f"{name}_bias": drawn(heads * SIZE) for name, heads in self.heads.items()},
                "out": drawn(HEADS * SIZE, WIDTH),
                "gate": drawn(WIDTH, HIDDEN),
                "up": drawn(WIDTH, HIDDEN),
                "down": drawn(HIDDEN, WIDTH),
            }
            for _ in range(LAYERS)
        ]

    heads = {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}  # noqa: RUF012

    @property
    def device(self) -> str:
        """Numpy's."""
        return "cpu"

    @property
    def threads(self) -> int:
        """Of this process."""
        return 1

    def evaluate(
        self,
        ids: Array,
        positions: Array,
        visible: Array | None,
        cache: KVCache | None,
        keep: bool,
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """One pass, as `Backbone` has it."""
        batch, length = ids.shape
        x = self.embed[ids]
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            y = norm(x, block["attention_norm"])
            q, k, v = (
                (y @ block[name] + block[f"{name}_bias"])
                .reshape(batch, length, heads, SIZE)
                .transpose(0, 2, 1, 3)
                for name, heads in self.heads.items()
            )
            q, k = rotate(q, positions), rotate(k, positions)
            if cache is not None:
                k = np.concatenate((cache.keys[layer], k), 2)
                v = np.concatenate((cache.values[layer], v), 2)
            keys.append(k)
            values.append(v)
            k, v = (np.repeat(each, HEADS // KV_HEADS, axis=1) for each in (k, v))
            scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(np.float32(SIZE))
            if visible is not None:
                scores = np.where(visible, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            y = (weights / weights.sum(-1, keepdims=True)) @ v
            x = x + y.transpose(0, 2, 1, 3).reshape(batch, length, -1) @ block["out"]
            y = norm(x, block["mlp_norm"])
            gate = y @ block["gate"]
            x = x + (gate / (1 + np.exp(-gate)) * (y @ block["up"])) @ block["down"]
        states = norm(x, self.final)
        return states, tuple(keys) if keep else (), tuple(values) if keep else ()

    def logits(self, states: Array) -> Array:
        """Logits of states."""
        found: Array = states @ self.head
        return found


def norm(x: Array, weight: Array) -> Array:
    """RMS normalisation with a weight."""
    scaled: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + np.float32(1e-6)) * weight
    return scaled


def rotate(x: Array, positions: Array) -> Array:
    """Rotary positions of [batch, heads, length, size], by halves."""
    half = x.shape[-1] // 2
    turns = np.float32(10_000) ** (-np.arange(half, dtype=np.float32) / half)
    angles = (positions[..., None] * turns)[:, None].astype(np.float32)
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), -1)


def tiny(bpe: tokenizers.Tokenizer, **how: Any) -> Checkpoint:
    """A checkpoint of such a model on the BPE of another; its marks lie in no particular order."""
    first = bpe.get_vocab_size()
    names = ("<|endoftext|>", "<|fim_suffix|>", "<|mask|>", "<|fim_middle|>", "<|fim_prefix|>")
    special = {name: first + 2 * place for place, name in enumerate(names)}
    eom, suffix, mask, middle, prefix = special.values()
    tokenizer = Tokenizer(bpe, special)
    # Ids that belong to nothing, as in a padded vocabulary, must never be written either.
    unused = tuple(range(first + 1, tokenizer.vocab_size, 2))
    marks = Marks(mask, eom, (mask, suffix, middle, prefix, *unused))
    layout = Layout(tokenizer, (prefix, suffix), (middle,))
    settings = Settings(confidence_threshold=0.3, max_tokens=20, working_context=96, block_length=8)
    backbone = Qwen2(tokenizer.vocab_size, marks, **how)
    return Checkpoint(backbone, tokenizer, layout, settings, "tiny-qwen2", {})

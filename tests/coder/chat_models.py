"""Tiny models that answer: one at random, and one that says what a test has it say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from talaria.coder.backbone import Array, CpuBackbone, KVCache, Marks
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.layout import Layout
from talaria.coder.request import Settings
from talaria.coder.tokenizer import Tokenizer
from tests.coder.qwen2 import Qwen2

END, OPENING, CLOSING, MASK = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"
SETTINGS = Settings(confidence_threshold=0.3, max_tokens=20, working_context=256, block_length=8)


def checkpoint_of(
    bpe: Tokenizer, backbone: Callable[[int, Marks], CpuBackbone], settings: Settings = SETTINGS
) -> Checkpoint:
    """A checkpoint on the BPE of another, with the sentinels of ChatML."""
    first = bpe._bpe.get_vocab_size()
    special = {name: first + place for place, name in enumerate((END, OPENING, CLOSING, MASK))}
    tokenizer = Tokenizer(bpe._bpe, special)
    marks = Marks(special[MASK], special[END], (special[OPENING], special[CLOSING], special[MASK]))
    made = backbone(tokenizer.vocab_size, marks)
    layout = Layout(tokenizer, (special[END],), (special[END],))
    return Checkpoint(made, tokenizer, layout, settings, "tiny-chat", {})


def random_model(bpe: Tokenizer, denoises: bool = True) -> Checkpoint:
    """One with a shift, whose every weight is random."""
    return checkpoint_of(bpe, lambda size, marks: Qwen2(size, marks, denoises=denoises))


class Saying(CpuBackbone):
    """Says one text after another, whatever is asked; it is no denoiser.

    A key is the id of a token; a state is the number of an answer and a place in it. `heard` is
    told how many tokens each pass reads.
    """

    device, threads, denoises, shift = "cpu", 1, False, True

    def __init__(
        self, vocab_size: int, marks: Marks, said: Sequence[list[int]], prompt: list[int]
    ) -> None:
        self.vocab_size, self.marks, self.said, self.prompt = vocab_size, marks, said, prompt
        self.heard: Callable[[int], None] = lambda count: None

    def evaluate(
        self, ids: Array, positions: Array, visible: Array | None, cache: KVCache | None, keep: bool
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """One pass of one row, as `Backbone` has it."""
        assert len(ids) == 1
        self.heard(ids.shape[1])
        own = ids[:, None, :, None].astype(np.float32)
        keys = own if cache is None else np.concatenate((cache.keys[0], own), 2)
        known: list[int] = keys[0, 0, :, 0].astype(int).tolist()
        states = np.full((1, ids.shape[1], 2), -1)
        for place in range(ids.shape[1]):
            upto = known[: len(known) - ids.shape[1] + place + 1]
            ends = [
                at + len(self.prompt)
                for at in range(len(upto))
                if upto[at : at + len(self.prompt)] == self.prompt
            ]
            if ends:
                states[0, place] = len(ends) - 1, len(upto) - ends[-1]
        return states, (keys,), (keys,)

    def logits(self, states: Array) -> Array:
        """Certain of what is to be said, then of the end."""
        logits = np.full((len(states), self.vocab_size), -20, np.float32)
        for row, (number, place) in zip(logits, states.tolist(), strict=True):
            said = self.said[number] if 0 <= number < len(self.said) else []
            row[said[place] if 0 <= place < len(said) else self.marks.eom] = 0
        return logits


def saying(bpe: Tokenizer, *texts: str) -> Checkpoint:
    """A model that says these texts, one a turn."""

    def made(size: int, marks: Marks) -> Saying:
        opening = bpe._bpe.get_vocab_size() + 1
        prompt = [opening, *bpe.encode("assistant\n")]
        return Saying(size, marks, [bpe.encode(text) for text in texts], prompt)

    return checkpoint_of(bpe, made, replace(SETTINGS, working_context=1024))

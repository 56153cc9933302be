"""A model that says what a test has it say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from talaria.coder.backbone import Array, CpuBackbone, KVCache
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.request import Settings

SETTINGS = Settings(working_context=2048, block_length=64)
Script = Sequence[Mapping[int, float]]  # for each place of a middle, tokens and their probabilities


class ScriptedBackbone(CpuBackbone):
    """Predicts by where in a middle a token stands, whatever the tokens before it are.

    scripts  by the context, what is said at each place; behind the last one, `<eom>`. A context
             that is not there has the script of ().

    Its keys are the ids that it read, its values their positions, and a state is the number of a
    script and a place in it.
    """

    device, threads = "cpu", 1

    def __init__(
        self, tokenizer: TalariaTokenizer, scripts: Mapping[tuple[int, ...], Script]
    ) -> None:
        self.marks, self.vocab_size, self.mid = (
            tokenizer.marks,
            tokenizer.vocab_size,
            tokenizer.mid,
        )
        self.begins = {context: number for number, context in enumerate(scripts)}
        self.scripts = list(scripts.values())
        self.evaluations = 0

    def evaluate(
        self, ids: Array, positions: Array, visible: Array | None, cache: KVCache | None, keep: bool
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """One pass, as `Backbone` has it."""
        self.evaluations += 1
        states = np.full((*ids.shape, 2), -1)
        for row in range(len(ids)):
            past = np.zeros(0, np.int64) if cache is None else cache.keys[0][row, 0, :, 0]
            at = past if cache is None else cache.values[0][row, 0, :, 0]
            if cache is not None:
                past, at = past[cache.valid[row]], at[cache.valid[row]]
            known, places = np.append(past, ids[row]), np.append(at, positions[row])
            if self.mid in known:
                begin = int(np.flatnonzero(known == self.mid)[0])
                context = tuple(known[: begin + 1].tolist())
                states[row, :, 0] = self.begins.get(context, self.begins.get((), -1))
                # Read causally, a token speaks of the next place; in a canvas, of its own.
                states[row, :, 1] = positions[row] - places[begin] - (not keep)
        own = ids[:, None, :, None], positions[:, None, :, None]
        if not keep:
            return states, (), ()
        if cache is not None:
            own = (
                np.concatenate((cache.keys[0], own[0]), 2),
                np.concatenate((cache.values[0], own[1]), 2),
            )
        return states, own[:1], own[1:]

    def logits(self, states: Array) -> Array:
        """By the scripts; what they do not name is hardly possible."""
        logits = np.full((len(states), self.vocab_size), np.log(1e-6), np.float32)
        for row, (number, place) in zip(logits, states.tolist(), strict=True):
            script = self.scripts[number]
            chances = script[place] if 0 <= place < len(script) else {self.marks.eom: 1.0}
            for token, chance in chances.items():
                row[token] = np.log(chance)
        return logits


def script(tokenizer: TalariaTokenizer, texts: Sequence[str], healed: str, sure: float) -> Script:
    """What says the first text, ended by `<eom>`, and where that is forbidden the next ones.

    The first has the probability `sure` at each place, the next that share of what is left, and
    so on.
    """
    said = [[*tokenizer.encode(healed), *tokenizer.encode(text), tokenizer.eom] for text in texts]
    found: list[dict[int, float]] = [{} for _ in range(max(map(len, said)))]
    for number, tokens in enumerate(said):
        for chances, token in zip(found, tokens, strict=False):
            chances.setdefault(token, sure * (1 - sure) ** number)
    return found


def scripted(
    tokenizer: TalariaTokenizer,
    texts: Sequence[str],
    settings: Settings = SETTINGS,
    sure: float = 0.9,
) -> Checkpoint:
    """A model that says the first of these texts into any hole, or what is left of it.

    For holes whose prefix ends with a token that is not chosen anew.
    """
    return checkpoint_of(tokenizer, {(): script(tokenizer, texts, "", sure)}, settings)


def scripted_by(
    tokenizer: TalariaTokenizer,
    scripts: Mapping[tuple[str, str], Script],
    settings: Settings = SETTINGS,
) -> Checkpoint:
    """A model that has a script for each of these holes, by prefix and suffix."""
    found: dict[tuple[int, ...], Script] = {}
    for (prefix, suffix), said in scripts.items():
        before = tokenizer.encode(prefix.removesuffix(tokenizer.last_token(prefix)))
        found[tuple(tokenizer.layout.arrange(before, tokenizer.encode(suffix)))] = said
    return checkpoint_of(tokenizer, found, settings)


def checkpoint_of(
    tokenizer: TalariaTokenizer, scripts: Mapping[tuple[int, ...], Script], settings: Settings
) -> Checkpoint:
    """A checkpoint that was never on a disk."""
    backbone = ScriptedBackbone(tokenizer, scripts)
    config = {"parameters": 0, "sha256": {}}
    return Checkpoint(backbone, tokenizer, tokenizer.layout, settings, "scripted", config)

"""The heart: a canvas is denoised step by step, or a middle written token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from coder.canvas import Canvas
from coder.denoiser import Denoiser, KVCache
from coder.unmask import Rule, everything

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

COLD = 1e-6  # temperatures below it are 0: logits divided by them are no numbers


@dataclass(frozen=True)
class Step:
    """What one evaluation of the denoiser did to the canvas.

    canvas      after the step
    committed   [batch, block]; which masks became tokens
    confidence  [batch, block]; the probability of the token chosen at each open
                position, committed or not
    forced      [batch]; whether the end of the budget committed what the rule would not have
    """

    canvas: Canvas
    committed: Bool[Tensor, "batch block"]
    confidence: Float[Tensor, "batch block"]
    forced: Bool[Tensor, " batch"]


def choose(
    canvas: Canvas,
    logits: Float[Tensor, "batch block vocab"],
    temperature: float,
    generators: Sequence[torch.Generator],
) -> tuple[Int[Tensor, "batch block"], Float[Tensor, "batch block"]]:
    """A token for each position, and its probability.

    Temperature 0 takes the likeliest. Above it a row is drawn with its own
    generator, and only while it has something open, so that it does not depend
    on the rows beside it. Masks and the marks of the layout, whose ids lie above
    that of `<eom>`, are never chosen.
    """
    logits[..., canvas.mask] = -torch.inf
    logits[..., canvas.eom + 1 :] = -torch.inf
    if temperature < COLD:
        confidence, tokens = logits.softmax(-1).max(-1)
        return tokens, confidence
    probabilities = (logits / temperature).softmax(-1)
    tokens = probabilities.argmax(-1)
    for row in canvas.open.any(1).nonzero().flatten().tolist():
        drawn = torch.multinomial(probabilities[row], 1, generator=generators[row])
        tokens[row] = drawn.squeeze(1)
    return tokens, probabilities.gather(-1, tokens[..., None]).squeeze(-1)


def denoise(
    denoiser: Denoiser,
    cache: KVCache,
    canvas: Canvas,
    rule: Rule,
    max_nfe: int,
    temperature: float,
    generators: Sequence[torch.Generator],
) -> Iterator[Step]:
    """Commit the canvas' masks over at most `max_nfe` steps; the last commits all that is left."""
    for left in range(max_nfe, 0, -1):
        logits = denoiser.denoise(canvas.ids, cache)
        tokens, confidence = choose(canvas, logits, temperature, generators)
        ruled = rule(confidence, canvas.open)
        where = ruled if left > 1 else everything(confidence, canvas.open)
        before, canvas = canvas, canvas.commit(tokens, where)
        committed = (before.ids == canvas.mask) & (canvas.ids != canvas.mask)
        forced = (committed & ~ruled).any(1)
        yield Step(canvas, committed, confidence.masked_fill(~before.open, 0), forced)
        if not canvas.open.any():
            return


def autoregress(
    denoiser: Denoiser,
    cache: KVCache,
    last: int,
    canvas: Canvas,
    max_nfe: int,
    temperature: float,
    generators: Sequence[torch.Generator],
) -> Iterator[Step]:
    """Fill the canvas from left to right, a token a step: the baseline on the same weights.

    The cache holds the context but its last token, `last`, which the first step reads.
    """
    following = [[last]] * len(canvas.ids)
    for place in range(min(max_nfe, canvas.ids.shape[1])):
        hidden, cache = denoiser.encode(following, cache)
        logits = denoiser.logits(hidden)
        tokens, confidence = choose(canvas, logits, temperature, generators)
        here = torch.zeros_like(canvas.ids, dtype=torch.bool)
        here[:, place] = True
        before, canvas = canvas, canvas.commit(tokens.expand_as(canvas.ids), here & canvas.open)
        committed = before.ids != canvas.ids
        forced = torch.zeros_like(canvas.ended, dtype=torch.bool)
        yield Step(canvas, committed, torch.where(committed, confidence, 0.0), forced)
        if not canvas.open.any():
            return
        following = tokens.tolist()

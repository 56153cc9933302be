"""Which open positions of a canvas become tokens in a step.

A rule is a pure function of what the model predicts there. It commits at least one open position
of each row that has one, so that denoising terminates. The rule here won our measurements;
`benchmarks/rules.py` has the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from talaria.coder.backbone import Array, Candidates

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Prediction:
    """What the model predicts for the open positions of a canvas; elsewhere everything is 0.

    open         [batch, block]; the positions that were evaluated
    tokens       [batch, block]; the token chosen at each
    probability  [batch, block]; of that token
    ending       [batch, block]; the probability of `<eom>`, 0 where it is no candidate
    parts        pairs of [batch, block] and the candidates at these positions; together, `open`
    chained      whether each token was chosen given those before it
    """

    open: Bool[Array, "batch block"]
    tokens: Int[Array, "batch block"]
    probability: Float[Array, "batch block"]
    ending: Float[Array, "batch block"]
    parts: tuple[tuple[Bool[Array, "batch block"], Candidates], ...] = ()
    chained: bool = False

    @classmethod
    def nothing(cls, shape: tuple[int, ...], chained: bool = False) -> Prediction:
        """A prediction for no position, of this [batch, block]."""
        zeros = np.zeros(shape, np.float32)
        return cls(np.zeros(shape, bool), np.zeros(shape, np.int64), zeros, zeros, (), chained)

    def __or__(self, other: Prediction) -> Prediction:
        """Both predictions, which are for different positions."""
        return Prediction(
            self.open | other.open,
            self.tokens + other.tokens,
            self.probability + other.probability,
            self.ending + other.ending,
            self.parts + other.parts,
            self.chained,
        )

    @cached_property
    def confidence(self) -> Float[Array, "batch block"]:
        """How likely it is that the middle reaches a position and has the chosen token there.

        Chained: the probability that all tokens up to this one are right, given the first, which
        is committed anyway. Otherwise the token's probability times that of no `<eom>` before it:
        nothing after the end is read, so a confident token after a likely end is worth nothing.
        """
        if self.chained:
            factors = np.where(self.open & ~self.leftmost, self.probability, 1)
            product: Array = np.cumprod(factors, axis=1, dtype=np.float32) * self.open
            return product
        reached = np.cumprod(1 - self.ending, axis=1)
        before = np.concatenate((np.ones_like(reached[:, :1]), reached[:, :-1]), axis=1)
        found: Array = self.probability * before
        return found

    @cached_property
    def leftmost(self) -> Bool[Array, "batch block"]:
        """The first open position of each row that has one."""
        first: Array = self.open & (np.cumsum(self.open, axis=1) == 1)
        return first


Rule = Callable[[Prediction], "Bool[Array, 'batch block']"]


def confidence_threshold(threshold: float) -> Rule:
    """Commit every token of at least this confidence, as Fast-dLLM does (arXiv 2505.22618).

    1 commits about one token a step; lower thresholds commit more and risk more.
    """

    def rule(prediction: Prediction) -> Bool[Array, "batch block"]:
        sure: Array = prediction.open & (prediction.confidence >= threshold)
        return sure | prediction.leftmost

    return rule

"""Rules that say which open positions of a canvas become tokens in a step.

A rule is a pure function of what the denoiser predicts there. Every rule commits at
least one open position of each row that has one, so that denoising ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Prediction:
    """What the denoiser predicts for the open positions of a canvas; other positions are 0.

    open         [batch, block]; those that it was asked about
    tokens       [batch, block]; the token chosen at each
    probability  [batch, block]; that of the token
    ending       [batch, block]; the probability of `<eom>`
    parts        each: where, [batch, block], and the probabilities of every token there,
                 [positions, vocab]; together they are what is open
    chained      whether each is given the tokens chosen before it
    """

    open: Bool[Tensor, "batch block"]
    tokens: Int[Tensor, "batch block"]
    probability: Float[Tensor, "batch block"]
    ending: Float[Tensor, "batch block"]
    parts: tuple[tuple[Bool[Tensor, "batch block"], Float[Tensor, "positions vocab"]], ...]
    chained: bool = False

    def __or__(self, other: Prediction) -> Prediction:
        """What both predict, each for other positions."""
        return Prediction(
            self.open | other.open,
            self.tokens + other.tokens,
            self.probability + other.probability,
            self.ending + other.ending,
            self.parts + other.parts,
            self.chained,
        )

    @cached_property
    def entropy(self) -> Float[Tensor, "batch block"]:
        """Of the prediction at each open position, in nats."""
        entropy = torch.zeros_like(self.probability)
        for where, probabilities in self.parts:
            entropy = entropy.masked_scatter(where, torch.special.entr(probabilities).sum(-1))
        return entropy

    @cached_property
    def confidence(self) -> Float[Tensor, "batch block"]:
        """How likely it is that the middle gets as far and has the chosen token there.

        If they are chained, given the first, which is chosen anyhow: that all after it, up
        to this one, are right. Else each is by itself; but what stands behind the end is
        never read, so a sure token behind a likely end is not worth a commitment: the
        probability counts times that of no end before.
        """
        if self.chained:
            after = self.open & ~self.leftmost
            return self.probability.masked_fill(~after, 1).cumprod(1) * self.open
        going = (1 - self.ending).cumprod(1)
        return self.probability * torch.cat((torch.ones_like(going[:, :1]), going[:, :-1]), 1)

    @property
    def leftmost(self) -> Bool[Tensor, "batch block"]:
        """The first open position of each row that has one."""
        return self.open & (self.open.cumsum(1) == 1)


Rule = Callable[[Prediction], "Bool[Tensor, 'batch block']"]


def confidence_threshold(threshold: float) -> Rule:
    """Commit what has at least this confidence.

    The parallel rule of Fast-dLLM (arXiv 2505.22618). A threshold of 1 commits
    about one token a step; lower ones commit more and risk more.
    """

    def rule(prediction: Prediction) -> Bool[Tensor, "batch block"]:
        sure = prediction.open & (prediction.confidence >= threshold)
        return sure | prediction.leftmost

    return rule


def confidence_factor(factor: float) -> Rule:
    """Commit the n surest for the largest n with (n + 1)(1 - confidence of the n-th) < factor.

    Also of Fast-dLLM: the more tokens a step commits, the surer each must be, for then
    they are what greedy decoding of one at a time would give. 0 commits one a step.
    """

    def rule(prediction: Prediction) -> Bool[Tensor, "batch block"]:
        rank, confidence = surest(prediction)
        few = (rank + 2) * (1 - confidence) < factor
        # The condition holds for n if it holds for the n-th in the order of confidence.
        most = torch.where(few & prediction.open, rank + 1, 0).amax(1, keepdim=True)
        return (prediction.open & (rank < most)) | prediction.leftmost

    return rule


def entropy_bound(bound: float) -> Rule:
    """Commit the surest as long as their entropies, but for the largest, sum to at most `bound`.

    The rule of EB-Sampler (arXiv 2505.24857): that sum bounds, in nats, how far the
    tokens' joint distribution is from their product. 0 commits what has no doubt.
    """

    def rule(prediction: Prediction) -> Bool[Tensor, "batch block"]:
        rank, _ = surest(prediction)
        order = rank.argsort(1)
        entropy = prediction.entropy.gather(1, order)
        excess = entropy.cumsum(1) - entropy.cummax(1).values
        within = (excess <= bound).int().cummin(1).values.bool()
        chosen = torch.zeros_like(within).scatter(1, order, within)
        return (prediction.open & chosen) | prediction.leftmost

    return rule


def top_k(k: int) -> Rule:
    """Commit the k surest of those that a step looks at, as LLaDA does (arXiv 2502.09992)."""

    def rule(prediction: Prediction) -> Bool[Tensor, "batch block"]:
        rank, _ = surest(prediction)
        return prediction.open & (rank < k)

    return rule


def surest(
    prediction: Prediction,
) -> tuple[Int[Tensor, "batch block"], Float[Tensor, "batch block"]]:
    """Each position's rank by confidence in its row, 0 the surest, open ones first; and that."""
    confidence = prediction.confidence.masked_fill(~prediction.open, -1.0)
    order = confidence.argsort(dim=1, descending=True, stable=True)
    return order.argsort(1), confidence

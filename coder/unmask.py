"""Rules that say which masked positions of a canvas become tokens in a step.

A rule is a pure function of how sure the denoiser is: from the confidence of
each position, and whether it is still masked, to the positions to commit. Every
rule commits at least one masked position of each row that has one, so that
denoising ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Rule = Callable[["Float[Tensor, 'batch block']", "Bool[Tensor, 'batch block']"], Tensor]


def confidence_threshold(threshold: float) -> Rule:
    """Commit what the denoiser gives at least `threshold` probability, or else the surest.

    The parallel rule of Fast-dLLM (arXiv 2505.22618). A threshold of 1 commits
    about one token a step; lower ones commit more and risk more.
    """

    def rule(
        confidence: Float[Tensor, "batch block"], masked: Bool[Tensor, "batch block"]
    ) -> Bool[Tensor, "batch block"]:
        confidence = confidence.masked_fill(~masked, -1.0)
        surest = torch.zeros_like(masked).scatter(1, confidence.argmax(1, keepdim=True), True)
        return masked & ((confidence >= threshold) | surest)

    return rule


def everything(
    confidence: Float[Tensor, "batch block"], masked: Bool[Tensor, "batch block"]
) -> Bool[Tensor, "batch block"]:
    """Commit all that is masked: the last step of a budget."""
    return masked

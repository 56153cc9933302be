"""The recipe: every setting that, with corpus and tokenizer, determines a run's result."""

from __future__ import annotations

import math
from dataclasses import dataclass

from talaria.coder.errors import UsageError
from talaria.coder.families.talaria import TransformerConfig
from talaria.finetune.samples import SPANS


@dataclass(frozen=True)
class Recipe:
    """Model shape, objective and schedule of a run.

    rows                 sequences per optimiser step
    canvas_tokens        noised positions beside each row in the joint phase
    max_middle           longest middle, in tokens
    middle_weight        loss weight of next tokens in a middle, relative to all others
    bound_weight         weight of the canvas loss, relative to the next-token loss
    chain_layers         layers of the chain; 0 trains a model without one
    chain_weight         weight of the chain loss, relative to the next-token loss
    suffix_share         fraction of canvases masked from some token on, which train only the
                         chain; rounded so that at least one canvas is left for the bound
    end_share            fraction of these canvases whose `<eom>` stays visible
    chain_alone          1 trains only the chain and freezes all other weights, so that the
                         outputs of other decoding modes stay the same
    spans                how often each kind of middle is chosen; the rest is plain text
    next_token_share     fraction of the budget for the next-token loss alone
    growth_share         fraction of the joint phase in which canvases grow to full length
    learning_rate        peak rate of the matrices (Muon)
    embedding_learning_rate  peak rate of the embedding (AdamW)
    warmup, decay_from   fractions of the budget: the rate rises linearly until the first and
                         falls linearly to zero from the second
    average_from         fraction of the budget from which weights are averaged
    """

    layers: int = 6
    width: int = 256
    heads: int = 4
    context_length: int = 512
    block_length: int = 32
    rows: int = 16
    canvas_tokens: int = 256
    max_middle: int = 128
    middle_weight: float = 4.0
    bound_weight: float = 1.0
    chain_layers: int = 1
    chain_weight: float = 1.0
    suffix_share: float = 0.6
    end_share: float = 0.1
    chain_alone: int = 0
    spans: str = ",".join(f"{kind}={share}" for kind, share in SPANS.items())
    next_token_share: float = 0.3
    growth_share: float = 0.3
    learning_rate: float = 0.01
    embedding_learning_rate: float = 0.003
    weight_decay: float = 0.05
    warmup: float = 0.02
    decay_from: float = 0.4
    average_from: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "context_length", "block_length"):
            if getattr(self, name) < 1:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; it must be 1 or more")
        for name in (
            *("rows", "canvas_tokens", "max_middle", "middle_weight", "bound_weight"),
            *("chain_weight", "learning_rate", "embedding_learning_rate"),
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; it must be above 0")
        for name in (
            *("suffix_share", "end_share", "next_token_share", "growth_share"),
            *("warmup", "decay_from", "average_from"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"{flag(name)} is {getattr(self, name)}; it must lie between 0 and 1"
                )
        if self.chain_alone not in (0, 1) or self.chain_alone > self.chain_layers:
            raise UsageError(
                f"--chain-alone is {self.chain_alone} with --chain-layers {self.chain_layers}; "
                "it must be 0, or 1 for a model with a chain"
            )
        if self.suffix_share == 1 and not self.chain_alone:
            raise UsageError(
                "--suffix-share is 1, which leaves no canvases for the bound; it must be below 1 "
                "unless --chain-alone is 1"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"--weight-decay is {self.weight_decay}; it must be 0 or more")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed is {self.seed}; it must lie between 0 and 2**63 - 1")
        if self.canvas_tokens % self.block_length:
            raise UsageError(
                f"--canvas-tokens {self.canvas_tokens} must be a multiple of "
                f"--block-length {self.block_length}"
            )
        self.span_shares()
        self.shape(vocab_size=1)  # validity does not depend on the tokenizer

    def span_shares(self) -> dict[str, float]:
        """The share of each kind of middle, parsed from `spans`."""
        try:
            named = (part.split("=") for part in self.spans.split(",") if part)
            shares = {kind: float(share) for kind, share in named}
        except ValueError:
            shares = {"": 0.0}
        if not shares.keys() <= SPANS.keys() or min(shares.values(), default=0) < 0:
            raise UsageError(
                f"--spans is {self.spans!r}; give kind=share,… with kinds {', '.join(SPANS)}"
            )
        if sum(shares.values()) > 1 + 1e-9:
            raise UsageError(f"--spans is {self.spans!r}; the shares must add up to at most 1")
        return shares

    def shape(self, vocab_size: int) -> TransformerConfig:
        """The denoiser's configuration; UsageError if it is invalid."""
        try:
            return TransformerConfig(
                vocab_size,
                self.layers,
                self.width,
                self.heads,
                self.context_length,
                self.block_length,
                chain_layers=self.chain_layers,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error

    def rate(self, progress: float) -> float:
        """The learning rate, relative to its peak, at `progress`, a fraction of the budget."""
        rising = (progress + 1e-3) / max(self.warmup, 1e-3)
        falling = (1 - progress) / max(1 - self.decay_from, 1e-3)
        return max(0.0, min(1.0, rising, falling))

    def canvas_length(self, progress: float) -> int:
        """The canvas length at `progress`; 0 while only the next-token loss is trained.

        A chain trained alone always gets full canvases, since it has no other loss.
        """
        if self.chain_alone:
            return self.block_length
        if progress < self.next_token_share:
            return 0
        joint = (progress - self.next_token_share) / max(1 - self.next_token_share, 1e-9)
        if joint >= self.growth_share or self.block_length == 1:
            return self.block_length
        doublings = math.log2(self.block_length)
        return int(2 ** math.floor(joint / self.growth_share * doublings))


def flag(name: str) -> str:
    """The command line flag of a setting."""
    return f"--{name.replace('_', '-')}"

"""Training batches and losses that adapt a causal model to canvases.

A row is what the decoder reads: suffix, prefix, middle and its end, in the model's own layout. It
is read once, causally. A canvas may begin at any anchor after the prefix's beginning, as if a
middle began there: it sees the row's tokens before the anchor, with their causal states, and itself
in both directions. States are shifted, as in `Backbone.denoise`: the state before the anchor
predicts the canvas's first token, that of position j predicts the token at j + 1. Positions after
the end of the row are masks without a target, as in decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talaria.coder.families.qwen2_torch import Qwen2
from talaria.coder.layout import Layout
from talaria.finetune.samples import SPANS, choose_span

if TYPE_CHECKING:
    from jaxtyping import Float

ATTEMPTS = 50  # places to try for a span of a suitable length
WINDOW = 3_000  # characters of a file from which a span is drawn
CHARACTERS = 12  # characters to encode per token wanted; the rest is cut
IGNORED = -100  # the target of a position without a loss
ALL_MASKED = 0.6  # fraction of canvases that consist of masks only


@dataclass(frozen=True)
class HoleRow:
    """A hole and its middle as tokens, cut as the decoder does it.

    ids     context, middle and `<eom>`
    prefix  where the prefix begins
    middle  where the middle begins
    """

    ids: list[int]
    prefix: int
    middle: int


@dataclass(frozen=True)
class CanvasBatch:
    """Rows and their canvases as arrays; all of them int64 or bool.

    ids        [rows, length + canvases × block]; clean tokens, then canvases
    positions  the same shape
    visible    [rows, 1, total, total]; who sees whom
    targets    [rows, total]; the token that the state there predicts, or IGNORED
    places     [rows, total]; number of a position in its canvas, -1 for clean tokens
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    targets: Tensor
    places: Tensor


class HoleRows:
    """Rows made of texts: `rows[i]` depends only on the arguments and i."""

    def __init__(
        self, texts: Sequence[str], layout: Layout, eom: int, length: int, longest: int, seed: int
    ) -> None:
        """Rows of at most `length` tokens, whose middles have at most `longest`."""
        self.texts, self.layout, self.eom = texts, layout, eom
        self.length, self.longest, self.seed = length, longest, seed

    def __getitem__(self, index: int) -> HoleRow:
        rng = np.random.default_rng((self.seed, 1, index))
        for _ in range(ATTEMPTS):
            text = self.texts[int(rng.integers(len(self.texts)))]
            if row := self.drawn(text, rng):
                return row
        raise ValueError(f"no middle of at most {self.longest} tokens in {ATTEMPTS} places")

    def drawn(self, text: str, rng: np.random.Generator) -> HoleRow | None:
        """Draw a hole in a text; None if the place drawn has none of a suitable length."""
        shares = np.array([*SPANS.values()])
        kind = [*SPANS][int(rng.choice(len(SPANS), p=shares / shares.sum()))]
        start = int(rng.integers(max(1, len(text) - WINDOW // 2)))
        span = choose_span(text[start : start + WINDOW], kind, rng)
        if span is None:
            return None
        tokenizer = self.layout.tokenizer
        begin, end = start + span[0], start + span[1]
        begin -= len(tokenizer.last_token(text[:begin]))
        middle = [*tokenizer.encode(text[begin:end]), self.eom]
        if not 1 < len(middle) <= self.longest:
            return None
        room = self.length - len(middle) - len(self.layout.arrange([], []))
        # The suffix is empty, as at the end of a file, short, or up to 40 % of the room.
        drawn = rng.random()
        share = 0 if drawn < 0.2 else rng.uniform(0, 0.1 if drawn < 0.4 else 0.4)
        keep = int(room * share)
        suffix = tokenizer.encode(text[end : end + keep * CHARACTERS])[:keep]
        keep = room - len(suffix)
        before = tokenizer.encode(text[max(0, begin - keep * CHARACTERS) : begin])
        prefix = before[max(0, len(before) - keep) :]
        context = self.layout.arrange(prefix, suffix)
        return HoleRow(context + middle, len(context) - len(prefix), len(context))


def draw_batch(
    rows: Sequence[HoleRow],
    mask: int,
    canvases: int,
    block: int,
    rng: np.random.Generator,
    at_middle: float = 0.5,
) -> CanvasBatch:
    """The rows with `canvases` canvases of `block` positions in each.

    An anchor lies in the middle with probability `at_middle`, else anywhere after the prefix's
    beginning. Only middles and their ends are next-token targets.
    """
    length = max(len(row.ids) for row in rows)
    total = length + canvases * block
    shape = len(rows), total
    ids = np.full(shape, mask)
    positions = np.zeros(shape, np.int64)
    targets = np.full(shape, IGNORED)
    places = np.full(shape, -1)
    visible = np.zeros((len(rows), 1, total, total), bool)
    for number, row in enumerate(rows):
        size = len(row.ids)
        tokens = np.array(row.ids)
        ids[number, :size] = tokens
        positions[number, :length] = np.arange(length)
        targets[number, row.middle - 1 : size - 1] = tokens[row.middle :]
        visible[number, 0, :length, :length] = np.tri(length, dtype=bool)
        for canvas in range(canvases):
            low = row.middle if rng.random() < at_middle else max(1, row.prefix)
            anchor = int(rng.integers(low, size))
            own = slice(length + canvas * block, length + (canvas + 1) * block)
            clean = tokens[anchor : anchor + block]
            level = 1.0 if rng.random() < ALL_MASKED else 1 - rng.random()
            masked = rng.random(block) < level
            known = ~masked[: len(clean)]
            ids[number, own][: len(clean)][known] = clean[known]
            positions[number, own] = anchor + np.arange(block)
            places[number, own] = np.arange(block)
            asked = masked[1 : len(clean)]
            found = np.where(asked, clean[1:], IGNORED)
            targets[number, own.start : own.start + len(found)] = found
            visible[number, 0, own, :anchor] = True
            visible[number, 0, own, own] = True
    arrays = (ids, positions, visible, targets, places)
    return CanvasBatch(*(torch.from_numpy(array) for array in arrays))


class Adaptation(nn.Module):
    """A decoder with low-rank updates, an embedding for the mask, and the losses of a batch."""

    def __init__(self, decoder: Qwen2, mask: int, decay: float = 0.8) -> None:
        """`decay` is the weight of each place of a canvas relative to the place before it."""
        super().__init__()
        self.decoder, self.mask, self.decay = decoder, mask, decay
        start = decoder.token_embd.weight[mask].detach().clone().float()
        self.mask_embedding = nn.Parameter(start)

    def forward(self, batch: CanvasBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Sums: weighted canvas loss, its weights; next-token loss divided by its tokens."""
        states = self.states(batch)
        where = batch.targets != IGNORED
        losses = F.cross_entropy(
            self.decoder.logits(states[where]), batch.targets[where], reduction="none"
        )
        places = batch.places[where]
        weights = torch.where(places < 0, 0.0, self.decay ** places.clamp(min=0).float())
        following = losses[places < 0]
        return (losses * weights).sum(), weights.sum(), following.mean()

    def states(self, batch: CanvasBatch) -> Float[Tensor, "rows total width"]:
        """States of all clean tokens and canvases, in one pass."""
        embedded = self.decoder.token_embd(batch.ids)
        masked = (batch.ids == self.mask)[..., None]
        x = torch.where(masked, self.mask_embedding.to(embedded.dtype), embedded)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            del layer
            return F.scaled_dot_product_attention(q, k, v, batch.visible, enable_gqa=True)

        return self.decoder.run_embedded(x, batch.positions, attend)


@torch.no_grad()
def matched_drafts(adaptation: Adaptation, batch: CanvasBatch) -> Tensor:
    """Tokens per pass against the true text, for each canvas that consists of masks only.

    One for the canvas's first token, which the causal state predicts, and one for each correct
    prediction after it, up to the first wrong one.
    """
    states = adaptation.states(batch)
    block = int(batch.places.max()) + 1
    of_canvas = batch.places >= 0
    rows = len(states)
    predicted = torch.full_like(batch.targets, IGNORED - 1)
    asked = of_canvas & (batch.targets != IGNORED)
    predicted[asked] = adaptation.decoder.logits(states[asked]).argmax(-1)
    right = (predicted == batch.targets)[of_canvas].view(rows, -1, block)
    blank = (batch.ids == adaptation.mask)[of_canvas].view(rows, -1, block).all(-1)
    return 1 + right.int().cumprod(-1).sum(-1)[blank].float()

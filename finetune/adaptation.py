"""Training rows and losses that adapt a causal model to canvases.

A row is what the decoder reads: suffix, prefix, middle and its end, in the model's own layout. It
is read once, causally. A canvas may begin at any anchor after the prefix's beginning, as if a
middle began there: masks that see the row's tokens before the anchor, with their causal states,
and the masks before them. States are shifted, as in `Backbone.denoise`: the state before the anchor
predicts the canvas's first token, that of the mask there the second one, and so on.

Within a canvas, attention is causal. So a state does not depend on how many masks follow, tokens
that were committed are read exactly as a causal model reads them, and a canvas some of whose tokens
are known is one that begins later: canvases of masks alone teach everything.

Masks are predicted at once, none given the others. The chain, a small network behind them, says
what follows a mask once the token in its own place is chosen. It learns from finished states, so
the decoder's weights do not depend on it.

Only the end of the context, the middle and the canvases are read with gradients. The rest of the
context is most of a row and has no loss; reading it costs a third of what it would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from talaria.coder.backbone import Marks
from talaria.coder.families.qwen2 import Qwen2Config
from talaria.coder.families.qwen2_torch import Qwen2
from talaria.coder.layout import Layout
from talaria.finetune.samples import SPANS, choose_span

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

ATTEMPTS = 50  # places to try for a span of a suitable length
WINDOW = 3_000  # characters of a file from which a span is drawn
CHARACTERS = 12  # characters to encode per token wanted; the rest is cut
IGNORED = -100  # the target of a mask behind the end of the row
EPSILON = 1e-6  # of the chain's norms, and of probabilities that are almost 1
AMONG = 16  # likeliest tokens of a mask that the chain ranks anew
REACH = 64  # tokens of the context, its last ones, that are read with gradients


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
class CanvasRow:
    """A row and its canvases, as int64 arrays.

    ids      [length]; clean tokens
    read     how many of them, the first ones, are read without gradients
    middle   where the middle begins
    anchors  [canvases]; where canvases begin, in ascending order
    targets  [canvases, masks]; the token that each mask predicts, or IGNORED
    """

    ids: Int[Tensor, " length"]
    read: int
    middle: int
    anchors: Int[Tensor, " canvases"]
    targets: Int[Tensor, "canvases masks"]


@dataclass(frozen=True)
class CanvasBatch:
    """Rows that are computed in one pass, shorter ones padded.

    ids      [rows, longest]
    lengths  [rows]
    read     as in `CanvasRow`, the least of all rows: more of the others has gradients
    middles  [rows]
    anchors  [rows, canvases]
    targets  [rows, canvases, masks]; IGNORED for canvases that only pad
    """

    ids: Int[Tensor, "rows longest"]
    lengths: Int[Tensor, " rows"]
    read: int
    middles: Int[Tensor, " rows"]
    anchors: Int[Tensor, "rows canvases"]
    targets: Int[Tensor, "rows canvases masks"]

    @classmethod
    def of(cls, rows: Sequence[CanvasRow], device: torch.device | None = None) -> CanvasBatch:
        """The batch on a device; by default, where the rows are."""
        device = device or rows[0].ids.device

        def padded(tensors: Sequence[Tensor], value: int = 0) -> Tensor:
            return pad_sequence(list(tensors), batch_first=True, padding_value=value).to(device)

        return cls(
            padded([row.ids for row in rows]),
            torch.tensor([len(row.ids) for row in rows], device=device),
            min(row.read for row in rows),
            torch.tensor([row.middle for row in rows], device=device),
            padded([row.anchors for row in rows]),
            padded([row.targets for row in rows], IGNORED),
        )

    @property
    def places(self) -> Int[Tensor, "rows canvases masks"]:
        """Where each mask stands in its row."""
        masks = torch.arange(self.targets.shape[2], device=self.anchors.device)
        return self.anchors[..., None] + masks


@dataclass(frozen=True)
class Losses:
    """What a batch gives, each the mean over rows of the mean over a row's tokens, in nats.

    canvas      weighted over the places of a canvas
    chain       of the same tokens, given the true token before each
    next_token  of the middle and its `<eom>`
    ending      of whether the middle ends, at each of its places: their sum, not their mean
    places      [masks]; the canvas loss of each place, the mean over all of them
    """

    canvas: Tensor
    chain: Tensor
    next_token: Tensor
    ending: Tensor
    places: Float[Tensor, " masks"]


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


def draw_canvases(
    row: HoleRow, canvases: int, masks: int, rng: np.random.Generator, reach: int = REACH
) -> CanvasRow:
    """The row with up to `canvases` canvases of `masks` masks in each.

    They begin at different anchors: first those in the middle, as many as fit, then others drawn
    from the prefix.
    """
    ids = np.array(row.ids, np.int64)
    within = rng.permutation(np.arange(row.middle, len(ids) - 1))
    before = rng.permutation(np.arange(max(1, row.prefix), row.middle))
    anchors = np.sort(np.concatenate((within, before))[:canvases])
    predicted = anchors[:, None] + np.arange(1, masks + 1)
    beyond = np.pad(ids, (0, masks), constant_values=IGNORED)
    read = max(0, row.middle - reach)
    arrays = (ids, anchors, beyond[predicted])
    ids_, anchors_, targets = (torch.from_numpy(array) for array in arrays)
    return CanvasRow(ids_, read, row.middle, anchors_, targets)


class Chain(nn.Module):
    """What a mask's state becomes once the token in its place is chosen; at first, what it was.

    A gated layer reads the state and the token's embedding, both normalised, as the sampler head
    of arXiv 2507.11851 does. `qwen2_onnx.Chain` computes the same in decoding.
    """

    def __init__(self, width: int, units: int) -> None:
        """`units` are those of the hidden layer."""
        super().__init__()
        self.state = nn.Linear(width, 2 * units, bias=False)
        self.token = nn.Linear(width, 2 * units, bias=False)
        self.out = nn.Linear(units, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """New states for states and embeddings of chosen tokens, both [..., width]."""
        of_state, of_token = (F.rms_norm(x, x.shape[-1:], eps=EPSILON) for x in (states, tokens))
        gate, up = (self.state(of_state) + self.token(of_token)).chunk(2, -1)
        new: Tensor = states + self.out(F.silu(gate) * up)
        return new


class Adaptation(nn.Module):
    """A decoder with low-rank updates, masks and their chain, and the losses of a row."""

    def __init__(
        self,
        decoder: Qwen2,
        marks: Marks,
        masks: int,
        units: int,
        decay: float = 0.6,
        soft: float = 0.5,
    ) -> None:
        """`masks` are those of a canvas; each weighs `decay` relative to the one before it.

        `soft` is the share of the model's own causal distribution, given the row's tokens, in the
        targets of the masks; the rest is the row's own token. `units` are those of the chain.
        """
        super().__init__()
        self.decoder, self.eom, self.decay, self.soft = decoder, marks.eom, decay, soft
        start = decoder.token_embd.weight[marks.mask].detach().clone().float()
        self.mask_embedding = nn.Parameter(start.repeat(masks, 1))
        self.chain = Chain(len(start), units).to(start.device)
        self.end_bias: Tensor  # added to the logit of `<eom>`; chosen, not trained
        self.register_buffer("end_bias", start.new_zeros(1))

    @property
    def masks(self) -> int:
        """Masks of a canvas."""
        return len(self.mask_embedding)

    def logits(self, states: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape vocab"]:
        """Logits of states, that of `<eom>` with its bias."""
        found = self.decoder.logits(states)
        if self.end_bias.any():
            found[..., self.eom] += self.end_bias
        return found

    def forward(self, batch: CanvasBatch) -> Losses:
        """The losses of a batch of rows."""
        clean, masks = self.states(batch)
        at = torch.arange(clean.shape[1], device=clean.device)
        of_middle = (at >= batch.middles[:, None] - 1) & (at < batch.lengths[:, None] - 1)
        of_row, follows = of_middle.nonzero()[:, 0], batch.ids[:, 1:][of_middle]
        next_logs = self.logits(clean[of_middle]).log_softmax(-1)
        missed = F.nll_loss(next_logs, follows, reduction="none")
        next_token = row_mean(missed, torch.ones_like(missed), of_row)
        ending = endings(next_logs[:, self.eom], follows == self.eom).sum() / len(batch.ids)
        asked = batch.targets != IGNORED
        row, _, place = asked.nonzero().T
        where = batch.places[asked]
        taught = None
        if self.soft:
            # Each mask is taught by the clean token that stands at its own position.
            with torch.no_grad():
                numbers, each = (row * clean.shape[1] + where).unique(return_inverse=True)
                taught = self.logits(clean.flatten(0, 1)[numbers]).softmax(-1)[each]

        def losses(states: Tensor) -> Tensor:
            logs = self.logits(states).log_softmax(-1)
            found = F.nll_loss(logs, batch.targets[asked], reduction="none")
            if taught is None:
                return found
            own: Tensor = -torch.linalg.vecdot(taught, logs)
            return (1 - self.soft) * found + self.soft * own

        of_masks = losses(masks[asked])
        chosen = self.decoder.token_embd(batch.ids[row, where])
        of_chain = losses(self.chain(masks[asked].detach(), chosen))
        weights = of_masks.new_tensor(self.decay) ** place
        by_place = of_masks.new_zeros(self.masks).index_add_(0, place, of_masks.detach())
        by_place = by_place / torch.bincount(place, minlength=self.masks).clamp(min=1)
        return Losses(
            row_mean(of_masks, weights, row),
            row_mean(of_chain, weights, row),
            next_token,
            ending,
            by_place,
        )

    def states(
        self, batch: CanvasBatch
    ) -> tuple[Float[Tensor, "rows clean width"], Float[Tensor, "rows canvases masks width"]]:
        """States of all clean tokens but the last of the longest row, and of the masks."""
        device, rows, end = batch.ids.device, len(batch.ids), batch.ids.shape[1] - 1
        embed = self.decoder.token_embd
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def read(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys.append(k)
            values.append(v)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if keys:
                k = torch.cat((keys[layer].detach(), k), 2)
                v = torch.cat((values[layer].detach(), v), 2)
            return F.scaled_dot_product_attention(q, k, v, visible, enable_gqa=True)

        at = torch.arange(end, device=device).expand(rows, end)
        context = self.mask_embedding.new_empty(rows, 0, self.mask_embedding.shape[1])
        if batch.read:
            with torch.no_grad():
                x = embed(batch.ids[:, : batch.read])
                context = self.decoder.run_embedded(x, at[:, : batch.read], read)
        visible = sights(batch, self.masks)
        blank = self.mask_embedding.repeat(batch.anchors.shape[1], 1).expand(rows, -1, -1)
        x = torch.cat((embed(batch.ids[:, batch.read : -1]), blank), 1)
        positions = torch.cat((at[:, batch.read :], batch.places.flatten(1)), 1)
        states = self.decoder.run_embedded(x, positions, attend)
        tail = end - batch.read
        masks = states[:, tail:].view(*batch.places.shape, states.shape[-1])
        return torch.cat((context, states[:, :tail]), 1), masks


def endings(logs: Float[Tensor, " n"], ends: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The loss of deciding whether a middle ends, given the log-probability that it does."""
    goes_on = torch.log1p(-logs.exp().clamp(max=1 - EPSILON))
    return -torch.where(ends, logs, goes_on)


def row_mean(
    values: Float[Tensor, " n"], weights: Float[Tensor, " n"], row: Int[Tensor, " n"]
) -> Tensor:
    """The mean over rows of their weighted means, given the row of each value."""
    rows = int(row.max()) + 1 if len(row) else 1
    totals = weights.new_zeros(rows).index_add_(0, row, weights).clamp(min=1)
    return (values * weights / totals[row]).sum() / rows


def sights(batch: CanvasBatch, masks: int) -> Bool[Tensor, "rows 1 queries keys"]:
    """Who sees whom: queries are all that is read with gradients, keys all that is read."""
    device, rows, end = batch.ids.device, len(batch.ids), batch.ids.shape[1] - 1
    canvases, tail = batch.anchors.shape[1], end - batch.read
    clean = torch.arange(end, device=device)
    own_place = (clean[batch.read :] + 1).expand(rows, tail)
    before = torch.cat((own_place, batch.anchors.repeat_interleave(masks, 1)), 1)
    of_clean = clean < before[..., None]
    number = torch.arange(canvases * masks, device=device)
    own = (number // masks == number[:, None] // masks) & (number <= number[:, None])
    of_masks = torch.cat((own.new_zeros(tail, canvases * masks), own))
    return torch.cat((of_clean, of_masks.expand(rows, -1, -1)), 2)[:, None]


def operations(config: Qwen2Config, row: CanvasRow) -> float:
    """Floating-point operations of the matrix products of a row's pass, forward and backward.

    Attention counts pairs that see each other; products of low rank and the chain's own are not
    counted.
    """
    keys = config.kv_heads * config.size
    block = 2 * config.width * (config.width + keys) + 3 * config.width * config.hidden
    end = len(row.ids) - 1
    trained = end - row.read + row.targets.numel()
    pairs = end * (end - row.read) - (end - row.read) ** 2 / 2
    pairs += float(row.anchors.sum()) * row.targets.shape[1] + row.targets.numel()
    seen = 2 * config.layers * config.width
    head = config.vocab_size * config.width
    lossy = len(row.ids) - row.middle + 2 * int((row.targets != IGNORED).sum())
    context = row.read * config.layers * block + seen * row.read**2 / 2
    taught = end - int(row.anchors[0]) if len(row.anchors) else 0
    # A multiply-add is two operations. The backward pass costs as much as the forward where the
    # matrix is frozen, and twice as much in attention.
    once = context + taught * head
    return 2 * (once + 2 * (trained * config.layers * block + lossy * head) + 3 * seen * pairs)


@torch.no_grad()
def validated(adaptation: Adaptation, row: CanvasRow) -> dict[str, float]:
    """What the model does on a row: tokens a pass, and its losses of the middle, as in `Losses`.

    A pass gives one token, which the causal state predicts, and one for each mask up to the first
    wrong one: other than the row's (`tokens_per_pass`), or other than what the causal reading would
    write there (`tokens_per_pass_as_read`). `tokens_per_pass_chained` and
    `tokens_per_pass_chained_as_read` are these two where the chain ranks the likeliest tokens of
    each mask; the latter is one more than the sum of `accepted_1`, `accepted_2` and so on, how
    often the first mask, the first two, … are right.
    """
    batch = CanvasBatch.of([row], adaptation.mask_embedding.device)
    clean, masks = (states[0] for states in adaptation.states(batch))
    ids, targets, places = batch.ids[0], batch.targets[0], batch.places[0]
    logits, own = adaptation.logits(clean), adaptation.logits(masks)
    written = F.pad(logits.argmax(-1), (0, adaptation.masks), value=IGNORED)[places]
    tokens = F.pad(ids, (0, adaptation.masks))[places]
    linked = adaptation.logits(adaptation.chain(masks, adaptation.decoder.token_embd(tokens)))
    likeliest = own.topk(min(AMONG, own.shape[-1])).indices
    ranked = likeliest.gather(-1, linked.gather(-1, likeliest).argmax(-1, keepdim=True))[..., 0]

    def right(predicted: Tensor, wanted: Tensor) -> Tensor:
        """How often all masks up to each one are right, [masks]."""
        return (predicted == wanted).int().cumprod(-1).float().mean(0)

    accepted = right(ranked, written)
    following = logits[row.middle - 1 :].log_softmax(-1)
    stops = endings(following[:, adaptation.eom], ids[row.middle :] == adaptation.eom)
    found = {
        "tokens_per_pass": 1 + right(own.argmax(-1), targets).sum(),
        "tokens_per_pass_as_read": 1 + right(own.argmax(-1), written).sum(),
        "tokens_per_pass_chained": 1 + right(ranked, targets).sum(),
        "tokens_per_pass_chained_as_read": 1 + accepted.sum(),
        "next_token_loss": F.nll_loss(following, ids[row.middle :]),
        "ending": stops.sum(),
        **{f"accepted_{1 + place}": share for place, share in enumerate(accepted)},
    }
    return {name: float(each) for name, each in found.items()}

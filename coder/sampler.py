"""The heart: canvases are denoised step by step, or middles written token by token.

The rows of a batch go at their own pace. A row that has nothing open takes no
part in further evaluations, and none costs or changes what another one gets,
but for the last bits of a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from talaria.coder.canvas import Canvas
from talaria.coder.denoiser import Denoiser, KVCache, Layers
from talaria.coder.unmask import Prediction, Rule

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

DRAFTS = 4  # tokens that `verify` reads ahead, at most; docs/decoding.md has figures
COLD = 1e-6  # temperatures below it are 0: logits divided by them are no numbers


Banned = tuple[tuple[int, int], ...]  # positions, and a token that may not stand at each


@dataclass(frozen=True)
class Row:
    """What holds for one row of a batch.

    generator  its own source of chance
    max_nfe    evaluations that it may take, at least 1
    ends       whether it may draw `<eom>`; False where the length of its middle is given
    banned     what it may not say
    bound      tells of the first tokens of its canvas how many lie within a bound; None
               while it is not reached
    temperature  0 takes the likeliest token, others draw
    first      the tokens of which one must stand first; None: any
    """

    generator: torch.Generator
    max_nfe: int
    ends: bool = True
    banned: Banned = ()
    bound: Callable[[list[int]], int | None] | None = None
    temperature: float = 0.0
    first: Sequence[int] | None = None


@dataclass(frozen=True)
class Step:
    """What one evaluation of the denoiser did to the canvas.

    canvas      after the step
    committed   [batch, block]; which masks became tokens; none in a row that took no part
    confidence  [batch, block]; the probability of the token chosen at each open
                position, committed or not
    forced      [batch]; whether the end of the budget committed what the rule would not have
    """

    canvas: Canvas
    committed: Bool[Tensor, "batch block"]
    confidence: Float[Tensor, "batch block"]
    forced: Bool[Tensor, " batch"]

    @classmethod
    def taken_back(cls, canvas: Canvas) -> Step:
        """What came after this canvas is given up; it is as it was."""
        nothing = torch.zeros_like(canvas.open)
        return cls(canvas, nothing, nothing.float(), nothing[:, 0])

    def rows(self, index: slice) -> Step:
        """What it did to these rows."""
        return Step(
            self.canvas.rows(index),
            self.committed[index],
            self.confidence[index],
            self.forced[index],
        )


def predict(
    where: Bool[Tensor, "batch block"],
    logits: Float[Tensor, "positions vocab"],
    canvas: Canvas,
    rows: Sequence[Row],
) -> Prediction:
    """A token for each position at `where`, whose logits are given and used up.

    A row that is drawn is so with its own generator and does not depend on the rows
    beside it. Masks and the marks of the layout, whose ids lie above that of `<eom>`,
    are never chosen.
    """
    allow(where, logits, canvas, rows)
    hot = [row.temperature >= COLD for row in rows]
    if not any(hot):
        probabilities = logits.softmax(-1)
        chances, drawn = probabilities.max(-1)
    else:
        counts = where.sum(1)
        divisors = [row.temperature if warm else 1.0 for row, warm in zip(rows, hot, strict=True)]
        each = torch.tensor(divisors, device=logits.device).repeat_interleave(counts)
        probabilities = (logits / each[:, None]).softmax(-1)
        own = zip(probabilities.split_with_sizes(counts.tolist()), rows, hot, strict=True)
        drawn = torch.cat(
            [
                torch.multinomial(some, 1, generator=row.generator)
                if warm
                else some.argmax(1, True)
                for some, row, warm in own
            ]
        )
        chances, drawn = probabilities.gather(1, drawn).squeeze(1), drawn.squeeze(1)
    nowhere = torch.zeros_like(where, dtype=chances.dtype)
    return Prediction(
        where,
        torch.zeros_like(canvas.ids).masked_scatter(where, drawn),
        nowhere.masked_scatter(where, chances),
        nowhere.masked_scatter(where, probabilities[:, canvas.eom]),
        ((where, probabilities),),
    )


def chained(
    denoiser: Denoiser,
    hidden: Float[Tensor, "batch width size"],
    canvas: Canvas,
    where: Bool[Tensor, "batch block"],
    rows: Sequence[Row],
    rule: Rule,
    last: Bool[Tensor, " batch"],
) -> Prediction:
    """A token for the positions at `where` from left to right, in sight of those before it.

    As far as the rule takes them, and one further; in rows where this is the `last`
    evaluation, up to the end. To the first there is nothing to add: it is as the pass says.
    """
    first, width = int(where.int().argmax(1).amin()), hidden.shape[1]
    nowhere = torch.zeros(where.shape, device=hidden.device)
    none = torch.zeros_like(where)
    found = Prediction(none, torch.zeros_like(canvas.ids), nowhere, nowhere, (), True)
    before = F.pad(canvas.ids[:, :width], (1, 0), value=canvas.mask)
    going, begin = where.any(1), 0
    past: Layers = ()
    for place in range(first, width):
        here = none.clone()
        here[:, place] = where[:, place] & going
        if here.any():
            states = hidden[:, place]
            chosen = found.open.any(1)
            if (chosen & here[:, place]).any():
                new = slice(begin, place + 1)
                linked, past = denoiser.chain(hidden[:, new], before[:, new], past)
                states = torch.where(chosen[:, None], linked[:, -1], states)
                begin = place + 1
            found |= predict(here, denoiser.logits(states[here[:, place]]), canvas, rows)
            before[:, place + 1] = torch.where(
                here[:, place], found.tokens[:, place], before[:, place + 1]
            )
            taken = (rule(found)[:, place] | last) & (found.tokens[:, place] != canvas.eom)
            going = going & (taken | ~here[:, place])
            if not going.any():
                break
    return found


def allow(
    where: Bool[Tensor, "batch places"],
    logits: Float[Tensor, "positions vocab"],
    canvas: Canvas,
    rows: Sequence[Row],
) -> None:
    """Leave no chance to what is never chosen, in the logits of the places at `where`."""
    logits[:, canvas.mask] = -torch.inf
    logits[:, canvas.eom + 1 :] = -torch.inf
    if not all(row.ends for row in rows):
        bound = torch.tensor([not row.ends for row in rows], device=where.device)
        logits[bound[:, None].expand_as(where)[where], canvas.eom] = -torch.inf
    if any(row.banned or row.first is not None for row in rows):
        place = where.flatten().cumsum(0).view_as(where) - 1  # among those at `where`
        for number, row in enumerate(rows):
            if row.first is not None and where[number, 0]:
                leave_only(logits[place[number, 0]], row.first)
            for position, token in row.banned:
                if where[number, position]:
                    chances = logits[place[number, position]]
                    before = chances[token].item()
                    chances[token] = -torch.inf
                    if chances.max().isinf():  # nothing else may stand there
                        chances[token] = before


def leave_only(logits: Float[Tensor, " vocab"], tokens: Sequence[int]) -> None:
    """Leave no chance to any but these tokens, in the logits of a place."""
    kept = logits[tokens]
    logits.fill_(-torch.inf)
    logits[tokens] = kept


def denoise(
    denoiser: Denoiser,
    cache: KVCache,
    canvas: Canvas,
    rule: Rule,
    rows: Sequence[Row],
    lookahead: int | None = None,
) -> Iterator[Step]:
    """Commit the masks of each row, the last that its budget allows all at once.

    A step looks at so many positions from the first open one on; None, at the whole canvas.
    """
    index = torch.arange(len(rows), device=canvas.ids.device)
    for nfe in count(1):
        index, cache = narrow(index, cache, canvas.open.any(1))
        if not len(index):
            return
        part, going = canvas.rows(index), [rows[place] for place in index.tolist()]
        last = torch.tensor([nfe >= row.max_nfe for row in going], device=index.device)
        bound = torch.tensor([not row.ends for row in going], device=index.device)
        present = ahead(part, last | bound, lookahead)
        where = part.open & present
        width = int(present.sum(1).amax())
        hidden = denoiser.denoise(part.ids[:, :width], cache, present[:, :width])
        if denoiser.config.chain_layers:
            prediction = chained(denoiser, hidden, part, where, going, rule, last)
        else:
            logits = denoiser.logits(hidden[where[:, :width]])
            prediction = predict(where, logits, part, going)
        ruled = rule(prediction)
        committed = torch.where(last[:, None], prediction.open, ruled)
        after = part.commit(prediction.tokens, committed)
        after = bounded(after, going)
        step = step_of(canvas, index, after, prediction.probability, ruled)
        canvas = step.canvas
        yield step


def ahead(
    canvas: Canvas, whole: Bool[Tensor, " batch"], lookahead: int | None
) -> Bool[Tensor, "batch block"]:
    """The part of each row that a step is about: so many positions from the first open one on.

    And what stands before them. Of a row that is `whole`, all: what it must commit now,
    or how far it is to an end that is given, would not be seen otherwise.
    """
    place = torch.arange(canvas.ids.shape[1], device=canvas.ids.device)
    first = torch.where(canvas.open, place, len(place)).amin(1)
    reach = len(place) if lookahead is None else lookahead
    return (place < first[:, None] + reach) | whole[:, None]


def autoregress(
    denoiser: Denoiser,
    cache: KVCache,
    last: int,
    canvas: Canvas,
    rows: Sequence[Row],
) -> Iterator[Step]:
    """Fill the canvas from left to right, a token a step: the baseline on the same weights.

    The cache holds the contexts but for their last token, `last`, which the first step reads.
    """
    index = torch.arange(len(rows), device=canvas.ids.device)
    for place in range(canvas.ids.shape[1]):
        budget = torch.tensor([row.max_nfe > place for row in rows], device=index.device)
        index, cache = narrow(index, cache, canvas.open.any(1) & budget)
        if not len(index):
            return
        part, going = canvas.rows(index), [rows[place] for place in index.tolist()]
        following = part.ids[:, place - 1].tolist() if place else [last] * len(going)
        hidden, cache = denoiser.encode([[token] for token in following], cache)
        here = torch.zeros_like(part.ids, dtype=torch.bool)
        here[:, place] = True
        found = predict(here, denoiser.logits(hidden[:, 0]), part, going)
        after = bounded(part.commit(found.tokens, here), going)
        step = step_of(canvas, index, after, found.probability, here)
        canvas = step.canvas
        yield step


def verify(
    denoiser: Denoiser,
    cache: KVCache,
    contexts: Sequence[list[int]],
    canvas: Canvas,
    rows: Sequence[Row],
) -> Iterator[Step]:
    """What `autoregress` writes at temperature 0, in fewer evaluations.

    An evaluation reads the last token and, as drafts, what came after the last two tokens
    where they stood before (prompt lookup, as in LLMA, arXiv 2304.04487). The longest run of
    drafts that the reading itself would have written is kept, and the token that it puts
    after them. The cache holds the contexts but for their last token, which is a mark.
    """
    index = torch.arange(len(rows), device=canvas.ids.device)
    known = [context[:-1] for context in contexts]
    unread = [context[-1] for context in contexts]
    for nfe in count():
        budget = torch.tensor([row.max_nfe > nfe for row in rows], device=index.device)
        index, cache = narrow(index, cache, canvas.open.any(1) & budget)
        if not len(index):
            return
        numbers = index.tolist()
        part, going = canvas.rows(index), [rows[number] for number in numbers]
        drafts = [following(known[number], canvas.eom) for number in numbers]
        read = [[unread[n], *draft] for n, draft in zip(numbers, drafts, strict=True)]
        hidden, cache = denoiser.encode(read, cache)
        # What was read of token j says what stands at position `at[:, j]` of the canvas.
        each = torch.arange(hidden.shape[1], device=index.device)
        lengths = torch.tensor([len(tokens) for tokens in read], device=index.device)
        at = part.open.int().argmax(1, keepdim=True) + each
        beyond = (0, len(each))
        inside = F.pad(part.open, beyond).gather(1, at) & (each < lengths[:, None])
        where = spread(inside, at, part.open)
        found = predict(where, denoiser.logits(hidden[inside]), part, going)
        written = F.pad(found.tokens, beyond).gather(1, at).tolist()
        runs = [
            agreement(draft, own[: sum(within)])
            for draft, own, within in zip(drafts, written, inside.tolist(), strict=True)
        ]
        run = torch.tensor(runs, device=index.device)
        where = spread(inside & (each <= run[:, None]), at, part.open)
        after = bounded(part.commit(found.tokens, where), going)
        step = step_of(canvas, index, after, found.probability, where)
        canvas = step.canvas
        yield step
        cache = cache.without(lengths - 1 - run)
        for number, kept, own in zip(numbers, runs, written, strict=True):
            known[number] += own[: kept + 1]
            unread[number] = own[kept]


def following(known: Sequence[int], last: int) -> list[int]:
    """At most DRAFTS tokens, up to the id `last`, that came after the last two where they stood.

    The latest such place counts; none, no tokens.
    """
    for place in range(len(known) - 3, -1, -1):
        if known[place] == known[-2] and known[place + 1] == known[-1]:
            found = known[place + 2 : place + 2 + DRAFTS]
            marks = (number for number, token in enumerate(found) if token > last)
            return list(found[: next(marks, len(found))])
    return []


def agreement(drafts: Sequence[int], written: Sequence[int]) -> int:
    """How many drafts, from the first on, are what was written; the last written follows them."""
    pairs = zip(drafts, written[:-1], strict=False)
    return next(
        (number for number, (a, b) in enumerate(pairs) if a != b),
        min(len(drafts), len(written) - 1),
    )


def spread(
    marks: Bool[Tensor, "rows places"], at: Int[Tensor, "rows places"], like: Tensor
) -> Bool[Tensor, "rows block"]:
    """Marks put at their positions of a canvas; those beyond its end are dropped."""
    width = like.shape[1]
    wide = torch.zeros(len(like), width + at.shape[1], dtype=torch.bool, device=like.device)
    return wide.scatter(1, at, marks)[:, :width]


def bounded(canvas: Canvas, rows: Sequence[Row]) -> Canvas:
    """The canvas with an `<eom>` where the tokens of a row have reached its bound."""
    for place, row in enumerate(rows):
        within = row.bound(canvas.middle(place)) if row.bound else None
        if within is not None and within < int(canvas.ended[place]):
            ids = canvas.ids[place].clone()
            ids[within], ids[within + 1 :] = canvas.eom, canvas.mask
            canvas = canvas.with_row(place, ids)
    return canvas


def narrow(
    index: Int[Tensor, " rows"], cache: KVCache, going: Bool[Tensor, " batch"]
) -> tuple[Int[Tensor, " fewer"], KVCache]:
    """Of the rows in `index`, whose cache is given, those that are `going`, and theirs."""
    kept = going[index]
    if kept.all():
        return index, cache
    return index[kept], cache.rows(kept.nonzero().flatten())


def step_of(
    canvas: Canvas,
    index: Int[Tensor, " rows"],
    after: Canvas,
    confidence: Float[Tensor, "rows block"],
    ruled: Bool[Tensor, "rows block"],
) -> Step:
    """The step that made the rows in `index` what they are `after`; others are as they were."""
    before = canvas.rows(index)
    committed = (before.ids == canvas.mask) & (after.ids != canvas.mask)
    batch = torch.zeros_like(canvas.open)
    return Step(
        replace(canvas, ids=canvas.ids.index_copy(0, index, after.ids)),
        batch.index_copy(0, index, committed),
        batch.float().index_copy(0, index, confidence),
        batch[:, 0].index_copy(0, index, (committed & ~ruled).any(1)),
    )

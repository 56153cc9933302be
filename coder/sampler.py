"""Denoise canvases step by step; what that shares with decoding from left to right.

The rows of a batch proceed independently: a finished row takes part in no further evaluation, and
no row affects another beyond the rounding of a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from talaria.coder.backbone import (
    Array,
    Backbone,
    Candidates,
    Constraint,
    KVCache,
    Reading,
    States,
)
from talaria.coder.canvas import Canvas
from talaria.coder.unmask import Prediction, Rule

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Kept = TypeVar("Kept", KVCache, Reading)

COLD = 1e-6  # temperatures below it count as 0: logits divided by them overflow
DRAWN_FROM = 64  # candidates that a temperature above 0 draws from
ENDING_AMONG = 16  # candidates among which `<eom>` is looked for where positions are independent

Banned = tuple[tuple[int, int], ...]  # positions, and a token that may not stand at each


def at_any(tokens: Sequence[int]) -> bool:
    """A middle may end anywhere."""
    return False


@dataclass(frozen=True)
class Row:
    """What one row of a batch may do.

    generator    its own source of randomness
    max_nfe      evaluations that it may take, at least 1
    ends         whether it may choose `<eom>`; False where the length of its middle is given
    banned       tokens that may not stand at certain positions
    bound        maps the first tokens of its canvas to how many of them lie within the bound on
                 the middle; None while the bound is not reached
    temperature  0 takes the likeliest token, others draw
    first        the tokens of which one must stand first; None: any
    early        whether the middle must not end behind these first tokens of its canvas
    longest      tokens that its canvas may grow to, where canvases do; None: all that fit
    """

    generator: np.random.Generator
    max_nfe: int
    ends: bool = True
    banned: Banned = ()
    bound: Callable[[list[int]], int | None] | None = None
    temperature: float = 0.0
    first: Sequence[int] | None = None
    early: Callable[[Sequence[int]], bool] = at_any
    longest: int | None = None


@dataclass(frozen=True)
class Step:
    """What one evaluation did to the canvas.

    canvas      after the step
    committed   [batch, block]; masks that became tokens, and guesses that were read; none in a row
                that took no part
    confidence  [batch, block]; probability of the token chosen at each evaluated position,
                committed or not; 1 for an `<eom>` that a bound put there
    forced      [batch]; whether the end of the budget committed what the rule would not have
    evaluated   [batch]; which rows took part; None: those in which something was committed
    stale       [batch]; in which rows some states were kept from earlier evaluations, though they
                depend on what was written since; None: in none
    guessed     [batch, block]; tokens that were not read yet, and may be replaced; None: none
    """

    canvas: Canvas
    committed: Bool[Array, "batch block"]
    confidence: Float[Array, "batch block"]
    forced: Bool[Array, " batch"]
    evaluated: Bool[Array, " batch"] | None = None
    stale: Bool[Array, " batch"] | None = None
    guessed: Bool[Array, "batch block"] | None = None

    @classmethod
    def restoring(cls, canvas: Canvas) -> Step:
        """The canvas is put back as it was: no evaluation, nothing committed."""
        nothing = np.zeros_like(canvas.open)
        return cls(canvas, nothing, nothing.astype(np.float32), nothing[:, 0])

    def rows(self, index: slice) -> Step:
        """The step, for these rows only."""
        return Step(
            self.canvas.rows(index),
            self.committed[index],
            self.confidence[index],
            self.forced[index],
            None if self.evaluated is None else self.evaluated[index],
            None if self.stale is None else self.stale[index],
            None if self.guessed is None else self.guessed[index],
        )

    @property
    def certain(self) -> Canvas:
        """The canvas without guesses."""
        if self.guessed is None:
            return self.canvas
        return replace(
            self.canvas, ids=np.where(self.guessed, self.canvas.marks.mask, self.canvas.ids)
        )

    def settled(self, row: int) -> list[int]:
        """The tokens of a row's middle up to the first that may be replaced."""
        return self.certain.middle(row)

    @property
    def took_part(self) -> Bool[Array, " batch"]:
        """Which rows took part."""
        return np.asarray(self.committed.any(1) if self.evaluated is None else self.evaluated)


def denoise(
    backbone: Backbone,
    cache: KVCache,
    last: Sequence[int],
    canvas: Canvas,
    rule: Rule,
    rows: Sequence[Row],
    lookahead: int | None = None,
    k: int = 1,
) -> Iterator[Step]:
    """Commit the masks of each row; the last evaluation in its budget commits all that remain.

    The cache holds the contexts, whose last tokens are `last`. A step evaluates `lookahead`
    positions from the first open one on; None: the whole canvas. The rule sees `k` candidates for
    each position.
    """
    index, reading = np.arange(len(rows)), backbone.begin(cache, last)
    for nfe in count(1):
        index, reading = narrow(index, reading, canvas.unfinished)
        if not len(index):
            return
        part, going = canvas.rows(index), [rows[number] for number in index.tolist()]
        final = np.array([nfe >= row.max_nfe for row in going])
        # An end that is given must be seen; causal canvases never see what stands behind them.
        given = np.array([not row.ends and not backbone.shift for row in going])
        present = ahead(part, final | given, lookahead)
        widths, known = present.sum(1), part.open.argmax(1)
        width = int(widths.max())
        states, reading = backbone.denoise_on(part.ids[:, :width], reading, widths, known)
        where = part.open & present
        if backbone.chained:
            prediction = chained(backbone, states, part, where, going, rule, final, k)
        else:
            seen = states[where[:, :width]]
            prediction = predict(backbone, seen, where, part, going, max(k, ENDING_AMONG))
        ruled = rule(prediction) & ~ends_early(part, prediction, going)
        committed = np.where(final[:, None], prediction.open, ruled)
        wrote = part.commit(prediction.tokens, committed)
        step = step_of(canvas, index, wrote, prediction.probability, ruled, going)
        canvas = step.canvas
        yield step


def predict(
    backbone: Backbone,
    states: States,
    where: Bool[Array, "batch block"],
    canvas: Canvas,
    rows: Sequence[Row],
    k: int = 1,
    among: Candidates | None = None,
) -> Prediction:
    """A token for each position at `where`, whose states are given, [positions, width].

    With `among`, it is one of these candidates for the position, which the states rank anew. A
    row with a temperature draws with its own generator, whatever rows are beside it.
    """
    counts = where.sum(1)
    limits = constraints(where, canvas, rows)
    if among is not None:
        every = limits or [Constraint()] * len(among.ids)
        pairs = zip(among.ids, every, strict=True)
        limits = [replace(limit, only=ids) for ids, limit in pairs]
    hot = np.array([row.temperature >= COLD for row in rows])
    temperatures = None
    if hot.any():
        k = max(k, DRAWN_FROM)
        each = [row.temperature if warm else 1.0 for row, warm in zip(rows, hot, strict=True)]
        temperatures = np.repeat(np.array(each, np.float32), counts)
    found = backbone.candidates(states, k, limits, temperatures)
    if among is not None:  # what stood beside them keeps its part
        total = np.log(np.exp(among.log_probabilities).sum(1, keepdims=True))
        found = Candidates(found.ids, found.log_probabilities + total)
    choice = np.zeros(len(found.ids), np.int64)
    chances = np.exp(found.log_probabilities)
    end = np.cumsum(counts)
    for place in np.flatnonzero(hot).tolist():
        own = slice(end[place] - counts[place], end[place])
        choice[own] = draw(chances[own], rows[place].generator)
    chosen = np.take_along_axis(found.ids, choice[:, None], 1)[:, 0]
    prediction = Prediction.nothing(where.shape)
    tokens, probability, ending = (
        np.zeros_like(prediction.tokens),
        np.zeros_like(prediction.probability),
        np.zeros_like(prediction.ending),
    )
    tokens[where] = chosen
    probability[where] = np.take_along_axis(chances, choice[:, None], 1)[:, 0]
    # Among as many candidates as alone, also beside a row that draws from more.
    ends = found.ids[:, :ENDING_AMONG] == canvas.marks.eom
    ending[where] = np.where(ends, chances[:, :ENDING_AMONG], 0).sum(1)
    return Prediction(where, tokens, probability, ending, ((where, found),))


def draw(
    chances: Float[Array, "positions k"], generator: np.random.Generator
) -> Int[Array, " positions"]:
    """The number of a candidate for each position, drawn in proportion to its probability."""
    total = np.cumsum(chances.astype(np.float64), axis=1)
    at = generator.random(len(chances)) * total[:, -1]
    drawn: Array = np.minimum((total <= at[:, None]).sum(1), chances.shape[1] - 1)
    return drawn


def constraints(
    where: Bool[Array, "batch block"], canvas: Canvas, rows: Sequence[Row]
) -> list[Constraint] | None:
    """The constraint for each position at `where`; None where there is none.

    The canvas has the tokens before each position, as far as they are known.
    """
    if all(
        row.ends and row.early is at_any and not row.banned and row.first is None for row in rows
    ):
        return None
    found, eom = [], (canvas.marks.eom,)
    for number, row in enumerate(rows):
        known = canvas.middle(number)
        for position in np.flatnonzero(where[number]).tolist():
            forbidden = tuple(token for place, token in row.banned if place == position)
            if not row.ends or (position <= len(known) and row.early(known[:position])):
                forbidden += eom
            found.append(Constraint(row.first if position == 0 else None, forbidden))
    return found


def chained(
    backbone: Backbone,
    states: States,
    canvas: Canvas,
    where: Bool[Array, "batch block"],
    rows: Sequence[Row],
    rule: Rule,
    final: Bool[Array, " batch"],
    k: int = 1,
) -> Prediction:
    """Tokens for the positions at `where` from left to right, each given those before it.

    It stops one position after the last that the rule commits; in rows whose `final` evaluation
    this is, at the end. The first position of a row has nothing before it, so its state is used
    unchanged.
    """
    batch, width = len(where), states.shape[1]
    found = Prediction.nothing(where.shape, chained=True)
    before = np.full((batch, 1 + width), canvas.marks.mask, np.int64)
    before[:, 1:] = canvas.ids[:, :width]
    own = shortlist(backbone, states, where[:, :width], canvas, rows)
    going, unread = where.any(1), 0
    past: tuple[States, ...] = ()
    for place in range(int(where.argmax(1).min()), width):
        here = np.zeros_like(where)
        here[:, place] = where[:, place] & going
        members = np.flatnonzero(here[:, place])
        if not len(members):
            continue
        current = states[members, place]
        follows = found.open[members].any(1)
        if follows.any():
            new = slice(unread, place + 1)
            linked, past = backbone.chain(states[:, new], before[:, new], past)
            current[follows] = linked[members[follows], -1]
            unread = place + 1
        among = None if own is None else own(members, place)
        found |= predict(backbone, current, here, canvas, rows, k, among)
        tokens = found.tokens[:, place]
        before[members, place + 1] = tokens[members]
        taken = (rule(found)[:, place] | final) & (tokens != canvas.marks.eom)
        going = going & (taken | ~here[:, place])
        if not going.any():
            break
    return found


def shortlist(
    backbone: Backbone,
    states: States,
    where: Bool[Array, "batch width"],
    canvas: Canvas,
    rows: Sequence[Row],
) -> Callable[[Int[Array, " members"], int], Candidates] | None:
    """What the chain may choose among at each position, by rows and place; None: any token."""
    if backbone.among is None:
        return None
    limits = constraints(where, canvas, rows)
    found = backbone.candidates(states[where], backbone.among, limits)
    number = np.cumsum(where).reshape(where.shape) - 1

    def own(members: Int[Array, " members"], place: int) -> Candidates:
        index = number[members, place]
        return Candidates(found.ids[index], found.log_probabilities[index])

    return own


def ahead(
    canvas: Canvas, whole: Bool[Array, " batch"], lookahead: int | None
) -> Bool[Array, "batch block"]:
    """The positions of each row that a step evaluates.

    They end `lookahead` positions after the first open one. A row that is `whole` is evaluated
    to its end: it must commit everything now, or its `<eom>` is given and must be seen.
    """
    place = np.arange(canvas.ids.shape[1])
    first = np.where(canvas.open, place, len(place)).min(1)
    reach = len(place) if lookahead is None else lookahead
    evaluated: Array = (place < first[:, None] + reach) | whole[:, None]
    return evaluated


def ends_early(
    canvas: Canvas, prediction: Prediction, rows: Sequence[Row]
) -> Bool[Array, "batch block"]:
    """The predicted ends that are too early by what the same step predicts before them."""
    found = np.zeros_like(prediction.open)
    if any(row.early is not at_any for row in rows):
        said = canvas.commit(prediction.tokens, prediction.open)
        for place, row in enumerate(rows):
            before, end = said.middle(place), said.ended[place]
            found[place, end : end + 1] = len(before) == end and row.early(before)
    return found


def bounded(canvas: Canvas, rows: Sequence[Row]) -> Canvas:
    """The canvas with an `<eom>` where the tokens of a row reach its bound."""
    for place, row in enumerate(rows):
        if row.bound is None:
            continue
        within = row.bound(canvas.middle(place))
        if within is not None and within < canvas.ended[place]:
            ids = canvas.ids[place].copy()
            ids[within], ids[within + 1 :] = canvas.marks.eom, canvas.marks.mask
            canvas = canvas.with_row(place, ids)
    return canvas


def narrow(
    index: Int[Array, " rows"], cache: Kept, going: Bool[Array, " batch"]
) -> tuple[Int[Array, " fewer"], Kept]:
    """The rows of `index` that are still `going`, and their rows of what is kept for each."""
    kept = going[index]
    if kept.all():
        return index, cache
    return index[kept], cache.rows(np.flatnonzero(kept))


def step_of(
    canvas: Canvas,
    index: Int[Array, " rows"],
    wrote: Canvas,
    confidence: Float[Array, "rows block"],
    ruled: Bool[Array, "rows block"],
    rows: Sequence[Row],
) -> Step:
    """The step in which the rows in `index` wrote a canvas; all other rows are unchanged."""
    after = bounded(wrote, rows)
    # The model has no say in an end that a bound puts.
    put = (after.ids == canvas.marks.eom) & (wrote.ids != canvas.marks.eom)
    ids = canvas.ids.copy()
    ids[index] = after.ids
    took, sure = np.zeros_like(canvas.open), np.zeros(canvas.ids.shape, np.float32)
    took[index] = committed = canvas.masked[index] & ~after.masked
    sure[index] = np.where(put, 1, confidence)
    forced = np.zeros(len(ids), bool)
    forced[index] = (committed & ~ruled & ~put).any(1)
    return Step(replace(canvas, ids=ids), took, sure, forced)

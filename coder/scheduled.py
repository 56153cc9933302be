"""The loop of the open families: denoise a canvas by the schedule that its authors published.

It differs from `sampler.denoise` in what a family needs beside a rule: how many masks become tokens
in which step, tokens that become masks again, and canvases that grow and shrink.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from talaria.coder.backbone import Array, Backbone, Constraint, KVCache, Reading, States
from talaria.coder.canvas import Canvas
from talaria.coder.sampler import (
    COLD,
    DRAWN_FROM,
    Row,
    Step,
    bounded,
    constraints,
    draw,
    ends_early,
    narrow,
)
from talaria.coder.schedule import Schedule, Spread, Window, block_of, quotas
from talaria.coder.unmask import Prediction

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Choice:
    """What the model says at the evaluated positions of a canvas; elsewhere everything is 0.

    probability  of the chosen token
    sureness     what the schedule orders positions by, the surest highest
    """

    tokens: Int[Array, "rows block"]
    probability: Float[Array, "rows block"]
    sureness: Float[Array, "rows block"]


@dataclass
class Pacer:
    """How many masks of a row become tokens in each step; with "p2", how many of all then are.

    start  the place of its canvas in the text
    """

    schedule: Schedule
    start: int
    masks: int
    steps: int
    at: tuple[int, int] = (-1, -1)
    left: list[int] = field(default_factory=list)

    def next(self, opened: Bool[Array, " block"]) -> tuple[int, int, int]:
        """From which position, up to which, and how many; steps that commit none are left out."""
        schedule, first = self.schedule, int(opened.argmax())
        if schedule.lead and (self.start + first) % schedule.lead == 0 and self.start + first:
            return first, first + 1, 1
        at = block_of(schedule, self.start, first, len(opened))
        here = int(opened[slice(*at)].sum())
        if schedule.pace == "single":
            return *at, 1
        if at != self.at:
            steps = max(1, round(self.steps * here / self.masks))
            self.at, self.left = at, quotas(schedule, here, steps)
        if schedule.pace != "p2":
            while self.left and not self.left[0]:
                del self.left[0]
        return *at, self.left.pop(0) if self.left else here


@dataclass
class Kept:
    """Where a row's canvas was divided when its states were kept, and how many evaluations ago.

    None: nothing is kept that a later evaluation may take.
    """

    at: tuple[int, ...] | None = None
    age: int = 0

    def stale(self, at: tuple[int, ...] | None, refresh: int | None) -> bool:
        """Whether an evaluation takes them as they are, the canvas now being divided so.

        None: it needs all of the canvas anew.
        """
        self.age += 1
        if at is not None and at == self.at and (refresh is None or self.age < refresh):
            return True
        self.at, self.age = at, 0
        return False


def follow(
    schedule: Schedule,
    backbone: Backbone,
    cache: KVCache,
    last: Sequence[int],
    canvas: Canvas,
    rows: Sequence[Row],
) -> Iterator[Step]:
    """Commit the masks of each row by a schedule; its last evaluation commits all that remain.

    The cache holds the contexts, whose last tokens are `last`. A row with fewer evaluations than
    masks commits several in each.
    """
    index, reading = np.arange(len(rows)), backbone.begin(cache, last)
    variable, sure = canvas.open.copy(), np.zeros(canvas.ids.shape, np.float32)
    pacers = [
        Pacer(schedule, int(start), int(own.sum()), min(schedule.steps or own.sum(), row.max_nfe))
        for start, own, row in zip(cache.next_position, canvas.open, rows, strict=True)
    ]
    grown, spent = np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
    kept = [Kept() for _ in rows]
    for nfe in count(1):
        index, reading = narrow(index, reading, canvas.unfinished)
        if not len(index):
            return
        part, going = canvas.rows(index), [rows[number] for number in index.tolist()]
        final = np.array([nfe >= row.max_nfe for row in going])
        if schedule.cache is not None:
            own_kept = [kept[number] for number in index.tolist()]
            reading = windowed(schedule, reading, part, own_kept, final)
        states, reading = backbone.denoise_on(
            part.ids, reading, np.full(len(index), part.ids.shape[1]), part.open.argmax(1)
        )
        own, pace = variable[index], [pacers[number] for number in index.tolist()]
        spans, where = [], own
        if schedule.pace != "p2":
            spans = [each.next(opened) for each, opened in zip(pace, part.open, strict=True)]
            where = part.open & within(schedule, spans, part, final)
        choice = choose(schedule, backbone, states, where, part, going, final | spent[index])
        cut = np.zeros_like(where)
        if schedule.pace == "p2":
            ids, short = again(part, own, choice, pace, final)
            taken = (ids != part.ids) & (ids != canvas.marks.mask)
        else:
            free = where & ~too_early(schedule, part, choice, where, going)
            taken, short = surest(schedule, part, free, choice, spans, where, final)
            ids = np.where(taken, choice.tokens, part.ids)
            for row in np.flatnonzero(final & (part.open & ~where).any(1)):
                cut[row, spans[row][1]] = True  # the rest was not read
            ids[cut] = canvas.marks.eom
        known = np.where(taken, choice.probability, sure[index])
        if schedule.expand is not None:
            grown[index] += (taken & (ids == schedule.expand)).sum(1)
            spent = grown >= schedule.most
            most = longest(schedule, part, going)
            ids, known, taken = resized(schedule, part, ids, known, taken, most)
            variable[index] = np.arange(ids.shape[1]) < ended(ids, canvas.marks.eom)[:, None]
        wrote = tidy(replace(part, ids=ids))
        after = bounded(wrote, going)
        put = cut | (after.ids == canvas.marks.eom) & (wrote.ids != canvas.marks.eom)
        known = np.where(put, 1, known)
        every, took = canvas.ids.copy(), np.zeros_like(canvas.open)
        every[index], sure[index] = after.ids, known
        took[index] = (taken | put) & ~after.masked
        evaluated = np.zeros(len(rows), bool)
        evaluated[index] = True
        forced = np.zeros(len(rows), bool)
        forced[index] = short
        stale = None
        if isinstance(reading, Window):
            stale = np.zeros(len(rows), bool)
            stale[index] = ~reading.fresh
        canvas = replace(canvas, ids=every)
        shown = np.where(took, sure, 0).astype(np.float32)
        yield Step(canvas, took, shown, forced, evaluated, stale)


def windowed(
    schedule: Schedule,
    reading: Reading,
    canvas: Canvas,
    kept: Sequence[Kept],
    final: Bool[Array, " rows"],
) -> Window:
    """What an evaluation computes anew: a row's current block, or all of the row.

    All where a block begins, after `refresh` evaluations, where what is kept would stand elsewhere
    in the text, and in a `final` evaluation that commits more than the block.
    """
    behind = schedule.cache == "prefix"
    spans, fresh = np.zeros((len(kept), 2), np.int64), np.ones(len(kept), bool)
    for row, (each, opened) in enumerate(zip(kept, canvas.open, strict=True)):
        length, places = int(canvas.ended[row]), np.flatnonzero(opened)
        begin, end = block_of(schedule, 0, int(places[0]), length)
        spans[row] = begin, end
        at: tuple[int, ...] | None = (begin,) if behind else (begin, end, length)
        if final[row] and not behind and places[-1] >= end:
            at = None
        fresh[row] = not each.stale(at, schedule.refresh)
    states = reading.states if isinstance(reading, Window) else None
    return Window(reading.cache, reading.last, reading.read, spans, behind, fresh, states)


def within(
    schedule: Schedule,
    spans: Sequence[tuple[int, int, int]],
    canvas: Canvas,
    final: Bool[Array, " rows"],
) -> Bool[Array, "rows block"]:
    """The positions of each row that a step decides about: those of its current block.

    In a `final` evaluation, all, unless a network that reads block by block has not read the rest.
    """
    found = np.zeros_like(canvas.open)
    for row, (begin, end, _) in enumerate(spans):
        found[row, begin:end] = True
        found[row] |= final[row] and not schedule.absolute
    return found


def too_early(
    schedule: Schedule,
    canvas: Canvas,
    choice: Choice,
    where: Bool[Array, "rows block"],
    rows: Sequence[Row],
) -> Bool[Array, "rows block"]:
    """The chosen ends that are too early by what is chosen before them, as in `sampler.denoise`.

    An end mark that only takes masks out of a canvas is none.
    """
    if schedule.expand is not None:
        return np.zeros_like(where)
    chosen = replace(Prediction.nothing(where.shape), open=where, tokens=choice.tokens)
    return ends_early(canvas, chosen, rows)


def empty_too_early(row: Row, tokens: Sequence[int]) -> bool:
    """Whether nothing at all would be too early an end."""
    return not tokens and row.early(tokens)


def choose(
    schedule: Schedule,
    backbone: Backbone,
    states: States,
    where: Bool[Array, "rows block"],
    canvas: Canvas,
    rows: Sequence[Row],
    spent: Bool[Array, " rows"],
) -> Choice:
    """A token for each position at `where`: the likeliest, or drawn, if a row has a temperature.

    The canvases of `spent` rows do not grow any more.
    """
    counts = where.sum(1)
    if schedule.expand is not None:  # an end mark takes masks out, and ends nothing
        rows = [replace(row, early=partial(empty_too_early, row)) for row in rows]
    limits = constraints(where, canvas, rows)
    if schedule.expand is not None:
        # Nor do those whose length is given, or that are full.
        given = np.array([not row.ends for row in rows])
        full = spent | given | (canvas.ended >= longest(schedule, canvas, rows))
        each = limits or [Constraint()] * int(counts.sum())
        barred = np.repeat(full, counts)
        limits = [
            replace(limit, forbidden=(*limit.forbidden, schedule.expand)) if bar else limit
            for limit, bar in zip(each, barred, strict=True)
        ]
    hot = np.array([row.temperature >= COLD for row in rows])
    temperatures = None
    if hot.any():
        heats = [row.temperature if warm else 1.0 for row, warm in zip(rows, hot, strict=True)]
        temperatures = np.repeat(np.array(heats, np.float32), counts)
    found = backbone.candidates(states[where], DRAWN_FROM if hot.any() else 1, limits, temperatures)
    chances = np.exp(found.log_probabilities)
    chosen, chance = found.ids[:, 0].copy(), chances[:, 0].copy()
    entropy = None
    if schedule.order == "entropy":
        if not isinstance(found, Spread):
            raise TypeError(f"the schedule orders by entropy; {type(found).__name__} has none")
        entropy = found.entropy.copy()
    end = np.cumsum(counts)
    for place in np.flatnonzero(hot).tolist():
        own = slice(end[place] - counts[place], end[place])
        kept = nucleus(chances[own], schedule.top_p)
        drawn = draw(kept, rows[place].generator)
        chosen[own] = np.take_along_axis(found.ids[own], drawn[:, None], 1)[:, 0]
        chance[own] = np.take_along_axis(kept, drawn[:, None], 1)[:, 0]
        if entropy is not None:
            entropy[own] = -(kept * np.log(np.where(kept > 0, kept, 1))).sum(1)
    tokens = np.zeros(where.shape, np.int64)
    probability, sureness = (np.zeros(where.shape, np.float32) for _ in range(2))
    tokens[where], probability[where] = chosen, chance
    sureness[where] = chance if entropy is None else -entropy
    return Choice(tokens, probability, sureness)


def nucleus(
    chances: Float[Array, "positions k"], top_p: float | None
) -> Float[Array, "positions k"]:
    """Probabilities of the fewest candidates that have `top_p` together, the likeliest first."""
    kept: Array = chances
    if top_p is not None:
        kept = np.where(np.cumsum(chances, axis=1) - chances <= top_p, chances, 0)
    whole: Array = kept / kept.sum(1, keepdims=True)
    return whole


def surest(
    schedule: Schedule,
    canvas: Canvas,
    free: Bool[Array, "rows block"],
    choice: Choice,
    spans: Sequence[tuple[int, int, int]],
    where: Bool[Array, "rows block"],
    final: Bool[Array, " rows"],
) -> tuple[Bool[Array, "rows block"], Bool[Array, " rows"]]:
    """The `free` positions that become tokens: the surest, and those beyond the threshold.

    In rows whose `final` evaluation this is, all at `where`; and in which of them the schedule
    would have left some.
    """
    taken, short = np.zeros_like(canvas.open), np.zeros(len(final), bool)
    for row, (opened, (begin, end, most)) in enumerate(zip(canvas.open, spans, strict=True)):
        places = begin + np.flatnonzero(free[row, begin:end])
        order = places[np.argsort(-choice.sureness[row, places], kind="stable")]
        taken[row, order[:most]] = True
        if schedule.threshold is not None and end - begin > 1:
            taken[row, places] |= choice.probability[row, places] > schedule.threshold
        if final[row]:
            short[row] = (opened & ~taken[row]).any()
            taken[row] = where[row]
    return taken, short


def again(
    canvas: Canvas,
    variable: Bool[Array, "rows block"],
    choice: Choice,
    pacers: Sequence[Pacer],
    final: Bool[Array, " rows"],
) -> tuple[Int[Array, "rows block"], Bool[Array, " rows"]]:
    """The canvas of a step of "p2": the least sure positions are masks, whatever they were.

    Also, which rows commit more than the schedule would, because this evaluation is `final`. Steps
    that change nothing take no evaluation: the next one would say the same.
    """
    ids, short = canvas.ids.copy(), np.zeros(len(final), bool)
    for row, (own, pacer) in enumerate(zip(variable, pacers, strict=True)):
        places = np.flatnonzero(own & (np.arange(len(own)) < canvas.ended[row]))
        order = places[np.argsort(choice.sureness[row, places], kind="stable")]
        while True:
            *_, tokens = pacer.next(own)
            masks = max(0, len(places) - tokens)
            short[row], masks = final[row] and masks > 0, 0 if final[row] else masks
            new = canvas.ids[row].copy()
            fresh = order[masks:][new[order[masks:]] == canvas.marks.mask]
            new[fresh] = choice.tokens[row, fresh]
            new[order[:masks]] = canvas.marks.mask
            if not np.array_equal(new, canvas.ids[row]) or not pacer.left:
                break
        ids[row] = new
    return ids, short


def resized(
    schedule: Schedule,
    canvas: Canvas,
    ids: Int[Array, "rows block"],
    sure: Float[Array, "rows block"],
    taken: Bool[Array, "rows block"],
    most: Int[Array, " rows"],
) -> tuple[Array, Array, Array]:
    """The canvas after a step in which tokens may have been chosen that change its length.

    `expand` becomes two masks, up to `most` tokens in all. An end mark is taken out, and the masks
    behind it, as DreamOn's `pad_eos_to_right` has it. Tokens that moved count as taken: they are
    committed where they are.
    """
    marks = canvas.marks
    ids, sure, taken = ids.copy(), sure.copy(), taken.copy()
    for row in range(len(ids)):
        length = int(canvas.ended[row])
        chosen = np.flatnonzero(taken[row])
        ends = chosen[ids[row, chosen] == marks.eom]
        grown = chosen[ids[row, chosen] == schedule.expand]
        if not len(ends) and not len(grown):
            continue
        cut = int(ends[0]) if len(ends) else length
        new: list[tuple[int, float, bool]] = []
        for place in range(length):
            token = int(ids[row, place])
            if token == marks.eom or (token == marks.mask and place > cut):
                continue
            if token == schedule.expand:
                new += [(marks.mask, 0.0, False)] * 2
            else:
                moved = len(new) != place and token != marks.mask
                new.append((token, float(sure[row, place]), bool(taken[row, place]) or moved))
        new = new[: most[row]]
        ids[row], sure[row], taken[row] = marks.mask, 0, False
        for place, (token, chance, fresh) in enumerate(new):
            ids[row, place], sure[row, place], taken[row, place] = token, chance, fresh
        ids[row, len(new)] = marks.eom
    return ids, sure, taken


def longest(schedule: Schedule, canvas: Canvas, rows: Sequence[Row]) -> Int[Array, " rows"]:
    """How many tokens each row's canvas may grow to; in a batch, as many as alone."""
    most = min(schedule.most, canvas.ids.shape[1] - 1)
    return np.array([min(most, most if row.longest is None else row.longest) for row in rows])


def ended(ids: Int[Array, "rows block"], eom: int) -> Int[Array, " rows"]:
    """The position of each row's first end mark; the width where there is none."""
    width = ids.shape[1]
    found: Array = np.where(ids == eom, np.arange(width), width).min(1)
    return found


def tidy(canvas: Canvas) -> Canvas:
    """The canvas with masks behind each end mark."""
    behind = np.arange(canvas.ids.shape[1]) > canvas.ended[:, None]
    return replace(canvas, ids=np.where(behind, canvas.marks.mask, canvas.ids))

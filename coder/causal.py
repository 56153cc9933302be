"""Write middles from left to right: token by token, or by drafts that the next evaluation reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from talaria.coder.backbone import Array, Backbone, KVCache
from talaria.coder.canvas import Canvas
from talaria.coder.drafts import LIKELY, NONE, Draft, agreement, drafted_on, likely, plan
from talaria.coder.sampler import COLD, ENDING_AMONG, Row, Step, narrow, predict, step_of
from talaria.coder.unmask import Prediction

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

UPHELD = 0.5  # how likely a guess must be, once it is read, beside the likeliest token there


def autoregress(
    backbone: Backbone,
    cache: KVCache,
    contexts: Sequence[Sequence[int]],
    canvas: Canvas,
    rows: Sequence[Row],
    on_cache: Callable[[KVCache], None] | None = None,
) -> Iterator[Step]:
    """Fill the canvas from left to right, a token a step: the baseline on the same weights.

    The cache holds the contexts without their last tokens, one or more, which the first step reads.
    What stands in a canvas already is the end of its context. `on_cache` gets the cache with every
    token that was read since.
    """
    index, unread = np.arange(len(rows)), unread_of(contexts, cache)
    for nfe in count():
        affordable = np.array([row.max_nfe > nfe for row in rows])
        index, cache = narrow(index, cache, canvas.unfinished & affordable)
        if not len(index):
            return
        numbers: list[int] = index.tolist()
        part, going = canvas.rows(index), [rows[number] for number in numbers]
        each, place = np.arange(len(numbers)), part.open.argmax(1)
        new = part.ids[each, place - 1][:, None].tolist() if nfe else [unread[n] for n in numbers]
        states, cache = backbone.encode(new, cache)
        if on_cache is not None:
            on_cache(cache)
        here = np.zeros_like(part.open)
        here[each, place] = True
        last = np.array([len(tokens) for tokens in new]) - 1
        found = predict(backbone, states[each, last], here, part, going)
        wrote = part.commit(found.tokens, here)
        step = step_of(canvas, index, wrote, found.probability, here, going)
        canvas = step.canvas
        yield step


def unread_of(contexts: Sequence[Sequence[int]], cache: KVCache) -> list[list[int]]:
    """The last tokens of contexts, which a cache of their beginnings does not hold."""
    held = cache.valid.sum(1).tolist()
    return [[*context[count:]] for context, count in zip(contexts, held, strict=True)]


def verify(
    backbone: Backbone,
    cache: KVCache,
    contexts: Sequence[list[int]],
    canvas: Canvas,
    rows: Sequence[Row],
    masks: int = 0,
    on_cache: Callable[[KVCache], None] | None = None,
    least: float | None = None,
) -> Iterator[Step]:
    """Write what `autoregress` writes at temperature 0, in fewer evaluations.

    An evaluation reads the last token and a draft of what follows. It keeps the longest run of
    drafted tokens that the model itself would have written, and the model's own next token. Cache
    and `on_cache` are as there; what was not written is not in it.

    With `masks`, for models with a shift that denoise, it also reads so many masks, which follow
    the parts of the draft that are likeliest to be kept. If one of these is kept, they stand behind
    what was written, and what they say begins the next draft as far as it is likely. Behind it
    comes what followed the previous occurrence of the last two tokens (prompt lookup, as in LLMA,
    arXiv 2304.04487).

    With `least`, this is denoising: what masks say is a guess, as far as it is at least so likely
    to be right. Steps show guesses; the next evaluation reads them. At temperature 0, one stands
    if it is UPHELD times as likely as the likeliest token there (cf. typical acceptance in Medusa,
    arXiv 2401.10774), so the text may differ from that of `autoregress`.
    """
    index = np.arange(len(rows))
    # A sentinel at the end is no text: nothing was ever drafted behind it.
    never = canvas.marks.never
    known = [context[:-1] if context[-1] in never else list(context) for context in contexts]
    unread = unread_of(contexts, cache)
    said = [NONE] * len(rows)
    for nfe in count():
        affordable = np.array([row.max_nfe > nfe for row in rows])
        index, cache = narrow(index, cache, canvas.unfinished & affordable)
        if not len(index):
            return
        numbers: list[int] = index.tolist()
        part, going = canvas.rows(index), [rows[number] for number in numbers]
        plans = [
            plan(drafted_on(said[n], known[n], canvas.marks), len(unread[n]), masks, backbone)
            for n in numbers
        ]
        drafts = [ahead.tokens[: ahead.length] for ahead in plans]
        both = [[*unread[n], *ahead.tokens] for n, ahead in zip(numbers, plans, strict=True)]
        forks = [ahead.forks for ahead in plans] if masks else None
        states, cache = backbone.encode(both, cache, forks)
        # From the last unread token on, the state of the j-th one predicts position `at[:, j]` of
        # the canvas.
        begin = np.array([len(unread[n]) - 1 for n in numbers])
        lengths = 1 + np.array([len(draft) for draft in drafts])
        each = np.arange(lengths.max())
        at = part.open.argmax(1)[:, None] + each
        beyond = ((0, 0), (0, len(each)))
        inside = np.take_along_axis(np.pad(part.open, beyond), at, 1) & (each < lengths[:, None])
        asking, token = np.nonzero(inside)
        seen = states[asking, begin[asking] + token]
        guess, asked = drafted(part, drafts), spread(inside, at, part.open)
        found = predict(backbone, seen, asked, guess, going, 1 if least is None else ENDING_AMONG)
        if least is not None:
            found = upheld(found, guess, going)
        written = np.take_along_axis(np.pad(found.tokens, beyond), at, 1).tolist()
        runs = [
            agreement(draft, own[: sum(within)])
            for draft, own, within in zip(drafts, written, inside.tolist(), strict=True)
        ]
        run = np.array(runs)
        where = spread(inside & (each <= run[:, None]), at, part.open)
        wrote = part.commit(found.tokens, where)
        step = step_of(canvas, index, wrote, found.probability, where, going)
        canvas = step.canvas
        cache = cache.without(np.array([len(tokens) for tokens in both]) - 1 - begin - run)
        if on_cache is not None:
            on_cache(cache)
        for place, (number, kept, own) in enumerate(zip(numbers, runs, written, strict=True)):
            known[number] += own[: kept + 1]
            unread[number] = own[kept : kept + 1]
            said[number] = NONE
            if canvas.unfinished[number]:
                blanks = plans[place].behind.get(kept, slice(0))
                said[number] = likely(
                    backbone, states[place, blanks], own[kept], LIKELY if least is None else least
                )
        yield step if least is None else guessing(step, said)


def upheld(found: Prediction, guess: Canvas, rows: Sequence[Row]) -> Prediction:
    """What was found, with the guesses that stand instead of the likeliest tokens.

    A guess stands if it is among the ENDING_AMONG likeliest tokens there and UPHELD times as likely
    as the likeliest; in rows that draw, if it is what was drawn.
    """
    ((where, among),) = found.parts
    # Among as many candidates as alone, also beside a row that draws from more.
    ids, logs = among.ids[:, :ENDING_AMONG], among.log_probabilities[:, :ENDING_AMONG]
    own = np.where(ids == guess.ids[where][:, None], logs, -np.inf).max(1)
    cold = np.repeat([row.temperature < COLD for row in rows], where.sum(1))
    stands = np.zeros_like(where)
    stands[where] = cold & (own >= logs[:, 0] + np.log(UPHELD))
    chances = np.zeros_like(found.probability)
    chances[where] = np.exp(own)
    return replace(
        found,
        tokens=np.where(stands, guess.ids, found.tokens),
        probability=np.where(stands, chances, found.probability),
    )


def guessing(step: Step, said: Sequence[Draft]) -> Step:
    """The step, which also shows what masks say next, by rows, as guesses."""
    canvas = drafted(step.canvas, [tokens for tokens, _ in said])
    guessed = canvas.ids != step.canvas.ids
    confidence = step.confidence.copy()
    for row, (_, chances) in enumerate(said):
        confidence[row, guessed[row]] = chances[: guessed[row].sum()]
    evaluated = step.took_part
    return replace(
        step,
        canvas=canvas,
        committed=step.committed | guessed,
        confidence=confidence,
        evaluated=evaluated,
        guessed=guessed,
    )


def drafted(canvas: Canvas, drafts: Sequence[Sequence[int]]) -> Canvas:
    """The canvas with each row's draft at its first open positions."""
    ids = canvas.ids.copy()
    for row, opened, draft in zip(ids, canvas.open, drafts, strict=True):
        places = np.flatnonzero(opened)[: len(draft)]
        row[places] = draft[: len(places)]
    return replace(canvas, ids=ids)


def spread(
    flags: Bool[Array, "rows places"],
    at: Int[Array, "rows places"],
    like: Bool[Array, "rows block"],
) -> Bool[Array, "rows block"]:
    """Flags scattered to their positions in a canvas; those beyond its end are dropped."""
    width = like.shape[1]
    wide = np.zeros((len(like), width + at.shape[1]), bool)
    np.put_along_axis(wide, at, flags, 1)
    return wide[:, :width]

"""How the authors of an open family decode: when, where and how many masks become tokens.

A `Schedule` is data, and what follows from it are pure functions; `coder/scheduled.py` follows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from talaria.coder.backbone import Array, Candidates, KVCache, Reading

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from talaria.coder.request import Options

EPSILON = 1e-3  # the time at which Dream's schedule ends (`eps` of its generation_utils.py)

Order = Literal["probability", "entropy"]
Pace = Literal["even", "time", "single", "p2"]
Cache = Literal["prefix", "dual"]


@dataclass(frozen=True)
class Schedule:
    """A published way to decode.

    pace       how many masks become tokens in a step: "even", as many in each (LLaDA); "time", in
               proportion to the time that is left (Dream); "single", one (DreamOn); "p2", the
               surest so many of all, which may turn others into masks again (Open-dCoder)
    order      which first: those of the highest probability, or the lowest entropy
    block      positions that are decoded before those behind them; None: the whole canvas
    absolute   whether blocks are counted from the beginning of the text, not of the canvas
    threshold  tokens of a higher probability are committed besides, if there is one
    lead       the first position of so many, counted from the beginning of the text, is committed
               alone, as the token that follows what is before it; None: none is
    expand     the token that becomes two masks; a chosen end mark is then taken out, and so the
               length is learned; None: the length is given
    top_p      where a temperature draws, the least share of the probability to draw from
    steps      evaluations of a canvas; None: one for each mask
    most       positions of a canvas that may be reached by `expand`
    sizes      canvases to begin with; several where nothing tells the length of a middle; (): the
               model ends a middle
    cache      with full attention, what is not computed anew in each evaluation, but kept from when
               the current block was begun, though it depends on what was written since: "prefix",
               all before the block; "dual", all around it (arXiv 2505.22618); None: nothing
    refresh    every so many evaluations, all is computed anew; None: at each block alone
    """

    pace: Pace
    order: Order = "probability"
    block: int | None = None
    absolute: bool = False
    threshold: float | None = None
    lead: int | None = None
    expand: int | None = None
    top_p: float | None = None
    steps: int | None = None
    most: int = 64
    sizes: tuple[int, ...] = ()
    cache: Cache | None = None
    refresh: int | None = None

    def asked(self, options: Options) -> Schedule:
        """The schedule with the threshold, sizes and approximate cache that a request asks for.

        "p2" has no threshold.
        """
        found = self
        if options.confidence_threshold is not None and self.pace != "p2":
            found = replace(found, threshold=options.confidence_threshold)
        if options.sizes is not None:
            found = replace(found, sizes=options.sizes)
        if options.approximate_cache is not None:
            kind, _, refresh = options.approximate_cache.partition(":")
            cache: Cache = "prefix" if kind == "prefix" else "dual"
            found = replace(found, cache=cache, refresh=int(refresh) if refresh else None)
        return found


@dataclass(frozen=True)
class Window(Reading):
    """A reading of canvases with full attention, of which only a part is computed anew.

    spans   [batch, 2]; that part of each canvas: from which position, and up to which
    behind  whether all that stands behind it is computed anew, too
    fresh   [batch]; the rows of which all is, and kept
    states  keys and values of what is outside the parts, from when each row was fresh last
    """

    spans: Int[Array, "batch 2"]
    behind: bool
    fresh: Bool[Array, " batch"]
    states: KVCache | None = None

    def rows(self, index: Int[Array, " rows"]) -> Window:
        """These rows in this order."""
        return Window(
            self.cache.rows(index),
            self.last[index],
            self.read[index],
            self.spans[index],
            self.behind,
            self.fresh[index],
            None if self.states is None else self.states.rows(index),
        )


class Spread(Candidates):
    """Candidates, and how spread the distribution of each position is: its entropy, in nats."""

    entropy: Float[Array, " positions"]

    def __init__(self, ids: Array, log_probabilities: Array, entropy: Array) -> None:
        super().__init__(ids, log_probabilities)
        object.__setattr__(self, "entropy", entropy)


def block_of(schedule: Schedule, start: int, first: int, width: int) -> tuple[int, int]:
    """The positions of a canvas that are decoded while `first` is the first open one: from, to.

    `start` is the position of the canvas in the text.
    """
    if schedule.block is None:
        return 0, width
    offset = start % schedule.block if schedule.absolute else 0
    begin = (first + offset) // schedule.block * schedule.block - offset
    return max(0, begin), min(width, begin + schedule.block)


def quotas(schedule: Schedule, masks: int, steps: int) -> list[int]:
    """How many of so many masks each step commits, the steps that commit none included.

    Of "p2", how many are tokens after each step.
    """
    if schedule.pace == "even":
        base, more = divmod(masks, steps)
        return [base + (step < more) for step in range(steps)]
    if schedule.pace == "time":
        return [*_by_time(masks, steps)]
    if schedule.pace == "single":
        return [1] * masks
    left = [
        int(np.floor(np.float32(masks) * np.float32(1 - (step + 1) / steps)))
        for step in range(steps)
    ]
    return [masks - count for count in left]


def _by_time(masks: int, steps: int) -> Iterator[int]:
    times = np.linspace(1, EPSILON, steps + 1)
    for step, (now, then) in enumerate(pairwise(times)):
        count = int(masks * (1 - then / now)) if step < steps - 1 else masks
        masks -= count
        yield count

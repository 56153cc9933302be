"""Passes of several requests in one: a backbone whose callers share its evaluations.

Each request runs in a thread of its own, with the code that it runs alone: only here do they meet.
A pass waits until every other request wants one too, or has waited long enough; then those of
similar length are evaluated together. So requests join and leave from pass to pass, whatever their
options are, and each keeps its own deadline. A row gets what it would get alone, up to rounding.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from talaria.coder.backbone import Array, Backbone, Candidates, Constraint, KVCache, States

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

PATIENCE = 0.004  # seconds that a pass waits for others, which may be parsing meanwhile
ALIKE = 2.0  # a pass is widened to so many times its own length, at most, to go with others
SHORT = 16  # passes of so few tokens go together in any case

Found = tuple[States, tuple[States, ...], tuple[States, ...]]


@dataclass(eq=False)
class Call:
    """An evaluation that a request waits for; what it found, or why it failed."""

    ids: Int[Array, "batch length"]
    positions: Int[Array, "batch length"]
    visible: Bool[Array, "batch 1 length total"] | None
    cache: KVCache | None
    keep: bool
    since: float
    found: Found | None = None
    error: BaseException | None = None
    taken: bool = False

    @property
    def length(self) -> int:
        """How many tokens of each row it reads."""
        return int(self.ids.shape[1])

    @property
    def past(self) -> int:
        """How many columns its cache has."""
        return 0 if self.cache is None else self.cache.valid.shape[1]


class Batched(Backbone):
    """A backbone for several threads, each of which works inside `taking_part`.

    on_pass  is told how many requests shared each pass
    """

    def __init__(
        self, inner: Backbone, on_pass: Callable[[int], None] = lambda calls: None
    ) -> None:
        self.inner, self.on_pass = inner, on_pass
        self.marks, self.name = inner.marks, inner.name
        self.denoises, self.shift, self.chained = inner.denoises, inner.shift, inner.chained
        self.pass_length, self.among = inner.pass_length, inner.among
        self.masks = inner.masks
        self._changed = threading.Condition()
        self._calls: list[Call] = []
        self._members = 0
        self._computing = False
        self._merged: tuple[tuple[KVCache | None, ...], int, KVCache] | None = None

    @contextmanager
    def taking_part(self) -> Iterator[None]:
        """Be one of the requests that passes wait for."""
        with self._changed:
            self._members += 1
        try:
            yield
        finally:
            with self._changed:
                self._members -= 1
                if not self._members:
                    self._merged = None
                self._changed.notify_all()

    def evaluate(
        self,
        ids: Int[Array, "batch length"],
        positions: Int[Array, "batch length"],
        visible: Bool[Array, "batch 1 length total"] | None,
        cache: KVCache | None,
        keep: bool,
    ) -> Found:
        """One pass, as `Backbone` has it, perhaps together with those of other threads."""
        call = Call(ids, positions, visible, cache, keep, time.monotonic())
        with self._changed:
            self._calls.append(call)
            if len(self._calls) >= self._members:
                self._changed.notify_all()
            while not (call.found or call.error or self._may_compute(call)):
                left = call.since + PATIENCE - time.monotonic()
                # Whoever computes wakes the others up.
                self._changed.wait(None if self._computing or call.taken else max(left, 0.0001))
            together: list[Call] = []
            if not (call.found or call.error):
                together = chosen(self._calls, call)
                self._calls = [each for each in self._calls if each not in together]
                for each in together:
                    each.taken = True
                self._computing = True
        if together:
            self._compute(together)
        if call.error is not None:
            raise call.error
        assert call.found is not None
        return call.found

    def _may_compute(self, call: Call) -> bool:
        """Whether this thread is to evaluate now: its own pass, and others that go with it."""
        if self._computing or call.taken:
            return False
        waited = time.monotonic() - call.since >= PATIENCE
        return waited or len(self._calls) >= self._members

    def _compute(self, together: Sequence[Call]) -> None:
        """Evaluate passes in one, and wake up those who wait for them."""
        error = None
        try:
            found = self._evaluated(together)
            for call, own in zip(together, found, strict=True):
                call.found = own
        except BaseException as fault:
            error = fault
        with self._changed:
            self._computing = False
            if error is not None:
                for call in together:
                    call.error = error
            self._changed.notify_all()
        self.on_pass(len(together))

    def _evaluated(self, together: Sequence[Call]) -> list[Found]:
        if len(together) == 1:
            (call,) = together
            given = call.ids, call.positions, call.visible, call.cache, call.keep
            return [self.inner.evaluate(*given)]
        length, past = (
            max(getattr(each, name) for each in together) for name in ("length", "past")
        )
        ids, positions, visible = merged(together, length, past)
        cache = self._cache(together, past)
        keep = together[0].keep
        states, keys, values = self.inner.evaluate(ids, positions, visible, cache, keep)
        found: list[Found] = []
        first = 0
        for call in together:
            rows = slice(first, first + len(call.ids))
            first = rows.stop
            columns = slice(past - call.past, past + call.length)

            def own(kept: Sequence[States], rows: slice = rows, columns: slice = columns) -> Any:
                # A view would hold on to everybody's.
                return tuple(copied(each[rows, :, columns]) for each in kept)

            found.append((copied(states[rows, : call.length]), own(keys), own(values)))
        return found

    def _cache(self, together: Sequence[Call], past: int) -> KVCache | None:
        """All caches in one, each against the right edge; kept for the next pass over the same."""
        if past == 0:
            return None
        caches = tuple(call.cache for call in together)
        if self._merged is not None:
            before, width, whole = self._merged
            same = len(before) == len(caches) and all(map(lambda a, b: a is b, before, caches))
            if same and width == past:
                return whole
        rows = [len(call.ids) for call in together]
        known = next(cache for cache in caches if cache is not None)

        def joined(kind: str, layer: int) -> States:
            like = getattr(known, kind)[layer]
            whole = zeros(like, (sum(rows), like.shape[1], past, like.shape[3]))
            first = 0
            for cache, count in zip(caches, rows, strict=True):
                if cache is not None:
                    own = getattr(cache, kind)[layer]
                    whole[first : first + count, :, past - own.shape[2] :] = own
                first += count
            return whole

        layers = range(len(known.keys))
        found = KVCache(
            tuple(joined("keys", layer) for layer in layers),
            tuple(joined("values", layer) for layer in layers),
            np.ones((sum(rows), past), bool),  # `visible` says what is seen
            np.zeros(sum(rows), np.int64),
        )
        self._merged = caches, past, found
        return found

    @property
    def device(self) -> str:
        """That of the network."""
        return self.inner.device

    @property
    def threads(self) -> int:
        """Those of the network."""
        return self.inner.threads

    def candidates(
        self,
        states: States,
        k: int,
        constraints: Sequence[Constraint] | None = None,
        temperatures: Float[Array, " positions"] | None = None,
    ) -> Candidates:
        """The k likeliest tokens, as `Backbone` has it."""
        return self.inner.candidates(states, k, constraints, temperatures)

    def log_probabilities(
        self,
        states: States,
        ids: Int[Array, " positions"],
        constraints: Sequence[Constraint] | None = None,
    ) -> Float[Array, " positions"]:
        """Log-probabilities of given tokens, as `Backbone` has it."""
        return self.inner.log_probabilities(states, ids, constraints)

    def chain(
        self, states: States, before: Int[Array, "batch length"], past: tuple[States, ...]
    ) -> tuple[States, tuple[States, ...]]:
        """States given the token chosen before each, as `Backbone` has it."""
        return self.inner.chain(states, before, past)

    def lookahead(self, accepted: Sequence[float]) -> int:
        """How many positions a step should evaluate, as `Backbone` has it."""
        return self.inner.lookahead(accepted)

    def release(self) -> None:
        """Give memory back, as `Backbone` has it."""
        self.inner.release()


def chosen(calls: Sequence[Call], call: Call) -> list[Call]:
    """A pass and those that go with it: of a like length, and keeping keys and values or not."""
    longest, shortest = call.length, call.length
    found = [call]
    for each in calls:
        if each is call or each.keep != call.keep:
            continue
        most, least = max(longest, each.length), min(shortest, each.length)
        if most <= max(SHORT, ALIKE * least):
            longest, shortest = most, least
            found.append(each)
    return found


def merged(
    together: Sequence[Call], length: int, past: int
) -> tuple[Array, Array, Bool[Array, "rows 1 length total"]]:
    """Tokens, positions and visibility of passes in one; shorter rows are padded on the right."""
    count = sum(len(call.ids) for call in together)
    ids, positions = np.zeros((count, length), np.int64), np.zeros((count, length), np.int64)
    visible = np.zeros((count, 1, length, past + length), bool)
    each = np.arange(length)
    visible[:, 0, each, past + each] = True  # of padding: a row that sees nothing is no number
    first = 0
    for call in together:
        rows = slice(first, first + len(call.ids))
        first = rows.stop
        ids[rows, : call.length], positions[rows, : call.length] = call.ids, call.positions
        seen = True if call.visible is None else call.visible
        visible[rows, :, : call.length, past - call.past : past + call.length] = seen
    return ids, positions, visible


def zeros(like: States, shape: tuple[int, ...]) -> States:
    """Zeros of the network's own kind of array."""
    return like.new_zeros(shape) if hasattr(like, "new_zeros") else np.zeros(shape, like.dtype)


def copied(part: States) -> States:
    """A copy of part of an array."""
    return part.clone() if hasattr(part, "clone") else part.copy()

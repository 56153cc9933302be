"""The seam between the decoder and a network: candidates, not logits.

A backbone reads a context causally and keeps its keys and values (the KV cache), which never
depend on a canvas and so are exact. If it can denoise, it also reads a canvas, whose positions
see the whole context and each other, in both directions unless each predicts the next one (a
shift): one set of weights for both ways of reading, as in TiDAR (arXiv 2511.08923) and Set Block
Decoding (arXiv 2509.04185).

A decoder asks for the likeliest tokens at some positions; a full row of a large vocabulary never
crosses the seam:

    states, cache = backbone.encode([[1, 2, 3]])            # prefill
    states = backbone.denoise(canvas, cache, last=[3])      # one step
    found = backbone.candidates(states[0], k=16)            # found.ids, found.log_probabilities

Ids, masks and positions are numpy arrays. States, keys and values are whatever the network
computes with, as long as numpy can index them like its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from talaria.coder.errors import CheckpointError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Array = NDArray[Any]
PART = 64  # values of which `largest` takes the maximum first
Fork = tuple[int, int]  # a row's tokens from the first number on follow so many of its first
States = Any  # [batch, length, width] of the network's own kind of array


@dataclass(frozen=True)
class Marks:
    """The special tokens of a model, by name.

    mask   stands at an open position of a canvas
    eom    ends a middle
    never  must not be written: the mask and the sentinels of the layout
    """

    mask: int
    eom: int
    never: tuple[int, ...]


@dataclass(frozen=True)
class Constraint:
    """What may stand at a position: one of `only` (None: any token), except what is `forbidden`.

    A forbidden token is allowed after all where no other would be left.
    """

    only: Sequence[int] | None = None
    forbidden: tuple[int, ...] = ()


@dataclass(frozen=True)
class Candidates:
    """The likeliest tokens of some positions, the likeliest first.

    log_probabilities  under the constraints and the temperature, over the whole vocabulary
    """

    ids: Int[Array, "positions k"]
    log_probabilities: Float[Array, "positions k"]


@dataclass(frozen=True)
class KVCache:
    """Keys and values of contexts, a pair per layer.

    keys, values   per layer [batch, key-value heads, length, head size]
    valid          [batch, length]; False where a shorter row is padded, or its token was dropped
    next_position  [batch]; the position of each row's next token
    """

    keys: tuple[States, ...]
    values: tuple[States, ...]
    valid: Bool[Array, "batch length"]
    next_position: Int[Array, " batch"]

    def rows(self, index: Int[Array, " rows"]) -> KVCache:
        """These rows in this order, repetitions allowed; columns that none of them uses are cut."""
        keys, values = (tuple(x[index] for x in pair) for pair in (self.keys, self.values))
        return KVCache(keys, values, self.valid[index], self.next_position[index]).compact()

    def compact(self) -> KVCache:
        """The cache without columns that no row sees.

        Where they stand between others, attention adds up in other groups and rounds otherwise.
        """
        used = np.logical_or.reduce(self.valid, axis=0)
        if used.all():
            return self
        count = int(used.sum())
        columns = slice(count) if used[:count].all() else used
        keys, values = (tuple(x[:, :, columns] for x in pair) for pair in (self.keys, self.values))
        return replace(self, keys=keys, values=values, valid=self.valid[:, columns])

    def first(self, length: int) -> KVCache:
        """The cache as it was after `length` tokens; only for rows without padding."""
        keys, values = ([x[:, :, :length] for x in pair] for pair in (self.keys, self.values))
        dropped = self.valid.shape[1] - length
        return KVCache(
            tuple(keys), tuple(values), self.valid[:, :length], self.next_position - dropped
        )

    def without(self, last: Int[Array, " batch"]) -> KVCache:
        """The cache as it was before the `last` tokens of each row were read."""
        dropped = np.cumsum(self.valid[:, ::-1], axis=1)[:, ::-1] <= last[:, None]
        return replace(
            self, valid=self.valid & ~dropped, next_position=self.next_position - last
        ).compact()


OnRead = Callable[[Sequence[Sequence[int]], KVCache | None, KVCache], None]


@dataclass(frozen=True)
class Reading:
    """How far canvases have been read.

    cache  of the contexts; with a shift, without their last tokens, and with what was read since
    last   [batch]; the last token of each context
    read   [batch]; how many tokens of the canvas, the last one of the context before them, the
           cache holds; always 0 without a shift
    """

    cache: KVCache
    last: Int[Array, " batch"]
    read: Int[Array, " batch"]

    def rows(self, index: Int[Array, " rows"]) -> Reading:
        """These rows in this order."""
        return Reading(self.cache.rows(index), self.last[index], self.read[index])


class Backbone(ABC):
    """A language model as a decoder sees it.

    name      that of the model, for messages
    marks     its special tokens
    denoises  whether it can read a canvas; a causal model cannot: it does "ar" and "verify" only
    shift     whether the state of position i predicts token i + 1, as in models adapted from
              causal ones, or token i itself
    chained   whether it has a `chain`
    pass_length  the most tokens of a context to read at once, so that a request whose context takes
                 long can be cancelled in between; None: any number
    among     how many of a position's own candidates the chain ranks anew; None: any token may
              come out
    masks     how many masks in a row it tells apart, and was trained on; 1: it does not
    positions  how many the network was trained on; None: not known
    on_read   hears of every causal pass: its tokens, the cache before it, and the cache with them
    """

    name: str = "the model"
    marks: Marks
    denoises: bool = True
    shift: bool = False
    chained: bool = False
    pass_length: int | None = None
    among: int | None = None
    masks: int = 1
    positions: int | None = None
    on_read: OnRead | None = None

    @property
    @abstractmethod
    def device(self) -> str:
        """Where it computes: "cpu", "cuda:0", …"""

    @property
    @abstractmethod
    def threads(self) -> int:
        """How many threads compute a pass on a CPU."""

    @abstractmethod
    def evaluate(
        self,
        ids: Int[Array, "batch length"],
        positions: Int[Array, "batch length"],
        visible: Bool[Array, "batch 1 length total"] | None,
        cache: KVCache | None,
        keep: bool,
    ) -> tuple[States, tuple[States, ...], tuple[States, ...]]:
        """One pass over tokens behind the cache: states [batch, length, width].

        `visible` says which cached and which of these tokens each one sees; None: all. With
        `keep`, also the keys and values per layer of both, [batch, heads, total, size]; else ().
        """

    @abstractmethod
    def candidates(
        self,
        states: States,
        k: int,
        constraints: Sequence[Constraint] | None = None,
        temperatures: Float[Array, " positions"] | None = None,
    ) -> Candidates:
        """The k likeliest tokens for each of these states, [positions, width].

        `constraints` holds one per position; None: no constraints. Tokens in `marks.never` are
        never candidates. Each temperature divides the logits of a position; None: 1 everywhere.
        """

    @abstractmethod
    def log_probabilities(
        self,
        states: States,
        ids: Int[Array, " positions"],
        constraints: Sequence[Constraint] | None = None,
    ) -> Float[Array, " positions"]:
        """Log-probability of one given token at each of these states, [positions, width]."""

    def numbers(self, logs: Array) -> Array:
        """These log-probabilities; CheckpointError if they are no numbers.

        They are none for a whole row if one of its logits is none, or infinite.
        """
        if np.isnan(logs).any():
            raise CheckpointError(
                f"{self.name}: computes what is no number, so its weights are damaged; "
                "fetch or train it again, or choose another model"
            )
        return logs

    def chain(
        self, states: States, before: Int[Array, "batch length"], past: tuple[States, ...]
    ) -> tuple[States, tuple[States, ...]]:
        """States of canvas positions, given the token chosen before each; only if `chained`.

        `states` come from `denoise`, which sees the canvas but not what is being chosen in the
        same step; `before` holds the tokens before these positions, the mask before the first.
        Each position sees those before it in the canvas, whose keys and values are `past`.
        Returns the new states, and `past` with these positions appended.
        """
        raise NotImplementedError

    def lookahead(self, accepted: Sequence[float]) -> int:
        """How many positions a step should evaluate, given how often masks are right.

        `accepted` has the share of canvases whose first mask is right, whose first two are, and so
        on. 1 where the time that masks take is more than what they save.
        """
        return 1 + len(accepted)

    def release(self) -> None:  # noqa: B027 a model that holds nothing back has nothing to do
        """Give memory back to the system that passes took and the next ones can do without."""

    def encode(
        self,
        contexts: Sequence[Sequence[int]],
        cache: KVCache | None = None,
        forks: Sequence[Sequence[Fork]] | None = None,
    ) -> tuple[States, KVCache]:
        """Read tokens causally behind the cache, one sequence a row (prefill).

        Returns states whose candidates are for the next token, [batch, longest, width], and the
        cache with the new tokens. Shorter rows are padded on the right. The cache given is
        left as it was. With `forks`, some a row, each row ends in runs of tokens that do not follow
        all those before them; of two runs, the first follows more.
        """
        batch, length = len(contexts), max(len(row) for row in contexts)
        ids = np.zeros((batch, length), np.int64)
        valid = np.zeros((batch, length), bool)
        for row, context in enumerate(contexts):
            ids[row, : len(context)] = context
            valid[row, : len(context)] = True
        visible = np.broadcast_to(np.tri(length, dtype=bool), (batch, 1, length, length))
        start = np.zeros(batch, np.int64)
        if cache is not None:
            start = cache.next_position
            past = np.broadcast_to(
                cache.valid[:, None, None, :], (batch, 1, length, cache.valid.shape[1])
            )
            visible = np.concatenate((past, visible), axis=-1)
            valid = np.concatenate((cache.valid, valid), axis=1)
        positions = start[:, None] + np.arange(length)
        if forks is not None:
            visible, read = visible.copy(), visible.shape[-1] - length
            for row, runs in enumerate(forks):
                for number, (begin, behind) in enumerate(runs):
                    own = slice(begin, runs[number + 1][0] if number + 1 < len(runs) else length)
                    visible[row, 0, own, read + behind : read + begin] = False
                    positions[row, own] -= begin - behind
        states, keys, values = self.evaluate(ids, positions, visible, cache, keep=True)
        next_position = start + np.array([len(row) for row in contexts])
        found = KVCache(keys, values, valid, next_position)
        if self.on_read is not None:
            self.on_read(contexts, cache, found)
        return states, found

    def denoise(
        self,
        canvas: Int[Array, "batch block"],
        cache: KVCache,
        last: Sequence[int],
        present: Bool[Array, "batch block"] | None = None,
    ) -> States:
        """States that predict the canvas's tokens, [batch, block, width]: one step.

        The canvas continues the cached context, whose last token in each row is `last`. It sees
        the context and, in both directions, itself; positions that are not `present` are seen
        by none, as if the canvas ended before them. The cache is left as it was.

        With a `shift`, each position predicts the next one. So the last token of the context is
        read again, the canvas's own last position is not read, and the canvas sees itself
        causally: the first prediction is exactly the causal model's, and no state depends on how
        many positions follow.
        """
        batch, length = canvas.shape
        own = np.ones_like(canvas, bool) if present is None else present
        if not self.shift:
            visible = None
            if not own.all() or not cache.valid.all():
                seen = np.concatenate((cache.valid, own), axis=1)[:, None, None, :]
                visible = np.broadcast_to(seen, (batch, 1, length, seen.shape[-1]))
            positions = cache.next_position[:, None] + np.arange(length)
            return self.evaluate(canvas, positions, visible, cache, keep=False)[0]
        begun = self.begin(cache, last)
        ids = np.concatenate((begun.last[:, None], canvas[:, :-1]), axis=1)
        # What is read predicts the position after it, and stays unseen where that is not present.
        needed = np.concatenate((np.ones((batch, 1), bool), own[:, 1:]), axis=1)
        inside = needed[:, None, :] & np.tri(length, dtype=bool)
        valid = begun.cache.valid
        past = np.broadcast_to(valid[:, None, :], (batch, length, valid.shape[1]))
        visible = np.concatenate((past, inside), axis=-1)[:, None]
        positions = begun.cache.next_position[:, None] + np.arange(length)
        return self.evaluate(ids, positions, visible, begun.cache, keep=False)[0]

    def begin(self, cache: KVCache, last: Sequence[int]) -> Reading:
        """Canvases behind cached contexts, whose last tokens are `last`: nothing is read yet."""
        nothing = np.zeros(len(last), np.int64)
        return Reading(
            cache.without(nothing + 1) if self.shift else cache, np.array(last, np.int64), nothing
        )

    def denoise_on(
        self,
        canvas: Int[Array, "batch block"],
        reading: Reading,
        widths: Int[Array, " batch"],
        known: Int[Array, " batch"],
    ) -> tuple[States, Reading]:
        """The states of `denoise` with the first `widths` positions of each row present.

        The first `known` tokens of each row stay as they are in all later steps. With a shift,
        their keys and values never change either, so they are kept, and a step reads only what is
        new: states of positions before `reading.read` are zeros.
        """
        batch, length = canvas.shape
        if not self.shift:
            present = np.arange(length) < widths[:, None]
            states = self.denoise(canvas, reading.cache, reading.last.tolist(), present)
            return states, reading
        # Where nothing was decided behind the last known token, it is read again.
        begin, cache = np.minimum(reading.read, known), reading.cache
        if (begin < reading.read).any():
            cache = cache.without(reading.read - begin)
        ids = np.concatenate((reading.last[:, None], canvas), axis=1)
        spans = list(zip(begin.tolist(), widths.tolist(), strict=True))
        new = [row[start:end] for row, (start, end) in zip(ids.tolist(), spans, strict=True)]
        found, cache = self.encode(new, cache)
        states = np.zeros((batch, length, found.shape[2]), np.float32)
        for row, (start, end) in enumerate(spans):
            states[row, start:end] = found[row, : end - start]
        return states, Reading(cache.without(widths - 1 - known), reading.last, 1 + known)


class CpuBackbone(Backbone):
    """A backbone that computes rows of logits in numpy arrays, which it keeps to itself."""

    @abstractmethod
    def logits(self, states: States) -> Float[Array, "positions vocab"]:
        """Logits of states, [positions, width], in float32."""

    def candidates(
        self,
        states: States,
        k: int,
        constraints: Sequence[Constraint] | None = None,
        temperatures: Float[Array, " positions"] | None = None,
    ) -> Candidates:
        """The k likeliest tokens, as `Backbone` has it."""
        found = likeliest(self.logits(states), k, self.marks.never, constraints, temperatures)
        self.numbers(found.log_probabilities)
        return found

    def log_probabilities(
        self,
        states: States,
        ids: Int[Array, " positions"],
        constraints: Sequence[Constraint] | None = None,
    ) -> Float[Array, " positions"]:
        """Log-probabilities of given tokens, as `Backbone` has it."""
        logits = self.logits(states)
        constrain(logits, constraints)
        found: Array = log_softmax(logits)[np.arange(len(ids)), ids]
        return self.numbers(found)


def likeliest(
    logits: Float[Array, "positions vocab"],
    k: int,
    never: Sequence[int],
    constraints: Sequence[Constraint] | None = None,
    temperatures: Float[Array, " positions"] | None = None,
) -> Candidates:
    """Candidates from float32 logits, which are overwritten; equal ones in the order of their ids.

    Which of equal ones are left out where there are more than k is undefined.
    """
    logits[:, never] = -np.inf
    constrain(logits, constraints)
    if temperatures is not None:
        logits /= temperatures[:, None]
    logs = log_softmax(logits)
    if k == 1:
        ids = logs.argmax(1)[:, None]
    else:
        ids = np.sort(largest(logs, min(k, logs.shape[1])), axis=1)
        order = np.argsort(-np.take_along_axis(logs, ids, 1), axis=1, kind="stable")
        ids = np.take_along_axis(ids, order, 1)
    return Candidates(ids, np.take_along_axis(logs, ids, 1))


def largest(values: Float[Array, "rows size"], k: int) -> Int[Array, "rows k"]:
    """Where each row's k largest values are, in no order."""
    rows, size = values.shape
    parts = size // PART
    if k < parts:
        # They lie in the k parts with the largest maxima, which takes less time to find out than
        # to partition a vocabulary.
        whole = parts * PART
        maxima = values[:, :whole].reshape(rows, parts, PART).max(2)
        chosen = np.argpartition(-maxima, k - 1, axis=1)[:, :k, None]
        inside = (chosen * PART + np.arange(PART)).reshape(rows, -1)
        places = np.pad(inside, ((0, 0), (0, size - whole)))
        places[:, inside.shape[1] :] = np.arange(whole, size)
        values = np.take_along_axis(values, places, 1)
        return np.take_along_axis(places, np.argpartition(-values, k - 1, axis=1)[:, :k], 1)
    return np.argpartition(-values, k - 1, axis=1)[:, :k]


def constrain(logits: States, constraints: Sequence[Constraint] | None) -> None:
    """Apply a constraint to each row of logits, [positions, vocab], in place."""
    for row, constraint in zip(logits, constraints or (), strict=False):
        if constraint.only is not None:
            only = np.asarray(constraint.only)
            kept = row[only]
            row[:] = -np.inf
            row[only] = kept
        for token in constraint.forbidden:
            before = float(row[token])
            row[token] = -np.inf
            if math.isinf(float(row.max())):  # nothing else may stand there
                row[token] = before


def log_softmax(logits: Float[Array, "positions vocab"]) -> Float[Array, "positions vocab"]:
    """Log-probabilities of logits, in float32."""
    with np.errstate(invalid="ignore"):  # infinite ones give NaN, as NaN does
        shifted: Array = logits - logits.max(1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(1, keepdims=True))
    return shifted

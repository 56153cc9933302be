"""Candidates are those of the constrained distribution, and a cache is what was read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.backbone import (
    Array,
    Backbone,
    Candidates,
    Constraint,
    KVCache,
    Marks,
    largest,
    likeliest,
)
from talaria.coder.families.talaria import TalariaTokenizer, TransformerConfig
from talaria.coder.families.talaria_torch import Transformer
from tests.conftest import onnx_backbone

CONTEXT = [5, 9, 33, 120, 7, 301, 44, 12, 99, 250, 3]
rng = np.random.default_rng(0)


def close(one: Array, other: Array) -> None:
    """Equal to the accuracy of float32."""
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def canvas_of(rows: int) -> Array:
    """A canvas with any tokens."""
    return rng.integers(0, 300, (rows, 8))


# Candidates

VOCAB = 7
tokens = st.integers(0, VOCAB - 1)
logits = st.lists(
    st.lists(st.floats(-30, 30, width=32), min_size=VOCAB, max_size=VOCAB), min_size=1, max_size=3
)
forbidden = st.lists(tokens, max_size=3).map(tuple)


@given(
    rows=logits,
    k=st.integers(1, 2 * VOCAB),
    never=st.lists(tokens, max_size=3, unique=True),
    data=st.data(),
)
def test_candidates_are_those_of_the_constrained_softmax(
    rows: list[list[float]], k: int, never: list[int], data: Any
) -> None:
    """Sorted, at most k of them, normalised over the whole vocabulary, without what is forbidden.

    What is forbidden by a constraint gives way where nothing else would be left.
    """
    count = len(rows)
    only = st.lists(st.sampled_from([t for t in range(VOCAB) if t not in never]), min_size=1)
    constraint = st.builds(Constraint, st.none() | only, forbidden)
    each = data.draw(st.lists(constraint, min_size=count, max_size=count))
    heat = data.draw(st.none() | st.lists(st.floats(0.1, 4), min_size=count, max_size=count))
    given_logits = np.array(rows, np.float32)
    found = likeliest(
        given_logits.copy(), k, never, each, None if heat is None else np.array(heat, np.float32)
    )
    assert found.ids.shape == found.log_probabilities.shape == (count, min(k, VOCAB))
    for row in range(count):
        allowed = set(range(VOCAB) if each[row].only is None else each[row].only or ())
        allowed -= set(never)
        for token in each[row].forbidden:
            allowed = allowed - {token} or allowed
        scaled = given_logits[row].astype(float) / (heat[row] if heat else 1)
        chances = np.array([np.exp(scaled[t]) if t in allowed else 0 for t in range(VOCAB)])
        expected = chances / chances.sum()
        ids, logs = found.ids[row].tolist(), found.log_probabilities[row]
        assert len(set(ids)) == len(ids)
        assert (np.diff(logs[np.isfinite(logs)]) <= 0).all()
        np.testing.assert_allclose(np.exp(logs), expected[ids], rtol=1e-3, atol=1e-6)
        real = [token for token, log in zip(ids, logs, strict=True) if np.isfinite(log)]
        assert set(real) <= allowed
        assert len(real) == min(k, len(allowed))
        order = sorted(allowed, key=lambda t: (-scaled[t], t))
        np.testing.assert_allclose(scaled[real], scaled[order[: len(real)]], atol=1e-4)


@given(st.integers(1, 12), st.integers(0, 70), st.integers(1, 20), st.integers(1, 4), st.data())
def test_the_largest_values(parts: int, rest: int, k: int, rows: int, data: Any) -> None:
    """As sorting finds them, in rows of any length, with equal and infinite values among them."""
    size = parts * 64 + rest
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(0, data.draw(st.sampled_from([3, 10**6])), (rows, size)).astype(
        np.float32
    )
    values[rng.random(values.shape) < data.draw(st.sampled_from([0, 0.5, 0.999]))] = -np.inf
    found = largest(values, k)
    assert found.shape == (rows, k)
    assert all(len(set(row)) == k for row in found.tolist())
    chosen = np.sort(np.take_along_axis(values, found, 1))
    np.testing.assert_array_equal(chosen, np.sort(values)[:, -k:])


def test_equal_candidates_come_in_the_order_of_their_ids() -> None:
    """However many of them are asked for."""
    for k in (1, 2, 4):
        found = likeliest(np.array([[1, 3, 2, 3]], np.float32), k, ())
        assert found.ids[0].tolist() == [1, 3, 2, 0][:k]


# The KV cache


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    more=st.integers(0, 3),
    data=st.data(),
)
def test_a_cache_holds_what_its_rows_have_read(lengths: list[int], more: int, data: Any) -> None:
    """Whichever rows are taken and whatever is dropped: the last tokens go, the others stay."""
    read = [[10 * row + place for place in range(length)] for row, length in enumerate(lengths)]
    stub = Recorder()
    _, cache = stub.encode(read)
    if more:
        rest = [[100 + row] * more for row in range(len(read))]
        _, cache = stub.encode(rest, cache)
        read = [[*one, *two] for one, two in zip(read, rest, strict=True)]
    assert seen(cache) == read
    index = data.draw(st.lists(st.integers(0, len(read) - 1), min_size=1, max_size=5))
    some = cache.rows(np.array(index))
    assert seen(some) == [read[row] for row in index]
    assert some.valid.any(0).all()  # no column that none of these rows uses
    last = np.array([data.draw(st.integers(0, len(read[row]))) for row in index])
    fewer = some.without(last)
    kept = [read[row][: len(read[row]) - n] for row, n in zip(index, last, strict=True)]
    assert seen(fewer) == kept
    assert fewer.valid.any(0).all()
    assert fewer.next_position.tolist() == [len(ids) for ids in kept]
    assert seen(some) == [read[row] for row in index]  # it was left as it was
    _, again = stub.encode([[7]] * len(index), fewer)
    assert seen(again) == [[*ids, 7] for ids in kept]
    assert again.next_position.tolist() == [len(ids) + 1 for ids in kept]


def test_a_cache_as_it_was() -> None:
    """After so many tokens of a single row."""
    _, cache = Recorder().encode([CONTEXT])
    for length in (1, 5, len(CONTEXT)):
        first = cache.first(length)
        assert seen(first) == [CONTEXT[:length]]
        assert first.next_position.tolist() == [length]


def seen(cache: KVCache) -> list[list[int]]:
    """The tokens that each row of a recorder's cache still shows."""
    return [
        ids[valid].tolist()
        for ids, valid in zip(cache.keys[0][:, 0, :, 0], cache.valid, strict=True)
    ]


class Recorder(Backbone):
    """A backbone whose keys are token ids, and which records what it is asked to evaluate."""

    marks = Marks(0, 1, (0,))
    device, threads = "cpu", 1

    def __init__(self, shift: bool = False) -> None:
        self.shift = shift
        self.asked: list[tuple[Array, Array, Array | None, KVCache | None]] = []

    def evaluate(
        self, ids: Array, positions: Array, visible: Array | None, cache: KVCache | None, keep: bool
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """States are the ids themselves."""
        self.asked.append((ids, positions, visible, cache))
        keys = ids[:, None, :, None]
        if cache is not None:
            keys = np.concatenate((cache.keys[0], keys), 2)
        return ids[..., None], (keys,) if keep else (), (keys,) if keep else ()

    def candidates(self, states: Array, k: int, *more: Any) -> Candidates:
        """Nobody asks for them here."""
        raise NotImplementedError

    def log_probabilities(self, states: Array, ids: Array, *more: Any) -> Array:
        """Nor for these."""
        raise NotImplementedError


def asked(recorder: Recorder) -> tuple[Array, Array, Array, list[list[int]]]:
    """Ids, positions, what each token sees of the visible cached ones and of these, the cache."""
    ids, positions, visible, cache = recorder.asked[-1]
    assert cache is not None
    own = ids.shape[1]
    if visible is None:
        visible = np.ones((*ids.shape[:1], 1, own, cache.valid.shape[1] + own), bool)
    return ids, positions, visible[:, 0], seen(cache)


# How a canvas is read


@pytest.mark.parametrize("shift", [False, True])
def test_who_sees_whom_in_a_canvas(shift: bool) -> None:
    """A canvas sees the context and itself in both directions, but nothing that is not present.

    With a shift, the last token of the context is read again in front of it, its own last position
    is not read, and all is causal. States speak of the canvas's own tokens.
    """
    recorder = Recorder(shift)
    contexts = [[3, 4, 5], [6]]
    _, cache = recorder.encode(contexts)
    canvas = np.array([[20, 0, 21], [22, 23, 0]])
    present = np.array([[True, True, True], [True, True, False]])
    states = recorder.denoise(canvas, cache, [5, 6], present)
    ids, positions, visible, read = asked(recorder)
    if shift:
        assert ids.tolist() == [[5, 20, 0], [6, 22, 23]]
        assert positions.tolist() == [[2, 3, 4], [0, 1, 2]]
        assert read == [[3, 4], []]
        assert states[..., 0].tolist() == [[5, 20, 0], [6, 22, 23]]  # each speaks of the next
    else:
        assert ids.tolist() == canvas.tolist()
        assert positions.tolist() == [[3, 4, 5], [1, 2, 3]]
        assert read == contexts
        assert states[..., 0].tolist() == canvas.tolist()
    for row in range(2):
        shown = recorder.asked[-1][3]
        assert shown is not None
        past = shown.valid.shape[1]
        context, own = visible[row, :, :past], visible[row, :, past:]
        assert (context == shown.valid[row]).all()
        if shift:  # what predicts a position that is not present is seen by none
            needed = [True, *present[row, 1:].tolist()]
            assert (own == np.tri(3, dtype=bool) & needed).all()
        else:
            assert (own == present[row]).all()
    assert seen(cache) == contexts  # it was left as it was


def test_what_forks_does_not_see_what_it_passes_over() -> None:
    """It stands where the tokens stand that it does not follow; the others are read as ever."""
    recorder = Recorder()
    _, cache = recorder.encode([[3, 4], [9]])
    recorder.encode([[5, 6, 7, 20, 21], [5, 20]], cache, [[(3, 1)], [(1, 1)]])
    _, positions, visible, read = asked(recorder)
    assert positions[0].tolist() == [2, 3, 4, 3, 4]
    assert positions[1, :2].tolist() == [1, 2]
    assert read == [[3, 4], [9]]
    assert visible[1, :2].astype(int).tolist() == [[1, 0, 1, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0, 0]]
    sees = [[1], [1, 1], [1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1, 1]]
    assert visible[0, :, :2].all()
    assert visible[0, :, 2:].astype(int).tolist() == [row + [0] * (5 - len(row)) for row in sees]


def test_forks_beside_each_other_do_not_see_each_other() -> None:
    """Each sees what it follows, and itself."""
    recorder = Recorder()
    _, cache = recorder.encode([[3]])
    recorder.encode([[5, 6, 7, 20, 21, 22]], cache, [[(3, 2), (5, 1)]])
    _, positions, visible, _ = asked(recorder)
    assert positions.tolist() == [[1, 2, 3, 3, 4, 2]]
    sees = [[1], [1, 1], [1, 1, 1], [1, 1, 0, 1], [1, 1, 0, 1, 1], [1, 0, 0, 0, 0, 1]]
    assert visible[0, :, 0].all()
    assert visible[0, :, 1:].astype(int).tolist() == [row + [0] * (6 - len(row)) for row in sees]


@pytest.mark.parametrize("shift", [False, True])
def test_a_context_is_read_causally(shift: bool) -> None:
    """Each token sees those before it, padding is seen by none, and positions go on."""
    recorder = Recorder(shift)
    _, cache = recorder.encode([[3, 4, 5], [6]])
    _, visible = recorder.asked[-1][1:3]
    assert visible is not None
    assert (visible == np.tri(3, dtype=bool)).all()
    _, longer = recorder.encode([[7], [8, 9]], cache)
    ids, positions, visible, read = asked(recorder)
    assert (ids.tolist(), positions.tolist()) == ([[7, 0], [8, 9]], [[3, 4], [1, 2]])
    assert read == [[3, 4, 5], [6]]
    assert visible[1].tolist() == [
        [True, False, False, True, False],
        [True, False, False, True, True],
    ]
    assert seen(longer) == [[3, 4, 5, 7], [6, 8, 9]]
    assert longer.next_position.tolist() == [4, 3]


# The talaria family, cached and not


def test_cached_context_equals_a_fresh_one(backbone: Backbone) -> None:
    """Reading a context in pieces gives the states of reading it at once."""
    whole, _ = backbone.encode([CONTEXT])
    _, cache = backbone.encode([CONTEXT[:4]])
    _, cache = backbone.encode([CONTEXT[4:5]], cache)
    rest, _ = backbone.encode([CONTEXT[5:]], cache)
    close(rest, whole[:, 5:])


def test_a_batch_row_equals_its_solo_row(backbone: Backbone) -> None:
    """Rows of different lengths side by side give the states that each gives alone."""
    contexts = [CONTEXT, CONTEXT[:4], [*CONTEXT, 8, 8, 8]]
    canvas = canvas_of(3)
    _, cache = backbone.encode(contexts)
    together = backbone.denoise(canvas, cache, [context[-1] for context in contexts])
    _, longer = backbone.encode([[1, 2], [3], [4, 5]], cache)
    after = backbone.denoise(canvas, longer, [2, 3, 5])
    for row, (context, more) in enumerate(zip(contexts, [[1, 2], [3], [4, 5]], strict=True)):
        _, solo = backbone.encode([context])
        close(together[row : row + 1], backbone.denoise(canvas[row : row + 1], solo, context[-1:]))
        _, solo = backbone.encode([more], solo)
        close(after[row : row + 1], backbone.denoise(canvas[row : row + 1], solo, more[-1:]))


def test_positions_that_are_not_present_are_as_if_not_there(backbone: Backbone) -> None:
    """A row whose canvas ends early is denoised as one that is shorter."""
    canvas = canvas_of(2)
    _, cache = backbone.encode([CONTEXT, CONTEXT[:4]])
    present = np.arange(8) < np.array([[8], [5]])
    both = backbone.denoise(canvas, cache, [3, 120], present)
    close(both[:1], backbone.denoise(canvas, cache, [3, 120])[:1])
    _, solo = backbone.encode([CONTEXT[:4]])
    close(both[1:, :5], backbone.denoise(canvas[1:, :5], solo, [120]))


def test_encoding_leaves_the_cache_as_it_was(backbone: Backbone) -> None:
    """So that several requests may start from one context."""
    _, cache = backbone.encode([CONTEXT])
    before = [keys.copy() for keys in cache.keys]
    backbone.encode([[1, 2, 3]], cache)
    backbone.denoise(np.zeros((1, 8), np.int64), cache, CONTEXT[-1:])
    assert all(np.array_equal(a, b) for a, b in zip(before, cache.keys, strict=True))
    assert cache.next_position.tolist() == [len(CONTEXT)]


def test_rows_of_a_cache_leave_out_what_none_of_them_uses(backbone: Backbone) -> None:
    """Fewer columns, the same states; and a row may be named twice."""
    _, cache = backbone.encode([CONTEXT, CONTEXT[:4], CONTEXT[2:5]])
    _, cache = backbone.encode([[1, 2], [3, 4], [5, 6]], cache)
    canvas = canvas_of(3)
    expected = backbone.denoise(canvas, cache, [2, 4, 6])
    index = np.array([2, 1, 2])
    fewer = cache.rows(index)
    assert fewer.valid.shape[1] == fewer.keys[0].shape[2] == 6
    close(backbone.denoise(canvas[index], fewer, [6, 4, 6]), expected[index])


@pytest.mark.parametrize("last", [(1, 1), (3, 0), (2, 3)])
def test_a_cache_without_its_last_tokens(backbone: Backbone, last: tuple[int, int]) -> None:
    """Is that of contexts so much shorter, also where rows differ in length; and of one row."""
    contexts = [CONTEXT, CONTEXT[:4]]
    canvas = canvas_of(2)
    _, cache = backbone.encode(contexts)
    less = [context[: len(context) - n] for context, n in zip(contexts, last, strict=True)]
    ends: Sequence[int] = [context[-1] for context in less]
    _, shorter = backbone.encode(less)
    expected = backbone.denoise(canvas, shorter, ends)
    close(backbone.denoise(canvas, cache.without(np.array(last)), ends), expected)
    _, cache = backbone.encode(contexts[:1])
    alone = backbone.denoise(canvas[:1], cache.without(np.array(last[:1])), ends[:1])
    close(alone, expected[:1])


@pytest.mark.parametrize("layers", [1, 2])
def test_a_chain_in_steps_is_the_chain_at_once(
    transformer: Transformer, tokenizer: TalariaTokenizer, layers: int
) -> None:
    """One position a time or several, each sees those before it, in every layer."""
    torch.manual_seed(0)
    deep = Transformer(dataclasses.replace(transformer.config, chain_layers=layers))
    for parameter in deep.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    backbone = onnx_backbone(deep.requires_grad_(False), tokenizer)
    states = rng.normal(size=(2, 8, deep.config.width)).astype(np.float32)
    before = canvas_of(2)
    whole, known = backbone.chain(states, before, ())
    for ends in ([1, 2, 3, 4, 5, 6, 7, 8], [3, 8]):
        past: tuple[Array, ...] = ()
        for begin, end in pairwise([0, *ends]):
            some, past = backbone.chain(states[:, begin:end], before[:, begin:end], past)
            close(some, whole[:, begin:end])
        assert len(past) == 2 * layers
        for one, other in zip(past, known, strict=True):
            close(one, other)


@pytest.mark.parametrize("field", ["layers", "width", "heads", "block_length"])
def test_impossible_shapes_are_refused(field: str) -> None:
    """With the field, the value and the limit."""
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(TransformerConfig(100), **{field: 0})
    with pytest.raises(ValueError, match="divisible"):
        TransformerConfig(100, width=100, heads=3)

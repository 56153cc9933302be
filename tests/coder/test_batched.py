"""Passes of several requests in one: each request gets what it gets alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from talaria.coder.backbone import Array, Backbone, KVCache
from talaria.coder.batched import Batched, Call, chosen
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.engine import Engine
from talaria.coder.errors import CheckpointError
from talaria.coder.families.talaria_torch import TorchBackbone, Transformer
from talaria.coder.infill import fill
from talaria.coder.request import Options, Request
from tests.coder.holes import CODE

PATIENCE = 30.0


def together(
    backbone: Batched, works: Sequence[Callable[[], Any]], before: Callable[[], object] = lambda: 0
) -> list[Any]:
    """What these work out, each in a thread; all take part before the first of them begins."""
    barrier = threading.Barrier(len(works), timeout=PATIENCE)

    def run(work: Callable[[], Any]) -> Any:
        with backbone.taking_part():
            barrier.wait()
            return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return [each.result(PATIENCE) for each in [threads.submit(run, work) for work in works]]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes wait for each other however slow the machine is."""
    monkeypatch.setattr("talaria.coder.batched.PATIENCE", PATIENCE)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_pass_gives_what_it_gives_alone(
    backbone: Backbone, transformer: Transformer, tokenizer: Any, kind: str
) -> None:
    """Whatever contexts it follows, however long they are, and with several rows."""
    inner = backbone if kind == "onnx" else TorchBackbone(transformer, tokenizer.marks)
    rng = random.Random(0)
    shared: list[int] = []
    batched = Batched(inner, shared.append)
    for _ in range(5):
        contexts = [[rng.randrange(300) for _ in range(rng.randrange(1, 40))] for _ in range(4)]
        alone = [inner.encode([context]) for context in contexts]
        encoded = together(batched, [partial(batched.encode, [context]) for context in contexts])
        for (states, cache), (own, kept) in zip(encoded, alone, strict=True):
            assert np.allclose(states, own, atol=1e-4)
            assert (kept.next_position == cache.next_position).all()
            for one, other in zip(cache.keys + cache.values, kept.keys + kept.values, strict=True):
                assert np.allclose(one, other, atol=1e-4)
        steps = [
            partial(step, np.array([[rng.randrange(300) for _ in range(8)]] * rows), width, *given)
            for rows, width, given in zip(
                (1, 2, 1, 3),
                (8, 3, 5, 1),
                [(cache, ids[-1]) for (_, cache), ids in zip(alone, contexts, strict=True)],
                strict=True,
            )
        ]
        found = together(batched, [partial(each, batched) for each in steps])
        for one, each in zip(found, steps, strict=True):
            assert np.allclose(one, each(inner), atol=1e-4)
    assert max(shared) == 4


def step(canvas: Array, width: int, cache: KVCache, last: int, backbone: Backbone) -> Array:
    """The states of the first positions of rows that follow one context."""
    rows = np.zeros(len(canvas), np.int64)
    present = (np.arange(8)[None] < width).repeat(len(rows), 0)
    found = backbone.denoise(canvas, cache.rows(rows), [last] * len(rows), present)
    return np.asarray(found)[:, :width]


@pytest.mark.usefixtures("patient")
def test_a_request_gets_its_solo_text(model: Checkpoint) -> None:
    """Whatever its options are and whoever comes beside it; passes are shared."""
    shared: list[int] = []
    lines = "\n".join(CODE).splitlines(True)
    options = [
        Options(max_tokens=12),
        Options("ar", max_tokens=9),
        Options("verify", max_tokens=12),
        Options(candidates=3, max_tokens=8, seed=4),
    ]
    requests = [
        Request("".join(lines[:place]), "".join(lines[place + 1 :]), options[place % 4])
        for place in range(2, 10)
    ]
    alone = [fill(model, request) for request in requests]
    batched = replace(model, backbone=Batched(model.backbone, shared.append))
    assert isinstance(batched.backbone, Batched)
    found = together(batched.backbone, [partial(fill, batched, each) for each in requests])
    for one, other in zip(found, alone, strict=True):
        assert [each.text for each in one.candidates] == [each.text for each in other.candidates]
        assert one.nfe == other.nfe
        assert one.best.stopped == other.best.stopped
    assert max(shared) > 4


@pytest.mark.usefixtures("patient")
def test_a_fault_reaches_everybody_who_shared_the_pass(backbone: Backbone) -> None:
    """And the next pass works again."""

    class Failing(Batched):
        fails = True

        def _evaluated(self, together: Sequence[Call]) -> Any:
            if self.fails and len(together) > 1:
                raise CheckpointError("damaged")
            return super()._evaluated(together)

    batched = Failing(backbone)

    def work() -> str:
        try:
            batched.encode([[1, 2, 3]])
        except CheckpointError as error:
            return str(error)
        return ""

    assert together(batched, [work] * 3) == ["damaged"] * 3
    batched.fails = False
    assert together(batched, [work] * 3) == [""] * 3


def test_nobody_waits_long_for_others(backbone: Backbone) -> None:
    """One that takes part and never comes does not hold the others up."""
    batched = Batched(backbone)
    with batched.taking_part(), batched.taking_part():
        states, _ = batched.encode([[1, 2, 3]])
    assert np.allclose(states, backbone.encode([[1, 2, 3]])[0], atol=1e-5)


def test_passes_of_unlike_length_go_apart() -> None:
    """A long context would be computed for everybody."""

    def call(length: int, keep: bool = True) -> Call:
        ids = np.zeros((1, length), np.int64)
        return Call(ids, ids, None, None, keep, 0.0)

    long, wide, short, tiny, other = call(300), call(200), call(12), call(1), call(300, False)
    calls = [tiny, other, long, short, wide]
    assert chosen(calls, long) == [long, wide]
    assert chosen(calls, short) == [short, tiny]
    assert chosen(calls, other) == [other]


@pytest.mark.usefixtures("patient")
def test_an_engine_with_workers(model: Checkpoint) -> None:
    """Answers as one does; each request is counted once, and closing ends every worker."""
    shared: list[int] = []
    requests = [
        Request(f"a = {number}\nb = ", "\n", Options(max_tokens=6), document=number)
        for number in range(12)
    ]
    with Engine(lambda: model, workers=4, on_pass=shared.append, most_bytes=10**6) as engine:
        engine.model.result(PATIENCE)
        pending = [engine.submit(request) for request in requests]
        found = [each.future.result(PATIENCE) for each in pending]
        assert engine.workers == 4
        assert 0 < engine.kept_bytes <= 10**6
    assert [each.best.text for each in found] == [fill(model, r).best.text for r in requests]
    assert engine.counters.answered == engine.counters.requests == 12
    assert max(shared) > 1
    assert not [
        each
        for each in threading.enumerate()
        if each.name == "talaria-engine" and each in engine._workers
    ]

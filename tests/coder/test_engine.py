"""One worker, the newest request of a document wins, deadlines and cancelling are kept."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import pytest

from talaria.coder import contexts
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.engine import Engine, Pending
from talaria.coder.errors import CheckpointError, UsageError
from talaria.coder.infill import infill
from talaria.coder.request import Options, Request
from talaria.coder.results import Frame, Infill

PREFIX, SUFFIX = "def mean(values):\n    total = ", "\n    return total\n"
LONG = Options("ar", max_nfe=60, max_tokens=60, check_syntax=False)


def request(
    document: str | None = None,
    prefix: str = PREFIX,
    options: Options = LONG,
    seconds: float | None = None,
) -> Request:
    """A request about a document."""
    return Request(prefix, SUFFIX, options, document=document, seconds=seconds)


@pytest.fixture
def engine(model: Checkpoint) -> Iterator[Engine]:
    """An engine with a small model."""
    engine = Engine(lambda: model)
    yield engine
    engine.close()


class Gate:
    """Holds the worker at its first step, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened, self.frames = threading.Event(), threading.Event(), 0

    def __call__(self, frame: Frame) -> None:
        """Called for every step."""
        self.frames += 1
        self.reached.set()
        assert self.opened.wait(30)


def test_an_answer_is_that_of_infill(engine: Engine, model: Checkpoint) -> None:
    """And its steps are seen as they are made; contexts are remembered."""
    frames: list[Frame] = []
    first = engine.submit(request("a.py"), frames.append)
    found = first.future.result(30)
    assert found.best == infill(model, PREFIX, SUFFIX, LONG).best
    assert len(frames) == found.nfe
    again = engine.fill(request())
    assert again.best == found.best
    assert again.reused_tokens == again.context_tokens
    counted = engine.statistics()
    assert (counted["state"], counted["requests"], counted["answered"]) == ("ready", 2, 2)
    assert counted["nfe"] == 2 * found.nfe


def test_the_newest_request_of_a_document_wins(engine: Engine) -> None:
    """The older ones, computed or waiting, are cancelled; other documents keep theirs."""
    gate = Gate()
    computed = engine.submit(request("a.py"), gate)
    assert gate.reached.wait(30)
    waiting = engine.submit(request("a.py", PREFIX + "s"))
    other = engine.submit(request("b.py"))
    newest = engine.submit(request("a.py", PREFIX + "su"))
    gate.opened.set()
    for older in (computed, waiting):
        with pytest.raises(CancelledError):
            older.future.result(30)
    assert other.future.result(30).nfe == newest.future.result(30).nfe == 60
    assert gate.frames == 1  # it was stopped before its second step
    assert engine.statistics()["superseded"] == 2


def test_requests_without_a_document_supersede_nothing(engine: Engine) -> None:
    """All are answered, in their order."""
    gate, answered = Gate(), []
    several = [engine.submit(request(), gate), engine.submit(request()), engine.submit(request())]
    for number, pending in enumerate(several):
        pending.future.add_done_callback(lambda _, number=number: answered.append(number))  # type: ignore[misc]
    gate.opened.set()
    assert [pending.future.result(30).nfe for pending in several] == [60] * 3
    assert answered == [0, 1, 2]
    assert engine.statistics()["superseded"] == 0


def test_a_newer_request_takes_the_place_of_one_that_waits(engine: Engine) -> None:
    """Of one that is computed, it does not: its document was served."""
    gate, answered = Gate(), []
    engine.submit(request("a.py"), gate)
    assert gate.reached.wait(30)
    first = engine.submit(request("b.py"))
    others = [
        engine.submit(each) for each in (request("c.py"), request(), request("a.py", PREFIX + "s"))
    ]
    newest = engine.submit(request("b.py", PREFIX + "s"))
    assert first.future.cancelled()
    for number, pending in enumerate((newest, *others)):
        pending.future.add_done_callback(lambda _, number=number: answered.append(number))  # type: ignore[misc]
    gate.opened.set()
    for pending in (newest, *others):
        assert pending.future.result(30).nfe == 60
    assert answered == [0, 1, 2, 3]


def test_names_of_documents_are_not_kept(engine: Engine) -> None:
    """Nobody gets ahead, or fills the memory, by many names."""
    gate, answered = Gate(), []
    names = [f"{number}.py" for number in range(20)]
    for name in names:
        engine.fill(request(name))
    engine.submit(request("busy.py"), gate)
    assert gate.reached.wait(30)
    victim = engine.submit(request("new.py"))
    known = [engine.submit(request(name)) for name in names[:3]]
    for number, pending in enumerate((victim, *known)):
        pending.future.add_done_callback(lambda _, number=number: answered.append(number))  # type: ignore[misc]
    gate.opened.set()
    for pending in (victim, *known):
        assert pending.future.result(30).nfe == 60
    assert answered == [0, 1, 2, 3]
    assert not engine._waiting


def test_a_request_that_is_given_up_while_it_waits_is_forgotten(engine: Engine) -> None:
    """At once, and it is counted once, whoever comes or ends afterwards."""
    gate = Gate()
    computed = engine.submit(request("a.py"), gate)
    assert gate.reached.wait(30)
    given_up = [engine.submit(request("b.py")), engine.submit(request())]
    kept = engine.submit(request("c.py"))
    for pending in given_up:
        pending.cancel()
    assert list(engine._waiting.values()) == [kept]
    assert engine.statistics()["cancelled"] == 2
    again = engine.submit(request("b.py"))
    gate.opened.set()
    for pending in (computed, kept, again):
        assert pending.future.result(30).nfe == 60
    counted = engine.statistics()
    assert (counted["requests"], counted["answered"], counted["cancelled"]) == (5, 3, 2)
    assert counted["superseded"] == 0


def test_a_cancelled_request_leaves_the_contexts_valid(engine: Engine, model: Checkpoint) -> None:
    """The next one for the same place gets what it would have got without it."""
    gate = Gate()
    pending = engine.submit(request("a.py"), gate)
    assert gate.reached.wait(30)
    pending.cancel()
    gate.opened.set()
    found = engine.fill(request())
    assert found.reused_tokens == found.context_tokens
    assert found.best == infill(model, PREFIX, SUFFIX, LONG).best
    assert gate.frames == 1
    assert engine.statistics()["cancelled"] == 1


@pytest.mark.parametrize("mode", ["diffuse", "verify", "ar"])
def test_at_the_deadline_the_answer_is_what_is_there(
    engine: Engine, model: Checkpoint, mode: str
) -> None:
    """The beginning of what would have come; with no time at all, nothing, at once."""
    options = Options(mode, max_nfe=60, max_tokens=60, check_syntax=False)  # type: ignore[arg-type]
    whole = infill(model, PREFIX, SUFFIX, options)
    engine.model.result(30)
    began = time.monotonic()
    at_once = engine.submit(request("a.py", options=options, seconds=0)).future.result(30)
    assert (at_once.best.text, at_once.nfe, at_once.best.stopped) == ("", 0, "deadline")
    assert time.monotonic() - began < 5

    steps = 0

    def slow(frame: Frame) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            time.sleep(2.1)

    found = engine.submit(request("a.py", options=options, seconds=2), slow).future.result(30)
    assert (found.nfe, found.best.stopped) == (3, "deadline")
    tokens = found.best.tokens
    assert tokens == whole.best.tokens[: len(tokens)]
    assert engine.statistics()["expired"] == 2


def test_everyone_learns_why_a_model_cannot_be_loaded() -> None:
    """Requests before and after get the reason; nothing loops."""

    def load() -> Checkpoint:
        raise CheckpointError("no such model")

    engine = Engine(load)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no such model"):
            engine.fill(request())
    assert engine.state == "failed"
    engine.close()


def test_a_failing_request_harms_no_other(
    engine: Engine, model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises where its answer is asked for."""
    with pytest.raises(UsageError, match="max-tokens"):
        engine.fill(request(options=Options(max_tokens=1000)))
    assert engine.fill(request()).nfe == 60
    assert engine.statistics()["failed"] == 1


def test_closing_cancels_what_there_is(model: Checkpoint) -> None:
    """What is computed, what waits, and what would come."""
    engine, gate = Engine(lambda: model), Gate()
    computed = engine.submit(request("a.py"), gate)
    assert gate.reached.wait(30)
    waiting = engine.submit(request("b.py"))
    closer = threading.Thread(target=engine.close)
    closer.start()
    gate.opened.set()
    closer.join(30)
    assert not closer.is_alive()
    for pending in (computed, waiting):
        with pytest.raises(CancelledError):
            pending.future.result(30)
    with pytest.raises(UsageError, match="closed"):
        engine.submit(request("a.py"))


def test_a_deadline_holds_while_a_request_waits(model: Checkpoint) -> None:
    """Behind another document's, and while the model is being loaded: nothing, soon."""
    loaded = threading.Event()

    def load() -> Checkpoint:
        assert loaded.wait(30)
        return model

    with Engine(load) as engine:
        found = engine.submit(request("a.py", seconds=0.01)).future.result(30)
        assert (found.best.text, found.best.stopped, engine.state) == ("", "deadline", "loading")
        loaded.set()
        waited: list[Infill] = []

        asked = threading.Event()

        def first(frame: Frame) -> None:
            if not asked.is_set():
                asked.set()
                behind = engine.submit(request("b.py", seconds=0))
                threading.Thread(target=lambda: waited.append(behind.future.result(30))).start()
            time.sleep(0.01)

        long = engine.submit(request("a.py"), first)
        while not waited:
            assert not long.future.done()
            time.sleep(0.005)
        assert waited[0].best.stopped == "deadline"
        assert long.future.result(30).nfe == 60
        assert engine.statistics()["expired"] == 2


def test_who_waits_for_several_answers_is_told_of_a_cancelled_one(engine: Engine) -> None:
    """Superseded, or cancelled by its future, as asyncio does; each request is counted once."""
    gate = Gate()
    computed = engine.submit(request("a.py"), gate)
    assert gate.reached.wait(30)
    waiting = engine.submit(request("b.py"))
    waiting.future.cancel()
    last = engine.submit(request("a.py"))
    assert wait([computed.future, waiting.future], 30).not_done == set()
    gate.opened.set()
    assert last.future.result(30).nfe == 60
    engine.fill(request())
    counted = engine.statistics()
    ends = [counted[name] for name in ("requests", "answered", "cancelled", "superseded")]
    assert ends == [4, 2, 2, 1]


def test_whoever_is_told_may_ask_again(engine: Engine) -> None:
    """The request that a superseded one's callback makes is answered as any other."""
    gate = Gate()
    again: list[Pending] = []
    computed = engine.submit(request("a.py"), gate)
    assert gate.reached.wait(30)
    computed.future.add_done_callback(lambda _: again.append(engine.submit(request("b.py"))))
    newest = engine.submit(request("a.py"))
    gate.opened.set()
    assert newest.future.result(30).nfe == again[0].future.result(30).nfe == 60


def test_a_watcher_that_fails_fails_its_own_request(engine: Engine) -> None:
    """Even with what ends a thread; the worker goes on."""

    def leave(frame: Frame) -> None:
        raise SystemExit

    pending = engine.submit(request("a.py"), leave)
    with pytest.raises(SystemExit):
        pending.future.result(30)
    assert engine.fill(request()).nfe == 60


def test_several_threads_may_wait_at_once(engine: Engine) -> None:
    """Each asks about a document of its own."""
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: engine.fill(request()).nfe, range(6)))
    assert found == [60] * 6


def test_a_memory_that_cannot_be_made_is_told_too(model: Checkpoint) -> None:
    """As a model that cannot be loaded."""
    with Engine(lambda: model, capacity=0) as engine, pytest.raises(UsageError, match="capacity"):
        engine.fill(request())


def test_many_requests_of_many_documents(engine: Engine) -> None:
    """All are answered in turn, and nothing is left waiting."""
    quick = Options(max_nfe=1, max_tokens=1, check_syntax=False)
    for number in range(300):
        text = PREFIX + "x" * (number % 7)
        asked = request(f"{number % 50}.py", text * (1 + number % 5), quick)
        engine.submit(asked).future.result(30)
    assert len(engine._waiting) == 0
    assert engine.statistics()["answered"] == 300


def test_a_context_is_read_ahead_while_nothing_waits(engine: Engine) -> None:
    """The request itself then reads nothing; it is no request in the counters."""
    assert engine.seconds_to_first(request("a.py")) == math.inf  # no pass was timed
    engine.warm_up()
    wanted = request("a.py")
    before = engine.seconds_to_first(wanted)
    engine.read_ahead(wanted)
    while engine.counters.busy_ms == 0:
        time.sleep(0.001)
    assert engine.seconds_to_first(wanted) < before < math.inf
    assert engine.counters.requests == 0
    found = engine.fill(wanted)
    assert found.reused_tokens == found.context_tokens


def test_reading_ahead_gives_way(
    engine: Engine, model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To any request, after which it goes on; a newer wish, or answering it, replaces it."""
    monkeypatch.setattr(contexts, "AHEAD", 2)
    engine.model.result(30)
    gate, other = Gate(), engine.submit(request("b.py"))
    held = engine.submit(request("a.py"), gate)
    assert gate.reached.wait(30)
    engine.read_ahead(request("c.py", "x = 1\n" * 20))
    gate.opened.set()
    assert held.future.result(30).nfe == other.future.result(30).nfe
    while engine._ahead:
        time.sleep(0.001)
    found = engine.fill(request("c.py", "x = 1\n" * 20))
    assert found.reused_tokens == found.context_tokens
    assert found.best == infill(model, "x = 1\n" * 20, SUFFIX, LONG).best


def test_reading_ahead_waits_while_it_is_held(engine: Engine) -> None:
    """By whoever knows of something more urgent; nothing else waits then."""
    engine.model.result(30)
    held = threading.Event()
    held.set()
    engine.read_ahead(request("a.py"), held.is_set)
    other = engine.fill(request("b.py"))
    assert other.nfe == 60
    assert engine._ahead
    assert engine.seconds_to_first(request("a.py")) == math.inf
    held.clear()
    while engine._ahead:
        time.sleep(0.001)
    assert engine.fill(request("a.py")).reused_tokens > 10


def test_what_cannot_be_read_ahead_fails_later(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is asked about; the worker lives on."""

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("talaria.coder.engine.read_ahead", fail)
    engine.read_ahead(request("a.py"))
    while engine._ahead:
        time.sleep(0.001)
    assert engine.fill(request("a.py")).nfe == 60


def test_an_idle_engine_gives_memory_back(
    model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, after it was loaded or has worked; what it answers stays the same."""
    released = []
    monkeypatch.setattr(model.backbone, "release", lambda: released.append(1), raising=False)
    monkeypatch.setattr("talaria.coder.engine.IDLE", 0.01)
    with Engine(lambda: model) as engine:
        while not released:
            time.sleep(0.001)
        first = engine.fill(request("a.py"))
        while len(released) < 2:
            time.sleep(0.001)
        time.sleep(0.05)
        assert len(released) == 2
        monkeypatch.undo()
        model.backbone.release()
        assert engine.fill(request("a.py")).best == first.best

"""Which model answers what, by the memory and the speed of the machine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from talaria.coder import bases, checkpoint
from talaria.coder.checkpoint import EMBEDDED, LARGE, Checkpoint
from talaria.coder.engine import Engine
from talaria.coder.errors import CheckpointError
from talaria.coder.machine import Pace
from talaria.coder.request import Request
from talaria.lsp import engines as module
from talaria.lsp.engines import (
    ALONE_DEADLINE,
    DEADLINE,
    FREE_AT_START,
    FREE_TO_LOAD,
    LARGE_DEADLINE,
    SLOWEST,
    Engines,
)
from talaria.lsp.options import ServerOptions
from talaria.lsp.suggest import seconds_of


@dataclass
class Machine:
    """A machine with both models, as a test wants it; a tiny model stands in for both.

    step     seconds of a pass over a token
    reading  seconds a token takes that is yet to be read
    gate     opens when the large model may be loaded
    """

    free: float = FREE_AT_START
    step: float = SLOWEST / 2
    reading: float = 0.0
    broken: bool = False
    prepared: bool = True
    loaded: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    said: list[str] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)

    def engines(self, **options: Any) -> Engines:
        """Start engines on it."""
        return Engines(
            ServerOptions(**options),
            lambda *state: self.states.append(state),
            lambda message, _: self.said.append(message),
            self.progress.append,
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, model: Checkpoint) -> Machine:
    """A machine that is just large and fast enough, with an open gate."""
    machine = Machine()
    machine.gate.set()

    def load(name: str, device: str, on_progress: Callable[[float], None]) -> Checkpoint:
        if name == LARGE:
            on_progress(0.5)
            assert machine.gate.wait(30)
            if machine.broken:
                raise CheckpointError("the base is damaged")
        machine.loaded.append(name)
        config: dict[str, Any] = {"base": {}} if name == LARGE else {}
        return replace(model, name=name, config=config)

    monkeypatch.setattr(checkpoint, "default", lambda: LARGE)
    monkeypatch.setattr(checkpoint, "load", load)
    monkeypatch.setattr(bases, "prepared", lambda base: ["a form"] * machine.prepared)
    monkeypatch.setattr(module, "available_memory", lambda: machine.free)
    monkeypatch.setattr(Pace, "step", property(lambda pace: machine.step))
    monkeypatch.setattr(Pace, "seconds", lambda pace, n: 2 * machine.step + n * machine.reading)
    return machine


async def answers(engines: Engines, typing: bool) -> str:
    """The name of the model that answers a request."""
    options = engines.options.decoding(max_tokens=2)
    found = await engines.ask(Request("x = ", "\n", options, document="a"), typing=typing)
    assert found.model is not None
    return found.model.name


def run(
    engines: Callable[[], Engines], check: Callable[[Engines], Coroutine[Any, Any, None]]
) -> None:
    """Check engines in an event loop, and close them."""

    async def all_of_it() -> None:
        started = engines()
        try:
            await check(started)
        finally:
            await started.close()

    asyncio.run(all_of_it())


def test_the_large_model_takes_over_when_it_is_loaded(machine: Machine) -> None:
    """Until then the embedded one answers everything; nothing is said; counters go on."""
    machine.gate.clear()

    async def check(engines: Engines) -> None:
        assert await answers(engines, typing=True) == EMBEDDED
        assert await answers(engines, typing=False) == EMBEDDED
        assert machine.progress == [0.5]
        machine.gate.set()
        assert await engines.settled() == LARGE
        assert await answers(engines, typing=True) == LARGE
        assert await answers(engines, typing=False) == LARGE
        found = engines.statistics()
        assert (found["state"], found["model"], found["answered"]) == ("ready", LARGE, 4)
        assert "choice" not in found
        assert found["answered_by"] == {EMBEDDED: 1, LARGE: 1}  # those while typing

    run(machine.engines, check)
    assert machine.states == [("ready", EMBEDDED), ("ready", LARGE)]
    assert not machine.said


def test_a_slow_large_model_answers_requests_by_hand(machine: Machine) -> None:
    """The embedded one answers keystrokes; that is said once, with the step and its limit."""
    machine.step = SLOWEST / 2 + 0.05

    async def check(engines: Engines) -> None:
        assert await engines.settled() == EMBEDDED
        assert await answers(engines, typing=True) == EMBEDDED
        assert await answers(engines, typing=False) == LARGE
        found = engines.statistics()
        assert (found["model"], found["answered"]) == (EMBEDDED, 2)
        assert "takes 200 ms here (at most 150)" in str(found["choice"])
        assert machine.said == [f"{found['choice']}."]

    run(machine.engines, check)


def test_with_little_memory_a_request_by_hand_loads_the_large_model(machine: Machine) -> None:
    """Only while it fits into what is free, and only once."""
    machine.free = FREE_TO_LOAD - 1

    async def check(engines: Engines) -> None:
        assert await engines.settled() == EMBEDDED
        assert await answers(engines, typing=False) == EMBEDDED
        machine.free = FREE_TO_LOAD
        assert await answers(engines, typing=True) == EMBEDDED
        assert machine.loaded == [EMBEDDED]
        assert await answers(engines, typing=False) == LARGE
        assert await answers(engines, typing=False) == LARGE
        assert await answers(engines, typing=True) == EMBEDDED
        assert machine.loaded == [EMBEDDED, LARGE]

    run(machine.engines, check)
    assert len(machine.said) == 1
    assert "only 1.2 GB of memory are free (2 needed)" in machine.said[0]


def test_an_unprepared_base_is_not_prepared_with_little_memory(machine: Machine) -> None:
    """Which takes more memory than loading."""
    machine.free, machine.prepared = FREE_AT_START - 1, False

    async def check(engines: Engines) -> None:
        await engines.settled()
        assert await answers(engines, typing=False) == EMBEDDED

    run(machine.engines, check)
    assert machine.loaded == [EMBEDDED]
    assert "`talaria models get qwen2.5-coder-0.5b`" in machine.said[0]


def test_a_request_by_hand_does_not_wait_long(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded model answers it if the large one is not loaded in time."""
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    machine.free = FREE_TO_LOAD
    machine.gate.clear()

    async def check(engines: Engines) -> None:
        await engines.settled()
        assert await answers(engines, typing=False) == EMBEDDED
        machine.gate.set()

    run(machine.engines, check)


@pytest.mark.parametrize("free", [FREE_AT_START, FREE_TO_LOAD])
def test_a_damaged_large_model_is_reported(machine: Machine, free: float) -> None:
    """And the embedded one answers everything."""
    machine.broken, machine.free = True, free

    async def check(engines: Engines) -> None:
        assert await engines.settled() == EMBEDDED
        assert await answers(engines, typing=False) == EMBEDDED
        assert engines.statistics()["state"] == "ready"

    run(machine.engines, check)
    assert machine.said[-1] == f"the base is damaged. {EMBEDDED} answers."


@pytest.mark.parametrize("name", [EMBEDDED, LARGE])
def test_a_named_model_answers_everything(machine: Machine, name: str) -> None:
    """However small and slow the machine is."""
    machine.free, machine.step = 0, 9.0

    async def check(engines: Engines) -> None:
        assert await engines.settled() == name
        assert await answers(engines, typing=True) == name
        assert await answers(engines, typing=False) == name

    run(lambda: machine.engines(model=name), check)
    assert machine.loaded == [name]
    assert not machine.said


def test_the_embedded_model_answers_where_the_large_one_has_to_read(machine: Machine) -> None:
    """Which it does meanwhile; then it answers there, too."""
    machine.reading = 1.0

    async def check(engines: Engines) -> None:
        assert await engines.settled() == LARGE
        assert await answers(engines, typing=True) == EMBEDDED
        assert engines._large is not None
        large = engines._large.result()
        while large.statistics()["busy_ms"] == 0:
            await asyncio.sleep(0.01)
        assert await answers(engines, typing=True) == LARGE
        assert large.counters.reused_tokens == large.counters.context_tokens > 0
        assert "choice" not in engines.statistics()

    run(machine.engines, check)
    assert not machine.said


def test_a_slow_large_model_does_not_read_ahead(machine: Machine) -> None:
    """It would never be asked for what it has read."""
    machine.step = 1.0

    async def check(engines: Engines) -> None:
        await engines.settled()
        assert await answers(engines, typing=True) == EMBEDDED
        assert engines._large is not None
        assert engines._large.result()._ahead is None

    run(machine.engines, check)


def test_a_machine_that_was_busy_is_timed_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in a while; when it is fast enough, the large model answers."""
    machine.step = 1.0
    timed = threading.Event()

    async def check(engines: Engines) -> None:
        assert await engines.settled() == EMBEDDED
        monkeypatch.setattr(Engine, "warm_up", lambda engine: timed.set())
        assert await answers(engines, typing=True) == EMBEDDED
        assert not timed.is_set()
        monkeypatch.setattr(module, "RETIMED", 0.0)
        assert await answers(engines, typing=True) == EMBEDDED
        assert timed.wait(30)
        machine.step = 0.01
        assert await answers(engines, typing=True) == LARGE
        found = engines.statistics()
        assert found["model"] == LARGE
        assert "choice" not in found

    run(machine.engines, check)
    assert machine.states == [("ready", EMBEDDED), ("ready", LARGE)]
    assert len(machine.said) == 1


@pytest.mark.parametrize(
    ("name", "reading", "seconds"),
    [(None, 1.0, DEADLINE), (None, 0.0, LARGE_DEADLINE), (LARGE, 0.0, ALONE_DEADLINE)],
)
def test_the_model_that_answers_sets_the_deadline(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str, reading: float, seconds: float
) -> None:
    """While the user types, and only if the request has none."""
    machine.reading = reading
    submitted: list[float | None] = []
    submit = Engine.submit

    def noted(engine: Engine, request: Request, on_frame: Any = None) -> Any:
        submitted.append(request.seconds)
        return submit(engine, request, on_frame)

    monkeypatch.setattr(Engine, "submit", noted)

    async def check(engines: Engines) -> None:
        await engines.settled()
        await answers(engines, typing=True)
        await answers(engines, typing=False)
        request = Request("x = ", "\n", engines.options.decoding(max_tokens=2), seconds=0.2)
        await engines.ask(request, typing=True)

    run(lambda: machine.engines(model=name), check)
    assert submitted == [seconds, None, 0.2]


def test_a_deadline_that_is_set_holds_for_every_model() -> None:
    """That of an endpoint is its timeout."""
    assert seconds_of(ServerOptions(), invoked=False) is None
    assert seconds_of(ServerOptions(fill_deadline_ms=900), invoked=True) == 0.9
    endpoint = ServerOptions(endpoint="http://127.0.0.1:1", endpoint_timeout_ms=70)
    assert seconds_of(endpoint, invoked=False) == 0.07
    assert seconds_of(replace(endpoint, deadline_ms=7), invoked=False) == 0.007


def test_a_newer_request_supersedes_one_of_the_other_model(machine: Machine) -> None:
    """About the same document."""
    machine.step = 1.0

    async def check(engines: Engines) -> None:
        await engines.settled()
        options = engines.options.decoding(max_tokens=48)
        request = Request("x = ", "\n", options, document="a")
        older = asyncio.ensure_future(engines.ask(request))
        while not engines._pending:
            await asyncio.sleep(0)
        newer = asyncio.ensure_future(engines.ask(request, typing=True))
        await asyncio.wait([older, newer])
        assert older.cancelled()
        assert newer.result().model
        assert not engines._pending

    run(machine.engines, check)


def test_engines_close_while_the_large_model_loads(machine: Machine) -> None:
    """Nobody waits for it any more, and nothing is said."""
    machine.gate.clear()

    async def check(engines: Engines) -> None:
        assert await answers(engines, typing=True) == EMBEDDED
        waiting = asyncio.ensure_future(engines.settled())
        await asyncio.sleep(0.01)
        await engines.close()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        machine.gate.set()
        threads = [t for t in threading.enumerate() if t.name == "talaria-begin"]
        for thread in threads:
            thread.join(30)

    run(machine.engines, check)
    assert machine.states == [("ready", EMBEDDED)]
    assert not machine.said

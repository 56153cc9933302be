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
from talaria.coder.errors import CheckpointError
from talaria.coder.request import Request
from talaria.lsp import engines as module
from talaria.lsp.engines import FREE_AT_START, FREE_TO_LOAD, SLOWEST_STEP, Engines
from talaria.lsp.options import ServerOptions
from talaria.lsp.server import TalariaServer
from talaria.lsp.suggest import BASE_DEADLINE_MS, DEADLINE_MS, typing_deadline


@dataclass
class Machine:
    """A machine with both models, as a test wants it; a tiny model stands in for both.

    gate  opens when the large model may be loaded
    """

    free: float = FREE_AT_START
    step: float = SLOWEST_STEP
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
    monkeypatch.setattr(module, "step_seconds", lambda model: machine.step)
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
        assert len(engines._started) == 1  # the embedded one is released

    run(machine.engines, check)
    assert machine.states == [("ready", EMBEDDED), ("ready", LARGE)]
    assert not machine.said


def test_a_slow_large_model_answers_requests_by_hand(machine: Machine) -> None:
    """The embedded one answers keystrokes; that is said once, with the step and its limit."""
    machine.step = SLOWEST_STEP + 0.05

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


def test_a_model_on_a_base_has_more_time_while_typing(machine: Machine) -> None:
    """Unless a deadline or an endpoint is set, or the embedded model answers."""

    async def check(engines: Engines) -> None:
        server = TalariaServer(engines.options)
        assert typing_deadline(server) == DEADLINE_MS
        await engines.settled()
        server.engines = engines
        assert typing_deadline(server) == BASE_DEADLINE_MS
        server.options = ServerOptions(endpoint="http://127.0.0.1:1", endpoint_timeout_ms=70)
        assert typing_deadline(server) == 70
        server.options = ServerOptions(deadline_ms=7)
        assert typing_deadline(server) == 7

    run(machine.engines, check)


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

"""The large model is offered, fetched and taken over to, in a session without it.

The base is a tiny one, from a Hub on loopback; the models are stand-ins.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types

from talaria.coder import base_sources, bases
from talaria.coder.errors import FetchError
from talaria.lsp import arrival as module
from talaria.lsp.arrival import ANSWERS, FETCH, LATER, NEVER, TOKEN
from talaria.lsp.engines import FREE_AT_START
from talaria.lsp.options import ServerOptions
from talaria.lsp.server import TalariaServer
from tests.coder.fake_sources import (
    NAME,
    FakeHub,
    cut_off,
    known_bases,
    serving,
    table,
)


class Session(TalariaServer):
    """A server whose editor says and shows what a test wants.

    said     what the user answers to the offer; None: nothing
    offered  messages with the offer
    shown    other messages
    reports  what was shown of the progress
    grown    how often the engines were told that the model is here
    """

    def __init__(self, said: str | None = FETCH, **options: Any) -> None:
        super().__init__(ServerOptions(**options))
        self.said, self.refuses = said, False
        self.offered: list[types.ShowMessageRequestParams] = []
        self.shown: list[str] = []
        self.reports: list[Any] = []
        self.grown = 0
        self.engines = self  # type: ignore[assignment]
        for name in ("begin", "report", "end"):
            setattr(self.work_done_progress, name, lambda _, value: self.reports.append(value))
        window = types.WindowClientCapabilities(work_done_progress=True)
        self.capabilities = types.ClientCapabilities(window=window)

    async def window_show_message_request_async(
        self, params: types.ShowMessageRequestParams
    ) -> types.MessageActionItem | None:
        """Answer the offer."""
        self.offered.append(params)
        if self.refuses:
            raise RuntimeError("no such message here")
        return types.MessageActionItem(self.said) if self.said else None

    def window_show_message(self, params: types.ShowMessageParams) -> None:
        """Note a message."""
        self.shown.append(params.message)

    async def grow(self, on_progress: Callable[[float], None]) -> bool:
        """Prepare and load the model."""
        self.grown += 1
        on_progress(0.5)
        return True

    @property
    def client_capabilities(self) -> types.ClientCapabilities:
        """Those of the editor."""
        return self.capabilities


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub with the base, a user who has nothing yet, and short pauses."""
    cut_off(tmp_path, monkeypatch)
    monkeypatch.setattr(module, "LARGE", NAME)
    monkeypatch.setattr(base_sources, "CHUNK", 10_000)
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(module, "available_memory", lambda: FREE_AT_START)
    text = table().partition("[[")[0]  # without wheels
    with known_bases(tmp_path / "bases.toml", text, monkeypatch), serving(monkeypatch) as server:
        yield server


def run(session: Session, check: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
    """Let the model arrive in a session; `check` runs meanwhile, and its end is awaited first."""

    async def all_of_it() -> None:
        session._loop = asyncio.get_running_loop()

        async def create(token: str) -> None:
            session.work_done_progress._register_token(token)

        session.work_done_progress.create_async = create  # type: ignore[method-assign,assignment]
        arriving = session.spawn(session.arrival.run())
        if check:
            await check()
        await asyncio.wait([arriving])
        await asyncio.sleep(0)

    asyncio.run(all_of_it())


def here() -> bool:
    """Whether the base has been fetched."""
    return bases.state(bases.named(NAME)) in bases.HERE


def remembered() -> Any:
    """What TALARIA_HOME remembers."""
    path = Path(os.environ["TALARIA_HOME"]) / ANSWERS
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def test_it_is_fetched_and_taken_over_to(hub: FakeHub) -> None:
    """After a yes; the offer says how much and under which licence; progress is shown."""
    session = Session()
    run(session)
    assert here()
    assert session.grown == 1
    (offer,) = session.offered
    assert [action.title for action in offer.actions or ()] == [FETCH, LATER, NEVER]
    assert "0 MB to fetch, Apache-2.0" in offer.message
    begin, *reports, end = session.reports
    assert (begin.cancellable, end.message) == (True, f"{NAME} is ready")
    assert any(report.percentage == 100 for report in reports)
    assert any(report.message == module.PREPARING for report in reports)
    assert not session.shown
    assert session.arrival.why == ""
    run(again := Session())  # it is here
    assert (again.offered, again.grown) == ([], 0)


@pytest.mark.parametrize("said", [LATER, None])
def test_not_now_holds_until_the_next_start(hub: FakeHub, said: str | None) -> None:
    """As does a message that was closed, or one that an editor cannot show."""
    session = Session(said)
    run(session)
    assert not here()
    assert remembered() is None
    assert "`talaria models get tiny`" in session.arrival.why
    session.refuses = True
    run(session)
    assert len(session.offered) == 2
    assert not here()


def test_a_command_answers_later(hub: FakeHub) -> None:
    """After "not now", and after "never"; while it is fetched and when it is here, it says so."""
    session = Session(LATER)

    async def say() -> None:
        while not session.offered or session.arrival.why == "":
            await asyncio.sleep(0.005)
        await session.arrival.say("Perhaps")
        await session.arrival.say(NEVER)
        while remembered() is None:
            await asyncio.sleep(0.005)
        assert remembered() == {NAME: NEVER}
        hub.pause = 0.02
        await session.arrival.say(FETCH)
        while "being fetched" not in session.arrival.why:
            await asyncio.sleep(0.005)
        await session.arrival.say(FETCH)
        hub.pause = 0.0
        while session.arrival.why:
            await asyncio.sleep(0.005)
        await session.arrival.say(FETCH)

    run(session, say)
    wrong, fetching, here_already = session.shown
    assert wrong == "Talaria: the answer is 'Perhaps'; it is Fetch or Never"
    assert "is being fetched" in fetching
    assert here_already == f"Talaria: {NAME} is here"
    assert (session.grown, remembered()) == (1, {NAME: FETCH})
    assert here()


def test_never_is_remembered(hub: FakeHub) -> None:
    """In TALARIA_HOME, and the status says so."""
    run(Session(NEVER))
    assert remembered() == {NAME: NEVER}
    session = Session(FETCH)
    run(session)
    assert not session.offered
    assert not here()
    assert "is not wanted" in session.arrival.why


@pytest.mark.parametrize(
    "options",
    [{"offer_fetch": False}, {"model": "talaria-7m"}, {"endpoint": "http://127.0.0.1:1"}],
)
def test_settings_turn_the_offer_off(hub: FakeHub, options: dict[str, Any]) -> None:
    """Its own, and those that choose another model."""
    session = Session(**options)
    run(session)
    assert not session.offered


def test_a_small_machine_is_not_asked(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model would not answer there."""
    monkeypatch.setattr(module, "available_memory", lambda: 1e9)
    session = Session()
    run(session)
    assert not session.offered
    assert "only 1.0 GB of memory are free" in session.arrival.why


def test_a_lost_network_is_waited_for(hub: FakeHub) -> None:
    """One message, and what has arrived is kept."""
    hub.cut_after = [100_000, *[0] * 9]
    session = Session()
    run(session)
    assert here()
    assert len(session.shown) == 1
    assert session.shown[0].endswith("It is tried again by itself.")
    assert max(hub.begins) >= 100_000
    assert any(getattr(each, "message", "") == "waiting to try again" for each in session.reports)


def test_it_goes_on_after_a_restart(hub: FakeHub) -> None:
    """Without asking again, from what has arrived."""
    hub.pause = 0.05
    session = Session()

    async def leave() -> None:
        while not session.arrival.why.endswith("fetched, 20 %"):
            await asyncio.sleep(0.005)
        session.engines = None  # the real ones close
        await session.end()

    run(session, leave)
    deadline = time.monotonic() + 30
    while not remembered() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert remembered() == {NAME: FETCH}
    assert not here()
    hub.pause = 0.0
    run(again := Session(NEVER))
    assert here()
    assert (again.offered, again.grown) == ([], 1)
    assert hub.begins[-1] > 0


def test_the_user_stops_it(hub: FakeHub) -> None:
    """What has arrived is kept, and the next start offers it again."""
    hub.pause = 0.05
    session = Session()

    async def stop() -> None:
        while "being fetched" not in session.arrival.why:
            await asyncio.sleep(0.005)
        session.work_done_progress.tokens[TOKEN].cancel()

    run(session, stop)
    assert not here()
    assert remembered() is None
    assert session.reports[-1].message == "stopped"
    assert "was stopped" in session.arrival.why
    assert session.grown == 0


def test_without_a_home_nothing_is_offered(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no place for it."""

    def nowhere(base: object) -> str:
        raise FetchError("this user has no home folder")

    monkeypatch.setattr(bases, "state", nowhere)
    session = Session()
    run(session)
    assert not session.offered


def test_a_home_that_cannot_be_written_to_only_forgets(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer holds for the session."""

    def refuse(*_: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(module, "write", refuse)
    run(Session(NEVER))
    assert remembered() is None


def test_the_status_says_why(hub: FakeHub) -> None:
    """As long as the engines say nothing themselves."""
    session = Session(LATER)
    run(session)
    session.engines = None
    choice = session.statistics()["engine"]["choice"]
    assert choice == "tiny is not here; `talaria models get tiny` fetches it"

"""Suggestions in the making: who is served by one, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from talaria.coder.request import Request
from talaria.lsp.engines import Engines, Middles
from tests.lsp.test_scripted import InProcessEditor

START = "total = "


@dataclass
class Shown:
    """As much of a step as the server reads."""

    written: str
    canvas: int = 0

    def text(self, row: int, tokenizer: object) -> str:
        """The text so far."""
        return self.written


class Model:
    """Stands in for a checkpoint, of which the server passes the tokenizer on."""

    tokenizer = None


class Making:
    """What the engines are asked, in their order; each request waits until it is let go on.

    asked      the prefixes
    cancelled  those that nobody wanted any more
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self.frames: list[Callable[[str], None]] = []
        self.answers: list[asyncio.Future[str]] = []

    async def ask(
        self, engines: Engines, request: Request, on_frame: Any = None, *, typing: bool = False
    ) -> Middles:
        """In the place of `Engines.ask`."""
        self.asked.append(request.prefix)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        self.frames.append(lambda text: on_frame(Shown(text), Model()))
        try:
            return Middles((await answer,), 1.0)
        except asyncio.CancelledError:
            self.cancelled.append(request.prefix)
            raise


def run(check: Callable[[InProcessEditor, Making], Coroutine[Any, Any, None]], at: Path) -> None:
    """Check an editor whose user has typed START."""

    async def all_of_it() -> None:
        making, editor = Making(), InProcessEditor(at)

        async def ask(engines: Engines, *given: Any, **more: Any) -> Middles:
            return await making.ask(engines, *given, **more)

        def load(engines: Engines) -> None:
            engines._set_state("ready", "scripted")

        with patch.multiple(Engines, ask=ask, _load=load):
            await editor.begin({}, {"textDocument": {"inlineCompletion": {}}})
            await editor.open(START + "\n")
            await check(editor, making)
            editor.server.engines = None  # which were never loaded
            await editor.server.end()

    asyncio.run(all_of_it())


async def soon(true: Callable[[], object]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


async def typed(editor: InProcessEditor, text: str) -> asyncio.Task[list[str]]:
    """Type behind what stands there, and ask; the request is on its way."""
    end = len(editor.text) - 1
    await editor.edit(end, end, text)
    task = asyncio.create_task(editor.ghost(end + len(text)))
    await asyncio.sleep(0.01)
    return task


def test_keys_that_are_typed_along_wait_for_the_same_answer(tmp_path: Path) -> None:
    """The first request's answer is stale by then; the last one gets the rest of it."""

    async def check(editor: InProcessEditor, making: Making) -> None:
        first = asyncio.create_task(editor.ghost(len(START)))
        await soon(lambda: making.frames)
        making.frames[0]("sum")
        await asyncio.sleep(0.01)
        second, third = await typed(editor, "s"), await typed(editor, "u")
        making.answers[0].set_result("sum(values)")
        assert [await first, await second, await third] == [[], [], ["m(values)"]]
        assert making.asked == [START]

    run(check, tmp_path)


def test_a_key_that_is_something_else_asks_anew(tmp_path: Path) -> None:
    """At once, or as soon as the model writes something else than what was typed."""

    async def check(editor: InProcessEditor, making: Making) -> None:
        editor.server.spawn(editor.ghost(len(START)))
        await soon(lambda: making.frames)
        making.frames[0]("s")
        await asyncio.sleep(0.01)
        second = await typed(editor, "sor")  # as far as anybody knows
        assert making.asked == [START]
        making.frames[0]("sum")
        await soon(lambda: len(making.asked) == 2)
        assert making.asked[1] == START + "sor"
        third = await typed(editor, "t")  # before its first token: nobody knows
        assert making.asked[2] == START + "sort"
        for answer, text in zip(making.answers, ("sum(a)", "ted(a)", "ed(names)"), strict=True):
            answer.set_result(text)
        assert [await second, await third] == [[], ["ed(names)"]]

    run(check, tmp_path)


def test_an_answer_that_does_not_fit_is_asked_for_anew(tmp_path: Path) -> None:
    """Though it fitted as long as it was made."""

    async def check(editor: InProcessEditor, making: Making) -> None:
        editor.server.spawn(editor.ghost(len(START)))
        await soon(lambda: making.frames)
        making.frames[0]("s")
        await asyncio.sleep(0.01)
        second = await typed(editor, "sor")
        making.answers[0].set_result("sum(a)")
        await soon(lambda: len(making.answers) == 2)
        making.answers[1].set_result("ted(a)")
        assert await second == ["ted(a)"]

    run(check, tmp_path)


def test_it_is_finished_though_the_editor_cancels_the_request(tmp_path: Path) -> None:
    """As editors do at the next key; one by hand is not."""

    async def check(editor: InProcessEditor, making: Making) -> None:
        editor.server.spawn(editor.ghost(len(START)))
        await soon(lambda: making.frames)
        making.frames[0]("su")
        await editor.tell("$/cancelRequest", id=editor.number)
        second = await typed(editor, "s")
        making.answers[0].set_result("sum(values)")
        assert await second == ["um(values)"]
        assert not making.cancelled
        editor.server.spawn(editor.ghost(len(START) + 1, invoked=True))
        await soon(lambda: len(making.asked) == 2)
        await editor.tell("$/cancelRequest", id=editor.number)
        await soon(lambda: making.cancelled)

    run(check, tmp_path)


def test_a_request_before_there_is_a_model_waits_for_it(tmp_path: Path) -> None:
    """It is not lost: some editors ask only once."""

    async def check(editor: InProcessEditor, making: Making) -> None:
        assert editor.server.engines
        editor.server.engines.state = "loading"
        first = asyncio.create_task(editor.ghost(len(START)))
        await soon(lambda: making.answers)
        making.answers[0].set_result("sum(values)")
        assert await first == ["sum(values)"]
        editor.server.engines.state = "failed"
        second = await typed(editor, "1")
        assert await second == []
        assert len(making.asked) == 1

    run(check, tmp_path)

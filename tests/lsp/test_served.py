"""The language server as a client of `talaria serve`."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx2
import pytest

from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.request import Options, Request
from talaria.lsp.engines import Engines
from talaria.lsp.options import ServerOptions
from tests.coder.serve.serving import PATIENCE, serving, until
from tests.coder.serve.test_command import start
from tests.lsp.session import editor
from tests.lsp.test_features import CALM, uri
from tests.scripted import scripted

TEXT = "def answer():\n    \n"
PLACE = len("def answer():\n    ")


@pytest.mark.parametrize(
    ("options", "service"),
    [
        ({}, None),
        ({"model": "talaria-7m"}, None),
        ({"model": "http://h:1"}, "http://h:1/v1/completions"),
        ({"model": "HTTPS://h/"}, "HTTPS://h/v1/completions"),
        ({"model": "https://h/talaria/v1/completions"}, "https://h/talaria/v1/completions"),
        ({"model": "http://h:1", "endpoint": "http://other/fim"}, "http://other/fim"),
    ],
)
def test_the_address_of_a_model(options: dict[str, str], service: str | None) -> None:
    """It is a service that is asked first; a whole URL is taken as it is."""
    assert ServerOptions(**options).service == service  # type: ignore[arg-type]


def test_what_a_server_of_ours_is_told() -> None:
    """The document by a name that says nothing; not for candidates, which would be superseded."""

    async def check() -> None:
        engines = [
            Engines(ServerOptions(model="http://127.0.0.1:1"), lambda *_: None, lambda *_: None)
            for _ in range(2)
        ]
        one = Request("a", "b", Options(until="line"), document="file:///secret.py")
        other = Request("a", "b", Options(), document="file:///other.py")
        names = [engine._more(each)["user"] for engine in engines for each in (one, other, one)]
        assert names[0] == names[2]
        assert len(set(names)) == 4
        assert "secret" not in str(names)
        assert engines[0]._more(one)["until"] == "line"
        several = Request("a", "b", Options(candidates=3), document="file:///secret.py")
        assert "user" not in engines[0]._more(several)
        for engine in engines:
            await engine.close()

    asyncio.run(check())


def test_a_server_answers(tokenizer: TalariaTokenizer, tmp_path: Path) -> None:
    """Its text is what the editor shows."""
    with serving(lambda: scripted(tokenizer, ["return 41 + 1"])) as server:

        async def check() -> None:
            async with editor(tmp_path, options={**CALM, "model": server.url}) as e:
                where = uri("served")
                e.open(where, TEXT)
                [item] = await e.ask(where, PLACE)
                assert item.insert_text == "return 41 + 1"
                assert e.messages == []

        asyncio.run(check())
        assert server.desk.engine.counters.answered == 1


def test_a_server_that_is_killed_leaves_the_editor_usable(tmp_path: Path) -> None:
    """The embedded model answers, after one message."""
    process, url = start("--model", "talaria-7m")
    try:
        with httpx2.Client(base_url=url, trust_env=False) as client:
            until(lambda: client.get("/ready").status_code == 200)

            async def check() -> None:
                options = {**CALM, "model": url, "endpoint_timeout_ms": 1000 * int(PATIENCE)}
                async with editor(tmp_path, options=options) as e:
                    where = uri("killed")
                    e.open(where, TEXT)
                    await e.ready()
                    await e.ask(where, PLACE, invoked=True)
                    assert 'status="200"' in client.get("/metrics").text
                    assert (await e.counters())["answered"] == 0
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait(PATIENCE)
                    where = uri("later")
                    e.open(where, TEXT)
                    await e.ask(where, PLACE, invoked=True)
                    assert (await e.counters())["answered"] > 0
                    assert len(e.messages) == 1
                    assert "The embedded model answers" in e.messages[0]
                assert e.code == 0

            asyncio.run(check())
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)

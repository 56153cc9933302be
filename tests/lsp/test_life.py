"""Start and end of a server: transports, exits, missing models, endpoints."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest

from talaria.coder import checkpoint
from talaria.lsp.engines import ENDPOINT_TOKENS
from tests.lsp.fim_server import FimServer, Reply, text, whole
from tests.lsp.session import Wire, editor, free_port
from tests.lsp.test_features import CALM, PLACES, TEXT, suggested, uri

SOON = 60.0  # seconds; it takes one or two, but not on a machine that has much else to do


def test_exit_codes(tmp_path: Path) -> None:
    """0 after `shutdown`, 1 without; after `shutdown` every request is an error."""
    with Wire(tmp_path) as wire:
        begun = wire.begin()["result"]
        assert begun["serverInfo"]["name"] == "talaria"
        assert wire.ask(1, "shutdown")["result"] is None
        assert wire.ask(2, "talaria/any")["error"]["code"] == -32600
        wire.tell("exit")
        assert wire.ended() == 0
    with Wire(tmp_path) as wire:
        wire.begin()
        wire.tell("exit")
        assert wire.ended() == 1


def test_it_ends_when_its_input_does(tmp_path: Path) -> None:
    """Even while a request is being computed."""
    with Wire(tmp_path) as wire:
        wire.begin(CALM)
        item = {"uri": uri("a"), "languageId": "python", "version": 1, "text": TEXT}
        wire.tell("textDocument/didOpen", textDocument=item)
        place = {"uri": uri("a"), "position": {"line": 5, "character": 4}}
        params = {"command": "talaria.fillFunction", "arguments": [place]}
        request = {"jsonrpc": "2.0", "id": 1, "method": "workspace/executeCommand"}
        wire.say(request | {"params": params})
        wire.close()
        assert wire.ended(SOON) == 1


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_a_signal_ends_it_at_once(tmp_path: Path) -> None:
    """As an editor means it that ends the server."""
    with Wire(tmp_path) as wire:
        wire.begin()
        wire.terminate()
        assert wire.ended(SOON) == -signal.SIGTERM


def test_the_server_needs_no_torch() -> None:
    """Loading the model and answering a request import neither torch nor its friends."""
    program = """
import asyncio, sys
import talaria.coder.trace, talaria.lsp.command, talaria.lsp.features
from talaria.coder.request import Request
from talaria.lsp.engines import Engines
from talaria.lsp.options import ServerOptions

async def answer():
    options = ServerOptions()
    engines = Engines(options, lambda *_: None, lambda *_: None)
    await engines.ask(Request("x = (", ")", options.decoding(max_tokens=4, complete=True)))
    await engines.close()

asyncio.run(answer())
print([name for name in ("torch", "transformers", "accelerate") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]", done.stdout


@pytest.mark.skipif(os.name == "nt", reason="there, the end of the input tells")
def test_it_ends_with_an_editor_that_vanished(tmp_path: Path) -> None:
    """Even if its input stays open, because another process inherited it."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(sleeper) as parent, Wire(tmp_path) as wire:
        wire.begin(processId=parent.pid)
        time.sleep(1.5)
        assert wire.ask(1, "workspace/executeCommand", {"command": "talaria.status"})["result"]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wire.ended(SOON) == 1


@pytest.mark.parametrize("transport", ["tcp", "ws"])
def test_transports(tmp_path: Path, transport: Literal["tcp", "ws"]) -> None:
    """A TCP port and a WebSocket work like pipes, with large documents too."""

    async def check() -> None:
        async with editor(tmp_path, transport=transport, options=CALM, kind="neovim") as e:
            await e.ready()
            e.open(uri("transport"), TEXT + "# much\n" * 300_000)
            await suggested(e, uri("transport"))
        assert e.code == 0

    asyncio.run(check())


def test_an_editor_that_leaves_its_port(tmp_path: Path) -> None:
    """That ends the server; a port in use is an error."""
    port = free_port()
    command = [sys.executable, "-m", "talaria.coder.cli", "lsp", "--tcp", "--port", str(port)]

    async def check() -> None:
        server = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        assert server.stderr
        await asyncio.wait_for(server.stderr.readline(), 60)
        second = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        _, said = await asyncio.wait_for(second.communicate(), 60)
        assert second.returncode == 2
        assert str(port).encode() in said
        assert b"Traceback" not in said
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"Content-Length: 1000\r\n\r\n{")
        writer.close()
        await writer.wait_closed()
        assert await asyncio.wait_for(server.wait(), SOON) == 1

    asyncio.run(check())


def test_a_browser_at_the_port(tmp_path: Path) -> None:
    """Its connection is closed, and the editor is still served."""
    port = free_port()
    command = [sys.executable, "-m", "talaria.coder.cli", "lsp", "--tcp", "--port", str(port)]
    body = b'{"jsonrpc":"2.0","id":1,"method":"shutdown"}'
    message = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)

    async def check() -> None:
        server = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        assert server.stderr
        await asyncio.wait_for(server.stderr.readline(), 60)
        said = []
        for before in (b"POST / HTTP/1.1\r\nContent-Type: text/plain\r\n", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(before + message)
            # An editor that leaves ends the server; a browser is left by it.
            if not before:
                writer.write_eof()
            try:
                said.append(await asyncio.wait_for(reader.read(), 30))
            except ConnectionResetError:
                said.append(b"")
            writer.close()
        assert said[0] == b""
        assert b'"code":-32002' in said[1].replace(b" ", b"")
        assert await asyncio.wait_for(server.wait(), SOON) == 1

    asyncio.run(check())


def test_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    """`initialize` is answered, one message says what is wrong, requests get null."""
    folders = [tmp_path / name for name in ("missing", "empty", "cut", "nonsense")]
    folders[1].mkdir()
    for folder in folders[2:]:
        shutil.copytree(checkpoint.find(), folder)
        largest = max(folder.iterdir(), key=lambda file: file.stat().st_size)
        data = largest.read_bytes()
        cut = data[: len(data) // 2]
        largest.write_bytes(cut if folder.name == "cut" else b"nonsense" * 99)

    async def check() -> None:
        async with editor(tmp_path, options={**CALM, "model": str(folders[0])}) as e:
            where = uri("none")
            e.open(where, TEXT)
            for folder in folders:
                e.messages.clear()
                e.configure({"model": str(folder)})
                await e.until(lambda: e.messages, 60)
                for _ in range(3):
                    assert await e.ask(where, PLACES[0]) == []
                    assert await e.ask(where, PLACES[0], invoked=True) == []
                [message] = e.messages
                assert "model" in message or folder.name in message
                assert "\n" not in message
                place = e.place(where, PLACES[0])
                assert await e.command("talaria.fillFunction", place) is None
                assert len(e.messages) == 2
                assert await e.command("talaria.showTrace", where) is None
            e.configure({"model": None})
            await e.ready()
            await suggested(e, where)
        assert e.code == 0

    asyncio.run(check())


def test_an_endpoint_answers_until_it_fails(tmp_path: Path) -> None:
    """Broken text is not shown; after a failure and one message, the model answers."""
    first, second = whole(text("return 41 + 1")), whole(text("return ("))
    with FimServer(first, second, Reply(status=500)) as service:
        options = {**CALM, "endpoint": service.url}

        async def check() -> None:
            async with editor(tmp_path, options=options) as e:
                where = uri("service")
                e.open(where, TEXT)
                # The embedded model need not be there yet.
                [item] = await e.ask(where, PLACES[0])
                assert item.insert_text == "return 41 + 1"
                assert service.asked[0].body["prompt"] == TEXT[: PLACES[0]]
                assert service.asked[0].body["max_tokens"] == 48
                assert await e.ask(where, PLACES[3]) == []
                await e.ready()
                for offset in PLACES:
                    await e.ask(where, offset, invoked=True)
                assert (await e.counters())["answered"] > 0
                assert len(e.messages) == 1
                assert "answered 500" in e.messages[0]
                assert "its operator. The embedded model answers for 2 s." in e.messages[0]
                # A wrong address is another thing to be told of.
                e.configure({"endpoint": "nonsense"})
                await e.until(lambda: len(e.messages) == 2)
                await e.ready()
            assert e.code == 0

        asyncio.run(check())


def test_an_endpoint_that_misses_the_deadline(tmp_path: Path) -> None:
    """One message says which option to raise; a function has more time and tokens."""
    broken, sound = whole(text("return (")), whole(text("return 41 + 1"))
    with FimServer(Reply(hangs=True), Reply(hangs=True), broken, sound, sound) as service:
        options = {**CALM, "endpoint": service.url, "deadline_ms": 50}

        async def check() -> None:
            async with editor(tmp_path, options=options) as e:
                where = uri("late")
                e.open(where, TEXT)
                for offset in PLACES[:2]:
                    assert await e.ask(where, offset) == []
                assert len(e.messages) == 1
                assert "longer than 0.05 s: raise deadline_ms" in e.messages[0]
                # Of the middles, which nobody has judged yet, one breaks the text.
                place = e.place(where, PLACES[0])
                assert await e.command("talaria.fillFunction", place) == "return 41 + 1"
                assert service.asked[-1].body["max_tokens"] == ENDPOINT_TOKENS
                assert len(e.messages) == 1
            assert e.code == 0

        asyncio.run(check())


def test_a_hanging_endpoint_is_abandoned(tmp_path: Path) -> None:
    """By a newer request, and by the end of the session."""
    with FimServer(Reply(hangs=True)) as service:
        options = {**CALM, "endpoint": service.url, "endpoint_timeout_ms": 60_000}

        async def check() -> None:
            async with editor(tmp_path, options=options) as e:
                e.open(uri("hangs"), TEXT)
                older = asyncio.ensure_future(e.ask(uri("hangs"), PLACES[0]))
                await e.until(service.arrived.is_set)
                service.arrived.clear()
                newer = asyncio.ensure_future(e.ask(uri("hangs"), PLACES[1]))
                assert await asyncio.wait_for(older, 30) == []
                await e.until(service.gone.is_set)
                await e.until(service.arrived.is_set)
            assert e.code == 0
            # It is cancelled with the session.
            await asyncio.wait([newer])
            assert newer.exception() or newer.result() == []

        asyncio.run(check())

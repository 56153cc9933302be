"""A language server in its own process, and an editor that talks to it over stdio."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from lsprotocol import types
from pygls.lsp.client import LanguageClient

from talaria.lsp.transports import messages

T = TypeVar("T")


def _says(registers: bool | None, *encodings: str) -> types.ClientCapabilities:
    """Capabilities of an editor with inline completion, as far as the server reads them."""
    inline = types.InlineCompletionClientCapabilities(dynamic_registration=registers)
    return types.ClientCapabilities(
        text_document=types.TextDocumentClientCapabilities(inline_completion=inline),
        workspace=types.WorkspaceClientCapabilities(
            apply_edit=True,
            configuration=True,
            workspace_edit=types.WorkspaceEditClientCapabilities(document_changes=True),
        ),
        window=types.WindowClientCapabilities(
            work_done_progress=True, show_document=types.ShowDocumentClientCapabilities(True)
        ),
        general=types.GeneralClientCapabilities(
            position_encodings=[types.PositionEncodingKind(each) for each in encodings]
        ),
    )


# VS Code 1.109 with vscode-languageclient 11, Neovim 0.12, Emacs lsp-mode 10; `plain` says nothing.
EDITORS: dict[str, types.ClientCapabilities] = {
    "vscode": _says(True, "utf-16"),
    "neovim": _says(False, "utf-8", "utf-16", "utf-32"),
    "emacs": _says(None, "utf-32", "utf-8", "utf-16"),
    "plain": types.ClientCapabilities(),
}


class Editor:
    """An editor: opens files, types, sends requests, and applies the server's edits."""

    def __init__(self, client: LanguageClient, texts: dict[str, str]) -> None:
        self.client, self.texts = client, texts
        self.versions: dict[str, int] = {}
        self.messages: list[str] = []
        self.notified: list[tuple[str, Any]] = []
        self.progress: list[Any] = []
        self.documents: list[str] = []
        self.log = ""
        self.code: int | None = None  # of the server, once it has ended
        self.refuses = False  # edits
        self.encoding = "utf-16"
        self.settings: Any = None  # what the server finds when it asks
        self.server: types.InitializeResult

    def open(self, uri: str, text: str, language: str = "python") -> None:
        """Open a document."""
        self.texts[uri], self.versions[uri] = text, 1
        self.client.text_document_did_open(
            types.DidOpenTextDocumentParams(types.TextDocumentItem(uri, language, 1, text))
        )

    def close(self, uri: str) -> None:
        """Close a document."""
        self.client.text_document_did_close(
            types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri))
        )

    def position(self, uri: str, offset: int) -> types.Position:
        r"""The position of an offset in a text with `\n` line endings."""
        before = self.texts[uri][:offset]
        line = before.rsplit("\n", 1)[-1]
        width = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[self.encoding]
        return types.Position(
            before.count("\n"), len(line.encode(self.encoding + "-le" * (width > 1))) // width
        )

    def edit(self, uri: str, start: int, end: int, new: str) -> None:
        """Replace a part of a text, as a key or an edit does."""
        place = types.Range(self.position(uri, start), self.position(uri, end))
        self.texts[uri] = self.texts[uri][:start] + new + self.texts[uri][end:]
        self.versions[uri] += 1
        self.client.text_document_did_change(
            types.DidChangeTextDocumentParams(
                types.VersionedTextDocumentIdentifier(self.versions[uri], uri),
                [types.TextDocumentContentChangePartial(place, new)],
            )
        )

    async def ask(
        self,
        uri: str,
        offset: int,
        invoked: bool = False,
        chosen: types.SelectedCompletionInfo | None = None,
    ) -> list[types.InlineCompletionItem]:
        """Request ghost text."""
        kind = (
            types.InlineCompletionTriggerKind.Invoked
            if invoked
            else types.InlineCompletionTriggerKind.Automatic
        )
        found = await self.client.text_document_inline_completion_async(
            types.InlineCompletionParams(
                types.InlineCompletionContext(kind, chosen),
                types.TextDocumentIdentifier(uri),
                self.position(uri, offset),
            )
        )
        items = found.items if isinstance(found, types.InlineCompletionList) else found
        return list(items or [])

    async def command(self, name: str, *arguments: Any) -> Any:
        """Execute a server command."""
        return await self.client.workspace_execute_command_async(
            types.ExecuteCommandParams(name, arguments=list(arguments))
        )

    async def counters(self) -> dict[str, Any]:
        """The engine's counters."""
        engine: dict[str, Any] = (await self.command("talaria.status"))["engine"]
        return engine

    def configure(self, settings: Any) -> None:
        """Change settings."""
        self.client.workspace_did_change_configuration(types.DidChangeConfigurationParams(settings))

    def dismiss(self, uri: str) -> None:
        """Report that the user dismissed the ghost text."""
        self.client.protocol.notify("talaria/didDismiss", {"uri": uri})

    def type(self, uri: str, offset: int, text: str) -> int:
        """Type a text key by key; the new offset of the cursor."""
        for place, key in enumerate(text, offset):
            self.edit(uri, place, place, key)
        return offset + len(text)

    async def until(self, true: Callable[[], object], seconds: float = 30) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    def place(self, uri: str, offset: int, end: int | None = None) -> dict[str, Any]:
        """A place as an argument of a command."""
        start, stop = self.position(uri, offset), self.position(uri, offset if end is None else end)
        return {
            "uri": uri,
            "range": {
                "start": {"line": start.line, "character": start.character},
                "end": {"line": stop.line, "character": stop.character},
            },
        }

    async def ready(self, seconds: float = 60) -> None:
        """Wait until the model is loaded."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            status = await self.command("talaria.status")
            state = status["engine"]["state"]
            if state != "loading":
                assert state == "ready", status
                return
            await asyncio.sleep(0.05)
        raise TimeoutError("the model was not loaded in time")

    def apply(self, params: types.ApplyWorkspaceEditParams) -> types.ApplyWorkspaceEditResult:
        """Apply an edit if its version is the current one."""
        if self.refuses:
            return types.ApplyWorkspaceEditResult(False, failure_reason="refused")
        for change in params.edit.document_changes or ():
            assert isinstance(change, types.TextDocumentEdit)
            uri = change.text_document.uri
            if change.text_document.version != self.versions[uri]:
                return types.ApplyWorkspaceEditResult(False, failure_reason="stale")
            for edit in change.edits:
                assert isinstance(edit, types.TextEdit)
                self.edit(uri, *self.offsets(uri, edit.range), edit.new_text)
        for uri, edits in (params.edit.changes or {}).items():
            for each in edits:
                self.edit(uri, *self.offsets(uri, each.range), each.new_text)
        return types.ApplyWorkspaceEditResult(True)

    def offsets(self, uri: str, place: types.Range) -> tuple[int, int]:
        """The offsets of a range."""
        found = []
        for position in (place.start, place.end):
            lines = self.texts[uri].split("\n")
            before = sum(len(line) + 1 for line in lines[: position.line])
            line, width = lines[position.line], {"utf-8": 1, "utf-16": 2, "utf-32": 4}
            encoding = self.encoding + "-le" * (self.encoding != "utf-8")
            data = line.encode(encoding)[: position.character * width[self.encoding]]
            found.append(before + len(data.decode(encoding)))
        return found[0], found[1]


@asynccontextmanager
async def editor(
    state: Path,
    *flags: str,
    kind: str = "vscode",
    options: object = None,
    root: Path | None = None,
    program: str | None = None,
    environment: dict[str, str] | None = None,
    process_id: int | None = None,
    transport: Literal["stdio", "tcp", "ws"] = "stdio",
) -> AsyncIterator[Editor]:
    """A session with its own server, from `initialize` to `exit`.

    program  Python code to run instead of the command line
    """
    client = LanguageClient("tests", "1")
    here = Editor(client, {})
    listen_to(client, here)
    started = ("-c", program) if program else ("-m", "talaria.coder.cli", "lsp", *flags)
    surroundings = {**os.environ, "TALARIA_STATE": str(state), **(environment or {})}
    if transport == "stdio":
        await client.start_io(sys.executable, *started, env=surroundings)
        assert client._server is not None
        server = client._server
    else:
        port = free_port()
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, *started, f"--{transport}", "--port", str(port)),
            stderr=asyncio.subprocess.PIPE,
            env=surroundings,
        )
        assert server.stderr is not None
        line = await asyncio.wait_for(server.stderr.readline(), 60)
        assert b"listening" in line, line
        await (client.start_tcp if transport == "tcp" else client.start_ws)("127.0.0.1", port)
    assert server.stderr is not None
    errors = server.stderr

    async def listen() -> None:
        while data := await errors.read(1000):
            here.log += data.decode(errors="replace")

    listening = asyncio.create_task(listen())
    try:
        here.server = await client.initialize_async(
            types.InitializeParams(
                capabilities=EDITORS[kind],
                process_id=process_id,
                root_uri=root.as_uri() if root else None,
                initialization_options=options,
            )
        )
        encoding = here.server.capabilities.position_encoding or "utf-16"
        here.encoding = str(getattr(encoding, "value", encoding))
        client.initialized(types.InitializedParams())
        yield here
        await asyncio.wait_for(client.shutdown_async(None), 30)
        client.exit(None)
        here.code = await asyncio.wait_for(server.wait(), 30)
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
        await client.stop()
        await listening


def listen_to(client: LanguageClient, here: Editor) -> None:
    """Handle the server's requests and notifications."""

    @client.feature(types.WINDOW_SHOW_MESSAGE)
    def message(params: types.ShowMessageParams) -> None:
        here.messages.append(params.message)

    @client.feature(types.WORKSPACE_APPLY_EDIT)
    def apply(params: types.ApplyWorkspaceEditParams) -> types.ApplyWorkspaceEditResult:
        return here.apply(params)

    @client.feature(types.WINDOW_WORK_DONE_PROGRESS_CREATE)
    def create(params: types.WorkDoneProgressCreateParams) -> None:
        here.progress.append("create")

    @client.feature(types.PROGRESS)
    def progressed(params: types.ProgressParams) -> None:
        here.progress.append(params.value)

    @client.feature(types.WINDOW_SHOW_DOCUMENT)
    def show(params: types.ShowDocumentParams) -> types.ShowDocumentResult:
        here.documents.append(params.uri)
        return types.ShowDocumentResult(True)

    @client.feature(types.WORKSPACE_CONFIGURATION)
    def configuration(params: types.ConfigurationParams) -> list[Any]:
        return [here.settings for _ in params.items]

    for name in ("talaria/status", "talaria/step"):

        def notified(params: Any, name: str = name) -> None:
            here.notified.append((name, params))

        client.feature(name)(notified)


def free_port() -> int:
    """An unused port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class EditorSession:
    """An editor shared by several tests, each of which runs the event loop for a while."""

    def __init__(self, runner: asyncio.Runner, here: Editor) -> None:
        self.editor, self._runner = here, runner

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 90) -> T:
        """Run a coroutine in the session."""
        return self._runner.run(asyncio.wait_for(work, seconds))


@contextmanager
def session(state: Path, *flags: str, ready: bool = True, **how: Any) -> Iterator[EditorSession]:
    """A session for several tests, with the model loaded."""
    with asyncio.Runner() as runner:
        open_one = editor(state, *flags, **how)
        here = EditorSession(runner, runner.run(open_one.__aenter__()))
        try:
            if ready:
                here.run(here.editor.ready())
            yield here
        finally:
            runner.run(open_one.__aexit__(None, None, None))


class Wire:
    """A server behind two pipes, for messages that no client would send."""

    def __init__(self, state: Path, *flags: str) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "talaria.coder.cli", "lsp", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TALARIA_STATE": str(state)},
        )
        assert self._server.stdin
        assert self._server.stdout
        self._input, self._output = self._server.stdin, self._server.stdout
        self.come: queue.Queue[dict[str, Any]] = queue.Queue()
        self.seen: list[dict[str, Any]] = []
        self.log = b""
        self._threads = [threading.Thread(target=read) for read in (self._read, self._listen)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait()
        for thread in self._threads:
            thread.join()
        self.close()
        self._output.close()
        assert self._server.stderr
        self._server.stderr.close()

    def terminate(self) -> None:
        """Ask the process to end, by a signal."""
        self._server.terminate()

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self._input.write(data)
        self._input.flush()

    def say(self, message: object) -> None:
        """Send any object as a message."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.send(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    def tell(self, method: str, **params: Any) -> None:
        """Send a notification."""
        self.say({"jsonrpc": "2.0", "method": method, "params": params})

    def ask(self, number: int | str, method: str, params: object = None) -> dict[str, Any]:
        """Send a request; the answer to it."""
        self.say({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        return self.answer(number)

    def answer(self, number: int | str | None, seconds: float = 60) -> dict[str, Any]:
        """The response with this id, which may have arrived already."""
        end = time.monotonic() + seconds
        while True:
            for message in self.seen:
                if "method" not in message and message.get("id") == number:
                    self.seen.remove(message)
                    return message
            self.seen.append(self.come.get(timeout=max(0.01, end - time.monotonic())))

    def begin(self, options: object = None, **more: Any) -> dict[str, Any]:
        """Send `initialize`; the response."""
        params: dict[str, Any] = {"capabilities": {}, "processId": None, "rootUri": None}
        answer = self.ask("begin", "initialize", params | {"initializationOptions": options} | more)
        self.tell("initialized")
        return answer

    def messages(self) -> list[str]:
        """All messages shown to the user so far."""
        while not self.come.empty():
            self.seen.append(self.come.get())
        return [
            each["params"]["message"]
            for each in self.seen
            if each.get("method") == types.WINDOW_SHOW_MESSAGE
        ]

    def close(self) -> None:
        """Close the server's input."""
        with contextlib.suppress(OSError):
            self._input.close()

    def ended(self, seconds: float = 30) -> int:
        """Wait for the exit code."""
        return self._server.wait(seconds)

    def _read(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            for body in messages(self._output):
                self.come.put(json.loads(body))

    def _listen(self) -> None:
        assert self._server.stderr
        with contextlib.suppress(ValueError, OSError):
            while data := os.read(self._server.stderr.fileno(), 1000):
                self.log += data

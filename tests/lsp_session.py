"""A language server in a process of its own, and an editor that talks to it over stdio."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.lsp.client import LanguageClient

# What editors say they can do, as far as the server asks. VS Code 1.109 with
# vscode-languageclient 11, Neovim 0.12, Emacs lsp-mode 10; `plain` knows no inline completion.
EDITORS: dict[str, types.ClientCapabilities] = {
    "vscode": types.ClientCapabilities(
        text_document=types.TextDocumentClientCapabilities(
            inline_completion=types.InlineCompletionClientCapabilities(dynamic_registration=True),
        ),
        workspace=types.WorkspaceClientCapabilities(
            apply_edit=True,
            configuration=True,
            workspace_edit=types.WorkspaceEditClientCapabilities(document_changes=True),
        ),
        window=types.WindowClientCapabilities(
            work_done_progress=True, show_document=types.ShowDocumentClientCapabilities(True)
        ),
        general=types.GeneralClientCapabilities(
            position_encodings=[types.PositionEncodingKind.Utf16]
        ),
    ),
    "neovim": types.ClientCapabilities(
        text_document=types.TextDocumentClientCapabilities(
            inline_completion=types.InlineCompletionClientCapabilities(dynamic_registration=False),
        ),
        workspace=types.WorkspaceClientCapabilities(
            apply_edit=True,
            configuration=True,
            workspace_edit=types.WorkspaceEditClientCapabilities(document_changes=True),
        ),
        window=types.WindowClientCapabilities(
            work_done_progress=True, show_document=types.ShowDocumentClientCapabilities(True)
        ),
        general=types.GeneralClientCapabilities(
            position_encodings=[
                types.PositionEncodingKind.Utf8,
                types.PositionEncodingKind.Utf16,
                types.PositionEncodingKind.Utf32,
            ]
        ),
    ),
    "emacs": types.ClientCapabilities(
        text_document=types.TextDocumentClientCapabilities(
            inline_completion=types.InlineCompletionClientCapabilities(),
        ),
        workspace=types.WorkspaceClientCapabilities(
            apply_edit=True,
            workspace_edit=types.WorkspaceEditClientCapabilities(document_changes=True),
        ),
        window=types.WindowClientCapabilities(work_done_progress=True),
        general=types.GeneralClientCapabilities(
            position_encodings=[
                types.PositionEncodingKind.Utf32,
                types.PositionEncodingKind.Utf16,
            ]
        ),
    ),
    "plain": types.ClientCapabilities(),
}


class Editor:
    """What an editor does: it opens files, types, asks, and applies what the server says."""

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

    def open(self, uri: str, text: str, language: str = "python") -> None:
        """Open a document."""
        self.texts[uri], self.versions[uri] = text, 1
        self.client.text_document_did_open(
            types.DidOpenTextDocumentParams(types.TextDocumentItem(uri, language, 1, text))
        )

    def position(self, uri: str, offset: int) -> types.Position:
        """Where a character of a text stands, for lines that end in a line feed."""
        before = self.texts[uri][:offset]
        line = before.rsplit("\n", 1)[-1]
        width = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[self.encoding]
        return types.Position(
            before.count("\n"), len(line.encode(self.encoding + "-le" * (width > 1))) // width
        )

    def edit(self, uri: str, start: int, end: int, new: str) -> None:
        """Replace a part of a text, as an editor does for a key or an edit."""
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
        """Ask for grey text."""
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
        """Execute a command of the server's."""
        return await self.client.workspace_execute_command_async(
            types.ExecuteCommandParams(name, arguments=list(arguments))
        )

    def place(self, uri: str, offset: int, end: int | None = None) -> dict[str, Any]:
        """An argument of commands: a place in a document."""
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
        """Apply an edit if it is of the version that is open."""
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
        """The characters that a range lies between."""
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
    command: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    process_id: int | None = None,
) -> AsyncIterator[Editor]:
    """A session with a server of its own, from `initialize` to `exit`."""
    client = LanguageClient("tests", "1")
    here = Editor(client, {})

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
        return [None for _ in params.items]

    for name in ("talaria/status", "talaria/step"):

        def notified(params: Any, name: str = name) -> None:
            here.notified.append((name, params))

        client.feature(name)(notified)

    program = command or (sys.executable, "-m", "coder.cli", "lsp", *flags)
    await client.start_io(
        *program, env={**os.environ, "TALARIA_STATE": str(state), **(environment or {})}
    )
    assert client._server is not None
    assert client._server.stderr is not None
    server, errors = client._server, client._server.stderr

    async def listen() -> None:
        while data := await errors.read(1000):
            here.log += data.decode(errors="replace")

    listening = asyncio.create_task(listen())
    try:
        result = await client.initialize_async(
            types.InitializeParams(
                capabilities=EDITORS[kind],
                process_id=process_id,
                root_uri=root.as_uri() if root else None,
                initialization_options=options,
            )
        )
        here.encoding = str(
            getattr(result.capabilities.position_encoding, "value", None)
            or result.capabilities.position_encoding
            or "utf-16"
        )
        client.initialized(types.InitializedParams())
        yield here
        await client.shutdown_async(None)
        client.exit(None)
        here.code = await asyncio.wait_for(server.wait(), 10)
    finally:
        if server.returncode is None:
            server.kill()
        await client.stop()
        await listening

"""Every request, notification and command that the server answers, registered in one place."""

from __future__ import annotations

import asyncio
from typing import Any

import cattrs
from lsprotocol import types
from pygls.exceptions import JsonRpcInvalidParams

from talaria.lsp import actions, suggest, transports
from talaria.lsp.arrival import FETCH
from talaria.lsp.options import SECTION
from talaria.lsp.protocol import clamp_positions
from talaria.lsp.server import TalariaServer


def register(server: TalariaServer) -> None:
    """Register all handlers."""
    documents(server)
    suggestions(server)
    commands(server)
    lifecycle(server)


def lifecycle(server: TalariaServer) -> None:
    """Start, settings and end of a session."""

    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        server.begin(params)
        known = params.capabilities.text_document
        inline = bool(known and known.inline_completion)
        wanted = server.options.completion
        if wanted or (wanted is None and not inline):

            @server.feature(
                types.TEXT_DOCUMENT_COMPLETION,
                types.CompletionOptions(trigger_characters=[".", "("]),
            )
            async def complete(params: types.CompletionParams) -> types.CompletionList | None:
                return await suggest.completion(server, params)

    @server.feature(types.INITIALIZED)
    async def initialized(params: types.InitializedParams) -> None:
        server.announce()
        if server.process_id:
            server.spawn(transports.watch(server.process_id, server.leave))
        server.spawn(server.count_forever())
        server.spawn(server.arrival.run())
        await server.show_progress()

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def configuration_changed(params: types.DidChangeConfigurationParams) -> None:
        settings: Any = params.settings
        workspace = server.client_capabilities.workspace
        if not settings and workspace and workspace.configuration:
            # The editor only says that something changed; ask for the values.
            item = types.ConfigurationItem(section=SECTION)
            found = await asyncio.wait_for(
                server.workspace_configuration_async(types.ConfigurationParams([item])), 5
            )
            settings = found[0] if found else None
        await server.configure(settings)

    @server.feature(types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)
    def folders_changed(params: types.DidChangeWorkspaceFoldersParams) -> None:
        removed = {folder.uri for folder in params.event.removed}
        kept = [uri for uri in server.roots if uri not in removed]
        server.set_roots([*kept, *(folder.uri for folder in params.event.added)])

    @server.feature(types.SHUTDOWN)
    async def shutdown(params: None) -> None:
        await server.end()


def documents(server: TalariaServer) -> None:
    """Opening, changing and closing documents."""

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def opened(params: types.DidOpenTextDocumentParams) -> None:
        server.opened(params.text_document)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def changed(params: types.DidChangeTextDocumentParams) -> None:
        if accepted := server.changed(params):
            server.spawn(suggest.prefetch(server, params.text_document.uri, *accepted))

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: types.DidCloseTextDocumentParams) -> None:
        server.closed(params.text_document.uri)


def suggestions(server: TalariaServer) -> None:
    """Ghost text and code actions."""
    kinds = types.CodeActionOptions(code_action_kinds=[types.CodeActionKind.RefactorRewrite])

    # Without options, pygls would not announce the capability.
    @server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
    async def inline(
        params: types.InlineCompletionParams,
    ) -> list[types.InlineCompletionItem] | None:
        return await suggest.inline_completion(server, params)

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, kinds)
    def code_actions(params: types.CodeActionParams) -> list[types.CodeAction]:
        return actions.code_actions(server, params)

    @server.feature("talaria/didDismiss")
    def dismissed(params: Any) -> None:
        uri = params.get("uri") if isinstance(params, dict) else None
        if file := server.files.get(str(uri)):
            server.count(file, file.inline.dismiss())


def commands(server: TalariaServer) -> None:
    """Commands of `workspace/executeCommand`; `editors/PROTOCOL.md` describes each."""
    structure = server.converter.structure

    def place(given: Any) -> tuple[str, types.Range]:
        try:
            given = clamp_positions(given)
            uri = given["uri"] + ""
            if "range" in given:
                return uri, structure(given["range"], types.Range)
            position = structure(given["position"], types.Position)
        except (KeyError, TypeError, cattrs.BaseValidationError) as error:
            raise JsonRpcInvalidParams("expected {uri, position} or {uri, range}") from error
        return uri, types.Range(position, position)

    @server.command("talaria.fillFunction")
    async def fill_function(at: Any) -> str | None:
        return await actions.fill(server, "function", *place(at))

    @server.command("talaria.fillHere")
    async def fill_here(at: Any) -> str | None:
        return await actions.fill(server, "here", *place(at))

    @server.command("talaria.rewrite")
    async def rewrite(at: Any) -> str | None:
        return await actions.fill(server, "rewrite", *place(at))

    @server.command("talaria.nextCandidate")
    async def next_candidate(uri: Any) -> str | None:
        return await actions.next_candidate(server, str(uri))

    @server.command("talaria.acceptWord")
    async def accept_word(uri: Any, text: Any = None) -> str | None:
        return await actions.accept(server, str(uri), "word", text)

    @server.command("talaria.acceptLine")
    async def accept_line(uri: Any, text: Any = None) -> str | None:
        return await actions.accept(server, str(uri), "line", text)

    @server.command("talaria.showTrace")
    async def show_trace(uri: Any) -> str | None:
        return await actions.show_trace(server, str(uri))

    @server.command("talaria.toggle")
    def toggle(language: Any = "") -> bool:
        return server.toggle(str(language or ""))

    @server.command("talaria.accepted")
    def accepted(uri: Any, number: Any) -> None:
        actions.accepted(server, str(uri), number)

    @server.command("talaria.fetch")
    async def fetch(answer: Any = FETCH) -> None:
        await server.arrival.say(str(answer))

    @server.command("talaria.status")
    def status() -> dict[str, Any]:
        return server.statistics()

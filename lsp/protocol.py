"""The protocol, hardened: every request is answered, and malformed ones cause no pop-up.

pygls has a workspace of its own, which breaks lines wherever Python's `splitlines` does and
splits the text again at each change. `lsp/documents.py` replaces it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from lsprotocol import types
from pygls.exceptions import (
    JsonRpcException,
    JsonRpcInternalError,
    JsonRpcInvalidParams,
    JsonRpcInvalidRequest,
    JsonRpcParseError,
    JsonRpcServerNotInitialized,
)
from pygls.protocol import LanguageServerProtocol, lsp_method

LARGEST_INDEX = 2**31 - 1  # of lines and characters
UNVERSIONED = -(2**31)  # stands for a version that the editor did not send

log = logging.getLogger("talaria")


class Protocol(LanguageServerProtocol):
    """Answers malformed requests and leaves documents to the server.

    Handlers are plain functions or coroutines: the inner part of a pygls generator handler would
    keep running after the request is cancelled.

    exited     whether the editor has sent `exit`
    on_unread  called with the URI of a document when a change to it cannot be read
    """

    exited = False
    on_unread: Callable[[str], None] | None = None
    _initialized = False

    async def receive(self, data: bytes | str) -> None:
        """Handle one message; a malformed one gets an error if it expects an answer.

        On return the handler has read the documents that the message is about, so the next
        message may change them.
        """
        self._receive(data)
        await asyncio.sleep(0)  # lets the handler's task take its first step

    def _receive(self, data: bytes | str) -> None:
        found: Any = None
        try:
            try:
                found = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise JsonRpcParseError(f"not JSON: {error}") from error
            self._check(found)
            repair_document(found)
            repair_context(found)
            try:
                message = self.structure_message(found)
            except JsonRpcInvalidParams:
                message = self.structure_message(clamp_positions(found))
            self.handle_message(message)
        except Exception as error:
            log.warning("cannot read a message: %s", error)
            if self.on_unread and (uri := changed_uri(found)) is not None:
                self.on_unread(uri)
            reply = error if isinstance(error, JsonRpcException) else JsonRpcInternalError()
            number = found.get("id") if isinstance(found, dict) else None
            if not isinstance(number, int | str):
                number = None
            if isinstance(found, dict) and "method" not in found:
                # A response from the editor: whoever waits for it gets the error.
                waiting = self._request_futures.pop(number, None) if number is not None else None
                if waiting and not waiting.done():
                    waiting.set_exception(reply)
            elif not isinstance(found, dict) or "id" in found:
                self._send_data(
                    {
                        "jsonrpc": "2.0",
                        "id": number,
                        "error": {"code": reply.code, "message": reply.message},
                    }
                )

    def _check(self, found: Any) -> None:
        """Raise a JSON-RPC error if a message is invalid, or not allowed at this point."""
        # LSP has no batches, so a list is invalid.
        if not isinstance(found, dict) or found.get("jsonrpc") != "2.0":
            raise JsonRpcInvalidRequest("a message must be an object with jsonrpc 2.0")
        if "method" not in found:
            return
        method = found["method"]
        if not isinstance(method, str) or not isinstance(found.get("id", 0), int | str):
            raise JsonRpcInvalidRequest("method must be a string, id a number or string")
        found.setdefault("params", None)
        if method == types.EXIT:
            return
        if self._shutdown:
            raise JsonRpcInvalidRequest("only exit may follow shutdown")
        if method == types.INITIALIZE:
            if self._initialized:
                raise JsonRpcInvalidRequest("initialize may be sent only once")
        elif not self._initialized:
            raise JsonRpcServerNotInitialized("the first request must be initialize")

    def _execute_handler(self, msg_id: Any, *arguments: Any, **named: Any) -> None:
        """Run a handler; it can be cancelled by its id until it is done."""
        super()._execute_handler(msg_id, *arguments, **named)
        if future := self._request_futures.get(msg_id):

            def forget(_: Any) -> None:
                if self._request_futures.get(msg_id) is future:
                    del self._request_futures[msg_id]

            future.add_done_callback(forget)

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(self, params: types.InitializeParams) -> Any:
        """Handle `initialize` (once only); ignore an invalid root URI."""
        try:
            urlsplit(params.root_uri or "")
        except ValueError:
            params.root_uri = None
        result = yield from super().lsp_initialize(params)
        self._initialized = True
        return result

    @lsp_method(types.SHUTDOWN)
    async def lsp_shutdown(self, params: None = None) -> None:  # type: ignore[override]
        """End the server's work and cancel all pending requests."""
        own = self.msg_id
        await self.fm.features[types.SHUTDOWN](params)
        for number, future in [*self._request_futures.items()]:
            if number != own:
                future.cancel()
        self._shutdown = True

    @lsp_method(types.EXIT)
    def lsp_exit(self, params: None = None) -> None:  # type: ignore[override]
        """Stop reading messages."""
        self.exited = True

    @lsp_method(types.WORKSPACE_EXECUTE_COMMAND)
    async def lsp_workspace__execute_command(  # type: ignore[override]
        self, params: types.ExecuteCommandParams
    ) -> Any:
        """Run a command in the request's own task, so that cancelling the request cancels it."""
        command = self.fm.commands.get(params.command)
        if command is None:
            raise JsonRpcInvalidParams(
                f"unknown command {params.command!r}; known are {', '.join(self.fm.commands)}"
            )
        arguments = params.arguments or ()
        try:
            inspect.signature(command).bind(*arguments)
        except TypeError as error:
            raise JsonRpcInvalidParams(f"{params.command}: {error}") from error
        result = command(*arguments)
        return await result if inspect.isawaitable(result) else result

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        """Leave the document to the server, bypassing the workspace of pygls."""
        self.fm.features[types.TEXT_DOCUMENT_DID_OPEN](params)

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        """Leave the document to the server, bypassing the workspace of pygls."""
        self.fm.features[types.TEXT_DOCUMENT_DID_CHANGE](params)

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        """Leave the document to the server, bypassing the workspace of pygls."""
        self.fm.features[types.TEXT_DOCUMENT_DID_CLOSE](params)


def repair_document(message: dict[str, Any]) -> None:
    """Remove null fields from the documents and changes of a message; supply a missing version.

    Raises:
        JsonRpcInvalidParams: a change has no text.
    """
    params = message.get("params")
    if not isinstance(params, dict) or not isinstance(params.get("textDocument"), dict):
        return
    document = params["textDocument"]
    if message.get("method") == types.TEXT_DOCUMENT_DID_OPEN:
        changes: Any = [document]
    elif message.get("method") == types.TEXT_DOCUMENT_DID_CHANGE:
        changes = params.get("contentChanges")
    else:
        return
    if not isinstance(changes, list):
        raise JsonRpcInvalidParams("contentChanges must be a list")
    for change in changes:
        if not isinstance(change, dict) or not isinstance(change.get("text"), str):
            raise JsonRpcInvalidParams("a change must have a text")
        for name in ("range", "rangeLength"):
            if name in change and change[name] is None:
                del change[name]
    if document.get("version") is None:
        document["version"] = UNVERSIONED


# The contexts of requests: what stands in for a missing one, the trigger kinds that LSP knows
# (the last stands in for others), the optional fields.
_CONTEXTS: dict[str, tuple[dict[str, Any] | None, tuple[int, ...], tuple[str, ...]]] = {
    types.TEXT_DOCUMENT_INLINE_COMPLETION: ({}, (1, 2), ("selectedCompletionInfo",)),
    types.TEXT_DOCUMENT_COMPLETION: (None, (2, 3, 1), ("triggerCharacter",)),
    types.TEXT_DOCUMENT_CODE_ACTION: ({"diagnostics": []}, (1, 2), ("only",)),
}


def repair_context(message: dict[str, Any]) -> None:
    """Complete the context of a request: what the editor does not say was not asked by hand.

    A trigger kind that LSP does not know counts as the automatic one, and a missing context, or
    a field that is null, as absent.

    Raises:
        JsonRpcInvalidParams: the document has no URI.
    """
    known, params = _CONTEXTS.get(message.get("method", "")), message.get("params")
    if known is None or not isinstance(params, dict):
        return
    document = params.get("textDocument")
    if not isinstance(document, dict) or not isinstance(document.get("uri"), str):
        raise JsonRpcInvalidParams("textDocument.uri must be a string")
    stand_in, kinds, optional = known
    context = params.get("context")
    if not isinstance(context, dict):
        params.pop("context", None)
        if stand_in is None:
            return
        context = {}
    context = {**(stand_in or {}), **context}
    kind = context.get("triggerKind")
    if isinstance(kind, bool) or kind not in kinds:
        context["triggerKind"] = kinds[-1]
    for name in optional:
        if context.get(name, "") is None:
            del context[name]
    params["context"] = context


def changed_uri(message: Any) -> str | None:
    """The URI of the document that a message opens or changes, if it does."""
    methods = (types.TEXT_DOCUMENT_DID_OPEN, types.TEXT_DOCUMENT_DID_CHANGE)
    try:
        changes = message["method"] in methods
        return str(message["params"]["textDocument"]["uri"]) if changes else None
    except (KeyError, TypeError):
        return None


def clamp_positions(message: Any) -> Any:
    """A message with valid positions: some editors send the largest number for "the end"."""
    if isinstance(message, list):
        return [clamp_positions(each) for each in message]
    if not isinstance(message, dict):
        return message
    found = {name: clamp_positions(each) for name, each in message.items()}
    for name in {"line", "character"} & found.keys():
        if isinstance(found[name], int | float) and not math.isnan(found[name]):
            found[name] = int(min(max(found[name], 0), LARGEST_INDEX))
    return found

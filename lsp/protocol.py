"""The protocol, hardened: whatever comes in, a request is answered and nobody sees a pop-up.

pygls keeps a workspace of its own, whose lines end where Python's `splitlines` says so, and
which is split anew at each change. `lsp/documents.py` takes its place.
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

FARTHEST = 2**31 - 1  # of lines and characters
UNVERSIONED = -(2**31)  # the version of a text whose editor says none

log = logging.getLogger("talaria")


class Protocol(LanguageServerProtocol):
    """Answers requests that cannot be read, and leaves documents to the server.

    Handlers are plain functions or coroutines: of those that pygls runs in parts, an inner
    part would go on when the request is cancelled.

    left    whether the editor has said `exit`
    unread  is called with the address of a document of which a change cannot be read
    """

    left = False
    unread: Callable[[str], None] | None = None
    _begun = False

    async def take(self, data: bytes | str) -> None:
        """A message as it came; one that cannot be read is answered if it wants an answer.

        When this is over, a handler has read of the documents what the message is about:
        the next message may change them.
        """
        self._take(data)
        await asyncio.sleep(0)  # for the first step of the handler's task

    def _take(self, data: bytes | str) -> None:
        found: Any = None
        try:
            try:
                found = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise JsonRpcParseError(f"no JSON: {error}") from error
            self._check(found)
            mend(found)
            try:
                message = self.structure_message(found)
            except JsonRpcInvalidParams:
                message = self.structure_message(bounded(found))
            self.handle_message(message)
        except Exception as error:
            log.warning("a message that cannot be read: %s", error)
            if self.unread and (uri := changed(found)) is not None:
                self.unread(uri)
            told = error if isinstance(error, JsonRpcException) else JsonRpcInternalError()
            number = found.get("id") if isinstance(found, dict) else None
            if not isinstance(number, int | str):
                number = None
            if isinstance(found, dict) and "method" not in found:
                # An answer of the editor's: who waits for it hears that it says nothing.
                waiting = self._request_futures.pop(number, None) if number is not None else None
                if waiting and not waiting.done():
                    waiting.set_exception(told)
            elif not isinstance(found, dict) or "id" in found:
                self._send_data(
                    {
                        "jsonrpc": "2.0",
                        "id": number,
                        "error": {"code": told.code, "message": told.message},
                    }
                )

    def _check(self, found: Any) -> None:
        """Raise what is wrong with a message, or with its time."""
        # Lists of messages are none in LSP.
        if not isinstance(found, dict) or found.get("jsonrpc") != "2.0":
            raise JsonRpcInvalidRequest("no object with jsonrpc 2.0")
        if "method" not in found:
            return
        method = found["method"]
        if not isinstance(method, str) or not isinstance(found.get("id", 0), int | str):
            raise JsonRpcInvalidRequest("method must be a text, id a number or text")
        found.setdefault("params", None)
        if method == types.EXIT:
            return
        if self._shutdown:
            raise JsonRpcInvalidRequest("nothing but exit follows shutdown")
        if method == types.INITIALIZE:
            if self._begun:
                raise JsonRpcInvalidRequest("initialize comes once")
        elif not self._begun:
            raise JsonRpcServerNotInitialized("initialize comes first")

    def _execute_handler(self, msg_id: Any, *arguments: Any, **named: Any) -> None:
        """What runs can be cancelled by its number, and is forgotten when it is done."""
        super()._execute_handler(msg_id, *arguments, **named)
        if future := self._request_futures.get(msg_id):

            def forget(_: Any) -> None:
                if self._request_futures.get(msg_id) is future:
                    del self._request_futures[msg_id]

            future.add_done_callback(forget)

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(self, params: types.InitializeParams) -> Any:
        """Begin, once; what is no address is no root."""
        try:
            urlsplit(params.root_uri or "")
        except ValueError:
            params.root_uri = None
        result = yield from super().lsp_initialize(params)
        self._begun = True
        return result

    @lsp_method(types.SHUTDOWN)
    async def lsp_shutdown(self, params: None = None) -> None:  # type: ignore[override]
        """Let the server end its work, and cancel what is still asked."""
        own = self.msg_id
        await self.fm.features[types.SHUTDOWN](params)
        for number, future in [*self._request_futures.items()]:
            if number != own:
                future.cancel()
        self._shutdown = True

    @lsp_method(types.EXIT)
    def lsp_exit(self, params: None = None) -> None:  # type: ignore[override]
        """Whoever reads the messages ends."""
        self.left = True

    @lsp_method(types.WORKSPACE_EXECUTE_COMMAND)
    async def lsp_workspace__execute_command(  # type: ignore[override]
        self, params: types.ExecuteCommandParams
    ) -> Any:
        """Run a command in the request's own task, so that cancelling the one ends the other."""
        command = self.fm.commands.get(params.command)
        if command is None:
            raise JsonRpcInvalidParams(
                f"no command {params.command!r}; there are {', '.join(self.fm.commands)}"
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
        """The server keeps it."""
        self.fm.features[types.TEXT_DOCUMENT_DID_OPEN](params)

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        """The server keeps it."""
        self.fm.features[types.TEXT_DOCUMENT_DID_CHANGE](params)

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        """The server keeps it."""
        self.fm.features[types.TEXT_DOCUMENT_DID_CLOSE](params)


def mend(message: dict[str, Any]) -> None:
    """Mend a text or change that says null for nothing, or no version.

    Raises:
        JsonRpcInvalidParams: what should be a text is none.
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


def changed(message: Any) -> str | None:
    """The address of the document that a message says has changed."""
    try:
        told = message["method"] in (types.TEXT_DOCUMENT_DID_OPEN, types.TEXT_DOCUMENT_DID_CHANGE)
        return str(message["params"]["textDocument"]["uri"]) if told else None
    except (KeyError, TypeError):
        return None


def bounded(message: Any) -> Any:
    """With positions that can be: some editors say the largest number where they mean the end."""
    if isinstance(message, list):
        return [bounded(each) for each in message]
    if not isinstance(message, dict):
        return message
    found = {name: bounded(each) for name, each in message.items()}
    for name in {"line", "character"} & found.keys():
        if isinstance(found[name], int | float) and not math.isnan(found[name]):
            found[name] = int(min(max(found[name], 0), FARTHEST))
    return found

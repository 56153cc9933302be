"""The protocol, hardened: whatever comes in, a request is answered and nobody sees a pop-up.

pygls keeps a workspace of its own, whose lines end where Python's `splitlines` says so, and
which is split anew at each change. `lsp/documents.py` takes its place.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.protocol import LanguageServerProtocol, lsp_method

log = logging.getLogger("talaria")

Handled = Generator[Any, Any, None]


class Protocol(LanguageServerProtocol):
    """Answers requests that cannot be read, and leaves documents to the server."""

    def structure_message(self, data: dict[str, Any]) -> Any:
        """A message as an object; one that cannot be read is answered, if it is a request."""
        try:
            return super().structure_message(data)
        except JsonRpcException as error:
            number = data.get("id")
            if "method" in data and isinstance(number, int | str):
                self._send_response(number, error=error.to_response_error())
            raise

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> Handled:
        """The server keeps it."""
        yield self.fm.features[types.TEXT_DOCUMENT_DID_OPEN], (params,), None

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> Handled:
        """The server keeps it."""
        yield self.fm.features[types.TEXT_DOCUMENT_DID_CHANGE], (params,), None

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> Handled:
        """The server keeps it."""
        yield self.fm.features[types.TEXT_DOCUMENT_DID_CLOSE], (params,), None

"""`$/progress`, where the editor has it: models that load, and one that is fetched."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from lsprotocol import types

if TYPE_CHECKING:
    from talaria.lsp.server import TalariaServer

log = logging.getLogger("talaria")

LOADING = "talaria/loading"


class Progress:
    """One progress; nothing happens where the editor has none.

    token  names it
    """

    def __init__(self, server: TalariaServer, token: str) -> None:
        self.token = token
        self._server = server
        self._shown = False

    async def begin(self, title: str, *, stops: bool = False) -> bool:
        """Show it; whether it is shown. `stops` lets the user stop it."""
        window = self._server.client_capabilities.window
        if not (window and window.work_done_progress):
            return False
        progress = self._server.work_done_progress
        try:
            await asyncio.wait_for(progress.create_async(self.token), 5)
        except Exception as error:  # editors may refuse what they announced
            log.warning("cannot show progress: %r", error)
            return False
        begin = types.WorkDoneProgressBegin(title, cancellable=True if stops else None)
        progress.begin(self.token, begin)
        self._shown = True
        return True

    def report(self, message: str, percent: int | None = None) -> None:
        """Show how far it is."""
        if self._shown:
            report = types.WorkDoneProgressReport(message=message, percentage=percent)
            self._server.work_done_progress.report(self.token, report)

    def end(self, message: str) -> None:
        """Show it no longer."""
        if self._shown:
            self._shown = False
            self._server.work_done_progress.end(
                self.token, types.WorkDoneProgressEnd(message=message)
            )

    @property
    def stopped(self) -> bool:
        """Whether the user has stopped it; from any thread."""
        token = self._server.work_done_progress.tokens.get(self.token)
        return bool(token and token.cancelled())

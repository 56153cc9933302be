"""Connections that a client leaves hanging are closed, and a stop refuses what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 15.0  # seconds for a request's headers to come, and for a client to read on


class Connection(H11Protocol):
    """uvicorn's connection, without patience for clients that send half a head or do not read."""

    patience = PATIENCE
    _head: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of a request, but not for ever."""
        super().connection_made(transport)
        self._head = self.loop.call_later(self.patience, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Read on; once a head is complete, the application has limits of its own."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head()
        elif self._head is None:
            self._head = self.loop.call_later(self.patience, self.transport.abort)

    def on_response_complete(self) -> None:
        """Wait for the next request as long as uvicorn does."""
        self._stop_head()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read: wait for it, but not for ever."""
        super().pause_writing()
        self._reader = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads on."""
        super().resume_writing()
        self._stop_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_head()
        self._stop_reader()
        super().connection_lost(exc)

    def _stop_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None


class Server(uvicorn.Server):
    """uvicorn's server; `on_stop` is called when a signal asks it to stop.

    It ends once what runs is finished, and at a second signal at once.
    """

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop. uvicorn would raise the signal again in the end: this is no failure."""
        self.on_stop()
        self.force_exit = self.should_exit
        self.should_exit = True

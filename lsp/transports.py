"""Transports: standard streams, a TCP port, a WebSocket.

A server serves one editor and ends when that sends `exit`, closes its end, or dies. Bytes that
are not a message are skipped up to the next message, so that one malformed message does not
leave the editor with a server that no longer listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from talaria.lsp.server import TalariaServer

log = logging.getLogger("talaria")

MAX_MESSAGE = 64_000_000  # bytes; the largest documents have a few million
# Browsers send the origin of the page, other programs do not. Pages from other hosts must not
# reach a server that reads files.
_ORIGINS = (None, re.compile(r"\w[\w+.-]*://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"))
WATCH_SECONDS = 1.0  # between two checks that the editor still runs
_LENGTH = b"content-length:"
_HEADER = re.compile(rb"content-(length|type):", re.I)


def messages(source: IO[bytes], line: bytes = b"") -> Iterator[bytes]:
    """The message bodies of a stream, up to its end; `line` was already read from it."""
    length = None
    line = line or source.readline()
    while line:
        # Skipped bytes may be followed by a header on the same line.
        _, found, digits = line.lower().rpartition(_LENGTH)
        if found:
            digits = digits.strip()
            length = int(digits) if digits.isdigit() and len(digits) < 12 else None
            if length is None or length > MAX_MESSAGE:
                log.warning(
                    "skipped a message of %s bytes; the limit is %s", digits[:20], MAX_MESSAGE
                )
                length = None
        elif not line.strip() and length is not None:
            body = source.read(length)
            if len(body) < length:
                return
            yield body
            length = None
        line = source.readline()


class Writer:
    """Writes messages to a stream; `on_lost` is called when the other end is closed."""

    def __init__(self, sink: BinaryIO, on_lost: Callable[[], None]) -> None:
        self._sink, self._on_lost = sink, on_lost

    def write(self, data: bytes) -> None:
        """Send a message, unbuffered."""
        try:
            self._sink.write(data)
            self._sink.flush()
        except (OSError, ValueError):
            self._on_lost()

    def close(self) -> None:
        """Do nothing: the stream closes with the process."""


async def streams(
    server: TalariaServer, source: BinaryIO, sink: BinaryIO, line: bytes = b""
) -> None:
    """Serve an editor on two streams until it exits; `line` was already read."""
    loop, protocol = asyncio.get_running_loop(), server.protocol
    received: asyncio.Queue[bytes | None] = asyncio.Queue()
    protocol.set_writer(Writer(sink, lambda: received.put_nowait(None)))

    def read() -> None:
        # RuntimeError: the event loop has already ended.
        with contextlib.suppress(RuntimeError):
            with contextlib.suppress(OSError, ValueError):
                for body in messages(source, line):
                    loop.call_soon_threadsafe(received.put_nowait, body)
            loop.call_soon_threadsafe(received.put_nowait, None)

    threading.Thread(target=read, name="talaria-reader", daemon=True).start()
    while not protocol.exited and (body := await received.get()) is not None:
        await protocol.receive(body)


async def watch(editor: int, before_exit: Callable[[], object]) -> None:
    """Exit when the editor's process ends, even without `exit`; call `before_exit` first."""
    while sys.platform != "win32":  # where signal 0 would end the process
        await asyncio.sleep(WATCH_SECONDS)
        try:
            os.kill(editor, 0)
        except ProcessLookupError:
            log.warning("the editor (process %s) has ended", editor)
            before_exit()
            os._exit(1)
        except PermissionError:
            continue  # it runs, as another user
        except (OSError, OverflowError):
            return  # not a valid process id


async def tcp(server: TalariaServer, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve the first editor that connects to a port.

    A connection that does not start with a message header is closed: a web page can make a
    browser send a message to any port, but only after HTTP headers.
    """
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family) as listener:
        ready()
        while True:
            connection, _ = await asyncio.to_thread(listener.accept)
            source = connection.makefile("rb")
            line = await asyncio.to_thread(first_line, source)
            if not line or _HEADER.match(line):
                break
            log.warning("closed a connection that is not an editor's: %r", line[:40])
            source.close()
            connection.close()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await streams(server, source, connection.makefile("wb"), line)


def first_line(source: IO[bytes]) -> bytes:
    """The first line of a stream, up to the length of a header; empty if it is closed."""
    try:
        return source.readline(200)
    except OSError:
        return b""


async def websocket(server: TalariaServer, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve the first editor that connects to a WebSocket."""
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed

    ended, protocol = asyncio.Event(), server.protocol

    class Sender:
        """Sends text messages in order."""

        def __init__(self, connection: ServerConnection) -> None:
            self._connection = connection

        async def write(self, data: bytes) -> None:
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(data.decode())

        async def close(self) -> None:
            await self._connection.close()

    async def serve_one(connection: ServerConnection) -> None:
        if protocol.writer is not None:
            await connection.close(1013, "this server already serves an editor")
            return
        protocol.set_writer(Sender(connection), include_headers=False)
        with contextlib.suppress(ConnectionClosed):
            async for data in connection:
                await protocol.receive(data)
                if protocol.exited:
                    break
        ended.set()

    async with serve(serve_one, host, port, max_size=MAX_MESSAGE, origins=_ORIGINS):
        ready()
        await ended.wait()

"""How an editor's messages come in and answers go out: two streams, a TCP port, a WebSocket.

One server serves one editor and ends with it: when it has said `exit`, closed its end or is
gone. What is no message is passed over up to the next one, so that a slip of the editor's
does not leave it with a deaf server.
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

    from talaria.lsp.server import Server

log = logging.getLogger("talaria")

LARGEST = 64_000_000  # bytes of a message; the largest documents have a few million
# Browsers say what page a WebSocket belongs to, other programs do not. Pages from
# elsewhere have no business with a server that reads files.
_ORIGINS = (None, re.compile(r"\w[\w+.-]*://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"))
ORPHANED = 1.0  # seconds between two looks whether the editor still runs
_LENGTH = b"content-length:"
_HEADER = re.compile(rb"content-(length|type):", re.I)


def messages(source: IO[bytes], line: bytes = b"") -> Iterator[bytes]:
    """The bodies of the messages of a stream, up to its end; `line` was read of it already."""
    length = None
    line = line or source.readline()
    while line:
        # At the end of what is no message, its header may follow on the same line.
        _, found, digits = line.lower().rpartition(_LENGTH)
        if found:
            digits = digits.strip()
            length = int(digits) if digits.isdigit() and len(digits) < 12 else None
            if length is None or length > LARGEST:
                log.warning("a message of %s bytes; the limit is %s", digits[:20], LARGEST)
                length = None
        elif not line.strip() and length is not None:
            body = source.read(length)
            if len(body) < length:
                return
            yield body
            length = None
        line = source.readline()


class Writer:
    """Answers to a stream; `lost` is called when nobody reads them any more."""

    def __init__(self, sink: BinaryIO, lost: Callable[[], None]) -> None:
        self._sink, self._lost = sink, lost

    def write(self, data: bytes) -> None:
        """Send some, at once."""
        try:
            self._sink.write(data)
            self._sink.flush()
        except (OSError, ValueError):
            self._lost()

    def close(self) -> None:
        """The process does that."""


async def streams(server: Server, source: BinaryIO, sink: BinaryIO, line: bytes = b"") -> None:
    """Serve an editor on two streams until it ends; `line` was read already."""
    loop, protocol = asyncio.get_running_loop(), server.protocol
    come: asyncio.Queue[bytes | None] = asyncio.Queue()
    protocol.set_writer(Writer(sink, lambda: come.put_nowait(None)))

    def read() -> None:
        # The loop may be gone before the editor.
        with contextlib.suppress(RuntimeError):
            with contextlib.suppress(OSError, ValueError):
                for body in messages(source, line):
                    loop.call_soon_threadsafe(come.put_nowait, body)
            loop.call_soon_threadsafe(come.put_nowait, None)

    threading.Thread(target=read, name="talaria-reader", daemon=True).start()
    while not protocol.left and (body := await come.get()) is not None:
        await protocol.take(body)


async def watch(editor: int, last: Callable[[], object]) -> None:
    """End the process with the editor's, even if that forgot to say so; `last` is called first."""
    while sys.platform != "win32":  # there, signal 0 is more than a question
        await asyncio.sleep(ORPHANED)
        try:
            os.kill(editor, 0)
        except ProcessLookupError:
            log.warning("the editor, process %s, is gone", editor)
            last()
            os._exit(1)
        except PermissionError:
            continue  # it runs as somebody else
        except (OSError, OverflowError):
            return  # no process has such a number


async def tcp(server: Server, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve the first editor that connects to a port.

    Who begins with something else than a message is sent away: a browser may be made to
    send a message to any port, but with lines of its own before it.
    """
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family) as door:
        ready()
        while True:
            connection, _ = await asyncio.to_thread(door.accept)
            source = connection.makefile("rb")
            line = await asyncio.to_thread(first_line, source)
            if not line or _HEADER.match(line):
                break
            log.warning("a connection that speaks something else: %r", line[:40])
            source.close()
            connection.close()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await streams(server, source, connection.makefile("wb"), line)


def first_line(source: IO[bytes]) -> bytes:
    """The first line of a stream, as far as a header may be long; empty if it is closed."""
    try:
        return source.readline(200)
    except OSError:
        return b""


async def websocket(server: Server, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve the first editor that connects to a WebSocket."""
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed

    ended, protocol = asyncio.Event(), server.protocol

    class Sender:
        """Answers in messages of text, in their order."""

        def __init__(self, connection: ServerConnection) -> None:
            self._connection = connection

        async def write(self, data: bytes) -> None:
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(data.decode())

        async def close(self) -> None:
            await self._connection.close()

    async def serve_one(connection: ServerConnection) -> None:
        if protocol.writer is not None:
            await connection.close(1013, "this server has its editor")
            return
        protocol.set_writer(Sender(connection), include_headers=False)
        with contextlib.suppress(ConnectionClosed):
            async for data in connection:
                await protocol.take(data)
                if protocol.left:
                    break
        ended.set()

    async with serve(serve_one, host, port, max_size=LARGEST, origins=_ORIGINS):
        ready()
        await ended.wait()

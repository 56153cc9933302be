"""A loopback HTTP server that answers fill-in-the-middle requests as a test scripts it.

It runs in its own threads, so that clients in this process and in others can use it.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE = 30.0  # seconds after which whatever a test waits for has failed


@dataclass(frozen=True)
class Reply:
    """The response to one request: status, headers, a body in pieces, perhaps no end.

    A body that is an iterator serves one request; each piece is sent when it comes.
    `hangs` leaves the response unfinished until the client disconnects.
    """

    body: Iterable[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    hangs: bool = False


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def whole(answer: object, status: int = 200, **headers: str) -> Reply:
    """A response that is not streamed; underscores in header names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply([json.dumps(answer).encode()], status, named)


def text(said: str, end: str | None = "stop") -> dict[str, Any]:
    """A completion in the format of OpenAI and Inception, whole or as a part of a stream."""
    return {"choices": [{"index": 0, "text": said, "finish_reason": end}]}


def message(said: str) -> dict[str, Any]:
    """A whole completion in Mistral's format."""
    choice = {"index": 0, "message": {"role": "assistant", "content": said}}
    return {"choices": [choice | {"finish_reason": "stop"}]}


def delta(said: str | None, end: str | None = None) -> dict[str, Any]:
    """A part of a stream in Mistral's format."""
    return {"choices": [{"index": 0, "delta": {"content": said}, "finish_reason": end}]}


def event(answer: object) -> bytes:
    """An object as a server-sent event."""
    return b"data: " + json.dumps(answer).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def stream(*pieces: bytes) -> Reply:
    """A streamed response with these bytes."""
    return Reply(pieces, kind="text/event-stream")


class FimServer:
    """Serves `url`; the last of `replies` repeats, each other one serves one request.

    gone  set when a client disconnected before its response was complete
    """

    def __init__(self, *replies: Reply, certificate: str | None = None) -> None:
        self.replies = list(replies)
        self.asked: list[ReceivedRequest] = []
        self.connections = 0
        self.gone = threading.Event()
        self.arrived = threading.Event()
        self._turn = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = PATIENCE
            disable_nagle_algorithm = True  # or small pieces wait 40 ms for each other

            def setup(self) -> None:
                super().setup()
                owner.connections += 1

            def do_POST(self) -> None:
                owner._answer(self)

            def do_CONNECT(self) -> None:
                owner._answer(self)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = False  # joined at the end, so that no socket is left

            def handle_error(self, *_: object) -> None:
                """Ignore clients that disconnect; `gone` records it."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        scheme = "http"
        if certificate:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}/v1/fim/completions"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> FimServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        body = json.loads(handler.rfile.read(length) or b"{}")
        with self._turn:
            self.asked.append(ReceivedRequest(handler.path, dict(handler.headers.items()), body))
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        self.arrived.set()
        try:
            if reply.hangs and not reply.body:
                self._wait_until_gone(handler)
                return
            handler.send_response(reply.status)
            handler.send_header("Content-Type", reply.kind)
            handler.send_header("Transfer-Encoding", "chunked")
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            for piece in reply.body:
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                handler.wfile.flush()
            if reply.hangs:
                self._wait_until_gone(handler)
            else:
                handler.wfile.write(b"0\r\n\r\n")
        except OSError:
            handler.close_connection = True
            self.gone.set()

    def _wait_until_gone(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        try:
            gone = not handler.connection.recv(1)
        except TimeoutError:
            return
        except OSError:
            gone = True
        if gone:
            self.gone.set()

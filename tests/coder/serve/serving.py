"""A server in a thread of the test, on the loopback interface, and what asks it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import uvicorn

from talaria.coder.backbone import Array, KVCache
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.engine import Engine
from talaria.coder.serve.app import Service, application
from talaria.coder.serve.connections import Connection, Server
from talaria.coder.serve.desk import Desk, Limits
from talaria.coder.serve.keys import Keys
from talaria.coder.serve.metrics import Metrics
from tests.scripted import ScriptedBackbone

PATIENCE = 30.0  # seconds after which whatever a test waits for has failed
PREFIX, SUFFIX = "def mean(values):\n    ", "\n"


@dataclass
class Serving:
    """A server that runs, and a client of it."""

    url: str
    service: Service
    server: Server
    client: httpx2.Client

    @property
    def desk(self) -> Desk:
        """Its desk."""
        assert isinstance(self.service.desk, Desk)
        return self.service.desk

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, body: Mapping[str, Any] | bytes, **headers: str) -> httpx2.Response:
        """Post JSON, or bytes; underscores in names of headers become hyphens."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, content=content, headers=named)

    def events(self, path: str, body: Mapping[str, Any]) -> list[Any]:
        """The events of a stream, as JSON except for the end mark."""
        with self.client.stream("POST", path, content=json.dumps(body)) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        said = [line.removeprefix("data: ") for line in lines]
        return [each if each == "[DONE]" else json.loads(each) for each in said]

    def value(self, name: str, **labels: str) -> float:
        """A metric; 0 if it was never counted."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def serving(
    load: Callable[[], Checkpoint],
    *,
    limits: Limits | None = None,
    keys: Keys | None = None,
    body_bytes: int = 100_000,
    connection: type[Connection] = Connection,
    workers: int = 1,
    send_buffer: int | None = None,
    ready: bool = True,
) -> Iterator[Serving]:
    """Serve a model until the block ends; the block begins when it is `ready`."""
    metrics = Metrics()
    with (
        Engine(load, workers=workers, on_pass=metrics.shared.observe) as engine,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        if send_buffer:  # connections inherit it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        desk = Desk(engine, limits or Limits(), metrics)
        service = Service(desk, metrics, keys, body_bytes)
        config = uvicorn.Config(
            application(service),
            http=connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=10,
        )
        server = Server(config, desk.stop)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx2.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
                until(lambda: server.started and (desk.ready or not ready))
                yield Serving(url, service, server, client)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    late = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < late
        time.sleep(0.002)


@dataclass
class Gate:
    """Holds passes of a backbone until it is opened; counts those that have begun."""

    opened: threading.Event = field(default_factory=threading.Event)
    begun: int = 0


class Held(ScriptedBackbone):
    """A scripted backbone whose passes wait at a gate."""

    gate: Gate

    def evaluate(
        self, ids: Array, positions: Array, visible: Array | None, cache: KVCache | None, keep: bool
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """One pass, as `Backbone` has it."""
        self.gate.begun += 1
        assert self.gate.opened.wait(PATIENCE)
        return super().evaluate(ids, positions, visible, cache, keep)


def held(model: Checkpoint) -> tuple[Checkpoint, Gate]:
    """A scripted model behind a gate."""
    assert isinstance(model.backbone, ScriptedBackbone)
    backbone = Held.__new__(Held)
    backbone.__dict__ |= model.backbone.__dict__
    backbone.gate = Gate()
    return replace(model, backbone=backbone), backbone.gate


def raw(port: int, *pieces: bytes, ends: bool = False) -> socket.socket:
    """A connection on which these bytes were sent; `ends` closes its sending half."""
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    for piece in pieces:
        connection.sendall(piece)
    if ends:
        connection.shutdown(socket.SHUT_WR)
    return connection


def head(path: str, length: int, *more: str) -> bytes:
    """The head of a request."""
    lines: Sequence[str] = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *more)
    return "\r\n".join([*lines, "", ""]).encode()

"""What the server does with many clients, and with those that mean it harm."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import CheckpointError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.request import Options
from talaria.coder.serve import app
from talaria.coder.serve.connections import Connection
from talaria.coder.serve.desk import Limits
from talaria.coder.serve.exchange import Asked, Refusal
from talaria.coder.serve.keys import Key, Keys
from tests.coder.serve.serving import (
    PATIENCE,
    PREFIX,
    SUFFIX,
    Gate,
    Serving,
    head,
    held,
    raw,
    serving,
    until,
)
from tests.scripted import scripted

HOLE = {"prompt": PREFIX, "suffix": SUFFIX}
SECRET = "return hunter2"


class Hasty(Connection):
    """A connection with little patience, but enough for a client on a busy machine."""

    patience = 1.0


@pytest.fixture
def gated(tokenizer: TalariaTokenizer) -> Iterator[tuple[Serving, Gate]]:
    """A server for three requests at a time, whose model waits at a gate."""
    model, gate = held(scripted(tokenizer, [SECRET]))
    with serving(lambda: model, limits=Limits(queue=3)) as server:
        try:
            yield server, gate
        finally:
            gate.opened.set()


@pytest.fixture
def asks(gated: tuple[Serving, Gate]) -> Iterator[ThreadPoolExecutor]:
    """Threads to ask in, which end with the test."""
    with ThreadPoolExecutor(8) as threads:
        yield threads
        gated[1].opened.set()


def ask(server: Serving, **headers: str) -> httpx2.Response:
    """Ask for a completion."""
    return server.post("/v1/completions", HOLE, **headers)


def test_more_than_the_queue_are_sent_away(
    gated: tuple[Serving, Gate], asks: ThreadPoolExecutor
) -> None:
    """At once, with the time after which to come again; those that were admitted are answered."""
    server, gate = gated
    admitted = [asks.submit(ask, server) for _ in range(3)]
    until(lambda: server.desk.admitted == 3)
    assert server.client.get("/ready").status_code == 503
    refused = ask(server)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "x-should-retry" not in refused.headers
    assert "3 requests" in refused.json()["error"]["message"]
    gate.opened.set()
    assert [each.result(PATIENCE).status_code for each in admitted] == [200] * 3
    assert server.client.get("/ready").status_code == 200


def test_who_is_sent_away_comes_again_when_the_engine_is_done(tokenizer: TalariaTokenizer) -> None:
    """By the time of its work, not of the waiting for it, which several workers share."""
    model, gate = held(scripted(tokenizer, [SECRET]))
    with (
        serving(lambda: model, limits=Limits(queue=6), workers=2) as server,
        ThreadPoolExecutor(8) as asks,
    ):
        gate.opened.set()
        assert ask(server).status_code == 200
        assert 0 < server.desk.pace < 1
        server.desk.pace = 10.0
        gate.opened.clear()
        admitted = [asks.submit(ask, server) for _ in range(6)]
        until(lambda: server.desk.admitted == 6)
        refused = ask(server)
        gate.opened.set()
        assert refused.headers["retry-after"] == "30"
        for each in admitted:
            each.result(PATIENCE)


def test_refusals_keep_nothing_of_the_requests_before(gated: tuple[Serving, Gate]) -> None:
    """Each is a new one: one that is raised again and again would grow."""
    server, _ = gated
    asked = Asked(PREFIX, SUFFIX, Options())
    found = []
    server.desk.stop()
    for _ in range(3):
        with pytest.raises(Refusal, match="stopping") as refused:
            asyncio.run(server.desk.ask(asked, "", ""))
        found.append(len(traceback.extract_tb(refused.value.__traceback__)))
    assert len(set(found)) == 1


def test_the_newest_request_about_a_document_wins(
    gated: tuple[Serving, Gate], asks: ThreadPoolExecutor
) -> None:
    """The older one is told so; a document of another name is another one."""
    server, gate = gated

    def submit(document: str) -> Future[httpx2.Response]:
        before = server.desk.engine.counters.requests
        found = asks.submit(ask, server, x_document=document)
        until(lambda: server.desk.engine.counters.requests > before)
        return found

    older, other, newer = submit("a.py"), submit("b.py"), submit("a.py")
    response = older.result(PATIENCE)
    assert response.status_code == 409
    assert "newer request" in response.json()["error"]["message"]
    assert response.headers["x-should-retry"] == "false"  # or the two would take turns
    gate.opened.set()
    assert other.result(PATIENCE).status_code == newer.result(PATIENCE).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_is_not_computed_for(
    gated: tuple[Serving, Gate], stream: bool
) -> None:
    """Its request is cancelled, whether it waits or is computed."""
    server, gate = gated
    body = json.dumps({**HOLE, "stream": stream}).encode()
    running, waiting = (
        raw(server.port, head("/v1/completions", len(body)), body) for _ in range(2)
    )
    until(lambda: server.desk.admitted == 2 and gate.begun)
    running.close()
    waiting.close()
    until(lambda: server.desk.admitted == 0)
    gate.opened.set()
    until(lambda: server.desk.engine.counters.cancelled == 2)
    assert ask(server).status_code == 200


def test_a_deadline_is_kept(gated: tuple[Serving, Gate], asks: ThreadPoolExecutor) -> None:
    """What waits is answered with nothing when its time is over."""
    server, gate = gated
    first = asks.submit(ask, server)
    until(lambda: gate.begun)
    body = {"input_prefix": PREFIX, "t_max_predict_ms": 1}
    late = asks.submit(server.post, "/infill", body)
    until(lambda: server.desk.engine.counters.requests == 2)
    time.sleep(0.01)  # longer than its deadline
    gate.opened.set()
    answer = late.result(PATIENCE).json()
    assert (answer["content"], answer["stop_type"]) == ("", "limit")
    assert first.result(PATIENCE).status_code == 200


def test_hostile_clients(tokenizer: TalariaTokenizer) -> None:
    """Half heads, half bodies, bodies that are too long, no HTTP: none stays, and others get on."""
    with serving(lambda: scripted(tokenizer, ["0"]), connection=Hasty) as server:
        harm(server)


def harm(server: Serving) -> None:
    """Do it, and look at what is left."""
    half_head = raw(server.port, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent")
    half_body = raw(server.port, head("/infill", 100), b'{"input')
    gone = raw(server.port, head("/infill", 100), b'{"input', ends=True)
    nonsense = raw(server.port, b"\x16\x03\x01 no HTTP\r\n\r\n")
    long = raw(server.port, head("/infill", 50_000_000), b"x" * 200)
    chunked = raw(
        server.port, head("/infill", 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    )
    for _ in range(40):
        try:
            chunked.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        except OSError:  # closed already
            break
    assert ask(server).status_code == 200
    assert half_head.recv(100) == b""
    assert nonsense.recv(1000).startswith(b"HTTP/1.1 400 ")
    for connection in (long, chunked):
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    for connection in (half_head, half_body, gone, nonsense, long, chunked):
        connection.close()
    until(lambda: not server.server.server_state.tasks)
    until(lambda: len(server.server.server_state.connections) <= 1)  # our own
    assert server.desk.admitted == 0


def test_a_body_that_does_not_come(
    gated: tuple[Serving, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for only so long."""
    monkeypatch.setattr(app, "BODY_SECONDS", 0.1)
    slow = raw(gated[0].port, head("/infill", 100), b'{"input')
    assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
    slow.close()


def test_a_client_that_does_not_read_is_left(tokenizer: TalariaTokenizer) -> None:
    """Its connection is cut when its buffers stay full."""
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        serving(lambda: scripted(tokenizer, ["0"]), connection=Hasty, send_buffer=4096) as server,
        socket.socket() as slow,
    ):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(PATIENCE)
        slow.connect(("127.0.0.1", server.port))
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            slow.sendall(request * 200_000)
        assert server.client.get("/live").status_code == 200


def test_no_text_in_logs(gated: tuple[Serving, Gate], caplog: pytest.LogCaptureFixture) -> None:
    """Neither what was asked nor what was written, also where it fails."""
    server, gate = gated
    gate.opened.set()
    with caplog.at_level(logging.DEBUG):
        body = {**HOLE, "prompt": f"password = {SECRET}\n    "}
        assert SECRET in server.post("/v1/completions", body).text
        server.post("/v1/completions", {**body, "n": SECRET})
        server.events("/v1/completions", {**body, "stream": True})

        async def broken(*_: object) -> None:
            raise ValueError(SECRET)

        server.desk.ask = broken  # type: ignore[method-assign, assignment]
        failed = server.post("/v1/completions", body)
    assert failed.status_code == 500
    assert SECRET not in failed.text
    said = [record.getMessage() for record in caplog.records if "talaria" in record.name]
    assert any("/v1/completions 200" in line for line in said)
    assert any("ValueError" in line for line in said)
    assert not [record for record in caplog.records if "hunter2" in record.getMessage()]


def test_metrics(gated: tuple[Serving, Gate]) -> None:
    """By formats and statuses, never by anything that a client wrote."""
    server, gate = gated
    gate.opened.set()
    ask(server)
    ask(server)
    server.post("/infill", b"{")
    page = server.client.get("/metrics").text
    assert 'talaria_requests_total{format="/v1/completions",status="200"} 2.0' in page
    assert 'talaria_requests_total{format="/infill",status="400"} 1.0' in page
    assert server.value("talaria_nfe_count") == 2
    assert server.value("talaria_context_tokens_total", source="cache") > 0
    assert "talaria_requests_admitted 0.0" in page


def digest(text: str) -> bytes:
    """What a file of keys has of a key."""
    return hashlib.sha256(text.encode()).digest()


def test_keys(tokenizer: TalariaTokenizer) -> None:
    """Whoever has none is refused in the format's shape, but may ask how the server is."""
    clock = [0.0]
    keys = Keys([Key("ada", digest("a")), Key("bob", digest("b"), 12)], lambda: clock[0])
    with serving(lambda: scripted(tokenizer, ["0"]), keys=keys) as server:
        for wrong in ("", "Bearer", "Bearer c", "Basic a", "Bearer é"):
            response = server.client.post(
                "/v1/completions",
                json=HOLE,
                headers=[(b"authorization", wrong.encode("latin-1"))],
            )
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["type"] == "authentication_error"
        for path in ("/metrics", "/props", "/v1/models"):
            assert server.client.get(path).status_code == 401
        for path in ("/live", "/health", "/v1/health", "/ready"):
            assert server.client.get(path).status_code == 200
        assert [ask(server, authorization="Bearer a").status_code for _ in range(4)] == [200] * 4
        statuses = [ask(server, authorization="bearer b").status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        clock[0] += 5
        assert ask(server, authorization="Bearer b").status_code == 200
        assert int(ask(server, authorization="Bearer b").headers["retry-after"]) == 5


def test_a_key_has_documents_and_contexts_of_its_own(tokenizer: TalariaTokenizer) -> None:
    """Another key's document of the same name is another one, and what it read is not found."""
    model, gate = held(scripted(tokenizer, [SECRET]))
    keys = Keys([Key("ada", digest("a")), Key("bob", digest("b"))])
    with (
        serving(lambda: model, keys=keys) as server,
        ThreadPoolExecutor(2) as threads,
    ):

        def submit(key: str) -> Future[httpx2.Response]:
            before = server.desk.engine.counters.requests
            sent = {"authorization": f"Bearer {key}", "x_document": "same.py"}
            found = threads.submit(server.post, "/infill", {"input_prefix": PREFIX}, **sent)
            until(lambda: server.desk.engine.counters.requests > before)
            return found

        ada, bob = submit("a"), submit("b")
        gate.opened.set()
        answers = [each.result(PATIENCE) for each in (ada, bob, submit("a"), submit("b"))]
        assert [answer.status_code for answer in answers] == [200] * 4
        found = [answer.json()["timings"]["cache_n"] for answer in answers]
        assert found[0] == found[1] == 0
        assert found[2] == found[3] > 0


def test_pages_of_other_sites_may_not_use_a_server_without_keys(
    gated: tuple[Serving, Gate],
) -> None:
    """A browser says where a page is from; pages of this machine may."""
    server, gate = gated
    gate.opened.set()
    assert ask(server, origin="https://example.org").status_code == 403
    assert ask(server, origin="http://localhost:3000").status_code == 200


def test_a_model_that_is_not_there() -> None:
    """While it loads, and when it cannot be loaded: 503, and why."""
    loading = threading.Event()

    def load() -> Checkpoint:
        assert loading.wait(PATIENCE)
        raise CheckpointError("no-such-model: not found")

    with serving(load, ready=False) as server:
        response = server.client.get("/health")
        assert (response.status_code, response.json()["error"]["message"]) == (503, "Loading model")
        found = []
        for _ in range(3):
            with pytest.raises(Refusal, match="Loading model") as refused:
                _ = server.desk.about
            found.append(len(traceback.extract_tb(refused.value.__traceback__)))
        assert len(set(found)) == 1
        assert server.client.get("/live").status_code == 200
        assert ask(server).status_code == 503
        loading.set()
        until(lambda: "no-such-model" in ask(server).text)
        assert server.client.get("/v1/models").status_code == 503


def test_a_stop_finishes_what_runs(gated: tuple[Serving, Gate], asks: ThreadPoolExecutor) -> None:
    """And refuses what comes: nobody who was admitted is left without an answer."""
    server, gate = gated
    running = asks.submit(ask, server)
    until(lambda: server.desk.admitted == 1)
    idle = httpx2.Client(base_url=server.url, trust_env=False)
    server.server.handle_exit(15, None)
    assert not server.desk.ready

    def refused() -> bool:
        try:
            return idle.post("/v1/completions", json=HOLE).status_code == 503
        except httpx2.HTTPError:
            return True

    until(refused)
    assert not running.done()
    gate.opened.set()
    response = running.result(PATIENCE)
    assert (response.status_code, response.json()["choices"][0]["text"]) == (200, SECRET)
    idle.close()
    until(lambda: not server.server.started or not server.server.servers[0].is_serving())


def test_many_clients_are_all_answered(model: Checkpoint) -> None:
    """Each request gets its own answer, whatever comes beside it, or is told to come again."""
    with serving(lambda: model) as server:

        async def client(number: int, http: httpx2.AsyncClient) -> list[int]:
            statuses = []
            for turn in range(4):
                body: dict[str, Any] = {"prompt": f"a = {number}\nb = {turn}\n", "max_tokens": 4}
                if (number + turn) % 3 == 0:
                    body["n"] = "x"
                response = await http.post("/v1/completions", json=body)
                statuses.append(response.status_code)
                assert re.match("^(200|400)$", str(response.status_code)), response.text
            return statuses

        async def all_clients() -> list[list[int]]:
            async with httpx2.AsyncClient(
                base_url=server.url, timeout=PATIENCE, trust_env=False
            ) as http:
                return await asyncio.gather(*(client(number, http) for number in range(6)))

        statuses = [status for each in asyncio.run(all_clients()) for status in each]
        assert statuses.count(400) == 8
        assert server.desk.admitted == 0
        assert server.desk.engine.counters.answered == 16

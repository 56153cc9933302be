"""The client of remote endpoints, against a real server on loopback."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.errors import UsageError
from talaria.lsp import endpoint
from talaria.lsp.completions import RESPONSE_CHARACTERS
from talaria.lsp.endpoint import DeadlineMissed, Endpoint, EndpointError
from talaria.lsp.endpoint_settings import EndpointSettings
from tests.lsp.fim_server import (
    DONE,
    PATIENCE,
    FimServer,
    Reply,
    delta,
    event,
    message,
    stream,
    text,
    whole,
)

KEY = "sk-a-very-secret-key-0123456789"
VARIABLE = "TALARIA_TEST_KEY"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is set, and no proxy is."""
    monkeypatch.setenv(VARIABLE, KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module", autouse=True)
def garbage() -> Iterator[None]:
    """Keep older objects out of every collection in here, since there are many."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def settings(
    url: str = "https://host/v1/completions",
    *,
    model: str | None = "coder",
    key_variable: str | None = VARIABLE,
    timeout_seconds: float = PATIENCE,
) -> EndpointSettings:
    """Settings, with defaults for what a test does not name."""
    return EndpointSettings(url, model, key_variable, timeout_seconds)


def fill(
    client: Endpoint,
    prefix: str = "x = ",
    suffix: str = "\ny = 2\n",
    count: int = 1,
    temperature: float = 0.0,
    seconds: float | None = None,
) -> list[str]:
    """Fill one hole and close the connections, in its own event loop."""

    async def filled() -> list[str]:
        try:
            return await client.fill(prefix, suffix, 64, count, temperature, seconds)
        finally:
            await client.close()

    try:
        return asyncio.run(filled())
    finally:
        gc.collect()  # what was not closed warns here, and warnings are errors


def failure(client: Endpoint) -> EndpointError:
    """The error of filling a hole; it is one line without the key."""
    with pytest.raises(EndpointError) as raised:
        fill(client)
    said = str(raised.value)
    assert "\n" not in said
    assert KEY not in said
    return raised.value


SHAPES = {
    "openai": [text("1")],
    "mistral": [message("1")],
}
STREAMS = {
    "openai": [event(text("ab", None)), event(text("", "stop")), DONE],
    "mistral": [event(delta("a")), event(delta("b")), event(delta(None, "length")), DONE],
    "without DONE": [event(text("a", None)), event(text("b"))],
    "without an end but DONE": [event(delta("a")), event(delta("b")), DONE],
    "with figures": [event({"choices": []}), event(text("ab")), event({"choices": []}), DONE],
    "with comments": [b": alive\r\n\r\n", b"event: x\r\n", event(text("ab", None)), DONE],
    "in odd pieces": [b"da", b'ta: {"choices"', b': [{"text": "ab"}]}\r', b"\n\r\ndata:[DONE]\n"],
    "without a last line end": [event(text("a", None)), event(text("b"))[:-2]],
}


@pytest.mark.parametrize("answer", SHAPES.values(), ids=SHAPES)
def test_a_whole_response(answer: list[object]) -> None:
    """The text is where OpenAI and Inception put it, or where Mistral does."""
    with FimServer(whole(answer[0])) as server:
        assert fill(Endpoint(settings(server.url))) == ["1"]


@pytest.mark.parametrize("pieces", STREAMS.values(), ids=STREAMS)
def test_a_streamed_response(pieces: list[bytes]) -> None:
    """However a stream is split and ended, its text comes out whole."""
    with FimServer(stream(*pieces)) as server:
        assert fill(Endpoint(settings(server.url))) == ["ab"]


def test_the_request() -> None:
    """It has OpenAI's format; what is not set is left out."""
    with FimServer(whole(text("1"))) as server:
        fill(Endpoint(settings(server.url + "?version=2")))
        fill(Endpoint(settings(server.url, model=None, key_variable=None)), "\ud800a\n", "")
        fill(Endpoint(settings(server.url)), "é\n", "ü")
    first, second, third = server.asked
    assert first.path.endswith("/v1/fim/completions?version=2")
    assert first.body == {
        "model": "coder",
        "prompt": "x = ",
        "suffix": "\ny = 2\n",
        "max_tokens": 64,
        "temperature": 0.0,
        "stream": True,
    }
    assert first.headers["Authorization"] == f"Bearer {KEY}"
    assert first.headers["Accept-Encoding"] == "identity"
    assert set(second.body) == {"prompt", "suffix", "max_tokens", "temperature", "stream"}
    assert second.body["prompt"] == "\ufffda\n"
    assert "Authorization" not in second.headers
    assert (third.body["prompt"], third.body["suffix"]) == ("é\n", "ü")


def test_several_candidates() -> None:
    """One request each; duplicates are dropped; at temperature 0 there is one request."""
    replies = [whole(text(said)) for said in ("1", "2", "1")]
    with FimServer(*replies) as server:
        client = Endpoint(settings(server.url))
        assert sorted(fill(client, count=3, temperature=0.8)) == ["1", "2"]
        assert [asked.body["temperature"] for asked in server.asked] == [0.8] * 3
        assert fill(client, count=3) == ["1"]
        assert len(server.asked) == 4
        with pytest.raises(UsageError, match="count is 0"):
            fill(client, count=0)
        with pytest.raises(UsageError, match="max_tokens is 0"):
            asyncio.run(client.fill("", "", 0))


def test_some_candidates_are_better_than_none() -> None:
    """If one of several requests fails, the others count, and the endpoint is paused."""
    clock = Clock()
    with FimServer(whole({}, 429), whole(text("1"))) as server:
        client = Endpoint(settings(server.url), clock)
        assert fill(client, count=3, temperature=0.8) == ["1"]
        assert client.waiting == endpoint.FIRST_PAUSE


def test_a_connection_is_kept() -> None:
    """The next request reuses it, streamed or not; `close` closes it."""

    async def thrice(client: Endpoint) -> None:
        for _ in range(3):
            assert await client.fill("x = ", "", 64) == ["1"]
        await client.close()
        await client.close()

    answer = whole(text("1"))
    with FimServer(stream(event(text("1")), DONE), answer, answer) as server:
        asyncio.run(thrice(Endpoint(settings(server.url))))
        assert server.connections == 1
        assert len(server.asked) == 3


def test_a_kept_connection_that_the_server_closed() -> None:
    """The next request opens a new one."""
    body = json.dumps(text("1")).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    closed = threading.Event()

    async def twice(client: Endpoint) -> None:
        assert await client.fill("x = ", "", 64) == ["1"]
        await asyncio.to_thread(closed.wait, PATIENCE)
        await asyncio.sleep(0.05)
        assert await client.fill("x = ", "", 64) == ["1"]
        await client.close()

    def serve(listening: socket.socket) -> None:
        for _ in range(2):
            taken, _address = listening.accept()
            with taken:
                taken.recv(65536)
                taken.sendall(answer)
                time.sleep(0.05)
                taken.shutdown(socket.SHUT_RDWR)
            closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        asyncio.run(twice(Endpoint(settings(url))))
        thread.join()


def test_a_response_that_never_ends_after_its_last_event() -> None:
    """The complete text is taken without waiting."""
    with FimServer(Reply([event(text("1")), DONE], kind="text/event-stream", hangs=True)) as server:
        began = time.monotonic()
        assert fill(Endpoint(settings(server.url))) == ["1"]
        assert time.monotonic() - began < PATIENCE / 2
        assert server.gone.wait(PATIENCE)


STATUSES = {
    401: ("the key is refused", VARIABLE, endpoint.LONGEST_PAUSE),
    403: ("the key is refused", VARIABLE, endpoint.LONGEST_PAUSE),
    404: ("check endpoint, endpoint_model", "answered 404", endpoint.FIRST_PAUSE),
    429: ("too many requests", "answered 429", endpoint.FIRST_PAUSE),
    500: ("an internal error", "answered 500", endpoint.FIRST_PAUSE),
    204: ("check endpoint", "answered 204", endpoint.FIRST_PAUSE),
}


@pytest.mark.parametrize("status", STATUSES)
def test_a_refusal(status: int) -> None:
    """The message says what to do and shows no key, and the endpoint is paused."""
    what, where, pause = STATUSES[status]
    body = [] if status == 204 else [json.dumps({"error": {"message": f"bad {KEY}\n"}}).encode()]
    with FimServer(Reply(body, status)) as server:
        client = Endpoint(settings(server.url), Clock())
        error = failure(client)
        assert what in str(error)
        assert where in str(error)
        assert error.retry_after == client.waiting == pause
        again = failure(client)
        assert "is paused for another" in str(again)
        assert what in str(again)
        assert again.retry_after == pause
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Retry-After": "30"}, 30.0),
        ({"Retry-After": "0"}, endpoint.FIRST_PAUSE),
        ({"Retry-After": "86400"}, endpoint.LONGEST_PAUSE),
        ({"Retry-After": "soon"}, endpoint.FIRST_PAUSE),
    ],
)
def test_retry_after(headers: dict[str, str], pause: float) -> None:
    """It is honoured, within bounds."""
    for status in (429, 503):
        with FimServer(whole({}, status, **headers)) as server:
            client = Endpoint(settings(server.url), Clock())
            assert failure(client).retry_after == pause


def test_retry_after_with_a_date() -> None:
    """The date is compared with the server's own; invalid values are ignored."""
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    later = "Wed, 21 Oct 2015 07:28:45 GMT"
    assert endpoint.requested_pause({"retry-after": later, "date": date}) == 45
    assert endpoint.requested_pause({"retry-after": date, "date": later}) == -45
    for headers in ({}, {"retry-after": later}, {"retry-after": "-1"}, {"retry-after": "9" * 5000}):
        assert endpoint.requested_pause(headers) is None


def test_the_reason_of_a_refusal() -> None:
    """An error message is shown, short and without the key; nothing else of the body is."""
    cases: list[tuple[object, str]] = [
        ({"error": {"message": f"no model\n{KEY}"}}, "answered 404 (no model [key]): "),
        ({"error": "no such model"}, "(no such model)"),
        ({"detail": "x" * 5000}, "xxx…)"),
        ({"detail": [{"input": "secret code"}]}, "answered 404: check"),
        (["secret code"], "answered 404: check"),
    ]
    for body, said in cases:
        with FimServer(whole(body, 404)) as server:
            error = str(failure(Endpoint(settings(server.url))))
            assert said in error
            assert "secret" not in error
            assert len(error) < 400
    with FimServer(Reply([b"[" * 1000] * 100, 400)) as server:
        assert "answered 400: check" in str(failure(Endpoint(settings(server.url))))


def test_a_redirect_is_not_followed() -> None:
    """The key does not go to another host."""
    with (
        FimServer(whole(text("1"))) as other,
        FimServer(whole({}, 307, Location=other.url)) as server,
    ):
        assert "a redirect" in str(failure(Endpoint(settings(server.url))))
        assert not other.asked


def endless(piece: bytes) -> Reply:
    """An endless stream."""
    return Reply(itertools.repeat(piece), kind="text/event-stream")


def choice(**named: object) -> bytes:
    """A stream event with such a choice."""
    return event({"choices": [named]})


NONSENSE: dict[str, Callable[[], Reply]] = {
    "HTML": lambda: Reply([b"<html>Welcome</html>"], kind="text/html"),
    "empty": lambda: Reply([b""]),
    "broken JSON": lambda: Reply([b'{"choices": [{"text": "1"']),
    "deep JSON": lambda: Reply([b"[" * 100_000]),
    "not UTF-8": lambda: Reply([b'{"choices": [{"text": "\xff"}]}']),
    "a list": lambda: whole([1]),
    "no choices": lambda: whole({"object": "text_completion"}),
    "empty choices": lambda: whole({"choices": []}),
    "choices of a wrong type": lambda: whole({"choices": {"0": 1}}),
    "a choice of a wrong type": lambda: whole({"choices": ["1"]}),
    "a choice without text": lambda: whole({"choices": [{"index": 0}]}),
    "a text of a wrong type": lambda: whole({"choices": [{"text": 1}]}),
    "a NUL": lambda: whole(text("a\0b")),
    "an error": lambda: whole({"error": {"message": "overloaded"}}),
    "too long": lambda: whole(text("x" * (RESPONSE_CHARACTERS + 1))),
    "a stream of HTML": lambda: stream(b"<html>\n</html>\n"),
    "a stream of nothing": lambda: stream(DONE),
    "a stream of figures": lambda: stream(event({"choices": []}), DONE),
    "a stream of broken JSON": lambda: stream(b"data: {\n\n", DONE),
    "a stream of wrong types": lambda: stream(choice(delta={"content": [1]})),
    "a stream with an error": lambda: stream(event(text("a", None)), event({"error": "no"})),
    "a stream that ends in the midst": lambda: stream(event(text("a", None))),
    "an endless text": lambda: endless(event(text("x" * 1000, None))),
    "an endless line": lambda: endless(b"data: " + b"x" * 60_000),
    "endless comments": lambda: endless(b": " + b"x" * 60_000 + b"\n"),
}


@pytest.mark.parametrize("reply", NONSENSE.values(), ids=NONSENSE)
def test_malformed_responses(reply: Callable[[], Reply]) -> None:
    """They are rejected with none of their text shown, and take bounded memory."""
    with FimServer(reply()) as server:
        client = Endpoint(settings(server.url), Clock())
        assert "not a completion" in str(failure(client))
        assert client.waiting == endpoint.FIRST_PAUSE


def test_text_is_normalized() -> None:
    """Line endings become uniform; split surrogates are joined, lone ones replaced."""
    with FimServer(whole(text("a\r\nb\rc\ud83d\ude00\udc00"))) as server:
        assert fill(Endpoint(settings(server.url))) == ["a\nb\nc\U0001f600\ufffd"]
    parts = [event(delta("\ud83d")), event(delta("\ude00\r")), event(delta("\n", "stop"))]
    with FimServer(stream(*parts)) as server:
        assert fill(Endpoint(settings(server.url))) == ["\U0001f600\n"]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(hangs=True),
        Reply([event(text("a", None))], kind="text/event-stream", hangs=True),
        Reply([b"{"], 400, hangs=True),
    ],
    ids=["before its answer", "in its answer", "in its refusal"],
)
def test_an_endpoint_that_hangs(reply: Reply) -> None:
    """It times out, the connection is closed, and the endpoint is paused."""
    with FimServer(reply) as server:
        client = Endpoint(settings(server.url, timeout_seconds=0.2), Clock())
        began = time.monotonic()
        assert "took longer than 0.2 s" in str(failure(client))
        assert time.monotonic() - began < PATIENCE / 2
        assert server.gone.wait(PATIENCE)
        assert client.waiting == endpoint.FIRST_PAUSE


def test_a_missed_deadline_is_not_a_failure() -> None:
    """The endpoint is asked again at once."""
    with FimServer(Reply(hangs=True), whole(text("1"))) as server:
        client = Endpoint(settings(server.url), Clock())
        with pytest.raises(DeadlineMissed, match=r"longer than 0.1 s: raise deadline_ms"):
            fill(client, seconds=0.1)
        assert server.gone.wait(PATIENCE)
        assert not client.waiting
        assert fill(client, seconds=PATIENCE) == ["1"]


def test_failures_have_a_kind() -> None:
    """So that an editor reports each kind once; no remedy names an unknown option."""
    kinds = {}
    for status in (300, 401, 404, 429, 500):
        with FimServer(Reply([b"{}"], status)) as server:
            error = failure(Endpoint(settings(server.url, key_variable=None), Clock()))
            kinds[error.kind] = str(error)
    assert sorted(kinds) == ["broken", "busy", "key", "moved", "refused"]
    assert "set endpoint_key_variable" in kinds["key"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses or accepts")
def test_a_host_that_does_not_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting has a limit of its own."""
    monkeypatch.setattr(endpoint, "CONNECT_SECONDS", 0.1)
    # A full queue of connections: the next one is neither accepted nor refused.
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        client = Endpoint(settings(f"http://127.0.0.1:{full.getsockname()[1]}/"), Clock())
        assert "did not accept a connection within" in str(failure(client))


def test_nobody_listens() -> None:
    """A refused connection is reported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = Endpoint(settings(f"http://127.0.0.1:{port}/v1"), Clock())
    assert f"cannot reach endpoint 127.0.0.1:{port}" in str(failure(client))
    assert client.waiting == endpoint.FIRST_PAUSE


def test_something_else_listens() -> None:
    """A server that does not speak HTTP, or disconnects, cannot be reached."""
    for said in (b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"):
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def speak(listening: socket.socket = listening, said: bytes = said) -> None:
                taken, _ = listening.accept()
                with taken:
                    taken.recv(65536)
                    taken.sendall(said)

            thread = threading.Thread(target=speak)
            thread.start()
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            assert "cannot reach" in str(failure(Endpoint(settings(url))))
            thread.join()


@pytest.mark.parametrize(
    "reply",
    [Reply(hangs=True), Reply([event(text("a", None))], kind="text/event-stream", hangs=True)],
    ids=["before its answer", "in its answer"],
)
def test_cancelling_closes_the_connection(reply: Reply) -> None:
    """The server notices at once; a cancelled request is not a failure."""

    async def cancelled(client: Endpoint, server: FimServer) -> None:
        task = asyncio.create_task(client.fill("x = ", "", 64, count=2, temperature=1.0))
        while len(server.asked) < 2:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.gone.wait, 1.0)
        assert not client.waiting
        assert len(asyncio.all_tasks()) == 1
        await client.close()

    with FimServer(reply) as server:
        asyncio.run(cancelled(Endpoint(settings(server.url)), server))
        gc.collect()


def test_cancelling_at_any_time_leaves_nothing_behind() -> None:
    """After many requests cancelled at any point, the next one is answered."""

    async def typed(client: Endpoint) -> None:
        assert await client.fill("x = ", "", 64) == ["1"]
        for place in range(150):
            task = asyncio.create_task(client.fill("x = ", "", 64, count=2, temperature=1.0))
            await asyncio.sleep(place % 50 * 0.0002)
            task.cancel()
            (answer,) = await asyncio.gather(task, return_exceptions=True)
            assert answer == ["1"] or isinstance(answer, asyncio.CancelledError)
        assert await client.fill("x = ", "", 64) == ["1"]
        assert len(asyncio.all_tasks()) == 1
        await client.close()

    with FimServer(stream(event(text("1")), DONE)) as server:
        asyncio.run(typed(Endpoint(settings(server.url))))
        gc.collect()


def test_closing_ends_pending_requests() -> None:
    """They fail at once instead of at their timeout."""

    async def closed(client: Endpoint, server: FimServer) -> str:
        task = asyncio.create_task(client.fill("x = ", "", 64))
        await asyncio.to_thread(server.arrived.wait, PATIENCE)
        await client.close()
        with pytest.raises(EndpointError) as raised:
            await task
        return str(raised.value)

    with FimServer(Reply(hangs=True)) as server:
        began = time.monotonic()
        assert "cannot reach" in asyncio.run(closed(Endpoint(settings(server.url)), server))
        assert time.monotonic() - began < PATIENCE / 2


def test_the_pause_doubles_and_ends() -> None:
    """2 s, 4 s and so on up to 5 minutes; a success resets it."""
    clock = Clock()
    with FimServer(whole({}, 500)) as server:
        client = Endpoint(settings(server.url), clock)
        pauses = []
        for _ in range(9):
            failure(client)
            pauses.append(client.waiting)
            clock.now += client.waiting - 0.5
            failure(client)
            clock.now += 0.5
        assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300]
        assert len(server.asked) == 9
        server.replies = [whole(text("1"))]
        assert fill(client) == ["1"]
        assert client.waiting == 0
        server.replies = [whole({}, 500)]
        assert failure(client).retry_after == 2


def test_concurrent_failures_count_once() -> None:
    """Requests that fail together cause one pause."""

    async def together(client: Endpoint) -> None:
        asked = [client.fill(str(place), "", 64, count=2, temperature=1.0) for place in range(3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, EndpointError) for answer in answers)
        await client.close()

    with FimServer(whole({}, 500)) as server:
        client = Endpoint(settings(server.url), Clock())
        asyncio.run(together(client))
        assert client.waiting == endpoint.FIRST_PAUSE


@given(st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9), st.integers(0, 10**6)), max_size=40))
def test_pauses_are_bounded(happened: list[float | int | None]) -> None:
    """Whatever endpoints request, a pause lasts from 2 s to 5 minutes."""
    clock = Clock()
    pause = endpoint.Pause(clock)
    for asked in happened:
        pause.failed(asked)
        assert endpoint.FIRST_PAUSE - 1e-6 <= pause.left <= endpoint.LONGEST_PAUSE + 1e-6
        clock.now += pause.left
        assert pause.left < 1e-6
        clock.now += 1.0


def test_the_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Neither this module nor the HTTP library logs it at any level."""
    caplog.set_level(logging.DEBUG)
    with FimServer(whole({"error": f"bad {KEY}"}, 400), whole(text("1"))) as server:
        clock = Clock()
        client = Endpoint(settings(server.url), clock)
        failure(client)
        clock.now += client.waiting
        fill(client)
        assert server.asked[-1].headers["Authorization"] == f"Bearer {KEY}"
    assert caplog.text
    assert KEY not in caplog.text
    assert KEY not in repr(vars(client))


def test_a_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable, nothing is sent, and later requests fail at once."""
    with FimServer(whole(text("1"))) as server:
        for value in (None, "", "  ", "two words", "clé"):
            if value is None:
                monkeypatch.delenv(VARIABLE)
            else:
                monkeypatch.setenv(VARIABLE, value)
            client = Endpoint(settings(server.url), Clock())
            error = failure(client)
            assert VARIABLE in str(error)
            assert not value or value.strip() == "" or value not in str(error)
            assert error.retry_after == endpoint.LONGEST_PAUSE
        assert not server.asked
        # A line end after the key is what a shell leaves behind.
        monkeypatch.setenv(VARIABLE, KEY + "\n")
        assert fill(Endpoint(settings(server.url))) == ["1"]


def test_a_url_that_only_the_library_rejects() -> None:
    """It is an endpoint error like others, not a crash."""
    error = failure(Endpoint(settings(f"http://{'a' * 70}.xn--0.localhost/"), Clock()))
    assert "cannot reach" in str(error)


def test_no_proxy_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other hosts are reached through the environment's proxy, loopback never is."""
    with FimServer(whole(text("proxy"))) as proxy, FimServer(whole(text("1"))) as server:
        address = proxy.url.partition("/v1")[0]
        monkeypatch.setenv("HTTP_PROXY", address)
        monkeypatch.setenv("http_proxy", address)
        assert fill(Endpoint(settings(server.url))) == ["1"]
        assert not proxy.asked
        assert fill(Endpoint(settings("http://model.invalid/v1"))) == ["proxy"]
        monkeypatch.setenv("HTTP_PROXY", "gopher://x:pw12345@y")
        monkeypatch.setenv("http_proxy", "gopher://x:pw12345@y")
        error = str(failure(Endpoint(settings("http://model.invalid/v1"))))
        assert "check the variables" in error
        assert "pw12345" not in error


@pytest.mark.skipif(not shutil.which("openssl"), reason="a certificate is made with openssl")
def test_certificates_are_verified(tmp_path: Path) -> None:
    """A server with a self-signed certificate gets neither the key nor the text."""
    made = tmp_path / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    named = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    into = ["-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(
        [*command.split(), *named, *into],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=300,
    )
    made.write_bytes(
        (tmp_path / "key.pem").read_bytes() + (tmp_path / "certificate.pem").read_bytes()
    )
    with FimServer(whole(text("1")), certificate=str(made)) as server:
        error = str(failure(Endpoint(settings(server.url))))
        assert "CERTIFICATE_VERIFY_FAILED" in error.upper() or "certificate" in error
        assert not server.asked


def test_importing_it_is_light() -> None:
    """The HTTP library is imported at the first request, torch never."""
    program = (
        "import sys, talaria.lsp.endpoint as e\n"
        "e.Endpoint(e.EndpointSettings('https://host/', None, None, 1.0))\n"
        "assert not {'httpx2', 'httpcore2', 'anyio', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)

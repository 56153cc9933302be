"""Put clients that mean harm on `talaria serve`, among others that type.

`python -m benchmarks.hostile` tells whether everybody is answered who is owed an answer, whether
anything leaks to another key, and what the server's memory does.

The harmful send half heads and half bodies, a body byte by byte, wrong JSON, wrong types, no HTTP,
50 MB announced and 50 MB in chunks without a length; they hang up, and read a stream byte by byte.
Those who type share one key. A spy with another key asks what they asked, to see whether it finds a
context that they had the server read.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving import (
    HOST,
    TIMEOUT,
    Client,
    Server,
    crowd,
    headers,
    holes,
    one,
    quantiles,
    server,
    typist,
)
from benchmarks.soak import growth
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import TalariaError
from talaria.coder.serve.keys import new
from talaria.evals.jsonl import environment, made_by
from talaria.evals.progress import progress

CLIENTS = 32  # that mean harm
LEAST_ROUNDS = 4
LONG = 50_000_000  # bytes of a body that is too long
CHUNK = 65_536
SLOW = 1.0  # seconds that a slow client takes
PAUSE = 0.05  # seconds between its bytes
# What an answer's first line ends in, where one is owed; what is not whole is owed none.
OWED = {
    "wrong JSON": b"400",
    "wrong type": b"400",
    "no HTTP": b"400",
    "too long": b"413",
    "too long, in chunks": b"413",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print JSON; exit code 0."""
    parser = Parser(description="Put clients that mean harm on `talaria serve`.")
    parser.add_argument("--model", default="talaria-7m", help="a folder or a name")
    parser.add_argument("--batch", type=int, default=1, metavar="N")
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="that type")
    parser.add_argument("--round", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument(
        "--requests", type=int, default=100_000, metavar="N", help="least number of harmful ones"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON here")
    args = parser.parse_args(argv)
    found = {"made_by": made_by(), "environment": environment(), "model": args.model}
    found |= hostile(args.model, args.batch, args.clients, args.round, args.requests)
    print(json.dumps(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0


def hostile(model: str, batch: int, count: int, seconds: float, harmful: int) -> dict[str, Any]:
    """Whether those who type are answered, what a spy finds, and what memory does.

    Rounds of so many seconds, at least four, until so many harmful requests were made.
    """
    with tempfile.TemporaryDirectory() as folder:
        keys, tables = zip(*(new(name) for name in ("team", "spy")), strict=True)
        file = Path(folder) / "keys.toml"
        file.write_text("\n".join(tables), "utf-8")
        with server(model, batch, "--keys", str(file)) as running:
            return among(running, count, seconds, harmful, *keys)


def among(
    running: Server, count: int, seconds: float, harmful: int, team: str, spy: str
) -> dict[str, Any]:
    """What `hostile` returns, of a server that knows these two keys; TalariaError if it dies."""
    memory = running.process.memory_info().rss
    points: list[dict[str, float]] = [{"requests": 0, "bytes": memory}]
    done, harm, counted = threading.Event(), Counter[str](), threading.Lock()
    bad = [
        threading.Thread(target=harass, args=(running.port, number, team, done, harm, counted))
        for number in range(CLIENTS)
    ]
    for thread in bad:
        thread.start()
    clients: list[Client] = []
    again, spies = Client(team), Client(spy)
    found, bar = Counter[str](), progress(harmful, "request")
    try:
        while len(points) <= LEAST_ROUNDS or harm["requests"] < harmful:
            first = len(clients)
            clients += crowd(typist, running.port, count, seconds, first, team)
            for whose, client in (("their own", again), ("the spy", spies)):
                document, body = next(holes(first))
                timings = one(running.port, client, f"{whose} {document}", body).get("timings")
                # A few tokens are every context's first.
                if timings and timings["cache_n"] > timings["prompt_n"]:
                    found[whose] += 1
            if running.process.status() == psutil.STATUS_ZOMBIE:
                raise TalariaError(f"the server died in round {len(points)}; see what it wrote")
            memory = running.process.memory_info().rss
            points.append({"requests": harm["requests"], "bytes": memory})
            bar.update(harm["requests"] - bar.n)
    finally:
        bar.close()
        done.set()
        for thread in bad:
            thread.join()
    late = time.monotonic() + TIMEOUT
    while (left := running.metric("talaria_requests_admitted", team)) and time.monotonic() < late:
        time.sleep(0.1)
    return {
        "statuses": dict(sum((each.statuses for each in clients), Counter[int]())),
        "lost": sum(each.lost for each in (*clients, again, spies)),
        "harmful": dict(harm),
        "rounds": len(points) - 1,
        "contexts_found": dict(found),
        "memory_mb": [round(point["bytes"] / 1e6) for point in points],
        "mb_per_1000_harmful": round(growth(points) / 1e6, 3),
        "left": left,
        **quantiles([each.seconds for each in clients]),
    }


def harass(
    port: int,
    number: int,
    key: str,
    done: threading.Event,
    harm: Counter[str],
    counted: threading.Lock,
) -> None:
    """Do what a server must bear, until told to end; counts what was done and answered."""
    rng = random.Random(number)
    body = next(holes(number))[1]
    kinds = sorted(kinds_of(body, key).items())
    while not done.wait(rng.uniform(0, 0.02)):
        kind, act = rng.choice(kinds)
        result = "reset"
        try:
            with socket.create_connection((HOST, port), TIMEOUT) as connection:
                answer = act(connection)
                if kind in OWED:
                    result = "answered" if answer.endswith(OWED[kind]) else "not answered"
                else:
                    result = "let go"
        except OSError:
            pass
        with counted:
            harm.update((kind, result, "requests"))


def kinds_of(body: dict[str, Any], key: str) -> dict[str, Callable[[socket.socket], bytes]]:
    """What a harmful client may do with a connection, by name; returns an answer's beginning."""
    whole = json.dumps(body).encode()
    stream = json.dumps({**body, "stream": True, "check_syntax": False}).encode()

    def head(length: int | None) -> bytes:
        fields = {"Host": "x", **headers(key)}
        chunked = {"Transfer-Encoding": "chunked"}
        fields |= chunked if length is None else {"Content-Length": str(length)}
        lines = (f"{name}: {value}" for name, value in fields.items())
        return "\r\n".join(("POST /infill HTTP/1.1", *lines, "", "")).encode()

    def sends(text: bytes, *, owed: bool = False) -> Callable[[socket.socket], bytes]:
        def act(connection: socket.socket) -> bytes:
            connection.sendall(text)
            return connection.recv(12) if owed else b""

        return act

    def slow_body(connection: socket.socket) -> bytes:
        connection.sendall(head(len(whole)))
        for at in range(int(SLOW / PAUSE)):
            connection.sendall(whole[at : at + 1])
            time.sleep(PAUSE)
        return b""

    def slow_reader(connection: socket.socket) -> bytes:
        connection.sendall(head(len(stream)) + stream)
        for _ in range(int(SLOW / PAUSE)):
            connection.recv(1)
            time.sleep(PAUSE)
        return b""

    def in_chunks(connection: socket.socket) -> bytes:
        connection.sendall(head(None))
        chunk = f"{CHUNK:x}\r\n".encode() + b" " * CHUNK + b"\r\n"
        try:
            for _ in range(LONG // CHUNK):
                connection.sendall(chunk)
        except OSError:
            pass  # refused before the end, as it should be
        return connection.recv(12)

    return {
        "half a head": sends(b"POST /infill HTTP/1.1\r\nHost:"),
        "half a body": sends(head(len(whole)) + whole[: len(whole) // 2]),
        "hang-up": sends(head(len(whole)) + whole),
        "wrong JSON": sends(head(9) + b'{"input_p', owed=True),
        "wrong type": sends(head(16) + b'{"n_predict":[]}', owed=True),
        "no HTTP": sends(b"\x00\x01\x02\r\n\r\n", owed=True),
        "too long": sends(head(LONG) + b"x" * CHUNK, owed=True),
        "too long, in chunks": in_chunks,
        "slow body": slow_body,
        "slow reader": slow_reader,
    }


if __name__ == "__main__":
    sys.exit(guarded("hostile", main))

"""Put load on `talaria serve`: clients that type, clients that never pause, clients that mean harm.

`python -m benchmarks.serving` starts a server for each measurement and asks it over the loopback
interface, as people type in the files of `coder/`:

overhead    one client after another: what a request takes beyond the engine's own time
typing      1 and 8 clients with people's pauses, each request about its document superseding the
            last; how long an answer takes
throughput  8 clients without pauses, by `--batch`: requests a second
hostile     among clients that type, others with half bodies, wrong JSON, bodies that are too long,
            and hang-ups; whether everybody is answered, and what the server's memory does

Intervals are 95 %, by bootstrap over clients or pieces of a run.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.soak import typing
from talaria.coder.cli import guarded
from talaria.coder.errors import TalariaError
from talaria.evals.intervals import bootstrap, percentile
from talaria.evals.jsonl import environment, made_by
from talaria.evals.prompts import documents

PARTS = ("overhead", "typing", "throughput", "hostile")
HOST = "127.0.0.1"
START_SECONDS, END_SECONDS = 120.0, 60.0
# Seconds between the keys of somebody who types, as in `talaria eval typing`: log-normal.
GAP, SPREAD = 0.2, 0.6
TIMEOUT = 60.0
ROUNDS = 3  # of a measurement of throughput, in which servers take turns
LONG = 50_000_000  # bytes that a body claims to have


@dataclass
class Server:
    """A server in a process of its own."""

    process: psutil.Process
    port: int

    def metric(self, name: str) -> float:
        """A metric of the server."""
        status, body = ask(self.port, "GET", "/metrics")
        assert status == 200
        found = re.search(rf"^{name} (\S+)$", body.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0


@dataclass
class Client:
    """What one client saw: statuses, and seconds of the answered requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    beyond: list[float] = field(default_factory=list)  # the engine's own time


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print JSON; exit code 0."""
    parser = argparse.ArgumentParser(description="Put load on `talaria serve`.")
    parser.add_argument("--model", default="talaria-7m", help="a folder or a name")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8], metavar="N")
    parser.add_argument("--clients", type=int, default=8, metavar="N")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON here")
    args = parser.parse_args(argv)
    measures: dict[str, Callable[[], Any]] = {
        "overhead": lambda: overhead(args.model, args.seconds),
        "typing": lambda: {
            f"{clients} clients, batch {batch}": typed(args.model, batch, clients, args.seconds)
            for batch in args.batches
            for clients in (1, args.clients)
        },
        "throughput": lambda: throughput(args.model, args.batches, args.clients, args.seconds),
        "hostile": lambda: hostile(args.model, args.batches[-1], args.clients, args.seconds),
    }
    found = {"made_by": made_by(), "environment": environment(), "model": args.model}
    for part in args.parts:
        found[part] = measures[part]()
        print(json.dumps({part: found[part]}), flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0


@contextmanager
def killed_after(seconds: float, process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process if the block takes longer: reading what it says has no limit of its own."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def server(model: str, batch: int) -> Iterator[Server]:
    """A server that is ready."""
    command = [sys.executable, "-m", "talaria.coder.cli", "serve", "--port", "0"]
    command += ["--model", model, "--batch", str(batch)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        with killed_after(START_SECONDS, process):
            line = process.stderr.readline()
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            raise TalariaError(f"the server did not start ({line.strip()}); start it by hand")
        port, late = int(found[1]), time.monotonic() + START_SECONDS
        while ask(port, "GET", "/ready")[0] != 200:
            if time.monotonic() > late:
                raise TalariaError(f"the server was not ready in {START_SECONDS:g} s")
            time.sleep(0.1)
        yield Server(psutil.Process(process.pid), port)
    finally:
        process.terminate()
        with killed_after(END_SECONDS, process):
            process.communicate()


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    """Status and body of an answer, on a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def holes(number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a client asks while it types: the name of a document, and a body for `/infill`."""
    files, _ = documents(None)
    for name, prefix, suffix in typing(files, random.Random(number)):
        body = {"input_prefix": prefix, "input_suffix": suffix, "n_predict": 32, "until": "line"}
        yield f"{number} {name}", body


def one(port: int, client: Client, document: str, body: dict[str, Any]) -> None:
    """Ask, and note what came of it."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT)
    began = time.perf_counter()
    try:
        connection.request("POST", "/infill", json.dumps(body), {"X-Document": document})
        response = connection.getresponse()
        answer = json.loads(response.read())
    finally:
        connection.close()
    seconds = time.perf_counter() - began
    client.statuses[response.status] += 1
    if response.status == 200:
        client.seconds.append(seconds)
        times = answer["timings"]
        engine = (times["prompt_ms"] + times["predicted_ms"]) / 1000
        client.beyond.append(seconds - engine)


def typist(port: int, number: int, seconds: float, client: Client) -> None:
    """Type for so long: a request for every key, without waiting for the answer to the last."""
    rng, until = random.Random(1000 + number), time.monotonic() + seconds
    under_way: list[threading.Thread] = []
    for document, body in holes(number):
        if time.monotonic() >= until:
            break
        thread = threading.Thread(target=one, args=(port, client, document, body))
        thread.start()
        under_way = [*(each for each in under_way if each.is_alive()), thread]
        time.sleep(GAP * rng.lognormvariate(0, SPREAD))
    for thread in under_way:
        thread.join()


def eager(port: int, number: int, seconds: float, client: Client) -> None:
    """Ask again as soon as there is an answer."""
    until = time.monotonic() + seconds
    for document, body in holes(number):
        if time.monotonic() >= until:
            break
        one(port, client, document, body)


def crowd(
    work: Callable[[int, int, float, Client], None], port: int, count: int, seconds: float
) -> list[Client]:
    """What so many clients saw, at the same time."""
    clients = [Client() for _ in range(count)]
    threads = [
        threading.Thread(target=work, args=(port, number, seconds, client))
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients


def overhead(model: str, seconds: float) -> dict[str, Any]:
    """Milliseconds of a request beyond the engine's own time."""
    with server(model, 1) as running:
        (client,) = crowd(eager, running.port, 1, seconds)
    return {"requests": len(client.beyond), **quantiles([client.beyond])}


def typed(model: str, batch: int, count: int, seconds: float) -> dict[str, Any]:
    """How long those who type wait for an answer."""
    with server(model, batch) as running:
        clients = crowd(typist, running.port, count, seconds)
    return {
        "answered": sum(len(each.seconds) for each in clients),
        "statuses": dict(sum((each.statuses for each in clients), Counter[int]())),
        **quantiles([each.seconds for each in clients]),
    }


def throughput(
    model: str, batches: Sequence[int], count: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Answers a second to clients that do not pause; in turns, since machines change pace."""
    rates: dict[int, list[float]] = {batch: [] for batch in batches}
    clients: dict[int, list[Client]] = {batch: [] for batch in batches}
    shared: dict[int, list[float]] = {batch: [0.0, 0.0] for batch in batches}
    for _ in range(ROUNDS):
        for batch in batches:
            with server(model, batch) as running:
                began = time.monotonic()
                found = crowd(eager, running.port, count, seconds / ROUNDS)
                took = time.monotonic() - began
                shared[batch][0] += running.metric("talaria_pass_requests_sum")
                shared[batch][1] += running.metric("talaria_pass_requests_count")
            clients[batch] += found
            rates[batch].append(sum(len(each.seconds) for each in found) / took)
    first = rates[batches[0]]
    return {
        f"batch {batch}": {
            "requests_a_second": spread(rates[batch]),
            "times_the_first": spread([a / b for a, b in zip(rates[batch], first, strict=True)]),
            "requests_a_pass": round(shared[batch][0] / max(1, shared[batch][1]), 2),
            **quantiles([each.seconds for each in clients[batch]]),
        }
        for batch in batches
    }


def spread(values: Sequence[float]) -> list[Any]:
    """The mean of rounds, and its interval."""
    interval = bootstrap(values, [str(number) for number in range(len(values))]) or ()
    return [round(sum(values) / len(values), 2), [round(each, 2) for each in interval]]


def quantiles(groups: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Median and 95th percentile in milliseconds, and their intervals by resampling."""
    values = [value for group in groups for value in group]
    rng, found = random.Random(0), {}
    # Clients are few: one alone is resampled by pieces of its run.
    pieces = [group for group in groups if group]
    if len(pieces) == 1:
        size = max(1, len(values) // 20)
        pieces = [values[at : at + size] for at in range(0, len(values), size)]
    for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95)):
        drawn = sorted(
            percentile([v for piece in rng.choices(pieces, k=len(pieces)) for v in piece], share)
            for _ in range(400)
        )
        interval = [round(1000 * drawn[place], 1) for place in (10, 389)]
        found[name] = [round(1000 * percentile(values, share), 1), interval]
    return found


def hostile(model: str, batch: int, count: int, seconds: float) -> dict[str, Any]:
    """Whether those who type are answered beside those who mean harm, and what memory does."""
    with server(model, batch) as running:
        memory = [running.process.memory_info().rss]
        done = threading.Event()
        harm: Counter[str] = Counter()
        bad = [
            threading.Thread(target=harmful, args=(running.port, number, done, harm))
            for number in range(4)
        ]
        for thread in bad:
            thread.start()
        clients: list[Client] = []
        for _ in range(4):
            clients += crowd(typist, running.port, count, seconds / 4)
            memory.append(running.process.memory_info().rss)
        done.set()
        for thread in bad:
            thread.join()
        late = time.monotonic() + TIMEOUT
        while (left := running.metric("talaria_requests_admitted")) and time.monotonic() < late:
            time.sleep(0.1)
        alive = running.process.is_running()
    return {
        "statuses": dict(sum((each.statuses for each in clients), Counter[int]())),
        "harmful": dict(harm),
        "memory_mb": [round(each / 1e6) for each in memory],
        "left": left,
        "alive": alive,
        **quantiles([each.seconds for each in clients]),
    }


def harmful(port: int, number: int, done: threading.Event, harm: Counter[str]) -> None:
    """Do what a server must bear, until told to end; counts what was done and answered."""
    rng = random.Random(number)
    body = json.dumps(next(holes(number))[1]).encode()

    def head(length: int) -> bytes:
        return f"POST /infill HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()

    kinds: dict[str, bytes] = {
        "half a head": b"POST /infill HTTP/1.1\r\nHost:",
        "half a body": head(len(body)) + body[: len(body) // 2],
        "hang-up": head(len(body)) + body,
        "wrong JSON": head(9) + b'{"input_p',
        "wrong type": head(16) + b'{"n_predict":[]}',
        "too long": head(LONG) + b"x" * 100_000,
        "no HTTP": b"\x00\x01\x02\r\n\r\n",
    }
    expected = {"wrong JSON": b"400", "wrong type": b"400", "too long": b"413", "no HTTP": b"400"}
    while not done.wait(rng.uniform(0, 0.02)):
        kind = rng.choice(list(kinds))
        with socket.create_connection((HOST, port), TIMEOUT) as connection:
            try:
                connection.sendall(kinds[kind])
                if kind in expected:
                    answer = connection.recv(12)
                    harm["answered" if answer.endswith(expected[kind]) else "not answered"] += 1
            except OSError:
                harm["reset"] += 1
        harm[kind] += 1


if __name__ == "__main__":
    sys.exit(guarded("serving", main))

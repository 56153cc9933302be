"""Put load on `talaria serve`: clients that type, and clients that never pause.

`python -m benchmarks.serving` starts a server for each measurement and asks it over the loopback
interface, as people type in the files of `coder/`:

overhead    one client after another: what a request takes beyond the engine's own time
typing      1 and 8 clients with people's pauses, each request about its document superseding the
            last; how long an answer takes
throughput  8 clients without pauses, by `--batch`: requests a second
day         people at work: they type in bursts, rest, and go on to another file. What is asked is
            asked PAUSE after a key, unless another comes before, as editors do; give it minutes

Intervals are 95 %, by bootstrap over clients or pieces of a run.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.soak import typing
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import TalariaError
from talaria.evals.intervals import bootstrap, percentile
from talaria.evals.jsonl import environment, made_by
from talaria.evals.prompts import documents

PARTS = ("overhead", "typing", "throughput", "day")
USUAL = PARTS[:-1]  # a day of half a minute says nothing
HOST = "127.0.0.1"
START_SECONDS, END_SECONDS = 120.0, 60.0
# Seconds between the keys of somebody who types, as in `talaria eval typing`: log-normal.
GAP, SPREAD = 0.2, 0.6
# A day's work: keys until somebody rests, and until they go on to another file, on average; seconds
# that they rest, on average, and that editors wait before they ask.
BURST, STAY, REST, PAUSE = 40, 400, 30.0, 0.15
TIMEOUT = 60.0
ROUNDS = 3  # of a measurement of throughput, in which servers take turns


@dataclass
class Server:
    """A server in a process of its own."""

    process: psutil.Process
    port: int

    def metric(self, name: str, key: str = "") -> float:
        """A metric of the server, which may want a key."""
        status, body = ask(self.port, "GET", "/metrics", key=key)
        assert status == 200
        found = re.search(rf"^{name} (\S+)$", body.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0


@dataclass
class Client:
    """What one client saw: statuses, and seconds of the answered requests.

    key   what it shows a server with keys
    lost  requests without an answer
    """

    key: str = ""
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    beyond: list[float] = field(default_factory=list)  # the engine's own time
    lost: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print JSON; exit code 0."""
    parser = Parser(description="Put load on `talaria serve`.")
    parser.add_argument("--model", default="talaria-7m", help="a folder or a name")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8], metavar="N")
    parser.add_argument("--clients", type=int, default=8, metavar="N")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=USUAL)
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
        "day": lambda: {
            f"{args.clients} clients, batch {batch}": typed(
                args.model, batch, args.clients, args.seconds, worker
            )
            for batch in args.batches
        },
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
def server(model: str, batch: int, *flags: str) -> Iterator[Server]:
    """A server that is ready."""
    command = [sys.executable, "-m", "talaria.coder.cli", "serve", "--port", "0"]
    command += ["--model", model, "--batch", str(batch), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    reader = threading.Thread(target=process.stderr.read)
    try:
        with killed_after(START_SECONDS, process):
            line = process.stderr.readline()
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            raise TalariaError(f"the server did not start ({line.strip()}); start it by hand")
        # A server whose messages nobody reads stops once the pipe is full.
        reader.start()
        port, late = int(found[1]), time.monotonic() + START_SECONDS
        while ask(port, "GET", "/ready")[0] != 200:
            if time.monotonic() > late:
                raise TalariaError(f"the server was not ready in {START_SECONDS:g} s")
            time.sleep(0.1)
        yield Server(psutil.Process(process.pid), port)
    finally:
        process.terminate()
        with killed_after(END_SECONDS, process):
            process.wait()
        if reader.is_alive():
            reader.join()
        process.stderr.close()


def ask(port: int, method: str, path: str, key: str = "") -> tuple[int, bytes]:
    """Status and body of an answer, on a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT)
    try:
        connection.request(method, path, headers=headers(key))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def headers(key: str) -> dict[str, str]:
    """What shows a key to a server; nothing without one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def holes(number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a client asks while it types: the name of a document, and a body for `/infill`."""
    files, _ = documents(None)
    for name, prefix, suffix in typing(files, random.Random(number)):
        yield f"{number} {name}", infill(prefix, suffix)


def infill(prefix: str, suffix: str) -> dict[str, Any]:
    """The body of a request for the rest of a line."""
    return {"input_prefix": prefix, "input_suffix": suffix, "n_predict": 32, "until": "line"}


def one(port: int, client: Client, document: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask, note what came of it, and return the answer; empty if there is none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT)
    sent = {"X-Document": document, **headers(client.key)}
    began = time.perf_counter()
    try:
        connection.request("POST", "/infill", json.dumps(body), sent)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        client.lost += 1
        return {}
    finally:
        connection.close()
    seconds = time.perf_counter() - began
    client.statuses[response.status] += 1
    if response.status == 200:
        client.seconds.append(seconds)
        times = answer["timings"]
        engine = (times["prompt_ms"] + times["predicted_ms"]) / 1000
        client.beyond.append(seconds - engine)
    return answer


def typist(port: int, number: int, seconds: float, client: Client) -> None:
    """Type for so long: a request for every key, without waiting for the answer to the last."""
    rng, until = random.Random(1000 + number), time.monotonic() + seconds
    keys = ((document, body, gap(rng)) for document, body in holes(number))
    press(keys, port, until, client)


def worker(port: int, number: int, seconds: float, client: Client) -> None:
    """Do a day's work for so long."""
    press(work(number), port, time.monotonic() + seconds, client)


def work(number: int) -> Iterator[tuple[str, dict[str, Any] | None, float]]:
    """Keys of somebody at work: document, what to ask, if anything, and seconds to the next."""
    rng, (files, _) = random.Random(2000 + number), documents(None)
    yield "", None, rng.expovariate(1 / REST)
    while True:
        file = rng.choice(files)
        text, path = file["text"], file["path"]
        start, keys = rng.randrange(len(text)), round(rng.expovariate(1 / STAY))
        stop = min(len(text), start + keys)
        for end in range(start, stop):
            seconds = gap(rng)
            if rng.random() < 1 / BURST:
                seconds += rng.expovariate(1 / REST)
            if seconds > PAUSE:
                yield "", None, PAUSE
                seconds -= PAUSE
                yield f"{number} {path}", infill(text[:end], "\n" + text[stop:]), seconds
            else:
                yield "", None, seconds


def gap(rng: random.Random) -> float:
    """Seconds from a key to the next."""
    return GAP * rng.lognormvariate(0, SPREAD)


def press(
    keys: Iterable[tuple[str, dict[str, Any] | None, float]],
    port: int,
    until: float,
    client: Client,
) -> None:
    """Press keys until then, without waiting for answers."""
    under_way: list[threading.Thread] = []
    for document, body, seconds in keys:
        if time.monotonic() + seconds >= until:
            break
        if body is not None:
            thread = threading.Thread(target=one, args=(port, client, document, body))
            thread.start()
            under_way = [*(each for each in under_way if each.is_alive()), thread]
        time.sleep(seconds)
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
    work: Callable[[int, int, float, Client], None],
    port: int,
    count: int,
    seconds: float,
    first: int = 0,
    key: str = "",
) -> list[Client]:
    """What so many clients saw, at the same time; their numbers begin with the first."""
    clients = [Client(key) for _ in range(count)]
    threads = [
        threading.Thread(target=work, args=(port, number, seconds, client))
        for number, client in enumerate(clients, first)
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


def typed(
    model: str,
    batch: int,
    count: int,
    seconds: float,
    how: Callable[[int, int, float, Client], None] = typist,
) -> dict[str, Any]:
    """How long those who type wait for an answer, and the memory that the server takes then."""
    with server(model, batch) as running:
        clients = crowd(how, running.port, count, seconds)
        megabytes = round(running.process.memory_info().rss / 1e6)
    return {
        "megabytes": megabytes,
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
    """Median and 95th percentile in milliseconds, and their intervals by resampling.

    Nothing without values.
    """
    values = [value for group in groups for value in group]
    if not values:
        return {}
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


if __name__ == "__main__":
    sys.exit(guarded("serving", main))

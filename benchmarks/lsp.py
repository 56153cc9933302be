"""The language server as an editor meets it: `talaria lsp` over stdio, by a client that types.

`python -m benchmarks.lsp` starts servers and ends them in every way, types in files of
Python's library with the gaps between keys that people make, lets a server alone, and
throws edits, requests and cancellations at it. Needs Linux, which tells what a process
uses in `/proc`.

Whoever types asks after every key. What was not answered when the next key came is
overtaken: its answer comes too late whatever it says. Answers in time alone would flatter
a slow server, so the same percentiles are also told of all requests, overtaken ones
counted as unfinished at that key (Kaplan and Meier, 1958).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.lsp_client import (
    FILES,
    ClientRequest,
    EditorDocument,
    EditorWorkspace,
    LspClient,
    ready_server,
    server,
)
from benchmarks.soak import growth
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.evals.jsonl import environment, git
from talaria.evals.progress import progress
from talaria.evals.suites import Problem
from talaria.evals.tables import columns, ratio
from talaria.evals.timing import load_average
from talaria.evals.typing_replay import accepted, regions, typed_by_hand

SHARES = (0.5, 0.95, 0.99)
DRAWS = 1000  # of cursors, for intervals

# Seconds between keys: log-normal with these medians. A burst is a few quick keys.
KEY, BURST, PAUSE, LOOK = 0.18, 0.09, 1.2, 0.5
SPREAD = 0.4
BURSTS, PAUSES = 0.05, 0.06  # shares of draws
VISIT = 3  # cursors in a file before the next one is opened
KEYS = 60  # typed at a cursor, at most
PATIENT = 4  # one cursor of so many cancels nothing, as Neovim does
ACCEPTS, DISMISSES = 0.6, 0.2  # shares of right suggestions, and of wrong ones

POINTS = 20  # looks at the memory
IN_FLIGHT = 4  # requests of the churn that wait for their answers, at most

Ending = Literal["exit", "exit while loading", "exit while computing", "input closed", "parent"]
ENDINGS: dict[Ending, str] = {
    "exit": "shutdown and exit",
    "exit while loading": "the same while it loads",
    "exit while computing": "the same while it computes",
    "input closed": "its input is closed",
    "parent": "its parent is gone",
}
TARGETS = {"initialize": 500, "p50": 120, "p95": 300, "typed through": 5, "gone": 2000}
CLASSES = {
    "answered": "answered before the next key",
    "model": "- of them, the model was asked",
    "typed through": "- typed through, from memory",
    "silent": "- nothing to say, model not asked",
    "accepted": "- after an acceptance",
    "first": "first in a file",
    "all": "all, overtaken ones unfinished",
    "all model": "the model's, overtaken ones unfinished",
}


@dataclass(frozen=True)
class ServerPlan:
    """What is measured.

    starts    of a server, for each way to end it
    minutes   of typing
    hurry     how many times as fast as a person the keys come
    requests  of the churn
    idle      seconds in which nothing is asked
    """

    starts: int = 3
    minutes: float = 15.0
    hurry: float = 1.0
    requests: int = 10_000
    idle: float = 10.0

    def __post_init__(self) -> None:
        for name, least in (("starts", 1), ("hurry", 1), ("requests", POINTS)):
            if not getattr(self, name) >= least:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("minutes", "idle"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be greater than 0")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table, or JSON; exit code 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lsp", description="The language server over stdio."
    )
    own = ServerPlan()
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--starts", type=int, default=own.starts, metavar="N")
    parser.add_argument("--minutes", type=float, default=own.minutes, metavar="M")
    parser.add_argument("--hurry", type=float, default=own.hurry, metavar="F")
    parser.add_argument("--requests", type=int, default=own.requests, metavar="N")
    parser.add_argument("--idle", type=float, default=own.idle, metavar="S", help="seconds")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="each request typed, as JSONL")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    plan = ServerPlan(args.starts, args.minutes, args.hurry, args.requests, args.idle)
    found, rows = measure(plan, args.model)
    if args.rows:
        args.rows.write_text("".join(f"{json.dumps(asdict(row))}\n" for row in rows), "utf-8")
    words = sys.argv[1:] if argv is None else argv
    found = {"made_by": made_by(words), **found}
    print(json.dumps(found) if args.json else "\n".join(lines(found)))
    return 0


def made_by(words: Sequence[str]) -> dict[str, str | None]:
    """The command that runs, and the commit of the code that it measures."""
    root = Path(__file__).parent.parent
    commit = git(root, "rev-parse", "HEAD")
    if commit and git(root, "status", "--porcelain", "--", "coder", "lsp", "evals", "benchmarks"):
        commit += " with changes"
    return {"command": shlex.join(["python", "-m", "benchmarks.lsp", *words]), "commit": commit}


def measure(plan: ServerPlan, model: str | None) -> tuple[dict[str, Any], list[TypedKey]]:
    """All figures, and the requests that were typed."""
    if not Path("/proc/self/stat").exists():
        raise UsageError(f"the system is {sys.platform}; this benchmark reads /proc: use Linux")
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="talaria-") as name:
        place = EditorWorkspace(Path(name).resolve(), model)
        documents = [
            {"package": "python", "path": path, "text": text} for path, text in place.texts.items()
        ]
        # The first start reads the disk and writes bytecode; it is not a figure.
        started(place, "exit")
        bar = progress(plan.starts * len(ENDINGS), "start")
        starts = []
        for kind in list(ENDINGS) * plan.starts:
            starts.append(started(place, kind))
            bar.update()
        bar.close()
        with ready_server(place) as client:
            rows, keys = typed(client, place, documents, plan)
            idle = at_rest(client, plan.idle)
            typing = {**of_typing(rows), "keys": keys, **client.faults()}
        with ready_server(place) as client:
            memory = churn(client, place, plan.requests)
    from talaria.coder import checkpoint

    loaded = checkpoint.load(model)
    found = {
        "model": {"name": loaded.name, "weights": loaded.weights_hash},
        "environment": environment(),
        "load": {"before": before, "after": load_average()},
        "files": {
            path: {
                "lines": text.count("\n"),
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
            for path, text in place.texts.items()
        },
        "plan": asdict(plan),
        "targets_ms": TARGETS,
        "start": of_starts(starts),
        "typing": typing,
        "idle": idle,
        "memory": memory,
        "end": of_endings(starts),
    }
    return found, rows


# Starts and ends


def started(place: EditorWorkspace, kind: Ending) -> dict[str, Any]:
    """A server begun and ended in one of the ways: times in milliseconds, memory in bytes.

    The end is timed from `shutdown` on, whose answer editors wait for before they send
    `exit`; else from the moment when the editor was gone.
    """
    stand_in = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with server(place) as client:
            row: dict[str, Any] = {"kind": kind, "initialize_ms": client.initialize(stand_in.pid)}
            if kind != "exit while loading":
                row |= {"ready_ms": client.wait_until_ready(), "bytes": client.memory()}
            if kind == "exit while computing":
                page = EditorDocument(client, place, FILES[0])
                page.ask(len(page.text) // 2, invoked=True)
                time.sleep(0.02)
            since = time.perf_counter()
            if kind == "parent":
                stand_in.kill()
                stand_in.wait()
            elif kind == "input closed":
                client.close_input()
            else:
                client.wait(client.ask("shutdown", None))
                client.notify("exit", None)
            row["gone_ms"] = client.gone(since)
            row["code"] = client.process.returncode
    finally:
        stand_in.kill()
        stand_in.communicate()
    return row


def of_starts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median and worst of what beginning takes."""
    return {
        name: middle_and_most([row[name] for row in rows if name in row])
        for name in ("initialize_ms", "ready_ms", "bytes")
    }


def of_endings(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median and worst time for each way to end, and the exit codes."""
    found: dict[str, Any] = {}
    for kind in ENDINGS:
        own = [row for row in rows if row["kind"] == kind]
        codes = sorted({row["code"] for row in own})
        found[kind] = {**middle_and_most([row["gone_ms"] for row in own]), "codes": codes}
    return found


def middle_and_most(values: Sequence[float]) -> dict[str, Any]:
    """How many values there are, their median and the greatest."""
    return {"count": len(values), "median": statistics.median(values), "worst": max(values)}


# Typing


@dataclass(frozen=True)
class TypedKey:
    """A request that was made while typing; times in milliseconds.

    after      what the request came after
    cancels    whether its editor cancels what is overtaken
    until_key  to the next change of the text
    overtaken  whether that came before the answer
    model      whether the model was asked; None where nobody could tell
    shown      characters suggested
    error      the code of an answer that is an error
    """

    cursor: str
    file: str
    after: Literal["opening", "key", "acceptance"]
    cancels: bool
    ms: float
    until_key: float
    overtaken: bool
    model: bool | None
    shown: int
    error: int | None


def gaps(rng: random.Random) -> Iterator[float]:
    """Endlessly the seconds between one key and the next."""
    while True:
        drawn = rng.random()
        if drawn < BURSTS:
            yield from (log_normal(rng, BURST) for _ in range(rng.randrange(3, 9)))
        else:
            yield log_normal(rng, PAUSE if drawn < BURSTS + PAUSES else KEY)


def log_normal(rng: random.Random, median: float) -> float:
    """Seconds that are more often a little less than the median than much more."""
    return median * rng.lognormvariate(0, SPREAD)


def typed(
    client: LspClient, place: EditorWorkspace, documents: Sequence[dict[str, str]], plan: ServerPlan
) -> tuple[list[TypedKey], int]:
    """Visit files and type at cursors in them for the time planned; requests, and keys struck."""
    rng, rows = random.Random(0), list[TypedKey]()
    typist = Typist(client, rng, plan.hurry)
    bar = progress(round(60 * plan.minutes), "second")
    for visit in count():
        document = documents[visit % len(documents)]
        page = EditorDocument(client, place, document["path"])
        time.sleep(1 / plan.hurry)  # one looks before one types
        for number, region in enumerate(regions([document], VISIT, visit)):
            rows += typist.at(page, region, not number, (visit * VISIT + number) % PATIENT != 0)
            bar.update(round(min(typist.seconds, 60 * plan.minutes)) - bar.n)
            if typist.seconds >= 60 * plan.minutes:
                bar.close()
                return rows, typist.keys
        page.close()
    raise AssertionError("there is always another file")


class Typist:
    """Types what is missing at a place, looks at suggestions, takes some.

    seconds  that a person would have needed for all so far
    """

    def __init__(self, client: LspClient, rng: random.Random, hurry: float) -> None:
        self.client, self.rng, self.hurry = client, rng, hurry
        self.gaps = gaps(rng)
        self.seconds, self.keys = 0.0, 0
        self._counted: int | None = None  # requests of the model, if none may have come since

    def at(
        self, page: EditorDocument, region: Problem, opening: bool, cancels: bool
    ) -> list[TypedKey]:
        """Take a region out of a file, type it again, ask after every key; put the rest back."""
        # The line's end stays: nobody writes in front of what stands on the next line.
        start, text = len(region.prefix), region.solution.rstrip("\n")
        by_hand = typed_by_hand(text)
        done = by_hand.index(True)  # the editor indents
        page.edit(start + done, start + len(text), "")
        made: list[tuple[ClientRequest, dict[str, Any]]] = []
        after: Literal["opening", "key", "acceptance"] = "opening" if opening else "key"
        last_key, taken, live, command = self.keys + KEYS, 0, "", None
        while done < len(text) and self.keys < last_key:
            if made and not made[-1][0].done.is_set():
                made[-1][1]["overtaken"] = True
                self._counted = None
                if cancels:
                    self.client.cancel(made[-1][0])
            if self._counted is None:
                self._counted = self.client.model_requests()
            if not taken:
                self.keys += 1
                taken = 1
                while done + taken < len(text) and not by_hand[done + taken]:
                    taken += 1
            new = text[done : done + taken]
            page.edit(start + done, start + done, new)
            if command:
                self.client.ask("workspace/executeCommand", command)
            live = live[taken:] if live.startswith(new) else ""
            done += taken
            asked, gap = page.ask(start + done), next(self.gaps)
            about = {"after": after, "until_key": gap, "overtaken": False, "model": None}
            made.append((asked, about))
            taken, after, command = 0, "key", None
            if asked.done.wait(gap / self.hurry):
                counted, before = self.client.model_requests(), self._counted
                about["model"], self._counted = counted > before, counted
                if asked.text and asked.text != live:
                    taken, pause = self.look(page, asked, text[done:])
                    about["until_key"] = gap = gap + pause
                    if taken:
                        after, self._counted = "acceptance", None
                        command = asked.command if taken == len(asked.text) else None
                live = asked.text
            self.seconds += gap
            time.sleep(max(0.0, asked.sent + gap / self.hurry - time.perf_counter()))
        for asked, _ in made:
            self.client.wait(asked)
        self._counted = None
        page.edit(start + done, start + done, text[done:])
        own = {"cursor": region.id, "file": region.cluster, "cancels": cancels}
        return [row(asked, {**own, **about}, self.hurry) for asked, about in made]

    def look(self, page: EditorDocument, asked: ClientRequest, coming: str) -> tuple[int, float]:
        """How much of a new suggestion is taken, and the seconds until then."""
        right = accepted(asked.text, coming)
        if right and self.rng.random() < ACCEPTS:
            return right, log_normal(self.rng, LOOK)
        if not right and self.rng.random() < DISMISSES:
            self.client.notify("talaria/didDismiss", {"uri": page.uri})
            return 0, log_normal(self.rng, LOOK)
        return 0, 0.0


def row(asked: ClientRequest, about: dict[str, Any], hurry: float) -> TypedKey:
    """A request as it is kept."""
    error = asked.error["code"] if asked.error else None
    times = {"ms": asked.ms, "until_key": 1000 * about["until_key"] / hurry}
    return TypedKey(**{**about, **times, "shown": len(asked.text), "error": error})


def of_typing(rows: Sequence[TypedKey]) -> dict[str, Any]:
    """Times by what became of a request, and how often something was suggested."""
    in_time = [row for row in rows if not row.overtaken]
    keyed = [row for row in in_time if row.after == "key"]
    late = [row for row in rows if row.overtaken]
    classes = {
        "answered": in_time,
        "model": [row for row in keyed if row.model],
        "typed through": [row for row in keyed if row.model is False and row.shown],
        "silent": [row for row in keyed if row.model is False and not row.shown],
        "accepted": [row for row in in_time if row.after == "acceptance"],
        "first": [row for row in rows if row.after == "opening"],
        "all": rows,
        "all model": [row for row in rows if row.overtaken or row.model],
    }
    clusters = [row.cursor for row in in_time]
    return {
        "requests": len(rows),
        "cursors": len({row.cursor for row in rows}),
        "times": {name: times(own) for name, own in classes.items()},
        "suggested": ratio([float(row.shown > 0) for row in in_time], clusters),
        "accepted": sum(row.after == "acceptance" for row in rows),
        "overtaken": {
            **ratio([float(row.overtaken) for row in rows], [row.cursor for row in rows]),
            **{
                f"then_answered_{name}": times(
                    [row for row in late if row.cancels is cancels], True
                )
                for name, cancels in (("cancelled", True), ("not_cancelled", False))
            },
            "with_text": sum(row.shown > 0 for row in late),
        },
        "errors": dict(Counter(str(row.error) for row in rows if row.error)),
    }


def times(rows: Sequence[TypedKey], since_key: bool = False) -> dict[str, Any]:
    """Percentiles of the times of requests with 95 % intervals, cursors drawn anew.

    Requests that were overtaken count as unfinished at that key; or, with `since_key`, time
    begins there. None is longer than anything seen.
    """
    places = {name: number for number, name in enumerate(dict.fromkeys(r.cursor for r in rows))}
    finished = np.array([since_key or not row.overtaken for row in rows], bool)
    answered = np.array([row.ms for row in rows], float)
    key = np.array([row.until_key for row in rows], float)
    ms = np.maximum(0, answered - key) if since_key else np.where(finished, answered, key)
    order = np.argsort(ms, kind="stable")
    own = np.array([places[row.cursor] for row in rows], int)[order]
    ms, finished = ms[order], finished[order]
    rng, size = np.random.default_rng(0), len(places)
    drawn = [
        quantiles(ms, finished, np.bincount(rng.integers(size, size=size), minlength=size)[own])
        for _ in range(DRAWS if size > 1 else 0)
    ]
    found: dict[str, Any] = {"requests": len(rows)}
    point = quantiles(ms, finished, np.ones(len(ms), int))
    for number, share in enumerate(SHARES):
        values = sorted((draw[number] for draw in drawn), key=lambda ms: (ms is None, ms))
        edges = [values[len(values) // 40], values[-1 - len(values) // 40]] if values else None
        found[f"p{100 * share:.0f}"] = {"ms": point[number], "interval": edges}
    return found


def quantiles(
    ms: np.ndarray[Any, Any], finished: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]
) -> list[float | None]:
    """The least time by which each of `SHARES` of the requests is finished (Kaplan and Meier).

    Times are sorted; those that are not finished say only that it takes longer. None where
    even the longest says no more. A weight says how often a request counts.
    """
    at_risk = weights[::-1].cumsum()[::-1]
    left = np.cumprod(1 - np.where(finished, weights, 0) / np.maximum(at_risk, 1))
    found: list[float | None] = []
    for share in SHARES:
        reached = np.flatnonzero((left <= 1 - share + 1e-9) & (weights > 0))
        found.append(float(ms[reached[0]]) if len(reached) else None)
    return found


# At rest and under fire


def at_rest(client: LspClient, seconds: float) -> dict[str, float]:
    """Processor time while nothing is asked; files are open."""
    time.sleep(min(1.0, seconds))  # what the last request left to do
    before = client.cpu()
    time.sleep(seconds)
    used = client.cpu() - before
    return {"seconds": seconds, "cpu_seconds": used, "share": used / seconds}


def churn(client: LspClient, place: EditorWorkspace, requests: int) -> dict[str, Any]:
    """Random edits, requests, cancellations as fast as they are answered: memory, and answers."""
    rng = random.Random(0)
    pages = [EditorDocument(client, place, path) for path in FILES[:3]]
    flying: list[ClientRequest] = []
    points, codes, cancelled = [{"requests": 0, "bytes": client.memory()}], Counter[str](), 0
    cursor, number = 0, 0

    def land(most: int) -> None:
        """Wait until no more than so many requests are without an answer."""
        while len(flying) > most:
            asked = flying.pop(0)
            client.wait(asked)
            codes[str(asked.error["code"]) if asked.error else "result"] += 1

    bar = progress(requests, "request")
    for done in range(1, requests + 1):
        if rng.random() < 0.02:
            number = rng.randrange(len(pages))
        if rng.random() < 0.01:
            pages[number].close()
            pages[number] = EditorDocument(client, place, FILES[rng.randrange(len(FILES))])
            cursor = 0
        page = pages[number]
        cursor = changed(page, cursor, rng)
        flying.append(page.ask(cursor, invoked=rng.random() < 0.03))
        drawn = rng.random()
        if drawn < 0.2:
            time.sleep(rng.choice((0, 0.002, 0.02)))
            client.cancel(flying[-1])
            cancelled += 1
        land(0 if drawn > 0.4 else IN_FLIGHT)
        if done % (requests // POINTS) == 0:
            land(0)
            points.append({"requests": done, "bytes": client.memory()})
        bar.update()
    land(0)
    bar.close()
    return {
        "points": points,
        "bytes_per_1000_requests": growth(points),
        "requests": requests,
        "cancelled": cancelled,
        "answers": dict(codes),
        **client.faults(),
        "engine": client.command("talaria.status")["engine"],
    }


def changed(page: EditorDocument, cursor: int, rng: random.Random) -> int:
    """Change a document at random, mostly by a key; where the cursor stands then."""
    cursor, drawn = min(cursor, len(page.text)), rng.random()
    if drawn < 0.1:
        cursor = rng.randrange(len(page.text) + 1)
    if drawn < 0.8:  # a key, from the text itself so that it looks like code
        new = rng.choice(page.text) if page.text else "x"
        page.edit(cursor, cursor, new)
        return cursor + 1
    if drawn < 0.9:
        page.edit(max(0, cursor - 1), cursor, "")
        return max(0, cursor - 1)
    start, source = (rng.randrange(len(page.text) + 1) for _ in range(2))
    new = page.text[source : source + rng.randrange(200)]
    page.edit(start, min(len(page.text), start + rng.randrange(200)), new)
    return start + len(new)


# For people


def lines(found: Mapping[str, Any]) -> list[str]:
    """The figures as a person reads them."""
    begun, typing, memory = found["start"], found["typing"], found["memory"]
    starts = [["start and end", "times", "median ms", "worst ms", "limit"]]
    for name, part, limit in (
        ("start to the answer of initialize", begun["initialize_ms"], TARGETS["initialize"]),
        ("start to the model being ready", begun["ready_ms"], None),
        *((ENDINGS[kind], part, TARGETS["gone"]) for kind, part in found["end"].items()),
    ):
        times = [f"{part['median']:.0f}", f"{part['worst']:.0f}"]
        starts.append([name, str(part["count"]), *times, str(limit or "")])
    table = [["from request to answer, ms", "requests", "p50", "95 %", "p95", "95 %", "p99"]]
    for name, what in CLASSES.items():
        part = typing["times"][name]
        table.append([what, str(part["requests"]), *cells(part["p50"]), *cells(part["p95"])])
        table[-1].append(cells(part["p99"])[0])
    late, suggested = typing["overtaken"], typing["suggested"]
    afterwards = [
        f"{name.replace('_', ' ')} p50 {cells(part['p50'])[0]}, p95 {cells(part['p95'])[0]} ms"
        for name in ("cancelled", "not_cancelled")
        if (part := late[f"then_answered_{name}"])["requests"]
    ]
    held = [["requests", "MB"]]
    held += [[str(p["requests"]), f"{p['bytes'] / 1e6:.1f}"] for p in memory["points"]]
    lengths = [file["lines"] for file in found["files"].values()]
    return [
        f"{found['model']['name']} ({found['model']['weights'][:12]}), "
        f"{found['environment']['machine']}, load {found['load']['before']} before and "
        f"{found['load']['after']} after",
        f"{found['made_by']['command']} (commit {found['made_by']['commit']})",
        "",
        columns(starts),
        f"memory with the model: {begun['bytes']['median'] / 1e6:.0f} MB, "
        f"at most {begun['bytes']['worst'] / 1e6:.0f} MB",
        "",
        f"{typing['keys']} keys at {typing['cursors']} cursors in {len(lengths)} files of "
        f"{min(lengths)} to {max(lengths)} lines; {typing['accepted']} suggestions taken",
        columns(table),
        f"limits: p50 {TARGETS['p50']}, p95 {TARGETS['p95']}, "
        f"typed through {TARGETS['typed through']}; ? is longer than what was seen",
        f"suggested something: {suggested['share']:.1%} of what was answered in time",
        f"overtaken by the next key: {late['share']:.1%}, {late['with_text']} of them answered "
        f"with text; from that key to the answer: {'; '.join(afterwards) or 'none'}",
        faults(typing),
        "",
        f"at rest: {found['idle']['cpu_seconds']:.2f} s of processor time in "
        f"{found['idle']['seconds']:g} s ({found['idle']['share']:.1%})",
        "",
        columns(held),
        f"over the second half {memory['bytes_per_1000_requests'] / 1e6:+.2f} MB per 1,000 "
        f"requests; {memory['cancelled']} cancelled",
        "answers: " + ", ".join(f"{name} {count}" for name, count in memory["answers"].items()),
        faults(memory),
    ]


def cells(part: Mapping[str, Any]) -> list[str]:
    """A percentile and its interval."""
    time, *edges = (
        "?" if ms is None else f"{ms:.1f}" for ms in (part["ms"], *(part["interval"] or ()))
    )
    return [time, " – ".join(edges) or "none"]


def faults(found: Mapping[str, Any]) -> str:
    """What should never happen, in a line."""
    names = ("crashes", "unanswered", "answered_twice_or_unasked", "logged_errors")
    return ", ".join(
        f"{name.replace('_', ' ')} {found[name]}" for name in (*names, "messages_shown")
    )


if __name__ == "__main__":
    sys.exit(guarded("lsp", main))

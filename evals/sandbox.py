"""Runs programs that nobody has read, and says of each what became of it.

`Sandbox` starts a fork server for each worker (`evals/forkserver.py`), which
forks a confined process for each program. What confines it, and what that
stops, is in docs/sandbox.md.
"""

from __future__ import annotations

import enum
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic as clock
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from talaria.coder.errors import DataError, UsageError

Key = TypeVar("Key")
Status = Literal[
    "passed",
    "failed",  # an exception, mostly a failed assertion
    "syntax error",
    "timeout",
    "memory",
    "killed",  # by a signal
    "exited early",  # before the test had returned
    "output",  # too much of it
    "forbidden",  # it did not survive what the sandbox refused it
    "tampered",  # it wrote where the verdict is written
]
PATIENCE = 6  # times its CPU time that a program may take on the clock, if nothing else is said
GRACE = 30.0  # seconds that a fork server may be late

# The interpreter's own flags keep out the user's environment, site and current
# folder. Not -I: it would ignore PYTHONHASHSEED, and the order of sets with it.
FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8", "-c")
# Where `talaria` is installed or linked to is unknown there, so its folder is named.
START = """
import sys, types
sys.modules["talaria"] = types.ModuleType("talaria")
sys.modules["talaria"].__path__ = [sys.argv.pop()]
from talaria.evals.forkserver import start
from talaria.evals.trial import run
run(*start(sys.argv.pop(1), sys.argv.pop(1)))
"""


class Level(enum.IntEnum):
    """How far programs are confined, from worst to best; its name is stored with results."""

    none = 0
    limits = 1
    namespaces = 2
    full = 3

    @classmethod
    def called(cls, name: str) -> Level:
        """The level of that name; UsageError if there is none."""
        if name not in cls.__members__:
            raise UsageError(
                f"there is no isolation level {name!r}; choose from {', '.join(cls.__members__)}"
            )
        return cls[name]


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    seconds       CPU time
    waits         seconds on the clock, more for a busy machine; None: six times the CPU time
    memory_bytes  address space of each of its processes
    file_bytes    of a file, and of all files together where they lie in memory
    processes     processes and threads at once
    output_bytes  standard output and standard error together
    """

    seconds: float = 5.0
    waits: float | None = None
    memory_bytes: int = 512 << 20
    file_bytes: int = 16 << 20
    processes: int = 16
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise UsageError(f"the limit {name} is {value}; it must be more than 0")


@dataclass(frozen=True)
class Program:
    """A program and the test that runs after it in the same module."""

    code: str
    test: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    detail   one line, empty if it passed
    seconds  CPU time of its processes, and that of making it one
    elapsed  seconds on the clock
    """

    status: Status
    detail: str
    seconds: float
    elapsed: float


class Sandbox:
    """Runs programs, several at a time; a context manager.

    `level` is the isolation that was reached, found out by trying, and `guards`
    names what makes it up. UsageError if `require` is not reached.
    """

    def __init__(
        self, workers: int = 2, require: Level | str | None = None, namespaces: bool = True
    ) -> None:
        if workers < 1:
            raise UsageError(f"the sandbox has {workers} workers; it must be at least 1")
        if not hasattr(os, "fork"):
            raise UsageError(
                f"programs cannot be run on {sys.platform}, which has no fork; "
                "use Linux, macOS or WSL"
            )
        self.require = Level.called(require) if isinstance(require, str) else require
        self.workers = workers
        self.modes = ("namespaces", "limits") if namespaces else ("limits",)
        self.level = Level.none
        self.guards: tuple[str, ...] = ()
        self.refused = ""  # why it is no better
        self.servers: list[Server] = []

    def __enter__(self) -> Self:
        try:
            first = self.first()
            self.servers.append(first)
            self.guards, self.level = first.guards, reached(first.guards)
            self.insist()
            while len(self.servers) < self.workers:
                self.servers.append(Server(first.mode))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def first(self) -> Server:
        """A fork server in the best mode that can be had."""
        for mode in self.modes[:-1]:
            try:
                return Server(mode)
            except DataError as error:
                self.refused = str(error)
        return Server(self.modes[-1])

    def described(self) -> str:
        """The level and what makes it up, for people; below `full` also why it is no better."""
        guards = ", ".join(self.guards) or "nothing"
        why = f"; without namespaces: {self.refused}" if self.refused else ""
        return f"{self.level.name} ({guards}{why})"

    def insist(self) -> None:
        """UsageError if the level is below what is required."""
        if self.require is not None and self.level < self.require:
            raise UsageError(
                f"isolation level {self.level.name!r} is below {self.require.name!r}; this "
                f"system gives {self.described()}: allow user namespaces, Landlock and seccomp, "
                f"or require {self.level.name!r}"
            )

    def close(self) -> None:
        """End all that runs."""
        for server in self.servers:
            server.close()
        self.servers = []

    def run_all(self, jobs: Iterable[tuple[Key, Program, Limits]]) -> Iterator[tuple[Key, Verdict]]:
        """Verdicts as they come, in any order; a job is taken when a worker is free for it."""
        if not self.servers:
            raise UsageError("the sandbox is not open; use it in a with statement")
        left = iter(jobs)
        free, busy = list(self.servers), dict[Server, tuple[Key, float]]()
        try:
            with selectors.DefaultSelector() as selector:
                while True:
                    while free and (job := next(left, None)) is not None:
                        server = free.pop()
                        key, program, limits = job
                        busy[server] = (key, server.ask(program, limits))
                        selector.register(server.control, selectors.EVENT_READ, server)
                    if not busy:
                        return
                    late = min(due for _, due in busy.values())
                    ready = [found.data for found, _ in selector.select(max(0.0, late - clock()))]
                    if not ready:
                        ready = [server for server, (_, due) in busy.items() if due <= clock()]
                    for server in ready:
                        selector.unregister(server.control)
                        verdict = server.answer()
                        key, _ = busy.pop(server)
                        free.append(server)
                        yield key, verdict
        finally:
            # Whoever stops early leaves programs running, whose verdicts nobody wants.
            for server in busy:
                server.close()


class Server:
    """A fork server: one process tree, one program at a time, started anew when it is lost.

    DataError if it cannot be started in this mode.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.start()

    def start(self) -> None:
        """Start the process and wait until it says what confines its programs."""
        self.folder = tempfile.mkdtemp(prefix="talaria-")
        self.control, other = socket.socketpair()
        self.stream = self.control.makefile("rb")
        environment = {
            "PATH": os.defpath,
            "HOME": self.folder,
            "TMPDIR": self.folder,
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            # Else every thread reserves address space, which counts as memory.
            "MALLOC_ARENA_MAX": "1",
        }
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        root = Path(__file__).resolve().parent.parent
        self.process = subprocess.Popen(
            [sys.executable, *FLAGS, START, self.mode, self.folder, str(root)],
            stdin=other.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment | kept,
            start_new_session=True,
        )
        other.close()
        hello = self.receive(GRACE)
        if hello is None or "failed" in hello:
            self.close()
            last = (self.errors.strip() or "no answer").split("\n")[-1]
            why = last if hello is None else hello["failed"]
            raise DataError(f"no sandbox in mode {self.mode}: {why}")
        self.guards: tuple[str, ...] = tuple(hello["guards"])

    def close(self) -> None:
        """End the process and all that came from it; `ask` starts it again."""
        if self.control.fileno() < 0:
            return
        self.stream.close()
        self.control.close()  # at which it ends its program, cleans up and leaves
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self.errors = stream.read().decode(errors="replace")
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self) -> None:
        """End what it does and be as new."""
        self.close()
        self.start()

    def ask(self, program: Program, limits: Limits) -> float:
        """Send a program; returns the time by which there should be an answer."""
        waits = limits.waits or PATIENCE * limits.seconds
        request = {**vars(program), **vars(limits), "waits": waits}
        data = json.dumps(request).encode() + b"\n"
        if self.control.fileno() < 0:
            self.start()
        try:
            self.send(data)
        except OSError:
            self.restart()
            self.send(data)
        return clock() + waits + GRACE

    def send(self, data: bytes) -> None:
        """Send a line; OSError if nobody is there."""
        self.control.settimeout(GRACE)
        self.control.sendall(data)

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next object, None if none comes in time."""
        self.control.settimeout(seconds)
        try:
            line = self.stream.readline()
        except OSError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def answer(self) -> Verdict:
        """The verdict that is due; a program that took the server with it was killed."""
        answer = self.receive(1.0)
        if answer is None:
            self.restart()
            return Verdict("killed", "the fork server was lost with it", 0.0, 0.0)
        return Verdict(**answer)


def reached(guards: Iterable[str]) -> Level:
    """The level that guards make up."""
    held = set(guards)
    if "limits" not in held:
        return Level.none
    if "namespaces" not in held:
        return Level.limits
    return Level.full if {"Landlock", "seccomp"} <= held else Level.namespaces

"""Run untrusted programs and report a verdict on each.

`Sandbox` starts a fork server per worker (`evals/forkserver.py`), which forks a confined process
per program. docs/sandbox.md says what confines it and what that stops.
"""

from __future__ import annotations

import contextlib
import enum
import errno
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
    "failed",  # an exception, usually a failed assertion
    "syntax error",
    "timeout",
    "memory",
    "killed",  # by a signal
    "exited early",  # before the test returned
    "output",  # too much of it
    "forbidden",  # ended by something the sandbox refused
    "tampered",  # wrote to the verdict's descriptor
]
WALL_FACTOR = 6  # default limit on wall-clock time, in multiples of the CPU time limit
GRACE = 30.0  # seconds a fork server may be late

# These flags keep out the user's environment, site-packages and current folder. -I would do the
# same but ignores PYTHONHASHSEED, which fixes the order of sets.
FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8", "-c")
# Without site-packages, `talaria` cannot be found by name; its folder is passed instead.
START = """
import sys, types
sys.modules["talaria"] = types.ModuleType("talaria")
sys.modules["talaria"].__path__ = [sys.argv.pop()]
from talaria.evals.forkserver import start
from talaria.evals.trial import run
run(*start(sys.argv.pop(1), sys.argv.pop(1)))
"""


class Level(enum.IntEnum):
    """How far programs are confined, from weakest to strongest; results store the name."""

    none = 0
    limits = 1
    namespaces = 2
    full = 3

    @classmethod
    def called(cls, name: str) -> Level:
        """Return the level of this name; UsageError if there is none."""
        if name not in cls.__members__:
            raise UsageError(
                f"there is no isolation level {name!r}; choose from {', '.join(cls.__members__)}"
            )
        return cls[name]


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    seconds       CPU time
    wall_seconds  wall-clock time, which a busy machine stretches; None: `WALL_FACTOR` * `seconds`
    memory_bytes  address space of each process
    file_bytes    size of one file, and of all files together where they are kept in memory
    processes     processes and threads at a time
    output_bytes  standard output and standard error together
    """

    seconds: float = 5.0
    wall_seconds: float | None = None
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
    """A program, and the test that runs after it in the same module.

    builtins  built-in names that the test takes from the program, if it defines them; the others
              mean for the test what Python means by them
    """

    code: str
    test: str = ""
    builtins: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProgramVerdict:
    """What became of a program.

    detail   one line, empty if it passed
    seconds  CPU time of its processes, including fork and confinement
    elapsed  wall-clock seconds
    """

    status: Status
    detail: str
    seconds: float
    elapsed: float


class Sandbox:
    """Run programs, several at a time; a context manager.

    `level` is the isolation reached, determined by trying each guard, and `guards` names the
    guards that hold. Raises UsageError if the level is below `require`.
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
        self.refused = ""  # why namespaces are not available
        self.servers: list[ForkServer] = []

    def __enter__(self) -> Self:
        try:
            first = self.start_first()
            self.servers.append(first)
            self.guards, self.level = first.guards, level_of(first.guards)
            self.check_level()
            while len(self.servers) < self.workers:
                self.servers.append(ForkServer(first.mode))
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

    def start_first(self) -> ForkServer:
        """Start a fork server in the strongest mode in which a program passes."""
        for mode in self.modes[:-1]:
            try:
                return self.tried(ForkServer(mode))
            except DataError as error:
                self.refused = str(error)
        return self.tried(ForkServer(self.modes[-1]))

    def tried(self, server: ForkServer) -> ForkServer:
        """Return a fork server, closed with DataError if an empty program does not pass in it."""
        server.ask(Program(""), Limits())
        verdict = server.answer(GRACE)
        if verdict.status != "passed":
            server.close()
            raise DataError(
                f"no sandbox in mode {server.mode}: even an empty program is {verdict.status} "
                f"({verdict.detail})"
            )
        return server

    def described(self) -> str:
        """Describe the level and its guards; without namespaces, also why there are none."""
        guards = ", ".join(self.guards) or "nothing"
        why = f"; without namespaces: {self.refused}" if self.refused else ""
        return f"{self.level.name} ({guards}{why})"

    def check_level(self) -> None:
        """Raise UsageError if the level is below the required one."""
        if self.require is not None and self.level < self.require:
            raise UsageError(
                f"isolation level {self.level.name!r} is below {self.require.name!r}; this "
                f"system gives {self.described()}: allow user namespaces, Landlock and seccomp, "
                f"or require {self.level.name!r}"
            )

    def close(self) -> None:
        """End all fork servers and what they run."""
        for server in self.servers:
            server.close()
        self.servers = []

    def run_all(
        self, jobs: Iterable[tuple[Key, Program, Limits]]
    ) -> Iterator[tuple[Key, ProgramVerdict]]:
        """Yield verdicts as they arrive, in any order; each job is taken once a worker is free."""
        if not self.servers:
            raise UsageError("the sandbox is not open; use it in a with statement")
        left = iter(jobs)
        free, busy = list(self.servers), dict[ForkServer, tuple[Key, float]]()
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
            # A caller that stops early leaves programs running; end them.
            for server in busy:
                server.close()


class ForkServer:
    """A fork server: one process tree that runs one program at a time, restarted when it dies.

    Raises DataError if it cannot be started in this mode.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.start()

    def start(self) -> None:
        """Start the process and wait until it reports its guards."""
        try:
            self.folder = tempfile.mkdtemp(prefix="talaria-")
            try:
                self.launch()
            except BaseException:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise
        except OSError as error:
            remedy = "; allow more (ulimit -n)" if error.errno == errno.EMFILE else ""
            raise DataError(f"no sandbox in mode {self.mode}: {error.strerror}{remedy}") from error
        hello = self.receive(GRACE)
        if hello is None or "failed" in hello:
            self.close()
            last = (self.errors.strip() or "no answer").split("\n")[-1]
            why = last if hello is None else hello["failed"]
            raise DataError(f"no sandbox in mode {self.mode}: {why}")
        self.guards: tuple[str, ...] = tuple(hello["guards"])
        if "namespaces" in self.guards:
            # What is mounted there is seen by the server alone, and stays when the folder goes.
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)

    def launch(self) -> None:
        """Start the process at the other end of a socket."""
        environment = {
            "PATH": os.defpath,
            "HOME": self.folder,
            "TMPDIR": self.folder,
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            # Otherwise every thread reserves address space, which counts against the limit.
            "MALLOC_ARENA_MAX": "1",
        }
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        root = Path(__file__).resolve().parent.parent
        control, other = socket.socketpair()
        with other:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, *FLAGS, START, self.mode, self.folder, str(root)],
                    stdin=other.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=environment | kept,
                    start_new_session=True,
                )
            except BaseException:
                control.close()
                raise
        self.control, self.stream = control, control.makefile("rb")

    def close(self) -> None:
        """End the process and its descendants; `ask` starts it again."""
        if self.control.fileno() < 0:
            return
        self.stream.close()
        self.control.close()  # the server then ends its program, cleans up and exits
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
        """End the process and start a new one."""
        self.close()
        self.start()

    def ask(self, program: Program, limits: Limits) -> float:
        """Send a program; return the time (of `clock`) by which its verdict is due."""
        wall_seconds = limits.wall_seconds or WALL_FACTOR * limits.seconds
        job = {**vars(program), **vars(limits), "wall_seconds": wall_seconds}
        data = json.dumps(job).encode() + b"\n"
        if self.control.fileno() < 0:
            self.start()
        try:
            self.send(data)
        except OSError:
            self.restart()
            self.send(data)
        return clock() + wall_seconds + GRACE

    def send(self, data: bytes) -> None:
        """Send a line; OSError if the server is gone."""
        self.control.settimeout(GRACE)
        self.control.sendall(data)

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the server's next message; None if none arrives in time."""
        self.control.settimeout(seconds)
        try:
            line = self.stream.readline()
        except OSError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def answer(self, seconds: float = 1.0) -> ProgramVerdict:
        """Return the verdict that is due; "killed" if the server died with the program."""
        answer = self.receive(seconds)
        if answer is None:
            self.restart()
            return ProgramVerdict("killed", "the fork server was lost with it", 0.0, 0.0)
        return ProgramVerdict(**answer)


def level_of(guards: Iterable[str]) -> Level:
    """Return the isolation level that these guards amount to."""
    held = set(guards)
    if "limits" not in held:
        return Level.none
    if "namespaces" not in held:
        return Level.limits
    return Level.full if {"Landlock", "seccomp"} <= held else Level.namespaces

"""A process in the background that keeps a model loaded, as the command line sees it.

It listens on a socket in a folder that only its user may enter, and ends after some idle minutes.
Nothing depends on it: whoever cannot reach it, or is refused, loads the model in its own process.
Whoever asks says who it is (`identity`); a process of another version, or with another model, is
never asked. `coder/daemon_server.py` is that process.

A message is a JSON object behind its length, eight bytes. The asker sends one, with `identity`,
`request`, `trace` and `minutes`, and gets any number of `line` and `preparing`, then one `answer`,
`error` or `refused`. Closing the connection cancels the request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import talaria
from talaria.coder.answers import Answer, Offer
from talaria.coder.errors import TalariaError, UsageError

if TYPE_CHECKING:
    from talaria.coder.loading import LoadReporter
    from talaria.coder.request import Request

MOST_BYTES = 2**28  # of a message: more than the largest file takes
STARTING = 10.0  # seconds that a new process may take until it listens; the machine may be busy
ENDING = 2.0  # seconds that a process may take to make room after it has refused
POLL = 0.01  # seconds between two looks whether it listens
OUTDATED = "another version or model"  # why a process refuses, and ends
LONGEST_PATH = 100  # bytes of a socket's path; systems allow 104 to 108
# Runs without `-m`, which would put the folder that the user is in before the libraries.
PROGRAM = (
    "import sys; folder = sys.argv[1]; folder in sys.path or sys.path.insert(0, folder); "
    "from talaria.coder import daemon_server; daemon_server.main(*sys.argv[2:])"
)


class OutdatedError(Exception):
    """The process that was asked serves another version or model, and ends."""


def identity(model: str | None, device: str) -> list[str]:
    """All that decides what a process would answer: versions, code, model, device, environment."""
    if model and (os.sep in model or os.path.exists(model)):
        model = os.path.realpath(model)
    variables = ("TALARIA_HOME", "HOME", "OMP_NUM_THREADS")
    return [
        talaria.__version__,
        code(),
        sys.version,
        sys.prefix,
        model or "",
        device,
        *(os.environ.get(name, "") for name in variables),
    ]


def code() -> str:
    """A hash of the names, sizes and times of this package's files: a checkout changes."""
    found = hashlib.sha256()
    for folder, folders, files in os.walk(Path(__file__).parent):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(files):
            status = os.stat(os.path.join(folder, name))
            found.update(f"{folder}/{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()


def runtime_folder() -> Path | None:
    """The user's own folder for sockets, made if it is missing; None where none can be trusted.

    That is `talaria` in XDG_RUNTIME_DIR, else `talaria-UID` in the folder for temporary files. It
    must be a folder and no link, belong to the user, and be closed to everybody else.
    """
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "geteuid"):
        return None  # Windows
    user = os.geteuid()
    places = [Path(os.environ.get("TMPDIR") or "/tmp", f"talaria-{user}")]
    if os.path.isabs(runtime := os.environ.get("XDG_RUNTIME_DIR", "")):
        places.insert(0, Path(runtime, "talaria"))
    for place in places:
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileExistsError):
                place.mkdir(mode=0o700)
            status = place.lstat()
            private = not stat.S_IMODE(status.st_mode) & 0o077
            if stat.S_ISDIR(status.st_mode) and status.st_uid == user and private:
                return place
    return None


def place_of(whom: list[str]) -> Path | None:
    """The socket of the process with this identity; None where there can be none."""
    folder = runtime_folder()
    name = hashlib.sha256(json.dumps(whom).encode()).hexdigest()[:16]
    place = folder and folder / name
    return place if place and len(os.fsencode(place)) <= LONGEST_PATH else None


def ask(
    request: Request,
    model: str | None,
    device: str,
    minutes: float,
    trace: bool,
    reporter: LoadReporter,
) -> Answer | None:
    """Let the process with the model answer, and start it if there is none; None if it does not.

    An outdated one, as after the large model has been fetched, is replaced.

    Raises what the request's fault is: UsageError, or TalariaError.
    """
    if model is not None and (not model or "://" in model):
        return None  # no path to make absolute: loading it here says what is wrong
    whom = identity(model, device)
    place = place_of(whom)
    if place is None:
        return None
    with contextlib.suppress(OSError, EOFError, ValueError):
        said = {"identity": whom, "request": sent(request), "trace": trace, "minutes": minutes}
        for _ in range(2):
            connection = connected(place) or started(place, whom)
            if connection is None:
                return None
            with connection:
                send(connection, said)
                with contextlib.suppress(OutdatedError):
                    return heard(connection, reporter)
            wait_until_gone(place)
    return None


def wait_until_gone(place: Path) -> None:
    """Wait until nobody listens there any more."""
    until = time.monotonic() + ENDING
    while time.monotonic() < until and (connection := connected(place)):
        connection.close()
        time.sleep(POLL)


def sent(request: Request) -> dict[str, Any]:
    """What a message says of a request."""
    names = ("prefix", "suffix", "replaces", "cell", "instruction")
    return {"options": asdict(request.options), **{name: getattr(request, name) for name in names}}


def heard(connection: socket.socket, reporter: LoadReporter) -> Answer | None:
    """The answer on a connection, after all that is told on the way; None if it is refused.

    Raises OutdatedError, and what the request's fault is.
    """
    while True:
        message = receive(connection)
        if "line" in message:
            reporter.line(message["line"])
        elif "preparing" in message:
            reporter.preparing(message["preparing"], message["done"])
        elif "error" in message:
            kind = UsageError if message["exit_code"] == UsageError.exit_code else TalariaError
            raise kind(message["error"])
        elif "answer" in message:
            offers = [Offer(**each) for each in message["answer"]["offers"]]
            return Answer(**{**message["answer"], "offers": offers})
        elif message.get("refused") == OUTDATED:
            raise OutdatedError
        else:
            return None


def connected(place: Path) -> socket.socket | None:
    """A connection to the process that listens there; None if none does."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.fspath(place))
    except OSError:  # no socket, or that of a process that was killed
        connection.close()
        return None
    return connection


def started(place: Path, whom: list[str]) -> socket.socket | None:
    """Start a process, and connect to it, or to the one that was started at the same time."""
    import subprocess

    package = os.path.dirname(os.path.abspath(talaria.__file__))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, os.path.dirname(package), place, json.dumps(whom)],
        cwd="/",  # not to hold the user's folder
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is for the asker alone
    )
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        ended = process.poll() is not None
        if connection := connected(place):
            process.returncode = process.returncode or 0  # it is meant to outlive this process
            return connection
        if ended:
            return None
        time.sleep(POLL)
    process.kill()
    process.wait()
    return None


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message; OSError if nobody listens any more."""
    data = json.dumps(message).encode()
    connection.sendall(len(data).to_bytes(8, "big") + data)


def receive(connection: socket.socket) -> dict[str, Any]:
    """The next message; EOFError at the end, ValueError for what is none."""
    size = int.from_bytes(_bytes(connection, 8), "big")
    if size > MOST_BYTES:
        raise ValueError(f"a message of {size} bytes; the limit is {MOST_BYTES}")
    message = json.loads(_bytes(connection, size))
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")  # noqa: TRY004
    return message


def _bytes(connection: socket.socket, count: int) -> bytes:
    """So many bytes; EOFError if there are fewer."""
    parts = []
    while count:
        part = connection.recv(min(count, 2**20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)

"""The process in the background that keeps a model loaded (`coder/daemon.py` says how it is asked).

Everything that it needs of a user's files is in the request: it reads none but the model's, and
writes none.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder import daemon, files
from talaria.coder.errors import TalariaError

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.engine import Pending
    from talaria.coder.request import Request

if sys.platform != "win32":
    import fcntl

LOOK = 30.0  # seconds, at most, between two looks whether to end
STANDING_IN = 300.0  # seconds until the model that could not be loaded is tried again
PATIENCE = 60.0  # seconds that an asker may take to send its message


def main(place: str, whom: str) -> None:
    """Serve the identity `whom`, as JSON, on the socket at `place`, until nobody asks any more.

    Of two that start at once, the one that gets the lock goes on. The lock is the system's, so a
    process that was killed leaves none; the socket that it left is replaced.
    """
    identity = json.loads(whom)
    if daemon.identity(identity[4] or None, identity[5]) != identity:
        return  # another version than the one that started it
    os.umask(0o077)
    with open(f"{place}.lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            wait_for(Path(place))
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(place)
            listening.listen(16)
            try:
                Server(identity, Path(place), listening).serve()
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(place)


def wait_for(place: Path) -> None:
    """Wait until the process that has the lock listens, since whoever started this one waits."""
    until = time.monotonic() + daemon.STARTING
    while time.monotonic() < until:
        if connection := daemon.connected(place):
            connection.close()
            return
        time.sleep(daemon.POLL)


class Server:
    """Answers with one model, until it has been idle for as long as the last asker said."""

    def __init__(self, identity: list[str], place: Path, listening: socket.socket) -> None:
        """Start loading the model."""
        from talaria.coder.engine import Engine

        self.identity, self.place, self.listening = identity, place, listening
        self.inode = place.stat().st_ino
        self.told: list[dict[str, Any]] = []  # what the loader has to say
        self.active, self.last, self.minutes = 0, time.monotonic(), 1.0
        self.ended = False
        self.woken, self.waker = socket.socketpair()
        self.changed = threading.Lock()
        self.stands_in: tuple[float, list[tuple[str, int, int]]] | None = None  # since, with what
        self.model_file = self.found()
        self.engine = Engine(self.load)

    def load(self) -> Checkpoint:
        """Load the model; what takes long is told to whoever waits."""
        from talaria.coder.loading import load

        before = stored()
        model = load(self.identity[4] or None, self.identity[5], self)
        if model.name != Path(self.model_file[0]).name:
            self.stands_in = time.monotonic(), before
        return model

    def outdated(self) -> bool:
        """Whether another model is meant, or the one that could not be loaded may be by now."""
        if self.found() != self.model_file:
            return True
        if self.stands_in is None:
            return False
        since, before = self.stands_in
        return time.monotonic() > since + STANDING_IN or stored() != before

    def line(self, text: str) -> None:
        """Keep a line of the loader."""
        self.told.append({"line": text})

    def preparing(self, name: str, done: float) -> None:
        """Keep how far preparing is."""
        self.told.append({"preparing": name, "done": done})

    def found(self) -> tuple[str, bytes]:
        """Where the model lies and what its folder says: another one may be the default by now."""
        from talaria.coder import checkpoint

        try:
            path = checkpoint.find(self.identity[4] or None)
            if path.is_dir():
                return str(path), (path / checkpoint.CONFIG).read_bytes()
            status = path.stat()
            return str(path), f"{status.st_mtime_ns} {status.st_size}".encode()
        except (TalariaError, OSError) as error:
            return str(error), b""

    def serve(self) -> None:
        """Answer whoever connects, each in a thread of its own; returns once idle."""
        with self.woken, self.waker:
            while not self.ended and (left := self.seconds_left()) > 0:
                sources = [self.listening, self.woken]
                ready = select.select(sources, [], [], min(left, LOOK))[0]
                if self.woken in ready:
                    self.woken.recv(1)
                if self.listening in ready:
                    connection, _ = self.listening.accept()
                    with self.changed:
                        self.active += 1
                    threading.Thread(target=self.attend, args=(connection,), daemon=True).start()

    def seconds_left(self) -> float:
        """How long to wait for the next asker: not at all where nobody can find the socket."""
        try:
            if self.place.stat().st_ino != self.inode:
                return 0
        except OSError:
            return 0
        with self.changed:
            return LOOK if self.active else self.last + 60 * self.minutes - time.monotonic()

    def attend(self, connection: socket.socket) -> None:
        """Answer one asker; whatever goes wrong, it can help itself."""
        try:
            with connection, contextlib.suppress(OSError, EOFError, ValueError, KeyError):
                connection.settimeout(PATIENCE)
                self.answer(connection, daemon.receive(connection))
        finally:
            with self.changed:
                self.active -= 1
                self.last = time.monotonic()
            with contextlib.suppress(OSError):  # it does not serve any more
                self.waker.send(b".")

    def answer(self, connection: socket.socket, message: dict[str, Any]) -> None:
        """Fill the hole of a message, unless another model is meant."""
        if message["identity"] != self.identity or self.outdated():
            daemon.send(connection, {"refused": daemon.OUTDATED})
            self.ended = True
            return
        self.minutes = float(message["minutes"])
        request = request_of(message["request"])
        pending = self.engine.submit(request)
        try:
            self.wait(connection, pending)
            if pending.future.done() and not pending.future.cancelled():
                self.reply(connection, pending, message["trace"])
        finally:
            pending.cancel()

    def wait(self, connection: socket.socket, pending: Pending) -> None:
        """Wait for an outcome, pass on what the loader says, and cancel if the asker has gone."""
        woken, waker = socket.socketpair()
        with woken, waker:

            def wake(_: object) -> None:
                with contextlib.suppress(OSError):
                    waker.send(b".")

            pending.future.add_done_callback(wake)
            told = 0
            while not pending.future.done():
                loading = not self.engine.model.done()
                told = self.tell(connection, told, loading)
                wait = 0.1 if loading else None
                ready = select.select([connection, woken], [], [], wait)[0]
                if connection in ready:  # nothing more is to come, so it is closed
                    pending.cancel()
        self.tell(connection, told, False)

    def tell(self, connection: socket.socket, told: int, loading: bool) -> int:
        """Send what the loader has said since; while it loads, also how far it is."""
        said = self.told[told:]
        for each in said:
            if loading or "line" in each:
                daemon.send(connection, each)
        return told + len(said)

    def reply(self, connection: socket.socket, pending: Pending, trace: bool) -> None:
        """Send the outcome, or the fault."""
        from talaria.coder.answers import answer_of

        try:
            model = self.engine.model.result()
            answer = answer_of(pending.future.result(), pending.request, model, trace)
        except TalariaError as error:
            daemon.send(connection, {"error": str(error), "exit_code": error.exit_code})
            self.ended = self.ended or self.engine.model.exception() is not None
        except Exception as error:
            daemon.send(connection, {"refused": repr(error)})
            self.ended = True
        else:
            daemon.send(connection, {"answer": asdict(answer)})


def stored() -> list[tuple[str, int, int]]:
    """Bases and prepared forms that are here: names, sizes and times of their files."""
    home, found = files.home(), []
    if home is not None:
        for path in (*home.glob("bases/*.gguf"), *home.glob("bases/prepared/[!.]*/*")):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((str(path), status.st_size, status.st_mtime_ns))
    return sorted(found)


def request_of(asked: dict[str, Any]) -> Request:
    """The request of a message, as `daemon.sent` puts it."""
    from talaria.coder.request import Options, Request

    return Request(**{**asked, "options": Options(**asked["options"])})

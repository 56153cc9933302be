"""A client of the language server that is timed: requests, what comes back, and its processes.

Times are taken where bytes are read and written. Needs Linux, which tells what a process
uses in `/proc`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

from talaria.coder.errors import TalariaError

# Files of about 1,000 lines, of people who have nothing to do with each other.
FILES = (
    *("asyncio/tasks.py", "ftplib.py", "functools.py", "importlib/metadata/__init__.py"),
    *("logging/config.py", "tempfile.py", "traceback.py", "xmlrpc/server.py"),
)
PATIENCE = 60.0  # seconds until an answer is taken for missing, or a process for stuck


class EditorWorkspace:
    """A folder with a workspace of copies of `FILES`, and what a server keeps for itself."""

    def __init__(self, folder: Path, model: str | None) -> None:
        self.flags = ["--model", model] if model else []
        self.state, self.root = folder / "state", folder / "work"
        library = Path(sysconfig.get_path("stdlib"))
        self.texts = {path: (library / path).read_text("utf-8") for path in FILES}
        for path, text in self.texts.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text, "utf-8")


@dataclass(eq=False)
class ClientRequest:
    """A request, with the times when it was sent and when its answer was there."""

    id: int
    sent: float = 0.0
    answered: float = 0.0
    result: Any = None
    error: dict[str, Any] | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def ms(self) -> float:
        """From request to answer."""
        return 1000 * (self.answered - self.sent)

    @property
    def text(self) -> str:
        """The first suggestion of the answer, "" if it has none."""
        return str(self._items[0]["insertText"]) if self._items else ""

    @property
    def command(self) -> Any:
        """What an editor executes once that was taken."""
        return self._items[0].get("command") if self._items else None

    @property
    def _items(self) -> list[dict[str, Any]]:
        found = self.result["items"] if isinstance(self.result, dict) else self.result
        return found or []


class LspClient:
    """A server in a process of its own, and the messages that go there and come back."""

    def __init__(self, place: EditorWorkspace) -> None:
        """Start the process."""
        self._place = place
        environment = {**os.environ, "TALARIA_STATE": str(place.state)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody's editor sets it
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 closed by `close`
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "talaria.coder.cli", "lsp", *place.flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        assert self.process.stdin
        assert self.process.stdout
        self._input, self._output = self.process.stdin, self.process.stdout
        self._ids, self._lock = count(1), threading.Lock()
        self._open: dict[int, ClientRequest] = {}
        self._ready = ClientRequest(0)
        self.strays = 0  # answers to nothing, or second ones
        self.shown: list[str] = []  # messages that a user would have seen
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def initialize(self, editor: int) -> float:
        """Say that process `editor` is the server's editor; milliseconds from the start on."""
        asked = self.ask(
            "initialize",
            {
                "processId": editor,
                "rootUri": self._place.root.as_uri(),
                "capabilities": {
                    "textDocument": {"inlineCompletion": {"dynamicRegistration": True}},
                    "window": {"workDoneProgress": True},
                    "general": {"positionEncodings": ["utf-16"]},
                },
            },
        )
        self.wait(asked)
        self.notify("initialized", {})
        return 1000 * (asked.answered - self.began)

    def ask(self, method: str, params: object) -> ClientRequest:
        """Send a request; its answer comes by itself."""
        asked = ClientRequest(next(self._ids))
        self._open[asked.id] = asked
        asked.sent = time.perf_counter()
        self._send({"id": asked.id, "method": method, "params": params})
        return asked

    def wait(self, asked: ClientRequest) -> Any:
        """The result of a request; TalariaError where none comes."""
        asked.done.wait(PATIENCE)
        if not asked.answered:
            raise TalariaError(f"no answer within {PATIENCE:.0f} s; the server's log:\n{self.log}")
        return asked.result

    def command(self, name: str, *arguments: object) -> Any:
        """Execute one of the server's commands and wait for it."""
        asked = self.ask(
            "workspace/executeCommand", {"command": name, "arguments": list(arguments)}
        )
        return self.wait(asked)

    def notify(self, method: str, params: object) -> None:
        """Tell the server something."""
        self._send({"method": method, "params": params})

    def cancel(self, asked: ClientRequest) -> None:
        """Its answer is no longer wanted; it comes nevertheless."""
        self.notify("$/cancelRequest", {"id": asked.id})

    def wait_until_ready(self) -> float:
        """Wait for the model; milliseconds from the process' start."""
        ending = self.wait(self._ready)
        if not str(ending).endswith("is ready"):
            raise TalariaError(f"no model: {ending}; the server's log:\n{self.log}")
        return 1000 * (self._ready.answered - self.began)

    def model_requests(self) -> int:
        """How often the model was asked so far."""
        return int(self.command("talaria.status")["engine"]["requests"])

    def memory(self) -> int:
        """What the server and its children hold, in bytes."""
        pages = (stat[21] for stat in family(self.process.pid))
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of computing that the server and its children have used."""
        ticks = (int(tick) for stat in family(self.process.pid) for tick in stat[11:15])
        return sum(ticks) / os.sysconf("SC_CLK_TCK")

    def faults(self) -> dict[str, int]:
        """What should never happen, counted."""
        return {
            "unanswered": len(self._open),
            "answered_twice_or_unasked": self.strays,
            "logged_errors": self.log.count(" ERROR "),
            "messages_shown": len(self.shown),
            "crashes": int(self.process.poll() is not None),
        }

    @property
    def log(self) -> str:
        """What the server wrote to standard error."""
        size = self._log.seek(0, os.SEEK_END)
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def close_input(self) -> None:
        """As if whoever holds the other end were gone."""
        with self._lock:
            self._input.close()

    def gone(self, since: float) -> float:
        """Wait until the process has ended; milliseconds since then. A stuck one is killed."""
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        self.process.wait()
        ended = time.perf_counter()
        watchdog.cancel()
        return 1000 * (ended - since)

    def close(self) -> None:
        """Make an end of it, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for stream in (self._input, self._output, self._log):
            with suppress(BrokenPipeError):  # something was still to be written
                stream.close()

    def _send(self, message: Mapping[str, object]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        with self._lock:
            try:
                self._input.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
                self._input.flush()
            except (OSError, ValueError) as error:  # ValueError: closed already
                raise TalariaError(f"the server is gone; its log:\n{self.log}") from error

    def _listen(self) -> None:
        while (body := received(self._output)) is not None:
            now = time.perf_counter()
            message = json.loads(body)
            method, number = message.get("method"), message.get("id")
            if method == "$/progress" and message["params"]["value"]["kind"] == "end":
                self._ready.answered = now
                self._ready.result = message["params"]["value"].get("message")
                self._ready.done.set()
            elif method == "window/showMessage":
                self.shown.append(message["params"]["message"])
            elif method and number is not None:
                with suppress(TalariaError):
                    self._send({"id": number, "result": None})
            elif not method and (asked := self._open.pop(number, None)):
                asked.answered = now
                asked.result, asked.error = message.get("result"), message.get("error")
                asked.done.set()
            elif not method:
                self.strays += 1
        for asked in (self._ready, *self._open.values()):
            asked.done.set()  # nobody will answer them


def received(stream: IO[bytes]) -> bytes | None:
    """The next message's body; None at the end."""
    length = 0
    while line := stream.readline():
        if line == b"\r\n":
            return stream.read(length)
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return None


def family(pid: int) -> list[list[str]]:
    """The fields of `/proc/.../stat` behind the name, of a process and all its descendants.

    They are proc(5)'s from the third on: 1 is the parent, 11 to 14 are times, 21 is the memory.
    """
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stats[int(path.parent.name)] = path.read_text("ascii", "replace").rpartition(")")[2]
        except OSError:
            continue  # it has just ended
    fields = {number: stat.split() for number, stat in stats.items()}
    own = [pid]
    for parent in own:
        own += [number for number, stat in fields.items() if int(stat[1]) == parent]
    return [fields[number] for number in own if number in fields]


@contextmanager
def server(place: EditorWorkspace) -> Iterator[LspClient]:
    """A server that has just been started."""
    client = LspClient(place)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def ready_server(place: EditorWorkspace) -> Iterator[LspClient]:
    """A server with its model, whose editor is this process."""
    with server(place) as client:
        client.initialize(os.getpid())
        client.wait_until_ready()
        yield client


class EditorDocument:
    """A document as an editor has it open."""

    def __init__(self, client: LspClient, place: EditorWorkspace, path: str) -> None:
        self.client, self.text, self.version = client, place.texts[path], 1
        self.uri = (place.root / path).as_uri()
        client.notify(
            "textDocument/didOpen",
            {
                "textDocument": {
                    "uri": self.uri,
                    "languageId": "python",
                    "version": 1,
                    "text": self.text,
                }
            },
        )

    def edit(self, start: int, end: int, new: str) -> None:
        """Put something in the place of the text between two characters."""
        place = {"start": self.position(start), "end": self.position(end)}
        self.text, self.version = self.text[:start] + new + self.text[end:], self.version + 1
        self.client.notify(
            "textDocument/didChange",
            {
                "textDocument": {"uri": self.uri, "version": self.version},
                "contentChanges": [{"range": place, "text": new}],
            },
        )

    def ask(self, offset: int, invoked: bool = False) -> ClientRequest:
        """Ask for grey text."""
        return self.client.ask(
            "textDocument/inlineCompletion",
            {
                "textDocument": {"uri": self.uri},
                "position": self.position(offset),
                "context": {"triggerKind": 1 if invoked else 2},
            },
        )

    def position(self, offset: int) -> dict[str, int]:
        """Where a character stands."""
        line = self.text[self.text.rfind("\n", 0, offset) + 1 : offset]
        units = len(line.encode("utf-16-le", "surrogatepass")) // 2
        return {"line": self.text.count("\n", 0, offset), "character": units}

    def close(self) -> None:
        """Close it."""
        self.client.notify("textDocument/didClose", {"textDocument": {"uri": self.uri}})

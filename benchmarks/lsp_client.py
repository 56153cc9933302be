"""A language server client that measures: request times, faults, memory and CPU time.

Times are taken where bytes are read and written. Needs Linux's `/proc`.
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
from typing import Any

from talaria.coder.errors import TalariaError
from talaria.evals.typing_server import received

# Files of about 1,000 lines by unrelated authors.
FILES = (
    *("asyncio/tasks.py", "ftplib.py", "functools.py", "importlib/metadata/__init__.py"),
    *("logging/config.py", "tempfile.py", "traceback.py", "xmlrpc/server.py"),
)
TIMEOUT = 60.0  # seconds until an answer counts as missing, or a process as stuck


class EditorWorkspace:
    """A workspace with copies of `FILES`, and a folder for the server's state."""

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
    """A request, with the times it was sent and answered (seconds of `time.perf_counter`)."""

    id: int
    sent: float = 0.0
    answered: float = 0.0
    result: Any = None
    error: dict[str, Any] | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def ms(self) -> float:
        """Milliseconds from request to answer."""
        return 1000 * (self.answered - self.sent)

    @property
    def text(self) -> str:
        """The first suggestion in the answer; "" if there is none."""
        return str(self._items[0]["insertText"]) if self._items else ""

    @property
    def command(self) -> Any:
        """The command an editor executes when the suggestion is accepted."""
        return self._items[0].get("command") if self._items else None

    @property
    def _items(self) -> list[dict[str, Any]]:
        found = self.result["items"] if isinstance(self.result, dict) else self.result
        return found or []


class LspClient:
    """A language server in a process of its own, and the messages to and from it."""

    def __init__(self, place: EditorWorkspace) -> None:
        """Start the process."""
        self._place = place
        environment = {**os.environ, "TALARIA_STATE": str(place.state)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # editors do not set it
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
        self.strays = 0  # answers that match no open request
        self.shown: list[str] = []  # messages shown to the user
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def initialize(self, editor: int) -> float:
        """Initialize with process `editor` as the editor; milliseconds since the start."""
        request = self.ask(
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
        self.wait(request)
        self.notify("initialized", {})
        return 1000 * (request.answered - self.began)

    def ask(self, method: str, params: object) -> ClientRequest:
        """Send a request; the listener fills in its answer."""
        request = ClientRequest(next(self._ids))
        self._open[request.id] = request
        request.sent = time.perf_counter()
        self._send({"id": request.id, "method": method, "params": params})
        return request

    def wait(self, request: ClientRequest) -> Any:
        """Wait for a request's result; TalariaError if none arrives."""
        request.done.wait(TIMEOUT)
        if not request.answered:
            raise TalariaError(f"no answer within {TIMEOUT:.0f} s; the server's log:\n{self.log}")
        return request.result

    def command(self, name: str, *arguments: object) -> Any:
        """Execute a server command and wait for its result."""
        request = self.ask(
            "workspace/executeCommand", {"command": name, "arguments": list(arguments)}
        )
        return self.wait(request)

    def notify(self, method: str, params: object) -> None:
        """Send a notification."""
        self._send({"method": method, "params": params})

    def cancel(self, request: ClientRequest) -> None:
        """Cancel a request; the server still answers it."""
        self.notify("$/cancelRequest", {"id": request.id})

    def wait_until_ready(self) -> float:
        """Wait for the model; milliseconds since the start."""
        ending = self.wait(self._ready)
        if not str(ending).endswith("is ready"):
            raise TalariaError(f"no model: {ending}; the server's log:\n{self.log}")
        return 1000 * (self._ready.answered - self.began)

    def model_requests(self) -> int:
        """Return how many requests the model has had so far."""
        return int(self.command("talaria.status")["engine"]["requests"])

    def memory(self) -> int:
        """Return the resident memory of the server and its descendants, in bytes."""
        pages = (stat[21] for stat in family(self.process.pid))
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Return the CPU seconds of the server and its descendants."""
        ticks = (int(tick) for stat in family(self.process.pid) for tick in stat[11:15])
        return sum(ticks) / os.sysconf("SC_CLK_TCK")

    def faults(self) -> dict[str, int]:
        """Count everything that should never happen."""
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
        """Close the server's input, as if the editor had died."""
        with self._lock:
            self._input.close()

    def gone(self, since: float) -> float:
        """Wait until the process ends; milliseconds from `since`. Kills a stuck one."""
        watchdog = threading.Timer(TIMEOUT, self.process.kill)
        watchdog.start()
        self.process.wait()
        ended = time.perf_counter()
        watchdog.cancel()
        return 1000 * (ended - since)

    def close(self) -> None:
        """Kill the process and release everything."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for stream in (self._input, self._output, self._log):
            with suppress(BrokenPipeError):  # unsent data
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
            elif not method and (request := self._open.pop(number, None)):
                request.answered = now
                request.result, request.error = message.get("result"), message.get("error")
                request.done.set()
            elif not method:
                self.strays += 1
        for request in (self._ready, *self._open.values()):
            request.done.set()  # no answer will come


def family(pid: int) -> list[list[str]]:
    """Read `/proc/.../stat`, the fields after the name, of a process and all its descendants.

    They are proc(5)'s fields from the third on: 1 is the parent, 11 to 14 are times, 21 is memory.
    """
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stats[int(path.parent.name)] = path.read_text("ascii", "replace").rpartition(")")[2]
        except OSError:
            continue  # the process has just ended
    fields = {number: stat.split() for number, stat in stats.items()}
    own = [pid]
    for parent in own:
        own += [number for number, stat in fields.items() if int(stat[1]) == parent]
    return [fields[number] for number in own if number in fields]


@contextmanager
def server(place: EditorWorkspace) -> Iterator[LspClient]:
    """Start a server; end it afterwards."""
    client = LspClient(place)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def ready_server(place: EditorWorkspace) -> Iterator[LspClient]:
    """Start a server with this process as editor and wait for its model; end it afterwards."""
    with server(place) as client:
        client.initialize(os.getpid())
        client.wait_until_ready()
        yield client


class EditorDocument:
    """A document that is open in the editor."""

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
        """Replace the text between two offsets."""
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
        """Request an inline completion at an offset."""
        return self.client.ask(
            "textDocument/inlineCompletion",
            {
                "textDocument": {"uri": self.uri},
                "position": self.position(offset),
                "context": {"triggerKind": 1 if invoked else 2},
            },
        )

    def position(self, offset: int) -> dict[str, int]:
        """Return the LSP position of an offset, in UTF-16 code units."""
        line = self.text[self.text.rfind("\n", 0, offset) + 1 : offset]
        units = len(line.encode("utf-16-le", "surrogatepass")) // 2
        return {"line": self.text.count("\n", 0, offset), "character": units}

    def close(self) -> None:
        """Close the document."""
        self.client.notify("textDocument/didClose", {"textDocument": {"uri": self.uri}})

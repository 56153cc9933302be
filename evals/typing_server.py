"""A language server in a process of its own, asked as an editor asks it after every key."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import IO, Any

from talaria.coder.errors import TalariaError

INLINE = "textDocument/inlineCompletion"
PATIENCE = 0.1  # seconds between two questions whether the model is loaded


class TypingServer:
    """`talaria lsp` with one open document, whose text ends at the cursor.

    Its folder for counts and its workspace are temporary. A context manager.
    """

    def __init__(self, flags: Sequence[str]) -> None:
        """Start the server with these flags and wait for its model; TalariaError if it has none."""
        self._folder = tempfile.TemporaryDirectory(prefix="talaria-")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 closed by `__exit__`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "talaria.coder.cli", "lsp", "--no-usage", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._ids, self._version = count(1), 0
        self.text, self._uri = "", ""
        inline: dict[str, Any] = {"textDocument": {"inlineCompletion": {}}}
        root = Path(self._folder.name).resolve().as_uri()
        self.ask("initialize", {"processId": None, "rootUri": root, "capabilities": inline})
        self.notify("initialized", {})
        while (state := self.status()["engine"]["state"]) == "loading":
            time.sleep(PATIENCE)
        if state != "ready":
            raise TalariaError(f"the server has no model; its log:\n{self.log}")

    def __enter__(self) -> TypingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()
        self._folder.cleanup()

    def open(self, name: str, text: str) -> None:
        """Open a new document; the one before is closed."""
        if self._uri:
            self.notify("textDocument/didClose", {"textDocument": {"uri": self._uri}})
        self._uri = (Path(self._folder.name).resolve() / name).as_uri()
        self.text, self._version = text, 1
        item = {"uri": self._uri, "languageId": "python", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def insert(self, text: str) -> None:
        """Insert a text at the cursor."""
        place = self.cursor()
        self.text, self._version = self.text + text, self._version + 1
        document = {"uri": self._uri, "version": self._version}
        changes = [{"range": {"start": place, "end": place}, "text": text}]
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": changes})

    def suggestion(self) -> str:
        """The ghost text at the cursor; empty if there is none."""
        params = {"textDocument": {"uri": self._uri}, "position": self.cursor()}
        items = self.ask(INLINE, {**params, "context": {"triggerKind": 2}}) or ()
        return next((str(item["insertText"]) for item in items), "")

    def cursor(self) -> dict[str, int]:
        """The position of the cursor, in UTF-16 code units."""
        line = self.text[self.text.rfind("\n") + 1 :]
        units = len(line.encode("utf-16-le", "surrogatepass")) // 2
        return {"line": self.text.count("\n"), "character": units}

    def status(self) -> dict[str, Any]:
        """The answer to `talaria.status`."""
        found: dict[str, Any] = self.ask("workspace/executeCommand", {"command": "talaria.status"})
        return found

    def ask(self, method: str, params: object) -> Any:
        """Send a request; the result. What the server asks meanwhile is answered with null."""
        number = next(self._ids)
        self._send({"id": number, "method": method, "params": params})
        while True:
            message = self._receive()
            if "method" in message:
                if "id" in message:
                    self._send({"id": message["id"], "result": None})
            elif message.get("id") == number:
                if message.get("error"):
                    raise TalariaError(f"{method} failed: {message['error'].get('message')}")
                return message.get("result")

    def notify(self, method: str, params: object) -> None:
        """Send a notification."""
        self._send({"method": method, "params": params})

    @property
    def log(self) -> str:
        """What the server has written to standard error."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _send(self, message: Mapping[str, object]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin
        try:
            self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            self._process.stdin.flush()
        except OSError as error:
            raise TalariaError(f"the server is gone; its log:\n{self.log}") from error

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout
        body = received(self._process.stdout)
        if body is None:
            raise TalariaError(f"the server is gone; its log:\n{self.log}")
        found: dict[str, Any] = json.loads(body)
        return found


def received(stream: IO[bytes]) -> bytes | None:
    """Read the next message's body; None at the end of the stream."""
    length = 0
    while line := stream.readline():
        if line == b"\r\n":
            return stream.read(length)
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return None

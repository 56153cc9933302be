"""A tiny base, and what delivers it: a Hub on loopback, wheels, and a reporter that remembers.

Nothing here, and no test that calls `cut_off`, reaches a network.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from talaria.coder import bases
from talaria.coder.base_sources import WheelPart

NAME, REPOSITORY, REVISION, FILE = "tiny", "someone/tiny-GGUF", "0" * 40, "tiny.gguf"
CONTENT = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(9_375))  # 300,000 bytes
HASH = hashlib.sha256(CONTENT).hexdigest()
CUTS = (0, 120_000, 240_000, 300_000)
OTHER = CONTENT[:-1] + b"?"


def environment(folder: Path) -> dict[str, str]:
    """Variables of a user whose home is in this folder, with neither Hub nor package index."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().endswith("_PROXY") and not name.startswith(("HF_", "PIP_", "OLLAMA_"))
        if name not in ("LLAMA_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA")
    }
    own = dict.fromkeys(("HOME", "USERPROFILE"), str(folder / "user"))
    own |= {"TALARIA_HOME": str(folder / "talaria"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    return kept | own | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}


def cut_off(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Put this process into that environment, with an empty Hugging Face cache."""
    wanted = environment(folder)
    for name in os.environ.keys() - wanted.keys():
        patch.delenv(name)
    for name, value in wanted.items():
        patch.setenv(name, value)
    # The library has read its variables already.
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    ask(wanted["HF_ENDPOINT"], patch)


def ask(endpoint: str, patch: pytest.MonkeyPatch) -> None:
    """Let the Hub's library ask this server."""
    path = "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + path)


@contextmanager
def serving(patch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub on loopback, in the place of the real one."""
    with FakeHub() as server:
        ask(server.url, patch)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class FakeHub(ThreadingHTTPServer):
    """Serves the base as the Hub does, unless told to do otherwise."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = CONTENT
        self.status = 200
        self.page = False
        self.knows_ranges = True
        self.tells_length = True
        self.cut_after: list[int] = []  # bytes after which the next connections break
        self.pause = 0.0  # seconds after each 10,000 bytes
        self.begins: list[int] = []  # of each answer
        self.paths: list[str] = []
        self.others: list[str] = []  # asked for beside the file
        self.authorization: str | None = None  # as the file was asked for last
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """One answer of it."""

    server: FakeHub

    def do_GET(self) -> None:
        """Send the file from where it is asked for; it lies behind a redirect, as there."""
        hub = self.server
        if self.path.startswith("/api/"):
            hub.others.append(self.path)
            self.send_error(404)
            return
        self.server.authorization = self.headers.get("authorization")
        if not self.path.startswith("/stored/"):
            self.send_response(302)
            self.send_header("location", "/stored" + self.path)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        hub.paths.append(self.path.removeprefix("/stored"))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        begin = int(asked[1]) if asked and hub.knows_ranges else 0
        hub.begins.append(begin)
        body = b"<html>Sign in</html>" if hub.page else hub.content[begin:]
        self.send_response(206 if begin else hub.status)
        self.send_header("content-type", "text/html" if hub.page else "application/octet-stream")
        if hub.tells_length:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        cut = hub.cut_after.pop(0) if hub.cut_after else len(body)
        try:
            for at in range(0, cut, 10_000):
                self.wfile.write(body[at : min(at + 10_000, cut)])
                time.sleep(hub.pause)
        except OSError:  # the client went away
            pass
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Record:
    """A reporter that keeps all lines and positions."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.moves: list[tuple[str, int, int]] = []

    def line(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)

    def moved(self, label: str, done: int, total: int) -> None:
        """Keep a position."""
        self.moves.append((label, done, total))

    def about(self, label: str) -> str:
        """The only line about a source."""
        (line,) = [line for line in self.lines if line.startswith(f"{label}: ")]
        return line


def part(number: int, content: bytes | None = None) -> WheelPart:
    """The table's entry of a part, counted from 1."""
    data = CONTENT[CUTS[number - 1] : CUTS[number]] if content is None else content
    return WheelPart(
        f"tiny-part{number}",
        "1.0",
        f"tiny_part{number}/data/part.bin",
        len(data),
        hashlib.sha256(data).hexdigest(),
    )


def write_wheel(folder: Path, number: int, content: bytes | None = None) -> Path:
    """A wheel with a part, as pip takes it."""
    name = f"tiny_part{number}"
    data = CONTENT[CUTS[number - 1] : CUTS[number]] if content is None else content
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{name}/data/part.bin", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def table(content: bytes = CONTENT) -> str:
    """A table with the tiny base; only that of the usual content has parts."""
    digest = hashlib.sha256(content).hexdigest()
    lines = [f"[{NAME}]", 'publisher = "Someone"', 'licence = "Apache-2.0"', "parameters = 1_000"]
    lines += [f"bytes = {len(content)}", f'sha256 = "{digest}"', f'hub.repository = "{REPOSITORY}"']
    lines += [f'hub.revision = "{REVISION}"', f'hub.file = "{FILE}"']
    for each in map(part, (1, 2, 3) if content == CONTENT else ()):
        lines += [f"[[{NAME}.parts]]", f'package = "{each.package}"', f'version = "{each.version}"']
        lines += [f'member = "{each.member}"', f"bytes = {each.bytes}", f'sha256 = "{each.sha256}"']
    return "\n".join(lines) + "\n"


@contextmanager
def known_bases(path: Path, text: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only the bases of this table are known; it is written to `path`."""
    path.write_text(text, encoding="utf-8")
    patch.setattr(bases, "TABLE", path)
    bases.known.cache_clear()
    try:
        yield
    finally:
        bases.known.cache_clear()

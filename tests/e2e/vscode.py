"""A real VS Code: code-server serves it, Chromium shows it, Playwright presses its keys.

Its profile is a new one each time, with nothing in it but the package of the extension.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "editors" / "vscode"
PACKAGE = CLIENT / "dist" / "talaria.vsix"
SCREENS = ROOT / "build" / "e2e" / "vscode"
WAIT = 15.0  # seconds for what comes by itself
KEY = 25  # milliseconds between two keys

T = TypeVar("T")

# So that nothing but what is tried moves on the screen.
QUIET = {
    "editor.quickSuggestions": {"other": "off", "strings": "off", "comments": "off"},
    "editor.suggestOnTriggerCharacters": False,
    "workbench.startupEditor": "none",
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "remote.autoForwardPorts": False,
}


def lacking() -> str | None:
    """What is missing to run these tests, with the remedy; None if nothing is."""
    if launcher() is None:
        return "no code-server. Remedy: npm install code-server, or name it by TALARIA_CODE_SERVER"
    if browser() is None:
        return "no Chromium. Remedy: install chromium, or name it by TALARIA_CHROMIUM"
    if shutil.which("npm") is None or not (CLIENT / "node_modules" / "playwright-core").exists():
        return "no packages of the extension. Remedy: npm ci in editors/vscode"
    return None


def launcher() -> str | None:
    """The code-server to try: TALARIA_CODE_SERVER, one of the tests' own, or `code-server`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    own = cache / "talaria-test" / "code-server" / "code-server"
    for program in (os.environ.get("TALARIA_CODE_SERVER"), own, shutil.which("code-server")):
        if program and Path(program).exists():
            return str(program)
    return None


def browser() -> str | None:
    """The Chromium that shows it."""
    return os.environ.get("TALARIA_CHROMIUM") or shutil.which("chromium")


def until(look: Callable[[], T], what: str, seconds: float = WAIT) -> T:
    """What is seen, once it is something; a failure says what was waited for."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return seen


def becomes(look: Callable[[], T], wanted: T, seconds: float = WAIT) -> None:
    """Wait until just this is seen; a failure says what was seen instead."""
    end = time.monotonic() + seconds
    while (seen := look()) != wanted:
        assert time.monotonic() < end, f"not {wanted!r} but {seen!r}, after {seconds:.0f} s"
        time.sleep(0.1)


class Code:
    """A window of VS Code on a folder, and the hands that use it."""

    def __init__(self, home: Path, page: subprocess.Popen[str]) -> None:
        self.folder = home / "work"
        self.settings_file = home / "user" / "Machine" / "settings.json"
        self._home, self._page, self._taken = home, page, 0
        self._told()

    def js(self, code: str, *args: Any) -> Any:
        """Run the body of a function of Playwright's `page` and of `args`."""
        assert self._page.stdin
        self._page.stdin.write(json.dumps({"code": code, "args": args}) + "\n")
        self._page.stdin.flush()
        return self._told()

    def _told(self) -> Any:
        assert self._page.stdout
        line = self._page.stdout.readline()
        assert line, "the browser is gone"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def shot(self, name: str) -> Path:
        """Keep what the screen shows."""
        self._taken += 1
        SCREENS.mkdir(parents=True, exist_ok=True)
        path = SCREENS / f"{self._home.name}-{self._taken:03}-{name}.png"
        self.js("await page.screenshot({ path: args[0] })", str(path))
        return path

    def film(self, key: str, file: Path, text: str) -> list[tuple[float, bytes]]:
        """Press a key, and keep every picture of the screen until a text stands in a file."""
        self.js(
            """
            const session = await page.context().newCDPSession(page);
            globalThis.film = { session, frames: [] };
            session.on("Page.screencastFrame", ({ data, metadata, sessionId }) => {
              globalThis.film.frames.push([metadata.timestamp, data]);
              session.send("Page.screencastFrameAck", { sessionId });
            });
            await session.send("Page.startScreencast", { format: "png" });
            await page.waitForTimeout(300);
            await page.keyboard.press(args[0]);
            """,
            key,
        )
        until(lambda: text in file.read_text(), f"{text!r} in {file.name}")
        time.sleep(0.5)
        frames = self.js("await globalThis.film.session.detach(); return globalThis.film.frames")
        return sorted((when, base64.b64decode(data)) for when, data in frames)

    def press(self, *keys: str) -> None:
        """Press keys, by Playwright's names."""
        for key in keys:
            self.js("await page.keyboard.press(args[0])", key)

    def type(self, text: str) -> None:
        """Type a text."""
        self.js("await page.keyboard.type(args[0], { delay: args[1] })", text, KEY)

    def texts(self, selector: str) -> list[str]:
        """The texts of what is on the screen."""
        found: list[str] = self.js(
            "return await page.locator(args[0]).filter({ visible: true }).allInnerTexts()",
            selector,
        )
        return [text.replace("\xa0", " ").replace("\u200c", "") for text in found]

    def wait(self, selector: str) -> None:
        """Wait until something is on the screen."""
        self.js("await page.locator(args[0]).first().waitFor()", selector)

    def click(self, selector: str) -> None:
        """Click at something, once it is there."""
        self.js("await page.locator(args[0]).first().click()", selector)

    def open(self, name: str) -> None:
        """Open a file of the folder, with the cursor at its end."""
        row = f".explorer-folders-view .monaco-list-row[aria-label^='{name}']"
        self.js("await page.locator(args[0]).dblclick()", row)
        self.wait(f".tab.active[data-resource-name='{name}']")
        self.wait(".editor-group-container.active .monaco-editor .view-line")
        self.press("Control+End")

    def holds(self, name: str, text: str) -> None:
        """Save, until the file holds just this text."""

        def held() -> str:
            self.press("Control+s")
            return (self.folder / name).read_bytes().decode()

        becomes(held, text)

    def ghost(self) -> str:
        """The ghost text, a line break between its lines."""
        first = "".join(self.texts(".view-lines [class*='ghost-text-decoration']"))
        more = self.texts(".view-zones .suggest-preview-text .view-line")
        return "\n".join([first, *more])

    def grey(self, text: str) -> None:
        """Wait until just this text is grey; nothing, if it is empty."""
        becomes(self.ghost, text)

    def moves_on(self, text: str) -> None:
        """Wait until this text is no longer grey."""
        until(lambda: self.ghost() != text, f"another text than {text!r}")

    def status(self) -> str:
        """What the item of the status bar says."""
        item = "[id='talaria.talaria.talaria']"
        found = self.js("return await page.locator(args[0]).getAttribute('aria-label')", item)
        return str(found)

    def ready(self) -> None:
        """Wait for the model."""
        self.wait("[id='talaria.talaria.talaria']")
        until(lambda: "ready" in self.status(), "a model that is ready", 90)

    def offered(self, name: str, line: str, grey: str) -> None:
        """Open a file, type a line, and wait for just this ghost text behind it."""
        self.open(name)
        self.type(line)
        self.grey(grey)

    def run(self, title: str) -> None:
        """Run a command of the palette."""
        self.press("F1")
        self.wait(".quick-input-widget input")
        self.type(title)
        self.wait(f".quick-input-list .monaco-list-row.focused[aria-label*='{title}']")
        self.press("Enter")

    def menu(self) -> str:
        """Open the menu of the status bar; its title."""
        self.run("Talaria: Menu")
        return until(lambda: "".join(self.texts(".quick-input-title")), "a menu with a title")

    def requests(self) -> int:
        """How often the engine was asked, as the menu says."""
        title = self.menu()
        self.press("Escape")
        return int(title.split("·")[1].split()[0])

    def answer(self, button: str) -> None:
        """Click at a button of a notification."""
        self.click(f".notifications-toasts .monaco-button:has-text('{button}')")

    def choose(self, path: Path) -> None:
        """Give a file or a folder to the dialog that asks for one."""
        self.wait(".quick-input-title:has-text('alaria')")
        field = "page.locator('.quick-input-widget input').first()"
        text = f"{path}/" if path.is_dir() else str(path)

        def given() -> bool:  # the dialog may still be writing there itself
            self.js(f"await {field}.fill(args[0])", text)
            time.sleep(0.5)
            return bool(self.js(f"return await {field}.inputValue()") == text)

        until(given, "the path in the dialog")
        until(lambda: ".." in self.texts(".quick-input-list .monaco-list-row"), "its files")
        self.shot("dialog")
        self.press("Enter")

    def messages(self) -> list[str]:
        """The notifications on the screen."""
        return self.texts(".notifications-toasts .notification-list-item-message")

    def set(self, **settings: Any) -> None:
        """Write the machine's settings, as if by hand."""
        self.settings_file.write_text(
            json.dumps({f"talaria.{name}": value for name, value in settings.items()})
        )

    def dismiss_messages(self) -> None:
        """Clear the notifications."""
        self.run("Notifications: Clear All Notifications")
        until(lambda: not self.messages(), "no messages")

    def trace(self) -> None:
        """From now on, the log tells of every message to and from the server."""
        self.run("Developer: Set Log Level...")
        self.wait(".quick-input-widget input[placeholder='Set Log Level']")
        for choice in ("Talaria", "Trace"):
            self.type(choice)
            self.wait(f".quick-input-list .monaco-list-row.focused[aria-label^='{choice}']")
            self.press("Enter")

    def log(self) -> str:
        """The extension's output channel, as it is kept on the disk."""
        files = sorted((self._home / "user" / "logs").glob("*/exthost*/talaria.talaria/*.log"))
        return "".join(file.read_text("utf-8") for file in files)


def program(home: Path, script: Path | None = None) -> Path:
    """Puts a `talaria` into a folder of its own: the real one, or one with scripted answers.

    Each start of it is a line of `home/started`, its process's number.
    """
    place = home / "bin" / "talaria"
    place.parent.mkdir(parents=True, exist_ok=True)
    python = sys.executable
    real = f'exec "{python}" -m talaria.coder.cli "$@"'
    scripted = f'shift\nexec "{python}" -m tests.e2e.scripted "$@"'  # it is `lsp` and nothing else
    place.write_text(
        f'#!/bin/sh\necho $$ >>"{home}/started"\n'
        f'export PYTHONPATH="{ROOT}" TALARIA_STATE="{home}/state" TALARIA_SCRIPT="{script}"\n'
        f"{real if script is None else scripted}\n"
    )
    place.chmod(0o755)
    return place


def extension(path: Path, name: str, code: str) -> Path:
    """Packs another extension, whose program is this."""
    about = {"name": name, "publisher": "tests", "version": "1.0.0", "main": "./main.js"}
    started = {"engines": {"vscode": "^1.91.0"}, "activationEvents": ["onStartupFinished"]}
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("extension/package.json", json.dumps(about | started))
        package.writestr("extension/main.js", code)
    return path


@contextmanager
def code(
    home: Path,
    files: dict[str, str],
    settings: dict[str, Any] | None,
    trust: bool = False,
    extensions: tuple[Path, ...] = (),
) -> Iterator[Code]:
    """VS Code on a new folder with these files; with `settings` None, none were ever touched."""
    work, user = home / "work", home / "user"
    for folder in (work, user / "User", user / "Machine"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (work / name).write_bytes(text.encode())
    if settings is not None:
        (user / "User" / "settings.json").write_text(json.dumps(settings))
    (home / "config.yaml").write_text("auth: none\n")
    # VS Code takes PATH from the user's login shell.
    (home / ".profile").write_text(f'PATH="{home / "bin"}:$PATH"\n')
    environment = {**os.environ, "HOME": str(home), "SHELL": "/bin/bash"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [
        *(str(launcher()), "--config", str(home / "config.yaml"), "--user-data-dir", str(user)),
        *("--extensions-dir", str(home / "extensions"), "--disable-telemetry"),
        *("--disable-update-check", "--auth", "none", "--bind-addr", f"127.0.0.1:{port}"),
        *(() if trust else ("--disable-workspace-trust",)),
    ]
    subprocess.run(
        [*start, *(f"--install-extension={path}" for path in (PACKAGE, *extensions))],
        env=environment,
        check=True,
        capture_output=True,
    )
    address = f"http://127.0.0.1:{port}/?folder={work}"
    with (
        (home / "code-server.log").open("w") as log,
        subprocess.Popen(start, env=environment, stdout=log, stderr=log, start_new_session=True)
        as server,
    ):  # fmt: skip
        try:
            until(lambda: _listens(port), "code-server", 60)
            with subprocess.Popen(
                ["node", str(Path(__file__).with_name("vscode.mjs")), str(browser()), address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as page:
                window = Code(home, page)
                try:
                    window.wait(".explorer-folders-view .monaco-list-row")
                    yield window
                except BaseException:
                    window.shot("failed")
                    raise
                finally:
                    assert page.stdin
                    page.stdin.close()
        finally:
            for number in (signal.SIGTERM, signal.SIGCONT):  # what was stopped must go, too
                os.killpg(server.pid, number)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True

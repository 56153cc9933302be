"""A real Neovim in a real terminal: tmux shows it, `nvim --server` asks it.

Nothing is stubbed: keys go through the editor's own queue of input, screens are what the
terminal shows, with colours.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.terminal import ROOT, Terminal

PLUGIN = ROOT / "editors" / "nvim"
SCREENS = ROOT / "build" / "e2e" / "neovim"
OLDEST = (0, 10)


def lacking() -> str | None:
    """What is missing to run these tests, with the remedy; None if nothing is."""
    program = editor()
    if program is None:
        return "no Neovim 0.10 or newer. Remedy: install it, or name it by TALARIA_NVIM"
    if shutil.which("tmux") is None:
        return "no tmux, in which Neovim is shown. Remedy: install tmux"
    return None


def editor() -> str | None:
    """The Neovim to try: TALARIA_NVIM, and ValueError if it does not fit; without it one of the
    tests' own, or `nvim` if it is new enough.
    """
    if named := os.environ.get("TALARIA_NVIM"):
        program = shutil.which(named)
        if not program or version(program) < OLDEST:
            what = "which is older" if program and any(version(program)) else "which is none"
            raise ValueError(
                f"TALARIA_NVIM is {named}, {what}; the tests want Neovim 0.10 or newer. "
                "Remedy: name another, or unset it"
            )
        return program
    own = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    for place in (str(own / "talaria-test" / "neovim" / "nvim"), "nvim"):
        program = shutil.which(place)
        if program and version(program) >= OLDEST:
            return program
    return None


def version(program: str) -> tuple[int, int]:
    """Major and minor version of a Neovim; (0, 0) where it is no Neovim, or does not run."""
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0, 0
    found = re.match(r"NVIM v(\d+)\.(\d+)", told.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class Neovim(Terminal):
    """One editor in one terminal."""

    kept = SCREENS

    def __init__(self, program: str, folder: Path, name: str) -> None:
        super().__init__(program, folder, name)
        self.socket = folder / "nvim.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, init: str, *files: Path, columns: int = 80, lines: int = 20) -> None:
        """Begin with a configuration of our own and nothing else."""
        config = self.folder / "init.lua"
        config.write_text(init, "utf-8")
        environment = {
            "TALARIA_STATE": str(self.folder / "state"),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
            **{
                f"XDG_{kind}_HOME": str(self.folder / kind.lower())
                for kind in ("CONFIG", "DATA", "STATE", "CACHE")
            },
        }
        # Editor and terminal are two programs: where Neovim was unpacked beside the system's
        # libraries, it cannot start itself again, as it would to show itself.
        self.process = subprocess.Popen(
            [
                *(self.program, "--headless", "-u", str(config), "-n", "-i", "NONE"),
                *("--listen", str(self.socket), *map(str, files)),
            ],
            env={**os.environ, **environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.until(lambda: self.lua("1 + 1") == 2, "Neovim to answer", 30)
        shown = ["env", *(f"{key}={value}" for key, value in environment.items()), self.program]
        shown += ["--server", str(self.socket), "--remote-ui"]
        size = ["-x", str(columns), "-y", str(lines)]
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, *shown)
        self.until(lambda: self.lua("#vim.api.nvim_list_uis()") == 1, "the terminal")

    def lua(self, expression: str) -> Any:
        """The value of an expression in Lua; None where the editor cannot answer now."""
        try:
            told = subprocess.run(
                [
                    *(self.program, "--server", str(self.socket), "--remote-expr"),
                    f"luaeval('vim.json.encode({expression.replace(chr(39), chr(39) * 2)})')",
                ],
                capture_output=True,
                text=True,
                timeout=5,
                check=False,
            )
        except subprocess.TimeoutExpired:  # it waits for Enter
            return None
        # Before 0.11 it is told on standard error.
        for text in (told.stdout, told.stderr):
            try:
                return json.loads(text)
            except ValueError:
                continue
        return None

    def keys(self, keys: str) -> None:
        """Type; `<Tab>` and the like are keys. All come at once, as from fast fingers."""
        self.lua(f"vim.api.nvim_input({quoted(keys)})")

    def enter(self) -> None:
        """What a message that does not fit on its line asks for."""
        self._tmux("send-keys", "Enter")

    def type(self, text: str, pause: float = 0.05) -> None:
        """Type signs one by one."""
        for sign in text:
            self.keys({"\n": "<CR>", "<": "<lt>"}.get(sign, sign))
            time.sleep(pause)

    def run(self, command: str) -> None:
        """Execute a command of Vim's."""
        self.lua(f"vim.schedule(function() vim.cmd({quoted(command)}) end) or 1")

    def text(self) -> str:
        """The current buffer."""
        return "\n".join(self.lua("vim.api.nvim_buf_get_lines(0, 0, -1, false)") or [])

    def grey(self) -> str | None:
        """The ghost text that is shown, whoever draws it; None if there is none."""
        marks = self.lua(f"(function() {GREY} end)()")
        return None if marks is None or marks is False else str(marks)

    def status(self) -> dict[str, Any]:
        """What `talaria.status` answers."""
        found: dict[str, Any] = self.lua(f"(function() {STATUS} end)()") or {}
        return found

    def requests(self) -> int:
        """How many questions the engine was asked."""
        return int(self.status()["engine"]["requests"])

    def ready(self, seconds: float = 60) -> None:
        """Wait until the model is loaded."""
        self.until(
            lambda: self.status().get("engine", {}).get("state") == "ready",
            "the model",
            seconds,
            0.2,
        )

    def messages(self) -> str:
        """All that was told."""
        return str(self.lua("vim.fn.execute('messages')"))

    def servers(self) -> list[int]:
        """The processes of the servers, the oldest first."""
        assert self.process is not None
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return [int(process) for process in found.stdout.split()]

    def server(self) -> int:
        """The process of the server."""
        return self.servers()[0]

    def end(self) -> None:
        """Leave, and make sure that nothing is left."""
        try:
            self.run("qall!")
            if self.process:
                self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self.process:
                self.process.kill()
                self.process.wait()
            self.shut()


def quoted(text: str) -> str:
    """A text as Lua writes it, on one line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


@contextmanager
def neovim(folder: Path, name: str, init: str, *files: Path, **size: int) -> Iterator[Neovim]:
    """An editor that is there for the length of a test."""
    program = editor()
    assert program is not None
    folder.mkdir(parents=True, exist_ok=True)
    here = Neovim(program, folder, name)
    try:
        here.start(init, *files, **size)
        yield here
    finally:
        here.end()


# The ghost text of the current buffer: of Neovim's own inline completion, or the plugin's.
GREY = """
for _, name in ipairs({ "nvim.lsp.inline_completion", "talaria.ghost" }) do
  local space = vim.api.nvim_get_namespaces()[name]
  local marks = space and vim.api.nvim_buf_get_extmarks(0, space, 0, -1, { details = true }) or {}
  for _, mark in ipairs(marks) do
    local text = ""
    for _, chunk in ipairs(mark[4].virt_text or {}) do text = text .. chunk[1] end
    for _, line in ipairs(mark[4].virt_lines or {}) do
      text = text .. "\\n"
      for _, chunk in ipairs(line) do text = text .. chunk[1] end
    end
    if text ~= "" then return text end
  end
end
return false
""".replace("\n", " ")

STATUS = """
local client = vim.lsp.get_clients({ name = "talaria" })[1]
if not client or not client.initialized then return {} end
local sent = { command = "talaria.status", arguments = {} }
local ask, method = client.request_sync, "workspace/executeCommand"
local answer
if vim.fn.has("nvim-0.11") == 1 then answer = ask(client, method, sent, 3000, 0)
else answer = ask(method, sent, 3000, 0) end
return answer and answer.result or {}
""".replace("\n", " ")

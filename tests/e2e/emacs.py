"""A real Emacs in a real terminal: tmux shows it, `emacsclient` asks it.

Keys come from the terminal and screens are what it shows; nothing is stubbed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.terminal import ROOT, WAIT, Terminal

PACKAGE = ROOT / "editors" / "emacs"
SCREENS = ROOT / "build" / "e2e" / "emacs"
REMEDY = "Remedy: tests/e2e/get-emacs unpacks one, or name another in TALARIA_EMACS"


def lacking() -> str | None:
    """What is missing to run these tests, with the remedy; None if nothing is."""
    program = editor()
    if program is None:
        return f"no Emacs. {REMEDY}"
    if shutil.which("tmux") is None:
        return "no tmux, in which Emacs is shown. Remedy: install tmux"
    wanted = "(kill-emacs (if (and (>= emacs-major-version 30) (require 'lsp-mode nil t)) 0 1))"
    if subprocess.run([program, "-Q", "--batch", "--eval", wanted], check=False).returncode:
        return f"{program} is older than 30 or has no lsp-mode. {REMEDY}"
    return None


def editor() -> str | None:
    """The Emacs to try: TALARIA_EMACS and no other, or one of the tests' own, or the system's."""
    if named := os.environ.get("TALARIA_EMACS"):
        return shutil.which(named)
    own = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return shutil.which(str(own / "talaria-test" / "emacs" / "emacs")) or shutil.which("emacs")


def batch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Emacs without a screen."""
    return subprocess.run(
        [editor() or "emacs", "-Q", "--batch", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


class Emacs(Terminal):
    """One editor in one terminal."""

    kept = SCREENS

    def __init__(self, program: str, folder: Path, name: str) -> None:
        super().__init__(program, folder, name)
        beside = Path(program).resolve().with_name("emacsclient")
        self.client = str(beside) if beside.exists() else "emacsclient"

    def start(self, init: str, files: Sequence[Path], columns: int = 80, lines: int = 20) -> None:
        """Begin with a configuration of our own and nothing else."""
        config = self.folder / "init.el"
        (self.folder / "home").mkdir(exist_ok=True)
        config.write_text(
            f"""(setq inhibit-startup-screen t make-backup-files nil auto-save-default nil
              create-lockfiles nil server-socket-dir {quoted(str(self.folder))}
              process-adaptive-read-buffering nil)
            (add-to-list 'load-path {quoted(str(PACKAGE))})
            (require 'server) (server-start)
            (defvar tests-status nil) (defvar tests-pages nil)
            (setq browse-url-browser-function (lambda (url &rest _) (push url tests-pages)))
            {init}""",
            "utf-8",
        )
        environment = {
            "HOME": str(self.folder / "home"),
            "TALARIA_STATE": str(self.folder / "state"),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
        }
        command = ["env", *(f"{key}={value}" for key, value in environment.items())]
        command += [self.program, "-nw", "-Q", "-l", str(config), *map(str, files)]
        size = ["-x", str(columns), "-y", str(lines)]
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, *command)
        self.until(lambda: self.eval("(+ 1 1)") == 2, "Emacs to answer", 60)

    def eval(self, expression: str) -> Any:
        """The value of an expression, in the buffer that is shown; None without an answer."""
        answer = self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        wrapped = f"""(let* ((value (with-current-buffer (window-buffer) {expression}))
                             (coding-system-for-write 'utf-8-unix))
          (with-temp-file {quoted(str(answer))} (insert (json-encode (vector value)))) t)"""
        subprocess.run(
            [self.client, "-s", str(self.folder / "server"), "--eval", wrapped],
            capture_output=True,
            timeout=WAIT,
            check=False,
        )
        return json.loads(answer.read_text("utf-8"))[0] if answer.exists() else None

    def keys(self, *keys: str) -> None:
        """Press keys by their tmux names, such as `Tab` or `M-f`."""
        self._tmux("send-keys", *keys)

    def type(self, text: str, pause: float = 0.05) -> None:
        """Type signs one by one."""
        for sign in text:
            self._tmux("send-keys", *(["Enter"] if sign == "\n" else ["-l", sign]))
            time.sleep(pause)

    def command(self, name: str) -> None:
        """Run a command as a person does, by M-x."""
        self.keys("M-x")
        self._tmux("send-keys", "-l", name)
        self.keys("Enter")

    def text(self) -> str:
        """The current buffer."""
        return str(self.eval("(buffer-substring-no-properties (point-min) (point-max))"))

    def grey(self) -> str | None:
        """The ghost text that is shown, whoever draws it; None if there is none."""
        found = self.eval(
            """(let ((theirs (bound-and-true-p lsp-inline-completion--overlay)))
                 (cond ((and talaria--overlay (overlay-buffer talaria--overlay)
                             (= (overlay-start talaria--overlay) (point)))
                        (car talaria--texts))
                       (theirs (substring-no-properties (overlay-get theirs 'after-string)))))"""
        )
        return None if found is None else str(found)

    def requests(self) -> int:
        """How many questions the engine was asked, as the server says."""
        self.eval(
            """(progn (setq tests-status nil)
                 (talaria-send talaria-client "workspace/executeCommand"
                   (list :command "talaria.status" :arguments [])
                   (lambda (found) (setq tests-status (talaria--field
                     (talaria--field found "engine") "requests")))) t)"""
        )
        found = self.until(lambda: self.eval("(and tests-status (list tests-status))"), "status")
        return int(found[0])

    def ready(self) -> None:
        """Wait until the model is loaded."""
        self.until(lambda: self.eval("(talaria--state)") == "ready", "the model", 90, 0.3)

    def messages(self) -> str:
        """All that was told, each as often as it was; Emacs itself writes "[3 times]"."""
        told = str(self.eval('(with-current-buffer "*Messages*" (buffer-string))'))
        return re.sub(r"(?m)^(.*) \[(\d+) times\]$", _repeated, told)

    def server(self) -> int:
        """The process of the server."""
        own = f"TALARIA_STATE={self.folder / 'state'}".encode()
        for each in Path("/proc").glob("[0-9]*"):
            try:
                command = (each / "cmdline").read_bytes().split(b"\0")
                inside = own in (each / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if inside and (b"lsp" in command or b"tests.e2e.scripted" in command):
                return int(each.name)
        raise ProcessLookupError("no server of this test runs")

    def kill_server(self) -> int:
        """End the server as a crash does; the process that it was."""
        process = self.server()
        os.kill(process, signal.SIGKILL)
        return process

    def end(self) -> None:
        """Leave without saving."""
        self.eval("(progn (setq kill-emacs-hook nil) (run-at-time 0 nil (lambda () (kill-emacs))))")
        time.sleep(0.3)
        self.shut()


def _repeated(line: re.Match[str]) -> str:
    return "\n".join([line[1]] * int(line[2]))


def quoted(text: str) -> str:
    """A text as Lisp writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@contextmanager
def emacs(folder: Path, name: str, init: str, *files: Path, **size: int) -> Iterator[Emacs]:
    """An editor that is there for the length of a test."""
    program = editor()
    assert program is not None
    here = Emacs(program, folder, name)
    try:
        here.start(init, files, **size)
        yield here
    finally:
        here.end()

"""A terminal that tmux shows: what stands on its screen, and patience with what runs in it."""

from __future__ import annotations

import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]
WAIT = 20.0  # seconds for what comes by itself

T = TypeVar("T")


def scripted(script: Path) -> list[str]:
    """A server's command whose answers stand in a file."""
    return ["env", f"TALARIA_SCRIPT={script}", sys.executable, "-m", "tests.e2e.scripted"]


class Terminal(ABC):
    """One editor in one terminal; `kept` is the folder of its screens."""

    kept: Path

    def __init__(self, program: str, folder: Path, name: str) -> None:
        self.program, self.folder, self.name = program, folder, name
        self.tmux = ["tmux", "-S", str(folder / "tmux.sock")]
        self.screens = 0

    @abstractmethod
    def messages(self) -> str:
        """All that the editor told."""

    def screen(self, colours: bool = False) -> str:
        """What the terminal shows."""
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def cursor(self) -> tuple[int, int]:
        """Column and row of the terminal's cursor, from 0 on."""
        column, row = self._tmux("display-message", "-p", "#{cursor_x} #{cursor_y}").split()
        return int(column), int(row)

    def keep(self, what: str) -> str:
        """Keep the screen as a file to be looked at; its text."""
        self.kept.mkdir(parents=True, exist_ok=True)
        self.screens += 1
        name = f"{self.name}-{self.screens:02}-{what.replace(' ', '-')}"
        (self.kept / f"{name}.ansi").write_text(self.screen(colours=True), "utf-8")
        text = self.screen()
        column, row = self.cursor()
        (self.kept / f"{name}.txt").write_text(f"{text}[cursor at {row}:{column}]\n", "utf-8")
        return text

    def until(
        self, happens: Callable[[], T], what: str, seconds: float = WAIT, pause: float = 0.05
    ) -> T:
        """Wait for something; TimeoutError shows the screen and what was told."""
        end = time.monotonic() + seconds
        while True:
            if found := happens():
                return found
            if time.monotonic() > end:
                screen = self.keep("timeout")
                raise TimeoutError(
                    f"waited {seconds:g} s for {what}:\n{screen}\nmessages: {self.messages()}"
                )
            time.sleep(pause)

    def never(self, happens: Callable[[], object], seconds: float = 1.5) -> None:
        """Watch that something does not happen for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert not happens(), self.keep("unwanted")
            time.sleep(0.1)

    def shut(self) -> None:
        """Close the terminal."""
        subprocess.run([*self.tmux, "kill-server"], capture_output=True, check=False)

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.tmux, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
        )
        if done.returncode:
            raise RuntimeError(f"tmux {arguments[0]}: {done.stderr}")
        return done.stdout

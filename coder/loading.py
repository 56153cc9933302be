"""Models loaded for a command: what takes long or goes wrong is reported on standard error."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint


PATIENCE = 1.0  # seconds that a command may take before it says what it waits for


class LoadReporter(Protocol):
    """Hears of what happens while a model is loaded."""

    def line(self, text: str) -> None:
        """Something to know, such as why another model is used."""

    def preparing(self, name: str, done: float) -> None:
        """The share of preparing a base that is done."""


class LoadTerminal:
    """Reports to standard error; percentages on a terminal alone.

    waits_for  what a command waits for: said on a terminal if it takes PATIENCE, until there is
               something else to say
    """

    def __init__(self, waits_for: str | None = None) -> None:
        self.shown, self.waited = -1, False
        self.lock = threading.Lock()
        self.timer: threading.Timer | None = None
        if waits_for is not None and sys.stderr.isatty():
            self.timer = threading.Timer(PATIENCE, self.wait, [waits_for])
            self.timer.daemon = True
            self.timer.start()

    def wait(self, name: str) -> None:
        """Say what is waited for."""
        with self.lock:
            if self.timer is not None:
                self.waited = True
                print(f"waiting for {name} ...", end="", file=sys.stderr, flush=True)

    def come(self) -> None:
        """Nothing is waited for any more: take back what was said."""
        with self.lock:
            if self.timer is not None:
                self.timer.cancel()
            if self.waited:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            self.timer, self.waited = None, False

    def line(self, text: str) -> None:
        """Print a line of its own."""
        self.close()
        print(f"talaria: {text}", file=sys.stderr)

    def preparing(self, name: str, done: float) -> None:
        """Say once that a base is being prepared; count on a terminal."""
        self.come()
        percent = int(100 * done)
        if not sys.stderr.isatty():
            if self.shown < 0:
                print(f"preparing {name}, once: about half a minute", file=sys.stderr)
        elif percent != self.shown:
            # Nothing can be counted while the library for GGUF reads the vocabulary.
            state = f"{percent} %" if percent else "reading its vocabulary"
            end = "\n" if percent == 100 else ""
            line = f"\rpreparing {name}, once: {state:{len('reading its vocabulary')}}"
            print(line, end=end, file=sys.stderr, flush=True)
        self.shown = percent

    def close(self) -> None:
        """End a line that was interrupted."""
        self.come()
        if 0 <= self.shown < 100 and sys.stderr.isatty():
            print(file=sys.stderr)
        self.shown = 100 if self.shown >= 0 else -1


def load(
    model: str | None, device: str = "cpu", reporter: LoadReporter | None = None
) -> Checkpoint:
    """Load a model as `checkpoint.load` does, and say so when it is prepared or replaced."""
    from talaria.coder import checkpoint

    name = model or checkpoint.default()
    terminal = LoadTerminal()
    told = reporter or terminal
    try:
        return checkpoint.load(model, device, lambda done: told.preparing(name, done), told.line)
    finally:
        terminal.close()

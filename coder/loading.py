"""Models loaded for a command: what takes long or goes wrong is reported on standard error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Reports to standard error; percentages on a terminal alone."""

    def __init__(self) -> None:
        self.shown = -1

    def line(self, text: str) -> None:
        """Print a line of its own."""
        self.close()
        print(f"talaria: {text}", file=sys.stderr)

    def preparing(self, name: str, done: float) -> None:
        """Say once that a base is being prepared; count on a terminal."""
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


@contextmanager
def waiting(model: str | None, *, quiet: bool = False) -> Iterator[None]:
    """Say on a terminal which model is waited for, if it takes long; erased at the end."""
    from talaria.coder import checkpoint

    if quiet or not sys.stderr.isatty():
        yield
        return
    shown = threading.Event()

    def show() -> None:
        shown.set()
        name = model or checkpoint.default()
        print(f"waiting for {name} ...", end="", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if shown.is_set():
            print("\r\033[K", end="", file=sys.stderr, flush=True)

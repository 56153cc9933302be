"""Models loaded for a command: what takes long or goes wrong is reported on standard error."""

from __future__ import annotations

import sys

from talaria.coder import checkpoint
from talaria.coder.checkpoint import Checkpoint


def load(model: str | None, device: str = "cpu") -> Checkpoint:
    """Load a model as `checkpoint.load` does, and say so when it is prepared or replaced."""
    name = model or checkpoint.default()
    shown = -1

    def show(done: float) -> None:
        nonlocal shown
        percent = int(100 * done)
        if not sys.stderr.isatty():
            if shown < 0:
                print(f"preparing {name}, once: about half a minute", file=sys.stderr)
        elif percent != shown:
            # Nothing can be counted while the library for GGUF reads the vocabulary.
            state = f"{percent} %" if percent else "reading its vocabulary"
            end = "\n" if percent == 100 else ""
            line = f"\rpreparing {name}, once: {state:{len('reading its vocabulary')}}"
            print(line, end=end, file=sys.stderr, flush=True)
        shown = percent

    try:
        return checkpoint.load(
            model, device, show, lambda line: print(f"talaria: {line}", file=sys.stderr)
        )
    finally:
        if 0 <= shown < 100 and sys.stderr.isatty():  # interrupted, or failed
            print(file=sys.stderr)

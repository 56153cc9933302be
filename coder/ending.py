"""How a process ends that is asked to."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

# Signals that ask a process to end, besides Ctrl-C; Windows has only the first.
ENDING = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@contextmanager
def tidied() -> Iterator[None]:
    """Let what asks the process to end (ENDING) unwind the block, as Ctrl-C does, and end it then.

    So nothing temporary is left. A second signal ends the process at once, and what was ignored
    before (`nohup`) stays ignored.
    """
    received: list[int] = []

    def unwind(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        received.append(number)
        raise KeyboardInterrupt

    alone = threading.current_thread() is threading.main_thread()
    taken = [each for each in ENDING if alone and signal.getsignal(each) is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, unwind)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)
        if received:
            signal.raise_signal(received[0])  # whoever waits for the process learns what ended it


def leave(code: int) -> NoReturn:
    """End the process at once, with what was written.

    A thread may still load a model, which nothing interrupts; an interpreter that is torn down
    beneath it aborts.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

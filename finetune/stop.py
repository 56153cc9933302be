"""Signals that stop a run between two steps."""

from __future__ import annotations

import signal
import time


class GracefulStop:
    """Defers SIGINT and SIGTERM, so that training stops between two steps.

    A second Ctrl-C raises KeyboardInterrupt, but only after a second: launchers and `timeout`
    send a signal twice in a row.
    """

    def __enter__(self) -> GracefulStop:
        self.since: float | None = None
        self.handlers = {s: signal.signal(s, self.handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.since is not None

    def handle(self, number: int, frame: object) -> None:
        """Record the request to stop."""
        now = time.monotonic()
        if self.since is None:
            self.since = now
        elif number == signal.SIGINT and now > self.since + 1:
            raise KeyboardInterrupt

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

"""Adaptive debounce: whether an answer can arrive before the next key."""

from __future__ import annotations

from collections import deque
from statistics import median

KEPT = 24  # keys and answers
PAUSE = 1.0  # seconds; a longer gap between keys is a pause, not typing speed
LONGEST = 0.25  # seconds to wait at most, however slow answers are
WASTED_SHARE = 0.5  # of keys that beat the answer; from here on, asking at once is waste


class Rhythm:
    """Learns from keys and answers how long to wait before asking the model.

    Usually there is no need to wait, because an answer takes less time than the next key. If it
    takes longer, the next key would make it stale, so ask only once that key is overdue.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._gaps: deque[float] = deque(maxlen=KEPT)
        self._answers: deque[float] = deque(maxlen=KEPT)

    def key(self, now: float) -> None:
        """Note a key; `now` is in seconds on any monotonic clock."""
        if self._last is not None and 0 < now - self._last < PAUSE:
            self._gaps.append(now - self._last)
        self._last = now

    def answered(self, seconds: float) -> None:
        """Note how long an answer took."""
        self._answers.append(seconds)

    def wait(self) -> float:
        """Seconds to wait for another key before asking the model."""
        if not self._gaps or not self._answers:
            return 0.0
        answer = median(self._answers)
        sooner = sum(gap < answer for gap in self._gaps)
        if sooner < WASTED_SHARE * len(self._gaps):
            return 0.0
        return min(LONGEST, 1.2 * median(self._gaps))

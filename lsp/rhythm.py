"""How fast somebody types, and whether an answer could come before the next key."""

from __future__ import annotations

from collections import deque
from statistics import median

KEPT = 24  # keys and answers that are remembered
PAUSE = 1.0  # seconds; a longer silence is no rhythm
LONGEST = 0.25  # seconds of waiting, however slow answers are
SLOWEST_SHARE = 0.5  # of keys that come before an answer: from it on asking at once is waste


class Rhythm:
    """Learns from keys and answers how long to wait before the model is asked.

    Most of the time it is not worth waiting: an answer takes less than the time between
    two keys. Where it takes longer, it would be thrown away at the next key, so it is
    asked for only once that key has not come in its usual time.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._gaps: deque[float] = deque(maxlen=KEPT)
        self._answers: deque[float] = deque(maxlen=KEPT)

    def key(self, now: float) -> None:
        """The text changed; `now` is in seconds of any clock."""
        if self._last is not None and 0 < now - self._last < PAUSE:
            self._gaps.append(now - self._last)
        self._last = now

    def answered(self, seconds: float) -> None:
        """An answer took so long."""
        self._answers.append(seconds)

    def wait(self) -> float:
        """Seconds to wait for another key before the model is asked."""
        if not self._gaps or not self._answers:
            return 0.0
        answer = median(self._answers)
        sooner = sum(gap < answer for gap in self._gaps)
        if sooner < SLOWEST_SHARE * len(self._gaps):
            return 0.0
        return min(LONGEST, 1.2 * median(self._gaps))

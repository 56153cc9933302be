"""Suggestions in one document: what is remembered, shown, taken and dismissed.

An editor tells the server its text and nothing else, so what became of a suggestion is
read off the text: typed along, taken as a whole or in part, or left. What a dismissal is
that leaves no trace there, an editor may say (`talaria/didDismiss`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

REMEMBERED = 16  # suggestions of a document
AT_ONCE = 2  # characters from which what comes in one change was not typed

Ending = Literal["accepted", "partially_accepted", "dismissed"]


@dataclass(frozen=True)
class Suggestion:
    """What may stand between two texts, the likeliest first.

    whole   whether several were asked for, as an editor does whose user wants to choose
    """

    prefix: str
    suffix: str
    texts: tuple[str, ...]
    confidence: float
    whole: bool = False

    def along(self, prefix: str, suffix: str) -> Suggestion | None:
        """What is left of it where some of it has been typed; None where that does not fit.

        That there is nothing to say is known of its own place alone.
        """
        if suffix != self.suffix or not prefix.startswith(self.prefix):
            return None
        typed = prefix[len(self.prefix) :]
        rests = tuple(text[len(typed) :] for text in self.texts if text.startswith(typed))
        rests = tuple(rest for rest in rests if rest)
        fits = rests or not (typed or self.texts)
        return replace(self, prefix=prefix, texts=rests) if fits else None


@dataclass(frozen=True)
class Outcome:
    """What became of a suggestion that was shown: characters of it that were taken at once."""

    ending: Ending
    trigger: str
    characters: int


@dataclass
class Shown:
    """Suggestions as they stand on the screen, and how many characters were taken so far."""

    id: int
    prefix: str
    suffix: str
    texts: tuple[str, ...]
    trigger: str
    taken: int = 0


class Inline:
    """The suggestions of one document."""

    def __init__(self) -> None:
        self._remembered: deque[Suggestion] = deque(maxlen=REMEMBERED)
        self._dismissed: Suggestion | None = None
        self._ids = count(1)
        self.shown: Shown | None = None

    def remember(self, suggestion: Suggestion) -> None:
        """Keep a suggestion for when its place is asked about again, or has been typed along."""
        self._remembered.append(suggestion)

    def forget(self) -> None:
        """Another model, or other options, would say something else."""
        self._remembered.clear()

    def remembered(self, prefix: str, suffix: str) -> Suggestion | None:
        """What is known already for a place, the newest."""
        fitting = (each.along(prefix, suffix) for each in reversed(self._remembered))
        return next((found for found in fitting if found), None)

    def show(
        self, prefix: str, suffix: str, texts: tuple[str, ...], trigger: str
    ) -> tuple[int, Outcome | None, bool]:
        """They are on the screen: their number, what became of the former ones, whether it is new.

        The rest of one that was typed along is the same suggestion.
        """
        now = self.shown
        if now and (now.prefix, now.suffix, now.texts[0]) == (prefix, suffix, texts[0]):
            now.texts = texts
            return now.id, None, False
        ended = self.end()
        self.shown = Shown(next(self._ids), prefix, suffix, texts, trigger)
        return self.shown.id, ended, True

    def changed(self, text: str) -> Outcome | None:
        """The text is another one; what became of what is on the screen, if that is over."""
        now = self.shown
        if now is None or text == now.prefix + now.suffix:
            return None
        added = len(text) - len(now.prefix) - len(now.suffix)
        if added <= 0 or not text.startswith(now.prefix) or not text.endswith(now.suffix):
            return self.end()
        new = text[len(now.prefix) : len(now.prefix) + added]
        rests = tuple(each[added:] for each in now.texts if each.startswith(new))
        if not rests:
            return self.end()
        if added >= AT_ONCE:
            now.taken += added
        if all(rests):
            now.prefix, now.texts = now.prefix + new, rests
            return None
        self.shown = None
        return Outcome("accepted", now.trigger, now.taken) if now.taken else None

    def accept(self) -> Outcome | None:
        """All of it was taken, as the editor says; the text will show it."""
        now, self.shown = self.shown, None
        return Outcome("accepted", now.trigger, now.taken + len(now.texts[0])) if now else None

    def dismiss(self) -> Outcome | None:
        """The user does not want it: neither it nor its rest comes by itself again."""
        if self.shown is None:
            return None
        prefix, suffix, texts = self.shown.prefix, self.shown.suffix, self.shown.texts[:1]
        self._dismissed = Suggestion(prefix, suffix, texts, 1.0)
        full = prefix + texts[0]
        kept = [
            each
            for each in self._remembered
            if each.suffix != suffix or not any(each.prefix + text == full for text in each.texts)
        ]
        self._remembered = deque(kept, maxlen=REMEMBERED)
        return self.end()

    def end(self) -> Outcome | None:
        """What is on the screen is gone; what became of it."""
        now, self.shown = self.shown, None
        if now is None:
            return None
        return Outcome("partially_accepted" if now.taken else "dismissed", now.trigger, now.taken)

    def dismissed_at(self, prefix: str, suffix: str) -> bool:
        """Whether the last dismissal was here, or what was dismissed has been typed up to here."""
        return self._dismissed is not None and self._dismissed.along(prefix, suffix) is not None

    def was_dismissed(self, prefix: str, suffix: str, text: str) -> bool:
        """Whether it would be what was dismissed last."""
        last = self._dismissed
        return last is not None and (prefix + text, suffix) == (
            last.prefix + last.texts[0],
            last.suffix,
        )


def distinct(texts: Sequence[str], most: int) -> tuple[str, ...]:
    """Texts without their repetitions, the first ones."""
    return tuple(dict.fromkeys(texts))[:most]

"""Suggestions in one document: what is remembered, shown, taken and dismissed.

An editor tells the server its text and nothing else, so what became of a suggestion is
read off the text: typed along, taken as a whole or in part, or left. What a dismissal is
that leaves no trace there, an editor may say (`talaria/didDismiss`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

REMEMBERED = 16  # suggestions of a document
DISMISSED = 8  # of them
PAIRS = ("()", "[]", "{}", '""', "''")  # of which an editor may write the second sign
_CLOSING = re.compile(r"[)\]}\"']+")
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
    whole: bool = False

    def along(self, prefix: str, suffix: str) -> Suggestion | None:
        """What is left of it where some of it has been typed; None where that does not fit.

        An editor may have closed the brackets that were typed. That there is nothing to say
        is known of its own place alone.
        """
        if not prefix.startswith(self.prefix) or not suffix.endswith(self.suffix):
            return None
        typed = prefix[len(self.prefix) :]
        closed = suffix[: len(suffix) - len(self.suffix)]
        if closed and (len(closed) > len(typed) or not _CLOSING.fullmatch(closed)):
            return None
        rests = rests_of(self.texts, typed, closed)
        rests = tuple(rest for rest in rests if rest)
        fits = rests or not (typed or self.texts)
        return replace(self, prefix=prefix, suffix=suffix, texts=rests) if fits else None


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


@dataclass(frozen=True)
class Dismissed:
    """A text that was not wanted, between the lines around it: what is elsewhere may change."""

    above: str
    text: str
    below: str

    def reaches(self, prefix: str, suffix: str) -> bool:
        """Whether this is its place, or some of it has been typed up to here."""
        return self.below == below(suffix) and any(
            ends(prefix, self.above + self.text[:typed]) for typed in range(len(self.text))
        )

    def is_made(self, prefix: str, text: str, suffix: str) -> bool:
        """Whether another text, in its place or around it, would make the same lines."""
        full = self.above + self.text
        return self.below == below(suffix) and ends(prefix[-len(full) - 1 :] + text, full)


class Inline:
    """The suggestions of one document."""

    def __init__(self) -> None:
        self._remembered: deque[Suggestion] = deque(maxlen=REMEMBERED)
        self._dismissed: deque[Dismissed] = deque(maxlen=DISMISSED)
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
        rests = rests_of(now.texts, new)
        before = (now.prefix[-1:] + new)[-2:]
        if not rests and before in PAIRS:
            # A bracket that the editor closed, at once or right after the one that was typed.
            rests = rests_of(now.texts, new[:-1], new[-1])
            if rests:
                now.prefix, now.suffix = now.prefix + new[:-1], new[-1] + now.suffix
                now.texts = rests
                return None
        if not rests:
            return self.end()
        if added >= AT_ONCE and new not in PAIRS:
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
        prefix, suffix, text = self.shown.prefix, self.shown.suffix, self.shown.texts[0]
        self._dismissed.append(Dismissed(above(prefix), text, below(suffix)))
        full = prefix + text
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
        """Whether one was dismissed here, or what was dismissed has been typed up to here."""
        return any(each.reaches(prefix, suffix) for each in self._dismissed)

    def was_dismissed(self, prefix: str, suffix: str, text: str) -> bool:
        """Whether it would be what was dismissed."""
        return any(each.is_made(prefix, text, suffix) for each in self._dismissed)


def rests_of(texts: Sequence[str], typed: str, closed: str = "") -> tuple[str, ...]:
    """What is left of the texts that begin with what was typed and end with what was closed."""
    return tuple(
        text[len(typed) : len(text) - len(closed)]
        for text in texts
        if text.startswith(typed)
        and text.endswith(closed)
        and len(text) >= len(typed) + len(closed)
    )


def above(prefix: str) -> str:
    """The line of a cursor up to it and the one before, or less where the text begins."""
    line = prefix.rfind("\n") + 1
    return "\n" + prefix[prefix.rfind("\n", 0, max(0, line - 1)) + 1 :]


def below(suffix: str) -> str:
    """The rest of a cursor's line and the next one."""
    end = suffix.find("\n", suffix.find("\n") + 1)
    return suffix if end < 0 else suffix[:end]


def ends(text: str, lines: str) -> bool:
    """Whether a text ends with lines, each of which begins where one of its own does."""
    return text.endswith(lines) or (len(text) < len(lines) and "\n" + text == lines)


def distinct(texts: Sequence[str], most: int) -> tuple[str, ...]:
    """Texts without their repetitions, the first ones."""
    return tuple(dict.fromkeys(texts))[:most]

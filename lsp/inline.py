"""Ghost text in one document: suggestions cached, shown, accepted and dismissed.

Editors report nothing but changes to the text, so the fate of a suggestion is inferred from the
text: typed through, accepted whole or in part, or abandoned. A dismissal that leaves no trace in
the text can be reported with `talaria/didDismiss`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

CACHED = 16  # suggestions per document
DISMISSED = 8  # dismissals remembered per document
PAIRS = ("()", "[]", "{}", '""', "''")  # whose second character an editor may insert
_CLOSING = re.compile(r"[)\]}\"']+")
AT_ONCE = 2  # characters; a change this long was not typed
QUIET = 15  # keys for which a text that the user has typed against is not offered again
NEXT = 2  # lines below it where it is not offered either, however long the line is
TELLING = 4  # characters that two different texts do not share by chance

Ending = Literal["accepted", "partially_accepted", "dismissed"]


@dataclass(frozen=True)
class InlineSuggestion:
    """Texts to offer between a prefix and a suffix, most likely first.

    invoked     whether the user asked by hand, which computes several candidates
    confidence  of the model in the first text
    """

    prefix: str
    suffix: str
    texts: tuple[str, ...]
    invoked: bool = False
    confidence: float = 1.0

    def advanced(self, prefix: str, suffix: str) -> InlineSuggestion | None:
        """The rest of it after some of it was typed; None if other text was typed.

        The editor may have inserted closing brackets for the ones typed. An empty suggestion
        applies to its own position only.
        """
        if not prefix.startswith(self.prefix) or not suffix.endswith(self.suffix):
            return None
        typed = prefix[len(self.prefix) :]
        closed = suffix[: len(suffix) - len(self.suffix)]
        if closed and (len(closed) > len(typed) or not _CLOSING.fullmatch(closed)):
            return None
        rests = remainders(self.texts, typed, closed)
        rests = tuple(rest for rest in rests if rest)
        fits = rests or not (typed or self.texts)
        return replace(self, prefix=prefix, suffix=suffix, texts=rests) if fits else None


@dataclass(eq=False)
class Computing:
    """A suggestion that is being computed, for the texts that it was asked with.

    task     what computes it
    written  the beginning of the text, as soon as the model has found some; None before
    """

    prefix: str
    suffix: str
    invoked: bool
    task: asyncio.Task[InlineSuggestion | None]
    written: str | None = None

    def __post_init__(self) -> None:
        self._news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def serves(self, prefix: str, suffix: str, invoked: bool) -> bool:
        """Whether its answer may be that of another request.

        One by hand serves an automatic one, too, and one that somebody types along serves the next
        keys, unless what was typed is something else than what the model has written by then.
        """
        if self.task.done() or (invoked and not self.invoked) or suffix != self.suffix:
            return False
        if prefix == self.prefix:
            return True
        typed = prefix[len(self.prefix) :]
        if invoked or self.written is None or not prefix.startswith(self.prefix):
            return False
        return self.written.startswith(typed) or typed.startswith(self.written)

    def write(self, text: str) -> None:
        """Note the text so far; from the event loop."""
        self.written = text
        news, self._news = self._news, asyncio.get_running_loop().create_future()
        news.set_result(None)

    async def go_on(self) -> None:
        """Wait until there is more text, or the answer."""
        either: list[asyncio.Future[Any]] = [self.task, self._news]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)


@dataclass(frozen=True)
class SuggestionOutcome:
    """The fate of a suggestion that was shown; `characters` were accepted rather than typed."""

    ending: Ending
    trigger: str
    characters: int


@dataclass
class Shown:
    """Suggestions on the screen; `taken` characters have been accepted so far.

    lasts  whether they stay as they are while they are typed
    """

    id: int
    prefix: str
    suffix: str
    texts: tuple[str, ...]
    trigger: str
    taken: int = 0
    lasts: bool = True


@dataclass(frozen=True)
class Rejected:
    """The first line of a text that the user typed against, after how many keys and in which line.

    Another text repeats it if one begins like the other, or if it ends with all of this one. The
    end of this one may be right, behind what was typed instead.
    """

    text: str
    key: int
    line: int

    def is_in(self, text: str) -> bool:
        """Whether another text repeats this one."""
        new = first_line(text)
        if min(len(new), len(self.text)) < TELLING:
            return new == self.text
        return new.startswith(self.text) or self.text.startswith(new) or new.endswith(self.text)


@dataclass(frozen=True)
class Dismissed:
    """A dismissed text and the lines around it; text elsewhere may change."""

    above: str
    text: str
    below: str

    def reaches(self, prefix: str, suffix: str) -> bool:
        """Whether this is its position, or some of it was typed up to here."""
        return self.below == below(suffix) and any(
            ends(prefix, self.above + self.text[:typed]) for typed in range(len(self.text))
        )

    def is_made(self, prefix: str, text: str, suffix: str) -> bool:
        """Whether another text, at this position, would produce the same lines."""
        full = self.above + self.text
        return self.below == below(suffix) and ends(prefix[-len(full) - 1 :] + text, full)


class Inline:
    """The ghost text of one document."""

    def __init__(self) -> None:
        self._cached: deque[InlineSuggestion] = deque(maxlen=CACHED)
        self._dismissed: deque[Dismissed] = deque(maxlen=DISMISSED)
        self._rejected: deque[Rejected] = deque(maxlen=DISMISSED)
        self._keys = 0
        self._ids = count(1)
        self.shown: Shown | None = None

    def store(self, suggestion: InlineSuggestion) -> None:
        """Cache a suggestion for later requests at its position or further along it."""
        self._cached.append(suggestion)

    def forget(self) -> None:
        """Empty the cache, because another model or other options would answer differently."""
        self._cached.clear()
        if self.shown:
            self.shown.lasts = False

    def cached(self, prefix: str, suffix: str) -> InlineSuggestion | None:
        """What is on the screen at a position, else the newest cached suggestion for it, if any."""
        now = self.shown
        if now and now.lasts and (now.prefix, now.suffix) == (prefix, suffix):
            return InlineSuggestion(prefix, suffix, now.texts, now.trigger == "invoked")
        fitting = (each.advanced(prefix, suffix) for each in reversed(self._cached))
        return next((found for found in fitting if found), None)

    def show(
        self, prefix: str, suffix: str, texts: tuple[str, ...], trigger: str
    ) -> tuple[int, SuggestionOutcome | None, bool]:
        """Put texts on the screen: their id, the outcome of the previous ones, whether it is new.

        The rest of a suggestion after some of it was typed is the same suggestion.
        """
        now = self.shown
        if now and (now.prefix, now.suffix, now.texts[0]) == (prefix, suffix, texts[0]):
            now.texts = texts
            return now.id, None, False
        ended = self.end()
        self.shown = Shown(next(self._ids), prefix, suffix, texts, trigger)
        return self.shown.id, ended, True

    def changed(self, text: str) -> SuggestionOutcome | None:
        """The document changed; the outcome of what was on the screen, if that ended it."""
        self._keys += 1
        now = self.shown
        if now is None or text == now.prefix + now.suffix:
            return None
        added = len(text) - len(now.prefix) - len(now.suffix)
        if added <= 0 or not text.startswith(now.prefix) or not text.endswith(now.suffix):
            return self.end()
        new = text[len(now.prefix) : len(now.prefix) + added]
        rests = remainders(now.texts, new)
        before = (now.prefix[-1:] + new)[-2:]
        if not rests and before in PAIRS:
            # The editor inserted a closing bracket, with or right after the typed one.
            rests = remainders(now.texts, new[:-1], new[-1])
            if rests:
                now.prefix, now.suffix = now.prefix + new[:-1], new[-1] + now.suffix
                now.texts = rests
                return None
        if not rests:
            line = now.prefix.count("\n")
            self._rejected.append(Rejected(first_line(now.texts[0]), self._keys, line))
            return self.end()
        if added >= AT_ONCE and new not in PAIRS:
            now.taken += added
        if all(rests):
            now.prefix, now.texts = now.prefix + new, rests
            return None
        self.shown = None
        return SuggestionOutcome("accepted", now.trigger, now.taken) if now.taken else None

    def accept(self) -> SuggestionOutcome | None:
        """The editor reports that the whole suggestion was accepted; its change is yet to come."""
        now, self.shown = self.shown, None
        return (
            SuggestionOutcome("accepted", now.trigger, now.taken + len(now.texts[0]))
            if now
            else None
        )

    def dismiss(self) -> SuggestionOutcome | None:
        """The user dismissed it: neither it nor its rest is shown automatically again."""
        if self.shown is None:
            return None
        prefix, suffix, text = self.shown.prefix, self.shown.suffix, self.shown.texts[0]
        self._dismissed.append(Dismissed(above(prefix), text, below(suffix)))
        full = prefix + text
        kept = [
            each
            for each in self._cached
            if each.suffix != suffix or not any(each.prefix + text == full for text in each.texts)
        ]
        self._cached = deque(kept, maxlen=CACHED)
        return self.end()

    def end(self) -> SuggestionOutcome | None:
        """Nothing is on the screen any more; the outcome of what was."""
        now, self.shown = self.shown, None
        if now is None:
            return None
        return SuggestionOutcome(
            "partially_accepted" if now.taken else "dismissed", now.trigger, now.taken
        )

    @property
    def disturbed(self) -> bool:
        """Whether the user has typed against a suggestion within the last keys."""
        return any(self._keys - each.key < QUIET for each in self._rejected)

    def without_rejected(self, suggestion: InlineSuggestion) -> InlineSuggestion | None:
        """A suggestion without texts that the user has just typed against; None if none is left.

        For QUIET keys they are not offered again, nor in the next lines.
        """
        line = suggestion.prefix.count("\n")
        recent = [
            each
            for each in self._rejected
            if self._keys - each.key < QUIET or 0 < line - each.line <= NEXT
        ]
        texts = tuple(t for t in suggestion.texts if not any(each.is_in(t) for each in recent))
        return replace(suggestion, texts=texts) if texts else None

    def dismissed_at(self, prefix: str, suffix: str) -> bool:
        """Whether a suggestion was dismissed here, or has since been typed up to here."""
        return any(each.reaches(prefix, suffix) for each in self._dismissed)

    def was_dismissed(self, prefix: str, suffix: str, text: str) -> bool:
        """Whether a text would produce the same lines as a dismissed one."""
        return any(each.is_made(prefix, text, suffix) for each in self._dismissed)


def remainders(texts: Sequence[str], typed: str, closed: str = "") -> tuple[str, ...]:
    """The rest of those texts that start with what was typed and end with what was closed."""
    return tuple(
        text[len(typed) : len(text) - len(closed)]
        for text in texts
        if text.startswith(typed)
        and text.endswith(closed)
        and len(text) >= len(typed) + len(closed)
    )


def first_line(text: str) -> str:
    """The first line of a text that is not blank, without blanks around it."""
    return text.strip().partition("\n")[0].rstrip()


def above(prefix: str) -> str:
    """The cursor's line up to the cursor and the line before it, if there is one."""
    line = prefix.rfind("\n") + 1
    return "\n" + prefix[prefix.rfind("\n", 0, max(0, line - 1)) + 1 :]


def below(suffix: str) -> str:
    """The rest of the cursor's line and the next line."""
    end = suffix.find("\n", suffix.find("\n") + 1)
    return suffix if end < 0 else suffix[:end]


def ends(text: str, lines: str) -> bool:
    """Whether a text ends with these whole lines."""
    return text.endswith(lines) or (len(text) < len(lines) and "\n" + text == lines)


def distinct(texts: Sequence[str], most: int) -> tuple[str, ...]:
    """The first texts without duplicates, at most so many."""
    return tuple(dict.fromkeys(texts))[:most]

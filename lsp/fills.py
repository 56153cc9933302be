"""What can be filled on request: a function's body, a placeholder, a selection.

Each is a pure look at a text; all offsets are in characters of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from talaria.coder.syntax.functions import function_at
from talaria.coder.syntax.standing import standing_in

Kind = Literal["function", "here", "rewrite"]

# What stands for code to come: alone on its line, or the body on a header's line.
_PLACEHOLDER = re.compile(
    r"(?m)(?P<code>(?<![\w.)\]])(?:\.\.\.|pass\b|raise NotImplementedError\b(?:\(.*?\))?))"
    r"(?=[ \t]*(?:#.*)?$)|(?P<comment>#[ \t]*TODO\b.*$)"
)


@dataclass(frozen=True)
class Fill:
    """A part of a text to write: `text[start:end]` is replaced by `lead` and a middle.

    until   where the middle ends at the latest
    """

    kind: Kind
    title: str
    start: int
    end: int
    lead: str
    until: Literal["statement", "block"] | None

    def cut(self, text: str) -> tuple[str, str]:
        """What stands before and behind the middle to be written."""
        return text[: self.start] + self.lead, text[self.end :]


@dataclass(frozen=True)
class Filled:
    """What was written last, between two texts, and what else could stand there."""

    prefix: str
    suffix: str
    texts: tuple[str, ...]
    place: int = 0

    @property
    def text(self) -> str:
        """What stands there now."""
        return self.texts[self.place]

    def turned(self) -> Filled:
        """With the next one in its place; behind the last comes the first."""
        return replace(self, place=(self.place + 1) % len(self.texts))


def at(text: str, start: int, end: int) -> list[Fill]:
    """All that can be filled at a cursor (`start == end`) or in a selection, the nearest first."""
    found = [here(text, start, end), function(text, start), rewrite(text, start, end)]
    return [fill for fill in found if fill]


def function(text: str, offset: int) -> Fill | None:
    """The body of the function around a cursor."""
    body = function_at(text, offset)
    if body is None:
        return None
    end = body.end
    if body.lead:
        # The blank line on which somebody stands who is about to write it is used up.
        blank = re.compile(r"\n[ \t]+(?=\n|\Z)").match(text, end)
        end = blank.end() if blank else end
    title = f"Write the body of {body.name}"
    return Fill("function", title, body.start, end, body.lead, "block")


def here(text: str, start: int, end: int) -> Fill | None:
    """The first placeholder on the lines of a cursor or selection.

    Code that stands for other code is replaced; a comment that says what is to be done
    stays, and what it asks for is written below it.
    """
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", max(end - 1, start))
    lines = text[first : last if last >= 0 else len(text)]
    for found in _PLACEHOLDER.finditer(lines):
        place = first + found.start()
        standing = standing_in(text[:place], text[place:])
        # Signs in a string or a comment stand for nothing; a comment begins in no string.
        if standing == "code" or (found["comment"] and standing != "string"):
            break
    else:
        return None
    if found["code"]:
        stop = first + found.end()
        return Fill("here", f"Fill in for `{_short(found['code'])}`", place, stop, "", "block")
    line = text.rfind("\n", 0, place) + 1
    indentation = re.match(r"[ \t]*", text[line:place])
    stop = first + found.end()
    lead = "\n" + (indentation[0] if indentation else "")
    return Fill("here", f"Do what `{_short(found['comment'])}` asks for", stop, stop, lead, "block")


def rewrite(text: str, start: int, end: int) -> Fill | None:
    """A selection, without the blanks around it."""
    selected = text[start:end]
    if not selected.strip():
        return None
    start += len(selected) - len(selected.lstrip())
    end = start + len(selected.strip())
    return Fill("rewrite", "Write the selection anew", start, end, "", None)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."

"""What commands can fill: a function's body, a placeholder, a selection.

Pure functions of a text; all offsets are in characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from talaria.coder.request import Until
from talaria.coder.syntax.functions import function_at
from talaria.coder.syntax.standing import standing_in

FillKind = Literal["function", "here", "rewrite"]

# Placeholders: alone on a line, or as the body on the line of a header.
_PLACEHOLDER = re.compile(
    r"(?m)(?P<code>(?<![\w.)\]])(?:\.\.\.|pass\b|raise NotImplementedError\b(?:\(.*?\))?))"
    r"(?=[ \t]*(?:#.*)?$)|(?P<comment>#[ \t]*TODO\b.*$)"
)


@dataclass(frozen=True)
class Fill:
    """A range to fill: `text[start:end]` is replaced by `lead` and a middle.

    until  bound of the middle
    """

    kind: FillKind
    title: str
    start: int
    end: int
    lead: str
    until: Until | None

    def cut(self, text: str) -> tuple[str, str]:
        """The prefix and suffix of the middle."""
        return text[: self.start] + self.lead, text[self.end :]


@dataclass(frozen=True)
class Filled:
    """The candidates of the last fill between a prefix and a suffix; `place` is the one written."""

    prefix: str
    suffix: str
    texts: tuple[str, ...]
    place: int = 0

    @property
    def text(self) -> str:
        """The candidate that is in the document now."""
        return self.texts[self.place]

    def next(self) -> Filled:
        """The same with the next candidate written; the first follows the last."""
        return replace(self, place=(self.place + 1) % len(self.texts))


def fills_at(text: str, start: int, end: int) -> list[Fill]:
    """All fills at a cursor (`start == end`) or in a selection, most specific first."""
    found = [here(text, start, end), function(text, start), rewrite(text, start, end)]
    return [fill for fill in found if fill]


def function(text: str, offset: int) -> Fill | None:
    """The body of the function around a cursor."""
    body = function_at(text, offset)
    if body is None:
        return None
    end = body.end
    if body.lead:
        # The body replaces a blank indented line, where the cursor of someone about to write is.
        blank = re.compile(r"\n[ \t]+(?=\n|\Z)").match(text, end)
        end = blank.end() if blank else end
    title = f"Write the body of {body.name}"
    return Fill("function", title, body.start, end, body.lead, "block")


def here(text: str, start: int, end: int) -> Fill | None:
    """The first placeholder on the lines of a cursor or selection.

    Placeholder code is replaced; a TODO comment stays, and the code it asks for goes below it.
    """
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", max(end - 1, start))
    lines = text[first : last if last >= 0 else len(text)]
    for found in _PLACEHOLDER.finditer(lines):
        place = first + found.start()
        standing = standing_in(text[:place], text[place:])
        # Placeholder code must be code; a TODO must not be inside a string.
        if standing == "code" or (found["comment"] and standing != "string"):
            break
    else:
        return None
    if found["code"]:
        stop, title = first + found.end(), f"Fill in `{_short(found['code'])}`"
        around = function_at(text, place)
        if around and around.lead and not text[around.start : place].strip():
            # On the line of its header: the body gets lines of its own.
            return Fill("here", title, around.start, stop, around.lead, "block")
        return Fill("here", title, place, stop, "", "block")
    line = text.rfind("\n", 0, place) + 1
    indentation = re.match(r"[ \t]*", text[line:place])
    stop = first + found.end()
    lead = "\n" + (indentation[0] if indentation else "")
    return Fill("here", f"Implement `{_short(found['comment'])}`", stop, stop, lead, "block")


def rewrite(text: str, start: int, end: int) -> Fill | None:
    """A selection, without surrounding whitespace."""
    selected = text[start:end]
    if not selected.strip():
        return None
    start += len(selected) - len(selected.lstrip())
    end = start + len(selected.strip())
    return Fill("rewrite", "Rewrite the selection", start, end, "", None)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."

"""Suggestions that go round in circles."""

from __future__ import annotations

import re

LINES = 40  # before the cursor that a suggestion may begin to repeat, and in what is repeated
NEAR = 8_000  # characters before the cursor in which they are looked for

_SAYS = re.compile(r"\w")


def repeated_lines(text: str, prefix: str, suffix: str) -> str:
    """Cut where lines begin to come again at once, those before the cursor included.

    Two lines or more may not come twice in a row. A single line, or items of a list, which
    end in a comma, may not come three times; and a line that repeats the one before the
    cursor is no suggestion. Lines are alike with their indentation; blank ones and such of
    brackets alone do not count.
    """
    if not text.strip():
        return text
    *above, begun = prefix[-NEAR:].split("\n")
    lines = [line.rstrip() for line in above if line.strip()][-LINES:]
    first = len(lines)
    places = []  # where a line of the suggestion begins, with the line break before it
    place = -len(begun) - 1
    for line in (begun + text + suffix.split("\n", 1)[0]).split("\n"):
        if line.strip():
            lines.append(line.rstrip())
            places.append(max(0, place))
        place += len(line) + 1
    again = lines[first - 1 :] if first and not begun.strip() else []
    if len(again) == 2 and again[0] == again[1] and _SAYS.search(again[0]) and again[0][-1] != ",":
        return ""
    cuts = (_comes_again(lines, first, period) for period in range(1, LINES + 1))
    cut = min((cut for cut in cuts if cut is not None), default=None)
    return text if cut is None else text[: places[cut - first]]


def _comes_again(lines: list[str], first: int, period: int) -> int | None:
    """The line from the `first` on at which so many lines begin to come again, if they do."""
    alike = 0
    for place in range(period, len(lines)):
        alike = alike + 1 if lines[place] == lines[place - period] else 0
        group = lines[place - period + 1 : place + 1]
        if alike >= period and place + 1 - first >= period:
            statements = [line for line in group if _SAYS.search(line) and line[-1] != ","]
            says = any(_SAYS.search(line) for line in group)
            times = 2 if len(statements) > 1 else 3
            if says and alike >= (times - 1) * period:
                return max(first, place - alike + 1)
    return None

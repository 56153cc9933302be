"""Cuts off repetition."""

from __future__ import annotations

import re

LINES = 40  # before the cursor that a suggestion may repeat; also the longest period
NEAR = 8_000  # characters before the cursor that are searched

_HAS_WORD = re.compile(r"\w")


def repeated_lines(text: str, prefix: str, suffix: str) -> str:
    """Cut where lines start to repeat, counting the lines before the cursor.

    A group of two or more lines must not occur twice in a row. A single line, or list items
    (which end in a comma), must not occur three times; and a line that repeats the one before the
    cursor is not a suggestion. Indentation counts; blank lines and lines of brackets only do not.
    """
    if not text.strip():
        return text
    *above, begun = prefix[-NEAR:].split("\n")
    lines = [line.rstrip() for line in above if line.strip()][-LINES:]
    first = len(lines)
    places = []  # where each line of the suggestion starts, including the preceding line break
    place = -len(begun) - 1
    for line in (begun + text + suffix.split("\n", 1)[0]).split("\n"):
        if line.strip():
            lines.append(line.rstrip())
            places.append(max(0, place))
        place += len(line) + 1
    last_two = lines[first - 1 :] if first and not begun.strip() else []
    if len(last_two) == 2 and last_two[0] == last_two[1]:
        line = last_two[0]
        if _HAS_WORD.search(line) and line[-1] != ",":
            return ""
    cuts = (_repetition(lines, first, period) for period in range(1, LINES + 1))
    cut = min((cut for cut in cuts if cut is not None), default=None)
    return text if cut is None else text[: places[cut - first]]


def _repetition(lines: list[str], first: int, period: int) -> int | None:
    """The line, from `first` on, at which a group of `period` lines starts to repeat, if any."""
    equal = 0
    for place in range(period, len(lines)):
        equal = equal + 1 if lines[place] == lines[place - period] else 0
        group = lines[place - period + 1 : place + 1]
        if equal >= period and place + 1 - first >= period:
            statements = [line for line in group if _HAS_WORD.search(line) and line[-1] != ","]
            has_word = any(_HAS_WORD.search(line) for line in group)
            times = 2 if len(statements) > 1 else 3
            if has_word and equal >= (times - 1) * period:
                return max(first, place - equal + 1)
    return None

"""The part of a file that decides about a middle: long files are cut, broken ones narrowed down.

A long side is cut to what can be parsed on its own; where it was inside a table, a class or a
string, a short frame in front or behind makes up for what was cut off. In a file that is broken
elsewhere, the statement around the hole is judged alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from talaria.coder.syntax.lexical import (
    BRANCH_KEYWORDS,
    CODE_LINE,
    STATEMENT_LINE,
    indentation,
    last_line_with_text,
    open_brackets,
)
from talaria.coder.syntax.tree import count_errors

REACH = 100_000
"""The characters on either side of a hole that decide about a middle."""

CHARACTERS_PER_ERROR = 200
"""A text with more errors than one in so many characters is not taken for code."""

_SAMPLE = 20_000  # characters of an excerpt that are parsed to choose its frame
# What a text may have been cut out of, the most likely first: what to put before and behind it.
_FRAMES = (
    *(("", ""), ("def _():\n", ""), ("{", "}"), ("[", "]"), ("f(", ")")),
    *((quote, quote) for quote in ('"""', "'''", '"', "'")),
)
# Stand-ins for the headers of enclosing blocks. Others become loops, whose blocks take anything
# that the block of an `if`, a `with` or a `try` takes.
_HEADERS = {"async def ": "async def _():", "def ": "def _():", "class ": "class _:"}
_LOOP_HEADER = "while _:"


def near_prefix(prefix: str, check_time: Callable[[], None]) -> str | None:
    """Cut a long prefix to its end, in a frame that makes it parse if it needs one.

    `check_time` is called before each parse and may raise. None if there are errors all over.
    """
    if len(prefix) <= REACH:
        return prefix
    near = prefix[-REACH:]
    places = [line.start() for line in _outermost_lines(near)]
    # A line without end is cut behind a comma or a blank.
    places = places or [min(near.find(","), near.find(" ")) + 1]
    excerpts = (
        # The beginning of an excerpt shows its frame; parsing all of it nine times takes long.
        (
            start + near[place:],
            start + _without_hole_line(near[place:], "")[:_SAMPLE] + end,
        )
        for place, (start, end) in _cuts(near, places)
    )
    return _choose(excerpts, 2, check_time)


def near_suffix(prefix: str, suffix: str, check_time: Callable[[], None]) -> str | None:
    """Cut a long suffix to its beginning, with an end that makes it parse if it needs one.

    `prefix` has been cut already. `check_time` and None as for `near_prefix`.
    """
    if len(suffix) <= REACH:
        return suffix
    near = suffix[:REACH]
    # Never between a decorator and what it decorates.
    outermost = [
        line
        for line in _outermost_lines(near)
        if not re.search(r"^[ \t]*@.*\n$", near[: line.start()])
    ]
    places = [line.start() for line in reversed(outermost)]
    places = places or [max(near.rfind(","), near.rfind(" ")) + 1 or REACH]
    excerpts = (
        (near[:place] + end, _without_hole_line(prefix, near[:place]) + end)
        for place, (_, end) in _cuts(near, places)
    )
    return _choose(excerpts, 0, check_time)


def enclosing_statement(
    prefix: str, suffix: str, can_start: Callable[[int], bool]
) -> tuple[str, str]:
    """Cut both sides to the statement around the hole, below stand-ins for enclosing headers.

    `can_start` says of an offset whether a statement can start there.
    """
    starts = _statement_starts(prefix, suffix, can_start)
    begin, depth, _ = starts.pop(0)
    while starts:
        above = prefix[starts[0][0] : begin]
        block = next(
            (it.start() for it in STATEMENT_LINE.finditer(above) if it[1] == depth), len(above)
        )
        if not any(place < block for place, _ in open_brackets(above)):
            break
        begin, depth, _ = starts.pop(0)  # the line continues a bracket opened above
    ends = (
        it
        for it in CODE_LINE.finditer(suffix, suffix.find("\n") + 1 or len(suffix))
        if len(it[1]) < len(depth) + bool(STATEMENT_LINE.match(suffix, it.start()))
        if can_start(len(prefix) + it.end() - 1)
    )
    end = next(ends, None)
    if end and prefix.endswith("\n") and len(end[1]) == len(depth):
        end = next(ends, None)  # a line yet to be written must fit the statement below it
    headers = [f"{depth}{_stand_in(line)}\n" for _, depth, line in reversed(starts)]
    return "".join(headers) + prefix[begin:], suffix[: end.start() if end else None]


def _statement_starts(
    prefix: str, suffix: str, can_start: Callable[[int], bool]
) -> list[tuple[int, str, str]]:
    """The offset, indentation and first line of each statement around a hole, innermost first."""
    hole = prefix[prefix.rfind("\n") + 1 :]
    # The line of the hole may still become a branch of the statement above, or be indented more.
    undecided = any(keyword.startswith(hole.strip()) for keyword in BRANCH_KEYWORDS)
    text = prefix[: len(prefix) - len(hole)] if undecided else prefix
    lines, place = text.split("\n"), len(text) + 1
    depth = len(indentation(hole))
    if not hole:
        below = STATEMENT_LINE.search(suffix)
        depth = min(len(indentation(last_line_with_text(lines))), len(below[1]) if below else 0)
    found = []
    for line in reversed(lines):
        place -= len(line) + 1
        it = CODE_LINE.match(line)
        if it and len(it[1]) <= depth and can_start(place + len(it[1])):
            depth = len(it[1])
            if STATEMENT_LINE.match(line):
                found.append((place, it[1], line.strip()))
                depth -= 1
        if depth < 0:
            break
    return found or [(0, "", "")]


def _stand_in(header: str) -> str:
    return next((it for word, it in _HEADERS.items() if header.startswith(word)), _LOOP_HEADER)


def _outermost_lines(text: str) -> list[re.Match[str]]:
    """The least indented lines that can start a statement; the first line, a rest, is not one."""
    lines = list(STATEMENT_LINE.finditer(text, text.find("\n") + 1 or len(text)))
    depth = min((len(line[1]) for line in lines), default=0)
    return [line for line in lines if len(line[1]) == depth]


def _cuts(text: str, places: list[int]) -> list[tuple[int, tuple[str, str]]]:
    """Where to cut a text, and the frame to put around the cut; the most likely first.

    `places` are possible cuts, the one that leaves most of the text first.
    """
    # The second place is not far off: a much shorter excerpt has fewer errors for no good reason.
    some = dict.fromkeys((places[0], places[len(places) // 4]))
    # Quotes that do not occur in the text would make a string of anything.
    frames = [frame for frame in _FRAMES[1:] if frame[0] != frame[1] or frame[0] in text]
    return [(place, _FRAMES[0]) for place in some] + [(places[0], frame) for frame in frames]


def _without_hole_line(prefix: str, suffix: str) -> str:
    """The text without the line of the hole; if that is all there is, with a name in the hole."""
    lines = prefix[: prefix.rfind("\n") + 1] + suffix[suffix.find("\n") + 1 or len(suffix) :]
    return lines or f"{prefix}x{suffix}"


def _choose(
    excerpts: Iterable[tuple[str, str]], tolerated: int, check_time: Callable[[], None]
) -> str | None:
    """Choose the first of some excerpts, unless a later one has clearly fewer errors.

    Each comes with a text that is parsed in its place. Up to `tolerated` errors may come from
    the unfinished code at the hole: an excerpt without them might hide it. None if even the
    chosen one has errors all over.
    """
    best, fewest, readable = "", None, False
    for excerpt, text in excerpts:
        check_time()
        errors = count_errors(text)
        if fewest is None or 2 * errors + tolerated < fewest:
            best, fewest = excerpt, errors
            readable = errors <= tolerated or CHARACTERS_PER_ERROR * errors < len(text)
        if fewest <= tolerated:
            break
    return best if readable else None

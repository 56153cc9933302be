"""Cuts off the end of a suggestion that repeats the suffix."""

from __future__ import annotations

import re
from collections.abc import Iterator

from talaria.lsp.filters.pairs import around, pairs

LONGEST = 4_000  # characters at the end of a suggestion to compare
FEWEST = 3  # characters of code that are not a coincidence; one less for the whole rest of a line

_PUNCTUATION = re.compile(r"[\s()\[\]{}\"'`,:;]*")
_WORD = re.compile(r"\w\w")


def suffix_overlap(text: str, prefix: str, suffix: str) -> str:
    """Cut off an end that the suffix repeats: brackets, quotes, the rest of the line, whole lines.

    Not if that splits a string, or leaves more brackets open than the suffix closes.
    """
    there = around(prefix, suffix)
    own = pairs(text, there.quote)
    for place in sorted({*_characters(text, prefix, suffix), *_lines(text, prefix, suffix)}):
        ends = [pair for pair in own if pair.closed is not None and pair.closed >= place]
        # A quote alone may belong to another string; together with words it is a repetition.
        splits_string = _PUNCTUATION.fullmatch(text, place) and any(
            pair.opened is not None and pair.opened < place for pair in ends if not pair.counts
        )
        brackets = any(pair.counts for pair in ends)
        unbalanced = brackets and len(there.opened_after(text[:place])) > len(there.closed)
        if not splits_string and not unbalanced:
            return text[:place]
    return text


def _characters(text: str, prefix: str, suffix: str) -> Iterator[int]:
    """Start offsets of significant ends with which the suffix starts."""
    end = len(text.rstrip())
    for place in range(max(0, end - LONGEST), end):
        overlap = text[place:end]
        if not suffix.startswith(overlap):
            continue
        if _PUNCTUATION.fullmatch(overlap):
            yield place
            continue
        before = text[:place][-1:] or prefix[-1:]
        after = suffix[len(overlap) :]
        splits = _WORD.match(before + overlap[0]) or _WORD.match(overlap[-1] + after[:1])
        whole_line = not after.split("\n", 1)[0].strip()
        if not splits and len("".join(overlap.split())) >= FEWEST - whole_line:
            yield place


def _lines(text: str, prefix: str, suffix: str) -> Iterator[int]:
    """Start offsets of whole lines that equal the next lines, ignoring blank ones."""
    rest, _, below = suffix[: 2 * LONGEST].partition("\n")
    if rest.strip():
        return
    begun = prefix[prefix.rfind("\n") + 1 :]
    lines = [(0, begun + text.split("\n", 1)[0])]
    lines += [
        (match.start(), match[0][1:])
        for match in re.compile(r"\n[^\n]*").finditer(text, max(0, len(text) - LONGEST))
    ]
    own = [(place, line.rstrip()) for place, line in lines if line.strip()]
    next_lines = [line.rstrip() for line in below.split("\n") if line.strip()]
    for first, (place, _) in enumerate(own):
        ending = [line for _, line in own[first:]]
        if ending == next_lines[: len(ending)]:
            yield place

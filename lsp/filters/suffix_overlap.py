"""What the end of a suggestion repeats of the text behind the cursor."""

from __future__ import annotations

import re
from collections.abc import Iterator

from talaria.lsp.filters.pairs import around, pairs

LONGEST = 4_000  # characters at the end of a suggestion that are compared
FEWEST = 3  # characters of code that are no accident; one less if they are the line's rest

_SIGNS = re.compile(r"[\s()\[\]{}\"'`,:;]*")
_WORD = re.compile(r"\w\w")


def suffix_overlap(text: str, prefix: str, suffix: str) -> str:
    """Cut off the end that follows already: brackets, quotes, the rest of the line, whole lines.

    Not if that parts a string, or leaves more brackets open than what follows closes.
    """
    there = around(prefix, suffix)
    own = pairs(text, there.quote)
    for place in sorted({*_characters(text, prefix, suffix), *_lines(text, prefix, suffix)}):
        ends = [pair for pair in own if pair.closed is not None and pair.closed >= place]
        # A quote alone may be of another string; with words it is what follows.
        parted = _SIGNS.fullmatch(text, place) and any(
            pair.opened is not None and pair.opened < place for pair in ends if not pair.counts
        )
        brackets = any(pair.counts for pair in ends)
        lacking = brackets and len(there.opened_after(text[:place])) > len(there.closed)
        if not parted and not lacking:
            return text[:place]
    return text


def _characters(text: str, prefix: str, suffix: str) -> Iterator[int]:
    """Where ends begin with which the suffix begins, and that say something."""
    end = len(text.rstrip())
    for place in range(max(0, end - LONGEST), end):
        overlap = text[place:end]
        if not suffix.startswith(overlap):
            continue
        if _SIGNS.fullmatch(overlap):
            yield place
            continue
        before = text[:place][-1:] or prefix[-1:]
        after = suffix[len(overlap) :]
        splits = _WORD.match(before + overlap[0]) or _WORD.match(overlap[-1] + after[:1])
        whole_line = not after.split("\n", 1)[0].strip()
        if not splits and len("".join(overlap.split())) >= FEWEST - whole_line:
            yield place


def _lines(text: str, prefix: str, suffix: str) -> Iterator[int]:
    """Where whole lines begin that are the next ones already, whatever blank lines are between."""
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
        said = [line for _, line in own[first:]]
        if said == next_lines[: len(said)]:
            yield place

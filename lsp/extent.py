"""How much of a suggestion to show while the user types.

Inside a line, its rest; where an empty line begins, a statement, or the block whose body is
missing. Of that, as much as the model is sure of, and never more than fits the screen.
"""

from __future__ import annotations

import keyword
import re
from bisect import bisect_right
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING

from talaria.coder.bounds import lacks_body, logical_line
from talaria.coder.request import Until
from talaria.coder.syntax.standing import standing_in

if TYPE_CHECKING:
    from talaria.coder.results import Candidate, Infill
    from talaria.coder.tokenizer import Tokenizer

LINES = 16  # of a suggestion; the smallest screens have 24, and its line is seldom the first
FEWEST = 4  # characters of a line that is shown in part: fewer are typed as fast as read

Certainty = list[tuple[int, float]]
"""Lengths of a text in characters, growing, and how sure the model is of that much of it."""

_INSIDE_WORD = re.compile(r"\w[\w'\"]")  # a quote may have a letter before it
_WORD = re.compile(r"\w+$")
_STAR = re.compile(r"\bimport \*$")
# Keywords that may be the last word of a line.
_LAST = frozenset(
    {"True", "False", "None", "pass", "break", "continue", "return", "raise", "yield"}
)


def until_of_typing(prefix: str, suffix: str, *, accepted: bool = False) -> Until:
    """What a suggestion at a cursor ends with, unless the options say it.

    Behind a header that was `accepted`, perhaps without its colon, comes the body: neither a colon
    nor a line break is shown by itself.
    """
    if prefix[prefix.rfind("\n") + 1 :].strip():
        return "block" if accepted and lacks_body(prefix + ":", suffix) else "line"
    return "block" if lacks_body(prefix, suffix) else "statement"


def certainty(infill: Infill, candidate: Candidate, tokenizer: Tokenizer, prefix: str) -> Certainty:
    """How sure the model is of each part of a middle that ends with a token."""
    healed = len(tokenizer.last_token(prefix))
    found: Certainty = []
    sure = accumulate(infill.probabilities(candidate), mul)
    for count, probability in enumerate(sure, 1):
        text = tokenizer.decode(candidate.tokens[:count])[healed:]
        # Not so after half a character, or behind the bound.
        if text and candidate.text.startswith(text):
            found.append((len(text), probability))
    return found


def sure_part(
    text: str,
    sure: Certainty,
    whole: float,
    least: float,
    prefix: str | None = None,
    *,
    ended: bool = True,
) -> tuple[str, float]:
    """The longest part of a text that is sure enough, and how sure it is; empty if none is.

    All of it, or whole lines, or the beginning of the first line up to the end of a word. A line is
    only as sure as its end. Python code, which comes with its prefix, does not end `ragged`. The
    last word of a text that was not `ended`, because time ran out, may be half a word.
    """
    if whole >= least and ended:
        return text, whole
    lengths = [length for length, _ in sure]
    ends = [found.start() for found in re.finditer(r"\n", text) if text[: found.start()].strip()]
    for end in reversed(ends):
        place = bisect_right(lengths, end)
        if place < len(sure) and sure[place][1] >= least:
            return text[:end], sure[place][1]
    line = None if prefix is None else logical_line(prefix)
    if line is not None and standing_in(line, "") != "code":
        line = None  # prose may end anywhere
    lead = len(text) - len(text.lstrip())
    for length, probability in reversed(
        sure[: bisect_right(lengths, ends[0] if ends else len(text))]
    ):
        part = text[:length].rstrip()
        there = text[length - 1 : length + 1]
        splits = _INSIDE_WORD.match(there) or (not ended and _WORD.fullmatch(there))
        enough = probability >= least and not splits and len(part) - lead >= FEWEST
        if enough and (line is None or not ragged(line, part)):
            return part, probability
    return "", whole


def ragged(line: str, part: str) -> bool:
    """Whether a part of a logical line, of which `line` is the beginning, wants more.

    It ends with an open string, a comma, an operator, a dot or a keyword. It may end with an open
    bracket: editors close it, and the next suggestion goes on in it.
    """
    standing = standing_in(line + part, "")
    # In the field of a formatted string, code ends where its bracket does.
    if standing == "string" or standing_in(line + part + "}", "") == "string":
        return True
    if standing == "comment" or part.endswith("...") or _STAR.search(part):
        return False
    word = _WORD.search(part)
    if word is None:
        return part[-1:] not in tuple("()[]{}:\"'")
    return keyword.iskeyword(word[0]) and word[0] not in _LAST


def on_screen(text: str) -> str:
    """The first LINES lines of a text."""
    lines = text.split("\n")
    return text if len(lines) <= LINES else "\n".join(lines[:LINES])

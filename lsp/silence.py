"""When a suggestion would only be in the way.

Two decisions, each returning a reason to stay silent or None. `before_asking` applies to automatic
suggestions only: whoever invokes one by hand wants it wherever the cursor is. `before_showing`
applies to all.
"""

from __future__ import annotations

import re
from typing import Literal

from talaria.coder.syntax.standing import standing_in
from talaria.lsp.filters.pairs import around

Silence = Literal[
    "dismissed",  # the user dismissed a suggestion here
    "word",  # the cursor is inside a word
    "midline",  # code follows on the cursor's line
    "string",  # the cursor is in a string, and the option `strings` is off
    "comment",  # the cursor is in a comment, and the option `comments` is off
    "nothing",  # there is no text to show
    "repeats",  # the text after the cursor already says it
    "unsure",  # the model is not confident enough
    "tiny",  # typing it takes no more keys than accepting it
]

_WORD = re.compile(r"\w")
_INSIDE_WORD = re.compile(r"\w\w")
# Closing brackets and quotes that an editor may have inserted, and the like: not code to skip.
_ENDS = re.compile(r"[\s)\]}\"'`,:;]*(?:#.*)?")
NEXT = 4_000  # characters after the cursor searched for the next line


def before_asking(
    prefix: str, suffix: str, *, strings: bool, comments: bool, dismissed: bool
) -> Silence | None:
    """Why not to ask the model at a cursor; None to ask.

    `strings` and `comments` are the options of these names; `dismissed` says whether the user
    dismissed a suggestion here.
    """
    if dismissed:
        return "dismissed"
    if _INSIDE_WORD.match(prefix[-1:] + suffix[:1]):
        return "word"
    if not _ENDS.fullmatch(_rest_of_line(suffix)):
        return "midline"
    if strings and comments:
        return None
    standing = standing_in(prefix, suffix)
    if standing == "string" and not strings:
        return "string"
    if standing == "comment" and not comments:
        return "comment"
    return None


def before_showing(
    text: str, prefix: str, suffix: str, confidence: float, *, least: float
) -> Silence | None:
    """Why not to show a filtered suggestion; None to show it.

    A single character is shown only if it closes the last bracket open on its line: not to save
    the keystroke, but because the line is then complete and the next one can be suggested.
    """
    stripped = text.strip()
    if not stripped:
        return "nothing"
    if _follows(text, prefix, suffix):
        return "repeats"
    if confidence < least:
        return "unsure"
    if len(stripped) < 2 and not _completes(stripped, prefix, suffix):
        return "tiny"
    return None


def _follows(text: str, prefix: str, suffix: str) -> bool:
    """Whether the rest of the line, or the next non-blank line with its indentation, repeats it."""
    stripped, rest = text.strip(), _rest_of_line(suffix)
    remainder = rest.strip().removeprefix(stripped)
    # Brackets alone may legitimately repeat.
    if (
        remainder != rest.strip()
        and _WORD.search(stripped)
        and not _INSIDE_WORD.match(stripped[-1] + remainder[:1])
    ):
        return True
    below = suffix[len(rest) : len(rest) + NEXT].split("\n")
    next_line = next((line.rstrip() for line in below if line.strip()), "")
    line = prefix[prefix.rfind("\n") + 1 :] + text + rest
    return line.strip("\n").rstrip() == next_line and bool(_WORD.search(next_line))


def _completes(character: str, prefix: str, suffix: str) -> bool:
    """Whether a character closes the only bracket open on the cursor's line."""
    there = around(prefix[prefix.rfind("\n") + 1 :], _rest_of_line(suffix))
    return there.free == [character]


def _rest_of_line(suffix: str) -> str:
    end = suffix.find("\n")
    return suffix if end < 0 else suffix[:end]

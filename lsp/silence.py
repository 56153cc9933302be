"""When a suggestion would only be in the way.

Two decisions, each a reason to stay silent or None. `before_asking` is for suggestions that
nobody asked for: who invokes one by hand wants it wherever the cursor is. `before_showing` is
for all of them.
"""

from __future__ import annotations

import re
from typing import Literal

from talaria.coder.syntax.standing import standing_in
from talaria.lsp.filters.pairs import around

Silence = Literal[
    "dismissed",  # a suggestion was dismissed right here
    "word",  # the cursor is inside a word
    "midline",  # code follows on the cursor's line
    "string",  # the cursor is in a string, where none are wanted
    "comment",  # the cursor is in a comment, where none are wanted
    "nothing",  # there is no text to show
    "repeats",  # what follows the cursor says it already
    "unsure",  # the model is not confident enough
    "tiny",  # to type it is no more than to accept it
]

_WORD = re.compile(r"\w")
_INSIDE_WORD = re.compile(r"\w\w")
# What an editor may have put behind the cursor, or what closes a line: no code of its own.
_ENDS = re.compile(r"[\s)\]}\"'`,:;]*(?:#.*)?")
NEXT = 4_000  # characters behind the cursor in which the next line is looked for


def before_asking(
    prefix: str, suffix: str, *, strings: bool, comments: bool, dismissed: bool
) -> Silence | None:
    """Why the model need not be asked at a cursor, if so.

    `strings` and `comments` say whether suggestions are wanted there, `dismissed` whether
    one was dismissed right here.
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
    """Why a suggestion, tidied already, is not worth being shown, if so.

    A single character is, if it closes the last bracket that is open on its line: not for the
    keystroke, but because the line is then complete and the next can be suggested.
    """
    said = text.strip()
    if not said:
        return "nothing"
    if _follows(text, prefix, suffix):
        return "repeats"
    if confidence < least:
        return "unsure"
    if len(said) < 2 and not _completes(said, prefix, suffix):
        return "tiny"
    return None


def _follows(text: str, prefix: str, suffix: str) -> bool:
    """Whether the rest of the line or, indented alike, the next line that is not blank says it."""
    said, rest = text.strip(), _rest_of_line(suffix)
    goes_on = rest.strip().removeprefix(said)
    # Brackets may well stand twice, or below each other.
    if (
        goes_on != rest.strip()
        and _WORD.search(said)
        and not _INSIDE_WORD.match(said[-1] + goes_on[:1])
    ):
        return True
    below = suffix[len(rest) : len(rest) + NEXT].split("\n")
    next_line = next((line.rstrip() for line in below if line.strip()), "")
    line = prefix[prefix.rfind("\n") + 1 :] + text + rest
    return line.strip("\n").rstrip() == next_line and bool(_WORD.search(next_line))


def _completes(sign: str, prefix: str, suffix: str) -> bool:
    """Whether a sign closes the one bracket that is open on the cursor's line."""
    there = around(prefix[prefix.rfind("\n") + 1 :], _rest_of_line(suffix))
    return there.free == [sign]


def _rest_of_line(suffix: str) -> str:
    end = suffix.find("\n")
    return suffix if end < 0 else suffix[:end]

"""Matches brackets and quotes in a text and in the text around it.

A scanner for code that is still being written: a single-quoted string ends no later than its
line, and the start of a statement closes all brackets. Fields of f-strings count as part of the
string.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from talaria.coder.syntax.lexical import STATEMENT_WORD

# Characters of a prefix searched for open brackets and strings: so many or, from where no top-level
# statement begins among them, up to so many.
BEFORE, FARTHEST = 8_000, 100_000
AFTER = 3_000  # characters of a suffix searched for closing brackets

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_TOKENS = re.compile(
    rf"\\.|\"\"\"|'''|[\"'#\n()\[\]{{}}]|{STATEMENT_WORD}", re.DOTALL | re.MULTILINE
)
_NEXT_STATEMENT = re.compile(rf"(?<=\n){STATEMENT_WORD}", re.MULTILINE)
_TOP_LINE = re.compile(r"^(?:async |def |class |@|import |from )", re.MULTILINE)


@dataclass(frozen=True)
class Delimiters:
    """A pair of brackets or quotes: offsets of both; None for one that is not in the text.

    closing  the closing character or quotes
    quoted   whether it is a bracket inside a string or comment
    """

    opened: int | None
    closed: int | None
    closing: str
    quoted: bool = False

    @property
    def counts(self) -> bool:
        """Whether it is a bracket in code."""
        return self.closing in ")]}" and not self.quoted


@dataclass(frozen=True)
class OpenDelimiters:
    """What is open at a cursor.

    quote   the quotes of the string around it, "#" in a comment, "" in code
    opened  the closing characters of the brackets open before it, outermost first
    closed  the closing brackets after it that match brackets before it, innermost first
    column  the column after the innermost open bracket; 0 if there is none
    """

    quote: str
    opened: tuple[str, ...]
    closed: tuple[str, ...]
    column: int

    @property
    def free(self) -> list[str]:
        """The brackets that a text inserted here may close, outermost first."""
        return list(self.opened[len(self.closed) :])

    def opened_after(self, text: str) -> list[str]:
        """The brackets open after a text inserted here."""
        opened = list(self.opened)
        for pair in pairs(text, self.quote):
            if pair.counts and pair.closed is None:
                opened.append(pair.closing)
            elif pair.counts and pair.opened is None and opened[-1:] == [pair.closing]:
                opened.pop()
        return opened


def around(prefix: str, suffix: str) -> OpenDelimiters:
    """What is open between two texts, judging by their near ends."""
    place, reach = len(prefix) - BEFORE, BEFORE
    while place > 0:
        line = _TOP_LINE.search(prefix, place)
        if line or reach >= FARTHEST:
            place = line.start() if line else place
            break
        reach *= 4
        place = len(prefix) - reach
    near = prefix[max(0, place) :]
    after = suffix[:AFTER]
    if statement := _NEXT_STATEMENT.search(after):
        after = after[: statement.start()]
    return _between(near, after)


@lru_cache(maxsize=4)  # several filters ask about the same position
def _between(near: str, after: str) -> OpenDelimiters:
    opened = [pair for pair in pairs(near) if pair.closed is None]
    quote = next((pair.closing for pair in opened if pair.closing not in ")]}"), "")
    brackets = [pair for pair in opened if pair.counts]
    column = 0
    if brackets and (innermost := brackets[-1].opened) is not None:
        column = innermost - near.rfind("\n", 0, innermost)
    closed = [pair.closing for pair in pairs(after, quote) if pair.counts and pair.opened is None]
    return OpenDelimiters(quote, tuple(pair.closing for pair in brackets), tuple(closed), column)


def pairs(text: str, quote: str = "") -> list[Delimiters]:
    """The brackets and strings of a text that starts inside `quote`, in the order they close.

    Those still open at the end come last, outermost first.
    """
    found: list[Delimiters] = []
    opened = [Delimiters(None, None, quote)] if quote else []
    base = 0  # index in `opened` of the string or comment, if there is one
    for match in _TOKENS.finditer(text):
        token, place = match[0], match.start()
        if quote == "#" and token == "\\\n":
            token = "\n"  # a backslash continues no comment
        if token in _CLOSING:
            opened.append(Delimiters(place, None, _CLOSING[token], bool(quote)))
        elif token in (")", "]", "}"):
            least = base + 1 if quote else 0
            mates = (i for i in reversed(range(least, len(opened))) if opened[i].closing == token)
            mate = next(mates, None)
            begun = None if mate is None else opened[mate].opened
            found.append(Delimiters(begun, place, token, bool(quote)))
            if mate is not None:
                del opened[mate:]
        elif quote and quote != "#" and token.startswith(quote):
            found.append(Delimiters(opened[base].opened, place, quote))
            del opened[base:]
            quote = ""
        elif len(quote) == 1 and token == "\n":
            del opened[base:]
            quote = ""
        elif not quote and token in ("'", '"', "'''", '"""', "#"):
            quote, base = token, len(opened)
            opened.append(Delimiters(place, None, token))
        elif not quote and token[-1].isalpha() and "\\" not in token:
            opened.clear()
    return found + opened

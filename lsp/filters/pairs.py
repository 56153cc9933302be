"""Which brackets and quotes belong together, in a text and in what is around it.

Read sign by sign, for texts that are being written: a string in plain quotes ends with
its line at the latest, and where a statement begins, no bracket is open any more. The
fields of formatted strings are read as parts of the string.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

BEFORE = 8_000  # characters of a prefix in which open brackets and strings are looked for
AFTER = 3_000  # characters of a suffix in which the ends of brackets are looked for

_CLOSING = {"(": ")", "[": "]", "{": "}"}
# Words that stand at the beginning of a line only where no bracket is open.
_STATEMENT = (
    r"^[ \t]*(?:def|class|return|import|raise|try|while|with|pass|break|continue|del|assert"
    r"|global|nonlocal|except|finally|elif)\b"
)
_SIGNS = re.compile(rf"\\.|\"\"\"|'''|[\"'#\n()\[\]{{}}]|{_STATEMENT}", re.DOTALL | re.MULTILINE)
_NEXT_STATEMENT = re.compile(rf"(?<=\n){_STATEMENT}", re.MULTILINE)
_TOP_LINE = re.compile(r"^(?:async |def |class |@|import |from )", re.MULTILINE)


@dataclass(frozen=True)
class Pair:
    """A bracket or a string: where its signs begin, None where a sign is not in the text.

    closing  the sign that closes it
    quoted   whether it is a bracket within a string or a comment
    """

    opened: int | None
    closed: int | None
    closing: str
    quoted: bool = False

    @property
    def counts(self) -> bool:
        """Whether it is a bracket of the code."""
        return self.closing in ")]}" and not self.quoted


@dataclass(frozen=True)
class Around:
    """What is open where a cursor stands.

    quote   the quotes of the string that it stands in, "#" in a comment, "" in code
    opened  the signs that would close the brackets open there, outermost first
    closed  the signs behind the cursor that close brackets from before them, innermost first
    column  how far from the beginning of its line the innermost open bracket ends; 0 if none
    """

    quote: str
    opened: tuple[str, ...]
    closed: tuple[str, ...]
    column: int

    @property
    def free(self) -> list[str]:
        """What a text put there may close, outermost first: what is behind needs the rest."""
        return list(self.opened[len(self.closed) :])

    def opened_after(self, text: str) -> list[str]:
        """What is open behind a text put there."""
        opened = list(self.opened)
        for pair in pairs(text, self.quote):
            if pair.counts and pair.closed is None:
                opened.append(pair.closing)
            elif pair.counts and pair.opened is None and opened[-1:] == [pair.closing]:
                opened.pop()
        return opened


def around(prefix: str, suffix: str) -> Around:
    """What is open between two texts, as far as their near ends tell."""
    near = prefix[-BEFORE:]
    if len(near) < len(prefix) and (line := _TOP_LINE.search(near)):
        near = near[line.start() :]
    behind = suffix[:AFTER]
    if statement := _NEXT_STATEMENT.search(behind):
        behind = behind[: statement.start()]
    return _between(near, behind)


@lru_cache(maxsize=4)  # several filters ask about the same place
def _between(near: str, behind: str) -> Around:
    opened = [pair for pair in pairs(near) if pair.closed is None]
    quote = next((pair.closing for pair in opened if pair.closing not in ")]}"), "")
    brackets = [pair for pair in opened if pair.counts]
    column = 0
    if brackets and (innermost := brackets[-1].opened) is not None:
        column = innermost - near.rfind("\n", 0, innermost)
    closed = [pair.closing for pair in pairs(behind, quote) if pair.counts and pair.opened is None]
    return Around(quote, tuple(pair.closing for pair in brackets), tuple(closed), column)


def pairs(text: str, quote: str = "") -> list[Pair]:
    """The brackets and strings of a text that begins within `quote`, in the order of their ends.

    Those that are still open at its end come last, outermost first.
    """
    found: list[Pair] = []
    opened = [Pair(None, None, quote)] if quote else []
    base = 0  # where among what is open the string or comment is, if there is one
    for match in _SIGNS.finditer(text):
        sign, place = match[0], match.start()
        if sign in _CLOSING:
            opened.append(Pair(place, None, _CLOSING[sign], bool(quote)))
        elif sign in (")", "]", "}"):
            least = base + 1 if quote else 0
            mates = (i for i in reversed(range(least, len(opened))) if opened[i].closing == sign)
            mate = next(mates, None)
            begun = None if mate is None else opened[mate].opened
            found.append(Pair(begun, place, sign, bool(quote)))
            if mate is not None:
                del opened[mate:]
        elif quote and quote != "#" and sign.startswith(quote):
            found.append(Pair(opened[base].opened, place, quote))
            del opened[base:]
            quote = ""
        elif len(quote) == 1 and sign == "\n":
            del opened[base:]
            quote = ""
        elif not quote and sign in ("'", '"', "'''", '"""', "#"):
            quote, base = sign, len(opened)
            opened.append(Pair(place, None, sign))
        elif not quote and sign[-1].isalpha() and "\\" not in sign:
            opened.clear()
    return found + opened

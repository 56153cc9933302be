"""Is a cursor in code, a string or a comment?

Regular expressions scan the text from the front: faster than a parse, and at home in texts that
are broken or still being typed.
"""

from __future__ import annotations

import re
from typing import Literal

Standing = Literal["code", "string", "comment"]

_REACH = 400_000  # characters before a cursor that are scanned
_MAX_DEPTH = 200  # of nested formatted strings, their fields and brackets, as in Python
_TOP_LINE = re.compile(r"^(?:async |def |class |@|import |from )", re.MULTILINE)

# In these patterns, Q stands for a quote. Python before 3.11.5 matches possessive groups wrongly
# (gh-106052), so groups are repeated within atomic ones.
# A string, which ends with its line if it is not closed.
_STRING = r"QQQ(?>(?:[^Q\\]++|\\.|Q(?!QQ))*)QQQ|Q(?!QQ)(?>(?:[^Q\\\n]++|\\.)*)(?:Q|(?=\n))"
# A closed string, possibly a formatted one, with no quotes in its fields.
_SIMPLE = r"""Q(?!QQ)(?>(?:[^Q\\\n{]++|\\[^{]|\{\{|\{[^{}"'\n#]*+\})*)Q"""
_RUN = (
    r"(?>(?:%s|#[^\n]*+(?=\n)"
    + "".join("|" + _SIMPLE.replace("Q", quote) for quote in "\"'")
    + "".join(
        rf"|(?<!\b[fFtT])(?<!\b[fFtT][rR])(?<!\b[rR][fFtT])(?:{_STRING.replace('Q', quote)})"
        for quote in "\"'"
    )
    + ")*)"
)
# Code up to a formatted string that is not simple, an open string, or a comment at the end; in a
# formatted string's field, up to a bracket, a colon or a line break as well.
_CODE = re.compile(_RUN % "[^\"'#]++", re.DOTALL)
_FIELD = re.compile(_RUN % "[^\"'#()\\[\\]{}:\n]++", re.DOTALL)
# The literal text of a formatted string, by its quotes.
_LITERAL = {
    quotes: re.compile(
        rf"(?>(?:{literal}|\\[^{{}}]|\{{\{{|\}}\}})*)".replace("Q", quotes[0]), re.DOTALL
    )
    for literal, both in ((r"[^Q\\\n{}]++", "\" '"), (r"[^Q\\{}]++|Q(?!QQ)", "\"\"\" '''"))
    for quotes in both.split()
}
_FORMATTED = re.compile(r"(?<!\w)(?:[ft]r?|r[ft])$", re.IGNORECASE)


def standing_in(prefix: str, suffix: str) -> Standing:
    """Say what a cursor between two texts is in.

    Docstrings are strings; the fields of formatted strings are code. An unclosed string ends with
    its line, unless it has triple quotes. Of a very long prefix, only the end is scanned, from a
    line that starts a top-level statement.
    """
    place = max(0, len(prefix) - _REACH)
    if place and (line := _TOP_LINE.search(prefix, place)):
        place = line.start()
    # What is open: a formatted string by its quotes, "{" of a field and ":" of its format
    # specification, "(" for any bracket in a field.
    opened: list[str] = []
    while len(opened) < _MAX_DEPTH:
        quote = next((sign for sign in reversed(opened) if sign in _LITERAL), "")
        literal = bool(opened) and opened[-1] in (quote, ":")
        run = (_LITERAL[quote] if literal else _FIELD if opened else _CODE).match(prefix, place)
        place = run.end() if run else place
        if place == len(prefix):
            # What looks like an empty string opens triple quotes if a third one follows.
            tripled = prefix[-2:] in ('""', "''") and suffix[:1] == prefix[-1]
            return "string" if literal or tripled else "code"
        sign = prefix[place]
        if sign in "\"'":
            ends = literal and prefix.startswith(quote, place)
            sign = quote if ends else sign * (3 if prefix.startswith(sign * 3, place) else 1)
            if ends:
                while opened.pop() != quote:
                    pass
            elif literal:  # another kind of quote, in a format specification
                pass
            elif _FORMATTED.search(prefix[max(0, place - 3) : place]):
                opened.append(sign)
            else:
                return "string"
        elif sign == "#":
            return "comment"
        elif sign == "\n":
            if any(len(quote) == 1 for quote in opened if quote in _LITERAL):
                opened.clear()  # a one-line string ends with its line, and all that is open in it
        elif literal:
            if sign == "{":
                opened.append(sign)
            elif sign == "}" and opened[-1] == ":":
                del opened[-2:]
        elif sign == ":":
            opened += sign if opened[-1] == "{" else ""
        elif sign in "([{":
            opened.append("(")
        elif opened[-1] not in _LITERAL:
            opened.pop()
        place += len(sign)
    return "code"

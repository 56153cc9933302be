"""Removes trailing blanks and blank lines."""

from __future__ import annotations

import re

_BEFORE_LINE_END = re.compile(r"[ \t]+(?=\n)")
_TOO_MANY = re.compile(r"\n{4,}(?=[ \t]*\Z)")  # line breaks at the end


def trailing_spaces(text: str, prefix: str, suffix: str) -> str:
    """Remove blanks at the ends of lines, and all whitespace at the end of the suggestion.

    If code follows the cursor on its line, the final blanks stay, and so do line breaks, up to two
    blank lines.
    """
    text = _BEFORE_LINE_END.sub("", text)
    if not suffix.split("\n", 1)[0].strip():
        return text.rstrip(" \t\n")
    return _TOO_MANY.sub("\n\n\n", text)

"""Converts indentation to the file's unit and removes a repeated indentation."""

from __future__ import annotations

import re

from talaria.coder.syntax.standing import standing_in
from talaria.lsp.filters.pairs import around

NEAR = 20_000  # characters on either side of the cursor examined for the unit
TAB = 4  # columns

_INDENTED = re.compile(r"^(\t|  +)[ \t]*\S", re.MULTILINE)
_OPENS = re.compile(r"[:(\[{]\s*(?:#.*)?$")


def indentation(text: str, prefix: str, suffix: str) -> str:
    """Indent with tabs or spaces as the file does, and the first line no deeper than allowed.

    The first line may add to the indentation before the cursor only up to the depth of the line
    above, or one unit more if that opens a block or bracket. The depth of further lines is left
    to the syntax check. Without indented lines nearby, nothing changes.
    """
    *above, begun = prefix[-NEAR:].split("\n")
    unit = _unit("\n".join([*above, *suffix[:NEAR].split("\n")[1:]]))
    first, *further = text.split("\n")
    if begun and not begun.strip() and first.strip():
        lead, code = _split_indent(_in_unit(first, unit))
        missing = _deepest(above, unit, prefix) - _columns(begun)
        while lead and _columns(lead) > missing:
            lead = lead[:-1]
        first = lead + code
    elif not begun:
        first = _in_unit(first, unit)
    return "\n".join([first, *(_in_unit(line, unit) for line in further)])


def _unit(text: str) -> str:
    """A tab or the smallest indentation in spaces; empty if no line is indented."""
    found: list[str] = _INDENTED.findall(text)
    spaces = [blanks for blanks in found if blanks != "\t"]
    if 2 * len(spaces) < len(found):
        return "\t"
    return min(spaces, key=len, default="")


def _in_unit(line: str, unit: str) -> str:
    """A line with its indentation converted between tabs and spaces."""
    blanks, code = _split_indent(line)
    if unit != "\t":
        return (blanks.replace("\t", unit) if unit else blanks) + code
    # Spaces after tabs are alignment.
    return (blanks if "\t" in blanks else blanks.replace(" " * TAB, "\t")) + code


def _split_indent(line: str) -> tuple[str, str]:
    code = line.lstrip(" \t")
    return line[: len(line) - len(code)], code


def _deepest(above: list[str], unit: str, prefix: str) -> int:
    """The deepest column at which the line below may start."""
    last = next((line for line in reversed(above) if line.strip()), "")
    there = around(prefix, "")
    continued = last.endswith("\\") and standing_in(prefix.rstrip()[:-1], "") != "comment"
    if there.quote or continued:
        return NEAR  # no limit, since it is not the start of a statement
    deeper = max(_columns(unit), TAB) * bool(_OPENS.search(last))
    return max(_columns(_split_indent(last)[0]) + deeper, there.column)


def _columns(blanks: str) -> int:
    return len(blanks.replace("\t", " " * TAB))

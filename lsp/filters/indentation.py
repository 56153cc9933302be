"""Indentation in the file's own unit, and not twice."""

from __future__ import annotations

import re

from talaria.lsp.filters.pairs import around

NEAR = 20_000  # characters on either side of the cursor that show the file's unit
TAB = 4  # columns

_INDENTED = re.compile(r"^(\t|  +)[ \t]*\S", re.MULTILINE)
_OPENS = re.compile(r"[:(\[{]\s*(?:#.*)?$")


def indentation(text: str, prefix: str, suffix: str) -> str:
    """Indent with tabs or spaces as the file does, and the first line no further than it may be.

    The first line's indentation stands before the cursor already, but for what the line above
    allows: its own depth, or a unit more if it opens a block or a bracket. Of further lines,
    the depth is for the judge of the syntax. Without indented lines around, nothing changes.
    """
    *above, begun = prefix[-NEAR:].split("\n")
    unit = _unit("\n".join([*above, *suffix[:NEAR].split("\n")[1:]]))
    first, *further = text.split("\n")
    if begun and not begun.strip() and first.strip():
        lead, code = _parted(_in_unit(first, unit))
        missing = _deepest(above, unit, prefix) - _columns(begun)
        while lead and _columns(lead) > missing:
            lead = lead[:-1]
        first = lead + code
    elif not begun:
        first = _in_unit(first, unit)
    return "\n".join([first, *(_in_unit(line, unit) for line in further)])


def _unit(text: str) -> str:
    """A tab, or the fewest spaces that a line of the text begins with; empty if none does."""
    found: list[str] = _INDENTED.findall(text)
    spaces = [blanks for blanks in found if blanks != "\t"]
    if 2 * len(spaces) < len(found):
        return "\t"
    return min(spaces, key=len, default="")


def _in_unit(line: str, unit: str) -> str:
    """A line indented with spaces in a file of tabs, or the other way round, as the file does."""
    blanks, code = _parted(line)
    if unit != "\t":
        return (blanks.replace("\t", unit) if unit else blanks) + code
    # Behind tabs, spaces align.
    return (blanks if "\t" in blanks else blanks.replace(" " * TAB, "\t")) + code


def _parted(line: str) -> tuple[str, str]:
    code = line.lstrip(" \t")
    return line[: len(line) - len(code)], code


def _deepest(above: list[str], unit: str, prefix: str) -> int:
    """The columns that a line below some lines may be indented by."""
    last = next((line for line in reversed(above) if line.strip()), "")
    there = around(prefix, "")
    if there.quote or last.endswith("\\"):
        return NEAR  # no limit: what is indented there is not a statement
    deeper = max(_columns(unit), TAB) * bool(_OPENS.search(last))
    return max(_columns(_parted(last)[0]) + deeper, there.column)


def _columns(blanks: str) -> int:
    return len(blanks.replace("\t", " " * TAB))

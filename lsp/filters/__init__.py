"""What is taken from a suggestion before it is shown.

Each filter is a pure function of a suggested middle and of the texts before and behind the
cursor, lines ending in "\\n", to what of the middle may be offered. A filter takes away and
never adds but indentation, and looks at the near ends of the texts only.
"""

from __future__ import annotations

from collections.abc import Callable

from talaria.lsp.filters.bracket_balance import bracket_balance
from talaria.lsp.filters.indentation import indentation
from talaria.lsp.filters.repeated_lines import repeated_lines
from talaria.lsp.filters.suffix_overlap import suffix_overlap
from talaria.lsp.filters.trailing_spaces import trailing_spaces

Filter = Callable[[str, str, str], str]

FILTERS: tuple[Filter, ...] = (
    indentation,  # first, for lines are compared with their indentation
    repeated_lines,
    bracket_balance,  # what it cuts may leave an end that follows already
    suffix_overlap,
    trailing_spaces,  # last, for every cut may leave blanks
)


def tidy(text: str, prefix: str, suffix: str) -> str:
    """Apply all filters until nothing changes; empty if nothing is left to offer."""
    before = None
    while text != before:
        before = text
        for each in FILTERS:
            text = each(text, prefix, suffix)
    return text if text.strip() else ""

"""Post-processing of a suggestion before it is shown.

Each filter is a pure function from a suggested middle and the texts before and after the cursor
(with "\\n" line endings) to the part of the middle to offer. A filter only removes text, except
that it may convert indentation, and reads only the near ends of the surrounding texts.
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
    indentation,  # first: later filters compare lines with their indentation
    repeated_lines,
    bracket_balance,  # its cut may leave an end that the suffix repeats
    suffix_overlap,
    trailing_spaces,  # last: every cut may leave blanks
)


def tidy(text: str, prefix: str, suffix: str) -> str:
    """Apply all filters until nothing changes; empty if no text is left to offer."""
    before = None
    while text != before:
        before = text
        for each in FILTERS:
            text = each(text, prefix, suffix)
    return text if text.strip() else ""

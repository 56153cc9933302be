"""Closing signs of a suggestion for which nothing is left to close."""

from __future__ import annotations

from talaria.lsp.filters.pairs import around, pairs


def bracket_balance(text: str, prefix: str, suffix: str) -> str:
    """Cut from a closing bracket on that stands behind the cursor already, and a quote likewise.

    What is open before the cursor belongs to the closing brackets behind it, the outermost
    first; only what they leave may be closed by the suggestion. Where nothing behind the
    cursor closes anything, a bracket too many is for the judge of the syntax.
    """
    there = around(prefix, suffix)
    own = pairs(text, there.quote)
    if there.quote and suffix.startswith(there.quote) and there.quote != "#":
        inside = any(pair.closed is None and pair.closing in "\"'''" for pair in own)
        for pair in own:
            if pair.closing == there.quote and pair.opened is None and not inside:
                return text[: pair.closed]
    if len(there.opened_after(text)) >= len(there.closed):
        return text
    free = there.free
    for pair in own:
        if pair.counts and pair.opened is None:
            if free[-1:] == [pair.closing]:
                free.pop()
            elif pair.closing in there.closed:
                return text[: pair.closed]
    return text

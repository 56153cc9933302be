"""Removes closing brackets and quotes that have nothing left to close."""

from __future__ import annotations

from talaria.lsp.filters.pairs import around, pairs


def bracket_balance(text: str, prefix: str, suffix: str) -> str:
    """Cut at a closing bracket or quote that the suffix already has.

    Closing brackets after the cursor match the brackets open before it, outermost first; the
    suggestion may close only the rest. If the suffix closes nothing, an extra bracket is left to
    the syntax check.
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

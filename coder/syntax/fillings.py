"""Plain fillings of a hole: short texts, one of which parses where the surroundings are sound.

They show which errors a middle is to blame for: those that some plain filling avoids.
"""

from __future__ import annotations

from talaria.coder.syntax.lexical import (
    CLOSING,
    STATEMENT_LINE,
    brackets,
    indentation,
    last_line_with_text,
    open_brackets,
)

# Endings of a line that is half written, the plainest first.
_PLAIN = ("", "x", "x:", ":")
# Beginnings of such endings; the brackets that the hole lacks follow.
_STEMS = (
    *("x", "", "()", "'", "x, ", '"', "=x", "x()", "(x)", " import x", " import ", "x import x"),
    *(": x", " as x", " in x", "x=", "x.", " x"),
)
_BRACKET_REACH = 3_000  # characters on either side searched for a bracket's other half


def plain_fillings(prefix: str, suffix: str) -> list[str]:
    """List short texts that could stand in a hole, the most likely first."""
    above, _, line = prefix.rpartition("\n")
    missing = _missing_brackets(prefix, suffix)
    if line.strip():
        ends = ["", ":", ","]
        return list(dict.fromkeys([*_PLAIN, *(x + missing + end for x in _STEMS for end in ends)]))
    # On a line of its own, a filling brings its indentation: that of the line above, a level
    # deeper, or that of the statement below.
    depth = "" if line else indentation(last_line_with_text(above.split("\n")))
    below = None if line else STATEMENT_LINE.search(suffix)
    depths = dict.fromkeys((depth, depth + "    ", below[1] if below else depth))
    # Between whole lines, it brings its line break, too.
    end_of_line = "\n" if not line and suffix.partition("\n")[0].strip() else ""
    found = [
        *(f"{each}{end}" for each in depths for end in ("pass", ")", "]", "}")),
        *(f"{depth}x{missing}{end}" for end in ("", ",", ": x,")),
        *(f"{depth}{header}" for header in ("if x:", "try:", "): x", f"def x{missing}")),
    ]
    return ["", *(filling + end_of_line for filling in found)]


def _missing_brackets(prefix: str, suffix: str) -> str:
    """The brackets that the hole must contain to balance those around it."""
    opened = [bracket for _, bracket in open_brackets(prefix[-_BRACKET_REACH:])]
    closed: list[str] = []
    depth = 0
    for _, bracket in brackets(suffix[:_BRACKET_REACH]):
        depth += 1 if bracket in CLOSING else -1
        if depth < 0:
            closed.append(bracket)
            depth = 0
    # Pair the outermost brackets of both sides; what is left over lacks its other half.
    if len(closed) > len(opened):
        opening = {end: start for start, end in CLOSING.items()}
        return "".join(opening[end] for end in reversed(closed[: len(closed) - len(opened)]))
    return "".join(CLOSING[start] for start in reversed(opened[len(closed) :]))

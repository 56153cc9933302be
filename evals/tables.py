"""Shares with their intervals, and how people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.intervals import Interval, bootstrap


def ratio(
    values: Sequence[float], clusters: Sequence[str], sizes: Sequence[float] | None = None
) -> dict[str, Any]:
    """The sum of values by that of sizes, 1 each if none are given, with its 95 % interval.

    The interval comes from whole clusters drawn anew; both are None of no values.
    """
    if not values:
        return {"share": None, "by_cluster": None}
    whole = len(values) if sizes is None else sum(sizes)
    return {"share": sum(values) / whole, "by_cluster": bootstrap(values, clusters, sizes)}


def between(pair: Interval | None) -> str:
    """An interval of shares, for people."""
    return f"{100 * pair[0]:.1f} – {100 * pair[1]:.1f} %" if pair else "none"


def cells(found: Mapping[str, Any]) -> list[str]:
    """A share and its interval as cells of a table."""
    if found["share"] is None:
        return ["", ""]
    return [f"{found['share']:.1%}", between(found["by_cluster"])]


def provenance(found: Mapping[str, Any]) -> list[str]:
    """Where the figures of a run come from, and what is not there, a line for each."""
    missing, expected = found["missing"], found["expected"]
    lines = [
        f"weights {found['model']['weights'][:12]}, data {found['data'][:12]}, "
        f"{found['environment']['machine']}, code {found['environment']['code']}"
    ]
    if missing:
        lines.insert(0, f"INCOMPLETE: {expected - missing} of {expected} rows, {missing} missing")
    return lines


def columns(rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])],
        ).rstrip()
        for row in rows
    )

"""Shares with their intervals, and how people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from talaria.evals.intervals import Interval, bootstrap

LOOKAHEAD = 8  # the usual one, as `coder.checkpoint.Decoding` has it, which brings torch along


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


def tokens_per_forward(rows: Sequence[Mapping[str, Any]]) -> float:
    """Tokens that were committed, the marks of middles' ends included, by evaluations."""
    committed = sum(row["tokens"] + (row["stopped"] == "eom") for row in rows)
    return float(committed / max(1, sum(row["nfe"] for row in rows)))


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
    given = {name: value for name, value in found["options"].items() if value is not None}
    lines = [
        f"weights {found['model']['weights'][:12]}, data {', '.join(found['files'])} "
        f"({found['data'][:12]}), {found['environment']['machine']}, "
        f"code {found['environment']['code']}",
        "options " + ", ".join(f"{name} {value}" for name, value in given.items()),
        *(
            f"made by: {made['command'] or 'another program than `talaria eval`'}"
            + (f" (commit {made['commit']})" if made["commit"] else "")
            for made in found["made_by"]
        ),
    ]
    if missing:
        lines.insert(0, f"INCOMPLETE: {expected - missing} of {expected} rows, {missing} missing")
    return lines


def rule_of(options: Mapping[str, Any]) -> str:
    """Which tokens a step commits, and how far it looks where that is not the usual distance."""
    others = ("confidence_factor", "entropy_bound", "top_k")
    given = (name for name in others if options.get(name) is not None)
    rule = next((f"{name.replace('_', ' ')} {options[name]}" for name in given), None)
    rule = rule or f"threshold {options['confidence_threshold']}"
    ahead = options.get("lookahead") or LOOKAHEAD
    return rule if ahead == LOOKAHEAD else f"{rule}, {ahead} ahead"


def asked_for(found: Mapping[str, Any]) -> str:
    """What sets a run apart from usual ones, beside its rule; nothing if nothing does."""
    unchecked = ", syntax unchecked" * (found["options"].get("check_syntax") is False)
    return ", true length given" * bool(found.get("oracle_length")) + unchecked


def columns(rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])],
        ).rstrip()
        for row in rows
    )

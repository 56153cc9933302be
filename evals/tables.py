"""Shares with their intervals, formatted for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from talaria.coder.request import Settings
from talaria.evals.intervals import Interval, bootstrap

# Commit rules that the decoder no longer offers; `benchmarks/rules.py` has them.
FORMER_RULES = ("confidence_factor", "entropy_bound", "top_k")


def ratio(
    values: Sequence[float], clusters: Sequence[str], sizes: Sequence[float] | None = None
) -> dict[str, Any]:
    """Divide the sum of values by the sum of sizes (default: 1 each), with a 95 % interval.

    The interval is a bootstrap over clusters. Both are None if there are no values.
    """
    if not values:
        return {"share": None, "by_cluster": None}
    total = len(values) if sizes is None else sum(sizes)
    return {"share": sum(values) / total, "by_cluster": bootstrap(values, clusters, sizes)}


def tokens_per_forward(rows: Sequence[Mapping[str, Any]]) -> float:
    """Divide the committed tokens, `<eom>` included, by the evaluations."""
    committed = sum(row["tokens"] + (row["stopped"] == "eom") for row in rows)
    return float(committed / max(1, sum(row["nfe"] for row in rows)))


def format_interval(pair: Interval | None) -> str:
    """Format an interval of shares in percent."""
    return f"{100 * pair[0]:.1f} – {100 * pair[1]:.1f} %" if pair else "none"


def cells(found: Mapping[str, Any]) -> list[str]:
    """Format a share and its interval as two cells of a table."""
    if found["share"] is None:
        return ["", ""]
    return [f"{found['share']:.1%}", format_interval(found["by_cluster"])]


def suite_of(found: Mapping[str, Any]) -> str:
    """Name a run's suite, and whether it was drawn in held-out or in fresh packages."""
    source = found.get("source")
    return f"{found['suite']} ({source})" if source else str(found["suite"])


def weights_of(model: Mapping[str, Any]) -> str:
    """Name a run's weights by their hash, and the base that they are or adapt."""
    base = model.get("base")
    if not base:
        return f"weights {model['weights'][:12]}"
    named = f"the base {base.get('name', '')} {base['sha256'][:12]}".replace("  ", " ")
    alone = model["weights"] == base["sha256"]
    return f"{named} alone" if alone else f"weights {model['weights'][:12]}, an adapter of {named}"


def provenance(found: Mapping[str, Any]) -> list[str]:
    """List where a run's figures come from and how many rows are missing, one line each."""
    missing, expected = found["missing"], found["expected"]
    rounding = found.get("rounding")
    lines = [
        f"{weights_of(found['model'])}, data {', '.join(found['files'])} "
        f"({found['data'][:12]}), {found['environment']['machine']}, "
        f"code {found['environment']['code']}"
        + (f", 8-bit weights up to {rounding['int8_limit']}" if rounding else ""),
        "options " + listed(found["options"]),
        *(["schedule " + listed(found["schedule"])] if found.get("schedule") else []),
        *(
            f"made by: {made['command'] or 'another program than `talaria eval`'}"
            + (f" (commit {made['commit']})" if made["commit"] else "")
            for made in found["made_by"]
        ),
    ]
    if missing:
        lines.insert(0, f"INCOMPLETE: {expected - missing} of {expected} rows, {missing} missing")
    return lines


def listed(fields: Mapping[str, Any]) -> str:
    """List the names and values of a header's fields that have one."""
    return ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)


def rule_of(found: Mapping[str, Any]) -> str:
    """Name a run's commit rule, and its lookahead where that is not the default.

    That of an open family is the pace and the order of its schedule. Runs of earlier versions may
    have used one of the `FORMER_RULES`.
    """
    options, schedule = found["options"], found.get("schedule")
    if schedule:
        block = f", blocks of {schedule['block']}" if schedule["block"] else ""
        threshold = schedule["threshold"]
        beside = "" if threshold is None else f", threshold {threshold}"
        return f"{schedule['pace']} by {schedule['order']}{block}{beside}"
    former = (name for name in FORMER_RULES if options.get(name) is not None)
    rule = next((f"{name.replace('_', ' ')} {options[name]}" for name in former), None)
    rule = rule or f"threshold {options['confidence_threshold']}"
    default = Settings().lookahead
    ahead = options.get("lookahead") or default
    return rule if ahead == default else f"{rule}, {ahead} ahead"


def special_options(found: Mapping[str, Any]) -> str:
    """Name what sets a run apart from ordinary ones besides its rule; empty if nothing does."""
    options = found["options"]
    until, sizes, cache = (options.get(n) for n in ("until", "sizes", "approximate_cache"))
    parts = [
        f"until {until}" if until else "",
        "true length given" if found.get("oracle_length") else "",
        "syntax unchecked" if options.get("check_syntax") is False else "",
        f"sizes {' '.join(map(str, sizes))}" if sizes else "",
        f"{cache} cache" if cache else "",
    ]
    return "".join(f", {part}" for part in parts if part)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table for the terminal: the first column left-aligned, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])],
        ).rstrip()
        for row in rows
    )

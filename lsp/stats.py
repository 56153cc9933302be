"""`talaria stats`: what became of suggestions on this machine."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from talaria.coder.arguments import Parser
from talaria.coder.errors import UsageError
from talaria.lsp.usage import (
    EDGES,
    FILE,
    KEPT_DAYS,
    LATENCIES,
    Days,
    UsageKey,
    forget,
    read,
    state_folder,
)

PERIODS = {"today": 1, "7 days": 7, "30 days": 30, "all": None}
HEAD = (
    *("", "shown", "accepted", "share (95 %)", "partially", "dismissed"),
    *("characters", "p50 ms", "p95 ms"),
)
Z = 1.959964  # of the normal distribution, for 95 %


def main(argv: list[str]) -> int:
    """Print or delete the counts; exit code 0, even if there are none."""
    args = arguments(argv)
    folder = state_folder()
    path = folder / FILE
    if args.forget:
        forget(folder)
        print(f"Deleted the counts in {path}; running editors keep counting.")
        return 0
    days, today = read(folder), date.today()
    periods = {day_count(args.days): args.days} if args.days else PERIODS
    found = {name: within(days, today, length) for name, length in periods.items()}
    if args.json:
        report = [
            {"period": name, "days": periods[name], **summary(total(pairs)), "by": by(pairs)}
            for name, pairs in found.items()
        ]
        print(json.dumps({"file": str(path), "periods": report}))
        return 0
    if not any(found.values()):
        when = f"in the last {day_count(args.days)}" if args.days else "yet"
        print(f"No suggestions counted {when}; the language server counts them in {path}.")
        return 0
    print(columns([HEAD, *rows(found, by_pair=args.days is not None)]))
    print(
        "\nshare: accepted of shown; characters: accepted ones; p50, p95: half and 95 % of the "
        "suggestions took at most this long."
    )
    print(f"Counted in {path}: numbers only, which never leave this machine.")
    return 0


def arguments(argv: list[str]) -> argparse.Namespace:
    """The parsed options of `talaria stats`; UsageError for invalid ones."""
    parser = Parser(
        prog="talaria stats",
        description="How many suggestions were shown and accepted, and how long they took. "
        "The counts contain no text and never leave this machine.",
    )
    parser.add_argument(
        "--days", type=int, metavar="N", help="only the last N days, by language and trigger"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print JSON")
    shown.add_argument("--forget", action="store_true", help="delete all counts")
    args = parser.parse_args(argv)
    if args.days is not None and not 1 <= args.days <= KEPT_DAYS:
        raise UsageError(
            f"--days is {args.days}; it must be from 1 to {KEPT_DAYS}; older counts are not kept"
        )
    if args.forget and args.days is not None:
        raise UsageError("--forget deletes the counts of all days; use it without --days")
    return args


def day_count(days: int) -> str:
    """A number of days, in words."""
    return "1 day" if days == 1 else f"{days} days"


def within(days: Days, today: date, length: int | None) -> dict[UsageKey, Counter[str]]:
    """The counts by language and trigger over the last `length` days, or all days if None."""
    found: dict[UsageKey, Counter[str]] = {}
    for day, pairs in days.items():
        if length is None or today - timedelta(days=length) < day <= today:
            for pair, counts in pairs.items():
                found.setdefault(pair, Counter()).update(counts)
    return found


def total(pairs: Mapping[UsageKey, Counter[str]]) -> Counter[str]:
    """The counts summed over all languages and triggers."""
    whole: Counter[str] = Counter()
    for counts in pairs.values():
        whole.update(counts)
    return whole


def summary(counts: Counter[str]) -> dict[str, Any]:
    """The figures derived from counts; None where they cannot be derived.

    A suggestion shown before midnight may be accepted after it, so a day can have more accepted
    than shown; its share is then 1.
    """
    shown = counts["shown"]
    accepted = min(counts["accepted"], shown)
    timed = sum(counts[name] for name in LATENCIES)
    return {
        "shown": shown,
        "accepted": counts["accepted"],
        "accepted_share": accepted / shown if shown else None,
        "accepted_interval": wilson(accepted, shown) if shown else None,
        "partially_accepted": counts["partially_accepted"],
        "dismissed": counts["dismissed"],
        "characters_suggested": counts["characters_suggested"],
        "characters_accepted": counts["characters_accepted"],
        "latency_ms": {
            "count": timed,
            "p50": percentile(counts, 0.5),
            "p95": percentile(counts, 0.95),
        },
    }


def by(pairs: Mapping[UsageKey, Counter[str]]) -> list[dict[str, Any]]:
    """The same for each language and trigger."""
    return [
        {"language": language, "trigger": trigger, **summary(counts)}
        for (language, trigger), counts in sorted(pairs.items())
    ]


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Wilson's (1927) 95 % interval for a share, assuming independent trials.

    (h + z²/2 ± z √(h (n - h) / n + z²/4)) / (n + z²), for h hits of n.
    """
    centre = hits + Z**2 / 2
    reach = Z * math.sqrt(hits * (total - hits) / total + Z**2 / 4)
    low, high = ((centre + side * reach) / (total + Z**2) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def percentile(counts: Counter[str], share: float) -> int | None:
    """The latency in milliseconds that this share did not exceed, rounded up to a bucket's edge.

    None if it is beyond the last edge, or if nothing was timed.
    """
    timed = sum(counts[name] for name in LATENCIES)
    so_far = 0
    for edge, name in zip(EDGES, LATENCIES, strict=False):
        so_far += counts[name]
        if timed and so_far >= share * timed:
            return edge
    return None


def rows(found: Mapping[str, Mapping[UsageKey, Counter[str]]], by_pair: bool) -> list[list[str]]:
    """A row of cells per period and, if `by_pair`, per language and trigger."""
    table = []
    for name, pairs in found.items():
        table.append(cells(name, total(pairs)))
        if by_pair:
            table += [cells(f"  {', '.join(pair)}", pairs[pair]) for pair in sorted(pairs)]
    return table


def cells(label: str, counts: Counter[str]) -> list[str]:
    """One row of the table."""
    figures = summary(counts)
    share = ""
    if figures["accepted_interval"]:
        low, high = figures["accepted_interval"]
        share = f"{figures['accepted_share']:.0%} ({low:.0%} – {high:.0%})"
    numbers = ("partially_accepted", "dismissed", "characters_accepted")
    latency = figures["latency_ms"]
    beyond = f"> {EDGES[-1]:,}" if latency["count"] else ""
    return [
        label,
        f"{figures['shown']:,}",
        f"{figures['accepted']:,}",
        share,
        *(f"{figures[name]:,}" for name in numbers),
        *(beyond if latency[p] is None else f"{latency[p]:,}" for p in ("p50", "p95")),
    ]


def columns(table: Sequence[Sequence[str]]) -> str:
    """A text table: the first column left-aligned, all others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in table
    )

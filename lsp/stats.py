"""`talaria stats`: how suggestions fared on this machine, told from its own counts."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from talaria.coder.errors import UsageError
from talaria.lsp.usage import (
    EDGES,
    FILE,
    KEPT_DAYS,
    LATENCIES,
    Days,
    Pair,
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
    """Print the counts, or delete them; 0, also if there are none."""
    args = arguments(argv)
    folder = state_folder()
    path = folder / FILE
    if args.forget:
        forget(folder)
        print(f"No counts are left in {path}; editors that are open go on counting.")
        return 0
    days, today = read(folder), date.today()
    periods = {many(args.days): args.days} if args.days else PERIODS
    found = {name: within(days, today, length) for name, length in periods.items()}
    if args.json:
        report = [
            {"period": name, "days": periods[name], **summary(total(pairs)), "by": by(pairs)}
            for name, pairs in found.items()
        ]
        print(json.dumps({"file": str(path), "periods": report}))
        return 0
    if not any(found.values()):
        when = f"in the last {many(args.days)}" if args.days else "yet"
        print(f"No suggestion was counted {when}; the language server counts them in {path}.")
        return 0
    print(columns([HEAD, *rows(found, by_pair=args.days is not None)]))
    print(
        "\nThe share is what was accepted of what was shown, characters are those accepted; "
        "half took p50 at most, 95 % p95."
    )
    print(f"Counted in {path}: only numbers, and nothing leaves this machine.")
    return 0


def arguments(argv: list[str]) -> argparse.Namespace:
    """The options of `talaria stats`; UsageError for what does not fit."""
    parser = argparse.ArgumentParser(
        prog="talaria stats",
        description="How many suggestions were shown and accepted, and how long they took. "
        "Counted on this machine alone; no text is kept, and nothing leaves it.",
    )
    parser.add_argument(
        "--days", type=int, metavar="N", help="the last N days alone, by language and trigger"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print all of it for programs")
    shown.add_argument("--forget", action="store_true", help="delete all counts")
    args = parser.parse_args(argv)
    if args.days is not None and not 1 <= args.days <= KEPT_DAYS:
        raise UsageError(
            f"--days is {args.days}; it must be from 1 to {KEPT_DAYS}, for older ones are not kept"
        )
    if args.forget and args.days is not None:
        raise UsageError("--forget deletes the counts of all days; give it without --days")
    return args


def many(days: int) -> str:
    """So many days, in words."""
    return "1 day" if days == 1 else f"{days} days"


def within(days: Days, today: date, length: int | None) -> dict[Pair, Counter[str]]:
    """The counts of each language and trigger in the last days, or in all of them."""
    found: dict[Pair, Counter[str]] = {}
    for day, pairs in days.items():
        if length is None or today - timedelta(days=length) < day <= today:
            for pair, counts in pairs.items():
                found.setdefault(pair, Counter()).update(counts)
    return found


def total(pairs: Mapping[Pair, Counter[str]]) -> Counter[str]:
    """The counts of all languages and triggers."""
    whole: Counter[str] = Counter()
    for counts in pairs.values():
        whole.update(counts)
    return whole


def summary(counts: Counter[str]) -> dict[str, Any]:
    """What is told of counts; None is what they cannot tell.

    What was shown before midnight may be accepted after it, so that of a day more may be
    accepted than shown: all of it then.
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


def by(pairs: Mapping[Pair, Counter[str]]) -> list[dict[str, Any]]:
    """The same of each language and trigger."""
    return [
        {"language": language, "trigger": trigger, **summary(counts)}
        for (language, trigger), counts in sorted(pairs.items())
    ]


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927) for a share of trials, as if they were independent.

    (h + z²/2 ± z √(h (n - h) / n + z²/4)) / (n + z²), for h hits of n.
    """
    centre = hits + Z**2 / 2
    reach = Z * math.sqrt(hits * (total - hits) / total + Z**2 / 4)
    low, high = ((centre + side * reach) / (total + Z**2) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def percentile(counts: Counter[str], share: float) -> int | None:
    """Milliseconds that this share took no longer than: the upper edge of where it lies.

    None if it is beyond the last edge, or if nothing was timed.
    """
    timed = sum(counts[name] for name in LATENCIES)
    so_far = 0
    for edge, name in zip(EDGES, LATENCIES, strict=False):
        so_far += counts[name]
        if timed and so_far >= share * timed:
            return edge
    return None


def rows(found: Mapping[str, Mapping[Pair, Counter[str]]], by_pair: bool) -> list[list[str]]:
    """A row of cells for each period, and for each language and trigger if wished."""
    table = []
    for name, pairs in found.items():
        table.append(cells(name, total(pairs)))
        if by_pair:
            table += [cells(f"  {', '.join(pair)}", pairs[pair]) for pair in sorted(pairs)]
    return table


def cells(label: str, counts: Counter[str]) -> list[str]:
    """One row of the table."""
    told = summary(counts)
    share = ""
    if told["accepted_interval"]:
        low, high = told["accepted_interval"]
        share = f"{told['accepted_share']:.0%} ({low:.0%} – {high:.0%})"
    numbers = ("partially_accepted", "dismissed", "characters_accepted")
    latency = told["latency_ms"]
    beyond = f"> {EDGES[-1]:,}" if latency["count"] else ""
    return [
        label,
        f"{told['shown']:,}",
        f"{told['accepted']:,}",
        share,
        *(f"{told[name]:,}" for name in numbers),
        *(beyond if latency[p] is None else f"{latency[p]:,}" for p in ("p50", "p95")),
    ]


def columns(table: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in table
    )

"""Report on latency: percentiles by context and by tokens written, and both modes compared."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from talaria.coder.errors import DataError
from talaria.evals.intervals import percentile
from talaria.evals.jsonl import ResultRow
from talaria.evals.tables import columns, provenance, rule_of, tokens_per_forward
from talaria.evals.timing import ratio_of_times, typical_ms

if TYPE_CHECKING:
    from talaria.coder.page import Section

BASELINE = "ar"
TOKEN_CLASSES = (0, 4, 8, 16, 32)  # upper ends of the classes of middles, in tokens


def figures(head: Mapping[str, Any], rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Compute times of each mode, overall and by class, and the ratio on the same prompts."""
    starts = [row for row in rows if "first_ms" in row]
    requests = [row for row in rows if "elapsed_ms" in row]
    modes = sorted({row["mode"] for row in requests}, key=lambda mode: mode == BASELINE)
    if not requests:
        raise DataError("no requests to report; measure some first")
    loads = [row["load"] for row in requests if row["load"] is not None]
    return {
        **head,
        "load": [min(loads), max(loads)] if loads else None,
        "modes": {mode: mode_figures(mode, requests, starts) for mode in modes},
        "ratio": ratios(requests),
    }


def mode_figures(
    mode: str, requests: Sequence[ResultRow], starts: Sequence[ResultRow]
) -> dict[str, Any]:
    """Compute the figures of a mode; tokens per second count only tokens of middles."""
    rows = [row for row in requests if row["mode"] == mode]
    cold = [row for row in starts if row["mode"] == mode]
    seconds = sum(row["elapsed_ms"] for row in rows) / 1000
    contexts = sorted({row["context"] for row in rows})
    return {
        "all": summary(rows),
        "by_context": {n: summary([row for row in rows if row["context"] == n]) for n in contexts},
        "by_tokens": {
            name: summary(some)
            for name, low, high in token_classes()
            if (some := [row for row in rows if low < row["tokens"] <= high])
        },
        "tokens_per_second": sum(row["tokens"] for row in rows) / seconds,
        "tokens_per_forward": tokens_per_forward(rows),
        "starts": len(cold),
        **{
            name: statistics.median(row[name] for row in cold) if cold else None
            for name in ("load_ms", "first_ms", "again_ms")
        },
        "peak_bytes": max((row["peak_bytes"] for row in cold), default=None),
        "device_bytes": max((row["device_bytes"] or 0 for row in cold), default=0) or None,
    }


def token_classes() -> list[tuple[str, float, float]]:
    """List the classes of middles by tokens written: name, more than, at most."""
    found: list[tuple[str, float, float]] = []
    for low, high in zip((-1, *TOKEN_CLASSES), (*TOKEN_CLASSES, math.inf), strict=True):
        name = f"{high:.0f}" if high - low == 1 else f"{low + 1} – {high:.0f}"
        found.append((f"{low + 1} and more" if high == math.inf else name, low, high))
    return found


def summary(rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Compute percentiles of the requests' times and means of their work."""
    elapsed = [row["elapsed_ms"] for row in rows]
    return {
        "requests": len(rows),
        **{f"p{round(100 * part)}": percentile(elapsed, part) for part in (0.5, 0.95, 0.99)},
        "nfe": statistics.fmean(row["nfe"] for row in rows),
        "tokens": statistics.fmean(row["tokens"] for row in rows),
        "context_tokens": statistics.fmean(row["context_tokens"] for row in rows),
    }


def ratios(requests: Sequence[ResultRow]) -> dict[str, Any]:
    """Compare the other mode to `ar` on the same prompts, by the medians of a prompt's rounds.

    Modes may write middles of different lengths, so there is a ratio per request and one per
    token written.
    """
    rounds: dict[str, dict[str, list[ResultRow]]] = defaultdict(lambda: defaultdict(list))
    for row in requests:
        rounds[row["prompt"]][row["mode"]].append(row)
    pairs = [
        (modes[other], modes[BASELINE])
        for modes in rounds.values()
        for other in modes.keys() - {BASELINE}
        if BASELINE in modes
    ]
    both_wrote = [pair for pair in pairs if pair[0][0]["tokens"] and pair[1][0]["tokens"]]
    found: dict[str, Any] = {}
    for name, some in (("request", pairs), ("token", both_wrote)):
        if some:
            ratio = ratio_of_times(
                [cost(one, name) for one, _ in some],
                [cost(other, name) for _, other in some],
                [one[0]["cluster"] for one, _ in some],
            )
            found[name] = {
                "prompts": ratio["prompts"],
                "ratio": ratio["ratio"],
                "by_cluster": ratio["interval"],
            }
    return found


def cost(rounds: Sequence[ResultRow], unit: str) -> float:
    """Return a prompt's median time, per token if that is the unit."""
    tokens = rounds[0]["tokens"] if unit == "token" else None
    return typical_ms([row["elapsed_ms"] for row in rounds], tokens)


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """Lay out times by mode, context and tokens written, the head first."""
    rows = [["", "requests", "p50 ms", "p95 ms", "p99 ms", "nfe", "tokens"]]
    for mode, part in found["modes"].items():
        classes = [(mode, part["all"])]
        classes += [
            (f"{mode}, context of {n} tokens ({one['context_tokens']:.0f} on average)", one)
            for n, one in part["by_context"].items()
        ]
        classes += [
            (f"{mode}, {name} tokens written", one) for name, one in part["by_tokens"].items()
        ]
        rows += [
            [
                label,
                str(one["requests"]),
                *(f"{one[name]:.0f}" for name in ("p50", "p95", "p99")),
                f"{one['nfe']:.1f}",
                f"{one['tokens']:.1f}",
            ]
            for label, one in classes
        ]
    return rows


def speeds(found: Mapping[str, Any]) -> list[list[str]]:
    """Lay out speed, cold starts and memory by mode, the head first."""
    modes = found["modes"]
    rows = [["", *modes]]
    for label, name, form in (
        ("tokens of middles per second", "tokens_per_second", "{:.0f}"),
        ("tokens per forward", "tokens_per_forward", "{:.2f}"),
        ("fresh processes", "starts", "{}"),
        ("import and load, ms", "load_ms", "{:.0f}"),
        ("first request, ms", "first_ms", "{:.0f}"),
        ("the same request again, ms", "again_ms", "{:.0f}"),
    ):
        cells = [part[name] for part in modes.values()]
        rows.append([label, *("" if cell is None else form.format(cell) for cell in cells)])
    for label, name in (
        ("peak memory, MB", "peak_bytes"),
        ("peak device memory, MB", "device_bytes"),
    ):
        if any(part[name] for part in modes.values()):
            rows.append([label, *(f"{(part[name] or 0) / 1e6:.0f}" for part in modes.values())])
    return rows


def comparison(found: Mapping[str, Any]) -> list[str]:
    """Say how the modes compare on the same prompts, a sentence per unit."""
    lines, other = [], next(iter(found["modes"]))
    for name, part in found["ratio"].items():
        pair = part["by_cluster"]
        interval = f" ({pair[0]:.2f} – {pair[1]:.2f}, 95 % by files)" if pair else ""
        lines.append(
            f"a {name} took {other} {part['ratio']:.2f} times as long as {BASELINE}{interval}, "
            f"{part['prompts']} prompts"
        )
    return lines


def name_of(found: Mapping[str, Any]) -> str:
    """Name a run."""
    return f"latency, {found['model']['name']}, {found['device']}"


def facts(found: Mapping[str, Any]) -> list[str]:
    """List what a reader must know about a run besides its times."""
    plan, options = found["plan"], found["options"]
    lines = [
        f"{plan['prompts']} holes in {found['from']} for each length of context, {plan['rounds']} "
        "rounds, both modes taking turns; one request at a time, each with an empty KV cache",
        f"middles of at most {options['max_tokens']} tokens, at most {options['max_nfe']} "
        "evaluations" + (f", {rule_of(found)}" if "diffuse" in found["modes"] else ""),
        f"{found['threads']} threads",
    ]
    if found["load"]:
        low, high = found["load"]
        lines.append(f"load average, this program included: {low} – {high}")
    return [*lines, *provenance(found)]


def as_text(found: Mapping[str, Any]) -> str:
    """Format the report of a run for the terminal."""
    tables = "\n\n".join(map(columns, (table(found), speeds(found))))
    return "\n".join([name_of(found), *facts(found), "", tables, "", *comparison(found)])


def sections(runs: Sequence[tuple[Mapping[str, Any], Sequence[ResultRow]]]) -> list[Section]:
    """Make the page's sections: for each run, times by context, by tokens written, and overall."""
    from talaria.coder.page import INK, Section, new_figure

    made = []
    for found, rows in runs:
        figure, (contexts, written, times) = new_figure(3, 2.4)
        names = [name for name, *_ in token_classes()]
        written.set_xticks(range(len(names)), names)
        for mode, part in found["modes"].items():
            for axis, name in ((contexts, "by_context"), (written, "by_tokens")):
                some = part[name]
                places = [names.index(key) if key in names else key for key in some]
                typical, slow = ([one[p] for one in some.values()] for p in ("p50", "p95"))
                (line,) = axis.plot(places, typical, "o-", label=f"{mode}, p50")
                axis.plot(places, slow, "o:", color=line.get_color(), label=f"{mode}, p95")
            some = [
                row["elapsed_ms"] for row in rows if row["mode"] == mode and "elapsed_ms" in row
            ]
            times.ecdf(some, label=mode)
        contexts.set_xlabel("tokens of context")
        written.set_xlabel("tokens written")
        times.set_xlabel("milliseconds of a request")
        times.set_ylabel("share of requests")
        for axis in (contexts, written):
            axis.set_ylabel("ms")
            axis.set_ylim(bottom=0)
        for axis in (contexts, written, times):
            axis.legend(fontsize=8, frameon=False, labelcolor=INK)
        made += [
            Section(
                name_of(found),
                "; ".join([*facts(found), *comparison(found)]) + ".",
                [(figure, "Times by length of context, by tokens written, and of all requests")],
                table(found),
            ),
            Section("Speed, cold starts, memory", table=speeds(found)),
        ]
    return made

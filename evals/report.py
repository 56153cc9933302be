"""The third stage: results become figures with intervals, a table, JSON and a page."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coder.errors import DataError, UsageError
from evals.intervals import bootstrap, compare, pass_at_k, wilson
from evals.jsonl import Row, read

SHARES = {
    "passed": "passes the tests",
    "exact": "equals the true middle",
    "exact_stripped": "equals it but for white space at its ends",
    "first_line": "its first line is right",
    "parses": "the file compiles",
    "adds_error": "adds a syntax error",
    "repeats_suffix": "repeats the line after the hole",
}
MEANS = {
    "edit_similarity": "edit similarity",
    "prefix_characters": "characters right from the start",
    "length_error": "characters longer than the true middle",
}
SLOWEST = 0.99


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def figures(header: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of a run: shares and means with 95 % intervals, speed, kinds of failure.

    Rows of one cluster are not independent: `by_cluster` draws whole clusters
    anew; Wilson's interval, given where each problem has one sample, does not.
    """
    if not rows:
        raise DataError("no results to report; score some samples first")
    clusters = [row["cluster"] for row in rows]
    single = len({row["id"] for row in rows}) == len(rows)
    shares = {}
    for name in SHARES:
        values = [row[name] for row in rows if row.get(name) is not None]
        if len(values) != len(rows):
            continue
        shares[name] = {
            "hits": sum(values),
            "share": sum(values) / len(values),
            "wilson": wilson(sum(values), len(values)) if single else None,
            "by_cluster": bootstrap([float(value) for value in values], clusters),
        }
    means = {}
    for name in MEANS:
        values = [row[name] for row in rows]
        means[name] = {"mean": statistics.fmean(values), "by_cluster": bootstrap(values, clusters)}
    by_problem = defaultdict(list)
    for row in rows:
        if row.get("passed") is not None:
            by_problem[row["id"]].append(row["passed"])
    fewest = min(map(len, by_problem.values()), default=0)
    passes = {
        f"pass@{k}": statistics.fmean(pass_at_k(len(p), sum(p), k) for p in by_problem.values())
        for k in (1, 10, 100)
        if k <= fewest
    }
    elapsed = [row["elapsed_ms"] for row in rows]
    return {
        **header,
        "rows": len(rows),
        "problems": len({row["id"] for row in rows}),
        "clusters": len(set(clusters)),
        "shares": shares,
        "means": means,
        "pass_at_k": passes,
        "nfe": statistics.fmean(row["nfe"] for row in rows),
        "tokens_per_forward": sum(r["tokens"] for r in rows) / max(1, sum(r["nfe"] for r in rows)),
        "elapsed_ms": {
            "p50": percentile(elapsed, 0.5),
            "p95": percentile(elapsed, 0.95),
            "p99": percentile(elapsed, SLOWEST),
        },
        "stopped": dict(Counter(row["stopped"] for row in rows).most_common()),
        "verdicts": dict(Counter(row["verdict"] for row in rows if row.get("verdict"))),
    }


def percent(share: float, interval: Sequence[float] | None) -> str:
    """A share with its interval, for people."""
    if interval is None:
        return f"{share:.1%}"
    return f"{share:.1%} ({100 * interval[0]:.1f} – {100 * interval[1]:.1f})"


def name_of(found: Mapping[str, Any]) -> str:
    """What a run is called in tables."""
    options = found["options"]
    oracle = ", true length given" if found.get("oracle_length") else ""
    return f"{found['suite']}, {found['model']['name']}, {options['mode']}{oracle}"


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """The figures of a run as rows of cells, the head first."""
    rows = [["", "share", "Wilson 95 %", "by clusters 95 %"]]
    for name, share in found["shares"].items():
        intervals = (
            f"{100 * pair[0]:.1f} – {100 * pair[1]:.1f} %" if pair else "none"
            for pair in (share["wilson"], share["by_cluster"])
        )
        rows.append([SHARES[name], f"{share['share']:.1%}", *intervals])
    return rows


def as_text(found: Mapping[str, Any]) -> str:
    """The report of a run for the terminal."""
    rows = table(found)
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    model, elapsed = found["model"], found["elapsed_ms"]
    lines = [
        f"{name_of(found)}: {found['rows']} samples of {found['problems']} problems "
        f"in {found['clusters']} clusters",
        f"weights {model['weights'][:12]}, data {found['data'][:12]}, "
        f"isolation {found.get('isolation', 'none needed')}",
        "",
        *(
            f"{row[0]:{widths[0]}}" + "".join(f"  {row[i]:>{widths[i]}}" for i in (1, 2, 3))
            for row in rows
        ),
        "",
        *(f"{name}: {value:.1%}" for name, value in found["pass_at_k"].items()),
        f"mean nfe {found['nfe']:.1f}, tokens per forward {found['tokens_per_forward']:.2f}",
        f"elapsed p50 {elapsed['p50']:.0f} ms, p95 {elapsed['p95']:.0f}, p99 {elapsed['p99']:.0f}",
        "verdicts: " + ", ".join(f"{kind} {n}" for kind, n in found["verdicts"].items()),
        "stopped: " + ", ".join(f"{kind} {n}" for kind, n in found["stopped"].items()),
    ]
    return "\n".join(line for line in lines if line != "verdicts: ")


def report(paths: Sequence[Path], out: Path | None) -> list[dict[str, Any]]:
    """The figures of results files; with `out`, also `report.json` and `report.html` there."""
    found, elapsed = [], {}
    for path in paths:
        header, rows, damaged = read(path)
        if header.get("stage") != "results":
            raise UsageError(f"{path} holds {header.get('stage')}; score it first, then report")
        found.append({**figures(header, rows), "damaged_lines": damaged})
        elapsed[name_of(found[-1])] = [row["elapsed_ms"] for row in rows]
    if out:
        out.mkdir(parents=True, exist_ok=True)
        partial = out / "report.partial"
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, out / "report.json")
        write_report_page(out / "report.html", found, elapsed)
    return found


def write_report_page(
    path: Path, found: Sequence[Mapping[str, Any]], elapsed: Mapping[str, Sequence[float]]
) -> None:
    """Quality against tokens per forward, how long requests took, and why samples failed."""
    from coder.page import INK, Section, new_figure, write_page

    overview = [["run", "passes", "exact", "nfe", "tokens per forward", "p50 ms", "p95 ms"]]
    for run in found:
        passed, exact = (run["shares"].get(name) for name in ("passed", "exact_stripped"))
        overview.append(
            [
                name_of(run),
                percent(passed["share"], passed["by_cluster"]) if passed else "",
                percent(exact["share"], exact["by_cluster"]) if exact else "",
                f"{run['nfe']:.1f}",
                f"{run['tokens_per_forward']:.2f}",
                f"{run['elapsed_ms']['p50']:.0f}",
                f"{run['elapsed_ms']['p95']:.0f}",
            ]
        )
    figure, (axis,) = new_figure(1, 3.2)
    for run in found:
        share = run["shares"].get("passed") or run["shares"]["exact_stripped"]
        low, high = share["by_cluster"] or (share["share"], share["share"])
        axis.errorbar(
            run["tokens_per_forward"],
            100 * share["share"],
            yerr=[[100 * (share["share"] - low)], [100 * (high - share["share"])]],
            fmt="o",
            capsize=3,
            label=name_of(run),
        )
    axis.set_xlabel("tokens per forward")
    axis.set_ylabel("% passed, else exact")
    axis.legend(fontsize=8, frameon=False, labelcolor=INK)
    times, (spread,) = new_figure(1, 2.6)
    for name, values in elapsed.items():
        spread.hist([min(v, 2000) for v in values], bins=50, histtype="step", label=name)
    spread.set_xlabel("milliseconds of a request (2,000 and more together)")
    spread.legend(fontsize=8, frameon=False, labelcolor=INK)
    sections = [
        Section(
            "Overview",
            "Shares with 95 % intervals over clusters of problems drawn anew.",
            [(figure, "Quality against tokens per forward, a point for each run")],
            overview,
        ),
        Section("Time", "", [(times, "Distribution of the time of a request")]),
    ]
    for run in found:
        kinds = [["verdict", "samples"], *([k, str(n)] for k, n in run["verdicts"].items())]
        text = (
            f"{run['rows']} samples of {run['problems']} problems; weights "
            f"{run['model']['weights'][:12]}, data {run['data'][:12]}, isolation "
            f"{run.get('isolation', 'none needed')}, {run['environment']['machine']}, "
            f"code {run['environment']['code']}."
        )
        sections.append(Section(name_of(run), text, table=table(run)))
        if run["verdicts"]:
            sections.append(Section("Verdicts", "", table=kinds))
    write_page(path, "Evaluation", sections)


def compare_runs(first: Path, second: Path) -> str:
    """Two runs on the same problems, side by side, with McNemar's test."""
    (head, rows, _), (other, others, _) = read(first), read(second)
    if head["data"] != other["data"]:
        raise UsageError(
            f"{first} and {second} are of different problems ({head['suite']} {head['data'][:12]}, "
            f"{other['suite']} {other['data'][:12]}); compare runs of the same suite and data"
        )
    if bool(head.get("oracle_length")) != bool(other.get("oracle_length")):
        raise UsageError("one run was given the true lengths, the other was not")
    left, right = ({(row["id"], row["sample"]): row for row in side} for side in (rows, others))
    common = sorted(left.keys() & right.keys())
    if not common:
        raise UsageError(f"{first} and {second} have no problem in common")
    lines = [f"{name_of(head)}  against  {name_of(other)}: {len(common)} samples in common"]
    for name, label in SHARES.items():
        if any(side[key].get(name) is None for side in (left, right) for key in common):
            continue
        found = compare(
            [left[key][name] for key in common],
            [right[key][name] for key in common],
            [left[key]["cluster"] for key in common],
        )
        lines.append(
            f"{label:45} {found.difference:+.1%}"
            + (
                f" ({100 * found.interval[0]:+.1f} – {100 * found.interval[1]:+.1f})"
                if found.interval
                else ""
            )
            + f", only first {found.only_first}, only second {found.only_second}, "
            f"p = {found.p_value:.3g}"
        )
    return "\n".join(lines)

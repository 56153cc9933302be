"""What filled holes came to: shares with intervals beside what luck gives, speed, failures."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from talaria.coder.errors import DataError
from talaria.evals.curves import curves
from talaria.evals.intervals import bootstrap, pass_at_k, percentile, wilson
from talaria.evals.jsonl import Row
from talaria.evals.score import unsolved
from talaria.evals.tables import (
    asked_for,
    between,
    cells,
    columns,
    provenance,
    ratio,
    rule_of,
    tokens_per_forward,
)

if TYPE_CHECKING:
    from talaria.coder.page import Section

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
    "edit_similarity": "edit similarity, 0 to 1",
    "prefix_characters": "characters right from the start",
    "length_error": "characters longer than the true middle",
}
KS = (1, 2, 5, 10, 100)
LENGTHS = (10, 20, 40, 80)  # characters of true middles: the upper ends of classes, and beyond
LUCK = (
    "Luck: what the best single string gives as the answer to every problem, chosen with the "
    "true middles in sight; for tests, what an empty middle gives."
)


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
            "luck": header.get("luck", {}).get(name),
            "wilson": wilson(sum(values), len(values)) if single else None,
            "by_cluster": bootstrap([float(value) for value in values], clusters),
        }
    means = {}
    for name in MEANS:
        values = [row[name] for row in rows]
        means[name] = {"mean": statistics.fmean(values), "by_cluster": bootstrap(values, clusters)}
    elapsed = [row["elapsed_ms"] for row in rows]
    return {
        **header,
        "rows": len(rows),
        "problems": len({row["id"] for row in rows}),
        "clusters": len(set(clusters)),
        "shares": shares,
        "means": means,
        "unsolved": unsolved(rows),
        "pass_at_k": passes([row for row in rows if row.get("passed") is not None]),
        "nfe": statistics.fmean(row["nfe"] for row in rows),
        "tokens_per_forward": tokens_per_forward(rows),
        "by_length": by_length(rows),
        "elapsed_ms": {
            "p50": percentile(elapsed, 0.5),
            "p95": percentile(elapsed, 0.95),
            "p99": percentile(elapsed, 0.99),
        },
        "stopped": dict(Counter(row["stopped"] for row in rows).most_common()),
        "verdicts": dict(Counter(row["verdict"] for row in rows if row.get("verdict"))),
    }


def by_length(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What passes, else is right but for white space, by characters of the true middle."""
    found = []
    for low, high in zip((-1, *LENGTHS), (*LENGTHS, None), strict=True):
        some = [r for r in rows if low < r["true_characters"] <= (high or r["true_characters"])]
        values = [r["exact_stripped"] if r["passed"] is None else r["passed"] for r in some]
        if some:
            shares = ratio(values, [row["cluster"] for row in some])
            found.append({"over": low, "to": high, "rows": len(some), **shares})
    return found


def passes(rows: Sequence[Row]) -> dict[str, Any]:
    """pass@k with intervals over clusters, for each of KS and the most that all problems allow."""
    by_problem = defaultdict(list)
    for row in rows:
        by_problem[row["cluster"], row["id"]].append(row["passed"])
    most = min(map(len, by_problem.values()), default=0)
    return {
        f"pass@{k}": ratio(
            [pass_at_k(len(some), sum(some), k) for some in by_problem.values()],
            [cluster for cluster, _ in by_problem],
        )
        for k in sorted({*KS, most})
        if 0 < k <= most
    }


def name_of(found: Mapping[str, Any]) -> str:
    """What a run is called in tables."""
    return f"{found['suite']}, {found['model']['name']}, {way_of(found)}"


def way_of(found: Mapping[str, Any]) -> str:
    """How a run's middles were written: the mode, its rule, and what else was asked for."""
    options = found["options"]
    rule = f", {rule_of(options)}" if options["mode"] == "diffuse" else ""
    return f"{options['mode']}{rule}{asked_for(found)}"


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """The figures of a run as rows of cells, the head first."""
    rows = [["", "share", "luck", "Wilson 95 %", "by clusters 95 %"]]
    for name, label in SHARES.items():
        if name in found["shares"]:
            part = found["shares"][name]
            luck = "" if part["luck"] is None else f"{part['luck']:.1%}"
            share, by_cluster = cells(part)
            rows.append([label, share, luck, between(part["wilson"]), by_cluster])
    if len(found["pass_at_k"]) > 1:  # else it is the share that passes the tests
        for name, part in found["pass_at_k"].items():
            share, by_cluster = cells(part)
            rows.append([name, share, "", "", by_cluster])
    return rows


def means_table(found: Mapping[str, Any]) -> list[list[str]]:
    """What is not a share, as rows of cells, the head first."""
    rows = [["", "mean", "by clusters 95 %"]]
    for name, label in MEANS.items():
        part = found["means"][name]
        pair = part["by_cluster"]
        rows.append(
            [label, f"{part['mean']:.2f}", f"{pair[0]:.2f} – {pair[1]:.2f}" if pair else "none"]
        )
    return rows


def lengths_table(found: Mapping[str, Any]) -> list[list[str]]:
    """How well middles of each length came out, as rows of cells, the head first."""
    what = "passes" if "passed" in found["shares"] else "equals but for white space"
    rows = [["characters of the true middle", "rows", what, "by clusters 95 %"]]
    for part in found["by_length"]:
        name = f"{part['over'] + 1} – {part['to']}" if part["to"] else f"over {part['over']}"
        rows.append([name, str(part["rows"]), *cells(part)])
    return rows


def facts(found: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a run beside its shares."""
    return [
        f"{found['rows']} samples of {found['problems']} problems in {found['clusters']} clusters",
        f"isolation {found['isolation']}: {', '.join(found['guards'])}"
        if found["isolation"]
        else "no program was run",
        *([found["unsolved"]] if found["unsolved"] else []),
        *provenance(found),
    ]


def as_text(found: Mapping[str, Any]) -> str:
    """The report of a run for the terminal."""
    elapsed = found["elapsed_ms"]
    lines = [
        name_of(found),
        *facts(found),
        "",
        columns(table(found)),
        "",
        columns(means_table(found)),
        "",
        columns(lengths_table(found)),
        "",
        f"mean nfe {found['nfe']:.1f}, tokens per forward {found['tokens_per_forward']:.2f}",
        f"elapsed p50 {elapsed['p50']:.0f} ms, p95 {elapsed['p95']:.0f}, p99 {elapsed['p99']:.0f}",
        "verdicts: " + ", ".join(f"{kind} {n}" for kind, n in found["verdicts"].items()),
        "stopped: " + ", ".join(f"{kind} {n}" for kind, n in found["stopped"].items()),
    ]
    return "\n".join(line for line in lines if line != "verdicts: ")


def overview(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line for each run, the head first: passes and exact matches, each beside luck."""
    rows = [
        ["run", "passes", "luck", "exact", "luck", "nfe", "tokens per forward", "p50 ms", "p95 ms"]
    ]
    for run in runs:
        row = [name_of(run)]
        for name in ("passed", "exact_stripped"):
            part = run["shares"].get(name)
            if part is None:
                row += ["", ""]
            else:
                share, by_cluster = cells(part)
                luck = "" if part["luck"] is None else f"{part['luck']:.1%}"
                row += [f"{share} ({by_cluster.removesuffix(' %')})", luck]
        elapsed = run["elapsed_ms"]
        row += [f"{run['nfe']:.1f}", f"{run['tokens_per_forward']:.2f}"]
        rows.append([*row, f"{elapsed['p50']:.0f}", f"{elapsed['p95']:.0f}"])
    return rows


def sections(runs: Sequence[tuple[Mapping[str, Any], Sequence[Row]]]) -> list[Section]:
    """Quality against tokens per forward, how long requests took, and why samples failed."""
    from talaria.coder.page import INK, Section, new_figure

    times, (spread,) = new_figure(1, 2.6)
    for number, (run, rows) in enumerate(runs):
        elapsed = [row["elapsed_ms"] for row in rows]
        spread.ecdf(elapsed, color=f"C{number % 10}", label=name_of(run))
    spread.set_xlabel("milliseconds of a request")
    spread.set_ylabel("share of requests")
    spread.legend(fontsize=8, frameon=False, labelcolor=INK)
    found = [
        Section(
            "Overview",
            f"Shares with 95 % intervals over clusters of problems drawn anew. {LUCK}",
            list(curves([run for run, _ in runs]).values()),
            overview([run for run, _ in runs]),
        ),
        Section("Time", "", [(times, "Share of requests that took at most so long")]),
    ]
    if any(run["verdicts"] for run, _ in runs):
        found.append(verdicts([run for run, _ in runs if run["verdicts"]]))
    for run, _ in runs:
        found.append(Section(name_of(run), "; ".join(facts(run)) + ".", table=table(run)))
        found.append(Section("Means", table=means_table(run)))
        found.append(Section("By length", table=lengths_table(run)))
    return found


def verdicts(runs: Sequence[Mapping[str, Any]]) -> Section:
    """What became of each run's programs, as stacked bars and in numbers."""
    from talaria.coder.page import INK, Section, new_figure

    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run["verdicts"])
    kinds = sorted(counts, key=lambda kind: (kind != "passed", -counts[kind]))
    figure, (axis,) = new_figure(1, 1.2 + 0.35 * len(runs))
    names = [name_of(run) for run in runs]
    left = [0.0] * len(runs)
    for number, kind in enumerate(kinds):
        widths = [100 * run["verdicts"].get(kind, 0) / run["rows"] for run in runs]
        axis.barh(range(len(runs)), widths, left=left, color=f"C{number % 10}", label=kind)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.set_yticks(range(len(runs)), names)
    axis.invert_yaxis()
    axis.set_xlabel("% of samples")
    axis.legend(
        fontsize=8, frameon=False, labelcolor=INK, ncols=4, loc="lower right", bbox_to_anchor=(1, 1)
    )
    rows = [
        [name, *(str(run["verdicts"].get(kind, 0)) for kind in kinds)]
        for name, run in zip(names, runs, strict=True)
    ]
    return Section(
        "Verdicts",
        "What became of each sample's program; docs/sandbox.md says what the kinds are.",
        [(figure, "Share of samples that passed or failed, by kind of failure")],
        [["run", *kinds], *rows],
    )

"""Report on filled holes: shares with intervals beside what luck gives, speed, failures."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from talaria.coder.errors import DataError
from talaria.evals.curves import curves
from talaria.evals.intervals import bootstrap, pass_at_k, percentile, wilson
from talaria.evals.jsonl import ResultRow
from talaria.evals.score import unsolved
from talaria.evals.tables import (
    cells,
    columns,
    format_interval,
    provenance,
    ratio,
    rule_of,
    special_options,
    suite_of,
    tokens_per_forward,
    weights_of,
)

if TYPE_CHECKING:
    from talaria.coder.page import Section

SHARES = {
    "passed": "passes the tests",
    "exact": "equals the true middle",
    "exact_stripped": "equal ignoring outer white space",
    "first_line": "first line correct",
    "parses": "the file compiles",
    "adds_error": "adds a syntax error",
    "repeats_suffix": "repeats the line after the hole",
}
MEANS = {
    "edit_similarity": "edit similarity, 0 to 1",
    "prefix_characters": "correct characters from the start",
    "length_error": "length error, characters",
}
KS = (1, 2, 5, 10, 100)
LENGTHS = (10, 20, 40, 80, 160, 320)  # upper ends of the classes of true middles, in characters
LUCK = (
    "Luck: the share reached by the best single string as the answer to every problem, chosen "
    "knowing the true middles; for tests, by an empty middle."
)


def figures(header: Mapping[str, Any], rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Compute a run's figures: shares and means with 95 % intervals, speed, kinds of failure.

    Rows of one cluster are not independent: `by_cluster` resamples whole clusters. Wilson's
    interval, given where each problem has one sample, ignores that.
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


def by_length(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """Compute the share that passes (without tests: that is equal) by length of the true middle."""
    found = []
    for low, high in zip((-1, *LENGTHS), (*LENGTHS, None), strict=True):
        some = [r for r in rows if low < r["true_characters"] <= (high or r["true_characters"])]
        values = [r["exact_stripped"] if r["passed"] is None else r["passed"] for r in some]
        if some:
            shares = ratio(values, [row["cluster"] for row in some])
            found.append({"over": low, "to": high, "rows": len(some), **shares})
    return found


def passes(rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Compute pass@k with intervals over clusters, for each k of KS that all problems allow.

    Also for the largest such k.
    """
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
    """Name a run in tables."""
    return f"{suite_of(found)}, {found['model']['name']}, {decoding_of(found)}"


def decoding_of(found: Mapping[str, Any]) -> str:
    """Name how a run's middles were decoded: the mode, its rule, and special options."""
    options = found["options"]
    rule = f", {rule_of(found)}" if options["mode"] == "diffuse" else ""
    return f"{options['mode']}{rule}{special_options(found)}"


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """Lay out a run's shares as rows of cells, the head first."""
    rows = [["", "share", "luck", "Wilson 95 %", "by clusters 95 %"]]
    for name, label in SHARES.items():
        if name in found["shares"]:
            part = found["shares"][name]
            luck = "" if part["luck"] is None else f"{part['luck']:.1%}"
            share, by_cluster = cells(part)
            rows.append([label, share, luck, format_interval(part["wilson"]), by_cluster])
    if len(found["pass_at_k"]) > 1:  # with one sample per problem, pass@1 is the share that passes
        for name, part in found["pass_at_k"].items():
            share, by_cluster = cells(part)
            rows.append([name, share, "", "", by_cluster])
    return rows


def means_table(found: Mapping[str, Any]) -> list[list[str]]:
    """Lay out a run's means as rows of cells, the head first."""
    rows = [["", "mean", "by clusters 95 %"]]
    for name, label in MEANS.items():
        part = found["means"][name]
        pair = part["by_cluster"]
        rows.append(
            [label, f"{part['mean']:.2f}", f"{pair[0]:.2f} – {pair[1]:.2f}" if pair else "none"]
        )
    return rows


def lengths_table(found: Mapping[str, Any]) -> list[list[str]]:
    """Lay out a run's shares by length as rows of cells, the head first."""
    label = "passes" if "passed" in found["shares"] else "equal ignoring outer white space"
    rows = [["characters of the true middle", "rows", label, "by clusters 95 %"]]
    for part in found["by_length"]:
        name = f"{part['over'] + 1} – {part['to']}" if part["to"] else f"over {part['over']}"
        rows.append([name, str(part["rows"]), *cells(part)])
    return rows


def facts(found: Mapping[str, Any]) -> list[str]:
    """List what a reader must know about a run besides its shares."""
    return [
        f"{found['rows']} samples of {found['problems']} problems in {found['clusters']} clusters",
        f"isolation {found['isolation']}: {', '.join(found['guards'])}"
        if found["isolation"]
        else "no program was run",
        *([found["unsolved"]] if found["unsolved"] else []),
        *provenance(found),
    ]


def as_text(found: Mapping[str, Any]) -> str:
    """Format the report of a run for the terminal."""
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
    """Lay out all runs, one per row, the head first: passes and exact matches, each with luck."""
    rows = [
        [
            *("run", "passes", "luck", "exact", "luck", "compiles", "edit similarity"),
            *("nfe", "tokens per forward", "p50 ms", "p95 ms"),
        ]
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
        row += [f"{run['shares']['parses']['share']:.1%}"]
        row += [f"{run['means']['edit_similarity']['mean']:.2f}"]
        elapsed = run["elapsed_ms"]
        row += [f"{run['nfe']:.1f}", f"{run['tokens_per_forward']:.2f}"]
        rows.append([*row, f"{elapsed['p50']:.0f}", f"{elapsed['p95']:.0f}"])
    return rows


def sections(runs: Sequence[tuple[Mapping[str, Any], Sequence[ResultRow]]]) -> list[Section]:
    """Make the page's sections: quality against speed, times, failures, then each run."""
    from talaria.coder.page import INK, Section, new_figure

    times, (spread,) = new_figure(1, 2.6)
    for number, (run, rows) in enumerate(runs):
        elapsed = [row["elapsed_ms"] for row in rows]
        spread.ecdf(elapsed, color=f"C{number % 10}", label=name_of(run))
    spread.set_xlabel("milliseconds of a request")
    spread.set_ylabel("share of requests")
    spread.legend(fontsize=8, frameon=False, labelcolor=INK)
    models = {f"{run['model']['name']}: {weights_of(run['model'])}": None for run, _ in runs}
    found = [
        Section(
            "Overview",
            f"{'; '.join(models)}. Shares with 95 % bootstrap intervals over clusters of problems. "
            f"{LUCK}",
            list(curves([run for run, _ in runs]).values()),
            overview([run for run, _ in runs]),
        ),
        Section("Time", "", [(times, "Share of requests that took at most this long")]),
    ]
    if any(run["verdicts"] for run, _ in runs):
        found.append(verdict_section([run for run, _ in runs if run["verdicts"]]))
    for run, _ in runs:
        found.append(Section(name_of(run), "; ".join(facts(run)) + ".", table=table(run)))
        found.append(Section("Means", table=means_table(run)))
        found.append(Section("By length", table=lengths_table(run)))
    return found


def verdict_section(runs: Sequence[Mapping[str, Any]]) -> Section:
    """Make the section on each run's verdicts, as stacked bars and in numbers."""
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
        "The verdict on each sample's program; docs/sandbox.md explains the kinds.",
        [(figure, "Share of samples by verdict")],
        [["run", *kinds], *rows],
    )

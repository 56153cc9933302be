"""Report on simulated typing: figures with intervals over files, tables, plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from talaria.coder.errors import DataError
from talaria.evals.intervals import percentile
from talaria.evals.jsonl import ResultRow
from talaria.evals.tables import cells, columns, provenance, ratio, suite_of

if TYPE_CHECKING:
    from talaria.coder.page import Section

CONFIDENCES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # thresholds of the precision table
PERCENTILES = (0.5, 0.95, 0.99)
WARM = 0.5  # share of its context that a warm request finds in the KV cache
SHARES = {
    "completed": "characters completed",
    "keystrokes_saved": "keystrokes saved",
    "line_right": "requests at a line's start with the line right",
    "shown": "requests with a suggestion",
    "accepted": "suggestions accepted",
    "adds_error": "suggestions that add a syntax error",
}
RULES = (
    "Regions of files that the model has not seen are retyped. A suggestion is accepted with one "
    "keystroke if all of it, or its first line, is what comes next and is longer than one "
    "character; indentation counts on neither side. The figures are upper bounds for people."
)


def figures(head: Mapping[str, Any], rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Compute a run's figures, with 95 % bootstrap intervals over files.

    `precision` has, for each confidence, how many suggestions of at least that confidence were
    shown and the share of them that was accepted.
    """
    if not rows:
        raise DataError("no regions to report; type some first")
    clusters = [row["cluster"] for row in rows]
    characters = [row["characters"] for row in rows]
    requests = [{**r, "cluster": row["cluster"]} for row in rows for r in row["requests"]]
    shown = [request for request in requests if request["shown"]]
    starts = [request for request in requests if request["line_start"]]
    saved = [row["characters"] - row["keystrokes"] for row in rows]
    warm = [request for request in requests if request["reused"] >= WARM]
    loads = [row["load"] for row in rows if row["load"] is not None]
    return {
        **head,
        "load": [min(loads), max(loads)] if loads else None,
        "regions": len(rows),
        "clusters": len(set(clusters)),
        "characters": sum(characters),
        "requests": len(requests),
        "shares": {
            "completed": ratio([row["completed"] for row in rows], clusters, characters),
            "keystrokes_saved": ratio(saved, clusters, characters),
            "line_right": share_of(starts, lambda r: r["line_right"]),
            "shown": share_of(requests, lambda r: r["shown"] > 0),
            "accepted": share_of(shown, lambda r: r["accepted"] > 0),
            "adds_error": share_of(shown, lambda r: not r["clean"]),
        },
        "precision": [
            {"confidence": edge, "shown": len(some), **share_of(some, lambda r: r["accepted"] > 0)}
            for edge in CONFIDENCES
            for some in [[r for r in shown if r["confidence"] >= edge]]
        ],
        "requests_per_character": len(requests) / sum(characters),
        "nfe": sum(request["nfe"] for request in requests) / len(requests),
        "elapsed_ms": times(requests),
        "warm": {"requests": len(warm), "elapsed_ms": times(warm)},
    }


def times(requests: Sequence[ResultRow]) -> dict[str, float | None]:
    """Compute percentiles of the requests' times, in milliseconds; None without requests."""
    elapsed = [request["elapsed_ms"] for request in requests]
    return {
        f"p{round(100 * share)}": percentile(elapsed, share) if elapsed else None
        for share in PERCENTILES
    }


def share_of(
    requests: Sequence[ResultRow], condition: Callable[[ResultRow], bool]
) -> dict[str, Any]:
    """Compute the share of requests that satisfy a condition, with its interval."""
    clusters = [request["cluster"] for request in requests]
    return ratio([float(condition(request)) for request in requests], clusters)


def name_of(found: Mapping[str, Any]) -> str:
    """Name a run in tables."""
    return f"{suite_of(found)}, {found['model']['name']}, {found['options']['mode']}"


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """Lay out a run's shares as rows of cells, the head first."""
    rows = [["", "share", "by files 95 %"]]
    for name, label in SHARES.items():
        rows.append([label, *cells(found["shares"][name])])
    return rows


def precision_table(found: Mapping[str, Any]) -> list[list[str]]:
    """Lay out accepted suggestions by confidence as rows of cells, the head first."""
    rows = [["confidence at least", "shown", "accepted", "by files 95 %"]]
    rows += [[f"{p['confidence']:g}", str(p["shown"]), *cells(p)] for p in found["precision"]]
    return rows


def facts(found: Mapping[str, Any]) -> list[str]:
    """List what a reader must know about a run besides its shares."""
    options, load, warm = found["options"], found["load"], found["warm"]
    return [
        f"{found['regions']} regions of {found['clusters']} held-out files, "
        f"{found['characters']} characters; asked where a line's code begins, after an accepted "
        f"suggestion, and every {found['every']} characters: {found['requests']} requests",
        f"at most {options['max_tokens']} tokens and "
        f"{options['max_nfe']} evaluations per request; mean nfe {found['nfe']:.1f}",
        f"a request took {format_times(found['elapsed_ms'])}",
        *(
            [
                f"the {warm['requests']} requests that found at least {WARM:.0%} of their context "
                f"in the KV cache took {format_times(warm['elapsed_ms'])}"
            ]
            if warm["requests"]
            else []
        ),
        *(["load average {} – {}".format(*load)] if load else []),
        f"{found['threads']} threads",
        *provenance(found),
    ]


def format_times(elapsed: Mapping[str, float]) -> str:
    """Format percentiles of times."""
    first, *others = elapsed.items()
    return ", ".join(["{} {:.0f} ms".format(*first), *("{} {:.0f}".format(*o) for o in others)])


def as_text(found: Mapping[str, Any]) -> str:
    """Format the report of a run for the terminal."""
    tables = "\n\n".join(map(columns, (table(found), precision_table(found))))
    return "\n".join([name_of(found), *facts(found), "", tables])


def sections(runs: Sequence[tuple[Mapping[str, Any], Sequence[ResultRow]]]) -> list[Section]:
    """Make the page's sections: shares side by side, precision, times, then each run."""
    from talaria.coder.page import INK, Section, new_figure

    share_figure, (bars,) = new_figure(1, 2.6)
    precision_figure, (line,) = new_figure(1, 2.8)
    time_figure, (wait,) = new_figure(1, 2.6)
    for number, (found, rows) in enumerate(runs):
        name = name_of(found)
        for place, part in enumerate(("completed", "keystrokes_saved", "line_right", "accepted")):
            point = found["shares"][part]
            if point["share"] is None:
                continue
            low, high = point["by_cluster"] or [point["share"]] * 2
            where = place + 0.12 * (number - (len(runs) - 1) / 2)
            bars.plot([where] * 2, [100 * low, 100 * high], color=f"C{number}")
            label = None if place else name
            bars.plot(where, 100 * point["share"], "o", color=f"C{number}", label=label)
        some = [p for p in found["precision"] if p["share"] is not None]
        line.plot(
            [p["confidence"] for p in some],
            [100 * p["share"] for p in some],
            "o-",
            color=f"C{number}",
            label=name,
        )
        for p in some:
            line.annotate(
                str(p["shown"]),
                (p["confidence"], 100 * p["share"]),
                (4, 4),
                textcoords="offset points",
                fontsize=7,
                color=f"C{number}",
            )
            if p["by_cluster"]:
                edges = [100 * edge for edge in p["by_cluster"]]
                line.plot([p["confidence"]] * 2, edges, color=f"C{number}", alpha=0.5)
        elapsed = [request["elapsed_ms"] for row in rows for request in row["requests"]]
        wait.ecdf(elapsed, label=name, color=f"C{number}")
    bars.set_xticks(range(4), ["completed code", "keystrokes saved", "line right", "accepted"])
    bars.set_ylabel("%")
    line.set_xlabel("least confidence (the number at each point: suggestions shown)")
    line.set_ylabel("% accepted")
    wait.set_xscale("log")
    wait.set_xlabel("milliseconds of a request")
    wait.set_ylabel("share of requests")
    for axis in (bars, line, wait):
        axis.legend(fontsize=8, frameon=False, labelcolor=INK)
    return [
        Section("Typing", RULES, [(share_figure, "Shares with 95 % intervals over files")]),
        Section(
            "Typing: accepted suggestions by confidence",
            "Confidence: the product of the probabilities at which a suggestion's tokens, its "
            "`<eom>` included, were committed.",
            [(precision_figure, "Share of accepted suggestions by least confidence")],
        ),
        Section(
            "Typing: time",
            "Requests reuse the KV cache of earlier ones, as in an editor.",
            [(time_figure, "Share of requests that took at most this long")],
        ),
        *(
            section
            for found, _ in runs
            for section in (
                Section(name_of(found), "; ".join(facts(found)) + ".", table=table(found)),
                Section("By confidence", table=precision_table(found)),
            )
        ),
    ]

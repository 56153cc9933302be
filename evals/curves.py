"""Plot quality against tokens per forward: one figure per suite, one point per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from talaria.evals.tables import rule_of, special_options, suite_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RunFigures = Mapping[str, Any]  # the figures of one run, as the report stores them


def curves(runs: Sequence[RunFigures]) -> dict[str, tuple[Figure, str]]:
    """Plot each suite of filled holes; figures and their descriptions by suite (and source).

    A line joins runs of the same weights and mode. In `diffuse` mode each of its points is
    labelled with the commit rule.
    """
    suites = sorted(set(map(suite_of, runs)))
    return {suite: plot_suite([run for run in runs if suite_of(run) == suite]) for suite in suites}


def plot_suite(runs: Sequence[RunFigures]) -> tuple[Figure, str]:
    """Plot the runs of one suite by the same measure, with 95 % intervals over clusters."""
    from talaria.coder.page import INK, new_figure

    measure = "passed" if all("passed" in run["shares"] for run in runs) else "exact_stripped"
    figure, (axis,) = new_figure(1, 3.2)
    lines = groupby(sorted(runs, key=line_of), line_of)
    for number, ((line, _), some) in enumerate(lines):
        points = sorted(some, key=lambda run: float(run["tokens_per_forward"]))
        parts = [run["shares"][measure] for run in points]
        shares = [100 * part["share"] for part in parts]
        spans = [part["by_cluster"] or (part["share"], part["share"]) for part in parts]
        low = [share - 100 * span[0] for share, span in zip(shares, spans, strict=True)]
        high = [100 * span[1] - share for share, span in zip(shares, spans, strict=True)]
        forward = [run["tokens_per_forward"] for run in points]
        style: dict[str, Any] = {"fmt": "o-", "capsize": 3, "color": f"C{number % 10}"}
        axis.errorbar(forward, shares, yerr=[low, high], label=line, **style)
        for run, *place in zip(points, forward, shares, strict=True):
            curve = len(points) > 1 and run["options"]["mode"] == "diffuse"
            axis.annotate(
                rule_of(run).removeprefix("threshold ") if curve else "",
                place,
                (4, 4),
                textcoords="offset points",
                fontsize=8,
                color=INK,
            )
    luck = {run["shares"][measure]["luck"] for run in runs} - {None}
    for share in luck:
        axis.axhline(100 * share, color=INK, linewidth=0.8, linestyle=":")
    label = {"passed": "passes"}.get(measure, "equal ignoring outer white space")
    suite = suite_of(runs[0])
    axis.set_title(suite, fontsize=9, loc="left")
    axis.set_xlabel("tokens per forward" + " (dotted: luck)" * bool(luck))
    axis.set_ylabel(f"% {label}")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, frameon=False, labelcolor=INK)
    return figure, f"{suite}: % {label} against tokens per forward, one point per run"


def line_of(run: RunFigures) -> tuple[str, str]:
    """Return what the runs of one line have in common: its label, and the weights."""
    model = run["model"]
    return f"{model['name']}, {run['options']['mode']}{special_options(run)}", model["weights"]

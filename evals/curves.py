"""Quality against tokens per forward: a picture of each suite, a point for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from talaria.evals.tables import asked_for, rule_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = Mapping[str, Any]


def curves(runs: Sequence[Found]) -> dict[str, tuple[Figure, str]]:
    """A figure and its description for each suite of filled holes, by its name.

    Runs of the same weights in one mode are joined to a curve; in `diffuse` each point is
    labelled by the rule by which tokens are committed.
    """
    suites = sorted({run["suite"] for run in runs})
    return {suite: drawn([run for run in runs if run["suite"] == suite]) for suite in suites}


def drawn(runs: Sequence[Found]) -> tuple[Figure, str]:
    """The runs of a suite, in the same measure, with 95 % intervals over clusters."""
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
        look: dict[str, Any] = {"fmt": "o-", "capsize": 3, "color": f"C{number % 10}"}
        axis.errorbar(forward, shares, yerr=[low, high], label=line, **look)
        for run, *place in zip(points, forward, shares, strict=True):
            curve = len(points) > 1 and run["options"]["mode"] == "diffuse"
            axis.annotate(
                rule_of(run["options"]).removeprefix("threshold ") if curve else "",
                place,
                (4, 4),
                textcoords="offset points",
                fontsize=8,
                color=INK,
            )
    luck = {run["shares"][measure]["luck"] for run in runs} - {None}
    for share in luck:
        axis.axhline(100 * share, color=INK, linewidth=0.8, linestyle=":")
    suite, what = runs[0]["suite"], {"passed": "passes"}.get(measure, "equals but for white space")
    axis.set_title(suite, fontsize=9, loc="left")
    axis.set_xlabel("tokens per forward" + " (dotted: luck)" * bool(luck))
    axis.set_ylabel(f"% {what}")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, frameon=False, labelcolor=INK)
    return figure, f"{suite}: how much {what}, against tokens per forward, a point for each run"


def line_of(run: Found) -> tuple[str, str]:
    """What the runs of a curve have in common: what it is called, and the weights."""
    model = run["model"]
    return f"{model['name']}, {run['options']['mode']}{asked_for(run)}", model["weights"]

"""Stage three: results become figures with intervals, a table, JSON and a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder import files
from talaria.coder.errors import DataError, UsageError
from talaria.evals import holes_report, latency_report, typing_programs, typing_report
from talaria.evals.curves import RunFigures, curves
from talaria.evals.intervals import compare
from talaria.evals.jsonl import ResultRow, differences, read
from talaria.evals.tables import ratio

if TYPE_CHECKING:
    from talaria.coder.page import Section

Header = Mapping[str, Any]


@dataclass(frozen=True)
class ReportKind:
    """The functions that report results of one kind: figures, terminal text, page sections."""

    figures: Callable[[Header, Sequence[ResultRow]], dict[str, Any]]
    as_text: Callable[[RunFigures], str]
    sections: Callable[[Sequence[tuple[RunFigures, Sequence[ResultRow]]]], list[Section]]


HOLES = ReportKind(holes_report.figures, holes_report.as_text, holes_report.sections)
TYPING = ReportKind(typing_report.figures, typing_report.as_text, typing_report.sections)
PROGRAMS = ReportKind(typing_programs.figures, typing_programs.as_text, typing_programs.sections)
LATENCY = ReportKind(latency_report.figures, latency_report.as_text, latency_report.sections)


def kind_of(head: Header) -> ReportKind:
    """Choose the kind of report by a run's suite."""
    return {"typing": TYPING, "programs": PROGRAMS, "latency": LATENCY}.get(head["suite"], HOLES)


def as_text(found: RunFigures) -> str:
    """Format the report of a run for the terminal."""
    return kind_of(found).as_text(found)


def report(paths: Sequence[Path], out: Path | None) -> list[dict[str, Any]]:
    """Compute the figures of result files.

    With `out`, also write `report.json`, `report.html` and one SVG plot per suite of holes there.
    """
    found, runs = [], []
    for path in paths:
        head, rows, damaged = read(path)
        if head["stage"] != "results":
            raise UsageError(f"{path} holds {head['stage']}; score it first, then report")
        missing = head["expected"] - len(rows)
        try:
            figures = kind_of(head).figures(head, rows)
        except KeyError as error:
            raise DataError(f"{path}: there are rows without {error}; make them again") from error
        found.append({**figures, "missing": missing, "damaged_lines": damaged})
        runs.append((found[-1], rows))
    if out:
        from talaria.coder.page import as_svg, write_page

        out.mkdir(parents=True, exist_ok=True)
        files.write(out / "report.json", json.dumps(found, indent=1) + "\n")
        kinds = (HOLES, TYPING, PROGRAMS, LATENCY)
        ordered = sorted(runs, key=lambda run: kinds.index(kind_of(run[0])))
        sections = [
            section
            for kind, some in groupby(ordered, lambda run: kind_of(run[0]))
            for section in kind.sections(list(some))
        ]
        write_page(out / "report.html", "Evaluation", sections)
        holes = [figures for figures, _ in runs if kind_of(figures) is HOLES]
        for suite, (figure, text) in curves(holes).items():
            name = re.sub(r"\W+", "-", suite).strip("-")
            files.write(out / f"{name}.svg", as_svg(figure, text) + "\n")
    return found


def compare_runs(first: Path, second: Path) -> str:
    """Compare two runs on the same problems pair by pair; McNemar's test where it applies.

    UsageError for runs that cannot be compared fairly.
    """
    (head, rows, _), (other, others, _) = read(first), read(second)
    if head["data"] != other["data"]:
        raise UsageError(
            f"{first} and {second} are of different problems ({head['suite']} {head['data'][:12]}, "
            f"{other['suite']} {other['data'][:12]}); compare runs of the same suite and data"
        )
    if bool(head.get("oracle_length")) != bool(other.get("oracle_length")):
        raise UsageError(
            "one run was given the true lengths, the other was not; compare runs made alike"
        )
    if head["suite"] == "latency":
        raise UsageError(
            "the machine may have been in different states during two runs; compare modes within "
            "one run"
        )
    if head.get("every") != other.get("every"):
        raise UsageError(
            f"one run asked every {head.get('every')} characters, the other every "
            f"{other.get('every')}; compare runs with the same --every"
        )
    left, right = ({(row["id"], row["sample"]): row for row in side} for side in (rows, others))
    common = sorted(left.keys() & right.keys())
    if not common:
        raise UsageError(f"{first} and {second} have no problem in common")
    pairs = [(left[key], right[key]) for key in common]
    if head["suite"] == "typing":
        name_of, lines = typing_report.name_of, compare_typing(pairs)
    else:
        name_of, lines = holes_report.name_of, compare_holes(pairs)
    title = f"{name_of(head)}  against  {name_of(other)}: {len(common)} in common"
    counts = [f"{len(side)} of {each['expected']}" for side, each in ((left, head), (right, other))]
    if any(len(common) < each["expected"] for each in (head, other)):
        title += f" (INCOMPLETE: the first has {counts[0]}, the second {counts[1]})"
    differing = [
        f"differs: {name}: {format_value(one)}  against  {format_value(two)}"
        for name, (one, two) in differences(head, other).items()
    ]
    return "\n".join([title, *differing, *lines])


def format_value(value: object) -> str:
    """Format the value of a header field."""
    return "nothing" if value is None else value if isinstance(value, str) else json.dumps(value)


def compare_holes(pairs: Sequence[tuple[ResultRow, ResultRow]]) -> list[str]:
    """Compare each share that both runs have, one line each.

    With McNemar's test where every problem has one sample.
    """
    single = len({one["id"] for one, _ in pairs}) == len(pairs)
    lines = []
    for name, label in holes_report.SHARES.items():
        if any(row.get(name) is None for pair in pairs for row in pair):
            continue
        found = compare(
            [one[name] for one, _ in pairs],
            [two[name] for _, two in pairs],
            [one["cluster"] for one, _ in pairs],
        )
        line = f"{label:45} {found.difference:+.1%}{signed(found.interval)}"
        if single:
            line += (
                f", only first {found.only_first}, only second {found.only_second}, "
                f"p = {found.p_value:.3g}"
            )
        lines.append(line)
    return lines


def compare_typing(pairs: Sequence[tuple[ResultRow, ResultRow]]) -> list[str]:
    """Compare the figures of typed regions, one line each."""
    clusters = [one["cluster"] for one, _ in pairs]
    characters = [one["characters"] for one, _ in pairs]
    lines = []
    for label, field, sign in (
        ("characters completed", "completed", 1),
        ("keystrokes saved", "keystrokes", -1),
    ):
        differences = [sign * (two[field] - one[field]) for one, two in pairs]
        found = ratio(differences, clusters, characters)
        lines.append(f"{label:45} {found['share']:+.1%}{signed(found['by_cluster'])}")
    return lines


def signed(pair: tuple[float, float] | None) -> str:
    """Format the interval of a difference in points; empty if there is none."""
    return f" ({100 * pair[0]:+.1f} – {100 * pair[1]:+.1f})" if pair else ""

"""The second stage: samples become results. Texts are compared and programs run; no model."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from talaria.coder.errors import DataError, UsageError
from talaria.coder.syntax.judge import judge
from talaria.evals.generate import progress
from talaria.evals.jsonl import FORMAT, Results, Row, environment, made_by, read
from talaria.evals.sandbox import PATIENCE, Level, Limits, Program, Sandbox, Verdict
from talaria.evals.suites import Problem, Suite, compiles, empty_passes

# A program is called endless when it has computed so many times as long as its true
# solution, and so many times as long as true solutions mostly do.
SLOW = 20
LEAST = 100
LONGEST = 60.0  # seconds that a true solution may take
PATIENT = 12.0  # seconds on the clock that every program has: others may keep the machine busy


def score(
    samples: Path, suite: Suite, path: Path, workers: int, require: Level | str | None = None
) -> Results:
    """Compare and run every sample and append what came out; what is there is not redone.

    UsageError if the samples are of other problems than the suite's, DataError if
    the file has results of other texts.
    """
    head, rows, _ = read(samples)
    if head["stage"] != "samples":
        raise UsageError(f"{samples} holds {head['stage']}, not samples")
    if head["data"] != suite.digest():
        raise UsageError(
            f"{samples} was made from other problems than {', '.join(suite.files)} "
            f"({head['suite']} {head['data'][:12]}, this is {suite.name} {suite.digest()[:12]}); "
            "give the file that the samples were made from"
        )
    problems, here = {problem.id: problem for problem in suite.problems}, made_by()
    wanted = {(row["id"], row["sample"]): row for row in rows}
    unknown = [row["id"] for row in rows if row["id"] not in problems]
    if unknown:
        raise DataError(
            f"{samples}: {len(unknown)} rows are of no problem in {', '.join(suite.files)}, "
            f"the first of {unknown[0]!r}; take them out"
        )
    tested = any(problem.test is not None for problem in suite.problems)
    with Sandbox(workers=workers, require=require if tested else None) as sandbox:
        if tested:
            print(f"isolation: {sandbox.described()}", file=sys.stderr)
        header = {
            **head,
            "format": FORMAT,
            "stage": "results",
            "scorer": environment(),
            "made_by": [*head["made_by"], *([here] if here not in head["made_by"] else [])],
            "isolation": sandbox.level.name if tested else None,
            "guards": list(sandbox.guards) if tested else [],
            "luck": luck(suite),
        }
        results = Results(path, header)
        try:
            kept = {(row["id"], row["sample"]): row["text"] for row in results.rows}
            changed = [key for key, text in kept.items() if text != wanted.get(key, {}).get("text")]
            if changed:
                raise DataError(
                    f"{path}: {len(changed)} results are of other texts than {samples} has, the "
                    f"first of {changed[0][0]!r}; choose another --out, or delete it"
                )
            rest = {key: row for key, row in wanted.items() if key not in kept}
            solutions = true_solutions(suite.problems, sandbox) if rest else {}
            bar = progress(len(wanted), "sample")
            bar.update(len(wanted) - len(rest))
            what = "passed" if tested else "exact_stripped"
            right = sum(row[what] for row in results.rows)
            for row in judged(rest, problems, sandbox, solutions):
                results.append(row)
                right += row[what]
                bar.update()
                share = right / len(results.rows)
                bar.set_postfix_str(f"{what.partition('_')[0]} {share:.1%}", refresh=False)
            bar.close()
            if said := unsolved(results.rows):
                print(said, file=sys.stderr)
        finally:
            results.close()
    return results


def luck(suite: Suite) -> dict[str, float | None]:
    """What is reached without reading the problems, as shares: a floor for every figure.

    Of exact matches and first lines: by the best single string as the answer to every
    problem, for each figure another one. Of tests: by nothing in the hole, None where not known.
    """
    total = len(suite.problems)
    views: dict[str, Callable[[str], str]] = {
        "exact": str,
        "exact_stripped": str.strip,
        "first_line": first_line,
    }
    passes = empty_passes(suite)
    return {"passed": None if passes is None else passes / total} | {
        name: Counter(view(p.solution) for p in suite.problems).most_common(1)[0][1] / total
        for name, view in views.items()
    }


def true_solutions(problems: Iterable[Problem], sandbox: Sandbox) -> dict[str, Verdict]:
    """What becomes of each problem's true solution here, by problem.

    Holes in one task share their solution, which runs once.
    """
    programs: dict[str, list[Problem]] = {}
    for problem in problems:
        if problem.test is not None:
            programs.setdefault(problem.program(problem.solution), []).append(problem)
    asked = (
        (text, Program(text, shared[0].test or ""), Limits(seconds=LONGEST))
        for text, shared in sorted(programs.items())
    )
    return {
        problem.id: verdict
        for text, verdict in sandbox.run_all(asked)
        for problem in programs[text]
    }


def time_limits(solutions: Mapping[str, Verdict]) -> dict[str, float]:
    """Seconds for each program by the times of true solutions here, by problem.

    A slow machine is slow for both, so it changes no verdict. Most solutions take no
    longer than their process takes to start, so the median also bounds what chance
    does to one of them.
    """
    if not solutions:
        return {}
    least = LEAST * statistics.median(verdict.seconds for verdict in solutions.values())
    return {name: max(least, SLOW * verdict.seconds) for name, verdict in solutions.items()}


def unsolved(rows: Iterable[Row]) -> str:
    """Problems whose true solution does not pass here, in words; empty if all do."""
    kinds = {row["id"]: row["solution"] for row in rows if row["solution"] is not None}
    wrong = Counter(kind for kind in kinds.values() if kind != "passed")
    if not wrong:
        return ""
    told = ", ".join(f"{kind} {count}" for kind, count in wrong.most_common())
    return (
        f"{wrong.total()} of {len(kinds)} true solutions do not pass here ({told}): "
        "verdicts on these problems say nothing"
    )


def judged(
    rows: Mapping[tuple[str, int], Row],
    problems: Mapping[str, Problem],
    sandbox: Sandbox,
    solutions: Mapping[str, Verdict],
) -> Iterator[Row]:
    """Results of samples, as they come, beside those of true solutions; equal programs run once."""
    limits = time_limits(solutions)
    programs: dict[tuple[str, str], list[Row]] = {}
    for row in rows.values():
        problem = problems[row["id"]]
        if problem.test is None:
            yield {
                **compared(problem, row),
                "passed": None,
                "verdict": None,
                "detail": "",
                "solution": None,
            }
            continue
        programs.setdefault((problem.program(row["text"]), problem.id), []).append(row)
    asked = (
        ((text, name), Program(text, problems[name].test or ""), limited(limits[name]))
        for text, name in programs
    )
    for key, verdict in sandbox.run_all(asked):
        for row in programs[key]:
            yield {
                **compared(problems[row["id"]], row),
                "passed": verdict.status == "passed",
                "verdict": verdict.status,
                "detail": verdict.detail,
                "solution": solutions[row["id"]].status,
            }


def limited(seconds: float) -> Limits:
    """The limits of a program: CPU time decides, the clock ends only what waits."""
    return Limits(seconds=seconds, waits=max(PATIENT, PATIENCE * seconds))


def compared(problem: Problem, row: Row) -> dict[str, Any]:
    """What can be said of a sample without running it."""
    from rapidfuzz.distance import Levenshtein

    raw = str(row["text"])
    text, true = problem.taken(raw), problem.solution
    same = next(
        (i for i, pair in enumerate(zip(text, true, strict=False)) if pair[0] != pair[1]), None
    )
    syntax = judge(problem.prefix, text, problem.suffix)
    return {
        **row,
        "cluster": problem.cluster,
        "exact": text == true,
        "exact_stripped": text.strip() == true.strip(),
        "first_line": first_line(text) == first_line(true),
        "edit_similarity": round(Levenshtein.normalized_similarity(text, true), 4),
        "prefix_characters": min(len(text), len(true)) if same is None else same,
        "length_error": len(text) - len(true),
        "true_characters": len(true),
        "parses": compiles(problem.program(raw)),
        "adds_error": not syntax.clean,
        "repeats_suffix": repeats(text, true, problem.suffix),
    }


def first_line(text: str) -> str:
    """The first line that is not blank, without white space around it."""
    return text.strip().partition("\n")[0].strip()


def repeats(text: str, true: str, suffix: str) -> bool:
    """Whether a middle writes the line that follows the hole, where the true one does not."""
    following = first_line(suffix)
    if not following:
        return False
    lines = [[line.strip() for line in middle.splitlines()] for middle in (text, true)]
    return following in lines[0] and following not in lines[1]

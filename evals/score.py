"""Stage two: samples become results. Compares texts and runs programs; needs no model."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from operator import eq
from pathlib import Path
from typing import Any

from talaria.coder.errors import DataError, UsageError
from talaria.coder.syntax.judge import judge
from talaria.coder.syntax.lexical import lines_of
from talaria.evals.jsonl import FORMAT, ResultRow, Results, environment, made_by, read
from talaria.evals.progress import progress
from talaria.evals.sandbox import WALL_FACTOR, Level, Limits, Program, ProgramVerdict, Sandbox
from talaria.evals.suites import Problem, Suite, compiles, empty_passes

# A program times out after OWN_FACTOR times the CPU time of its true solution, or MEDIAN_FACTOR
# times the median of all true solutions, whichever is more.
OWN_FACTOR = 20
MEDIAN_FACTOR = 100
SOLUTION_SECONDS = 60.0  # CPU time limit of a true solution
WALL_SECONDS = 30.0  # least wall-clock limit of a program: other work may keep the machine busy


def score(
    samples: Path, suite: Suite, path: Path, workers: int, require: Level | str | None = None
) -> Results:
    """Compare and run every sample, and append the results; existing ones are kept.

    UsageError if the samples are not of this suite's problems, DataError if the file holds
    results of other texts.
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
            "luck": luck_of(suite),
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
            solutions = run_solutions(suite.problems, sandbox) if rest else {}
            bar = progress(len(wanted), "sample")
            bar.update(len(wanted) - len(rest))
            measure = "passed" if tested else "exact_stripped"
            correct = sum(row[measure] for row in results.rows)
            for row in score_rows(rest, problems, sandbox, solutions):
                results.append(row)
                correct += row[measure]
                bar.update()
                share = correct / len(results.rows)
                bar.set_postfix_str(f"{measure.partition('_')[0]} {share:.1%}", refresh=False)
            bar.close()
            if warning := unsolved(results.rows):
                print(warning, file=sys.stderr)
        finally:
            results.close()
    return results


def luck_of(suite: Suite) -> dict[str, float | None]:
    """Return the shares that answers which ignore the problem reach: a floor for every figure.

    For exact matches and first lines, the best single string answers every problem (a different
    string for each figure). For tests, the hole stays empty; None where that is not known.
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


def run_solutions(problems: Iterable[Problem], sandbox: Sandbox) -> dict[str, ProgramVerdict]:
    """Run each problem's true solution on this machine; verdicts by problem.

    Holes in one task share a solution, which runs once.
    """
    programs: dict[str, list[Problem]] = {}
    for problem in problems:
        if problem.test is not None:
            programs.setdefault(problem.program(problem.solution), []).append(problem)
    jobs = (
        (text, program_of(shared[0], text), Limits(seconds=SOLUTION_SECONDS))
        for text, shared in sorted(programs.items())
    )
    return {
        problem.id: verdict for text, verdict in sandbox.run_all(jobs) for problem in programs[text]
    }


def time_limits(solutions: Mapping[str, ProgramVerdict]) -> dict[str, float]:
    """Derive each problem's CPU time limit, in seconds, from the true solutions' times here.

    A slow machine slows both down, so it changes no verdict. Most solutions take no longer than
    their process takes to start; the median keeps noise in a single one from deciding.
    """
    if not solutions:
        return {}
    least = MEDIAN_FACTOR * statistics.median(verdict.seconds for verdict in solutions.values())
    return {name: max(least, OWN_FACTOR * verdict.seconds) for name, verdict in solutions.items()}


def unsolved(rows: Iterable[ResultRow]) -> str:
    """Warn about problems whose true solution does not pass here; empty if all pass."""
    kinds = {row["id"]: row["solution"] for row in rows if row["solution"] is not None}
    wrong = Counter(kind for kind in kinds.values() if kind != "passed")
    if not wrong:
        return ""
    counts = ", ".join(f"{kind} {count}" for kind, count in wrong.most_common())
    return (
        f"{wrong.total()} of {len(kinds)} true solutions do not pass here ({counts}): "
        "verdicts on these problems say nothing"
    )


def score_rows(
    rows: Mapping[tuple[str, int], ResultRow],
    problems: Mapping[str, Problem],
    sandbox: Sandbox,
    solutions: Mapping[str, ProgramVerdict],
) -> Iterator[ResultRow]:
    """Yield results of samples as they arrive; equal programs of a problem run once."""
    limits = time_limits(solutions)
    programs: dict[tuple[str, str], list[ResultRow]] = {}
    for row in rows.values():
        problem = problems[row["id"]]
        if problem.test is None:
            yield {
                **compare_text(problem, row),
                "passed": None,
                "verdict": None,
                "detail": "",
                "solution": None,
            }
            continue
        programs.setdefault((problem.program(row["text"]), problem.id), []).append(row)
    jobs = (
        ((text, name), program_of(problems[name], text), limits_for(limits[name]))
        for text, name in programs
    )
    for key, verdict in sandbox.run_all(jobs):
        for row in programs[key]:
            yield {
                **compare_text(problems[row["id"]], row),
                "passed": verdict.status == "passed",
                "verdict": verdict.status,
                "detail": verdict.detail,
                "solution": solutions[row["id"]].status,
            }


def program_of(problem: Problem, text: str) -> Program:
    """Return a filled file of a problem with the problem's test."""
    return Program(text, problem.test or "", problem.own_builtins())


def limits_for(seconds: float) -> Limits:
    """Return a program's limits: CPU time decides; the wall clock ends only programs that wait."""
    return Limits(seconds=seconds, wall_seconds=max(WALL_SECONDS, WALL_FACTOR * seconds))


def compare_text(problem: Problem, row: ResultRow) -> dict[str, Any]:
    """Return the measures of a sample that need no run of its program."""
    from rapidfuzz.distance import Levenshtein

    raw = str(row["text"])
    text, true = problem.counted(raw), problem.solution
    common = sum(takewhile(bool, map(eq, text, true)))
    syntax = judge(problem.prefix, text, problem.suffix)
    return {
        **row,
        "cluster": problem.cluster,
        "exact": text == true,
        "exact_stripped": text.strip() == true.strip(),
        "first_line": first_line(text) == first_line(true),
        "edit_similarity": round(Levenshtein.normalized_similarity(text, true), 4),
        "prefix_characters": common,
        "length_error": len(text) - len(true),
        "true_characters": len(true),
        "parses": compiles(problem.program(raw)),
        "adds_error": not syntax.sound,
        "repeats_suffix": repeats_next_line(text, true, problem.suffix),
    }


def first_line(text: str) -> str:
    """Return the first line that is not blank, stripped."""
    return text.strip().partition("\n")[0].strip()


def repeats_next_line(text: str, true: str, suffix: str) -> bool:
    """Whether a middle repeats the line after the hole and the true middle does not."""
    following = first_line(suffix)
    if not following:
        return False
    lines = [[line.strip() for line in lines_of(middle)] for middle in (text, true)]
    return following in lines[0] and following not in lines[1]

"""Test the harness: true middles must pass, empty ones at the known rate, wrong ones never."""

from __future__ import annotations

from pathlib import Path

from talaria.evals.jsonl import FORMAT, Results, environment, made_by
from talaria.evals.score import score
from talaria.evals.suites import Suite, empty_passes

WRONG = "\n    raise NotImplementedError\n"
KINDS = ("true", "empty", "wrong")


def selftest(
    suite: Suite, folder: Path, workers: int, require: str | None
) -> tuple[list[str], bool]:
    """Score three answers to every problem.

    Returns a line per kind of answer, and whether every count is as expected.
    """
    floor = empty_passes(suite)
    lines, as_expected = [], True
    for kind in KINDS:
        samples, path = folder / f"{kind}.samples.jsonl", folder / f"{kind}.results.jsonl"
        for old in (samples, path):
            old.unlink(missing_ok=True)
        header = {
            "format": FORMAT,
            "stage": "samples",
            "suite": suite.name,
            "data": suite.digest(),
            "files": dict(suite.files),
            "model": {"name": f"{kind} middles", "weights": "", "tokenizer": ""},
            "options": {"mode": "none"},
            "expected": len(suite.problems),
            "made_by": [made_by()],
            "environment": environment(),
        }
        written = Results(samples, header)
        for problem in suite.problems:
            text = {"true": problem.solution, "empty": "", "wrong": WRONG}[kind]
            written.append(
                {"id": problem.id, "sample": 0, "text": text, "stopped": "eom", "nfe": 1}
                | {"tokens": 0, "context_tokens": 0, "elapsed_ms": 0.0}
            )
        written.close()
        results = score(samples, suite, path, workers, require)
        passed = sum(row["passed"] for row in results.rows)
        total = len(suite.problems)
        expected = {"true": total, "empty": floor, "wrong": 0}[kind]
        correct = expected is None or passed == expected
        as_expected = as_expected and correct
        wanted = "no floor is known" if expected is None else f"must be {expected}"
        lines.append(
            f"{kind:6} middles: {passed} of {total} pass ({wanted})"
            f"{'' if correct else ': WRONG'}; isolation {results.header['isolation']}"
        )
    return lines, as_expected

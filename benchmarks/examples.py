"""What the model writes, picked at random: `python -m benchmarks.examples` prints Markdown.

Holes in the project's own files, which no training corpus has: rests of lines, whole lines
and bodies of functions. The seed picks them from the files as they are, or as they were at a
commit (`--at`), so that others find the same; nobody leaves out what came out badly.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.syntax import PLACES
from talaria.coder import checkpoint
from talaria.coder.cli import guarded
from talaria.coder.errors import DataError, UsageError
from talaria.coder.infill import Options, infill
from talaria.evals.cursors import rests_of_lines
from talaria.evals.suites import Problem

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("coder", "lsp", "evals", "finetune")
BEFORE, WITHIN = 3, 8  # lines shown before a hole, and of what stood in it
NAMES = {"line-end": "the rest of a line", "line": "a line", "function": "a body"}


def main(argv: Sequence[str] | None = None) -> int:
    """Print so many examples; exit code 0."""
    parser = argparse.ArgumentParser(description="What the model writes, picked at random.")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--count", type=int, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="picks the places")
    parser.add_argument("--at", metavar="COMMIT", help="the files as they were then")
    args = parser.parse_args(argv)
    if args.count < 1:
        raise UsageError(f"--count is {args.count}; it must be at least 1")
    model = checkpoint.load(args.model)
    for number, (place, problem) in enumerate(picked(args.count, args.seed, files(args.at)), 1):
        options = Options(**PLACES[place][1])
        middle = infill(model, problem.prefix, problem.suffix, options).best.text
        print(told(number, place, problem, middle))
    return 0


def files(commit: str | None = None) -> dict[str, str]:
    """The project's modules by their paths, as they are or as they were at a commit of it.

    DataError where git or the commit is missing.
    """
    if commit is None:
        paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
        found = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in paths}
        return dict(sorted(found.items()))
    try:
        packed = subprocess.run(
            ["git", "archive", "--end-of-options", commit, *PACKAGES],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
    except FileNotFoundError as error:
        raise DataError("--at asks for a commit, and git is not installed") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise DataError(f"--at {commit}: {reason}; see git log for commits") from error
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(".py") else None
            if content:
                found[member.name] = content.read().decode()
    return dict(sorted(found.items()))


def picked(count: int, seed: int, modules: Mapping[str, str]) -> list[tuple[str, Problem]]:
    """Places of the three kinds by turns, fewer than asked for if there are no more."""
    documents = [
        {"package": path.partition("/")[0], "path": path, "text": text}
        for path, text in modules.items()
    ]
    found: list[tuple[str, Problem]] = []
    for problem in rests_of_lines(documents, 20 * count, seed):
        place = list(PLACES)[len(found) % len(PLACES)]
        hole = PLACES[place][0](problem)  # None where there is no function around the cursor
        if hole and len(found) < count:
            found.append((place, hole))
    return found


def told(number: int, place: str, problem: Problem, middle: str) -> str:
    """An example: where it is, what stands before, what stood there, what was written."""
    path, line, _ = problem.id.split(":", 1)[1].rsplit(":", 2)
    right = "equal" if middle == problem.solution else "different"
    before = problem.prefix.splitlines(keepends=True)[-BEFORE - 1 :]
    stood = problem.solution.splitlines()
    more = [f"… ({len(stood) - WITHIN} lines more)"] if len(stood) > WITHIN else []
    written = middle or "(nothing)"
    return (
        f"**{number}. {NAMES[place]}**, `{path}`, near line {line}: {right}\n\n"
        f"````python\n{''.join(before)}⟨…⟩\n````\n\n"
        "There stood\n\n````python\n" + "\n".join([*stood[:WITHIN], *more]) + "\n````\n\n"
        f"and the model wrote\n\n````python\n{written}\n````\n"
    )


if __name__ == "__main__":
    sys.exit(guarded("examples", main))

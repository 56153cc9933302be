"""Random examples of what the model writes: `python -m benchmarks.examples` prints Markdown.

The holes are rests of lines, whole lines and function bodies in the project's own files, which no
training corpus contains. The seed alone picks them, from the files as they are or as they were at
a commit (`--at`), so others get the same ones and nobody can leave out the bad ones.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.syntax import PLACES
from talaria.coder import checkpoint
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import DataError, UsageError
from talaria.coder.infill import infill
from talaria.coder.request import Options
from talaria.coder.syntax.lexical import lines_of
from talaria.evals.cursors import draw
from talaria.evals.suites import Problem

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("coder", "lsp", "evals", "finetune")
BEFORE, WITHIN = 3, 8  # lines shown before a hole, and of its true middle at most
NAMES = {"line-end": "the rest of a line", "line": "a line", "function": "a body"}


def main(argv: Sequence[str] | None = None) -> int:
    """Print examples; exit code 0."""
    parser = Parser(description="Print random examples of what the model writes.")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--count", type=int, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="picks the places")
    parser.add_argument("--at", metavar="COMMIT", help="use the files of this commit")
    args = parser.parse_args(argv)
    if args.count < 1:
        raise UsageError(f"--count is {args.count}; it must be at least 1")
    model = checkpoint.load(args.model)
    for number, (place, problem) in enumerate(picked(args.count, args.seed, files(args.at)), 1):
        options = Options(**PLACES[place][1])
        middle = infill(model, problem.prefix, problem.suffix, options).best.text
        print(as_markdown(number, place, problem, middle))
    return 0


def files(commit: str | None = None) -> dict[str, str]:
    """Read the project's modules by path, as they are or as they were at a commit.

    DataError if git or the commit is missing.
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
        raise DataError("--at needs git, which is not installed; install it") from error
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
    """Pick places, the three kinds in turn; fewer than `count` if there are no more."""
    documents = [
        {"package": path.partition("/")[0], "path": path, "text": text}
        for path, text in modules.items()
    ]
    found: list[tuple[str, Problem]] = []
    for problem in draw("line-end", documents, 20 * count, seed):
        place = list(PLACES)[len(found) % len(PLACES)]
        hole = PLACES[place][0](problem)  # None outside of functions
        if hole and len(found) < count:
            found.append((place, hole))
    return found


def as_markdown(number: int, place: str, problem: Problem, middle: str) -> str:
    """Format an example: its place, the lines before it, the true middle, the model's middle."""
    path, line, _ = problem.id.split(":", 1)[1].rsplit(":", 2)
    verdict = "equal" if middle == problem.solution else "different"
    before = lines_of(problem.prefix)[-BEFORE - 1 :]
    true = [line.rstrip("\r\n") for line in lines_of(problem.solution)]
    more = [f"… ({len(true) - WITHIN} more lines)"] if len(true) > WITHIN else []
    written = middle or "(nothing)"
    return (
        f"**{number}. {NAMES[place]}**, `{path}`, near line {line}: {verdict}\n\n"
        f"````python\n{''.join(before)}⟨…⟩\n````\n\n"
        "The file has\n\n````python\n" + "\n".join([*true[:WITHIN], *more]) + "\n````\n\n"
        f"and the model wrote\n\n````python\n{written}\n````\n"
    )


if __name__ == "__main__":
    sys.exit(guarded("examples", main))

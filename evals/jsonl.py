"""Append-only result files: a header that describes the run, then one line per row.

Each row carries a hash of its header, so rows of another model, other data or other settings are
detected wherever they got mixed in.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from talaria import __version__
from talaria.coder.errors import DataError

FORMAT = 3
# Text fields that every row must have, and the types of a header's fields.
ROW_TEXTS = {"samples": ("id", "text"), "results": ("id", "cluster")}
HEADER_FIELDS = {
    "stage": str,
    "suite": str,
    "data": str,
    "model": dict,
    "options": dict,
    "environment": dict,
    "expected": int,  # rows of a complete file
    "made_by": list,
}
# Endings of files that only display rows and cannot change them.
DISPLAY_FILES = (
    *("cli.py", "command.py", "curves.py", "intervals.py", "libraries.py"),
    *("page.py", "progress.py", "report.py", "tables.py"),
)
ResultRow = dict[str, Any]


def name_of(header: Mapping[str, Any]) -> str:
    """Return the hash by which rows refer to their header."""
    header = without_commands(header)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:12]


def without_commands(header: Mapping[str, Any]) -> dict[str, Any]:
    """Drop a header's commands: paths and worker counts in them do not affect the rows."""
    return {name: value for name, value in header.items() if name != "made_by"}


def environment() -> dict[str, Any]:
    """Describe what rows made on this machine depend on besides model and data."""
    code = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted([*root.glob("coder/**/*.py"), *root.glob("evals/*.py")]):
        if not path.name.endswith(DISPLAY_FILES):
            code.update(path.read_bytes())
    return {
        "talaria": __version__,
        "code": code.hexdigest()[:16],
        "python": platform.python_version(),
        **{name: installed_version(name) for name in ("numpy", "onnxruntime", "torch")},
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
    }


def installed_version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def made_by() -> dict[str, str | None]:
    """Return this process's command and the commit of its code; None where unknown.

    File names lose their folders, which describe a machine rather than a run.
    """
    root = Path(__file__).parent.parent
    commit = None
    if (root / ".git").exists():
        commit = git(root, "rev-parse", "HEAD")
        if commit and git(root, "status", "--porcelain", "--", "coder", "evals"):
            commit += " with changes"
    return {"command": command(sys.argv), "commit": commit}


def command(words: Sequence[str]) -> str | None:
    """Return a command line of `talaria eval` without folders; None for another program's."""
    if list(words[1:2]) != ["eval"]:
        return None
    return shlex.join(["talaria", *without_folders(words[1:])])


def without_folders(words: Sequence[str]) -> list[str]:
    """Strip the folders from paths in a command line."""
    return [re.sub(r"[^=/\\]*[/\\]", "", word.rstrip("/\\")) for word in words]


def git(root: Path, *words: str) -> str | None:
    """Return git's output for a folder; None if it fails or prints nothing."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class Results:
    """An append-only JSONL file whose first line is a header; only one process may have it open.

    Reopened with the same header, it continues, and keeps the commands that started it. Drops a
    last line that a crash tore. Skips damaged lines and lists their numbers in `damaged`, so that
    their rows are made again.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Open or create the file; DataError, and no change, if it is in use or of another run."""
        # As it will be read again: JSON makes lists of tuples.
        self.path, self.header = path, json.loads(json.dumps(header))
        self.rows: list[ResultRow] = []
        self.damaged: list[int] = []
        self.run = name_of(self.header)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise DataError(f"{path}: cannot be used ({error.strerror})") from error
        try:
            lock(self._file, path)
            if path.stat().st_size:
                self._reopen()
            else:
                self._write(self.header)
        except BaseException:
            self._file.close()
            raise

    def _reopen(self) -> None:
        found, self.rows, self.damaged = read(self.path)
        other = list(differences(without_commands(found), without_commands(self.header)))
        if other:
            raise DataError(
                f"{self.path}: made with other {', '.join(other)}; "
                "choose another file, or delete it"
            )
        self.header = found
        raw = self.path.read_bytes()
        torn = len(raw) - raw.rfind(b"\n") - 1
        if torn:
            os.truncate(self.path, len(raw) - torn)

    def append(self, row: ResultRow) -> None:
        """Append a row; an interruption loses at most the one being written."""
        self.rows.append(row)
        self._write({**row, "run": self.run})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self._file.close()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Map the fields in which two headers differ to both values; nested ones as `options.seed`."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(one.keys() | other.keys()):
        left, right = one.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found |= {f"{key}.{name}": pair for name, pair in differences(left, right).items()}
        elif left != right:
            found[key] = (left, right)
    return found


def lock(file: IO[str], path: Path) -> None:
    """Lock the file until it is closed, where the system supports that.

    DataError if another process holds the lock.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(
            f"{path}: another process writes to it; wait for that one, or choose another file"
        ) from error


def read(path: Path) -> tuple[dict[str, Any], list[ResultRow], list[int]]:
    """Read a result file: its header, its rows and the numbers of damaged lines.

    Also reports damaged lines on standard error. Ignores a torn last line and exact duplicates of
    rows. DataError if it is not a result file, or if rows of another run are mixed in.
    """
    try:
        first, *lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    header = header_of(first, path)
    run, rows = name_of(header), dict[tuple[str, int], ResultRow]()
    damaged, foreign, twice = list[int](), list[int](), list[int]()
    for number, line in enumerate(lines[:-1], 2):
        row = row_of(line, header["stage"])
        if row is None:
            damaged.append(number)
        elif row.pop("run", None) != run:
            foreign.append(number)
        elif rows.setdefault((row["id"], row["sample"]), row) != row:
            twice.append(number)
    if foreign:
        raise DataError(
            f"{path}: {name_lines(foreign)} not of the run in line 1 "
            f"({header['model'].get('name')}, "
            f"{header['suite']}) but of another model, data or settings; take them out"
        )
    if twice:
        raise DataError(
            f"{path}: {name_lines(twice)} another result of a sample that an earlier line has; "
            "remove one of them"
        )
    if damaged:
        print(f"{path}: {name_lines(damaged)} damaged and left out", file=sys.stderr)
    return header, list(rows.values()), damaged


def header_of(line: bytes, path: Path) -> dict[str, Any]:
    """Parse the header in a file's first line; DataError if it is invalid or of another format."""
    try:
        header: dict[str, Any] = json.loads(line)
        form = header["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: line 1 is not a header of `talaria eval` ({error!r})") from error
    if form != FORMAT:
        raise DataError(f"{path}: format {form}, this version reads {FORMAT}; make it again")
    wrong = [name for name, kind in HEADER_FIELDS.items() if not isinstance(header.get(name), kind)]
    if wrong or header["stage"] not in ROW_TEXTS:
        raise DataError(
            f"{path}: line 1 has no valid {wrong[0]}; make it again"
            if wrong
            else f"{path} holds {header['stage']}, not {' or '.join(ROW_TEXTS)}"
        )
    return header


def row_of(line: bytes, stage: str) -> ResultRow | None:
    """Parse a row, or another run's header; None if damaged or without the stage's fields."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    whole = isinstance(row.get("sample"), int) and all(
        isinstance(row.get(name), str) for name in ROW_TEXTS[stage]
    )
    return row if whole or "format" in row else None


def name_lines(lines: list[int]) -> str:
    """Name lines by number, ten at most, followed by the verb."""
    shown = ", ".join(map(str, lines[:10])) + (f" and {len(lines) - 10} more" * (len(lines) > 10))
    return f"lines {shown} are" if len(lines) > 1 else f"line {shown} is"

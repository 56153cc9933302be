"""Files of results: a header that says what they are of, then a line for each row, append-only.

Each row names its header by hash, so that rows of another model, of other data or
other settings are found wherever they came in.
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

from talaria.coder.errors import DataError

FORMAT = 3
# What rows and headers have to hold before anything can be done with them.
TEXTS = {"samples": ("id", "text"), "results": ("id", "cluster")}
HEAD = {
    "stage": str,
    "suite": str,
    "data": str,
    "model": dict,
    "options": dict,
    "environment": dict,
    "expected": int,  # rows of a whole file
    "made_by": list,
}
# Files that show what rows say, and decide nothing of it.
SHOWING = ("page.py", "cli.py", "command.py", "report.py", "tables.py", "intervals.py")
Row = dict[str, Any]


def name_of(header: Mapping[str, Any]) -> str:
    """The name by which rows call their header: a hash of all that decides what they say."""
    return hashlib.sha256(json.dumps(deciding(header), sort_keys=True).encode()).hexdigest()[:12]


def deciding(header: Mapping[str, Any]) -> dict[str, Any]:
    """A header without the commands, which may name files and workers differently."""
    return {name: value for name, value in header.items() if name != "made_by"}


def environment() -> dict[str, Any]:
    """What rows made on this machine depend on beside model and data."""
    code = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted([*root.glob("coder/*.py"), *root.glob("evals/*.py")]):
        if not path.name.endswith(SHOWING):
            code.update(path.read_bytes())
    return {
        "talaria": metadata.version("talaria"),
        "code": code.hexdigest()[:16],
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
    }


def made_by() -> dict[str, str | None]:
    """The command that runs, and the commit of its code; None for what cannot be told.

    Files are named without their folders, which say more about a machine than about a run.
    """
    root = Path(__file__).parent.parent
    commit = None
    if (root / ".git").exists():
        commit = git(root, "rev-parse", "HEAD")
        if commit and git(root, "status", "--porcelain", "--", "coder", "evals"):
            commit += " with changes"
    return {"command": command(sys.argv), "commit": commit}


def command(words: Sequence[str]) -> str | None:
    """A command line of `talaria eval` without folders; None for another program's."""
    if list(words[1:2]) != ["eval"]:
        return None
    return shlex.join(["talaria", *without_folders(words[1:])])


def without_folders(words: Sequence[str]) -> list[str]:
    """Words of a command line with the names of files alone."""
    return [re.sub(r"[^=/\\]*[/\\]", "", word.rstrip("/\\")) for word in words]


def git(root: Path, *words: str) -> str | None:
    """What git says of a folder; None if it says nothing."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class Results:
    """An append-only JSONL file whose first line is a header; one process may have it open.

    Opened again with the same header, it goes on; what it holds is not redone. A
    last line that was torn by a crash is cut off; the commands in the header stay
    those that began it. A damaged line in between is
    left out and named in `damaged`; its row will be made again.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """DataError if the file is of something else or in use; it is then left as it is."""
        self.path, self.header = path, dict(header)
        self.rows: list[Row] = []
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
        other = list(differences(deciding(found), deciding(self.header)))
        if other:
            raise DataError(
                f"{self.path}: made with other {', '.join(other)}; "
                "choose another --out, or delete it"
            )
        self.header = found
        raw = self.path.read_bytes()
        torn = len(raw) - raw.rfind(b"\n") - 1
        if torn:
            os.truncate(self.path, len(raw) - torn)

    def append(self, row: Row) -> None:
        """Add a row; an interruption loses at most the one in flight."""
        self.rows.append(row)
        self._write({**row, "run": self.run})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where two headers differ, and what each has there; parts of a part as `options.seed`."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(one.keys() | other.keys()):
        left, right = one.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found |= {f"{key}.{name}": pair for name, pair in differences(left, right).items()}
        elif left != right:
            found[key] = (left, right)
    return found


def lock(file: IO[str], path: Path) -> None:
    """Keep other processes from writing to the file until it is closed, where the system can.

    DataError if another one writes to it already.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(
            f"{path}: another process writes to it; wait for that one, or choose another --out"
        ) from error


def read(path: Path) -> tuple[dict[str, Any], list[Row], list[int]]:
    """Header, rows and the numbers of damaged lines of a results file.

    Damaged lines are also told on standard error. A torn last line counts as not
    written, a row that is there twice as one. DataError if it is no such file, or if
    rows of another one are mixed into it.
    """
    try:
        first, *lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    header = header_of(first, path)
    run, rows = name_of(header), dict[tuple[str, int], Row]()
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
            f"{path}: {listed(foreign)} not of the run in line 1 ({header['model'].get('name')}, "
            f"{header['suite']}) but of another model, data or settings; take them out"
        )
    if twice:
        raise DataError(
            f"{path}: {listed(twice)} another result of a sample that stands above; "
            "take one of both out"
        )
    if damaged:
        print(f"{path}: {listed(damaged)} damaged and left out", file=sys.stderr)
    return header, list(rows.values()), damaged


def header_of(line: bytes, path: Path) -> dict[str, Any]:
    """The header in a file's first line; DataError if it is none of this version."""
    try:
        header: dict[str, Any] = json.loads(line)
        form = header["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: line 1 is no header of `talaria eval` ({error!r})") from error
    if form != FORMAT:
        raise DataError(f"{path}: format {form}, this version reads {FORMAT}; make it again")
    wrong = [name for name, kind in HEAD.items() if not isinstance(header.get(name), kind)]
    if wrong or header["stage"] not in TEXTS:
        raise DataError(
            f"{path}: line 1 says no {wrong[0]}; make it again"
            if wrong
            else f"{path} holds {header['stage']}, not {' or '.join(TEXTS)}"
        )
    return header


def row_of(line: bytes, stage: str) -> Row | None:
    """A row with all that the stage needs, or the header of another run; None if damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    whole = isinstance(row.get("sample"), int) and all(
        isinstance(row.get(name), str) for name in TEXTS[stage]
    )
    return row if whole or "format" in row else None


def listed(lines: list[int]) -> str:
    """Line numbers in words, ten at most."""
    shown = ", ".join(map(str, lines[:10])) + (f" and {len(lines) - 10} more" * (len(lines) > 10))
    return f"lines {shown} are" if len(lines) > 1 else f"line {shown} is"

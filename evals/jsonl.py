"""Files of results: a header that says what they are of, then a line for each row, append-only."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from coder.errors import DataError

FORMAT = 2
Row = dict[str, Any]


def environment() -> dict[str, Any]:
    """What the figures of this machine depend on beside model and data."""
    code = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted([*root.glob("coder/*.py"), *root.glob("evals/*.py")]):
        code.update(path.read_bytes())
    return {
        "talaria": metadata.version("talaria"),
        "code": code.hexdigest()[:16],
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
    }


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
    """An append-only JSONL file whose first line is a header.

    Opened again with the same header, it goes on; what it holds is not redone. A
    last line that was torn by a crash is cut off. A damaged line in between is
    left out and named in `damaged`; its row will be made again.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """DataError if the file is of something else; it is then left as it is."""
        self.path, self.header = path, dict(header)
        self.rows: list[Row] = []
        self.damaged: list[int] = []
        try:
            if path.exists() and path.stat().st_size:
                self._reopen()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                line = json.dumps(self.header) + "\n"
                path.write_text(line, encoding="utf-8", newline="\n")
            self._file = path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise DataError(f"{path}: cannot be used ({error.strerror})") from error

    def _reopen(self) -> None:
        found, self.rows, self.damaged = read(self.path)
        other = sorted(
            k for k in found.keys() | self.header.keys() if found.get(k) != self.header.get(k)
        )
        if other:
            raise DataError(
                f"{self.path}: made with other {', '.join(other)}; "
                "choose another --out, or delete it"
            )
        raw = self.path.read_bytes()
        torn = len(raw) - raw.rfind(b"\n") - 1
        if torn:
            os.truncate(self.path, len(raw) - torn)

    def append(self, row: Row) -> None:
        """Add a row; an interruption loses at most the one in flight."""
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read(path: Path) -> tuple[dict[str, Any], list[Row], list[int]]:
    """Header, rows and the numbers of damaged lines of a results file.

    A torn last line counts as not written. DataError if it is no such file.
    """
    try:
        first, *lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        header = json.loads(first)
        if header["format"] != FORMAT:
            raise DataError(
                f"{path}: format {header['format']}, this version reads {FORMAT}; make it again"
            )
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: line 1 is no header of `talaria eval` ({error})") from error
    rows, damaged = [], []
    for number, line in enumerate(lines[:-1], 2):
        try:
            row = json.loads(line)
            row["id"], row["sample"]
            rows.append(row)
        except (ValueError, TypeError, KeyError):
            damaged.append(number)
    return header, rows, damaged

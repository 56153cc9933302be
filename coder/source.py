"""From a target on the command line to a hole in a text, and back into the file.

A `Hole` keeps the text exactly as it was decoded, with offsets into it. Prefix,
middle and suffix are views with `\\n` for every line ending, which is what the
model sees. Splicing replaces the hole alone, so mixed line endings, a byte-order
mark or a missing final newline survive everywhere else.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from talaria.coder.errors import SourceError, UsageError
from talaria.coder.syntax.functions import find_function

MARK = "<|fill|>"
"""Marks the hole in a text on standard input."""

MAX_FILE_BYTES = 16_000_000
"""The largest file or standard input that is read, in bytes."""

_FORMS = f"FILE:LINE:COL, FILE::QUALIFIED.NAME, or - for standard input with one {MARK}"
_POSITION = re.compile(r"(.+):([0-9]{1,18}):([0-9]{1,18})", re.DOTALL)
_FUNCTION = re.compile(r"(.+)::([^:]+)", re.DOTALL)
_BOM = "\ufeff"
_SHOWN = 3  # lines of a diff on either side of what changes

_REMEDIES = {
    errno.ENOSPC: "free some space on the disk",
    errno.EDQUOT: "free some space in the quota",
    errno.EACCES: "make the file and its folder writable",
    errno.EPERM: "make the file and its folder writable",
    errno.EROFS: "the file system is read-only",
}


@dataclass(frozen=True)
class Hole:
    """A place in a text to fill: `original[start:end]`, in characters.

    `original` has the line endings that the file has, without its byte-order
    mark (`bom` says whether there was one). `lead` belongs between the prefix
    and whatever is written, and the caller puts it there, for the model as for
    `splice`; it is empty unless a function has no statement yet.
    `path` is None for standard input, `name` the function whose body it is, if it is one.
    """

    original: str = field(repr=False)
    start: int
    end: int
    path: Path | None = None
    bom: bool = False
    lead: str = ""
    name: str | None = None

    @cached_property
    def prefix(self) -> str:
        r"""The text before the hole, lines ending in `\n`, without `lead`."""
        return _normalised(self.original[: self.start])

    @cached_property
    def middle(self) -> str:
        r"""What stands in the hole now, lines ending in `\n`; empty at a cursor."""
        return _normalised(self.original[self.start : self.end])

    @cached_property
    def suffix(self) -> str:
        r"""The text behind the hole, lines ending in `\n`."""
        return _normalised(self.original[self.end :])

    @cached_property
    def newline(self) -> str:
        r"""The line ending that most lines have: `\n`, `\r\n` or, in very old files, `\r`."""
        windows = self.original.count("\r\n")
        counts = {
            "\n": self.original.count("\n") - windows,
            "\r\n": windows,
            "\r": self.original.count("\r") - windows,
        }
        return max(counts, key=counts.__getitem__)


@dataclass(frozen=True)
class Piece:
    """A part of another file that matters at a hole.

    path  as the model is told it: from the top of the project on, with forward slashes
    text  lines ending in `\\n`
    """

    path: str
    text: str


def parse_target(target: str, stdin: Callable[[], bytes]) -> Hole:
    """Read the hole that a target names; `stdin` is called for the target `-` alone.

    `FILE:LINE:COL` is a cursor: lines count from 1, columns from 0 in characters.
    `FILE::QUALIFIED.NAME` is the body of a function. `-` is standard input, in
    which one `MARK` stands for the hole.

    Raises:
        UsageError: the target has none of these forms.
        SourceError: the text cannot be read, or has no such place.
    """
    if target == "-":
        return _marked(stdin())
    if position := _POSITION.fullmatch(target):
        return _cursor(Path(position[1]), int(position[2]), int(position[3]))
    function = _FUNCTION.fullmatch(target)
    if function and all(part.isidentifier() for part in function[2].split(".")):
        return _function(Path(function[1]), function[2])
    raise UsageError(f"cannot tell what to fill from {_shown(target)}: give {_FORMS}")


def splice(hole: Hole, middle: str) -> str:
    """Return the whole text with `middle` in the hole, without byte-order mark.

    The middle is taken as it is: the caller puts `hole.lead` before it. New lines
    end as most lines of the text do. The middle that stands in the hole already
    gives the original text, whatever its line endings.
    """
    middle = _normalised(middle)
    if middle == hole.middle:
        return hole.original
    written = middle.replace("\n", hole.newline)
    return hole.original[: hole.start] + written + hole.original[hole.end :]


def unified_diff(hole: Hole, middle: str) -> str:
    """Return what splicing changes as `git apply` and `patch -p1` read it; empty for nothing."""
    mark = _BOM if hole.bom else ""
    name = "stdin" if hole.path is None else _shown(hole.path.as_posix().lstrip("/"))
    name += "\t" * (" " in name)  # which tells patch where a name with blanks ends
    old, new = _lines(mark + hole.original), _lines(mark + splice(hole, middle))
    # Of what is equal, difflib sees no more than it shows: of megabytes it would take seconds.
    above = max(0, hole.original.count("\n", 0, hole.start) - _SHOWN)
    below = max(0, hole.original.count("\n", hole.end) - 1 - _SHOWN)
    old, new = old[above : len(old) - below], new[above : len(new) - below]
    lines = (
        re.sub(r"(?<=[-+])\d+", lambda number: str(int(number[0]) + above), line)
        if line.startswith("@@ ")
        else line
        for line in difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", n=_SHOWN)
    )
    missing = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + missing for line in lines)


def write(hole: Hole, middle: str) -> None:
    """Put the middle into the file, wholly or, whatever happens, not at all.

    A link stays a link: the file that it points to is replaced, keeping its
    permissions and, where allowed, its owner.

    Raises:
        UsageError: the hole is in standard input.
        SourceError: the file has changed since it was read, or cannot be written.
    """
    if hole.path is None:
        raise UsageError("--write needs a file: give FILE:LINE:COL or FILE::QUALIFIED.NAME")
    name = _shown(hole.path)
    mark = _BOM if hole.bom else ""
    before = (mark + hole.original).encode()
    try:
        after = (mark + splice(hole, middle)).encode()
    except UnicodeEncodeError as error:
        raise SourceError(
            f"cannot write {name}: UTF-8 has no {error.object[error.start]!a}"
        ) from None
    target = Path(os.path.realpath(hole.path))
    temporary: str | None = None
    try:
        status = target.stat()
        if not os.access(target, os.W_OK):
            # Replacing a file needs a writable folder only; its own bits say what is wanted.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        # In the same folder, as only a rename within a file system is atomic.
        descriptor, temporary = tempfile.mkstemp(prefix=".talaria-", dir=target.parent)
        with open(descriptor, "wb") as file:
            file.write(after)
            file.flush()
            if hasattr(os, "chown"):
                with contextlib.suppress(OSError):
                    os.chown(temporary, status.st_uid, status.st_gid)
            os.chmod(temporary, stat.S_IMODE(status.st_mode))
            os.fsync(file.fileno())
        # At the last moment, so that little can come between this and the rename.
        if target.read_bytes() != before:
            raise SourceError(
                f"{name} has changed since it was read, so nothing was written: try again"
            )
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "see to that and try again")
        reason = error.strerror or error
        raise SourceError(f"cannot write {name}, which is as it was: {reason}; {remedy}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _marked(data: bytes) -> Hole:
    text, bom = _decoded(data, "standard input")
    marks = text.count(MARK)
    if marks != 1:
        raise SourceError(
            f"standard input has {marks} marks and must have 1: put {MARK} where the hole is"
        )
    before, after = text.split(MARK)
    if not (before + after).strip():
        raise SourceError(f"standard input has no text around {MARK}: nothing to fill from")
    return Hole(before + after, len(before), len(before), bom=bom)


def _cursor(path: Path, line: int, column: int) -> Hole:
    name = _shown(path)
    original, bom = _read(path)
    # The piece behind a final newline is empty: a cursor may stand there.
    lines = _normalised(original).split("\n")
    if not 1 <= line <= len(lines):
        count = len(lines) - (lines[-1] == "")
        raise SourceError(f"{name} has {_count(count, 'line')}, no line {line}: lines count from 1")
    if column > len(lines[line - 1]):
        width = _count(len(lines[line - 1]), "character")
        raise SourceError(
            f"line {line} of {name} has {width}, no column {column}: columns count from 0"
        )
    offset = _original_offset(original, sum(len(text) + 1 for text in lines[: line - 1]) + column)
    return Hole(original, offset, offset, path, bom)


def _function(path: Path, qualified_name: str) -> Hole:
    original, bom = _read(path)
    try:
        body = find_function(_normalised(original), qualified_name)
    except SourceError as error:
        raise SourceError(f"{_shown(path)}: {error}") from None
    start, end = (_original_offset(original, offset) for offset in (body.start, body.end))
    return Hole(original, start, end, path, bom, body.lead, body.name)


def _read(path: Path) -> tuple[str, bool]:
    """Read a file as text, and whether a byte-order mark was before it."""
    name = _shown(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise SourceError(f"{name} is a folder: give a file in it")
        if not stat.S_ISREG(mode):  # reading a pipe or a terminal might never end
            raise SourceError(f"{name} is not a regular file: give - to read standard input")
        with path.open("rb") as file:
            # One byte over the limit is enough to know, however large the file.
            data = file.read(MAX_FILE_BYTES + 1)
            size = max(len(data), os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise SourceError(f"{name} does not exist: give the path of a file") from None
    except PermissionError:
        raise SourceError(f"cannot read {name}: no permission; allow reading it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"cannot read {name}: {reason}; give a readable file") from error
    return _decoded(data, name, size)


def _decoded(data: bytes, name: str, size: int | None = None) -> tuple[str, bool]:
    """Decode a text, and whether a byte-order mark was before it."""
    if len(data) > MAX_FILE_BYTES:
        size = size or len(data)
        raise SourceError(
            f"{name} has {size} bytes, the limit is {MAX_FILE_BYTES}: make it smaller"
        )
    if (nul := data.find(b"\0")) >= 0:
        raise SourceError(f"{name} is binary, with a NUL at byte {nul}: give a text in UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{name} is not UTF-8, see byte {error.start} (0x{data[error.start]:02x}): convert it"
        ) from None
    bom = text.startswith(_BOM)
    text = text.removeprefix(_BOM)
    if not text.strip():
        raise SourceError(f"{name} is empty: nothing to fill from")
    return text, bom


def _normalised(text: str) -> str:
    # Only what Python and editors take for the end of a line, unlike str.splitlines.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _original_offset(original: str, offset: int) -> int:
    """Turn an offset in the normalised text into one in the original."""
    for pair in re.finditer("\r\n", original):
        if pair.start() >= offset:
            break
        offset += 1
    return offset


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _shown(path: Path | str) -> str:
    """Return a name that fits on one line of any terminal."""
    name = str(path)
    return name if name.isprintable() else ascii(name)

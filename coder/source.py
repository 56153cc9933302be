"""From a target on the command line to a hole in a text, and back into the file.

Files are read in the encoding that they declare (PEP 263), and written back in it.

A `Target` keeps the text exactly as it was decoded, with offsets into it. Prefix, middle and
suffix are views with `\\n` for every line ending, as the model reads them. Splicing replaces the
hole alone, so mixed line endings, a byte-order mark or a missing final newline survive elsewhere.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import errno
import io
import os
import re
import stat
import tokenize
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from talaria.coder.errors import SourceError, UsageError
from talaria.coder.files import replacing
from talaria.coder.notebooks import SUFFIX, Cell, cells_of, rewritten
from talaria.coder.syntax.functions import find_function

MARK = "<|fill|>"
"""Stands for the hole in a text on standard input."""

MAX_FILE_BYTES = 16_000_000
"""Size limit of a file or standard input."""

_FORMS = (
    "FILE:LINE:COL, FILE:LINE (its end), FILE::QUALIFIED.NAME, "
    "FILE::QUALIFIED.NAME@LINE, the same with NOTEBOOK.ipynb#CELL for FILE, or - for standard "
    f"input with one {MARK}"
)
_POSITION = re.compile(r"(.+):([0-9]{1,18}):([0-9]{1,18})", re.DOTALL)
_LINE = re.compile(r"((?:[A-Za-z]:)?[^:]+):([0-9]{1,18})()")
_FUNCTION = re.compile(r"(.+)::([^:@]+)(?:@([0-9]{1,18}))?", re.DOTALL)
_CELL = re.compile(rf"(.+\{SUFFIX})#([0-9]{{1,9}})", re.DOTALL)
# What Python programs are called; other names need a first line that starts Python.
_PYTHON = {"", ".py", ".pyi", ".pyw", ".pyt", ".py3", ".wsgi", ".cgi", ".gyp", ".gypi", ".tac"}
_SHEBANG = re.compile(rb"(?:\xef\xbb\xbf)?#!([^\r\n]*)")
_BOM = "\ufeff"
_DIFF_CONTEXT = 3  # unchanged lines shown on either side of a change

_REMEDIES = {
    errno.ENOSPC: "free some space on the disk",
    errno.EDQUOT: "free some space in the quota",
    errno.EACCES: "make the file and its folder writable",
    errno.EPERM: "make the file and its folder writable",
    errno.EROFS: "the file system is read-only",
}


@dataclass(frozen=True)
class Target:
    """A hole in a text, `original[start:end]`, in characters.

    original  the text with its own line endings, without byte-order mark
    path      of the file; None for standard input
    bom       whether the file begins with a byte-order mark
    encoding  that the file declares
    notebook  the cell that the hole is in; `original` is then the text of all cells with code
    lead      what callers must put before the middle, for the model as for `splice`; empty unless
              the hole is the body of a function that has no statement yet, or has it on the line
              of its header
    name      of the function whose body the hole is; None at a cursor
    """

    original: str = field(repr=False)
    start: int
    end: int
    path: Path | None = None
    bom: bool = False
    lead: str = ""
    name: str | None = None
    encoding: str = "utf-8"
    notebook: Place | None = None

    @cached_property
    def prefix(self) -> str:
        r"""The text before the hole, lines ending in `\n`, without `lead`."""
        return _normalised(self.original[: self.start])

    @cached_property
    def middle(self) -> str:
        r"""The text in the hole now, lines ending in `\n`; empty at a cursor."""
        return _normalised(self.original[self.start : self.end])

    @cached_property
    def suffix(self) -> str:
        r"""The text after the hole, lines ending in `\n`."""
        return _normalised(self.original[self.end :])

    @cached_property
    def newline(self) -> str:
        r"""The most frequent line ending: `\n`, `\r\n` or, in very old files, `\r`."""
        windows = self.original.count("\r\n")
        counts = {
            "\n": self.original.count("\n") - windows,
            "\r\n": windows,
            "\r": self.original.count("\r") - windows,
        }
        return max(counts, key=counts.__getitem__)


@dataclass(frozen=True)
class Place:
    """A cell's place: in the notebook's file, and in the text of all its cells with code."""

    raw: str = field(repr=False)
    cell: Cell
    offset: int

    def in_file(self, target: Target, middle: str) -> tuple[Target, str]:
        """The same change of the notebook's file: its hole is the JSON value of the source."""
        whole, after = splice(target, middle), len(target.original) - self.offset
        source = whole[self.offset : len(whole) - after + len(self.cell.source)]
        hole = Target(self.raw, self.cell.start, self.cell.end, target.path, target.bom)
        return hole, rewritten(self.raw, self.cell, source)


@dataclass(frozen=True)
class Piece:
    """A part of another file that helps to fill a hole.

    path  as the model reads it: relative to the project's root, with forward slashes
    text  lines ending in `\\n`
    """

    path: str
    text: str


def parse_target(text: str, stdin: Callable[[], bytes]) -> Target:
    """Read the target that a command line names; `stdin` is called only for `-`.

    `FILE:LINE:COL` is a cursor: lines count from 1, columns from 0 in characters; without `COL`, it
    is at the end of the line. `FILE::QUALIFIED.NAME` is the body of a function; `@LINE` behind it,
    any line of it, chooses one of several that have this name. In a notebook, FILE is
    `NAME.ipynb#CELL`, where cells of every kind count from 1. `-` is standard input, in which one
    `MARK` stands for the hole.

    Raises:
        UsageError: the text has none of these forms.
        SourceError: the file cannot be read, or has no such place.
    """
    if text == "-":
        return _marked(stdin())
    if position := _POSITION.fullmatch(text) or _LINE.fullmatch(text):
        column = int(position[3]) if position[3] else None
        return _in(position[1], lambda text, name: _cursor(text, name, int(position[2]), column))
    function = _FUNCTION.fullmatch(text)
    if function and all(part.isidentifier() for part in function[2].split(".")):
        at = int(function[3]) if function[3] else None
        return _in(function[1], lambda text, name: _function(text, name, function[2], at))
    raise UsageError(f"cannot tell what to fill from {_printable(text)}: give {_FORMS}")


def whole(path: Path) -> Target:
    """The target that is all of a Python file, which may be empty.

    SourceError where it cannot be read, or is a notebook.
    """
    if path.suffix == SUFFIX:
        raise SourceError(f"{_printable(path)} is a notebook, which holds more than code")
    text, bom, encoding = _read(path)
    return Target(text, 0, len(text), path, bom, encoding=encoding)


def splice(target: Target, middle: str) -> str:
    """Return the whole text with `middle` in the hole, without byte-order mark.

    The caller puts `target.lead` before the middle where it is needed. New lines get the text's
    most frequent line ending. The middle that is in the hole already gives the original text,
    whatever its line endings.
    """
    middle = _normalised(middle)
    if middle == target.middle:
        return target.original
    written = middle.replace("\n", target.newline)
    return target.original[: target.start] + written + target.original[target.end :]


def unified_diff(target: Target, middle: str) -> str:
    """Return what splicing changes, for `git apply` and `patch -p1`; empty for no change."""
    if target.notebook:
        return unified_diff(*target.notebook.in_file(target, middle))
    mark = _BOM if target.bom else ""
    name = "stdin" if target.path is None else _printable(target.path.as_posix().lstrip("/"))
    name += "\t" * (" " in name)  # shows `patch` where a name with blanks ends
    old, new = _lines(mark + target.original), _lines(mark + splice(target, middle))
    # difflib gets only the lines it shows: it would take seconds over megabytes.
    above = max(0, target.original.count("\n", 0, target.start) - _DIFF_CONTEXT)
    below = max(0, target.original.count("\n", target.end) - 1 - _DIFF_CONTEXT)
    old, new = old[above : len(old) - below], new[above : len(new) - below]
    lines = (
        re.sub(r"(?<=[-+])\d+", lambda number: str(int(number[0]) + above), line)
        if line.startswith("@@ ")
        else line
        for line in difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", n=_DIFF_CONTEXT)
    )
    missing = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + missing for line in lines)


def write(target: Target, middle: str) -> None:
    """Put the middle into the file atomically.

    A link stays a link: the file that it points to is replaced and keeps its permissions and,
    where allowed, its owner.

    Raises:
        UsageError: the target is standard input.
        SourceError: the file has changed since it was read, or cannot be written.
    """
    if target.path is None:
        raise UsageError("--write needs a file: give FILE:LINE:COL or FILE::QUALIFIED.NAME")
    if target.notebook:
        return write(*target.notebook.in_file(target, middle))
    name = _printable(target.path)
    mark = _BOM if target.bom else ""
    before = (mark + target.original).encode(target.encoding)
    try:
        after = (mark + splice(target, middle)).encode(target.encoding)
    except UnicodeEncodeError as error:
        encoding = target.encoding.upper()
        raise SourceError(
            f"cannot write {name}: {encoding} cannot encode {error.object[error.start]!a}"
        ) from None
    path = Path(os.path.realpath(target.path))
    try:
        status = path.stat()
        if not os.access(path, os.W_OK):
            # Replacing a file needs only a writable folder, but a read-only file is meant to stay.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with replacing(path) as partial:
            with partial.open("wb") as file:
                file.write(after)
                file.flush()
                os.fsync(file.fileno())  # before the check below, as it may take long
            if hasattr(os, "chown"):
                with contextlib.suppress(OSError):
                    os.chown(partial, status.st_uid, status.st_gid)
            # As late as possible, so that little can come between this and the rename.
            if path.read_bytes() != before:
                raise SourceError(
                    f"{name} has changed since it was read, so nothing was written: try again"
                )
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "fix that and try again")
        reason = error.strerror or error
        raise SourceError(f"cannot write {name}, which is unchanged: {reason}; {remedy}") from error


def _marked(data: bytes) -> Target:
    """The target in standard input, at its mark."""
    text, bom, encoding = _decoded(data, "standard input")
    _check_text(text, "standard input")
    marks = text.count(MARK)
    if marks != 1:
        raise SourceError(
            f"standard input has {marks} marks and must have 1: put {MARK} where the hole is"
        )
    before, after = text.split(MARK)
    if not (before + after).strip():
        raise SourceError(f"standard input has no text around {MARK}: there is nothing to complete")
    return Target(before + after, len(before), len(before), bom=bom, encoding=encoding)


def _in(named: str, hole: Callable[[str, str], Target]) -> Target:
    """The target that `hole` finds in a text under a name, in the file or the cell named here."""
    in_cell = _CELL.fullmatch(named)
    path = Path(in_cell[1] if in_cell else named)
    text, bom, encoding = _read(path)
    name = _printable(path)
    if not in_cell:
        if path.suffix == SUFFIX:
            raise UsageError(f"{name} is a notebook: name a cell in it, as {name}#3:2:0 does")
        _check_text(text, name)
        return replace(hole(text, name), path=path, bom=bom, encoding=encoding)
    cells, number = cells_of(text, name), int(in_cell[2])
    if not 1 <= number <= len(cells):
        raise SourceError(
            f"{name} has {_count(len(cells), 'cell')}, no {number}: they count from 1"
        )
    cell = cells[number - 1]
    name = f"cell {number} of {name}"
    if cell.kind != "code" or cell.source.startswith("%%"):
        kind = cell.source.split(maxsplit=1)[0] if cell.kind == "code" else cell.kind
        raise SourceError(f"{name} is {kind}: give the number of a cell with Python code")
    # What the cells before have defined is there for the model, like what those behind will need.
    before = "".join(f"{each.source}\n\n" for each in cells[: number - 1] if _is_code(each))
    behind = "".join(f"\n\n{each.source}" for each in cells[number:] if _is_code(each))
    found = hole(cell.source, name)
    return replace(
        found,
        original=before + cell.source + behind,
        start=len(before) + found.start,
        end=len(before) + found.end,
        path=path,
        bom=bom,
        notebook=Place(text, cell, len(before)),
    )


def _is_code(cell: Cell) -> bool:
    return cell.kind == "code" and not cell.source.startswith("%%")


def _cursor(original: str, name: str, line: int, column: int | None) -> Target:
    """The target at a position in a text; without a column, at the end of the line."""
    # Behind a final newline there is an empty line, where a cursor may be.
    lines = _normalised(original).split("\n")
    if not 1 <= line <= len(lines):
        count = len(lines) - (lines[-1] == "")
        raise SourceError(f"{name} has {_count(count, 'line')}, no line {line}: lines count from 1")
    if column is None:
        column = len(lines[line - 1])
    if column > len(lines[line - 1]):
        width = _count(len(lines[line - 1]), "character")
        raise SourceError(
            f"line {line} of {name} has {width}, no column {column}: columns count from 0; give "
            "the line alone for its end"
        )
    offset = _original_offset(original, sum(len(text) + 1 for text in lines[: line - 1]) + column)
    return Target(original, offset, offset)


def _function(original: str, name: str, qualified_name: str, line: int | None) -> Target:
    """The target that is the body of a function."""
    try:
        body = find_function(_normalised(original), qualified_name, line)
    except SourceError as error:
        raise SourceError(f"{name}: {error}") from None
    start, end = (_original_offset(original, offset) for offset in (body.start, body.end))
    return Target(original, start, end, lead=body.lead, name=body.name)


def _read(path: Path) -> tuple[str, bool, str]:
    """The text of a file, whether it began with a byte-order mark, and its encoding."""
    name = _printable(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise SourceError(f"{name} is a folder: give a file in it")
        if not stat.S_ISREG(mode):  # a read from a pipe or a terminal might never end
            raise SourceError(f"{name} is not a regular file: give - to read standard input")
        with path.open("rb") as file:
            # One byte over the limit shows that the file is too large.
            data = file.read(MAX_FILE_BYTES + 1)
            size = max(len(data), os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise SourceError(f"{name} does not exist: give the path of a file") from None
    except PermissionError:
        raise SourceError(f"cannot read {name}: no permission; allow reading it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"cannot read {name}: {reason}; give a readable file") from error
    shebang = _SHEBANG.match(data)
    python = b"python" in shebang[1] if shebang else path.suffix.lower() in {*_PYTHON, SUFFIX}
    if not python:
        why = "by its first line" if shebang else f"as it ends in {path.suffix!r}"
        raise SourceError(
            f"{name} is not Python, {why}, and only Python can be filled: Python under another "
            "name can come from standard input"
        )
    return _decoded(data, name, size)


def _check_text(text: str, name: str) -> None:
    """SourceError for a text of nothing but blanks."""
    if not text.strip():
        raise SourceError(f"{name} is empty: there is nothing to complete")


def _decoded(data: bytes, name: str, size: int | None = None) -> tuple[str, bool, str]:
    """Decode a text of `size` bytes; its byte-order mark and its encoding are told beside it.

    The encoding is what the text declares as Python has it (PEP 263), else UTF-8.
    """
    if len(data) > MAX_FILE_BYTES:
        size = size or len(data)
        raise SourceError(
            f"{name} has {size} bytes, the limit is {MAX_FILE_BYTES}: make it smaller"
        )
    if (nul := data.find(b"\0")) >= 0:
        raise SourceError(f"{name} is binary, with a NUL at byte {nul}: give a text in UTF-8")
    try:
        declared, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError as error:
        if "unknown encoding" in str(error):
            raise SourceError(f"{name} declares an {error}: correct it") from None
        if data.startswith(codecs.BOM_UTF8) and "encoding problem" in str(error):
            raise SourceError(
                f"{name} begins with a byte-order mark, beside which Python takes no encoding but "
                "utf-8: remove one of them"
            ) from None
        declared = "utf-8"  # not UTF-8 in its first lines, which is said below
    encoding = "utf-8" if declared == "utf-8-sig" else declared
    try:
        text = data.decode(encoding)
        same = text.encode(encoding) == data
    except UnicodeDecodeError as error:
        shown = f"see byte {error.start} (0x{data[error.start]:02x})"
        remedy = "convert it, or declare its encoding in its first line (PEP 263)"
        raise SourceError(f"{name} is not {encoding.upper()}, {shown}: {remedy}") from None
    except (LookupError, UnicodeError):  # no encoding of text, or one that Python refuses to use
        same, text = False, ""
    if not same:
        raise SourceError(
            f"{name} declares the encoding {encoding}, in which it cannot be written back as it "
            "is: convert it to UTF-8"
        )
    bom = encoding == "utf-8" and text.startswith(_BOM)
    return text.removeprefix(_BOM) if bom else text, bom, encoding


def _normalised(text: str) -> str:
    # Where Python and editors end a line (`lexical.lines_of`).
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _original_offset(original: str, offset: int) -> int:
    """Convert an offset in the normalised text to one in the original."""
    for pair in re.finditer("\r\n", original):
        if pair.start() >= offset:
            break
        offset += 1
    return offset


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _printable(path: Path | str) -> str:
    """A name as it can be printed on one line of any terminal."""
    name = str(path)
    return name if name.isprintable() else ascii(name)

"""Targets are read from files and standard input, and written back without harm."""

from __future__ import annotations

import difflib
import errno
import io
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

import talaria.coder.source
from talaria.coder.errors import SourceError, UsageError
from talaria.coder.source import (
    MARK,
    MAX_FILE_BYTES,
    Target,
    parse_target,
    splice,
    unified_diff,
    write,
)

CONVERT = "convert it, or declare its encoding in its first line (PEP 263)"
ENDINGS = st.sampled_from(["\n", "\r\n", "\r"])
LINES = st.text(st.sampled_from("ab 𝒳é\t\x0b\x0c\x85\u2028"), max_size=6)
TEXTS = st.lists(st.tuples(LINES, ENDINGS), max_size=8).map(
    lambda pairs: "".join(line + ending for line, ending in pairs)
)


def no_stdin() -> NoReturn:
    """A standard input that must not be read."""
    pytest.fail("standard input was read")


def from_stdin(text: str | bytes) -> Target:
    """The target `-` with this text on standard input."""
    return parse_target("-", lambda: text if isinstance(text, bytes) else text.encode())


def failing(number: int) -> Callable[..., NoReturn]:
    """A function that fails with this error number."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with two functions."""
    path = tmp_path / "a.py"
    path.write_bytes(b"def f(x):\n    return x\n\n\ndef g(): pass\n")
    return path


def test_a_cursor_splits_the_text(source: Path) -> None:
    """A position is an empty hole at a 1-based line and a 0-based column."""
    target = parse_target(f"{source}:2:4", no_stdin)
    assert (target.prefix, target.middle) == ("def f(x):\n    ", "")
    assert target.suffix == "return x\n\n\ndef g(): pass\n"
    assert (target.path, target.newline, target.bom, target.lead) == (source, "\n", False, "")


def test_a_function_name_targets_its_body(source: Path) -> None:
    """The hole of a qualified name contains the body of that function."""
    target = parse_target(f"{source}::f", no_stdin)
    assert (target.prefix, target.middle) == ("def f(x):\n    ", "return x")
    assert splice(target, "return -x") == source.read_text().replace("return x", "return -x")


def test_a_missing_body_needs_a_lead(source: Path) -> None:
    """In a function without statements, the lead starts a line, with the file's line ending."""
    source.write_bytes(b'class A:\r\n    def f(self):\r\n        """Do."""\r\n')
    target = parse_target(f"{source}::A.f", no_stdin)
    assert (target.lead, target.middle) == ("\n        ", "")
    assert (
        splice(target, target.lead + "pass")
        == 'class A:\r\n    def f(self):\r\n        """Do."""\r\n        pass\r\n'
    )
    assert splice(target, "") == target.original


def test_a_mark_is_a_hole() -> None:
    """On standard input, the hole is at the mark, which is not part of the text."""
    target = from_stdin(f"a = {MARK}\r\n")
    assert (target.prefix, target.suffix, target.path, target.newline) == (
        "a = ",
        "\n",
        None,
        "\r\n",
    )
    assert splice(target, "1\n") == "a = 1\r\n\r\n"


def test_a_cursor_may_be_behind_the_last_newline(source: Path) -> None:
    """The empty line after a final newline can be filled."""
    target = parse_target(f"{source}:6:0", no_stdin)
    assert (target.prefix, target.suffix) == (source.read_text(), "")


def test_a_cursor_may_be_at_the_end_of_a_line(source: Path) -> None:
    """The last column is the length of the line, before its line ending."""
    source.write_bytes(b"ab\r\ncd")
    assert parse_target(f"{source}:1:2", no_stdin).suffix == "\ncd"
    assert parse_target(f"{source}:2:2", no_stdin).suffix == ""


def test_columns_count_characters(source: Path) -> None:
    """An astral character is one column, however many units it has in UTF-8 or UTF-16."""
    source.write_text("x = '𝒳é' + \n", encoding="utf-8")
    assert parse_target(f"{source}:1:7", no_stdin).prefix == "x = '𝒳é"


def test_a_byte_order_mark_is_not_a_column(source: Path) -> None:
    """It is not part of the text, and is written back."""
    source.write_bytes("\ufeffx = \r\n".encode())
    target = parse_target(f"{source}:1:4", no_stdin)
    assert (target.prefix, target.bom, splice(target, "1")) == ("x = ", True, "x = 1\r\n")
    write(target, "1\ny = 2")
    assert source.read_bytes() == "\ufeffx = 1\r\ny = 2\r\n".encode()


@pytest.mark.parametrize(
    ("text", "newline"),
    [("", "\n"), ("a\r\n", "\r\n"), ("a\nb\r\n", "\n"), ("a\nb\r\nc\r\n", "\r\n"), ("a\rb", "\r")],
)
def test_the_newline_is_that_of_most_lines(text: str, newline: str) -> None:
    """A text without line endings gets those of Unix."""
    assert Target(text, 0, 0).newline == newline


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (r"C:\x.py:3:4", r"C:\x.py"),
        (r"C:\x.py::f", r"C:\x.py"),
        ("a:b.py:3:4", "a:b.py"),
        ("a::b:3:4", "a::b"),
        ("a:1:2::f.g", "a:1:2"),
        ("-:1:0", "-"),
        ("folder name/é.py::ñ.b", "folder name/é.py"),
        (r"C:\x.py:3", r"C:\x.py"),
        ("folder name/é.py:3", "folder name/é.py"),
        ("a.ipynb#3:2", "a.ipynb"),
    ],
)
def test_names_with_colons_are_understood(target: str, name: str) -> None:
    """The last colons separate the position; everything before them is the file."""
    with pytest.raises(SourceError) as caught:
        parse_target(target, no_stdin)
    assert str(caught.value) == f"{name} does not exist: give the path of a file"


@pytest.mark.parametrize(
    "target",
    [
        "",
        "a.py",
        "a.py:3:",
        "a.py:-1:0",
        "a.py:1:x",
        "a.py::",
        "a.py::f g",
        "a.py::f.",
        ":1:1",
        "::f",
        "--",
        "a.py:1:" + "9" * 30,
        "a.py:1:²",
        "a\nb",
    ],
)
def test_other_forms_are_usage_errors(target: str) -> None:
    """The message lists the three forms on one line."""
    with pytest.raises(UsageError) as caught:
        parse_target(target, no_stdin)
    message = str(caught.value)
    assert all(form in message for form in ("FILE:LINE:COL", "FILE::QUALIFIED.NAME", MARK))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (":0:0", "a.py has 5 lines, no line 0: lines count from 1"),
        (":7:0", "a.py has 5 lines, no line 7: lines count from 1"),
        (":1:10", "line 1 of a.py has 9 characters, no column 10: columns count from 0"),
        (":6:1", "line 6 of a.py has 0 characters, no column 1: columns count from 0"),
        ("::h", "a.py: no function 'h': the file has 2 functions; give NAME, Class.method"),
    ],
)
def test_positions_outside_of_the_file(
    source: Path, monkeypatch: pytest.MonkeyPatch, place: str, message: str
) -> None:
    """The message says what the file has instead."""
    monkeypatch.chdir(source.parent)
    with pytest.raises(SourceError) as caught:
        parse_target(f"a.py{place}", no_stdin)
    assert str(caught.value).startswith(message)


def test_one_is_singular(source: Path) -> None:
    """Also where the line has no final newline."""
    source.write_bytes(b"a")
    with pytest.raises(SourceError, match="has 1 line, no line 2"):
        parse_target(f"{source}:2:0", no_stdin)
    with pytest.raises(SourceError, match="has 1 character, no column 2"):
        parse_target(f"{source}:1:2", no_stdin)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", " is empty: there is nothing to complete"),
        (b"\xef\xbb\xbf\r\n", " is empty: there is nothing to complete"),
        (b"ab\0c", " is binary, with a NUL at byte 2: give a text in UTF-8"),
        (b"abc\xe9d", " is not UTF-8, see byte 3 (0xe9): " + CONVERT),
        (b"\xed\xa0\x80", " is not UTF-8, see byte 0 (0xed): " + CONVERT),
        (b"# coding: nonsense\nx", " declares an unknown encoding: nonsense: correct it"),
        (
            b"\xef\xbb\xbf# coding: latin-1\nx",
            " begins with a byte-order mark, beside which Python takes no encoding but utf-8: "
            "remove one of them",
        ),
    ],
)
def test_texts_that_cannot_be_read(source: Path, data: bytes, message: str) -> None:
    """Empty, binary and wrongly encoded texts are refused from files and standard input."""
    source.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        parse_target(f"{source}:1:0", no_stdin)
    assert str(caught.value) == f"{source}{message}"
    with pytest.raises(SourceError) as caught:
        from_stdin(data)
    assert str(caught.value) == f"standard input{message}"


def test_large_texts_are_refused(source: Path) -> None:
    """The message has the file's size, although it is not read to the end."""
    with source.open("wb") as file:
        file.truncate(MAX_FILE_BYTES * 1000)
    message = f"has {MAX_FILE_BYTES * 1000} bytes, the limit is {MAX_FILE_BYTES}: make it smaller"
    with pytest.raises(SourceError, match=message):
        parse_target(f"{source}:1:0", no_stdin)
    with pytest.raises(
        SourceError, match="standard input has 16000001 bytes, the limit is 16000000"
    ):
        from_stdin(b"a" * (MAX_FILE_BYTES + 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "standard input has 0 marks and must have 1"),
        (f"{MARK}x = {MARK}\n", "standard input has 2 marks and must have 1"),
        (MARK, "standard input has no text around"),
        (f"\n{MARK}\n", "standard input has no text around"),
    ],
)
def test_standard_input_needs_one_mark_in_a_text(text: str, message: str) -> None:
    """A text needs exactly one mark, and the mark needs a text."""
    with pytest.raises(SourceError, match=message):
        from_stdin(text)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A folder, a pipe and a path below a file are refused without waiting."""
    with pytest.raises(SourceError, match="is a folder: give a file in it"):
        parse_target(f"{tmp_path}:1:0", no_stdin)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="is not a regular file: give - to read"):
        parse_target(f"{tmp_path / 'pipe'}:1:0", no_stdin)
    (tmp_path / "a").touch()
    with pytest.raises(SourceError, match=r"cannot read .*: Not a directory; give a readable file"):
        parse_target(f"{tmp_path / 'a' / 'b'}:1:0", no_stdin)
    with pytest.raises(SourceError, match=r"cannot read .*null byte"):
        parse_target("a\0b:1:0", no_stdin)


def test_a_file_without_permission(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says that permission is missing."""
    monkeypatch.setattr(Path, "open", failing(errno.EACCES))
    with pytest.raises(SourceError, match="no permission; allow reading it"):
        parse_target(f"{source}:1:0", no_stdin)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_really_without_permission(source: Path) -> None:
    """The same where the system denies access."""
    source.chmod(0)
    with pytest.raises(SourceError, match="no permission; allow reading it"):
        parse_target(f"{source}:1:0", no_stdin)


def test_odd_names_are_shown_on_one_line() -> None:
    """Neither a newline nor bytes that are not UTF-8 break the message."""
    with pytest.raises(SourceError) as caught:
        parse_target("a\nb\udcff:1:0", no_stdin)
    assert str(caught.value) == r"'a\nb\udcff' does not exist: give the path of a file"


@given(TEXTS, st.data())
def test_the_same_middle_gives_the_same_text(text: str, data: st.DataObject) -> None:
    """Splicing what is there already changes nothing, however mixed the line endings."""
    start = data.draw(st.integers(0, len(text)))
    target = Target(text, start, data.draw(st.integers(start, len(text))))
    assert splice(target, target.middle) == text
    assert unified_diff(target, target.middle) == ""


@given(TEXTS, TEXTS, st.data())
def test_text_outside_of_the_hole_survives(text: str, middle: str, data: st.DataObject) -> None:
    """Whatever is written, the text on both sides of the hole stays the same."""
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    target = Target(text, start, end)
    spliced = splice(target, middle)
    assert spliced.startswith(text[:start])
    assert spliced.endswith(text[end:])
    written = spliced[start : len(spliced) - len(text[end:])]
    if spliced != text:
        assert len(written.split(target.newline)) == len(
            io.StringIO(middle, None).read().split("\n")
        )


@given(TEXTS.filter(str.strip), st.booleans(), st.data())
def test_any_cursor_splits_the_text(text: str, bom: bool, data: st.DataObject) -> None:
    """At any line and column, the two views add up to the text with normalised line endings."""
    normalised = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = normalised.split("\n")
    line = data.draw(st.integers(1, len(lines)))
    column = data.draw(st.integers(0, len(lines[line - 1])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(talaria.coder.source, "_read", lambda _: (text, bom, "utf-8"))
        target = parse_target(f"a.py:{line}:{column}", no_stdin)
    assert target.prefix.split("\n") == [*lines[: line - 1], lines[line - 1][:column]]
    assert target.prefix + target.suffix == normalised
    assert splice(target, "") == text


def test_a_diff_shows_the_change(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the usual unified form."""
    monkeypatch.chdir(source.parent)
    assert unified_diff(parse_target("a.py::f", no_stdin), "return 2 * x") == (
        "--- a/a.py\n+++ b/a.py\n@@ -1,5 +1,5 @@\n def f(x):\n"
        "-    return x\n+    return 2 * x\n \n \n def g(): pass\n"
    )


def test_a_diff_marks_a_missing_final_newline() -> None:
    """It has the line that `patch` expects then."""
    assert unified_diff(from_stdin(f"a\n{MARK}b"), "c") == (
        "--- a/stdin\n+++ b/stdin\n@@ -1,2 +1,2 @@\n a\n"
        "-b\n\\ No newline at end of file\n+cb\n\\ No newline at end of file\n"
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("data", ["a\nb", "a\r\nb\r\n", "\ufeffa\r\nb\rc\n\n", "a\n"])
def test_a_diff_can_be_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    """`git apply` of the diff gives what --write writes."""
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_bytes(data.encode())
    target = parse_target("a.py:1:1", no_stdin)
    diff = unified_diff(target, "x\n𝒳").encode()
    subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], input=diff, check=True)
    assert Path("a.py").read_bytes() == ("\ufeff" * target.bom + splice(target, "x\n𝒳")).encode()


def test_a_diff_agrees_with_difflib(source: Path) -> None:
    """Also for an absolute path, which is named below a/ and b/."""
    target = parse_target(f"{source}:2:4", no_stdin)
    name = str(source).lstrip("/")
    old, new = (text.splitlines(keepends=True) for text in (target.original, splice(target, "y\n")))
    expected = difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
    assert unified_diff(target, "y\n") == "".join(expected)


def test_writing_fills_the_file(source: Path) -> None:
    """The file keeps its permissions, and no temporary file is left."""
    source.write_bytes(b"a\r\nb\rc\n\nx = ")
    source.chmod(0o640)
    target = parse_target(f"{source}:5:4", no_stdin)
    write(target, "'𝒳'")
    assert source.read_bytes() == "a\r\nb\rc\n\nx = '𝒳'".encode()
    assert stat.S_IMODE(source.stat().st_mode) == 0o640
    assert os.listdir(source.parent) == ["a.py"]


def test_links_are_followed(source: Path, tmp_path: Path) -> None:
    """Writing through a link changes the file that it points to; the link stays."""
    folder = tmp_path / "folder"
    folder.mkdir()
    link = folder / "link.py"
    link.symlink_to(Path("..") / source.name)
    target = parse_target(f"{link}::g", no_stdin)
    write(target, f"{target.lead}return 1")
    assert link.is_symlink()
    assert source.read_text().endswith("def g():\n    return 1\n")
    assert os.listdir(folder) == ["link.py"]


def test_standard_input_is_not_written() -> None:
    """There is no file to write to."""
    with pytest.raises(UsageError, match="--write needs a file"):
        write(from_stdin(f"x = {MARK}"), "1")


@pytest.mark.parametrize("change", [b"", b"def f(x):\n    return y\n", b"\r\n"])
def test_a_changed_file_is_not_overwritten(source: Path, change: bytes) -> None:
    """Another program may have written to it since it was read."""
    target = parse_target(f"{source}::f", no_stdin)
    source.write_bytes(change)
    with pytest.raises(SourceError, match="has changed since it was read, so nothing was written"):
        write(target, "pass")
    assert source.read_bytes() == change
    assert os.listdir(source.parent) == ["a.py"]


def test_a_removed_file_is_not_created_again(source: Path) -> None:
    """The user may have deleted it on purpose."""
    target = parse_target(f"{source}::f", no_stdin)
    source.unlink()
    with pytest.raises(SourceError, match=r"cannot write .*No such file or directory"):
        write(target, "pass")
    assert os.listdir(source.parent) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device; free some space on the disk"),
        (errno.EROFS, "Read-only file system; the file system is read-only"),
        (errno.EACCES, "Permission denied; make the file and its folder writable"),
        (errno.EIO, "Input/output error; fix that and try again"),
    ],
)
@pytest.mark.parametrize("function", ["os.fsync", "os.replace", "os.chmod", "tempfile.mkstemp"])
def test_a_failed_write_changes_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, remedy: str
) -> None:
    """Wherever it fails, the file is unchanged and alone in its folder; one line says why."""
    before = source.read_bytes()
    target = parse_target(f"{source}::f", no_stdin)
    monkeypatch.setattr(function, failing(number))
    with pytest.raises(SourceError) as caught:
        write(target, "pass")
    assert str(caught.value) == f"cannot write {source}, which is unchanged: {remedy}"
    assert source.read_bytes() == before
    assert os.listdir(source.parent) == ["a.py"]


@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
def test_an_interrupted_write_changes_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """Ctrl-C propagates, and the file is unchanged."""
    before = source.read_bytes()
    target = parse_target(f"{source}::f", no_stdin)

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(function, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(target, "pass")
    assert source.read_bytes() == before
    assert os.listdir(source.parent) == ["a.py"]


def test_a_disk_may_fill_up_while_writing(source: Path) -> None:
    """A real write that stops half-way, at a limit on file sizes, leaves nothing behind."""
    program = """
import resource, signal, sys
from talaria.coder.errors import SourceError
from talaria.coder.source import parse_target, write
target = parse_target(sys.argv[1] + "::f", bytes)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write(target, "x = 1\\n" * 100_000)
except SourceError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
    before = source.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", program, str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"SourceError: cannot write {source}, which is unchanged: "
        "File too large; fix that and try again\n"
    )
    assert source.read_bytes() == before
    assert os.listdir(source.parent) == ["a.py"]


def test_a_read_only_file_is_not_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not replaced, although its folder would allow it."""
    before = source.read_bytes()
    target = parse_target(f"{source}::f", no_stdin)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SourceError, match="make the file and its folder writable"):
        write(target, "pass")
    assert source.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
@pytest.mark.parametrize("protect", ["file", "folder"])
def test_a_really_read_only_file_is_not_written(source: Path, protect: str) -> None:
    """The same where the system denies writing to the file or its folder."""
    before = source.read_bytes()
    target = parse_target(f"{source}::f", no_stdin)
    path, mode = (source, 0o400) if protect == "file" else (source.parent, 0o500)
    path.chmod(mode)
    with pytest.raises(SourceError, match="make the file and its folder writable"):
        write(target, "pass")
    source.parent.chmod(0o700)
    assert source.read_bytes() == before
    assert os.listdir(source.parent) == ["a.py"]


def test_an_owner_may_be_lost(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the owner cannot be kept, the file is written all the same."""
    target = parse_target(f"{source}::f", no_stdin)
    monkeypatch.setattr(os, "chown", failing(errno.EPERM))
    write(target, "pass")
    assert source.read_text() == splice(target, "pass")


def test_a_middle_that_utf8_cannot_encode(source: Path) -> None:
    """A lone surrogate is refused before anything is written."""
    before = source.read_bytes()
    with pytest.raises(SourceError, match=r"UTF-8 cannot encode '\\ud800'"):
        write(parse_target(f"{source}::f", no_stdin), "x = '\ud800'")
    assert source.read_bytes() == before


@pytest.mark.parametrize(("line", "body"), [(1, "a"), (2, "a"), (3, "b"), (4, "b")])
def test_a_line_chooses_among_functions_of_one_name(tmp_path: Path, line: int, body: str) -> None:
    """Behind the name and an @; without it, the message says how."""
    path = tmp_path / "a@b.py"
    path.write_text("def f():\r\n    a\r\ndef f():\r\n    b\r\n", "utf-8", newline="")
    assert parse_target(f"{path}::f@{line}", no_stdin).middle == body
    with pytest.raises(SourceError, match=r"2 functions are named 'f', at lines 1 and 3: .*f@3$"):
        parse_target(f"{path}::f", no_stdin)
    with pytest.raises(UsageError, match="cannot tell what to fill"):
        parse_target(f"{path}::f@x", no_stdin)


def test_a_notebook_alone() -> None:
    """The message says how a cell is named."""
    with pytest.raises(UsageError, match=r"NOTEBOOK\.ipynb#CELL"):
        parse_target("a.ipynb", no_stdin)


@pytest.mark.parametrize("middle", ["return x", "y = x\n    return y"])
def test_a_body_on_the_line_of_its_header(tmp_path: Path, middle: str) -> None:
    """It gets lines of its own, so that any body fits."""
    path = tmp_path / "a.py"
    path.write_text("def f(x): ...\n\n\nx = f(1)\n", "utf-8")
    target = parse_target(f"{path}::f", no_stdin)
    write(target, target.lead + middle)
    assert path.read_text("utf-8") == f"def f(x):\n    {middle}\n\n\nx = f(1)\n"

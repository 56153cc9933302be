"""Code blocks get into files whole, checked, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from talaria.coder.chat_code import Block, blocks_of, change
from talaria.coder.errors import SourceError

WHOLE = "def f(a):\n    return a\n"


def test_the_blocks_of_an_answer() -> None:
    """Fences of both kinds, indented ones, fences within longer ones, and one that is cut off."""
    answer = (
        "See:\n\n```python\nx = 1\n```\n\n1. this:\n   ```sh\n   ls\n   ```\n"
        "~~~\ny = '```'\n~~~\n````md\n```\nz\n```\n````\n```py\ndef f("
    )
    assert blocks_of(answer) == [
        Block("python", "x = 1\n", False),
        Block("sh", "ls\n", False),
        Block("", "y = '```'\n", False),
        Block("md", "```\nz\n```\n", False),
        Block("py", "def f(\n", True),
    ]
    assert blocks_of("no `code` here, nor ``here``") == []


def test_the_lines_of_a_block_are_those_of_python() -> None:
    """Other signs stay within them; the line endings of Windows end lines, and close a block."""
    odd = "x = 'a\u2028b\x85\x1c'\n\x0cy = 'a\x0b'\n"
    assert blocks_of(f"```python\n{odd}```\n") == [Block("python", odd, False)]
    answer = "  ```py\r\n  x = 1\r\n\r\n  ```\r\nDone.\r\n```\r\n```\r\n"
    assert blocks_of(answer) == [Block("py", "x = 1\n\n", False), Block("", "", False)]


@pytest.mark.parametrize("text", ["alias ll='ls -l'\n", "#!/usr/bin/python\nprint 1\n"])
def test_a_name_without_a_suffix_says_nothing(tmp_path: Path, text: str) -> None:
    """What it holds does: it is replaced if that is Python."""
    path = tmp_path / "bashrc"
    path.write_text(text)
    with pytest.raises(SourceError, match="is not Python"):
        change(Block("python", WHOLE, False), path)
    assert path.read_text() == text
    path.write_text("#!/usr/bin/python3\nprint(1)\n")
    change(Block("python", WHOLE, False), path).write()
    assert path.read_text() == WHOLE


@pytest.mark.parametrize("name", ["a\0b.py", "x" * 300 + ".py", "\ud800.py"])
def test_a_name_that_no_file_can_have_is_a_line(tmp_path: Path, name: str) -> None:
    """With why."""
    with pytest.raises(SourceError) as said:
        change(Block("python", WHOLE, False), tmp_path / name).write()
    assert "\n" not in str(said.value)


def test_a_new_file_appears_whole(tmp_path: Path) -> None:
    """And nothing else beside it."""
    path = tmp_path / "new.py"
    planned = change(Block("python", WHOLE, False), path)
    assert "+def f(a):\n" in planned.diff
    assert not path.exists()
    planned.write()
    assert path.read_text() == WHOLE
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_is_replaced_in_its_own_way(tmp_path: Path) -> None:
    """With its line endings, its byte-order mark and its permissions."""
    path = tmp_path / "old.py"
    path.write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 2\r\n")
    path.chmod(0o640)
    planned = change(Block("python", WHOLE, False), path)
    assert "x = 1" in planned.diff
    planned.write()
    assert path.read_bytes() == b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode()
    assert path.stat().st_mode & 0o777 == 0o640
    assert change(Block("python", WHOLE, False), path).diff == ""


@pytest.mark.parametrize("text", ["def f(:\n", "if x:\n", "return (\n", "\n"])
@pytest.mark.parametrize("before", ["x = 1\n", None])
def test_python_that_is_none_is_refused(tmp_path: Path, text: str, before: str | None) -> None:
    """In a line that says why; the file is as it was."""
    path = tmp_path / "some.py"
    if before is not None:
        path.write_text(before)
    with pytest.raises(SourceError, match=r"so .*some\.py is as it was") as said:
        change(Block("python", text, False), path)
    assert "\n" not in str(said.value)
    assert (path.read_text() if path.exists() else None) == before


def test_what_was_cut_off_is_refused(tmp_path: Path) -> None:
    """Though it may be Python."""
    with pytest.raises(SourceError, match="ended within the block"):
        change(Block("python", WHOLE, True), tmp_path / "new.py")


def test_other_files(tmp_path: Path) -> None:
    """A new one of another kind is not checked; one that is there is not replaced."""
    path = tmp_path / "run.sh"
    change(Block("sh", "if true; then ls; fi\n", False), path).write()
    assert path.read_text() == "if true; then ls; fi\n"
    with pytest.raises(SourceError, match="not Python"):
        change(Block("sh", "ls\n", False), path)
    with pytest.raises(SourceError, match="folder"):
        change(Block("python", WHOLE, False), tmp_path)
    book = tmp_path / "book.ipynb"
    book.write_text("{}")
    with pytest.raises(SourceError, match="notebook"):
        change(Block("python", WHOLE, False), book)


def test_what_changes_meanwhile_is_kept(tmp_path: Path) -> None:
    """Whether a file is edited or comes to be."""
    old, new = tmp_path / "old.py", tmp_path / "new.py"
    old.write_text("x = 1\n")
    planned = [change(Block("python", WHOLE, False), path) for path in (old, new)]
    for path, each in zip((old, new), planned, strict=True):
        path.write_text("y = 2\n")
        with pytest.raises(SourceError):
            each.write()
        assert path.read_text() == "y = 2\n"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Is said, with what to do."""
    planned = change(Block("python", WHOLE, False), tmp_path / "no" / "new.py")
    with pytest.raises(SourceError, match="give a name in a folder that is there"):
        planned.write()

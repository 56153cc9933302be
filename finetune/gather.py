"""`talaria corpus`: gather permissively licensed Python into files that training reads."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import platform
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from talaria.coder.errors import DataError, UsageError
from talaria.finetune import filters
from talaria.finetune.corpus import (
    SPLITS,
    TEXT_OF,
    Document,
    check_corpus,
    check_place,
    read_manifest,
    restore,
    shuffle_key,
    write_corpus,
)
from talaria.finetune.wheels import PACKAGES, STDLIB, Package, chosen, read_packages, read_source

Judge = Callable[[Iterable[tuple[str, bytes]]], Iterable[filters.Verdict]]

PACKAGE_BYTES = 12_000_000
"""Text kept of one package at most, so that no package sets the tone alone."""
COMMON_GRAM_PACKAGES = 3
"""A 10-gram that so many packages hold is how people write Python, not a trace of a benchmark.

Of the 7,753 10-grams of the benchmarks 361 occur in 87,584 files, 187 of them in two packages
or more, 129 in three, 85 in five; the rest takes 0.10, 0.18 and 0.29 % of the files with it."""


SIZED_FILES = 2000
"""Files of a split whose tokens are counted, to tell how many all have."""


@dataclass
class Gathered:
    """What became of one package's files."""

    package: Package
    source: str
    sha256: str
    verdicts: list[filters.Verdict]
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, reasons: dict[str, str]) -> None:
        """Take the files with these paths out and count why."""
        self.verdicts = [v for v in self.verdicts if v.path not in reasons]
        self.dropped.update(reasons.values())


def main(argv: list[str]) -> int:
    """Build the corpus and print what was kept and dropped; 0, also when it was there already."""
    if argv[:1] == ["stats"]:
        from talaria.finetune import corpus_stats  # alone in need of plots

        return corpus_stats.main(argv[1:])
    args = _arguments(argv)
    packages = chosen(read_packages(PACKAGES), args.packages)
    benchmarks = [read_benchmark(path) for path in args.exclude]
    # What comes with the package needs no naming again: a file given twice is excluded once.
    shipped = filters.shipped_files()
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
    restore(out)
    if not args.force and _is_current(out, request):
        print(f"{out}: up to date; --force builds it again", file=sys.stderr)
    else:
        grams = excluded_grams(more.values())
        build(out, packages, request, grams, args.cache, args.jobs)
    manifest = read_manifest(out)
    print(report(manifest))
    for split in SPLITS:
        if not any(part["split"] == split for part in manifest["parts"]):
            names = [p.name for p in read_packages(PACKAGES) if p.split == split][:8]
            print(
                f"talaria corpus: {out} has no {TEXT_OF[split]}, without which nothing is trained; "
                f"name some of {', '.join(names)} among --packages too",
                file=sys.stderr,
            )
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="talaria corpus",
        description="Gather the standard library and a pinned list of permissively licensed "
        "packages into a corpus: filtered, without near-duplicates, some packages held out.",
        epilog="talaria corpus stats shows what a corpus holds.",
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
        help="more benchmarks (gzip JSONL): files that share a 10-gram of tokens with a solution "
        "are dropped, as those of HumanEval and its infilling sets always are",
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
    return {
        **filters.SETTINGS,
        "package_bytes": PACKAGE_BYTES,
        "common_gram_packages": COMMON_GRAM_PACKAGES,
    }


# The build


def gather(package: Package, cache: Path, judge_all: Judge) -> Gathered:
    """Judge each file of a package, in the order of their paths."""
    source = read_source(package, cache)
    gathered = Gathered(package, source.name, source.sha256, [])
    for verdict in judge_all(source.files):
        if verdict.reason:
            gathered.dropped[verdict.reason] += 1
        else:
            gathered.verdicts.append(verdict)
    return gathered


def build(
    out: Path,
    packages: Sequence[Package],
    request: dict[str, Any],
    benchmark: filters.Hashes,
    cache: Path,
    jobs: int,
) -> None:
    """Make the corpus and put it in place when it is whole; a former one stays until then.

    `benchmark` holds the sorted, hashed 10-grams of benchmarks that it must not share.
    UsageError if `out` holds something else; DataError if it cannot be written, or a
    package cannot be had or may not enter.
    """
    from tqdm import tqdm

    check_place(out, "talaria corpus")
    held_out = filters.all_grams((), filters.HELD_OUT_RUN)
    everything: list[Gathered] = []
    with _spread(jobs) as spread, tqdm(total=len(packages), unit="package") as bar:
        # Held-out packages come first: they decide what training may hold.
        for split in ("valid", "train"):
            judge = partial(filters.judge, benchmark=benchmark, held_out=held_out)
            for package in (package for package in packages if package.split == split):
                bar.set_postfix_str(package.name)
                everything.append(gather(package, cache, partial(spread, judge)))
                bar.update()
            texts = (verdict.text for gathered in everything for verdict in gathered.verdicts)
            if split == "valid":
                held_out = filters.all_grams(texts, filters.HELD_OUT_RUN)
    drop_duplicates(everything)
    drop_benchmarks(everything)
    drop_excess(everything)
    splits = {split: list(_documents(everything, split)) for split in SPLITS}
    about = {
        "request": request,
        "bpe": measure_bpe(splits),
        "tokens_are": "names, numbers, operators and strings, without comments and layout",
        "packages": [
            {
                **asdict(g.package),
                "source": g.source,
                "sha256": g.sha256,
                "files": len(g.verdicts),
                "bytes": sum(len(v.text.encode()) for v in g.verdicts),
                "tokens": sum(v.tokens for v in g.verdicts),
                "dropped": dict(sorted(g.dropped.items())),
            }
            for g in sorted(everything, key=lambda g: packages.index(g.package))
        ],
    }
    write_corpus(out, splits, about)


def measure_bpe(
    splits: Mapping[str, Sequence[Document]], tokenizer: Path | None = None
) -> dict[str, Any]:
    """How many bytes a token stands for in `SIZED_FILES` files of each split, chosen by hash.

    The tokens are those of the tokenizer in this file, of the shipped model for None.
    """
    # They bring torch along, which nothing else here needs.
    from talaria.coder.checkpoint import digest, find
    from talaria.coder.tokenizer import Tokenizer
    from talaria.finetune.tokenizer import reach

    place = tokenizer or find() / "tokenizer.json"
    bpe = Tokenizer.load(place)
    bytes_per_token = {}
    for split, documents in splits.items():
        some = sorted(documents, key=lambda d: shuffle_key(d.package, d.path))[:SIZED_FILES]
        if some:
            bytes_per_token[split] = reach(bpe, some)["bytes_per_token"]
    return {
        "tokenizer": place.name if tokenizer else place.parent.name,
        "sha256": digest(place),
        "files": SIZED_FILES,
        "bytes_per_token": bytes_per_token,
    }


def _documents(everything: Sequence[Gathered], split: str) -> Iterator[Document]:
    for gathered in everything:
        if gathered.package.split == split:
            for verdict in gathered.verdicts:
                yield Document(gathered.package.name, verdict.path, verdict.text)


@contextlib.contextmanager
def _spread(jobs: int) -> Iterator[Callable[[Any, Any], Iterable[Any]]]:
    """A `map` that keeps the order, over `jobs` processes."""
    import multiprocessing

    if jobs == 1:
        yield map
        return
    # Ctrl-C is for the parent, which then ends its workers, without a traceback from each.
    quiet = (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(jobs, signal.signal, quiet) as pool:
        yield partial(pool.imap, chunksize=32)


@dataclass(frozen=True)
class Benchmark:
    """The solved programs of one benchmark file, which the corpus must not hold."""

    name: str
    sha256: str
    programs: tuple[str, ...]

    def as_file(self) -> filters.BenchmarkFile:
        """What a manifest says of it."""
        return filters.BenchmarkFile(self.name, self.sha256, len(self.programs))


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


def excluded_grams(benchmarks: Iterable[Benchmark]) -> filters.Hashes:
    """The sorted, hashed 10-grams of these benchmarks and of those that come with the package."""
    more = filters.benchmark_grams(p for b in benchmarks for p in b.programs)
    return np.union1d(filters.shipped_grams(), more)


def ship_grams(paths: Iterable[Path], out: Path = filters.SHIPPED) -> None:
    """Make the file of hashes that comes with the package from the benchmarks themselves."""
    benchmarks = [read_benchmark(path) for path in paths]
    grams = filters.benchmark_grams(p for b in benchmarks for p in b.programs)
    filters.write_grams(out, (b.as_file() for b in benchmarks), grams)


def drop_duplicates(everything: Sequence[Gathered]) -> None:
    """Keep the first of equal or nearly equal files, those of held-out packages before all."""
    order = sorted(everything, key=lambda g: g.package.split == "train")
    reasons = filters.repeats((g.package.split, verdict) for g in order for verdict in g.verdicts)
    for gathered in order:
        found = {verdict.path: next(reasons) for verdict in gathered.verdicts}
        gathered.drop({path: reason for path, reason in found.items() if reason})


def drop_benchmarks(everything: Sequence[Gathered]) -> None:
    """Drop files that share a 10-gram with a benchmark, unless several packages hold it.

    Packages are counted after duplicates are gone, so that a text passed from one to
    another does not count as written twice.
    """
    packages = Counter(
        gram
        for gathered in everything
        for gram in {gram for verdict in gathered.verdicts for gram in verdict.benchmark}
    )
    for gathered in everything:
        gathered.drop(
            {
                verdict.path: "benchmark"
                for verdict in gathered.verdicts
                if any(packages[gram] < COMMON_GRAM_PACKAGES for gram in verdict.benchmark)
            }
        )


def drop_excess(everything: Sequence[Gathered]) -> None:
    """Cut each package to its share of bytes: tests go first, the rest by hash."""
    for gathered in everything:
        total, reasons = 0, {}
        name = gathered.package.name
        for verdict in sorted(
            gathered.verdicts, key=lambda v: (filters.is_test(v.path), shuffle_key(name, v.path))
        ):
            total += len(verdict.text.encode())
            if total > PACKAGE_BYTES:
                reasons[verdict.path] = "beyond the package's share"
        gathered.drop(reasons)


def _is_current(out: Path, request: dict[str, Any]) -> bool:
    try:
        manifest = check_corpus(out)
    except DataError:
        return False
    return manifest.get("request") == request


def report(manifest: dict[str, Any]) -> str:
    """What a person reads of a corpus: sizes a split, and how many files were dropped and why."""
    columns: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for package in manifest["packages"]:
        column = columns[package["split"]]
        column.update(packages=1, files=package["files"], bytes=package["bytes"])
        column.update({"code tokens": package["tokens"]})
        column.update({f"dropped: {reason}": n for reason, n in package["dropped"].items()})
    for split, tokens in bpe_tokens(manifest).items():
        columns[split]["BPE tokens, about"] = tokens
    rows = ["packages", "files", "bytes", "code tokens", "BPE tokens, about"]
    rows += sorted(set().union(*columns.values()) - set(rows))
    width = max(map(len, rows))
    lines = [f"{'':{width}}" + "".join(f"{split:>14}" for split in SPLITS)]
    lines += [
        f"{row:{width}}" + "".join(f"{columns[split][row]:14,}" for split in SPLITS) for row in rows
    ]
    return "\n".join(lines)


def bpe_tokens(manifest: Mapping[str, Any]) -> dict[str, int]:
    """How many tokens of the shipped model each split has, to three figures."""
    sizes: Counter[str] = Counter()
    for package in manifest["packages"]:
        sizes[package["split"]] += package["bytes"]
    reach = manifest.get("bpe", {}).get("bytes_per_token", {})
    return {split: int(float(f"{sizes[split] / reach[split]:.3g}")) for split in reach}

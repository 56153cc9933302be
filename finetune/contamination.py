"""Benchmarks that training text must not contain: their programs, as hashed 10-grams."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from talaria.coder.errors import DataError
from talaria.finetune.ngrams import Hashes, all_grams

GRAM = 10
SHIPPED = Path(__file__).with_name("benchmark_grams.npz")


@dataclass(frozen=True, order=True)
class BenchmarkFile:
    """A manifest's record of an excluded benchmark; `programs` counts its programs."""

    file: str
    sha256: str
    programs: int


@dataclass(frozen=True)
class Benchmark:
    """The solved programs of one benchmark file."""

    name: str
    sha256: str
    programs: tuple[str, ...]

    def as_file(self) -> BenchmarkFile:
        """The manifest's record of this benchmark."""
        return BenchmarkFile(self.name, self.sha256, len(self.programs))


def read_benchmark(path: Path) -> Benchmark:
    """Read gzip JSONL, one problem a line: `prompt`, `canonical_solution`, optionally `suffix`.

    DataError if the file has another format.
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
            f"{path}: not a benchmark in gzip JSONL with prompt and canonical_solution "
            f"({error!r}); remove it from --exclude or download it again"
        ) from error
    return Benchmark(path.name, hashlib.sha256(raw).hexdigest(), tuple(programs))


def benchmark_grams(programs: Iterable[str]) -> Hashes:
    """The sorted, hashed 10-grams of code tokens in these programs."""
    return all_grams(programs, GRAM)


def excluded_grams(benchmarks: Iterable[Benchmark]) -> Hashes:
    """The sorted, hashed 10-grams of these benchmarks and of those shipped with the package."""
    more = benchmark_grams(p for b in benchmarks for p in b.programs)
    return np.union1d(shipped_grams(), more)


def shipped_grams() -> Hashes:
    """The sorted, hashed 10-grams of HumanEval and its infilling sets.

    The package ships these hashes instead of the benchmarks; `shipped_files` lists the
    files, and `ship_grams` makes the hashes.
    """
    with np.load(SHIPPED) as shipped:
        grams: Hashes = shipped["grams"]
    return grams


def shipped_files() -> list[BenchmarkFile]:
    """The benchmark files behind `shipped_grams`."""
    with np.load(SHIPPED) as shipped:
        return [BenchmarkFile(**entry) for entry in json.loads(str(shipped["files"]))]


def ship_grams(paths: Iterable[Path], out: Path = SHIPPED) -> None:
    """Make the shipped file of hashes from the benchmarks; the same files give the same bytes."""
    benchmarks = [read_benchmark(path) for path in paths]
    grams = benchmark_grams(p for b in benchmarks for p in b.programs)
    files = sorted(b.as_file() for b in benchmarks)
    np.savez(out, grams=grams, files=json.dumps([asdict(file) for file in files]))

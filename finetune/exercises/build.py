"""The command: drafts are rendered in worker processes, told apart, and bound into modules."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from talaria.coder.arguments import Parser
from talaria.coder.errors import UsageError
from talaria.finetune.contamination import GRAM, excluded_grams, read_benchmark
from talaria.finetune.corpus import (
    SPLITS,
    CorpusDocument,
    check_place,
    corpus_hash,
    read_corpus,
    read_manifest,
    write_corpus,
)
from talaria.finetune.exercises.families import FAMILIES
from talaria.finetune.exercises.mirrors import BenchmarkTask, Mirrors, read_tasks
from talaria.finetune.exercises.trial import Exercise, RejectedError, import_lines, load, render
from talaria.finetune.ngrams import Hashes, code_tokens, hashed_grams

PACKAGE = "exercises"
BATCH = 200
"""Drafts that a worker makes before it reports."""
ALIKE = 6
"""Kept at most of exercises whose code differs in names, numbers and strings alone."""
HELD_OUT = 3
"""Of 256 parts of all code: it comes in no other split, whatever its names and numbers are."""
COMMON_PACKAGES = 3
"""A 10-gram in so many packages of library code is an idiom of Python, no trace of a benchmark."""
DRAFTS_EACH = 20
"""Drafts tried at most for each exercise wanted."""


@dataclass(frozen=True)
class DraftBatch:
    """What came of some drafts, in their order: exercises, or why there is none."""

    exercises: tuple[Exercise, ...]
    rejected: Counter[str]


def main(argv: list[str]) -> int:
    """Make exercises, write them as a corpus, and print what was made and what was rejected."""
    parser = Parser(
        prog="talaria exercises",
        description="Compose small described functions at random, run each, and write those that hold as a corpus for training.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("data/exercises"),
        metavar="FOLDER",
        help="where the corpus goes (%(default)s); it is replaced only when the new one is whole",
    )
    parser.add_argument("--count", type=int, default=300_000, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other exercises")
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="benchmarks (gzip JSONL) beside those known by hashes: drop what shares a 10-gram of tokens with a solution, and what passes their tests, which are run: give only files that you trust",
    )
    parser.add_argument(
        "--common",
        type=Path,
        metavar="CORPUS",
        help=f"a corpus of library code: what {COMMON_PACKAGES} of its packages share with the benchmarks is an idiom and excludes nothing",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    args = parser.parse_args(argv)
    for name in ("count", "jobs"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; it must be 1 or more")
    check_place(args.out, "talaria exercises")
    benchmarks = sorted(map(read_benchmark, args.exclude), key=lambda b: (b.name, b.sha256))
    grams = telling(excluded_grams(benchmarks), args.common, args.jobs)
    tasks = read_tasks(args.exclude)
    if not tasks:
        print(
            "talaria exercises: no benchmark's tests at hand, so that exercises may do what its tasks ask; give its file with --exclude",
            file=sys.stderr,
        )
    kept, rejected = make(args.count, args.seed, grams, tasks, args.jobs)
    documents = bind(kept, args.seed, grams)
    about = {
        "request": {
            "count": args.count,
            "seed": args.seed,
            "exclude": [{"file": b.name, "programs": len(b.programs), "sha256": b.sha256} for b in benchmarks],
            "tasks": len(tasks),
            "common": corpus_hash(args.common) if args.common else None,
        },
        "functions": len(kept),
        "shapes": len({e.code_key for e in kept}),
        "families": dict(sorted(Counter(e.family for e in kept).items())),
        "styles": dict(sorted(Counter(e.style for e in kept).items())),
        "bytes": sum(len(d.text.encode()) for found in documents.values() for d in found),
        "rejected": dict(rejected.most_common()),
    }
    write_corpus(args.out, documents, about)
    print(report(read_manifest(args.out)))
    return 0


def telling(grams: Hashes, common: Path | None, jobs: int) -> Hashes:
    """The grams of benchmarks without the idioms: those in several packages of library code.

    `common` is a corpus of library code; None: every gram tells.
    """
    if common is None or not len(grams):
        return grams
    documents = read_corpus(common, "train")
    packages: dict[int, set[str]] = defaultdict(set)
    with _workers(grams, jobs) as pool:
        texts = (document.text for document in documents)
        for document, shared in zip(documents, pool.imap(_shared, texts, 64), strict=True):
            for gram in shared:
                packages[gram].add(document.package)
    idioms = [gram for gram, found in packages.items() if len(found) >= COMMON_PACKAGES]
    return np.setdiff1d(grams, np.array(idioms, np.uint64))


def shares(text: str, grams: Hashes) -> bool:
    """Whether the text has one of these 10-grams of code tokens."""
    if not len(grams):
        return False
    own = hashed_grams(code_tokens(text), GRAM)
    places = np.searchsorted(grams, own).clip(max=len(grams) - 1)
    return bool((grams[places] == own).any())


def draft_number(seed: int, number: int) -> Exercise:
    """The exercise that this number gives, whatever process makes it; RejectedError if none."""
    rng = Random(f"{seed}:{number}")
    made = rng.choices(list(FAMILIES), list(FAMILIES.values()))[0](rng)
    return made if isinstance(made, Exercise) else render(made, rng)


_grams: Hashes = np.empty(0, np.uint64)
_mirrors = Mirrors(())


def _begin(grams: Hashes, tasks: Sequence[BenchmarkTask]) -> None:
    global _grams, _mirrors
    _grams, _mirrors = grams, Mirrors(tasks)
    # The parent alone answers Ctrl-C, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _batch(task: tuple[int, int]) -> DraftBatch:
    seed, number = task
    exercises = []
    rejected: Counter[str] = Counter()
    for index in range(number * BATCH, (number + 1) * BATCH):
        try:
            exercise = draft_number(seed, index)
            text = _module([exercise], "")
            _mirrors.reject(exercise.defines, load(text))
        except RejectedError as error:
            rejected[str(error)] += 1
            continue
        if shares(text, _grams):
            rejected["shares a 10-gram with a benchmark"] += 1
        else:
            exercises.append(exercise)
    return DraftBatch(tuple(exercises), rejected)


def make(count: int, seed: int, grams: Hashes, tasks: Sequence[BenchmarkTask], jobs: int) -> tuple[list[Exercise], Counter[str]]:
    """So many distinct exercises, and why drafts were rejected; the same for any `jobs`.

    UsageError if the grammar does not give so many.
    """
    from tqdm import tqdm

    kept: list[Exercise] = []
    rejected: Counter[str] = Counter()
    met: set[bytes] = set()
    alike: Counter[bytes] = Counter()
    limit = max(1, count * DRAFTS_EACH // BATCH)
    batches = ((seed, number) for number in range(limit))
    with (
        _workers(grams, jobs, tasks) as pool,
        tqdm(total=count, unit="exercise", file=sys.stderr) as bar,
    ):
        for batch in pool.imap(_batch, batches):
            rejected += batch.rejected
            for exercise in batch.exercises:
                if exercise.key in met:
                    rejected["repeats another but for names"] += 1
                elif alike[exercise.code_key] >= ALIKE:
                    rejected[f"more than {ALIKE} of the same code"] += 1
                elif len(kept) < count:
                    met.add(exercise.key)
                    alike[exercise.code_key] += 1
                    kept.append(exercise)
                    bar.update()
            if len(kept) == count:
                return kept, rejected
    raise UsageError(f"--count is {count}, and {limit * BATCH} drafts gave {len(kept)} distinct exercises; ask for fewer")


@contextlib.contextmanager
def _workers(grams: Hashes, jobs: int, tasks: Sequence[BenchmarkTask] = ()) -> Iterator[Pool]:
    """Worker processes that end with the block."""
    pool = multiprocessing.get_context("spawn").Pool(jobs, _begin, (grams, tasks))
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


def _shared(text: str) -> list[int]:
    own = hashed_grams(code_tokens(text), GRAM)
    return [int(gram) for gram in np.intersect1d(own, _grams, assume_unique=True)]


def bind(exercises: Sequence[Exercise], seed: int, grams: Hashes) -> dict[str, list[CorpusDocument]]:
    """Modules of one to six exercises each, in a split for training and a small one held out."""
    members: dict[str, list[Exercise]] = {split: [] for split in SPLITS}
    for exercise in exercises:
        members["valid" if exercise.code_key[0] < HELD_OUT else "train"].append(exercise)
    return {split: list(modules(some, split, seed, grams)) for split, some in members.items()}


def modules(exercises: Sequence[Exercise], split: str, seed: int, grams: Hashes) -> Iterator[CorpusDocument]:
    """All exercises in their order, some to a module."""
    rng = Random(f"{seed}:{split}")
    place = number = 0
    while place < len(exercises):
        wanted = rng.choices((1, 2, 3, 4, 5, 6), (22, 22, 20, 16, 12, 8))[0]
        members: list[Exercise] = []
        defined: set[str] = set()
        while place < len(exercises) and len(members) < wanted:
            exercise = exercises[place]
            if not defined.isdisjoint(exercise.defines):
                break
            defined.update(exercise.defines)
            members.append(exercise)
            place += 1
        head = rng.choice(HEADS) if rng.random() < 0.15 and len(members) > 1 else ""
        texts = [_module(members, head)]
        if shares(texts[0], grams):
            # Each alone shares nothing; what lies across two of them does.
            texts = [_module([member], "") for member in members]
        for text in texts:
            path = f"{PACKAGE}/{split}/{number // 1000:03d}/{number % 1000:03d}.py"
            yield CorpusDocument(PACKAGE, path, text)
            number += 1


HEADS = (
    "Small helpers.",
    "Helper functions.",
    "Exercises with lists and strings.",
    "A few small functions.",
    "Assorted functions.",
    "Practice problems with their solutions.",
    "Functions on plain Python data.",
    "Building blocks for other modules.",
)


def _module(members: Sequence[Exercise], head: str) -> str:
    lines = import_lines({pair for member in members for pair in member.imports})
    # Linters ask for two empty lines around functions, one before imports.
    sections = [f'"""{head}"""\n\n{lines}' if head and lines else f'"""{head}"""' if head else lines]
    sections += [member.text for member in members]
    return "\n\n\n".join(section for section in sections if section) + "\n"


def report(about: dict[str, Any]) -> str:
    """A table for a person: functions by family, styles, bytes, and what was rejected."""
    parts = [("functions", about["functions"]), ("of different code", about["shapes"])]
    parts += [("bytes", about["bytes"])]
    for split in SPLITS:
        parts.append((f"modules, {split}", sum(p["documents"] for p in about["parts"] if p["split"] == split)))
    parts += [(f"family: {name}", n) for name, n in about["families"].items()]
    parts += [(f"style: {name}", n) for name, n in about["styles"].items()]
    parts += [(f"rejected: {name}", n) for name, n in about["rejected"].items()]
    width = max(len(name) for name, _ in parts)
    return "\n".join(f"{name:{width}}{number:>14,}" for name, number in parts)

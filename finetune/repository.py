"""`talaria finetune`: tune an adapted model on the files of your own repository.

What no model must see stays out: files that git ignores, that look like secrets or that `--exclude`
names, and secret-looking lines (`coder/privacy.py`). A tenth of the files is held out; before and
after are compared at line ends in it. The training is that of `talaria adapt`, with its options.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from talaria.coder import checkpoint
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.infill import infill
from talaria.coder.privacy import Fence, read, without_secrets
from talaria.coder.request import Options
from talaria.finetune import adapt
from talaria.finetune.corpus import (
    CorpusDocument,
    read_manifest,
    read_nonempty,
    shuffle_key,
    write_corpus,
)
from talaria.finetune.filters import HELD_OUT_RUN, path_reason, text_reason
from talaria.finetune.ngrams import all_grams, code_tokens, hashed_grams, shared_grams
from talaria.finetune.recipe import flag
from talaria.finetune.state import writing
from talaria.finetune.validate import Cursor, choose_cursors

LEAST_FILES = 10  # one of them is held out
HELD_OUT = 10  # one file of so many
MINUTES = "20"
INHERITED = "rank", "masks", "units"  # what the shape of an adapter follows from
FIGURES = "figures.json"


@dataclass(frozen=True)
class Gathered:
    """Files of a repository that can be learnt from, by split, and why others were left out."""

    splits: dict[str, list[CorpusDocument]]
    dropped: Counter[str]


def gather(root: Path, exclude: Sequence[str] = ()) -> Gathered:
    """Read a repository's Python files. UsageError if there are too few to learn from."""
    if not root.is_dir():
        raise UsageError(f"{root} is no folder; give that of a repository")
    fence, dropped = Fence([root], exclude), Counter[str]()
    found: list[CorpusDocument] = []
    for path in python_files(root):
        name = path.relative_to(root).as_posix()
        reason = path_reason(name) or (None if fence.readable(path) else "private or ignored")
        text = None if reason else read(path)
        if not reason and text is None:
            reason = "too long, or no text"
        if text is not None:
            text = without_secrets(text)
            reason = text_reason(text, code_tokens(text))
        if reason or text is None:
            dropped[reason or ""] += 1
        else:
            found.append(CorpusDocument(root.resolve().name, name, text))
    if len(found) < LEAST_FILES:
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        raise UsageError(
            f"{root} has {len(found)} Python files to learn from ({left_out or 'no others'}); "
            f"tuning needs at least {LEAST_FILES}"
        )
    found.sort(key=lambda document: shuffle_key("", document.path))
    held_out, train = found[: len(found) // HELD_OUT], found[len(found) // HELD_OUT :]
    grams = all_grams((document.text for document in held_out), HELD_OUT_RUN)
    kept = [
        document
        for document in train
        if not len(shared_grams(hashed_grams(code_tokens(document.text), HELD_OUT_RUN), grams))
    ]
    if len(kept) < len(train):
        dropped["near a held-out file"] = len(train) - len(kept)
    return Gathered({"train": kept, "valid": held_out}, dropped)


def python_files(root: Path) -> Iterator[Path]:
    """The Python files below a folder, in a fixed order, without those of virtual environments."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(
            name for name in folders if not (Path(folder) / name / "pyvenv.cfg").exists()
        )
        yield from (Path(folder) / name for name in sorted(names) if name.endswith(".py"))


def main(argv: list[str]) -> int:
    """Gather, adapt, compare; returns what `talaria adapt` returns."""
    args, rest = arguments(argv)
    folder, config, weights = checkpoint.read(args.model, "cpu")
    if checkpoint.family(config) != "qwen2" or "base" not in config:
        raise UsageError(
            f"{folder.name} has no base to adapt; name one that has, as {checkpoint.LARGE}"
        )
    base = checkpoint.find_base(config, folder / checkpoint.CONFIG)
    corpus = args.out / "corpus"
    # Before anything is written.
    resume = adapt.parse([str(base), "--out", str(args.out), *rest]).resume
    adapt.check_start(args.out, resume)
    given = {"repository": args.path.resolve().name, "exclude": args.exclude}
    if resume:
        check_same(corpus, given)
    else:
        gathered = gather(args.path, args.exclude)
        counts = {name: len(documents) for name, documents in gathered.splits.items()}
        write_corpus(corpus, gathered.splits, {**given, "dropped": dict(gathered.dropped)})
        print(
            f"{counts['train']} files to learn from, {counts['valid']} held out"
            + "".join(f"; {count} {why}" for why, count in sorted(gathered.dropped.items()))
        )
    more = ["--init", str(folder), *shape_of(config, rest)] if weights else []
    code = adapt.main([str(base), "--corpus", str(corpus), "--out", str(args.out), *more, *rest])
    if code == 0 and args.cursors:
        compare(folder, args.out, read_nonempty(corpus, "valid"), args.cursors)
    return code


def check_same(corpus: Path, given: dict[str, Any]) -> None:
    """UsageError if a run's corpus was gathered by other settings than these.

    A run goes on with the files that it began with, so a pattern would leave nothing out.
    """
    known = read_manifest(corpus)
    for name, value in given.items():
        if known.get(name, value) != value:
            raise UsageError(
                f"{corpus}: made with {name} {known[name]!r}, not {value!r}; resume with the "
                "original settings, or start over in another --out"
            )


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this command, and those of `talaria adapt`."""
    parser = Parser(
        prog="talaria finetune",
        description=__doc__.split("\n")[0],
        epilog="All other options are those of `talaria adapt`.",
    )
    parser.add_argument("path", type=Path, help="the folder of a repository")
    parser.add_argument(
        "--model", default=checkpoint.LARGE, help="what to begin with (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="as in .gitignore"
    )
    parser.add_argument(
        "--cursors", type=int, default=100, metavar="N", help="held-out line ends to compare at"
    )
    args, rest = parser.parse_known_args(argv)
    if args.cursors < 0 or args.cursors == 1:
        raise UsageError(f"--cursors is {args.cursors}; it must be 0, or 2 or more")
    if not {"--minutes", "--steps"} & {each.partition("=")[0] for each in rest}:
        rest = ["--minutes", MINUTES, *rest]
    return args, rest


def shape_of(config: dict[str, Any], given: Sequence[str]) -> list[str]:
    """The options by which a new adapter has the shape of this one, unless they are given."""
    recipe = config.get("training", {}).get("recipe", {})
    names = {each.partition("=")[0] for each in given}
    return [
        part
        for name in INHERITED
        if name in recipe and flag(name) not in names
        for part in (flag(name), str(recipe[name]))
    ]


def compare(
    before: Path, out: Path, documents: Sequence[CorpusDocument], count: int
) -> dict[str, Any]:
    """Print and store how many held-out line ends each model fills exactly, and the difference."""
    cursors = choose_cursors(documents, count, kinds=("line_end",))
    models = {"before": before, "after": out / "model"}
    hits = [exact(model, cursors, name) for name, model in models.items()]
    difference, error = by_files(hits[1].astype(float) - hits[0], [each.path for each in cursors])
    figures = {
        "cursors": len(cursors),
        "files": len({cursor.path for cursor in cursors}),
        "before": int(hits[0].sum()),
        "after": int(hits[1].sum()),
        "difference": difference,
        "error": error,
    }
    with writing(out):
        (out / FIGURES).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    spread = "of one file" if error is None else f"± {196 * error:.1f}, 95 % by files"
    print(
        f"exact at {len(cursors)} held-out line ends: {figures['before']} before, "
        f"{figures['after']} after ({100 * difference:+.1f} points, {spread})"
    )
    return figures


def by_files(values: Sequence[float], paths: Sequence[str]) -> tuple[float, float | None]:
    """The mean, and its standard error where values of one file depend on each other.

    None for a single file.
    """
    mean = float(np.mean(values))
    sums = dict.fromkeys(paths, 0.0)
    for value, path in zip(values, paths, strict=True):
        sums[path] += value - mean
    if len(sums) < 2:
        return mean, None
    spread = sum(each**2 for each in sums.values()) * len(sums) / (len(sums) - 1)
    return mean, math.sqrt(spread) / len(paths)


def exact(model: Path, cursors: Sequence[Cursor], name: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of these line ends a model fills exactly, white space around them apart.

    A bar under this name shows how far it is.
    """
    loaded = checkpoint.load(model)
    options = Options(until="line")
    found = [
        infill(loaded, cursor.prefix, cursor.suffix, options).best.text.strip()
        == cursor.middle.strip()
        for cursor in tqdm(cursors, desc=f"exact {name}", unit="line end")
    ]
    return np.array(found)


if __name__ == "__main__":
    sys.exit(guarded("talaria finetune", lambda: main(sys.argv[1:])))

"""`talaria corpus stats`: statistics of a corpus as a table and as a page with plots."""

from __future__ import annotations

import ast
import statistics
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder.arguments import Parser
from talaria.coder.page import SETTINGS, Section, new_figure, write_page
from talaria.finetune.bpe import measure_bpe
from talaria.finetune.corpus import (
    SPLITS,
    CorpusDocument,
    corpus_hash,
    read_corpus,
    read_manifest,
)
from talaria.finetune.filters import is_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLE = 2000
"""Files per split that are parsed; the order is shuffled, and parsing all would take minutes."""
LARGEST = 40
"""Number of packages with a bar of their own."""
COLOURS = ("#3b7dd8", "#d9822b")  # distinct on white, on black and to the colour-blind
Table = list[list[str]]


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of a split.

    packages, tests        bytes of all files and of tests, by package
    lines                  lines of each file
    functions, documented  functions, and those with a docstring, in the first `parsed` files
    """

    packages: Counter[str]
    tests: Counter[str]
    lines: list[int]
    parsed: int
    functions: int
    documented: int


def measure(documents: Sequence[CorpusDocument]) -> SplitStatistics:
    """Compute the statistics of these documents; functions only in the first `SAMPLE`."""
    packages: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for document in documents:
        size = len(document.text.encode())
        packages[document.package] += size
        if is_test(document.path):
            tests[document.package] += size
    functions = documented = 0
    for document in documents[:SAMPLE]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the text
            tree = ast.parse(document.text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions += 1
                documented += ast.get_docstring(node, clean=False) is not None
    lines = [document.text.count("\n") + 1 for document in documents]
    return SplitStatistics(packages, tests, lines, min(SAMPLE, len(lines)), functions, documented)


# Tables


def figures(contents: SplitStatistics, bytes_per_token: float | None) -> dict[str, str]:
    """Format the figures of a split by name; token counts are estimated from bytes per token."""
    total = contents.packages.total()
    largest, size = max(contents.packages.items(), key=lambda item: item[1], default=("", 0))
    return {
        "packages": f"{len(contents.packages):,}",
        "files": f"{len(contents.lines):,}",
        "bytes": f"{total:,}",
        "bytes per BPE token": f"{bytes_per_token:.2f}" if bytes_per_token else "-",
        "BPE tokens, about": f"{float(f'{total / bytes_per_token:.3g}'):,.0f}"
        if bytes_per_token
        else "-",
        "largest package": f"{largest} {share(size, total)}" if size else "-",
        "bytes in tests": share(contents.tests.total(), total),
        "lines per file, median": f"{statistics.median(contents.lines or [0]):,.0f}",
        "functions with a docstring": share(contents.documented, contents.functions),
    }


def share(part: int, whole: int) -> str:
    """Format a share as a percentage; a dash if `whole` is zero."""
    return f"{part / whole:.1%}" if whole else "-"


def summary(splits: Mapping[str, SplitStatistics], bytes_per_token: Mapping[str, float]) -> Table:
    """A table of all figures with one column per split."""
    columns = {
        split: figures(contents, bytes_per_token.get(split)) for split, contents in splits.items()
    }
    return [["", *columns]] + [
        [name, *(column[name] for column in columns.values())] for name in columns[SPLITS[0]]
    ]


def as_text(table: Table) -> str:
    """Format a table for the terminal, its first column left-aligned, the others right-aligned."""
    first, *others = (max(map(len, column)) for column in zip(*table, strict=True))
    return "\n".join(
        f"{row[0]:{first}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], others, strict=True))
        for row in table
    )


def package_table(manifest: Mapping[str, Any]) -> Table:
    """A table of the packages in the manifest."""
    head = ["package", "version", "licence", "split", "files", "bytes", "code tokens", "dropped"]
    return [head] + [
        [p["name"], p["version"], p["licence"], p["split"]]
        + [f"{number:,}" for number in (p["files"], p["bytes"], p["tokens"])]
        + [f"{sum(p['dropped'].values()):,}"]
        for p in manifest["packages"]
    ]


# The page


def bars(label: str, values: Sequence[tuple[str, float]], tests: Sequence[float] = ()) -> Figure:
    """Draw horizontal bars, the first on top; `tests` is the part of each that is tests."""
    figure, (axis,) = new_figure(1, 0.7 + 0.19 * len(values))
    places = range(len(values))
    drawn = axis.barh(places, [value for _, value in values], color=COLOURS[0])
    if tests:
        starts = [value - part for (_, value), part in zip(values, tests, strict=True)]
        axis.barh(places, tests, left=starts, color=COLOURS[1], label="tests")
        axis.legend(loc="lower right")
    axis.bar_label(
        drawn,
        [f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for _, value in values],
        padding=3,
    )
    axis.set_yticks(places, [name for name, _ in values])
    axis.set_ylim(len(values) - 0.4, -0.6)
    axis.set_axisbelow(True)
    axis.grid(visible=False, axis="y")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel(label)
    return figure


def short(licence: str) -> str:
    """Shorten a conjunction of more than two licences to the first and the number of others."""
    first, *others = licence.split(" AND ")
    return f"{first} AND {len(others)} others" if len(others) > 1 else licence


def package_bars(splits: Mapping[str, SplitStatistics]) -> Figure:
    """Draw the bytes of the largest packages and the mean of the others, with their tests."""
    packages = sum((contents.packages for contents in splits.values()), Counter[str]())
    tests = sum((contents.tests for contents in splits.values()), Counter[str]())
    ordered = sorted(packages, key=lambda name: (-packages[name], name))
    shown = [(name, packages[name], tests[name]) for name in ordered[:LARGEST]]
    if rest := ordered[LARGEST:]:
        mean = [sum(count[name] for name in rest) / len(rest) for count in (packages, tests)]
        shown.append((f"mean of {len(rest)} others", round(mean[0]), round(mean[1])))
    return bars(
        "megabytes",
        [(name, size / 1e6) for name, size, _ in shown],
        [size / 1e6 for *_, size in shown],
    )


def length_histogram(splits: Mapping[str, SplitStatistics]) -> Figure:
    """Draw the distribution of lines per file, in per cent of each split's files."""
    import numpy as np

    figure, (axis,) = new_figure()
    edges = np.geomspace(1, max(max(c.lines, default=1) for c in splits.values()) + 1, 40)
    for (split, contents), colour in zip(splits.items(), COLOURS, strict=True):
        weights = np.full(len(contents.lines), 100 / max(1, len(contents.lines)))
        axis.hist(
            contents.lines, edges, weights=weights, histtype="step", color=colour, label=split
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel("lines per file")
    axis.set_ylabel("per cent of files")
    axis.legend()
    return figure


def sections(
    manifest: Mapping[str, Any], splits: Mapping[str, SplitStatistics], sizes: Table, name: str
) -> list[Section]:
    """The sections of the page; those on packages need `packages` in the manifest."""
    shares = [
        (f"bytes in tests, {split}", c.tests.total(), c.packages.total())
        for split, c in splits.items()
    ]
    shares += [
        (f"functions with a docstring, {split}", c.documented, c.functions)
        for split, c in splits.items()
    ]
    per_cent = [(label, 100 * part / whole) for label, part, whole in shares if whole]
    parsed = max(contents.parsed for contents in splits.values())
    found = [
        Section("Size", f"The corpus {name}.", table=sizes),
        Section(
            "Packages",
            f"The {LARGEST} largest packages and their tests.",
            [(package_bars(splits), "Bytes of the largest packages")],
        ),
        Section(
            "File lengths",
            figures=[(length_histogram(splits), "Histogram of lines per file")],
        ),
        Section(
            "Tests and docstrings",
            f"Functions are counted in the first {parsed:,} files of each split.",
            [(bars("per cent", per_cent), "Share of tests and of documented functions")],
        ),
    ]
    packages = manifest.get("packages")
    if not packages:
        return found
    licences: Counter[str] = Counter()
    outcomes = Counter({"kept": sum(package["files"] for package in packages)})
    for package in packages:
        licences[short(package["licence"])] += package["bytes"]
        outcomes.update(package["dropped"])
    by_licence = [(licence, size / 1e6) for licence, size in licences.most_common()]
    figure = bars("files", outcomes.most_common())
    return [
        *found,
        Section("Licences", figures=[(bars("megabytes", by_licence), "Bytes by licence")]),
        Section("Kept and dropped files", figures=[(figure, "Files kept, and dropped by reason")]),
        Section("All packages", table=package_table(manifest)),
    ]


def main(argv: list[str]) -> int:
    """Print the table and, with --out, write the page; return 0."""
    parser = Parser(prog="talaria corpus stats", description="Show statistics of a corpus.")
    parser.add_argument(
        "--corpus",
        type=Path,
        default=Path("data/corpus"),
        metavar="FOLDER",
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="tokenizer for token counts (default: the shipped model's)",
    )
    parser.add_argument("--out", type=Path, metavar="PAGE", help="write an HTML page with plots")
    args = parser.parse_args(argv)
    manifest = read_manifest(args.corpus)
    documents = {split: read_corpus(args.corpus, split) for split in SPLITS}
    bpe = measure_bpe(documents, args.tokenizer)
    splits = {split: measure(texts) for split, texts in documents.items()}
    sizes = summary(splits, bpe["bytes_per_token"])
    print(as_text(sizes))
    print(
        f"BPE tokens: estimated with the tokenizer of {bpe['tokenizer']} "
        f"on {bpe['files']:,} files per split"
    )
    if args.out:
        from matplotlib import rc_context

        name = f"{args.corpus.name}, {corpus_hash(args.corpus)[:12]}"
        with rc_context(SETTINGS):  # keeps legends and labels readable on black
            drawn = sections(manifest, splits, sizes, name)
        write_page(args.out, "Corpus statistics", drawn)
    return 0

"""`talaria eval`: how often a model writes exactly what stood there.

Two suites: `line-end` sets cursors into the held-out packages of a corpus and asks
for the rest of the line; `single-line` asks for the missing line of a HumanEval
infilling file. Nothing is run: another text that does the same counts as a miss.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import io
import json
import lzma
import math
import os
import random
import shlex
import statistics
import sys
import tokenize
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coder.errors import DataError, TalariaError, UsageError

# torch is imported where a model is needed, so that a wrong request is answered at once.
if TYPE_CHECKING:
    from coder.infill import Infill, Options

    Fill = Callable[[str, str], Infill]
    Interval = tuple[float, float]

FORMAT = 1
CORPUS_FORMAT = 2
RESAMPLES = 1000
CODE = ("NAME", "NUMBER", "OP", "STRING", "FSTRING_START", "TSTRING_START")
CHOICES = ("mode", "confidence_threshold", "max_nfe")
"""The fields of `coder.infill.Options` that the command line offers."""


@dataclass(frozen=True)
class Row:
    """One hole; rows of one cluster (a file, a HumanEval task) are not independent."""

    id: str
    prefix: str
    suffix: str
    expected: str
    cluster: str


@dataclass(frozen=True)
class Suite:
    """Holes to fill.

    files       SHA-256 of what was read, by name
    clusters    what a cluster of rows is called, in the plural
    first_line  the part of a middle that the third definition of a match looks at
    """

    name: str
    rows: Sequence[Row]
    files: Mapping[str, str]
    clusters: str
    first_line: Callable[[str], str]

    def __post_init__(self) -> None:
        read = ", ".join(self.files) or "no file"
        if not self.rows:
            raise DataError(f"no rows for {self.name} in {read}; choose other data")
        name, count = Counter(row.id for row in self.rows).most_common(1)[0]
        if count > 1:
            raise DataError(f"{count} rows of {read} are named {name!r}; fetch it again")

    @property
    def definitions(self) -> dict[str, Callable[[str], str]]:
        """The definitions of a match: generated and expected text are equal after this."""
        return {"exact": str, "exact_stripped": str.strip, "exact_first_line": self.first_line}


@dataclass(frozen=True)
class Result:
    """What became of one row; a line of the results file."""

    id: str
    prefix_tail: str
    expected: str
    text: str
    exact: bool
    exact_stripped: bool
    exact_first_line: bool
    nfe: int
    tokens: int
    tokens_per_forward: float
    elapsed_ms: float
    context_tokens: int
    stopped: str


# The suites


def read_rows(
    raw: bytes, path: Path, fields: Sequence[str], unpack: Callable[[Any], Any] = gzip.open
) -> list[dict[str, str]]:
    """The objects of compressed JSONL; DataError, with the line, unless each has these texts."""
    rows = []
    number = 0
    try:
        with unpack(io.BytesIO(raw)) as stream:
            for number, line in enumerate(stream, 1):
                row = json.loads(line)
                wrong = [name for name in fields if not isinstance(row.get(name), str)]
                if wrong:
                    raise DataError(
                        f"{path}: line {number} has no text named {wrong[0]!r}; this suite "
                        f"needs {', '.join(fields)}: is it the right file?"
                    )
                rows.append({name: row[name] for name in fields})
    except (ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: line {number} is no JSON object ({error}); fetch it again"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: damaged gzip after line {number} ({error}); fetch it again"
        ) from error
    return rows


def read_bytes(path: Path, remedy: str) -> bytes:
    """The content of a file; DataError with the remedy if there is none."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def boundaries(text: str) -> dict[int, list[int]]:
    """Columns where a word, literal or operator begins, but for each line's first; by line from 0.

    Comments and the insides of strings have none, nor has any line that a string of
    several lines touches. A text that cannot be tokenised has none at all.
    """
    columns: dict[int, list[int]] = {}
    strings: set[int] = set()
    starts: list[int] = []  # of open f-strings, which come in pieces since Python 3.12
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = tokenize.tok_name[token.type]
            line, end = token.start[0] - 1, token.end[0] - 1
            if kind in CODE and not starts:
                columns.setdefault(line, []).append(token.start[1])
            if kind.endswith("STRING_START"):
                starts.append(line)
            elif kind.endswith("STRING_END"):
                line = starts.pop()
            if "STRING" in kind and end > line:
                strings.update(range(line, end + 1))
    except (tokenize.TokenError, SyntaxError):
        return {}
    return {line: found[1:] for line, found in columns.items() if found[1:] and line not in strings}


def line_end(corpus: Path, cursors: int, seed: int) -> Suite:
    """Cursors in the corpus' held-out code; the middle is the rest of the line.

    Lines are drawn uniformly and without repetition from all that have a boundary,
    then one of the line's boundaries. More cursors only add to fewer.
    """
    remedy = f"build it with: talaria corpus --out {corpus}"
    place = corpus / "manifest.json"
    files, documents = {}, []
    try:
        manifest = json.loads(read_bytes(place, remedy))
        parts = {p["file"]: p["sha256"] for p in manifest["parts"] if p["split"] == "valid"}
        form = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place}: no readable manifest ({error!r}); {remedy} --force") from error
    if form != CORPUS_FORMAT:
        raise DataError(f"{place}: corpus format {form}, read is {CORPUS_FORMAT}; {remedy} --force")
    for name, sha256 in parts.items():
        raw = read_bytes(corpus / name, remedy)
        files[name] = hashlib.sha256(raw).hexdigest()
        if files[name] != sha256:
            raise DataError(
                f"{corpus / name}: damaged, its SHA-256 is {files[name][:12]}…, the manifest says "
                f"{str(sha256)[:12]}…; {remedy} --force"
            )
        documents += read_rows(raw, corpus / name, ("package", "path", "text"), lzma.open)

    texts = [io.StringIO(document["text"]).readlines() for document in documents]
    places = [(number, line) for number, lines in enumerate(texts) for line in range(len(lines))]
    rng = random.Random(seed)
    rng.shuffle(places)
    columns = functools.cache(lambda number: boundaries(documents[number]["text"]))
    rows: list[Row] = []
    for number, line in places:
        if len(rows) == cursors:
            break
        if line not in columns(number):
            continue
        document, lines = documents[number], texts[number]
        column = rng.choice(columns(number)[line])
        end = len(lines[line].rstrip("\r\n"))
        file = f"{document['package']}:{document['path']}"
        rows.append(
            Row(
                id=f"{file}:{line + 1}:{column}",
                prefix="".join(lines[:line]) + lines[line][:column],
                suffix=lines[line][end:] + "".join(lines[line + 1 :]),
                expected=lines[line][column:end],
                cluster=file,
            )
        )
    if 0 < len(rows) < cursors:
        raise UsageError(f"--cursors is {cursors}; {corpus} has {len(rows)} lines to set one in")
    return Suite(
        "line-end", rows, files, "files", lambda text: text.partition("\n")[0].removesuffix("\r")
    )


def single_line(data: Path) -> Suite:
    """The rows of a HumanEval single-line infilling file, in its order."""
    raw = read_bytes(data, "give the HumanEval-SingleLineInfilling.jsonl.gz that you have")
    rows = [
        Row(
            id=row["task_id"],
            prefix=row["prompt"],
            suffix=row["suffix"],
            expected=row["canonical_solution"],
            cluster=row["task_id"].rpartition("/")[0] or row["task_id"],
        )
        for row in read_rows(raw, data, ("task_id", "prompt", "suffix", "canonical_solution"))
    ]
    files = {data.name: hashlib.sha256(raw).hexdigest()}
    # Stripped first, so that leading blank lines do not count as the first.
    return Suite(
        "single-line", rows, files, "tasks", lambda text: text.strip().partition("\n")[0].rstrip()
    )


# Generation


def evaluate(
    suite: Suite,
    rows: Sequence[Row],
    fill: Fill,
    kept: Mapping[str, Result],
    sink: Callable[[Result], object],
) -> list[Result]:
    """A result for each row, in order: a kept one, or a new one that the sink gets at once."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise TalariaError(
            "the progress bar needs tqdm; install the extra: pip install 'talaria[train]'"
        ) from error
    results: list[Result] = []
    hits = 0
    with tqdm(rows, unit="row", file=sys.stderr) as bar:
        for row in bar:
            if row.id in kept:
                results.append(kept[row.id])
            else:
                results.append(compare(suite, row, fill(row.prefix, row.suffix)))
                sink(results[-1])
            hits += results[-1].exact_first_line
            bar.set_postfix_str(f"first line {hits}/{len(results)} = {hits / len(results):.1%}")
    return results


def compare(suite: Suite, row: Row, infill: Infill) -> Result:
    """Compare the best middle with the true one."""
    text = infill.best.text
    match = {name: see(text) == see(row.expected) for name, see in suite.definitions.items()}
    return Result(
        id=row.id,
        prefix_tail=row.prefix[-80:],
        expected=row.expected,
        text=text,
        exact=match["exact"],
        exact_stripped=match["exact_stripped"],
        exact_first_line=match["exact_first_line"],
        nfe=infill.nfe,
        tokens=len(infill.best.tokens),
        tokens_per_forward=infill.tokens_per_forward,
        elapsed_ms=infill.elapsed_ms,
        context_tokens=infill.context_tokens,
        stopped=infill.best.stopped,
    )


def reopen(path: Path, header: Mapping[str, Any]) -> dict[str, Result]:
    """Results of an earlier run with the same header, by row; the file is begun if there is none.

    A last line that was torn by a crash is cut off. DataError if the file holds
    anything else; it is then left as it is.
    """
    remedy = "choose another --out, or delete it"
    number = 1
    try:
        if not path.exists() or not path.stat().st_size:
            path.write_text(json.dumps(header) + "\n", encoding="utf-8", newline="\n")
        first, *lines, torn = path.read_bytes().split(b"\n")
        found = json.loads(first)
        other = sorted(k for k in header.keys() | found.keys() if header.get(k) != found.get(k))
        if other:
            raise DataError(f"{path}: made with other {', '.join(other)}; {remedy}")
        results = []
        for line in lines:
            number += 1
            results.append(Result(**json.loads(line)))
        if torn:
            os.truncate(path, path.stat().st_size - len(torn))
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: line {number} is not of `talaria eval` ({error}); {remedy}"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be used ({error.strerror}); {remedy}") from error
    return {result.id: result for result in results}


# The report


def wilson(hits: int, total: int) -> Interval:
    """The 95 % interval of Wilson (1927) for a share of independent trials."""
    z = 1.959964
    share = hits / total
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def bootstrap(hits: Sequence[bool], clusters: Sequence[str]) -> Interval | None:
    """The 95 % percentile interval of the rate as whole clusters are drawn anew; seeded.

    None where every draw gives the same rate: that has no width, but is not certain.
    """
    groups: dict[str, list[bool]] = {}
    for hit, cluster in zip(hits, clusters, strict=True):
        groups.setdefault(cluster, []).append(hit)
    rng = random.Random(0)
    rates = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(list(groups.values()), k=len(groups))
        rates.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    if min(rates) == max(rates):
        return None
    return percentile(rates, 0.025), percentile(rates, 0.975)


def best_constant(expected: Sequence[str], see: Callable[[str], str]) -> tuple[str, float]:
    """The one answer that matches most rows, chosen with hindsight, and its rate."""
    text, count = Counter(map(see, expected)).most_common(1)[0]
    return text, count / len(expected)


def report(suite: Suite, rows: Sequence[Row], results: Sequence[Result]) -> dict[str, Any]:
    """The figures of a run, as `--json` prints them."""
    matches = {}
    for name, see in suite.definitions.items():
        hits = [bool(getattr(result, name)) for result in results]
        text, rate = best_constant([row.expected for row in rows], see)
        matches[name] = {
            "hits": sum(hits),
            "rate": sum(hits) / len(hits),
            "wilson": wilson(sum(hits), len(hits)),
            "bootstrap": bootstrap(hits, [row.cluster for row in rows]),
            "best_constant": {"text": text, "rate": rate},
        }
    elapsed = [result.elapsed_ms for result in results]
    return {
        "rows": len(rows),
        "clusters": len({row.cluster for row in rows}),
        "matches": matches,
        "mean_nfe": statistics.fmean(result.nfe for result in results),
        "tokens_per_forward": sum(r.tokens for r in results) / sum(r.nfe for r in results),
        "elapsed_ms": {"median": statistics.median(elapsed), "p95": percentile(elapsed, 0.95)},
        "stopped": dict(Counter(result.stopped for result in results)),
    }


def table(suite: Suite, figures: Mapping[str, Any]) -> str:
    """The report for a person."""
    options, model = figures["options"], figures["model"]
    settings = ", ".join(f"{name.replace('_', '-')} {options[name]}" for name in CHOICES)
    by = f"by {suite.clusters} 95 %"
    lines = [
        f"suite      {suite.name}, {figures['rows']} rows "
        f"in {figures['clusters']} {suite.clusters}, data {figures['data'][:12]}",
        f"model      {model['name']}, weights {model['weights'][:12]}, {settings}",
        "",
        f"{'exact match':12}{'rate':>8}{'Wilson 95 %':>17}{by:>17}  best constant, with hindsight",
    ]
    for name, match in figures["matches"].items():
        label = name.removeprefix("exact_").replace("_", " ").replace("exact", "raw")
        independent, clustered = (
            f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f} %" if interval else "none"
            for interval in (match["wilson"], match["bootstrap"])
        )
        text, rate = match["best_constant"].values()
        lines.append(
            f"{label:12}{match['rate']:8.1%}{independent:>17}{clustered:>17}  {rate:.1%} {text!r}"
        )
    elapsed = figures["elapsed_ms"]
    stops = ", ".join(f"{name} {count}" for name, count in sorted(figures["stopped"].items()))
    lines += [
        "",
        f"steps      mean nfe {figures['mean_nfe']:.1f}, "
        f"tokens per forward {figures['tokens_per_forward']:.2f}; stopped: {stops}",
        f"elapsed    median {elapsed['median']:.0f} ms, p95 {elapsed['p95']:.0f} ms a row",
        f"again      {figures['command']}",
    ]
    return "\n".join(lines)


def command(args: argparse.Namespace, options: Options) -> str:
    """The command line that gives these figures again, defaults written out."""
    settings = vars(args) | {name: getattr(options, name) for name in CHOICES}
    words = ["talaria", "eval", args.suite]
    for name, value in settings.items():
        if name not in ("suite", "out", "json") and value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def arguments(argv: list[str]) -> argparse.Namespace:
    """The options of `talaria eval`; UsageError for numbers out of range."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", help="a folder, or a name from `talaria models`")
    common.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    common.add_argument("--mode", choices=("diffuse", "ar"), default="diffuse")
    common.add_argument("--confidence-threshold", type=float, metavar="P")
    common.add_argument("--max-nfe", type=int, metavar="N", help="budget of steps a row")
    common.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    common.add_argument(
        "--out",
        type=Path,
        metavar="RESULTS.jsonl",
        help="a line a row; what it holds is not redone",
    )
    common.add_argument("--json", action="store_true", help="print a JSON object, not a table")
    parser = argparse.ArgumentParser(
        prog="talaria eval",
        description="How often a model writes exactly what stood there.",
        epilog="Three definitions of a match. raw: equal. stripped: equal without white space at "
        "both ends. first line: for line-end, equal up to the generated text's first line break; "
        "for single-line, its first line that is not blank, stripped, is the missing line.",
    )
    suites = parser.add_subparsers(dest="suite", required=True)
    line = suites.add_parser("line-end", parents=[common], help="cursors in held-out packages")
    line.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="FOLDER")
    line.add_argument("--cursors", type=int, default=500, metavar="N")
    line.add_argument("--seed", type=int, default=0, metavar="S", help="of the choice of cursors")
    single = suites.add_parser("single-line", parents=[common], help="HumanEval, a line missing")
    single.add_argument("--data", type=Path, required=True, metavar="FILE.jsonl.gz")
    args = parser.parse_args(argv)
    for name, low in (("limit", 1), ("cursors", 1), ("seed", 0)):
        value = getattr(args, name, None)
        if value is not None and value < low:
            raise UsageError(f"--{name} is {value}; it must be at least {low}")
    return args


def main(argv: list[str]) -> int:
    """Fill the rows of a suite, keep what came out, and print the figures; 0."""
    args = arguments(argv)
    if args.suite == "line-end":
        suite = line_end(args.corpus, args.cursors, args.seed)
    else:
        suite = single_line(args.data)
    from coder import checkpoint
    from coder.infill import Options, infill

    options = Options(**{k: getattr(args, k) for k in CHOICES if getattr(args, k) is not None})
    model = checkpoint.load(args.model, args.device)
    # The whole suite's rows, whatever --limit says: a longer run continues a shorter one.
    rows_json = json.dumps([asdict(row) for row in suite.rows])
    header = {
        "format": FORMAT,
        "suite": suite.name,
        "model": {
            "name": model.name,
            "weights": model.weights_hash,
            "tokenizer": model.config["sha256"][checkpoint.TOKENIZER],
        },
        "device": args.device,
        "options": asdict(options),
        "files": dict(suite.files),
        "data": hashlib.sha256(rows_json.encode()).hexdigest(),
    }
    rows = suite.rows[: args.limit]

    def fill(prefix: str, suffix: str) -> Infill:
        return infill(model, prefix, suffix, options)

    if args.out is None:
        results = evaluate(suite, rows, fill, {}, lambda result: None)
    else:
        kept = reopen(args.out, header)
        with args.out.open("a", encoding="utf-8", newline="\n", buffering=1) as file:
            # One write a line, so that an interruption loses at most the row in flight.
            results = evaluate(
                suite,
                rows,
                fill,
                kept,
                lambda result: file.write(json.dumps(asdict(result)) + "\n"),
            )
    figures = header | report(suite, rows, results) | {"command": command(args, options)}
    print(json.dumps(figures) if args.json else table(suite, figures))
    return 0

"""Measure whether a file that is whole stays whole with what is offered in it.

`python -m benchmarks.whole` puts cursors at blank lines and at line ends of real files, removes
nothing, asks the model as `talaria infill FILE:LINE:COL` does, and puts each offer into its file.
`ast.parse` of the whole file decides; the decoder's own judge has no say. Offers that are marked
as unfinished (a header whose body the user is to type) are counted beside the others.

The files are those of the standard library, or of `--files`, drawn with a seed. An indented cursor
is at a blank line to which the editor has given the indentation of the code around it.
"""

from __future__ import annotations

import io
import json
import random
import sys
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import DataError
from talaria.coder.syntax.lexical import indentation, lines_of
from talaria.evals.intervals import percentile, wilson
from talaria.evals.progress import progress
from talaria.evals.tables import columns
from talaria.finetune.filters import parses

KINDS = ("blank", "indented", "line end")
SMALLEST, LARGEST = 500, 30_000  # characters of a file
PER_FILE = 12  # cursors, at most


@dataclass(frozen=True)
class Cursor:
    """A place in a file of which nothing is removed.

    kind  one of KINDS
    """

    file: str
    kind: str
    prefix: str
    suffix: str


@dataclass(frozen=True)
class Offer:
    """What was offered at a cursor, and whether the whole file parses with it."""

    file: str
    line: int
    kind: str
    text: str
    stopped: str
    unfinished: bool
    whole: bool
    elapsed_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; exit code 0."""
    parser = Parser(description="Does a file stay whole with what is offered?")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="default: standard library")
    parser.add_argument("--cursors", type=int, default=2000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of files and cursors")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument(
        "--out", type=Path, metavar="OFFERS.jsonl", help="file for the offers; it is continued"
    )
    args = parser.parse_args(argv)
    folder = args.files or Path(sysconfig.get_path("stdlib"))
    cursors = drawn(folder, args.cursors, args.seed)
    if len(cursors) < args.cursors:
        raise DataError(
            f"--cursors is {args.cursors}; {folder} has only {len(cursors)}, at most {PER_FILE} in "
            f"a file of {SMALLEST} to {LARGEST} characters; ask for fewer"
        )
    kept = args.out.read_text("utf-8").split("\n")[:-1] if args.out and args.out.exists() else []
    offers = [Offer(**json.loads(line)) for line in kept]
    with args.out.open("a", encoding="utf-8") if args.out else nullcontext() as out:
        for offer in measure(cursors[len(offers) :], args.model):
            offers.append(offer)
            if out:
                print(json.dumps(asdict(offer)), file=out, flush=True)
    print(table(offers))
    return 0


def drawn(folder: Path, count: int, seed: int) -> list[Cursor]:
    """Draw cursors of all kinds alike, in files that parse."""
    chance = random.Random(seed)
    paths = sorted(folder.rglob("*.py"))
    chance.shuffle(paths)
    found: list[Cursor] = []
    for path in paths:
        text = read(path)
        if text is None:
            continue
        places = places_of(text)
        for _ in range(PER_FILE):
            kind = KINDS[len(found) % len(KINDS)]
            if len(found) == count or not places[kind]:
                break
            offset, typed = chance.choice(places[kind])
            name = path.relative_to(folder).as_posix()
            found.append(Cursor(name, kind, text[:offset] + typed, text[offset:]))
    return found


def read(path: Path) -> str | None:
    """The text of a file that parses; None for others."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return text if SMALLEST <= len(text) <= LARGEST and parses(text) else None


def places_of(text: str) -> dict[str, list[tuple[int, str]]]:
    """The offsets of a file's cursors by kind, and the indentation that was typed there."""
    lines = lines_of(text)
    strings: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.end[0] > token.start[0]:  # of several lines
            strings.update(range(token.start[0] - 1, token.end[0]))
    places: dict[str, list[tuple[int, str]]] = {kind: [] for kind in KINDS}
    start, above = 0, ""
    for number, line in enumerate(lines):
        code = line.rstrip()
        if number in strings:
            pass
        elif code:
            places["line end"].append((start + len(code), ""))
        else:
            places["blank"].append((start, ""))
            if depth := indentation(above):
                places["indented"].append((start, depth))
        above = code or above
        start += len(line)
    return places


def measure(cursors: Sequence[Cursor], model: str | None) -> Iterator[Offer]:
    """Ask at every cursor."""
    from talaria.coder import checkpoint
    from talaria.coder.infill import Memory, fill
    from talaria.coder.request import Request

    loaded = checkpoint.load(model)
    memory = Memory(loaded)
    bar = progress(len(cursors), "cursor")
    for cursor in cursors:
        found = fill(loaded, Request(cursor.prefix, cursor.suffix), memory=memory)
        best = found.best
        yield Offer(
            cursor.file,
            cursor.prefix.count("\n") + 1,
            cursor.kind,
            best.text,
            best.stopped,
            found.syntax.unfinished,
            parses(cursor.prefix + best.text + cursor.suffix),
            found.elapsed_ms,
        )
        bar.update()
    bar.close()


def table(offers: Sequence[Offer]) -> str:
    """The shares of offers after which the file parses, with Wilson's 95 % intervals."""
    head = ["", "cursors", "offered", "unfinished", "whole, of the finished", "95 %", "broken"]
    rows = [head]
    for kind in (*KINDS, "all"):
        some = [each for each in offers if kind in (each.kind, "all")]
        made = [each for each in some if each.text]
        finished = [each for each in made if not each.unfinished]
        whole = sum(each.whole for each in finished)
        low, high = wilson(whole, len(finished)) if finished else (0.0, 1.0)
        share = f"{whole / len(finished):.2%}" if finished else "none"
        counts = [len(some), len(made), len(made) - len(finished)]
        spread = f"{low:.2%} – {high:.2%}"
        rows.append([kind, *map(str, counts), share, spread, str(len(finished) - whole)])
    times = [each.elapsed_ms for each in offers]
    p50, p95 = (percentile(times, share) for share in (0.5, 0.95))
    return f"{columns(rows)}\np50 {p50:.0f} ms, p95 {p95:.0f} ms"


if __name__ == "__main__":
    sys.exit(guarded("whole", main))

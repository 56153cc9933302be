"""Read benchmark files as problems: each a file with a hole and possibly a test."""

from __future__ import annotations

import ast
import builtins
import gzip
import hashlib
import io
import json
import os
import random
import symtable
import urllib.request
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from talaria.coder import files
from talaria.coder.errors import DataError, UsageError
from talaria.coder.syntax.lexical import lines_of


@dataclass(frozen=True)
class Problem:
    """A hole in a file.

    cluster   the task or file it belongs to; problems of one cluster are not independent
    solution  the true middle
    test      a program to run after the filled file; None where only texts are compared
    whole     whether the middle is the whole rest of a function; only what `function_rest` keeps
              of it counts
    """

    id: str
    cluster: str
    prefix: str
    suffix: str
    solution: str
    test: str | None = None
    whole: bool = False

    def program(self, middle: str) -> str:
        """Return the file with this middle in the hole."""
        return self.prefix + self.counted(middle) + self.suffix

    def own_builtins(self) -> tuple[str, ...]:
        """Return the built-in names that the true file defines, which a test therefore means."""
        return tuple(sorted(defined_names(self.program(self.solution)) & vars(builtins).keys()))

    def counted(self, middle: str) -> str:
        """Return the part of a middle that counts: all of it, or the function's rest."""
        return function_rest(self.prefix, middle) if self.whole else middle


@dataclass(frozen=True)
class Suite:
    """Problems of one kind.

    files     the names of the files read, mapped to their SHA-256
    clusters  what problems are clustered by
    source    whether problems were drawn in "held-out" packages or in "fresh" ones; None: neither
    order     in which order problems are asked, by their places; None: as they stand. It changes
              no sample, so it is not part of a suite's identity
    """

    name: str
    problems: Sequence[Problem]
    files: Mapping[str, str]
    clusters: str = "tasks"
    source: str | None = None
    order: Sequence[int] | None = None

    def __post_init__(self) -> None:
        read = ", ".join(self.files) or "no file"
        if not self.problems:
            raise DataError(f"no problems for {self.name} in {read}; choose other data")
        name, count = Counter(problem.id for problem in self.problems).most_common(1)[0]
        if count > 1:
            raise DataError(f"{count} problems of {read} are named {name!r}; fetch it again")

    def asked(self) -> list[Problem]:
        """Return the problems in the order in which they are asked."""
        if self.order is None:
            return list(self.problems)
        return [self.problems[place] for place in self.order]

    def digest(self) -> str:
        """Return the SHA-256 of the problems, whatever file they came from."""
        problems = json.dumps([vars(problem) for problem in self.problems])
        return hashlib.sha256(problems.encode()).hexdigest()


def function_rest(prefix: str, middle: str) -> str:
    """Cut a middle after the function that was asked for.

    Top-level functions, classes and imports stay, because the function may need them. The middle
    is cut at the first other top-level statement, at a redefinition of a name from the prefix,
    and where it stops compiling.
    """
    lines = lines_of(middle)
    # The first line continues the prefix's last; it starts a line only if that one is complete.
    margins = [
        number
        for number, line in enumerate(lines)
        if line.strip() and not line[0].isspace() and (number or prefix.endswith("\n"))
    ]
    for end in [len(lines), *reversed(margins)]:
        text = "".join(lines[:end])
        if compiles(prefix + text):
            return "".join(lines[: first_unrelated_line(prefix, text, end)])
    return "".join(lines[: margins[0]]) if margins else middle


def first_unrelated_line(prefix: str, text: str, lines: int) -> int:
    """Return the line of `text`, from 0, where `function_rest` cuts; `lines` if nowhere."""
    prefix_lines = len(lines_of(prefix + "x")) - 1
    defined: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        statements = ast.parse(prefix + text).body
    for statement in statements:
        line, keep = statement.lineno, False
        names: set[str] = set()
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            line = min([line, *(each.lineno for each in statement.decorator_list)])
            names, keep = {statement.name}, statement.name not in defined
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            names = {(a.asname or a.name).partition(".")[0] for a in statement.names}
            keep = True
        first = line - 1 - prefix_lines
        if first < 0 or (first == 0 and not prefix.endswith("\n")):
            defined |= names
        elif not keep:
            return first
    return lines


def defined_names(program: str) -> set[str]:
    """Return the names that a program binds at its top level; none if it is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = symtable.symtable(program, "program", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return set()
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}


def compiles(program: str) -> bool:
    """Whether Python compiles the text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(program, "program", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


@dataclass(frozen=True)
class SuiteFile:
    """Where a suite's file comes from.

    sha256  of the published file; None where it is not known
    fields  the text fields each row must have
    empty   how many of how many problems pass with an empty hole; None where not measured
            (`talaria eval selftest` measures it again)
    """

    address: str
    sha256: str | None
    fields: tuple[str, ...]
    empty: tuple[int, int] | None = None

    @property
    def file(self) -> str:
        """Return the file's name."""
        return self.address.rpartition("/")[2]


INFILLING = "https://github.com/openai/human-eval-infilling/raw/master/data"
HOLE_FIELDS = ("task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test")
MBPP = "https://github.com/google-research/google-research/raw/master/mbpp"
MBPP_TEST_SPLIT = range(11, 511)
SUITE_FILES = {
    "humaneval": SuiteFile(
        "https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz",
        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
        ("task_id", "entry_point", "prompt", "canonical_solution", "test"),
        (0, 164),
    ),
    "infill-single-line": SuiteFile(
        f"{INFILLING}/HumanEval-SingleLineInfilling.jsonl.gz",
        "1277073e7ddce163ef68598c2bca777f688a53df99422f097e37362090f88e1f",
        HOLE_FIELDS,
        (27, 1033),
    ),
    "infill-multi-line": SuiteFile(
        f"{INFILLING}/HumanEval-MultiLineInfilling.jsonl.gz",
        "2f341612eee1d35da1357a4f365e0c0b3ba6e2b62eb491e88aaefa4855af0349",
        HOLE_FIELDS,
    ),
    "infill-random-span": SuiteFile(
        f"{INFILLING}/HumanEval-RandomSpanInfilling.jsonl.gz",
        "b4f330d8a8ff97bf85d9def497dffcae4d741e506449386a877236e422e33e8d",
        HOLE_FIELDS,
    ),
    "infill-random-span-light": SuiteFile(
        f"{INFILLING}/HumanEval-RandomSpanInfillingLight.jsonl.gz",
        "1432250ecac0cb56e6f97f8faf0970419ef892a98fda7e1f5aa4c4b87209b760",
        HOLE_FIELDS,
        (0, 164),
    ),
    "mbpp": SuiteFile(f"{MBPP}/mbpp.jsonl", None, ("text", "code")),
    "sanitized-mbpp": SuiteFile(f"{MBPP}/sanitized-mbpp.json", None, ("prompt", "code")),
    "santacoder-fim": SuiteFile(
        "https://huggingface.co/datasets/bigcode/santacoder-fim-task/resolve/main/data.jsonl",
        None,
        ("prompt", "suffix", "canonical_solution"),
    ),
}


def cache_folder() -> Path:
    """Return the folder where benchmark files are kept."""
    home = os.environ.get("TALARIA_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "talaria") / "benchmarks"


def locate(name: str, data: Path | None, download: bool = False) -> Path:
    """Find a suite's file: the given one, or the cached one, or a download on request.

    Otherwise raises DataError that names the file, where to get it and where to put it.
    """
    source = SUITE_FILES[name]
    if data is not None:
        return data
    path = cache_folder() / source.file
    if path.exists():
        return path
    if download and source.sha256 is None:
        raise DataError(
            f"{source.file} is not fetched, as no SHA-256 is known to verify it by; get it from "
            f"{source.address} and give it with --data FILE"
        )
    if not download:
        raise DataError(
            f"{name} needs {source.file}: give it with --data FILE, put it into "
            f"{path.parent}, or fetch it from {source.address} with --download"
        )
    try:
        with urllib.request.urlopen(source.address, timeout=60) as answer:
            raw = answer.read()
    except OSError as error:
        raise DataError(
            f"{source.address} cannot be fetched ({error}); get {source.file} another way and "
            "give it with --data FILE"
        ) from error
    verify_hash(raw, source, source.address)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, raw)
    return path


def verify_hash(raw: bytes, source: SuiteFile, place: object) -> str:
    """Return the SHA-256 of a file's bytes; DataError if it is not the published one."""
    found = hashlib.sha256(raw).hexdigest()
    if source.sha256 not in (None, found):
        raise DataError(
            f"{place}: its SHA-256 is {found[:12]}…, {source.file} has {str(source.sha256)[:12]}…; "
            f"fetch it again from {source.address}, or use --any-data to take it as it is"
        )
    return found


def read_suite(name: str, path: Path, any_data: bool = False) -> Suite:
    """Read the problems of a suite's file, in file order.

    With `any_data`, any JSONL with the same fields will do; otherwise the file must be the
    published one, where its hash is known. DataError names the file, line and field.
    """
    source = SUITE_FILES[name]
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); it should be {source.file}"
        ) from error
    found = hashlib.sha256(raw).hexdigest() if any_data else verify_hash(raw, source, path)
    rows = read_rows(raw, path, source.fields)
    make = {"mbpp": from_mbpp, "sanitized-mbpp": from_mbpp}.get(name, from_hole)
    if make is from_mbpp and not any_data:
        # Published MBPP figures are of its test split.
        rows = [row for row in rows if row.get("task_id") in MBPP_TEST_SPLIT]
    if name == "santacoder-fim":
        rows = [row for row in rows if row.get("language", "py") == "py"]
    try:
        problems = [make(row, number) for number, row in enumerate(rows)]
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Suite(name, problems, {path.name: found})


def empty_passes(suite: Suite) -> int | None:
    """Return how many problems pass with an empty hole; None where that is not known.

    It is known only for published files, and only for all of a file's problems together.
    """
    source = SUITE_FILES.get(suite.name)
    if source is None or source.empty is None or source.sha256 not in suite.files.values():
        return None
    passes, problems = source.empty
    return passes if len(suite.problems) == problems else None


def read_rows(raw: bytes, path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Parse JSONL (gzipped or not) or a JSON list; each object must have these text fields."""
    number = 0
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        if raw.lstrip()[:1] == b"[":
            rows = json.loads(raw)
        else:
            rows = []
            for line in io.BytesIO(raw):
                number += 1
                if line.strip():
                    rows.append(json.loads(line))
    except ValueError as error:
        raise DataError(f"{path}: line {number} is not JSON ({error}); fetch it again") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip ({error}); fetch it again") from error
    for number, row in enumerate(rows, 1):
        wrong = [f for f in fields if not (isinstance(row, dict) and isinstance(row.get(f), str))]
        if wrong:
            raise DataError(
                f"{path}: row {number} has no text named {wrong[0]!r}; this suite needs "
                f"{', '.join(fields)}: is it the right file?"
            )
    assert isinstance(rows, list)
    return rows


def from_hole(row: Mapping[str, Any], number: int) -> Problem:
    """Make a problem of a row of HumanEval, its infilling variants or SantaCoder-FIM."""
    if "task_id" in row:
        name = str(row["task_id"])
        # SingleLineInfilling/HumanEval/0/L3 is one of several holes in the task HumanEval/0.
        cluster = "/".join(name.split("/")[1:-1]) or name if name.count("/") > 1 else name
    else:
        cluster = str(row.get("name", number))
        name = f"{cluster}/{number}"
    test = None
    if "test" in row:
        if not all(isinstance(row.get(field), str) for field in ("test", "entry_point")):
            raise DataError(
                f"row {number + 1} ({name}) has a 'test', but 'test' and 'entry_point', the name "
                "of the function it calls, are not both text; add them, or leave out the test"
            )
        test = f"{row['test']}\ncheck({row['entry_point']})\n"
    return Problem(
        id=name,
        cluster=cluster,
        prefix=row["prompt"],
        suffix=row.get("suffix", ""),
        solution=row["canonical_solution"],
        test=test,
        whole="suffix" not in row,
    )


def from_mbpp(row: Mapping[str, Any], number: int) -> Problem:
    """Make a problem of a row of MBPP: its text and tests become the function's docstring."""
    name = f"MBPP/{row.get('task_id', number)}"
    code = str(row["code"]).replace("\r\n", "\n").replace("\t", "    ")
    tests = [str(test) for test in row.get("test_list", [])]
    setup = "\n".join(map(str, row.get("test_imports") or [])) or row.get("test_setup_code") or ""
    try:
        functions = [s for s in ast.parse(code).body if isinstance(s, ast.FunctionDef)]
    except SyntaxError as error:
        raise DataError(f"{name}: its code is not Python ({error})") from error
    if not functions or not tests:
        raise DataError(f"{name} has no function or no tests; is it the right file?")
    # The docstring goes before the last function's first statement, possibly on the `def` line.
    first = functions[-1].body[0]
    lines = lines_of(code)
    line = lines[first.lineno - 1].encode()
    left, right = line[: first.col_offset].decode(), line[first.col_offset :].decode()
    margin = "    " if left.strip() else left
    before = "".join(lines[: first.lineno - 1]) + (f"{left.rstrip()}\n" if left.strip() else "")
    after = margin + right + "".join(lines[first.lineno :])
    task = "\n".join([str(row.get("text") or row.get("prompt")), "", *tests]).replace('"""', "'''")
    docstring = task.replace("\n", f"\n{margin}")
    raw = "r" if "\\" in task else ""
    return Problem(
        id=name,
        cluster=name,
        prefix=f'{before}{margin}{raw}"""{docstring}\n{margin}"""\n',
        suffix="",
        solution=after if after.endswith("\n") else after + "\n",
        test="\n".join([setup, *tests, ""]),
        whole=True,
    )


def take(suite: Suite, limit: int | None, seed: int | None = None) -> Suite:
    """Return the suite with `limit` problems (None: all); UsageError below 1.

    The first ones, or with a `seed` ones drawn at random: fewer of them are among more. They stand
    in the suite's order and are asked in a random one, so that an interrupted run is a fair sample:
    with a `seed`, the sample that a lower limit would have drawn.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is {limit}; it must be at least 1")
    places = list(range(len(suite.problems)))
    if seed is None:
        places = places[:limit]
    random.Random(seed or 0).shuffle(places)
    places = places[:limit]
    stands = {place: number for number, place in enumerate(sorted(places))}
    return replace(
        suite,
        problems=[suite.problems[place] for place in stands],
        order=[stands[place] for place in places],
    )

"""What is asked: benchmark files as problems, each a file with a hole and perhaps a test."""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import os
import urllib.request
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talaria.coder.errors import DataError, UsageError


@dataclass(frozen=True)
class Problem:
    """A hole in a file.

    Problems of one cluster (a task, a file) are not independent. `test` is a
    program to be run after the filled file; None where only the text is compared.
    `whole` marks middles that are a function's whole rest, of which only what
    `function_rest` says counts.
    """

    id: str
    cluster: str
    prefix: str
    suffix: str
    solution: str
    test: str | None = None
    whole: bool = False

    def program(self, middle: str) -> str:
        """The file with this middle in it."""
        return self.prefix + self.taken(middle) + self.suffix

    def taken(self, middle: str) -> str:
        """What counts of a middle: all of it, or the function's body where that is asked for."""
        return function_rest(self.prefix, middle) if self.whole else middle


@dataclass(frozen=True)
class Suite:
    """Problems of one kind; `files` are the SHA-256 of what was read, by name."""

    name: str
    problems: Sequence[Problem]
    files: Mapping[str, str]
    clusters: str = "tasks"

    def __post_init__(self) -> None:
        read = ", ".join(self.files) or "no file"
        if not self.problems:
            raise DataError(f"no problems for {self.name} in {read}; choose other data")
        name, count = Counter(problem.id for problem in self.problems).most_common(1)[0]
        if count > 1:
            raise DataError(f"{count} problems of {read} are named {name!r}; fetch it again")

    def digest(self) -> str:
        """SHA-256 of all that is asked, whatever file it came from."""
        asked = json.dumps([vars(problem) for problem in self.problems])
        return hashlib.sha256(asked.encode()).hexdigest()


def function_rest(prefix: str, middle: str) -> str:
    """A middle without what a model wrote after the function that it was asked for.

    Of what begins a line at the left margin, whole functions, classes and imports stay:
    the function may need them. From the first other statement on, or a second
    definition of a name that the prefix defines, nothing counts; nor does an end that
    does not compile.
    """
    lines = middle.splitlines(keepends=True)
    # The first line goes on where the prefix stops; others begin a line.
    margins = [
        number
        for number, line in enumerate(lines)
        if line.strip() and not line[0].isspace() and (number or prefix.endswith("\n"))
    ]
    for end in [len(lines), *reversed(margins)]:
        text = "".join(lines[:end])
        if compiles(prefix + text):
            return "".join(lines[: first_extra(prefix, text, end)])
    return "".join(lines[: margins[0]]) if margins else middle


def first_extra(prefix: str, text: str, lines: int) -> int:
    """The line of a text, from 0, at which a statement stands that is not the function's."""
    given = prefix.count("\n")
    known: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        statements = ast.parse(prefix + text).body
    for statement in statements:
        line, name, stays = statement.lineno, None, False
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            line = min([line, *(each.lineno for each in statement.decorator_list)])
            name, stays = statement.name, statement.name not in known
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            stays = True
        first = line - 1 - given
        if first < 0 or (first == 0 and not prefix.endswith("\n")):
            known |= {name} if name else set()
        elif not stays:
            return first
    return lines


def compiles(program: str) -> bool:
    """Whether Python takes the text as a program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(program, "program", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


@dataclass(frozen=True)
class Source:
    """Where a suite's file comes from; no hash where none is known to be right.

    empty  how many of how many problems pass with nothing in the hole, where it was
           measured; `talaria eval selftest` measures it again
    """

    address: str
    sha256: str | None
    fields: tuple[str, ...]
    empty: tuple[int, int] | None = None

    @property
    def file(self) -> str:
        """The file's name."""
        return self.address.rpartition("/")[2]


INFILLING = "https://github.com/openai/human-eval-infilling/raw/master/data"
HOLE = ("task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test")
MBPP = "https://github.com/google-research/google-research/raw/master/mbpp"
MBPP_TEST = range(11, 511)
SOURCES = {
    "humaneval": Source(
        "https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz",
        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
        ("task_id", "entry_point", "prompt", "canonical_solution", "test"),
        (0, 164),
    ),
    "infill-single-line": Source(
        f"{INFILLING}/HumanEval-SingleLineInfilling.jsonl.gz",
        "1277073e7ddce163ef68598c2bca777f688a53df99422f097e37362090f88e1f",
        HOLE,
        (27, 1033),
    ),
    "infill-multi-line": Source(
        f"{INFILLING}/HumanEval-MultiLineInfilling.jsonl.gz",
        "2f341612eee1d35da1357a4f365e0c0b3ba6e2b62eb491e88aaefa4855af0349",
        HOLE,
    ),
    "infill-random-span": Source(
        f"{INFILLING}/HumanEval-RandomSpanInfilling.jsonl.gz",
        "b4f330d8a8ff97bf85d9def497dffcae4d741e506449386a877236e422e33e8d",
        HOLE,
    ),
    "infill-random-span-light": Source(
        f"{INFILLING}/HumanEval-RandomSpanInfillingLight.jsonl.gz",
        "1432250ecac0cb56e6f97f8faf0970419ef892a98fda7e1f5aa4c4b87209b760",
        HOLE,
        (0, 164),
    ),
    "mbpp": Source(f"{MBPP}/mbpp.jsonl", None, ("text", "code")),
    "sanitized-mbpp": Source(f"{MBPP}/sanitized-mbpp.json", None, ("prompt", "code")),
    "santacoder-fim": Source(
        "https://huggingface.co/datasets/bigcode/santacoder-fim-task/resolve/main/data.jsonl",
        None,
        ("prompt", "suffix", "canonical_solution"),
    ),
}


def cache_folder() -> Path:
    """Where benchmark files are kept."""
    home = os.environ.get("TALARIA_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "talaria") / "benchmarks"


def locate(name: str, data: Path | None, download: bool = False) -> Path:
    """The file of a suite: the one given, else the one in the cache, else downloaded on request.

    DataError says which file is wanted, where it comes from and where to put it.
    """
    source = SOURCES[name]
    if data is not None:
        return data
    path = cache_folder() / source.file
    if path.exists():
        return path
    if download and source.sha256 is None:
        raise DataError(
            f"{source.file} is not fetched, as no SHA-256 is known by which to tell that it is "
            f"the right one; get it from {source.address} and give it with --data FILE"
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
    check(raw, source, source.address)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(raw)
    os.replace(partial, path)
    return path


def check(raw: bytes, source: Source, place: object) -> str:
    """The SHA-256 of a file; DataError if it should be another."""
    found = hashlib.sha256(raw).hexdigest()
    if source.sha256 not in (None, found):
        raise DataError(
            f"{place}: its SHA-256 is {found[:12]}…, {source.file} has {str(source.sha256)[:12]}…; "
            f"fetch it again from {source.address}, or use --any-data to take it as it is"
        )
    return found


def read_suite(name: str, path: Path, any_data: bool = False) -> Suite:
    """The problems of a suite's file, in its order.

    Any JSONL of the same fields will do with `any_data`; else the file must be
    the published one where its hash is known. DataError names file, line and field.
    """
    source = SOURCES[name]
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); it should be {source.file}"
        ) from error
    found = hashlib.sha256(raw).hexdigest() if any_data else check(raw, source, path)
    rows = read_rows(raw, path, source.fields)
    make = {"mbpp": from_mbpp, "sanitized-mbpp": from_mbpp}.get(name, from_hole)
    if make is from_mbpp and not any_data:
        # Figures of MBPP are of its test split; other rows are for prompts, training, validation.
        rows = [row for row in rows if row.get("task_id") in MBPP_TEST]
    if name == "santacoder-fim":
        rows = [row for row in rows if row.get("language", "py") == "py"]
    try:
        problems = [make(row, number) for number, row in enumerate(rows)]
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Suite(name, problems, {path.name: found})


def empty_passes(suite: Suite) -> int | None:
    """How many problems pass with nothing in the hole; None where that is not known.

    It is known of published files alone, and of all their problems together.
    """
    source = SOURCES.get(suite.name)
    if source is None or source.empty is None or source.sha256 not in suite.files.values():
        return None
    passes, problems = source.empty
    return passes if len(suite.problems) == problems else None


def read_rows(raw: bytes, path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of JSONL, gzipped or not, or of a JSON list; each must have these texts."""
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
        raise DataError(f"{path}: line {number} is no JSON ({error}); fetch it again") from error
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
    """A row of HumanEval, of its infilling files or of the like."""
    if "task_id" in row:
        name = str(row["task_id"])
        # SingleLineInfilling/HumanEval/0/L3 and its like are holes in one task.
        cluster = "/".join(name.split("/")[1:-1]) or name if name.count("/") > 1 else name
    else:
        cluster = str(row.get("name", number))
        name = f"{cluster}/{number}"
    test = None
    if "test" in row:
        if not all(isinstance(row.get(field), str) for field in ("test", "entry_point")):
            raise DataError(
                f"row {number + 1} ({name}) has a 'test', but not as text with the name of a "
                "function as 'entry_point' to call; add it, or leave out the test"
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
    """A row of MBPP: its text and tests as a docstring, its function's first line given."""
    name = f"MBPP/{row.get('task_id', number)}"
    code = str(row["code"]).replace("\r\n", "\n").replace("\t", "    ")
    tests = [str(test) for test in row.get("test_list", [])]
    setup = "\n".join(map(str, row.get("test_imports") or [])) or row.get("test_setup_code") or ""
    try:
        functions = [s for s in ast.parse(code).body if isinstance(s, ast.FunctionDef)]
    except SyntaxError as error:
        raise DataError(f"{name}: its code is no Python ({error})") from error
    if not functions or not tests:
        raise DataError(f"{name} has no function or no tests; is it the right file?")
    # The docstring goes before the last function's first statement, which may be on the `def` line.
    first = functions[-1].body[0]
    lines = code.splitlines(keepends=True)
    line = lines[first.lineno - 1].encode()
    left, right = line[: first.col_offset].decode(), line[first.col_offset :].decode()
    margin = "    " if left.strip() else left
    before = "".join(lines[: first.lineno - 1]) + (f"{left.rstrip()}\n" if left.strip() else "")
    after = margin + right + "".join(lines[first.lineno :])
    told = "\n".join([str(row.get("text") or row.get("prompt")), "", *tests]).replace('"""', "'''")
    docstring = told.replace("\n", f"\n{margin}")
    raw = "r" if "\\" in told else ""
    return Problem(
        id=name,
        cluster=name,
        prefix=f'{before}{margin}{raw}"""{docstring}\n{margin}"""\n',
        suffix="",
        solution=after if after.endswith("\n") else after + "\n",
        test="\n".join([setup, *tests, ""]),
        whole=True,
    )


def take(suite: Suite, limit: int | None) -> Suite:
    """The suite's first problems; UsageError if the number makes no sense."""
    if limit is None:
        return suite
    if limit < 1:
        raise UsageError(f"--limit is {limit}; it must be at least 1")
    return Suite(suite.name, suite.problems[:limit], suite.files, suite.clusters)

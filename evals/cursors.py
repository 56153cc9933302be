"""Cursors in held-out packages: problems from real files, scored by comparing texts only."""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import json
import lzma
import random
import tokenize
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from talaria.coder.errors import DataError, UsageError
from talaria.coder.syntax.lexical import lines_of
from talaria.evals.suites import Problem, Suite, read_rows

CORPUS_FORMAT = 2
BODY_LINES = range(2, 13)
BODY_CHARACTERS = 400  # about 100 tokens
Places = dict[int, list[tuple[int, int]]]  # by a hole's first line: its columns and last lines
CODE_TOKENS = ("NAME", "NUMBER", "OP", "STRING", "FSTRING_START", "TSTRING_START")


def held_out(corpus: Path) -> tuple[list[dict[str, str]], dict[str, str], str]:
    """Read a corpus's held-out files (package, path, text), the SHA-256 of its parts, its source.

    The source is "fresh" for packages that are newer than the models, else "held-out".
    DataError if there is no corpus, or a part does not match the manifest.
    """
    remedy = f"build it with: talaria corpus --out {corpus}"
    place = corpus / "manifest.json"
    documents, files = [], {}
    try:
        manifest = json.loads(place.read_bytes())
        parts = {p["file"]: p["sha256"] for p in manifest["parts"] if p["split"] == "valid"}
        form = manifest["format"]
        if form != CORPUS_FORMAT:
            raise DataError(
                f"{place}: corpus format {form}, this version reads {CORPUS_FORMAT}; {remedy}"
            )
        for name, sha256 in parts.items():
            raw = (corpus / name).read_bytes()
            files[name] = hashlib.sha256(raw).hexdigest()
            if files[name] != sha256:
                raise DataError(
                    f"{corpus / name}: damaged, its SHA-256 is {files[name][:12]}…, the manifest "
                    f"says {str(sha256)[:12]}…; {remedy} --force"
                )
            fields = ("package", "path", "text")
            documents += read_rows(lzma.decompress(raw), corpus / name, fields)
    except OSError as error:
        raise DataError(f"{corpus}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, KeyError, TypeError, lzma.LZMAError) as error:
        raise DataError(f"{place}: no readable manifest ({error!r}); {remedy} --force") from error
    return documents, files, str(manifest.get("source", "held-out"))


def code_columns(text: str) -> dict[int, list[int]]:
    """Find the columns where a name, literal or operator begins, by line from 0.

    Leaves out comments, the inside of strings, and lines that a multi-line string touches. Empty
    for a text that cannot be tokenised.
    """
    columns: dict[int, list[int]] = {}
    strings: set[int] = set()
    starts: list[int] = []  # first lines of open f-strings, tokenised in parts since Python 3.12
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = tokenize.tok_name[token.type]
            line, end = token.start[0] - 1, token.end[0] - 1
            if kind in CODE_TOKENS and not starts:
                columns.setdefault(line, []).append(token.start[1])
            if kind.endswith("STRING_START"):
                starts.append(line)
            elif kind.endswith("STRING_END"):
                line = starts.pop()
            if "STRING" in kind and end > line:
                strings.update(range(line, end + 1))
    except (tokenize.TokenError, SyntaxError):
        return {}
    return {line: found for line, found in columns.items() if line not in strings}


def drawn_suite(name: str, corpus: Path, cursors: int, seed: int) -> Suite:
    """Draw holes of one kind (a name in `HOLES`) in a corpus's held-out files.

    UsageError if there are fewer than `cursors`.
    """
    documents, files, source = held_out(corpus)
    problems = draw(name, documents, cursors, seed)
    if 0 < len(problems) < cursors:
        raise UsageError(
            f"--cursors is {cursors}; {corpus} has only {len(problems)} places for {name}"
        )
    return Suite(name, problems, files, "files", source)


def draw(
    name: str, documents: Sequence[Mapping[str, str]], cursors: int, seed: int
) -> list[Problem]:
    """Draw holes in documents (`package`, `path`, `text`); fewer if there are no more places.

    Draws lines uniformly without replacement from all that have a hole of this kind. The first n
    holes do not depend on how many are drawn, and the same seed draws `whole-line` from the lines
    of `line-end`.
    """
    texts = [lines_of(document["text"]) for document in documents]
    places = [(number, line) for number, lines in enumerate(texts) for line in range(len(lines))]
    rng = random.Random(seed)
    rng.shuffle(places)
    holes = functools.cache(lambda number: HOLES[name](documents[number]["text"]))
    problems: list[Problem] = []
    for number, line in places:
        if len(problems) == cursors:
            break
        if line not in holes(number):
            continue
        document, lines = documents[number], texts[number]
        column, last = rng.choice(holes(number)[line])
        end = len(lines[last].rstrip("\r\n"))
        file = f"{document['package']}:{document['path']}"
        whole = "".join(lines[line : last + 1])
        cut = len(whole) - (len(lines[last]) - end)
        problems.append(
            Problem(
                id=f"{file}:{line + 1}:{column}",
                cluster=file,
                prefix="".join(lines[:line]) + lines[line][:column],
                suffix=whole[cut:] + "".join(lines[last + 1 :]),
                solution=whole[column:cut],
            )
        )
    return problems


def line_ends(text: str) -> Places:
    """From the beginning of a name, literal or operator inside a line to the line's end."""
    return {
        line: [(column, line) for column in columns[1:]]
        for line, columns in code_columns(text).items()
        if columns[1:]
    }


def whole_lines(text: str) -> Places:
    """The code of a line that has more than one name, literal or operator."""
    return {
        line: [(columns[0], line)] for line, columns in code_columns(text).items() if columns[1:]
    }


def function_bodies(text: str) -> Places:
    """The statements of a function behind its docstring, BODY_LINES lines of them.

    They begin on a line of their own, and have at most BODY_CHARACTERS characters.
    """
    lines, found = lines_of(text), Places()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError):
        return {}
    for node in nodes:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[ast.get_docstring(node, clean=False) is not None :]
        if not body:
            continue
        first, last = body[0].lineno - 1, (body[-1].end_lineno or 0) - 1
        if isinstance(body[0], FUNCTION_LIKE) and body[0].decorator_list:
            first = body[0].decorator_list[0].lineno - 1
        margin = len(lines[first]) - len(lines[first].lstrip(" \t"))
        own = margin == len(lines[first][: body[0].col_offset])
        size = sum(map(len, lines[first : last + 1]))
        if own and last - first + 1 in BODY_LINES and size <= BODY_CHARACTERS:
            found[first] = [(margin, last)]
    return found


FUNCTION_LIKE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# Each kind of hole, by the name of its suite: where it may be in a text.
HOLES: dict[str, Callable[[str], Places]] = {
    "line-end": line_ends,
    "whole-line": whole_lines,
    "function-body": function_bodies,
}

"""Cursors in held-out packages: problems from real files, scored by comparing texts only."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import lzma
import random
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path

from talaria.coder.errors import DataError, UsageError
from talaria.evals.suites import Problem, Suite, read_rows

CORPUS_FORMAT = 2
CODE_TOKENS = ("NAME", "NUMBER", "OP", "STRING", "FSTRING_START", "TSTRING_START")


def held_out(corpus: Path) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Read a corpus's held-out files (package, path, text) and the SHA-256 of its parts.

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
    return documents, files


def boundaries(text: str) -> dict[int, list[int]]:
    """Find the columns where a name, literal or operator begins, by line from 0.

    Leaves out the first of each line, comments, the inside of strings, and lines that a multi-line
    string touches. Empty for a text that cannot be tokenised.
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
    return {line: found[1:] for line, found in columns.items() if found[1:] and line not in strings}


def line_end(corpus: Path, cursors: int, seed: int) -> Suite:
    """Draw cursors in held-out code; the middle is the rest of the line."""
    documents, files = held_out(corpus)
    problems = rests_of_lines(documents, cursors, seed)
    if 0 < len(problems) < cursors:
        raise UsageError(f"--cursors is {cursors}; {corpus} has only {len(problems)} usable lines")
    return Suite("line-end", problems, files, "files")


def rests_of_lines(
    documents: Sequence[Mapping[str, str]], cursors: int, seed: int
) -> list[Problem]:
    """Draw cursors in documents (`package`, `path`, `text`); fewer if there are no more lines.

    Draws lines uniformly without replacement from all that have a boundary, then one of the
    line's boundaries. The first n cursors do not depend on how many are drawn.
    """
    texts = [io.StringIO(document["text"]).readlines() for document in documents]
    places = [(number, line) for number, lines in enumerate(texts) for line in range(len(lines))]
    rng = random.Random(seed)
    rng.shuffle(places)
    columns = functools.cache(lambda number: boundaries(documents[number]["text"]))
    problems: list[Problem] = []
    for number, line in places:
        if len(problems) == cursors:
            break
        if line not in columns(number):
            continue
        document, lines = documents[number], texts[number]
        column = rng.choice(columns(number)[line])
        end = len(lines[line].rstrip("\r\n"))
        file = f"{document['package']}:{document['path']}"
        problems.append(
            Problem(
                id=f"{file}:{line + 1}:{column}",
                cluster=file,
                prefix="".join(lines[:line]) + lines[line][:column],
                suffix=lines[line][end:] + "".join(lines[line + 1 :]),
                solution=lines[line][column:end],
            )
        )
    return problems

"""Cells of a Jupyter notebook, and where their text stands in its file.

A notebook is JSON. nbformat would write the whole file anew, in its own order and indentation and
with its own ids; here the JSON text of one cell's source is exchanged and every other byte stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from talaria.coder.errors import SourceError

SUFFIX = ".ipynb"
_JSON = json.JSONDecoder(strict=False)
_BLANK = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Cell:
    r"""One cell, in the order of the file.

    kind    "code", "markdown" or "raw"
    source  its text
    start   where the JSON value of its source begins in the file's text, in characters
    end     where that value ends
    items   begin and end of each of its lines, where the value is a list; else empty
    """

    kind: str
    source: str
    start: int
    end: int
    items: tuple[tuple[int, int], ...] = ()


def cells_of(text: str, name: str) -> list[Cell]:
    """The cells of a notebook's file; SourceError if it is none, or one of another language."""
    try:
        whole = json.loads(text, strict=False)
        if not isinstance(whole, dict) or not isinstance(whole.get("cells"), list):
            raise SourceError(f"{name} is not a notebook of format 4: it has no list of cells")
        found = list(_located(text))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SourceError(f"{name} is not readable as a notebook: {error}") from None
    if language := _language(whole.get("metadata")):
        raise SourceError(f"{name} is a notebook in {language}: only Python can be filled")
    return found


def rewritten(text: str, cell: Cell, source: str) -> str:
    """The JSON value of a cell's source with another text; lines that stay keep their spelling."""
    raw = text[cell.start : cell.end]
    if source == cell.source:
        return raw
    # As the file has it: Jupyter writes characters as they are, other programs their codes.
    codes = raw.isascii() and (r"\u" in raw or (text.isascii() and r"\u" in text))
    if not raw.startswith("["):
        return json.dumps(source, ensure_ascii=codes)
    before = [text[start:end] for start, end in cell.items]
    known = {json.loads(each, strict=False): each for each in before}
    lines = re.findall(r"[^\n]*\n|[^\n]+", source)
    written = [known.get(line) or json.dumps(line, ensure_ascii=codes) for line in lines]
    if not written:
        return "[]"
    first, between, last = _blanks(text, cell)
    return f"[{first}{f',{between}'.join(written)}{last}]"


def _blanks(text: str, cell: Cell) -> tuple[str, str, str]:
    """What stands before the first line, between two lines and after the last one."""
    if cell.items:
        first = text[cell.start + 1 : cell.items[0][0]]
        last = text[cell.items[-1][1] : cell.end - 1]
        if len(cell.items) == 1:
            return first, first or " ", last
        return first, text[cell.items[0][1] : cell.items[1][0]].replace(",", "", 1), last
    begin = text.rfind("\n", 0, cell.start) + 1
    indent = _BLANK.match(text, begin)
    if not begin or indent is None:
        return "", " ", ""  # all on one line
    unit = re.match(r"\{\r?\n([ \t]+)", text)
    inner = indent[0] + (unit[1] if unit else " ")
    return f"\n{inner}", f"\n{inner}", f"\n{indent[0]}"


def _located(text: str) -> Iterator[Cell]:
    """The cells, with the places of their sources; of keys that come twice, the last one counts."""
    (start,) = [at for key, at, _ in _members(text, _skip(text, 0)) if key == "cells"][-1:]
    for at, _ in _elements(text, start):
        places = {key: (begin, end) for key, begin, end in _members(text, at)}
        kind = _JSON.raw_decode(text, places["cell_type"][0])[0]
        begin, end = places["source"]
        value = _JSON.raw_decode(text, begin)[0]
        items = tuple(_elements(text, begin)) if isinstance(value, list) else ()
        yield Cell(str(kind), "".join(value), begin, end, items)


def _members(text: str, start: int) -> Iterator[tuple[str, int, int]]:
    """Key, begin and end of each value of the object that begins here."""
    at = _skip(text, start + 1)
    while text[at] != "}":
        key, at = _JSON.raw_decode(text, at)
        begin = _skip(text, _skip(text, at) + 1)
        end = _JSON.raw_decode(text, begin)[1]
        yield key, begin, end
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _elements(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each element of the list that begins here."""
    at = _skip(text, start + 1)
    while text[at] != "]":
        end = _JSON.raw_decode(text, at)[1]
        yield at, end
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _skip(text: str, at: int) -> int:
    """Where the next sign stands that is not blank."""
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _language(metadata: Any) -> str:
    """The language that a notebook names, if it is not Python."""
    for part, key in (("language_info", "name"), ("kernelspec", "language")):
        named = metadata.get(part, {}) if isinstance(metadata, dict) else {}
        language = named.get(key) if isinstance(named, dict) else None
        if isinstance(language, str) and language:
            return "" if "python" in language.lower() else language
    return ""

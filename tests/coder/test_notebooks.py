"""Cells of a notebook are filled in place; every other byte of its file stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.errors import SourceError, TalariaError
from talaria.coder.notebooks import cells_of, rewritten
from talaria.coder.source import Target, parse_target, splice, unified_diff, write

CELLS: list[dict[str, Any]] = [
    {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Été \u00e9\n", "text"]},
    {
        "cell_type": "code",
        "execution_count": 1,
        "id": "b",
        "metadata": {},
        "outputs": [{"name": "stdout", "text": ["x = \n"]}],
        "source": ["import os\n", "x = 1"],
    },
    {"cell_type": "code", "id": "c", "metadata": {}, "outputs": [], "source": ["y = \n", "y"]},
    {"cell_type": "code", "id": "d", "metadata": {}, "outputs": [], "source": []},
    {"cell_type": "code", "id": "e", "metadata": {}, "outputs": [], "source": "%%bash\nls"},
    {"cell_type": "code", "id": "f", "metadata": {}, "outputs": [], "source": "def f():\n    pass"},
]
NOTEBOOK = {"cells": CELLS, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
INDENTS = (1, 2, None)


def target(path: Path, place: str) -> Target:
    """The target of a place in a notebook."""
    return parse_target(f"{path}{place}", lambda: b"")


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook as Jupyter writes it."""
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(NOTEBOOK, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def test_the_cells_around_are_context(notebook: Path) -> None:
    """Those with Python code, in their order; a column may be left out."""
    found = target(notebook, "#3:1:4")
    assert found.prefix == "import os\nx = 1\n\ny = "
    assert found.suffix == "\ny\n\n\n\ndef f():\n    pass"
    assert target(notebook, "#3:1") == found
    assert target(notebook, "#6::f").middle == "pass"


@pytest.mark.parametrize("indent", INDENTS)
@pytest.mark.parametrize("codes", [False, True])
def test_nothing_else_changes(tmp_path: Path, indent: int | None, codes: bool) -> None:
    """However the file is written: one cell has another source, the rest is there byte for byte."""
    path = tmp_path / "a.ipynb"
    text = json.dumps(NOTEBOOK, indent=indent, ensure_ascii=codes)
    path.write_bytes(text.replace("\n", "\r\n").encode())
    before = path.read_bytes()
    write(target(path, "#3:1:4"), "'é'\nz = 2")
    after = json.loads(path.read_bytes())
    assert after["cells"][2]["source"] == ["y = 'é'\n", "z = 2\n", "y"]
    after["cells"][2]["source"] = CELLS[2]["source"]
    assert after == NOTEBOOK
    start = before.index(b'"y = ')
    assert path.read_bytes()[:start] == before[:start]
    end = before.index(b'"y"', start)
    assert path.read_bytes().endswith(before[end:])
    assert (rb"\u00e9" in path.read_bytes()[start:]) == codes
    path.write_bytes(before)
    write(target(path, "#4:1:0"), "a = 1\nb")  # a cell without any line
    write(target(path, "#6::f"), "return 1")  # a source that is one string
    after = json.loads(path.read_bytes())
    assert after["cells"][3]["source"] == ["a = 1\n", "b"]
    assert after["cells"][5]["source"] == "def f():\n    return 1"


def test_a_patch_is_of_the_file(notebook: Path) -> None:
    """In the lines that the notebook's file has."""
    patch = unified_diff(target(notebook, "#3:1:4"), "2")
    assert '-    "y = \\n",\n+    "y = 2\\n",\n' in patch
    assert unified_diff(target(notebook, "#3:1:4"), "") == ""


@given(
    st.lists(st.text(max_size=8), min_size=1, max_size=4),
    st.text(max_size=8),
    st.sampled_from(INDENTS),
    st.booleans(),
)
def test_any_source_comes_back(
    sources: list[str], new: str, indent: int | None, codes: bool
) -> None:
    """What JSON reads from the rewritten file is the new source, and the others as they were."""
    cells = [
        {"source": each.splitlines(keepends=True), "cell_type": "code", "source ": "}"}
        for each in sources
    ]
    text = json.dumps({"a": [], "cells": cells}, indent=indent, ensure_ascii=codes)
    cell = cells_of(text, "a")[-1]
    assert cell.source == sources[-1]
    changed = text[: cell.start] + rewritten(text, cell, new) + text[cell.end :]
    found = json.loads(changed)["cells"]
    assert ["".join(each["source"]) for each in found] == [*sources[:-1], new]
    if new == sources[-1]:
        assert changed == text


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("#9:1:0", "has 6 cells, no 9"),
        ("#0:1:0", "no 0"),
        ("#1:1:0", "cell 1 of .* is markdown"),
        ("#5:1:0", "cell 5 of .* is %%bash"),
        ("#3:7:0", "cell 3 of .* has 2 lines, no line 7"),
        ("#3:1:9", "line 1 of cell 3 of .* has 4 characters"),
        ("#3::g", "cell 3 of"),
        (":3:1", "name a cell in it, as .*#3:2:0"),
        ("::f", "name a cell in it"),
    ],
)
def test_a_wrong_place(notebook: Path, place: str, reason: str) -> None:
    """Is said by cell and line."""
    with pytest.raises(TalariaError, match=reason):
        target(notebook, place)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not readable as a notebook"),
        ("[]", "not a notebook of format 4"),
        ('{"worksheets": []}', "format 4"),
        ('{"cells": [{"source": 1, "cell_type": "code"}]}', "not readable"),
        ('{"cells": [{"cell_type": "code"}]}', "not readable"),
        ('{"cells": [], "metadata": {"kernelspec": {"language": "R"}}}', "in R: only Python"),
        ("[" * 100_000, "not readable"),
    ],
)
def test_what_is_no_python_notebook(tmp_path: Path, text: str, reason: str) -> None:
    """Is refused in one line."""
    path = tmp_path / "a.ipynb"
    path.write_text(text)
    with pytest.raises(SourceError, match=reason):
        target(path, "#1:1:0")


def test_a_notebook_that_changed_is_left_alone(notebook: Path) -> None:
    """As other files are."""
    found = target(notebook, "#3:1:4")
    assert splice(found, "2").count("y = 2") == 1
    notebook.write_text("{}")
    with pytest.raises(SourceError, match="has changed since"):
        write(found, "2")
    assert notebook.read_text() == "{}"

"""Results survive interruptions, and files of different runs are never mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coder.errors import DataError
from evals.jsonl import FORMAT, Results, environment, read

HEADER = {"format": FORMAT, "stage": "samples", "data": "abc"}


def row(name: str) -> dict[str, object]:
    """A row."""
    return {"id": name, "sample": 0, "text": f"é\n{name}"}


def test_a_file_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Also after a crash that tore the last line."""
    path = tmp_path / "deep" / "samples.jsonl"
    first = Results(path, HEADER)
    first.append(row("a"))
    first.append(row("b"))
    first.close()
    with path.open("a") as file:
        file.write('{"id": "c", "sam')
    again = Results(path, HEADER)
    assert again.rows == [row("a"), row("b")]
    again.append(row("c"))
    again.close()
    header, rows, damaged = read(path)
    assert (header, rows, damaged) == (HEADER, [row("a"), row("b"), row("c")], [])


def test_a_damaged_line_is_named_and_the_rest_kept(tmp_path: Path) -> None:
    """By its number in the file, as an editor shows it."""
    path = tmp_path / "samples.jsonl"
    lines = [
        json.dumps(HEADER),
        json.dumps(row("a")),
        "{damaged",
        '{"id": "x"}',
        json.dumps(row("b")),
    ]
    path.write_text("\n".join(lines) + "\n")
    _, rows, damaged = read(path)
    assert rows == [row("a"), row("b")]
    assert damaged == [3, 4]
    results = Results(path, HEADER)
    assert results.damaged == [3, 4]
    results.close()


def test_another_run_is_refused(tmp_path: Path) -> None:
    """With what differs; the file stays as it is."""
    path = tmp_path / "samples.jsonl"
    Results(path, HEADER).close()
    before = path.read_bytes()
    with pytest.raises(DataError, match="other data; choose another --out"):
        Results(path, {**HEADER, "data": "other"})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no header"),
        ("[]\n", "no header"),
        ('{"format": 1}\n', "format 1"),
        ('{"a": 1}\n', "no header"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    """As soon as they are read."""
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=reason):
        read(path)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="Is a directory"):
        Results(tmp_path, HEADER)


def test_the_environment_names_what_figures_depend_on() -> None:
    """Versions, the code itself and the machine."""
    found = environment()
    assert {"talaria", "code", "python", "torch", "machine"} == found.keys()
    assert "cores" in found["machine"]

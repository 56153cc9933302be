"""Results survive interruptions, and files of different runs are never mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from talaria.coder.errors import DataError
from talaria.evals.jsonl import FORMAT, Results, command, environment, made_by, name_of, read

HEADER = {
    "format": FORMAT,
    "stage": "samples",
    "suite": "humaneval",
    "data": "abc",
    "model": {"name": "tiny"},
    "options": {"mode": "diffuse", "seed": 0},
    "environment": {},
    "expected": 3,
    "made_by": [],
}


def row(name: str) -> dict[str, object]:
    """A row."""
    return {"id": name, "sample": 0, "text": f"é\n{name}"}


def test_a_file_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Even if a crash tore the last line."""
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


def written(path: Path, header: dict[str, object], *rows: dict[str, object]) -> list[str]:
    """Write a file with these rows and return its lines."""
    results = Results(path, header)
    for each in rows:
        results.append(each)
    results.close()
    return path.read_text().splitlines(keepends=True)


def test_a_damaged_line_is_named_and_the_rest_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named by its line number; a sample without a text counts as damaged."""
    path = tmp_path / "samples.jsonl"
    head, one, two = written(path, HEADER, row("a"), row("b"))
    run = f'"run": "{name_of(HEADER)}"'
    textless = f'{{"id": "x", "sample": 0, "text": null, {run}}}\n'
    path.write_text("".join([head, one, "{damaged\n", f'{{"id": "x", {run}}}\n', textless, two]))
    _, rows, damaged = read(path)
    assert rows == [row("a"), row("b")]
    assert damaged == [3, 4, 5]
    assert "lines 3, 4, 5 are damaged and left out" in capsys.readouterr().err
    results = Results(path, HEADER)
    assert results.damaged == [3, 4, 5]
    results.close()


@pytest.mark.parametrize("part", [{"model": {"name": "other"}}, {"data": "x"}, {"options": {}}])
def test_rows_of_another_run_are_refused(tmp_path: Path, part: dict[str, object]) -> None:
    """The error names their lines, whether or not their header came with them."""
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    lines = written(one, HEADER, row("a"), row("b"))
    others = written(two, {**HEADER, **part}, row("a"), row("c"))
    one.write_text("".join(lines + others))
    with pytest.raises(DataError, match="lines 4, 5, 6 are not of the run in line 1"):
        read(one)
    one.write_text("".join(lines + others[2:]))
    with pytest.raises(DataError, match="line 4 is not of the run in line 1"):
        Results(one, HEADER)


def test_a_row_counts_once(tmp_path: Path) -> None:
    """Duplicates of a row count once; two different results of one sample are refused."""
    path = tmp_path / "samples.jsonl"
    lines = written(path, HEADER, row("a"), row("b"))
    path.write_text("".join(lines + lines[1:]))
    assert read(path)[1] == [row("a"), row("b")]
    path.write_text("".join([*lines, lines[1].replace("\\na", "else")]))
    with pytest.raises(DataError, match="line 4 is another result of a sample"):
        read(path)


def test_one_process_at_a_time_writes(tmp_path: Path) -> None:
    """A second process gets an error."""
    path = tmp_path / "samples.jsonl"
    first = Results(path, HEADER)
    with pytest.raises(DataError, match="another process writes to it"):
        Results(path, HEADER)
    first.close()
    Results(path, HEADER).close()


def test_another_run_is_refused(tmp_path: Path) -> None:
    """The error names what differs, and the file stays unchanged."""
    path = tmp_path / "samples.jsonl"
    Results(path, HEADER).close()
    before = path.read_bytes()
    with pytest.raises(DataError, match="other data; choose another file"):
        Results(path, {**HEADER, "data": "other"})
    with pytest.raises(DataError, match=r"other options\.seed; choose"):
        Results(path, {**HEADER, "options": {"mode": "diffuse", "seed": 1}})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a header"),
        ("[]\n", "not a header"),
        ('{"format": 1}\n', "format 1"),
        ('{"a": 1}\n', "not a header"),
        (json.dumps({**HEADER, "stage": "x"}) + "\n", "holds x, not samples or results"),
        (json.dumps({"format": FORMAT, "stage": "samples"}) + "\n", "line 1 has no valid suite"),
        (json.dumps({**HEADER, "model": "m"}) + "\n", "line 1 has no valid model"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    """Files that are not result files are refused with a reason."""
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=reason):
        read(path)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="Is a directory"):
        Results(tmp_path, HEADER)


def test_the_command_is_kept_without_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be repeated beside its files; another command does not stop a file's reuse."""
    words = ["/usr/bin/talaria", "eval", "run", "humaneval", "--data=/home/me/H.jsonl.gz"]
    words += ["--model", "runs/a b/", "--out", "C:\\out\\x", "--limit", "3"]
    expected = "talaria eval run humaneval --data=H.jsonl.gz --model 'a b' --out x --limit 3"
    assert command(words) == expected
    assert command(["pytest", "-q"]) is None
    monkeypatch.setattr("sys.argv", words)
    assert made_by()["command"] == expected
    path = tmp_path / "samples.jsonl"
    written(path, {**HEADER, "made_by": [{"command": expected, "commit": None}]}, row("a"))
    again = Results(path, HEADER)
    again.append(row("b"))
    again.close()
    header, rows, _ = read(path)
    assert header["made_by"][0]["command"] == again.header["made_by"][0]["command"] == expected
    assert rows == [row("a"), row("b")]


def test_the_commit_is_that_of_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It says if the code has changed since; without a repository there is no commit."""
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr("talaria.evals.jsonl.__file__", str(tmp_path / "evals" / "jsonl.py"))
    answers = {"rev-parse": "abc", "status": None}
    monkeypatch.setattr("talaria.evals.jsonl.git", lambda root, *words: answers[words[0]])
    assert made_by()["commit"] == "abc"
    answers["status"] = " M evals/jsonl.py"
    assert made_by()["commit"] == "abc with changes"
    (tmp_path / ".git").rmdir()
    assert made_by()["commit"] is None


def test_the_environment_names_what_figures_depend_on() -> None:
    """It has versions, a hash of the code, and the machine."""
    found = environment()
    assert {"talaria", "code", "python", "numpy", "onnxruntime", "torch", "machine"} == found.keys()
    assert "cores" in found["machine"]


def test_code_that_only_shows_rows_does_not_decide_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change to a report does not stop a file's reuse; a change to the engine does."""
    monkeypatch.setattr("talaria.evals.jsonl.__file__", str(tmp_path / "evals" / "jsonl.py"))
    files = [tmp_path / name for name in ("coder/sampler.py", "evals/holes_report.py")]
    for file in files:
        file.parent.mkdir()
        file.write_text("")
    before = environment()
    files[1].write_text("# changed")
    assert environment() == before
    files[0].write_text("# changed")
    assert environment()["code"] != before["code"]

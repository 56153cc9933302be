"""Holes are drawn in real files: rests of lines, whole lines and bodies of functions."""

from __future__ import annotations

import ast
import hashlib
import json
import lzma
from pathlib import Path

import pytest

import talaria.evals
from talaria.coder.errors import UsageError
from talaria.evals import command
from talaria.evals.cursors import BODY_LINES, HOLES, draw, drawn_suite
from talaria.evals.suites import compiles

CODE = '''"""A module
over two lines."""
import os

def plain(a, b):  # a comment
    """It adds."""
    total = a + b  # a comment
    return total


class C:
    async def with_a_helper(self):
        @staticmethod
        def helper(n): return n
        text = """
        x = 1"""
        return helper(text)

    def short(self): return 1

    def one(self):
        return self.short() if self else None

    def documented(self):
        """Only this."""

    def long(self):
''' + "".join(f"        self.x{n} = {n}\n" for n in range(13))
FILES = [{"package": "p", "path": "a.py", "text": CODE}]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus with one held-out file; its manifest says that it is fresh."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    raw = lzma.compress((json.dumps(FILES[0]) + "\n").encode())
    (folder / "valid-000.jsonl.xz").write_bytes(raw)
    part = {"file": "valid-000.jsonl.xz", "sha256": hashlib.sha256(raw).hexdigest()}
    manifest = {"format": 2, "source": "fresh", "parts": [{**part, "split": "valid"}]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_rests_of_lines_and_whole_lines() -> None:
    """From one of a line's names, literals or operators to its end; the lines are the same."""
    ends, lines = (draw(name, FILES, 99, 0) for name in ("line-end", "whole-line"))
    assert [p.id.rpartition(":")[0] for p in ends] == [p.id.rpartition(":")[0] for p in lines]
    found = {p.solution for p in lines}
    assert {"import os", "def plain(a, b):  # a comment", "return total", "@staticmethod"} <= found
    assert not {"x = 1", '"""It adds."""', 'text = """', "over two lines."} & found
    for end, line in zip(ends, lines, strict=True):
        assert line.solution.endswith(end.solution)
        assert line.solution != end.solution
        assert not line.solution[0].isspace()
        assert "\n" not in line.solution


def test_bodies_of_functions() -> None:
    """Behind the docstring, on lines of their own, neither long nor a single line."""
    found = {p.solution for p in draw("function-body", FILES, 99, 0)}
    assert found == {
        "total = a + b  # a comment\n    return total",
        "@staticmethod\n        def helper(n): return n\n"
        '        text = """\n        x = 1"""\n        return helper(text)',
    }


@pytest.mark.parametrize("name", HOLES)
def test_a_hole_is_cut_out_of_its_file(name: str) -> None:
    """Prefix, middle and suffix are the file; the seed alone decides; fewer are among more."""
    paths = sorted(Path(talaria.evals.__file__).parent.glob("*.py"))
    texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
    files = [{"package": "evals", "path": file, "text": text} for file, text in texts.items()]
    found = draw(name, files, 40, 3)
    assert len({problem.id for problem in found}) == 40
    assert found == draw(name, files, 40, 3)
    assert found[:10] == draw(name, files, 10, 3)
    assert found[:10] != draw(name, files, 10, 4)
    for problem in found:
        assert problem.program(problem.solution) == texts[problem.cluster.partition(":")[2]]
        assert problem.suffix.startswith("\n")
        if name == "function-body":
            assert problem.solution.count("\n") + 1 in BODY_LINES
            assert compiles(problem.program("pass"))
            margin = problem.prefix.rpartition("\n")[2]
            ast.parse(f"if 1:\n{margin}{problem.solution}")


@pytest.mark.parametrize("text", ["def f(:\n    x = 1\n    y = 2\n", "x = '''", "\0", ""])
def test_files_that_cannot_be_read_have_no_bodies(text: str) -> None:
    """A broken file is passed over."""
    assert not draw("function-body", [{"package": "p", "path": "a.py", "text": text}], 9, 0)


def test_where_a_suite_comes_from(corpus: Path) -> None:
    """The corpus says whether it is fresh; more cursors than places are refused."""
    suite = drawn_suite("function-body", corpus, 2, 0)
    assert (suite.name, suite.source, len(suite.problems)) == ("function-body", "fresh", 2)
    manifest = json.loads((corpus / "manifest.json").read_text())
    del manifest["source"]
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    assert drawn_suite("whole-line", corpus, 2, 0).source == "held-out"
    with pytest.raises(UsageError, match=r"--cursors is 3; .* has only 2 places for function-body"):
        drawn_suite("function-body", corpus, 3, 0)


def test_the_command_knows_every_kind(
    corpus: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of each kind names the source of its problems; parts are drawn by a seed."""
    assert HOLES.keys() == set(command.DRAWN)
    how = ["--model", str(model_folder), "--max-tokens", "4", "--corpus", str(corpus)]
    for name in HOLES:
        out = ["--cursors", "2", "--until", "line", "--out", str(tmp_path / name)]
        assert command.main(["run", name, *how, *out]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"{name} (fresh), ")
        assert "until line" in text
    part = ["--cursors", "9", "--limit", "2", "--limit-seed", "1", "--out", str(tmp_path / "part")]
    assert command.main(["run", "line-end", *how, *part]) == 0
    assert "2 samples of 2 problems" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--limit-seed is 1, but all problems are asked"):
        command.main(["generate", "line-end", *how, "--limit-seed", "1", "--out", "s.jsonl"])
    with pytest.raises(UsageError, match="--limit-seed is -1; it must be at least 0"):
        command.main(["generate", "line-end", *how, "--limit-seed", "-1", "--out", "s.jsonl"])

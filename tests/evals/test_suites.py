"""Benchmark files become problems, and unknown files are refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from talaria.coder.errors import DataError, UsageError
from talaria.evals.suites import SUITE_FILES, Problem, Suite, locate, read_suite, take
from tests.evals import problems


def test_holes_in_one_task_are_one_cluster(tmp_path: Path) -> None:
    """Prefix, solution and suffix make up the file; the test calls the entry point."""
    path = problems.write(tmp_path / "holes.jsonl.gz", problems.HOLES)
    suite = read_suite("infill-single-line", path, any_data=True)
    assert [p.cluster for p in suite.problems] == ["Tests/0", "Tests/1", "Tests/1"]
    first = suite.problems[0]
    assert first.program(first.solution) == "def twice(n):\n    return 2 * n\n"
    assert first.test is not None
    assert first.test.endswith("check(twice)\n")
    assert not first.whole
    assert len(suite.files["holes.jsonl.gz"]) == 64


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("    if a:\n        b()\n    c()\n", "    if a:\n        b()\n    c()\n"),
        ("    return 1\nprint(2)\n", "    return 1\n"),
        ("    return 1\n\nx = f()\n\ndef g():\n    pass\n", "    return 1\n\n"),
        ("    return 1\n\n\ndef f():\n    return 2\n", "    return 1\n\n\n"),
        ("    return 1\n\n\n@g\ndef f():\n    pass\n", "    return 1\n\n\n"),
        ("    return 1\n\n\ndef other():\n    retu(\n", "    return 1\n\n\n"),
        ("    return 1\nreturn 2\n", "    return 1\n"),
        ("    return (\n\nprint(1)\n", "    return (\n\n"),
        ("    return (\n", "    return (\n"),
        ("\n    return 1", "\n    return 1"),
        ("print(1)\n", ""),
        ("", ""),
    ],
)
def test_a_function_ends_at_the_left_margin(written: str, taken: str) -> None:
    """Later statements, ends that do not compile, and further attempts do not count."""
    problem = Problem("p", "p", "def f():\n", "", "", whole=True)
    assert problem.counted(written) == taken
    assert Problem("p", "p", "def f():\n", "", "").counted(written) == written


RIGHT = {
    "text at the margin": '    return """\nx\n"""[1:-1] * n\n',
    "comment at the margin": "    x = 'x'\n# so often\n    return x * n\n",
    "bracket at the margin": "    return (\n'x' * n\n)\n",
    "helper after it": "    return g(n)\n\n\nimport math\n\ndef g(n):\n    return 'x' * abs(n)\n",
}


@pytest.mark.parametrize("solution", RIGHT.values(), ids=RIGHT.keys())
def test_what_belongs_to_a_function_stays(solution: str) -> None:
    """Wherever its lines begin, and including helpers it may need."""
    problem = Problem("p", "p", 'def f(n):\n    """X."""\n', "", solution, whole=True)
    for more in ("", "\nprint(f(3))\n", "\n\ndef h(:\n"):
        space: dict[str, Any] = {}
        exec(problem.program(solution + more), space)
        assert space["f"](2) == "xx"
    assert problem.counted(solution) == solution


def test_lines_are_pythons() -> None:
    """A form feed, U+2028 and other signs of `str.splitlines` end no line; all three ends do."""
    body = "    x = 'a\u2028b\x1c'\n\f\n    return x\n"
    for end in ("\n", "\r\n", "\r"):
        problem = Problem("p", "p", "def f():\n".replace("\n", end), "", "", whole=True)
        solution = (body + "\n\ndef g():\n    return 1\n").replace("\n", end)
        assert problem.counted(solution + f"{end}print(f()){end}").rstrip() == solution.rstrip()


def test_a_name_of_the_prompt_is_not_redefined() -> None:
    """Neither a function nor what it imports, which the test may call; imports may come again."""
    problem = Problem("p", "p", "import math\nfrom a import b as c\ndef f():\n", "", "", whole=True)
    body = "    return 1\n"
    for name in ("math", "c", "f"):
        assert problem.counted(f"{body}\ndef {name}():\n    return 2\n").rstrip() == body.rstrip()
    for kept in ("def b():\n    return 2\n", "import math\n"):
        assert problem.counted(f"{body}\n{kept}") == f"{body}\n{kept}"


def test_built_ins_that_the_true_file_defines() -> None:
    """As functions, classes, variables and imports; not those that it only uses."""
    true = (
        "    return sum(n)\ndef abs(x): return x\nclass max: pass\nlen = 1\nfrom os import open\n"
    )
    problem = Problem("p", "p", "def f(n):\n", "print(pow(2, 3))\n", true)
    assert problem.own_builtins() == ("abs", "len", "max", "open")
    assert replace(problem, suffix="(").own_builtins() == ()


def test_a_body_may_go_on_a_line(tmp_path: Path) -> None:
    """If the prefix ends within a line, the first line continues it."""
    problem = Problem("p", "p", "def f():\n    ", "", "", whole=True)
    assert problem.counted("return 1\nx = 2\n") == "return 1\n"


def test_functions_and_mbpp(tmp_path: Path) -> None:
    """HumanEval asks for a function's rest; MBPP describes it by text and tests."""
    path = problems.write(tmp_path / "functions.jsonl", problems.FUNCTIONS)
    (function,) = read_suite("humaneval", path, any_data=True).problems
    assert (function.whole, function.suffix, function.cluster) == (True, "", "Tests/0")
    path = problems.write(tmp_path / "mbpp.jsonl", problems.MBPP)
    (mbpp,) = read_suite("mbpp", path, any_data=True).problems
    assert mbpp.prefix.startswith('import math\ndef more(n):\n    """Write a function')
    assert "assert more(1) == 2" in mbpp.prefix
    space: dict[str, object] = {}
    exec(mbpp.program(mbpp.solution) + (mbpp.test or ""), space)
    listed = tmp_path / "sanitized.json"
    row = {**problems.MBPP[0], "prompt": "Write a function to add one.", "test_imports": []}
    listed.write_text(json.dumps([row]))
    sanitized = read_suite("sanitized-mbpp", listed, any_data=True)
    assert sanitized.problems[0].solution == mbpp.solution


@pytest.mark.parametrize(
    ("code", "first"),
    [
        ("def more(n): return n + 1", "    return n + 1\n"),
        ("def more(n,\n         by=1):\n    return n + by\n", "    return n + by\n"),
        ("def more(n):\n  if n:\n    return n + 1\n  return 1", "  if n:\n"),
        ("def more(n):\n    # so\n    return n + 1", "    return n + 1\n"),
        ("def one(): return 1\ndef more(n): x = 'é'; return n + one()", "    x = 'é'; return"),
    ],
)
def test_mbpp_takes_functions_as_they_are_written(tmp_path: Path, code: str, first: str) -> None:
    """On one line or many, with any indentation, and text with quotes and backslashes."""
    text = 'Add one; """quoted""", a path C:\\new\\x, \\N.'
    path = problems.write(tmp_path / "m.jsonl", [{**problems.MBPP[0], "code": code, "text": text}])
    (problem,) = read_suite("mbpp", path, any_data=True).problems
    assert problem.solution.startswith(first)
    space: dict[str, Any] = {}
    exec(problem.program(problem.solution) + (problem.test or ""), space)
    assert "C:\\new\\x" in space["more"].__doc__
    assert "assert more(1) == 2" in space["more"].__doc__


def test_mbpp_is_its_test_split(tmp_path: Path) -> None:
    """Rows 11 to 510, unless any data is accepted."""
    rows = [{**problems.MBPP[0], "task_id": number} for number in (10, 11, 510, 511)]
    path = problems.write(tmp_path / "mbpp.jsonl", rows)
    assert [p.id for p in read_suite("mbpp", path).problems] == ["MBPP/11", "MBPP/510"]
    assert len(read_suite("mbpp", path, any_data=True).problems) == 4
    for change, reason in (
        ({"code": "def f(:"}, "MBPP/11: its code is not Python"),
        ({"code": "x = 1"}, "MBPP/11 has no fun"),
    ):
        broken = problems.write(tmp_path / "broken.jsonl", [{**rows[1], **change}])
        with pytest.raises(DataError, match=reason):
            read_suite("mbpp", broken)


def test_santacoder_fim_is_its_python_rows(tmp_path: Path) -> None:
    """They are named and clustered by function, because some functions have several holes."""
    row = {"prompt": "x = ", "suffix": "\n", "canonical_solution": "1", "name": "f"}
    rows = [{**row, "language": language} for language in ("java", "py", "js", "py")]
    path = problems.write(tmp_path / "data.jsonl", rows)
    found = read_suite("santacoder-fim", path).problems
    assert [(p.id, p.cluster) for p in found] == [("f/0", "f"), ("f/1", "f")]


def test_another_file_is_refused_unless_any_will_do(tmp_path: Path) -> None:
    """The hash decides, and the error has the right file's address."""
    path = problems.write(tmp_path / "HumanEval.jsonl.gz", problems.FUNCTIONS)
    with pytest.raises(DataError, match=r"SHA-256 is .*--any-data"):
        read_suite("humaneval", path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no problems"),
        (b"{", "line 1 is not JSON"),
        (b'{"task_id": "a"}\n', "row 1 has no text named 'entry_point'"),
        (b"[1]", "row 1 has no text"),
        (b"\x1f\x8b damaged", "damaged gzip"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    """The error names the line or the field."""
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_suite("humaneval", path, any_data=True)


def test_a_test_needs_what_it_calls(tmp_path: Path) -> None:
    """Without an entry point, the error names file and row."""
    row = {name: value for name, value in problems.HOLES[1].items() if name != "entry_point"}
    path = problems.write(tmp_path / "own.jsonl", [problems.HOLES[0], row])
    with pytest.raises(DataError, match=r"own\.jsonl: row 2 .*'entry_point'"):
        read_suite("santacoder-fim", path, any_data=True)


def test_rows_of_one_name_are_refused() -> None:
    """Results are stored by name."""
    problem = Problem("p", "p", "", "", "")
    with pytest.raises(DataError, match="2 problems"):
        Suite("s", [problem, problem], {})
    with pytest.raises(UsageError, match="--limit is 0"):
        take(Suite("s", [problem], {}), 0)


def test_a_part_of_a_suite() -> None:
    """The first problems, or a sample in their order; fewer of the same seed are among more."""
    asked = [Problem(f"p{n:02}", "c", "", "", "") for n in range(40)]
    suite = Suite("s", asked, {}, "files", "fresh")
    assert take(suite, None, None).problems == asked
    assert take(suite, 3).problems == asked[:3]
    some = take(suite, 10, 0)
    assert [p.id for p in some.problems] == sorted(p.id for p in some.problems)
    assert some.problems != asked[:10]
    assert (some.source, some.clusters) == ("fresh", "files")
    assert set(take(suite, 5, 0).problems) < set(some.problems)
    assert take(suite, 10, 1).problems != some.problems
    assert take(suite, 99, 1).problems == asked


def test_an_interrupted_run_is_a_fair_sample() -> None:
    """What is asked first is what a lower limit would have drawn; the suite's digest stays."""
    asked = [Problem(f"p{n:02}", "c", "", "", "") for n in range(40)]
    suite = Suite("s", asked, {})
    assert suite.asked() == asked
    some = take(suite, 20, 3)
    for fewer in (1, 7, 20):
        assert some.asked()[:fewer] == take(suite, fewer, 3).asked()
    assert some.digest() == replace(some, order=None).digest()
    for limit in (None, 20):
        first = take(suite, limit)
        assert first.digest() == replace(suite, problems=asked[:limit]).digest()
        assert first.asked() != first.problems
        assert sorted(first.asked(), key=lambda p: p.id) == first.problems


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given, cached, or missing: then the error says what is needed and where to get it."""
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    assert locate("humaneval", tmp_path / "own.jsonl") == tmp_path / "own.jsonl"
    with pytest.raises(DataError, match=r"HumanEval\.jsonl\.gz.*--data.*https://.*--download"):
        locate("humaneval", None)
    cached = tmp_path / "benchmarks" / "HumanEval.jsonl.gz"
    cached.parent.mkdir()
    cached.write_bytes(b"")
    assert locate("humaneval", None) == cached


def test_a_download_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with another hash is not kept, and an unreachable address is named."""
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path / "home"))
    path = problems.write(tmp_path / "HumanEval.jsonl.gz", problems.FUNCTIONS)
    source = SUITE_FILES["humaneval"]
    other = type(source)(path.as_uri(), source.sha256, source.fields)
    monkeypatch.setitem(SUITE_FILES, "humaneval", other)
    with pytest.raises(DataError, match="SHA-256"):
        locate("humaneval", None, download=True)
    with pytest.raises(DataError, match=r"mbpp\.jsonl is not fetched, as no SHA-256 .*--data"):
        locate("mbpp", None, download=True)
    assert not list((tmp_path / "home").rglob("*.gz"))
    right = type(source)(path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest(), ())
    monkeypatch.setitem(SUITE_FILES, "humaneval", right)
    assert locate("humaneval", None, download=True).read_bytes() == path.read_bytes()
    path.unlink()
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path / "other"))
    with pytest.raises(DataError, match="cannot be fetched"):
        locate("humaneval", None, download=True)

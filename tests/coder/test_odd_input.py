"""Bad and odd input: the right middle or nothing, one line for a fault, nothing else touched."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from talaria.coder import checkpoint, cli
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.engine import Engine
from talaria.coder.infill import infill
from talaria.coder.request import Mode, Options, Request
from talaria.coder.results import Frame
from talaria.coder.source import Target, splice, unified_diff
from talaria.coder.syntax.judge import judge
from tests.pace import within

BOM = b"\xef\xbb\xbf"


class FileShell:
    """Runs `talaria infill` on a file and keeps what it prints."""

    def __init__(self, model: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.model, self.file, self.capsys = model, file, capsys
        self.out = self.err = ""

    def __call__(self, place: str, *options: str) -> int:
        """The exit code for FILE and a place in it, as in `:2:4` or `::f`."""
        more = ("--max-tokens", "12", "--max-nfe", "24", "--model", self.model)
        code = cli.main(["infill", f"{self.file}{place}", *options, *more])
        self.out, self.err = self.capsys.readouterr()
        assert "Traceback" not in self.err
        return code

    def offered(self, place: str, data: bytes) -> dict[str, Any]:
        """What is offered there, as --json has it; the file is as it was."""
        self.file.write_bytes(data)
        assert self(place, "--json") == 0, self.err
        answer: dict[str, Any] = json.loads(self.out)
        assert self.file.read_bytes() == data
        assert answer["syntax"]["clean"]
        assert answer["nfe"] <= 24
        return answer

    def written(self, place: str, before: bytes, hole: bytes, after: bytes) -> bytes:
        """What --write puts between the two parts; `hole`, with a line on why, for nothing."""
        self.file.write_bytes(before + hole + after)
        code = self(place, "--write", "--json")
        answer, data = json.loads(self.out), self.file.read_bytes()
        assert data.startswith(before)
        assert data.endswith(after)
        middle = data[len(before) : len(data) - len(after)]
        if code:
            assert code == 1
            assert middle == hole
            assert self.err.count("\n") == 1
            assert "as it was" in self.err
        else:
            assert answer["syntax"]["clean"]
            assert middle.replace(b"\r\n", b"\n").decode() == answer["text"]
        assert os.listdir(self.file.parent) == [self.file.name]
        return middle


@pytest.fixture
def tiny(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> FileShell:
    """With a model whose every weight is random: it writes anything."""
    (tmp_path / "code").mkdir()
    return FileShell(str(model_folder), tmp_path / "code" / "odd.py", capsys)


@pytest.fixture
def shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> FileShell:
    """With the model in the package."""
    (tmp_path / "code").mkdir()
    return FileShell(checkpoint.EMBEDDED, tmp_path / "code" / "odd.py", capsys)


# Texts with the hole between ⟦ and ⟧, which are taken out.
CURSORS = {
    "broken before": "def f(x)\n    return x\n\n\ny = ⟦⟧\n",
    "broken behind": "y = ⟦⟧\n\n\ndef f(:\n    return (\n",
    "broken on the line": "x = = ⟦⟧\n",
    "open brackets": "x = f([1, {2: (⟦⟧\n",
    "open string": "x = 'abc⟦⟧\ny = 1\n",
    "merge conflict": "<<<<<<< ours\nx = 1\n=======\nx = ⟦⟧\n>>>>>>> theirs\n",
    "no Python": "Dear all,\n\nit's (not) code: ⟦⟧\n\nbye\n",
    "tabs and spaces": "if x:\n\ty = 1\n        z = ⟦⟧\n",
    "tabs": "def f(x):\n\tif x:\n\t\treturn ⟦⟧\n\treturn 0\n",
    "Windows lines": "def f(x):\r\n    y = ⟦⟧\r\n    return y\r\n",
    "old Macintosh lines": "def f(x):\r    y = ⟦⟧\r    return y\r",
    "mixed line endings": "a = 1\r\nb = 2\rc = ⟦⟧\nd = 4\r\n",
    "no final newline": "def f(x):\n    return ⟦⟧",
    "at the very end": "def f(x):\n    return x\n⟦⟧",
    "at the very beginning": "⟦⟧\nx = 1\n",
    "blank lines only around": "\n\n\n⟦⟧\n\nx\n",
    "form feed": "x = 1\n\x0c\ny = ⟦⟧\n",
    "line separators that Python has not": "x = 'a\u2028b\x85c'; y = ⟦⟧\n",
    "astral": "s = '𝒳𝒴😀' + ⟦⟧\n",
    "combining and joined": "s = 'e\u0301 👩‍👩‍👧' + ⟦⟧  # ñ\n",
    "right to left": "שלום = 'שלום'\nx = ⟦⟧\n",
    "in a string": "x = 'one ⟦⟧ two'\n",
    "in a docstring": 'def f():\n    """Do ⟦⟧.\n\n    More.\n    """\n    return 1\n',
    "in an f-string": "x = f'{a} {⟦⟧}'\n",
    "in bytes": "x = b'one ⟦⟧'\n",
    "in a comment": "x = 1  # the ⟦⟧ number\ny = 2\n",
    "at a comment's end": "# sum of ⟦⟧\nx = sum(y)\n",
    "in a decorator": "@cache(⟦⟧)\ndef f():\n    return 1\n",
    "a decorator's name": "@⟦⟧\ndef f():\n    return 1\n",
    "between decorator and function": "@cache\n⟦⟧\ndef f():\n    return 1\n",
    "nested": "def f():\n    def g():\n        return ⟦⟧\n    return g\n",
    "async": "async def f(x):\n    async with x as y:\n        await ⟦⟧\n",
    "one line": "def f(x): return ⟦⟧\n",
    "lambda": "f = lambda x: ⟦⟧\n",
    "match subject": "match ⟦⟧:\n    case 1:\n        pass\n",
    "match pattern": "match x:\n    case ⟦⟧:\n        pass\n",
    "match body": "match x:\n    case [a, *_] if a:\n        y = ⟦⟧\n    case _:\n        pass\n",
    "behind a continuation": "x = 1 + \\\n    ⟦⟧\ny = 2\n",
    "in a word": "import o⟦⟧s\n",
    "mark of a special token": "x = '<mask><eom><|fill|>' + ⟦⟧\n",
}


def parted(text: str) -> tuple[str, str, str, str]:
    """The place of a hole as the command line has it, and the text before, in and behind it."""
    before, rest = text.split("⟦")
    hole, after = rest.split("⟧")
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return f":{len(lines)}:{len(lines[-1])}", before, hole, after


@pytest.mark.parametrize("text", CURSORS.values(), ids=CURSORS)
@pytest.mark.parametrize("bom", [b"", BOM], ids=["", "mark"])
def test_at_an_odd_cursor(tiny: FileShell, text: str, bom: bytes) -> None:
    """What is written adds no error, and every byte around it stays, as does a byte-order mark."""
    place, before, hole, after = parted(text)
    middle = tiny.written(place, bom + before.encode(), hole.encode(), after.encode())
    lines = (t.replace("\r\n", "\n").replace("\r", "\n") for t in (before, middle.decode(), after))
    assert judge(*lines).clean


@pytest.mark.parametrize("mode", ["ar", "verify"])
def test_other_modes_at_odd_cursors(model: Checkpoint, mode: Mode) -> None:
    """They too offer what adds no error."""
    for text in CURSORS.values():
        _, before, _, after = parted(text)
        found = infill(model, before, after, Options(mode, max_tokens=8, max_nfe=12))
        assert found.syntax.clean
        assert judge(before, found.best.text, after).clean


BODIES = {
    "nested": ("::f.g", "def f():\n    def g():\n        ⟦return 1⟧\n    return g\n"),
    "async": ("::f", "@a\nasync def f(x):\n    '''Do.'''\n    ⟦await x⟧\n\n\ny = 1\n"),
    "async method": ("::A.f", "class A:\n    async def f(self):\n        ⟦return 1⟧\n"),
    "one line": ("::f", "def f(x): ⟦return x⟧\ny = 1\n"),
    "match inside": ("::f", "def f(x):\n    ⟦match x:\n        case 1: return 2⟧\n\ny = 1\n"),
    "in a match": ("::f", "match x:\n    case 1:\n        def f():\n            ⟦return 1⟧\n"),
    "decorated": ("::f", "@a(1)\n@b\ndef f():\n    ⟦return 1⟧"),
    "Windows lines": ("::f", "def f():\r\n    ⟦if x:\r\n        y()⟧\r\nz = 1\r\n"),
    "tabs": ("::A.f", "class A:\n\tdef f(self):\n\t\t⟦return 1⟧\n\tx = 1\n"),
    "broken beside": ("::f", "x = = 1\n\n\ndef f():\n    ⟦return 1⟧\n\n\ny = (\n"),
    "astral": ("::ñ", "s = '𝒳'\n\ndef ñ():\n    '''😀'''\n    ⟦return '𝒵'⟧  # 𝒳\n"),
}


@pytest.mark.parametrize(("name", "text"), BODIES.values(), ids=BODIES)
def test_an_odd_function_gets_a_body(tiny: FileShell, name: str, text: str) -> None:
    """Or keeps its own; what is around the body stays."""
    _, before, hole, after = parted(text)
    if name == "::ñ":  # a comment on the last line belongs to the body
        hole, after = hole + after.rstrip("\n"), "\n"
    tiny.written(name, before.encode(), hole.encode(), after.encode())


@pytest.mark.parametrize(
    ("text", "lead"),
    [
        ("def f():\n    def g():\n        '''Do.'''\n    return g\n", "\n        "),
        ("def f():\n\tdef g():\n\t\t'''Do.'''\n\treturn g\n", "\n\t\t"),
        ("class f:\n  async def g(self):\n    '''Do.'''\n", "\n    "),
        ("def f():\n    def g(): 'Do.'\n    return g\n", "; "),
    ],
)
def test_a_missing_body_is_led_in(tiny: FileShell, text: str, lead: str) -> None:
    """At the depth of its function, however deep, and on the line of a one-line function."""
    tiny.file.write_bytes(text.encode())
    assert tiny("::f.g", "--json", "--no-syntax-check", "--temperature", "1") == 0
    assert json.loads(tiny.out)["text"].startswith(lead)


@pytest.mark.golden
def test_the_shipped_model_writes_odd_functions(shipped: FileShell) -> None:
    """A nested, an asynchronous and a one-line function, and one with `match`, each its body."""
    for name, before, after in (
        ("::f.g", b"def f(values):\n    def g():\n        ", b"\n    return g\n"),
        ("::f", b"async def f(client, url):\n    '''Get the url.'''\n    ", b"\n\n\nx = 1\n"),
        ("::f", b"def f(a, b):", b"\n"),
        ("::f", BOM + b"def f(x):\r\n    ", b"\r\n\r\n\r\nmatch f(1):\r\n    case 2: pass\r\n"),
    ):
        middle = shipped.written(name, before, b"return None", after)
        assert middle.strip()
        assert judge(before.decode("utf-8-sig"), middle.decode(), after.decode()).clean


def test_columns_count_characters(tiny: FileShell) -> None:
    """Astral and combining ones too: a column in bytes or in UTF-16 would be another place."""
    line = "s = '𝒳😀e\u0301'.up"
    before, after = f"import os\n{line}".encode(), b"per()\n"
    assert tiny.written(f":2:{len(line)}", before, b"", after) is not None
    tiny.file.write_bytes(before)
    assert tiny(f":2:{len(line) + 1}") == 1
    assert f"no column {len(line) + 1}" in tiny.err
    assert tiny.err.count("\n") == 1


@pytest.mark.parametrize(
    ("place", "data", "reason"),
    [
        (":1:9", "x = '𝒳'\n".encode(), "7 characters, no column 9"),
        (":3:0", b"x = 1\r\n", "1 line, no line 3"),
        ("::f", b"def g(): pass\r", "no function 'f'"),
        ("::f.h", b"def f():\n    async def g(): pass\n", "close matches: f.g"),
        (":1:0", b"\xff\xfex\0", "binary"),
        (":1:0", "x = 'é'".encode("latin-1"), "UTF-8"),
        (":1:0", BOM, "empty"),
    ],
)
def test_what_cannot_be_done_takes_one_line(
    tiny: FileShell, place: str, data: bytes, reason: str
) -> None:
    """Exit code 1, nothing on standard output, the file as it was."""
    tiny.file.write_bytes(data)
    assert tiny(place, "--write") == 1
    assert reason in tiny.err
    assert (tiny.out, tiny.err.count("\n")) == ("", 1)
    assert tiny.file.read_bytes() == data


LONG = {
    "in a list": ("x = [" + "12, " * 12_500, "12, " * 12_500 + "1]\n"),
    "in a string": ("x = '" + "a" * 50_000, "b" * 50_000 + "'\n"),
    "in a sum": ("x = " + "ab + " * 10_000, " + cd" * 10_000 + "\n"),
    "in a comment": ("# " + "word " * 10_000, " word" * 10_000 + "\n"),
    "behind": ("x = '" + "a" * 100_000 + "'\ny = ", "\n"),
    "before": ("y = ", "\nx = '" + "a" * 100_000 + "'\n"),
    "brackets": ("x = " + "(" * 50_000, ")" * 50_000 + "\n"),
    "broken": ("x = [" + "1 2, " * 10_000, "3 4, " * 10_000 + "\n"),
}


@pytest.mark.parametrize(("before", "after"), LONG.values(), ids=LONG)
def test_lines_of_100000_characters(tiny: FileShell, before: str, after: str) -> None:
    """They are filled or left as they are, and their columns are counted."""
    place, *_ = parted(f"{before}⟦⟧{after}")
    tiny.written(place, before.encode(), b"", after.encode())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *(LONG[name] for name in ("in a sum", "brackets", "broken")),
        ("(" * 50_000, "\n"),
        ("x = [" + "1, " * 20_000, "1, " * 20_000 + "]\n"),
        ("x = {\n" + "    'key': [1, {'a': 2}],\n" * 3000, "    'b': 1,\n}\n\ndef f(:\n    x\n"),
    ],
)
def test_a_deadline_counts_also_where_it_takes_long_to_parse(
    engine: Engine, before: str, after: str
) -> None:
    """The look at the syntax gives up soon after it, a parse that it began taken to its end.

    Without, it takes several parses; how long one takes depends on the machine.
    """
    engine.model.result(60)
    began = time.process_time()
    judge(before, "", after)
    limit = 0.5 + 2 * (time.process_time() - began)
    modes: tuple[Mode, ...] = ("diffuse", "ar")
    for mode in modes:
        options = Options(mode, max_nfe=10_000)
        with within(limit):
            request = Request(before, after, options, document="a.py", seconds=0.05)
            found = engine.submit(request).future.result(60)
        assert found.syntax.clean


FUNCTION = "def f{}(values):\n    '''Sum, it's (so.'''\n    return sum(values)\n\n\n"
LARGE = {
    "functions": ("".join(map(FUNCTION.format, range(80_000))), FUNCTION.format("x") * 70_000),
    "a table": (
        "x = {\n" + "".join(f"    'key{i}': [{i}, 'value'],\n" for i in range(150_000)),
        ",\n" + "".join(f"    'more{i}': [{i}, 'value'],\n" for i in range(150_000)) + "}\n",
    ),
    "lines of 100,000 characters": (
        f"x = [{'12, ' * 25_000}]\n" * 50,
        f"y = '{'a' * 10**5}'\n" * 50,
    ),
    "one line": ("x = [" + "12, " * 1_250_000, "12, " * 1_250_000 + "]\n"),
    "a text": ('x = """\n' + "It's (prose.\n" * 400_000, "It's (prose.\n" * 400_000 + '"""\n'),
    "broken": ("def f(:\n  x = (\n" * 300_000, "y = 1 2\n" * 600_000),
}


@pytest.fixture
def engine(model: Checkpoint) -> Iterator[Engine]:
    """An engine with a small model."""
    with Engine(lambda: model) as engine:
        yield engine


@pytest.mark.parametrize("name", LARGE)
def test_10_megabytes_are_answered_soon(engine: Engine, name: str) -> None:
    """In a second or so, not in half a minute; the limit leaves room for a busy machine."""
    before, after = LARGE[name]
    assert 9e6 < len(before) + len(after) < 16e6
    line = {"functions": "y = ", "a table": "    'a': ", "one line": ""}.get(name, "")
    options = Options(max_tokens=12, max_nfe=24)
    for typed in ("", "a"):
        behind = after if name != "functions" else "\n" + after
        with within(8):
            request = Request(before + line + typed, behind, options, document="a.py")
            found = engine.submit(request).future.result(120)
        assert found.syntax.clean


def test_10_megabytes_are_written(tiny: FileShell) -> None:
    """By position and by name, and shown as a diff of a few lines."""
    before, after = (part.encode() for part in LARGE["functions"])
    line = before.count(b"\n") + 1
    tiny.written(f":{line}:4", before + b"y = ", b"", b"\n" + after)
    with within(5):
        tiny.file.write_bytes(before + b"y = \n" + after)
        assert tiny(f":{line}:4", "--diff") == 0
    assert tiny.out.count("\n") < 40
    if tiny.out:
        assert f"@@ -{line - 3},7 +{line - 3}," in tiny.out


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_diff_far_down_is_where_it_belongs(tmp_path: Path) -> None:
    """`git apply` makes of it what --write writes."""
    text = "".join(map(FUNCTION.format, range(500)))
    start = text.index("return", text.index("def f300"))
    hole = Target(text, start, text.index("\n", start), Path("odd.py"))
    diff = unified_diff(hole, "x = 1\n    return x")
    (tmp_path / "odd.py").write_bytes(text.encode())
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=diff.encode(), check=True)
    assert (tmp_path / "odd.py").read_bytes() == splice(hole, "x = 1\n    return x").encode()
    assert "@@ -1500,7 +1500,8 @@" in diff


@pytest.mark.parametrize("name", ["functions", "a table", "a text"])
def test_a_millisecond_is_enough_for_an_answer(engine: Engine, name: str) -> None:
    """Nothing has been read then: there is nothing, at once, also in a large file."""
    engine.model.result(60)
    before, after = LARGE[name]
    for prefix, suffix in ((before, after), ("x = ", "\n")):
        with within(5):
            request = Request(prefix, suffix, Options(max_nfe=10_000), seconds=0.001)
            found = engine.submit(request).future.result(60)
        assert found.best.stopped in ("deadline", "syntax", "eom")
        assert found.syntax.clean
        assert found.nfe <= 8


def test_a_cancelled_request_in_a_large_file_harms_no_other(
    engine: Engine, model: Checkpoint
) -> None:
    """It stops before its next step, and the next request gets what it gets alone."""
    before, after = LARGE["functions"]
    options = Options(max_tokens=24)
    steps: list[Frame] = []

    def cancel(frame: Frame) -> None:
        steps.append(frame)
        pending.cancel()

    request = Request(before + "y = ", "\n" + after, options, document="a.py")
    pending = engine.submit(request, cancel)
    with pytest.raises(CancelledError):
        pending.future.result(60)
    again = engine.fill(request)
    assert len(steps) <= 1
    assert again.best == infill(model, before + "y = ", "\n" + after, options).best
    assert again.syntax.clean


def test_odd_standard_input(
    model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows lines, a byte-order mark and astral letters come through standard input as well."""
    data = BOM + "s = '𝒳'\r\nx = <|fill|>\r\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    more = ["--model", str(model_folder), "--max-tokens", "8", "--json"]
    assert cli.main(["infill", "-", *more]) == 0
    assert json.loads(capsys.readouterr().out)["syntax"]["clean"]

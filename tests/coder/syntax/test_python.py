"""What Python itself says of a text, and of what is around a hole in it."""

from __future__ import annotations

import inspect
import json.decoder
import random
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.syntax.lexical import indentation, lines_of, logical_starts
from talaria.coder.syntax.names import members
from talaria.coder.syntax.python import LONGEST, compiles, parsed, top_level

MIDDLES = (
    "x = 1",
    "if x:",
    "@a",
    "return 1",
    ")",
    "def f(self):\n        pass",
    "'''",
    "else: pass",
)


@pytest.mark.parametrize("module", [textwrap, json.decoder])
def test_what_is_around_a_hole_decides_as_the_whole_file_does(module: object) -> None:
    """At blank lines of real files, with the indentation of the line above or without it."""
    text = inspect.getsource(module)  # type: ignore[arg-type]
    lines, chance, shortened = lines_of(text), random.Random(0), 0
    rows = [row for row, line in enumerate(lines) if row and not line.strip()]
    for row in chance.sample(rows, 20):
        typed = indentation(lines[row - 1]) if chance.random() < 0.7 else ""
        prefix, suffix = "".join(lines[:row]) + typed, "".join(lines[row:])
        if not compiles(f"{prefix}pass{suffix}"):
            continue  # inside a string or a bracket
        sides = top_level(prefix, suffix)
        assert sides
        before, after = sides
        shortened += before.startswith("class _:\n")
        assert compiles(before + after)
        for middle in MIDDLES:
            whole = compiles(prefix + middle + suffix)
            assert compiles(before + middle + after) == whole, (row, typed, middle)
    assert shortened > 2


@given(
    st.lists(
        st.sampled_from(["x", "(", ")", "\n", "    ", "@a\n", ":", "class A:\n", "def f():", "'"])
    )
)
def test_any_text_has_something_around_a_hole(parts: list[str]) -> None:
    """However broken: both sides touch the hole."""
    text = "".join(parts)
    for place in range(0, len(text) + 1, 3):
        sides = top_level(text[:place], text[place:])
        assert sides
        begun = sides[0].rpartition("class _:\n")[2]
        assert text[:place].endswith(begun)
        assert text[place:].startswith(sides[1].partition("\n")[0].rstrip()[:1])


def test_too_much_around_a_hole() -> None:
    """A table of many lines, and many statements before it."""
    row = "    (1, 2),\n"
    assert top_level("x = [\n" + row * LONGEST, row + "]\n") is None
    assert top_level("x = 1\n" * LONGEST, "\n") is None  # no definition shows where to begin
    sides = top_level("def f():\n    pass\n" * LONGEST + "x = ", "\n")
    assert sides == ("def f():\n    pass\nx = ", "\n")


def test_lines_are_those_of_the_tokenizer() -> None:
    """Other characters end none, though `str.splitlines` says so."""
    odd = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    assert lines_of(f"a{odd}\nb\r\nc\rd") == [f"a{odd}\n", "b\r\n", "c\r", "d"]
    assert lines_of("") == []
    tree = parsed(f"x = '{odd}'\ny = 1\n")
    assert tree
    assert tree.body[1].lineno == len(lines_of(f"x = '{odd}'\n")) + 1


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("x = 1\ny", [0, 6]),
        ("x = (1,\n2)\ny", [0, 11]),
        ("# (\\\ny\n", [0, 5, 7]),  # a comment is not continued
        ("x = \\\n1\ny", [0, 8]),
        ("x = '''\n'''\ny", [0, 12]),
        ("x = (\ndef f():\n", [0, 6, 15]),  # no bracket holds a `def`
    ],
)
def test_where_logical_lines_begin(text: str, starts: list[int]) -> None:
    """Brackets, strings and backslashes join lines; comments do not."""
    assert logical_starts(text) == starts


def test_names_of_modules_are_read_and_never_imported() -> None:
    """Of the standard library only; of a package its modules as well."""
    assert {"DictReader", "reader", "QUOTE_ALL"} <= members("csv")
    assert "decoder" in members("json")
    assert "JSONDecoder" in members("json")
    assert members("this_is_no_module") == frozenset()
    assert members("numpy") == frozenset()
    assert members("os.path.nothing") == frozenset()
    assert "exists" in members("os.path")
    assert "getcwd" in members("os")  # which it imports with a star
    assert members("tkinter.ttk.nothing") == frozenset()


def test_a_module_without_a_source_is_asked_if_it_is_loaded() -> None:
    """It is never imported for that."""
    assert "argv" in members("sys")
    code = "import sys; from talaria.coder.syntax.names import members; "
    code += "print(len(members('_crypt')), '_crypt' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]

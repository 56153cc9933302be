"""A middle is judged by the errors that it adds to the text around it."""

from __future__ import annotations

import inspect
import random
import re
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tree_sitter import Language, Parser, Tree

from talaria.coder.syntax.excerpt import REACH
from talaria.coder.syntax.judge import OutOfTimeError, Surroundings, Verdict, judge
from talaria.coder.syntax.python import compiles
from talaria.coder.syntax.tree import count_errors


@given(st.text())
def test_any_text_can_be_judged(text: str) -> None:
    """Neither NUL nor lone surrogates nor deep brackets make the judge raise."""
    assert count_errors(text) >= 0
    assert judge(text, "", "").clean
    judge("x = (", text, ")\n")


def test_lone_surrogates_are_judged() -> None:
    """They are like any other character, although a file with one does not compile."""
    assert judge("x = '", "\ud800", "'\n") == Verdict(0, 0)
    assert not compiles("x = '\ud800'\n")


@pytest.mark.parametrize(
    ("prefix", "middle", "suffix", "clean"),
    [
        ("x = ", "1", "\n", True),
        ("x = ", "", "\n", True),  # nothing adds no error
        ("x = f(", "a", "\n", False),  # the hole must close the bracket
        ("x = f(", "a)", "\n", True),
        ("x = f(", "a", ")\n", True),
        ("x = f(", "a)", ")\n", False),
        ("if x", "", "\n    pass\n", True),
        ("if x", " > 1", "\n    pass\n", False),
        ("if x", " > 1:", "\n    pass\n", True),
        ("def f(x):\n    ", "if x:", "\n\n\ny = 1\n", False),  # its body may follow
        ("def f(x):\n    ", "y = {x:", "\n\n\ny = 1\n", False),
        ("def f(n):\n", "    m = 0\n", "    return sum(n)\n", True),  # a whole line
        ("def f(n):\n", "    m = 0", "    return sum(n)\n", False),
        ("def f(n):\n    m = 1\n", "        return m\n", "    return sum(n)\n", False),
        ("def f(n):\n    m = 1\n", "    for c in n:\n", "    return sum(n)\n", False),
        ("def f(n):\n    m = 1\n", "    c = 2\n  d = 2\n", "    return sum(n)\n", False),
        ("x = 1\n", "y = (\n", "z = 2\n", False),
        ("def f(x):\n    ", "return x", "\n", True),
        ("def f(x):\n", "    return x", "\n", True),
        ("def f(x):\n", "    return (x", "\n", False),
        ("def f(x)\n    pass\n\ny = ", "2", "\n", True),  # broken elsewhere
        ("f(", "a=1, 2", ")\n", False),  # tree-sitter accepts it, Python does not
        ("", "return 1", "\n", False),
        ("def f():\n    nonlocal x\n    ", "return 1", "\n", True),  # rejected anyway
        ("class A:\n    def f(self):\n        ", "return 1", "\n\n    x = 2\n", True),
        ("class A:\n    def f(self):\n        ", "f(a=1, 2)", "\n\n    x = 2\n", False),
        ("x = ", "'\\d'", "\n", True),  # only a warning
        ("x = ", "1 is 1", "\n", True),
    ],
)
def test_a_middle_is_judged_by_what_it_adds(
    prefix: str, middle: str, suffix: str, clean: bool
) -> None:
    """It is not blamed for errors around the hole, but for those that a plain filling avoids."""
    assert judge(prefix, middle, suffix).clean == clean


@pytest.mark.parametrize(
    ("prefix", "middle", "suffix"),
    [
        ("def f(x):\n    ", "if x:", "\n    return x\n"),
        ("def f(x):\n    ", "if x:  # why", "\n\n\ny = 1\n"),
        ("def f(x):\n    for y in x:\n        ", "if y:", "\n    return x\n"),
        ("@a\n", "def f(x):", "\ndef g(x):\n    return x\n"),
        ("x = 1\n\n", "class A:", "\n# what g is\ndef g(x):\n    return x\n"),
        ("def f():\n    ", "# todo", "\n\nx = 1\n"),
        ('def f():\n    """Do."""\n    ', "if x:\n        # todo\n        #", ""),
        ("class A:\n    ", "# todo", "\n\nx = 1\n"),
        ("class A:\n    def f(self):\n        ", "# todo", "\n\n    def g(self): pass\n"),
        ("def f(x):\n    if x:\n        ", "# todo", "\n    return x\n"),
        ("x = = 1\n\n\ndef f(x):\n    ", "if x:", "\n    return x\n"),  # broken elsewhere
        ("try:\n    x\n", "finally:", "\n\ny = 1\n"),  # as many errors as without it
        ("try:\n    x\n", "except A:", "\n"),
        ("for x in y:\n    x\n", "else:", "\nz = 1\n"),
    ],
)
def test_a_body_may_follow(prefix: str, middle: str, suffix: str) -> None:
    """The user may type it, unless the middle must be complete."""
    found = judge(prefix, middle, suffix)
    assert found.sound
    assert found.unfinished
    assert not found.clean
    assert not judge(prefix, middle, suffix, complete=True).sound
    assert judge(prefix, f"{middle}\n{' ' * 12}pass", suffix, complete=True).clean or "#" in middle


@pytest.mark.parametrize(
    ("prefix", "middle", "suffix"),
    [
        ("def f(x):\n    ", "if x:", "\n        return x\n"),
        ("def f(x):\n    return x\n\n", "# what y is", "\ny = 1\n"),
        ("def f(x):\n    return x\n    ", "# todo", "\n\ny = 1\n"),
        ("def f(x):\n    nonlocal x\n\n", "# rejected anyway", "\n\ny = 1\n"),
        ("x = {\n    ", "# a: b", "\n}\n"),
    ],
)
def test_middles_that_need_no_body_are_complete(prefix: str, middle: str, suffix: str) -> None:
    """Also a comment where no statement is missing."""
    assert judge(prefix, middle, suffix, complete=True).clean


def test_complete_is_what_python_compiles() -> None:
    """In a real file, complete middles on new lines are clean exactly where the file compiles."""
    text, chance = inspect.getsource(textwrap), random.Random(0)
    lines, asked = text.split("\n"), 0
    while asked < 60:
        row = chance.randrange(1, len(lines))
        depth = re.match(" *", lines[row])[0] if chance.random() < 0.7 else ""  # type: ignore[index]
        prefix = "\n".join([*lines[:row], depth])
        suffix = "\n".join(["", *lines[row:]])
        if not lines[row].strip() or not compiles(f"{prefix}pass{suffix}"):
            continue
        asked += 1
        for middle in ("if x:", "# c", f"def f(a):\n{depth}    # c", "class A:  # c", "return 1"):
            right = compiles(prefix + middle + suffix)
            assert judge(prefix, middle, suffix, complete=True).clean == right, (row, middle)


CONTINUED = "def f(price, tax):\n    total = (price *\ntax)\n    "


@pytest.mark.parametrize(
    ("prefix", "middle", "suffix", "clean"),
    [
        (CONTINUED, "return total", "\n\n\ndef g():\n    pass\n", True),
        (CONTINUED, "return (total", "\n\n\ndef g():\n    pass\n", False),
        (CONTINUED, "f(a=1, 2)", "\n\n\ndef g():\n    pass\n", False),
        ("def f():\n    x = (", "a and\nb)", "\n", True),
        ("def f():\n    x = (", "a and\nb", "\n", False),
        ("def f():\n    return ", "dx, *[None] * 2", "\n", True),
        ("for x in ", "1, *(a or b)", ":\n    pass\n", True),
        ("def f():\n    y = 1\n        ", "return x", "\n", False),  # an impossible column
        ("def f():\n    y = 1\n  ", "return x", "\n", False),
        ("def f():\n    y = 1\n    ", "return x", "\n", True),
        ("class A:\n    x = 1\n\n", "@a\n", "    def f(self): pass\n", False),
        ("x = 1\n", "@a\n", "def f(): pass\n", True),
        ("x = 1\n", "@a\n", "@b\ndef f(): pass\n", True),
    ],
)
def test_python_is_right_where_tree_sitter_is_not(
    prefix: str, middle: str, suffix: str, clean: bool
) -> None:
    """It has the last word on statements that it accepts, without the middle or with it."""
    assert judge(prefix, middle, suffix).clean == clean
    assert judge(prefix, middle, suffix, complete=True).clean == clean


@pytest.mark.parametrize("middle", ["await f()", "async for x in y:\n    z", "async with x: y"])
def test_a_cell_of_a_notebook_may_await(middle: str) -> None:
    """At its top, where a module may not; and an error is one in both."""
    assert judge("x = 1\n", middle, "\ny = 2\n", cell=True).clean
    assert not judge("x = 1\n", middle, "\ny = 2\n").clean
    assert not judge("x = 1\n", f"{middle} 1", "\ny = 2\n", cell=True).clean
    assert not judge("def f():\n    ", "await g()", "\n", cell=True).clean


INNER = "def f():\n    n = 0\n    def g(x):\n        nonlocal n\n        "


@pytest.mark.parametrize(
    ("middle", "clean"), [("n += 1", True), ("break", False), ("f(a=1, 2)", False)]
)
def test_nonlocal_names_belong_to_outer_functions(middle: str, clean: bool) -> None:
    """The outer function is compiled where the inner one alone would be rejected."""
    assert judge(INNER, middle, "\n    return g\n").clean == clean


def test_very_long_statements_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long table takes too long to compile; a function in a long class does not."""
    compiled = []

    def spy(text: str, *, cell: bool) -> bool:
        compiled.append(len(text))
        return compiles(text, cell=cell)

    monkeypatch.setattr("talaria.coder.syntax.judge.compiles", spy)
    rows = "".join(f"    'key{i}': [\n        {i},\n        'v',\n    ],\n" for i in range(2000))
    methods = "".join(f"    def f{i}(self):\n        return {i}\n\n" for i in range(2000))
    assert judge(f"x = {{\n{rows}\n    'a': ", "f(a=1, 2)", ",\n}\n").clean
    assert not compiled
    prefix, suffix = f"class A:\n{methods}", "\n\n    def h(self):\n        pass\n"
    assert not judge(f"{prefix}\n    def g(self):\n        ", "f(a=1, 2)", suffix).clean
    assert max(compiled) < 100


@pytest.mark.parametrize("patience", [0, 1, 2, 5, 20])
def test_judging_stops_when_time_is_over(patience: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is checked before every parse, also of large and broken texts.

    No parse reads much more than the excerpts of both sides.
    """
    parsed = 0

    class Counted:
        def __init__(self, language: Language) -> None:
            self.parser = Parser(language)

        def parse(self, data: bytes, old: Tree | None = None) -> Tree:
            nonlocal parsed
            parsed += 1
            assert parsed <= checked
            assert len(data) < 2.1 * REACH
            return self.parser.parse(data, old) if old else self.parser.parse(data)

    monkeypatch.setattr("talaria.coder.syntax.tree.Parser", Counted)
    for prefix, suffix in (
        ("(" * 50_000, "\n"),
        ("x = [" + "1, " * 10_000, "1 2, " * 10_000),
        ("def f():\n    return 1 2\n" * 10_000, "x = 1\n" * 40_000),
    ):
        checked = parsed = 0

        def out_of_time() -> bool:
            nonlocal checked
            checked += 1
            return checked > patience

        try:
            Surroundings(prefix, suffix, out_of_time=out_of_time).judge("1")
        except OutOfTimeError:
            assert checked == patience + 1
        assert parsed or not patience


def test_errors_are_found_in_the_middle() -> None:
    """They are offsets in its bytes, also behind an é; a clean middle has none."""
    around = Surroundings("x = 'é'\ny = f(", "\nz = 1\n")
    assert around.errors("'é')") == []
    ((start, end),) = around.errors("'é', 2 3)")
    assert "'é', 2 3)".encode()[start:end].strip() in (b"2 3", b"2", b"3")


@given(st.lists(st.sampled_from(["x", "(", ")", "\n", "    ", "é", ":", "def f():", "'"])))
def test_a_middle_is_parsed_as_part_of_the_whole_text(parts: list[str]) -> None:
    """The incremental parse counts the errors of a fresh one."""
    middle = "".join(parts)
    around = Surroundings("def é():\n    x = ", "\n    return x\n")
    fresh = count_errors("def é():\n    x = " + middle + "\n    return x\n")
    assert around.judge(middle).errors_after == fresh


@pytest.mark.parametrize("text", ["(" * 5000, "-" * 50_000 + "1", "+".join("1" * 50_000)])
def test_deep_texts_do_not_compile(text: str) -> None:
    """Nesting beyond the interpreter's limits is a verdict, not an exception."""
    assert not compiles(text)


def test_a_judged_text_is_never_run(capsys: pytest.CaptureFixture[str]) -> None:
    """It is compiled and no more."""
    assert judge("", "print('run')\nraise SystemExit", "\n").clean
    assert capsys.readouterr().out == ""


def test_future_imports_do_not_leak() -> None:
    """What the judge's module imports from __future__ does not apply to the text."""
    assert compiles("def f():\n    x: (yield) = 1\n")


def test_deep_trees_are_judged_quickly() -> None:
    """Finding the function around a middle does not cost a step for every node above it."""
    half = "name + " * 7000
    began = time.process_time()
    assert count_errors(f"x = {half}name + {half}1\n") == 0
    parsed = time.process_time()
    assert judge(f"x = {half}", "name", f" + {half}1\n").errors_after == 0
    # It takes a few parses; a busy machine slows them all down.
    assert time.process_time() - parsed < 40 * (parsed - began)


def test_importing_is_light() -> None:
    """Reading and judging a file imports neither torch nor numpy."""
    heavy = "{'torch', 'tokenizers', 'numpy'}"
    modules = "sys, talaria.coder.source, talaria.coder.syntax.judge"
    code = f"import {modules}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

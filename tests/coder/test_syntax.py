import _pydecimal
import argparse
import ast
import inspect
import io
import json.decoder
import random
import re
import subprocess
import sys
import textwrap
import time
import tokenize
import typing
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tree_sitter import Language, Parser, Tree

from talaria.coder import syntax
from talaria.coder.errors import SourceError
from talaria.coder.syntax import (
    REACH,
    Hurried,
    Surroundings,
    Trees,
    Verdict,
    compiles,
    count_errors,
    find_function,
    function_at,
    judge,
    standing_in,
)
from tests.pace import within


def marked(text: str, name: str) -> str:
    """Show the body that is found: `⟦` before it, behind its lead, and `⟧` after it."""
    body = find_function(text, name)
    return f"{text[: body.start]}{body.lead}⟦{text[body.start : body.end]}⟧{text[body.end :]}"


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("", 0),
        ("x = 1\n", 0),
        ("x = ", 1),
        ("def f(:\n    pass\n", 1),
        ("x = '𝒳' +\n", 1),
        ("x = [1, 2", 1),
        ("x = = 1\ny = = 2\n", 2),
    ],
)
def test_errors_are_counted(text: str, errors: int) -> None:
    """A whole text has no errors, a broken one has them, be they ERROR or MISSING nodes."""
    assert count_errors(text) == errors


@given(st.text())
def test_any_text_can_be_judged(text: str) -> None:
    """No text, be it with NUL, lone surrogates or deep brackets, makes the judge raise."""
    assert count_errors(text) >= 0
    assert judge(text, "", "").clean
    judge("x = (", text, ")\n")


def test_lone_surrogates_are_judged() -> None:
    """As any other letter, though no file with them compiles."""
    assert judge("x = '", "\ud800", "'\n") == Verdict(0, 0)
    assert not compiles("x = '\ud800'\n")


@pytest.mark.parametrize(
    ("prefix", "middle", "suffix", "clean"),
    [
        ("x = ", "1", "\n", True),
        ("x = ", "", "\n", True),  # nothing adds nothing
        ("x = f(", "a", "\n", False),  # what is open before the hole is to be closed in it
        ("x = f(", "a)", "\n", True),
        ("x = f(", "a", ")\n", True),
        ("x = f(", "a)", ")\n", False),
        ("if x", "", "\n    pass\n", True),
        ("if x", " > 1", "\n    pass\n", False),
        ("if x", " > 1:", "\n    pass\n", True),
        ("def f(x):\n    ", "if x:", "\n\n\ny = 1\n", True),  # its body is still to come
        ("def f(x):\n    ", "y = {x:", "\n\n\ny = 1\n", False),
        ("def f(n):\n", "    m = 0\n", "    return sum(n)\n", True),  # a line with its break
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
        ("def f():\n    nonlocal x\n    ", "return 1", "\n", True),  # refused as it is
        ("class A:\n    def f(self):\n        ", "return 1", "\n\n    x = 2\n", True),
        ("class A:\n    def f(self):\n        ", "f(a=1, 2)", "\n\n    x = 2\n", False),
        ("x = ", "'\\d'", "\n", True),  # only warned about
        ("x = ", "1 is 1", "\n", True),
    ],
)
def test_a_completion_answers_for_what_it_adds(
    prefix: str, middle: str, suffix: str, clean: bool
) -> None:
    """Errors around the hole are not held against it; what a plain filling mends, is."""
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
    ],
)
def test_a_body_may_be_still_to_come(prefix: str, middle: str, suffix: str) -> None:
    """While its user types on, but not in what must be complete."""
    assert judge(prefix, middle, suffix).clean
    assert not judge(prefix, middle, suffix, complete=True).clean
    assert judge(prefix, f"{middle}\n{' ' * 12}pass", suffix, complete=True).clean or "#" in middle


@pytest.mark.parametrize(
    ("prefix", "middle", "suffix"),
    [
        ("def f(x):\n    ", "if x:", "\n        return x\n"),
        ("def f(x):\n    return x\n\n", "# what y is", "\ny = 1\n"),
        ("def f(x):\n    return x\n    ", "# todo", "\n\ny = 1\n"),
        ("def f(x):\n    nonlocal x\n\n", "# refused as it is", "\n\ny = 1\n"),
        ("x = {\n    ", "# a: b", "\n}\n"),
    ],
)
def test_what_lacks_no_body_is_complete(prefix: str, middle: str, suffix: str) -> None:
    """A comment stands for no statement, and most need none."""
    assert judge(prefix, middle, suffix, complete=True).clean


def test_complete_is_what_python_takes() -> None:
    """On new lines of a real file, one that must be complete is taken just where Python does."""
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


INNER = "def f():\n    n = 0\n    def g(x):\n        nonlocal n\n        "


@pytest.mark.parametrize(
    ("middle", "clean"), [("n += 1", True), ("break", False), ("f(a=1, 2)", False)]
)
def test_inner_functions_bind_names_of_outer_ones(middle: str, clean: bool) -> None:
    """Python is asked about the outer one where the inner one alone would be refused."""
    assert judge(INNER, middle, "\n    return g\n").clean == clean


def test_python_is_asked_about_no_giants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling a long table takes its time; a function in a long class is still looked at."""
    asked = []

    def spy(text: str) -> bool:
        asked.append(len(text))
        return compiles(text)

    monkeypatch.setattr(syntax, "compiles", spy)
    rows = ROWS[: ROWS.index("    'key2000'")]
    methods = METHODS[: METHODS.index("    def f2000")]
    assert judge(f"x = {{\n{rows}\n    'a': ", "f(a=1, 2)", ",\n}\n").clean
    assert not asked
    prefix, suffix = f"class A:\n{methods}", "\n\n    def h(self):\n        pass\n"
    assert not judge(f"{prefix}\n    def g(self):\n        ", "f(a=1, 2)", suffix).clean
    assert max(asked) < 100


@pytest.mark.parametrize("patience", [0, 1, 2, 5, 20])
def test_who_is_in_a_hurry_waits_for_no_verdict(
    patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is asked for before every parse, be the text large, broken or both.

    And no parse is of much more than what counts of the two sides.
    """
    parsed = 0

    class Counted:
        def __init__(self, language: Language) -> None:
            self.parser = Parser(language)

        def parse(self, data: bytes, old: Tree | None = None) -> Tree:
            nonlocal parsed
            parsed += 1
            assert parsed <= asked
            assert len(data) < 2.1 * REACH
            return self.parser.parse(data, old) if old else self.parser.parse(data)

    monkeypatch.setattr(syntax, "Parser", Counted)
    for prefix, suffix in (
        ("(" * 50_000, "\n"),
        ("x = [" + "1, " * 10_000, "1 2, " * 10_000),
        ("def f():\n    return 1 2\n" * 10_000, "x = 1\n" * 40_000),
    ):
        asked = parsed = 0

        def hurried() -> bool:
            nonlocal asked
            asked += 1
            return asked > patience

        try:
            Surroundings(prefix, suffix, hurried=hurried).judge("1")
        except Hurried:
            assert asked == patience + 1
        assert parsed or not patience


BROKEN = ["def f(x)\n    pass\n\n\n", "x = = 1\n", "x = f(1\n\n\nimport a\n"]


@pytest.mark.parametrize(
    ("prefix", "right", "suffix"),
    [
        ("y = ", "1", "\n"),
        ("class A:\n    def f(self):\n        for x in y:\n            if x", ":", "\n    pass\n"),
        ("async def f():\n    while 1:\n        await ", "g()\n        continue", "\n"),
        ("def f():\n    yield ", "1", "\n"),
        ("try:\n    x = ", "1", "\nexcept A:\n    pass\n"),
        ("if x:\n    pass\nel", "if y:", "\n    pass\n"),
        ("f(\n    a=", "1,", "\n    b=2,\n)\n"),
        ("f(a,\n  b=", "1,", "\n  **c)\n"),
        ("x = a or \\\n    ", "b or \\", "\n    c\n"),
        ("def f():\n    x = '''\na\n'''\n    y = ", "1", "\n    return x\n"),
        ("def f():\n    a = 1\n", "    b = 2\n", "    return a\n"),
    ],
)
@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("above", [True, False], ids=["above", "below"])
def test_errors_elsewhere_excuse_nothing(
    prefix: str, right: str, suffix: str, broken: str, above: bool
) -> None:
    """The statement that a middle stands in must be right, and what is right there is taken."""
    before, after = (broken, "") if above else ("", f"\n\n{broken}")
    around = Surroundings(before + prefix, suffix + after)
    assert around.judge(right).clean
    for wrong in ("a::", "(", "a b", "1 2 3", "f(a=1, 2)"):
        assert not around.judge(wrong).clean, wrong


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize(
    ("prefix", "right", "suffix"),
    [
        ("class A:\n    a = 1\n\n", "    def f(self):\n", "        pass\n\n    x = 1\n"),
        ("class A:\n    a = 1\n  ", "  def f(self):", "\n        pass\n\n    x = 1\n"),
        ("if x:\n    if y:\n        pass\n    ", "else:", "\n        pass\n"),
        ("if x:\n    pass\nelif y:\n    ", "f()", "\nelse:\n    pass\n"),
    ],
)
def test_a_line_belongs_to_what_is_around_it(
    broken: str, prefix: str, right: str, suffix: str
) -> None:
    """Whatever is wrong elsewhere, a method, a branch or a block is not judged alone."""
    assert judge(broken + prefix, right, suffix).clean


@pytest.mark.parametrize("broken", BROKEN)
def test_any_words_fit_into_a_string(broken: str) -> None:
    """They are no statements, whatever is wrong elsewhere."""
    for after in ("", "\n\nthe end.\n"):
        prefix = f"{broken}def f():\n    '''Do\n    what"
        assert judge(prefix, " (it) is\n\nfor:", f"\n    {after}'''\n    return 1\n").clean


@pytest.mark.parametrize("module", [json.decoder, textwrap])
def test_what_stood_there_is_right_with_errors_elsewhere_too(module: ModuleType) -> None:
    """In real files, but for the odd end of a string; what is wrong is hardly ever taken."""
    text, chance = inspect.getsource(module), random.Random(0)
    starts = [0, *(found.start() for found in re.finditer(r"^(?=def |class )", text, re.M))]
    refused, taken, asked = [], [], 0
    for _ in range(40):
        start = chance.randrange(len(text))
        end = text.index("\n", start)
        place = chance.choice(starts)
        broken = chance.choice(BROKEN)
        before, truth, after = text[:start], text[start:end], text[end:]
        if place <= start:
            around = Surroundings(text[:place] + broken + text[place:start], after)
        else:
            around = Surroundings(before, text[end:place] + broken + text[place:])
        if not truth or not judge(before, truth, after).clean:
            continue
        if not around.judge(truth).clean:
            refused.append(truth)
        for wrong in (f"{truth} 1 2", f"({truth}", f"{truth})"):
            if not judge(before, wrong, after).clean:
                asked += 1
                if around.judge(wrong).clean:
                    taken.append(wrong)
    assert len(refused) <= 1, refused
    assert asked > 40
    assert len(taken) <= asked / 10, taken


def test_errors_elsewhere_cost_no_time() -> None:
    """A middle is judged in a broken file in less time than it takes to parse the file."""
    text = inspect.getsource(argparse)
    began = time.process_time()
    count_errors(text)
    parsed = time.process_time() - began
    around = Surroundings(f"{text}x = = 1\ny = ", f"\n{text}")
    began = time.process_time()
    assert around.judge("1").clean
    assert not around.judge("1 2").clean
    # Any plain filling of the whole would take a tenth of a parse.
    assert time.process_time() - began < 3 * parsed


def test_errors_before_are_those_that_no_plain_filling_mends() -> None:
    """An open hole is an error that the middle is there to mend."""
    assert judge("x = ", "1", "\n") == Verdict(0, 0)
    assert judge("x = ", "+", "\n") == Verdict(0, 1)
    assert judge("def f(x)\n    pass\n\ny = ", "+", "\n").errors_before == 1


def test_errors_are_found_in_the_middle() -> None:
    """In its bytes, also behind letters of several; none where it is clean."""
    around = Surroundings("x = 'é'\ny = f(", "\nz = 1\n")
    assert around.errors("'é')") == []
    ((start, end),) = around.errors("'é', 2 3)")
    assert "'é', 2 3)".encode()[start:end].strip() in (b"2 3", b"2", b"3")


@given(st.lists(st.sampled_from(["x", "(", ")", "\n", "    ", "é", ":", "def f():", "'"])))
def test_parsing_into_the_surroundings_is_parsing_anew(parts: list[str]) -> None:
    """The incremental tree is that of the whole text."""
    middle = "".join(parts)
    around = Surroundings("def é():\n    x = ", "\n    return x\n")
    fresh = count_errors("def é():\n    x = " + middle + "\n    return x\n")
    assert around.judge(middle).errors_after == fresh


@pytest.mark.parametrize("text", ["(" * 5000, "-" * 50_000 + "1", "+".join("1" * 50_000)])
def test_deep_texts_do_not_compile(text: str) -> None:
    """Nesting beyond what the interpreter takes is a verdict, not an exception."""
    assert not compiles(text)


def test_a_judged_text_is_never_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The completion is compiled and no more."""
    assert judge("", "print('run')\nraise SystemExit", "\n").clean
    assert capsys.readouterr().out == ""


def test_future_imports_of_the_judge_do_not_leak() -> None:
    """A text compiles as itself, whatever this package's modules import from __future__."""
    assert compiles("def f():\n    x: (yield) = 1\n")


BODIES = {
    "plain": ("def f(x):\n    return x\n", "f", "def f(x):\n    ⟦return x⟧\n"),
    "no final newline": ("def f(x):\n    return x", "f", "def f(x):\n    ⟦return x⟧"),
    "one line": ("def f(x): return x\n", "f", "def f(x): ⟦return x⟧\n"),
    "one line, two statements": (
        "def f(x): x += 1; return x;\n",
        "f",
        "def f(x): ⟦x += 1; return x;⟧\n",
    ),
    "ellipsis": ("def f(x): ...\n", "f", "def f(x): ⟦...⟧\n"),
    "docstring stays": (
        'def f(x):\n    """Do."""\n\n    y = x\n    return y\n\n\nz = 1\n',
        "f",
        'def f(x):\n    """Do."""\n\n    ⟦y = x\n    return y⟧\n\n\nz = 1\n',
    ),
    "only a docstring": (
        'def f(x):\n    """Do."""\n\n\nz = 1\n',
        "f",
        'def f(x):\n    """Do."""\n    ⟦⟧\n\n\nz = 1\n',
    ),
    "docstring and comments": (
        'def f(x):\n    """Do."""  # noqa\n    # sort first\n\nz = 1\n',
        "f",
        'def f(x):\n    """Do."""  # noqa\n    # sort first\n    ⟦⟧\n\nz = 1\n',
    ),
    "docstring on the line": ("def f(x): 'do'  # c\n", "f", "def f(x): 'do'; ⟦⟧  # c\n"),
    "joined docstring": (
        "def f():\n    'a' r'b'\n    g()\n",
        "f",
        "def f():\n    'a' r'b'\n    ⟦g()⟧\n",
    ),
    "bytes document nothing": (
        "def f():\n    b'a'\n    g()\n",
        "f",
        "def f():\n    ⟦b'a'\n    g()⟧\n",
    ),
    "f-strings document nothing": (
        "def f():\n    'a' f'{b}'\n    g()\n",
        "f",
        "def f():\n    ⟦'a' f'{b}'\n    g()⟧\n",
    ),
    "nothing yet": ("def f(x):", "f", "def f(x):\n    ⟦⟧"),
    "nothing yet before another": (
        "class A:\n    def f(self):\n        # todo\n    def g(self): pass\n",
        "A.f",
        "class A:\n    def f(self):\n        # todo\n        ⟦⟧\n    def g(self): pass\n",
    ),
    "nothing yet, with tabs": (
        "class A:\n\tdef f(self):\n",
        "A.f",
        "class A:\n\tdef f(self):\n\t\t⟦⟧\n",
    ),
    "comments": (
        "def f():  # a\n    # b\n    g()  # c\n    # d\n# e\n",
        "f",
        "def f():  # a\n    # b\n    ⟦g()  # c\n    # d⟧\n# e\n",
    ),
    "method": (
        "class A:\n    def f(self):\n        return 1\n\n    def g(self):\n        return 2\n",
        "A.g",
        "class A:\n    def f(self):\n        return 1\n\n    def g(self):\n        ⟦return 2⟧\n",
    ),
    "method of an inner class": (
        "class A:\n    class B:\n        if x:\n            def f(self): pass\n",
        "A.B.f",
        "class A:\n    class B:\n        if x:\n            def f(self): ⟦pass⟧\n",
    ),
    "nested": (
        "def f():\n    def g():\n        return 1\n    return g\n",
        "f.g",
        "def f():\n    def g():\n        ⟦return 1⟧\n    return g\n",
    ),
    "async": ("async def f():\n    await g()\n", "f", "async def f():\n    ⟦await g()⟧\n"),
    "decorated": (
        "@a\n@b(lambda: 1)\ndef f(\n    x: int = 1,\n) -> dict[str, int]:\n    return {}\n",
        "f",
        "@a\n@b(lambda: 1)\ndef f(\n    x: int = 1,\n) -> dict[str, int]:\n    ⟦return {}⟧\n",
    ),
    "begins with a decorator": (
        "def f():\n    @a\n    def g(): pass\n    return g\n",
        "f",
        "def f():\n    ⟦@a\n    def g(): pass\n    return g⟧\n",
    ),
    "match": (
        "def f(x):\n    match x:\n        case 1:\n            return 2\n        case _: pass\n",
        "f",
        "def f(x):\n    ⟦match x:\n        case 1:\n            return 2\n        case _: pass⟧\n",
    ),
    "tabs": ("def f(x):\n\tif x:\n\t\tg()\n", "f", "def f(x):\n\t⟦if x:\n\t\tg()⟧\n"),
    "Windows lines": (
        "def f():\r\n    'd'\r\n    g()\r\nx\r\n",
        "f",
        "def f():\r\n    'd'\r\n    ⟦g()⟧\r\nx\r\n",
    ),
    "astral": (
        "s = '𝒳𝒴'\n\ndef ñ(): return '𝒵'  # 𝒳\n",
        "ñ",
        "s = '𝒳𝒴'\n\ndef ñ(): ⟦return '𝒵'  # 𝒳⟧\n",
    ),
    "overloads": (
        "@overload\ndef f(x: int): ...\n@t.overload\n@z\ndef f(x: str): ...\ndef f(x): x\n",
        "f",
        "@overload\ndef f(x: int): ...\n@t.overload\n@z\ndef f(x: str): ...\ndef f(x): ⟦x⟧\n",
    ),
    "duplicates": ("def f(): a\ndef f(): b\n", "f", "def f(): ⟦a⟧\ndef f(): b\n"),
    "stubs only": ("@overload\ndef f(): ...\n", "f", "@overload\ndef f(): ⟦...⟧\n"),
    "broken elsewhere": (
        "x = = 2\ndef f():\n    return 1\n",
        "f",
        "x = = 2\ndef f():\n    ⟦return 1⟧\n",
    ),
    "broken inside": (
        "class A:\n    def f(self):\n        if x\n            g()\n    def g(self): pass\n",
        "A.f",
        "class A:\n    def f(self):\n        ⟦if x\n            g()⟧\n    def g(self): pass\n",
    ),
    "broken and swallowing": (
        "def f(x):\n    return (1,\n\ndef g(y):\n    return 2\n",
        "f",
        "def f(x):\n    ⟦return (1,⟧\n\ndef g(y):\n    return 2\n",
    ),
    "broken, with a string further left": (
        "def f():\n    s = '''\na\n'''\n    h(\n)\n    return s +\n\nx = 1\n",
        "f",
        "def f():\n    ⟦s = '''\na\n'''\n    h(\n)\n    return s +⟧\n\nx = 1\n",
    ),
}


@pytest.mark.parametrize(("text", "name", "expected"), BODIES.values(), ids=BODIES)
def test_bodies_are_found(text: str, name: str, expected: str) -> None:
    """The body begins behind the header, docstring and comments, and ends with its last line."""
    assert marked(text, name) == expected


@pytest.mark.parametrize(
    ("text", "indentation"),
    [
        ("def f():\n  return 1\n", "  "),
        ("class f:\n\tdef f(): return 1\n", "\t\t"),
        ("def f(): return 1\n", "    "),
        ("def f():\n   'd'; g()\n", "   "),
        ("if x:\n  def f(): 'd'\n", "      "),
    ],
)
def test_further_lines_know_their_indentation(text: str, indentation: str) -> None:
    """Indentation is the body's own or, on the line of the header, one step deeper."""
    name = "f.f" if text.startswith("class") else "f"
    assert find_function(text, name).indentation == indentation


def test_a_lead_makes_room_for_a_body() -> None:
    """With its lead before it, a body put into a function without one compiles."""
    for text in ('def f():\n    """Do."""', "def f():  # now", "def f(): 'do'  # c\nx = 1\n"):
        body = find_function(text, "f")
        assert compiles(text[: body.start] + body.lead + "return 1" + text[body.end :])


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            "x = 1\n",
            "f",
            "no function 'f': the file has no functions; give a position, FILE:LINE:COL",
        ),
        (
            "def alpha(): pass\ndef alpha2(): pass\n",
            "alphas",
            "no function 'alphas': the file has 2 functions; close matches: alpha, alpha2",
        ),
        (
            "class A:\n    def run(self): pass\n",
            "run",
            "no function 'run': the file has 1 function; close matches: A.run",
        ),
        (
            "class A:\n    def run(self): pass\n",
            "A",
            "no function 'A': the file has 1 function; close matches: A.run",
        ),
        (
            "def f(): pass\n",
            "other",
            "no function 'other': the file has 1 function; give NAME, Class.method or outer.inner",
        ),
        (
            "def f(): pass\ndef g(x)\n    pass\n",
            "f2",
            "no function 'f2': the file has 1 function; close matches: f; "
            "its syntax errors may hide some",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_close_ones(text: str, name: str, message: str) -> None:
    """The message names the function, counts those there are and offers similar names."""
    with pytest.raises(SourceError) as caught:
        find_function(text, name)
    assert str(caught.value) == message


def test_at_most_five_close_matches_are_named() -> None:
    """A file of look-alikes does not fill the screen."""
    text = "".join(f"def name{i}(): pass\n" for i in range(20))
    with pytest.raises(SourceError, match=r"20 functions; close matches: (name\d+, ){4}name\d+$"):
        find_function(text, "name")


PIECES = ["", "a", "\n", "    ", "(", ")", ":", '"', "def f", "= ", "#", "é", "if x:\n"]
MODULE = '''import os


class Stack:
    """Holds things."""

    def push(self, item):
        self.items = [*self.items, (item, {1: 2})]
        for one in self.items:
            if not one:
                return "nothing"
        return f"{item}"


def main():
    stack = Stack()
    stack.push(os.getcwd())
'''
IDENTIFIERS = st.sampled_from(["a", "ñ", "b2", "_"])
STATEMENTS = st.sampled_from(
    [
        "pass",
        "x = '𝒳'",
        "return {\n    1: 2,\n}",
        "if x:\n    y()\nelse:\n    z()",
        "try: a\nfinally: b",
    ]
)


@given(
    st.text("𝒳é# \n").map(lambda text: f'"""{text}"""\n'),
    st.lists(IDENTIFIERS, min_size=1, max_size=4),
    st.lists(STATEMENTS, min_size=1, max_size=4),
    st.booleans(),
)
def test_what_is_put_in_is_found(
    before: str, names: list[str], statements: list[str], documented: bool
) -> None:
    """Of any function at any depth, exactly the statements are found, at character offsets."""
    depth = "    " * len(names)
    statement = textwrap.indent("\n".join(statements), depth).removeprefix(depth)
    text = before
    for level, name in enumerate(names[:-1]):
        text += "    " * level + f"class {name}:\n"
    text += depth[4:] + f"def {names[-1]}():\n{depth}" + (f'"""𝒟."""\n{depth}' * documented)
    body = find_function(text + statement + "\n\nx = 1\n", ".".join(names))
    assert (body.start, body.end) == (len(text), len(text + statement))
    assert (body.indentation, body.lead) == (depth, "")


@pytest.mark.parametrize("module", [ast, inspect, json.decoder, textwrap])
def test_bodies_agree_with_python(module: ModuleType) -> None:
    """In real files, tree-sitter and `ast` see the same functions with the same bodies."""
    text = inspect.getsource(module)
    lines = text.splitlines(keepends=True)
    found: dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]] = {}

    def walk(node: ast.AST, outer: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = outer
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{outer}.{child.name}".lstrip(".")
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(name, []).append(child)
            walk(child, name)

    walk(ast.parse(text), "")
    unique = [(name, nodes[0]) for name, nodes in found.items() if len(nodes) == 1]
    for name, node in unique[:40]:
        body = find_function(text, name)
        documented = ast.get_docstring(node) is not None
        statements = node.body[documented:]
        assert bool(body.lead) == (not statements)
        if statements:
            first, last = statements[0], statements[-1]
            assert "".join(lines[: first.lineno - 1]) + body.indentation == text[: body.start]
            assert last.end_lineno is not None
            rest = text[len("".join(lines[: last.end_lineno])) : body.end]
            assert all(
                line.strip().startswith("#") or not line.strip() for line in rest.split("\n")
            )


@given(
    edits=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 12), st.sampled_from(PIECES)), max_size=12
    )
)
def test_a_text_edited_is_parsed_as_if_it_were_new(edits: list[tuple[int, int, str]]) -> None:
    """Its errors are counted alike, however many edits it went through."""
    text, trees = MODULE, Trees()
    for at, less, more in edits:
        text = text[:at] + more + text[at + less :]
        root = trees.parse(text.encode()).root_node
        new = Trees().parse(text.encode()).root_node
        assert str(root) == str(new)
    assert len(trees.kept) <= 1 + len(edits)


def test_trees_are_bounded_and_one_document_has_one() -> None:
    """A text that goes on takes its own place; what was used last stays, however long it is."""
    trees = Trees(100)
    one, two = b"x = 1\n" * 6, b"def f():\n    return [2]\n"
    for text in (one, two, one + b"y = 2\n"):
        trees.parse(text)
    assert [text for text, _ in trees.kept] == [two, one + b"y = 2\n"]
    trees.parse(b"z = 3\n" * 50)
    assert [len(text) for text, _ in trees.kept] == [300]


@pytest.mark.parametrize("module", [_pydecimal, argparse, typing])
def test_a_part_of_a_large_text_judges_as_the_whole(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real files, wherever the hole is: what belongs there, and what does not."""
    text, chance = inspect.getsource(module), random.Random(0)
    for _ in range(12):
        start = chance.randrange(25_000, len(text) - 25_000)
        end = text.index("\n", start)
        for middle in (text[start:end], text[start:end] + "(", "f(a=1, 2)", "x = = 1"):
            verdicts = []
            for reach in (len(text), 20_000):
                monkeypatch.setattr(syntax, "REACH", reach)
                around = Surroundings(text[:start], text[end:])
                verdicts.append(around.judge(middle).clean)
                if len(around.prefix) + len(around.suffix) > 2 * reach + 100:
                    pytest.fail("more was parsed than should have been")
            assert verdicts[0] == verdicts[1], (start, middle)


ROWS = "".join(f"    'key{i}': [\n        {i},\n        'v',\n    ],\n" for i in range(6000))
METHODS = "".join(f"    def f{i}(self):\n        return {i}\n\n" for i in range(6000))
NUMBERS = ", ".join(map(str, range(40_000)))
PROSE = "No code, but it's (prose.\nIf it is long\n" * 5000


@pytest.mark.parametrize(
    ("prefix", "suffix", "right", "wrong"),
    [
        (f"x = {{\n{ROWS}    'a': ", f",\n{ROWS}}}\n", "[1]", "[1"),
        (
            f"class A:\n{METHODS}    def g(self):\n        return ",
            f"\n\n{METHODS}",
            "1",
            "f(a=1, 2)",
        ),
        (f"x = [{NUMBERS}, ", f", {NUMBERS}]\n", "1", "1]"),
        (f'"""{PROSE}"""\nx = ', f'\n"""{PROSE}"""\n', "1", "(1"),
        (f'x = 1\n"""\n{PROSE}', f'\n{PROSE}"""\n', "", '"""'),
    ],
    ids=["table", "class", "line", "behind a text", "inside a text"],
)
def test_where_a_large_text_has_no_statements_in_reach(
    prefix: str, suffix: str, right: str, wrong: str
) -> None:
    """A part of a table, a class or a line is judged by what it stands in."""
    around = Surroundings(prefix, suffix)
    assert len(around.prefix) + len(around.suffix) < 250_000
    assert around.judge(right).clean
    assert not around.judge(wrong).clean


def test_deep_trees_are_judged_at_once() -> None:
    """Looking for the function around the middle takes no step for each node above it."""
    half = "name + " * 7000
    began = time.process_time()
    assert count_errors(f"x = {half}name + {half}1\n") == 0
    parsed = time.process_time()
    assert judge(f"x = {half}", "name", f" + {half}1\n").errors_after == 0
    # A few parses and no more; a busy machine slows down all of them.
    assert time.process_time() - parsed < 40 * (parsed - began)


def test_importing_is_quick() -> None:
    """The path from keystroke to grey text loads no machinery for the sake of syntax."""
    heavy = "{'torch', 'tokenizers', 'numpy'}"
    modules = "sys, talaria.coder.source, talaria.coder.syntax"
    code = f"import {modules}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("prefix", "middle", "suffix"),
    [
        ("f(\n    discrete", "=", "\n    other=1,\n)\n"),
        ("from ", "pandas", "\nimport os\n"),
        ("x = {\n    '306'", ': "', "\n    307: 1,\n}\n"),
        ("def f(\n    *", "args", "\n    other=1,\n):\n    pass\n"),
        ("class A:\n    def f", "(", "\n        return 1\n"),
        ("x.extend", "(", "\n    (1, 2),\n    (3, 4),\n])\n"),
        ("from os ", "s", "\nfrom sys import (\n    path,\n)\n"),
        ("from os", ".path", "\n    sep,\n)\n"),
        ("def ", "test", "\n    return 1\n"),
        ("x = f(1, [2 ", "%", "\ny = 3\n"),
    ],
)
def test_a_middle_answers_for_what_a_likely_rest_would_mend(
    prefix: str, middle: str, suffix: str
) -> None:
    """Also where it takes more than a name: an argument, a branch, lacking brackets."""
    assert not judge(prefix, middle, suffix).clean


STANDINGS = {
    "code": [
        *("|", "x = |", "x = 'a'|", "f(''|)", "# it's\n|", '"""Doc"""\nx|', "f'{x|}'", "'#'|"),
        *('f"{d["a"]|}"', 'f"{", ".join(x|)}"', "f'{ {1: 2}|}'", 'rf"{x|"', 'f"""{x}\n{y|}"""'),
        *("x = 'a\ny|", "x = f'{a\ny|", 'x = f"{d["a\ny|', 'f"\\{x|', 'f"{x}" + y|', "f|''"),
        *("f'{x:>{w|}}'", "f'{x:{w}}' + y|"),
    ],
    "string": [
        *("x = '|", "x = 'a|'", "'it\\'s|'", '"""|"""', '"""Doc.\n\nIt\'s|\n"""', "f'|{x}'"),
        *("f'{{x|}}'", "f'{x:|>3}'", "f'{x:>{w}|}'", "f'{x!r:|}'", "b'{x|'", "'a\\\n|'"),
        *('""|"', "f'''{x}\n|", "f'{x:\"|", "x = 'a\ny = '|'", "{'#': 'a|'}", 'f"{d["a|'),
        *("f'{x}|'", "x = 'it''s|'"),
    ],
    "comment": ["#|", "x  # it's|\n", "f('#', # |", 'f"""{x  # |', "'a'  # 'b'|\n"],
}


@pytest.mark.parametrize(
    ("standing", "marked"), [(name, text) for name, texts in STANDINGS.items() for text in texts]
)
def test_what_a_cursor_stands_in(standing: str, marked: str) -> None:
    """Also in a text that is being written; the fields of formatted strings are code."""
    prefix, suffix = marked.split("|")
    assert standing_in(prefix, suffix) == standing
    # Whatever was read before does not matter, be it long or broken in its own lines.
    if not prefix.startswith("f"):
        assert standing_in("x = 'a\nf'{b\n# it's\n" + prefix, suffix) == standing
        assert (
            standing_in("def f(x):\n    return f'{x}'\n\n\n" * 20_000 + prefix, suffix) == standing
        )


@pytest.mark.parametrize("module", [ast, inspect, json.decoder, typing])
def test_standing_agrees_with_python(module: ModuleType) -> None:
    """In real files, the strings and comments are those of Python's own tokenizer."""
    text, chance = inspect.getsource(module), random.Random(0)
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    kinds = {tokenize.STRING: "string", tokenize.COMMENT: "comment", tokenize.NAME: "code"}
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type in kinds and token.string[0] not in "fF"
    ]
    for token in chance.sample(tokens, 150):
        start, end = (lines[row - 1] + column for row, column in (token.start, token.end))
        inside = end - (token.type == tokenize.STRING)
        assert standing_in(text[:start], text[start:]) == "code"
        assert standing_in(text[:inside], text[inside:]) == kinds[token.type]


@given(st.text("ab{}()[]:'\"#\\\n fr", max_size=60), st.text("'\")}", max_size=3))
def test_any_cursor_stands_in_something(prefix: str, suffix: str) -> None:
    """No text is too broken, and no comment goes on in the next line."""
    assert standing_in(prefix, suffix) in ("code", "string", "comment")
    assert standing_in(prefix + "\n", suffix) != "comment"


def test_where_a_cursor_stands_is_known_at_once() -> None:
    """Much sooner than a parse would tell, also where strings nest without end."""
    for text in ("f(f'{x} {y:>3}', 'z')  # it's\n" * 5000, "f'''{" + "(" * 200_000, "f'{" * 50_000):
        with within(0.2):
            standing_in(text, "")


WHERE = '''import os

@dec
def f(a):
    """doc"""
    #

class A:
    def g(self):
        def h():
            return 1
        return h

    async def k(self): pass

x = 1
'''.replace("#", "")


@pytest.mark.parametrize(
    ("mark", "name", "body"),
    [
        ("@dec", "f", ""),
        ("def f", "f", ""),
        ('doc"""\n    ', "f", ""),
        ("\nclass", None, None),
        ("self", "A.g", "def h():\n            return 1\n        return h"),
        ("return 1", "A.g.h", "return 1"),
        ("return h", "A.g", "def h():\n            return 1\n        return h"),
        ("k(self", "A.k", "pass"),
        ("x =", None, None),
    ],
)
def test_the_function_around_a_cursor(mark: str, name: str | None, body: str | None) -> None:
    """The innermost one; a blank line of its own behind its last one belongs to it."""
    found = function_at(WHERE, WHERE.index(mark) + len(mark))
    assert (found.name if found else None) == name
    assert (WHERE[found.start : found.end] if found else None) == body

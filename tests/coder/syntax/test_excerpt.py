"""Long files are judged by an excerpt, broken ones by the statement around the hole."""

from __future__ import annotations

import _pydecimal
import argparse
import inspect
import json.decoder
import random
import re
import textwrap
import time
import typing
from types import ModuleType

import pytest

from talaria.coder.syntax.judge import Surroundings, judge
from talaria.coder.syntax.tree import count_errors

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
    """A middle is clean exactly if the statement around it is."""
    before, after = (broken, "") if above else ("", f"\n\n{broken}")
    around = Surroundings(before + prefix, suffix + after)
    assert around.judge(right).sound
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
def test_a_statement_includes_what_its_line_belongs_to(
    broken: str, prefix: str, right: str, suffix: str
) -> None:
    """A method, a branch or a block is judged with its class or statement."""
    assert judge(broken + prefix, right, suffix).clean


@pytest.mark.parametrize("broken", BROKEN)
def test_any_text_is_clean_in_a_string(broken: str) -> None:
    """It is not taken for statements, whatever is wrong elsewhere."""
    for after in ("", "\n\nthe end.\n"):
        prefix = f"{broken}def f():\n    '''Do\n    what"
        assert judge(prefix, " (it) is\n\nfor:", f"\n    {after}'''\n    return 1\n").clean


@pytest.mark.parametrize("module", [json.decoder, textwrap])
def test_errors_elsewhere_hardly_change_a_verdict(module: ModuleType) -> None:
    """In real files, what stood there is clean, and what adds an error is hardly ever accepted."""
    text, chance = inspect.getsource(module), random.Random(0)
    starts = [0, *(found.start() for found in re.finditer(r"^(?=def |class )", text, re.M))]
    refused, accepted, tried = [], [], 0
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
                tried += 1
                if around.judge(wrong).clean:
                    accepted.append(wrong)
    assert len(refused) <= 1, refused  # the end of a string
    assert tried > 40
    assert len(accepted) <= tried / 10, accepted


def test_errors_elsewhere_cost_little_time() -> None:
    """Judging in a broken file takes no longer than a few parses of it."""
    text = inspect.getsource(argparse)
    began = time.process_time()
    count_errors(text)
    parsed = time.process_time() - began
    around = Surroundings(f"{text}x = = 1\ny = ", f"\n{text}")
    began = time.process_time()
    assert around.judge("1").clean
    assert not around.judge("1 2").clean
    # Each plain filling of the whole file would take a tenth of a parse.
    assert time.process_time() - began < 3 * parsed


@pytest.mark.parametrize("module", [_pydecimal, argparse, typing])
def test_an_excerpt_gives_the_verdict_of_the_whole_file(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real files, wherever the hole is, for what stood there and for errors."""
    text, chance = inspect.getsource(module), random.Random(0)
    for _ in range(12):
        start = chance.randrange(25_000, len(text) - 25_000)
        end = text.index("\n", start)
        for middle in (text[start:end], text[start:end] + "(", "f(a=1, 2)", "x = = 1"):
            verdicts = []
            for reach in (len(text), 20_000):
                monkeypatch.setattr("talaria.coder.syntax.excerpt.REACH", reach)
                around = Surroundings(text[:start], text[end:])
                verdicts.append(around.judge(middle).clean)
                if len(around.prefix) + len(around.suffix) > 2 * reach + 100:
                    pytest.fail("more than the excerpts was parsed")
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
    ids=["table", "class", "line", "below a string", "inside a string"],
)
def test_an_excerpt_may_have_no_statement_of_its_own(
    prefix: str, suffix: str, right: str, wrong: str
) -> None:
    """Inside a table, a class, a line or a string, it is judged in a frame."""
    around = Surroundings(prefix, suffix)
    assert len(around.prefix) + len(around.suffix) < 250_000
    assert around.judge(right).sound
    assert not around.judge(wrong).clean

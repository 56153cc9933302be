"""What may be written into a file, and why not."""

from __future__ import annotations

import pytest

from talaria.coder import guard
from talaria.coder.guard import NO_TIME, Guard, moves, shorten, withheld
from talaria.coder.request import Options, Request, Until
from talaria.coder.syntax.judge import Surroundings, Verdict, judge
from talaria.coder.syntax.python import compiles

FILE = ("def f(x):\n    ", "return x", "\n\n\nprint(f(1))\n")


def refusal(asked: Request, text: str, verdict: Verdict | None = None) -> str | None:
    """The guard's answer to one text."""
    return Guard(asked).refusal(text, verdict)


def request(until: Until | None = None, broken: bool = False) -> Request:
    """A function whose body is asked for, in a file that compiles or does not."""
    prefix, replaces, suffix = FILE
    suffix += "y = = 1\n" * broken
    return Request(prefix, suffix, Options(until=until, complete=True), replaces=replaces)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("return 2 * x", None),
        ("if x:\n        return 1\n    return 2", None),
        ("", "the model has nothing to offer"),
        ("return (x", "adds a syntax error ('return (x')"),
        ('return """', "adds a syntax error"),
        ("if x:", "adds a syntax error ('if x:')"),  # the body is missing
        ("return x\n    # more: " + "x" * 60 + "\n    (", "...')"),
        ("nonlocal x", "adds a syntax error ('nonlocal x')"),
    ],
)
def test_a_middle_is_refused_with_its_reason(text: str, reason: str | None) -> None:
    """Nothing, a syntax error, a block without its body, what Python alone refuses."""
    found = refusal(request(), text)
    assert (found is None) == (reason is None)
    assert reason is None or reason in (found or "")


@pytest.mark.parametrize(
    ("until", "text", "reason"),
    [
        ("line", "return x", None),
        ("line", "return x\n", None),  # blanks at its end do not count
        ("line", "x += 1\n    return x", "goes beyond its line ('x += 1\\n    return x')"),
        ("statement", "return (\n        x\n    )", None),
        ("statement", "x += 1\n    return x", "goes beyond its statement"),
        ("block", "x += 1\n    return x", None),
        ("block", "return x\n\n\ny = 2", "goes beyond its block"),
        ("block", "# Twice.\n    return 2 * x", None),
    ],
)
def test_a_middle_lies_within_its_bound(until: Until, text: str, reason: str | None) -> None:
    """Or is refused, however right it is."""
    found = refusal(request(until), text)
    assert (found is None) == (reason is None)
    assert reason is None or reason in (found or "")


def test_a_bound_may_be_where_the_hole_is() -> None:
    """Then nothing at all lies within it."""
    options = Options(until="block", complete=True)
    found = refusal(Request("def f():\n    x = 1", "\n", options), "\ny = 2")
    assert found == "what the model offers goes beyond its block ('\\ny = 2')"


def test_what_compiled_must_compile() -> None:
    """A file that did not compile before may be written to all the same."""
    said = refusal(request(), "nonlocal x", Verdict(0, 0))
    assert said == "Python would no longer take the file ('nonlocal x')"
    broken = Request(FILE[0], "\n    y = = 1\n", replaces="return x")
    assert refusal(broken, "nonlocal x", Verdict(0, 0)) is None
    # Where it is broken elsewhere, what is around the hole decides.
    elsewhere = Request(f"x = = 1\ny = 2\n{FILE[0]}", FILE[2], replaces="return x")
    assert refusal(elsewhere, "nonlocal x", Verdict(0, 0)) == said
    joined = Request(f"x = = 1\n\n\n{DATACLASS}", "x: int\n", replaces="")
    assert "something else" in (refusal(joined, "def f(self):", Verdict(0, 0)) or "")
    # What stands in the hole now belongs to the file as it is.
    hole = Request("def f(x):\n    ", "\n", Options(complete=True), replaces="return (")
    assert refusal(hole, "nonlocal x", Verdict(0, 0)) is None


def test_a_verdict_that_is_known_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is asked once; without, it is asked for a complete middle."""
    asked = []

    def spy(*texts: str, complete: bool, cell: bool) -> Verdict:
        asked.append((texts, complete, cell))
        return judge(*texts, complete=complete, cell=cell)

    monkeypatch.setattr(guard, "judge", spy)
    assert refusal(request(), "return 1", Verdict(0, 1)) is not None
    assert refusal(request(), "return 1", Verdict(0, 0)) is None
    assert asked == []
    assert refusal(request(), "return 1") is None
    assert asked == [((FILE[0], "return 1", FILE[2]), True, False)]


def test_of_a_long_file_what_is_around_the_hole_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The top-level statements there; if these are too long as well, the judge's word is enough."""
    asked: list[str] = []

    def spy(text: str, *, cell: bool) -> bool:
        asked.append(text)
        return compiles(text, cell=cell)

    monkeypatch.setattr(guard, "compiles", spy)
    monkeypatch.setattr(guard, "REACH", 1_000)
    prefix, replaces, suffix = FILE
    rows = "def g():\n    return 1\n\n\n" * 100
    asking = Request(rows + prefix, suffix + rows, replaces=replaces)
    said = refusal(asking, "nonlocal x", Verdict(0, 0))
    assert said == "Python would no longer take the file ('nonlocal x')"
    assert max(map(len, asked)) < 200
    table = Request("x = [\n" + "    (1, 2),\n" * 6_000, "]\n", replaces="")
    assert refusal(table, "    f(a=1, 2),\n", Verdict(0, 0)) is None


def test_nothing_is_executed() -> None:
    """Compiling is all that happens to a text."""
    assert refusal(Request("", "\n"), "raise SystemExit") is None


def test_a_long_text_is_shortened() -> None:
    """To what fits on a line."""
    assert shorten("x" * 60) == repr("x" * 60)
    assert shorten("x" * 61) == repr("x" * 57 + "...")
    assert "\n" not in shorten("x\n" * 99)


@pytest.mark.parametrize("text", ["#", "\n    # To do.\n    # Later.\n"])
def test_a_body_is_more_than_comments(text: str) -> None:
    """Where one is missing; elsewhere comments are as good as any other text."""
    headed = Request("def f(x):\n    'Say.'\n    ", "\n", Options(until="block"))
    assert "for a body has no code" in (refusal(headed, text) or "")
    among = Request("class A:\n    x: int\n    ", "\n    y: int\n", Options(until="block"))
    assert refusal(among, "# More.") is None
    replaced = Request("x = 1\n", "y = 2\n", Options(until="block"), replaces="# One.\n# Two.\n")
    assert refusal(replaced, "# Three.\n# Four.\n") is None


@pytest.mark.parametrize("text", ["", " ", "\n   \n"])
def test_blanks_are_nothing_to_write(text: str) -> None:
    """Not even where they would do no harm."""
    assert refusal(Request("x = 1\n", "y = 2\n"), text) == "the model has nothing to offer"


def test_a_file_is_compiled_once_before_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several candidates share what the file was; without time nothing is compiled."""
    asked: list[str] = []

    def compiles(text: str, *, cell: bool) -> bool:
        asked.append(text)
        return True

    monkeypatch.setattr(guard, "compiles", compiles)
    request = Request("x = ", "\n", replaces="0")
    careful = Guard(request)
    assert [careful.refusal(text, Verdict(0, 0)) for text in ("1", "2")] == [None, None]
    assert asked == ["x = 0\n", "x = 1\n", "x = 2\n"]
    assert Guard(request, lambda: True).refusal("3", Verdict(0, 0)) == NO_TIME
    assert len(asked) == 3


DATACLASS = "@dataclass\nclass A:\n    "


@pytest.mark.parametrize(
    ("prefix", "replaced", "text", "suffix", "moved"),
    [
        (DATACLASS, "", "def f(self):", "x: int\n    y: int\n", True),  # joined with a field
        (DATACLASS, "", "z: str\n    ", "x: int\n    y: int\n", False),
        ("", "", "y = ", "x\n", True),  # another kind of statement
        ("", "", "y = x\n", "x\n", False),
        ("", "", "@a\n", "def f():\n    pass\n", True),  # it would be decorated
        ("", "", "if a:\n    b\n", "def f():\n    pass\n", False),
        ("if a:\n    b\n", "", "elif c:\n    e\n", "else:\n    d\n", False),
        ("if a:\n    b\n", "", "elif c:\n    e\n", "    d\n", True),  # into another branch
        ("if a:\n    b\n", "", "c\n", "elif d:\n    e\n", True),
        ("for a in b:\n    c\n", "", "if d:\n    e\n", "else:\n    f\n", True),
        ("if a:\n    b\n    ", "", "if c:\n        d\n    ", "e\n", False),
        ("if a:\n    b\n    ", "", "if c:\n        ", "e\n", True),
        ("try:\n    a\n", "", "except B:\n    c\n", "finally:\n    d\n", False),
        ("try:\n    a\n", "", "except B:\n    c\n", "except D:\n    d\n", False),
        ("match a:\n    ", "", "case 1:\n        b\n    ", "case 2:\n        c\n", False),
        ("def f():\n    ", "", "x = 1\n    ", "'Say.'\n    return 1\n", True),  # a docstring
        ("def f():\n    ", "return 1", "x = 1\n    return x", "\n\n\nx = 2\n", False),
        ("def f():\n    ", "return 1", "return 1\n\n\nx = 3", "\n\n\nx = 2\n", False),
        ("x = f(", "", "y)  # ", "a)\n", True),  # code becomes a comment
        ("x = f(", "", "y, ", "a)\n", False),
        ("x = ", "1", "1  # ", "; y = 2\n", True),
        ("x = ", "", "1  # one", "\ny = 2\n", False),  # a comment with nothing to swallow
        ("x = 1\n", "", "# one", "\ny = 2\n", False),
        ("x = 1\n", "", "# one", "", False),
        ("# a ", "", "b\nx = 1", " \ny = 2\n", False),
        ("# a ", "", "b\nx = 1", "; c\n", True),
        ("def f():\n    ", "return 1", "return 2  # two", "\n\n\nx = 2\n", False),
        ("x = ", "1", "'é'", "; y = 2\n", False),
        ("if x: ", "", "y; ", "z\n", False),
    ],
)
def test_what_stands_behind_keeps_its_meaning(
    prefix: str, replaced: str, text: str, suffix: str, moved: bool
) -> None:
    """Every statement behind the hole stays of its kind and in its block, or nothing is written."""
    assert moves(prefix, replaced, text, suffix) == moved
    asking = Request(prefix, suffix, Options(complete=True), replaces=replaced)
    found = refusal(asking, text, Verdict(0, 0)) or ""
    assert ("would mean something else" in found or "no longer take" in found) == moved


@pytest.mark.parametrize(
    ("prefix", "text", "suffix", "why"),
    [
        ("def f():\n    y = 1\n        ", "return x", "\n", "no longer take"),  # impossible column
        ("def f():\n    y = 1\n    ", "return x", "\n", None),
        ("x = 1\n", "    y = 2", "\n", "no longer take"),
        ("result = ", "result = 2", "\n", "repeats"),
        ("result = ", "result + 2", "\n", None),
        ("x = total(", "total(y))", "\n", "repeats"),
        ("    print(", "print(value))", "\n", "repeats"),
        ("res", "result = 2", "\n", "repeats"),
        ("self.", "self.x = 1", "\n", "repeats"),
        ("if total(", "total(y)):", "\n    pass\n", "repeats"),
        ("x = [total(", "total(y))]", "\n", "repeats"),
        ("x = y + total(", "total(z))", "\n", "repeats"),
        ("assert total == ", "total == 1", "\n", "repeats"),
        ("f(total=", "total=1)", "\n", "repeats"),
        ("x: list[", "list[int]]", "\n", None),
        ("x = y.total(", "total(z))", "\n", None),  # one is an attribute
        ("a ", "and b", "\n", None),
        ("assert not ", "not_found", "\n", None),
        ("f(", "f(x))", "\n", None),  # too short to tell
        ("x = 'say(", "say(it)'", "\n", None),  # in a string
        ("import csv\nr = csv.Di", "ct", "\n", "DictReader"),
        ("import csv\nr = csv.Di", "ctReader", "\n", None),
        ("import csv\nr = csv.Di", "ct", "Reader\n", None),
        ("import csv\nr = csv.Di", "ct.x", "\n", None),
        ("import csv as c\nr = c.", "Dict", "\n", "DictReader"),
        ("from csv import ", "Dict", "\n", "DictReader"),
        ("from csv import DictReader, Di", "ct", "\n", "DictReader"),
        ("from csv import DictReader as Di", "ct", "\n", None),
        ("from csv import (\n    reader,\n    ", "Dict", "\n)\n", "DictReader"),
        ("from csv import (\n    reader as ", "Dict", "\n)\n", None),
        ("import os, csv\nr = csv.Di", "ct", "\n", "DictReader"),
        ("import csv as c, os  # tables\nr = c.Di", "ct", "\n", "DictReader"),
        ("import os\nx = os.path.ex", "ist", "\n", "exists"),
        ("from os import path\nx = path.ex", "ist", "\n", "exists"),
        ("from os import path as p, sep\nx = p.ex", "ist", "\n", "exists"),
        ("import os\nx = os.getc", "w", "\n", "getcwd"),
        ("import sys\nx = sys.get", "default", "\n", "getdefaultencoding"),
        ("from m import n\nn.abcdef(1)\nx = n.", "abc", "\n", None),  # it may be a class
        ("import xml.etree\nx = xml.etree.Element", "Tree", "\n", None),
        ("import np\nx = np.array(1)\ny = np.ar", "r", "\n", "array"),
        ("import np\nx = np.array(1)\ny = np.", "zeros", "\n", None),
        ("csv = 1\nr = csv.Di", "ct", "\n", None),
        # Names of the text, where a value stands.
        ("balance = 1\nx = ", "bal", "\n", "balance"),
        ("x = f(", "1 + bal", ")\n\n\ndef balance(): ...\n", "balance"),
        ("balance = 1\nf(1, ", "bal", ")\n", "balance"),
        ("balance = 1\nx = {1: ", "bal", "}\n", "balance"),
        ("balance = 1\nx, ", "bal", "\n", None),  # another name is given
        ("balance = 1\nx: ", "bal", "\n", None),
        ("def f(balance):\n    return ", "balan", "\n", "balance"),
        ("balance = bal = 1\nx = ", "bal", "\n", None),
        ("balance = 1\n", "bal = 2\nx = bal", "\n", None),
        ("balance = 1\n", "bal", "\n", None),  # another name is given
        ("balance = 1\nf(", "bal", "=2)\n", None),
        ("balance = 1\nx = self.", "bal", "\n", None),
        ("balance = 1\nx = 'to ", "= bal", "'\n", None),
        ("balance = 1\nf = lambda y: y + ", "bal", "\n", None),
        ("def f(balance, x=", "bal", "):\n", None),
        ("from m import *\nbalance = 1\nx = ", "bal", "\n", None),
        ("range_of = 1\nx = ", "range", "\n", None),
        ("x = ", "", "\n", None),
        ("", "@property", "\n\ndef f(): pass\n", None),  # what it decorates is there
        ("class A:\n    x = 1\n\n    ", "def f(self):", "\n\n    y = 2\n", None),  # unfinished
    ],
)
def test_what_is_not_even_offered(prefix: str, text: str, suffix: str, why: str | None) -> None:
    """An impossible column, a repetition of what stands before, half a name."""
    found = withheld(Surroundings(prefix, suffix), text)
    assert (found is None) == (why is None)
    assert why is None or why in (found or "")


@pytest.mark.parametrize(
    "magic",
    ["!pip install foo", "%matplotlib inline", "df?", "?df", "df??", "x = !ls", "a, b = %who"],
)
@pytest.mark.parametrize(
    ("text", "kept"),
    [("x = 1\n", True), ("    def f(b):\n", False), ("    def f(b):", False), ("#", False)],
)
def test_a_cell_may_have_magics(magic: str, text: str, kept: bool) -> None:
    """What stands behind the hole keeps its meaning in such a cell, too."""
    prefix, suffix = f"import os\n{magic}\n", "def f(a):\n    return a\n"
    assert compiles(prefix + suffix, cell=True)
    asked = Request(prefix, suffix, Options(), cell=True)
    assert (Guard(asked).refusal(text, Verdict(0, 0)) is None) == kept


def test_magics_are_of_cells_alone() -> None:
    """And what Python reads as an operator is none."""
    assert not compiles("!ls\n")
    assert compiles("x = (a\n  % b)\n!ls\n", cell=True) is False
    assert compiles("x = (a\n  % b)\n", cell=True)
    assert compiles("%time x = (\n", cell=True)


@pytest.mark.parametrize(
    ("prefix", "text", "suffix", "word"),
    [
        ("total = (cost *\n", "if", "tax)\n", "iftax"),
        ("f(\n    ", "cost", "cost,\n)\n", "costcost"),
        ("for x in y:\n    ", "raise nx.NetworkXError", "continue\n", "NetworkXErrorcontinue"),
        ("numbers = []\nprint(", "sum(n", "umbers))\n", None),
        ("x = ", "is", "instance(a, b)\n", None),
        ("x = ", "a + ", "tax\n", None),
        ("fo", "x", "o = 1\n", None),
        ("x = ", "cost", "\n", None),
    ],
)
def test_words_do_not_run_together(prefix: str, text: str, suffix: str, word: str | None) -> None:
    """Unless that makes a word that is known, or the hole was inside one."""
    assert guard.run_together(prefix, text, suffix) == word
    if word:
        why = withheld(Surroundings(prefix, suffix), text)
        assert why is not None
        assert word in why

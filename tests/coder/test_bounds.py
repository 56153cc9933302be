"""A bound ends a middle where its line, statement or block ends."""

from __future__ import annotations

import random
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.bounds import (
    Bound,
    Repetition,
    closed_ahead,
    logical_line,
    tokens,
    until_of,
)
from talaria.coder.request import UNTIL, Options, Request, Settings, Until
from talaria.coder.syntax.functions import function_bodies

# The text before the hole, and a middle with a mark where the bound ends it.
LINES = [
    ("x = ", "1|\ny = 2\n"),
    ("x = 1", "\ny = 2|\nz"),
    ("def f():\n    ", "return (|\n1)"),
    ("x = ", "1"),
    ("x = ", "  \n"),
    ("x = ", "1  |\r\ny"),
]
STATEMENTS = [
    ("x = ", "1|\ny = 2\n"),
    ("x = ", "1  # one|\ny"),
    ("x = ", "(1,\n 2)|\ny = 3\n"),
    ("x = f(\n    ", "1,\n    2,\n)|\ny"),
    ("x = [1,\n2", "]|\n3"),
    ("x = ", '"""a\nb"""|\nc'),
    ("x = ", '"""a\nb'),
    ("x = 1", "\ny = 2|\nz"),
    ("x = 1\n", "y = 2|\nz"),
    ("if a:\n    x = 1", "\ny = 2|\nz"),
    ("    ", "if a:\n        b\n    else:\n        c|\n    d"),
    ("if a", ":\n    b\n\n    # so\n    c|\n\n# not\nd"),
    ("if a:", "\n    b|\nc"),
    ("if a:\n    b\n", "else:\n    c|\nd"),
    ("try:\n    a\n", "except E:\n    b\nfinally:\n    c|\nd"),
    ("def f(): ", "return 1|\nx"),
    ("if a:\n    ", "b"),
    ("x = 'a\ny = 1\nz = ", "2|\nq"),
    ("x = f(\ndef g():\n    y = ", "2|\nq"),
    ("        ", "if a:\n            b\n        else:\n            c|\n    d = 1"),
    ("x = 1\x0c\n\x0c\ny = ", "2|\nz = 3"),
    ("for x in y:\n    if x:\n        ", "a|\n    b\n"),
    ("x\n", "@a\n@b(1)\ndef f():\n    x\n    y|\nz"),
    ("class A:\n    ", "@property\n    def f(self): return 1|\n    x"),
    ("@a", "\nclass A:\n    x|\ny"),
    ("if a: ", "b\nelif c: d\nelse: x|\nz"),
    ("", "try: a\nexcept B: c\nfinally: d|\nz"),
    ("", "for a in b: c\nelse: d|\nz"),
    ("    ", "if a: b|\n    c"),
    ("", "async def f(): a|\nb"),
    ("x = ", "1 if a else 2|\ny"),
    *(
        case
        for odd in ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
        for case in (
            ("x = ", f"'{odd}'|\ny"),
            (f"# {odd}\nif a:\n    ", f"'{odd}'|\n    b\nc"),
            (f'x = """{odd}\n{odd}"""\n', f'y = """{odd}\n\n{odd}"""|\nz'),
        )
    ),
    ("# art \\\nx = f(", "1,\n2)|\ny"),  # a comment is not continued
    ("x = [\n" + "    1,\n" * 9_000, "    2,\n]|\ny = 3\n"),  # opened far above
]
BLOCKS = [
    ("def f():\n    ", "x = 1\n    return x|\n\n\ndef g"),
    ("def f():", "\n    x = 1\n    return x|\n\ny"),
    ("def f(): ", "return 1|\nx"),
    ("class A:\n    def f(self):\n        ", "if a:\n            b\n        return|\n\n    def g"),
    ("class A:\n    def f(self):\n        x = ", "1\n        return|\n    @a"),
    ("def f():\n    ", "return '''\nx\n'''|\ny"),
    ("def f(): 'Say.'; ", "return 1|\nx"),
    ("if a: b = {1: 2}; ", "c|\nx"),
    ("def f(a: int) -> {1: 2}: ", "return 1|\nx"),
    ("x = lambda: ", "1\ny = 2\n"),
    ("match: int = ", "1\ny = 2\n"),
    ("match x:", "\n    case 1: pass|\ny"),
    ("def f():\n    ", "x = 1\n# a remark\n    y = 2|\nz"),
    ("def f():\n    ", "x = (\n1)\n    y = 2\n"),
    ("def f():\n        ", "x = 1|\n    y = 2\n"),
    ("x = 1\n", "y = 2\nz = 3\n"),
    ("async def f():\n\t", "await x|\ny"),
    ("match x:\n    case 1:\n        ", "a\n        b|\n    case 2"),
    ("@a\ndef f():\n    '''Say.'''\n    ", "return 1|\n@b"),
    *(
        (f"def f():\n    x = '{odd}'  # {odd}\n    ", f"y = '{odd}'\n    return y|\n\ndef g(): 1\n")
        for odd in ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
    ),
]
CASES = [
    *(("line", *case) for case in LINES),
    *(("statement", *case) for case in STATEMENTS),
    *(("block", *case) for case in BLOCKS),
]


@pytest.mark.parametrize(("until", "prefix", "marked"), CASES)
def test_where_a_bound_ends_a_middle(until: str, prefix: str, marked: str) -> None:
    """At the mark, if there is one, and not before all text up to it is there."""
    middle = marked.replace("|", "")
    wanted = marked.index("|") if "|" in marked else None
    bound = Bound(until, prefix)  # type: ignore[arg-type]
    assert bound.end(middle) == wanted
    for length in range(wanted or 0):
        assert bound.end(middle[:length]) is None


@pytest.mark.parametrize(
    ("prefix", "line"),
    [
        ("", ""),
        ("x = 1\n", ""),
        ("def f():\n    x = 1\n    y = ", "    y = "),
        ("def f():\n    x = (1,\n  2,\n", "    x = (1,\n  2,\n"),
        ("x = '''\ndef f():\n    ", "x = '''\ndef f():\n    "),
        ("def f():\n    '''Say.\n\nThis.\n    '''\n    return ", "    return "),
        ('"""Say.\n\nIt isn\'t so.\n"""\n\nx = ', "x = "),
        ("class A:\n" + "    x = 'a'\n" * 2000 + "    y = (1,\n", "    y = (1,\n"),
        ('"""\n' + "it isn't so\n" * 2000 + '"""\nx = ', "x = "),
        ("x = '''\n" + 'say """so\n' * 1000 + "'''\nx = f(\n", "x = f(\n"),
        ("x = (1 +\\\n2\ny = 3\ndef f():\n    x", "    x"),
        ("x = 'open\ny = \\\n    ", "y = \\\n    "),
    ],
)
def test_the_last_logical_line(prefix: str, line: str) -> None:
    """It begins where its statement or header begins."""
    assert logical_line(prefix) == line


@given(
    until=st.sampled_from(UNTIL),
    prefix=st.text("ab =:()\n\t '\"#\\é@", max_size=60),
    middle=st.text("ab =:()\n\t '\"#\\é@", max_size=60),
)
def test_any_bound_is_inside_the_middle(until: str, prefix: str, middle: str) -> None:
    """No text, however broken, raises an error."""
    end = Bound(until, prefix).end(middle)  # type: ignore[arg-type]
    assert end is None or 0 <= end <= len(middle)


Hole = tuple[str, str, str]  # prefix, what stands there, suffix


@cache
def sources() -> list[str]:
    """Files of the standard library, in an order that is the same each time."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = sorted(each for each in folder.glob("*/*.py") if "lib2to3" not in each.parts)
    texts = (each.read_text("utf-8", "replace") for each in random.Random(0).sample(found, 300))
    return [text for text in texts if 2_000 < len(text) < 60_000]


def real_holes(count: int) -> Iterator[Hole]:
    """Ends of lines, lines, several lines, spans of characters and bodies, in turn."""
    chance = random.Random(1)
    for number in range(count):
        text, kind = chance.choice(sources()), number % 5
        lines = [found.span() for found in re.finditer(r"\S.*", text)]
        first = chance.randrange(len(lines))
        start, end = lines[first]
        if kind == 0:
            start = chance.randrange(start, end)
        elif kind == 2:
            end = lines[min(len(lines) - 1, first + chance.randint(1, 7))][1]
        elif kind == 3:
            start = chance.randrange(len(text))
            end = start + chance.randint(1, 300)
        elif kind == 4 and (bodies := function_bodies(text)):
            body = chance.choice(bodies)
            start, end = body.start, body.end
        yield text[:start], text[start:end], text[end:]


def test_repeating_the_suffix_rarely_cuts_true_text() -> None:
    """Of 1,000 holes in real files at most 5, where what is there is followed by the suffix."""
    cut, found, count = [], 0, 1_000
    for number, (prefix, middle, suffix) in enumerate(real_holes(count)):
        until: Until = "line" if number % 5 < 2 else "block"
        end = Repetition(until, prefix, suffix).end(middle + suffix[:3_000])
        if end is not None and end < len(middle.rstrip()):
            cut.append((middle[end:], suffix[:100]))
        found += end is not None
    assert len(cut) <= 5, cut
    assert found > 0.9 * count


def statements(text: str) -> Iterator[tuple[int, int, int | None]]:
    """The start and end of statements without blocks, and the end of the block around each.

    The last is None at the top level. By the tokens of the whole file.
    """
    found = list(tokens(text))
    ends = [place for place, token in enumerate(found) if token.ends_line]
    for before, end in pairwise(ends):
        line = found[before + 1 : end]
        if line[0].text == "@" or any(token.text == ":" for token in line):
            continue
        depth = line[0].depth
        after = range(end + 1, len(found))
        out = next((p for p in after if not found[p].ends_line and found[p].depth < depth), None)
        yield line[0].start, found[end].start, found[out - 1].start if out else None


def test_bounds_of_real_files() -> None:
    """A statement or block whose middle is missing ends where it ends in the whole file."""
    chance = random.Random(2)
    wrong, count = [], 0
    for text in sources()[:150]:
        each = [found for found in statements(text) if found[1] - found[0] < 2_000]
        for start, end, block in chance.sample(each, min(3, len(each))):
            hole = chance.randrange(start, end)
            count += 1
            prefix, rest = text[:hole], text[hole:]
            found = Bound("statement", prefix).end(rest), Bound("block", prefix).end(rest)
            if found != (end - hole, None if block is None else block - hole):
                wrong.append((text[start:end], found, end - hole, block and block - hole))
    assert count > 300
    assert not wrong


# The text before the hole, a middle with a mark where it begins to repeat, the text after it.
LONG = "return the_sum_of_all_that_is_in(values, twice)\n"
REPEATED = [
    ("def f(x):\n    y = ", f"x + 1|\n    {LONG}", f"\n    {LONG}"),
    ("x = f(", f"a, b|)\n{LONG}", f")\n{LONG}"),
    ("a\n", f"b\n|{LONG}", LONG),
    ("if a:\n    ", f"|{LONG}", f"\n    {LONG}"),
    ("if a:\n    ", f"b|\n\nelse:\n    {LONG}", f"\nelse:\n    {LONG}"),
    # Too little to tell, other lines, other indentation, or not complete yet.
    ("if a:\n    ", "b\nelse:\n    c\n", "\nelse:\n    d\n"),
    ("if a:\n    ", "b\nelse:\n    c\n", "\nelse:\n    c\n"),
    ("x = f(", "a|)\ny = 1\n", ")\ny = 2\n"),
    ("x = f(g(", "a|))\n", "))\n"),
    ("x = f(", "g(a), '(b)'|)\n", ")\n"),
    ("x = f(\n    ", "a,\n|)\n", ")\n"),
    ("x = f(", "'a)", ")\n"),  # the string is still open
    ("x = f(", "a]\n", ")\n"),
    ("x = f(a) ", "if b else (c)\n", "# )\n"),
    ("# one (", "two)\n", ")\n"),
    ('x = f"{', 'a["b"]|}"\n', '}"\n'),
    ('x = "', 'a \\" b|" + c\n', '"\n'),
    ("x = f('", "a\"|', b)\n", "')\n"),
    ('x = """', 'a "b"\n|"""\n', '"""\n'),
    ("for i in ", "enumerate(x)|:\n    y\n", ":\n    z\n"),
    ("if ", "f(lambda a: a)[1:2]|: pass\n", ": x\n"),
    ("x = y[1", ":2]\n", ":3]\n"),
    ("lambda a", ": a\n", ": b\n"),
    ("for x in y:\n    ", LONG, f"\n{LONG}"),
    ("x = ", "a\nreturn_the_sum_of_all_that_is_in", "\nreturn_the_sum_of_all_that_is_in_it\n"),
    ("x = ", "y\n", "\n"),
    ("x = ", "y\n", ""),
    ("x = return_the_sum_of_all_that_is_in()", "\n", "\nx = return_the_sum_of_all_that_is_in()\n"),
]


@pytest.mark.parametrize(("prefix", "marked", "suffix"), REPEATED)
def test_where_a_middle_repeats_the_suffix(prefix: str, marked: str, suffix: str) -> None:
    """At the mark, once enough of it is there and ever after; if there is no mark, never."""
    middle = marked.replace("|", "")
    wanted = marked.index("|") if "|" in marked else None
    repetition = Repetition("block", prefix, suffix)
    ends = [repetition.end(middle[:length]) for length in range(len(middle) + 1)]
    assert set(ends) <= {None, wanted}
    assert ends[-1] == wanted
    assert repetition.end(middle + "more\n") == wanted


@pytest.mark.parametrize(
    ("prefix", "marked"),
    [
        ("f(", ")|\nx\n"),
        ("f(g(", "))|\n"),
        ("if f(", "):|\n    x\n"),
        ("x = [\n    ", "\n]|\n\ny\n"),
        ("x = f([\n    ", "\n    ]\n)|\ny\n"),
        ("print('", "')|\nx\n"),
        ('x = """a', '\n"""|\ny\n'),
        ("f(", "|, b)\n"),
        ("f(", "|) + 1\n"),
        ("x = 1", "|\n\n\ny = 2\n"),
        ("def f():", '|\n    """\n    Say.\n    """\n'),  # which opens
        ("x = 'a", "| b'\n"),
        ("# (", "|)\n"),
        ("x = 1", "|"),
    ],
)
def test_what_only_closes(prefix: str, marked: str) -> None:
    """Up to the mark: the rest of a line and whole lines, also behind the end of a string."""
    suffix = marked.replace("|", "")
    assert closed_ahead(prefix, suffix) == marked.index("|")


def test_less_tells_in_a_line() -> None:
    """A line that is the next one, or ends as the rest of its own; `else:` tells nothing."""

    def end(prefix: str, middle: str, suffix: str) -> int | None:
        return Repetition("line", prefix, suffix).end(middle)

    assert end("    ", "return total\n", "\n    return total\n") == 0
    assert end("x = f(a, ", "b, timeout=3)\n", ", timeout=3)\n") == 1
    assert end("", "else:\n", "\nelse:\n") is None


BODY = "\n\n\nx = 1\n"


@pytest.mark.parametrize(
    ("prefix", "suffix", "until"),
    [
        ("def f():\n    ", BODY, "block"),
        ("def f():", BODY, "block"),
        ("def f():\n", BODY, "block"),
        ("class A:\n    def f(\n        self,\n    ):\n        ", "\n\n    def g(): ...", "block"),
        ("def f():\n    '''Say.'''\n    # So.\n\n    ", "", "block"),
        ("if a:\n    b\nelse:\n    ", BODY, "block"),
        ("for a in b", BODY, "block"),  # without its colon, too
        ("if a:\n    b\nelse", BODY, "block"),
        ("for a in b", "\n    c()\n", "line"),
        ("a = b", BODY, "line"),
        ("def f():\n    ", "\n    return 1\n", "line"),  # it has a body
        ("def f():\n    x = 1\n    ", BODY, "line"),
        ("def f():\n    '''Say.'''\n", BODY, "line"),  # the docstring is the body
        ("'''Say.'''\n", BODY, "line"),
        ("def f(", "):\n    pass\n", "line"),
        ("def f(a:", BODY, "line"),
        ("x = {1:", BODY, "line"),
        ("x = lambda:", BODY, "line"),
        ("def f():\n    return (", ")\n", "line"),
        ("", "", "line"),
    ],
)
def test_the_usual_bound(prefix: str, suffix: str, until: str) -> None:
    """The line, or the block where a body is missing; only for a model that runs on."""
    request = Request(prefix, suffix)
    assert until_of(request, Settings(bounded=True)) == until
    begun, rest = prefix.rpartition("\n")[2].strip(), suffix.partition("\n")[0].strip()
    own = None if until == "line" and (rest or not begun) else until
    assert until_of(request, Settings(bounded=True, ends=True)) == own
    assert until_of(request, Settings()) is None
    asked = Request(prefix, suffix, Options(until="statement"))
    assert until_of(asked, Settings(bounded=True)) == "statement"
    assert until_of(Request(prefix, suffix, length=3), Settings(bounded=True)) is None


def test_lines_are_replaced_by_lines() -> None:
    """A selection of several lines becomes more than one."""
    settings = Settings(bounded=True)
    assert until_of(Request("x = 1\n", "\n", replaces="y = 2\nz = 3"), settings) == "block"
    assert until_of(Request("x = ", "\n", replaces="f(a)"), settings) == "line"

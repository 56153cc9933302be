"""A bound ends a middle where its line, statement or block ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.bounds import Bound, logical_line
from talaria.coder.request import UNTIL

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
    ("if a:\n    ", "b\n"[:-1]),
    ("for x in y:\n    if x:\n        ", "a|\n    b\n"),
]
BLOCKS = [
    ("def f():\n    ", "x = 1\n    return x|\n\n\ndef g"),
    ("def f():", "\n    x = 1\n    return x|\n\ny"),
    ("def f(): ", "return 1|\nx"),
    ("class A:\n    def f(self):\n        ", "if a:\n            b\n        return|\n\n    def g"),
    ("class A:\n    def f(self):\n        x = ", "1\n        return|\n    @a"),
    ("def f():\n    ", "return '''\nx\n'''|\ny"),
    ("def f():\n    ", "x = 1\n# a remark\n    y = 2|\nz"),
    ("def f():\n    ", "x = (\n1)\n    y = 2\n"),
    ("def f():\n        ", "x = 1|\n    y = 2\n"),
    ("x = 1\n", "y = 2\nz = 3\n"),
    ("async def f():\n\t", "await x|\ny"),
    ("match x:\n    case 1:\n        ", "a\n        b|\n    case 2"),
    ("@a\ndef f():\n    '''Say.'''\n    ", "return 1|\n@b"),
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

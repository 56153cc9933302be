"""Syntax trees count errors and follow edits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.syntax.tree import Trees, count_errors


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
    """Sound texts have none; in broken ones, ERROR and MISSING nodes count alike."""
    assert count_errors(text) == errors


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


@given(
    edits=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 12), st.sampled_from(PIECES)), max_size=12
    )
)
def test_an_incremental_parse_equals_a_fresh_one(edits: list[tuple[int, int, str]]) -> None:
    """The trees are the same, however many edits a text went through."""
    text, trees = MODULE, Trees()
    for at, deleted, inserted in edits:
        text = text[:at] + inserted + text[at + deleted :]
        root = trees.parse(text.encode()).root_node
        fresh = Trees().parse(text.encode()).root_node
        assert str(root) == str(fresh)
    assert len(trees.kept) <= 1 + len(edits)


def test_the_cache_is_bounded_and_keeps_one_tree_a_document() -> None:
    """An edited text replaces its former tree; the newest tree stays, however long its text."""
    trees = Trees(100)
    one, two = b"x = 1\n" * 6, b"def f():\n    return [2]\n"
    for text in (one, two, one + b"y = 2\n"):
        trees.parse(text)
    assert [text for text, _ in trees.kept] == [two, one + b"y = 2\n"]
    trees.parse(b"z = 3\n" * 50)
    assert [len(text) for text, _ in trees.kept] == [300]

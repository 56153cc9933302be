"""Syntax trees by tree-sitter: parse, parse again after an edit, find the errors.

tree-sitter counts in bytes of UTF-8 and parses any text, however broken. Another language needs
its grammar here, and its node names and lexical rules in the other modules of this package.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Iterator
from functools import cache

import tree_sitter_python
from tree_sitter import Language, Node, Parser, Query, QueryCursor, Tree


def encode(text: str) -> bytes:
    """Encode a text for the parser.

    A lone surrogate, which UTF-8 cannot hold, becomes one character, so that counts of characters
    stay right.
    """
    return text.encode("utf-8", "replace")


def parse(data: bytes, old: Tree | None = None) -> Tree:
    """Parse a text; with `old`, an edited tree of a similar text, only what differs is parsed."""
    # A parser is cheap to make and must not be shared between threads.
    parser = Parser(_language())
    return parser.parse(data, old) if old else parser.parse(data)


def reparse(tree: Tree, before: bytes, after: bytes, start: int, end: int) -> Tree:
    """Parse `after` incrementally from the tree of `before`, which is left as it is.

    The texts must agree in their first `start` and their last `end` bytes.
    """
    tree = tree.copy()
    old, new = len(before) - end, len(after) - end
    points = _point(before, start), _point(before, old), _point(after, new)
    tree.edit(start, old, new, *points)
    return parse(after, tree)


def captured(pattern: str, root: Node, start: int = 0, end: int | None = None) -> list[Node]:
    """List the nodes that a query captures as @it, parents first, in the order of the text.

    With `start` and `end`, only matches that touch these bytes are looked for.
    """
    cursor = QueryCursor(_query(pattern))
    if end is not None:
        cursor.set_byte_range(start, end)
    return sorted(
        cursor.captures(root).get("it", []), key=lambda node: (node.start_byte, -node.end_byte)
    )


def error_nodes(root: Node) -> Iterator[Node]:
    """Yield the ERROR and MISSING nodes of a tree."""
    # A stack rather than recursion: the tree of a broken text can be deep.
    stack = [root]
    while stack:
        node = stack.pop()
        if node.is_error or node.is_missing:
            yield node
        if node.has_error:
            stack.extend(node.children)


def count_error_nodes(root: Node) -> int:
    """Count the ERROR and MISSING nodes of a tree."""
    return sum(1 for _ in error_nodes(root))


def count_errors(text: str) -> int:
    """Count the ERROR and MISSING nodes in the syntax tree of a text."""
    return count_error_nodes(parse(encode(text)).root_node)


class Trees:
    """A cache of trees: a text similar to one parsed before is parsed incrementally.

    It keeps at most `capacity` bytes of text and drops the least recently used first. Not
    thread-safe.
    """

    def __init__(self, capacity: int = 4_000_000) -> None:
        self.capacity = capacity
        self.kept: deque[tuple[bytes, Tree]] = deque()

    def parse(self, data: bytes) -> Tree:
        """Parse a text; its tree replaces that of a text which shares more than half with it."""
        shared = [(_shared_ends(data, text), text, tree) for text, tree in self.kept]
        (start, end), text, tree = max(shared, default=((0, 0), b"", None), key=lambda k: sum(k[0]))
        if tree is not None and 2 * (start + end) > len(text):
            self.kept.remove((text, tree))
            found = reparse(tree, text, data, start, end)
        else:
            found = parse(data)
        self.kept.append((data, found))
        # The newest tree is in use: it stays, however long its text.
        while sum(len(text) for text, _ in self.kept) > self.capacity and len(self.kept) > 1:
            self.kept.popleft()
        return found


@cache
def _language() -> Language:
    return Language(tree_sitter_python.language())


@cache
def _query(pattern: str) -> Query:
    return Query(_language(), pattern)


def _shared_ends(one: bytes, other: bytes) -> tuple[int, int]:
    """The lengths of the longest common prefix and, in what remains, common suffix."""
    most = min(len(one), len(other))
    # Comparing slices by bisection is much faster than comparing bytes in a loop.
    start = bisect(range(1, most + 1), False, key=lambda n: one[:n] != other[:n])
    rest = range(1, most - start + 1)
    return start, bisect(rest, False, key=lambda n: one[-n:] != other[-n:])


def _point(data: bytes, offset: int) -> tuple[int, int]:
    """The row and column, in bytes, of a byte offset."""
    return data.count(b"\n", 0, offset), offset - (data.rfind(b"\n", 0, offset) + 1)

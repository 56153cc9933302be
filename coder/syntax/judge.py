"""Does a middle add a syntax error to the text around it?

tree-sitter counts errors, also in files that are broken elsewhere. Where it finds none,
`compile()` decides, as Python rejects some of what tree-sitter accepts. Nothing is ever run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from tree_sitter import Node

from talaria.coder.syntax.excerpt import (
    CHARACTERS_PER_ERROR,
    enclosing_statement,
    near_prefix,
    near_suffix,
)
from talaria.coder.syntax.fillings import plain_fillings
from talaria.coder.syntax.lexical import code_end, indentation
from talaria.coder.syntax.tree import (
    Trees,
    captured,
    count_error_nodes,
    encode,
    error_nodes,
    reparse,
)

_MAX_FILLINGS = 8  # plain fillings that are compiled, at most
_MAX_COMPILED = 50_000  # bytes that are compiled, at most: more takes too long
# A line after which a block's body may follow: it ends in a colon, or is only a comment.
_BEFORE_BODY = re.compile(r":[ \t]*(?:#.*)?$|^[ \t]*#.*$")


@dataclass(frozen=True)
class Verdict:
    """What a middle does to the syntax of the text around it.

    errors_before  those that are not the middle's fault: the fewest that any plain filling of the
                   hole leaves, in the whole text or in the statement around the hole
    errors_after   those with the middle in place
    refused        tree-sitter finds no error, but this interpreter rejects the function around the
                   middle, or the top-level statements it touches, and would accept them with some
                   plain filling
    """

    errors_before: int
    errors_after: int
    refused: bool = False

    @property
    def clean(self) -> bool:
        """Whether the middle adds no syntax error."""
        return self.errors_after <= self.errors_before and not self.refused


class OutOfTimeError(Exception):
    """The time to judge a middle is over."""


def compiles(text: str) -> bool:
    """Whether this interpreter compiles a text, which is never run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Without `dont_inherit`, this file's __future__ imports would apply to the text.
            compile(text, "<completion>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
            return False
    return True


def judge(prefix: str, middle: str, suffix: str, *, complete: bool = False) -> Verdict:
    """Judge a middle by the errors that it adds; `complete` as in `Surroundings`."""
    return Surroundings(prefix, suffix, complete=complete).judge(middle)


class Surroundings:
    """The text around a hole, parsed once; each middle is parsed into it incrementally.

    Of a side longer than `excerpt.REACH`, only an excerpt next to the hole counts. Where there
    are errors elsewhere, the statement around the hole is judged alone. Where there are errors
    all over, as in a long text that is not code, every middle is refused.
    """

    def __init__(
        self,
        prefix: str,
        suffix: str,
        trees: Trees | None = None,
        *,
        complete: bool = False,
        out_of_time: Callable[[], bool] = lambda: False,
    ) -> None:
        """Parse the text around a hole.

        trees        cache from which similar texts are parsed incrementally
        complete     whether a block that a middle opens must have its body; otherwise the body
                     may follow as the user types on
        out_of_time  called before each parse and each compilation, here and in later calls

        Raises:
            OutOfTimeError: `out_of_time` returned true; so do all methods that parse.
        """
        self.complete, self.out_of_time = complete, out_of_time
        before = near_prefix(prefix, self._check_time)
        after = None if before is None else near_suffix(before, suffix, self._check_time)
        prefix, suffix = before or "", after or ""
        self.text = prefix, suffix
        self.prefix, self.suffix = encode(prefix), encode(suffix)
        self._check_time()
        self.tree = (trees or Trees()).parse(self.prefix + self.suffix)
        self._fillings = plain_fillings(prefix, suffix)
        self._filling_compiles: dict[bool, bool] = {}
        self._errors_unfilled = count_error_nodes(self.tree.root_node)
        self.unreadable = after is None or (
            self._errors_unfilled > 100
            and self._errors_unfilled * CHARACTERS_PER_ERROR > len(self.prefix) + len(self.suffix)
        )

    def judge(self, middle: str) -> Verdict:
        """Judge a middle by the errors that it adds.

        Unless it must be complete, its last block may have no body yet, or only a comment.
        """
        if self.unreadable:
            return Verdict(0, 0, refused=bool(middle))
        verdict = self._judge(middle)
        if verdict.clean or self.complete:
            return verdict
        body = self.with_body(middle)
        return body if body and body.clean else verdict

    def with_body(self, middle: str) -> Verdict | None:
        """Judge a middle with a `pass` behind it as the body of its last block.

        None if it does not end where a body may follow.
        """
        line = (self.text[0] + middle).rstrip().rpartition("\n")[2]
        if self.unreadable or not (ending := _BEFORE_BODY.search(line)):
            return None
        deeper = "    " if ending[0].startswith(":") else ""
        return self._judge(f"{middle}\n{indentation(line)}{deeper}pass")

    def errors(self, middle: str) -> list[tuple[int, int]]:
        """Where errors of the filled text touch the middle: [start, end) in its bytes."""
        if self.unreadable:
            return []
        if self._statement:
            return self._statement[0].errors(middle)
        start = len(self.prefix)
        end = start + len(encode(middle))
        return [
            (max(node.start_byte, start) - start, min(node.end_byte, end) - start)
            for node in error_nodes(self._fill(middle))
            if node.start_byte <= end and node.end_byte >= start
        ]

    @cached_property
    def _plainest(self) -> tuple[int, str]:
        """The fewest errors that a plain filling leaves, and the first one that leaves so few."""
        best = self._errors_unfilled, ""
        for filling in self._fillings:
            if not best[0]:
                break
            errors = count_error_nodes(self._fill(filling))
            best = min(best, (errors, filling), key=lambda it: it[0])
        return best

    @cached_property
    def _statement(self) -> tuple[Surroundings, int] | None:
        """The statement around the hole and the number of errors elsewhere; None without any.

        The errors elsewhere are those that the plainest filling of the statement leaves in the
        whole text.
        """
        if not self._errors_unfilled:
            return None
        sides = enclosing_statement(*self.text, self._can_start_statement)
        statement = Surroundings(*sides, out_of_time=self.out_of_time)
        statement._statement = None  # it is not narrowed down further
        elsewhere = count_error_nodes(self._fill(statement._plainest[1]))
        return (statement, elsewhere) if elsewhere else None

    def _judge(self, middle: str) -> Verdict:
        root = self._fill(middle)
        errors = count_error_nodes(root)
        if not middle:
            return Verdict(errors, errors)  # nothing adds no error
        if not errors:
            comment = self._is_comment(middle)
            accepted = self._compiles(root, middle, comment)
            return Verdict(0, 0, refused=not accepted and self._some_filling_compiles(comment))
        if self._statement:
            statement, elsewhere = self._statement
            own = statement._judge(middle)
            # An error in the statement alone may be needed elsewhere: the end of a string.
            if own.clean or errors >= elsewhere:
                added = own.errors_after - own.errors_before
                return Verdict(elsewhere, elsewhere + added, own.refused)
        return Verdict(min(errors, self._plainest[0]), errors)

    def _fill(self, middle: str) -> Node:
        """The root of the tree with a middle in the hole."""
        self._check_time()
        before, after = self.prefix + self.suffix, self.prefix + encode(middle) + self.suffix
        return reparse(self.tree, before, after, len(self.prefix), len(self.suffix)).root_node

    def _some_filling_compiles(self, comment: bool) -> bool:
        """Whether Python accepts what is around the hole with some plain filling."""
        if comment not in self._filling_compiles:
            filled = ((filling, self._fill(filling)) for filling in self._fillings)
            parsed = ((filling, root) for filling, root in filled if not root.has_error)
            # If it rejects this many, the reason lies outside of the hole.
            self._filling_compiles[comment] = any(
                self._compiles(root, filling, comment)
                for filling, root in islice(parsed, _MAX_FILLINGS)
            )
        return self._filling_compiles[comment]

    def _compiles(self, root: Node, middle: str, comment: bool) -> bool:
        """Whether Python accepts the function around the middle, or the statements it touches.

        A comment does not count as part of its block, so the code before it counts as touched.
        Very long texts are not compiled but accepted.
        """
        self._check_time()
        start = len(self.prefix)
        end = start + len(encode(middle))
        start = code_end(self.prefix) if comment else start
        # A query, since tree-sitter looks for a node's parent from the root down.
        functions = [
            node
            for node in captured(
                "(function_definition) @it", root, max(0, start - 1), max(end, start + 1)
            )
            if node.start_byte <= start and node.end_byte >= (start if comment else end)
        ]
        whole = self.prefix + encode(middle) + self.suffix
        parts = functions[-1:]
        if parts and b"nonlocal" in whole[parts[0].start_byte : parts[0].end_byte]:
            parts = functions[:1]  # the inner function needs the names of the outer ones
        parts = parts or [n for n in root.children if n.start_byte <= end and n.end_byte >= start]
        if not parts:
            return False
        # In one stretch: the indentation between statements belongs to none of them.
        text = whole[parts[0].start_byte : max(parts[-1].end_byte, end if comment else 0)]
        return len(text) > _MAX_COMPILED or compiles(text.decode() + "\n")

    def _is_comment(self, middle: str) -> bool:
        """Whether a middle consists of comments and blanks, or continues a comment."""
        line = self.text[0].rpartition("\n")[2]
        written = line + middle if line.lstrip().startswith("#") else middle
        return all(not it or it.startswith("#") for it in map(str.strip, written.split("\n")))

    def _can_start_statement(self, place: int) -> bool:
        """Whether a statement can start at an offset: not in a string or a continued line."""
        before = "".join(self.text)[:place]
        byte = len(encode(before))
        around = self.tree.root_node.descendant_for_byte_range(byte - 1, byte + 1) if byte else None
        inside = around is not None and "string" in around.type
        return not inside and not before.rstrip(" \t").endswith("\\\n")

    def _check_time(self) -> None:
        if self.out_of_time():
            raise OutOfTimeError

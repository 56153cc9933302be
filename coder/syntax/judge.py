"""Does a middle add a syntax error to the text around it?

tree-sitter counts errors, also in files that are broken elsewhere. Python has the last word on
statements that it can read: it rejects some of what tree-sitter accepts, and the other way round.
Nothing is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from talaria.coder.syntax.python import LONGEST, compiles, top_level
from talaria.coder.syntax.standing import standing_in
from talaria.coder.syntax.tree import (
    Trees,
    captured,
    count_error_nodes,
    encode,
    error_nodes,
    reparse,
)

_MAX_FILLINGS = 8  # plain fillings that are compiled, at most
# A line after which a block's body may follow: it ends in a colon, or is only a comment.
_BEFORE_BODY = re.compile(r":[ \t]*(?:#.*)?$|^[ \t]*#.*$")


@dataclass(frozen=True)
class Verdict:
    """What a middle does to the syntax of the text around it.

    errors_before  those that are not the middle's fault: the fewest that any plain filling of the
                   hole leaves, in the whole text or in the statement around the hole
    errors_after   those with the middle in place
    refused        this interpreter rejects the function around the middle, or the top-level
                   statements around it, and accepts them without it or with some plain filling
    unfinished     the block that the middle opens has no body yet: with one, it would add no error.
                   It may be offered while somebody types on, and must not be written
    """

    errors_before: int
    errors_after: int
    refused: bool = False
    unfinished: bool = False

    @property
    def sound(self) -> bool:
        """Whether the middle adds no syntax error, or none but a body that is still to come."""
        return self.errors_after <= self.errors_before and not self.refused

    @property
    def clean(self) -> bool:
        """Whether the middle adds no syntax error as it stands."""
        return self.sound and not self.unfinished


class OutOfTimeError(Exception):
    """The time to judge a middle is over."""


def judge(
    prefix: str, middle: str, suffix: str, *, complete: bool = False, cell: bool = False
) -> Verdict:
    """Judge a middle by the errors that it adds; `complete` and `cell` as in `Surroundings`."""
    return Surroundings(prefix, suffix, complete=complete, cell=cell).judge(middle)


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
        cell: bool = False,
        out_of_time: Callable[[], bool] = lambda: False,
    ) -> None:
        """Parse the text around a hole.

        trees        cache from which similar texts are parsed incrementally
        complete     whether a block that a middle opens must have its body; otherwise the body
                     may follow as the user types on
        cell         whether the text is a cell of a notebook, which may await at its top
        out_of_time  called before each parse and each compilation, here and in later calls

        Raises:
            OutOfTimeError: `out_of_time` returned true; so do all methods that parse.
        """
        self.complete, self.cell, self.out_of_time = complete, cell, out_of_time
        before = near_prefix(prefix, self._check_time)
        after = None if before is None else near_suffix(before, suffix, self._check_time)
        prefix, suffix = before or "", after or ""
        self.text = prefix, suffix
        self.prefix, self.suffix = encode(prefix), encode(suffix)
        self._check_time()
        self.tree = (trees or Trees()).parse(self.prefix + self.suffix)
        self._fillings = plain_fillings(prefix, suffix)
        self._filling_compiles: dict[bool, bool] = {}
        self._known: dict[str, bool] = {}
        self._errors_unfilled = count_error_nodes(self.tree.root_node)
        self.unreadable = after is None or (
            self._errors_unfilled > 100
            and self._errors_unfilled * CHARACTERS_PER_ERROR > len(self.prefix) + len(self.suffix)
        )

    def judge(self, middle: str) -> Verdict:
        """Judge a middle by the errors that it adds.

        Unless it must be complete, its last block may have no body yet, or only a comment: then it
        is unfinished.
        """
        if self.unreadable:
            return Verdict(0, 0, refused=bool(middle))
        verdict = self._judge(middle)
        if verdict.clean and self._opens_block(middle):
            # tree-sitter may find as many errors without the block as without its body.
            return replace(verdict, refused=self.complete, unfinished=True)
        if verdict.clean or self.complete:
            return verdict
        body = self.with_body(middle)
        return replace(body, unfinished=True) if body and body.clean else verdict

    def with_body(self, middle: str) -> Verdict | None:
        """Judge a middle with a `pass` behind it as the body of its last block.

        None if it does not end where a body may follow.
        """
        body = None if self.unreadable else self._body(middle)
        return self._judge(middle + body) if body else None

    def _body(self, middle: str) -> str | None:
        """A `pass` as the body of a middle's last block; None if none may follow."""
        line = (self.text[0] + middle).rstrip().rpartition("\n")[2]
        ending = _BEFORE_BODY.search(line)
        deeper = "    " if ending and ending[0].startswith(":") else ""
        return f"\n{indentation(line)}{deeper}pass" if ending else None

    def _opens_block(self, middle: str) -> bool:
        """Whether Python refuses a middle and takes it with a body for its last block."""
        body = self._body(middle) if middle.strip() else None
        if body is None or self._accepted(middle) is not False:
            return False
        return self._accepted(middle + body) is True

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

    def breaks(self, middle: str) -> bool:
        """Whether Python accepts what is around the hole, and not with the middle in it.

        A body that is still to come breaks nothing, nor does what takes too long to compile.
        """
        if self._accepted("") is not True or self._accepted(middle) is not False:
            return False
        return self.complete or not self.judge(middle).unfinished

    @cached_property
    def lacks(self) -> bool:
        """Whether Python refuses what is around the hole as it is, and not with a plain filling."""
        return not self.unreadable and self._accepted("") is False and self._readable

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
        statement = Surroundings(*sides, cell=self.cell, out_of_time=self.out_of_time)
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
            refused = not self._compiles(root, middle, comment) and (
                self._some_filling_compiles(comment) or self._accepted("") is True
            )
            return Verdict(0, 0, refused=refused)
        accepted = self._accepted(middle)
        if accepted:
            return Verdict(errors, errors)
        verdict = self._counted(middle, errors)
        refused = verdict.clean and accepted is False and self._readable
        return replace(verdict, refused=True) if refused else verdict

    def _counted(self, middle: str, errors: int) -> Verdict:
        """Judge a middle by the errors that tree-sitter finds: so many in the whole text."""
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

    @cached_property
    def _around(self) -> tuple[str, str] | None:
        """The top-level statements around the hole, unless they take too long to compile."""
        return top_level(*self.text)

    def _accepted(self, middle: str) -> bool | None:
        """Whether Python accepts the top-level statements around a middle; None if too long."""
        if self._around is None:
            return None
        if middle not in self._known:
            self._check_time()
            before, after = self._around
            text = before + middle + after
            self._known[middle] = compiles(text, cell=self.cell)
        return self._known[middle]

    @cached_property
    def _readable(self) -> bool:
        """Whether Python accepts the top-level statements around the hole, filled or not."""
        return any(self._accepted(filling) for filling in self._fillings[:_MAX_FILLINGS])

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
        return len(text) > LONGEST or compiles(text.decode() + "\n", cell=self.cell)

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
        above = before.rstrip(" \t")
        continued = above.endswith("\\\n") and standing_in(above[:-2], "") != "comment"
        return not inside and not continued

    def _check_time(self) -> None:
        if self.out_of_time():
            raise OutOfTimeError

"""Excerpts of other files in the workspace that are relevant at the cursor.

In order of priority: definitions that the file imports and uses near the cursor, definitions it
uses elsewhere, recently edited places, and similar parts of open files.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path

from talaria.coder.privacy import Fence
from talaria.coder.source import Piece
from talaria.lsp.modules import ImportTarget, Modules, remember
from talaria.lsp.outline import Definition, Import, imports

BEFORE, BEHIND = 60_000, 20_000
"""How many characters before and after the cursor are examined."""

_LINE = 1_000  # characters on either side of the cursor within its line
_ABOVE, _BELOW = 60, 30  # lines of the block around the cursor whose names count as near
_AROUND = 8  # lines around the cursor whose names count as near, in any block
_SIGNATURE = 6  # lines of a function's signature
_ENDINGS = (".py", ".pyi")
_LOOKUPS = 100  # imported names per request
_OPEN = 32  # open files considered
_PLACES = 8  # recent edits considered
_NEAR_EDIT = 8  # lines on either side of an edit
_CHUNK = 30  # lines of an open file compared at a time
_SIMILAR = 0.1  # least share of common names of similar code
_SHORTEST = 120  # characters; a shorter excerpt is not worth its room
_STEP = 12  # lines the cursor may move at once, as when a completion is accepted
_DOCUMENTS = 16  # whose choice of excerpts is kept

_HEADER = re.compile(r"(?:async[ \t]+def|def|class)\b")
_CHAIN = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_NAME = re.compile(r"[^\W\d]\w{2,}")


@dataclass(frozen=True)
class Near:
    """The code around the cursor, except for the word being written.

    block     the headers around the cursor, innermost first; at the top level of a module, an
              empty one and the header of the preceding function or class
    distance  for each dotted name, how many lines away its nearest use is
    imported  the names the text imports, except on the line being written
    row       the cursor's line, from 0
    """

    block: tuple[str, ...]
    distance: dict[str, int]
    imported: dict[str, Import]
    row: int

    def targets(self) -> list[ImportTarget]:
        """What is imported and used, nearest first."""
        found: dict[ImportTarget, None] = {}
        for chain in sorted(self.distance, key=self.distance.__getitem__):
            head, *attributes = chain.split(".")
            if head in self.imported:
                found[self.imported[head], tuple(attributes)] = None
        return list(found)

    def names(self) -> frozenset[str]:
        """All single names used."""
        return frozenset(part for chain in self.distance for part in chain.split("."))


@dataclass(frozen=True)
class CursorView:
    """Where the cursor is: the document, the code around it, the other open files."""

    document: Path | None
    near: Near
    others: Mapping[Path, str]


class Parts:
    """Parts of files within a budget of characters, most relevant first.

    Parts of one kind from one file form one excerpt, in file order.
    """

    def __init__(self, budget: int) -> None:
        self.room = budget
        self.most = budget * 2 // 3  # leaves room for others
        self._parts: dict[tuple[str, str], dict[int, str]] = {}

    def room_for(self, path: str, kind: str) -> int:
        """How many characters another part of a file may have."""
        return min(self.most, self.room - self._extra(path, kind))

    def put(self, path: str, kind: str, line: int, text: str) -> None:
        """Add a part that starts at a line; the caller has checked that it fits."""
        self.room -= self._extra(path, kind) + len(text)
        self._parts.setdefault((path, kind), {})[line] = text

    def pieces(self) -> tuple[Piece, ...]:
        """The excerpts, most relevant last."""
        return tuple(
            Piece(path, "\n".join(texts[line] for line in sorted(texts)))
            for (path, _), texts in reversed(self._parts.items())
        )

    def _extra(self, path: str, kind: str) -> int:
        return 1 if (path, kind) in self._parts else len(path) + 1


@dataclass
class Choice:
    """The excerpts chosen for a document, and what they depend on.

    near       the code around the cursor at the last request
    opened     hashes of the texts of the other open files
    looked_up  names near the cursor that were looked up, found or not
    included   the definitions in the excerpts, by file and name
    states     states of the files that the excerpts come from
    """

    near: Near
    opened: dict[Path, int]
    pieces: tuple[Piece, ...] = ()
    looked_up: set[ImportTarget] = field(default_factory=set)
    included: set[tuple[Path, str]] = field(default_factory=set)
    states: dict[Path, object] = field(default_factory=dict)


class Neighbours:
    """Chooses excerpts of other files for a cursor.

    Excerpts come first in an encoded context, so a change invalidates the whole KV cache. A choice
    therefore stays while the cursor is in the same block (a function or class; a blank line
    belongs to the block above it) or moves line by line, as in typing. A newly completed name
    that refers to another definition appends it and leaves the others as they are. A new choice
    is made when that exceeds the budget, when the cursor jumps, and when another open file or the
    file behind an excerpt has changed.

    Files are read again after they change. All costs are bounded whatever the workspace holds,
    and nothing in it raises an error. Not thread-safe.

    Raises:
        UsageError: `exclude` has an invalid pattern.
    """

    def __init__(
        self, roots: Sequence[Path], exclude: Sequence[str] = (), budget: int = 1500
    ) -> None:
        """`budget` is the total size of the excerpts in characters, paths included."""
        self.fence = Fence(roots, exclude)
        self.modules = Modules(self.fence)
        self.budget = budget
        self._choices: OrderedDict[Path | None, Choice] = OrderedDict()
        self._chunks: OrderedDict[Path, tuple[str, list[frozenset[str]]]] = OrderedDict()

    def pieces(
        self,
        path: Path | None,
        text: str,
        offset: int,
        open_files: Mapping[Path, str],
        recent: Sequence[tuple[Path, int]] = (),
    ) -> tuple[Piece, ...]:
        """Excerpts of other files for a cursor in a text, most relevant last.

        `open_files` has the editor's texts; `recent` has edited places as offsets into them,
        latest first.
        """
        document = None if path is None else Path(os.path.abspath(path))
        if document is not None and not self.fence.fillable(document):
            return ()
        self.modules.begin()
        others = dict(islice(_others(document, open_files), _OPEN))
        opened = {other: hash(other_text) for other, other_text in others.items()}
        cursor = CursorView(document, look(text, offset), others)
        choice = self._choices.get(document)
        if not choice or not self._holds(choice, cursor, opened) or not self._add(choice, cursor):
            former, choice = choice, Choice(cursor.near, opened)
            self._choose(choice, cursor, look(text, offset, everywhere=True).targets(), recent)
            # A mere change of order would invalidate the KV cache for nothing.
            if former and set(former.pieces) == set(choice.pieces):
                choice.pieces = former.pieces
        choice.near = cursor.near
        remember(self._choices, document, choice, _DOCUMENTS)
        return choice.pieces

    def _holds(self, choice: Choice, cursor: CursorView, opened: Mapping[Path, int]) -> bool:
        """Whether the cursor is still in the same block and no file has changed."""
        before, now = choice.near, cursor.near
        return (
            (before.block == now.block or abs(before.row - now.row) <= _STEP)
            and choice.opened == opened
            and all(self.modules.state(p, cursor.others) == s for p, s in choice.states.items())
        )

    def _choose(
        self,
        choice: Choice,
        cursor: CursorView,
        elsewhere: Sequence[ImportTarget],
        recent: Sequence[tuple[Path, int]],
    ) -> None:
        """Make a new choice; `elsewhere` is what the rest of the document uses."""
        parts = Parts(self.budget)
        used = cursor.near.targets()
        self._define(parts, choice, cursor, used)
        choice.looked_up.update(used)
        # Definitions used elsewhere leave half of the room to the open files.
        reserved = parts.room // 2 if cursor.others else 0
        parts.room -= reserved
        self._define(parts, choice, cursor, elsewhere)
        parts.room += reserved
        self._edited(parts, choice, cursor, recent)
        self._similar(parts, choice, cursor)
        choice.pieces = parts.pieces()

    def _add(self, choice: Choice, cursor: CursorView) -> bool:
        """Append definitions newly used near the cursor; False if they exceed the budget."""
        used = [t for t in reversed(cursor.near.targets()) if t not in choice.looked_up]
        choice.looked_up.update(used)
        for path, definition in self._find(choice, cursor, used):
            parts = Parts(self.budget)
            if not self._put(parts, choice, cursor, path, definition):
                continue  # too long even alone
            choice.pieces += parts.pieces()
            if sum(len(piece.path) + 1 + len(piece.text) for piece in choice.pieces) > self.budget:
                return False
        return True

    def _define(
        self, parts: Parts, choice: Choice, cursor: CursorView, targets: Sequence[ImportTarget]
    ) -> None:
        """Add the definitions of targets while there is room."""
        new = [target for target in targets if target not in choice.looked_up]
        for path, definition in self._find(choice, cursor, new):
            if parts.room < _SHORTEST:
                break
            self._put(parts, choice, cursor, path, definition)

    def _put(
        self,
        parts: Parts,
        choice: Choice,
        cursor: CursorView,
        path: Path,
        definition: Definition,
    ) -> bool:
        """Add a definition if at least its head fits; whether it did."""
        name = self.fence.name(path)
        text = definition.text(parts.room_for(name, "definition"), cursor.near.names())
        if text is None:
            return False
        parts.put(name, "definition", definition.line, text)
        choice.included.add((path, definition.name))
        choice.states[path] = self.modules.state(path, cursor.others)
        return True

    def _find(
        self, choice: Choice, cursor: CursorView, targets: Iterable[ImportTarget]
    ) -> Iterator[tuple[Path, Definition]]:
        """The definitions in other files that targets lead to and no excerpt has yet."""
        for target in islice(targets, _LOOKUPS):
            found = self.modules.find(cursor.document, target, cursor.others)
            if found and found[0] != cursor.document:
                path, definition = found
                if (path, definition.name) not in choice.included:
                    yield path, definition

    def _edited(
        self,
        parts: Parts,
        choice: Choice,
        cursor: CursorView,
        recent: Sequence[tuple[Path, int]],
    ) -> None:
        """Add the lines around recent edits in other open files."""
        given: dict[Path, set[int]] = {}
        for where, offset in recent[:_PLACES]:
            path = Path(os.path.abspath(where))
            if path not in cursor.others:
                continue
            row = cursor.others[path].count("\n", 0, max(0, offset))
            rows = range(max(0, row - _NEAR_EDIT), row + _NEAR_EDIT + 1)
            if given.setdefault(path, set()).isdisjoint(rows):
                given[path].update(rows)
                self._put_lines(parts, choice, cursor, path, "edit", rows)

    def _similar(self, parts: Parts, choice: Choice, cursor: CursorView) -> None:
        """Add the part of each open file that shares most names with the code at the cursor."""
        names = cursor.near.names()
        ranked = []
        for path in cursor.others:
            if path in choice.states:
                continue  # it has an excerpt already
            chunks = self._chunk_names(path, self.modules.text(path, cursor.others))
            scored = [(_share(names, chunk), -place) for place, chunk in enumerate(chunks)]
            best, place = max(scored, default=(0.0, 0))
            if best >= _SIMILAR:
                ranked.append((-best, str(path), path, -place * _CHUNK))
        for _, _, path, first in sorted(ranked):
            self._put_lines(parts, choice, cursor, path, "similar", range(first, first + _CHUNK))

    def _put_lines(
        self,
        parts: Parts,
        choice: Choice,
        cursor: CursorView,
        path: Path,
        kind: str,
        rows: range,
    ) -> None:
        """Add as many of some lines as fit, unless they are too few."""
        name = self.fence.name(path)
        room = parts.room_for(name, kind)
        lines = self.modules.text(path, cursor.others).split("\n")[rows.start : rows.stop]
        text = "\n".join(lines).strip("\n") + "\n"
        whole = len(text) <= room
        if not whole:
            text = text[: text.rfind("\n", 0, max(0, room)) + 1]
        if text.strip() and (whole or len(text) >= _SHORTEST):
            parts.put(name, kind, rows.start, text)
            choice.states[path] = self.modules.state(path, cursor.others)

    def _chunk_names(self, path: Path, text: str) -> list[frozenset[str]]:
        """The names in each chunk of a text, cached until it changes."""
        known = self._chunks.get(path)
        if known is None or known[0] != text:
            lines = text.split("\n")
            chunks = ("\n".join(lines[at : at + _CHUNK]) for at in range(0, len(lines), _CHUNK))
            known = (text, [frozenset(_NAME.findall(chunk)) for chunk in chunks])
        remember(self._chunks, path, known, 2 * _OPEN)
        return known[1]


def look(text: str, offset: int, everywhere: bool = False) -> Near:
    """The code around a cursor; with `everywhere`, names of the whole examined text count.

    The cursor's line counts, but not the word that the cursor touches.
    """
    offset = max(0, min(offset, len(text)))
    begin = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    end = len(text) if end < 0 else end
    above = text[max(0, begin - BEFORE) : begin].split("\n")[:-1]
    below = text[end + 1 : end + 1 + BEHIND].split("\n")
    left, right = text[max(begin, offset - _LINE) : offset], text[offset : min(end, offset + _LINE)]
    row = len(above)
    headers = _headers(above, left + right)
    rows = set(range(row - _AROUND, row + _AROUND + 1))
    if everywhere:
        rows.update(range(row + 1 + len(below)))
    elif headers:
        rows.update(headers, range(headers[0], headers[0] + _SIGNATURE))
        rows.update(range(max(headers[0], row - _ABOVE), row))
        rows.update(range(row + 1, row + 1 + _rest(below, _indent(above[headers[0]]))))
    distance: dict[str, int] = {}
    for at in rows & set(range(row + 1 + len(below))):
        line = "" if at == row else above[at] if at < row else below[at - row - 1]
        for chain in _complete(left, right) if at == row else _chains(line):
            distance[chain] = min(abs(at - row), distance.get(chain, abs(at - row)))
    block = tuple(above[header].strip() for header in headers)
    if not block:
        last = next((line for line in reversed(above) if _HEADER.match(line)), "")
        block = ("", last.strip())
    return Near(block, distance, imports(text[:begin] + text[end:])[0], text.count("\n", 0, offset))


def _others(document: Path | None, open_files: Mapping[Path, str]) -> Iterator[tuple[Path, str]]:
    for path, text in open_files.items():
        other = Path(os.path.abspath(path))
        if other != document and other.suffix in _ENDINGS:
            yield other, text


def _headers(above: Sequence[str], line: str) -> list[int]:
    """The rows of the function and class headers around a line, innermost first.

    A blank line belongs to the block that the line above it is in, or opens.
    """
    headers: list[int] = []
    limit = _indent(line) if line.strip() else None
    for row in range(len(above) - 1, -1, -1):
        if limit and above[row][:limit].isspace():
            continue
        # Comments and closing brackets may have any indentation.
        if not above[row].strip() or above[row].lstrip()[0] in "#)]}":
            if limit is None and above[row].rstrip().endswith(":"):
                limit = _indent(above[row]) + 1
            continue
        indent = _indent(above[row])
        if limit is None:
            limit = indent + above[row].rstrip().endswith((":", "(", "[", "{", ","))
        if indent < limit:
            if _HEADER.match(above[row], indent):
                headers.append(row)
            limit = indent
        if limit == 0:
            break
    return headers


def _rest(below: Sequence[str], indent: int) -> int:
    """How many of the first lines below are indented deeper than a header."""
    for count, line in enumerate(below[:_BELOW]):
        if line.strip() and _indent(line) <= indent and line.lstrip()[0] not in "#)]}":
            return count
    return min(len(below), _BELOW)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


@lru_cache(maxsize=4096)
def _chains(line: str) -> tuple[str, ...]:
    return tuple(_CHAIN.findall(line[: 2 * _LINE]))


def _complete(left: str, right: str) -> Iterator[str]:
    """The names in a line, without the part of a name that touches the cursor."""
    for found in _CHAIN.finditer(left + right):
        chain, cursor = found[0], len(left) - found.start()
        if 0 < cursor <= len(chain):
            chain = chain[:cursor].rpartition(".")[0]
        if chain:
            yield chain


def _share(one: frozenset[str], other: frozenset[str]) -> float:
    """The Jaccard similarity of two sets of names."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0

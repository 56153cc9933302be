"""What other files of a workspace say that matters where the cursor is.

Definitions that the file imports and uses near the cursor come first; then those that it
uses elsewhere, places that were edited lately, and parts of open files about the same things.
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

from talaria.coder.source import Piece
from talaria.lsp.modules import Modules, Target, remember
from talaria.lsp.outline import Definition, Import, imports
from talaria.lsp.privacy import Fence

BEFORE, BEHIND = 60_000, 20_000
"""How many characters around the cursor are looked at."""

_LINE = 1_000  # characters of a line on either side of the cursor
_ABOVE, _BELOW = 60, 30  # lines of the block around the cursor whose names count as near
_AROUND = 8  # lines around the cursor whose names count, whatever block they are in
_SIGNATURE = 6  # lines from a function's header on that count with it
_ENDINGS = (".py", ".pyi")
_LOOKED_UP = 100  # imported names at a time
_OPEN = 32  # open files that count
_PLACES = 8  # of recent edits
_NEAR_EDIT = 8  # lines on either side of an edit
_CHUNK = 30  # lines of an open file that are compared with what is near
_ALIKE = 0.1  # share of common names from which on they are about the same things
_SHORTEST = 120  # characters of a part of a file
_STEP = 12  # lines that the cursor may go at once, as when a completion is accepted
_DOCUMENTS = 16  # whose pieces are remembered

_HEADER = re.compile(r"(?:async[ \t]+def|def|class)\b")
_CHAIN = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_NAME = re.compile(r"[^\W\d]\w{2,}")


@dataclass(frozen=True)
class Near:
    """What a text says where the cursor is, but for the word that is being written.

    block     the headers around the cursor, innermost first; at the top of a module,
              the header of the last function or class before, behind an empty one
    distance  by name, with its dots, how many lines away it is used at least
    imported  what the text imports, but for the line that is being written
    row       the cursor's line, from 0 on
    """

    block: tuple[str, ...]
    distance: dict[str, int]
    imported: dict[str, Import]
    row: int

    def targets(self) -> list[Target]:
        """What is imported and used, the nearest first."""
        found: dict[Target, None] = {}
        for chain in sorted(self.distance, key=self.distance.__getitem__):
            head, *attributes = chain.split(".")
            if head in self.imported:
                found[self.imported[head], tuple(attributes)] = None
        return list(found)

    def names(self) -> frozenset[str]:
        """All that is named."""
        return frozenset(part for chain in self.distance for part in chain.split("."))


@dataclass(frozen=True)
class Scene:
    """Where the cursor is: in which document, near what, beside which other open files."""

    document: Path | None
    near: Near
    others: Mapping[Path, str]


class Parts:
    """Parts of files within a budget of characters, the most relevant put in first.

    Those of one file and of one kind make one piece, in the order of the file.
    """

    def __init__(self, budget: int) -> None:
        self.room = budget
        self.most = budget * 2 // 3  # so that no part puts out all others
        self._parts: dict[tuple[str, str], dict[int, str]] = {}

    def room_for(self, path: str, kind: str) -> int:
        """How many characters one more part of a file may have."""
        return min(self.most, self.room - self._extra(path, kind))

    def put(self, path: str, kind: str, line: int, text: str) -> None:
        """Take in a part that begins at a line and for which there is room."""
        self.room -= self._extra(path, kind) + len(text)
        self._parts.setdefault((path, kind), {})[line] = text

    def pieces(self) -> tuple[Piece, ...]:
        """What was put in, the most relevant last."""
        return tuple(
            Piece(path, "\n".join(texts[line] for line in sorted(texts)))
            for (path, _), texts in reversed(self._parts.items())
        )

    def _extra(self, path: str, kind: str) -> int:
        return 1 if (path, kind) in self._parts else len(path) + 1


@dataclass
class Choice:
    """The pieces chosen for a document, and what they hold for.

    near       what they were last asked for
    opened     the other open files with the hashes of their texts
    looked_up  what was looked up near the cursor, found or not
    told       the definitions that the pieces give, by file and name
    states     of the files that the pieces are from
    """

    near: Near
    opened: dict[Path, int]
    pieces: tuple[Piece, ...] = ()
    looked_up: set[Target] = field(default_factory=set)
    told: set[tuple[Path, str]] = field(default_factory=set)
    states: dict[Path, object] = field(default_factory=dict)


class Neighbours:
    """What other files of a workspace say that matters where the cursor is.

    The pieces stand first in an encoded context, so they change seldom. Once chosen they
    stay while the cursor is in the same block (a function or class, told by the headers
    around it; a blank line is of the block above it) or goes from line to line, as it
    does while one types. A whole word that names one more definition of the workspace
    adds this behind the others, which stay as they are. All are chosen anew where the
    budget is spent by then, where the cursor is set elsewhere, and where the text of
    another open file or of one that a piece is from has changed.

    Files are read again once they have changed. All costs are bounded, whatever the
    workspace holds, and nothing in it raises an error. Not for several threads.

    Raises:
        UsageError: a pattern of `exclude` is none.
    """

    def __init__(
        self, roots: Sequence[Path], exclude: Sequence[str] = (), budget: int = 1500
    ) -> None:
        """`budget` is how many characters the pieces have together, paths included."""
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
        """Pieces of other files for a cursor in a text, the most relevant last.

        `open_files` has texts as they are in the editor; `recent` has places in them by
        offset, the latest first.
        """
        document = None if path is None else Path(os.path.abspath(path))
        if document is not None and not self.fence.fillable(document):
            return ()
        self.modules.begin()
        others = dict(islice(_others(document, open_files), _OPEN))
        opened = {other: hash(said) for other, said in others.items()}
        scene = Scene(document, look(text, offset), others)
        choice = self._choices.get(document)
        if not choice or not self._holds(choice, scene, opened) or not self._add(choice, scene):
            former, choice = choice, Choice(scene.near, opened)
            self._choose(choice, scene, look(text, offset, everywhere=True).targets(), recent)
            # The same in another order is no reason to read all of it again.
            if former and set(former.pieces) == set(choice.pieces):
                choice.pieces = former.pieces
        choice.near = scene.near
        remember(self._choices, document, choice, _DOCUMENTS)
        return choice.pieces

    def _holds(self, choice: Choice, scene: Scene, opened: Mapping[Path, int]) -> bool:
        """Whether a choice is still for where the cursor is, from files that are as they were."""
        before, now = choice.near, scene.near
        return (
            (before.block == now.block or abs(before.row - now.row) <= _STEP)
            and choice.opened == opened
            and all(self.modules.state(p, scene.others) == s for p, s in choice.states.items())
        )

    def _choose(
        self,
        choice: Choice,
        scene: Scene,
        elsewhere: Sequence[Target],
        recent: Sequence[tuple[Path, int]],
    ) -> None:
        """Choose anew, also among what is used elsewhere in the document."""
        parts = Parts(self.budget)
        used = scene.near.targets()
        self._define(parts, choice, scene, used)
        choice.looked_up.update(used)
        # What is not used near may not take all the room of what the editor shows.
        kept = parts.room // 2 if scene.others else 0
        parts.room -= kept
        self._define(parts, choice, scene, elsewhere)
        parts.room += kept
        self._edited(parts, choice, scene, recent)
        self._alike(parts, choice, scene)
        choice.pieces = parts.pieces()

    def _add(self, choice: Choice, scene: Scene) -> bool:
        """Add what is used near by now and was not looked up, the nearest last, if it has room."""
        used = [t for t in reversed(scene.near.targets()) if t not in choice.looked_up]
        choice.looked_up.update(used)
        for path, definition in self._find(choice, scene, used):
            parts = Parts(self.budget)
            if not self._put(parts, choice, scene, path, definition):
                continue  # it would not have room alone
            choice.pieces += parts.pieces()
            if sum(len(piece.path) + 1 + len(piece.text) for piece in choice.pieces) > self.budget:
                return False
        return True

    def _define(
        self, parts: Parts, choice: Choice, scene: Scene, targets: Sequence[Target]
    ) -> None:
        """Put in the definitions of some targets, as many as there is room for."""
        new = [target for target in targets if target not in choice.looked_up]
        for path, definition in self._find(choice, scene, new):
            if parts.room < _SHORTEST:
                break
            self._put(parts, choice, scene, path, definition)

    def _put(
        self, parts: Parts, choice: Choice, scene: Scene, path: Path, definition: Definition
    ) -> bool:
        """Put in a definition, its head whole, if there is room for it."""
        name = self.fence.name(path)
        text = definition.text(parts.room_for(name, "definition"), scene.near.names())
        if text is None:
            return False
        parts.put(name, "definition", definition.line, text)
        choice.told.add((path, definition.name))
        choice.states[path] = self.modules.state(path, scene.others)
        return True

    def _find(
        self, choice: Choice, scene: Scene, targets: Iterable[Target]
    ) -> Iterator[tuple[Path, Definition]]:
        """The definitions in other files that some targets lead to and no piece tells yet."""
        for target in islice(targets, _LOOKED_UP):
            found = self.modules.find(scene.document, target, scene.others)
            if found and found[0] != scene.document:
                path, definition = found
                if (path, definition.name) not in choice.told:
                    yield path, definition

    def _edited(
        self, parts: Parts, choice: Choice, scene: Scene, recent: Sequence[tuple[Path, int]]
    ) -> None:
        """Put in the lines around places of other open files that were edited lately."""
        given: dict[Path, set[int]] = {}
        for where, offset in recent[:_PLACES]:
            path = Path(os.path.abspath(where))
            if path not in scene.others:
                continue
            row = scene.others[path].count("\n", 0, max(0, offset))
            rows = range(max(0, row - _NEAR_EDIT), row + _NEAR_EDIT + 1)
            if given.setdefault(path, set()).isdisjoint(rows):
                given[path].update(rows)
                self._put_lines(parts, choice, scene, path, "edit", rows)

    def _alike(self, parts: Parts, choice: Choice, scene: Scene) -> None:
        """Put in the part of each open file that shares most names with what is near."""
        names = scene.near.names()
        ranked = []
        for path in scene.others:
            if path in choice.states:
                continue  # what it says is there already
            chunks = self._chunk_names(path, self.modules.text(path, scene.others))
            scored = [(_share(names, chunk), -place) for place, chunk in enumerate(chunks)]
            best, place = max(scored, default=(0.0, 0))
            if best >= _ALIKE:
                ranked.append((-best, str(path), path, -place * _CHUNK))
        for _, _, path, first in sorted(ranked):
            self._put_lines(parts, choice, scene, path, "alike", range(first, first + _CHUNK))

    def _put_lines(
        self, parts: Parts, choice: Choice, scene: Scene, path: Path, kind: str, rows: range
    ) -> None:
        """Put in as many of some lines as there is room for, unless these are very few."""
        name = self.fence.name(path)
        room = parts.room_for(name, kind)
        lines = self.modules.text(path, scene.others).split("\n")[rows.start : rows.stop]
        text = "\n".join(lines).strip("\n") + "\n"
        whole = len(text) <= room
        if not whole:
            text = text[: text.rfind("\n", 0, max(0, room)) + 1]
        if text.strip() and (whole or len(text) >= _SHORTEST):
            parts.put(name, kind, rows.start, text)
            choice.states[path] = self.modules.state(path, scene.others)

    def _chunk_names(self, path: Path, text: str) -> list[frozenset[str]]:
        """The names in each chunk of a text, remembered while it stays."""
        known = self._chunks.get(path)
        if known is None or known[0] != text:
            lines = text.split("\n")
            chunks = ("\n".join(lines[at : at + _CHUNK]) for at in range(0, len(lines), _CHUNK))
            known = (text, [frozenset(_NAME.findall(chunk)) for chunk in chunks])
        remember(self._chunks, path, known, 2 * _OPEN)
        return known[1]


def look(text: str, offset: int, everywhere: bool = False) -> Near:
    """What a text says where the cursor is; with `everywhere`, wherever it is looked at.

    The line of the cursor counts, but not the word that the cursor touches.
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
    """The rows of the headers of functions and classes around a line, innermost first.

    A blank line is of the block that the line above it is of, or opens.
    """
    headers: list[int] = []
    limit = _indent(line) if line.strip() else None
    for row in range(len(above) - 1, -1, -1):
        if limit and above[row][:limit].isspace():
            continue
        # A comment may stand anywhere, and what closes a bracket far left.
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
    """How many of some lines are deeper than a header, as far as they count."""
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
    """The names in a line, without the part of a name that the cursor between both touches."""
    for found in _CHAIN.finditer(left + right):
        chain, cursor = found[0], len(left) - found.start()
        if 0 < cursor <= len(chain):
            chain = chain[:cursor].rpartition(".")[0]
        if chain:
            yield chain


def _share(one: frozenset[str], other: frozenset[str]) -> float:
    """How much of what either says both say."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0

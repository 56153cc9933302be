"""The modules of a workspace: what they say, and where an import leads.

Nothing is walked: a module is looked for where its name says it can be.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from talaria.lsp.outline import Definition, Import, Outline, outline
from talaria.lsp.privacy import MAX_BYTES, Fence, read, without_secrets

Target = tuple[Import, tuple[str, ...]]
"""An import, and the attributes that are asked of it in turn."""

_SOURCES = ("", "src", "lib")  # folders of a root in which modules may begin
_DEEPEST = 16  # parts of a module's name, and folders above a file
_HOPS = 2  # from a module that passes a name on to the one that defines it
_STARS = 32  # modules of which a module takes all names
_REMEMBERED = 256  # files
_AT_ONCE = 1_500_000  # characters that are read anew for one answer

NOTHING = Outline({}, {}, ())

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class Module:
    """Where a module lies: its file, if it has one, and the folder of what is within it."""

    file: Path | None
    folder: Path


class Modules:
    """Texts and outlines of files behind a fence, remembered while the files stay as they are.

    `opened` has the texts of files that are open in an editor: they count for more than
    what the disk says. Nothing that a file holds or lacks raises an error.
    """

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self.room = _AT_ONCE
        self._texts: OrderedDict[Path, tuple[object, str]] = OrderedDict()
        self._outlines: OrderedDict[Path, tuple[object, Outline]] = OrderedDict()

    def state(self, path: Path, opened: Mapping[Path, str]) -> object | None:
        """What changes when a file's text does; None where it may not or cannot be read."""
        if not self.fence.readable(path):
            return None
        if path in opened:
            text = opened[path]
            return (len(text), hash(text)) if len(text) <= MAX_BYTES else None
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        sound = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES
        return (status.st_mtime_ns, status.st_size, status.st_ino) if sound else None

    def begin(self) -> None:
        """Begin a new answer: as much as one may take can be read anew."""
        self.room = _AT_ONCE

    def text(self, path: Path, opened: Mapping[Path, str]) -> str:
        """The text of a file without what looks secret; empty where it cannot be read."""
        state = self.state(path, opened)
        if state is None:
            return ""
        known = self._texts.get(path)
        if known is None or known[0] != state:
            if self.room <= 0:
                return ""
            text = (opened[path] if path in opened else read(path)) or ""
            self.room -= len(text)
            known = (state, without_secrets(text))
        remember(self._texts, path, known, _REMEMBERED)
        return known[1]

    def outline(self, path: Path, opened: Mapping[Path, str]) -> Outline:
        """What a file defines and imports; nothing where it cannot be read."""
        state = self.state(path, opened)
        known = self._outlines.get(path)
        if known is None or known[0] != state:
            text = self.text(path, opened)
            if not text:
                return NOTHING
            known = (state, outline(text))
        remember(self._outlines, path, known, _REMEMBERED)
        return known[1]

    def find(
        self, importing: Path | None, target: Target, opened: Mapping[Path, str], hops: int = _HOPS
    ) -> tuple[Path, Definition] | None:
        """The file and the definition that an imported name leads to, if the workspace has it."""
        imported, attributes = target
        module = self._module(importing, imported)
        names = (imported.name, *attributes) if imported.name else attributes
        for place, name in enumerate(names[:_DEEPEST]):
            if module is None:
                return None
            if module.file:
                said = self.outline(module.file, opened)
                if name in said.definitions:
                    return module.file, said.definitions[name]
                rest = names[place + 1 :]
                on = [(said.imports[name], rest)] if name in said.imports else []
                on += [
                    (Import(star.level, star.module, name), rest) for star in said.stars[:_STARS]
                ]
                for passed in on if hops else ():
                    if found := self.find(module.file, passed, opened, hops - 1):
                        return found
            module = self._locate(module.folder / name)
        return None

    def _module(self, importing: Path | None, imported: Import) -> Module | None:
        parts = imported.module.split(".") if imported.module else []
        if len(parts) > _DEEPEST or "" in parts or imported.level > _DEEPEST:
            return None
        namespace = None
        for start in self._starts(importing, imported.level):
            found = self._locate(start.joinpath(*parts))
            if found and found.file:
                return found
            namespace = namespace or found
        return namespace

    def _starts(self, importing: Path | None, level: int) -> Iterator[Path]:
        """The folders in which the name of an imported module may begin."""
        if level:
            if importing and level <= len(importing.parents):
                yield importing.parents[level - 1]
            return
        for folder in importing.parents[:_DEEPEST] if importing else ():
            if not self.fence.contains(folder):
                break
            # In a package, names begin outside.
            if not _is_file(folder / "__init__.py"):
                yield from (folder / source for source in _SOURCES)
        for root in self.fence.roots:
            yield from (root / source for source in _SOURCES)

    def _locate(self, place: Path) -> Module | None:
        if not self.fence.contains(place):
            return None
        package = place / "__init__.py"
        # No dot in the name: with_suffix adds one.
        for file in (package, place.with_suffix(".py"), place.with_suffix(".pyi")):
            if place.name and _is_file(file):
                return Module(file, place)
        return Module(None, place) if _is_folder(place) else None


def remember(kept: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Keep a value as the latest; of more than `most`, the longest unused go."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False

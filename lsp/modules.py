"""The modules of a workspace: their outlines, and where an import leads.

No folder is walked: a module is looked up only where its name allows it to be.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from talaria.coder.privacy import MAX_BYTES, Fence, read, without_secrets
from talaria.lsp.outline import Definition, Import, Outline, outline

ImportTarget = tuple[Import, tuple[str, ...]]
"""An import, and the chain of attributes used on it."""

_SOURCES = ("", "src", "lib")  # folders of a root that may hold top-level modules
_DEEPEST = 16  # parts of a module's name; folders above a file
_HOPS = 2  # re-exports followed from an import to the definition
_STARS = 32  # star imports of a module that are followed
_CACHED = 256  # files
_READ_LIMIT = 1_500_000  # characters read from files for one request

NOTHING = Outline({}, {}, ())

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class Module:
    """Where a module is: its file, if it has one, and the folder of its submodules."""

    file: Path | None
    folder: Path


class Modules:
    """Texts and outlines of the files that a fence allows, cached until the files change.

    `opened` has the texts of files open in the editor, which take precedence over the disk. No
    content of a file, and no missing file, raises an error.
    """

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self.left_to_read = _READ_LIMIT
        self._texts: OrderedDict[Path, tuple[object, str]] = OrderedDict()
        self._outlines: OrderedDict[Path, tuple[object, Outline]] = OrderedDict()

    def state(self, path: Path, opened: Mapping[Path, str]) -> object | None:
        """A value that changes with a file's text; None if it may not or cannot be read."""
        if not self.fence.readable(path):
            return None
        if path in opened:
            text = opened[path]
            return (len(text), hash(text)) if len(text) <= MAX_BYTES else None
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        readable = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES
        return (status.st_mtime_ns, status.st_size, status.st_ino) if readable else None

    def begin(self) -> None:
        """Start a new request, with a fresh limit on what is read."""
        self.left_to_read = _READ_LIMIT

    def text(self, path: Path, opened: Mapping[Path, str]) -> str:
        """The text of a file without secret-looking lines; empty if it cannot be read."""
        state = self.state(path, opened)
        if state is None:
            return ""
        known = self._texts.get(path)
        if known is None or known[0] != state:
            if self.left_to_read <= 0:
                return ""
            text = (opened[path] if path in opened else read(path)) or ""
            self.left_to_read -= len(text)
            known = (state, without_secrets(text))
        remember(self._texts, path, known, _CACHED)
        return known[1]

    def outline(self, path: Path, opened: Mapping[Path, str]) -> Outline:
        """What a file defines and imports; empty if it cannot be read."""
        state = self.state(path, opened)
        known = self._outlines.get(path)
        if known is None or known[0] != state:
            text = self.text(path, opened)
            if not text:
                return NOTHING
            known = (state, outline(text))
        remember(self._outlines, path, known, _CACHED)
        return known[1]

    def find(
        self,
        importing: Path | None,
        target: ImportTarget,
        opened: Mapping[Path, str],
        hops: int = _HOPS,
    ) -> tuple[Path, Definition] | None:
        """The file and definition that an imported name refers to, if the workspace has it."""
        imported, attributes = target
        module = self._module(importing, imported)
        names = (imported.name, *attributes) if imported.name else attributes
        for place, name in enumerate(names[:_DEEPEST]):
            if module is None:
                return None
            if module.file:
                found_outline = self.outline(module.file, opened)
                if name in found_outline.definitions:
                    return module.file, found_outline.definitions[name]
                rest, known = names[place + 1 :], found_outline.imports
                exports = [(known[name], rest)] if name in known else []
                exports += [
                    (Import(star.level, star.module, name), rest)
                    for star in found_outline.stars[:_STARS]
                ]
                for export in exports if hops else ():
                    if found := self.find(module.file, export, opened, hops - 1):
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
        """The folders in which an imported module may be looked up."""
        if level:
            if importing and level <= len(importing.parents):
                yield importing.parents[level - 1]
            return
        for folder in importing.parents[:_DEEPEST] if importing else ():
            if not self.fence.contains(folder):
                break
            # A package is not a starting point; the folder around it is.
            if not _is_file(folder / "__init__.py"):
                yield from (folder / source for source in _SOURCES)
        for root in self.fence.roots:
            yield from (root / source for source in _SOURCES)

    def _locate(self, place: Path) -> Module | None:
        if not self.fence.contains(place):
            return None
        package = place / "__init__.py"
        # The name has no dot, so with_suffix appends.
        for file in (package, place.with_suffix(".py"), place.with_suffix(".pyi")):
            if place.name and _is_file(file):
                return Module(file, place)
        return Module(None, place) if _is_folder(place) else None


def remember(kept: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Store a value as the most recent one; beyond `most`, drop the least recently used."""
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

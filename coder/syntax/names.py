"""What the modules of the standard library define, read from their sources and never imported.

Of those without a source, the ones that are loaded already are asked.
"""

from __future__ import annotations

import ast
import os.path
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

LARGEST = 400_000  # bytes of a module that is read


@lru_cache(maxsize=64)
def members(module: str) -> frozenset[str]:
    """The names that a module of the standard library defines; empty where that is not known.

    It is not known of modules without a source that are not loaded, nor of those that import
    everything from such a one.
    """
    if module == "os.path":
        module = os.path.__name__
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return frozenset()
    if (loaded := sys.modules.get(module)) and not getattr(loaded, "__file__", "").endswith(".py"):
        return frozenset(dir(loaded))
    place = Path(sysconfig.get_path("stdlib"), *module.split("."))
    package = place / "__init__.py"
    try:
        file = package if package.is_file() else place.with_suffix(".py")
        with file.open("rb") as source:
            tree = ast.parse(source.read(LARGEST))
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    names = set(_defined(tree))
    if "*" in names:
        return frozenset()
    if file == package:
        names |= {each.stem for each in place.iterdir() if each.suffix == ".py" or each.is_dir()}
    return frozenset(names)


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module's own statements bind, branches included, functions left out."""
    stack: list[ast.AST] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield from _all_of(node.module if not node.level else None)
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif not isinstance(node, ast.Lambda):
            stack.extend(ast.iter_child_nodes(node))


def _all_of(module: str | None) -> Iterator[str]:
    """The names that everything of a module is; `*` if they are not known."""
    known = members(module) if module else frozenset()
    if known:
        yield from (name for name in known if not name.startswith("_"))
    elif not module or "." in module or find_spec(module) is not None:
        yield "*"  # a module of another system (`nt`) gives nothing here

"""What the modules of the standard library define, read from their sources and never imported."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

LARGEST = 400_000  # bytes of a module that is read


@lru_cache(maxsize=64)
def members(module: str) -> frozenset[str]:
    """The names that a module of the standard library defines; empty where that is not known.

    It is not known of modules without a source, and of those that import everything from another.
    """
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return frozenset()
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
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif not isinstance(node, ast.Lambda):
            stack.extend(ast.iter_child_nodes(node))

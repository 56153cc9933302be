"""A short outline of a module: its definitions and re-exports.

A module with syntax errors still gets an outline of what can be parsed.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import tree_sitter_python
from tree_sitter import Language, Node, Parser

IMPORTS_REACH = 100_000
"""How many characters at the start of a file are searched for imports."""

_MAX_DEFINITIONS = 1_000  # of a module
_MAX_MEMBERS = 100  # of a class
_LONGEST = 100  # characters of an assignment or a decorator
_SHORT_BODY = 80  # characters: a function this much longer than its outline stays whole
_DEEPEST = 3  # nested conditions at the top of a module, such as `try:` and `if TYPE_CHECKING:`

_STATEMENT = re.compile(
    r"[ \t]*(?:from[ \t]+(?P<module>\.*[ \t]*[\w.]*)[ \t]+import[ \t]*"
    r"(?P<names>\([^()]{0,8000}\)|[^\n\\]*(?:\\\n[^\n\\]*){0,50})"
    r"|import[ \t]+(?P<modules>[^\n\\]*(?:\\\n[^\n\\]*){0,50}))"
)
_IMPORT = re.compile(r"import[ \t(*\\]")
_BOUND = re.compile(r"(\*|[^\W\d][\w.]*)(?:\s+as\s+([^\W\d]\w*))?$")


@dataclass(frozen=True)
class Import:
    """What an imported name refers to.

    level   number of leading dots
    module  dotted name; empty in `from . import name`
    name    imported from the module; None for the module itself, "*" for all names
    """

    level: int
    module: str
    name: str | None


@dataclass(frozen=True)
class Definition:
    """A function, class or variable at the top of a module.

    line     where it starts
    head     decorators, signature and the first docstring line; a short definition is whole
    members  of a class: name and text of each attribute and method, in source order
    """

    name: str
    line: int
    head: str
    members: tuple[tuple[str, str], ...] = ()

    def text(self, room: int, wanted: Collection[str]) -> str | None:
        """The outline in at most `room` characters; None if the head does not fit.

        If not all members fit, wanted ones come first, then constructors, then public ones.
        """
        room -= len(self.head)
        if room < 0:
            return None
        ranked = sorted(
            range(len(self.members)),
            key=lambda i: (
                self.members[i][0] not in wanted,
                self.members[i][0] not in ("", "__init__"),
                self.members[i][0].startswith("_"),
                i,
            ),
        )
        kept = []
        for place in ranked:
            length = len(self.members[place][1])
            if length <= room:
                kept.append(place)
                room -= length
        return self.head + "".join(self.members[place][1] for place in sorted(kept))


@dataclass(frozen=True)
class Outline:
    """The definitions of a module by name, its imports by name, and its star imports."""

    definitions: dict[str, Definition]
    imports: dict[str, Import]
    stars: tuple[Import, ...]


def imports(text: str) -> tuple[dict[str, Import], tuple[Import, ...]]:
    """The names that a text imports, and its star imports.

    Of a statement that is still being written, only valid names count.
    """
    bound: dict[str, Import] = {}
    stars: list[Import] = []
    done = 0
    # Searching for the word `import` first is many times faster than matching statements.
    for word in _IMPORT.finditer(text, 0, IMPORTS_REACH):
        begin = text.rfind("\n", 0, word.start()) + 1
        statement = _STATEMENT.match(text, begin) if begin >= done else None
        if statement is None:
            continue
        done = statement.end()
        for name, found in _bound(statement["module"], statement["names"] or statement["modules"]):
            if found.name == "*":
                stars.append(found)
            else:
                bound[name] = found
    return bound, tuple(stars)


@lru_cache(maxsize=1024)
def _bound(module: str | None, names: str | None) -> tuple[tuple[str, Import], ...]:
    found = []
    # Each name may have a comment, which may contain commas.
    plain = re.sub(r"#[^\n]*", "", names or "").replace("\\\n", " ").strip(" \t()\n")
    for part in re.split(r"[,;]", plain):
        matched = _BOUND.match(part.strip())
        if not matched:
            continue
        name, alias = matched[1], matched[2]
        if module is None:
            # `import a.b` binds `a`; `import a.b as c` binds the submodule.
            top = name.split(".")[0]
            found.append((alias or top, Import(0, name if alias else top, None)))
        else:
            dotted = re.sub(r"[ \t]", "", module)
            level = len(dotted) - len(dotted.lstrip("."))
            found.append((alias or name, Import(level, dotted[level:], name)))
    return tuple(found)


def outline(text: str) -> Outline:
    """The outline of a module's text."""
    data = text.encode("utf-8", "replace")
    definitions: dict[str, Definition] = {}
    for definition in _definitions(data, Parser(_language()).parse(data).root_node, 0):
        # The first of several wins: an overload says more than the implementation.
        definitions.setdefault(definition.name, definition)
        if len(definitions) >= _MAX_DEFINITIONS:
            break
    return Outline(definitions, *imports(text))


@cache
def _language() -> Language:
    return Language(tree_sitter_python.language())


def _definitions(data: bytes, node: Node, depth: int) -> Iterator[Definition]:
    for child in node.children:
        kind = child.type
        inner = child.child_by_field_name("definition") if kind == "decorated_definition" else child
        if inner is not None and inner.type in ("function_definition", "class_definition"):
            name = _text(data, inner.child_by_field_name("name"))
            head, entire = _head(data, child, inner)
            has_members = inner.type == "class_definition" and not entire
            members = _members(data, inner) if has_members else ()
            yield Definition(name, child.start_point[0], head, members)
        elif kind == "expression_statement":
            name, line = _assignment(data, child)
            if name:
                yield Definition(name, child.start_point[0], f"{line}\n")
        elif depth < _DEEPEST and kind in (
            *("if_statement", "try_statement", "else_clause", "elif_clause", "except_clause"),
            *("with_statement", "block", "ERROR"),
        ):
            yield from _definitions(data, child, depth + (kind != "block"))


def _head(data: bytes, whole: Node, inner: Node) -> tuple[str, bool]:
    """The decorators, signature and first docstring line of a definition, dedented.

    With True if it is the whole definition, because that is hardly longer.
    """
    body = inner.child_by_field_name("body")
    column = " " * inner.start_point[1]
    lines = [
        column + line
        for line in (_text(data, child) for child in whole.children if child.type == "decorator")
        if "\n" not in line and len(line) <= _LONGEST
    ]
    colon = next((c for c in inner.children if c.type == ":"), None)
    end = colon.end_byte if colon else inner.end_byte
    lines.append(column + data[inner.start_byte : end].decode("utf-8", "replace"))
    if body and (docstring := _docstring_line(data, body)):
        lines.append(f'{column}    """{docstring}"""')
    short = textwrap.dedent("\n".join(lines)) + "\n"
    entire = textwrap.dedent(column + _text(data, whole)) + "\n"
    whole_too = len(entire) <= len(short) + _SHORT_BODY
    return (entire, True) if whole_too else (short, False)


def _members(data: bytes, node: Node) -> tuple[tuple[str, str], ...]:
    """The attributes and methods of a class; `__init__` includes the attributes it sets."""
    body = node.child_by_field_name("body")
    members: list[tuple[str, str]] = []
    if body is None or _text(data, node).count("\n") == 0:
        return ()
    for child in body.children[: 4 * _MAX_MEMBERS]:
        inner = child
        if child.type == "decorated_definition":
            inner = child.child_by_field_name("definition") or child
        if inner.type == "function_definition":
            name = _text(data, inner.child_by_field_name("name"))
            text, _ = _head(data, child, inner)
            method = inner.child_by_field_name("body")
            if name == "__init__" and method is not None:
                lines = [_assignment(data, statement)[1] for statement in method.children]
                text += "".join(
                    f"    {line}\n"
                    for line in lines
                    if line.startswith("self.") and f"    {line}\n" not in text
                )
            members.append((name, "\n" + textwrap.indent(text, "    ")))
        elif child.type == "expression_statement":
            name, line = _assignment(data, child)
            if name:
                members.append((name, f"    {line}\n"))
        if len(members) >= _MAX_MEMBERS:
            break
    return tuple(members)


def _assignment(data: bytes, statement: Node) -> tuple[str, str]:
    """Target and text of a one-line assignment or annotation; empty for other statements."""
    if statement.type != "expression_statement" or len(statement.children) != 1:
        return "", ""
    value = statement.children[0]
    left = value.child_by_field_name("left") if value.type == "assignment" else None
    line = _text(data, statement)
    if left is None or left.type not in ("identifier", "attribute") or "\n" in line:
        return "", ""
    return (_text(data, left), line) if len(line) <= _LONGEST else ("", "")


def _docstring_line(data: bytes, body: Node) -> str:
    """The first line of a docstring; empty if it cannot be put between triple quotes."""
    first = next((child for child in body.children if child.type != "comment"), None)
    if first is None or first.type != "expression_statement" or first.children[0].type != "string":
        return ""
    content = "".join(
        _text(data, part) for part in first.children[0].children if part.type == "string_content"
    )
    line = content.strip().split("\n")[0].strip()
    return "" if '"""' in line or line.endswith(('"', "\\")) else line


def _text(data: bytes, node: Node | None) -> str:
    return "" if node is None else data[node.start_byte : node.end_byte].decode("utf-8", "replace")

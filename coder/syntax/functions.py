"""Functions and their bodies: what decoding rewrites and training learns to write.

Offsets are in characters of the text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node

from talaria.coder.errors import SourceError
from talaria.coder.syntax.tree import captured, encode, parse

# What may stand among the statements of a block without being one.
_BETWEEN_STATEMENTS = frozenset({"comment", "line_continuation", ";"})


@dataclass(frozen=True)
class FunctionBody:
    """The part of a function to write or rewrite, `text[start:end]`.

    Signature, decorators, docstring and the comments before the first statement are not part of
    it. It begins behind the first statement's indentation and ends without a line break.

    indentation  what each further line of the body begins with
    name         qualified: `name`, `Class.method` or `outer.inner`
    lead         to be put before whatever is written; empty unless the function has no statement
    documented   whether the function has a docstring
    """

    start: int
    end: int
    indentation: str
    name: str
    lead: str = ""
    documented: bool = False


def find_function(text: str, qualified_name: str) -> FunctionBody:
    """Find the body of `name`, `Class.method` or `outer.inner` in a possibly broken text.

    Of several functions with one name, the first that is not an `@overload` is taken: the
    implementation rather than its stubs, the getter of a property rather than its setter. If the
    function itself is broken, its body ends before the first line that is indented no deeper
    than its `def`.

    Raises:
        SourceError: the text has no such function; the message names similar ones.
    """
    data = encode(text)
    root = parse(data).root_node
    functions = list(_functions(root))
    named = [node for name, node in functions if name == qualified_name]
    if not named:
        raise SourceError(_not_found(qualified_name, [name for name, _ in functions], root))
    node = next((node for node in named if not _is_overload(node)), named[0])
    return _body(text, data, node, qualified_name)


def function_at(text: str, offset: int) -> FunctionBody | None:
    """Find the body of the innermost function around a cursor; None if there is none.

    A function includes its decorators and its header, and a blank line below it in which the
    cursor is indented deeper than its `def`.
    """
    data = encode(text)
    place = len(encode(text[:offset]))
    found = None
    for name, node in _functions(parse(data).root_node):
        decorated = node.parent is not None and node.parent.type == "decorated_definition"
        whole = node.parent if decorated and node.parent else node
        end = whole.end_byte
        column = place - (data.rfind(b"\n", 0, place) + 1)
        if place > end and not data[end:place].strip() and column > whole.start_point[1]:
            end = place
        if whole.start_byte <= place <= end and _has_colon(node):
            found = name, node
    return _body(text, data, found[1], found[0]) if found else None


def function_bodies(text: str) -> list[FunctionBody]:
    """List the bodies of all functions that have statements, in the order of the text."""
    data = encode(text)
    bodies = (
        _body(text, data, node, name)
        for name, node in _functions(parse(data).root_node)
        if _has_colon(node)
    )
    return [body for body in bodies if not body.lead]


def _functions(root: Node) -> Iterator[tuple[str, Node]]:
    """Yield each function with its qualified name, in the order of the text."""
    enclosing: list[tuple[int, str]] = []  # (end byte, qualified name), outermost first
    for node in captured("[(function_definition) (class_definition)] @it", root):
        while enclosing and enclosing[-1][0] <= node.start_byte:
            enclosing.pop()
        identifier = node.child_by_field_name("name")
        own = identifier.text.decode() if identifier and identifier.text else ""
        name = f"{enclosing[-1][1]}.{own}" if enclosing else own
        enclosing.append((node.end_byte, name))
        if node.type == "function_definition":
            yield name, node


def _has_colon(function: Node) -> bool:
    """Whether a function, which may be broken, has a header to the end."""
    return any(child.type == ":" for child in function.children)


def _is_overload(function: Node) -> bool:
    decorated = function.parent
    if decorated is None or decorated.type != "decorated_definition":
        return False
    decorators = [child.text or b"" for child in decorated.children if child.type == "decorator"]
    return any(re.fullmatch(rb"@\s*(?:\w+\.)*overload\s*", text) for text in decorators)


def _is_docstring(statement: Node) -> bool:
    """Whether a function's first statement documents it: a string, or several joined ones."""
    if statement.type != "expression_statement" or len(statement.children) != 1:
        return False
    value = statement.children[0]
    parts = value.children if value.type == "concatenated_string" else [value]
    quotes = [part.children[0].text for part in parts if part.type == "string" and part.children]
    # Bytes, f-strings and t-strings are values, not documentation.
    return len(quotes) == len(parts) and not any(
        re.match(rb"[^'\"]*[bft]", q or b"", re.I) for q in quotes
    )


def _body(text: str, data: bytes, function: Node, name: str) -> FunctionBody:
    """The body of a function with a colon, whose node is of the tree of `data`."""

    def characters(byte: int) -> int:
        return len(data[:byte].decode("utf-8", "ignore"))

    def before_on_line(offset: int) -> str:
        return re.split(r"[\r\n]", text[:offset])[-1]

    children = function.children
    colon = next(i for i, child in enumerate(children) if child.type == ":")
    # In a broken body, some statements may be siblings of the block rather than its children.
    statements = [
        node
        for child in children[colon + 1 :]
        for node in (child.children if child.type == "block" else [child])
        if node.type not in _BETWEEN_STATEMENTS
    ]
    header = re.match(r"[ \t]*", before_on_line(characters(function.start_byte)) + "x")
    outer = header[0] if header else ""
    indentation = outer + ("\t" if re.search(r"^\t", text, re.MULTILINE) else "    ")
    own_line = True
    if statements:
        before = before_on_line(characters(statements[0].start_byte))
        own_line = not before.strip()
        indentation = before if own_line else indentation

    last = children[colon]
    documented = bool(statements) and _is_docstring(statements[0])
    if documented:
        last = statements.pop(0)
    if statements:
        start, end = characters(statements[0].start_byte), characters(function.end_byte)
        if function.has_error:
            strings = [
                (characters(node.start_byte), characters(node.end_byte))
                for node in captured("(string) @it", function)
            ]
            end = _dedent(text, start, end, len(outer), strings)
        end = start + len(text[start:end].rstrip())
        return FunctionBody(start, end, indentation, name, documented=documented)

    start = characters(last.end_byte)
    if not own_line:  # def f(): "documentation"
        return FunctionBody(start, start, indentation, name, "; ", documented)
    # Comments may say what to write, so they stay before it.
    comments = re.compile(rf"(?:[ \t]*#[^\r\n]*)?(?:\s*[\r\n]{outer}[ \t]+#[^\r\n]*)*")
    if found := comments.match(text, start):
        start = found.end()
    return FunctionBody(start, start, indentation, name, "\n" + indentation, documented)


def _dedent(text: str, start: int, end: int, width: int, strings: list[tuple[int, int]]) -> int:
    """Where indentation ends a broken body, whose node may have swallowed what follows it.

    width    the indentation of the function's header
    strings  [start, end) of the strings in the body, whose lines may stand anywhere
    """
    # A closing bracket may stand that far left as well.
    for line in re.compile(r"[\r\n]([ \t]*)[^\s#)\]}]").finditer(text, start, end):
        inside = any(low <= line.start() < high for low, high in strings)
        if len(line[1]) <= width and not inside:
            return line.start()
    return end


def _not_found(name: str, functions: list[str], root: Node) -> str:
    """The message that there is no such function, with similar names."""
    if not functions:
        known = "the file has no functions; give a position, FILE:LINE:COL"
    else:
        names = list(dict.fromkeys(functions))
        related = [n for n in names if n.endswith(f".{name}") or n.startswith(f"{name}.")]
        similar = difflib.get_close_matches(name, names, n=5)
        close = ", ".join(list(dict.fromkeys(related + similar))[:5])
        count = f"{len(names)} function" + ("s" if len(names) > 1 else "")
        known = f"the file has {count}; " + (
            f"close matches: {close}" if close else "give NAME, Class.method or outer.inner"
        )
    hidden = "; its syntax errors may hide some" if root.has_error else ""
    return f"no function {name!r}: {known}{hidden}"

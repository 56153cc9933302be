"""Functions and their bodies: what decoding rewrites and training learns to write.

Offsets are in characters of the text.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node

from talaria.coder.errors import SourceError
from talaria.coder.syntax.python import parsed
from talaria.coder.syntax.standing import standing_in
from talaria.coder.syntax.tree import captured, encode, parse

# What may stand among the statements of a block without being one.
_BETWEEN_STATEMENTS = frozenset({"comment", "line_continuation", ";"})
_OVERLOAD = re.compile(rb"@\s*(?:\w+\.)*overload\s*")
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class FunctionBody:
    """The part of a function to write or rewrite, `text[start:end]`.

    Signature, decorators, docstring and the comments before the first statement are not part of
    it. It begins behind the first statement's indentation (of a function on one line, behind its
    colon) and ends without a line break.

    indentation  what each further line of the body begins with
    name         qualified: `name`, `Class.method` or `outer.inner`
    lead         to be put before whatever is written; empty unless the function has no statement,
                 or has its statements on the line of its header
    documented   whether the function has a docstring
    """

    start: int
    end: int
    indentation: str
    name: str
    lead: str = ""
    documented: bool = False


def find_function(text: str, qualified_name: str, line: int | None = None) -> FunctionBody:
    """Find the body of `name`, `Class.method` or `outer.inner` in a possibly broken text.

    An `@overload` only declares: the implementation is taken, if there is one. If several functions
    still fit (a property and its setter, a redefinition), `line` chooses the one whose header or
    body it is in. If the function itself is broken, its body ends before the first line that is
    indented no deeper than its `def`.

    Raises:
        SourceError: the text has no such function; the message names similar ones. Or it has
            several; the message says where, and how to choose.
    """
    data = encode(text)
    root = parse(data).root_node
    functions = list(_functions(text, data, root))
    named = [each for each in functions if each.name == qualified_name]
    if not named:
        names = [each.name for each in functions]
        broken = root.has_error and parsed(text) is None
        raise SourceError(_not_found(qualified_name, names, broken))
    if line is None:
        fitting = [each for each in named if not each.overload] or named
    else:
        fitting = [each for each in named if each.first <= line <= each.last]
    if len(fitting) == 1:
        return _body(text, data, fitting[0])
    places = [str(each.line) for each in (fitting or named)]
    where = f"{', '.join(places[:-1])} and {places[-1]}" if places[1:] else places[0]
    lines = f"line{'s' * (len(places) > 1)} {where}"
    if line is None:
        raise SourceError(
            f"{len(places)} functions are named {qualified_name!r}, at {lines}: choose one by a "
            f"line of it, as in FILE::{qualified_name}@{places[-1]}"
        )
    raise SourceError(f"no function {qualified_name!r} at line {line}: it is at {lines}")


def function_at(text: str, offset: int) -> FunctionBody | None:
    """Find the body of the innermost function around a cursor; None if there is none.

    A function includes its decorators and its header, and a blank line below it in which the
    cursor is indented deeper than its `def`.
    """
    data = encode(text)
    place = len(encode(text[:offset]))
    found = None
    for each in _functions(text, data, parse(data).root_node):
        end = each.end
        column = place - (data.rfind(b"\n", 0, place) + 1)
        if place > end and not data[end:place].strip() and column > each.column:
            end = place
        if each.start <= place <= end and each.whole:
            found = each
    return _body(text, data, found) if found else None


def function_bodies(text: str) -> list[FunctionBody]:
    """List the bodies of all functions that have statements, in the order of the text."""
    data = encode(text)
    functions = _functions(text, data, parse(data).root_node)
    bodies = [(each, _body(text, data, each)) for each in functions if each.whole]
    return [body for each, body in bodies if each.statements[each.documented :]]


@dataclass(frozen=True)
class _Function:
    """A function of a text, with offsets in bytes and lines from 1.

    start, column  where it begins, decorators included, and the indentation there
    header, end    where its `def` begins, and where it ends
    line           of its `def`
    statements     where each of its own statements begins
    documented     whether the first of them is a docstring
    behind         where its header ends or, if it has one, its docstring
    whole          whether it has a header to the end
    node           in a tree with errors
    """

    name: str
    start: int
    header: int
    end: int
    column: int
    first: int
    line: int
    last: int
    statements: list[int]
    documented: bool
    behind: int
    whole: bool
    overload: bool
    node: Node | None = None


def _functions(text: str, data: bytes, root: Node) -> Iterator[_Function]:
    """Yield each function, in the order of the text.

    Where tree-sitter finds errors that Python does not (a bracket that goes on further left than
    its block, for example), Python is right.
    """
    if root.has_error and (tree := parsed(text)) is not None:
        yield from _python_functions(data, tree)
        return
    enclosing: list[tuple[int, str]] = []  # (end byte, qualified name), outermost first
    for node in captured("[(function_definition) (class_definition)] @it", root):
        while enclosing and enclosing[-1][0] <= node.start_byte:
            enclosing.pop()
        identifier = node.child_by_field_name("name")
        own = identifier.text.decode() if identifier and identifier.text else ""
        name = f"{enclosing[-1][1]}.{own}" if enclosing else own
        enclosing.append((node.end_byte, name))
        if node.type == "function_definition":
            yield _from_node(name, node)


def _from_node(name: str, node: Node) -> _Function:
    """A function from its node, which may be broken."""
    above = node.parent
    whole = above if above is not None and above.type == "decorated_definition" else node
    children = node.children
    colon = next((place for place, child in enumerate(children) if child.type == ":"), None)
    # In a broken body, some statements may be siblings of the block rather than its children.
    statements = [
        each
        for child in children[len(children) if colon is None else colon + 1 :]
        for each in (child.children if child.type == "block" else [child])
        if each.type not in _BETWEEN_STATEMENTS
    ]
    documented = bool(statements) and _is_docstring(statements[0])
    last = statements[0] if documented else children[-1 if colon is None else colon]
    decorators = [child.text or b"" for child in whole.children if child.type == "decorator"]
    return _Function(
        name,
        whole.start_byte,
        node.start_byte,
        whole.end_byte,
        whole.start_point[1],
        whole.start_point[0] + 1,
        node.start_point[0] + 1,
        whole.end_point[0] + 1,
        [each.start_byte for each in statements],
        documented,
        last.end_byte,
        colon is not None,
        any(_OVERLOAD.fullmatch(text) for text in decorators),
        node if node.has_error else None,
    )


def _python_functions(data: bytes, tree: ast.Module) -> Iterator[_Function]:
    """The functions of a text that Python parses, from its own tree."""
    lines = [0, *(found.end() for found in re.finditer(rb"\r\n|\r|\n", data))]
    stack: list[tuple[str, ast.AST]] = [("", tree)]
    found = []
    while stack:
        around, node = stack.pop()
        name = around
        if isinstance(node, _NAMED):
            name = f"{around}.{node.name}" if around else node.name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(_from_python(name, node, data, lines))
        stack += [(name, child) for child in ast.iter_child_nodes(node)]
    yield from sorted(found, key=lambda each: (each.start, -each.end))


def _from_python(
    name: str, node: ast.FunctionDef | ast.AsyncFunctionDef, data: bytes, lines: list[int]
) -> _Function:
    """A function from Python's tree; `lines` are the offsets at which lines begin."""

    def begin(statement: ast.stmt) -> int:
        decorators = getattr(statement, "decorator_list", None)
        row = decorators[0].lineno if decorators else statement.lineno
        return lines[row - 1] + statement.col_offset

    def end(statement: ast.stmt) -> int:
        return lines[(statement.end_lineno or 0) - 1] + (statement.end_col_offset or 0)

    documented = ast.get_docstring(node, clean=False) is not None
    header, first = lines[node.lineno - 1] + node.col_offset, begin(node.body[0])
    # The colon, behind which nothing but blanks and comments stands before the first statement.
    colon = re.search(rb":(?:[\s\\]|#[^\r\n]*)*\Z", data[header:first])
    assert colon
    start, column = begin(node), node.col_offset
    # As for tree-sitter, comments that are indented like the body belong to it.
    behind = rb"[ \t]*(?:#[^\r\n]*)?(?:\s*[\r\n][ \t]{%d}[ \t]+#[^\r\n]*)*" % column
    comments = re.compile(behind).match(data, end(node))
    return _Function(
        name,
        start,
        header,
        comments.end() if comments else end(node),
        column,
        data.count(b"\n", 0, start) + 1,
        node.lineno,
        node.end_lineno or 0,
        [begin(each) for each in node.body],
        documented,
        end(node.body[0]) if documented else header + colon.start() + 1,
        True,
        any(re.fullmatch(r"(?:\w+\.)*overload", ast.unparse(it)) for it in node.decorator_list),
    )


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


def _body(text: str, data: bytes, function: _Function) -> FunctionBody:
    """The body of a function with a colon, of a text and its encoded form."""

    def characters(byte: int) -> int:
        return len(data[:byte].decode("utf-8", "ignore"))

    def before_on_line(offset: int) -> str:
        return re.split(r"[\r\n]", text[:offset])[-1]

    name, documented = function.name, function.documented
    header = re.match(r"[ \t]*", before_on_line(characters(function.header)) + "x")
    outer = header[0] if header else ""
    indentation = outer + ("\t" if re.search(r"^\t", text, re.MULTILINE) else "    ")
    own_line = True
    if function.statements:
        place = characters(function.statements[0])
        before = before_on_line(place)
        # Behind a backslash, it is still the line of the header.
        above = text[: place - len(before)]
        continued = above.endswith("\\\n") and standing_in(above[:-2], "") != "comment"
        own_line = not before.strip() and not continued
        indentation = before if own_line else indentation

    start = characters(function.behind)
    if statements := function.statements[documented:]:
        first, end = characters(statements[0]), characters(function.end)
        if function.node:
            strings = [
                (characters(node.start_byte), characters(node.end_byte))
                for node in captured("(string) @it", function.node)
            ]
            end = _dedent(text, first, end, len(outer), strings)
        end = first + len(text[first:end].rstrip())
        if own_line or documented:
            return FunctionBody(first, end, indentation, name, documented=documented)
        # def f(): ... gets its new body on lines of its own.
        return FunctionBody(start, end, indentation, name, "\n" + indentation)

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


def _not_found(name: str, functions: list[str], broken: bool) -> str:
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
    hidden = "; its syntax errors may hide some" if broken else ""
    return f"no function {name!r}: {known}{hidden}"

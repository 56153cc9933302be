"""Functions are found by name or cursor, and their bodies without docstring and comments."""

from __future__ import annotations

import ast
import inspect
import json.decoder
import textwrap
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.errors import SourceError
from talaria.coder.syntax.functions import find_function, function_at, function_bodies
from talaria.coder.syntax.python import compiles


def marked(text: str, name: str) -> str:
    """The text with `⟦` before the body that is found, after its lead, and `⟧` behind it."""
    body = find_function(text, name)
    return f"{text[: body.start]}{body.lead}⟦{text[body.start : body.end]}⟧{text[body.end :]}"


BODIES = {
    "plain": ("def f(x):\n    return x\n", "f", "def f(x):\n    ⟦return x⟧\n"),
    "no final newline": ("def f(x):\n    return x", "f", "def f(x):\n    ⟦return x⟧"),
    "one line": ("def f(x): return x\n", "f", "def f(x):\n    ⟦ return x⟧\n"),
    "one line, two statements": (
        "def f(x): x += 1; return x;\n",
        "f",
        "def f(x):\n    ⟦ x += 1; return x;⟧\n",
    ),
    "ellipsis": ("def f(x): ...\n", "f", "def f(x):\n    ⟦ ...⟧\n"),
    "docstring stays": (
        'def f(x):\n    """Do."""\n\n    y = x\n    return y\n\n\nz = 1\n',
        "f",
        'def f(x):\n    """Do."""\n\n    ⟦y = x\n    return y⟧\n\n\nz = 1\n',
    ),
    "only a docstring": (
        'def f(x):\n    """Do."""\n\n\nz = 1\n',
        "f",
        'def f(x):\n    """Do."""\n    ⟦⟧\n\n\nz = 1\n',
    ),
    "docstring and comments": (
        'def f(x):\n    """Do."""  # noqa\n    # sort first\n\nz = 1\n',
        "f",
        'def f(x):\n    """Do."""  # noqa\n    # sort first\n    ⟦⟧\n\nz = 1\n',
    ),
    "docstring on the line": ("def f(x): 'do'  # c\n", "f", "def f(x): 'do'; ⟦⟧  # c\n"),
    "joined docstring": (
        "def f():\n    'a' r'b'\n    g()\n",
        "f",
        "def f():\n    'a' r'b'\n    ⟦g()⟧\n",
    ),
    "bytes document nothing": (
        "def f():\n    b'a'\n    g()\n",
        "f",
        "def f():\n    ⟦b'a'\n    g()⟧\n",
    ),
    "f-strings document nothing": (
        "def f():\n    'a' f'{b}'\n    g()\n",
        "f",
        "def f():\n    ⟦'a' f'{b}'\n    g()⟧\n",
    ),
    "nothing yet": ("def f(x):", "f", "def f(x):\n    ⟦⟧"),
    "nothing yet before another": (
        "class A:\n    def f(self):\n        # todo\n    def g(self): pass\n",
        "A.f",
        "class A:\n    def f(self):\n        # todo\n        ⟦⟧\n    def g(self): pass\n",
    ),
    "nothing yet, with tabs": (
        "class A:\n\tdef f(self):\n",
        "A.f",
        "class A:\n\tdef f(self):\n\t\t⟦⟧\n",
    ),
    "comments": (
        "def f():  # a\n    # b\n    g()  # c\n    # d\n# e\n",
        "f",
        "def f():  # a\n    # b\n    ⟦g()  # c\n    # d⟧\n# e\n",
    ),
    "method": (
        "class A:\n    def f(self):\n        return 1\n\n    def g(self):\n        return 2\n",
        "A.g",
        "class A:\n    def f(self):\n        return 1\n\n    def g(self):\n        ⟦return 2⟧\n",
    ),
    "method of an inner class": (
        "class A:\n    class B:\n        if x:\n            def f(self): pass\n",
        "A.B.f",
        "class A:\n    class B:\n        if x:\n            def f(self):\n"
        "                ⟦ pass⟧\n",
    ),
    "nested": (
        "def f():\n    def g():\n        return 1\n    return g\n",
        "f.g",
        "def f():\n    def g():\n        ⟦return 1⟧\n    return g\n",
    ),
    "async": ("async def f():\n    await g()\n", "f", "async def f():\n    ⟦await g()⟧\n"),
    "decorated": (
        "@a\n@b(lambda: 1)\ndef f(\n    x: int = 1,\n) -> dict[str, int]:\n    return {}\n",
        "f",
        "@a\n@b(lambda: 1)\ndef f(\n    x: int = 1,\n) -> dict[str, int]:\n    ⟦return {}⟧\n",
    ),
    "begins with a decorator": (
        "def f():\n    @a\n    def g(): pass\n    return g\n",
        "f",
        "def f():\n    ⟦@a\n    def g(): pass\n    return g⟧\n",
    ),
    "match": (
        "def f(x):\n    match x:\n        case 1:\n            return 2\n        case _: pass\n",
        "f",
        "def f(x):\n    ⟦match x:\n        case 1:\n            return 2\n        case _: pass⟧\n",
    ),
    "tabs": ("def f(x):\n\tif x:\n\t\tg()\n", "f", "def f(x):\n\t⟦if x:\n\t\tg()⟧\n"),
    "Windows lines": (
        "def f():\r\n    'd'\r\n    g()\r\nx\r\n",
        "f",
        "def f():\r\n    'd'\r\n    ⟦g()⟧\r\nx\r\n",
    ),
    "astral": (
        "s = '𝒳𝒴'\n\ndef ñ(): return '𝒵'  # 𝒳\n",
        "ñ",
        "s = '𝒳𝒴'\n\ndef ñ():\n    ⟦ return '𝒵'  # 𝒳⟧\n",
    ),
    "overloads": (
        "@overload\ndef f(x: int): ...\n@t.overload\n@z\ndef f(x: str): ...\ndef f(x): x\n",
        "f",
        "@overload\ndef f(x: int): ...\n@t.overload\n@z\ndef f(x: str): ...\ndef f(x):\n    ⟦ x⟧\n",
    ),
    "stubs only": ("@overload\ndef f(): ...\n", "f", "@overload\ndef f():\n    ⟦ ...⟧\n"),
    "one line with a docstring": (
        "def f(): 'do'; g()\n",
        "f",
        "def f(): 'do'; ⟦g()⟧\n",
    ),
    "one line that is continued": (
        "def f(x): \\\n    return x\ny\n",
        "f",
        "def f(x):\n    ⟦ \\\n    return x⟧\ny\n",
    ),
    "a comment that is not continued": (
        "def f(x): # c \\\n    return x\ny\n",
        "f",
        "def f(x): # c \\\n    ⟦return x⟧\ny\n",
    ),
    "one line among what tree-sitter refuses": (
        "x = 1, *(a or b)\ndef f(x='#:'): return x  # c\n",
        "f",
        "x = 1, *(a or b)\ndef f(x='#:'):\n    ⟦ return x  # c⟧\n",
    ),
    "broken elsewhere": (
        "x = = 2\ndef f():\n    return 1\n",
        "f",
        "x = = 2\ndef f():\n    ⟦return 1⟧\n",
    ),
    "broken inside": (
        "class A:\n    def f(self):\n        if x\n            g()\n    def g(self): pass\n",
        "A.f",
        "class A:\n    def f(self):\n        ⟦if x\n            g()⟧\n    def g(self): pass\n",
    ),
    "broken and swallowing": (
        "def f(x):\n    return (1,\n\ndef g(y):\n    return 2\n",
        "f",
        "def f(x):\n    ⟦return (1,⟧\n\ndef g(y):\n    return 2\n",
    ),
    "broken, with a string further left": (
        "def f():\n    s = '''\na\n'''\n    h(\n)\n    return s +\n\nx = 1\n",
        "f",
        "def f():\n    ⟦s = '''\na\n'''\n    h(\n)\n    return s +⟧\n\nx = 1\n",
    ),
}


@pytest.mark.parametrize(("text", "name", "expected"), BODIES.values(), ids=BODIES)
def test_bodies_are_found(text: str, name: str, expected: str) -> None:
    """A body begins after header, docstring and comments, and ends with its last line."""
    assert marked(text, name) == expected


@pytest.mark.parametrize(
    ("text", "indentation"),
    [
        ("def f():\n  return 1\n", "  "),
        ("class f:\n\tdef f(): return 1\n", "\t\t"),
        ("def f(): return 1\n", "    "),
        ("def f():\n   'd'; g()\n", "   "),
        ("if x:\n  def f(): 'd'\n", "      "),
    ],
)
def test_the_indentation_of_further_lines(text: str, indentation: str) -> None:
    """It is the body's own or, if the body is on the header's line, a level deeper."""
    name = "f.f" if text.startswith("class") else "f"
    assert find_function(text, name).indentation == indentation


def test_a_lead_makes_room_for_a_body() -> None:
    """Put into a function without a body, lead and body compile."""
    for text in ('def f():\n    """Do."""', "def f():  # now", "def f(): 'do'  # c\nx = 1\n"):
        body = find_function(text, "f")
        assert compiles(text[: body.start] + body.lead + "return 1" + text[body.end :])


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            "x = 1\n",
            "f",
            "no function 'f': the file has no functions; give a position, FILE:LINE:COL",
        ),
        (
            "def alpha(): pass\ndef alpha2(): pass\n",
            "alphas",
            "no function 'alphas': the file has 2 functions; close matches: alpha, alpha2",
        ),
        (
            "class A:\n    def run(self): pass\n",
            "run",
            "no function 'run': the file has 1 function; close matches: A.run",
        ),
        (
            "class A:\n    def run(self): pass\n",
            "A",
            "no function 'A': the file has 1 function; close matches: A.run",
        ),
        (
            "def f(): pass\n",
            "other",
            "no function 'other': the file has 1 function; give NAME, Class.method or outer.inner",
        ),
        (
            "def f(): pass\ndef g(x)\n    pass\n",
            "f2",
            "no function 'f2': the file has 1 function; close matches: f; "
            "its syntax errors may hide some",
        ),
        (  # which only tree-sitter's grammar refuses
            "def f(a):\n    x = (a *\na)\n    return x\n",
            "other",
            "no function 'other': the file has 1 function; give NAME, Class.method or outer.inner",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_similar_ones(text: str, name: str, message: str) -> None:
    """The message names the function, counts the file's functions and lists similar names."""
    with pytest.raises(SourceError) as caught:
        find_function(text, name)
    assert str(caught.value) == message


def test_at_most_five_close_matches_are_named() -> None:
    """A file of similar names does not fill the screen."""
    text = "".join(f"def name{i}(): pass\n" for i in range(20))
    with pytest.raises(SourceError, match=r"20 functions; close matches: (name\d+, ){4}name\d+$"):
        find_function(text, "name")


# Statements of several lines, all but the first further left than their block.
CONTINUED = [
    *("total = (price *\ntax)", "ok = (price and\nnot tax)", "x = (price\n.y)", "x = (y :=\n1)"),
    *("f(k=\n1)", "x = {k:\n1}", "x = (a if\nb else\nc)", "x = [a for a in\nb]"),
    *("return dx, *[None] * 2", "x = 1, *(a or b)", "x[1, *(a or b)]"),
]


@pytest.mark.parametrize("statement", CONTINUED)
def test_python_is_right_where_tree_sitter_is_not(statement: str) -> None:
    """No body ends too early and no function is hidden, in bodies and in headers."""
    text = (
        f"class A:\n    @dec\n    def f(self, price):  # c: d\n        # é\n        {statement}\n"
        "        return total\n\n    def g(self, x=(1 or\n2)):\n        '''Say.'''\n"
        "        return 1\n\nasync def h():\n    pass\n"
    )
    ast.parse(text)
    assert [body.name for body in function_bodies(text)] == ["A.f", "A.g", "h"]
    found = marked(text, "A.f")
    assert f"        # é\n        ⟦{statement}\n        return total⟧\n" in found
    assert "        '''Say.'''\n        ⟦return 1⟧\n" in marked(text, "A.g")
    at = function_at(text, text.index("total\n"))
    assert at
    assert at.name == "A.f"


def test_python_and_tree_sitter_find_the_same_bodies() -> None:
    """In real files, whose trees are without errors."""
    for module in (textwrap, json.decoder, ast, inspect):
        text = inspect.getsource(module)
        wanted = function_bodies(text)
        assert len(wanted) > 5
        assert function_bodies(text + "\n\nx = 1, *(a or b)\n") == wanted


SEVERAL = """
class A:
    @property
    def x(self):
        return 1

    @x.setter
    def x(self, value):
        pass

if a:
    def f(): b
else:
    def f(): c
"""


@pytest.mark.parametrize(
    ("name", "line", "body"),
    [("A.x", 3, "return 1"), ("A.x", 5, "return 1"), ("A.x", 7, "pass"), ("f", 14, " c")],
)
def test_a_line_tells_functions_of_one_name_apart(name: str, line: int, body: str) -> None:
    """Any line of the function, decorators included."""
    found = find_function(SEVERAL, name, line)
    assert SEVERAL[found.start : found.end] == body


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "A.x",
            None,
            "2 functions are named 'A.x', at lines 4 and 8: choose one by a line of it, as in "
            "FILE::A.x@8",
        ),
        (
            "f",
            None,
            "2 functions are named 'f', at lines 12 and 14: choose one by a line of it, as in "
            "FILE::f@14",
        ),
        ("A.x", 10, "no function 'A.x' at line 10: it is at lines 4 and 8"),
    ],
)
def test_of_several_functions_none_is_guessed(name: str, line: int | None, message: str) -> None:
    """The message says where they are, and how to choose."""
    with pytest.raises(SourceError) as caught:
        find_function(SEVERAL, name, line)
    assert str(caught.value) == message


def test_all_bodies_of_a_text() -> None:
    """Inner functions follow outer ones; functions without statements or a colon are left out."""
    text = (
        'def f():\n    """Do."""\n    # first\n    def g(): return 1\n    return g\n\n\n'
        'def h():\n    "Do."\n\n\nclass A:\n    def k(self):\n        b""\n\n\ndef n('
    )
    found = [
        (body.name, body.documented, text[body.start : body.end]) for body in function_bodies(text)
    ]
    assert found == [
        ("f", True, "def g(): return 1\n    return g"),
        ("f.g", False, " return 1"),
        ("A.k", False, 'b""'),
    ]
    for name, documented, body in found:
        one = find_function(text, name)
        assert (one.documented, text[one.start : one.end]) == (documented, body)
    assert find_function(text, "h").documented


IDENTIFIERS = st.sampled_from(["a", "ñ", "b2", "_"])

STATEMENTS = st.sampled_from(
    [
        "pass",
        "x = '𝒳'",
        "return {\n    1: 2,\n}",
        "if x:\n    y()\nelse:\n    z()",
        "try: a\nfinally: b",
    ]
)


@given(
    st.text("𝒳é# \n").map(lambda text: f'"""{text}"""\n'),
    st.lists(IDENTIFIERS, min_size=1, max_size=4),
    st.lists(STATEMENTS, min_size=1, max_size=4),
    st.booleans(),
)
def test_bodies_are_found_at_any_depth(
    before: str, names: list[str], statements: list[str], documented: bool
) -> None:
    """The body is exactly the statements, at offsets in characters."""
    depth = "    " * len(names)
    statement = textwrap.indent("\n".join(statements), depth).removeprefix(depth)
    text = before
    for level, name in enumerate(names[:-1]):
        text += "    " * level + f"class {name}:\n"
    text += depth[4:] + f"def {names[-1]}():\n{depth}" + (f'"""𝒟."""\n{depth}' * documented)
    body = find_function(text + statement + "\n\nx = 1\n", ".".join(names))
    assert (body.start, body.end) == (len(text), len(text + statement))
    assert (body.indentation, body.lead) == (depth, "")


@pytest.mark.parametrize("module", [ast, inspect, json.decoder, textwrap])
def test_bodies_agree_with_python(module: ModuleType) -> None:
    """In real files, bodies are those that `ast` sees."""
    text = inspect.getsource(module)
    lines = text.splitlines(keepends=True)
    found: dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]] = {}

    def walk(node: ast.AST, outer: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = outer
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{outer}.{child.name}".lstrip(".")
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(name, []).append(child)
            walk(child, name)

    walk(ast.parse(text), "")
    unique = [(name, nodes[0]) for name, nodes in found.items() if len(nodes) == 1]
    for name, node in unique[:40]:
        body = find_function(text, name)
        documented = ast.get_docstring(node) is not None
        statements = node.body[documented:]
        assert bool(body.lead) == (not statements)
        if statements:
            first, last = statements[0], statements[-1]
            assert "".join(lines[: first.lineno - 1]) + body.indentation == text[: body.start]
            assert last.end_lineno is not None
            rest = text[len("".join(lines[: last.end_lineno])) : body.end]
            assert all(
                line.strip().startswith("#") or not line.strip() for line in rest.split("\n")
            )


WHERE = '''import os

@dec
def f(a):
    """doc"""
    #

class A:
    def g(self):
        def h():
            return 1
        return h

    async def k(self): pass

x = 1
'''.replace("#", "")


@pytest.mark.parametrize(
    ("mark", "name", "body"),
    [
        ("@dec", "f", ""),
        ("def f", "f", ""),
        ('doc"""\n    ', "f", ""),
        ("\nclass", None, None),
        ("self", "A.g", "def h():\n            return 1\n        return h"),
        ("return 1", "A.g.h", "return 1"),
        ("return h", "A.g", "def h():\n            return 1\n        return h"),
        ("k(self", "A.k", " pass"),
        ("x =", None, None),
    ],
)
def test_the_function_around_a_cursor(mark: str, name: str | None, body: str | None) -> None:
    """It is the innermost one; an indented blank line below it belongs to it."""
    found = function_at(WHERE, WHERE.index(mark) + len(mark))
    assert (found.name if found else None) == name
    assert (WHERE[found.start : found.end] if found else None) == body

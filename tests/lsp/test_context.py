"""Excerpts of other files, chosen for the cursor and stable while typing."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from talaria.coder.source import Piece
from talaria.lsp.context import Neighbours, look
from talaria.lsp.outline import imports, outline
from tests.pace import within

SHAPES = '''"""Shapes."""

import math
from dataclasses import dataclass

UNIT = 1.0


@dataclass
class Circle:
    """A circle about a point.

    Its centre is the point.
    """

    radius: float
    colour: str = "red"

    def __init__(self, radius: float) -> None:
        """Make it."""
        self.radius = radius
        self.area_known: float | None = None
        self.check_that_it_is_a_circle_of_a_size_that_can_be()

    @property
    def area(self) -> float:
        """The area, in square units."""
        if self.area_known is None:
            self.area_known = math.pi * self.radius**2
        return self.area_known

    def _hidden(self):
        return 1


def scaled(
    circle: Circle,
    factor: float = 2.0,
) -> Circle:
    """A circle as many times as large.

    The colour stays.
    """
    result = Circle(circle.radius * factor)
    result.colour = circle.colour
    return result


def unused(x):
    """Nobody asks for it."""
    raise NotImplementedError("this takes more than a short line to say, so it is left out")
'''
MAIN = '''"""Draw."""

import os
from .shapes import Circle, scaled
from . import colours as paint


def draw(circle: Circle) -> None:
    """Draw it."""
    big = scaled(circle, 3)
    show(big, paint.mixed("red", "blue"))


def other():
    return os.getcwd()
'''
COLOURS = '''def mixed(one: str, other: str) -> str:
    """A colour between both."""
    if one == other:
        return one
    return f"{one}-{other}-which-is-a-name-of-some-length-for-a-colour"
'''
FILES = {
    "src/app/__init__.py": "from .shapes import Circle\n",
    "src/app/shapes.py": SHAPES,
    "src/app/colours.py": COLOURS,
    "src/app/main.py": MAIN,
}


def files(top: Path, texts: dict[str, str]) -> None:
    """Write files of a workspace, folders included."""
    for name, text in texts.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def at(text: str) -> tuple[str, int]:
    """A text without its cursor mark, and the cursor's offset."""
    return text.replace("|", "", 1), text.index("|")


def size(pieces: tuple[Piece, ...]) -> int:
    """The size of excerpts in characters, as the budget counts it."""
    return sum(len(piece.path) + 1 + len(piece.text) for piece in pieces)


def test_definitions_that_are_used_near_the_cursor(tmp_path: Path) -> None:
    """Signatures, first docstring lines, members; the nearest come last."""
    files(tmp_path, FILES)
    path = tmp_path / "src/app/main.py"
    pieces = Neighbours([tmp_path], budget=3000).pieces(path, MAIN, MAIN.index("    show"), {})
    assert pieces == (
        Piece(
            "src/app/shapes.py",
            "@dataclass\nclass Circle:\n"
            '    """A circle about a point."""\n'
            "    radius: float\n"
            '    colour: str = "red"\n'
            "\n"
            "    def __init__(self, radius: float) -> None:\n"
            '        """Make it."""\n'
            "        self.radius = radius\n"
            "        self.area_known: float | None = None\n"
            "\n"
            "    @property\n"
            "    def area(self) -> float:\n"
            '        """The area, in square units."""\n'
            "\n"
            "    def _hidden(self):\n"
            "        return 1\n"
            "\n"
            "def scaled(\n    circle: Circle,\n    factor: float = 2.0,\n) -> Circle:\n"
            '    """A circle as many times as large."""\n',
        ),
        Piece(
            "src/app/colours.py",
            'def mixed(one: str, other: str) -> str:\n    """A colour between both."""\n',
        ),
    )


@pytest.mark.parametrize(
    "statement",
    [
        "from .shapes import scaled\nscaled(1|)",
        "from .shapes import (  # all\n    Circle,  # round, red\n    scaled as s,\n)\ns(1|)",
        "from . import shapes\nshapes.scaled(1|)",
        "from .  shapes import Circle, \\\n    scaled\nscaled(1|)",
        "from ..app.shapes import scaled\nscaled(1|)",
        "import app.shapes\napp.shapes.scaled(1|)",
        "import app.shapes as s; import os\ns.scaled(1|)",
        "from app import shapes as s\ns.scaled(1|)",
        "import src.app.shapes\nsrc.app.shapes.scaled(1|)",
        "if TYPE_CHECKING:\n    from app.shapes import scaled\nscaled(1|)",
        "import app.passed\napp.passed.scaled(1|)",
        "from app.passed import scaled\nscaled(1|)",
        "from app.all import scaled\nscaled(1|)",
        "from app.passed import kept\nkept.scaled(1|)",
    ],
)
def test_ways_to_import(tmp_path: Path, statement: str) -> None:
    """Relative, renamed, from a source folder, re-exported."""
    files(tmp_path, FILES)
    files(
        tmp_path,
        {
            "src/app/passed.py": "from .shapes import scaled\nfrom . import shapes as kept\n",
            "src/app/all.py": "from .shapes import *\n",
        },
    )
    text, offset = at(statement)
    pieces = Neighbours([tmp_path]).pieces(tmp_path / "src/app/x.py", text, offset, {})
    assert [piece.path for piece in pieces] == ["src/app/shapes.py"]
    assert "def scaled(" in pieces[0].text
    assert "def unused(" not in pieces[0].text


@pytest.mark.parametrize(
    "text",
    [
        "from nowhere import x\nx(|)",
        "from ........ import x\nx(|)",
        "from . import main\nmain.nothing(|)",
        "from .main import x\nx(|)",
        "import\nfrom\nfrom . import\nfrom .shapes import (\n|",
        "from ..... import (((\n|",
        "import " + "a." * 500 + "b\n|a.b",
    ],
)
def test_imports_that_lead_nowhere(tmp_path: Path, text: str) -> None:
    """They are skipped; a module is not an excerpt for itself."""
    files(tmp_path, FILES)
    path = tmp_path / "src/app/main.py"
    assert Neighbours([tmp_path]).pieces(path, *at(text), {}) == ()


def test_modules_that_import_each_other(tmp_path: Path) -> None:
    """Cyclic re-exports are not found, and nothing hangs."""
    files(tmp_path, {"a.py": "from b import *\nfrom b import x\n", "b.py": "from a import *\n"})
    text, offset = at("from a import x, y\nx(y(|))")
    assert Neighbours([tmp_path]).pieces(tmp_path / "c.py", text, offset, {}) == ()


def test_definitions_used_elsewhere_fill_the_room(tmp_path: Path) -> None:
    """They come before what is used near the cursor."""
    files(tmp_path, FILES)
    text = MAIN + "\n" * 40 + "def last():\n    return scaled()\n    "
    pieces = Neighbours([tmp_path]).pieces(tmp_path / "src/app/main.py", text, len(text), {})
    assert [piece.path for piece in pieces] == ["src/app/colours.py", "src/app/shapes.py"]
    tight = Neighbours([tmp_path], budget=240)
    pieces = tight.pieces(tmp_path / "src/app/main.py", text, len(text), {})
    assert [piece.path for piece in pieces] == ["src/app/shapes.py"]
    assert "class Circle" not in pieces[0].text


def test_the_editor_takes_precedence_over_the_disk(tmp_path: Path) -> None:
    """Even if the file does not exist yet, changes or is deleted."""
    files(tmp_path, FILES)
    path, shapes = tmp_path / "src/app/main.py", tmp_path / "src/app/shapes.py"
    neighbours = Neighbours([tmp_path])

    def said(opened: dict[Path, str]) -> str:
        pieces = neighbours.pieces(path, MAIN, MAIN.index("    show"), opened)
        return "".join(piece.text for piece in pieces)

    assert "factor: float = 2.0" in said({})
    assert "factor: float = 7.5" in said({shapes: SHAPES.replace("2.0", "7.5")})
    assert "factor: float = 2.0" in said({})
    shapes.write_text(SHAPES.replace("2.0", "30.25"), encoding="utf-8")
    assert "factor: float = 30.25" in said({})
    shapes.unlink()
    assert "scaled" not in said({})
    assert "mixed" in said({})


def test_recent_edits_and_similar_files(tmp_path: Path) -> None:
    """The lines around an edit, then the part of another file with most common names."""
    lines = [f"line_{number} = {number}\n" for number in range(200)]
    edited = tmp_path / "edited.py"
    alike = tmp_path / "alike.py"
    far = tmp_path / "far.py"
    twin = "def measure(circle, ruler):\n    ruler.align(circle)\n    return ruler.length\n"
    opened = {
        edited: "".join(lines),
        alike: "x = 1\n" * 60 + twin,
        far: "entirely = different\n",
        tmp_path / "notes.md": twin,
        tmp_path / "here.py": twin,
    }
    text = "def weigh(circle, ruler):\n    ruler.align(circle)\n    "
    offset = opened[edited].index("line_100 =")
    recent = [(tmp_path / "gone.py", 3), (edited, offset), (edited, offset + 12)]
    pieces = Neighbours([tmp_path]).pieces(tmp_path / "here.py", text, len(text), opened, recent)
    assert pieces == (Piece("alike.py", twin), Piece("edited.py", "".join(lines[92:109])))


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """No secret line of an allowed file, and no ignored, excluded or secret file."""
    text = (
        "from conf import connect, KEY\nfrom my_secrets import hush\nfrom ignored import psst\n"
        "from excluded import quiet\nfrom sub.outside import away\n"
        "def go():\n    connect(hush(psst(quiet(away(KEY)))))\n    "
    )
    said = 'def {}(x):\n    """This is not told."""\n'
    files(
        tmp_path,
        {
            "in/conf.py": 'KEY = "AKIA' + 'IOSFODNN7EXAMPLE"\n\n\n'
            'def connect(host, password="hunter2-not-told"):\n    """Connect."""\n',
            "in/my_secrets.py": said.format("hush"),
            "in/ignored.py": said.format("psst"),
            "in/excluded.py": said.format("quiet"),
            "in/.gitignore": "ignored.py\n",
            "out/outside.py": said.format("away"),
        },
    )
    root = tmp_path / "in"
    (root / "sub").symlink_to("../out", target_is_directory=True)
    opened = {
        path: path.read_text(encoding="utf-8")
        for path in [*root.glob("*.py"), tmp_path / "out/outside.py"]
    }
    recent = [(path, 5) for path in opened]
    for shown in ({}, opened):
        neighbours = Neighbours([root], ["excluded.py"])
        pieces = neighbours.pieces(root / "a.py", text, len(text), shown, recent)
        everything = "".join(piece.text for piece in pieces)
        assert "not told" not in everything
        assert "not-told" not in everything
        assert "AKIA" not in everything
        assert {piece.path for piece in pieces} <= {"conf.py"}
    assert Neighbours([root]).pieces(root / ".env", text, len(text), opened) == ()


def typed(neighbours: Neighbours, path: Path, text: str, start: int, end: int) -> list[object]:
    """The excerpts at each keystroke that types `text[start:end]`."""
    return [
        neighbours.pieces(path, text[:place] + text[end:], place, {path: text})
        for place in range(start, end + 1)
    ]


def changes(values: list[object]) -> int:
    """How often a value differs from the one before."""
    return sum(one != other for one, other in pairwise(values))


def test_excerpts_are_stable_while_typing(tmp_path: Path) -> None:
    """At most one change per new definition."""
    files(tmp_path, FILES)
    path = tmp_path / "src/app/main.py"
    text = MAIN.replace("from .shapes import", "from app.shapes import unused,")
    text = text.replace("show(big", "unused(big")
    start, end = text.index("def draw"), text.index("\n\n\ndef other")
    roomy = typed(Neighbours([tmp_path], budget=4000), path, text, start, end)
    assert changes(roomy) <= 1
    tight = typed(Neighbours([tmp_path], budget=600), path, text, start, end)
    assert changes(tight) <= 4
    assert "def unused" in str(tight[-1])


def test_excerpts_are_stable_in_a_real_package(tmp_path: Path) -> None:
    """A dozen functions of a module of `email`, typed key by key."""
    import email

    package = tmp_path / "email"
    package.mkdir()
    for source in Path(email.__file__).parent.glob("*.py"):
        (package / source.name).write_bytes(source.read_bytes())
    path = package / "feedparser.py"
    text = path.read_text(encoding="utf-8")
    start = text.index("class BufferedSubFile")
    end = text.index("def _call_parse", start)
    neighbours = Neighbours([tmp_path])
    pieces = typed(neighbours, path, text, start, end)
    assert len(pieces) > 4000
    assert changes(pieces) <= 4
    # Warm, a keystroke costs a millisecond or so; here, only that it is not a hundred.
    with within(5):
        for _ in range(50):
            neighbours.pieces(path, text, end, {path: text})


def test_a_jump_of_the_cursor_makes_a_new_choice(tmp_path: Path) -> None:
    """A move of a few lines does not."""
    files(tmp_path, FILES)
    path = tmp_path / "src/app/main.py"
    text = MAIN + "\n\ndef near():\n    x = 1\n" + "\n" * 40 + "def far():\n    return scaled()\n"
    neighbours = Neighbours([tmp_path], budget=220)
    first = neighbours.pieces(path, text, text.index('"red"'), {})
    assert first[-1].path == "src/app/colours.py"
    assert "def scaled" not in str(first)
    assert neighbours.pieces(path, text, text.index("x = 1"), {}) == first
    there = neighbours.pieces(path, text, len(text), {})
    assert there[-1].path == "src/app/shapes.py"
    assert "def scaled" in str(there)


def test_additions_are_appended(tmp_path: Path) -> None:
    """So that the KV cache of the others stays valid."""
    files(tmp_path, FILES | {"src/app/more.py": "def more(x):\n    return x\n" + "y = 1\n" * 3})
    path = tmp_path / "src/app/main.py"
    neighbours = Neighbours([tmp_path], budget=1200)
    text, offset = at(MAIN.replace("    show", "    #\n" * 9 + "    more|show"))
    before = neighbours.pieces(path, text, offset, {})
    assert "more.py" not in str(before)
    text = text.replace("import os\n", "import os\nfrom .more import more\n")
    offset = text.index("more" + "show") + 4
    assert neighbours.pieces(path, text, offset, {}) == before  # the word is not whole
    text = text[:offset] + "(" + text[offset:]
    after = neighbours.pieces(path, text, offset + 1, {})
    assert after[:-1] == before
    assert after[-1] == Piece("src/app/more.py", "def more(x):\n    return x\n")
    text = text[: offset - 2] + text[offset + 1 :]
    assert neighbours.pieces(path, text, offset - 2, {}) == after  # taken back


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("x = 1\n|", ("", "")),
        ("def f():\n    |", ("def f():",)),
        ("def f():\n    x\n|", ("def f():",)),
        ("def f():\n    x\n\n\n|", ("def f():",)),
        ("def f():\n    x\n\n\ny|", ("", "def f():")),
        ("def f():\n    x\n\n\nd|ef g():\n    y", ("", "def f():")),
        ("class A:\n    def f(self):\n        if x:\n            y|", ("def f(self):", "class A:")),
        ("class A:\n    x: int\n    de|", ("class A:",)),
        ("def f(\n    a,\n    b,\n) -> int:\n# so\n    return |", ("def f(",)),
        ("def f(\n    a,\n    b,\n) -> int:\n|", ("def f(",)),
        ("def f(\n|", ("def f(",)),
        ("async def f():\n\tx = [\n\t\t1,\n\t]\n\ty|", ("async def f():",)),
        ("if x:\n    def f():\n        |", ("def f():",)),
        ("def f(): pass\nx = |", ("", "def f(): pass")),
    ],
)
def test_the_block_at_the_cursor(text: str, block: tuple[str, ...]) -> None:
    """Identified by the headers above; a blank line belongs to the block above it."""
    assert look(*at(text)).block == block


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.b.c|", {"a.b"}),
        ("a.b|.c", {"a"}),
        ("a.|", {"a"}),
        ("ab|", set()),
        ("a|b(c)", {"c"}),
        ("a(b|", {"a"}),
        ("a(|b)", {"a", "b"}),
        ("été.x(|", {"été.x"}),
        ("a\n.b.c, 1e5|", {"a"}),
    ],
)
def test_the_word_being_written_does_not_count(text: str, names: set[str]) -> None:
    """Otherwise each key would look up something else."""
    assert set(look(*at(text)).distance) == names


def test_an_outline_of_a_broken_module() -> None:
    """What can be parsed is included."""
    said = outline(
        "def f(x):\n    return (\n\nclass A:\n    def g(self): ...\n\nx = = 3\nimport os\n"
    )
    assert "f" in said.definitions
    assert "os" in said.imports


@given(st.text(alphabet=st.sampled_from("import from.*, ()as\\\n#abc;="), max_size=80))
def test_imports_of_any_text(text: str) -> None:
    """No text raises an error, and names are identifiers."""
    bound, stars = imports(text)
    assert all(name.isidentifier() for name in bound)
    assert all(star.name == "*" for star in stars)


NAMES = ("scaled", "Circle", "paint.mixed", "unused", "os", "x")
LINES = st.sampled_from(
    [
        *("from .shapes import *", "from .shapes import Circle, scaled", "from . import colours"),
        *("from .shapes import unused", "import app.colours as paint", "def f(a, b):", "class A:"),
        *(f"    {name}({name})" for name in NAMES),
        *("", "    x = (", ")", "@", "    '''", "\t"),
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    lines=st.lists(LINES, max_size=12),
    offset=st.integers(-5, 400),
    budget=st.integers(0, 1200),
    shown=st.sets(st.sampled_from(sorted(FILES))),
    data=st.data(),
)
def test_the_budget_is_kept_and_exclusions_hold(
    tmp_path: Path,
    lines: list[str],
    offset: int,
    budget: int,
    shown: set[str],
    data: st.DataObject,
) -> None:
    """For any text, cursor and open files."""
    if not (tmp_path / "src").exists():
        files(tmp_path, FILES)
    path = tmp_path / "src/app/x.py"
    opened = {tmp_path / name: FILES[name] for name in sorted(shown)}
    recent = [(tmp_path / name, data.draw(st.integers(-3, 2000))) for name in sorted(shown)]
    excluded = data.draw(st.sets(st.sampled_from(["shapes.py", "colours.py", "app/"])))
    neighbours = Neighbours([tmp_path], sorted(excluded), budget)
    text = "\n".join(lines)
    for place in (offset, offset + 1, len(text)):
        pieces = neighbours.pieces(path, text, place, opened, recent)
        assert size(pieces) <= budget
        assert all(piece.text.endswith("\n") for piece in pieces)
        assert not any(name in piece.path for piece in pieces for name in excluded)
        assert pieces == neighbours.pieces(path, text, place, opened, recent)


def test_strange_workspaces(tmp_path: Path) -> None:
    """Broken, binary, huge, forbidden and missing files, pipes and loops raise no error."""
    names = ["broken", "binary", "huge", "forbidden", "pipe", "loop", "folder", "deep", "latin"]
    files(tmp_path, {"broken.py": "def x((((\n" * 50, "forbidden.py": "x = 1\n"})
    (tmp_path / "binary.py").write_bytes(bytes(range(256)))
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "huge.py").write_bytes(b"x = 1\n" * 200_000)
    (tmp_path / "deep.py").write_text("if x:\n" + "(" * 5000, encoding="utf-8")
    (tmp_path / "forbidden.py").chmod(0)
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / ".gitignore").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.py")
    text = "".join(f"from {name} import x as {name}\n" for name in names)
    text += "".join(f"{name}.y({name})\n" for name in names)
    neighbours = Neighbours([tmp_path, tmp_path / "none", Path("/dev/null")])
    opened = {
        tmp_path / "o.py": "\udc80\0" * 100,
        Path("a\0b.py"): text,
        tmp_path / "h.py": "x " * 10**6,
    }
    for path in (tmp_path / "a.py", None, Path("a\0.py"), Path("/"), tmp_path / ("n" * 999)):
        for offset in (-1, 0, len(text), 10**9):
            neighbours.pieces(path, text, offset, opened, [(tmp_path / "o.py", 10**9)])
    neighbours.pieces(tmp_path / "a.py", "x" * 10**6 + "\udc80", 500_000, {})


def test_only_imported_files_cost_time(tmp_path: Path) -> None:
    """No folder is walked, and a request reads a bounded amount."""
    for number in range(1500):
        (tmp_path / f"m{number}.py").write_text(f"def f(x):\n    return {number}\n")
    text = "".join(f"import m{number}\n" for number in range(1500))
    text += "def f():\n" + "".join(f"    m{number}.f()\n" for number in range(1500)) + "    "
    neighbours = Neighbours([tmp_path])
    with within(5):
        pieces = neighbours.pieces(tmp_path / "main.py", text, len(text), {})
    assert pieces[-1] == Piece("m1499.py", "def f(x):\n    return 1499\n")


def test_a_short_class_appears_once() -> None:
    """Its head is the whole class, so its members are not repeated."""
    for text in (
        "class P:\n    x: int\n    y: int = 0\n",
        "@final\nclass Thing:\n    def go(self):\n        return 1\n",
    ):
        [definition] = outline(text).definitions.values()
        assert definition.text(1000, ()) == text
    long = "class Q:\n" + "".join(f"    value{n}: int = {n}\n" for n in range(9))
    assert outline(long).definitions["Q"].text(1000, ()) == long

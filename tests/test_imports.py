"""Who may import whom, and what the way from a keystroke to text must not pull in."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

import talaria

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"coder": set(), "lsp": {"coder"}, "finetune": {"coder"}, "evals": {"coder"}}
FAMILIES = ROOT / "coder" / "families"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

HEAVY = ("torch", "transformers", "accelerate", "peft", "datasketch", "matplotlib", "tqdm")
# Parts that know nothing of models.
WITHOUT_MODELS = (
    *("syntax", "bounds", "guard", "source", "notebooks", "request", "preferences", "arguments"),
    *("errors", "files", "page"),
)
MODELS = {"backbone", "tokenizer", "layout", "checkpoint", "families", "sampler", "infill"}


def imported(path: Path) -> set[str]:
    """All modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def imports() -> dict[str, set[str]]:
    """What each part of `coder`, a module or a folder, imports of the others."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "coder").rglob("*.py"):
        part = path.relative_to(ROOT / "coder").with_suffix("").parts[0]
        names = (name.split(".") for name in imported(path))
        parts = {name[2] for name in names if name[:2] == ["talaria", "coder"] and len(name) > 2}
        found.setdefault(part, set()).update(parts - {part})
    return {part: names & found.keys() for part, names in found.items() if part != "__init__"}


def drawn() -> Iterator[tuple[str, str]]:
    """The pairs of `coder`'s parts that the architecture draws, the upper one first."""
    (picture,) = re.findall(r"nobody imports upwards:\n\n```\n(.*?)```", ARCHITECTURE, re.DOTALL)
    for line in picture.splitlines():
        levels = [re.findall(r"\w+", re.sub(r"\(.*?\)", "", level)) for level in line.split("->")]
        for uppers, lowers in pairwise(levels):
            yield from ((upper, lower) for upper in uppers for lower in lowers)


def below(pairs: set[tuple[str, str]], part: str) -> set[str]:
    """All parts that can be reached from one by these pairs."""
    found: set[str] = set()
    new = {part}
    while new:
        new = {lower for upper, lower in pairs if upper in new} - found
        found |= new
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_the_import_rule(package: str) -> None:
    """`lsp`, `finetune` and `evals` import `coder`, never each other; `coder` none of them."""
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[package] - {package}
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        packages = {name.split(".")[1] for name in imported(path) if name.startswith("talaria.")}
        assert not packages & forbidden, path


def test_one_import_name() -> None:
    """Nothing imports `coder` and its like by the folder's name: only `talaria` is installed."""
    for path in ROOT.rglob("*.py"):
        if not {".venv", "build", ".git"} & set(path.relative_to(ROOT).parts):
            tops = {name.split(".")[0] for name in imported(path)}
            assert not tops & set(MAY_IMPORT), path


def test_the_public_interface() -> None:
    """Three names, each of which is there; nothing else is promised."""
    assert talaria.__all__ == ["Options", "infill", "load"]
    for name in talaria.__all__:
        assert getattr(talaria, name).__name__ == name
    with pytest.raises(AttributeError, match="'fill'"):
        talaria.fill  # noqa: B018


def test_nobody_in_coder_imports_upwards() -> None:
    """As docs/architecture.md draws it; what it draws is there, and goes one way."""
    pairs, parts = set(drawn()), imports()
    assert len(pairs) > 20
    named = {part for pair in pairs for part in pair}
    assert named <= parts.keys()
    for part in named:
        assert part not in below(pairs, part)
    for upper in named:
        for lower in below(pairs, upper):
            assert upper not in parts[lower], f"{lower} imports {upper}"


def test_no_circle_in_coder() -> None:
    """Whether it is drawn or not."""
    pairs = {(part, other) for part, others in imports().items() for other in others}
    for part in imports():
        assert part not in below(pairs, part)


@pytest.mark.parametrize("part", WITHOUT_MODELS)
def test_what_knows_nothing_of_models(part: str) -> None:
    """Neither by itself nor through what it imports."""
    pairs = {(one, other) for one, others in imports().items() for other in others}
    assert not below(pairs, part) & MODELS


@pytest.mark.parametrize("part", ["errors", "files"])
def test_leaves(part: str) -> None:
    """They import nothing of `coder`."""
    assert imports()[part] == set()


def test_torch_stays_where_it_belongs() -> None:
    """In the files of families that compute with it; the rest of `coder` and the server do without.

    `doctor` lists the devices that torch finds, if it is there; `models_command` draws a bar.
    """
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("coder", "lsp", "talaria")
        for path in (ROOT / package).rglob("*.py")
        if {name.split(".")[0] for name in imported(path)} & set(HEAVY) - {"matplotlib"}
    }
    computing = {f"coder/families/{path.name}" for path in FAMILIES.glob("*_torch.py")}
    assert "coder/families/talaria_torch.py" in computing
    assert found == {*computing, "coder/doctor.py", "coder/models_command.py"}


@pytest.mark.parametrize(
    "program",
    [
        "import talaria; print(talaria.infill(talaria.load(), 'x = (', ')').best.text)",
        "from talaria.coder import cli; cli.main(['infill', '-', '--json'])",
        "from talaria.coder import checkpoint, trace; from talaria.coder.engine import Engine\n"
        "from talaria.coder.request import Request\n"
        "with Engine(checkpoint.load) as engine: engine.fill(Request('x = (', ')'))",
    ],
)
def test_the_way_from_a_keystroke_to_text_is_light(program: str) -> None:
    """It imports neither libraries for training and plots nor anything of `train` or `eval`."""
    program += "\nimport sys; print('loaded:', *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="x = (<|fill|>)\n",
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    loaded = done.stdout.rpartition("loaded: ")[2].split()
    assert "onnxruntime" in loaded
    assert not {name.split(".")[0] for name in loaded} & {*HEAVY, "sympy"}
    others = ("talaria.finetune", "talaria.evals", "talaria.lsp")
    assert not [name for name in loaded if name.startswith(others)]


def test_the_command_line_answers_before_a_model_is_there() -> None:
    """A wrong request needs none of its libraries."""
    program = (
        "import sys; from talaria.coder import cli; cli.main(['infill', 'a.py']); "
        "print(*{'torch', 'numpy', 'onnx', 'onnxruntime', 'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == ""
    assert done.stderr.startswith("talaria: ")

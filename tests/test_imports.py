"""Who may import whom, and what the way from a keystroke to ghost text must not pull in."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"coder": set(), "lsp": {"coder"}, "finetune": {"coder"}, "evals": {"coder"}}
LEAVES = ("syntax/*", "unmask", "errors")
# cli -> engine -> infill -> sampler -> {canvas, unmask, denoiser}
ORDER = {
    "engine": {"cli", "trace"},
    "infill": {"cli", "trace", "engine"},
    "sampler": {"infill", "cli", "trace", "engine"},
    "canvas": {"sampler", "infill", "cli", "engine", "trace", "checkpoint"},
    "denoiser": {"sampler", "infill", "cli", "engine", "trace", "checkpoint", "canvas"},
}


def imported(path: Path) -> set[str]:
    """All modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


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


def test_the_order_within_coder() -> None:
    """Leaves import no other part of `coder` but errors; nobody imports upwards."""
    allowed = ("talaria.coder.errors", "talaria.coder.syntax.")
    for path in (path for leaf in LEAVES for path in (ROOT / "coder").glob(f"{leaf}.py")):
        own = {name for name in imported(path) if name.startswith("talaria.coder.")}
        assert all(name.startswith(allowed) for name in own), path
    for module, above in ORDER.items():
        own = imported(ROOT / "coder" / f"{module}.py")
        assert not own & {f"talaria.coder.{name}" for name in above}, module


def test_the_keystroke_path_is_light() -> None:
    """Filling a hole imports neither the training libraries nor torch's compiler."""
    program = (
        "import sys, talaria.coder.cli, talaria.coder.trace; from talaria.coder import checkpoint; "
        "from talaria.coder.infill import Options, infill; "
        "infill(checkpoint.load(), 'x = (', ')', Options(max_tokens=4)); "
        "print([m for m in ('transformers', 'accelerate', 'peft', 'torch._dynamo', 'sympy') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_command_line_answers_before_torch_is_there() -> None:
    """A wrong request needs no model."""
    program = "import sys, talaria.coder.cli; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"

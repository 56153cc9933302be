"""The package as it is installed: one name, every folder, and no model's name in the decoder."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import talaria
from talaria.coder import checkpoint

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ("coder", "lsp", "finetune", "evals")


def test_every_folder_is_installed() -> None:
    """A new subpackage that pyproject.toml does not list would be missing in a wheel."""
    setup = PROJECT["tool"]["setuptools"]
    assert set(setup["package-dir"]) == {f"talaria.{folder}" for folder in FOLDERS}
    inits = [init for folder in FOLDERS for init in (ROOT / folder).rglob("__init__.py")]
    found = {"talaria." + ".".join(init.parent.relative_to(ROOT).parts) for init in inits}
    assert {"talaria", *found} == set(setup["packages"])


def test_data_files_are_installed() -> None:
    """Every file that is no module lies under a pattern of the package's data."""
    data = PROJECT["tool"]["setuptools"]["package-data"]
    covered = set()
    for package, patterns in data.items():
        there = ROOT.joinpath(*package.removeprefix("talaria.").split("."))
        for pattern in patterns:
            found = set(there.glob(pattern))
            assert found, (package, pattern)
            covered |= found
    for folder in FOLDERS:
        others = {
            path
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        }
        assert others <= covered, folder


def test_licences_travel() -> None:
    """A wheel has the licence and the notice of what it fetches; a base's licence text, too."""
    assert PROJECT["project"]["license-files"] == ["LICENSE", "NOTICE"]
    assert all((ROOT / name).is_file() for name in PROJECT["project"]["license-files"])
    assert "licences/*" in PROJECT["tool"]["setuptools"]["package-data"]["talaria.coder"]


def test_the_folders_are_found_once() -> None:
    """A checkout adds the folder above to the package's path, and nothing twice."""
    assert len(set(talaria.__path__)) == len(talaria.__path__)


def test_no_code_asks_which_family_it_is() -> None:
    """A family's name stands in its own files and in the table that finds them."""
    for path in (ROOT / "coder").rglob("*.py"):
        if path.parent.name == "families" or path.name == "checkpoint.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                values = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                assert not values & set(checkpoint.FAMILIES), path

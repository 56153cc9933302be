"""What people install: the sdist, the wheel that is made from it, and the words about both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from talaria import __version__

ROOT = Path(__file__).parent.parent
FOLDERS = ("coder", "lsp", "finetune", "evals")
NAMED = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md")
BUILD = "from setuptools import build_meta; print(build_meta.build_{}('.'))"


def python(program: str, folder: Path, **environment: str) -> str:
    """What a program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist of this checkout, unpacked."""
    folder = tmp_path_factory.mktemp("packages")
    checkout = folder / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*FOLDERS, "talaria"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    for name in (*NAMED, "constraints.txt"):
        shutil.copy(ROOT / name, checkout / name)
    built = python(BUILD.format("sdist"), checkout).splitlines()[-1]
    with tarfile.open(checkout / built) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"talaria_code-{__version__}"


def test_the_wheel_of_the_sdist_holds_everything_and_fills(sdist: Path) -> None:
    """Every module and every file of data; it runs from where it was unpacked."""
    built = python(BUILD.format("wheel"), sdist).splitlines()[-1]
    assert built == f"talaria_code-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(sdist / built) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(sdist / "unpacked")
    there = {
        f"talaria/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "ruff" not in str(path)
    }
    assert there <= names
    assert not [name for name in names if "tests" in name.split("/")]
    program = (
        "import sys, talaria; from talaria.coder import cli\n"
        "print(talaria.__file__); sys.exit(cli.main(['infill', '-']))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.')\n{program}"],
        cwd=sdist / "unpacked",
        input="def mean(values):\n    return sum(values) / <|fill|>\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[0]).is_relative_to(sdist)
    assert done.stdout.splitlines()[1].strip()


def test_no_text_installs_another_project() -> None:
    """No index has this package, and `talaria` there is somebody else's: only paths are named."""
    wrong = re.compile(
        r"(?:pipx?|uvx?|uv tool|uv pip)3? (?:install|run|add|inject)"
        r"(?:\s+-{1,2}[\w-]+)*\s+['\"]?(talaria[\w-]*)(?![\w./-])"
    )
    assert wrong.search("pip install -U talaria")
    assert wrong.search("pipx install 'talaria-code[gpu]'")
    assert not wrong.search("pipx install talaria_code-0.1.0-py3-none-any.whl")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "README.md" in listed.stdout.split("\n")
    texts = {".md", ".py", ".toml", ".ts", ".lua", ".el", ".yml", ".json", ""}
    found = []
    for path in map(ROOT.joinpath, listed.stdout.splitlines()):
        if path.suffix in texts and path.is_file() and path != Path(__file__):
            text = path.read_text("utf-8", errors="replace")
            found += [f"{path.name}: {each[0]}" for each in wrong.finditer(text)]
    assert found == []


def test_the_name_is_said_where_people_install() -> None:
    """With the warning about the other project; the README stays short and begins with it."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert readme.count("\n") <= 120
    section = readme.split("\n## ")[1]
    assert section.startswith("Install\n")
    for words in ("pipx install .", "uv tool install .", "talaria-code", "another project"):
        assert words in section

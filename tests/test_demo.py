"""What a newcomer runs first: the demo and the examples of the README."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from talaria.coder import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_demo_runs() -> None:
    """With the shipped model, to its end."""
    done = subprocess.run(
        [sys.executable, "docs/demo.py"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("page", "printed"), [(README, ""), (ARCHITECTURE, "answer: .*cancelled\n.*ready")]
)
def test_the_python_examples_run(page: str, printed: str) -> None:
    """Of the README and for servers, as they stand."""
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert re.search(printed, done.stdout, re.DOTALL)
    assert "so far:  " not in done.stdout  # what is chosen anew is not said twice


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    """As they stand, on the file that is there for them."""
    section = README.split("## Use")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    commands = [line for line in block.splitlines() if "talaria" in line]
    assert len(commands) > 3
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "example.py", tmp_path / "docs")
    talaria = 'talaria() { "$0" -m talaria.coder.cli "$@"; }; set -o pipefail; '
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", talaria + command, sys.executable],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.html").exists()


def test_options_of_infill_in_the_readme_are_real() -> None:
    """Every option that is named in the section on use."""
    section = README.split("## Use")[1].split("\n## ")[0]
    known = cli.infill_parser().format_help()
    named = set(re.findall(r"--[a-z-]+", section))
    assert len(named) > 5
    assert all(option in known for option in named)

"""What a newcomer runs first: the demo and the examples of the README."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from coder import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_demo_runs() -> None:
    """With the shipped model, to its end."""
    done = subprocess.run(
        [sys.executable, "docs/demo.py"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_python_example_of_the_readme_runs() -> None:
    """As it stands."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_options_of_infill_in_the_readme_are_real() -> None:
    """Every option that is named in the section on use."""
    section = README.split("## Use")[1].split("\n## ")[0]
    known = cli.infill_parser().format_help()
    named = set(re.findall(r"--[a-z-]+", section))
    assert len(named) > 5
    assert all(option in known for option in named)

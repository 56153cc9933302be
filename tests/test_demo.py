"""What a newcomer runs first: the demo and the examples of the documents."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from talaria.coder import infill_command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_demo_runs() -> None:
    """It fills the function with the shipped model and exits with 0."""
    done = subprocess.run(
        [sys.executable, "docs/demo.py"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert ", diffuse, stopped at " in done.stdout


@pytest.mark.parametrize(
    ("page", "printed"), [(README, ""), (ARCHITECTURE, "answer: .*cancelled\n.*ready")]
)
def test_the_python_examples_run(page: str, printed: str) -> None:
    """The README's example and the one for servers run unchanged."""
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert re.search(printed, done.stdout, re.DOTALL)
    assert "so far:  " not in done.stdout  # no frame repeats the healed token of the prefix


def test_the_commands_of_the_readme_print_what_it_shows(tmp_path: Path) -> None:
    """Each command of its session runs on the example file and prints the lines below it."""
    section = README.split("## Use")[1].split("\n## ")[0]
    (session,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    entries = [entry.partition("\n") for entry in re.split(r"^\$ ", session, flags=re.MULTILINE)]
    commands = {command: output for command, _, output in entries if "talaria " in command}
    assert len(commands) == 3
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "example.py", tmp_path / "docs")
    talaria = 'talaria() { "$0" -m talaria.coder.cli "$@"; }; set -o pipefail; '
    for command, output in commands.items():
        done = subprocess.run(
            ["bash", "-c", talaria + command, sys.executable],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == output
    assert (tmp_path / "out.html").exists()


def test_options_of_infill_in_the_readme_are_real() -> None:
    """`talaria infill --help` knows every option that the section on use names."""
    section = README.split("## Use")[1].split("\n## ")[0]
    known = infill_command.build_parser().format_help()
    named = set(re.findall(r"(?<!-)--[a-z][a-z-]*", section))
    assert len(named) > 5
    assert all(option in known for option in named)


def test_links_between_documents_resolve() -> None:
    """Every relative link in Markdown names a file, and every anchor a heading of that file."""
    skipped = {"node_modules", ".venv", "build"}
    pages = [page for page in ROOT.rglob("*.md") if not skipped & set(page.relative_to(ROOT).parts)]
    texts = {page: re.sub(r"(?ms)^(`{3,}).*?^\1", "", page.read_text("utf-8")) for page in pages}
    for page, text in texts.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if link.startswith("http"):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors(texts[target]), f"{page}: {link}"


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

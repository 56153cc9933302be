"""What a newcomer runs first: the demo and the examples of the documents."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from talaria.coder import bases, chat_command, infill_command
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.models_command import FetchTerminal
from tests.coder.fake_sources import NAME, cut_off, environment, known_bases, serving, table
from tests.coder.test_qwen2_gguf import write_gguf

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture
def base(tmp_path: Path, tokenizer: TalariaTokenizer) -> bytes:
    """The file of a tiny random Qwen2."""
    path = tmp_path / "random.gguf"
    write_gguf(path, tokenizer)
    return path.read_bytes()


@pytest.fixture
def demo(tmp_path: Path, base: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The demo on a fresh machine without a network, with that base as the large model."""
    cut_off(tmp_path, monkeypatch)
    spec = importlib.util.spec_from_file_location("demo", ROOT / "docs" / "demo.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LARGE", NAME)
    folder = tmp_path / "talaria" / "models" / NAME
    folder.mkdir(parents=True)
    named = {"name": NAME, "sha256": hashlib.sha256(base).hexdigest()}
    config = {"format_version": 1, "family": "qwen2", "parameters": 1, "base": named, "sha256": {}}
    (folder / "config.json").write_text(json.dumps(config))
    with known_bases(tmp_path / "bases.toml", table(base), monkeypatch):
        yield module


def test_the_demo_fetches_the_large_model_once(
    demo: ModuleType,
    base: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It fills the function with it; a second run fetches nothing."""
    with serving(monkeypatch) as hub:
        hub.content = base
        assert demo.main() == 0
        out, err = capsys.readouterr()
        assert err.startswith("demo: fetching tiny, ")
        assert "Hugging Face Hub: all " in err
        assert f"\n{NAME}: " in out
        assert ", verify, stopped at " in out
        assert demo.main() == 0
        out, err = capsys.readouterr()
        assert f"\n{NAME}: " in out
        assert err == ""
        assert len(hub.paths) == 1


def no_network(patch: pytest.MonkeyPatch) -> None:
    """Nothing answers, as everywhere in these tests."""


def no_disk(patch: pytest.MonkeyPatch) -> None:
    """There is no room for the base."""
    patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))


def ctrl_c(patch: pytest.MonkeyPatch) -> None:
    """The user presses the keys when half of it is here."""

    def moved(self: FetchTerminal, label: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    patch.setattr("talaria.coder.base_sources.CHUNK", 10_000)
    patch.setattr(FetchTerminal, "moved", moved)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (no_network, "no source has tiny; go online and start again"),
        (no_disk, "has 0 MB free"),
        (ctrl_c, "interrupted; what has arrived is kept"),
    ],
)
def test_the_demo_without_the_large_model(
    demo: ModuleType,
    base: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: Callable[[pytest.MonkeyPatch], None],
    message: str,
) -> None:
    """One line says why, and the embedded model fills the function."""
    trouble(monkeypatch)
    if trouble is no_network:
        assert demo.main() == 0
    else:
        with serving(monkeypatch) as hub:
            hub.content = base
            assert demo.main() == 0
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines()[1:] if line.startswith("demo: ")]
    assert message in line
    assert line.endswith("; filling with talaria-7m")
    assert ", diffuse, stopped at " in out
    assert bases.state(bases.named(NAME)) != "ready"


def test_the_demo_with_a_damaged_base(
    demo: ModuleType, base: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so, and the embedded model fills the function."""
    path = bases.place(bases.named(NAME))
    path.parent.mkdir()
    path.write_bytes(base[:-1] + b"?")
    assert demo.main() == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"demo: .*SHA-256.*; filling with talaria-7m\n", err)
    assert ", diffuse, stopped at " in out


def test_the_demo_runs_as_a_program(tmp_path: Path) -> None:
    """As `make demo` runs it, here on a machine without a network."""
    done = subprocess.run(
        [sys.executable, "docs/demo.py"],
        cwd=ROOT,
        env={**environment(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "fetching qwen2.5-coder-0.5b, 491 MB, once" in done.stderr
    assert ", diffuse, stopped at " in done.stdout


def test_writing_is_shown_as_it_grows(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each step, what is new; all of it where a repair has taken something back."""
    show = demo.show_writing(SimpleNamespace(tokenizer=None))
    texts = [(0, "a ="), (0, "a = b"), (1, " + c"), (1, " -"), (1, " - c")]
    for canvas, text in texts:
        show(SimpleNamespace(canvas=canvas, text=lambda row, tokenizer, text=text: text))
    written = capsys.readouterr().out.split("step ")[1].partition("\n\n")[2]
    assert written == "a =│ b│ + c│\na = b -│ c│"


@pytest.mark.parametrize(
    ("page", "printed"), [(README, ""), (ARCHITECTURE, "answer: .*cancelled\n.*ready")]
)
def test_the_python_examples_run(page: str, printed: str, tmp_path: Path) -> None:
    """The README's example and the one for servers run unchanged."""
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=600,
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
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == output
    assert (tmp_path / "out.html").exists()


def test_options_of_infill_in_the_documents_are_real() -> None:
    """`talaria infill --help`, or chat's, knows all that README and command line's page name."""
    section = README.split("## Use")[1].split("\n## ")[0]
    section += (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    known = infill_command.build_parser().format_help()
    known += chat_command.build_parser().format_help()
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


def test_the_extension_s_own_page_links_to_no_file() -> None:
    """There are no others beside it on a marketplace, so vsce refuses to package such links."""
    page = (ROOT / "editors/vscode/README.md").read_text("utf-8")
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)\s]+)\)", page))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

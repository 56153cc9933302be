"""The command line as people and tools use it: results, fields, one line for each fault."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coder import checkpoint, cli, engine, source
from coder.checkpoint import Checkpoint
from coder.infill import Infill, Options
from coder.infill import infill as fill
from coder.syntax import judge

FIELDS = {
    "text",
    "candidates",
    "nfe",
    "tokens",
    "tokens_per_forward",
    "elapsed_ms",
    "context_tokens",
    "model",
    "stopped",
    "syntax",
}
MODULE = '''"""A module."""


class Account:
    def deposit(self, amount):
        """Add money."""
        self.balance += amount
        return self.balance


print("été")
'''


class Terminal:
    """Runs commands as a shell would and keeps what they print."""

    def __init__(
        self, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.model, self.capsys, self.monkeypatch = model, capsys, monkeypatch
        self.out = self.err = ""

    def __call__(self, *argv: str, stdin: bytes = b"") -> int:
        """The exit code of `talaria infill ARGV --model TINY --max-tokens 12`."""
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main(["infill", *argv, "--max-tokens", "12", "--model", str(self.model)])
        self.out, self.err = self.capsys.readouterr()
        return code


@pytest.fixture
def infill(
    model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Terminal:
    """`talaria infill` with the tiny model."""
    return Terminal(model_folder, capsys, monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A module on disk."""
    path = tmp_path / "account.py"
    path.write_text(MODULE, encoding="utf-8")
    return path


def targets(file: Path) -> list[tuple[str, bytes]]:
    """The three forms of a target."""
    return [
        (f"{file}:7:8", b""),
        (f"{file}::Account.deposit", b""),
        ("-", b"def mean(values):\n    return <|fill|>\n"),
    ]


@pytest.mark.parametrize("form", range(3))
@pytest.mark.parametrize("mode", ["diffuse", "verify", "ar"])
def test_json_has_the_fields_of_the_design(
    infill: Terminal, file: Path, form: int, mode: str
) -> None:
    """On all three forms of a target and in both modes; standard output holds nothing else."""
    target, stdin = targets(file)[form]
    assert infill(target, "--json", "--mode", mode, stdin=stdin) == 0
    answer = json.loads(infill.out)
    assert set(answer) == FIELDS
    assert answer["candidates"][0]["text"] == answer["text"]
    committed = answer["tokens"] + (answer["stopped"] == "eom")
    assert answer["tokens_per_forward"] == round(committed / answer["nfe"], 3)
    assert answer["model"] == "tiny"
    assert infill.err == ""
    first = answer["text"]
    assert infill(target, "--json", "--mode", mode, "--seed", "0", stdin=stdin) == 0
    assert json.loads(infill.out)["text"] == first


def test_the_middle_alone_goes_to_standard_output(infill: Terminal, file: Path) -> None:
    """And one line about the effort to standard error."""
    assert infill(f"{file}:7:8", "--json") == 0
    text = json.loads(infill.out)["text"]
    assert infill(f"{file}:7:8") == 0
    assert infill.out == text + "\n"
    assert infill.err.count("\n") == 1
    assert "steps" in infill.err


def test_diff_and_write_agree(infill: Terminal, file: Path) -> None:
    """The diff applied is the file written; nothing outside of the hole changes."""
    assert infill(f"{file}::Account.deposit", "--diff") == 0
    assert infill.out.startswith("--- ")
    assert file.read_text(encoding="utf-8") == MODULE
    added = [line[1:] for line in infill.out.splitlines()[3:] if line.startswith("+")]
    assert infill(f"{file}::Account.deposit", "--write") == 0
    assert infill.out == ""
    written = file.read_text(encoding="utf-8")
    head, tail = MODULE.split("        self.balance += amount")[0], '\n\n\nprint("été")\n'
    assert written.startswith(head)
    assert written.endswith(tail)
    assert all(line in written for line in added)
    assert list(file.parent.iterdir()) == [file]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Decides what the model writes."""
    real = fill

    def decide(text: str) -> None:
        def infill(
            model: Checkpoint, prefix: str, suffix: str, options: Options, *rest: Any
        ) -> Infill:
            found = real(model, prefix, suffix, options, *rest)
            best = dataclasses.replace(found.best, text=text)
            verdict = judge(prefix, text, suffix)
            return dataclasses.replace(found, candidates=[best], syntax=verdict)

        monkeypatch.setattr(engine, "infill", infill)

    return decide


@pytest.mark.parametrize("text", ["", 'return """', "return ("])
def test_nothing_and_nothing_broken_is_written(
    infill: Terminal, file: Path, offer: Callable[[str], None], text: str
) -> None:
    """A function keeps its body; one line says why, and the exit code is 1."""
    offer(text)
    assert infill(f"{file}::Account.deposit", "--write") == 1
    assert file.read_text(encoding="utf-8") == MODULE
    assert infill.err.count("\n") == 1
    assert "as it was" in infill.err
    assert infill(f"{file}::Account.deposit", "--diff") == 0
    assert bool(infill.out) == bool(text)


def test_a_trace_never_takes_the_place_of_the_source(infill: Terminal, file: Path) -> None:
    """Whatever its name, nor of a folder."""
    for name in (str(file), str(file.parent / "." / file.name), str(file.parent)):
        assert infill(f"{file}:7:8", "--trace", name) == 2
        assert "--trace" in infill.err
    assert file.read_text(encoding="utf-8") == MODULE
    page = file.parent / "page.html"
    assert infill(f"{file}:7:8", "--trace", str(page)) == 0
    assert sorted(file.parent.iterdir()) == sorted([file, page])


def test_closed_standard_input(
    model_folder: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Is no fault where a file is filled, and a plain one where it is needed."""
    monkeypatch.setattr(sys, "stdin", None)
    more = ["--max-tokens", "4", "--model", str(model_folder)]
    assert cli.main(["infill", f"{file}:7:8", *more]) == 0
    assert cli.main(["infill", "-", *more]) == 2
    assert "closed" in capsys.readouterr().err


def test_a_terminal_without_the_characters(model_folder: Path, file: Path) -> None:
    """They are shown by their codes; JSON stays JSON."""
    text = MODULE.replace("Add money.", "Add money — été.")
    file.write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    for shown in ("--diff", "--json"):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "coder.cli", "infill", f"{file}::Account.deposit"),
                *(shown, "--model", str(model_folder), "--max-tokens", "8"),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        if shown == "--json":
            json.loads(done.stdout)


def test_an_interrupt_while_writing(
    infill: Terminal, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and the file as it was."""

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    assert infill(f"{file}:7:8", "--write") == 1
    assert infill.err.splitlines()[-1].startswith("talaria: interrupted")
    assert file.read_text(encoding="utf-8") == MODULE
    assert list(file.parent.iterdir()) == [file]


def test_candidates_and_trace(infill: Terminal, file: Path, tmp_path: Path) -> None:
    """Several candidates come ranked; the trace is a page that needs nothing else."""
    page = tmp_path / "trace.html"
    assert infill(f"{file}:7:8", "--json", "--candidates", "3", "--trace", str(page)) == 0
    answer = json.loads(infill.out)
    assert 1 <= len(answer["candidates"]) <= 3
    text = page.read_text(encoding="utf-8")
    assert text.lower().startswith("<!doctype html>")
    assert "http" not in text


def test_a_trace_that_cannot_be_written(infill: Terminal, file: Path, tmp_path: Path) -> None:
    """Is said in one line."""
    assert infill(f"{file}:7:8", "--trace", str(tmp_path / "no" / "trace.html")) == 1
    assert infill.err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "target", "code", "reason"),
    [
        (None, "{}:1:0", 1, "does not exist"),
        (b"", "{}:1:0", 1, "empty"),
        (b"a\0b", "{}:1:0", 1, "binary"),
        ("é".encode("latin-1"), "{}:1:0", 1, "UTF-8"),
        (b"x = 1\n", "{}:9:0", 1, "line"),
        (b"x = 1\n", "{}:1:9", 1, "character"),
        (b"x = 1\n", "{}::f", 1, "function"),
        (b"def fun(): pass\n", "{}::funn", 1, "fun"),
        (b"x" * (source.MAX_FILE_BYTES + 1), "{}:1:0", 1, "16"),
        (b"x = 1\n", "{}", 2, "FILE:LINE:COL"),
    ],
)
def test_a_bad_file_or_target(
    infill: Terminal, tmp_path: Path, content: bytes | None, target: str, code: int, reason: str
) -> None:
    """One line that says what, the limit and the remedy; the file stays as it was."""
    path = tmp_path / "a.py"
    if content is not None:
        path.write_bytes(content)
    assert infill(target.format(path), "--write") == code
    assert reason in infill.err
    assert infill.err.count("\n") == 1
    assert infill.out == ""
    if content is not None:
        assert path.read_bytes() == content


@pytest.mark.parametrize("text", [b"", b"x = 1\n", b"<|fill|> and <|fill|>", b"\xff<|fill|>"])
def test_bad_standard_input(infill: Terminal, text: bytes) -> None:
    """No mark, two marks, nothing, or not a text: one line."""
    assert infill("-", stdin=text) in (1, 2)
    assert infill.err.startswith("talaria: ")
    assert infill.err.count("\n") == 1


def test_wrong_options(infill: Terminal, file: Path) -> None:
    """Exit code 2, the value and the limit."""
    assert infill(f"{file}:1:0", "--max-nfe", "0") == 2
    assert "--max-nfe is 0" in infill.err
    assert infill("-", "--write", stdin=b"a <|fill|>") == 2
    with pytest.raises(SystemExit, match="2"):
        infill(f"{file}:1:0", "--mode", "fast")


def test_an_unknown_or_damaged_model(
    infill: Terminal, model_folder: Path, file: Path, tmp_path: Path
) -> None:
    """One line, exit code 1."""
    infill.model = tmp_path / "nothing"
    assert infill(f"{file}:1:0") == 1
    assert infill.err.count("\n") == 1
    infill.model = tmp_path / "damaged"
    shutil.copytree(model_folder, infill.model)
    weights = infill.model / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-10])
    assert infill(f"{file}:1:0") == 1
    assert "damaged" in infill.err


def test_models_and_doctor(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`models` lists the shipped one; `doctor` prints versions and a timed infill."""
    assert cli.main(["models"]) == 0
    assert checkpoint.DEFAULT_MODEL in capsys.readouterr().out
    assert cli.main(["doctor", "--model", str(model_folder)]) == 0
    report = capsys.readouterr().out
    for word in ("talaria", "python", "torch", "tree-sitter", "model", "infill", "ms"):
        assert word in report


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Help lists every command, those of other packages too; an unknown one is named."""
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("infill", "models", "doctor", "corpus", "tokenizer", "train", "eval"):
        assert command in text
    assert cli.main([]) == 2
    assert cli.main(["fly"]) == 2
    assert "'fly'" in capsys.readouterr().err


def test_the_shipped_model_from_a_cold_start() -> None:
    """`talaria infill` in a process of its own fills a hole with the model in the package."""
    done = subprocess.run(
        [sys.executable, "-m", "coder.cli", "infill", "-", "--json"],
        input=b"import os\n\n\ndef exists(path):\n    return <|fill|>\n",
        capture_output=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["model"] == checkpoint.DEFAULT_MODEL
    assert answer["text"].strip()


@pytest.mark.parametrize("module", ["tree_sitter", "torch", "safetensors"])
def test_doctor_says_what_is_missing(module: str) -> None:
    """The versions before, then one line with the name and a remedy."""
    program = (
        f"import sys; sys.modules[{module!r}] = None; from coder import cli; "
        "sys.exit(cli.main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "python " in done.stdout
    assert done.stderr.count("\n") == 1
    assert module in done.stderr
    assert "pip install" in done.stderr

"""The command line as people and tools use it: results, fields, one line for each fault."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from talaria.coder import answers, checkpoint, cli, engine, source
from talaria.coder.arguments import Formatter, Parser
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.guard import Guard
from talaria.coder.infill import fill
from talaria.coder.request import Options, Request, Settings
from talaria.coder.results import Candidate, Infill
from talaria.coder.syntax.judge import judge

FIELDS = {
    "text",
    "candidates",
    "confidence",
    "nfe",
    "tokens",
    "tokens_per_forward",
    "elapsed_ms",
    "context_tokens",
    "model",
    "stopped",
    "until",
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


class Shell:
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
) -> Shell:
    """`talaria infill` with the tiny model."""
    return Shell(model_folder, capsys, monkeypatch)


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
def test_json_has_the_fields_of_the_design(infill: Shell, file: Path, form: int, mode: str) -> None:
    """On all three forms of a target and in both modes; standard output holds nothing else."""
    target, stdin = targets(file)[form]
    assert infill(target, "--json", "--mode", mode, stdin=stdin) == 0
    answer = json.loads(infill.out)
    assert set(answer) == FIELDS
    best = answer["candidates"][0]
    for name in ("text", "tokens", "stopped", "confidence"):
        assert best[name] == answer[name]
    assert 0 < answer["confidence"] <= 1
    committed = answer["tokens"] + (answer["stopped"] == "eom")
    assert answer["tokens_per_forward"] == round(committed / answer["nfe"], 3)
    assert answer["model"] == "tiny"
    assert infill.err == ""
    first = answer["text"]
    assert infill(target, "--json", "--mode", mode, "--seed", "0", stdin=stdin) == 0
    assert json.loads(infill.out)["text"] == first


def test_the_middle_alone_goes_to_standard_output(infill: Shell, file: Path) -> None:
    """And one line about the effort to standard error."""
    assert infill(f"{file}:7:8", "--json", "--no-syntax-check") == 0
    text = json.loads(infill.out)["text"]
    assert infill(f"{file}:7:8", "--no-syntax-check") == 0
    assert text
    assert infill.out == text + "\n"
    assert infill.err.count("\n") == 1
    assert "a step)" in infill.err
    assert infill(f"{file}:7:8", "--no-syntax-check", "--quiet") == 0
    assert (infill.out, infill.err) == (text + "\n", "")


def test_the_end_of_a_line(infill: Shell, file: Path) -> None:
    """Is what a line without a column means."""
    assert infill(f"{file}:7:30", "--json") == 0
    there = json.loads(infill.out)
    assert infill(f"{file}:7", "--json") == 0
    assert json.loads(infill.out)["text"] == there["text"]


def test_diff_and_write_agree(infill: Shell, file: Path) -> None:
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
        def instead(model: Checkpoint, request: Request, *rest: Any) -> Infill:
            found = real(model, request, *rest)
            verdict = judge(request.prefix, text, request.suffix)
            refused = Guard(request).refusal(text, verdict) if request.options.complete else None
            best = dataclasses.replace(found.best, text=text, refused=refused)
            return dataclasses.replace(found, candidates=[best], syntax=verdict)

        monkeypatch.setattr(engine, "fill", instead)

    return decide


@pytest.mark.parametrize("text", ["", 'return """', "return ("])
def test_nothing_and_nothing_broken_is_written(
    infill: Shell, file: Path, offer: Callable[[str], None], text: str
) -> None:
    """A function keeps its body; one line says why, and the exit code is 1."""
    offer(text)
    assert infill(f"{file}::Account.deposit", "--write") == 1
    assert file.read_text(encoding="utf-8") == MODULE
    assert infill.err.count("\n") == 1
    assert "as it was" in infill.err
    assert infill(f"{file}::Account.deposit", "--diff") == 0
    assert bool(infill.out) == bool(text)


def test_no_file_that_compiles_is_broken(
    infill: Shell, file: Path, offer: Callable[[str], None]
) -> None:
    """By a block whose body may come, which may be offered; nor one that is broken elsewhere."""
    offer("if amount:")
    for place in ("::Account.deposit", ":10:0"):
        assert infill(f"{file}{place}", "--write") == 1
        assert file.read_text(encoding="utf-8") == MODULE
        assert "opens a block without a body ('if amount:'), so" in infill.err
        assert infill.err.count("\n") == 1
    assert infill(f"{file}::Account.deposit") == 0
    assert infill.out == "if amount:\n"
    file.write_text(f"{MODULE}x = = 1\n", encoding="utf-8")
    assert infill(f"{file}::Account.deposit", "--write") == 1
    assert file.read_text(encoding="utf-8") == f"{MODULE}x = = 1\n"


@pytest.mark.parametrize(
    ("place", "more", "complete"),
    [
        ("::Account.deposit", (), True),
        (":7:8", ("--write",), True),
        (":7:8", (), False),
        (":7:8", ("--diff",), False),
    ],
)
def test_what_is_written_is_complete(
    infill: Shell,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    more: tuple[str, ...],
    complete: bool,
) -> None:
    """A function too; who asks at a cursor may type on."""
    asked = []

    def spy(model: Checkpoint, request: Request, *rest: Any) -> Infill:
        asked.append(request.options.complete)
        return fill(model, request, *rest)

    monkeypatch.setattr(engine, "fill", spy)
    infill(f"{file}{place}", *more)
    assert asked == [complete]


def test_a_file_in_another_encoding(
    infill: Shell, file: Path, offer: Callable[[str], None], model_folder: Path
) -> None:
    """Is read and written back as it declares (PEP 263), and its patch applies."""
    text = "# -*- coding: latin-1 -*-\nname = 'été'\nx = \n"
    file.write_bytes(text.encode("latin-1"))
    offer("'é'")
    assert infill(f"{file}:3", "--write") == 0
    assert file.read_bytes() == text.replace("x = ", "x = 'é'").encode("latin-1")
    file.write_bytes(text.encode("latin-1"))
    program = (*(sys.executable, "-m", "talaria.coder.cli", "infill"), f"{file}:3", "--diff")
    options = ("--no-syntax-check", "--model", str(model_folder), "--max-tokens", "8")
    done = subprocess.run([*program, *options], capture_output=True, check=True)
    assert b" name = '\xe9t\xe9'\n" in done.stdout
    offer("'\u2028'")
    assert infill(f"{file}:3", "--write") == 1
    assert "ISO-8859-1 cannot encode '\\u2028'" in infill.err
    assert file.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("encoding", ["undefined", "rot13", "hex"])
def test_an_encoding_that_is_none(infill: Shell, file: Path, encoding: str) -> None:
    """One line, though Python knows its name."""
    file.write_text(f"# coding: {encoding}\nx = 1\n", "utf-8")
    assert infill(f"{file}:2") == 1
    assert encoding in infill.err
    assert infill.err.count("\n") == 1


@pytest.mark.parametrize("name", ["a.js", "a.rs", "Makefile.am", "a.ipynb.txt", "a.PYC"])
def test_other_languages_are_refused(infill: Shell, tmp_path: Path, name: str) -> None:
    """In one line, without a model; Python by its first line is Python."""
    path = tmp_path / name
    path.write_text("x = 1\n")
    infill.model = tmp_path / "nothing"
    for place in (":1:0", ":1", "::f"):
        assert infill(f"{path}{place}") == 1
        assert "only Python can be filled" in infill.err
        assert infill.err.count("\n") == 1
    path.write_text("#!/usr/bin/env python3\nx = 1\n")
    assert source.parse_target(f"{path}:2", lambda: b"").prefix.endswith("x = 1")


def test_nothing_to_offer_is_said(infill: Shell, file: Path, offer: Callable[[str], None]) -> None:
    """On standard error; standard output stays empty, but for JSON as it always is."""
    offer("")
    for target, stdin in targets(file):
        for shown in ((), ("--diff",)):
            assert infill(target, *shown, stdin=stdin) == 0
            assert infill.out == ""
            assert infill.err.startswith("nothing to offer after ")
            assert infill.err.count("\n") == 1
        assert infill(target, "--json", stdin=stdin) == 0
        assert json.loads(infill.out)["text"] == ""


def test_what_it_took_in_words() -> None:
    """Ones are no plural; the end is told apart from tokens, and several from one."""

    def told(candidates: list[Candidate], asked: int = 1, nfe: int = 1) -> str:
        result = Infill(candidates, nfe, 5.0, 9, 0, judge("", candidates[0].text, ""), [])
        request = Request("", "", Options(candidates=asked))
        said = answers.summary(result, request, Settings())
        assert ", diffuse, " in said  # the model's setting, where the request has none
        return said.partition(", 5 ms")[0]

    one = Candidate("x", [7], "eom", None, 0)
    two = Candidate("x y", [7, 8], "max_nfe", None, 1)
    empty = Candidate("", [], "eom", None, 2)
    assert told([one]) == "1 token and <eom> in 1 step (2.0 a step)"
    assert told([two], nfe=4) == "2 tokens in 4 steps (0.5 a step)"
    assert told([empty]) == "nothing to offer after 1 step"
    assert told([one, two, empty], 4).startswith("2 different texts of 4 candidates")
    assert told([empty, one], 2, 3).endswith("the best: empty after 3 steps")


@pytest.mark.parametrize("linked", [False, True])
def test_a_diff_can_be_applied(
    infill: Shell, file: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    """In the current folder, however a file in it is named; elsewhere from the root on."""
    inside = file.parent / "a folder"
    inside.mkdir()
    target = inside / ".." / file.name
    if linked:
        target = inside / "link.py"
        target.symlink_to(file)
    for here, name in ((file.parent, file.name), (inside, file.resolve().as_posix()[1:])):
        monkeypatch.chdir(here)
        for given in (target, os.path.relpath(target)):
            assert infill(f"{given}::Account.deposit", "--diff") == 0
            assert infill.out.splitlines()[:2] == [f"--- a/{name}", f"+++ b/{name}"]
    if shutil.which("patch"):
        patch = ["patch", "--silent", "-p1", "-d", file.anchor]
        subprocess.run(patch, input=infill.out, text=True, check=True)
        patched = file.read_text(encoding="utf-8")
        file.write_text(MODULE, encoding="utf-8")
        assert infill(f"{file}::Account.deposit", "--write") == 0
        assert patched == file.read_text(encoding="utf-8")


def test_a_trace_never_takes_the_place_of_the_source(infill: Shell, file: Path) -> None:
    """Whatever its name, nor of a folder."""
    for name in (str(file), str(file.parent / "." / file.name), str(file.parent)):
        assert infill(f"{file}:7:8", "--trace", name) == 2
        assert "--trace" in infill.err
    assert infill(f"{file}:7:8", "--trace", os.devnull) == 2
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
                *(sys.executable, "-m", "talaria.coder.cli", "infill", f"{file}::Account.deposit"),
                *(shown, "--model", str(model_folder), "--max-tokens", "8"),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        if shown == "--json":
            json.loads(done.stdout)


def test_an_interrupt_while_the_model_loads(tmp_path: Path) -> None:
    """One line and 130, whatever the thread that loads is doing."""
    began = "import sys; from talaria.coder import cli; print(flush=True); sys.exit(cli.main())"
    path = tmp_path / "hole.py"
    path.write_text("x = \n", "utf-8")
    for seconds in (0.35, 0.45, 0.55):
        process = subprocess.Popen(
            [sys.executable, "-c", began, "infill", f"{path}:1", "--daemon", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        answer, said = process.communicate(timeout=60)
        assert process.returncode != -signal.SIGABRT, said
        if not answer:  # else it was quicker than the signal
            assert (process.returncode, said) == (130, "talaria: interrupted\n")


def test_an_interrupt_while_writing(
    infill: Shell,
    file: Path,
    offer: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line, and the file as it was."""
    offer("amount += 1\n        ")

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    assert infill(f"{file}:7:8", "--write") == 130
    assert infill.err.splitlines()[-1].startswith("talaria: interrupted")
    assert file.read_text(encoding="utf-8") == MODULE
    assert list(file.parent.iterdir()) == [file]


def test_candidates_and_trace(infill: Shell, file: Path, tmp_path: Path) -> None:
    """Several candidates come ranked; the trace is a page that needs nothing else."""
    page = tmp_path / "trace.html"
    assert infill(f"{file}:7:8", "--json", "--candidates", "3", "--trace", str(page)) == 0
    answer = json.loads(infill.out)
    assert 1 <= len(answer["candidates"]) <= 3
    text = page.read_text(encoding="utf-8")
    assert text.lower().startswith("<!doctype html>")
    assert "http" not in text


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_candidates_are_printed(
    infill: Shell, file: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """All that have a text, the best first, a line between them; the first alone is written."""
    asked = (f"{file}:7:8", "--mode", mode, "--candidates", "4", "--no-syntax-check")
    assert infill(*asked, "--json") == 0
    texts = [candidate["text"] for candidate in json.loads(infill.out)["candidates"]]
    assert len(texts) > 1
    assert infill(*asked) == 0
    assert infill.out == "\n--\n".join(filter(None, texts)) + "\n"
    assert "of 4 candidates, the best: " in infill.err
    found = source.parse_target(asked[0], lambda: b"")
    monkeypatch.chdir(file.parent)
    assert infill(*asked, "--diff") == 0
    assert infill.out == source.unified_diff(
        dataclasses.replace(found, path=Path(file.name)), texts[0]
    )


@pytest.mark.parametrize("place", ["no/trace.html", "account.py/trace.html"])
def test_a_trace_that_cannot_be_written(
    infill: Shell, file: Path, tmp_path: Path, place: str
) -> None:
    """Is said in one line, by the name that was given, before a model is looked for."""
    infill.model = tmp_path / "nothing"
    assert infill(f"{file}:7:8", "--trace", str(tmp_path / place)) == 1
    assert f"--trace is {str(tmp_path / place)!r}" in infill.err
    assert infill.err.count("\n") == 1


def test_a_trace_that_fails_at_the_end(
    infill: Shell, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaves nothing, and the former page as it was."""

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", ".hidden")

    page = tmp_path / "trace.html"
    page.write_text("former", encoding="utf-8")
    monkeypatch.setattr(os, "replace", full)
    assert infill(f"{file}:7:8", "--trace", str(page)) == 1
    assert f"{str(page)!r}, which cannot be written (No space left" in infill.err
    assert page.read_text(encoding="utf-8") == "former"
    assert sorted(tmp_path.iterdir()) == [file, page]


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
        (b"x = 1\n", "{}:9", 1, "line"),
        (b"x = 1\n", "{}:1:9", 1, "give the line alone for its end"),
        (b"# coding: nonsense\nx = 1\n", "{}:1:0", 1, "unknown encoding: nonsense"),
        (b"# coding: rot13\nx = 1\n", "{}:1:0", 1, "UTF-8"),
        (b"#!/bin/sh\nx=1\n", "{}:1:0", 1, "only Python"),
    ],
)
def test_a_bad_file_or_target(
    infill: Shell, tmp_path: Path, content: bytes | None, target: str, code: int, reason: str
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
def test_bad_standard_input(infill: Shell, text: bytes) -> None:
    """No mark, two marks, nothing, or not a text: one line."""
    assert infill("-", stdin=text) in (1, 2)
    assert infill.err.startswith("talaria: ")
    assert infill.err.count("\n") == 1


def test_wrong_options(infill: Shell, file: Path) -> None:
    """Exit code 2, the value and the limit."""
    assert infill(f"{file}:1:0", "--max-nfe", "0") == 2
    assert "--max-nfe is 0" in infill.err
    assert infill("-", "--write", stdin=b"a <|fill|>") == 2
    for wrong in (("--mode", "fast"), ("--max-nfe", "many"), ("--fast",), ("--json", "--diff")):
        assert infill(f"{file}:1:0", *wrong) == 2
        assert wrong[0] in infill.err
        assert infill.err.count("\n") == 1
        assert "see `talaria infill --help`" in infill.err


@pytest.mark.parametrize(
    "given",
    [
        ("--mode", "ar", "--confidence-threshold", "0.2"),
        ("--mode", "ar", "--lookahead", "4"),
        ("--mode", "verify", "--confidence-threshold", "0.2"),
    ],
)
def test_options_that_would_change_nothing(
    infill: Shell, file: Path, given: tuple[str, ...]
) -> None:
    """Are refused by their names."""
    assert infill(f"{file}:7:8", *given) == 2
    assert given[2] in infill.err
    assert infill.err.count("\n") == 1


def test_an_unknown_or_damaged_model(
    infill: Shell, model_folder: Path, file: Path, tmp_path: Path
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
    assert checkpoint.EMBEDDED in capsys.readouterr().out
    assert cli.main(["doctor", "--model", str(model_folder)]) == 0
    report = capsys.readouterr().out
    for word in ("talaria", "python", "numpy", "onnxruntime", "torch", "tree-sitter", "model"):
        assert re.search(rf"^{word} +\w", report, re.MULTILINE)
    assert re.search("^infill .* ms, ", report, re.MULTILINE)


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Help lists every command, those of other packages too; an unknown one is named."""
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("infill", "models", "doctor", "corpus", "tokenizer", "train", "eval"):
        assert command in text
    assert "--help`\n" not in text
    assert cli.main([]) == 2
    assert cli.main(["fly"]) == 2
    assert "'fly'" in capsys.readouterr().err


def test_help_says_what_commands_do_without_importing_them() -> None:
    """Nor what they need."""
    program = (
        "import sys; from talaria.coder import cli; cli.main(['--help']); "
        "heavy = {'torch', 'numpy', 'talaria.coder.infill', 'talaria.evals.bench', "
        "'talaria.finetune.train'}; "
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert "  bench      what requests cost on this machine" in done.stdout


def test_a_command_whose_package_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is listed all the same; asked for, it says what to install, and how from a clone."""
    command = metadata.EntryPoint("fly", "nowhere.wings:main", cli.COMMANDS)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [command])
    assert cli.main(["--help"]) == 0
    assert "`talaria fly --help`" in capsys.readouterr().out
    assert cli.main(["fly"]) == 1
    said = capsys.readouterr().err
    assert "needs nowhere" in said
    assert "pip install -e '.[train,eval]'" in said


COMMANDS = (
    "infill",
    "chat",
    "models",
    "doctor",
    "lsp",
    "stats",
    "eval",
    "bench",
    "corpus",
)
TRAINING = ("tokenizer", "train", "adapt", "validate")


@pytest.mark.parametrize("command", [*COMMANDS, *TRAINING])
def test_every_option_is_explained(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what holds where it is not given, in every command."""
    parsers: list[Parser] = []
    made = Parser.__init__

    def kept(parser: Parser, *given: Any, **options: Any) -> None:
        made(parser, *given, **options)
        parsers.append(parser)

    monkeypatch.setattr(Parser, "__init__", kept)
    with pytest.raises(SystemExit, match="0"):
        cli.run([command, "--help"])
    assert parsers
    for action in (each for parser in parsers for each in parser._actions):
        if isinstance(action, argparse._SubParsersAction):
            continue
        said = Formatter("")._get_help_string(action)
        assert said, action
        valued = action.option_strings and action.nargs != 0 and not action.required
        if valued and action.default not in (None, []):
            assert "default" in said or f"({action.default})" in said, action


def test_every_command_says_wrong_usage_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 2, and where to look."""
    for command in (*COMMANDS, *TRAINING):
        assert cli.main([command, "--nonsense"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "--help`" in said


def test_the_shipped_model_from_a_cold_start() -> None:
    """`talaria infill` in a process of its own fills a hole with the model in the package."""
    done = subprocess.run(
        [sys.executable, "-m", "talaria.coder.cli", "infill", "-", "--json"],
        input=b"import os\n\n\ndef exists(path):\n    return <|fill|>\n",
        capture_output=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["model"] == checkpoint.EMBEDDED
    assert answer["text"].strip()


@pytest.mark.parametrize("module", ["tree_sitter", "numpy", "onnxruntime"])
def test_doctor_says_what_is_missing(module: str) -> None:
    """The versions before, then one line with the name and a remedy."""
    program = (
        f"import sys; sys.modules[{module!r}] = None; from talaria.coder import cli; "
        "sys.exit(cli.main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "python " in done.stdout
    assert done.stderr.count("\n") == 1
    assert module in done.stderr
    assert "pip install" in done.stderr


def test_doctor_does_without_torch() -> None:
    """It is there for training and for a GPU; what else there is, is reported."""
    program = (
        "import sys; sys.modules['torch'] = None; from talaria.coder import cli; "
        "sys.exit(cli.main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert re.search("^devices +cpu$", done.stdout, re.MULTILINE)
    assert re.search("^infill .* ms, ", done.stdout, re.MULTILINE)


def test_another_device_needs_torch(model_folder: Path, file: Path) -> None:
    """Where it is not installed, one line says how to get it."""
    program = (
        "import sys; sys.modules['torch'] = None; from talaria.coder import cli; "
        f"sys.exit(cli.main(['infill', {str(file) + ':7:8'!r}, '--device', 'cuda', "
        f"'--model', {str(model_folder)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "install the extra `gpu`, or use --device cpu" in done.stderr

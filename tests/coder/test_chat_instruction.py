"""`talaria infill --instruction`: the model reads it, and nothing else does."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder import cli
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import UsageError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import commented, context_of, fill
from talaria.coder.request import MODES, Mode, Options, Request
from tests.scripted import script, scripted_by

CODE = "def area(w, h):\n    return "


def test_it_is_a_comment_above_the_line_of_the_hole() -> None:
    """Indented as that line is; several lines are several comments, blank ones none."""
    assert commented(CODE, "the area") == "def area(w, h):\n    # the area\n    return "
    assert commented("x = ", " a\n\n  b \n") == "# a\n# b\nx = "
    assert commented("if x:\n\t", "go") == "if x:\n\t# go\n\t"
    assert commented(CODE, "") == CODE


@given(prefix=st.text(), instruction=st.text())
def test_it_alters_nothing_that_is_there(prefix: str, instruction: str) -> None:
    """What is added are whole lines of comments."""
    found = commented(prefix, instruction)
    begin = prefix.rfind("\n") + 1
    assert found.startswith(prefix[:begin])
    assert found.endswith(prefix[begin:])
    added = found[begin : len(found) - len(prefix) + begin]
    assert added == "" or added.endswith("\n")


def test_the_model_reads_it(model: Checkpoint) -> None:
    """Before what stands last, so that a long file does not push it out."""
    for before in ("", "y = 1\n" * 400):
        request = Request(before + CODE, "\n", instruction="w times h")
        text = model.tokenizer.decode(context_of(model, request))
        assert "    # w times h\n    return" in text


def test_another_instruction_leads_elsewhere(tokenizer: TalariaTokenizer) -> None:
    """Though prefix and suffix are the same; the comment is no part of the middle."""
    said = {
        (commented(CODE, wish), "\n"): script(tokenizer, [text], " ", 0.9)
        for wish, text in (("area", "w * h"), ("sum", "w + h"), ("", "0"))
    }
    model = scripted_by(tokenizer, said)
    for wish, text in (("area", "w * h"), ("sum", "w + h"), ("", "0")):
        found = fill(model, Request(CODE, "\n", instruction=wish))
        assert found.best.text == text


@pytest.mark.parametrize("mode", MODES)
def test_the_guard_judges_the_file_without_it(tokenizer: TalariaTokenizer, mode: Mode) -> None:
    """A middle that would break the file is refused as ever."""
    options = Options(mode=mode, check_syntax=False, complete=True)
    for text, clean in (("w * h", True), ("w * (h", False)):
        request = Request(CODE, "\n", options, replaces="0", instruction="w times h")
        said = {(commented(CODE, "w times h"), "\n"): script(tokenizer, [text], " ", 0.9)}
        found = fill(scripted_by(tokenizer, said), request)
        assert found.best.text == text
        assert (found.best.refused is None) == clean


def test_one_that_is_too_long_is_refused() -> None:
    """With the number, the limit and the remedy."""
    with pytest.raises(UsageError, match="has 2,001 characters, the limit is 2,000; say it"):
        Request("x = ", "", instruction="a" * 2001)


def test_on_the_command_line(
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every form of a target; it is never printed, nor written into the file."""
    path = tmp_path / "area.py"
    path.write_text(f"{CODE}0\n")
    more = ("--model", str(model_folder), "--max-tokens", "8", "--instruction", "wish me well")
    stdin = io.TextIOWrapper(io.BytesIO(f"{CODE}<|fill|>\n".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    for target in (f"{path}:2:11", f"{path}::area", "-"):
        assert cli.main(["infill", target, "--json", *more]) == 0
        out = capsys.readouterr().out
        assert "wish" not in out
        assert json.loads(out)["model"] == "tiny"
    cli.main(["infill", f"{path}::area", "--write", *more])
    assert "wish" not in path.read_text()
    capsys.readouterr()
    assert cli.main(["infill", f"{path}:2:11", *more[:-1], " "]) == 2
    assert "--instruction is empty" in capsys.readouterr().err

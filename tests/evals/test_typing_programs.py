"""Programs are typed by the stated rules, and what a person would see is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from talaria.coder.errors import DataError, UsageError
from talaria.evals import command
from talaria.evals.suites import Problem
from talaria.evals.typing_programs import WINDOW, figures, suite_of_programs, type_window, windows
from tests.evals.test_typing_replay import corpus  # noqa: F401  a fixture

PREFIX = "x = 1\n"


class ScriptedEditor:
    """An editor whose server answers by what has been typed; the rest of an answer stays."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.text = answers, ""

    def open(self, name: str, text: str) -> None:
        """Open a document."""
        self.text = text

    def insert(self, text: str) -> None:
        """Insert a text at the cursor."""
        self.text += text

    def suggestion(self) -> str:
        """The answer."""
        return self.answers.get(self.text.removeprefix(PREFIX), "")


def typed(text: str, answers: dict[str, str]) -> dict[str, object]:
    """Type a text; the figures of the row that are asked for below."""
    editor = ScriptedEditor(answers)
    row = type_window(Problem("p:a.py:2", "p:a.py", PREFIX, "", text), editor).row()
    assert editor.text == PREFIX + text
    return {name: row[name] for name in ("keystrokes", "changed", "appeared", "shown")}


def test_without_help_every_character_is_a_key() -> None:
    """And nothing changes on the screen."""
    found = typed("ab = cd", {})
    assert found == {"keystrokes": 7, "changed": 0, "appeared": 0, "shown": []}


def test_a_right_text_is_one_key() -> None:
    """After the key at which it appears; what follows it is a new one."""
    found = typed("ab = cd", {"a": "b = cd"})
    assert found == {"keystrokes": 2, "changed": 0, "appeared": 1, "shown": [(6, 6)]}
    found = typed("ab = cd\ne", {"a": "b = cd\nf", "ab = cd": "\nf", "ab = cd\n": "f"})
    # Its first line is accepted, its rest stays for a key, and then the user types against it.
    assert found == {"keystrokes": 4, "changed": 1, "appeared": 1, "shown": [(8, 6)]}


def test_typing_along_changes_nothing() -> None:
    """While the rest stays; replacing or withdrawing it is a change, and so is typing against."""
    along = {"a": "bcx", "ab": "cx", "abc": "x"}
    assert typed("abcd", along)["changed"] == 1
    assert typed("abcd", along | {"ab": ""})["changed"] == 2
    assert typed("abcd", along | {"ab": "yy", "abc": "zz"})["changed"] == 3
    assert typed("abcd", {"a": "bx", "ab": "x", "abc": "y"}) == {
        "keystrokes": 4,
        "changed": 2,
        "appeared": 1,
        "shown": [(2, 0), (1, 0)],
    }


def test_indentation_comes_with_the_line_break() -> None:
    """In one change, and free."""
    assert typed("if a:\n    b\n    c", {"if a:\n    ": "b\n"})["keystrokes"] == 5 + 1 + 1 + 1


def test_the_windows_are_the_program() -> None:
    """In order, each behind what is above it."""
    text = "".join(f"line_{n} = {n}\n" for n in range(40))
    found = windows({"package": "p", "path": "a.py", "text": text})
    assert "\n".join(window.solution for window in found) == text
    assert [window.id for window in found] == [f"p:a.py:{n + 1}" for n in range(0, 40, WINDOW)]
    assert all(text.startswith(window.prefix + window.solution) for window in found)


def test_the_figures_add_up() -> None:
    """Shares of keys, texts and characters."""
    window = Problem("p:a.py:2", "p:a.py", PREFIX, "", "ab = cd")
    rows = [{**type_window(window, ScriptedEditor({"a": "b = cd"})).row(), "load": None}]
    rows += [{**type_window(window, ScriptedEditor({"a": "bb"})).row(), "id": "2", "load": None}]
    found = figures({}, rows)
    shares = {name: part["share"] for name, part in found["shares"].items()}
    assert shares == {
        "changed": 1 / 9,
        "appeared": 2 / 9,
        "right": 1 / 2,
        "keystrokes_saved": 5 / 14,
        "completed": 6 / 14,
    }
    with pytest.raises(DataError, match="no windows"):
        figures({}, [])


def test_the_command_types_through_the_server(
    corpus: Path,  # noqa: F811
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The report names what was typed; run again, nothing is typed twice."""
    with pytest.raises(UsageError, match=r"--programs is 5; .*corpus has only 0 packages"):
        suite_of_programs(corpus, 5, None, 0)
    words = ["programs", "--corpus", str(corpus), "--model", str(model_folder), "--windows", "1"]
    words += ["--programs", "1", "--out", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("talaria.evals.typing_programs.LINES", range(10, 100))
        patch.setattr("talaria.evals.typing_programs.WINDOW", 2)
        assert command.main(words) == 0
        first = capsys.readouterr().out
        assert command.main(words) == 0
    assert "1 windows" in first
    assert "keys that change the text on the screen" in first
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2

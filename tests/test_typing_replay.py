"""Typing is replayed by the stated rules."""

from __future__ import annotations

from evals.suites import Problem
from evals.typing_replay import Suggestion, accepted, figures, regions, replay

REGION = Problem("r", "f", "x = 1\n", "z = 3\n", "y = x + 1\nprint(y)\n")


def scripted(answers: dict[str, str], asked: list[str]) -> object:
    """An engine that knows what to say after some texts, and nothing elsewhere."""

    def ask(prefix: str, suffix: str) -> Suggestion:
        assert prefix.startswith(REGION.prefix)
        assert suffix == REGION.suffix
        typed = prefix.removeprefix(REGION.prefix)
        asked.append(typed)
        return Suggestion(answers.get(typed, ""), 0.9, 2, 10.0)

    return ask


def test_without_help_every_character_is_a_keystroke() -> None:
    """And one request."""
    asked: list[str] = []
    found = replay(REGION, scripted({}, asked))  # type: ignore[arg-type]
    assert found.keystrokes == found.characters == len(REGION.solution)
    assert found.completed == 0
    assert len(asked) == len(REGION.solution)


def test_a_right_suggestion_is_one_keystroke() -> None:
    """Whole, or its first line."""
    asked: list[str] = []
    answers = {"": "y = x + 1\nprint(y)\n"}
    assert replay(REGION, scripted(answers, asked)).keystrokes == 1  # type: ignore[arg-type]
    assert asked == [""]
    answers = {"": "y = x + 1\nreturn", "y = x + 1\n": "print(y)"}
    found = replay(REGION, scripted(answers, []))  # type: ignore[arg-type]
    assert found.keystrokes == 1 + 1 + 1 + 1  # a line, its break, a line, its break
    assert found.completed == len("y = x + 1") + len("print(y)")


def test_typing_through_asks_nothing() -> None:
    """A suggestion that begins well stays until it fits no longer."""
    asked: list[str] = []
    found = replay(REGION, scripted({"": "y = 7"}, asked))  # type: ignore[arg-type]
    assert asked[:2] == ["", "y = x"]
    assert found.keystrokes == found.characters


def test_what_is_accepted() -> None:
    """More than one character, and right to its end or to the end of its first line."""
    assert accepted("abc", "abcd") == 3
    assert accepted("abx", "abcd") == 0
    assert accepted("a", "abcd") == 0
    assert accepted("  ", "  a") == 0
    assert accepted("abc\nwrong", "abc\nright") == 3
    assert accepted("", "abc") == 0


def test_regions_come_from_the_files_and_are_whole() -> None:
    """The same for the same seed; prefix, region and suffix are the file."""
    text = "".join(f"value_{i} = {i}\n" for i in range(60))
    documents = [{"package": "p", "path": f"{i}.py", "text": text} for i in range(3)]
    found = regions(documents, 10, seed=1)
    assert found == regions(documents, 10, seed=1)
    assert len({region.id for region in found}) == 10
    assert all(r.prefix + r.solution + r.suffix == text for r in found)


def test_the_figures_add_up() -> None:
    """Shares of characters, keystrokes and requests."""
    answers = {"": "y = x + 1\nreturn", "y = x + 1\n": "prune"}
    rows = [replay(REGION, scripted(answers, [])).row()]  # type: ignore[arg-type]
    found = figures(rows)
    assert found["characters"] == 19
    assert found["completed_ratio"] == 9 / 19
    assert found["keystrokes_saved"] == 1 - 11 / 19
    assert found["exact_line_share"] == 0.5
    assert found["accepted_share"] == 0.5
    assert found["precision"][-1]["shown"] == 0

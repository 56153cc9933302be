"""Suggestions that would be in the way are neither computed nor shown."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.lsp.filters import tidy
from talaria.lsp.silence import Silence, before_asking, before_showing
from tests.pace import within

REASONS = {None, *get_args(Silence)}
TEXTS = st.text("ab \n\t()[]{}\"'#:,=\\éf", max_size=40)


@pytest.mark.parametrize(
    ("marked", "reason"),
    [
        ("|", None),
        ("x = |\n", None),
        ("va|lue = 1\n", "word"),
        ("é|é\n", "word"),
        ("value|\n", None),  # at the end of a word, there may be more of it
        ("|value = 1\n", "midline"),
        ("x = | + 1\n", "midline"),
        ("f(|, y)\n", "midline"),
        ("def f(|) -> None:\n", "midline"),
        ("f(|)\n", None),
        ("f(['|'])\n", None),
        ("def f(|):\n", None),
        ("x = {'a': |},\n", None),
        ("x = |;  \n", None),
        ("x = |  # what it is\n", None),
        ("x = |\n+ 1\n", None),
        ("x = 'on |e'\n", "midline"),
    ],
)
def test_where_the_model_is_not_asked(marked: str, reason: str | None) -> None:
    """Inside a word and before code on the line, but before characters an editor inserts."""
    prefix, suffix = marked.split("|")
    assert before_asking(prefix, suffix, strings=True, comments=True, dismissed=False) == reason


@pytest.mark.parametrize(
    ("marked", "strings", "comments", "reason"),
    [
        ("x = 'a|'\n", False, True, "string"),
        ("x = 'a|'\n", True, False, None),
        ('def f():\n    """Say|\n    """\n', False, True, "string"),
        ("x = 'a|\n", False, True, "string"),
        ("x = f'{a|}'\n", False, False, None),
        ("x = 1  # a|\n", True, False, "comment"),
        ("x = 1  # a|\n", False, True, None),
        ("x = '# a'|\n", False, False, None),
        ("# it's\nx = |\n", False, False, None),
    ],
)
def test_strings_and_comments_can_be_switched_off(
    marked: str, strings: bool, comments: bool, reason: str | None
) -> None:
    """Each by its own option; the fields of f-strings are code."""
    prefix, suffix = marked.split("|")
    found = before_asking(prefix, suffix, strings=strings, comments=comments, dismissed=False)
    assert found == reason


def test_after_a_dismissal_the_model_is_not_asked() -> None:
    """Whatever other reasons apply."""
    assert before_asking("x = ", "", strings=True, comments=True, dismissed=True) == "dismissed"
    assert before_asking("a", "b", strings=True, comments=True, dismissed=True) == "dismissed"


@pytest.mark.parametrize(
    ("prefix", "text", "suffix", "reason"),
    [
        ("x = ", "", "\n", "nothing"),
        ("x = ", " \n\t", "\n", "nothing"),
        ("x = ", "value", "\n", None),
        ("f(", "value, ", "value, 1)\n", "repeats"),
        ("f(", "val", "value)\n", None),  # no whole word
        ("def f():\n    ", "return x", "\n    return x\n", "repeats"),
        ("def f():\n    ", "return x", "\n\n\n    return x\n", "repeats"),
        ("def f():\n    return ", "x", "\n    return x\n", "repeats"),
        ("if a:\n    ", "return x", "\nreturn x\n", None),  # of another block
        ("f(\n    ", "})", "\n    })\n", None),
        ("print(len(", "xs)", ")\n", None),
        ("x", ":", "\n", "tiny"),
        ("x = ", "1", "\n", "tiny"),
        ("x = f(a", ")", "\n", None),  # the line is complete with it
        ("x = f(g(a)", ")", "\n", None),
        ("x = f(g(a", ")", ")\n", None),
        ("x = f(g(a", ")", "\n", "tiny"),  # and here it is not
        ("x = f(a", "]", "\n", "tiny"),
        ("x = [\n    a", "]", "\n", "tiny"),
        ("x = '(", ")", "'\n", "tiny"),
        ("x = ", "10", "\n", None),
    ],
)
def test_what_is_not_shown(prefix: str, text: str, suffix: str, reason: str | None) -> None:
    """Empty text, repetition, and text as quickly typed as accepted."""
    assert before_showing(text, prefix, suffix, 0.9, least=0.5) == reason


@pytest.mark.parametrize(
    ("confidence", "least", "reason"),
    [(0.5, 0.5, None), (0.49, 0.5, "unsure"), (0.0, 0.0, None), (1.0, 1.0, None)],
)
def test_unsure_suggestions_are_not_shown(
    confidence: float, least: float, reason: str | None
) -> None:
    """Below the least confidence, not at it."""
    assert before_showing("value", "x = ", "\n", confidence, least=least) == reason


@given(prefix=TEXTS, suffix=TEXTS, strings=st.booleans(), comments=st.booleans())
def test_asking_is_decided_anywhere(
    prefix: str, suffix: str, strings: bool, comments: bool
) -> None:
    """At any position; an option that is on never prevents asking."""
    reason = before_asking(prefix, suffix, strings=strings, comments=comments, dismissed=False)
    assert reason in REASONS
    assert (reason != "string") or not strings
    assert (reason != "comment") or not comments


@given(text=TEXTS, prefix=TEXTS, suffix=TEXTS, confidence=st.floats(0, 1))
def test_showing_is_decided_for_any_text(
    text: str, prefix: str, suffix: str, confidence: float
) -> None:
    """Blank text is never shown; certainty is never unsure."""
    text = tidy(text, prefix, suffix)
    reason = before_showing(text, prefix, suffix, confidence, least=0.5)
    assert reason in REASONS
    assert (reason == "nothing") == (not text.strip())
    assert before_showing(text, prefix, suffix, 1.0, least=0.5) != "unsure"


def test_decisions_are_quick_in_a_long_file() -> None:
    """With 5,000 lines, strings and comments."""
    text = "def f(x):\n    return f'{x} {x:>3}', \"it's\"  # (what\n" * 2500
    with within(0.1):
        assert before_asking(text, "", strings=False, comments=False, dismissed=False) is None
        assert before_showing("y = 1", text, text, 0.9, least=0.5) is None

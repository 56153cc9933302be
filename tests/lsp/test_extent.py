"""Suggestions are as long as the place wants, the model is sure, and the screen allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder import checkpoint
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import fill, infill
from talaria.coder.request import Mode, Options, Request
from talaria.lsp.engines import Middles
from talaria.lsp.extent import FEWEST, LINES, certainty, on_screen, sure_part, until_of_typing
from talaria.lsp.suggest import shortened
from tests.scripted import scripted_by


@pytest.mark.parametrize(
    ("prefix", "suffix", "until"),
    [
        ("x = ", "\n", "line"),
        ("def f(a):", "\n", "line"),
        ("x = 1\n", "\ny = 2\n", "statement"),
        ("", "", "statement"),
        ("def f():\n    x = 1\n    ", "\n", "statement"),
        ("def f():\n    ", "\n", "block"),
        ("def f():\n", "\n\ndef g(): ...\n", "block"),
        ('def f():\n    """Say."""\n    ', "\n", "block"),
        ("def f():\n    ", "\n    return 1\n", "statement"),
    ],
)
def test_what_a_suggestion_ends_with(prefix: str, suffix: str, until: str) -> None:
    """The rest of a line within one; on an empty one a statement, or a body that is missing."""
    assert until_of_typing(prefix, suffix) == until


@pytest.mark.parametrize(
    ("prefix", "suffix", "until"),
    [
        ("for a in b", "\n", "block"),
        ("for a in b", "\n    c()\n", "line"),
        ("for a in b:", "\n", "block"),
        ("a = b", "\n", "line"),
    ],
)
def test_behind_a_header_that_was_accepted(prefix: str, suffix: str, until: str) -> None:
    """Its body, with the colon if it has none; while it is typed, only the line."""
    assert until_of_typing(prefix, suffix, accepted=True) == until
    assert until_of_typing(prefix, suffix) == "line"


LINE = "foo(bar, baz)"
SURE = [(3, 0.9), (4, 0.8), (7, 0.6), (9, 0.4), (12, 0.3), (13, 0.2)]


@pytest.mark.parametrize(
    ("least", "part", "confidence"),
    [
        (0.15, LINE, 0.15),
        (0.2, LINE, 0.2),  # up to its last token, but not its end
        (0.25, "foo(bar, baz", 0.3),
        (0.5, "foo(bar", 0.6),
        (0.7, "foo(", 0.8),
        (0.85, "", 0.15),  # `foo` is typed as fast
    ],
)
def test_the_sure_part_of_a_line(least: float, part: str, confidence: float) -> None:
    """It ends with a word, and is not too short."""
    assert sure_part(LINE, SURE, 0.15, least) == (part, confidence)


def test_a_part_ends_with_no_half_word() -> None:
    """Nor with blanks."""
    sure = [(3, 0.9), (6, 0.9), (7, 0.9), (9, 0.5)]
    assert sure_part("values = 1", sure, 0.1, 0.8) == ("values", 0.9)
    assert sure_part("valuesum = 1", [(6, 0.9), (8, 0.5)], 0.1, 0.8) == ("", 0.1)


def test_the_last_word_of_a_text_without_an_end_may_be_half() -> None:
    """When time ran out, however sure the model is; lines before it are whole."""
    sure = [(6, 0.9), (9, 0.9)]
    assert sure_part("return lo", sure, 0.9, 0.3) == ("return lo", 0.9)
    assert sure_part("return lo", sure, 0.9, 0.3, ended=False) == ("return", 0.9)
    assert sure_part("return lo", sure, 0.9, 0.3, "if a: ", ended=False) == ("return", 0.9)
    assert sure_part("lo", [(2, 0.9)], 0.9, 0.3, ended=False) == ("", 0.9)
    assert sure_part("f(a)", [(1, 0.9), (4, 0.9)], 0.9, 0.3, ended=False) == ("f(a)", 0.9)
    assert sure_part("f(a)\nlo", [(4, 0.9), (7, 0.9)], 0.9, 0.3, ended=False) == ("f(a)", 0.9)


@pytest.mark.parametrize(
    ("prefix", "text", "part"),
    [
        ("x = ", "list, ", "list"),
        ("x = ", "first + ", "first"),
        ("x = ", "first.", "first"),
        ("", "assert ", ""),
        ("x = ", "None if", "None"),
        ("x = ", "None if y else ", "None if y"),
        ("print(", "name, 'some", "name"),
        ("print(", "name, f'{other", "name"),
        ("print(", "name[0]", "name[0]"),
        ("print(", "name[", "name["),
        ("x: ", "int = ...", "int = ..."),
        ("", "from os import *", "from os import *"),
        ("if x:\n    ", "return", "return"),
        ('"""First', " line, and", " line, and"),
        ("", "else:", "else:"),
        ("# ", "first, and", "first, and"),
        ("x = 'a", "bcdef, and", "bcdef, and"),
        ("", "x = 1  # and", "x = 1  # and"),
    ],
)
def test_a_part_of_a_line_is_not_ragged(prefix: str, text: str, part: str) -> None:
    """It ends with no comma, operator or keyword, and not in a string that it opens."""
    sure = [(place, 0.9) for place in range(1, len(text) + 1)]
    found, _ = sure_part(text + " unsure", sure, 0.1, 0.8, prefix)
    assert found == part


@pytest.mark.parametrize(
    ("least", "part"),
    [(0.3, "a = 1\nb = 2\nc = 3"), (0.5, "a = 1\nb = 2"), (0.7, "a = 1"), (0.97, "")],
)
def test_the_sure_lines_of_a_block(least: float, part: str) -> None:
    """A line that is not the first counts with the token behind its end, which says it ends."""
    sure = [(5, 0.95), (6, 0.8), (11, 0.79), (12, 0.6), (17, 0.59)]
    found = sure_part("a = 1\nb = 2\nc = 3", sure, 0.3, least)
    assert found[0] == part


@given(
    st.text("ab (\n", max_size=30),
    st.lists(st.floats(0, 1), max_size=30),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_part_is_a_beginning_that_is_sure(
    text: str, drops: list[float], whole: float, least: float
) -> None:
    """Whatever the model says, and never a scrap of a line."""
    sure = [(place, sorted(drops, reverse=True)[place - 1]) for place in range(1, len(drops) + 1)]
    sure = [each for each in sure if each[0] <= len(text)]
    part, confidence = sure_part(text, sure, whole, least)
    assert text.startswith(part)
    if part:
        assert confidence >= least
    if part and part != text and not text[len(part) :].startswith("\n"):
        assert len(part.strip()) >= FEWEST


def test_a_suggestion_fits_the_screen() -> None:
    """Of a long one, its first lines."""
    text = "\n".join(map(str, range(100)))
    assert on_screen(text).split("\n") == [str(n) for n in range(LINES)]
    assert on_screen("x\ny") == "x\ny"


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_certainty_is_of_the_text(mode: Mode) -> None:
    """Lengths grow up to the whole text, certainty falls to that of the model."""
    model = checkpoint.load(checkpoint.EMBEDDED)
    prefix = "def add(one, two):\n    result = one + two\n    retu"
    found = infill(model, prefix, "\n", Options(mode, until="line", max_tokens=24))
    sure = certainty(found, found.best, model.tokenizer, prefix)
    lengths, probabilities = zip(*sure, strict=True)
    assert list(lengths) == sorted(lengths)
    assert lengths[-1] <= len(found.best.text)
    assert list(probabilities) == sorted(probabilities, reverse=True)
    assert probabilities[-1] >= found.confidence(found.best) - 1e-9


@pytest.mark.parametrize(
    ("sure", "unsure", "wanted"),
    [
        ("def f(x):\n    y = x\n    if y:", "\n        return y", "def f(x):\n    y = x"),
        ("def f(x):\n    y = x\n    if y:\n        ", "return y", "def f(x):\n    y = x"),
        ("def f(x):", "\n    return x", "def f(x):"),
        ("def f(x):\n    return x", "", "def f(x):\n    return x"),
    ],
)
def test_what_is_cut_off_leaves_no_header_alone(
    tokenizer: TalariaTokenizer, sure: str, unsure: str, wanted: str
) -> None:
    """Unless nothing else is sure."""
    sides, scripts = ("x = 1\n", "\ny = 2\n"), list[dict[int, float]]()
    others = dict.fromkeys(tokenizer.encode(")]"), 0.3)
    for text, doubt in ((sure, {}), (unsure, others)):
        scripts += [{token: 0.4, **doubt} for token in tokenizer.encode(text)]
    model = scripted_by(tokenizer, {sides: [*scripts, {tokenizer.eom: 0.99}]})
    request = Request(*sides, Options(max_tokens=48, until="statement"))
    infill = fill(model, request)
    assert infill.best.text == sure + unsure
    middles = Middles((infill.best.text,), infill.confidence(infill.best), infill, model)
    part, confidence = shortened(middles, infill.best.text, request, 0.5)
    assert part == wanted
    assert confidence >= 0.5

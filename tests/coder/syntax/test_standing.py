"""A cursor is in code, a string or a comment, also while the text is being typed."""

from __future__ import annotations

import ast
import inspect
import io
import json.decoder
import random
import re
import tokenize
import typing
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.syntax.standing import standing_in
from tests.pace import within

STANDINGS = {
    "code": [
        *("|", "x = |", "x = 'a'|", "f(''|)", "# it's\n|", '"""Doc"""\nx|', "f'{x|}'", "'#'|"),
        *('f"{d["a"]|}"', 'f"{", ".join(x|)}"', "f'{ {1: 2}|}'", 'rf"{x|"', 'f"""{x}\n{y|}"""'),
        *("x = 'a\ny|", "x = f'{a\ny|", 'x = f"{d["a\ny|', 'f"\\{x|', 'f"{x}" + y|', "f|''"),
        *("f'{x:>{w|}}'", "f'{x:{w}}' + y|"),
    ],
    "string": [
        *("x = '|", "x = 'a|'", "'it\\'s|'", '"""|"""', '"""Doc.\n\nIt\'s|\n"""', "f'|{x}'"),
        *("f'{{x|}}'", "f'{x:|>3}'", "f'{x:>{w}|}'", "f'{x!r:|}'", "b'{x|'", "'a\\\n|'"),
        *('""|"', "f'''{x}\n|", "f'{x:\"|", "x = 'a\ny = '|'", "{'#': 'a|'}", 'f"{d["a|'),
        *("f'{x}|'", "x = 'it''s|'"),
    ],
    "comment": ["#|", "x  # it's|\n", "f('#', # |", 'f"""{x  # |', "'a'  # 'b'|\n"],
}


@pytest.mark.parametrize(
    ("standing", "marked"), [(name, text) for name, texts in STANDINGS.items() for text in texts]
)
def test_what_a_cursor_is_in(standing: str, marked: str) -> None:
    """Open strings end with their line; the fields of formatted strings are code."""
    prefix, suffix = marked.split("|")
    assert standing_in(prefix, suffix) == standing
    # Long or broken text above does not matter.
    if not prefix.startswith("f"):
        assert standing_in("x = 'a\nf'{b\n# it's\n" + prefix, suffix) == standing
        assert (
            standing_in("def f(x):\n    return f'{x}'\n\n\n" * 20_000 + prefix, suffix) == standing
        )


@pytest.mark.parametrize("module", [ast, inspect, json.decoder, typing])
def test_standing_agrees_with_python(module: ModuleType) -> None:
    """In real files, strings and comments are where Python's own tokenizer finds them."""
    text, chance = inspect.getsource(module), random.Random(0)
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    kinds = {tokenize.STRING: "string", tokenize.COMMENT: "comment", tokenize.NAME: "code"}
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type in kinds and token.string[0] not in "fF"
    ]
    for token in chance.sample(tokens, 150):
        start, end = (lines[row - 1] + column for row, column in (token.start, token.end))
        inside = end - (token.type == tokenize.STRING)
        assert standing_in(text[:start], text[start:]) == "code"
        assert standing_in(text[:inside], text[inside:]) == kinds[token.type]


@given(st.text("ab{}()[]:'\"#\\\n fr", max_size=60), st.text("'\")}", max_size=3))
def test_every_cursor_is_in_something(prefix: str, suffix: str) -> None:
    """No text is too broken, and no comment continues on the next line."""
    assert standing_in(prefix, suffix) in ("code", "string", "comment")
    assert standing_in(prefix + "\n", suffix) != "comment"


def test_scanning_is_quick() -> None:
    """Much quicker than a parse, also where strings nest without end."""
    for text in ("f(f'{x} {y:>3}', 'z')  # it's\n" * 5000, "f'''{" + "(" * 200_000, "f'{" * 50_000):
        with within(0.2):
            standing_in(text, "")


def test_no_group_is_possessive() -> None:
    """Python before 3.11.5 matches such groups wrongly (gh-106052), without an error."""
    folder = Path(inspect.getfile(standing_in)).parents[2]
    found = [
        f"{path.name}: {line.strip()}"
        for package in ("coder", "lsp", "evals", "finetune")
        for path in (folder / package).rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"\)[*+?]\+", line)
    ]
    assert not found

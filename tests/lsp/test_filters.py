"""Filters remove what is in the way from a suggestion and never add to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.lsp.filters import FILTERS, tidy
from talaria.lsp.filters.pairs import BEFORE, around
from tests.pace import within

GOLDEN = Path(__file__).with_name("golden_filters")
FILTER = {each.__name__: each for each in FILTERS}
RULER = "────"


def read(path: Path) -> tuple[str, tuple[str, str, str], str]:
    """The reason of a case, its suggestion with the text around it, and what is offered of that.

    A file has a line that says what is to be seen, a blank line, a document in which the
    suggestion stands in `⟦⟧`, a ruler, and the document with what is offered. A blank that
    would not be seen is written `·`, a tab `→`; a reason why it fails begins with `xfail: `.
    """
    why, _, case = (
        path.read_text(encoding="utf-8").replace("·", " ").replace("→", "\t").partition("\n\n")
    )
    before, after = case.split(f"\n{RULER}\n")
    prefix, _, rest = before.partition("⟦")
    text, _, suffix = rest.partition("⟧")
    assert after.startswith(f"{prefix}⟦")
    assert after.endswith(f"⟧{suffix}\n")
    return why, (text, prefix, suffix), after[len(prefix) + 1 : -len(suffix) - 2]


def cases() -> Sequence[object]:
    """All golden files, with known failures marked xfail."""
    found = []
    for path in sorted(GOLDEN.rglob("*.txt")):
        why, _, _ = read(path)
        known = why.startswith("xfail: ")
        marks = [pytest.mark.xfail(reason=why.removeprefix("xfail: "), strict=True)] * known
        found.append(pytest.param(path, id=f"{path.parent.name}/{path.stem}", marks=marks))
    return found


@pytest.mark.parametrize("path", cases())
def test_each_filter(path: Path) -> None:
    """Each golden file with the filter of its folder; filtering again changes nothing."""
    _, (text, prefix, suffix), offered = read(path)
    each = FILTER[path.parent.name]
    assert each(text, prefix, suffix) == offered
    assert each(offered, prefix, suffix) == offered


def test_every_filter_has_its_cases() -> None:
    """At least eight files per filter, some without changes, and no other folders."""
    assert {path.name for path in GOLDEN.iterdir()} == set(FILTER)
    for name in FILTER:
        read_cases = [read(path) for path in (GOLDEN / name).glob("*.txt")]
        same = [text == offered for _, (text, _, _), offered in read_cases]
        assert len(same) >= 8
        assert True in same
        assert False in same


TEXTS = st.one_of(
    st.text("ab \n\t()[]\"'#:,\\é", max_size=40),
    st.lists(
        st.sampled_from(
            [
                "x = 1\n",
                "    y(2)\n",
                "\tz",
                "(",
                ")",
                "\n",
                "    ",
                '"',
                "return x",
                ":",
                "]",
                "'''",
            ]
        ),
        max_size=10,
    ).map("".join),
)


@given(text=TEXTS, prefix=TEXTS, suffix=TEXTS)
def test_filtering_removes_and_is_idempotent(text: str, prefix: str, suffix: str) -> None:
    """What is left is a subsequence of the text, apart from blanks."""
    once = tidy(text, prefix, suffix)
    rest = iter(text)
    assert all(sign in rest for sign in once if not sign.isspace())
    assert tidy(once, prefix, suffix) == once
    assert not tidy("", prefix, suffix)


@given(prefix=TEXTS, suffix=TEXTS)
def test_blank_text_is_not_offered(prefix: str, suffix: str) -> None:
    """Neither empty text nor whitespace."""
    assert tidy("", prefix, suffix) == ""
    assert tidy(" \n\t", prefix, suffix) == ""


@pytest.mark.parametrize(
    ("prefix", "text", "suffix", "offered"),
    [
        # An auto-closed call behind which the suggestion goes on, to the end that follows.
        ('print("', 'hello")\nprint()\n', '")\n', "hello"),
        ("def f(x):\n\tif x:\n\t\t", "        return x\n", "\n\n", "return x"),
        ("def f():\n    ", "    x = 1\n    x = 1\n    x = 1\n", "\n    return x\n", "x = 1"),
        ("x = [\n    ", "1,\n    2,\n]\nprint(x)\n", "\n]\n", "1,\n    2,"),
        ("def mean(values):\n    ", "return sum(values) / len(values)", "\n", None),
        ("def f(a, b):\n    return (a +", " b) * 2\n\n\ndef g(", "a):\n    pass\n", None),
    ],
)
def test_filters_together(prefix: str, text: str, suffix: str, offered: str | None) -> None:
    """One cuts what another has left; what needs nothing is returned as it is."""
    assert tidy(text, prefix, suffix) == (text if offered is None else offered)


@pytest.mark.parametrize(
    "part", ["x = f(1)\n", "(", ")", '"', "\n", "    ", "\t(\n", "a b ", "'''\n"]
)
def test_only_the_near_ends_are_read(part: str) -> None:
    """A long document costs little."""
    long = part * (100_000 // len(part))
    tidy("x", long, long)
    with within(0.5):
        for text in ("    x)\n    y = 'a'\n", part * 10):
            tidy(text, long, long)


@pytest.mark.parametrize("art", ["# a \\", "#  /\\_/\\", "x = 1  # \\\\\\", "# ( \\"])
def test_a_backslash_continues_no_comment(art: str) -> None:
    """What stands below it is code: its brackets count, and so does its column."""
    prefix = f"{art}\nx = f(\n    a,\n"
    assert around(prefix, "").opened == (")",)
    assert around(prefix, "").quote == ""
    assert tidy("        y = 1", f"{art}\n", "\n") == tidy("        y = 1", "# a\n", "\n")
    assert tidy("b)", f"{art}\nx = f(", ")\n") == "b"


def test_brackets_that_were_opened_far_above() -> None:
    """A long table is read from its beginning."""
    table = "rows = [\n" + "    (1, 2),\n" * 2_000
    assert len(table) > 2 * BEFORE
    assert around(table + "    (3", "").opened == ("]", ")")
    # Where a statement begins in between, nothing above it counts.
    assert around(table + "\ndef f():\n" + "    x = 1\n" * 1_000, "").opened == ()

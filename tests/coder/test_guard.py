"""What may be written into a file, and why not."""

from __future__ import annotations

import pytest

from talaria.coder import guard
from talaria.coder.guard import NO_TIME, Guard, shorten
from talaria.coder.request import Options, Request, Until
from talaria.coder.syntax.judge import Verdict, judge

FILE = ("def f(x):\n    ", "return x", "\n\n\nprint(f(1))\n")


def refusal(asked: Request, text: str, verdict: Verdict | None = None) -> str | None:
    """The guard's answer to one text."""
    return Guard(asked).refusal(text, verdict)


def request(until: Until | None = None, broken: bool = False) -> Request:
    """A function whose body is asked for, in a file that compiles or does not."""
    prefix, replaces, suffix = FILE
    suffix += "y = = 1\n" * broken
    return Request(prefix, suffix, Options(until=until, complete=True), replaces=replaces)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("return 2 * x", None),
        ("if x:\n        return 1\n    return 2", None),
        ("", "the model has nothing to offer"),
        ("return (x", "adds a syntax error ('return (x')"),
        ('return """', "adds a syntax error"),
        ("if x:", "adds a syntax error ('if x:')"),  # the body is missing
        ("return x\n    # more: " + "x" * 60 + "\n    (", "...')"),
        ("nonlocal x", "adds a syntax error ('nonlocal x')"),
    ],
)
def test_a_middle_is_refused_with_its_reason(text: str, reason: str | None) -> None:
    """Nothing, a syntax error, a block without its body, what Python alone refuses."""
    found = refusal(request(), text)
    assert (found is None) == (reason is None)
    assert reason is None or reason in (found or "")


@pytest.mark.parametrize(
    ("until", "text", "reason"),
    [
        ("line", "return x", None),
        ("line", "return x\n", None),  # blanks at its end do not count
        ("line", "x += 1\n    return x", "goes beyond its line ('x += 1\\n    return x')"),
        ("statement", "return (\n        x\n    )", None),
        ("statement", "x += 1\n    return x", "goes beyond its statement"),
        ("block", "x += 1\n    return x", None),
        ("block", "return x\n\n\ny = 2", "goes beyond its block"),
    ],
)
def test_a_middle_lies_within_its_bound(until: Until, text: str, reason: str | None) -> None:
    """Or is refused, however right it is."""
    found = refusal(request(until), text)
    assert (found is None) == (reason is None)
    assert reason is None or reason in (found or "")


def test_a_bound_may_be_where_the_hole_is() -> None:
    """Then nothing at all lies within it."""
    options = Options(until="block", complete=True)
    found = refusal(Request("def f():\n    x = 1", "\n", options), "\ny = 2")
    assert found == "what the model offers goes beyond its block ('\\ny = 2')"


def test_what_compiled_must_compile() -> None:
    """A file that did not compile before may be written to all the same."""
    said = refusal(request(), "nonlocal x", Verdict(0, 0))
    assert said == "Python would no longer take the file ('nonlocal x')"
    assert refusal(request(broken=True), "nonlocal x", Verdict(0, 0)) is None
    # What stands in the hole now belongs to the file as it is.
    hole = Request("def f(x):\n    ", "\n", Options(complete=True), replaces="return (")
    assert refusal(hole, "nonlocal x", Verdict(0, 0)) is None


def test_a_verdict_that_is_known_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is asked once; without, it is asked for a complete middle."""
    asked = []

    def spy(*texts: str, complete: bool) -> Verdict:
        asked.append((texts, complete))
        return judge(*texts, complete=complete)

    monkeypatch.setattr(guard, "judge", spy)
    assert refusal(request(), "return 1", Verdict(0, 1)) is not None
    assert refusal(request(), "return 1", Verdict(0, 0)) is None
    assert asked == []
    assert refusal(request(), "return 1") is None
    assert asked == [((FILE[0], "return 1", FILE[2]), True)]


def test_a_file_that_takes_too_long_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge's word on the part around the hole is enough then."""
    monkeypatch.setattr(guard, "LARGEST", 10)
    assert refusal(request(), "nonlocal x", Verdict(0, 0)) is None


def test_nothing_is_executed() -> None:
    """Compiling is all that happens to a text."""
    assert refusal(Request("", "\n"), "raise SystemExit") is None


def test_a_long_text_is_shortened() -> None:
    """To what fits on a line."""
    assert shorten("x" * 60) == repr("x" * 60)
    assert shorten("x" * 61) == repr("x" * 57 + "...")
    assert "\n" not in shorten("x\n" * 99)


@pytest.mark.parametrize("text", ["", " ", "\n   \n"])
def test_blanks_are_nothing_to_write(text: str) -> None:
    """Not even where they would do no harm."""
    assert refusal(Request("x = 1\n", "y = 2\n"), text) == "the model has nothing to offer"


def test_a_file_is_compiled_once_before_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several candidates share what the file was; without time nothing is compiled."""
    asked: list[str] = []

    def compiles(text: str) -> bool:
        asked.append(text)
        return True

    monkeypatch.setattr(guard, "compiles", compiles)
    request = Request("x = ", "\n", replaces="0")
    careful = Guard(request)
    assert [careful.refusal(text, Verdict(0, 0)) for text in ("1", "2")] == [None, None]
    assert asked == ["x = 0\n", "x = 1\n", "x = 2\n"]
    assert Guard(request, lambda: True).refusal("3", Verdict(0, 0)) == NO_TIME
    assert len(asked) == 3

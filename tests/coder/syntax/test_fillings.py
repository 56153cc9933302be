"""Plain fillings show which errors a middle is to blame for."""

from __future__ import annotations

import pytest

from talaria.coder.syntax.judge import Verdict, judge


def test_errors_before_are_those_that_no_plain_filling_avoids() -> None:
    """A middle must remove the error of the empty hole, but none elsewhere."""
    assert judge("x = ", "1", "\n") == Verdict(0, 0)
    assert judge("x = ", "+", "\n") == Verdict(0, 1)
    assert judge("def f(x)\n    pass\n\ny = ", "+", "\n").errors_before == 1


@pytest.mark.parametrize(
    ("prefix", "middle", "suffix"),
    [
        ("f(\n    discrete", "=", "\n    other=1,\n)\n"),
        ("from ", "pandas", "\nimport os\n"),
        ("x = {\n    '306'", ': "', "\n    307: 1,\n}\n"),
        ("def f(\n    *", "args", "\n    other=1,\n):\n    pass\n"),
        ("class A:\n    def f", "(", "\n        return 1\n"),
        ("x.extend", "(", "\n    (1, 2),\n    (3, 4),\n])\n"),
        ("from os ", "s", "\nfrom sys import (\n    path,\n)\n"),
        ("from os", ".path", "\n    sep,\n)\n"),
        ("def ", "test", "\n    return 1\n"),
        ("x = f(1, [2 ", "%", "\ny = 3\n"),
    ],
)
def test_a_middle_is_blamed_for_errors_that_a_likely_ending_avoids(
    prefix: str, middle: str, suffix: str
) -> None:
    """Also where a name is not enough: an argument, a branch, missing brackets."""
    assert not judge(prefix, middle, suffix).clean

"""Options and settings are within their limits, or refused with the value and the limit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.errors import UsageError
from talaria.coder.request import LIMITS, MODES, UNTIL, Options, Request, Settings, out_of_range


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_nfe", 0), ("candidates", 0), ("temperature", -1), ("seed", -1), ("mode", "fast"),
     ("confidence_threshold", 1.5), ("lookahead", 0), ("candidates", 1000), ("candidates", 1.5),
     ("candidates", None), ("max_tokens", 10.5), ("seed", 1.5), ("seed", True), ("max_nfe", "3"),
     ("temperature", "0"), ("until", "page")],
)  # fmt: skip
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    """With the name and the value; exit code 2."""
    with pytest.raises(UsageError, match=str(value)) as caught:
        Options(**{field: value})  # type: ignore[arg-type]
    assert field.replace("_", "-") in str(caught.value)


def test_verifying_writes_one_text() -> None:
    """More candidates or chance have no one text to verify."""
    more: dict[str, Any]
    for more in ({"candidates": 2}, {"temperature": 0.5}):
        with pytest.raises(UsageError, match="--mode verify writes one middle"):
            Options("verify", **more)
    assert Options("verify", temperature=0).mode == "verify"


def test_ranking_takes_an_evaluation() -> None:
    """One must be left to write with."""
    with pytest.raises(UsageError, match="ranking 3 candidates"):
        Options(candidates=3, max_nfe=1)
    assert Options(candidates=3, max_nfe=2).max_nfe == 2


def test_a_length_is_not_negative() -> None:
    """0 is a length."""
    with pytest.raises(UsageError, match="length is -1"):
        Request("a", "b", length=-1)
    assert Request("a", "b", length=0).length == 0


def test_what_is_not_asked_for_is_the_models_own() -> None:
    """All that is None, and nothing else."""
    settings = Settings(0.2, 3, 17, 20, 64, 16)
    asked = Options("ar", lookahead=5, seed=3)
    settled = asked.settled(settings)
    assert settled == Options(
        "ar", max_nfe=17, max_tokens=20, confidence_threshold=0.2, lookahead=5, seed=3
    )
    assert settled.settled(Settings()) == settled
    assert settled.temperature is None  # a model has none: 0, and another for further candidates


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("confidence_threshold", 1.2, "confidence_threshold is 1.2; it must be a number between"),
        ("confidence_threshold", None, "confidence_threshold is None"),
        ("lookahead", 0, "lookahead is 0; it must be a whole number between 1 and"),
        ("max_nfe", 2.5, "max_nfe is 2.5; it must be a whole number between 1 and"),
        ("max_nfe", True, "max_nfe is True"),
        ("max_tokens", "9", "max_tokens is '9'"),
        ("max_tokens", 300, "max_tokens is 300; a working_context of 512 leaves room for at most"),
        ("working_context", 1, "working_context is 1"),
        ("working_context", 2**21, "working_context is 2097152"),
        ("block_length", 0, "block_length is 0"),
        ("bounded", None, "bounded is None; it must be true or false"),
        ("bounded", 1, "bounded is 1"),
        ("block_length", 257, "block_length is 257; a working_context of 512 leaves room for at"),
    ],
)
def test_settings_that_no_model_can_decode_with(field: str, value: object, reason: str) -> None:
    """The value, and what it must be."""
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(Settings(), **{field: value})  # type: ignore[arg-type]


def test_half_of_a_working_context_is_for_the_middle() -> None:
    """At most; the rest is for what the model reads."""
    assert Settings(working_context=101, max_tokens=50, block_length=50).longest == 50
    with pytest.raises(ValueError, match="at most 50"):
        Settings(working_context=101, max_tokens=51)


@given(name=st.sampled_from(sorted(LIMITS)), data=st.data())
def test_limits_are_within(name: str, data: Any) -> None:
    """Both ends are allowed, and what lies beyond is told its limits."""
    kind, low, high = LIMITS[name]
    between = st.integers(int(low), int(high)) if kind is int else st.floats(low, high)
    for value in (kind(low), kind(high), data.draw(between)):
        assert out_of_range(name, value) is None
    for value in (low - 1, high + 1, float("nan"), "1", None, True):
        said = out_of_range(name, value)
        assert said is not None
        assert f"between {low} and {high}" in said


def test_names_of_modes_and_bounds() -> None:
    """In the order in which help and messages have them."""
    assert (MODES, UNTIL) == (("diffuse", "verify", "ar"), ("line", "statement", "block"))

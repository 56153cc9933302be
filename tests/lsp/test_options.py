"""Options of the language server: one dataclass for flags, settings and initializationOptions."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.lsp.options import ServerOptions, add_flags, from_flags

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = st.sampled_from([option.name for option in fields(ServerOptions)]) | st.text(max_size=8)


def parsed(*flags: str) -> tuple[ServerOptions, list[str]]:
    """The options of a command line."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return from_flags(parser.parse_args(flags))


def test_later_sources_override_earlier_ones() -> None:
    """Flags, then initializationOptions, then settings."""
    options, problems = parsed("--max-tokens", "20", "--no-strings")
    assert not problems
    options, problems = options.merged({"until": "line", "debounce_ms": 50})
    assert not problems
    options, problems = options.merged({"talaria": {"max_tokens": 30, "debounce_ms": None}})
    assert not problems
    assert options == ServerOptions(max_tokens=30, strings=False, until="line", debounce_ms=None)


@pytest.mark.parametrize("nothing", [None, [], {}, "", False, 0])
def test_empty_settings_change_nothing(nothing: object) -> None:
    """Editors without settings send one of these, with or without the section."""
    for settings in (nothing, {"talaria": nothing}, {"talaria": nothing, "pylsp": {"x": 1}}):
        assert ServerOptions().merged(settings) == (ServerOptions(), [])


@pytest.mark.parametrize(
    "theirs",
    [
        {"pylsp": {"plugins": {"ruff": {"enabled": True}}}},
        {"python": {"analysis": {"typeCheckingMode": "off"}}, "ruff": {"lint": {}}},
        {"checkOnSave": True, "cargo": {"features": "all"}},
        {"editor.tabSize": 4, "python.languageServer": "Pylance"},
    ],
)
def test_another_servers_settings_are_silence(theirs: dict[str, Any]) -> None:
    """Editors may send every server the settings of all; ours among them still count."""
    assert ServerOptions().merged(theirs) == (ServerOptions(), [])
    ours = {"talaria": {"max_tokens": 9}}
    assert ServerOptions().merged(theirs | ours) == (ServerOptions(max_tokens=9), [])


def test_sections_beside_our_options_are_silence() -> None:
    """A typo beside them is not, and neither is one in our own section."""
    options, problems = ServerOptions().merged({"max_tokens": 9, "pylsp": {"plugins": {}}})
    assert (options, problems) == (ServerOptions(max_tokens=9), [])
    typos: list[object] = [{"max_tokens": 9, "pylsp": 1}, {"talaria": {"pylsp": {}}}]
    for settings in typos:
        assert len(ServerOptions().merged(settings)[1]) == 1


@pytest.mark.parametrize("name", [option.name for option in fields(ServerOptions)])
def test_an_empty_value_is_null(name: str) -> None:
    """Forms leave an empty string, and some languages write null as an empty list."""
    default = ServerOptions()
    nothing: list[object] = ["", []]
    for empty in nothing:
        options, problems = default.merged({name: empty})
        assert not problems
        assert getattr(options, name) == (
            () if name == "languages" and empty == [] else getattr(default, name)
        )


@pytest.mark.parametrize("name", ["max_tokens", "candidates", "deadline_ms", "debounce_ms"])
def test_a_whole_number_may_have_a_point(name: str) -> None:
    """JSON has one kind of number; a fraction is none."""
    options, problems = ServerOptions().merged({name: 12.0})
    assert not problems
    assert repr(getattr(options, name)) == "12"
    for value in (12.5, float("inf"), float("nan")):
        assert "must be a whole number" in ServerOptions().merged({name: value})[1][0]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("max_tokens", "many", "max_tokens is 'many'; it must be a whole number from 1 to 1024"),
        ("max_tokens", 0, "max_tokens is 0; it must be a whole number from 1 to 1024"),
        ("max_tokens", True, "max_tokens is True; it must be a whole number from 1 to 1024"),
        ("least_confidence", 2, "least_confidence is 2; it must be a number from 0 to 1"),
        ("least_confidence", float("nan"), "must be a number from 0 to 1"),
        ("mode", "magic", "mode is 'magic'; it must be 'diffuse' or 'verify' or 'ar' or null"),
        ("until", "word", "it must be 'line' or 'statement' or 'block' or null"),
        ("languages", "python", "languages is 'python'; it must be a list of strings"),
        ("languages", ["python", 1], "it must be a list of strings"),
        ("enabled", 1, "enabled is 1; it must be true or false"),
        ("completion", "yes", "it must be true or false or null"),
        ("model", 7, "model is 7; it must be a string or null"),
        ("modle", "x", "unknown option 'modle'; known are enabled, languages"),
    ],
)
def test_an_invalid_value_is_reported_and_changes_nothing(name: str, value: Any, told: str) -> None:
    """The message has the value, what it must be, and what applies; valid options still count."""
    options, problems = ServerOptions().merged({name: value, "strings": False})
    assert options == ServerOptions(strings=False)
    assert len(problems) == 1
    assert told in problems[0]


@pytest.mark.parametrize("given", [7, "fast", ["fast"], True])
def test_options_that_are_not_an_object(given: object) -> None:
    """They give one message."""
    options, problems = ServerOptions().merged(given)
    assert options == ServerOptions()
    assert len(problems) == 1
    assert "must be an object" in problems[0]


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_any_input_leaves_valid_options(given: dict[str, Any]) -> None:
    """Merging never fails, and its result merges without a problem."""
    options, _ = ServerOptions().merged(given)
    own = {option.name: getattr(options, option.name) for option in fields(ServerOptions)}
    assert ServerOptions().merged(own) == (options, [])


def test_flags_are_the_options() -> None:
    """One for each, with the same name."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    names = {action.dest for action in parser._actions} - {"help"}
    assert names == {option.name for option in fields(ServerOptions)}
    options, problems = parsed(
        *("--languages", "python", "--languages", "toml", "--until", "block", "--usage"),
        *("--endpoint", "http://127.0.0.1:1/fim", "--least-confidence", "0.5", "--completion"),
    )
    assert not problems
    assert options == ServerOptions(
        languages=("python", "toml"),
        until="block",
        endpoint="http://127.0.0.1:1/fim",
        least_confidence=0.5,
        completion=True,
    )
    assert parsed("--least-confidence", "7")[1]


def test_what_needs_a_restart() -> None:
    """Another model, device or endpoint, and nothing else."""
    for change in ({"model": "x"}, {"device": "cuda"}, {"endpoint": "http://127.0.0.1:1/"}):
        assert ServerOptions().merged(change)[0].needs_restart(ServerOptions())
    for other in ({"max_tokens": 3}, {"enabled": False}, {"exclude": ["a"]}, {"mode": "ar"}):
        assert not ServerOptions().merged(other)[0].needs_restart(ServerOptions())

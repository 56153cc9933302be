"""Options that need not be typed: from `[tool.talaria]` in pyproject.toml, and from a user's file.

The command line comes first, then the project's file, then the user's, then what a model brings.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from talaria.coder.errors import UsageError
from talaria.coder.request import LIMITS, out_of_range

PROJECT, TABLE = "pyproject.toml", "tool.talaria"
# What belongs to one call, not to a project or a person.
_OF_A_CALL = {"help", "target", "json", "diff", "write", "trace", "instruction"}


_OWN = Path("talaria", "config.toml")


def user_file(environ: Mapping[str, str] = os.environ, system: str = sys.platform) -> Path | None:
    """The user's file, which need not exist; TALARIA_CONFIG names another.

    A relative XDG_CONFIG_HOME is ignored, as the XDG Base Directory Specification requires. None
    for a user without a home.
    """
    if named := environ.get("TALARIA_CONFIG"):
        return Path(named)
    try:
        if system == "win32":
            roaming = environ.get("APPDATA")
            return (Path(roaming) if roaming else Path.home() / "AppData/Roaming") / _OWN
        if system == "darwin":
            return Path.home() / "Library/Application Support" / _OWN
        config = Path(environ.get("XDG_CONFIG_HOME", ""))
        return (config if config.is_absolute() else Path.home() / ".config") / _OWN
    except RuntimeError:
        return None


def project_file(start: Path) -> Path | None:
    """The pyproject.toml with a table `[tool.talaria]` that is nearest above a folder or file."""
    for folder in (start, *start.parents):
        path = folder / PROJECT
        if path.is_file() and _table(path, TABLE) is not None:
            return path
    return None


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, float]:
    """The options that the environment sets: TALARIA_DAEMON, in minutes."""
    if not (minutes := environ.get("TALARIA_DAEMON")):
        return {}
    try:
        return {"daemon": float(minutes)}
    except ValueError:
        raise UsageError(f"TALARIA_DAEMON is {minutes!r}; it must be minutes, or 0") from None


def read(parser: argparse.ArgumentParser, start: Path) -> dict[str, Any]:
    """What the files say of a parser's options, by their names; `start` is the file to fill.

    An unknown key is one line on standard error; UsageError for a value that cannot be used.
    """
    actions = {each.dest: each for each in parser._actions if each.dest not in _OF_A_CALL}
    given: dict[str, Any] = {}
    for path, table in ((user_file(), ""), (project_file(start), TABLE)):
        for key, value in ((_table(path, table) if path else None) or {}).items():
            if key not in actions:
                known = ", ".join(sorted(actions))
                unknown = f"{path}: unknown key {key!r} is ignored; known are {known}"
                print(f"talaria: {unknown}", file=sys.stderr)
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # 48.0 is whole, as in editors' settings
            if wanted := _wrong(actions[key], value):
                raise UsageError(f"{path}: {key} is {value!r}; it must be {wanted}")
            given[key] = _made(actions[key], value)
            if path and key in ("model", "adapter") and ("/" in value or os.sep in value):
                given[key] = str(path.parent / value)  # a folder, as seen from the file
    return given


def _wrong(action: argparse.Action, value: Any) -> str | None:
    """What a value must be instead; None if it is fine."""
    if action.nargs == 0:
        return None if isinstance(value, bool) else "true or false"
    if action.choices is not None:
        choices = [str(each) for each in action.choices]
        return None if value in choices else f"one of {', '.join(choices)}"
    if action.dest in LIMITS:
        return out_of_range(action.dest, value)
    if action.type is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        return None if fits else "a number of at least 0"
    if not isinstance(value, str):
        return "a text"
    try:
        _made(action, value)
    except (ValueError, argparse.ArgumentTypeError):
        return f"a text of the form {action.metavar}"
    return None


def _made(action: argparse.Action, value: Any) -> Any:
    """What the command line would make of a text; other values as they are."""
    return action.type(value) if isinstance(value, str) and callable(action.type) else value


def _table(path: Path, name: str) -> dict[str, Any] | None:
    """A table of a TOML file, the whole file for an empty name; None if either is not there."""
    try:
        with path.open("rb") as file:
            found: Any = tomllib.load(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); allow reading it") from None
    except ValueError as error:
        # A project's file may be broken for reasons of its own.
        if name:
            return None
        raise UsageError(f"{path}: not TOML ({error}); correct it") from None
    for part in filter(None, name.split(".")):
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None

"""The settings of the VS Code extension are the options of the language server."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from talaria.lsp.options import ServerOptions

CLIENT = Path(__file__).parents[2] / "editors" / "vscode"
PACKAGE = json.loads((CLIENT / "package.json").read_text("utf-8"))
SETTINGS: dict[str, dict[str, Any]] = PACKAGE["contributes"]["configuration"]["properties"]

OWN = {"server_path", "log_level"}  # of the extension alone
ALWAYS = {"status"}  # set by the extension, for its status bar
ELSEWHERE = {"steps": True}  # the extension shows them, so it asks for them by itself

TYPES = {bool: "boolean", str: "string", int: "integer", float: "number", type(None): "null"}
OPTIONS = [option for option in fields(ServerOptions) if option.name not in ALWAYS]


def test_every_option_is_a_setting() -> None:
    """With the same name, and there are no others."""
    names = {name.removeprefix("talaria.") for name in SETTINGS}
    assert names - OWN == {option.name for option in OPTIONS}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_setting_matches_its_option(option: Field[Any]) -> None:
    """Type, choices, limits and default; the description is a sentence."""
    setting = SETTINGS[f"talaria.{option.name}"]
    kinds = _kinds(option.name)
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    assert _listed(setting["type"]) == {_type(kind) for kind in kinds}
    assert option.default is not MISSING
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    assert setting["default"] == ELSEWHERE.get(option.name, default)
    assert [choice for choice in setting.get("enum", []) if choice is not None] == choices
    assert setting.get("minimum") == option.metadata["low"]
    assert setting.get("maximum") == option.metadata["high"]
    said = setting.get("description") or setting["markdownDescription"]
    assert said.endswith(".")
    assert ("`" in said) == ("markdownDescription" in setting)  # elsewhere they are shown


def test_programs_models_and_endpoints_need_trust() -> None:
    """An untrusted workspace sets nothing that is run, loaded or sent to."""
    untrusted = PACKAGE["capabilities"]["untrustedWorkspaces"]
    restarting = {option.name for option in OPTIONS if option.metadata["restart"]}
    harmless = {"endpoint_timeout_ms", "log_level"}
    wanted = {f"talaria.{name}" for name in (restarting | OWN) - harmless}
    assert untrusted["supported"] == "limited"
    assert set(untrusted["restrictedConfigurations"]) == wanted


def test_the_lock_file_names_no_host() -> None:
    """Packages come from whatever registry the builder uses."""
    assert '"resolved"' not in (CLIENT / "package-lock.json").read_text("utf-8")


def _kinds(name: str) -> tuple[Any, ...]:
    hint = get_type_hints(ServerOptions)[name]
    return (hint,) if get_origin(hint) in (Literal, tuple) else get_args(hint) or (hint,)


def _type(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "array"
    return "string" if get_origin(kind) is Literal else TYPES[kind]


def _listed(found: str | list[str]) -> set[str]:
    return {found} if isinstance(found, str) else set(found)

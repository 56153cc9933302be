"""What an editor or the command line may set; the same names everywhere.

The flags of `talaria lsp`, `initializationOptions` and the settings of
`workspace/didChangeConfiguration` are all made from one dataclass. A bad value is told
once, and the default stands in its place.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

SECTION = "talaria"  # of an editor's settings


def _option(
    default: Any,
    what: str,
    low: float | None = None,
    high: float | None = None,
    restart: bool = False,
) -> Any:
    return field(
        default=default, metadata={"what": what, "low": low, "high": high, "restart": restart}
    )


@dataclass(frozen=True)
class Options:
    """The options of the language server; each says what it does in its metadata."""

    enabled: bool = _option(True, "offer anything at all")
    languages: tuple[str, ...] = _option(
        ("python",), "languages, as editors call them, in which suggestions come by themselves"
    )
    exclude: tuple[str, ...] = _option(
        (), "patterns, as in .gitignore, of files that get no suggestions and are never read"
    )
    model: str | None = _option(
        None, "a model's folder, or a name from `talaria models`", restart=True
    )
    device: str = _option("cpu", "cpu, cuda or mps", restart=True)
    mode: Literal["diffuse", "verify", "ar"] = _option("diffuse", "how middles are generated")
    confidence_threshold: float | None = _option(
        None,
        "confidence from which a token is committed; lower is faster and less sure; by itself "
        "as was found best for the model",
        0,
        1,
    )
    until: Literal["line", "statement", "block"] | None = _option(
        None, "where suggestions end at the latest; by itself the model decides"
    )
    max_tokens: int = _option(48, "longest suggestion while typing", 1, 1024)
    candidates: int = _option(3, "suggestions to choose from where they are asked for", 1, 16)
    least_confidence: float = _option(
        0.1, "suggestions that the model holds for less likely are not shown by themselves", 0, 1
    )
    deadline_ms: int | None = _option(
        None,
        "time after which what is there is offered, while typing; by itself 300, for a service "
        "endpoint_timeout_ms",
        1,
        60_000,
    )
    fill_deadline_ms: int = _option(
        20_000, "the same for what was asked for: functions, selections", 1, 600_000
    )
    debounce_ms: int | None = _option(
        None, "wait so long after each key; by itself as long as the typing asks for", 0, 5000
    )
    strings: bool = _option(True, "offer suggestions in strings")
    comments: bool = _option(True, "offer suggestions in comments")
    related_files: bool = _option(
        True, "let the model see definitions and places in other files of the workspace"
    )
    completion: bool | None = _option(
        None, "offer them as plain completions; by itself where inline ones are unknown"
    )
    status: bool = _option(False, "send `talaria/status` notifications")
    steps: bool = _option(False, "send `talaria/step` notifications while it denoises")
    usage: bool = _option(True, "count what was shown and accepted, on this machine alone")
    endpoint: str | None = _option(
        None, "URL of a fill-in-the-middle service that is asked first", restart=True
    )
    endpoint_model: str | None = _option(None, "the model that the service shall use", restart=True)
    endpoint_key_variable: str | None = _option(
        None, "the environment variable that holds the service's key, if it wants one", restart=True
    )
    endpoint_timeout_ms: int = _option(
        2000, "how long the service may take", 10, 120_000, restart=True
    )

    def merged(self, given: object) -> tuple[Options, list[str]]:
        """With what an editor gave, and what is wrong with that; wrong values change nothing.

        `given` may stand in a section `talaria`. None and an empty one say nothing, and
        so does null for an option that cannot be null.
        """
        if isinstance(given, Mapping) and isinstance(given.get(SECTION), Mapping):
            given = given[SECTION]
        if given is None or given == []:
            return self, []
        if not isinstance(given, Mapping):
            return self, [f"options are {_shown(given)}; they must be an object with names"]
        known = {f.name: f for f in fields(Options)}
        chosen: dict[str, Any] = {}
        problems = []
        for name, value in given.items():
            if name not in known:
                problems.append(f"no option {_shown(name)}; there are {', '.join(known)}")
                continue
            if value is None and type(None) not in _kinds(known[name]):
                continue
            try:
                chosen[name] = _checked(known[name], value)
            except ValueError as error:
                now = getattr(self, name)
                problems.append(f"{name} is {_shown(value)}; it must be {error}. It stays {now!r}")
        return replace(self, **chosen), problems

    def needs_restart(self, other: Options) -> bool:
        """Whether an engine of these options is none of the others'."""
        return any(
            getattr(self, f.name) != getattr(other, f.name)
            for f in fields(Options)
            if f.metadata["restart"]
        )


_HINTS = get_type_hints(Options)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kinds(option: Field[Any]) -> tuple[Any, ...]:
    """The types that an option may have; choices are Literals."""
    hint = _HINTS[option.name]
    if get_origin(hint) in (Literal, tuple) or not get_args(hint):
        return (hint,)
    return get_args(hint)


def _checked(option: Field[Any], value: object) -> object:
    """The value, of the option's type; ValueError says what it must be."""
    low, high = option.metadata["low"], option.metadata["high"]
    wanted = []
    for kind in _kinds(option):
        if kind is type(None):
            wanted.append("null")
            if value is None:
                return None
        elif get_origin(kind) is Literal:
            wanted += [repr(choice) for choice in get_args(kind)]
            if isinstance(value, str) and value in get_args(kind):
                return value
        elif get_origin(kind) is tuple:
            wanted.append("a list of texts")
            if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
                return tuple(value)
        elif kind is bool or kind is str:
            wanted.append({bool: "true or false", str: "a text"}[kind])
            if isinstance(value, kind):
                return value
        else:
            wanted.append(f"{'a whole number' if kind is int else 'a number'} from {low} to {high}")
            fits = isinstance(value, int if kind is int else int | float)
            # True is a number to Python, and NaN lies between no limits.
            if fits and not isinstance(value, bool) and low <= value <= high:
                return kind(value)
    raise ValueError(" or ".join(wanted))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each option; what is not given is left to the editor."""
    for option in fields(Options):
        flag = f"--{option.name.replace('_', '-')}"
        what, kind = option.metadata["what"], _kinds(option)[0]
        if option.default not in (None, (), True, False):
            default = option.default
            shown = ", ".join(default) if isinstance(default, tuple) else default
            what += f" ({shown})"
        if kind is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=what
            )
        elif get_origin(kind) is Literal:
            parser.add_argument(flag, choices=get_args(kind), default=None, help=what)
        elif get_origin(kind) is tuple:
            parser.add_argument(flag, action="append", default=None, metavar="NAME", help=what)
        else:
            metavar = {int: "N", float: "P", str: "NAME"}[kind]
            parser.add_argument(flag, type=kind, default=None, metavar=metavar, help=what)


def from_flags(args: argparse.Namespace) -> tuple[Options, list[str]]:
    """The options that the command line gives, and what is wrong with them."""
    given = {f.name: getattr(args, f.name) for f in fields(Options)}
    return Options().merged({name: value for name, value in given.items() if value is not None})

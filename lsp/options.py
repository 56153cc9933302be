"""Options of the language server, with the same names on the command line and in editors.

The flags of `talaria lsp`, `initializationOptions` and the settings of
`workspace/didChangeConfiguration` all derive from one dataclass. An invalid value is reported
once and leaves the default in place.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

from talaria.coder.request import Mode, Options, Until

SECTION = "talaria"  # name of the section in an editor's settings
ALIKE = 0.8  # how alike two names are of which one may be a typo, as difflib counts


def _option(
    default: Any,
    what: str,
    low: float | None = None,
    high: float | None = None,
    restart: bool = False,
    metavar: str = "NAME",
) -> Any:
    return field(
        default=default,
        metadata={"what": what, "low": low, "high": high, "restart": restart, "metavar": metavar},
    )


@dataclass(frozen=True)
class ServerOptions:
    """The options of the language server; the metadata of each says what it does."""

    enabled: bool = _option(True, "offer suggestions at all")
    languages: tuple[str, ...] = _option(
        ("python",), "language ids in which suggestions appear automatically"
    )
    exclude: tuple[str, ...] = _option(
        (),
        "patterns, as in .gitignore, of files that get no suggestions and are never read",
        metavar="PATTERN",
    )
    model: str | None = _option(
        None,
        "a model's folder, a name from `talaria models`, or the address of a `talaria serve`, as "
        "http://HOST:PORT; default: the large one if it is there, as far as memory and speed "
        "allow, else the embedded one",
        restart=True,
    )
    device: str = _option(
        "cpu", "where the model runs: cpu, cuda, cuda:N or mps", restart=True, metavar="DEVICE"
    )
    offer_fetch: bool = _option(
        True, "offer to fetch the large model if it is not here, and fetch what was agreed to"
    )
    # ruff does not see that the aliases Mode and Until are immutable.
    mode: Mode | None = _option(  # noqa: RUF009
        None,
        "diffuse denoises canvases; ar writes one token per step; verify writes ar's text faster; "
        "default: the model's setting",
    )
    confidence_threshold: float | None = _option(
        None,
        "commit tokens of at least this confidence; lower is faster but less accurate; default: "
        "the model's setting",
        0,
        1,
    )
    until: Until | None = _option(  # noqa: RUF009
        None, "end suggestions no later than the end of this; default: the model decides"
    )
    max_tokens: int = _option(48, "longest suggestion while typing, in tokens", 1, 1024)
    candidates: int = _option(3, "candidates to choose from when invoked by hand", 1, 16)
    least_confidence: float = _option(
        0.3, "of automatic suggestions, only what is at least this sure is shown", 0, 1
    )
    deadline_ms: int | None = _option(
        None,
        "deadline while typing: whatever is decoded by then is offered; default: 300, 1000 for the "
        "large model (5000 for one that `model` names), or endpoint_timeout_ms if endpoint is set",
        1,
        60_000,
    )
    fill_deadline_ms: int = _option(
        20_000, "deadline of commands and of suggestions invoked by hand", 1, 600_000
    )
    debounce_ms: int | None = _option(
        None,
        "wait this long after each key before asking the model; default: not at all, or as the "
        "typing goes if endpoint is set",
        0,
        5000,
    )
    strings: bool = _option(True, "offer suggestions inside strings")
    comments: bool = _option(True, "offer suggestions inside comments")
    related_files: bool = _option(
        True,
        "let the model see definitions and recently edited places in other files of the workspace",
    )
    completion: bool | None = _option(
        None,
        "offer suggestions as plain completions; default: only if the editor lacks inline ones",
    )
    status: bool = _option(False, "send `talaria/status` notifications")
    steps: bool = _option(False, "send `talaria/step` notifications while a command denoises")
    usage: bool = _option(
        True, "count suggestions shown and accepted; the counts stay on this machine"
    )
    endpoint: str | None = _option(
        None, "URL of a fill-in-the-middle service to ask first", restart=True, metavar="URL"
    )
    endpoint_model: str | None = _option(None, "model that the service should use", restart=True)
    endpoint_key_variable: str | None = _option(
        None, "environment variable that holds the service's API key", restart=True
    )
    endpoint_timeout_ms: int = _option(2000, "timeout of the service", 10, 120_000, restart=True)

    def merged(self, given: object) -> tuple[ServerOptions, list[str]]:
        """These options with an editor's values over them, and one message per invalid value.

        Invalid values change nothing. The values may be nested in a section `talaria`; beside it,
        or where nothing resembles an option, they are another server's. None and empty ones set
        nothing, nor does null for an option that cannot be null.
        """
        sectioned = False
        if isinstance(given, Mapping) and SECTION in given:
            given, sectioned = given[SECTION], True
        if given is None or given in ("", [], False):
            return self, []
        if not isinstance(given, Mapping):
            return self, [f"options are {_shown(given)}; they must be an object"]
        known = {f.name: f for f in fields(ServerOptions)}
        if not (sectioned or any(get_close_matches(str(n), known, 1, ALIKE) for n in given)):
            return self, []
        chosen: dict[str, Any] = {}
        problems = []
        for name, value in given.items():
            if name not in known:
                if isinstance(value, Mapping) and not sectioned:
                    continue  # another server's section
                problems.append(f"unknown option {_shown(name)}; known are {', '.join(known)}")
                continue
            # "" is null in settings that a form fills in, and [] where a language has one nil.
            listed = any(get_origin(kind) is tuple for kind in _kinds(known[name]))
            if value == "" or (value == [] and not listed):
                value = None
            if value is None and type(None) not in _kinds(known[name]):
                continue
            try:
                chosen[name] = _checked(known[name], value)
            except ValueError as error:
                now = getattr(self, name)
                problems.append(f"{name} is {_shown(value)}; it must be {error}. Using {now!r}")
        return replace(self, **chosen), problems

    @property
    def served(self) -> bool:
        """Whether `model` is the address of a server of ours."""
        return self.model is not None and self.model.lower().startswith(("http://", "https://"))

    @property
    def service(self) -> str | None:
        """The URL of the service that is asked first, if there is one."""
        if self.endpoint or not self.served:
            return self.endpoint
        assert self.model is not None
        address = self.model.rstrip("/")
        return address if address.count("/") > 2 else f"{address}/v1/completions"

    def needs_restart(self, other: ServerOptions) -> bool:
        """Whether switching between these options requires restarting the engine."""
        return any(
            getattr(self, f.name) != getattr(other, f.name)
            for f in fields(ServerOptions)
            if f.metadata["restart"]
        )

    def decoding(
        self,
        *,
        candidates: int = 1,
        max_tokens: int | None = None,
        until: Until | None = None,
        check_syntax: bool = True,
        complete: bool = False,
        abstain: bool = False,
    ) -> Options:
        """How one request is decoded under these options."""
        # `verify` works at temperature 0 only, so it cannot draw several candidates.
        several = candidates > 1 and self.mode == "verify"
        return Options(
            mode="ar" if several else self.mode,
            candidates=candidates,
            max_tokens=max_tokens,
            until=until,
            confidence_threshold=self.confidence_threshold,
            check_syntax=check_syntax,
            complete=complete,
            abstain=abstain,
        )


_HINTS = get_type_hints(ServerOptions)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kinds(option: Field[Any]) -> tuple[Any, ...]:
    """The types of an option; choices are Literals."""
    hint = _HINTS[option.name]
    if get_origin(hint) in (Literal, tuple) or not get_args(hint):
        return (hint,)
    return get_args(hint)


def _checked(option: Field[Any], value: object) -> object:
    """The value converted to the option's type; ValueError says what it must be."""
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
            wanted.append("a list of strings")
            if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
                return tuple(value)
        elif kind is bool or kind is str:
            wanted.append({bool: "true or false", str: "a string"}[kind])
            if isinstance(value, kind):
                return value
        else:
            wanted.append(f"{'a whole number' if kind is int else 'a number'} from {low} to {high}")
            if kind is int and isinstance(value, float) and value.is_integer():
                value = int(value)  # JSON has one kind of number
            fits = isinstance(value, int if kind is int else int | float)
            # True is a number in Python; NaN fails every comparison.
            if fits and not isinstance(value, bool) and low <= value <= high:
                return kind(value)
    raise ValueError(" or ".join(wanted))


def _default(value: object) -> str:
    """A default as `--help` shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each option; one that is not given leaves the option to the editor."""
    for option in fields(ServerOptions):
        flag = f"--{option.name.replace('_', '-')}"
        what, metavar = option.metadata["what"], option.metadata["metavar"]
        kind = _kinds(option)[0]
        if get_origin(kind) is tuple:
            what += "; may be repeated"
        if option.default not in (None, ()):
            what += f" ({_default(option.default)})"
        if kind is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=what
            )
        elif get_origin(kind) is Literal:
            parser.add_argument(flag, choices=get_args(kind), default=None, help=what)
        elif get_origin(kind) is tuple:
            parser.add_argument(flag, action="append", default=None, metavar=metavar, help=what)
        else:
            metavar = {int: "N", float: "P"}.get(kind, metavar)
            parser.add_argument(flag, type=kind, default=None, metavar=metavar, help=what)


def from_flags(args: argparse.Namespace) -> tuple[ServerOptions, list[str]]:
    """The options of a command line, and one message per invalid value."""
    given = {f.name: getattr(args, f.name) for f in fields(ServerOptions)}
    set_flags = {name: value for name, value in given.items() if value is not None}
    return ServerOptions().merged(set_flags)

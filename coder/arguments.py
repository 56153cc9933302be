"""Parsers of command lines: wrong usage is one line, and help says what holds by default."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from talaria.coder.errors import UsageError


class Formatter(argparse.HelpFormatter):
    """Appends to an option's help what holds where it is not given, unless the help says so."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        valued = action.nargs != 0 and action.default not in (None, [], argparse.SUPPRESS)
        if not valued or "default" in text:
            return text
        return f"{text} (default: {str(action.default).replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """A parser of one command; wrong usage raises UsageError with the reason and where to look."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **{"formatter_class": Formatter, **options})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage, which may fill a screen."""
        raise UsageError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`")

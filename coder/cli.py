"""The command line: finds a command and runs it; errors become one line and an exit code."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from talaria import __version__
from talaria.coder.ending import leave, tidied
from talaria.coder.errors import Interrupted, TalariaError, UsageError

if TYPE_CHECKING:
    from importlib import metadata

COMMANDS = "talaria.commands"  # entry points of the commands that live outside `coder`

BUILTIN = {
    "infill": "infill_command",
    "chat": "chat_command",
    "models": "models_command",
    "doctor": "doctor",
    "serve": "serve.command",
}

USAGE = """usage: talaria COMMAND [OPTIONS]

Fill in code by diffusion.

  infill     fill a hole in a file, or write the body of a function
  chat       ask about code, in a dialogue or one question
  models     what can be loaded, where it lies, size, licence; fetch a base
  doctor     what to paste into a bug report
  serve      one model for many editors, over HTTP
{others}
`talaria COMMAND --help` says more. Version {version}."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; exit code 0, 1 (it could not be done), 2 (wrong usage) or 130 (Ctrl-C)."""
    if argv is not None:
        return guarded("talaria", lambda: run(list(argv)))
    # A terminal that lacks a character shows its code instead of failing.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code = guarded("talaria", lambda: run(sys.argv[1:]))
    return leave(code) if code == Interrupted.exit_code else code


def guarded(name: str, command: Callable[[], int]) -> int:
    """Run a command; what its user can fix is one line on standard error, never a traceback.

    Returns its exit code, 1 (it could not be done), 2 (wrong usage) or 130 (Ctrl-C). The line
    begins with the `name` of the program.
    """
    try:
        with tidied():
            return command()
    except TalariaError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:
        # The reader of the output went away; keep Python from complaining again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = error.filename or "reading or writing"
        print(
            f"{name}: {where}: {error.strerror}; check the path, its permissions and free space",
            file=sys.stderr,
        )
        return 1


def run(argv: list[str]) -> int:
    """Find a command and call it; errors reach the caller."""
    name = argv[0] if argv else "--help"
    # Imported when they are called, like everything that they need: a second call is to be quick.
    if name in BUILTIN:
        module = importlib.import_module(f"talaria.coder.{BUILTIN[name]}")
        return int(module.command(argv[1:]))
    from importlib import metadata

    others = {point.name: point for point in metadata.entry_points(group=COMMANDS)}
    if name in ("-h", "--help"):
        listing = "".join(f"  {other:10} {about(others[other])}\n" for other in sorted(others))
        print(USAGE.format(others=listing, version=__version__))
        return 0 if argv else 2
    if name == "--version":
        print(__version__)
        return 0
    if name not in others:
        known = ", ".join([*BUILTIN, *sorted(others)])
        raise UsageError(f"no command {name!r}; there are {known}")
    try:
        return int(others[name].load()(argv[1:]))
    except ModuleNotFoundError as error:
        raise TalariaError(
            f"`talaria {name}` needs {error.name}, which is not installed; "
            "in the folder of the project: make test, or pip install -e '.[train,eval]'"
        ) from error


def about(command: metadata.EntryPoint) -> str:
    """What a command does: the first line of its module, which is parsed but not imported."""
    import ast

    try:
        found = importlib.util.find_spec(command.module)
        source = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
    except (ImportError, OSError):
        source = ""
    line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    summary = line.removeprefix(f"`talaria {command.name}`: ").rstrip(".")
    return summary or f"`talaria {command.name} --help`"


if __name__ == "__main__":
    sys.exit(main())

"""One program and its test, run in a confined process; nothing but a secret says "passed".

The secret is a number that only the fork server knows too. While foreign code
runs it lies on the interpreter's evaluation stack and nowhere else: in no
variable, attribute or container, so that neither frames nor globals lead to it.
It is written when the test has returned, by one expression that looks up no
name after the program has begun. What remains possible is in docs/sandbox.md.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import re
import site
import sys
import types
from collections.abc import Mapping
from typing import NoReturn

TAKEN = 4096  # bytes of a message; a pipe takes so many at once, whole
LONGEST = 200  # characters of a detail
ADDRESS = re.compile("0x[0-9a-fA-F]+")
OURS = ("talaria", "ctypes", "_ctypes")
# Ways to the interpreter's insides, by the names of their audit events.
INSIDES = frozenset(
    {
        "gc.get_objects",
        "gc.get_referrers",
        "gc.get_referents",
        "sys.settrace",
        "sys.setprofile",
        "sys._current_frames",
        "sys._current_exceptions",
    }
)
MODULES = frozenset(
    {"_ctypes", "_testcapi", "_testinternalcapi", "_xxsubinterpreters", "_interpreters"}
)
REFUSALS = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.EROFS,
        errno.EAGAIN,
        errno.EFBIG,
        errno.ENOSPC,
        errno.EMFILE,
        errno.ENOSYS,
    }
)


def run(code: str, test: str, verdict: int, secret: list[bytes]) -> NoReturn:
    """Run a program, then its test in the same module, and leave this process.

    Writes the secret to the descriptor `verdict` once both have returned, else
    a line with the kind of failure and one with the details.
    """
    write, leave = os.write, os._exit
    # What a program forks off has no say: else it would pass or not by who is first.
    os.register_at_fork(after_in_child=functools.partial(os.closerange, verdict, verdict + 1))
    try:
        spaces = (prepare(),) * 2
        try:
            codes = (
                compile(code, "<program>", "exec", dont_inherit=True),
                compile(test, "<test>", "exec", dont_inherit=True),
            )
        except MemoryError:
            raise
        except BaseException as error:
            write(verdict, message("syntax error", of_syntax(error)))
        else:
            # Arguments are evaluated from the left, so everything is on the stack
            # before `bytes` pulls: `exec` gives None, `filter` drops it, the sum is the secret.
            write(verdict, secret.pop() + bytes(filter(None, map(exec, codes, spaces))))
    except MemoryError:
        write(verdict, b"memory\nMemoryError")
    except BaseException as error:
        write(verdict, failure(error, {"<program>": code, "<test>": test}))
    finally:
        leave(0)


def prepare() -> dict[str, object]:
    """An empty main module for the program; what belongs to the harness goes out of reach."""
    for name in list(sys.modules):
        if name.partition(".")[0] in OURS:
            del sys.modules[name]
    sys.modules["__main__"].__dict__.clear()
    main = types.ModuleType("__main__")
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = main
    site.setquit()  # exit() and quit(), as usual
    random.seed(0)  # so that the same program has the same verdict
    insides, modules = INSIDES, MODULES

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if (
            event in insides
            or event.startswith("ctypes.")
            or (event == "import" and arguments[0] in modules)
        ):
            raise PermissionError(1, f"the sandbox refuses {event}")

    sys.addaudithook(refuse)
    return main.__dict__


def message(status: str, detail: str) -> bytes:
    """What goes over the pipe."""
    return f"{status}\n{one_line(detail)}".encode()


def one_line(text: str) -> str:
    """A text as one line of bounded length, without addresses, which differ between runs."""
    text = ADDRESS.sub("0x…", " ".join(text[: 4 * LONGEST].split()))
    return "".join(c if c.isprintable() else "?" for c in text)[:LONGEST]


def of_syntax(error: BaseException) -> str:
    """Where and why a text is no program."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} at {error.filename} line {error.lineno}"
    return named(error)


def named(error: BaseException) -> str:
    """An error's type and text, the text if it has one that can be had."""
    try:
        text = str(error)
    except BaseException:
        text = "(its text cannot be had)"
    return f"{type(error).__name__}: {text[:LONGEST]}" if text else type(error).__name__


def failure(error: BaseException, sources: Mapping[str, str]) -> bytes:
    """The message for what a program or test raised; foreign code may run to describe it."""
    if isinstance(error, SystemExit):
        status = "exited early"
    elif (isinstance(error, OSError) and error.errno in REFUSALS) or (
        # Python says no more when the limit on processes refuses a thread.
        type(error) is RuntimeError and error.args == ("can't start new thread",)
    ):
        status = "forbidden"
    else:
        status = "failed"
    return message(status, named(error) + place(error, sources))


def place(error: BaseException, sources: Mapping[str, str]) -> str:
    """The innermost line of program or test that an error passed through."""
    found, step = "", error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if name in sources:
            lines = sources[name].split("\n")
            line = lines[step.tb_lineno - 1].strip() if step.tb_lineno <= len(lines) else ""
            found = f" at {name} line {step.tb_lineno}: {line}"
        step = step.tb_next
    return found

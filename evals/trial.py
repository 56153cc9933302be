"""Run one program and its test in a confined process; only a secret can report "passed".

The fork server is the only other holder of the secret. While untrusted code runs, the secret
lies on the interpreter's evaluation stack and nowhere else: no variable, attribute or container
holds it, so neither frames nor globals lead to it. One expression writes it after the test has
returned, and looks up no name once the program has started. docs/sandbox.md says what cheating
remains possible.
"""

from __future__ import annotations

import builtins
import errno
import functools
import os
import random
import re
import site
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

MESSAGE_BYTES = 4096  # longest message; a pipe writes that many bytes atomically
DETAIL_LENGTH = 200  # characters
ADDRESS = re.compile("0x[0-9a-fA-F]+")
HARNESS_MODULES = ("talaria", "ctypes", "_ctypes")
# Audit events of calls that expose the interpreter's internals.
REFUSED_EVENTS = frozenset(
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
REFUSED_MODULES = frozenset(
    {
        *("_ctypes", "_testcapi", "_testinternalcapi", "_xxsubinterpreters", "_interpreters"),
        # They need other programs or sockets, and would fail in ways that do not say so.
        *("multiprocessing.managers", "multiprocessing.popen_forkserver"),
        *("multiprocessing.popen_spawn_posix",),
    }
)
SHARED_MEMORY = "_posixshmem"  # refused where it would be the machine's own
# Errors by which the kernel enforces the sandbox's limits.
LIMIT_ERRORS = frozenset(
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


@dataclass(frozen=True)
class Trial:
    """What is run.

    code, test, builtins  the fields of `sandbox.Program`
    alone                 whether the process has shared memory of its own
    verdict               the descriptor on which it reports
    """

    code: str
    test: str
    builtins: list[str]
    alone: bool
    verdict: int


class TestNames(dict[str, object]):
    """The global names of a test: the program's, but built-ins are Python's own.

    Otherwise a helper named `abs` behind a right-looking function would decide what the test
    finds. A test's own names are the program's too, unless it has them already.
    """

    def __init__(self, program: dict[str, object], shared: list[str]) -> None:
        own = vars(builtins).copy()
        super().__init__({name: own[name] for name in own if name not in shared})
        self.program = program
        self |= {"__name__": "__main__", "__builtins__": own}

    def __missing__(self, name: str) -> object:
        return self.program[name]

    def __setitem__(self, name: str, value: object) -> None:
        super().__setitem__(name, value)
        self.program.setdefault(name, value)


def run(trial: Trial, secret: list[bytes]) -> NoReturn:
    """Run a program, then its test in the same module, and exit this process.

    Writes the secret to the verdict's descriptor once both have returned; otherwise one line
    with the kind of failure and one with the detail.
    """
    code, test, verdict = trial.code, trial.test, trial.verdict
    write, leave = os.write, os._exit
    # Forked children lose the descriptor; otherwise whichever process wrote first would decide.
    os.register_at_fork(after_in_child=functools.partial(os.closerange, verdict, verdict + 1))
    try:
        program = prepare(trial.alone)
        spaces = [(program, TestNames(program, trial.builtins))]
        try:
            codes = (
                compile(code, "<program>", "exec", dont_inherit=True),
                compile(test, "<test>", "exec", dont_inherit=True),
            )
        except MemoryError:
            raise
        except BaseException as error:
            write(verdict, message("syntax error", describe_compile_error(error)))
        else:
            # Python evaluates operands from left to right, so everything is on the stack before
            # `bytes` pulls: `exec` yields None, `filter` drops it, and the sum is the secret.
            # The test's names are there too, out of the program's reach.
            write(verdict, secret.pop() + bytes(filter(None, map(exec, codes, spaces.pop()))))
    except MemoryError:
        write(verdict, b"memory\nMemoryError")
    except BaseException as error:
        write(verdict, failure(error, {"<program>": code, "<test>": test}))
    finally:
        leave(0)


def prepare(alone: bool) -> dict[str, object]:
    """Return an empty main module's namespace for the program and hide the harness from it."""
    for name in list(sys.modules):
        if name.partition(".")[0] in HARNESS_MODULES:
            del sys.modules[name]
    sys.modules["__main__"].__dict__.clear()
    main = types.ModuleType("__main__")
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = main
    site.setquit()  # -S left out exit() and quit()
    random.seed(0)  # the same program must get the same verdict
    events = REFUSED_EVENTS
    modules = REFUSED_MODULES if alone else REFUSED_MODULES | {SHARED_MEMORY}

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if (
            event in events
            or event.startswith("ctypes.")
            or (event == "import" and arguments[0] in modules)
        ):
            what = f"{event} {arguments[0]}" if event == "import" else event
            raise PermissionError(1, f"the sandbox refuses {what}")

    sys.addaudithook(refuse)
    return main.__dict__


def message(status: str, detail: str) -> bytes:
    """Encode a verdict for the pipe: the status on one line, the detail on the next."""
    return f"{status}\n{one_line(detail)}".encode()


def one_line(text: str) -> str:
    """Shorten a text to one line and mask addresses, which differ between runs."""
    text = ADDRESS.sub("0x…", " ".join(text[: 4 * DETAIL_LENGTH].split()))
    return "".join(c if c.isprintable() else "?" for c in text)[:DETAIL_LENGTH]


def describe_compile_error(error: BaseException) -> str:
    """Say where and why a program does not compile."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} at {error.filename} line {error.lineno}"
    return describe_error(error)


def describe_error(error: BaseException) -> str:
    """Return an error's type and, if it has any, its text; `__str__` may itself raise."""
    try:
        text = str(error)
    except BaseException:
        text = "(its text cannot be had)"
    return f"{type(error).__name__}: {text[:DETAIL_LENGTH]}" if text else type(error).__name__


def failure(error: BaseException, sources: Mapping[str, str]) -> bytes:
    """Encode what a program or test raised; describing it may run untrusted code."""
    if isinstance(error, SystemExit):
        status = "exited early"
    elif (isinstance(error, OSError) and error.errno in LIMIT_ERRORS) or (
        # Python raises nothing more specific when the process limit refuses a thread.
        type(error) is RuntimeError and error.args == ("can't start new thread",)
    ):
        status = "forbidden"
    else:
        status = "failed"
    return message(status, describe_error(error) + location(error, sources))


def location(error: BaseException, sources: Mapping[str, str]) -> str:
    """Return the innermost line of the program or test in an error's traceback."""
    found, step = "", error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if name in sources:
            lines = sources[name].split("\n")
            line = lines[step.tb_lineno - 1].strip() if step.tb_lineno <= len(lines) else ""
            found = f" at {name} line {step.tb_lineno}: {line}"
        step = step.tb_next
    return found

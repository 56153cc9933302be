"""Whether an exercise does what a benchmark asks, in whatever words and code.

No comparison of texts shows that a function is a benchmark's task in disguise. The
benchmark's own tests do: they are run on every function with as many parameters.
"""

from __future__ import annotations

import gzip
import inspect
import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from talaria.coder.errors import DataError
from talaria.finetune.exercises.trial import RejectedError, limited


@dataclass(frozen=True, order=True)
class BenchmarkTask:
    """A function that a benchmark asks for: a program that has it, and the tests of it.

    `test` defines `check(candidate)`, which raises unless the candidate is right.
    """

    entry_point: str
    test: str
    program: str


def read_tasks(paths: Iterable[Path]) -> tuple[BenchmarkTask, ...]:
    """The distinct tasks of benchmarks in gzip JSONL whose lines have tests; DataError if broken.

    A benchmark without tests has none.
    """
    tasks: dict[tuple[str, str], BenchmarkTask] = {}
    for path in paths:
        try:
            for line in gzip.decompress(path.read_bytes()).splitlines():
                problem = json.loads(line)
                if "check(candidate)" not in problem.get("test", ""):
                    continue
                name, test = problem["entry_point"], problem["test"].strip()
                program = problem["prompt"] + problem["canonical_solution"]
                program += problem.get("suffix", "")
                tasks.setdefault((name, test), BenchmarkTask(name, test, program))
        except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
            raise DataError(f"{path}: no benchmark in gzip JSONL ({error!r}); take it out of --exclude or fetch it again") from error
    return tuple(sorted(tasks.values()))


class Mirrors:
    """The tests of tasks, ready to be run on functions."""

    def __init__(self, tasks: Iterable[BenchmarkTask]) -> None:
        """Runs the tasks' programs and tests: they are trusted as the code of this project is.

        DataError if a task's own program fails its test.
        """
        self.names: set[str] = set()
        self.checks: list[tuple[int, Callable[[Any], None]]] = []
        for task in tasks:
            space: dict[str, Any] = {"__name__": "benchmark"}
            try:
                exec(task.program, space)
                exec(task.test, space)
                asked = space[task.entry_point]
                with limited(SECONDS):
                    space["check"](asked)
            except Exception as error:
                raise DataError(f"the benchmark's {task.entry_point} fails its own test ({error!r})") from error
            self.names.add(task.entry_point)
            self.checks.append((len(inspect.signature(asked).parameters), space["check"]))

    def reject(self, defined: Iterable[str], space: dict[str, Any]) -> None:
        """RejectedError if a function of these names in `space` is named as a task, or is one.

        The same functions give the same answer, unless one takes about as long as a test may.
        """
        for name in defined:
            if name in self.names:
                raise RejectedError("named as a benchmark's function")
            if isinstance(space.get(name), FunctionType) and self.passes(space[name]):
                raise RejectedError("passes the tests of a benchmark")

    def passes(self, function: FunctionType) -> bool:
        """Whether the function passes the tests of any task."""
        parameters = inspect.signature(function).parameters.values()
        needed = sum(p.default is p.empty for p in parameters)
        checks = (check for count, check in self.checks if needed <= count <= len(parameters))
        while True:
            try:
                # One clock for all tests, as setting it takes longer than most of them.
                with limited(PATIENCE):
                    return any(holds(check, function) for check in checks)
            except RejectedError:  # a test took long, and was not passed; on with the next
                continue


SECONDS = 5.0
"""Longer than this no task's own test may take."""
PATIENCE = 0.1
"""Longer than this no function may be busy with tests, of which nearly all fail at once."""


def holds(check: Callable[[Any], None], function: FunctionType) -> bool:
    """Whether the function passes one test; RejectedError when the time is up."""
    try:
        check(function)
    except RejectedError:
        raise
    except Exception:
        return False
    return True

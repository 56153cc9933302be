"""Limits of time that a slow or busy machine does not decide."""

from __future__ import annotations

import gc
import inspect
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

from talaria.coder.syntax.tree import count_errors

_WORK = inspect.getsource(textwrap) * 5
_USUAL = 0.012  # seconds for it, on two quiet cores of a server of 2023


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done in it takes at most so many seconds of processor time on a usual machine.

    A slower one has more, by how long a piece of known work takes it before or after. Other
    tests' garbage is not cleared away in that time.
    """
    gc.collect()
    gc.disable()
    try:
        before = _slowness()
        began = time.process_time()
        yield
        taken = time.process_time() - began
        slowness = max(1.0, before, _slowness())
    finally:
        gc.enable()
    assert taken < seconds * slowness, f"{taken:.2f} s; this machine needs {slowness:.1f} times"


def _slowness() -> float:
    began = time.process_time()
    count_errors(_WORK)
    sum(number * number for number in range(100_000))
    return (time.process_time() - began) / _USUAL

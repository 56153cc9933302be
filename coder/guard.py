"""May this text be written into this file? One answer, for every command that writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from talaria.coder.bounds import Bound
from talaria.coder.request import Request
from talaria.coder.syntax.judge import Verdict, compiles, judge

LARGEST = 2_000_000  # characters of a file that is compiled as a whole; more takes too long
NO_TIME = "there was no time to check what the model offers"


class Guard:
    """Says why a middle must not be written into the file of a request.

    `out_of_time` is asked before anything that takes time.
    """

    def __init__(self, request: Request, out_of_time: Callable[[], bool] = lambda: False) -> None:
        self.request, self.out_of_time = request, out_of_time

    @cached_property
    def compiled_before(self) -> bool:
        """Whether the file compiles as it is; a very large one counts as if it did not."""
        request = self.request
        before = request.prefix + (request.replaces or "") + request.suffix
        return len(before) <= LARGEST and compiles(before)

    def refusal(self, text: str, verdict: Verdict | None = None) -> str | None:
        """The reason, or None if the middle may be written. Nothing is ever executed.

        It must not be blank, must lie within its bound, add no syntax error with all blocks
        complete, and leave a file that compiles as one that compiles. `verdict` is the judge's word
        on the text, if it is known.
        """
        request = self.request
        if not text.strip():
            return "the model has nothing to offer"
        until = request.options.until
        end = Bound(until, request.prefix).end(text) if until else None
        if end is not None and len(text.rstrip()) > end:
            return f"what the model offers goes beyond its {until} ({shorten(text)})"
        if verdict is None:
            verdict = judge(request.prefix, text, request.suffix, complete=True)
        if not verdict.clean:
            return f"what the model offers adds a syntax error ({shorten(text)})"
        if self.out_of_time():
            return NO_TIME
        if self.compiled_before and not compiles(request.prefix + text + request.suffix):
            return f"Python would no longer take the file ({shorten(text)})"
        return None


def shorten(text: str) -> str:
    """A text in quotes that fits on a line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")

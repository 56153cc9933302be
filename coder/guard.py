"""May this text be written into this file? One answer, for every command that writes."""

from __future__ import annotations

from talaria.coder.bounds import Bound
from talaria.coder.request import Request
from talaria.coder.syntax.judge import Verdict, compiles, judge

LARGEST = 2_000_000  # characters of a file that is compiled as a whole; more takes too long


def refusal(request: Request, text: str, verdict: Verdict | None = None) -> str | None:
    """Why a middle must not be written into the file of a request; None if it may be.

    It must say something, lie within its bound, add no syntax error with all blocks complete,
    and leave a file that compiles as one that compiles. `verdict` is the judge's word on the
    text, if it is known. Nothing is ever executed.
    """
    if not text:
        return "the model has nothing to offer"
    until = request.options.until
    end = Bound(until, request.prefix).end(text) if until else None
    if end is not None and len(text.rstrip()) > end:
        return f"what the model offers goes beyond its {until} ({shorten(text)})"
    if verdict is None:
        verdict = judge(request.prefix, text, request.suffix, complete=True)
    if not verdict.clean:
        return f"what the model offers adds a syntax error ({shorten(text)})"
    before = request.prefix + request.replaces + request.suffix
    after = request.prefix + text + request.suffix
    if len(before) <= LARGEST and compiles(before) and not compiles(after):
        return f"Python would no longer take the file ({shorten(text)})"
    return None


def shorten(text: str) -> str:
    """A text in quotes that fits on a line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")

"""What a command gets for a request: plain values, which need no model and may cross a socket."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from talaria.coder.bounds import until_of

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.request import Request, Settings, Until
    from talaria.coder.results import Infill


@dataclass(frozen=True)
class Offer:
    """One middle; its fields mean what those of `results.Candidate` do.

    tokens      of its text
    confidence  how likely the whole middle is right, by the model: from 0 to 1
    """

    text: str
    score: float | None
    confidence: float
    tokens: int
    stopped: str
    unfinished: bool
    refused: str | None


@dataclass(frozen=True)
class Answer:
    """The outcome of a request: distinct middles, best first, and what they took.

    model    the name of the model that answered
    until    the bound that held
    syntax   the judge's verdict on the best one, by the names of its fields
    summary  one line about what it took
    page     the trace, as HTML, if it was asked for
    stale_steps  those computed with an approximate cache, by number, from 1; None: it was not used
    """

    offers: list[Offer]
    nfe: int
    tokens_per_forward: float
    elapsed_ms: float
    context_tokens: int
    model: str
    until: Until | None
    syntax: dict[str, Any]
    summary: str
    page: str | None = None
    stale_steps: list[int] | None = None

    @property
    def best(self) -> Offer:
        """The middle that is offered first."""
        return self.offers[0]

    def as_json(self, lead: str = "") -> dict[str, Any]:
        """The fields that other tools rely on; `lead` goes before every text that is not empty."""
        best = self.best

        def with_lead(offer: Offer) -> dict[str, Any]:
            return {**asdict(offer), "text": lead + offer.text if offer.text else ""}

        shown = [with_lead(offer) for offer in self.offers]
        for offer in shown:
            del offer["refused"]
        approximate = {} if self.stale_steps is None else {"stale_steps": self.stale_steps}
        return {
            "text": shown[0]["text"],
            "candidates": shown,
            "confidence": best.confidence,
            "nfe": self.nfe,
            "tokens": best.tokens,
            "tokens_per_forward": self.tokens_per_forward,
            "elapsed_ms": self.elapsed_ms,
            "context_tokens": self.context_tokens,
            "model": self.model,
            "stopped": best.stopped,
            "until": self.until,
            "syntax": self.syntax,
            **approximate,
        }


def answer_of(result: Infill, request: Request, model: Checkpoint, trace: bool = False) -> Answer:
    """The answer for the result of a request; `trace` adds the page that replays it."""
    page = None
    if trace:
        from talaria.coder.trace import page as page_of

        page = page_of(result, model, request.prefix, request.suffix)
    return Answer(
        [
            Offer(
                each.text,
                each.score,
                result.confidence(each),
                each.length,
                each.stopped,
                each.unfinished,
                each.refused,
            )
            for each in result.candidates
        ],
        result.nfe,
        round(result.tokens_per_forward, 3),
        round(result.elapsed_ms, 1),
        result.context_tokens,
        model.name,
        until_of(request, model.settings),
        {**asdict(result.syntax), "clean": result.syntax.clean},
        summary(result, request, model.settings),
        page,
        result.stale_steps if request.options.approximate_cache else None,
    )


def summary(result: Infill, request: Request, settings: Settings) -> str:
    """One line about what a request took, with a model of these settings."""
    options = replace(request.options.settled(settings), until=until_of(request, settings))
    best, asked = result.best, options.candidates
    texts = counted(sum(bool(c.text) for c in result.candidates), "different text")
    of = f"{texts} of {asked} candidates, the best: " if asked > 1 else ""
    end = " and <eom>" if best.stopped == "eom" else ""
    steps = counted(result.nfe, "step")
    if options.approximate_cache:
        steps += f", {len(result.stale_steps)} of them approximate"
    if best.text:
        each = f"{result.tokens_per_forward:.1f} a step"
        work = f"{counted(best.length, 'token')}{end} in {steps} ({each})"
    else:
        # Of several, others may have a text that the model holds less likely than none.
        nothing = "empty" if len(result.candidates) > 1 else "nothing to offer"
        work = f"{nothing} after {steps}"
    bound = f" ({options.until})" if best.stopped == "bound" else ""
    flaw = ", its block still lacks a body" if result.syntax.unfinished else ""
    flaw = flaw if result.syntax.sound else ", adds a syntax error"
    return (
        f"{of}{work}, {result.elapsed_ms:.0f} ms, {options.mode}, stopped at {best.stopped}{bound}"
        f"{flaw}"
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it must be."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

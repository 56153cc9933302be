"""What comes back says what was committed, and how sure the model was of it."""

from __future__ import annotations

import numpy as np
import pytest

from talaria.coder.backbone import Array
from talaria.coder.canvas import Canvas
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import fill, infill
from talaria.coder.request import Request
from talaria.coder.results import Candidate, Frame, Infill, unanswered
from talaria.coder.sampler import Step
from talaria.coder.syntax.judge import Verdict
from tests.coder.holes import PREFIX, SUFFIX, raw


def step(before: Canvas, ids: list[int], sure: list[float]) -> Step:
    """A step that made these tokens of masks, with these probabilities."""
    after = np.array([ids])
    committed = before.masked & (after != before.marks.mask)
    chances = np.array([sure], np.float32)
    return Step(Canvas(after, before.marks), committed, chances, np.array([False]))


def result(candidate: Candidate, frames: list[Frame]) -> Infill:
    """A result with these frames."""
    return Infill([candidate], len(frames), 1.0, 1, 0, Verdict(0, 0), frames)


def test_a_failed_repair_makes_nothing_less_sure(tokenizer: TalariaTokenizer) -> None:
    """The probabilities of a middle are those of the canvas that was kept."""
    mask, eom = tokenizer.mask, tokenizer.eom
    blank = Canvas.blank(1, 4, tokenizer.marks)
    first = step(blank, [5, 6, eom, mask], [0.9, 0.8, 0.7, 0.1])
    again = Canvas(np.array([[5, mask, mask, mask]]), tokenizer.marks)
    repair = step(again, [5, 7, 8, eom], [0.0, 0.3, 0.2, 0.1])
    frames = [Frame(0, [0], each) for each in (first, repair, Step.restoring(first.canvas))]
    best = Candidate("ab", [5, 6], "eom", None, 0)
    found = result(best, frames)
    assert found.probabilities(best) == pytest.approx([0.9, 0.8, 0.7])
    assert found.confidence(best) == pytest.approx(0.9 * 0.8 * 0.7)


def test_probabilities_of_each_candidate(tokenizer: TalariaTokenizer) -> None:
    """Over several canvases, of its own row, wherever that is in a frame."""
    eom, marks = tokenizer.eom, tokenizer.marks

    def both(one: Array, other: Array) -> Array:
        joined: Array = np.concatenate((one, other))
        return joined

    blank = Canvas.blank(1, 2, marks)
    one, two = step(blank, [5, 6], [0.9, 0.8]), step(blank, [7, eom], [0.4, 0.3])
    first = Step(
        Canvas(both(one.canvas.ids, two.canvas.ids), marks),
        both(one.committed, two.committed),
        both(one.confidence, two.confidence),
        np.zeros(2, bool),
    )
    last = step(blank, [8, eom], [0.6, 0.5])
    frames = [Frame(0, [0, 1], first), Frame(1, [0], last)]
    longer, shorter = (
        Candidate("", [5, 6, 8], "eom", None, 0),
        Candidate("", [7], "eom", None, 1),
    )
    found = result(longer, frames)
    assert found.probabilities(longer) == pytest.approx([0.9, 0.8, 0.6, 0.5])
    assert found.probabilities(shorter) == pytest.approx([0.4, 0.3])


@pytest.mark.parametrize("mode", ["diffuse", "verify", "ar"])
def test_how_sure_a_suggestion_is(model: Checkpoint, mode: str) -> None:
    """A probability for each token and the end; their product says how sure all of it is."""
    options = raw(mode=mode, max_tokens=20, confidence_threshold=0.3)  # type: ignore[arg-type]
    found = infill(model, PREFIX, SUFFIX, options)
    sure = found.probabilities(found.best)
    assert len(sure) >= len(found.best.tokens)
    assert all(0 < p <= 1 for p in sure)
    assert 0 < found.confidence(found.best) <= min(sure)


def test_tokens_that_only_repeat_are_not_counted() -> None:
    """An end counts as a token that was committed."""
    best = Candidate("nge", [7, 8], "eom", None, 0, repeats=True)
    assert (best.length, best.committed) == (1, 2)
    assert result(best, []).tokens_per_forward == 2  # no evaluation counts as one
    assert Candidate("nge", [7, 8], "max_tokens", None, 0).committed == 2


def test_a_frame_shows_the_text_up_to_the_first_mask(tokenizer: TalariaTokenizer) -> None:
    """Without what the first token repeats of the prefix."""
    ids = [*tokenizer.encode("total"), tokenizer.mask, *tokenizer.encode("x")]
    canvas = Canvas(np.array([ids]), tokenizer.marks)
    assert Frame(0, [0], Step.restoring(canvas), "tot").text(0, tokenizer) == "al"
    assert Frame(1, [0], Step.restoring(canvas)).text(0, tokenizer) == "total"


@pytest.mark.parametrize("why", ["deadline", "cancelled"])
def test_an_interrupted_request_without_an_answer(model: Checkpoint, why: str) -> None:
    """Nothing is offered, nothing was read."""
    empty = unanswered(why)  # type: ignore[arg-type]
    assert (empty.best.text, empty.best.stopped, empty.nfe, empty.frames) == ("", why, 0, [])
    found = fill(model, Request(PREFIX, SUFFIX), interrupted=lambda: why)  # type: ignore[arg-type, return-value]
    assert (found.best.text, found.best.stopped, found.nfe, found.frames) == ("", why, 0, [])

"""What follows from decoding by a published schedule: ranking, batches, repairs and budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.parity import PAIRS
from benchmarks.tiny_models import TINY, write
from talaria.coder import checkpoint
from talaria.coder import infill as infilling
from talaria.coder.backbone import KVCache, Marks
from talaria.coder.canvas import Canvas
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.infill import fill, fill_batch
from talaria.coder.progress import Progress, begin, candidates_of
from talaria.coder.ranking import score_as_committed
from talaria.coder.request import Options, Request
from talaria.coder.results import Frame
from talaria.coder.sampler import Row, Step
from talaria.coder.schedule import Schedule
from talaria.coder.scheduled import Choice, choose, follow, surest, too_early
from talaria.coder.syntax.judge import Surroundings

PREFIX, SUFFIX = "def f(self):\n    return ", "\n\ndef g():\n    pass\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """A tiny model of some families."""
    folder = tmp_path_factory.mktemp("scheduled")
    keys = ("llada", "dream", "dreamon", "sdar", "fast-dllm-v2")
    return {key: checkpoint.load(write(TINY[key], folder / key)) for key in keys}


def begun(model: Checkpoint, options: Options) -> Progress:
    """A request before anything is written."""
    request = Request(PREFIX, SUFFIX, options)
    return begin(model, request, lambda: Surroundings(PREFIX, SUFFIX), None)


def test_an_empty_middle_is_ranked_by_its_end(models: dict[str, Checkpoint]) -> None:
    """An unlikely end does not come before a likely text; a middle without a score comes last."""
    model = models["sdar"]
    hole = begun(model, Options(candidates=3))
    one, other = (model.tokenizer.encode(f"{hole.healed}{text}") for text in "ab")
    hole.middles, hole.stopped = [[], one, other], ["eom", "eom", "eom"]
    marks, blank = model.marks, [model.marks.mask] * len(one)
    canvas = Canvas(np.array([[marks.eom, *blank], [*one, marks.eom]]), marks)
    confidence = np.zeros(canvas.ids.shape, np.float32)
    confidence[0, 0], confidence[1] = 0.01, 0.9
    step = Step(canvas, confidence > 0, confidence, np.zeros(2, bool))
    hole.frames = [Frame(0, [0, 1], step)]
    score_as_committed([hole])
    assert hole.scores[0] == pytest.approx(np.log(0.01), rel=1e-5)
    assert hole.scores[1] == pytest.approx(np.log(0.9), rel=1e-5)
    assert hole.scores[2] is None
    assert [each.row for each in candidates_of(hole)] == [1, 0, 2]


@pytest.mark.parametrize("stopped", ["syntax", "deadline", "max_nfe"])
def test_a_finished_canvas_comes_before_a_fragment(
    stopped: Any, models: dict[str, Checkpoint]
) -> None:
    """However sure the model was of the fragment."""
    model = models["llada"]
    hole = begun(model, Options(sizes=(3, 6)))
    hole.middles = [model.tokenizer.encode(f"{hole.healed}{text}") for text in ("abc", "d")]
    hole.scores = [-2.0, -0.1]
    hole.stopped = ["length", stopped]
    assert [each.row for each in candidates_of(hole)] == [0]


@pytest.mark.parametrize("key", ["llada", "dreamon", "sdar"])
def test_a_batch_of_given_and_free_lengths(key: str, models: dict[str, Checkpoint]) -> None:
    """A request with a length has one canvas, another one of each size."""
    options = Options(max_tokens=12, check_syntax=False)
    requests = [Request(PREFIX, SUFFIX, options), Request(PREFIX, SUFFIX, options, length=7)]
    for order in (requests, requests[::-1]):
        for request, batched in zip(order, fill_batch(models[key], order), strict=True):
            alone = fill(models[key], request)
            assert [each.text for each in batched.candidates] == [
                each.text for each in alone.candidates
            ]
            assert (batched.best.score is None) == (alone.best.score is None)


def test_a_canvas_grows_no_further_in_a_batch(models: dict[str, Checkpoint]) -> None:
    """Though a neighbour's canvas, whose length is given, has room for more."""
    model, grown = models["dreamon"], 0
    options = Options(max_tokens=5, check_syntax=False)
    for prefix, suffix in ((PREFIX, SUFFIX), *PAIRS):
        free = Request(prefix, suffix, options)
        batched, _ = fill_batch(model, [free, Request(prefix, suffix, options, length=30)])
        alone = fill(model, free)
        assert batched.best.text == alone.best.text
        assert batched.nfe == alone.nfe
        more = fill(model, replace(free, options=replace(options, max_tokens=30)))
        grown += len(more.best.tokens) > 5
    assert grown > 0


def test_a_repair_that_is_cut_is_none(
    models: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads block by block may use all evaluations; if they do not suffice, it was in vain."""
    model, budgets = models["fast-dllm-v2"], []
    marks, encode = model.marks, model.tokenizer.encode

    def fake(
        schedule: Schedule,
        backbone: Any,
        cache: KVCache,
        last: Sequence[int],
        canvas: Canvas,
        rows: Sequence[Row],
    ) -> Iterator[Step]:
        budgets.append(rows[0].max_nfe)
        ids = canvas.ids.copy()
        ids[0, :3] = [*encode("(1" if len(budgets) > 1 else "()"), marks.eom]
        took = np.arange(ids.shape[1])[None] < 3
        forced = np.array([len(budgets) > 1])
        yield Step(Canvas(ids, marks), took, took * np.float32(0.5), forced)

    monkeypatch.setattr(infilling, "follow", fake)
    found = fill(model, Request("x(", ")\n", Options(max_nfe=30)))
    assert budgets[:2] == [30, 29]
    assert found.best.text == ""
    assert found.best.stopped == "syntax"
    assert found.frames[-1].step.canvas.middle(0) == encode("()")


def test_an_end_behind_indentation_waits() -> None:
    """The surest end is not taken where all that is chosen before it only indents."""
    marks = Marks(mask=0, eom=1, never=())
    schedule, canvas = Schedule("single", block=4, absolute=True), Canvas.blank(1, 4, marks)
    row = Row(np.random.default_rng(0), 9, early=lambda tokens: set(tokens) == {5})
    sure = np.array([[0.2, 0.3, 0.9, 0.1]], np.float32)
    for first, taken in ((5, 1), (6, 2)):
        choice = Choice(np.array([[first, 5, 1, 7]]), sure, sure)
        free = canvas.open & ~too_early(schedule, canvas, choice, canvas.open, [row])
        final = np.array([False])
        found, _ = surest(schedule, canvas, free, choice, [(0, 4, 1)], canvas.open, final)
        assert np.flatnonzero(found[0]).tolist() == [taken]
        growing = replace(schedule, expand=3)
        assert not too_early(growing, canvas, choice, canvas.open, [row]).any()


def test_the_end_of_a_budget_is_committed(models: dict[str, Checkpoint]) -> None:
    """Where the rest of a canvas was not read, its end mark is in the step, with certainty."""
    model = models["fast-dllm-v2"]
    context = model.tokenizer.encode("x = 1\n" * 6)
    _, kept = model.backbone.encode([context])
    canvas, row = Canvas.blank(1, 32, model.marks), Row(np.random.default_rng(0), 2)
    assert model.schedule is not None
    *_, last = follow(model.schedule, model.backbone, kept, [context[-1]], canvas, [row])
    end = int(last.canvas.ended[0])
    assert 0 < end < 32
    assert last.committed[0, end]
    assert last.confidence[0, end] == 1
    assert last.forced[0]


def test_a_schedule_by_entropy_needs_entropies(models: dict[str, Checkpoint]) -> None:
    """It does not fall back to another order."""
    model = models["llada"]
    canvas, row = Canvas.blank(1, 2, model.marks), Row(np.random.default_rng(0), 2)
    context = model.layout.arrange([5], [])
    states = model.backbone.denoise(canvas.ids, model.backbone.encode([context])[1], [5])
    with pytest.raises(TypeError, match="orders by entropy; Candidates has none"):
        choose(
            Schedule("time", "entropy"),
            model.backbone,
            states,
            canvas.open,
            canvas,
            [row],
            np.array([False]),
        )

"""What follows from decoding by a published schedule: ranking, batches, repairs and budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tiny_models import TINY, write
from talaria.coder import checkpoint
from talaria.coder import infill as infilling
from talaria.coder.backbone import KVCache
from talaria.coder.canvas import Canvas
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.infill import fill, fill_batch, score_as_committed
from talaria.coder.progress import Progress, begin, candidates_of
from talaria.coder.request import Options, Request
from talaria.coder.results import Frame
from talaria.coder.sampler import Row, Step
from talaria.coder.schedule import Schedule
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


def test_a_repair_that_is_cut_is_none(
    models: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads block by block may use all evaluations; if they do not suffice, it was in vain."""
    model, budgets = models["fast-dllm-v2"], []
    marks, encode = model.marks, model.tokenizer.encode

    def follow(
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

    monkeypatch.setattr(infilling, "follow", follow)
    found = fill(model, Request("x(", ")\n", Options(max_nfe=30)))
    assert budgets[:2] == [30, 29]
    assert found.best.text == ""
    assert found.best.stopped == "syntax"
    assert found.frames[-1].step.canvas.middle(0) == encode("()")

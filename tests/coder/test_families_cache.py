"""Approximate caches of models with full attention: what is kept, for how long, and who is told.

That LLaDA's texts are those of Fast-dLLM's own loops is in `test_families.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tiny_models import TINY, write
from talaria.coder import checkpoint
from talaria.coder.canvas import Canvas
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.cli import main
from talaria.coder.errors import UsageError
from talaria.coder.families.masked_torch import MaskedBackbone
from talaria.coder.infill import fill, fill_batch, infill
from talaria.coder.request import Options, Request
from talaria.coder.results import Infill
from talaria.coder.sampler import Row
from talaria.coder.schedule import Schedule, Window
from talaria.coder.scheduled import follow
from talaria.coder.trace import page

FULL = ("llada", "dream", "dreamon", "open-dcoder", "a2d")
PREFIX, SUFFIX = "def f(self):\n    return ", "\n\ndef g():\n    pass\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family."""
    folder = tmp_path_factory.mktemp("caches")
    return {key: write(tiny, folder / key) for key, tiny in TINY.items()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Checkpoint]:
    """The same, loaded."""
    return {key: checkpoint.load(folder) for key, folder in folders.items()}


def backbone_of(model: Checkpoint) -> MaskedBackbone:
    """A model's backbone."""
    assert isinstance(model.backbone, MaskedBackbone)
    return model.backbone


def filled(model: Checkpoint, kind: str | None, size: int = 12, **options: Any) -> Infill:
    """A hole filled with a cache of this kind."""
    asked = Options(check_syntax=False, sizes=(size,), approximate_cache=kind, **options)
    return infill(model, PREFIX, SUFFIX, asked)


@pytest.mark.parametrize("key", FULL)
@pytest.mark.parametrize("behind", [True, False])
def test_what_is_kept_gives_the_states_that_it_came_from(
    key: str, behind: bool, models: dict[str, Checkpoint]
) -> None:
    """As long as nothing was written: of a part of the canvas, in rows of several lengths."""
    model = models[key]
    backbone = backbone_of(model)
    contexts = [model.layout.arrange([5] * count, [7] * (9 - count)) for count in (6, 2, 0)]
    canvas = Canvas.blank(3, 9, model.marks).ending([8, 5, 7])
    spans = np.array([[2, 6], [0, 5], [3, 7]])
    begun = backbone.begin(backbone.encode(contexts)[1], [5, 5, 5])
    every = np.ones(3, bool)
    window = Window(begun.cache, begun.last, begun.read, spans, behind, every)
    known = np.zeros(3, np.int64)
    wanted, reading = backbone.denoise_on(canvas.ids, window, known + 9, known)
    assert isinstance(reading, Window)
    for fresh in ([False] * 3, [False, True, False]):
        again = replace(reading, fresh=np.array(fresh))
        found, kept = backbone.denoise_on(canvas.ids, again, known + 9, known)
        for row, (begin, end) in enumerate(spans.tolist()):
            own = np.asarray(found[row, begin:end])
            np.testing.assert_allclose(own, np.asarray(wanted[row, begin:end]), atol=1e-5)
        assert isinstance(kept, Window)
        narrowed = kept.rows(np.array([2, 0]))  # and what is kept again, of some rows
        narrowed = replace(narrowed, fresh=np.zeros(2, bool))
        found, _ = backbone.denoise_on(canvas.ids[[2, 0]], narrowed, known[:2] + 9, known[:2])
        np.testing.assert_allclose(np.asarray(found[0, 3:7]), wanted[2, 3:7], atol=1e-5)


@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_a_step_reads_its_part_alone(
    kind: str, models: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All in the first, then the block, or all from its beginning on."""
    model, read = models["llada"], []
    evaluate = backbone_of(model).evaluate

    def counted(ids: Any, *rest: Any, **named: Any) -> Any:
        read.append(ids.shape[1])
        return evaluate(ids, *rest, **named)

    monkeypatch.setattr(model.backbone, "evaluate", counted)
    found = filled(model, kind)
    part = 12 + (len(model.tokenizer.encode(SUFFIX)) if kind == "prefix" else 0)
    assert read == [found.context_tokens - 1 + 12, *[part] * 11]
    assert found.stale_steps == [*range(2, 13)]


@pytest.mark.parametrize("key", FULL)
def test_all_in_every_step_is_exact(key: str, models: dict[str, Checkpoint]) -> None:
    """With 1 as the number of steps, nothing is stale; else it is, and texts may differ."""
    exact = filled(models[key], None)
    for kind in ("prefix:1", "dual:1"):
        found = filled(models[key], kind)
        assert found.best == exact.best
        assert found.stale_steps == exact.stale_steps == []
    assert filled(models[key], "dual").stale_steps


def test_a_cache_is_refreshed(models: dict[str, Checkpoint]) -> None:
    """At each block, and in every so many steps."""
    found = filled(models["llada"], "dual", size=40)
    assert [*range(1, 41)] == sorted([1, 33, *found.stale_steps])
    found = filled(models["dream"], "prefix:5", size=20)
    fresh = {*range(1, found.nfe + 1)} - {*found.stale_steps}
    assert fresh == {*range(1, found.nfe + 1, 5)}


def test_a_canvas_of_another_length_is_read_whole(models: dict[str, Checkpoint]) -> None:
    """What is behind it has moved; what is before it has not."""
    model = models["dreamon"]
    stale: dict[str, list[bool]] = {"prefix": [], "dual": []}
    moved: dict[str, list[bool]] = {"prefix": [], "dual": []}
    for kind in ("prefix", "dual"):
        result = filled(model, kind, size=6, max_tokens=24)
        steps = [frame.step for frame in result.frames]
        ends = [6, *(int(step.canvas.ended[0]) for step in steps)]
        assert len({*ends}) > 1
        for step, before, now in zip(steps[1:], ends, ends[1:], strict=False):
            assert step.stale is not None
            stale[kind].append(bool(step.stale[0]))
            moved[kind].append(before != now)
    assert all(stale["prefix"])
    assert stale["dual"] == [not each for each in moved["dual"]]


@pytest.mark.parametrize("key", FULL)
@pytest.mark.parametrize("kind", ["prefix", "dual:3"])
def test_a_row_of_a_batch_is_the_row_alone(
    key: str, kind: str, models: dict[str, Checkpoint]
) -> None:
    """Though its neighbours are read anew in other steps."""
    holes = [(PREFIX, SUFFIX), ("x = 1\n", "y = 2\n"), ("class A:\n    def b(self):\n", "")]
    options = Options(max_nfe=40, max_tokens=40, check_syntax=False, approximate_cache=kind)
    if key != "dreamon":
        options = replace(options, sizes=(5, 36))
    requests = [Request(*hole, options) for hole in holes]
    for request, batched in zip(requests, fill_batch(models[key], requests), strict=True):
        alone = fill(models[key], request)
        assert [each.text for each in batched.candidates] == [
            each.text for each in alone.candidates
        ]
        assert batched.stale_steps == alone.stale_steps


@pytest.mark.parametrize(
    ("budget", "stale"), [(1, [False]), (2, [False, False]), (3, [False, True, False])]
)
def test_the_end_of_a_budget_reads_all_that_it_commits(
    models: dict[str, Checkpoint], budget: int, stale: list[bool]
) -> None:
    """Blocks that no step came to are not committed from nothing."""
    model = models["llada"]
    backbone = backbone_of(model)
    context = model.layout.arrange(model.tokenizer.encode(PREFIX), [])
    canvas = Canvas.blank(1, 17, model.marks).ending([16])
    row = Row(np.random.default_rng(0), budget, ends=False)
    schedule = replace(backbone.schedule, block=4, cache="dual", pace="single")
    cache = backbone.encode([context])[1]
    found = list(follow(schedule, backbone, cache, [context[-1]], canvas, [row]))
    assert [bool(step.stale[0]) for step in found if step.stale is not None] == stale
    assert not found[-1].canvas.open.any()
    assert (found[-1].confidence[found[-1].committed] > 0).all()


def test_the_page_marks_approximate_steps(models: dict[str, Checkpoint]) -> None:
    """Of each candidate its own, for the script and without it; exact steps have no mark."""
    for kind, sizes in ((None, (12,)), ("dual:4", (12,)), ("dual:4", (6, 12))):
        asked = Options(check_syntax=False, sizes=sizes, approximate_cache=kind)
        model = models["dream"]
        found = infill(model, PREFIX, SUFFIX, asked)
        text = page(found, model, PREFIX, SUFFIX)
        data = re.search(r'<script id="data" type="application/json">(.*?)</script>', text)
        assert data is not None
        marked = 0
        for candidate in json.loads(data[1])["candidates"]:
            steps = enumerate(candidate["steps"], 1)
            stale = [number for number, step in steps if step.get("stale")]
            if len(sizes) == 1:
                assert stale == found.stale_steps
            marked += len(stale)
        assert bool(marked) == bool(kind)
        assert text.count("<li>~ ") == marked
        assert ("<p>~ marks approximate steps" in text) == bool(kind)


def test_the_command_says_which_steps_are_approximate(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its JSON, and in words; without the option, nothing is said."""
    file = tmp_path / "hole.py"
    file.write_text(f"{PREFIX}{SUFFIX}", "utf-8")
    command = ["infill", f"{file}:2:11", "--model", str(folders["dream"]), "--no-syntax-check"]
    command += ["--sizes", "8", "--daemon", "0"]
    assert main([*command, "--json", "--approximate-cache", "dual:4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stale_steps"] == [step for step in range(1, found["nfe"] + 1) if step % 4 != 1]
    assert main([*command, "--approximate-cache", "dual"]) == 0
    said = re.search(r"in (\d+) steps, (\d+) of them approximate", capsys.readouterr().err)
    assert said is not None
    assert int(said[1]) - int(said[2]) == 1
    assert main([*command, "--json"]) == 0
    assert "stale_steps" not in json.loads(capsys.readouterr().out)


def test_a_cache_that_cannot_be(models: dict[str, Checkpoint], model: Checkpoint) -> None:
    """An unknown kind, and models that keep what they read exactly."""
    for wrong in ("both", "dual:0", "dual:", "dual:x", "prefix:-1", ""):
        with pytest.raises(UsageError, match=r"--approximate-cache is .*must be prefix or dual"):
            Options(approximate_cache=wrong)
    for each in (model, models["sdar"], models["fast-dllm-v2"]):
        with pytest.raises(UsageError, match=r"--approximate-cache is dual, and .* leave it out"):
            infill(each, PREFIX, SUFFIX, Options(approximate_cache="dual"))


def test_options_become_a_schedule() -> None:
    """None leaves what is published."""
    schedule = Schedule("even", threshold=0.5)
    assert schedule.asked(Options()) == schedule
    asked = schedule.asked(Options(approximate_cache="prefix:7", confidence_threshold=0.8))
    assert asked == replace(schedule, cache="prefix", refresh=7, threshold=0.8)
    assert schedule.asked(Options(approximate_cache="dual")) == replace(schedule, cache="dual")

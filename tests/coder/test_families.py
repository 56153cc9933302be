"""Open families compute and decode as their own code does, by golden files that it wrote.

`benchmarks/parity.py` ran that code on the same tiny random models.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import parity
from benchmarks.tiny_models import CAUSAL, TINY, weights, write
from talaria.coder import checkpoint, published
from talaria.coder.backbone import KVCache
from talaria.coder.canvas import Canvas
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.cli import main
from talaria.coder.errors import UsageError
from talaria.coder.families.masked_torch import MaskedBackbone
from talaria.coder.infill import fill, fill_batch, infill
from talaria.coder.open_families import FAMILIES
from talaria.coder.request import Options, Request
from talaria.coder.sampler import Row, Step
from talaria.coder.schedule import Schedule, block_of, quotas
from talaria.coder.scheduled import follow

FULL = ("llada", "dream", "dreamon", "open-dcoder", "a2d")
BLOCK = ("sdar", "fast-dllm-v2")
PREFIX, SUFFIX = "def f(self):\n    return ", "\n\ndef g():\n    pass\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family."""
    folder = tmp_path_factory.mktemp("families")
    return {key: write(tiny, folder / key) for key, tiny in TINY.items()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Checkpoint]:
    """The same, loaded."""
    return {key: checkpoint.load(folder) for key, folder in folders.items()}


@cache
def golden(key: str) -> dict[str, Any]:
    """What the family's own code did."""
    found = json.loads((parity.GOLDEN / f"{key}.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def backbone_of(model: Checkpoint) -> MaskedBackbone:
    """A model's backbone."""
    assert isinstance(model.backbone, MaskedBackbone)
    return model.backbone


def steps_of(
    model: Checkpoint,
    prefix: list[int],
    suffix: list[int],
    canvas: Canvas,
    max_nfe: int,
    **changes: Any,
) -> list[Step]:
    """The steps of filling a canvas between tokens; block-causal families know no suffix."""
    backbone = backbone_of(model)
    full = backbone.family.attention == "full"
    context = model.layout.arrange(prefix, suffix) if full else prefix
    schedule = replace(backbone.schedule, **changes)
    row = Row(np.random.default_rng(0), max_nfe, ends=not full or schedule.expand is not None)
    _, kept = backbone.encode([context])
    return list(follow(schedule, backbone, kept, [context[-1]], canvas, [row]))


@pytest.mark.parametrize("key", TINY)
def test_the_weights_are_those_of_the_golden_files(key: str) -> None:
    """The generator draws what it drew when the files were made."""
    assert parity.digest(weights(TINY[key])) == golden(key)["weights"]


@pytest.mark.parametrize("key", TINY)
def test_logits_are_those_of_the_family_s_own_code(key: str, models: dict[str, Checkpoint]) -> None:
    """To the accuracy of float32, at every position of a text with masks."""
    backbone = backbone_of(models[key])
    with np.load(parity.GOLDEN / f"{key}.npz") as stored:
        ids, wanted = stored["ids"], stored["logits"]
    assert ids.tolist() == parity.sequence(TINY[key])
    each, visible = np.arange(len(ids)), None
    if backbone.family.attention == "block":
        blocks = each // backbone.block
        visible = (blocks[None, :] <= blocks[:, None])[None, None]
    states, _, _ = backbone.evaluate(ids[None], each[None], visible, None, keep=False)
    found = backbone.network.logits(states[0]).numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=1e-5)


def test_llada_s_greedy_texts(models: dict[str, Checkpoint]) -> None:
    """Fixed steps and semi-autoregressive blocks; with Fast-dLLM's threshold and caches."""
    model, cases = models["llada"], golden("llada")["cases"]
    assert {case.get("cache") for case in cases} == {None, "prefix", "dual"}
    for case in cases:
        size = case["size"]
        canvas = Canvas.blank(1, size + 1, model.marks).ending([size])
        changes = {name: case[name] for name in ("block", "threshold", "cache") if name in case}
        found = steps_of(model, case["prefix"], [], canvas, case["steps"], **changes)
        assert found[-1].canvas.middle(0) == case["middle"], case
        # Of a block that the first evaluation finishes, its loops with a cache take another one.
        fresh = [step.stale is not None and not step.stale[0] for step in found]
        more = sum(one and other for one, other in pairwise([*fresh, True]))
        assert len(found) + more == case.get("nfe", case["steps"])


def test_dream_s_greedy_texts(models: dict[str, Checkpoint]) -> None:
    """By entropy and by probability; steps that commit nothing take no evaluation."""
    orders = {"entropy": "entropy", "maskgit_plus": "probability"}
    model, saved = models["dream"], 0
    for case in golden("dream")["cases"]:
        size = case["size"]
        canvas = Canvas.blank(1, size + 1, model.marks).ending([size])
        found = steps_of(
            model,
            case["prefix"],
            case["suffix"],
            canvas,
            case["steps"],
            order=orders[case["order"]],
        )
        assert found[-1].canvas.middle(0) == case["middle"], case
        saved += case["steps"] - len(found)
    assert saved > 0


def test_dreamon_s_greedy_texts(models: dict[str, Checkpoint]) -> None:
    """Canvases grow and shrink as in its generator, up to the same length."""
    orders = {"entropy": "entropy", "maskgit_plus": "probability"}
    model, lengths = models["dreamon"], set()
    for case in golden("dreamon")["cases"]:
        canvas = Canvas.blank(1, 65, model.marks).ending([case["size"]])
        changes = {"order": orders[case["order"]], "most": case["most"]}
        found = steps_of(model, case["prefix"], case["suffix"], canvas, 256, **changes)
        assert found[-1].canvas.middle(0) == case["middle"], case
        lengths.add(len(case["middle"]) - case["size"])
    assert min(lengths) < 0 < max(lengths)


def test_open_dcoder_s_greedy_texts(models: dict[str, Checkpoint]) -> None:
    """With p2, which takes tokens back."""
    model, taken_back = models["open-dcoder"], 0
    for case in golden("open-dcoder")["cases"]:
        size = case["size"]
        canvas = Canvas.blank(1, size + 1, model.marks).ending([size])
        found = steps_of(model, case["prefix"], case["suffix"], canvas, 64, steps=case["steps"])
        assert found[-1].canvas.middle(0) == case["middle"], case
        assert len(found) <= case["steps"]
        before = canvas
        for step in found:
            taken_back += int((step.canvas.masked & ~before.masked)[0, :size].sum())
            before = step.canvas
    assert taken_back > 0


@pytest.mark.parametrize("key", BLOCK)
def test_block_causal_greedy_texts(key: str, models: dict[str, Checkpoint]) -> None:
    """Block by block with an exact cache; prefixes with and without part of a block at the end."""
    model = models[key]
    ends = set()
    for case in golden(key)["cases"]:
        canvas = Canvas.blank(1, len(case["middle"]), model.marks)
        changes = {"threshold": case["threshold"]}
        found = steps_of(model, case["prefix"], [], canvas, 256, **changes)
        assert found[-1].canvas.middle(0) == case["middle"], case
        ends.add(len(case["prefix"]) % backbone_of(model).block == 0)
    assert key != "fast-dllm-v2" or ends == {True, False}


def test_dllm_s_greedy_infills(models: dict[str, Checkpoint]) -> None:
    """A text with masks in it, the surest first."""
    model = models["a2d"]
    for case in golden("a2d")["cases"]:
        size = case["size"]
        canvas = Canvas.blank(1, size + 1, model.marks).ending([size])
        found = steps_of(model, case["prefix"], case["suffix"], canvas, size, block=None)
        assert found[-1].canvas.middle(0) == case["middle"], case


@pytest.mark.parametrize("key", BLOCK)
@pytest.mark.parametrize("cut", [1, 3, 17, 32, 40])
def test_a_block_causal_cache_is_exact(key: str, cut: int, models: dict[str, Checkpoint]) -> None:
    """Read in parts, or cut back and read on, a context gives the states that it gives at once."""
    model = models[key]
    backbone = backbone_of(model)
    ids = (golden(key)["cases"][0]["prefix"] * 4)[:50]
    canvas = np.full((1, 12), model.marks.mask)
    wanted = backbone.denoise(canvas, backbone.encode([ids])[1], [ids[-1]])

    def states(kept: KVCache) -> np.ndarray:
        return np.asarray(backbone.denoise(canvas, kept, [ids[-1]]))

    _, first = backbone.encode([ids[:cut]])
    _, parts = backbone.encode([ids[cut:]], first)
    np.testing.assert_allclose(states(parts), wanted, atol=1e-5)
    _, longer = backbone.encode([[*ids, *ids[:5]]])
    _, again = backbone.encode([ids[cut:]], longer.first(cut))
    np.testing.assert_allclose(states(again), wanted, atol=1e-5)


@pytest.mark.parametrize("key", TINY)
def test_a_row_of_a_batch_is_the_row_alone(key: str, models: dict[str, Checkpoint]) -> None:
    """Holes filled side by side get the texts that they get alone."""
    model = models[key]
    holes = [(PREFIX, SUFFIX), ("x = 1\n", "y = 2\n"), ("class A:\n    def b(self):\n", "")]
    options = Options(max_nfe=40, max_tokens=12, check_syntax=False)
    requests = [Request(*hole, options) for hole in holes]
    for request, batched in zip(requests, fill_batch(model, requests), strict=True):
        alone = fill(model, request)
        assert [each.text for each in batched.candidates] == [
            each.text for each in alone.candidates
        ]
        assert batched.nfe == alone.nfe


@pytest.mark.parametrize("key", TINY)
def test_a_hole_in_a_file_is_filled(
    key: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`talaria infill --model FOLDER FILE:LINE:COL`."""
    file = tmp_path / "hole.py"
    file.write_text(f"{PREFIX}{SUFFIX}", "utf-8")
    command = ["infill", f"{file}:2:11", "--model", str(folders[key]), "--no-syntax-check"]
    assert main([*command, "--json", "--max-tokens", "8"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == key
    assert found["nfe"] > 0
    assert 0 < found["tokens"] <= 8


def test_models_lists_published_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in the user's own folder of models can be named, like models of ours."""
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    write(TINY["llada"], tmp_path / "models" / "tiny-llada")
    assert main(["models"]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "tiny-llada" in each]
    assert "ready" in line
    assert "0.1M parameters" in line
    assert checkpoint.load("tiny-llada").name == "tiny-llada"


@pytest.mark.parametrize("key", BLOCK)
def test_a_budget_ends_a_middle_that_is_read_in_blocks(
    key: str, models: dict[str, Checkpoint]
) -> None:
    """What was not read is not written; with a larger budget, the text begins the same."""
    less, more = (
        fill(models[key], Request(PREFIX, SUFFIX, Options(max_nfe=nfe, check_syntax=False)))
        for nfe in (6, 60)
    )
    assert less.nfe == 6
    assert less.best.stopped == "max_nfe"
    assert 0 < len(less.best.tokens) < len(more.best.tokens)
    sure = len(less.best.tokens) - (backbone_of(models[key]).schedule.block or 0)
    assert less.best.tokens[:sure] == more.best.tokens[:sure]


@pytest.mark.parametrize("key", FULL)
def test_a_given_length_is_kept(key: str, models: dict[str, Checkpoint]) -> None:
    """All tokens are text, and the canvas neither ends nor grows."""
    found = fill(models[key], Request(PREFIX, SUFFIX, Options(), length=9))
    assert len(found.best.tokens) == 9
    assert found.best.stopped == "length"
    assert not {*found.best.tokens} & {*TINY[key].tokens[270:]}


def test_canvases_of_several_sizes(models: dict[str, Checkpoint]) -> None:
    """They are filled in the same steps, and the surest text is the one that is offered."""
    model = models["llada"]
    options = Options(sizes=(3, 6, 9), check_syntax=False)
    several = infill(model, PREFIX, SUFFIX, options)
    alone = [infill(model, PREFIX, SUFFIX, replace(options, sizes=(size,))) for size in (3, 6, 9)]
    scores = [float(np.log(each.probabilities(each.best)).mean()) for each in alone]
    assert several.best.score == pytest.approx(max(scores), rel=1e-4)
    assert several.best.text == alone[int(np.argmax(scores))].best.text
    assert several.nfe == max(each.nfe for each in alone) == 9
    assert len(several.candidates) == 1
    assert {frame.step.canvas.ids.shape[0] for frame in several.frames} == {3}


def test_a_threshold_takes_fewer_steps(models: dict[str, Checkpoint]) -> None:
    """What is surer than the threshold is committed besides."""
    one = infill(models["dream"], PREFIX, SUFFIX, Options(sizes=(16,), check_syntax=False))
    many = Options(sizes=(16,), check_syntax=False, confidence_threshold=0.05)
    assert infill(models["dream"], PREFIX, SUFFIX, many).nfe < one.nfe


def test_draws_differ_by_seed_alone(models: dict[str, Checkpoint]) -> None:
    """With a temperature, the same seed gives the same text."""
    for key in ("dream", "dreamon", "open-dcoder", "sdar"):
        texts = [
            infill(
                models[key],
                PREFIX,
                SUFFIX,
                Options(temperature=1.5, seed=seed, max_tokens=8, check_syntax=False),
            ).best.text
            for seed in (1, 1, 2)
        ]
        assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("key", TINY)
def test_nothing_is_written_from_left_to_right(key: str, models: dict[str, Checkpoint]) -> None:
    """The modes of causal models are refused."""
    for mode in ("ar", "verify"):
        with pytest.raises(UsageError, match=f"--mode is {mode}.*use --mode diffuse"):
            infill(models[key], PREFIX, SUFFIX, Options(mode=mode))


def test_sizes_are_for_models_that_need_them(
    models: dict[str, Checkpoint], model: Checkpoint
) -> None:
    """Others say that they end their middles themselves."""
    with pytest.raises(UsageError, match=r"--sizes is 4,8, and .* ends its middles; leave it out"):
        infill(model, PREFIX, SUFFIX, Options(sizes=(4, 8)))
    with pytest.raises(UsageError, match=r"--sizes is 4,8, and .* learns the length; give one"):
        infill(models["dreamon"], PREFIX, SUFFIX, Options(sizes=(4, 8)))
    with pytest.raises(UsageError, match="--sizes has 0; each must be a whole number"):
        Options(sizes=(0,))


def test_a_canvas_that_is_too_large(models: dict[str, Checkpoint]) -> None:
    """It is refused, not made smaller unsaid."""
    llada, dreamon = models["llada"], models["dreamon"]
    for model, sizes, most, said in (
        (llada, (8, 100), None, "--sizes has 100, .* at most 64 tokens; give --max-tokens 100"),
        (llada, (9,), 8, "--sizes has 9, .* at most 8 tokens; give --max-tokens 9, too"),
        (llada, (999,), None, "--sizes has 999, .* at most 64 tokens; give less"),
        (dreamon, (65,), 100, "--sizes has 65, .* at most 64 tokens; give less"),
    ):
        options = Options(sizes=sizes, max_tokens=most, check_syntax=False)
        with pytest.raises(UsageError, match=said):
            infill(model, PREFIX, SUFFIX, options)
    largest = Options(sizes=(70,), max_tokens=70, check_syntax=False)
    assert infill(llada, PREFIX, SUFFIX, largest).nfe == 70


def test_quotas() -> None:
    """As many as there are masks, whatever the pace."""
    for pace in ("even", "time", "single"):
        for masks in (1, 7, 32):
            assert sum(quotas(Schedule(pace), masks, masks)) == masks
    assert quotas(Schedule("even"), 7, 3) == [3, 2, 2]
    assert quotas(Schedule("time"), 4, 4) == [0, 1, 1, 2]
    assert quotas(Schedule("p2"), 4, 8) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_blocks() -> None:
    """Counted from the canvas, or from the beginning of the text."""
    assert block_of(Schedule("even", block=8), 5, 9, 20) == (8, 16)
    assert block_of(Schedule("single", block=8, absolute=True), 5, 2, 20) == (0, 3)
    assert block_of(Schedule("single", block=8, absolute=True), 5, 3, 20) == (3, 11)
    assert block_of(Schedule("time"), 5, 9, 20) == (0, 20)


def test_every_family_has_a_tiny_model() -> None:
    """And every architecture is one that folders may name."""
    known = {tiny.architecture for tiny in (TINY | CAUSAL).values()}
    for family in FAMILIES:
        assert {*family.architectures} & known
        assert {*family.architectures} <= published.ARCHITECTURES.keys()
        assert family.source

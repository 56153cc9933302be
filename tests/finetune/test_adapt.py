"""A causal base learns to denoise canvases, and decodes as it was trained."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from talaria.coder import checkpoint, files
from talaria.coder.backbone import Constraint, CpuBackbone, Marks
from talaria.coder.canvas import Canvas
from talaria.coder.errors import CheckpointError, DataError, UsageError
from talaria.coder.families import qwen2
from talaria.coder.families.qwen2_files import Base, open_base
from talaria.coder.families.qwen2_onnx import AMONG, WIDTHS, OnnxQwen2, fused
from talaria.coder.families.qwen2_tokenizer import (
    EOM,
    MIDDLE,
    PREFIX,
    SUFFIX,
    layout_of,
    marks_of,
)
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import fill
from talaria.coder.request import Options, Request
from talaria.coder.sampler import Row, denoise
from talaria.coder.unmask import confidence_threshold
from talaria.finetune import adapt
from talaria.finetune.adaptation import (
    IGNORED,
    CanvasBatch,
    CanvasRow,
    HoleRows,
    draw_canvases,
    endings,
)
from talaria.finetune.corpus import CorpusDocument, write_corpus
from talaria.finetune.low_rank import LowRank, merge
from talaria.finetune.state import read_state
from talaria.finetune.trainer import PATIENCE
from tests.coder.test_qwen2_gguf import write_gguf
from tests.conftest import TEXTS

SHAPE = ["--rank", "4", "--masks", "3", "--canvases", "6", "--length", "96", "--longest", "24"]
SHAPE += ["--rows", "2", "--units", "16"]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32, also on processors where bfloat16 is fast."""
    monkeypatch.setattr(adapt, "has_fast_bfloat16", lambda device: False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: TalariaTokenizer) -> Path:
    """A tiny base and a tiny corpus."""
    folder = tmp_path_factory.mktemp("adapt")
    write_gguf(folder / "base.gguf", tokenizer)
    documents = [CorpusDocument("p", f"{n}.py", text) for n, text in enumerate(TEXTS)]
    write_corpus(folder / "corpus", {"train": documents, "valid": documents}, {})
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    """The command line of a tiny run."""
    where = [str(folder / "base.gguf"), "--corpus", str(folder / "corpus"), "--out", str(out)]
    budget = [] if "--steps" in more or "--minutes" in more else ["--steps", "3"]
    return [*where, *SHAPE, *budget, *more]


def losses(entry: dict[str, Any]) -> tuple[float, ...]:
    """What does not depend on the clock."""
    return (
        entry["canvas_loss"],
        entry["next_token_loss"],
        entry["gradient_norm"],
        *entry["mask_losses"],
    )


def run(folder: Path, out: Path, *more: str) -> adapt.AdaptationRun:
    """A run that has not begun."""
    return adapt.AdaptationRun(adapt.parse(arguments(folder, out, *more)))


@pytest.fixture
def rows(folder: Path) -> HoleRows:
    """Rows of the tiny corpus, in the layout of the tiny base."""
    tokenizer, _ = open_base(folder / "base.gguf").vocabulary.trimmed()
    marks = marks_of(tokenizer)
    return HoleRows(TEXTS, layout_of(tokenizer), marks.eom, 96, 24, seed=3)


def states_of(here: adapt.AdaptationRun, row: CanvasRow) -> tuple[torch.Tensor, torch.Tensor]:
    """The states of a row's clean tokens and masks."""
    clean, masks = here.adaptation.states(CanvasBatch.of([row]))
    return clean[0], masks[0]


def test_rows_are_what_the_decoder_reads(rows: HoleRows) -> None:
    """Suffix first; prefix and middle are consecutive text of the file."""
    tokenizer = rows.layout.tokenizer
    for number in range(50):
        row = rows[number]
        assert row == rows[number]
        assert len(row.ids) <= 96
        names = [tokenizer.name(token) for token in row.ids]
        assert names[:2] == [PREFIX, SUFFIX]
        assert names[row.prefix - 1] == MIDDLE
        assert names[-1] == EOM
        assert 1 < len(row.ids) - row.middle <= 24
        written = tokenizer.decode(row.ids[row.prefix :])
        suffix = tokenizer.decode(row.ids[2 : row.prefix - 1])
        assert any(written in text and suffix in text for text in TEXTS)


def test_canvases_ask_for_the_tokens_behind_their_anchors(rows: HoleRows) -> None:
    """Mask j at anchor a predicts token a + j + 1; behind the end, nothing is asked."""
    for number in range(20):
        row = rows[number]
        drawn = draw_canvases(row, 12, 3, np.random.default_rng(number), reach=8)
        anchors = drawn.anchors.tolist()
        within = [*range(row.middle, len(row.ids) - 1)]
        assert len(set(anchors)) == len(anchors) == 12
        assert anchors == sorted(anchors)
        assert set(anchors) <= {*range(row.prefix, row.middle), *within}
        assert len(set(anchors) & set(within)) == min(12, len(within))
        assert 0 <= drawn.read <= row.middle - min(8, row.middle)
        beyond = [*row.ids, *[IGNORED] * 3]
        for anchor, targets in zip(anchors, drawn.targets.tolist(), strict=True):
            assert targets == beyond[anchor + 1 : anchor + 4]


def in_float32(folder: Path, model: Path) -> OnnxQwen2:
    """The tiny base with an adapter merged, before it is rounded to 8 bits."""
    base, marks = base_of(folder)
    adapter = (model / "adapter.safetensors").read_bytes()
    updates = qwen2.read_adapter(adapter, base.shape, marks, model)
    weights = dict(fused(base.shape, qwen2.BaseWeights(base, updates=updates)))
    return OnnxQwen2(base.shape, weights, marks, denoises=True)


def test_training_computes_what_decoding_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some steps, the states of a canvas are those of the merged adapter's `denoise`."""
    here = run(folder, tmp_path / "run")
    for _ in range(3):
        here.update()
    here.save()
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    (tmp_path / "bases").mkdir()
    digest = files.digest(folder / "base.gguf")
    shutil.copy(folder / "base.gguf", tmp_path / "bases" / f"{digest}.gguf")
    model = checkpoint.load(tmp_path / "run" / "model")
    model = replace(model, backbone=in_float32(folder, tmp_path / "run" / "model"))
    row = here.rows[0]
    drawn = draw_canvases(row, 8, 3, np.random.default_rng(5), reach=8)
    assert drawn.read > 0
    with torch.inference_mode():
        clean, masks = (x.numpy() for x in states_of(here, drawn))
    read, _ = model.backbone.encode([row.ids[:-1]])
    np.testing.assert_allclose(read[0], clean, atol=0.05, rtol=0.02)
    for anchor, trained in zip(drawn.anchors.tolist(), masks, strict=True):
        _, cache = model.backbone.encode([row.ids[:anchor]])
        for width in (4, 2):  # a narrower canvas gives the same states
            canvas = np.full((1, width), model.marks.mask)
            states = model.backbone.denoise(canvas, cache, [row.ids[anchor - 1]])
            np.testing.assert_allclose(states[0, 0], clean[anchor - 1], atol=0.05, rtol=0.02)
            expected = trained[: width - 1]
            np.testing.assert_allclose(states[0, 1:], expected, atol=0.05, rtol=0.02)
    assert model.backbone.denoises
    found = fill(model, Request("def mean(values):\n    return ", "\n", Options(max_tokens=8)))
    assert found.nfe


def test_the_chain_computes_in_decoding_what_it_learnt(folder: Path, tmp_path: Path) -> None:
    """The same states; and it ranks a shortlist as if all tokens were asked."""
    here = run(folder, tmp_path / "run")
    torch.manual_seed(2)
    torch.nn.init.normal_(here.adaptation.chain.out.weight, std=0.3)
    here.save()
    backbone = in_float32(folder, tmp_path / "run" / "model")
    assert backbone.chained
    row = here.held_out[0]
    with torch.inference_mode():
        _, masks = states_of(here, row)
        places = CanvasBatch.of([row]).places[0]
        before = row.ids[places.clamp(max=len(row.ids) - 1)]
        expected = here.adaptation.chain(masks, here.adaptation.decoder.token_embd(before))
    found, _ = backbone.chain(masks.numpy(), before.numpy(), ())
    np.testing.assert_allclose(found, expected, atol=0.02, rtol=0.02)
    states = found[:5, 0]
    rng = np.random.default_rng(0)
    ids = [rng.permutation(np.setdiff1d(np.arange(300), [9]))[:AMONG] for _ in states]
    ids[1][3] = backbone.marks.mask  # is never written
    limits = [Constraint(each.tolist(), (int(each[2]), 9)) for each in ids]
    short = backbone.candidates(states, 4, limits)
    every = CpuBackbone.candidates(backbone, states, 4, limits)
    np.testing.assert_array_equal(short.ids, every.ids)
    np.testing.assert_allclose(short.log_probabilities, every.log_probabilities, atol=1e-3)


def test_diffusion_in_sight_of_the_chain(folder: Path, tmp_path: Path) -> None:
    """Each token of one step is what the chain ranks first among a mask's own candidates."""
    here = run(folder, tmp_path / "run")
    torch.manual_seed(2)
    torch.nn.init.normal_(here.adaptation.chain.out.weight, std=0.5)
    here.save()
    backbone = in_float32(folder, tmp_path / "run" / "model")
    row = here.rows[3]
    context = row.ids[: row.middle]
    _, cache = backbone.encode([context])
    canvas = Canvas.blank(1, 4, backbone.marks)
    rows = [Row(np.random.default_rng(0), max_nfe=1, ends=False)]
    every = confidence_threshold(0.0)
    step = next(denoise(backbone, cache, [context[-1]], canvas, every, rows))
    assert step.canvas.ids[0].tolist() != [backbone.marks.mask] * 4
    states = backbone.denoise(np.full((1, 4), backbone.marks.mask), cache, [context[-1]])
    said = [backbone.marks.mask]
    no_end = Constraint(forbidden=(backbone.marks.eom,))
    for place in range(4):
        state = states[:, place]
        own = backbone.candidates(state, AMONG, [no_end])
        if place:
            state = backbone.chain(state, np.array(said[-1:]), ())[0]
        best = backbone.candidates(state, 1, [Constraint(own.ids[0])])
        said.append(int(best.ids[0, 0]))
    assert step.canvas.ids[0].tolist() == said[1:]


def test_in_bfloat16(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is fast, states and losses are those of float32, but for the rounding."""
    found = []
    for fast in (False, True):
        monkeypatch.setattr(adapt, "has_fast_bfloat16", lambda device, fast=fast: fast)
        here = run(folder, tmp_path / f"run-{fast}")
        drawn = draw_canvases(here.rows[1], 6, 3, np.random.default_rng(1), reach=8)
        with torch.inference_mode(), here.autocast():
            clean, masks = states_of(here, drawn)
        first = here.update()
        found.append((here.dtype, clean.float(), masks.float(), first["canvas_loss"]))
    (exact, *states, loss), (rounded, *other, near) = found
    assert (exact, rounded) == (torch.float32, torch.bfloat16)
    for one, two in zip(states, other, strict=True):
        assert 0 < float((one - two).norm() / one.norm()) < 0.05
    assert near == pytest.approx(loss, rel=0.01)


def test_what_is_read_without_gradients_changes_no_state(folder: Path, tmp_path: Path) -> None:
    """A row gives the same states however much of it is read without gradients."""
    here = run(folder, tmp_path / "run")
    row = here.rows[1]
    some, none = (
        draw_canvases(row, 4, 3, np.random.default_rng(1), reach=reach) for reach in (8, 96)
    )
    assert some.read > none.read == 0
    with torch.inference_mode():
        for one, other in zip(states_of(here, some), states_of(here, none), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_rows_of_a_pass_do_not_see_each_other(folder: Path, tmp_path: Path) -> None:
    """Losses and gradients of a batch are the means of those of its rows, whatever their sizes."""
    here = run(folder, tmp_path / "run")
    here.update()
    rows = []
    for number, canvases in enumerate((6, 2, 9)):
        row = here.rows[number]
        cut = 7 * number
        row = replace(row, ids=row.ids[cut:], prefix=row.prefix - cut, middle=row.middle - cut)
        rows.append(draw_canvases(row, canvases, 3, np.random.default_rng(number), reach=96))

    def found(some: list[CanvasRow]) -> list[torch.Tensor]:
        here.optimizer.zero_grad()
        losses = here.adaptation(CanvasBatch.of(some))
        (losses.canvas + losses.chain + losses.next_token + losses.ending).backward()
        gradients = [here.adaptation.mask_embedding.grad, here.adaptation.chain.out.weight.grad]
        name = next(name for name in here.trained if "lora_B" in name)
        gradients.append(here.trained[name].grad)
        parts = [losses.canvas, losses.chain, losses.next_token, losses.ending, *gradients]
        return [part.detach().clone() for part in parts if part is not None]

    alone = [found([row]) for row in rows]
    for together, *each in zip(found(rows), *alone, strict=True):
        expected = torch.stack(each).mean(0)
        torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-3)


def test_the_loss_of_ending_is_that_of_a_yes_or_no(folder: Path, tmp_path: Path) -> None:
    """Of each place of a middle: certain answers cost nothing, wrong ones much."""
    here = run(folder, tmp_path / "run")
    row = draw_canvases(here.rows[2], 0, 3, np.random.default_rng(0), reach=96)
    losses = here.adaptation(CanvasBatch.of([row]))
    with torch.inference_mode():
        clean, _ = states_of(here, row)
        chances = here.adaptation.decoder.logits(clean[row.middle - 1 :]).softmax(-1)
    ends = chances[:, here.marks.eom]
    expected = -(1 - ends[:-1]).log().sum() - ends[-1].log()
    torch.testing.assert_close(losses.ending, expected, atol=1e-4, rtol=1e-4)
    sure = endings(torch.tensor([0.0, -1e9, 0.0]), torch.tensor([True, False, False]))
    assert sure[:2].tolist() == pytest.approx([0, 0], abs=1e-5)
    assert 10 < sure[2] < 20  # finite, so that one row cannot ruin a run


def test_plain_rows_teach_no_canvas(folder: Path, tmp_path: Path) -> None:
    """They come behind those with canvases, are shorter, and train no mask."""
    here = run(folder, tmp_path / "run", "--plain", "3", "--plain-length", "40", "--together", "2")
    here.step = 4
    passes = [*here.passes()]
    assert [len(rows) for rows in passes] == [2, 2, 1]
    assert all(len(row.anchors) for row in passes[0])
    plain = [row for rows in passes[1:] for row in rows]
    assert all(not len(row.anchors) and len(row.ids) <= 40 for row in plain)
    assert len({tuple(row.ids.tolist()) for rows in passes for row in rows}) == 5
    found = here.adaptation(CanvasBatch.of(plain))
    assert found.canvas == found.chain == 0 < found.next_token
    (found.canvas + found.chain + found.next_token + found.ending).backward()
    masks = here.adaptation.mask_embedding.grad
    assert masks is None or not masks.any()
    entry = here.update()
    assert np.isfinite([*losses(entry), entry["ending"]]).all()


def test_gradients_of_merged_products_are_those_of_the_separate_ones() -> None:
    """Of x, A and B, against autograd on `W x + B (A x)`."""
    torch.manual_seed(0)
    layer = LowRank(torch.nn.Linear(6, 5), 2, torch.float32)
    torch.nn.init.normal_(layer.lora_B)
    layer.merge()
    x = torch.randn(3, 6, requires_grad=True)
    weights = torch.randn(3, 5)
    mine = torch.autograd.grad((layer(x) * weights).sum(), (x, layer.lora_A, layer.lora_B))
    y = layer.base(x) + x @ layer.lora_A.T @ layer.lora_B.T
    torch.testing.assert_close(layer(x), y)
    theirs = torch.autograd.grad((y * weights).sum(), (x, layer.lora_A, layer.lora_B))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_are_those_of_finite_differences(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a row's whole loss in one direction, with the masks' embeddings and all updates."""
    here = run(folder, tmp_path / "run", "--soft", "0")
    for _ in range(2):
        here.update()
    # Everything is read with gradients, in float64.
    row = draw_canvases(here.rows[0], 6, 3, np.random.default_rng(3), reach=96)
    model = here.adaptation.double()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)

    def loss() -> torch.Tensor:
        losses = model(CanvasBatch.of([row]))
        total: torch.Tensor = losses.canvas + losses.next_token + losses.ending
        return total

    torch.manual_seed(1)
    parameters = [each for name, each in here.trained.items() if "chain" not in name]
    directions = [torch.randn_like(each) for each in parameters]
    gradients = torch.autograd.grad(loss(), parameters)
    pairs = zip(gradients, directions, strict=True)
    slope = sum(float((one * along).sum()) for one, along in pairs)
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for each, along in zip(parameters, directions, strict=True):
                each.add_(along, alpha=sign * step)
            merge(model)
            values.append(float(loss()))
            for each, along in zip(parameters, directions, strict=True):
                each.sub_(along, alpha=sign * step)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)


def test_only_the_chain_learns_from_its_loss(folder: Path, tmp_path: Path) -> None:
    """Its own parameters have a gradient; the masks' embeddings and the updates have none."""
    here = run(folder, tmp_path / "run")
    here.update()
    losses = here.adaptation(CanvasBatch.of([here.row(0)]))
    names = [*here.trained]
    found = torch.autograd.grad(losses.chain, [*here.trained.values()], allow_unused=True)
    reached = {name for name, each in zip(names, found, strict=True) if each is not None}
    assert reached == {f"chain.{name}.weight" for name in ("state", "token", "out")}


def test_a_run_learns_and_goes_on_exactly(folder: Path, tmp_path: Path) -> None:
    """The loss falls; a run that was saved and restored takes the steps of one that was not."""
    steps = ["--steps", "100", "--learning-rate", "0.01"]
    here = run(folder, tmp_path / "a", *steps)
    here.step = 10  # past the warm-up
    first = [here.update()["canvas_loss"] for _ in range(12)]
    assert sum(first[-3:]) < sum(first[:3])
    here.save()
    expected = [losses(here.update()) for _ in range(3)]
    again = run(folder, tmp_path / "a", *steps, "--resume")
    again.restore()
    assert [losses(again.update()) for _ in range(3)] == expected


def test_the_command(folder: Path, tmp_path: Path) -> None:
    """A whole run leaves a state, a curve and a checkpoint; the base is as it was."""
    before = files.digest(folder / "base.gguf")
    out = tmp_path / "run"
    assert adapt.main(arguments(folder, out)) == 0
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert entries[-1]["validation_tokens_per_pass"] >= 1
    shares = [entries[-1][f"validation_accepted_{number}"] for number in (1, 2, 3)]
    assert shares == sorted(shares, reverse=True)
    assert 1 + sum(shares) == pytest.approx(
        entries[-1]["validation_tokens_per_pass_chained_as_read"]
    )
    config = checkpoint.read_config(out / "model")
    assert config["accepted"] == pytest.approx(shares, abs=1e-4)
    assert config["base"]["sha256"] == before == files.digest(folder / "base.gguf")
    assert adapt.main(arguments(folder, out, "--resume")) == 0  # nothing is left to do


@pytest.mark.parametrize(
    ("times", "asking", "accepted", "expected"),
    [
        # A pass of 8 costs twice what one of 1 does, and each position a seventh of that.
        ([1.0, 1.45, 2.05, 3.25], 0.0, [0.5, 0.1, 0.01], 2),
        ([1.0, 1.45, 2.05, 3.25], 0.0, [0.9, 0.8, 0.7], 4),
        ([1.0, 1.45, 2.05, 3.25], 0.0, [0.05, 0.01, 0.0], 1),
        # Four positions cost hardly more than one.
        ([1.0, 1.1, 1.7, 2.9], 0.0, [0.5, 0.1, 0.01], 3),
        ([1.0, 1.1, 1.7, 2.9], 0.0, [0.5, 0.3, 0.2], 3),
        ([1.0, 1.1, 1.7, 2.9], 0.0, [0.08, 0.01, 0.0], 2),
        # What saves next to nothing is left, and so is what costs more to ask than it saves.
        ([1.0, 1.1, 1.7, 2.9], 0.0, [0.05, 0.01, 0.0], 1),
        ([1.0, 1.1, 1.7, 2.9], 0.1, [0.08, 0.01, 0.0], 1),
        ([1.0, 1.1, 1.7, 2.9], 0.8, [0.5, 0.3, 0.2], 1),
        # Where positions cost next to nothing, masks follow several parts of a draft.
        ([1.0, 1.0, 1.04, 1.4], 0.0, [0.5, 0.3, 0.2], 4),
        ([1.0, 1.0, 1.0, 1.4], 0.0, [0.5, 0.3, 0.2], 7),
    ],
)
def test_a_step_looks_as_far_ahead_as_pays(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    times: list[float],
    asking: float,
    accepted: list[float],
    expected: int,
) -> None:
    """By the time of passes and the shares that the adapter names; a line says that none pay."""
    here = run(folder, tmp_path / "run")
    here.accepted = accepted
    here.save()
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    (tmp_path / "bases").mkdir()
    digest = files.digest(folder / "base.gguf")
    shutil.copy(folder / "base.gguf", tmp_path / "bases" / f"{digest}.gguf")
    monkeypatch.setattr(OnnxQwen2, "timed", lambda backbone: (times, asking))
    notes: list[str] = []
    model = checkpoint.load(tmp_path / "run" / "model", on_note=notes.append)
    assert model.settings.lookahead == expected
    assert [("writes a token a step" in note) for note in notes] == [True] * (expected == 1)


def test_passes_are_timed(folder: Path, tmp_path: Path) -> None:
    """Behind a context, with what they predict; the width that is chosen is one of those asked."""
    run(folder, tmp_path / "run").save()
    backbone = in_float32(folder, tmp_path / "run" / "model")
    passes, asking = backbone.timed()
    assert len(passes) == len(WIDTHS)
    assert min(*passes, asking) > 0
    assert backbone.lookahead([0.9, 0.8]) in (1, 2, 3)
    assert backbone.lookahead([0.9, 0.8, 0.7]) in (1, 2, 3, 4, 7)


def test_masks_behind_several_parts_of_a_draft_are_as_if_alone(
    folder: Path, tmp_path: Path
) -> None:
    """Each run of masks counts from its first on, also if another one ends at the place before."""
    run(folder, tmp_path / "run").save()
    backbone = in_float32(folder, tmp_path / "run" / "model")
    mask, tokens = backbone.marks.mask, [5, 6, 7, 8, 9, 10]
    alone = {}
    for stop in (2, 5, 6):
        states, _ = backbone.encode([[*tokens[:stop], *[mask] * 3]])
        alone[stop] = states[0, stop:]
    together = [*tokens, *[mask] * 9]
    states, _ = backbone.encode([together], forks=[[(6, 6), (9, 5), (12, 2)]])
    for stop, begin in ((6, 6), (5, 9), (2, 12)):
        np.testing.assert_allclose(states[0, begin : begin + 3], alone[stop], atol=2e-5)
    assert np.abs(alone[2][0] - alone[2][1]).max() > 1e-2


def test_an_adapter_is_of_the_base_of_the_model(folder: Path, tmp_path: Path) -> None:
    """Else a line says which bases they have."""
    run(folder, tmp_path / "run").save()
    adapter = tmp_path / "run" / "model"
    assert checkpoint.adapter(str(adapter), None) == adapter
    assert checkpoint.adapter(str(adapter), str(adapter)) == adapter
    for model, said in ((checkpoint.LARGE, "has qwen2.5-coder"), (checkpoint.EMBEDDED, "none")):
        with pytest.raises(CheckpointError, match=f"base.gguf, but the model {model} .*{said}"):
            checkpoint.adapter(str(adapter), model)
    for whole in (checkpoint.EMBEDDED, str(folder / "base.gguf")):
        with pytest.raises(CheckpointError, match="is no adapter; give the folder"):
            checkpoint.adapter(whole, None)
    assert checkpoint.adapter(str(adapter), str(folder / "base.gguf")) == adapter


def test_an_adapter_says_how_to_decode_with_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the shipped one does; a new one with the base's bounds, others as what they began with."""
    shipped = checkpoint.read_config(checkpoint.find(checkpoint.LARGE))["decoding"]
    assert (shipped["mode"], shipped["bounded"], shipped["ends"]) == ("verify", True, True)
    more: list[str] = []
    for name, ends in (("new", False), ("next", True)):
        run(folder, tmp_path / name, *more).save()
        model = tmp_path / name / "model"
        found = checkpoint.settings(checkpoint.read_config(model), model)
        assert found.ends == ends
        assert {**{name: getattr(found, name) for name in shipped}, "ends": True} == shipped
        config = json.loads((model / "config.json").read_text("utf-8"))
        config["decoding"]["ends"] = True
        (model / "config.json").write_text(json.dumps(config), "utf-8")
        more = ["--init", str(model)]


@pytest.mark.parametrize("accepted", [[1.5], ["half"], 0.5])
def test_impossible_shares_are_refused(folder: Path, tmp_path: Path, accepted: Any) -> None:
    """The message names the value and its limits."""
    here = run(folder, tmp_path / "run")
    here.accepted = accepted
    here.save()
    with pytest.raises(CheckpointError, match=r"accepted is .* between 0 and 1"):
        checkpoint.load(tmp_path / "run" / "model")


def test_a_run_starts_from_an_adapter(folder: Path, tmp_path: Path) -> None:
    """It has that adapter's weights, and says so when it is resumed with another one."""
    first = run(folder, tmp_path / "a")
    first.update()
    first.save()
    init = ["--init", str(tmp_path / "a" / "model")]
    second = run(folder, tmp_path / "b", *init)
    for name, each in first.trained.items():
        torch.testing.assert_close(second.trained[name], each, atol=1e-3, rtol=1e-3)
    with torch.inference_mode():
        states = (states_of(here, here.held_out[0])[1] for here in (first, second))
        torch.testing.assert_close(*states, atol=0.05, rtol=0.02)
    second.save()
    with pytest.raises(DataError, match="init"):
        run(folder, tmp_path / "b").restore()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [(["--rank", "2"], "not an adapter of --rank 2"), (["--masks", "2"], "--masks 2")],
)
def test_an_adapter_of_another_shape_cannot_be_the_start(
    folder: Path, tmp_path: Path, more: list[str], sentence: str
) -> None:
    """The message names the settings."""
    run(folder, tmp_path / "a").save()
    with pytest.raises(UsageError, match=sentence):
        run(folder, tmp_path / "b", "--init", str(tmp_path / "a" / "model"), *more)


def test_a_base_is_no_start(folder: Path, tmp_path: Path) -> None:
    """It has no adapter to go on from."""
    with pytest.raises(UsageError, match="has no adapter; give the folder"):
        run(folder, tmp_path / "b", "--init", str(folder / "base.gguf"))


def test_an_adapter_of_another_base_cannot_be_the_start(folder: Path, tmp_path: Path) -> None:
    """The message names both."""
    run(folder, tmp_path / "a").save()
    path = tmp_path / "a" / "model" / checkpoint.CONFIG
    config = json.loads(path.read_text())
    config["base"]["sha256"] = "0" * 64
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match="an adapter of the base 0000"):
        run(folder, tmp_path / "b", "--init", str(tmp_path / "a" / "model"))


def test_updates_that_are_not_finite_are_skipped(folder: Path, tmp_path: Path) -> None:
    """Neither weights nor file change; after some in a row, the last good weights come back."""
    here = run(folder, tmp_path / "run")
    here.update()
    here.save()
    good = {name: each.detach().clone() for name, each in here.trained.items()}
    with torch.no_grad():
        here.adaptation.mask_embedding[0, 0] = torch.nan
    entry = here.update()
    assert entry["event"] == "skipped"
    assert here.skipped == 1
    here.save()  # does nothing now
    assert read_state(tmp_path / "run" / "state.pt")["step"] == 1
    here.restore_weights()
    assert here.step == 2  # training goes on with later rows
    for name, each in here.trained.items():
        torch.testing.assert_close(each.detach(), good[name], atol=0, rtol=0)
    assert "event" not in here.update()


def test_a_run_that_diverges_goes_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command restores the last good state by itself, and finishes."""
    update = adapt.AdaptationRun.update
    spoilt: list[int] = []

    def spoiling(here: adapt.AdaptationRun) -> dict[str, Any]:
        if here.step == 2 and not spoilt:
            spoilt.append(here.step)
            with torch.no_grad():
                here.adaptation.mask_embedding.fill_(torch.inf)
        return update(here)

    monkeypatch.setattr(adapt.AdaptationRun, "update", spoiling)
    out = tmp_path / "run"
    more = ["--steps", str(4 + PATIENCE), "--save-every", "0.000001"]
    assert adapt.main(arguments(folder, out, *more)) == 0
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    events = [entry.get("event", "") for entry in entries]
    assert events.count("skipped") == PATIENCE - 1
    assert events[1 + PATIENCE] == "restored"
    assert np.isfinite(entries[-1]["canvas_loss"])


def test_lack_of_memory_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the settings that make a row smaller; the state is kept."""
    here = run(folder, tmp_path / "run")
    here.update()
    here.save()

    def exhausted(*given: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 PB")

    monkeypatch.setattr(here.adaptation, "forward", exhausted)
    with pytest.raises(DataError, match=r"do not fit .* smaller --together"):
        here.update()
    assert read_state(tmp_path / "run" / "state.pt")["step"] == 1


def test_a_full_disk_keeps_the_last_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the file and the remedy; the next start goes on from the last save."""
    here = run(folder, tmp_path / "run")
    here.update()
    here.save()
    here.update()

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(DataError, match=r"state.pt: cannot be written \(No space left"):
            here.save()
    again = run(folder, tmp_path / "run", "--resume")
    again.restore()
    assert again.step == 1


def test_a_killed_run_ends_as_one_that_was_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` at several moments; with --steps, the weights are the same in the end.

    All parts compute with one thread, since with more, sums round otherwise, and in the processor's
    own precision.
    """
    monkeypatch.undo()
    budget = ["--steps", "6", "--save-every", "0.000001"]
    assert adapt.main(arguments(folder, tmp_path / "whole", *budget)) == 0
    program = "import torch; torch.set_num_threads(1); from talaria.finetune.adapt import main\n"
    program += "import sys; sys.exit(main(sys.argv[1:]))"
    out, kills = tmp_path / "killed", 0
    for wanted in (1, 3):
        more = [*budget, *["--resume"] * (out / "state.pt").exists()]
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments(folder, out, *more)],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            if (out / "state.pt").exists() and read_state(out / "state.pt")["step"] >= wanted:
                process.kill()
                kills += 1
                break
            time.sleep(0.02)
        process.wait()
    assert kills
    assert adapt.main(arguments(folder, out, *budget, "--resume")) == 0
    one, other = (read_state(path / "state.pt") for path in (tmp_path / "whole", out))
    assert one["step"] == other["step"] == 6
    for name, each in one["weights"].items():
        torch.testing.assert_close(other["weights"][name], each, atol=0, rtol=0)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_resumed_run_repeats_no_metrics(folder: Path, tmp_path: Path) -> None:
    """Lines of steps after the saved state, and a torn one, are dropped when they are repeated."""
    out = tmp_path / "run"
    here = run(folder, out)
    here.step = 3
    here.save()
    lines = "".join(json.dumps({"step": step, "canvas_loss": 1.0}) + "\n" for step in range(1, 5))
    (out / "metrics.jsonl").write_text(lines + '{"step": 5, "can')
    assert adapt.main(arguments(folder, out, "--resume", "--steps", "5")) == 0
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in entries]
    assert steps == [1, 2, 3, 4, 5]


def test_a_slice_ends_after_its_time(folder: Path, tmp_path: Path) -> None:
    """Even the shortest takes a step; the next one goes on, and the run's page follows."""
    out, steps = tmp_path / "run", ["--steps", "3"]
    assert adapt.main(arguments(folder, out, *steps, "--slice", "0.000001")) == 0
    assert read_state(out / "state.pt")["step"] == 1
    page = (out / "run.html").read_text()
    assert "33% of the budget" in page
    assert adapt.main(arguments(folder, out, *steps, "--resume")) == 0
    assert read_state(out / "state.pt")["step"] == 3
    page = (out / "run.html").read_text()
    for title in ("masks of canvases", "next token", "tokens a pass, of held-out text"):
        assert title in page


def test_a_signal_stops_a_run_between_steps(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is saved and the former handlers are back; the exit code is 130."""
    update, handler = adapt.AdaptationRun.update, signal.getsignal(signal.SIGTERM)

    def interrupted(here: adapt.AdaptationRun) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return update(here)

    monkeypatch.setattr(adapt.AdaptationRun, "update", interrupted)
    assert adapt.main(arguments(folder, tmp_path / "run", "--minutes", "9")) == 130
    assert read_state(tmp_path / "run" / "state.pt")["step"] == 1
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize(
    ("more", "kind", "sentence"),
    [
        (["--minutes", "0"], UsageError, "--minutes is 0.0"),
        (["--masks", "0"], UsageError, "--masks is 0"),
        (["--steps", "0"], UsageError, "--steps is 0"),
        (["--soft", "1.5"], UsageError, "--soft is 1.5; it must lie between 0 and 1"),
        (["--decay", "0"], UsageError, "--decay is 0"),
        (["--rank", "0"], UsageError, "--rank is 0"),
        (["--learning-rate", "nan"], UsageError, "--learning-rate is nan"),
        (["--decay-from", "1"], UsageError, "--decay-from is 1.0; it must be .* below 1"),
        (["--decay-from", "2"], UsageError, "--decay-from is 2.0"),
        (["--seed", "-1"], UsageError, "--seed is -1"),
        (["--length", "24"], UsageError, "--length is 24; a middle of 24 tokens"),
        (["--resume"], DataError, "nothing to resume"),
        (["--corpus", "nowhere"], DataError, "nowhere"),
    ],
)
def test_invalid_arguments_are_reported(
    folder: Path, tmp_path: Path, more: list[str], kind: Any, sentence: str
) -> None:
    """Before anything is computed."""
    with pytest.raises(kind, match=sentence):
        adapt.main(arguments(folder, tmp_path / "run", *more))


def test_resume_refuses_other_settings(folder: Path, tmp_path: Path) -> None:
    """The message names the setting that differs."""
    out = tmp_path / "run"
    run(folder, out).save()
    with pytest.raises(DataError, match="learning_rate"):
        adapt.main(arguments(folder, out, "--resume", "--learning-rate", "0.1"))


def test_an_adapter_is_replaced_as_a_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure between its two files leaves the former checkpoint."""
    here = run(folder, tmp_path / "run")
    here.save()
    before = {path.name: path.read_bytes() for path in (here.args.out / "model").iterdir()}
    assert sorted(before) == [checkpoint.ADAPTER, checkpoint.CONFIG]
    with torch.no_grad():
        here.adaptation.mask_embedding.add_(1)
    monkeypatch.setattr(checkpoint, "digest", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        here.save()
    after = {path.name: path.read_bytes() for path in (here.args.out / "model").iterdir()}
    assert after == before


def base_of(folder: Path) -> tuple[Base, Marks]:
    """The tiny base and its marks."""
    base = open_base(folder / "base.gguf")
    return base, marks_of(base.vocabulary.trimmed()[0])


def test_updates_are_multiplied_in_float32(folder: Path) -> None:
    """A product beyond the range of float16 is added as it is."""
    base, marks = base_of(folder)
    before = qwen2.BaseWeights(base)["blk.0.ffn_up.weight"]
    large = {
        "mask_embedding": np.ones((2, 64), np.float16),
        "blk.0.ffn_up.lora_A.weight": np.full((1, 64), 1000, np.float16),
        "blk.0.ffn_up.lora_B.weight": np.full((96, 1), 1000, np.float16),
    }
    updates = qwen2.read_adapter(save(large), base.shape, marks, folder)
    weights = qwen2.BaseWeights(base, updates=updates)
    np.testing.assert_array_equal(weights["blk.0.ffn_up.weight"], before + np.float32(1e6))
    embedding = weights[qwen2.EMBEDDING]
    assert len(embedding) == base.shape.vocab_size + 1  # the second mask's, behind the vocabulary
    np.testing.assert_array_equal(embedding[[marks.mask, -1]], np.ones((2, 64)))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"mask_embedding": (1, 3)}, "no adapter for this base"),
        ({"mask_embedding": (0, 64)}, "no adapter for this base"),
        ({"mask_embedding": (64,)}, "no adapter for this base"),
        ({}, "no adapter for this base .KeyError: 'mask_embedding'"),
        ({"mask_embedding": (1, 64), "blk.0.ffn_up.dora": (64,)}, "blk.0.ffn_up.dora is unknown"),
        (
            {
                "mask_embedding": (1, 64),
                "blk.0.ffn_up.lora_A.weight": (2, 32),
                "blk.0.ffn_up.lora_B.weight": (96, 2),
            },
            "no adapter for this base",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    folder: Path, tensors: dict[str, tuple[int, ...]], sentence: str
) -> None:
    """One of another shape, without a mask, or with tensors that nothing here uses."""
    base, marks = base_of(folder)
    wrong = save({name: np.zeros(size, np.float16) for name, size in tensors.items()})
    with pytest.raises(CheckpointError, match=sentence):
        qwen2.read_adapter(wrong, base.shape, marks, folder / "adapter.safetensors")

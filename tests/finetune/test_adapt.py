"""A causal base learns to denoise canvases, and decodes as it was trained."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.numpy import save

from talaria.coder import checkpoint, files
from talaria.coder.backbone import Marks
from talaria.coder.errors import CheckpointError, DataError, UsageError
from talaria.coder.families import qwen2
from talaria.coder.families.qwen2 import Qwen2Config
from talaria.coder.families.qwen2_onnx import OnnxQwen2, fused
from talaria.coder.families.qwen2_tokenizer import (
    EOM,
    MIDDLE,
    PREFIX,
    SUFFIX,
    layout_of,
    marks_of,
    read_tokenizer,
)
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import fill
from talaria.coder.request import Options, Request
from talaria.finetune import adapt
from talaria.finetune.adaptation import IGNORED, HoleRows, draw_batch
from talaria.finetune.corpus import CorpusDocument, write_corpus
from talaria.finetune.state import read_state
from tests.coder.test_qwen2_gguf import write_gguf
from tests.conftest import TEXTS

SHAPE = ["--rank", "4", "--block", "4", "--canvases", "6", "--length", "96", "--longest", "24"]
SHAPE += ["--rows", "2"]


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
    return [*where, *SHAPE, "--minutes", "0.05", *more]


def run(folder: Path, out: Path, *more: str) -> adapt.AdaptationRun:
    """A run that has not begun."""
    return adapt.AdaptationRun(adapt.parse(arguments(folder, out, *more)))


@pytest.fixture
def rows(folder: Path) -> HoleRows:
    """Rows of the tiny corpus, in the layout of the tiny base."""
    reader = qwen2.open_file(folder / "base.gguf")
    tokenizer, _ = read_tokenizer(reader, folder)
    marks = marks_of(tokenizer)
    return HoleRows(TEXTS, layout_of(tokenizer), marks.eom, 96, 24, seed=3)


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


def test_canvases_mask_their_targets(rows: HoleRows) -> None:
    """A target is the next token of the row, and the canvas has a mask in its place."""
    batch = draw_batch([rows[0], rows[1]], 7, 12, 4, np.random.default_rng(0))
    asked = 0
    for number in range(2):
        row = rows[number].ids
        for place in range(batch.ids.shape[1] - 12 * 4, batch.ids.shape[1]):
            target = int(batch.targets[number, place])
            if target == IGNORED:
                continue
            asked += 1
            assert target == row[int(batch.positions[number, place]) + 1]
            assert batch.places[number, place] < 3
            assert batch.ids[number, place + 1] == 7
            seen = batch.visible[number, 0, place]
            anchor = int(batch.positions[number, place] - batch.places[number, place])
            length = batch.ids.shape[1] - 12 * 4
            assert seen[:length].sum() == anchor
            assert seen[length:].sum() == 4
    assert asked > 20


def in_float32(folder: Path, model: Path) -> OnnxQwen2:
    """The tiny base with an adapter merged, before it is rounded to 8 bits."""
    reader, shape, marks = base_of(folder)
    adapter = (model / "adapter.safetensors").read_bytes()
    updates = qwen2.read_adapter(adapter, shape, marks, model)
    weights = qwen2.BaseWeights(reader, shape, folder, updates=updates)
    return OnnxQwen2(shape, dict(fused(shape, weights)), marks, denoises=True)


def test_training_computes_what_decoding_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some steps, the states of a canvas are those of the merged adapter's `denoise`."""
    here = run(folder, tmp_path / "run")
    for _ in range(3):
        here.update()
        here.step += 1
    here.save()
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    (tmp_path / "bases").mkdir()
    digest = files.digest(folder / "base.gguf")
    shutil.copy(folder / "base.gguf", tmp_path / "bases" / f"{digest}.gguf")
    model = checkpoint.load(tmp_path / "run" / "model")
    model = replace(model, backbone=in_float32(folder, tmp_path / "run" / "model"))
    row = here.rows[0]
    batch = draw_batch([row], model.marks.mask, 8, 4, np.random.default_rng(5))
    with torch.inference_mode():
        trained = here.adaptation.eval().states(batch)[0].numpy()
    length = batch.ids.shape[1] - 8 * 4
    compared = 0
    for canvas in range(8):
        own = slice(length + 4 * canvas, length + 4 * canvas + 4)
        anchor = int(batch.positions[0, own][0])
        _, cache = model.backbone.encode([row.ids[:anchor]])
        ids = batch.ids[:, own].numpy()
        states = model.backbone.denoise(ids, cache, [row.ids[anchor - 1]])
        np.testing.assert_allclose(states[0, 0], trained[anchor - 1], atol=0.05, rtol=0.02)
        np.testing.assert_allclose(states[0, 1:], trained[own][:-1], atol=0.05, rtol=0.02)
        compared += 1
    assert compared == 8
    assert model.backbone.denoises
    found = fill(model, Request("def mean(values):\n    return ", "\n", Options(max_tokens=8)))
    assert found.nfe


def test_a_run_learns_and_goes_on_exactly(folder: Path, tmp_path: Path) -> None:
    """The loss falls; a run that was saved and restored takes the steps of one that was not."""
    here = run(folder, tmp_path / "a", "--learning-rate", "0.01")
    here.elapsed = 1.0  # past the warm-up; the clock stands still
    first = [here.update()["canvas"] for here.step in range(12)]
    assert sum(first[-3:]) < sum(first[:3])
    here.step = 12
    here.save()
    expected = [here.update() for here.step in range(12, 15)]
    again = run(folder, tmp_path / "a", "--learning-rate", "0.01", "--resume")
    again.restore()
    assert [again.update() for again.step in range(12, 15)] == expected


def test_the_command(folder: Path, tmp_path: Path) -> None:
    """A whole run leaves a state, a curve and a checkpoint; the base is as it was."""
    before = files.digest(folder / "base.gguf")
    out = tmp_path / "run"
    assert adapt.main(arguments(folder, out)) == 0
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert entries[-1]["tokens_per_pass"] >= 1
    config = checkpoint.read_config(out / "model")
    assert config["base"]["sha256"] == before == files.digest(folder / "base.gguf")
    assert adapt.main(arguments(folder, out, "--resume")) == 0  # nothing is left to do


def test_a_resumed_run_repeats_no_metrics(folder: Path, tmp_path: Path) -> None:
    """Lines of steps after the saved state, and a torn one, are dropped when they are repeated."""
    out = tmp_path / "run"
    here = run(folder, out)
    here.step, here.elapsed = 3, 2.9  # of 3 seconds
    here.save()
    lines = "".join(json.dumps({"step": step, "canvas": 1.0}) + "\n" for step in range(1, 6))
    (out / "metrics.jsonl").write_text(lines + '{"step": 6, "can')
    assert adapt.main(arguments(folder, out, "--resume")) == 0
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in entries]
    assert steps == [*range(1, len(steps) + 1)]
    assert len(steps) > 3


def test_a_signal_stops_a_run_between_steps(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is saved and the former handlers are back; the exit code is 1."""
    update, handler = adapt.AdaptationRun.update, signal.getsignal(signal.SIGTERM)

    def interrupted(here: adapt.AdaptationRun) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return update(here)

    monkeypatch.setattr(adapt.AdaptationRun, "update", interrupted)
    assert adapt.main(arguments(folder, tmp_path / "run", "--minutes", "9")) == 1
    assert read_state(tmp_path / "run" / "state.pt")["step"] == 1
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize(
    ("more", "kind", "sentence"),
    [
        (["--minutes", "0"], UsageError, "--minutes is 0.0"),
        (["--block", "1"], UsageError, "--block is 1"),
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


def base_of(folder: Path) -> tuple[GGUFReader, Qwen2Config, Marks]:
    """The tiny base, its shape and its marks."""
    reader = qwen2.open_file(folder / "base.gguf")
    return reader, qwen2.shape_of(reader, folder), marks_of(read_tokenizer(reader, folder)[0])


def test_updates_are_multiplied_in_float32(folder: Path) -> None:
    """A product beyond the range of float16 is added as it is."""
    reader, shape, marks = base_of(folder)
    before = qwen2.BaseWeights(reader, shape, folder)["blk.0.ffn_up.weight"]
    large = {
        "mask_embedding": np.ones(64, np.float16),
        "blk.0.ffn_up.lora_A.weight": np.full((1, 64), 1000, np.float16),
        "blk.0.ffn_up.lora_B.weight": np.full((96, 1), 1000, np.float16),
    }
    updates = qwen2.read_adapter(save(large), shape, marks, folder)
    weights = qwen2.BaseWeights(reader, shape, folder, updates=updates)
    np.testing.assert_array_equal(weights["blk.0.ffn_up.weight"], before + np.float32(1e6))
    np.testing.assert_array_equal(weights[qwen2.EMBEDDING][marks.mask], np.ones(64))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"mask_embedding": (3,)}, "no adapter for this base"),
        ({}, "no adapter for this base .KeyError: 'mask_embedding'"),
        ({"mask_embedding": (64,), "blk.0.ffn_up.dora": (64,)}, "blk.0.ffn_up.dora is unknown"),
        (
            {
                "mask_embedding": (64,),
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
    _, shape, marks = base_of(folder)
    wrong = save({name: np.zeros(size, np.float16) for name, size in tensors.items()})
    with pytest.raises(CheckpointError, match=sentence):
        qwen2.read_adapter(wrong, shape, marks, folder / "adapter.safetensors")

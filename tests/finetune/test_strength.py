"""Adapters at part of their strength, and the bias of the end."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from talaria.coder import checkpoint, files
from talaria.coder.backbone import Constraint
from talaria.coder.errors import CheckpointError, DataError, UsageError
from talaria.coder.families import qwen2
from talaria.coder.families.qwen2_files import open_base
from talaria.coder.families.qwen2_onnx import AMONG
from talaria.finetune import strength
from talaria.finetune.adaptation import CanvasBatch
from tests.finetune.test_adapt import exact, folder, in_float32, run

__all__ = ["exact", "folder"]  # fixtures


@pytest.fixture
def adapter(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny adapter whose updates matter, and its base where it is looked for."""
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    (tmp_path / "bases").mkdir()
    base = folder / "base.gguf"
    shutil.copy(base, tmp_path / "bases" / f"{files.digest(base)}.gguf")
    here = run(folder, tmp_path / "run", "--rank", "16", "--units", "448")
    torch.manual_seed(1)
    with torch.no_grad():
        for name, each in here.trained.items():
            if name.endswith("lora_B"):
                each.normal_(0, 0.1)
    here.save()
    return tmp_path / "run" / "model"


def write(adapter: Path, folder: Path, out: Path, *more: str) -> Path:
    """Write an adapter at half its strength."""
    given = [str(adapter), "--corpus", str(folder / "corpus"), "--write", "0.5", *more]
    assert strength.main([*given, "--out", str(out)]) == 0
    return out


def test_half_an_adapter(adapter: Path, folder: Path, tmp_path: Path) -> None:
    """The weights lie halfway to the base's; how often masks are right is measured anew."""
    half = write(adapter, folder, tmp_path / "half")
    base = open_base(folder / "base.gguf")
    marks = in_float32(folder, adapter).marks
    whole, found = (
        qwen2.BaseWeights(base, updates=qwen2.read_adapter(data, base.shape, marks, each))
        for each in (adapter, half)
        for data in [(each / "adapter.safetensors").read_bytes()]
    )
    own = qwen2.BaseWeights(base)
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight"):
        assert np.abs(whole[name] - own[name]).max() > 0.05
        np.testing.assert_allclose(found[name], (whole[name] + own[name]) / 2, atol=2e-3)
    before, after = (checkpoint.read_config(each) for each in (adapter, half))
    assert after["training"] == {**before["training"], "strength": 0.5}
    assert len(after["accepted"]) == 3
    assert "lookahead" not in after["decoding"]
    assert before["decoding"] == {**after["decoding"], "lookahead": 4}
    assert after.keys() == before.keys() | {"accepted"}
    assert qwen2.END_BIAS not in load_file(half / "adapter.safetensors")
    quarter = write(half, folder, tmp_path / "quarter")
    assert checkpoint.read_config(quarter)["training"]["strength"] == 0.25


def test_the_bias_of_the_end(adapter: Path, folder: Path, tmp_path: Path) -> None:
    """Training, decoding and the ranking of a shortlist all add it, to that logit alone."""
    biased = write(adapter, folder, tmp_path / "biased", "--end-bias", "1.5")
    plain = write(adapter, folder, tmp_path / "plain")
    ours, without = in_float32(folder, biased), in_float32(folder, plain)
    eom = ours.marks.eom
    states, _ = without.encode([[*range(40, 60)]])
    moved = ours.logits(states[0]) - without.logits(states[0])
    np.testing.assert_allclose(moved[:, eom], 1.5, atol=1e-4)
    assert np.abs(np.delete(moved, eom, 1)).max() == 0
    shortlist = [*range(300, 300 + AMONG - 1), eom]
    limits = [Constraint(shortlist)] * len(states[0])
    short = ours.candidates(states[0], AMONG, limits)
    every = super(type(ours), ours).candidates(states[0], AMONG, limits)
    np.testing.assert_array_equal(short.ids, every.ids)
    np.testing.assert_allclose(short.log_probabilities, every.log_probabilities, atol=1e-3)

    given = ["--rank", "16", "--units", "448", "--init", str(biased)]
    here = run(folder, tmp_path / "next", *given)
    row = here.held_out[0]
    with torch.inference_mode():
        clean, _ = here.adaptation.states(CanvasBatch.of([row]))
        logits = here.adaptation.logits(clean[0, -5:]).numpy()
    np.testing.assert_allclose(logits, ours.logits(clean[0, -5:].numpy()), atol=0.02, rtol=0.02)
    here.update()
    here.save()
    after = load_file(tmp_path / "next" / "model" / "adapter.safetensors")
    assert after[qwen2.END_BIAS].tolist() == [1.5]  # goes on into what is trained from it


def test_a_bias_of_another_shape(adapter: Path, folder: Path) -> None:
    """Named, as any tensor that does not fit."""
    base = open_base(folder / "base.gguf")
    tensors = load_file(adapter / "adapter.safetensors") | {qwen2.END_BIAS: np.zeros(2)}
    from safetensors.numpy import save

    marks = in_float32(folder, adapter).marks
    with pytest.raises(CheckpointError, match=r"end_bias has shape \(2,\), the base asks for"):
        qwen2.read_adapter(save(tensors), base.shape, marks, adapter)


def test_the_table(
    adapter: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A line for each strength; a bias is never worse than none, and 0 is the base alone."""
    monkeypatch.setattr(strength, "LONG", 15)
    given = [str(adapter), "--corpus", str(folder / "corpus"), "--rows", "2"]
    assert strength.main([*given, "--strengths", "0", "0.5", "1"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    found = [[float(each) for each in line.split()] for line in lines]
    assert [line[0] for line in found] == [0, 0.5, 1]
    assert all(line[5] <= line[3] for line in found)
    assert len({tuple(line[1:4]) for line in found}) == 3
    assert all(1 <= line[6] <= 4 for line in found)
    biased = write(adapter, folder, tmp_path / "biased", "--end-bias", "3")
    capsys.readouterr()
    half = [str(biased), *given[1:], "--strengths", "1"]
    assert strength.main(half) == 0
    again = [float(each) for each in capsys.readouterr().out.splitlines()[1].split()]
    # What the adapter has of a bias takes no part.
    assert again[1:6] == pytest.approx(found[1][1:6], abs=0.02)


def test_ends_are_counted_as_in_training(adapter: Path, folder: Path, tmp_path: Path) -> None:
    """Without a bias, the loss of the ends of a row is the one that `talaria adapt` reports."""
    here, _ = strength.opened(str(adapter), folder / "corpus")
    row = here.held_out[1]
    _, sums = strength.losses(here, row)
    from talaria.finetune.adaptation import validated

    assert sums[0] == pytest.approx(validated(here.adaptation, row)["ending"], rel=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--strengths", "0.5", "1.5"], "a strength is 1.5"),
        (["--write", "-1", "--out", "x"], "a strength is -1"),
        (["--rows", "0"], "--rows is 0"),
        (["--write", "0.5"], "belong together"),
        (["--out", "x"], "belong together"),
        (["--end-bias", "1"], "belong together"),
        (["--write", "0.5", "--out", "x", "--end-bias", "nan"], "--end-bias is nan"),
    ],
)
def test_what_is_asked_for_in_vain(more: list[str], message: str) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError, match=message):
        strength.main(["no-adapter", "--corpus", "none", *more])


def test_files_with_too_little(
    adapter: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No long middles: what there is, and what to do."""
    monkeypatch.setattr(strength, "LONG", 1000)
    monkeypatch.setattr(strength, "ATTEMPTS", 10)
    with pytest.raises(DataError, match="0 at least 1000; lower --rows from 2"):
        strength.main([str(adapter), "--corpus", str(folder / "corpus"), "--rows", "2"])


def test_only_adapters_have_a_strength(folder: Path) -> None:
    """The message names the model."""
    with pytest.raises(UsageError, match=f"{checkpoint.EMBEDDED} has no low-rank updates"):
        strength.main([checkpoint.EMBEDDED, "--corpus", str(folder / "corpus")])

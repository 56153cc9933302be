"""Qwen3-shaped causal folders, computed by the network of the open families: as transformers does.

Folders of Qwen2 and Llama are computed by ONNX Runtime (`test_qwen2.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import parity
from benchmarks.tiny_models import QWEN3, weights, write
from talaria.coder import checkpoint
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.cli import main
from talaria.coder.errors import CheckpointError, UsageError
from talaria.coder.infill import fill, fill_batch, infill
from talaria.coder.request import Mode, Options, Request
from talaria.coder.trace import page

PREFIX, SUFFIX = "def f(self):\n    return ", "\n\ndef g():\n    pass\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3."""
    return write(QWEN3, tmp_path_factory.mktemp("causal") / "qwen3", shards=2)


@pytest.fixture(scope="module")
def model(folder: Path) -> Checkpoint:
    """The same, loaded."""
    return checkpoint.load(folder)


def test_logits_and_texts_are_those_of_transformers(model: Checkpoint) -> None:
    """Greedy, from left to right, and by speculative verification, behind the same context."""
    stated = json.loads((parity.GOLDEN / "qwen3.json").read_text("utf-8"))
    assert parity.digest(weights(QWEN3)) == stated["weights"]
    with np.load(parity.GOLDEN / "qwen3.npz") as stored:
        ids, wanted = stored["ids"], stored["logits"]
    states, _ = model.backbone.encode([ids.tolist()])
    found = model.backbone.network.logits(states[0]).numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=1e-5)
    for (prefix, suffix), case in zip(parity.PAIRS, stated["cases"], strict=True):
        for mode in ("ar", "verify"):
            options = Options(mode=mode, check_syntax=False)
            request = Request(prefix, suffix, options, length=len(case["middle"]))
            assert fill(model, request).best.tokens == case["middle"]


def test_a_hole_is_filled_from_left_to_right(
    folder: Path, model: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It verifies by default, ends where a line does, and cannot denoise."""
    file = tmp_path / "hole.py"
    file.write_text(f"{PREFIX}{SUFFIX}", "utf-8")
    command = ["infill", f"{file}:2:11", "--model", str(folder), "--no-syntax-check", "--json"]
    assert main([*command, "--daemon", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nfe"] > 0
    assert found["until"] == "line"
    with pytest.raises(UsageError, match=r"--mode is diffuse.*use --mode verify or ar"):
        infill(model, PREFIX, SUFFIX, Options(mode="diffuse"))


def test_a_row_of_a_batch_is_the_row_alone(model: Checkpoint) -> None:
    """Several holes share evaluations."""
    options = Options(mode="ar", max_tokens=16, check_syntax=False)
    requests = [Request(*hole, options) for hole in ((PREFIX, SUFFIX), ("x = 1\n", "y = 2\n"))]
    for request, batched in zip(requests, fill_batch(model, requests), strict=True):
        assert batched.best.text == fill(model, request).best.text


def test_a_vocabulary_that_cannot_infill(tmp_path: Path) -> None:
    """It is refused in one line, as is one without an end of text."""
    folder = write(QWEN3, tmp_path / "qwen3")
    path = folder / "tokenizer.json"
    whole = path.read_text("utf-8")
    for name in ("fim_prefix", "fim_suffix", "fim_middle"):
        path.write_text(whole.replace(name, "other"), "utf-8")
        with pytest.raises(CheckpointError, match="cannot be told what follows a hole"):
            checkpoint.load(folder)
    path.write_text(whole.replace("endoftext", "other"), "utf-8")
    with pytest.raises(CheckpointError, match="has no eos token"):
        checkpoint.load(folder)


@pytest.mark.parametrize("mode", ["ar", "verify"])
def test_no_mask_is_asked_for(mode: Mode, model: Checkpoint, tmp_path: Path) -> None:
    """Nothing reads one: without it, texts are the same, and so is what a page shows."""
    folder = write(QWEN3, tmp_path / "qwen3")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text("utf-8").replace("fim_pad", "other"), "utf-8")
    other = checkpoint.load(folder)
    options = Options(mode=mode, max_tokens=24, check_syntax=False)
    one, two = (infill(each, PREFIX, SUFFIX, options) for each in (model, other))
    assert one.best.tokens == two.best.tokens
    assert page(two, other, PREFIX, SUFFIX).count("<li>") == two.nfe


def test_an_end_of_turns_does_not_end_middles(tmp_path: Path) -> None:
    """Configurations of models for dialogues name it."""
    folder = write(QWEN3, tmp_path / "qwen3")
    path = folder / "config.json"
    stated = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**stated, "eos_token_id": QWEN3.id("<|im_end|>")}), "utf-8")
    assert checkpoint.load(folder).marks.eom == QWEN3.id("<|endoftext|>")

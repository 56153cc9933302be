"""What ONNX Runtime computes is what torch computes, whoever sees whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder import checkpoint
from talaria.coder.backbone import Array, Backbone, Constraint, KVCache
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.families.talaria_onnx import OnnxTalaria
from talaria.coder.families.talaria_torch import TorchBackbone, Transformer
from talaria.finetune.trainable import load_trainable
from tests.conftest import onnx_backbone

tokens = st.lists(st.integers(0, 299), min_size=1, max_size=20)


@pytest.fixture(scope="module", params=[1, 2])
def two(
    transformer: Transformer, tokenizer: TalariaTokenizer, request: pytest.FixtureRequest
) -> list[Backbone]:
    """One model with so many layers of the chain, computed by either."""
    torch.manual_seed(0)
    deep = Transformer(replace(transformer.config, chain_layers=request.param))
    for parameter in deep.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    deep.requires_grad_(False).eval()
    return [TorchBackbone(deep, tokenizer.marks), onnx_backbone(deep, tokenizer)]


def both(backbones: list[Backbone], call: Callable[[Backbone], list[Any]]) -> None:
    """A computation gives one result by either, to the accuracy of float32."""
    for one, another in zip(*(call(backbone) for backbone in backbones), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(another), rtol=1e-4, atol=1e-4)


def remembered(cache: KVCache) -> list[Array]:
    """What of a cache is ever seen."""
    shown = cache.valid[:, None, :, None]
    return [np.where(shown, np.asarray(x), 0.0) for x in (*cache.keys, *cache.values)]


def whole(by: Backbone, states: Any) -> list[Array]:
    """The log-probabilities of all tokens at these states, and of some asked for by their ids."""
    found = by.candidates(states, 10_000)
    logs = np.take_along_axis(found.log_probabilities, found.ids.argsort(1), 1)
    return [logs, *(by.log_probabilities(states, np.full(len(states), n)) for n in (0, 7, 299))]


@given(rows=st.lists(st.tuples(tokens, tokens), min_size=1, max_size=3), canvas=st.integers(4, 8))
def test_contexts_canvases_and_candidates(
    two: list[Backbone], rows: list[tuple[list[int], list[int]]], canvas: int
) -> None:
    """Rows of unlike length read in two parts, a canvas behind them, its chain in two parts."""

    def call(by: Backbone) -> list[Any]:
        first, cache = by.encode([row[0] for row in rows])
        second, cache = by.encode([row[1] for row in rows], cache)
        last = [row[1][-1] for row in rows]
        behind = by.denoise(np.full((len(rows), canvas), 7), cache, last)
        before = np.arange(len(rows) * canvas).reshape(len(rows), canvas)
        some, past = by.chain(behind[:, :3], before[:, :3], ())
        others, past = by.chain(behind[:, 3:], before[:, 3:], past)
        read = [
            states[: len(row[part])]
            for part, all_rows in enumerate((first, second))
            for states, row in zip(all_rows, rows, strict=True)
        ]
        return [*read, *remembered(cache), behind, *whole(by, behind[0]), some, others, *past]

    both(two, call)


@pytest.mark.golden
def test_the_shipped_model() -> None:
    """Its candidates too, over a context of its usual length."""
    torch_model, shipped = load_trainable().decoder(), checkpoint.load()
    context = np.random.default_rng(0).integers(0, 8000, 384).tolist()

    def call(by: Backbone) -> list[Any]:
        states, cache = by.encode([context])
        canvas = np.full((1, shipped.settings.block_length), 7)
        behind = by.denoise(canvas, cache, context[-1:])
        return [*whole(by, states[:, -1]), *whole(by, behind[0])]

    both([torch_model.backbone, shipped.backbone], call)


def test_candidates_are_the_same(two: list[Backbone]) -> None:
    """Ids and log-probabilities, under temperatures and constraints."""
    rules = [
        Constraint(),
        Constraint(forbidden=(7, 250)),
        Constraint([3, 9, 31], (9,)),
        Constraint([5], (5,)),
    ]
    found = []
    for by in two:
        states, _ = by.encode([[5, 9, 33, 120]])
        heat = np.array([1.0, 0.5, 2.0, 1.0], np.float32)
        found.append(by.candidates(states[0], 8, rules, heat))
    one, other = found
    np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, rtol=1e-4, atol=1e-4)
    finite = np.isfinite(one.log_probabilities)
    assert (one.ids[finite] == other.ids[finite]).all()


def test_a_devices_name_decides(model: checkpoint.Checkpoint) -> None:
    """ONNX Runtime computes on a CPU."""
    assert isinstance(model.backbone, OnnxTalaria)
    assert model.backbone.device == "cpu"

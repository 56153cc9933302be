"""What ONNX Runtime computes is what torch computes, whoever sees whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from talaria.coder import checkpoint
from talaria.coder.denoiser import Denoiser, KVCache
from talaria.coder.onnx_denoiser import OnnxDenoiser
from talaria.coder.transformer import Transformer

tokens = st.lists(st.integers(0, 299), min_size=1, max_size=20)


@pytest.fixture(scope="module", params=[1, 2])
def two(denoiser: Transformer, request: pytest.FixtureRequest) -> list[Denoiser]:
    """One model with so many layers of the chain, computed by either."""
    torch.manual_seed(0)
    deep = Transformer(replace(denoiser.config, chain_layers=request.param))
    for parameter in deep.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    deep.requires_grad_(False).eval()
    return [deep, OnnxDenoiser(deep)]


def agree(one: Tensor, other: Tensor) -> None:
    """To the accuracy of float32."""
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def both(denoisers: list[Denoiser], call: Callable[[Denoiser], list[Tensor]]) -> None:
    """A computation gives one result by either."""
    for one, another in zip(*(call(denoiser) for denoiser in denoisers), strict=True):
        agree(one, another)


def remembered(cache: KVCache) -> list[Tensor]:
    """What of a cache is ever seen."""
    shown = cache.valid[:, None, :, None]
    return [torch.where(shown, x, 0.0) for x in (*cache.keys, *cache.values)]


@given(rows=st.lists(st.tuples(tokens, tokens), min_size=1, max_size=3), canvas=st.integers(4, 8))
def test_contexts_canvases_and_logits(
    two: list[Denoiser],
    rows: list[tuple[list[int], list[int]]],
    canvas: int,
) -> None:
    """Rows of unlike length read in two parts, a canvas behind them, its chain in two parts."""

    def call(by: Denoiser) -> list[Tensor]:
        first, cache = by.encode([row[0] for row in rows])
        second, cache = by.encode([row[1] for row in rows], cache)
        behind = by.denoise(torch.full((len(rows), canvas), 7), cache)
        before = torch.arange(len(rows) * canvas).view(len(rows), canvas)
        some, past = by.chain(behind[:, :3], before[:, :3], ())
        others, past = by.chain(behind[:, 3:], before[:, 3:], past)
        read = [
            hidden[: len(row[part])]
            for part, states in enumerate((first, second))
            for hidden, row in zip(states, rows, strict=True)
        ]
        return [*read, *remembered(cache), behind, by.logits(behind), some, others, *past]

    both(two, call)


def test_the_shipped_model() -> None:
    """Its logits too, over a context of its usual length."""
    whole, fast = checkpoint.load_trainable().denoiser, checkpoint.load().denoiser
    generator = torch.Generator().manual_seed(0)
    context = torch.randint(0, 8000, (384,), generator=generator).tolist()

    def call(by: Denoiser) -> list[Tensor]:
        hidden, cache = by.encode([context])
        behind = by.denoise(torch.full((1, by.config.block_length), 7), cache)
        return [by.logits(hidden[:, -1]), by.logits(behind)]

    with torch.inference_mode():
        both([whole, fast], call)


def test_a_devices_name_decides(model: checkpoint.Checkpoint) -> None:
    """ONNX Runtime computes on a CPU."""
    assert isinstance(model.denoiser, OnnxDenoiser)
    assert model.denoiser.device == torch.device("cpu")

"""Training, cached and uncached decoding are one computation."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from talaria.coder.denoiser import DenoiserConfig, Layers
from talaria.coder.transformer import Transformer
from talaria.finetune.joint import joint

CONTEXT = [5, 9, 33, 120, 7, 301, 44, 12, 99, 250, 3]


def canvas_of(denoiser: Transformer, mask: int) -> Tensor:
    """A canvas that is partly denoised."""
    canvas = torch.full((1, denoiser.config.block_length), mask)
    canvas[0, 2], canvas[0, 5] = 17, 200
    return canvas


def test_cached_denoising_equals_the_training_pass(denoiser: Transformer) -> None:
    """For the same masked canvas, logits with and without a cache agree to float32 accuracy."""
    mask = denoiser.config.vocab_size - 6
    canvas = canvas_of(denoiser, mask)
    _, cache = denoiser.encode([CONTEXT])
    cached = denoiser.denoise(canvas, cache)

    begin, length = len(CONTEXT), canvas.shape[1]
    rest = torch.tensor([[*CONTEXT, 11, 12, 13]])  # what follows in training must not be seen
    _, noised = joint(
        denoiser,
        rest,
        canvas,
        begin + torch.arange(length)[None],
        torch.zeros_like(canvas),
        torch.full_like(canvas, begin),
    )
    torch.testing.assert_close(cached, noised, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        denoiser.logits(cached), denoiser.logits(noised), rtol=1e-4, atol=1e-4
    )


def test_cached_context_equals_a_fresh_one(denoiser: Transformer) -> None:
    """Reading a context in pieces gives the hidden states of reading it at once."""
    whole, _ = denoiser.encode([CONTEXT])
    _, cache = denoiser.encode([CONTEXT[:4]])
    _, cache = denoiser.encode([CONTEXT[4:5]], cache)
    rest, _ = denoiser.encode([CONTEXT[5:]], cache)
    torch.testing.assert_close(rest, whole[:, 5:], rtol=1e-4, atol=1e-4)


def test_the_context_never_sees_the_canvas(denoiser: Transformer) -> None:
    """Its hidden states in the training pass are those of reading it alone, whatever the canvas."""
    alone, _ = denoiser.encode([CONTEXT])
    canvas = torch.randint(0, 300, (1, 16))
    beside, _ = joint(
        denoiser,
        torch.tensor([CONTEXT]),
        canvas,
        4 + torch.arange(16)[None],
        torch.zeros_like(canvas),
        torch.full_like(canvas, 4),
    )
    torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-4)


def test_a_canvas_sees_no_clean_token_of_its_own_block_or_later(denoiser: Transformer) -> None:
    """Changing clean tokens from the block's start on changes nothing in the canvas."""
    canvas = torch.randint(0, 300, (1, 8))
    place = (3 + torch.arange(8)[None], torch.zeros_like(canvas), torch.full_like(canvas, 3))
    context = torch.tensor([CONTEXT])
    changed = context.clone()
    changed[:, 3:] = 77
    _, one = joint(denoiser, context, canvas, *place)
    _, other = joint(denoiser, changed, canvas, *place)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    changed[:, 2] = 78
    _, third = joint(denoiser, changed, canvas, *place)
    assert not torch.allclose(one, third)


def test_canvases_beside_each_other_are_strangers(denoiser: Transformer) -> None:
    """Each block of a row gets the hidden states that it gets alone."""
    canvas = torch.randint(0, 300, (1, 16))
    block = torch.tensor([[0] * 8 + [1] * 8])
    start = torch.tensor([[2] * 8 + [6] * 8])
    position = start + torch.arange(8).repeat(2)[None]
    context = torch.tensor([CONTEXT])
    _, both = joint(denoiser, context, canvas, position, block, start)
    for half in (slice(0, 8), slice(8, 16)):
        _, alone = joint(
            denoiser, context, canvas[:, half], position[:, half], block[:, half], start[:, half]
        )
        torch.testing.assert_close(both[:, half], alone, rtol=1e-4, atol=1e-4)


def test_a_batch_row_equals_its_solo_row(denoiser: Transformer) -> None:
    """Rows of different lengths side by side give the hidden states that each gives alone."""
    contexts = [CONTEXT, CONTEXT[:4], [*CONTEXT, 8, 8, 8]]
    canvas = torch.randint(0, 300, (3, 8))
    _, cache = denoiser.encode(contexts)
    together = denoiser.denoise(canvas, cache)
    _, longer = denoiser.encode([[1, 2], [3], [4, 5]], cache)
    after = denoiser.denoise(canvas, longer)
    for row, (context, more) in enumerate(zip(contexts, [[1, 2], [3], [4, 5]], strict=True)):
        _, solo = denoiser.encode([context])
        alone = denoiser.denoise(canvas[row : row + 1], solo)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)
        _, solo = denoiser.encode([more], solo)
        alone = denoiser.denoise(canvas[row : row + 1], solo)
        torch.testing.assert_close(after[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def test_encoding_leaves_the_cache_as_it_was(denoiser: Transformer) -> None:
    """So that several requests may start from one context."""
    _, cache = denoiser.encode([CONTEXT])
    before = [k.clone() for k in cache.keys]
    denoiser.encode([[1, 2, 3]], cache)
    denoiser.denoise(torch.zeros(1, 8, dtype=torch.long), cache)
    assert all(torch.equal(a, b) for a, b in zip(before, cache.keys, strict=True))
    assert cache.next_position.tolist() == [len(CONTEXT)]


def test_rows_of_a_cache_leave_out_what_none_of_them_uses(denoiser: Transformer) -> None:
    """Fewer columns, the same hidden states; and a row may be named twice."""
    _, cache = denoiser.encode([CONTEXT, CONTEXT[:4], CONTEXT[2:5]])
    _, cache = denoiser.encode([[1, 2], [3, 4], [5, 6]], cache)
    canvas = torch.randint(0, 300, (3, 8))
    expected = denoiser.denoise(canvas, cache)
    index = torch.tensor([2, 1, 2])
    fewer = cache.rows(index)
    assert fewer.valid.shape[1] == fewer.keys[0].shape[2] == 6
    found = denoiser.denoise(canvas[index], fewer)
    torch.testing.assert_close(found, expected[index], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("last", [(1, 1), (3, 0), (2, 3)])
def test_a_cache_without_its_last_tokens(denoiser: Transformer, last: tuple[int, int]) -> None:
    """Is that of contexts so much shorter, also where rows differ in length; and of one row."""
    contexts = [CONTEXT, CONTEXT[:4]]
    canvas = torch.randint(0, 300, (2, 8))
    _, cache = denoiser.encode(contexts)
    less = [context[: len(context) - n] for context, n in zip(contexts, last, strict=True)]
    _, shorter = denoiser.encode(less)
    expected = denoiser.denoise(canvas, shorter)
    found = denoiser.denoise(canvas, cache.without(torch.tensor(last)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    _, cache = denoiser.encode(contexts[:1])
    alone = denoiser.denoise(canvas[:1], cache.without(torch.tensor(last[:1])))
    torch.testing.assert_close(alone, expected[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_chain_in_steps_is_the_chain_at_once(denoiser: Transformer, layers: int) -> None:
    """One position a time or several, each sees those before it, in every layer."""
    torch.manual_seed(0)
    deep = Transformer(dataclasses.replace(denoiser.config, chain_layers=layers))
    for parameter in deep.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    hidden = torch.randn(2, 8, deep.config.width)
    before = torch.randint(0, 300, (2, 8))
    with torch.inference_mode():
        whole, known = deep.chain(hidden, before, ())
        for ends in ([1, 2, 3, 4, 5, 6, 7, 8], [3, 8]):
            past: Layers = ()
            for begin, end in pairwise([0, *ends]):
                some, past = deep.chain(hidden[:, begin:end], before[:, begin:end], past)
                torch.testing.assert_close(some, whole[:, begin:end], rtol=1e-4, atol=1e-4)
            assert len(past) == 2 * layers
            torch.testing.assert_close(past, known, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("field", ["layers", "width", "heads", "block_length"])
def test_impossible_shapes_are_refused(field: str) -> None:
    """With the field, the value and the limit."""
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(DenoiserConfig(100), **{field: 0})
    with pytest.raises(ValueError, match="divisible"):
        DenoiserConfig(100, width=100, heads=3)

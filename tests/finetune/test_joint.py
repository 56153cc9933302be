"""Training and cached decoding are one computation."""

from __future__ import annotations

import numpy as np
import torch

from talaria.coder.backbone import Backbone
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.families.talaria_torch import Transformer
from talaria.finetune.joint import joint

CONTEXT = [5, 9, 33, 120, 7, 301, 44, 12, 99, 250, 3]


def test_cached_denoising_equals_the_training_pass(
    transformer: Transformer, backbone: Backbone, tokenizer: TalariaTokenizer
) -> None:
    """For the same masked canvas, states with and without a cache agree to float32 accuracy."""
    canvas = torch.full((1, transformer.config.block_length), tokenizer.mask)
    canvas[0, 2], canvas[0, 5] = 17, 200
    _, cache = backbone.encode([CONTEXT])
    cached = torch.from_numpy(backbone.denoise(canvas.numpy(), cache, CONTEXT[-1:]))

    begin, length = len(CONTEXT), canvas.shape[1]
    rest = torch.tensor([[*CONTEXT, 11, 12, 13]])  # what follows in training must not be seen
    _, noised = joint(
        transformer,
        rest,
        canvas,
        begin + torch.arange(length)[None],
        torch.zeros_like(canvas),
        torch.full_like(canvas, begin),
    )
    torch.testing.assert_close(cached, noised, rtol=1e-4, atol=1e-4)
    logs = transformer.logits(noised)[0]
    logs[:, list(tokenizer.marks.never)] = -torch.inf
    found = backbone.candidates(cached[0].numpy(), 3)
    expected = logs.log_softmax(-1).topk(3)
    np.testing.assert_allclose(found.log_probabilities, expected.values, rtol=1e-4, atol=1e-4)


def test_the_context_never_sees_the_canvas(transformer: Transformer, backbone: Backbone) -> None:
    """Its states in the training pass are those of reading it alone, whatever the canvas."""
    alone, _ = backbone.encode([CONTEXT])
    canvas = torch.randint(0, 300, (1, 16))
    beside, _ = joint(
        transformer,
        torch.tensor([CONTEXT]),
        canvas,
        4 + torch.arange(16)[None],
        torch.zeros_like(canvas),
        torch.full_like(canvas, 4),
    )
    torch.testing.assert_close(beside, torch.from_numpy(alone), rtol=1e-4, atol=1e-4)


def test_a_canvas_sees_no_clean_token_of_its_own_block_or_later(transformer: Transformer) -> None:
    """Changing clean tokens from the block's start on changes nothing in the canvas."""
    canvas = torch.randint(0, 300, (1, 8))
    place = (3 + torch.arange(8)[None], torch.zeros_like(canvas), torch.full_like(canvas, 3))
    context = torch.tensor([CONTEXT])
    changed = context.clone()
    changed[:, 3:] = 77
    _, one = joint(transformer, context, canvas, *place)
    _, other = joint(transformer, changed, canvas, *place)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    changed[:, 2] = 78
    _, third = joint(transformer, changed, canvas, *place)
    assert not torch.allclose(one, third)


def test_canvases_beside_each_other_are_strangers(transformer: Transformer) -> None:
    """Each block of a row gets the states that it gets alone."""
    canvas = torch.randint(0, 300, (1, 16))
    block = torch.tensor([[0] * 8 + [1] * 8])
    start = torch.tensor([[2] * 8 + [6] * 8])
    position = start + torch.arange(8).repeat(2)[None]
    context = torch.tensor([CONTEXT])
    _, both = joint(transformer, context, canvas, position, block, start)
    for half in (slice(0, 8), slice(8, 16)):
        _, alone = joint(
            transformer, context, canvas[:, half], position[:, half], block[:, half], start[:, half]
        )
        torch.testing.assert_close(both[:, half], alone, rtol=1e-4, atol=1e-4)

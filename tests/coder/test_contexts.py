"""A remembered context is the one that reading anew would give."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from talaria.coder import checkpoint
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.contexts import Contexts, common_prefix
from talaria.coder.denoiser import KVCache
from talaria.coder.errors import UsageError
from talaria.coder.infill import Memory, Options, infill
from talaria.coder.transformer import Transformer


def read(denoiser: Transformer, cache: KVCache) -> Tensor:
    """The logits of a canvas after a context."""
    canvas = torch.arange(denoiser.config.block_length)[None]
    return denoiser.logits(denoiser.denoise(canvas, cache))


def test_common_prefix() -> None:
    """Where two sequences part, or the shorter ends."""
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([], [1]) == 0
    assert common_prefix([2], [1]) == 0


def test_a_reused_context_gives_the_logits_of_a_fresh_one(denoiser: Transformer) -> None:
    """Whatever is appended, taken back or changed, in whichever of three documents."""
    rng = random.Random(0)
    contexts = Contexts(denoiser, 150)
    documents = [[rng.randrange(300) for _ in range(rng.randint(2, 40))] for _ in range(3)]
    reused = []
    for _ in range(60):
        ids = documents[rng.randrange(3)]
        if rng.random() < 0.3:
            del ids[rng.randrange(1, len(ids)) :]
        if rng.random() < 0.2:
            ids[rng.randrange(len(ids))] = rng.randrange(300)
        ids += [rng.randrange(300) for _ in range(rng.randint(0, 4))]
        cache, shared = contexts.encode(ids)
        _, fresh = denoiser.encode([ids])
        torch.testing.assert_close(read(denoiser, cache), read(denoiser, fresh), rtol=0, atol=1e-5)
        assert cache.next_position.tolist() == fresh.next_position.tolist()
        reused.append(shared / len(ids))
    assert sum(reused) / len(reused) > 0.5


def test_a_step_leaves_a_remembered_context_as_it_was(denoiser: Transformer) -> None:
    """Also one that was left in its midst, as a cancelled request leaves it."""
    contexts = Contexts(denoiser)
    ids = list(range(20))
    cache, _ = contexts.encode(ids)
    before = read(denoiser, cache)
    denoiser.encode([[7, 8]], cache)
    again, shared = contexts.encode(ids)
    assert shared == len(ids)
    assert torch.equal(read(denoiser, again), before)


def test_memory_is_bounded_and_what_was_used_last_stays(denoiser: Transformer) -> None:
    """A document that moves on keeps one place; the one that waited longest goes first."""
    contexts = Contexts(denoiser, 100)
    one, two, three = ([k] * 40 for k in (1, 2, 3))
    for ids in (one, two, [*one, 5], three):
        contexts.encode(ids)
    assert [context.ids for context in contexts.kept] == [[*one, 5], three]
    assert contexts.tokens == 81
    contexts.encode([9] * 200)  # longer than all that may be kept: it is being asked about
    assert [len(context.ids) for context in contexts.kept] == [200]
    with pytest.raises(UsageError, match="capacity is 0"):
        Contexts(denoiser, 0)


@pytest.mark.parametrize("mode", ["diffuse", "verify", "ar"])
def test_typing_gives_the_same_texts_and_reads_little(model: Checkpoint, mode: str) -> None:
    """Key by key, with the keys taken back once and a second document between."""
    memory = Memory(model.denoiser)
    options = Options(mode, max_nfe=8)  # type: ignore[arg-type]
    suffix = "\n\n\ndef other():\n    return 1\n"
    typed = "import os\n\n\ndef join(parts):\n    result = os.path.jo"
    prefixes = [typed[:end] for end in (*range(30, len(typed)), 35, 36, len(typed))]
    read = total = 0
    for number, prefix in enumerate(prefixes):
        after = "" if number % 5 == 4 else suffix
        found = infill(model, prefix, after, options, memory=memory)
        fresh = infill(model, prefix, after, options)
        assert (found.best.text, found.nfe) == (fresh.best.text, fresh.nfe)
        assert fresh.reused_tokens == 0
        assert found.context_tokens == fresh.context_tokens
        read += found.context_tokens - found.reused_tokens
        total += found.context_tokens
    assert read < 0.3 * total


def test_the_shipped_model_gives_the_same_texts_while_typing() -> None:
    """On a context as long as its own, whose beginning is cut."""
    model = checkpoint.load()
    with open(checkpoint.__file__, encoding="utf-8") as file:
        text = file.read()
    memory = Memory(model.denoiser)
    reused = []
    for end in range(3000, 3030):
        found = infill(model, text[:end], text[3100:], Options(), memory=memory)
        assert found.best.text == infill(model, text[:end], text[3100:], Options()).best.text
        reused.append(found.reused_tokens / found.context_tokens)
    assert sum(share > 0.95 for share in reused) >= 0.9 * len(reused)

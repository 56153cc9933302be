"""Open families answer as their authors decode: the canvas of an answer stands behind the turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tiny_models import TINY, Tiny, write
from talaria.coder import checkpoint
from talaria.coder.canvas import Canvas
from talaria.coder.chat import TEMPLATES, Dialogue
from talaria.coder.errors import CheckpointError, UsageError
from talaria.coder.request import Options
from talaria.coder.sampler import Row
from talaria.coder.scheduled import follow

CHATML, HEADERS = TEMPLATES


def answering(key: str) -> Tiny:
    """A tiny model whose vocabulary has a template's sentinels."""
    tiny = TINY[key]
    template = HEADERS if key == "llada" else CHATML
    more = tuple(name for name in template.sentinels if name not in tiny.special)
    return replace(tiny, special=(*tiny.special, *more))


@pytest.mark.parametrize("key", ["llada", "dream", "sdar", "fast-dllm-v2"])
def test_an_answer_follows_the_turns(key: str, tmp_path: Path) -> None:
    """The same as their loop writes behind the same tokens; a second turn has the first before."""
    model = checkpoint.load(write(answering(key), tmp_path / key))
    dialogue = Dialogue(model, system="Be brief.")
    shown: list[list[int]] = []
    options = Options(max_tokens=12)
    reply = dialogue.ask("x = 1?", options, on_step=lambda stands, behind: shown.append(behind))
    assert 1 <= len(reply.tokens) <= 12
    assert reply.nfe <= 12
    assert not {*dialogue.marks.never, dialogue.marks.eom} & {*reply.tokens}
    assert len(shown) == reply.nfe
    schedule = model.schedule
    assert schedule is not None
    if schedule.sizes:
        context = [*dialogue.head, *dialogue.turns[0].ids]
        context += dialogue.template.begun(model.tokenizer, "assistant")
        _, cache = dialogue.backbone.encode([model.layout.arrange(context, [])])
        row = Row(np.random.default_rng(0), 13)
        canvas = Canvas.blank(1, 12, dialogue.marks)
        *_, last = follow(schedule, dialogue.backbone, cache, context[-1:], canvas, [row])
        assert last.canvas.middle(0) == reply.tokens
    again = dialogue.ask("and y?", options)
    assert again.context_tokens > reply.context_tokens
    assert len(dialogue.turns) == 4
    fresh = Dialogue(model, system="Be brief.")
    assert fresh.ask("x = 1?", options).tokens == reply.tokens


def test_what_no_family_does_is_refused(tmp_path: Path) -> None:
    """Writing from left to right, and answering without a template."""
    model = checkpoint.load(write(answering("dream"), tmp_path / "dream"))
    with pytest.raises(UsageError, match="use --mode diffuse"):
        Dialogue(model).ask("x", Options("verify"))
    silent = checkpoint.load(write(TINY["dream"], tmp_path / "silent"))
    with pytest.raises(CheckpointError, match="no chat template"):
        Dialogue(silent)

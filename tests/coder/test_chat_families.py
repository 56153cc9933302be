"""Open families answer as their authors decode: the canvas of an answer stands behind the turns."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tiny_models import TINY, Tiny, write
from talaria.coder import checkpoint, cli
from talaria.coder.canvas import Canvas
from talaria.coder.chat import TEMPLATES, Dialogue
from talaria.coder.chat_command import answer
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


@pytest.mark.parametrize("key", ["llada", "dream", "open-dcoder", "sdar", "a2d"])
def test_the_command_takes_their_own_mode(
    key: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And as many tokens as there is room for; another mode is refused before anything is asked."""
    folder = str(write(answering(key), tmp_path / key))
    call = ["chat", "--model", folder, "--system", "Be brief."]
    assert cli.main([*call, "x = 1?", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mode"] == "diffuse"
    assert found["tokens"] <= 256
    terminal = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.delattr("builtins.input")
    assert cli.main([*call, "--mode", "verify"]) == 2
    out, err = capsys.readouterr()
    assert "--mode is verify" in err.splitlines()[-1]
    assert not out


@pytest.mark.parametrize("key", ["llada", "dream", "a2d"])
def test_an_approximate_cache_is_said(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its steps are those of the loop with that cache; one that is always refreshed is exact."""
    folder = write(answering(key), tmp_path / key)
    model = checkpoint.load(folder)
    exact, fresh, dual = (
        Dialogue(model, system="Be brief.").ask(
            "x = 1?", Options("diffuse", max_tokens=12, approximate_cache=kind)
        )
        for kind in (None, "dual:1", "dual:4")
    )
    assert exact.stale_steps is None
    assert (fresh.tokens, fresh.stale_steps) == (exact.tokens, ())
    assert dual.stale_steps == tuple(n for n in range(1, dual.nfe + 1) if n % 4 != 1)
    call = ["chat", "--model", str(folder), "--system", "Be brief.", "--max-tokens", "12"]
    call += ["x = 1?", "--approximate-cache", "dual:4"]
    assert cli.main([*call, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stale_steps"] == list(dual.stale_steps)
    assert cli.main(call) == 0
    said = capsys.readouterr().err
    assert f" in {dual.nfe} steps, {len(dual.stale_steps)} of them approximate (" in said


def test_a_model_that_keeps_what_it_read_has_no_approximate_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, as in `infill`; so have others than families."""
    folder = write(answering("sdar"), tmp_path / "sdar")
    call = ["chat", "--model", str(folder), "x = 1?", "--approximate-cache"]
    assert cli.main([*call, "dual"]) == 2
    assert capsys.readouterr().err == (
        "talaria: --approximate-cache is dual, and sdar keeps what it read exactly; leave it out\n"
    )
    assert cli.main([*call, "both"]) == 2
    assert "--approximate-cache is 'both'; it must be prefix or dual" in capsys.readouterr().err


def test_what_is_taken_back_is_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is shown is the answer, though Open-dCoder changes its mind on the way to it."""
    model = checkpoint.load(write(answering("open-dcoder"), tmp_path / "it"))
    dialogue = Dialogue(model, system="Be brief.")
    options = Options("diffuse", max_tokens=24)
    stood: list[list[int]] = []
    reply = dialogue.ask("x?", options, on_step=lambda stands, behind: stood.append(stands))
    assert reply.nfe > 24  # its own number of steps, however short the answer is
    assert stood == [[]] * (len(stood) - 1) + [reply.tokens]
    again = answer(Dialogue(model, system="Be brief."), "x?", options)
    assert again.tokens == reply.tokens
    assert capsys.readouterr().out.rstrip("\n") == reply.text.rstrip("\n")


@pytest.mark.parametrize("key", ["sdar", "fast-dllm-v2"])
def test_a_second_turn_of_blocks_reads_what_is_new(key: str, tmp_path: Path) -> None:
    """And says what it would if all were read."""
    model = checkpoint.load(write(answering(key), tmp_path / key))
    dialogue, other = (Dialogue(model, system="Be brief.") for _ in range(2))
    options = Options("diffuse", max_tokens=40)
    first = dialogue.ask("x = 1?", options)
    assert first.reused_tokens == 0
    assert other.ask("x = 1?", options).tokens == first.tokens
    other._read, other._cache = [], None
    second, anew = (each.ask("and y?", options) for each in (dialogue, other))
    assert anew.reused_tokens == 0
    assert second.reused_tokens >= first.context_tokens
    assert second.tokens == anew.tokens


def test_a_length_that_is_learned_is_no_answer(tmp_path: Path) -> None:
    """DreamOn fills holes, whatever its vocabulary has."""
    model = checkpoint.load(write(answering("dreamon"), tmp_path / "dreamon"))
    with pytest.raises(CheckpointError, match="fills holes and answers nothing"):
        Dialogue(model)

"""A hole beside others is filled as alone, whatever they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talaria.coder import checkpoint
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.infill import fill, fill_batch, infill
from talaria.coder.request import MODES, Mode, Options, Request
from tests.coder.holes import CODE, PREFIX, SUFFIX, holes_of, raw


def requests_of(options: Options) -> list[Request]:
    """All holes of some texts, some of them far down in a file."""
    return [
        Request(prefix, suffix, options)
        for number, code in enumerate(CODE)
        for prefix, _, suffix in holes_of(code, "".join(CODE[:number]) if number % 4 == 3 else "")
    ]


@pytest.mark.parametrize("mode", MODES)
def test_greedy_texts_are_the_same_at_every_batch_size(model: Checkpoint, mode: Mode) -> None:
    """Contexts of 10 to 200 tokens and more side by side: text, nfe and end."""
    longer = replace(model, settings=replace(model.settings, working_context=512))
    requests = requests_of(raw(mode, max_nfe=16, max_tokens=16))
    assert len(requests) >= 36
    found = {
        size: [
            (each.best.text, each.best.stopped, each.nfe, each.context_tokens)
            for start in range(0, len(requests), size)
            for each in fill_batch(longer, requests[start : start + size])
        ]
        for size in (1, 4, 16)
    }
    assert found[4] == found[1]
    assert found[16] == found[1]
    lengths = [context for *_, context in found[1]]
    assert min(lengths) < 40
    assert max(lengths) > 300


@settings(max_examples=20)
@given(
    data=st.data(),
    max_tokens=st.integers(1, 40),
    lengths=st.lists(st.one_of(st.none(), st.integers(0, 70)), min_size=1, max_size=4),
)
def test_verified_drafts_are_the_text_of_ar(
    model: Checkpoint, data: Any, max_tokens: int, lengths: list[int | None]
) -> None:
    """Token for token, whatever the holes and whatever stands beside them, in no more steps."""
    cut = st.integers(1, len(PREFIX + SUFFIX) - 1)
    text = PREFIX + SUFFIX
    requests = []
    for length in lengths:
        place = data.draw(cut)
        options = raw("verify", max_tokens=max_tokens)
        requests.append(Request(text[:place], text[place:], options, length=length))
    verified = fill_batch(model, requests)
    for request, found in zip(requests, verified, strict=True):
        expected = fill(model, replace(request, options=raw("ar", max_tokens=max_tokens)))
        assert found.best.tokens == expected.best.tokens
        assert found.best.stopped == expected.best.stopped
        assert found.nfe <= expected.nfe


@pytest.mark.golden
def test_the_shipped_model_verifies_in_fewer_steps() -> None:
    """The texts of `ar`, on code that it was not trained on, with a fifth fewer evaluations."""
    shipped = checkpoint.load()
    modes: tuple[Mode, ...] = ("verify", "ar")
    spent, texts = {}, {}
    for mode in modes:
        options = raw(mode, max_tokens=32)
        found = fill_batch(
            shipped, [Request(p, s, options) for code in CODE for p, _, s in holes_of(code)]
        )
        spent[mode] = sum(each.nfe for each in found)
        texts[mode] = [each.best.text for each in found]
    assert texts["verify"] == texts["ar"]
    assert spent["verify"] < 0.8 * spent["ar"]


def test_verifying_keeps_its_budget(model: Checkpoint) -> None:
    """It ends as ar does."""
    found = infill(model, PREFIX, SUFFIX, raw("verify", max_nfe=2))
    assert (found.nfe, found.best.stopped) == (2, "max_nfe")


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("max_nfe", [7, 60])
def test_a_hole_beside_others_is_filled_as_alone(
    model: Checkpoint, mode: Mode, candidates: int, max_nfe: int
) -> None:
    """With chance, candidates, several canvases, given lengths and budgets that run out."""
    options = raw(
        mode,
        candidates,
        max_nfe,
        max_tokens=30,
        temperature=0.8,
        confidence_threshold=0.2,
    )
    lengths = (None, 20, 0, None, 8, 64, 100)
    requests = [
        Request(PREFIX * (1 + seed % 3), SUFFIX[seed:], replace(options, seed=seed), length=length)
        for seed, length in enumerate(lengths)
    ]
    together = fill_batch(model, requests)
    for request, beside in zip(requests, together, strict=True):
        alone = fill(model, request)
        assert [c.tokens for c in beside.candidates] == [c.tokens for c in alone.candidates]
        assert [c.stopped for c in beside.candidates] == [c.stopped for c in alone.candidates]
        assert beside.nfe == alone.nfe <= max_nfe
        shown = [(frame.canvas, frame.rows) for frame in beside.frames]
        assert shown == [(frame.canvas, frame.rows) for frame in alone.frames]
        committed = [frame.step.committed.sum(1).tolist() for frame in beside.frames]
        assert committed == [frame.step.committed.sum(1).tolist() for frame in alone.frames]


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
@settings(max_examples=20)
@given(length=st.integers(0, 64), temperature=st.sampled_from([0.0, 1.0]))
def test_a_given_length_is_kept(
    model: Checkpoint, mode: Mode, length: int, temperature: float
) -> None:
    """To the token, over several canvases, whatever `max_tokens` says."""
    options = raw(mode, max_tokens=4, temperature=temperature)
    found = fill(model, Request(PREFIX, SUFFIX, options, length=length))
    assert len(found.best.tokens) == length
    assert found.best.stopped == "length"
    assert not set(found.best.tokens) & {*model.marks.never, model.marks.eom}
    assert found.nfe <= length + length // model.settings.block_length


def test_a_given_length_beyond_the_model_is_cut_off(model: Checkpoint) -> None:
    """At half of its context, or where the budget ends."""
    found = fill(model, Request(PREFIX, SUFFIX, raw(max_nfe=200), length=65))
    assert (len(found.best.tokens), found.best.stopped) == (64, "max_tokens")
    found = fill(model, Request(PREFIX, SUFFIX, raw("ar", max_nfe=9), length=30))
    assert (len(found.best.tokens), found.best.stopped) == (9, "max_nfe")


def test_a_batch_has_one_kind_of_options(model: Checkpoint) -> None:
    """But for the seed; an empty one is nothing."""
    assert fill_batch(model, []) == []
    one, other = Request(PREFIX, SUFFIX, raw()), Request(PREFIX, SUFFIX, raw("ar"))
    with pytest.raises(ValueError, match="the same options"):
        fill_batch(model, [one, other])


@pytest.mark.parametrize(
    ("mode", "threshold"),
    [("ar", None), *(("diffuse", threshold) for threshold in (0.05, 0.1, 0.3, 0.9))],
)
def test_a_candidate_is_what_its_seed_gives_alone(
    model: Checkpoint, mode: Mode, threshold: float | None
) -> None:
    """Row n of a batch is the request with seed + n, also where rows end at different steps."""
    for seed in range(0, 30, 6):
        one, many = (
            raw(
                mode,
                count,
                max_tokens=48,
                temperature=0.8,
                confidence_threshold=threshold,
                seed=seed,
            )
            for count in (1, 3)
        )
        batch = infill(model, PREFIX, SUFFIX, many)
        alone = [infill(model, PREFIX, SUFFIX, replace(one, seed=seed + n)) for n in range(3)]
        assert {c.text for c in batch.candidates} == {a.best.text for a in alone}

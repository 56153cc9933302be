"""Another kind of model decodes through the same sampler: shifted, grouped queries, other marks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder import checkpoint
from talaria.coder.backbone import Array
from talaria.coder.canvas import Canvas
from talaria.coder.causal import UPHELD, verify
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import UsageError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import Memory, context_of, fill, fill_batch
from talaria.coder.request import Options, Request
from talaria.coder.sampler import Row, denoise
from talaria.coder.unmask import confidence_threshold
from tests.coder.qwen2 import tiny

HOLES = [
    ("def mean(values):\n    return ", "\n"),
    ("", "x = 1\n"),
    ("class Stack:\n    def push(self, item):\n        ", "\n\nprint(1)\n"),
    ("for index in ra", ":\n    print(index)\n"),
]
holes = st.sampled_from(HOLES)
UNCHECKED = Options(check_syntax=False)


@pytest.fixture(scope="module")
def qwen2(tokenizer: TalariaTokenizer) -> Checkpoint:
    """A model with a shift that can read canvases."""
    return tiny(tokenizer._bpe)


def test_the_layout_is_its_own(qwen2: Checkpoint) -> None:
    """Suffix first behind two sentinels; the prefix, which typing extends, stands last."""
    ids = qwen2.layout.fit("x = 1\n", "y = 2\n", 80)
    names = [qwen2.tokenizer.name(token) for token in ids]
    assert names[:2] == ["<|fim_prefix|>", "<|fim_suffix|>"]
    middle = names.index("<|fim_middle|>")
    assert "".join(names[2:middle]) == "y = 2\n"
    assert "".join(names[middle + 1 :]) == "x = 1\n"


@given(hole=holes, seed=st.integers(0, 3))
def test_verified_drafts_are_the_text_of_ar(
    tokenizer: TalariaTokenizer, hole: tuple[str, str], seed: int
) -> None:
    """In no more evaluations."""
    model = tiny(tokenizer._bpe, seed=seed)
    options = replace(UNCHECKED, mode="ar")
    written = fill(model, Request(*hole, options))
    verified = fill(model, Request(*hole, replace(options, mode="verify")))
    assert verified.best.tokens == written.best.tokens
    assert verified.nfe <= written.nfe


@given(hole=holes, threshold=st.floats(0, 1))
def test_canvases_are_denoised(qwen2: Checkpoint, hole: tuple[str, str], threshold: float) -> None:
    """No mark is ever written, every step commits unless it reads the end, nothing stays open."""
    options = replace(UNCHECKED, confidence_threshold=threshold)
    found = fill(qwen2, Request(*hole, options))
    assert not set(found.best.tokens) & {*qwen2.marks.never, qwen2.marks.eom}
    canvas = found.frames[0].step.canvas
    for frame in found.frames[1:]:
        assert frame.step.committed.any() or not canvas.open.any()
        canvas = frame.step.canvas
    assert not canvas.open.any()
    assert found.best.stopped in ("eom", "max_tokens", "max_nfe")


@given(hole=holes, threshold=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 5))
def test_what_masks_guessed_is_read_before_it_is_final(
    tokenizer: TalariaTokenizer, hole: tuple[str, str], threshold: float, seed: int
) -> None:
    """Every token is likely where it stands, though masks saw none of those chosen with it."""
    model = tiny(tokenizer._bpe, seed=seed)
    options = replace(UNCHECKED, confidence_threshold=threshold, max_nfe=100)
    request = Request(*hole, options)
    context, tokens = context_of(model, request), fill(model, request).best.tokens
    states, _ = model.backbone.encode([[*context, *tokens]])
    seen = states[0, len(context) : len(context) + len(tokens) - 1]
    found = model.backbone.candidates(seen, 16)
    own = np.where(found.ids == np.array(tokens[1:])[:, None], found.log_probabilities, -np.inf)
    assert (own.max(1) >= found.log_probabilities[:, 0] + np.log(UPHELD) - 1e-3).all()


@given(
    threshold=st.sampled_from([0.0, 0.05, 0.3]),
    budgets=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    heat=st.sampled_from([0.0, 0.8]),
    seed=st.integers(0, 9),
)
def test_what_stands_stays_and_keeps_the_budget(
    qwen2: Checkpoint, threshold: float, budgets: list[int], heat: float, seed: int
) -> None:
    """Guesses may fall; a row beside another writes what it writes alone."""
    contexts = [[5 + seed, 9 + number, 33] for number in range(len(budgets))]

    def written(numbers: list[int]) -> list[list[int]]:
        rows = [
            Row(np.random.default_rng(seed), budgets[n], temperature=heat * (n % 2))
            for n in numbers
        ]
        own = [contexts[number] for number in numbers]
        _, cache = qwen2.backbone.encode([context[:-1] for context in own])
        canvas = Canvas.blank(len(rows), 8, qwen2.marks)
        stands, spent = [list[int]() for _ in rows], np.zeros(len(rows), int)
        for step in verify(qwen2.backbone, cache, own, canvas, rows, 3, least=threshold):
            assert step.guessed is not None
            assert not (step.guessed & ~step.committed).any()
            spent += step.took_part
            for place, before in enumerate(stands):
                stands[place] = step.settled(place)
                assert stands[place][: len(before)] == before
                assert (
                    len(stands[place]) > len(before)
                    or not step.took_part[place]
                    or step.certain.ended[place] < 8
                )
        assert (spent <= [budgets[n] for n in numbers]).all()
        return stands

    together = written([*range(len(budgets))])
    assert together == [written([number])[0] for number in range(len(budgets))]


@given(threshold=st.sampled_from([0.0, 0.05, 0.3]), seed=st.integers(0, 9))
def test_bounds_are_looked_for_in_what_stays(
    qwen2: Checkpoint, threshold: float, seed: int
) -> None:
    """Not in guesses, which may fall."""
    asked: list[list[int]] = []

    def bound(tokens: list[int]) -> None:
        asked.append(tokens)

    row = Row(np.random.default_rng(seed), 50, bound=bound)
    context = [5 + seed, 9, 33]
    _, cache = qwen2.backbone.encode([context[:-1]])
    blank = Canvas.blank(1, 8, qwen2.marks)
    list(verify(qwen2.backbone, cache, [context], blank, [row], 3, least=threshold))
    assert all(later[: len(each)] == each for each, later in pairwise(asked))


@given(hole=holes)
def test_the_first_token_of_a_canvas_is_the_causal_one(
    qwen2: Checkpoint, hole: tuple[str, str]
) -> None:
    """The state before a canvas predicts its first token, whatever masks follow it."""
    context = qwen2.layout.fit(*hole, 60)
    states, cache = qwen2.backbone.encode([context])
    causal = qwen2.backbone.candidates(states[0, -1:], 5)
    masks = np.full((1, 6), qwen2.marks.mask)
    seen = qwen2.backbone.denoise(masks, cache, [context[-1]])
    assert seen.shape[1] == masks.shape[1]
    parallel = qwen2.backbone.candidates(seen[0, :1], 5)
    assert parallel.ids.tolist() == causal.ids.tolist()
    np.testing.assert_allclose(parallel.log_probabilities, causal.log_probabilities, atol=1e-4)


def test_a_canvas_sees_itself_in_both_directions(qwen2: Checkpoint) -> None:
    """A token later in the canvas changes the prediction of an earlier one."""
    context = qwen2.layout.fit(*HOLES[0], 60)
    _, cache = qwen2.backbone.encode([context])
    masks = np.full((1, 6), qwen2.marks.mask)
    known = masks.copy()
    known[0, 4] = 5
    before, after = (
        qwen2.backbone.denoise(canvas, cache, [context[-1]]) for canvas in (masks, known)
    )
    np.testing.assert_allclose(before[0, 0], after[0, 0], atol=1e-5)  # the causal one
    assert np.abs(before[0, 1:] - after[0, 1:]).max() > 1e-3


@given(seed=st.integers(0, 99), leftmost=st.booleans())
def test_what_is_known_of_a_canvas_is_read_once(
    qwen2: Checkpoint, seed: int, leftmost: bool
) -> None:
    """The states of masks are those of the whole canvas; rows go on at their own pace.

    Also where a step decides nothing behind the last known token, but something further right.
    """
    backbone, rng = qwen2.backbone, np.random.default_rng(seed)
    contexts = [[3, 4, 5, 6, 7], [8, 9]]
    last = [context[-1] for context in contexts]
    _, cache = backbone.encode(contexts)
    canvas = np.full((2, 30), qwen2.marks.mask)
    reading = backbone.begin(cache, last)
    for _ in range(6):
        known = (canvas == qwen2.marks.mask).argmax(1)
        widths = known + rng.integers(1, 6, 2)
        states, reading = backbone.denoise_on(canvas, reading, widths, known)
        whole = backbone.denoise(canvas, cache, last, np.arange(30) < widths[:, None])
        for row, (begin, end) in enumerate(zip(known, widths, strict=True)):
            np.testing.assert_allclose(states[row, begin:end], whole[row, begin:end], atol=1e-4)
            more = rng.integers(1, 3) if leftmost else rng.integers(3)
            canvas[row, begin : begin + more] = rng.integers(10, 200, more)
            canvas[row, end - 1] = rng.integers(10, 200)


def test_a_step_reads_what_is_new_and_the_masks(
    qwen2: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token decided, three masks ahead: four positions in every step of a canvas."""
    options = replace(UNCHECKED, confidence_threshold=1.0, lookahead=4, max_tokens=8)
    read: list[int] = []
    evaluate = qwen2.backbone.evaluate

    def recorded(ids: Array, *given: Any, **named: Any) -> Any:
        read.append(ids.shape[1])
        return evaluate(ids, *given, **named)

    monkeypatch.setattr(qwen2.backbone, "evaluate", recorded)
    found = fill(qwen2, Request(*HOLES[0], options))
    assert found.nfe == len(read) - 1 > 4  # the first one reads the context
    assert set(read[1:-3]) == {4}
    assert max(read[-3:]) <= 4  # the canvas ends


def test_an_end_that_is_given_takes_no_wider_steps(
    qwen2: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing before it sees it; the last step of a budget is as wide as what is left."""
    backbone = qwen2.backbone
    _, cache = backbone.encode([[3, 4, 5]])
    canvas = Canvas.blank(1, 20, qwen2.marks).ending([12])
    read: list[int] = []
    evaluate = backbone.evaluate

    def recorded(ids: Array, *given: Any, **named: Any) -> Any:
        read.append(ids.shape[1])
        return evaluate(ids, *given, **named)

    monkeypatch.setattr(backbone, "evaluate", recorded)
    rows = [Row(np.random.default_rng(0), max_nfe=5, ends=False)]
    steps = list(denoise(backbone, cache, [5], canvas, confidence_threshold(1.0), rows, 4))
    assert read == [4, 4, 4, 4, 16]
    assert steps[-1].canvas.ended.tolist() == [12]
    assert not steps[-1].canvas.open.any()


@pytest.mark.parametrize("mode", ["diffuse", "verify", "ar"])
def test_a_row_of_a_batch_is_its_solo_row(qwen2: Checkpoint, mode: str) -> None:
    """Text, evaluations and why it stopped."""
    options = replace(UNCHECKED, mode=mode)  # type: ignore[arg-type]
    requests = [Request(*hole, options) for hole in HOLES]
    together = fill_batch(qwen2, requests)
    for each, request in zip(together, requests, strict=True):
        alone = fill(qwen2, request)
        assert (each.best.text, each.best.stopped, each.nfe) == (
            *(alone.best.text, alone.best.stopped),
            alone.nfe,
        )


def test_typing_reads_what_is_new(qwen2: Checkpoint) -> None:
    """A reused context gives the same text, and its tokens are not read again."""
    memory = Memory(qwen2)
    prefix, suffix = HOLES[0]
    for typed in ("", "s", "su", "sum"):
        request = Request(prefix + typed, suffix, UNCHECKED)
        found = fill(qwen2, request, memory=memory)
        assert found.best == fill(qwen2, request).best
        assert bool(found.reused_tokens) == bool(typed)


def test_a_causal_model_cannot_denoise(tokenizer: TalariaTokenizer) -> None:
    """It says which modes it can do; those work."""
    model = tiny(tokenizer._bpe, denoises=False)
    with pytest.raises(UsageError, match="--mode verify or ar"):
        fill(model, Request(*HOLES[0]))
    assert fill(model, Request(*HOLES[0], replace(UNCHECKED, mode="verify"))).nfe


def test_nothing_but_the_table_names_a_family() -> None:
    """Decoders, layouts and commands use models only through the seams."""
    for path in (Path(checkpoint.__file__).parent).glob("**/*.py"):
        if path.parent.name != "families":
            text = path.read_text(encoding="utf-8")
            named = [line for line in text.splitlines() if "coder.families" in line]
            assert not [line for line in named if line.lstrip().startswith(("import", "from"))], (
                path
            )

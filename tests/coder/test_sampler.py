"""Denoising ends, within its budget, and what is frozen stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.canvas import Canvas
from talaria.coder.sampler import Row, Step, ahead, autoregress, denoise
from talaria.coder.tokenizer import Tokenizer
from talaria.coder.transformer import Transformer
from talaria.coder.unmask import confidence_threshold, entropy_bound, top_k

CONTEXT = [5, 9, 33, 120, 7]


def rows(*seeds: int, max_nfe: int = 50, ends: bool = True, temperature: float = 0.0) -> list[Row]:
    """A row for each seed."""
    return [
        Row(torch.Generator().manual_seed(seed), max_nfe, ends, temperature=temperature)
        for seed in seeds
    ]


@pytest.mark.parametrize("kind", ["denoiser", "chainless"])
@given(
    max_nfe=st.integers(1, 12),
    threshold=st.floats(0, 1),
    temperature=st.sampled_from([0.0, 1.0]),
    frozen=st.dictionaries(st.integers(0, 7), st.integers(0, 300), max_size=4),
)
def test_denoising_keeps_its_promises(
    request: pytest.FixtureRequest,
    kind: str,
    tokenizer: Tokenizer,
    max_nfe: int,
    threshold: float,
    temperature: float,
    frozen: dict[int, int],
) -> None:
    """No mask remains before `<eom>`, steps keep the budget, frozen positions never change."""
    denoiser: Transformer = request.getfixturevalue(kind)
    _, cache = denoiser.encode([CONTEXT])
    canvas = Canvas.blank(1, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
    for place, token in frozen.items():
        canvas.ids[0, place] = token
    steps = list(
        denoise(
            denoiser,
            cache,
            canvas,
            confidence_threshold(threshold),
            rows(1, max_nfe=max_nfe, temperature=temperature),
        )
    )
    assert 1 <= len(steps) <= max_nfe
    end = steps[-1].canvas
    assert not end.open.any()
    for step in steps:
        ended = int(step.canvas.ended[0])
        for place, token in frozen.items():
            assert place > ended or step.canvas.ids[0, place] == token
        assert (step.canvas.ids[0, ended + 1 :] == tokenizer.mask).all()
        assert (step.canvas.ids <= tokenizer.eom).all()
    if len(steps) < max_nfe:
        assert sum(int(step.committed.sum()) for step in steps) >= len(end.middle(0)) - len(frozen)


def test_a_chain_says_each_token_in_sight_of_those_before(
    denoiser: Transformer, tokenizer: Tokenizer
) -> None:
    """A canvas of one evaluation is what the chain writes token by token, frozen ones included."""
    _, cache = denoiser.encode([CONTEXT] * 2)
    canvas = Canvas.blank(2, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
    canvas.ids[0, 2] = 77
    hidden = denoiser.denoise(canvas.ids, cache)
    (step,) = denoise(denoiser, cache, canvas, confidence_threshold(0), rows(0, 1, ends=False))
    for row in range(2):
        said = [tokenizer.mask]
        for place in range(8):
            states, _ = denoiser.chain(hidden[row : row + 1, : place + 1], torch.tensor([said]), ())
            said_of = states[0, -1] if place else hidden[row, 0]  # the first is the pass's own
            chances = denoiser.logits(said_of)[: tokenizer.mask].softmax(-1)
            frozen = row == 0 and place == 2
            said.append(77 if frozen else int(chances.argmax()))
            if not frozen:
                torch.testing.assert_close(step.confidence[row, place], chances.max())
        assert step.canvas.ids[row].tolist() == said[1:]


def test_a_chain_goes_no_further_than_the_rule(
    denoiser: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for what is committed and one token more, but for the first."""
    asked: list[int] = []
    real = denoiser.chain

    def chain(hidden: torch.Tensor, *more: Any) -> Any:
        asked.append(hidden.shape[1])
        return real(hidden, *more)

    monkeypatch.setattr(denoiser, "chain", chain)
    _, cache = denoiser.encode([CONTEXT])
    canvas = Canvas.blank(1, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
    steps = denoise(denoiser, cache, canvas, top_k(3), rows(0, ends=False))
    assert [int(step.committed.sum()) for step in steps] == [3, 3, 2]
    assert asked == [2, 1, 1, 5, 1, 1, 8]


@pytest.mark.parametrize("max_nfe", [1, 50])
def test_a_chain_stops_where_the_middle_ends(
    denoiser: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, max_nfe: int
) -> None:
    """Nothing is asked for behind `<eom>`, also in the last evaluation; other rows go on."""
    asked: list[int] = []
    real = denoiser.logits

    def ending(hidden: torch.Tensor) -> torch.Tensor:
        """Logits of a model that ends the first row with its third token, no other."""
        logits = real(hidden)
        logits[:, tokenizer.eom] = -100.0
        if len(asked) == 2:
            logits[0, tokenizer.eom] = 100.0
        asked.append(len(hidden))
        return logits

    monkeypatch.setattr(denoiser, "logits", ending)
    _, cache = denoiser.encode([CONTEXT] * 2)
    canvas = Canvas.blank(2, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
    both = rows(0, 1, max_nfe=max_nfe)
    (step,) = denoise(denoiser, cache, canvas, confidence_threshold(0), both)
    assert asked == [2, 2, 2, 1, 1, 1, 1, 1]
    assert step.canvas.ended.tolist() == [2, 8]
    assert (step.confidence > 0).sum(1).tolist() == [3, 8]


def test_the_entropy_of_a_chain_is_that_of_all_its_tokens(
    denoiser: Transformer, tokenizer: Tokenizer
) -> None:
    """From the left, so many as leave the sum of all entropies but the largest within a bound."""
    _, cache = denoiser.encode([CONTEXT])
    canvas = Canvas.blank(1, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
    hidden = denoiser.denoise(canvas.ids, cache)
    whole = rows(0, ends=False)
    (step,) = denoise(denoiser, cache, canvas, confidence_threshold(0), whole)
    said = torch.cat((torch.tensor([[tokenizer.mask]]), step.canvas.ids[:, :-1]), 1)
    states, _ = denoiser.chain(hidden, said, ())
    states[:, 0] = hidden[:, 0]  # the first is the pass's own
    chances = denoiser.logits(states)[0, :, : tokenizer.mask].softmax(-1)
    entropy = torch.special.entr(chances).sum(-1)
    excess = entropy.cumsum(0) - entropy.cummax(0).values
    for count in (1, 3, 6):
        bound = float(excess[count - 1] + excess[count]) / 2
        first = next(denoise(denoiser, cache, canvas, entropy_bound(bound), whole))
        assert first.committed[0].tolist() == [True] * count + [False] * (8 - count)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_batch_row_is_denoised_as_it_is_alone(
    denoiser: Transformer, tokenizer: Tokenizer, temperature: float
) -> None:
    """Candidates in one batch do not disturb each other, whatever the temperature of each."""
    rule = confidence_threshold(0.5)
    _, cache = denoiser.encode([CONTEXT] * 3)
    blank = Canvas.blank(3, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
    three = [*rows(1), *rows(2, 3, temperature=temperature)]
    *_, together = denoise(denoiser, cache, blank, rule, three)
    again = [*rows(1), *rows(2, 3, temperature=temperature)]
    for row in range(3):
        _, solo = denoiser.encode([CONTEXT])
        blank = Canvas.blank(1, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
        *_, alone = denoise(denoiser, solo, blank, rule, [again[row]])
        assert alone.canvas.middle(0) == together.canvas.middle(row)


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_ended_rows_cost_nothing(
    denoiser: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Rows with 3, 0, 1 and 2 open positions: the denoiser sees only those that have one left."""
    seen: list[int] = []
    real = denoiser.run

    def run(ids: torch.Tensor, positions: torch.Tensor, attend: Any) -> torch.Tensor:
        seen.append(len(ids))
        return real(ids, positions, attend)

    _, cache = denoiser.encode([CONTEXT, CONTEXT[:2], [*CONTEXT, *CONTEXT], CONTEXT[1:]])
    blank = Canvas.blank(4, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
    canvas, four = blank.ending([3, 0, 1, 2]), rows(0, 1, 2, 3, ends=False)
    monkeypatch.setattr(denoiser, "run", run)
    if mode == "diffuse":
        steps = list(denoise(denoiser, cache, canvas, confidence_threshold(1), four))
    else:
        steps = list(autoregress(denoiser, cache, 7, canvas, four))
    assert seen == [3, 2, 1]
    took_part = [step.committed.any(1).tolist() for step in steps]
    assert took_part[1] == [True, False, False, True]
    assert [len(steps[-1].canvas.middle(row)) for row in range(4)] == [3, 0, 1, 2]


def test_each_row_has_a_budget_of_its_own(denoiser: Transformer, tokenizer: Tokenizer) -> None:
    """The row that may take two steps is finished in the second, by force; the other goes on."""
    _, cache = denoiser.encode([CONTEXT] * 2)
    blank = Canvas.blank(2, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
    both = [*rows(0, max_nfe=2, ends=False), *rows(1, ends=False)]
    steps: list[Step] = list(denoise(denoiser, cache, blank, confidence_threshold(1), both))
    assert len(steps) == 8
    assert [step.forced.tolist() for step in steps[:3]] == [
        [False, False],
        [True, False],
        [False, False],
    ]
    assert not steps[1].canvas.open[0].any()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_the_length_is_given_no_eom_is_drawn(
    denoiser: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """Neither before the frozen one nor in a canvas that has none, however likely it is."""
    _, cache = denoiser.encode([CONTEXT] * 3)
    blank = Canvas.blank(3, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
    real = denoiser.logits

    def eager(hidden: torch.Tensor) -> torch.Tensor:
        """Logits of a model that would end at once."""
        logits = real(hidden)
        logits[..., tokenizer.eom] = 100.0
        return logits

    monkeypatch.setattr(denoiser, "logits", eager)
    three = [
        *rows(0, 1, ends=False, temperature=temperature),
        *rows(2, temperature=temperature),
    ]
    canvas = blank.ending([5, 9, None])
    rule = confidence_threshold(0.9)
    *_, last = denoise(denoiser, cache, canvas, rule, three)
    assert last.canvas.ended.tolist() == [5, 8, 0]
    assert [len(last.canvas.middle(row)) for row in range(3)] == [5, 8, 0]


def test_eom_remasks_what_follows(tokenizer: Tokenizer) -> None:
    """What was committed after an `<eom>` becomes masks, and none of it is open."""
    canvas = Canvas.blank(1, 6, tokenizer.mask, tokenizer.eom, torch.device("cpu"))
    late = torch.tensor([[False, False, False, False, True, False]])
    canvas = canvas.commit(torch.full((1, 6), 7), late)
    early = torch.tensor([[False, False, True, False, False, False]])
    canvas = canvas.commit(torch.full((1, 6), tokenizer.eom), early)
    assert canvas.ids[0].tolist() == [tokenizer.mask] * 2 + [tokenizer.eom] + [tokenizer.mask] * 3
    assert canvas.open[0].tolist() == [True, True, False, False, False, False]
    assert canvas.middle(0) == []


def test_autoregression_is_greedy_decoding(denoiser: Transformer, tokenizer: Tokenizer) -> None:
    """Token by token it writes what an uncached left-to-right reading predicts."""
    _, cache = denoiser.encode([CONTEXT[:-1]])
    blank = Canvas.blank(1, 6, tokenizer.mask, tokenizer.eom, denoiser.device)
    *_, last = autoregress(denoiser, cache, CONTEXT[-1], blank, rows(0, max_nfe=6))
    text = list(CONTEXT)
    for _ in range(6):
        hidden, _ = denoiser.encode([text])
        logits = denoiser.logits(hidden)[0, -1]
        logits[tokenizer.mask] = -torch.inf
        logits[tokenizer.eom + 1 :] = -torch.inf
        text.append(int(logits.argmax()))
        if text[-1] == tokenizer.eom:
            break
    expected = text[len(CONTEXT) :]
    assert last.canvas.ids[0, : len(expected)].tolist() == expected


def test_a_step_looks_so_far_ahead(denoiser: Transformer, tokenizer: Tokenizer) -> None:
    """From the first open position on; None, or a row whose end is given, sees all of it."""
    blank = Canvas.blank(2, 8, tokenizer.mask, tokenizer.eom, denoiser.device)
    blank.ids[0, :2] = 7
    none = torch.zeros(2, dtype=torch.bool)
    assert ahead(blank, none, 3).sum(1).tolist() == [5, 3]
    assert ahead(blank, none, None).all()
    assert ahead(blank, torch.tensor([False, True]), 3).sum(1).tolist() == [5, 8]
    _, cache = denoiser.encode([CONTEXT] * 2)
    blank.ids[0] = tokenizer.mask
    for lookahead in (1, 3, None):
        both = rows(0, 1)
        first = next(denoise(denoiser, cache, blank, confidence_threshold(0), both, lookahead))
        assert int(first.committed.sum(1).max()) <= (lookahead or 8)
        assert not first.committed[:, lookahead or 8 :].any()

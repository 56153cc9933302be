"""Rules commit what they say, only open positions, and always the leftmost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from talaria.coder.unmask import (
    Prediction,
    Rule,
    confidence_factor,
    confidence_threshold,
    entropy_bound,
    top_k,
)

BLOCK, VOCAB = 6, 5  # the last token is <eom>


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    """Two rows, some of whose positions are open, with any probabilities."""
    where = torch.tensor(draw(st.lists(st.booleans(), min_size=12, max_size=12))).view(2, BLOCK)
    weight = st.floats(0.001, 1)
    rows = st.lists(weight, min_size=VOCAB, max_size=VOCAB)
    drawn = [draw(rows) for _ in range(int(where.sum()))]
    probabilities = torch.tensor(drawn, dtype=torch.float64).view(-1, VOCAB)
    chained = draw(st.booleans())
    return prediction(where, probabilities / probabilities.sum(-1, keepdim=True), chained)


def prediction(where: Tensor, probabilities: Tensor, chained: bool = False) -> Prediction:
    """What is predicted at the open positions, the likeliest token chosen."""
    nowhere = torch.zeros(where.shape, dtype=probabilities.dtype)
    chances, tokens = probabilities.max(-1)
    return Prediction(
        where,
        torch.zeros(where.shape, dtype=torch.long).masked_scatter(where, tokens),
        nowhere.masked_scatter(where, chances),
        nowhere.masked_scatter(where, probabilities[:, -1]),
        ((where, probabilities),),
        chained,
    )


RULES = [confidence_threshold(0.4), confidence_factor(1.5), entropy_bound(0.8), top_k(2)]


@pytest.mark.parametrize("rule", RULES)
@given(predictions())
def test_every_rule_commits_open_positions_and_at_least_one(
    rule: Rule, prediction: Prediction
) -> None:
    """So that denoising ends; a row that is finished stays as it is."""
    commit = rule(prediction)
    assert not (commit & ~prediction.open).any()
    assert torch.equal(commit.any(1), prediction.open.any(1))


@pytest.mark.parametrize("rule", RULES[:3])
@given(predictions())
def test_the_leftmost_is_always_committed(rule: Rule, prediction: Prediction) -> None:
    """It is the one position that the middle is sure to reach."""
    commit = rule(prediction)
    for row in range(2):
        for place in range(BLOCK):
            if prediction.open[row, place]:
                assert commit[row, place]
                break


@given(predictions())
def test_confidence_counts_that_the_middle_gets_as_far(prediction: Prediction) -> None:
    """The token's probability times that of no end before it."""
    prediction = replace(prediction, chained=False)
    for row in range(2):
        going = 1.0
        for place in range(BLOCK):
            expected = float(prediction.probability[row, place]) * going
            assert float(prediction.confidence[row, place]) == pytest.approx(expected)
            going *= 1 - float(prediction.ending[row, place])


def order_of(prediction: Prediction, row: int) -> list[int]:
    """The open positions of a row, the surest first."""
    open_ = prediction.open[row].nonzero().flatten().tolist()
    return sorted(open_, key=lambda place: -float(prediction.confidence[row, place]))


def committed(rule: Rule, prediction: Prediction, row: int) -> set[int]:
    """What a rule commits."""
    return set(rule(prediction)[row].nonzero().flatten().tolist())


def leftmost(prediction: Prediction, row: int) -> set[int]:
    """The first open position, if there is one."""
    return set(prediction.open[row].nonzero().flatten().tolist()[:1])


@given(predictions(), st.floats(0, 1))
def test_the_threshold(prediction: Prediction, threshold: float) -> None:
    """All that are sure enough."""
    for row in range(2):
        sure = {p for p in order_of(prediction, row) if prediction.confidence[row, p] >= threshold}
        expected = sure | leftmost(prediction, row)
        assert committed(confidence_threshold(threshold), prediction, row) == expected


@given(predictions(), st.floats(0, 4))
def test_the_factor(prediction: Prediction, factor: float) -> None:
    """The largest n for which the n-th surest is sure enough for n tokens at once."""
    for row in range(2):
        order = order_of(prediction, row)
        most = 0
        for n, place in enumerate(order, 1):
            if (n + 1) * (1 - float(prediction.confidence[row, place])) < factor:
                most = n
        expected = set(order[:most]) | leftmost(prediction, row)
        assert committed(confidence_factor(factor), prediction, row) == expected


@given(predictions(), st.floats(0, 4))
def test_the_entropy_bound(prediction: Prediction, bound: float) -> None:
    """As many of the surest as leave the sum of all entropies but the largest within the bound."""
    for row in range(2):
        taken: list[int] = []
        for place in order_of(prediction, row):
            tried = [float(prediction.entropy[row, p]) for p in [*taken, place]]
            if sum(tried) - max(tried) > bound + 1e-9:
                break
            taken.append(place)
        expected = set(taken) | leftmost(prediction, row)
        assert committed(entropy_bound(bound), prediction, row) == expected


@given(predictions(), st.integers(1, 8))
def test_the_schedule(prediction: Prediction, k: int) -> None:
    """So many of the surest."""
    for row in range(2):
        assert committed(top_k(k), prediction, row) == set(order_of(prediction, row)[:k])


def test_entropy_is_in_nats() -> None:
    """Of even chances, the logarithm of their number; of certainty, nothing."""
    where = torch.tensor([[True, False, True]])
    found = prediction(where, torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]))
    assert found.entropy.tolist() == [[pytest.approx(math.log(4)), 0, 0]]


@given(predictions(), st.lists(st.booleans(), min_size=12, max_size=12))
def test_what_is_predicted_in_parts_is_one_prediction(whole: Prediction, first: list[bool]) -> None:
    """Confidence and entropy are those of all predicted at once, and so is what a rule commits."""
    ((where, probabilities),) = whole.parts
    early = torch.tensor(first).view(2, BLOCK)
    halves = [
        prediction(where & part, probabilities[part[where]], whole.chained)
        for part in (early, ~early)
    ]
    joined = halves[0] | halves[1]
    for field in ("open", "tokens", "probability", "ending", "confidence", "entropy"):
        torch.testing.assert_close(getattr(joined, field), getattr(whole, field))
    for rule in RULES:
        assert torch.equal(rule(joined), rule(whole))


def test_chained_confidence_is_that_of_the_run_behind_the_first() -> None:
    """The first is chosen anyhow; what is committed already is in no doubt."""
    where = torch.tensor([[True, False, True, True]])
    chances = torch.tensor([[0.4, 0.6], [0.8, 0.2], [0.5, 0.5]])
    found = prediction(where, chances, chained=True)
    torch.testing.assert_close(found.confidence, torch.tensor([[1, 0, 0.8, 0.4]]))
    assert confidence_threshold(0.8)(found).tolist() == [[True, False, True, False]]

"""Rules commit what they say, only open positions, and always the leftmost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.backbone import Array, Candidates
from talaria.coder.unmask import Prediction, confidence_threshold

BLOCK, VOCAB = 6, 5  # the last token is <eom>


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    """Two rows, some of whose positions are open, with any probabilities."""
    where = np.array(draw(st.lists(st.booleans(), min_size=12, max_size=12))).reshape(2, BLOCK)
    weight = st.floats(0.001, 1)
    rows = st.lists(weight, min_size=VOCAB, max_size=VOCAB)
    drawn = [draw(rows) for _ in range(int(where.sum()))]
    probabilities = np.array(drawn, np.float64).reshape(-1, VOCAB)
    chained = draw(st.booleans())
    return prediction(where, probabilities / probabilities.sum(-1, keepdims=True), chained)


def prediction(where: Array, probabilities: Array, chained: bool = False) -> Prediction:
    """What is predicted at the open positions, the likeliest token chosen."""

    def spread(values: Array) -> Array:
        """Values at the open positions, 0 elsewhere."""
        found = np.zeros(where.shape, values.dtype)
        found[where] = values
        return found

    ids = np.argsort(-probabilities, axis=1)
    with np.errstate(divide="ignore"):
        logs = np.log(np.take_along_axis(probabilities, ids, 1))
    return Prediction(
        where,
        spread(ids[:, 0]),
        spread(np.exp(logs[:, 0])),
        spread(probabilities[:, -1]),
        ((where, Candidates(ids, logs)),),
        chained,
    )


@given(predictions(), st.floats(0, 1))
def test_a_rule_commits_open_positions_and_the_leftmost(
    prediction: Prediction, threshold: float
) -> None:
    """So that denoising ends; a row that is finished stays as it is.

    The leftmost is the one position that the middle is sure to reach.
    """
    commit = confidence_threshold(threshold)(prediction)
    assert not (commit & ~prediction.open).any()
    assert (commit.any(1) == prediction.open.any(1)).all()
    for row in range(2):
        assert leftmost(prediction, row) <= set(np.flatnonzero(commit[row]))


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


def leftmost(prediction: Prediction, row: int) -> set[int]:
    """The first open position, if there is one."""
    return set(np.flatnonzero(prediction.open[row])[:1].tolist())


@given(predictions(), st.floats(0, 1))
def test_the_threshold(prediction: Prediction, threshold: float) -> None:
    """All that are sure enough."""
    commit = confidence_threshold(threshold)(prediction)
    for row in range(2):
        open_ = np.flatnonzero(prediction.open[row]).tolist()
        sure = {place for place in open_ if prediction.confidence[row, place] >= threshold}
        expected = sure | leftmost(prediction, row)
        assert set(np.flatnonzero(commit[row]).tolist()) == expected


def part_of(whole: Prediction, places: Array) -> Prediction:
    """What is predicted at some of the places."""
    ((where, found),) = whole.parts
    here, rows = where & places, places[where]
    return Prediction(
        here,
        whole.tokens * here,
        whole.probability * here,
        whole.ending * here,
        ((here, Candidates(found.ids[rows], found.log_probabilities[rows])),),
        whole.chained,
    )


@given(predictions(), st.lists(st.booleans(), min_size=12, max_size=12), st.floats(0, 1))
def test_what_is_predicted_in_parts_is_one_prediction(
    whole: Prediction, first: list[bool], threshold: float
) -> None:
    """Confidence is that of all predicted at once, and so is what a rule commits."""
    early = np.array(first).reshape(2, BLOCK)
    joined = part_of(whole, early) | part_of(whole, ~early)
    for field in ("open", "tokens", "probability", "ending", "confidence"):
        np.testing.assert_allclose(getattr(joined, field), getattr(whole, field), rtol=1e-5)
    assert len(joined.parts) == 2
    rule = confidence_threshold(threshold)
    near = np.isclose(whole.confidence, threshold, rtol=1e-5)
    assert ((rule(joined) == rule(whole)) | near).all()


def test_chained_confidence_is_that_of_the_run_behind_the_first() -> None:
    """The first is chosen anyhow; what is committed already is in no doubt."""
    where = np.array([[True, False, True, True]])
    chances = np.array([[0.4, 0.6], [0.8, 0.2], [0.5, 0.5]])
    found = prediction(where, chances, chained=True)
    np.testing.assert_allclose(found.confidence, np.array([[1, 0, 0.8, 0.4]]), rtol=1e-6)
    assert confidence_threshold(0.8)(found).tolist() == [[True, False, True, False]]


def test_a_prediction_for_no_position_adds_nothing() -> None:
    """Nothing is open in it, whatever it is joined with."""
    where = np.array([[True, False, True]])
    found = prediction(where, np.array([[0.4, 0.6], [0.8, 0.2]]))
    joined = Prediction.nothing(where.shape) | found
    for field in ("open", "tokens", "probability", "ending"):
        assert (getattr(joined, field) == getattr(found, field)).all()
    assert joined.parts == found.parts

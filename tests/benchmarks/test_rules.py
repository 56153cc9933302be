"""The rules that did not win commit what they promise, and at least one open position."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import decoding, rules
from benchmarks.rules import confidence_factor, entropies, entropy_bound, top_k
from talaria.coder.backbone import Array, Candidates
from talaria.coder.errors import UsageError
from talaria.coder.unmask import Prediction, Rule
from talaria.finetune.corpus import CorpusDocument, write_corpus

BLOCK, VOCAB = 6, 5  # the last token is <eom>


def prediction(where: Array, probabilities: Array, chained: bool = False) -> Prediction:
    """A prediction that chooses the likeliest token; all tokens are candidates."""
    order = np.argsort(-probabilities, axis=1)
    with np.errstate(divide="ignore"):
        logs = np.log(np.take_along_axis(probabilities, order, 1))
    tokens, chances, ending = (np.zeros(where.shape, kind) for kind in (int, float, float))
    tokens[where], chances[where] = order[:, 0], np.exp(logs[:, 0])
    ending[where] = probabilities[:, -1]
    parts = ((where, Candidates(order, logs)),)
    return Prediction(where, tokens, chances, ending, parts, chained)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    """Two rows with random open positions and probabilities."""
    where = np.array(draw(st.lists(st.booleans(), min_size=12, max_size=12))).reshape(2, BLOCK)
    rows = st.lists(st.floats(0.001, 1), min_size=VOCAB, max_size=VOCAB)
    drawn = np.array([draw(rows) for _ in range(int(where.sum()))]).reshape(-1, VOCAB)
    return prediction(where, drawn / drawn.sum(1, keepdims=True), draw(st.booleans()))


RULES = [confidence_factor(1.5), entropy_bound(0.8), top_k(2)]


@pytest.mark.parametrize("rule", RULES)
@given(predictions())
def test_every_rule_commits_open_positions_and_at_least_one(
    rule: Rule, prediction: Prediction
) -> None:
    """So denoising ends, and finished rows stay unchanged."""
    commit = rule(prediction)
    assert not (commit & ~prediction.open).any()
    assert (commit.any(1) == prediction.open.any(1)).all()


@pytest.mark.parametrize("rule", RULES[:2])
@given(predictions())
def test_the_leftmost_is_always_committed(rule: Rule, prediction: Prediction) -> None:
    """It is the only position that the middle certainly reaches."""
    assert not (prediction.leftmost & ~rule(prediction)).any()


def order_of(prediction: Prediction, row: int) -> list[int]:
    """The open positions of a row, the most confident first."""
    places = np.flatnonzero(prediction.open[row]).tolist()
    return sorted(places, key=lambda place: -float(prediction.confidence[row, place]))


def committed(rule: Rule, prediction: Prediction, row: int) -> set[int]:
    """The positions of a row that a rule commits."""
    return set(np.flatnonzero(rule(prediction)[row]).tolist())


def leftmost(prediction: Prediction, row: int) -> set[int]:
    """The first open position, if there is one."""
    return set(np.flatnonzero(prediction.open[row]).tolist()[:1])


@given(predictions(), st.floats(0, 4))
def test_the_factor(prediction: Prediction, factor: float) -> None:
    """It commits the largest n whose n-th token is confident enough for n at once."""
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
    """It commits while the sum of all entropies except the largest stays within the bound."""
    entropy = entropies(prediction)
    for row in range(2):
        taken: list[int] = []
        for place in order_of(prediction, row):
            tried = [float(entropy[row, p]) for p in [*taken, place]]
            excess = sum(tried) - max(tried)
            if abs(excess - bound) < 1e-9:
                return  # decided by rounding
            if excess > bound:
                break
            taken.append(place)
        expected = set(taken) | leftmost(prediction, row)
        assert committed(entropy_bound(bound), prediction, row) == expected


@given(predictions(), st.integers(1, 8))
def test_the_schedule(prediction: Prediction, k: int) -> None:
    """It commits the k most confident."""
    for row in range(2):
        assert committed(top_k(k), prediction, row) == set(order_of(prediction, row)[:k])


def test_entropy_is_in_nats() -> None:
    """For even chances, the logarithm of their number; for certainty, 0."""
    where = np.array([[True, False, True]])
    even, certain = [0.25] * 4, [1.0, 0.0, 0.0, 0.0]
    found = entropies(prediction(where, np.array([even, certain])))
    assert found.tolist() == [[pytest.approx(math.log(4)), 0, pytest.approx(0)]]


@given(predictions(), st.integers(1, VOCAB))
def test_entropy_from_few_candidates_is_a_lower_bound(whole: Prediction, k: int) -> None:
    """All other tokens count as a single one."""
    ((where, candidates),) = whole.parts
    few = Candidates(candidates.ids[:, :k], candidates.log_probabilities[:, :k])
    bounded = Prediction(where, whole.tokens, whole.probability, whole.ending, ((where, few),))
    assert (entropies(bounded) <= entropies(whole) + 1e-9).all()
    if k >= VOCAB - 1:
        assert entropies(bounded) == pytest.approx(entropies(whole))


def test_the_command(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It prints a row for every rule."""
    monkeypatch.setattr(decoding, "MEASURED", (20, 0))
    text = "".join(f"x{n} = {n} + y\n" for n in range(20))
    held_out = [CorpusDocument("post", f"{name}.py", text) for name in "ab"]
    corpus = tmp_path / "corpus"
    write_corpus(corpus, {"valid": held_out}, {"packages": []})
    words = ["--corpus", str(corpus), "--model", str(model_folder), "--cursors"]
    assert rules.main([*words, "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(name) for line, name in zip(lines[1:], rules.COMPARED, strict=True)]
    with pytest.raises(UsageError, match="--cursors is 1; it must be at least 2"):
        rules.main([*words, "1"])

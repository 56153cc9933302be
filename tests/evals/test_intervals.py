"""Intervals have their nominal coverage, and pass@k is unbiased."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.evals.intervals import bootstrap, compare, pass_at_k, wilson


def test_wilson_has_its_published_values() -> None:
    """Including at 0 and 1, where the normal interval has no width."""
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)  # Newcombe 1998
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20)[1] == 1.0


@given(samples=st.integers(1, 8), right=st.integers(0, 8), k=st.integers(1, 8))
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(samples: int, right: int, k: int) -> None:
    """The estimate equals the count over all draws of k."""
    right = min(right, samples)
    if k > samples:
        with pytest.raises(ValueError, match="needs"):
            pass_at_k(samples, right, k)
        return
    draws = list(itertools.combinations([True] * right + [False] * (samples - right), k))
    assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_clusters_widen_the_interval() -> None:
    """Ten equal rows per task add almost nothing; for independent rows, it agrees with Wilson's."""
    rng = random.Random(0)
    tasks = [float(rng.random() < 0.3) for _ in range(100)]
    rows, names = [value for value in tasks for _ in range(10)], [str(i // 10) for i in range(1000)]
    grouped = bootstrap(rows, names)
    alone = bootstrap(rows, [str(i) for i in range(1000)])
    assert grouped is not None
    assert alone is not None
    assert grouped[1] - grouped[0] > 2.5 * (alone[1] - alone[0])
    hits = int(sum(rows))
    assert alone == pytest.approx(wilson(hits, 1000), abs=0.01)
    assert bootstrap([1.0, 1.0], ["a", "b"]) is None
    assert bootstrap(rows, names) == grouped


def test_the_interval_covers_the_truth() -> None:
    """The interval contains the truth in about 95 of 100 repetitions."""
    rng = random.Random(1)
    covered = 0
    for _ in range(100):
        values = [float(rng.random() < 0.4) for _ in range(150)]
        found = bootstrap(values, [str(i) for i in range(150)])
        assert found is not None
        covered += found[0] <= 0.4 <= found[1]
    assert 88 <= covered <= 100


def test_a_comparison_counts_pairs() -> None:
    """McNemar's exact p is the two-sided binomial of the discordant pairs."""
    first = [True] * 5 + [False] * 5 + [True] * 3
    second = [True] * 4 + [False] + [True] * 5 + [False] * 3
    found = compare(first, second, [str(i) for i in range(13)])
    assert (found.both, found.only_first, found.only_second, found.neither) == (4, 4, 5, 0)
    tail = sum(math.comb(9, i) for i in range(5)) / 2**9
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert found.difference == pytest.approx(
        statistics.fmean(map(float, second)) - statistics.fmean(map(float, first))
    )
    assert compare([True], [True], ["a"]).p_value == 1.0

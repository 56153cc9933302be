"""Confidence intervals and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
Interval = tuple[float, float]


def wilson(hits: int, total: int) -> Interval:
    """Return Wilson's (1927) 95 % interval for a share of independent trials."""
    from scipy.stats import binomtest

    found = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def bootstrap(
    values: Sequence[float], clusters: Sequence[str], sizes: Sequence[float] | None = None
) -> Interval | None:
    """Return the 95 % percentile interval of the mean from a seeded bootstrap over clusters.

    With `sizes`, of the sum of values divided by the sum of sizes. None where every resample gives
    the same value: such an interval has no width, yet the value is not certain.
    """
    names = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    places = [names[cluster] for cluster in clusters]
    sums = np.bincount(places, np.asarray(values, float), len(names))
    total = np.bincount(places, sizes, len(names))
    drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    means = sums[drawn].sum(1) / total[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return None if low == high else (float(low), float(high))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the unbiased estimate that one of k samples is right (arXiv 2107.03374).

    ValueError if there are fewer than k samples.
    """
    if k > samples:
        raise ValueError(f"pass@{k} needs {k} samples of each problem; there are {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same problems, by which of them solved each.

    difference  rate of the second minus that of the first, with its cluster-bootstrap interval
    p_value     of McNemar's exact test (1947), which assumes independent problems
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float
    interval: Interval | None
    p_value: float


def compare(first: Sequence[bool], second: Sequence[bool], clusters: Sequence[str]) -> Comparison:
    """Compare two runs; their outcomes and clusters are in the same order."""
    from scipy.stats import binomtest

    pairs = list(zip(first, second, strict=True))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    discordant = only_first + only_second
    differences = [float(b) - float(a) for a, b in pairs]
    return Comparison(
        both=pairs.count((True, True)),
        only_first=only_first,
        only_second=only_second,
        neither=pairs.count((False, False)),
        difference=sum(differences) / len(differences),
        interval=bootstrap(differences, clusters),
        p_value=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    )

"""Exact intervals of proportions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from xmkd.evaluation.proportions import effective_size, proportion_interval


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (5, 12), (12, 12), (94, 100)])
def test_one_sample_per_patient_is_clopper_pearson(hits: int, n: int) -> None:
    interval = proportion_interval(np.arange(n) < hits)
    exact = stats.binomtest(hits, n).proportion_ci(method="exact")
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert (interval.value, interval.method) == (hits / n, "Clopper-Pearson")


def test_effective_size_by_hand() -> None:
    # 4 patients of 2 samples: 2, 2, 0 and 1 hits, p = 5/8; variance = 4/3 * ((3/4)^2 * 2 + (5/4)^2 + (1/4)^2) / 64
    hit = np.array([1, 1, 1, 1, 0, 0, 1, 0], dtype=bool)
    variance = 4 / 3 * (2 * 0.75**2 + 1.25**2 + 0.25**2) / 64
    quantiles = stats.t.ppf(0.975, [7, 3])
    expected = 5 / 8 * 3 / 8 / variance * (quantiles[0] / quantiles[1]) ** 2
    assert effective_size(hit, np.repeat(np.arange(4), 2)) == pytest.approx(expected, rel=1e-12)


def test_copies_do_not_shorten_the_interval() -> None:
    hit = np.random.default_rng(0).random(40) < 0.7
    once = proportion_interval(hit)
    copied = proportion_interval(np.repeat(hit, 6), np.repeat(np.arange(40), 6))
    assert once.low is not None
    assert once.high is not None
    assert copied.low == pytest.approx(once.low, abs=0.02)
    assert copied.high == pytest.approx(once.high, abs=0.02)
    assert copied.method == "Korn-Graubard"


def test_without_misses_a_patient_counts_once() -> None:
    interval = proportion_interval(np.ones(50), np.repeat(np.arange(10), 5))
    assert interval.low == pytest.approx(0.025 ** (1 / 10))
    assert interval.high == 1.0


def test_clustered_interval_covers() -> None:
    """12 patients of 8 correlated samples: the interval that ignores patients covers far less than 95 %."""
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(12), 8)
    inside, ignoring = 0, 0
    for _ in range(400):
        hit = rng.random(96) < rng.beta(3, 1, size=12)[patient]  # mean 3/4, intra-patient correlation 0.2
        for grouped in (True, False):
            interval = proportion_interval(hit, patient if grouped else None)
            assert interval.low is not None
            assert interval.high is not None
            covered = interval.low <= 0.75 <= interval.high
            inside, ignoring = inside + (covered and grouped), ignoring + (covered and not grouped)
    limit = stats.binom.ppf(0.001, 400, 0.95)
    assert inside >= limit
    assert ignoring < limit


def test_nothing_to_count() -> None:
    assert str(proportion_interval([])) == "nan (no interval) n=0 patients=0"
    assert "too few patients" in proportion_interval([1, 0], ["a", "a"]).note

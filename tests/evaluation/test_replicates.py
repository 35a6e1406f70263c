"""Paired differences over training cohorts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.evaluation.controls import spread
from xmkd.evaluation.replicates import detectable, largest_sd, paired_over_cohorts

MARGIN = 0.01


def test_interval_and_p_are_those_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.05, size=(2, 12))
    found = paired_over_cohorts(a - b, MARGIN)
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert found.p == pytest.approx(test.pvalue, rel=1e-12)
    for p, margin, side in ((found.p_below, MARGIN, "less"), (found.p_above, -MARGIN, "greater")):
        assert p == pytest.approx(stats.ttest_1samp(a - b, margin, alternative=side).pvalue, rel=1e-12)


def test_by_hand() -> None:
    found = paired_over_cohorts([0.01, 0.02, 0.03], MARGIN)  # se = 0.01 / sqrt(3), t(0.975, 2) = 4.302653
    assert found.value == pytest.approx(0.02)
    assert found.sd == pytest.approx(0.01)
    assert found.high - found.value == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)


@settings(deadline=None, max_examples=200)
@given(st.floats(-0.03, 0.03), st.floats(1e-4, 0.05), st.integers(2, 40))
def test_equivalent_just_where_the_90_percent_interval_lies_within_the_margin(mean: float, sd: float, n: int) -> None:
    found = paired_over_cohorts(spread(mean, sd, n), MARGIN, level=0.9)
    distance = min(found.low + MARGIN, MARGIN - found.high)
    if abs(distance) > 1e-9:
        assert (found.p_equivalence < 0.05) == (distance > 0)


@settings(deadline=None, max_examples=100)
@given(st.floats(-0.03, 0.03), st.floats(1e-4, 0.05), st.integers(2, 40))
def test_the_other_way_round_everything_is_mirrored(mean: float, sd: float, n: int) -> None:
    values = np.array(spread(mean, sd, n))
    one, other = paired_over_cohorts(values, MARGIN), paired_over_cohorts(-values, MARGIN)
    assert (other.value, other.low, other.high) == pytest.approx((-one.value, -one.high, -one.low))
    assert (other.p, other.p_below, other.p_above) == pytest.approx((one.p, one.p_above, one.p_below))


def test_trainings_that_all_come_out_alike() -> None:
    same = paired_over_cohorts([0.0] * 5, MARGIN)
    assert (same.value, same.low, same.high, same.p, same.p_equivalence) == (0, 0, 0, 1, 0)
    constant = paired_over_cohorts([0.02] * 5, MARGIN)
    assert constant.value == pytest.approx(0.02)
    assert all(map(math.isnan, (constant.low, constant.p, constant.p_equivalence)))


@pytest.mark.parametrize("values", [[], [0.3]])
def test_fewer_than_two_cohorts_have_no_interval(values: list[float]) -> None:
    found = paired_over_cohorts(values, MARGIN)
    assert found.cohorts == len(values)
    assert all(map(math.isnan, (found.low, found.sd, found.p, found.p_equivalence)))
    assert math.isnan(detectable(0.01, len(values)))
    assert math.isnan(largest_sd(MARGIN, len(values)))


@pytest.mark.parametrize("cohorts", [5, 30])
def test_what_is_said_to_be_detectable_is_detected_four_times_in_five(cohorts: int) -> None:
    rng = np.random.default_rng(cohorts)
    noise = rng.normal(size=(100_000, cohorts))
    scale = noise.std(axis=1, ddof=1) / math.sqrt(cohorts)

    shift = detectable(0.02, cohorts) / 0.02
    found = abs(noise.mean(1) + shift) / scale > stats.t.ppf(0.975, cohorts - 1)
    assert found.mean() == pytest.approx(0.8, abs=0.03)

    sd = largest_sd(MARGIN, cohorts)
    equivalent = sd * (abs(noise.mean(1)) + stats.t.ppf(0.95, cohorts - 1) * scale) < MARGIN
    assert equivalent.mean() == pytest.approx(0.8, abs=0.03)

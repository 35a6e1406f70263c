"""Paired differences over training cohorts: t interval, tests, and what they can detect.

Where data are free, training is repeated on independent cohorts and every arm is trained on each: the cohort is the
unit, and d_1 .. d_n are the differences of two arms on the same cohort and the same test patients. With their mean d,
standard deviation s and se = s / sqrt(n):

    interval      d +- t(1 - alpha/2, n - 1) se
    superiority   two-sided t test of "no difference"
    equivalence   two one-sided t tests against -margin and +margin (Schuirmann 1987), the larger p value of the two
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from xmkd.evaluation.statistics import ROUNDING

POWER = 0.8


@dataclass(frozen=True)
class CohortDifference:
    """Mean difference of two arms over training cohorts.

    Attributes:
        cohorts: Number of cohorts.
        value: Mean difference.
        low: Lower end of its interval; NaN where there is none.
        high: Upper end.
        sd: Standard deviation of the difference over cohorts; NaN with fewer than two.
        p: Two-sided p value of "no difference"; NaN where there is no spread to judge it by.
        p_below: p value of "the difference is the margin or more".
        p_above: p value of "the difference is -margin or less".
    """

    cohorts: int
    value: float
    low: float
    high: float
    sd: float
    p: float
    p_below: float
    p_above: float

    @property
    def p_equivalence(self) -> float:
        """The p value of "they differ by the margin or more", in either direction."""
        return float(np.maximum(self.p_below, self.p_above))


def paired_over_cohorts(difference: npt.ArrayLike, margin: float, level: float = 0.95) -> CohortDifference:
    """Mean of paired differences with its t interval and tests.

    Args:
        difference: `(cohorts,)`, one arm minus the other.
        margin: Margin of equivalence.
        level: Nominal coverage of the interval.
    """
    values = np.asarray(difference, dtype=np.float64)
    n, nan = values.size, float("nan")
    mean = float(values.mean()) if n else nan
    if n < 2:
        return CohortDifference(n, mean, nan, nan, nan, nan, nan, nan)
    sd, df = float(values.std(ddof=1)), n - 1
    if sd < ROUNDING:  # every training came out alike: a t test would be certain of whatever it sees
        if abs(mean) < ROUNDING:
            return CohortDifference(n, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
        return CohortDifference(n, mean, nan, nan, 0.0, nan, nan, nan)
    se = sd / np.sqrt(n)
    half = float(stats.t.ppf(0.5 + level / 2, df)) * se
    p = 2 * stats.t.sf(abs(mean) / se, df)
    below, above = stats.t.cdf((mean - margin) / se, df), stats.t.sf((mean + margin) / se, df)
    return CohortDifference(n, mean, mean - half, mean + half, sd, float(p), float(below), float(above))


def detectable(sd: float, cohorts: int, alpha: float = 0.05, power: float = POWER) -> float:
    """Smallest true difference that a two-sided paired t test finds with this power; NaN with fewer than two cohorts.

    The sum of two t quantiles stands for the noncentral t distribution: right to 3 % from five cohorts on.
    """
    if cohorts < 2:
        return float("nan")
    return float(stats.t.ppf([1 - alpha / 2, power], cohorts - 1).sum() * sd / np.sqrt(cohorts))


def largest_sd(margin: float, cohorts: int, alpha: float = 0.05, power: float = POWER) -> float:
    """Largest standard deviation over cohorts with which arms that are alike are shown to be equivalent.

    Args:
        margin: Margin of equivalence.
        cohorts: Number of cohorts.
        alpha: Level of each of the two one-sided tests.
        power: Probability of showing it, the true difference being zero.

    Returns:
        The standard deviation, in the unit of the margin, right to 3 % from five cohorts on; NaN with fewer than two.
    """
    if cohorts < 2:
        return float("nan")
    return float(margin * np.sqrt(cohorts) / stats.t.ppf([1 - alpha, 0.5 + power / 2], cohorts - 1).sum())

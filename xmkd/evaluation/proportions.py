"""Exact intervals of proportions, with one sample per patient or several."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from xmkd.evaluation.inputs import BoolArray, IntArray, check_groups
from xmkd.evaluation.statistics import TOO_FEW, Interval


def clopper_pearson(hits: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval (Clopper and Pearson 1934); `hits` and `n` may be effective, non-integer numbers."""
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def proportion_interval(
    hit: npt.ArrayLike, groups: npt.ArrayLike | None = None, level: float = 0.95, note: str = ""
) -> Interval:
    """Share of hits with an exact interval.

    One sample per patient: Clopper-Pearson. Several: Korn and Graubard (Survey Methodology 24, 1998), which is
    Clopper-Pearson with the effective sample size n / (design effect), never more than n, and reduced by the ratio of
    t quantiles because the design effect is estimated from few patients.

    Args:
        hit: `(n,)`, True where it holds.
        groups: `(n,)`, the patient of each sample; None: one sample per patient.
        level: Nominal coverage.
        note: Kept in the interval.
    """
    hits: BoolArray = np.asarray(hit, dtype=bool)
    if hits.size == 0:
        return Interval(float("nan"), None, None, 0, 0, "Clopper-Pearson", note or "no such sample")
    cluster = check_groups(groups, hits.size)
    patients = len(np.unique(cluster))
    share = float(hits.mean())
    if patients == hits.size:
        low, high = clopper_pearson(int(hits.sum()), hits.size, level)
        return Interval(share, low, high, hits.size, patients, "Clopper-Pearson", note)
    if patients < 2:
        reason = f"{TOO_FEW}: all samples are of one"
        return Interval(
            share, None, None, hits.size, patients, "Korn-Graubard", "; ".join(filter(None, (reason, note)))
        )
    effective = effective_size(hits, cluster, level)
    low, high = clopper_pearson(share * effective, effective, level)
    return Interval(share, low, high, hits.size, patients, "Korn-Graubard", note)


def effective_size(hit: BoolArray, cluster: IntArray, level: float = 0.95) -> float:
    """Number of independent samples that would tell as much: Korn and Graubard's degrees-of-freedom adjusted n*.

    Where all or none are hits the spread between patients can't be seen; then it is the number of patients, as if a
    patient's samples were copies of each other.

    Args:
        hit: `(n,)`.
        cluster: `(n,)`, patient of each sample as a number.
        level: Nominal coverage, for the t quantiles.
    """
    sizes = np.bincount(cluster)
    hits = np.bincount(cluster, hit)
    patients, n, share = int((sizes > 0).sum()), hit.size, float(hit.mean())
    if share in (0.0, 1.0):
        return float(patients)
    variance = patients / (patients - 1) * float(((hits - share * sizes) ** 2).sum()) / n**2
    if variance == 0:  # the same share in every patient
        return float(n)
    quantiles = stats.t.ppf(0.5 + level / 2, [n - 1, patients - 1])
    adjusted = share * (1 - share) / variance * (quantiles[0] / quantiles[1]) ** 2
    return float(min(n, adjusted))

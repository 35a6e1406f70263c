"""AUROC with an interval whose unit is the patient: clustered DeLong, its paired version, folds, and the bootstrap.

Clustered DeLong (N. A. Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53, 1997). With
V10(x) the share of negatives that a positive x outranks, V01(y) the share of positives that outrank a negative y,
A their common mean, M positives, N negatives, and sums over the samples of a patient written with a dot,

    S10 = I10 / ((I10 - 1) M) * sum over patients (V10. - m A)^2          m: the patient's positives
    S01 = I01 / ((I01 - 1) N) * sum over patients (V01. - n A)^2          n: its negatives
    S11 = I / (I - 1)         * sum over patients (V10. - m A) (V01. - n A)
    Var(A) = S10 / M + S01 / N + 2 S11 / (M N)

where I10, I01 and I count patients with positives, with negatives, and all. One sample per patient gives DeLong
(1988). The interval is made on the logit scale with a t quantile, df = min(I10, I01) - 1; docs/statistics.md shows
how often it covers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from xmkd.errors import EvaluationError
from xmkd.evaluation.inputs import (
    BoolArray,
    FloatArray,
    IntArray,
    check_both_classes,
    check_groups,
    check_labels,
    check_scores,
)
from xmkd.evaluation.resampling import Bootstrap, auroc, clustered_bootstrap, logit_interval

__all__ = [
    "Bootstrap",
    "ClusteredDelong",
    "Interval",
    "PairedDifference",
    "auroc",
    "auroc_interval",
    "clustered_bootstrap",
    "clustered_delong",
    "paired_clustered_delong",
]

Method = Literal["auto", "clustered_delong", "delong", "bootstrap"]

MIN_PATIENTS = 10  # in the smaller class; below it no interval is given
BOOTSTRAP_PATIENTS = 60  # in the smaller class; below it percentile intervals of the AUROC are far too short
POOLED_TOLERANCE = 0.02  # pooled and within-fold AUROC may differ by this much before a warning
ROUNDING = 1e-13  # less than any change of an AUROC that one sample can make
TOO_FEW = "too few patients"


@dataclass(frozen=True)
class Interval:
    """A figure with its interval.

    Attributes:
        value: The figure; NaN where it isn't defined.
        low: Lower end; None where no interval is given, `note` says why.
        high: Upper end.
        n: Samples.
        patients: Patients, or the groups that stand for them.
        method: How the interval was made.
        note: What a reader must know: why there is no interval, what it is conditional on, a warning.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    patients: int
    method: str
    note: str = ""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            reason = f"{TOO_FEW} for an interval" if self.note.startswith(TOO_FEW) else "no interval"
            bounds = f"({reason})"
        else:
            bounds = f"[{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f} {bounds} n={self.n} patients={self.patients}"


class ClusteredDelong(NamedTuple):
    """AUROC and its variance with patients as the unit."""

    auroc: float
    variance: float
    positive_clusters: int
    negative_clusters: int


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two AUROCs on the same samples, A minus B.

    Attributes:
        auroc_a: AUROC of A.
        auroc_b: AUROC of B.
        difference: A minus B with its interval (linear scale, t quantile).
        se: Standard error of the difference.
        df: Degrees of freedom of its t distribution.
        p: Two-sided p value of "no difference"; NaN where there are too few patients.
    """

    auroc_a: float
    auroc_b: float
    difference: Interval
    se: float
    df: int
    p: float


@dataclass(frozen=True)
class _Sample:
    """Checked input: who is positive, and every sample's patient and fold as numbers."""

    positive: BoolArray  # (n,)
    cluster: IntArray  # (n,)
    fold: IntArray  # (n,), only those folds that hold both classes
    folds_left_out: int

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Patients with positives, with negatives, all, and the number of folds: I10, I01, I, F."""
        sides = (self.cluster[self.positive], self.cluster[~self.positive], self.cluster)
        positive, negative, both = (len(np.unique(side)) for side in sides)
        return positive, negative, both, len(np.unique(self.fold))

    @property
    def smaller(self) -> int:
        return min(self.sizes[:2])

    @property
    def df(self) -> int:
        """min(I10, I01) - 1; every further fold has a mean of its own and costs another degree of freedom."""
        return self.smaller - self.sizes[3]


def clustered_delong(
    label: npt.ArrayLike, score: npt.ArrayLike, groups: npt.ArrayLike | None = None
) -> ClusteredDelong:
    """AUROC and its variance by Obuchowski (1997); a patient may hold samples of both classes.

    Args:
        label: `(n,)`, 1 = positive.
        score: `(n,)`.
        groups: `(n,)`, the patient of each sample; None: one sample per patient.

    Raises:
        EvaluationError: One class only, or labels, scores or groups are unusable.
    """
    sample, keep = _check(label, groups, None)
    value, influence = _influence(sample, check_scores(score, keep.size))
    return ClusteredDelong(value, _variance(sample, influence), *sample.sizes[:2])


def auroc_interval(
    label: npt.ArrayLike,
    score: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    method: Method = "auto",
    level: float = 0.95,
    fold: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """AUROC with an interval for new patients.

    Args:
        label: `(n,)`, 1 = positive.
        score: `(n,)`.
        groups: `(n,)`, the patient of each sample; None: one sample per patient.
        method: "auto" is clustered DeLong, the only method here that covers at every number of patients. "delong"
            refuses repeated groups; "bootstrap" (percentiles, whole patients) refuses fewer than 60 in a class.
        level: Nominal coverage.
        fold: `(n,)`, the cross-validation fold that predicted each sample. Scores of different folds come from
            different models, so only pairs of the same fold count, and the note gives the pooled value.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.

    Raises:
        EvaluationError: One class only, unusable input, or a method that these data don't allow.
    """
    sample, keep = _check(label, groups, fold)
    everything = check_scores(score, keep.size)
    values = everything[keep]
    _check_method(method, sample)
    value, influence = _influence(sample, values)
    name = {"delong": "DeLong", "bootstrap": "cluster bootstrap"}.get(method, "clustered DeLong")
    interval = Interval(value, None, None, int(keep.sum()), sample.sizes[2], name)
    if sample.df < 1 or sample.smaller < MIN_PATIENTS:
        interval = replace(interval, note=f"{TOO_FEW}: {sample.smaller} in the smaller class, {MIN_PATIENTS} needed")
    elif min(value, 1 - value) < ROUNDING:
        interval = _separated(interval, sample, level)
    elif (variance := _variance(sample, influence)) < ROUNDING**2:
        interval = replace(interval, note="the scores of all patients are alike")
    elif method == "bootstrap":
        label_kept, kept_fold = sample.positive.astype(int), None if fold is None else sample.fold
        boot = clustered_bootstrap(
            "auroc", label_kept, values, sample.cluster, resamples, seed, level=level, fold=kept_fold
        )
        interval = replace(interval, low=boot.low, high=boot.high)
    else:
        quantile = float(stats.t.ppf(0.5 + level / 2, sample.df))
        low, high = logit_interval(value, quantile * float(np.sqrt(variance)))
        interval = replace(interval, low=low, high=high)
    return interval if fold is None else _with_fold_note(interval, sample, auroc(label, everything))


def paired_clustered_delong(
    label: npt.ArrayLike,
    score_a: npt.ArrayLike,
    score_b: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    level: float = 0.95,
    fold: npt.ArrayLike | None = None,
) -> PairedDifference:
    """Difference of two AUROCs on the same samples, by Obuchowski (1997) with V10 and V01 replaced by differences.

    A and B may each be several models, such as trainings on several cohorts: the AUROC of each is then the mean over
    its models, and so are V10 and V01.

    Args:
        label: `(n,)`, 1 = positive.
        score_a: `(n,)`, scores of A; or `(models, n)`.
        score_b: `(n,)`, scores of B; or `(models, n)`.
        groups: `(n,)`, the patient of each sample; None: one sample per patient.
        level: Nominal coverage.
        fold: `(n,)`, common to both; count pairs of the same fold only.

    Raises:
        EvaluationError: One class only, or unusable input.
    """
    sample, keep = _check(label, groups, fold)
    values = [
        np.stack([check_scores(row, keep.size)[keep] for row in np.atleast_2d(np.asarray(score, dtype=np.float64))])
        for score in (score_a, score_b)
    ]
    (value_a, influence_a), (value_b, influence_b) = (_mean_influence(sample, models) for models in values)
    influence = (influence_a[0] - influence_b[0], influence_a[1] - influence_b[1])
    difference = value_a - value_b
    se = float(np.sqrt(max(_variance(sample, influence), 0.0))) if sample.df >= 1 else float("nan")
    interval = Interval(difference, None, None, int(keep.sum()), sample.sizes[2], "paired clustered DeLong")
    p = float("nan")
    if sample.df < 1 or sample.smaller < MIN_PATIENTS:
        interval = replace(interval, note=f"{TOO_FEW}: {sample.smaller} in the smaller class, {MIN_PATIENTS} needed")
    elif se > ROUNDING:
        half = se * float(stats.t.ppf(0.5 + level / 2, sample.df))
        interval = replace(interval, low=difference - half, high=difference + half)
        p = 2 * float(stats.t.sf(abs(difference) / se, sample.df))
    elif np.array_equal(*(stats.rankdata(models, axis=1) for models in values)):
        interval, p = replace(interval, low=0.0, high=0.0, note="both rank all samples alike"), 1.0
    else:
        interval = replace(interval, note="the difference is the same in all patients: no spread to judge it by")
    return PairedDifference(value_a, value_b, interval, se, sample.df, p)


def _check(label: npt.ArrayLike, groups: npt.ArrayLike | None, fold: npt.ArrayLike | None) -> tuple[_Sample, BoolArray]:
    """Checked input without those folds that hold one class only, and the mask `(n,)` of what is kept."""
    positive = check_labels(label)
    check_both_classes(positive)
    cluster = check_groups(groups, positive.size)
    folds = check_groups(np.zeros(positive.size, int) if fold is None else fold, positive.size, "fold")
    usable = [f for f in np.unique(folds) if len(np.unique(positive[folds == f])) == 2]
    if not usable:
        raise EvaluationError(
            "no fold holds both classes: no positive-negative pair was scored by one model",
            where=f"{len(np.unique(folds))} folds, {positive.size} samples",
            fixes=("use fewer, stratified folds", "leave fold out and accept that scores of several models are mixed"),
        )
    keep = np.isin(folds, usable)
    sample = _Sample(positive[keep], cluster[keep], folds[keep], len(np.unique(folds)) - len(usable))
    return sample, keep


def _check_method(method: Method, sample: _Sample) -> None:
    repeated = sample.cluster.size - sample.sizes[2]
    if method == "delong" and repeated:
        raise EvaluationError(
            f"plain DeLong takes samples as independent, but {repeated} of {sample.cluster.size} repeat a patient",
            fixes=('use method="auto" (clustered DeLong)', "average the scores of each patient first"),
        )
    if method == "bootstrap" and sample.smaller < BOOTSTRAP_PATIENTS:
        raise EvaluationError(
            f"the bootstrap's interval is too short with {sample.smaller} patients in the smaller class; "
            f"it needs {BOOTSTRAP_PATIENTS}",
            fixes=('use method="auto" (clustered DeLong)', "collect more patients"),
        )
    if method not in ("auto", "clustered_delong", "delong", "bootstrap"):
        raise EvaluationError(
            f"unknown method {method!r}", fixes=('use "auto"', 'use "clustered_delong", "delong" or "bootstrap"')
        )


def _influence(sample: _Sample, score: FloatArray) -> tuple[float, tuple[FloatArray, FloatArray]]:
    """AUROC over same-fold pairs, and each patient's part in its error, from its positives and from its negatives.

    With one fold the parts are (V10. - m A) / M and (V01. - n A) / N, each `(G,)`. With several, each fold is centred
    on its own A and weighs by its share of the pairs.
    """
    clusters = int(sample.cluster.max()) + 1
    parts = np.zeros((2, clusters))
    placements = []
    total = 0
    for fold in np.unique(sample.fold):
        upper, lower = (np.flatnonzero((sample.fold == fold) & side) for side in (sample.positive, ~sample.positive))
        v10, v01 = _placements(score[upper], score[lower])
        placements.append((upper, lower, v10, v01))
        total += upper.size * lower.size
    value = sum(upper.size * lower.size * float(v10.mean()) for upper, lower, v10, _ in placements) / total
    for upper, lower, v10, v01 in placements:
        mean = v10.mean()
        for part, rows, v, others in ((parts[0], upper, v10, lower.size), (parts[1], lower, v01, upper.size)):
            part += np.bincount(sample.cluster[rows], (v - mean) * (others / total), minlength=clusters)
    return value, (parts[0], parts[1])


def _mean_influence(sample: _Sample, models: FloatArray) -> tuple[float, tuple[FloatArray, FloatArray]]:
    """`_influence` of the mean AUROC of several models, scores `(models, n)`."""
    values, parts = zip(*(_influence(sample, scores) for scores in models), strict=True)
    from_positives, from_negatives = np.mean(parts, axis=0)
    return float(np.mean(values)), (from_positives, from_negatives)


def _placements(positive: FloatArray, negative: FloatArray) -> tuple[FloatArray, FloatArray]:
    """V10 `(M,)` and V01 `(N,)`, ties counting one half, from ranks in O(n log n) (Sun and Xu 2014)."""
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    v10 = (ranks[: positive.size] - stats.rankdata(positive)) / negative.size
    v01 = 1 - (ranks[positive.size :] - stats.rankdata(negative)) / positive.size
    return v10, v01


def _variance(sample: _Sample, influence: tuple[FloatArray, FloatArray]) -> float:
    """Obuchowski's variance; with F folds F means were fitted, so that I / (I - 1) becomes I / (I - F)."""
    from_positives, from_negatives = influence
    *counts, folds = sample.sizes
    if min(counts) <= folds:
        return float("nan")
    c10, c01, c11 = (count / (count - folds) for count in counts)
    both = 2 * c11 * (from_positives @ from_negatives)
    return float(c10 * (from_positives @ from_positives) + c01 * (from_negatives @ from_negatives) + both)


def _separated(interval: Interval, sample: _Sample, level: float) -> Interval:
    """Interval of an AUROC of exactly 0 or 1, where the variance is zero: the exact binomial bound of k out of k.

    Let k be the number of disjoint pairs of one patient with a positive and another with a negative. One sample of
    each orders rightly with probability A, independently between pairs, so that complete separation has a probability
    of at most A^k: A below ((1 - level) / 2)^(1/k) is refused, as by Clopper and Pearson (1934). Obuchowski and Lieber
    (2002) show how misleading a standard interval is here.
    """
    pairs = 0
    for fold in np.unique(sample.fold):
        here = sample.fold == fold
        sides = (sample.cluster[here & sample.positive], sample.cluster[here & ~sample.positive])
        positive, negative = (len(np.unique(side)) for side in sides)
        pairs += min(positive, negative, len(np.unique(sample.cluster[here])) // 2)
    bound = float(((1 - level) / 2) ** (1 / pairs))
    low, high = (bound, 1.0) if interval.value > 0.5 else (0.0, 1 - bound)
    note = f"complete separation: exact bound from {pairs} disjoint pairs of patients"
    return replace(interval, low=low, high=high, method="Clopper-Pearson", note=note)


def _with_fold_note(interval: Interval, sample: _Sample, pooled: float) -> Interval:
    notes = [interval.note, "pairs within folds, conditional on the fitted models", f"pooled {pooled:.3f}"]
    if abs(pooled - interval.value) > POOLED_TOLERANCE:
        notes[-1] += f": warning, differs by more than {POOLED_TOLERANCE}: the folds' scores are on different scales"
    if sample.folds_left_out:
        notes.append(f"{sample.folds_left_out} folds hold one class only and are left out")
    return replace(interval, note="; ".join(filter(None, notes)))


def difference(first: Interval, second: Interval) -> Interval:
    """First minus second, of two figures from different patients, each with its interval.

    The interval is put together from theirs (MOVER: Zou and Donner, Statistics in Medicine 2008, 27:1693), so that it
    keeps their asymmetry.
    """
    value, n = first.value - second.value, min(first.n, second.n)
    patients = min(first.patients, second.patients)
    if first.low is None or first.high is None or second.low is None or second.high is None:
        note = first.note or second.note
        return Interval(value, None, None, n, patients, "MOVER", note)
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, low, high, n, patients, "MOVER")

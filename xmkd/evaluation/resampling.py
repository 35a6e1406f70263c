"""AUROC with sample weights, and the stratified cluster bootstrap that is built on it.

A bootstrap of patients gives every patient a count: how often it was drawn. All resamples are one matrix of counts
`(R, G)`, and a metric that takes weights handles them at once, without a loop over resamples.

For the AUROC there is a shortcut. Its numerator counts concordant pairs, and those between patients g and h don't
depend on the resample: with P[g, h] their number, a resample with counts c has `c' P c` of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, overload

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

WeightedMetric = Callable[[npt.NDArray[np.generic], FloatArray, FloatArray], FloatArray]
"""`metric(label (n,), score (n,) or (n, K), weight (R, n)) -> (R,)`: one value per row of weights."""

CHUNK = 4_000_000  # elements of a weight matrix held at once: 32 MB
PAIRS_PER_SAMPLE = 80  # measured on a CPU: up to here c' P c is faster than sorted cumulative sums


@overload
def auroc(label: npt.ArrayLike, score: npt.ArrayLike, weight: None = None) -> float: ...
@overload
def auroc(label: npt.ArrayLike, score: npt.ArrayLike, weight: npt.ArrayLike) -> FloatArray: ...
def auroc(label: npt.ArrayLike, score: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float | FloatArray:
    """Area under the ROC curve: the share of positive-negative pairs in the right order, ties counting one half.

    Args:
        label: `(n,)`, 1 = positive.
        score: `(n,)`, higher = more likely positive.
        weight: Optional `(R, n)`, non-negative; then one AUROC per row (NaN where a class has no weight).

    Raises:
        EvaluationError: One class only, a label other than 0 and 1, or a score that isn't finite.
    """
    positive = check_labels(label)
    check_both_classes(positive)
    values = check_scores(score, positive.size)
    rows = np.ones((1, positive.size)) if weight is None else np.asarray(weight, dtype=np.float64)
    concordant, pairs = weighted_pairs(positive, values, rows)
    with np.errstate(invalid="ignore"):
        result = concordant / pairs
    return float(result[0]) if weight is None else result


def weighted_pairs(
    positive: BoolArray, score: FloatArray, weight: FloatArray, fold: IntArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Weight of concordant pairs and of all pairs, each `(R,)`, from sorted cumulative sums.

    Args:
        positive: `(n,)`.
        score: `(n,)`.
        weight: `(R, n)`.
        fold: `(n,)`; count pairs of the same fold only.
    """
    if fold is not None:
        parts = [weighted_pairs(positive[f], score[f], weight[:, f]) for f in (fold == k for k in np.unique(fold))]
        return np.sum([part[0] for part in parts], axis=0), np.sum([part[1] for part in parts], axis=0)
    negative = np.flatnonzero(~positive)
    negative = negative[np.argsort(score[negative], kind="stable")]
    below = np.searchsorted(score[negative], score[positive], side="left")
    up_to = np.searchsorted(score[negative], score[positive], side="right")
    cumulative = np.zeros((len(weight), negative.size + 1))
    np.cumsum(weight[:, negative], axis=1, out=cumulative[:, 1:])
    positive_weight = weight[:, positive]
    outranked = 0.5 * (cumulative[:, below] + cumulative[:, up_to])
    concordant: FloatArray = np.einsum("rp,rp->r", positive_weight, outranked)
    return concordant, positive_weight.sum(axis=1) * cumulative[:, -1]


@dataclass(frozen=True)
class Bootstrap:
    """A metric over bootstrap resamples of whole clusters.

    Attributes:
        value: The metric on the data as they are.
        low: Lower end of the percentile interval.
        high: Upper end of the percentile interval.
        replicates: `(R,)`, the metric on each resample.
        n: Samples.
        patients: Clusters.
        smaller: Clusters in the smaller class (those with at least one sample of it).
        level: Nominal coverage of `low` to `high`.
    """

    value: float
    low: float
    high: float
    replicates: FloatArray
    n: int
    patients: int
    smaller: int
    level: float

    def t_interval(self, scale: Literal["logit", "linear"] = "logit") -> tuple[float, float] | None:
        """Interval from the bootstrap's standard error and a t quantile, which covers better than percentiles.

        The standard error is widened by sqrt(k / (k - 1)), k clusters in the smaller class, because resampling k
        clusters with replacement understates their variance by that factor; df = k - 1.

        Args:
            scale: "logit" for a metric between 0 and 1, "linear" for one without limits.

        Returns:
            Lower and upper end, or None where the resamples say nothing: no spread, or (logit) a value of 0 or 1.
        """
        finite = self.replicates[np.isfinite(self.replicates)]
        if self.smaller < 2 or finite.size < 2 or np.ptp(finite) == 0:
            return None
        se = float(finite.std(ddof=1)) * np.sqrt(self.smaller / (self.smaller - 1))
        half = float(stats.t.ppf(0.5 + self.level / 2, self.smaller - 1)) * float(se)
        if scale == "linear":
            return self.value - half, self.value + half
        return logit_interval(self.value, half) if 0 < self.value < 1 else None


def logit_interval(value: float, half_width: float) -> tuple[float, float]:
    """Turn `value +- half_width` into an interval inside (0, 1), by the delta method on the logit scale."""
    centre, half = float(np.log(value / (1 - value))), half_width / (value * (1 - value))
    low, high = 1 / (1 + np.exp(-np.clip([centre - half, centre + half], -700, 700)))
    return float(low), float(high)


def clustered_bootstrap(
    metric: WeightedMetric | Literal["auroc"],
    label: npt.ArrayLike,
    score: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
    *,
    level: float = 0.95,
    fold: npt.ArrayLike | None = None,
) -> Bootstrap:
    """Bootstrap of whole clusters, stratified by the classes that a cluster holds, for all resamples at once.

    Args:
        metric: "auroc" (or the function `auroc`), or a function of label, score and a matrix of weights.
        label: `(n,)`; 0 and 1 for the AUROC, class numbers for a metric of your own.
        score: `(n,)`, or `(n, K)` for a metric of your own.
        groups: `(n,)`, the cluster (patient) of each sample; None: every sample is one.
        resamples: Number of resamples R.
        seed: Seed of the draw.
        level: Nominal coverage of the percentile interval.
        fold: `(n,)`; AUROC only: count pairs of the same fold only.

    Raises:
        EvaluationError: One class only, or labels, scores or groups are unusable.
    """
    labels = np.asarray(label)
    cluster = check_groups(groups, labels.size)
    counts = resample_counts(labels, cluster, resamples, seed)
    everything = np.ones((1, counts.shape[1]))
    if metric == "auroc" or metric is auroc:
        positive = check_labels(labels)
        check_both_classes(positive)
        folds = check_groups(np.zeros(labels.size, int) if fold is None else fold, labels.size, "fold")
        values = check_scores(score, labels.size)
        point, replicates = (_clustered_auroc(positive, values, cluster, folds, c) for c in (everything, counts))
    elif callable(metric) and fold is None:
        scores = np.asarray(score, dtype=np.float64)
        rows = max(1, CHUNK // labels.size)
        parts = [metric(labels, scores, counts[i : i + rows][:, cluster]) for i in range(0, resamples, rows)]
        point, replicates = metric(labels, scores, everything[:, cluster]), np.concatenate(parts)
    else:
        raise EvaluationError(
            f"no bootstrap of the metric {metric!r}{'' if fold is None else ' within folds'}",
            fixes=('use "auroc"', "pass a function of label, score and a matrix of weights, without folds"),
        )
    tail = (1 - level) / 2
    low, high = np.nanquantile(replicates, (tail, 1 - tail))
    smaller = min(len(np.unique(cluster[labels == value])) for value in np.unique(labels))
    return Bootstrap(float(point[0]), float(low), float(high), replicates, labels.size, counts.shape[1], smaller, level)


def resample_counts(label: npt.NDArray[np.generic], cluster: IntArray, resamples: int, seed: int) -> FloatArray:
    """How often each cluster is drawn in each resample, `(R, G)`; every stratum keeps its number of clusters.

    Two classes: strata of clusters with positives only, negatives only and both, so that no resample loses a class.
    More classes: strata by a cluster's most frequent class; mixed clusters would else be strata of one.

    Args:
        label: `(n,)`, class of each sample.
        cluster: `(n,)`, cluster of each sample as 0 .. G-1.
        resamples: Number of resamples R.
        seed: Seed of the draw.
    """
    classes, code = np.unique(label, return_inverse=True)
    clusters = int(cluster.max()) + 1
    held = np.zeros((clusters, classes.size))
    np.add.at(held, (cluster, code), 1)
    strata = (held > 0) @ (1 << np.arange(classes.size)) if classes.size <= 2 else held.argmax(axis=1)
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, clusters))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        drawn = rng.integers(members.size, size=(resamples, members.size))
        drawn += np.arange(resamples)[:, None] * members.size
        counts[:, members] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return counts


def _clustered_auroc(
    positive: BoolArray, score: FloatArray, cluster: IntArray, fold: IntArray, counts: FloatArray
) -> FloatArray:
    """AUROC `(R,)` under counts `(R, G)` of clusters, counting pairs of the same fold only."""
    concordant, pairs = np.zeros(len(counts)), np.zeros(len(counts))
    for number in range(int(fold.max()) + 1):
        here = fold == number
        upper, lower = here & positive, here & ~positive
        if not upper.any() or not lower.any():
            continue
        positive_clusters, negative_clusters = np.unique(cluster[upper]), np.unique(cluster[lower])
        is_small = here.sum() * negative_clusters.size <= 4 * CHUNK  # of the two tables that the matrix is made from
        if is_small and positive_clusters.size * negative_clusters.size <= PAIRS_PER_SAMPLE * here.sum():
            matrix = _pair_matrix(
                (score[upper], np.searchsorted(positive_clusters, cluster[upper])),
                (score[lower], np.searchsorted(negative_clusters, cluster[lower])),
            )
            left, right = counts[:, positive_clusters], counts[:, negative_clusters]
            concordant += np.einsum("rh,rh->r", left @ matrix, right)
            sizes = (np.bincount(cluster[side], minlength=counts.shape[1]) for side in (upper, lower))
            pairs += np.prod([counts @ size for size in sizes], axis=0)
        else:
            rows = max(1, CHUNK // int(here.sum()))
            for i in range(0, len(counts), rows):  # chunks that fit the memory, not single resamples
                weight = counts[i : i + rows][:, cluster[here]]
                found, total = weighted_pairs(positive[here], score[here], weight)
                concordant[i : i + rows] += found
                pairs[i : i + rows] += total
    result: FloatArray = concordant / pairs
    return result


def _pair_matrix(positives: tuple[FloatArray, IntArray], negatives: tuple[FloatArray, IntArray]) -> FloatArray:
    """Concordant pairs between each positive and each negative cluster, `(P, N)`; a tie counts one half."""
    (upper, row), (lower, column) = positives, negatives
    order = np.argsort(lower, kind="stable")
    passed = np.zeros((lower.size + 1, int(column.max()) + 1))  # negatives of each cluster among the j lowest
    passed[np.arange(1, lower.size + 1), column[order]] = 1
    np.cumsum(passed, axis=0, out=passed)
    ends = (np.searchsorted(lower[order], upper, side=side) for side in ("left", "right"))
    outranked = 0.5 * np.sum([passed[end] for end in ends], axis=0)  # (positives, N)
    by_cluster = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[by_cluster], np.arange(int(row.max()) + 1))
    matrix: FloatArray = np.add.reduceat(outranked[by_cluster], starts, axis=0)
    return matrix

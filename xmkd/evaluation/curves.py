"""ROC and precision-recall curves with bands whose unit is the patient.

A curve is a function of weights: `(label, score, weight (R, n)) -> (R, T)`, its value at T places for each of R
resamples. So all resamples of the cluster bootstrap are one matrix, and no Python loop runs over them.

Over cross-validation folds the ROC curve is the mean of the folds' curves at each false positive rate ("vertical
averaging": T. Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27, 2006), here weighted by the
folds' positive-negative pairs, so that the area under it is the AUROC of same-fold pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from xmkd.evaluation.classification import fold_codes
from xmkd.evaluation.inputs import FloatArray, IntArray, binary_score, check_both_classes, check_groups
from xmkd.evaluation.resampling import CHUNK, resample_counts
from xmkd.evaluation.statistics import MIN_PATIENTS

Labels = npt.NDArray[np.generic]
Curve = Callable[[Labels, FloatArray, FloatArray], FloatArray]

POINTS = 201
ROUNDING = 1e-9  # shares that differ by less are the same share


class RocCurve:
    """Sensitivity at each false positive rate of a grid, `(R, T)`.

    Args:
        grid: False positive rates `(T,)`.
        fold: Fold of each sample `(n,)`; None for one model.
    """

    def __init__(self, grid: FloatArray, fold: IntArray | None = None) -> None:
        self.grid, self.fold = grid, fold

    def __call__(self, label: Labels, score: FloatArray, weight: FloatArray) -> FloatArray:
        if self.fold is None:
            return self._one(label, score, weight)[0]
        total, pairs = np.zeros((len(weight), self.grid.size)), np.zeros((len(weight), 1))
        for number in np.unique(self.fold):
            here = self.fold == number
            if len(np.unique(label[here])) < 2:
                continue
            curve, count = self._one(label[here], score[here], weight[:, here])
            total += np.where(count > 0, curve * count, 0)  # a resample can lose a class in a fold
            pairs += count
        result: FloatArray = total / pairs
        return result

    def _one(self, label: Labels, score: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The curve `(R, T)` of one model, and its number of positive-negative pairs `(R, 1)`."""
        found, alarms = _called(label, score, weight)
        with np.errstate(invalid="ignore"):
            sensitivity, false_alarms = found / found[:, -1:], alarms / alarms[:, -1:]
        start = np.zeros((len(weight), 1))
        points = np.hstack([start, false_alarms]), np.hstack([start, sensitivity])
        return _interpolate(self.grid, *points), found[:, -1:] * alarms[:, -1:]


class PrecisionRecallCurve:
    """Precision at the highest threshold that reaches each recall of a grid, `(R, T)`; steps, as in the AUPRC.

    Args:
        grid: Recalls `(T,)`, above 0.
    """

    def __init__(self, grid: FloatArray) -> None:
        self.grid = grid

    def __call__(self, label: Labels, score: FloatArray, weight: FloatArray) -> FloatArray:
        found, alarms = _called(label, score, weight)
        recall, row = found / found[:, -1:], np.arange(len(weight))[:, None]
        first = np.searchsorted((recall + 2 * row).ravel(), (self.grid - ROUNDING + 2 * row).ravel())
        at = np.minimum(first.reshape(row.size, -1), (row + 1) * recall.shape[1] - 1)
        hits, all_called = found.ravel()[at], (found + alarms).ravel()[at]
        result: FloatArray = hits / all_called
        return result


def roc_band(table: pd.DataFrame, *, level: float = 0.95, seed: int = 0, resamples: int = 1000) -> pd.DataFrame:
    """ROC curve of a table of two classes, of same-fold pairs where it has several folds.

    Args:
        table: A predictions table.
        level: Nominal coverage of the band, at each point by itself.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.

    Returns:
        Columns `fpr, tpr, low, high`; the limits are NaN with too few patients.

    Raises:
        EvaluationError: The table is unusable, or holds one class.
    """
    table = binary_score(table)
    grid = np.linspace(0, 1, POINTS)
    value, low, high = pointwise_band(RocCurve(grid, fold_codes(table)), table, level, seed, resamples)
    return pd.DataFrame({"fpr": grid, "tpr": value, "low": np.clip(low, 0, 1), "high": np.clip(high, 0, 1)})


def pr_band(table: pd.DataFrame, *, level: float = 0.95, seed: int = 0, resamples: int = 1000) -> pd.DataFrame:
    """Precision-recall curve of a table of two classes, all samples pooled.

    Args:
        table: A predictions table.
        level: Nominal coverage of the band, at each point by itself.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.

    Returns:
        Columns `recall, precision, low, high`; the limits are NaN with too few patients.

    Raises:
        EvaluationError: The table is unusable, or holds one class.
    """
    table = binary_score(table)
    grid = np.linspace(0, 1, POINTS)[1:]
    value, low, high = pointwise_band(PrecisionRecallCurve(grid), table, level, seed, resamples)
    return pd.DataFrame({"recall": grid, "precision": value, "low": np.clip(low, 0, 1), "high": np.clip(high, 0, 1)})


def pointwise_band(
    curve: Curve, table: pd.DataFrame, level: float, seed: int, resamples: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Value, lower and upper limit `(T,)` of a curve; NaN limits with too few patients.

    Bootstrap percentiles of whole patients, their distance from the value widened as in `Bootstrap.t_interval`.

    Args:
        curve: The function.
        table: A checked table of two classes.
        level: Nominal coverage, at each point by itself.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.
    """
    label, score = table["label"].to_numpy(), table["score"].to_numpy(dtype=np.float64)
    check_both_classes(label.astype(bool))
    cluster = check_groups(table["patient_id"].to_numpy(), label.size)
    value = curve(label, score, np.ones((1, label.size)))[0]
    smaller = min(len(np.unique(cluster[label == k])) for k in (0, 1))
    if smaller < MIN_PATIENTS:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    counts, rows = resample_counts(label, cluster, resamples, seed), max(1, CHUNK // label.size)
    parts = [curve(label, score, counts[i : i + rows][:, cluster]) for i in range(0, resamples, rows)]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(parts), (tail, 1 - tail), axis=0)
    quantile = stats.t.ppf(1 - tail, smaller - 1) / stats.norm.ppf(1 - tail)
    widen = float(quantile * np.sqrt(smaller / (smaller - 1)))
    return value, value + widen * np.minimum(low - value, 0), value + widen * np.maximum(high - value, 0)


def _called(label: Labels, score: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weight of the positives and of the negatives from each distinct score on, from the highest down, `(R, E)`."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # tied scores enter together
    weight, positive = weight[:, order], label[order] == 1
    return np.cumsum(weight * positive, axis=1)[:, ends], np.cumsum(weight * ~positive, axis=1)[:, ends]


def _interpolate(at: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Value of each row's polygon `x, y (R, E)` at `at (T,)`, `(R, T)`; at a vertical step its upper end.

    All rows are searched at once: row r is shifted by 2 r, so that the rows laid end to end are sorted.
    """
    row = np.arange(len(x))[:, None]
    after = np.searchsorted((x + 2 * row).ravel(), (at + ROUNDING + 2 * row).ravel(), side="right")
    left = after.reshape(len(x), -1) - 1
    right = np.minimum(left + 1, (row + 1) * x.shape[1] - 1)
    x_left, x_right, y_left, y_right = x.ravel()[left], x.ravel()[right], y.ravel()[left], y.ravel()[right]
    width = x_right - x_left
    share = np.divide(at - x_left, width, out=np.zeros_like(width), where=width > 0)
    result: FloatArray = y_left + np.clip(share, 0, 1) * (y_right - y_left)
    return result

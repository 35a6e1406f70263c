"""Metrics that take a matrix of weights `(R, n)` and give one value per row: what the bootstrap needs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xmkd.evaluation.inputs import FloatArray, IntArray
from xmkd.evaluation.resampling import weighted_pairs

Labels = npt.NDArray[np.generic]


def average_precision(label: Labels, score: FloatArray, weight: FloatArray) -> FloatArray:
    """Area under the precision-recall curve as the step-wise sum of precision x gain in recall, `(R,)`."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # tied scores enter together
    weight = weight[:, order]
    found = np.cumsum(weight * (label[order] == 1), axis=1)[:, ends]
    called = np.cumsum(weight, axis=1)[:, ends]
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    gain = np.diff(found, axis=1, prepend=0)
    result: FloatArray = (gain * precision).sum(axis=1) / found[:, -1]
    return result


def balanced_accuracy(label: Labels, called: Labels, weight: FloatArray, classes: IntArray) -> FloatArray:
    """Mean over the classes of the share of their samples that are called so, `(R,)`."""
    right = [weight @ ((label == k) & (called == k)) / (weight @ (label == k)) for k in classes]
    return np.asarray(np.mean(right, axis=0))


def macro_f1(label: Labels, called: Labels, weight: FloatArray, classes: IntArray) -> FloatArray:
    """Mean over the classes of 2 TP / (2 TP + FP + FN), `(R,)`."""
    scores = []
    for k in classes:
        true, chosen = label == k, called == k
        scores.append(2 * (weight @ (true & chosen)) / (weight @ true + weight @ chosen))
    return np.asarray(np.mean(scores, axis=0))


def brier(label: Labels, score: FloatArray, weight: FloatArray) -> FloatArray:
    """Mean squared distance of a probability from the outcome, `(R,)`."""
    result: FloatArray = weight @ (score - (label == 1)) ** 2 / weight.sum(axis=1)
    return result


def macro_auroc(
    label: Labels, score: FloatArray, weight: FloatArray, classes: IntArray, fold: IntArray | None
) -> FloatArray:
    """Mean over the classes of the one-vs-rest AUROC, counting pairs of the same fold only, `(R,)`.

    Args:
        label: `(n,)`, class numbers.
        score: `(n, K)`.
        weight: `(R, n)`.
        classes: Those to average over.
        fold: `(n,)`, or None.
    """
    areas = [np.divide(*weighted_pairs(np.asarray(label == k), score[:, k], weight, fold)) for k in classes]
    return np.asarray(np.mean(areas, axis=0))

"""What a teacher's scores must be before a student of another modality may regress to them.

Three steps. The scores are out-of-fold: a network's scores of its own training patients are nearly 0 and 1, and say
no more than the labels. They are made probabilities by Platt's map, fitted for each fold on the scores of the other
folds. And they are moved to the prevalence of the student's training data, since the two cohorts differ in it.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from xmkd.errors import EvaluationError, LeakageError
from xmkd.evaluation.calibration import Calibrator, platt, prior_shift, probabilities
from xmkd.evaluation.inputs import FloatArray, binary_score, check_both_classes

NAME = "teacher's scores"


def recalibrated(table: pd.DataFrame, prevalence: float) -> pd.DataFrame:
    """Out-of-fold scores as probabilities at the prevalence of the student's training data.

    Every patient counts alike, however many clips there are. The prevalence that a fold's scores are moved from is
    that of the other folds' patients, which both its model and its map were fitted on.

    Args:
        table: `sample_id, patient_id, label, score, fold`, as in predictions_oof.csv of a cross-validation.
        prevalence: Share of positives among the student's training patients.

    Returns:
        The table with its scores replaced, rows in the same order.

    Raises:
        EvaluationError: The scores are not out-of-fold, not finite or no probabilities, or of one class in all folds
            but one; or the prevalence is not between 0 and 1.
        LeakageError: A patient lies in two folds, so a model scored a patient whom it was fitted on.
    """
    table = binary_score(table, NAME)
    score, label = probabilities(table, ["score"])[:, 0], table["label"].to_numpy()
    fold = _folds(table)
    weight = 1 / table.groupby("patient_id")["sample_id"].transform("size").to_numpy(dtype=np.float64)
    changed = np.empty_like(score)
    for k in np.unique(fold):
        here, others = fold == k, fold != k
        check_both_classes(label[others] == 1)
        slope, intercept = platt(label[others], score[others], weight[others])
        if slope <= 0:
            warnings.warn(
                f"{NAME}: outside fold {k} higher scores don't go with more positives (slope {slope:.2f})", stacklevel=2
            )
        source = float(np.average(label[others] == 1, weights=weight[others]))
        calibrator = Calibrator("platt", slope, intercept, int(others.sum()))
        changed[here] = prior_shift(calibrator.apply(score[here]), source, prevalence)
    return table.assign(score=changed)


def calibrated_by(table: pd.DataFrame, scores: pd.DataFrame, prevalence: float) -> pd.DataFrame:
    """Scores of other examinations by the same teacher, made probabilities by the map of all its out-of-fold scores.

    Args:
        table: Out-of-fold predictions, as for `recalibrated`.
        scores: `sample_id, patient_id, label, score` of patients whom none of its models was fitted on.
        prevalence: Share of positives among the student's training patients.

    Returns:
        The second table with its scores replaced.
    """
    table, scores = binary_score(table, NAME), binary_score(scores, NAME)
    label = table["label"].to_numpy()
    weight = 1 / table.groupby("patient_id")["sample_id"].transform("size").to_numpy(dtype=np.float64)
    slope, intercept = platt(label, probabilities(table, ["score"])[:, 0], weight)
    shared = sorted(set(table["patient_id"]) & set(scores["patient_id"]))
    if shared:
        raise LeakageError(
            f"{NAME}: {len(shared)} patients of its own training are scored again, such as {', '.join(shared[:3])}",
            fixes=("score patients whom it was not fitted on", "take their out-of-fold scores"),
        )
    source = float(np.average(label == 1, weights=weight))
    found = Calibrator("platt", slope, intercept, len(table)).apply(probabilities(scores, ["score"])[:, 0])
    return scores.assign(score=prior_shift(found, source, prevalence))


def _folds(table: pd.DataFrame) -> FloatArray:
    """The fold of each row `(n,)`; at least two, and each patient in one."""
    if "fold" not in table.columns or table["fold"].isna().any() or table["fold"].nunique() < 2:
        raise EvaluationError(
            f"{NAME} are not out-of-fold: the table needs a column `fold` with two folds or more, and none missing",
            where=f"columns {', '.join(map(str, table.columns))}",
            fixes=(
                "cross-validate the teacher and name the parent run: xmkd crossval EXPERIMENT",
                "use the predictions_oof.csv of a cross-validation, not predictions_test.csv",
            ),
        )
    folds = table.groupby("patient_id")["fold"].nunique()
    torn = folds.index[folds > 1]
    if len(torn):
        raise LeakageError(
            f"{NAME}: {len(torn)} patients lie in two folds, so a model scored patients whom it was fitted on",
            where=f"patient_id {', '.join(map(str, torn[:5]))}",
            fixes=("split by patient: xmkd crossval does", "correct the patient ids"),
        )
    return table["fold"].to_numpy(dtype=np.float64)

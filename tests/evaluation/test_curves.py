"""Curves against scikit-learn, against repeated samples, and against the AUROC that the report prints."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from tests.evaluation.conftest import Predictions
from xmkd.evaluation.curves import PrecisionRecallCurve, RocCurve, pr_band, roc_band
from xmkd.evaluation.statistics import auroc_interval


def rounded(table: pd.DataFrame, digits: int = 1) -> pd.DataFrame:
    """With many tied scores."""
    return table.assign(score=table["score"].round(digits))


@pytest.mark.parametrize("seed", range(5))
def test_roc_is_the_polygon_of_scikit_learn(predictions: Predictions, seed: int) -> None:
    table = rounded(predictions(20, 3, seed=seed))
    fpr, tpr, _ = roc_curve(table["label"], table["score"], drop_intermediate=False)
    curve = roc_band(table, resamples=10)
    inner = ~np.isclose(curve["fpr"].to_numpy()[:, None], fpr).any(axis=1)  # at a vertical step any height is right
    assert inner.sum() > 100
    np.testing.assert_allclose(curve["tpr"][inner], np.interp(curve["fpr"][inner], fpr, tpr), atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_precision_is_that_of_the_highest_threshold_with_the_recall(predictions: Predictions, seed: int) -> None:
    table = rounded(predictions(20, 3, seed=seed), 2)
    precision, recall, _ = precision_recall_curve(table["label"], table["score"])
    curve = pr_band(table, resamples=10)
    expected = [precision[np.flatnonzero(recall >= at - 1e-9).max()] for at in curve["recall"]]
    np.testing.assert_allclose(curve["precision"], expected, atol=1e-9)


def test_a_weight_counts_as_so_many_samples(predictions: Predictions) -> None:
    table = rounded(predictions(12, 4))
    label, score = table["label"].to_numpy(), table["score"].to_numpy()
    weight = np.random.default_rng(0).integers(0, 4, (6, label.size)).astype(float)
    grid = np.linspace(0.03, 0.97, 40)
    for curve in (RocCurve(grid), PrecisionRecallCurve(grid)):
        together = curve(label, score, weight)
        for row, counts in zip(together, weight.astype(int), strict=True):
            many = np.repeat(np.arange(label.size), counts)
            alone = curve(label[many], score[many], np.ones((1, many.size)))[0]
            np.testing.assert_allclose(row, alone, atol=1e-9)


def test_area_under_the_curve_over_folds_is_the_auroc_within_folds(predictions: Predictions) -> None:
    table = predictions(60, 4).assign(fold=np.repeat(np.arange(60) % 3, 4))
    table["score"] = (table["score"] + table["fold"]) / 3  # each fold's model on a scale of its own
    within = auroc_interval(table["label"], table["score"], table["patient_id"], fold=table["fold"]).value
    pooled = auroc_interval(table["label"], table["score"], table["patient_id"]).value
    curve = roc_band(table, resamples=10)
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(within, abs=2e-3)
    assert pooled < within - 0.1, "the folds' scales must differ for this test to mean anything"


def test_band_is_of_patients_not_of_samples(predictions: Predictions) -> None:
    table = predictions(40, 8)
    by_patient, by_sample = roc_band(table), roc_band(table.assign(patient_id=table["sample_id"]))
    assert (by_patient["low"] <= by_patient["tpr"]).all()
    assert (by_patient["tpr"] <= by_patient["high"]).all()
    assert by_patient["low"].between(0, 1).all()
    width, naive = ((t["high"] - t["low"]).mean() for t in (by_patient, by_sample))
    assert width > 1.3 * naive


@pytest.mark.parametrize("band", [roc_band, pr_band])
def test_too_few_patients_have_no_band(predictions: Predictions, band: type) -> None:
    table = band(predictions(15, 8))
    assert table["low"].isna().all()
    assert table["high"].isna().all()
    assert table.iloc[:, 1].notna().all()

"""Recalibration of a teacher's out-of-fold scores and their move to another prevalence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special

from xmkd.errors import EvaluationError, LeakageError
from xmkd.evaluation.calibration import calibration, fit_calibrator, logits, prior_shift
from xmkd.evaluation.inputs import FloatArray
from xmkd.evaluation.teacher_scores import recalibrated


def out_of_fold(
    patients: int = 2000, *, prevalence: float = 0.3, slope: float = 1.0, intercept: float = 0.0, folds: int = 5
) -> pd.DataFrame:
    """Scores whose logits are `slope z + intercept`, z the true log odds at this prevalence."""
    rng = np.random.default_rng(0)
    label = (rng.random(patients) < prevalence).astype(int)
    evidence = rng.normal(label * 2.0)  # N(0, 1) or N(2, 1)
    truth = 2 * evidence - 2 + special.logit(prevalence)
    ids = [f"p{i}" for i in range(patients)]
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(patients)],
            "patient_id": ids,
            "fold": np.arange(patients) % folds,
            "label": label,
            "score": special.expit(slope * truth + intercept),
            "truth": truth,
        }
    )


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (3.0, 1.0), (0.5, -2.0)])
def test_scores_become_the_true_odds_at_the_other_prevalence(slope: float, intercept: float) -> None:
    table = out_of_fold(slope=slope, intercept=intercept)
    found = recalibrated(table, 0.1)
    wanted = table["truth"] + special.logit(0.1) - special.logit(0.3)
    middle = wanted.between(*wanted.quantile([0.1, 0.9]))
    assert np.abs(logits(found["score"].to_numpy()) - wanted)[middle].max() < 0.35
    at_home = calibration(recalibrated(table, float(table["label"].mean())), resamples=20)
    assert at_home.slope.value == pytest.approx(1, abs=0.05)
    assert at_home.intercept.value == pytest.approx(0, abs=0.05)


def test_rows_and_other_columns_stay_as_they_are() -> None:
    table = out_of_fold(100).sample(frac=1, random_state=1)
    found = recalibrated(table, 0.2)
    pd.testing.assert_frame_equal(found.drop(columns="score"), table.drop(columns="score").reset_index(drop=True))
    assert "score" in found


def test_each_fold_by_hand_from_the_others_alone() -> None:
    table = out_of_fold(300, slope=2.0)
    found = recalibrated(table, 0.15)
    for k in range(5):
        others = table[table["fold"] != k]
        expected = fit_calibrator(others, "platt").apply(table["score"][table["fold"] == k])
        expected = prior_shift(expected, others["label"].mean(), 0.15)
        np.testing.assert_allclose(found["score"][table["fold"] == k], expected, rtol=1e-9)


def test_a_folds_own_labels_decide_nothing_in_it() -> None:
    table = out_of_fold(300)
    turned = table.assign(label=np.where(table["fold"] == 2, 1 - table["label"], table["label"]))
    here = table["fold"] == 2
    found, other = (recalibrated(t, 0.3)["score"].to_numpy() for t in (table, turned))
    np.testing.assert_array_equal(found[here], other[here])
    assert (found[~here] != other[~here]).all()


def test_patients_count_alike_however_many_clips_they_have() -> None:
    table = out_of_fold(300)
    often = table[table["label"] == 1].iloc[:40]
    copies = pd.concat([table, *(often.assign(sample_id=often["sample_id"] + f"_{i}") for i in range(9))])
    once, copied = (recalibrated(t, 0.3).set_index("sample_id")["score"] for t in (table, copies))
    np.testing.assert_allclose(copied[once.index], once, rtol=1e-9)


def test_perfect_scores_stay_probabilities() -> None:
    table = out_of_fold(60)
    scores: FloatArray = table["label"].to_numpy(dtype=float)
    found = recalibrated(table.assign(score=scores), 0.3)["score"]
    assert found.between(0.001, 0.999).all()
    assert found[table["label"] == 1].min() > 0.8


def test_a_teacher_that_knows_nothing_is_said() -> None:
    table = out_of_fold(200)
    with pytest.warns(UserWarning, match="don't go with more positives"):
        recalibrated(table.assign(score=1 - table["score"]), 0.3)


def test_bad_scores_are_refused() -> None:
    table = out_of_fold(60)
    for bad in (table.drop(columns="fold"), table.assign(fold=0), table.assign(fold=np.nan)):
        with pytest.raises(EvaluationError, match="not out-of-fold"):
            recalibrated(bad, 0.3)
    some = table["fold"].where(table.index != 3)
    with pytest.raises(EvaluationError, match="not out-of-fold"):
        recalibrated(table.assign(fold=some), 0.3)
    with pytest.raises(EvaluationError, match="all 48 samples are negative"):
        recalibrated(table.assign(label=0), 0.3)
    with pytest.raises(EvaluationError, match=r"not finite[^$]*s3"):
        recalibrated(table.assign(score=table["score"].where(table.index != 3)), 0.3)
    with pytest.raises(EvaluationError, match="no probabilities"):
        recalibrated(table.assign(score=logits(table["score"].to_numpy())), 0.3)
    for prevalence in (0.0, 1.0):
        with pytest.raises(EvaluationError, match="target prevalence"):
            recalibrated(table, prevalence)
    with pytest.raises(LeakageError, match="two folds"):
        recalibrated(table.assign(patient_id=[f"p{i // 2}" for i in range(60)]), 0.3)

"""Recalibration and its assessment."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from tests.evaluation.conftest import Predictions
from xmkd.errors import EvaluationError
from xmkd.evaluation.calibration import (
    calibration,
    expected_calibration_error,
    fit_calibrator,
    logits,
    prior_shift,
)
from xmkd.evaluation.inputs import FloatArray
from xmkd.evaluation.logistic import logistic_fits, spline_design


def calibrated(n: int, *, slope: float = 1.0, intercept: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Outcomes drawn from sigmoid(slope z + intercept) where the scores say sigmoid(z)."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(scale=1.5, size=n)
    label = (rng.random(n) < special.expit(slope * logit + intercept)).astype(int)
    ids = [f"s{i}" for i in range(n)]
    return pd.DataFrame({"sample_id": ids, "patient_id": ids, "label": label, "score": special.expit(logit)})


@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_fits_equal_scikit_learn(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(200), rng.normal(size=(200, 2))])
    target = (rng.random(200) < special.expit(design @ [0.3, 1.0, -2.0])).astype(float)
    weight = rng.integers(0, 3, size=(4, 200)).astype(float) if weighted else np.ones((1, 200))
    found = logistic_fits(design, target, weight)
    for row, one in zip(found, weight, strict=True):
        fit = LogisticRegression(C=1e6, tol=1e-10, max_iter=1000).fit(design[:, 1:], target, sample_weight=one)
        np.testing.assert_allclose(row, [*fit.intercept_, *fit.coef_[0]], atol=1e-4)


def test_logistic_fits_reach_the_optimum_from_afar() -> None:
    """Full Newton steps overshoot on nearly separated data; halved steps end where the gradient is zero."""
    rng = np.random.default_rng(1)
    logit = np.sort(rng.normal(scale=3, size=60))
    design, _ = spline_design(logit, logit)
    target = (np.arange(60) > 27).astype(float)
    target[[20, 35]] = 1 - target[[20, 35]]
    weight = rng.multinomial(60, np.full(60, 1 / 60), size=200).astype(float)
    found = logistic_fits(design, target, weight, ridge=1e-2)
    gradient = (weight * (target - special.expit(found @ design.T))) @ design - 1e-2 * found
    assert np.abs(gradient).max() < 1e-5


def test_spline_is_linear_beyond_its_outer_knots() -> None:
    values = np.random.default_rng(0).normal(size=500)
    _, far = spline_design(values, np.array([5.0, 6.0, 7.0]))
    np.testing.assert_allclose(far[2] - far[1], far[1] - far[0], atol=1e-9)
    design, at = spline_design(values, values[:7])
    assert design.shape == (500, 4)
    np.testing.assert_array_equal(at, design[:7])
    assert spline_design(np.repeat([0.0, 1.0], 50), values)[0].shape == (100, 2)  # two values, a straight line


def test_platt_recovers_slope_and_intercept() -> None:
    fitted = fit_calibrator(calibrated(20_000, slope=0.6, intercept=-1.2), "platt")
    assert fitted.slope == pytest.approx(0.6, abs=0.04)
    assert fitted.intercept == pytest.approx(-1.2, abs=0.06)
    assert fitted.apply([0.5]) == pytest.approx([special.expit(fitted.intercept)], abs=1e-12)


def test_platt_targets_keep_separated_data_finite() -> None:
    frame = calibrated(200)
    positives = int(frame["label"].sum())
    fitted = fit_calibrator(frame.assign(score=np.where(frame["label"] == 1, 0.8, 0.2)), "platt")
    # two scores, two coefficients: each class ends on its target (n + 1) / (n + 2), or 1 / (n + 2)
    expected = [(positives + 1) / (positives + 2), 1 / (200 - positives + 2)]
    assert fitted.apply([0.8, 0.2]) == pytest.approx(expected, rel=1e-4)


def test_temperature_minimises_the_log_loss() -> None:
    frame = calibrated(5000, slope=0.5)
    fitted = fit_calibrator(frame, "temperature")
    assert fitted.slope == pytest.approx(0.5, abs=0.05)
    assert fitted.intercept == 0
    losses = [log_loss(frame["label"], special.expit(s * logits(frame["score"].to_numpy()))) for s in (0.98, 1, 1.02)]
    assert losses[0] < losses[1] < losses[2]  # still falling towards 1/2
    scaled = [
        log_loss(frame["label"], special.expit(f * fitted.slope * logits(frame["score"].to_numpy())))
        for f in (0.98, 1.0, 1.02)
    ]
    assert scaled[1] == min(scaled)


def test_temperature_of_several_classes() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(scale=2, size=(4000, 3))
    label = (logit / 2 + rng.gumbel(size=logit.shape)).argmax(axis=1)  # temperature 2
    score = special.softmax(logit, axis=1)
    ids = np.arange(4000)
    frame = pd.DataFrame({"sample_id": ids, "patient_id": ids, "label": label})
    frame = frame.assign(**{f"score_{k}": score[:, k] for k in range(3)})
    fitted = fit_calibrator(frame, "temperature")
    assert 1 / fitted.slope == pytest.approx(2, abs=0.15)
    changed = fitted.apply_table(frame).filter(like="score_").to_numpy()
    np.testing.assert_allclose(changed.sum(axis=1), 1)
    assert log_loss(label, changed) < log_loss(label, score)
    with pytest.raises(EvaluationError, match="Platt scaling is for two classes"):
        fit_calibrator(frame, "platt")


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_separated_or_misleading_validation_is_said(method: Literal["platt", "temperature"]) -> None:
    frame = calibrated(200)
    separated = fit_calibrator(frame.assign(score=np.where(frame["label"] == 1, 0.8, 0.2)), method)
    assert np.isfinite(separated.slope)
    reversed_scores = fit_calibrator(frame.assign(score=1 - frame["score"]), method)
    assert "warning" in reversed_scores.note
    if method == "temperature":
        assert "at the limit" in separated.note


def test_assessment_of_calibrated_scores() -> None:
    frame = calibrated(4000)
    found = calibration(frame, resamples=200)
    for interval, ideal in ((found.slope, 1.0), (found.intercept, 0.0)):
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < ideal < interval.high
    assert found.log_loss.value == pytest.approx(log_loss(frame["label"], frame["score"]), abs=1e-6)
    assert found.ece < 0.04
    inside = (found.curve["low"] <= found.curve["score"]) & (found.curve["score"] <= found.curve["high"])
    assert inside.mean() > 0.8


def test_assessment_names_over_and_miscalibration() -> None:
    found = calibration(calibrated(4000, slope=0.5, intercept=1.0), resamples=200)
    assert found.slope.high is not None
    assert found.slope.high < 0.7  # scores too extreme
    assert found.intercept.low is not None
    assert found.intercept.low > 0.5  # scores too low
    assert found.ece > 0.1
    inside = (found.curve["low"] <= found.curve["score"]) & (found.curve["score"] <= found.curve["high"])
    assert inside.mean() < 0.3


def test_net_benefit_by_hand() -> None:
    frame = calibrated(400)
    table = calibration(frame, resamples=50).net_benefit.set_index("threshold")
    called, positive = frame["score"] >= 0.25, frame["label"] == 1
    expected = (called & positive).mean() - (called & ~positive).mean() * 0.25 / 0.75
    assert table["model"].to_dict()[0.25] == pytest.approx(expected, abs=1e-12)
    assert table["treat_all"].to_dict()[0.25] == pytest.approx(positive.mean() - (~positive).mean() / 3, abs=1e-12)
    assert (table["low"] <= table["model"]).all()
    assert (table["model"] <= table["high"]).all()


def test_expected_calibration_error_by_hand() -> None:
    label = np.array([0, 0, 1, 1])
    score: FloatArray = np.array([0.1, 0.3, 0.6, 0.9])
    # bins {0.1, 0.3} and {0.6, 0.9}: gaps 0.2 and 0.25
    assert expected_calibration_error(label, score, bins=2) == pytest.approx(0.225)


def test_bands_count_patients_not_images(predictions: Predictions) -> None:
    frame = predictions(patients=60, images=2)
    copies = pd.concat([frame.assign(sample_id=frame["sample_id"] + f"_{i}") for i in range(6)])
    once, copied = (calibration(f, resamples=200, seed=1) for f in (frame, copies))
    assert copied.slope.low == pytest.approx(once.slope.low or 0.0, abs=1e-3)
    width = (once.curve["high"] - once.curve["low"]).mean()
    assert (copied.curve["high"] - copied.curve["low"]).mean() == pytest.approx(width, rel=0.15)  # but for the ridge


def test_too_few_patients_and_separation(predictions: Predictions) -> None:
    found = calibration(predictions(patients=20, prevalence=0.4), resamples=50)
    assert found.slope.low is None
    assert "too few patients" in str(found.slope)
    assert found.curve["low"].isna().all()
    frame = predictions()
    separated = calibration(frame.assign(score=np.where(frame["label"] == 1, 0.8, 0.2)), resamples=50)
    assert np.isnan(separated.slope.value)
    assert "separation" in separated.slope.note


def test_scores_must_be_probabilities(predictions: Predictions) -> None:
    frame = predictions()
    frame.loc[4, "score"] = 1.2
    with pytest.raises(EvaluationError, match="no probabilities") as caught:
        calibration(frame)
    assert "s4" in str(caught.value)


def test_prior_shift_by_hand() -> None:
    # Odds of 1/3 at a prevalence of 1/2 are a likelihood ratio of 1/3; at 9/10 the prior odds are 9.
    assert prior_shift([0.25], 0.5, 0.9) == pytest.approx([0.75])
    score = np.array([0.01, 0.4, 0.99])
    np.testing.assert_allclose(prior_shift(score, 0.3, 0.3), score, rtol=1e-12)
    np.testing.assert_allclose(prior_shift(prior_shift(score, 0.3, 0.05), 0.05, 0.3), score, rtol=1e-9)
    assert np.isfinite(logits(prior_shift([0.0, 1.0], 0.2, 0.6))).all()


def test_shifted_scores_are_calibrated_at_the_other_prevalence() -> None:
    """Evidence is N(0, 1) or N(2, 1): Bayes' theorem gives the posterior at any prevalence."""
    evidence = np.random.default_rng(0).normal(1, 1.5, size=200)

    def posterior(prevalence: float) -> FloatArray:
        return np.asarray(special.expit(2 * evidence - 2 + special.logit(prevalence)))

    np.testing.assert_allclose(prior_shift(posterior(0.4), 0.4, 0.15), posterior(0.15), rtol=1e-4)


@pytest.mark.parametrize("prevalence", [0.0, 1.0, float("nan")])
def test_a_prevalence_of_one_class_has_no_shift(prevalence: float) -> None:
    with pytest.raises(EvaluationError, match="target prevalence"):
        prior_shift([0.5], 0.5, prevalence)

"""Comparison of models on the same patients."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.evaluation.conftest import Predictions
from xmkd.errors import EvaluationError
from xmkd.evaluation.compare import compare, compare_many, format_comparisons, holm, holm_corrected
from xmkd.evaluation.statistics import auroc


def with_noise(frame: pd.DataFrame, size: float, seed: int = 0) -> pd.DataFrame:
    """The same samples, scored with more noise."""
    rng = np.random.default_rng(seed)
    logit = np.log(frame["score"] / (1 - frame["score"])) + size * rng.normal(size=len(frame))
    return frame.assign(score=1 / (1 + np.exp(-logit)))


def test_superior(predictions: Predictions) -> None:
    good = predictions(patients=100, shift=3)
    bad = with_noise(good, 4)
    found = compare(good, bad, names=("good", "bad"))
    assert (found.verdict, found.better) == ("superior", "good")
    assert compare(bad, good, names=("bad", "good")).better == "good"
    expected = auroc(good["label"], good["score"]) - auroc(bad["label"], bad["score"])
    assert found.difference.value == pytest.approx(expected, abs=1e-12)


def test_equivalent_needs_the_interval_inside_the_margin(predictions: Predictions) -> None:
    frame = predictions(patients=400)
    near = with_noise(frame, 0.05)
    found = compare(frame, near)
    assert found.verdict == "equivalent"
    assert found.better == ""
    assert found.difference.low is not None
    assert found.difference.high is not None
    assert -0.01 < found.difference.low < found.difference.high < 0.01
    assert compare(frame, near, margin=1e-5).verdict == "inconclusive"


def test_equivalence_is_two_one_sided_tests(predictions: Predictions) -> None:
    frame = predictions(patients=80)
    found = compare(frame, with_noise(frame, 0.3))
    df = 32 - 1
    half = (found.difference.high or 0) - found.difference.value
    se = half / stats.t.ppf(0.975, df)
    upper = stats.t.cdf((found.difference.value - 0.01) / se, df)
    lower = stats.t.sf((found.difference.value + 0.01) / se, df)
    assert found.p_equivalence == pytest.approx(max(upper, lower), rel=1e-6)
    assert found.detectable == pytest.approx((stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)) * se, rel=1e-6)


def test_inconclusive_is_no_tie(predictions: Predictions) -> None:
    frame = predictions(patients=40)
    found = compare(with_noise(frame, 1, seed=1), with_noise(frame, 1, seed=2))
    assert found.p > 0.05
    assert found.verdict == "inconclusive"


def test_the_same_scores_are_equivalent(predictions: Predictions) -> None:
    frame = predictions()
    found = compare(frame, frame.assign(score=frame["score"] ** 2))
    assert (found.verdict, found.difference.value, found.p) == ("equivalent", 0.0, 1.0)


def test_too_few_patients_are_inconclusive(predictions: Predictions) -> None:
    frame = predictions(patients=16)
    found = compare(frame, with_noise(frame, 5))
    assert found.verdict == "inconclusive"
    assert math.isnan(found.p)
    text = format_comparisons([found])
    assert "too few patients" in text
    assert "unknown AUROC" in text


def test_row_order_does_not_matter_and_samples_must_be_the_same(predictions: Predictions) -> None:
    frame = predictions()
    other = with_noise(frame, 1)
    assert compare(frame, other.sample(frac=1, random_state=1)) == compare(frame, other)
    with pytest.raises(EvaluationError, match="2 only in full") as caught:
        compare(frame, other.iloc[2:], names=("full", "part"))
    assert "s0, s1" in str(caught.value)
    assert len(caught.value.fixes) == 2


@pytest.mark.parametrize(
    ("column", "match"), [("label", "the labels of 1 samples"), ("patient_id", "the patients of 1")]
)
def test_disagreement_is_an_error(predictions: Predictions, column: str, match: str) -> None:
    frame = predictions()
    other = frame.copy()
    other.loc[9, column] = {"label": 1 - frame["label"].tolist()[9], "patient_id": "someone"}[column]
    with pytest.raises(EvaluationError, match=match) as caught:
        compare(frame, other)
    assert "s9" in str(caught.value)


def test_folds_must_be_the_same_and_are_used(predictions: Predictions) -> None:
    frame = predictions(patients=100)
    number = frame["patient_id"].str[1:].astype(int)
    folded = frame.assign(fold=number % 4, score=frame["score"] / 2 + number % 4)
    other = with_noise(frame, 1).assign(fold=number % 4)
    found = compare(folded, other)
    assert "within folds" in found.a.note
    assert found.difference.value == pytest.approx(found.a.value - found.b.value, abs=1e-12)
    with pytest.raises(EvaluationError, match="different folds"):
        compare(folded, other.assign(fold=number % 5))
    with pytest.raises(EvaluationError, match="different folds"):
        compare(folded, frame)


def test_several_classes_are_refused(predictions: Predictions) -> None:
    frame = predictions().drop(columns="score").assign(score_0=0.2, score_1=0.3, score_2=0.5)
    with pytest.raises(EvaluationError, match="two classes are needed"):
        compare(frame, frame)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02, float("nan")])[0] == pytest.approx(0.04)
    assert math.isnan(holm([0.02, float("nan")])[1])


def test_many_comparisons_are_corrected(predictions: Predictions) -> None:
    frame = predictions(patients=60, shift=2.5)
    arms = {f"arm{i}": with_noise(frame, 2.0, seed=i) for i in range(4)}
    found = compare_many(frame, arms, name="full")
    assert [c.names for c in found] == [("full", f"arm{i}") for i in range(4)]
    assert all(c.comparisons == 4 and c.p_holm >= c.p for c in found)
    assert [c.p_holm for c in found] == pytest.approx(holm([c.p for c in found]))
    assert "Holm over 4" in format_comparisons(found)
    with pytest.raises(EvaluationError, match="nothing to compare full with"):
        compare_many(frame, {}, name="full")


def test_correction_can_turn_superior_into_inconclusive(predictions: Predictions) -> None:
    frame = predictions(patients=60, shift=2.5)
    one = next(c for c in (compare(frame, with_noise(frame, 1.0, seed=i)) for i in range(50)) if 0.01 < c.p < 0.04)
    assert one.verdict == "superior"
    assert holm_corrected([one] * 6)[0].verdict == "inconclusive"


def test_text_says_first_what_could_be_detected(predictions: Predictions) -> None:
    frame = predictions()
    lines = format_comparisons([compare(frame, with_noise(frame, 1), names=("full", "surrogate"))]).splitlines()
    assert lines[0].startswith("smallest detectable difference full - surrogate: 0.")
    assert lines[-1].split()[0] == "full"
    assert lines[-1].endswith(("superior", "inconclusive", "equivalent"))

"""Operating points and what they promise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.conftest import Predictions
from xmkd.errors import EvaluationError
from xmkd.evaluation.thresholds import Threshold, cuts, of_folds, operating_point


def table(positive: list[float], negative: list[float]) -> pd.DataFrame:
    """One sample per patient."""
    n = len(positive) + len(negative)
    ids = [f"p{i}" for i in range(n)]
    label = [1] * len(positive) + [0] * len(negative)
    return pd.DataFrame({"sample_id": ids, "patient_id": ids, "label": label, "score": positive + negative})


def test_kth_smallest_positive_patient() -> None:
    scores = [i / 100 for i in range(1, 40)]  # 39 positives: k = floor(0.05 * 40) = 2
    point = operating_point("sens>=0.95", table(scores, [0.0]))
    assert point.value == 0.02
    assert (point.positive_patients, point.negative_patients) == (39, 1)
    assert "sens>=0.95" in str(point)


@pytest.mark.parametrize(("share", "needed"), [("0.95", 19), ("0.9", 9), ("0.8", 4), ("0.99", 99), ("0.97", 33)])
def test_refused_below_the_number_needed_and_given_from_there(share: str, needed: int) -> None:
    scores = np.linspace(0.1, 0.9, needed).tolist()
    assert operating_point(f"sens>={share}", table(scores, [0.0])).value == scores[0]
    with pytest.raises(EvaluationError, match=f"it needs {needed}\\n") as caught:
        operating_point(f"sens>={share}", table(scores[1:], [0.0]))
    assert len(caught.value.fixes) == 2


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=5, max_size=25),
    st.sampled_from(["0.5", "0.7", "0.75", "0.8"]),
    st.sampled_from(["sens", "spec"]),
)
def test_promise_holds_for_a_patient_left_out(values: list[int], share: str, side: str) -> None:
    """Of n + 1 exchangeable patients, at most k are misjudged by the threshold that the n others give."""
    wrong = 0
    for i, new in enumerate(values):
        others = [float(v) for v in values[:i] + values[i + 1 :]]
        data = table(others, [-1.0]) if side == "sens" else table([99.0], others)
        threshold = operating_point(f"{side}>={share}", data).value
        called = new >= threshold
        wrong += called != (side == "sens")
    assert wrong <= (1 - float(share)) * len(values) + 1e-9


def test_patient_score_is_the_mean_of_the_samples_of_that_class() -> None:
    frame = pd.DataFrame(
        {
            "sample_id": list("abcdef"),
            "patient_id": ["p", "p", "p", "q", "q", "r"],
            "label": [1, 1, 0, 1, 1, 0],
            "score": [0.2, 0.4, 0.9, 0.6, 0.8, 0.1],  # positives: p 0.3, q 0.7; negatives: p 0.9, r 0.1
        }
    )
    assert operating_point("sens>=0.5", frame).value == pytest.approx(0.3)
    point = operating_point("spec>=0.5", frame)
    assert 0.9 < point.value < 0.9 + 1e-9
    assert (point.positive_patients, point.negative_patients) == (2, 2)


def test_specificity_is_reached_on_validation(predictions: Predictions) -> None:
    frame = predictions(patients=100, images=1)
    threshold = operating_point("spec>=0.9", frame).value
    assert (frame.loc[frame["label"] == 0, "score"] < threshold).mean() >= 0.9


def test_youden_is_the_best_cut_and_says_it_is_optimistic() -> None:
    point = operating_point("youden", table([0.4, 0.6, 0.8], [0.1, 0.2, 0.5]))
    assert point.value == 0.4  # sensitivity 1, specificity 2/3; 0.6 is as good, and the lower is taken
    assert operating_point("youden", table([0.4, 0.6, 0.8], [0.1, 0.5, 0.5])).value == 0.6
    assert "optimistic" in point.note


def test_a_promise_is_said_to_be_of_patients() -> None:
    data = table([i / 40 for i in range(20, 40)], [i / 40 for i in range(20)])
    for policy in ("sens>=0.9", "spec>=0.9"):
        point = operating_point(policy, data)
        assert str(point).endswith("; promised for a patient's mean score, not for single images")
        assert not point.note, "a note is a warning of the report; this is none"
    assert all("promised" not in str(point) for point in (operating_point("youden", data), operating_point(0.5)))


def test_fixed_numbers_need_no_validation() -> None:
    assert operating_point(0.3).value == operating_point("0.3").value == 0.3
    assert operating_point("0.3").policy == "fixed"


@pytest.mark.parametrize("policy", ["sensitivity", "sens>=95%", "sens>=1", "spec>=0", "nan", "sens>0.9"])
def test_unknown_policies_are_refused(policy: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        operating_point(policy, table([0.5] * 50, [0.1]))
    assert len(caught.value.fixes) == 2


def test_validation_must_exist_and_hold_both_classes() -> None:
    with pytest.raises(EvaluationError, match="chosen on validation predictions"):
        operating_point("sens>=0.9")
    with pytest.raises(EvaluationError, match="all 20 samples are negative"):
        operating_point("sens>=0.9", table([], [0.1] * 20))


def test_folds_keep_their_own_thresholds() -> None:
    data = table([i / 40 for i in range(20, 40)], [i / 40 for i in range(20)])
    first, second = (
        operating_point("sens>=0.9", data),
        operating_point("sens>=0.9", data.assign(score=data["score"] / 2)),
    )
    both = of_folds([first, second])
    assert list(both.folds) == [first.value, second.value]
    assert both.rule == "each fold at its own threshold, fixed on its validation patients"
    assert str(both).startswith(f"{both.rule} (sens>=0.9, from {second.value:.4f} to {first.value:.4f})")
    rows = pd.DataFrame({"score": [0.5] * 3, "fold": [1, 0, 1]})
    assert cuts(rows, both).tolist() == [second.value, first.value, second.value]
    assert cuts(rows, 0.3).tolist() == cuts(rows, operating_point(0.3)).tolist() == [0.3] * 3


def test_folds_without_a_threshold_stay_at_a_half_and_say_so() -> None:
    chosen = operating_point("youden", table([0.4, 0.6, 0.8], [0.1, 0.2, 0.3]))
    refused = Threshold(0.5, "fixed", 0, 0, "youden refused: no validation patients")
    some = of_folds([refused, chosen])
    assert list(some.folds) == [0.5, 0.4]
    assert some.note.endswith("fold 0 at 0.5: youden refused: no validation patients")
    none = of_folds([refused, refused])
    assert (none.value, list(none.folds)) == (0.5, [])
    assert "no fold has a threshold of its own: youden refused" in none.note
    assert of_folds([operating_point(0.3)] * 2) == operating_point(0.3), "a number is every fold's"

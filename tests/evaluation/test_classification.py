"""Metrics from prediction tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from tests.evaluation.conftest import Predictions
from xmkd.errors import EvaluationError
from xmkd.evaluation.classification import (
    BINARY,
    binary_metrics,
    by_patient,
    confusion_matrix,
    metrics,
    per_site,
    to_frame,
)
from xmkd.evaluation.statistics import Interval


def several_classes(seed: int = 0, *, classes: int = 4, missing: int | None = None) -> pd.DataFrame:
    """40 groups of 6 samples, each of any class."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(40), 6)
    allowed = [k for k in range(classes) if k != missing]
    label = rng.choice(allowed, size=group.size)
    logit = rng.normal(size=(group.size, classes))
    logit[np.arange(group.size), label] += 1.5
    score = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    frame = pd.DataFrame({"sample_id": [f"s{i}" for i in range(group.size)], "patient_id": group, "label": label})
    return frame.assign(**{f"score_{k}": score[:, k] for k in range(classes)})


def bounds(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def test_values_equal_scikit_learn_and_lie_in_their_intervals(predictions: Predictions) -> None:
    frame = predictions()
    found = metrics(frame, threshold=0.4)
    label, score = frame["label"].to_numpy(), frame["score"].to_numpy()
    called = score >= 0.4
    expected = {
        "auroc": reference.roc_auc_score(label, score),
        "auprc": reference.average_precision_score(label, score),
        "sensitivity": reference.recall_score(label, called),
        "specificity": reference.recall_score(1 - label, ~called),
        "balanced_accuracy": reference.balanced_accuracy_score(label, called),
        "f1": reference.f1_score(label, called),
        "brier": reference.brier_score_loss(label, score),
    }
    assert list(expected) == list(BINARY)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        low, high = bounds(found[name])
        assert low < value < high, name
        assert found[name].patients == {"sensitivity": 24, "specificity": 36}.get(name, 60), name


def test_patient_level_uses_the_mean_score(predictions: Predictions) -> None:
    frame = predictions()
    found = metrics(frame)
    means = frame.groupby("patient_id")[["label", "score"]].mean()
    assert found["patient/auroc"].value == pytest.approx(reference.roc_auc_score(means["label"], means["score"]))
    assert found["patient/auroc"].n == 60
    assert found["patient/sensitivity"].method == "Clopper-Pearson"
    assert found["sensitivity"].method == "Korn-Graubard"


def test_no_patient_level_with_one_sample_each_or_mixed_labels(predictions: Predictions) -> None:
    frame = predictions(images=1)
    assert not [name for name in metrics(frame) if name.startswith("patient/")]
    mixed = predictions()
    mixed.loc[0, "label"] = 0
    assert by_patient(mixed) is None
    assert not [name for name in metrics(mixed) if name.startswith("patient/")]


def test_more_images_of_the_same_patients_hardly_shorten_the_interval(predictions: Predictions) -> None:
    frame = predictions(patients=80)
    copies = pd.concat([frame.assign(sample_id=frame["sample_id"] + f"_{i}") for i in range(4)])
    found = binary_metrics(copies)
    for name, interval in binary_metrics(frame).items():
        low, high = bounds(interval)
        copied_low, copied_high = bounds(found[name])
        assert copied_high - copied_low == pytest.approx(high - low, rel=0.06), name


def test_under_10_patients_in_a_class_only_exact_intervals_remain(predictions: Predictions) -> None:
    found = metrics(predictions(patients=30, prevalence=0.3))
    for name in ("auroc", "auprc", "balanced_accuracy", "f1", "brier"):
        assert found[name].low is None
        assert "too few patients" in str(found[name])
    assert found["sensitivity"].low is not None


def test_folds_are_used_and_named(predictions: Predictions) -> None:
    frame = predictions(patients=100)
    number = frame["patient_id"].str[1:].astype(int)
    frame["fold"] = number % 2
    frame["score"] = (frame["score"] + frame["fold"]) / 2  # fold 1 above fold 0
    found = metrics(frame)
    halves = [half for _, half in frame.groupby("fold")]
    within = np.mean([reference.roc_auc_score(half["label"], half["score"]) for half in halves])
    assert found["auroc"].value == pytest.approx(within, abs=1e-12)  # equal folds, equal weights
    assert "warning" in found["auroc"].note
    assert found["auprc"].note.endswith("pooled over folds")
    assert "within folds" in found["patient/auroc"].note


def test_patient_in_several_folds_is_a_leak(predictions: Predictions) -> None:
    frame = predictions()
    frame["fold"] = np.arange(len(frame)) % 2
    with pytest.raises(EvaluationError, match="predictions from several folds"):
        metrics(frame)


def test_one_class_is_an_error_with_two_ways_out(predictions: Predictions) -> None:
    frame = predictions()
    with pytest.raises(EvaluationError, match="are positive") as caught:
        metrics(frame[frame["label"] == 1])
    assert len(caught.value.fixes) == 2
    with pytest.raises(EvaluationError, match="of the class 'c'"):
        metrics(several_classes().query("label == 2"), classes=list("abcd"))


def test_nan_scores_are_named(predictions: Predictions) -> None:
    frame = predictions()
    frame.loc[[3, 7], "score"] = np.nan
    with pytest.raises(EvaluationError, match="2 samples have a score that is not finite") as caught:
        metrics(frame)
    assert "s3, s7" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        ("sample_id", "s0", "occur more than once"),
        ("patient_id", None, "have no patient"),
        ("label", None, "have no label"),
        ("label", 2, "label outside 0 .. 1"),
        ("label", "endometrioma", "label outside 0 .. 1"),
    ],
)
def test_bad_rows_are_named(predictions: Predictions, column: str, value: object, match: str) -> None:
    frame = predictions().astype({"label": object})
    values = [value if row == 5 else old for row, old in enumerate(frame[column])]
    frame[column] = pd.Series(values, dtype=object)
    with pytest.raises(EvaluationError, match=match) as caught:
        metrics(frame)
    assert ("s0" if column == "sample_id" else "s5") in str(caught.value)


def test_bad_columns_are_named(predictions: Predictions) -> None:
    with pytest.raises(EvaluationError, match="missing columns patient_id"):
        metrics(predictions().drop(columns="patient_id"))
    with pytest.raises(EvaluationError, match="one column `score`"):
        metrics(predictions().assign(score_0=0.5))
    with pytest.raises(EvaluationError, match="no rows"):
        metrics(predictions().iloc[:0])


def test_scores_that_are_no_probabilities_have_no_brier(predictions: Predictions) -> None:
    frame = predictions()
    found = metrics(frame.assign(score=frame["score"] * 5), threshold=2.0)
    assert np.isnan(found["brier"].value)
    assert found["auroc"].value == metrics(frame)["auroc"].value


def test_several_classes_equal_scikit_learn() -> None:
    frame = several_classes()
    found = metrics(frame, classes=["a", "b", "c", "d"])
    label, score = frame["label"].to_numpy(), frame.filter(like="score_").to_numpy()
    called = score.argmax(axis=1)
    expected = {
        "macro_f1": reference.f1_score(label, called, average="macro"),
        "balanced_accuracy": reference.balanced_accuracy_score(label, called),
        "macro_auroc": reference.roc_auc_score(label, score, multi_class="ovr"),
        "accuracy": reference.accuracy_score(label, called),
        "auroc/c": reference.roc_auc_score(label == 2, score[:, 2]),
        "sensitivity/c": reference.recall_score(label == 2, called == 2),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        low, high = bounds(found[name])
        assert low < value < high, name


def test_missing_classes_are_named_and_left_out_of_the_mean() -> None:
    frame = several_classes(missing=1)
    found = metrics(frame, classes=["a", "b", "c", "d"])
    called = frame.filter(like="score_").to_numpy().argmax(axis=1)
    f1 = reference.f1_score(frame["label"], called, average="macro", labels=[0, 2, 3])
    assert found["macro_f1"].value == pytest.approx(f1, abs=1e-12)
    assert found["macro_f1"].note == "over 3 classes; missing: b"
    assert "auroc/b" not in found


def test_macro_auroc_counts_pairs_within_folds() -> None:
    frame = several_classes()
    frame["fold"] = frame["patient_id"] % 2
    found = metrics(frame)
    singles = [found[f"auroc/{k}"].value for k in range(4)]
    assert found["macro_auroc"].value == pytest.approx(np.mean(singles), abs=1e-12)
    assert all("within folds" in found[f"auroc/{k}"].note for k in range(4))


def test_confusion_matrix(predictions: Predictions) -> None:
    frame = predictions()
    counts = confusion_matrix(frame, 0.3, ["benign", "malignant"])
    expected = reference.confusion_matrix(frame["label"], frame["score"] >= 0.3)
    np.testing.assert_array_equal(counts, expected)
    assert list(counts.columns) == ["benign", "malignant"]
    several = several_classes(missing=1)
    called = several.filter(like="score_").to_numpy().argmax(axis=1)
    expected = reference.confusion_matrix(several["label"], called, labels=range(4))
    np.testing.assert_array_equal(confusion_matrix(several), expected)
    with pytest.raises(EvaluationError, match="3 class names for 2 classes"):
        confusion_matrix(frame, classes=["a", "b", "c"])


def test_per_site_keeps_what_is_defined_for_one_class(predictions: Predictions) -> None:
    frame = predictions(patients=80)
    frame = frame[(frame["site"] == "north") | (frame["label"] == 1)]
    frame.loc[frame.index[-5:], "site"] = None
    found = per_site(frame)
    north = frame[frame["site"] == "north"]
    assert found["north"]["auroc"].value == pytest.approx(
        reference.roc_auc_score(north["label"], north["score"]), abs=1e-12
    )
    assert list(found["south"]) == ["sensitivity"]
    assert list(found) == ["north", "not given", "south"]


def test_a_frame_has_all_figures(predictions: Predictions) -> None:
    found = metrics(predictions())
    frame = to_frame(found)
    assert frame["metric"].tolist() == list(found)
    assert frame["low"].tolist() == [interval.low for interval in found.values()]


def test_results_repeat_and_do_not_depend_on_row_order(predictions: Predictions) -> None:
    frame = predictions()
    first, again = metrics(frame), metrics(frame)
    assert first == again
    shuffled = metrics(frame.sample(frac=1, random_state=0))
    assert shuffled["auroc"].low == pytest.approx(first["auroc"].low or 0.0, abs=1e-12)
    assert shuffled["sensitivity"] == first["sensitivity"]

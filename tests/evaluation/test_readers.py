"""A model against readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.evaluation.conftest import Predictions
from xmkd.errors import EvaluationError
from xmkd.evaluation.compare import compare_readers, format_readers, load_readers
from xmkd.evaluation.inputs import FloatArray
from xmkd.evaluation.readers import _sensitivity_gain


def readings(
    frame: pd.DataFrame, sensitivity: float, specificity: float, name: str = "r1", seed: int = 0
) -> pd.DataFrame:
    """Calls of one reader on all patients."""
    rng = np.random.default_rng(seed)
    labels = frame.groupby("patient_id", sort=False)["label"].first()
    share = np.where(labels == 1, sensitivity, 1 - specificity)
    return pd.DataFrame(
        {"reader": name, "patient": labels.index, "call": (rng.random(len(labels)) < share).astype(int)}
    )


def test_by_hand() -> None:
    ids = list("abcdefghij")
    frame = pd.DataFrame(
        {
            "sample_id": ids,
            "patient_id": ids,
            "label": [1] * 5 + [0] * 5,
            "score": [0.9, 0.8, 0.7, 0.3, 0.1, 0.6, 0.5, 0.4, 0.2, 0.05],
        }
    )
    readers = pd.DataFrame({"reader": "r", "patient": ids, "call": [1, 0, 0, 1, 0, 1, 0, 0, 0, 0]})
    found = compare_readers(frame, readers)[0]
    assert (found.sensitivity.value, found.specificity.value) == (0.4, 0.8)
    # 4 of 5 negatives stay out when the cut lies just above 0.5: the model finds a, b and c
    assert 0.5 < found.threshold < 0.5 + 1e-9
    assert (found.model_sensitivity.value, found.model_specificity.value) == (0.6, 0.8)
    assert found.difference.value == pytest.approx(0.2)
    assert found.p == stats.binomtest(2, 3).pvalue  # the model alone finds b and c, the reader alone d
    assert found.difference.low is None  # 5 patients per class
    assert "too few patients" in format_readers([found])


def test_gain_under_weights_equals_a_loop_over_rows() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat([1, 0], [30, 40])
    pair: FloatArray = np.column_stack([np.round(label + rng.normal(size=70), 1), rng.random(70) < 0.3 + 0.4 * label])
    weight = np.hstack([rng.multinomial(m, np.full(m, 1 / m), size=50) for m in (30, 40)]).astype(float)
    found = _sensitivity_gain(label, pair, weight)
    for value, counts in zip(found, weight.astype(int), strict=True):
        rows = np.repeat(np.arange(70), counts)
        y, score, call = label[rows], pair[rows, 0], pair[rows, 1]
        wanted = (call[y == 0] == 0).mean()
        cuts = np.append(-np.inf, np.nextafter(np.unique(score[y == 0]), np.inf))
        cut = min(c for c in cuts if (score[y == 0] < c).mean() >= wanted - 1e-12)
        assert value == pytest.approx((score[y == 1] >= cut).mean() - call[y == 1].mean(), abs=1e-12)


def test_a_better_model_has_an_interval_above_zero(predictions: Predictions) -> None:
    frame = predictions(patients=120, images=3, shift=4)
    both = pd.concat([readings(frame, 0.6, 0.9), readings(frame, 0.5, 0.8, "r2", seed=1)])
    found = compare_readers(frame, both)
    assert [c.reader for c in found] == ["r1", "r2"]
    for c in found:
        assert c.difference.low is not None
        assert c.difference.low > 0
        assert c.p < 0.05
        assert c.model_specificity.value >= c.specificity.value
        assert c.difference.patients == 120


def test_scores_are_cut_and_have_an_auroc(predictions: Predictions) -> None:
    frame = predictions(patients=60)
    readers = readings(frame, 0.8, 0.8)
    scores = readers.assign(score=np.where(readers["call"] == 1, 4, 2)).drop(columns="call")
    by_call, by_score = compare_readers(frame, readers)[0], compare_readers(frame, scores, cut=3)[0]
    assert by_score.sensitivity == by_call.sensitivity
    assert by_call.auroc is None
    assert by_score.auroc is not None
    assert by_score.auroc.value == pytest.approx((by_call.sensitivity.value + by_call.specificity.value) / 2)
    assert "score is a positive call from 3 on\n" in format_readers([by_score])
    assert "positive call" not in format_readers([by_call])
    with pytest.raises(EvaluationError, match=r"the cut 5 calls all readings alike; the scores run from 2 to 4"):
        compare_readers(frame, scores, cut=5)
    with pytest.raises(EvaluationError, match="nothing to cut"):
        compare_readers(frame, readers, cut=3)


def test_only_probabilities_are_cut_at_a_half_unasked(predictions: Predictions) -> None:
    frame = predictions(patients=60)
    readers = readings(frame, 0.8, 0.8)
    call = readers.pop("call")
    likely = compare_readers(frame, readers.assign(score=np.where(call == 1, 0.7, 0.2)))[0]
    assert likely.cut == 0.5
    with pytest.raises(EvaluationError, match="run from 0 to 4") as caught:
        compare_readers(frame, readers.assign(score=np.where(call == 1, 4, 0)))
    assert "--cut" in str(caught.value)


def test_a_reader_of_some_patients_is_compared_on_those(predictions: Predictions) -> None:
    frame = predictions(patients=60)
    part = readings(frame, 0.8, 0.8).iloc[10:]
    found = compare_readers(frame, part)[0]
    assert (found.unread, found.difference.n) == (10, 50)
    assert "10 patients not read" in format_readers([found])


def test_bad_tables_are_named(predictions: Predictions) -> None:
    frame = predictions(patients=60)
    good = readings(frame, 0.8, 0.8)
    cases = {
        "was not evaluated on": good.assign(patient=["stranger", *good["patient"][1:]]),
        "repeat a reader and patient": pd.concat([good, good.iloc[:1]]),
        "have no call of 0 or 1": good.assign(call=["maybe", *good["call"][1:]]),
        "needs rows with the columns": good.drop(columns="call"),
        "all 24 samples are positive": good.iloc[:24],
    }
    for match, table in cases.items():
        with pytest.raises(EvaluationError, match=match) as caught:
            compare_readers(frame, table)
        assert len(caught.value.fixes) == 2
    mixed = frame.copy()
    mixed.loc[0, "label"] = 0
    with pytest.raises(EvaluationError, match="samples of both labels"):
        compare_readers(mixed, good)


def test_ids_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "readers.csv"
    path.write_text("reader,patient,call\n1,007,1\n")
    assert load_readers(path)["patient"].tolist() == ["007"]
    with pytest.raises(EvaluationError, match="can't be read"):
        load_readers(tmp_path / "none.csv")

"""The vectorised cluster bootstrap against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from xmkd.errors import EvaluationError
from xmkd.evaluation import resampling, weighted
from xmkd.evaluation.inputs import FloatArray, IntArray
from xmkd.evaluation.resampling import auroc, clustered_bootstrap, resample_counts

Samples = tuple[IntArray, FloatArray, IntArray]


def draw(seed: int, *, mixed: bool = False, patients: int = 30) -> Samples:
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 6, size=patients))
    label = (rng.random(patient.size) < 0.5) if mixed else (patient % 3 == 0)
    score = np.round(label + rng.normal(size=patients)[patient] + rng.normal(size=patient.size), 1)  # with ties
    return label.astype(np.intp), score, patient


def drawn_rows(counts: FloatArray, patient: IntArray) -> IntArray:
    return np.concatenate([np.tile(np.flatnonzero(patient == p), int(c)) for p, c in enumerate(counts)]).astype(np.intp)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("pairs_per_sample", [0, 80], ids=["sorted sums", "pair matrix"])
def test_auroc_equals_a_loop_over_rows(mixed: bool, pairs_per_sample: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "PAIRS_PER_SAMPLE", pairs_per_sample)
    label, score, patient = draw(0, mixed=mixed)
    boot = clustered_bootstrap("auroc", label, score, patient, resamples=60, seed=3)
    counts = resample_counts(label, patient, 60, seed=3)
    loop = [roc_auc_score(label[rows], score[rows]) for rows in (drawn_rows(c, patient) for c in counts)]
    np.testing.assert_allclose(boot.replicates, loop, rtol=0, atol=1e-12)
    assert boot.value == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert (boot.low, boot.high) == pytest.approx(tuple(np.quantile(loop, [0.025, 0.975])), abs=1e-12)


def test_auroc_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    label, score, patient = draw(1)
    whole = clustered_bootstrap("auroc", label, score, patient, 50).replicates
    monkeypatch.setattr(resampling, "PAIRS_PER_SAMPLE", 0)
    monkeypatch.setattr(resampling, "CHUNK", 7 * label.size)
    np.testing.assert_allclose(clustered_bootstrap("auroc", label, score, patient, 50).replicates, whole, atol=1e-12)


@pytest.mark.parametrize("pairs_per_sample", [0, 80])
def test_auroc_within_folds_equals_a_loop(pairs_per_sample: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "PAIRS_PER_SAMPLE", pairs_per_sample)
    label, score, patient = draw(2)
    fold = (patient // 3) % 2
    boot = clustered_bootstrap("auroc", label, score, patient, resamples=30, fold=fold)
    for value, counts in zip(boot.replicates, resample_counts(label, patient, 30, 0), strict=True):
        rows = drawn_rows(counts, patient)
        right = pairs = 0.0
        for f in (0, 1):
            mine = rows[fold[rows] == f]
            found = label[mine].sum() * (1 - label[mine]).sum()
            right, pairs = right + (found * auroc(label[mine], score[mine]) if found else 0), pairs + found
        assert value == pytest.approx(right / pairs, abs=1e-12)


def test_metrics_of_weights_equal_scikit_learn_on_rows() -> None:
    label, score, patient = draw(3)
    counts = resample_counts(label, patient, 40, 0)
    found = {
        "ap": clustered_bootstrap(weighted.average_precision, label, score, patient, 40).replicates,
        "f1": clustered_bootstrap(
            lambda y, s, w: weighted.macro_f1(y, s > 0.5, w, np.arange(1, 2)), label, score, patient, 40
        ).replicates,
        "auroc": clustered_bootstrap(lambda y, s, w: auroc(y, s, w), label, score, patient, 40).replicates,
    }
    for i, rows in enumerate(drawn_rows(c, patient) for c in counts):
        y, s = label[rows], score[rows]
        assert found["ap"][i] == pytest.approx(average_precision_score(y, s), abs=1e-12)
        assert found["f1"][i] == pytest.approx(f1_score(y, s > 0.5), abs=1e-12)
        assert found["auroc"][i] == pytest.approx(roc_auc_score(y, s), abs=1e-12)


def test_every_stratum_keeps_its_number_of_patients() -> None:
    label, _, patient = draw(4, mixed=True)
    counts = resample_counts(label, patient, 200, 0)
    kinds = np.array([label[patient == p].min() + 2 * label[patient == p].max() for p in range(30)])
    assert len(np.unique(kinds)) == 3  # negatives only, both, positives only
    for kind in np.unique(kinds):
        np.testing.assert_array_equal(counts[:, kinds == kind].sum(axis=1), (kinds == kind).sum())
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.4)  # 200 draws of about Poisson(1)


def test_draws_follow_the_seed() -> None:
    label, _, patient = draw(5)
    first, again, other = (resample_counts(label, patient, 10, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_t_interval_by_hand() -> None:
    label, score, patient = draw(6)
    boot = clustered_bootstrap("auroc", label, score, patient)
    smaller = len(np.unique(patient[label == 1]))
    half = stats.t.ppf(0.975, smaller - 1) * boot.replicates.std(ddof=1) * np.sqrt(smaller / (smaller - 1))
    low, high = boot.t_interval("linear") or (0.0, 0.0)
    assert (low, high) == pytest.approx((boot.value - half, boot.value + half), abs=1e-12)
    logit_low, logit_high = boot.t_interval() or (0.0, 0.0)
    assert 0 < logit_low < boot.value < logit_high < 1
    assert clustered_bootstrap("auroc", [0, 0, 1, 1], [0, 0, 1, 1]).t_interval() is None


def test_unusable_metrics_are_refused() -> None:
    label, score, patient = draw(7)
    with pytest.raises(EvaluationError, match="no bootstrap of the metric 'auprc'"):
        clustered_bootstrap("auprc", label, score, patient)  # type: ignore[arg-type]  # what a user may write
    with pytest.raises(EvaluationError, match="within folds"):
        clustered_bootstrap(weighted.brier, label, score, patient, fold=patient % 2)

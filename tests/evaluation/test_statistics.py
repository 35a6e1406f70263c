"""AUROC, clustered DeLong, its paired version and the intervals built on them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from xmkd.errors import EvaluationError
from xmkd.evaluation.inputs import FloatArray, IntArray
from xmkd.evaluation.statistics import (
    Interval,
    auroc,
    auroc_interval,
    clustered_delong,
    difference,
    paired_clustered_delong,
)

ObjectArray = npt.NDArray[np.object_]
Samples = tuple[IntArray, FloatArray, IntArray]


def draw(seed: int, patients: int = 40, images: int = 4, *, mixed: bool = False, ties: bool = False) -> Samples:
    """Labels, scores and patients with correlated images of unequal number."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, images + 1, size=patients))
    label = (rng.random(patient.size) < 0.4) if mixed else (patient % 5 < 2)
    score = 1.2 * label + rng.normal(size=patients)[patient] + rng.normal(size=patient.size)
    return label.astype(np.intp), np.round(score) if ties else score, patient.astype(np.intp)


def slow_clustered_delong(label: IntArray, score: FloatArray, patient: IntArray) -> tuple[float, float]:
    """Obuchowski (1997) as it stands in the paper, with O(M N) comparisons."""

    def kernel(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    v10 = {i: float(np.mean([kernel(score[i], score[j]) for j in negative])) for i in positive}
    v01 = {j: float(np.mean([kernel(score[i], score[j]) for i in positive])) for j in negative}
    area = float(np.mean(list(v10.values())))
    s10 = s01 = s11 = 0.0
    i10 = i01 = 0
    for one in np.unique(patient):
        mine = [v10[i] for i in positive if patient[i] == one], [v01[j] for j in negative if patient[j] == one]
        from_positives, from_negatives = (sum(v) - len(v) * area for v in mine)
        i10, i01 = i10 + bool(mine[0]), i01 + bool(mine[1])
        s10, s01 = s10 + from_positives**2, s01 + from_negatives**2
        s11 += from_positives * from_negatives
    m, n, i = len(positive), len(negative), len(np.unique(patient))
    s10, s01, s11 = s10 * i10 / ((i10 - 1) * m), s01 * i01 / ((i01 - 1) * n), s11 * i / (i - 1)
    return area, s10 / m + s01 / n + 2 * s11 / (m * n)


def test_delong_by_hand() -> None:
    # V10 = 1 and 1/2, V01 = 1/2 and 1, A = 3/4: S10 = S01 = 2 * (1/4)^2 = 1/8
    result = clustered_delong([1, 1, 0, 0], [3, 1, 2, 0])
    assert result == (0.75, 0.125, 2, 2)


@pytest.mark.parametrize(("groups", "variance"), [("abab", 0.0), ("abba", 0.25)])
def test_clustered_delong_by_hand(groups: str, variance: float) -> None:
    # the same values in two patients of both classes: S11 = 2 * 2 * (1/4 * -1/4) = -1/4, or + 1/4 with partners swapped
    result = clustered_delong([1, 1, 0, 0], [3, 1, 2, 0], list(groups))
    assert result.variance == pytest.approx(variance, abs=1e-15)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_clustered_delong_against_the_slow_formula(mixed: bool, ties: bool) -> None:
    label, score, patient = draw(1, mixed=mixed, ties=ties)
    result = clustered_delong(label, score, patient)
    area, variance = slow_clustered_delong(label, score, patient)
    assert result.auroc == pytest.approx(area, abs=1e-12)
    assert result.variance == pytest.approx(variance, rel=1e-10)
    assert result.auroc == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_one_image_per_patient_is_plain_delong() -> None:
    label, score, patient = draw(2, patients=80, images=1, ties=True)
    clustered = clustered_delong(label, score, patient)
    upper, lower = score[label == 1], score[label == 0]
    kernel = (upper[:, None] > lower) + 0.5 * (upper[:, None] == lower)
    plain = kernel.mean(axis=1).var(ddof=1) / upper.size + kernel.mean(axis=0).var(ddof=1) / lower.size
    assert clustered.variance == pytest.approx(plain, rel=1e-12)
    assert clustered_delong(label, score).variance == pytest.approx(plain, rel=1e-12)
    same = auroc_interval(label, score, patient, method="delong")
    assert (same.low, same.high) == pytest.approx(
        (auroc_interval(label, score, patient).low, auroc_interval(label, score).high), abs=1e-12
    )


def test_interval_is_made_on_the_logit_scale_with_a_t_quantile() -> None:
    label, score, patient = draw(3)
    result = clustered_delong(label, score, patient)
    interval = auroc_interval(label, score, patient)
    df = min(result.positive_clusters, result.negative_clusters) - 1
    half = stats.t.ppf(0.975, df) * math.sqrt(result.variance) / (result.auroc * (1 - result.auroc))
    centre = math.log(result.auroc / (1 - result.auroc))
    expected = [1 / (1 + math.exp(-(centre + sign * half))) for sign in (-1, 1)]
    assert [interval.low, interval.high] == pytest.approx(expected, abs=1e-12)
    assert (interval.n, interval.patients, interval.method) == (label.size, 40, "clustered DeLong")


def test_copies_of_an_image_add_nothing() -> None:
    label, score, patient = draw(4, images=1)
    once = auroc_interval(label, score, patient)
    copied = auroc_interval(np.repeat(label, 5), np.repeat(score, 5), np.repeat(patient, 5))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-12)


def test_plain_delong_refuses_repeated_patients() -> None:
    label, score, patient = draw(5)
    with pytest.raises(EvaluationError, match="repeat a patient") as caught:
        auroc_interval(label, score, patient, method="delong")
    assert len(caught.value.fixes) == 2


def test_bootstrap_is_refused_below_60_patients_and_close_to_delong_above() -> None:
    with pytest.raises(EvaluationError, match="it needs 60"):
        auroc_interval(*draw(6), method="bootstrap")
    label, score, patient = draw(6, patients=400)
    delong, boot = (auroc_interval(label, score, patient, method=m) for m in ("auto", "bootstrap"))
    assert delong.low is not None
    assert boot.low is not None
    assert boot.method == "cluster bootstrap"
    assert boot.low == pytest.approx(delong.low, abs=0.005)


def test_too_few_patients_get_no_interval() -> None:
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(29), 8)
    label = (patient < 9).astype(int)  # 9 positive patients, 72 positive images
    interval = auroc_interval(label, label + rng.normal(size=label.size), patient)
    assert interval.low is None
    assert interval.high is None
    assert "too few patients" in interval.note
    assert str(interval) == f"{interval.value:.3f} (too few patients for an interval) n=232 patients=29"


def test_interval_prints_on_one_line() -> None:
    assert str(Interval(0.861, 0.8124, 0.9031, 288, 15, "x")) == "0.861 [0.812, 0.903] n=288 patients=15"


@pytest.mark.parametrize("flip", [False, True])
def test_complete_separation_gives_the_exact_one_sided_bound(flip: bool) -> None:
    label = np.repeat([0, 1], [30, 12])
    interval = auroc_interval(1 - label if flip else label, np.arange(42.0))
    bound = 0.025 ** (1 / 12)  # 12 disjoint pairs, all in order
    assert (interval.low, interval.high) == pytest.approx((0.0, 1 - bound) if flip else (bound, 1.0))
    assert "complete separation" in interval.note
    assert stats.binomtest(12, 12).proportion_ci().low == pytest.approx(bound)


def test_separation_inside_patients_of_both_classes_counts_disjoint_pairs_of_patients() -> None:
    patient = np.tile(np.arange(21), 2)
    interval = auroc_interval(np.repeat([0, 1], 21), np.arange(42.0), patient)
    assert interval.low == pytest.approx(0.025 ** (1 / 10))


def test_scores_without_spread_get_no_interval() -> None:
    interval = auroc_interval(np.repeat([0, 1], 20), np.full(40, 0.3))
    assert interval.value == 0.5
    assert interval.low is None
    assert "(no interval)" in str(interval)


def test_folds_count_pairs_of_the_same_fold_only() -> None:
    label, score, patient = draw(7, patients=200)
    fold = patient % 4
    shifted = score + 3.0 * fold
    interval = auroc_interval(label, shifted, patient, fold=fold)
    pairs = [(label[fold == f] == 1).sum() * (label[fold == f] == 0).sum() for f in range(4)]
    areas = [roc_auc_score(label[fold == f], score[fold == f]) for f in range(4)]
    assert interval.value == pytest.approx(np.average(areas, weights=pairs), abs=1e-12)
    pooled = roc_auc_score(label, shifted)
    assert pooled < interval.value - 0.02
    assert f"pooled {pooled:.3f}: warning" in interval.note
    assert "conditional on the fitted models" in interval.note
    assert "warning" not in auroc_interval(label, score, patient, fold=fold).note


def test_fold_offset_of_one_sd_as_evidence_tells() -> None:
    rng = np.random.default_rng(0)
    label, fold = rng.random(40_000) < 0.5, rng.integers(5, size=40_000)
    within = stats.norm.ppf(0.88) * math.sqrt(2)
    score = within * label + rng.normal(size=label.size) + np.array([-1.4, -0.7, 0, 0.7, 1.4])[fold]
    interval = auroc_interval(label, score, fold=fold)
    assert interval.value == pytest.approx(0.88, abs=0.01)
    assert auroc(label, score) == pytest.approx(0.80, abs=0.02)


def test_variance_within_folds_is_that_of_independent_folds() -> None:
    # with equal folds the pooled correction I / (I - F) equals each fold's own I_f / (I_f - 1)
    rng = np.random.default_rng(3)
    patient = np.repeat(np.arange(80), 3)
    label, fold = (patient % 2), (patient // 2) % 4
    score = label + rng.normal(size=80)[patient] + rng.normal(size=240) + 2.0 * fold
    interval = auroc_interval(label, score, patient, fold=fold)
    parts = [clustered_delong(label[fold == f], score[fold == f], patient[fold == f]) for f in range(4)]
    value = np.mean([part.auroc for part in parts])
    se = math.sqrt(sum(part.variance for part in parts)) / 4
    half = stats.t.ppf(0.975, 40 - 4) * se / (value * (1 - value))
    assert interval.low == pytest.approx(1 / (1 + math.exp(half - math.log(value / (1 - value)))), abs=1e-9)


def test_folds_of_one_class_are_left_out_and_named() -> None:
    label, score, patient = draw(8, patients=100)
    fold = np.where(label == 1, patient % 3, patient % 4)  # fold 3 holds negatives only
    interval = auroc_interval(label, score, patient, fold=fold)
    assert "1 folds hold one class only" in interval.note
    assert interval.n == int((fold < 3).sum())
    with pytest.raises(EvaluationError, match="no fold holds both classes"):
        auroc_interval(label, score, patient, fold=label)


def test_one_class_is_an_error_with_two_ways_out() -> None:
    with pytest.raises(EvaluationError, match="all 3 samples are positive") as caught:
        auroc_interval([1, 1, 1], [0.1, 0.2, 0.3])
    assert len(caught.value.fixes) == 2


@pytest.mark.parametrize(
    ("label", "score", "groups", "match"),
    [
        ([0, 2], [0.1, 0.2], None, "neither 0 nor 1"),
        ([0, 1], [0.1, float("nan")], None, "not finite"),
        ([0, 1], [0.1], None, "2 labels"),
        ([0, 1], [0.1, 0.2], np.array(["a", None]), "no entry in groups"),
        ([], [], None, "non-empty"),
    ],
)
def test_bad_input_is_named(label: list[int], score: list[float], groups: ObjectArray | None, match: str) -> None:
    with pytest.raises(EvaluationError, match=match):
        auroc_interval(label, score, groups)


def test_paired_difference_has_the_variance_of_the_slow_covariance() -> None:
    label, score, patient = draw(9, mixed=True)
    other = score + np.random.default_rng(1).normal(size=score.size)
    paired = paired_clustered_delong(label, score, other, patient)
    singles = [clustered_delong(label, s, patient) for s in (score, other)]
    assert paired.difference.value == pytest.approx(singles[0].auroc - singles[1].auroc, abs=1e-12)
    # Var(A - B) by leaving out one patient at a time; differs from the formula only in the order 1 / patients
    jack = []
    for one in np.unique(patient):
        rest = patient != one
        jack.append(auroc(label[rest], score[rest]) - auroc(label[rest], other[rest]))
    variance = (len(jack) - 1) * np.var(jack)
    assert paired.se**2 == pytest.approx(variance, rel=0.15)


def test_paired_difference_against_constant_scores_is_the_single_interval() -> None:
    label, score, patient = draw(10)
    paired = paired_clustered_delong(label, score, np.zeros_like(score), patient)
    single = clustered_delong(label, score, patient)
    assert paired.se == pytest.approx(math.sqrt(single.variance), rel=1e-12)
    half = stats.t.ppf(0.975, paired.df) * paired.se
    assert paired.difference.low == pytest.approx(single.auroc - 0.5 - half, abs=1e-12)
    assert paired.p == pytest.approx(2 * stats.t.sf((single.auroc - 0.5) / paired.se, paired.df), rel=1e-9)


def test_several_models_are_judged_by_their_mean_auroc_and_not_by_their_mean_score() -> None:
    label = np.repeat([1, 0], [30, 50])
    rng = np.random.default_rng(8)
    models = [label + rng.normal(size=(4, label.size)) * spread for spread in (0.8, 1.2)]
    paired = paired_clustered_delong(label, models[0], models[1])
    singles = [[clustered_delong(label, row).auroc for row in rows] for rows in models]
    assert paired.auroc_a == pytest.approx(np.mean(singles[0]), abs=1e-12)
    assert paired.auroc_b == pytest.approx(np.mean(singles[1]), abs=1e-12)
    # Each patient's part, averaged over the models, by the definition of DeLong (1988).
    wins = np.zeros(((label == 1).sum(), (label == 0).sum()))
    for sign, rows in zip((1, -1), models, strict=True):
        wins += sign * np.mean([np.subtract.outer(row[label == 1], row[label == 0]) > 0 for row in rows], axis=0)
    variance = wins.mean(1).var(ddof=1) / wins.shape[0] + wins.mean(0).var(ddof=1) / wins.shape[1]
    assert paired.se**2 == pytest.approx(variance, rel=1e-9)
    assert paired.se < paired_clustered_delong(label, models[0][0], models[1][0]).se


def test_paired_with_the_same_ranking_is_exactly_no_difference() -> None:
    label, score, patient = draw(11)
    paired = paired_clustered_delong(label, score, np.exp(score), patient)
    assert (paired.difference.value, paired.difference.low, paired.difference.high, paired.p) == (0, 0, 0, 1)


def test_two_perfect_models_are_not_called_equal() -> None:
    label = np.repeat([0, 1], 20)
    paired = paired_clustered_delong(label, np.arange(40.0), label * 10 + np.random.default_rng(0).random(40))
    assert paired.difference.low is None
    assert math.isnan(paired.p)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-20, 20)), min_size=2, max_size=40))
def test_auroc_laws(samples: list[tuple[int, int]]) -> None:
    label, score = np.array([(0, 0), (1, 0), *samples]).T  # both classes occur
    area = auroc(label, score)
    assert area == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert auroc(label, score**3 + 5) == area  # a monotone map keeps the order
    assert auroc(1 - label, score) == pytest.approx(1 - area, abs=1e-12)
    assert auroc(label, -score) == pytest.approx(1 - area, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_variance_laws(seed: int) -> None:
    label, score, patient = draw(seed, patients=25, mixed=bool(seed % 2), ties=bool(seed % 3))
    if not 0 < label.sum() < label.size or min(clustered_delong(label, score, patient)[2:]) < 2:
        return
    result = clustered_delong(label, score, patient)
    assert result.variance >= -1e-15
    swapped = clustered_delong(1 - label, -score, patient)
    assert (swapped.auroc, swapped.variance) == pytest.approx((result.auroc, result.variance), abs=1e-12)
    order = np.random.default_rng(seed).permutation(label.size)
    shuffled = clustered_delong(label[order], score[order], patient[order])
    assert shuffled.variance == pytest.approx(result.variance, abs=1e-12)


def test_difference_of_figures_from_different_patients() -> None:
    """With symmetric intervals it is the difference of two normal means; with others the nearer ends count."""
    a, b = Interval(0.9, 0.86, 0.94, 100, 100, "x"), Interval(0.8, 0.77, 0.83, 50, 40, "x")
    found = difference(a, b)
    assert found.value == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.05, 0.15))  # 0.04, 0.03 and 0.05: a right triangle
    assert (found.n, found.patients) == (50, 40)
    skew = difference(Interval(0.9, 0.86, 0.90, 9, 9, "x"), Interval(0.8, 0.80, 0.83, 9, 9, "x"))
    assert (skew.low, skew.high) == pytest.approx((0.05, 0.1))
    without = difference(a, Interval(0.8, None, None, 5, 5, "x", "too few patients"))
    assert without.low is None
    assert without.note == "too few patients"

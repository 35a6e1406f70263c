"""Probes of frozen features: what they find, what they must not see, and by what they are not moved."""

from __future__ import annotations

import numpy as np
import pytest

from xmkd.evaluation.probe import Features, Labels, probe


def study(gap: float, count: int = 200, seed: int = 0) -> tuple[Features, Labels, Features, Labels]:
    """Features of two groups of patients; the first direction tells the classes, by `gap` standard deviations."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 2
    x = rng.normal(size=(2, count, 8)).astype(np.float32)
    x[:, :, 0] += gap * label
    return x[0], label, x[1], label


def test_what_tells_the_classes_is_found_and_noise_is_not() -> None:
    assert probe(*study(8.0)) == {"linear_auroc": 1.0, "knn_auroc": 1.0}
    for value in probe(*study(0.0, 1000)).values():
        assert abs(value - 0.5) < 0.06  # three standard errors of 500 against 500
    weak, strong = probe(*study(0.5)), probe(*study(2.0))
    assert all(0.5 < weak[name] < strong[name] < 1 for name in weak)


def test_a_linear_probe_comes_near_the_best_there_is() -> None:
    from scipy.stats import norm

    assert probe(*study(1.5, 4000))["linear_auroc"] == pytest.approx(norm.cdf(1.5 / 2**0.5), abs=0.02)


def test_units_and_order_do_not_matter() -> None:
    train, train_label, other, label = study(1.0)
    expected = probe(train, train_label, other, label)
    scale = np.geomspace(1e-2, 1e2, 8).astype(np.float32)
    assert probe(train * scale + 5, train_label, other * scale + 5, label) == pytest.approx(expected, abs=2e-3)
    turn = np.random.default_rng(1).permutation(200)
    assert probe(train[turn], train_label[turn], other[turn], label[turn]) == pytest.approx(expected, abs=1e-6)


def test_the_scored_patients_do_not_change_how_the_others_are_scored() -> None:
    train, train_label, other, label = study(1.0)
    whole = probe(train, train_label, other, label)
    outlier = np.full((2, 8), 1e4, np.float32)
    more = probe(train, train_label, np.concatenate([other, outlier]), np.concatenate([label, [0, 1]]))
    positive, negative = (label == 1).sum(), (label == 0).sum()
    for name, value in whole.items():  # two more samples can move a rank statistic by no more than their pairs
        moved = abs(more[name] * (positive + 1) * (negative + 1) - value * positive * negative)
        assert moved <= positive + negative + 1


def test_neighbours_by_hand() -> None:
    train = np.array([[1, 0.1], [1, -0.1], [-1, 0.1], [-1, -0.1]], np.float32)
    other = np.array([[1, 0], [-1, 0]], np.float32)
    found = probe(train, np.array([1, 1, 0, 0]), other, np.array([1, 0]), neighbours=2)
    assert found["knn_auroc"] == 1
    assert probe(train, np.array([1, 1, 0, 0]), other, np.array([0, 1]), neighbours=2)["knn_auroc"] == 0
    everyone = probe(train, np.array([1, 1, 0, 0]), other, np.array([1, 0]), neighbours=50)
    assert everyone["knn_auroc"] == 1, "more neighbours than patients: all of them"


def test_features_without_any_variance_are_worth_a_coin() -> None:
    _, train_label, _, label = study(0.0)
    same = np.ones((200, 8), np.float32)
    assert probe(same, train_label, same, label) == {"linear_auroc": 0.5, "knn_auroc": 0.5}


def test_one_class_has_no_auroc() -> None:
    train, train_label, other, label = study(1.0)
    assert probe(train, np.zeros_like(train_label), other, label) == {}
    assert probe(train, train_label, other, np.ones_like(label)) == {}

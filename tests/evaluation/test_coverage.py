"""A short version of the coverage study; `python -m xmkd bench coverage` runs the whole."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from xmkd.evaluation import coverage
from xmkd.evaluation.classification import BINARY
from xmkd.evaluation.statistics import auroc

SETS = 800
LIMIT = float(stats.binom.ppf(0.001, SETS, 0.95)) / SETS  # 0.925: a method that covers 95 % falls below once in 1,000


def test_default_covers_and_ignoring_patients_does_not() -> None:
    table = coverage.run(SETS, patients=(15,), settings=("per class",), resamples=300)
    share = table.set_index("method")["coverage"].to_dict()
    assert share["default"] >= LIMIT
    assert share["cluster bootstrap, t"] >= LIMIT
    assert share["plain DeLong, patients ignored"] < 0.8
    assert share["cluster bootstrap, percentiles"] < share["default"]
    assert (table["given"] == 1).all()


@pytest.mark.parametrize("setting", ["blocks", "folds"])
def test_default_covers_with_mixed_blocks_and_with_folds(setting: coverage.Setting) -> None:
    table = coverage.run(SETS, patients=(30,), settings=(setting,))
    assert table["coverage"].item() >= LIMIT


def test_no_interval_is_given_with_under_10_patients_in_a_class() -> None:
    table = coverage.run(20, patients=(30,), settings=("total",), compare=False)
    assert table["given"].item() == 0
    assert np.isnan(table["coverage"].item())


def test_simulation_has_the_auroc_and_correlation_it_names() -> None:
    data = coverage.simulate("per class", 20_000, np.random.default_rng(0))
    assert auroc(data.label, data.score) == pytest.approx(coverage.AUROC, abs=0.005)
    images = data.score[data.label == 0].reshape(-1, coverage.IMAGES)
    assert np.corrcoef(images[:, 0], images[:, 1])[0, 1] == pytest.approx(coverage.ICC, abs=0.02)


def test_runs_repeat() -> None:
    first, again = (coverage.run(30, patients=(10,), settings=("per class",), resamples=50) for _ in range(2))
    assert first.equals(again)


def test_metrics_cover() -> None:
    table = coverage.run_metrics(60, patients=(15,), resamples=200)
    assert set(table["metric"]) == {*BINARY}
    assert (table["coverage"] >= stats.binom.ppf(0.0001, 60, 0.95) / 60).all()

"""Doses of paired targets: the teacher's own scores, in an order that agrees with the images as was asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from tests.controls.standin import cohorts_of, study
from xmkd.controls.arms import Arm
from xmkd.controls.doses import dose_arm, dose_names, dosed
from xmkd.controls.heads import HeadSettings, fit_heads
from xmkd.errors import ConfigError

SIZE = 200_000  # the formula differs from the dose itself by 0.018 at most
GENERATOR = torch.Generator().manual_seed(0)
LABEL = (torch.rand(SIZE, generator=GENERATOR) < 0.3).long()
SHOWN = 2 * LABEL + torch.randn(SIZE, generator=GENERATOR)
IDS = torch.randint(2**62, (SIZE,), generator=GENERATOR)
SCORES, CLASSES = torch.rand(500, generator=GENERATOR), torch.arange(500) % 2


def targets(dose: float, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
    return dosed(dose, SHOWN[rows], LABEL[rows], IDS[rows], SCORES, CLASSES)


@pytest.mark.parametrize("dose", [0.0, 0.3, 0.6, 1.0])
def test_the_agreement_is_the_one_that_was_asked_for(dose: float) -> None:
    found = targets(dose)
    for k in (0, 1):
        here = k == LABEL
        rank = stats.spearmanr(found[here], SHOWN[here]).statistic
        assert rank == pytest.approx(6 / math.pi * math.asin(dose / 2), abs=1e-9 if dose == 1 else 0.006)


def test_doses_differ_in_order_alone() -> None:
    for k in (0, 1):
        first, second = (targets(dose)[k == LABEL].sort().values for dose in (0.0, 0.9))
        torch.testing.assert_close(first, second, atol=1e-4, rtol=0)  # two of one lot share a place
        own = SCORES[k == CLASSES]
        assert float(own.min()) <= float(first.min()) < float(first.max()) <= float(own.max())
        assert float(first.median()) == pytest.approx(float(own.double().quantile(0.5)), abs=0.01)
    assert not torch.equal(targets(0.0), targets(0.9))


def test_a_target_belongs_to_its_sample_and_not_to_its_row() -> None:
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(targets(0.5, order), targets(0.5)[order])


def test_heads_gain_from_a_full_dose_and_not_from_none() -> None:
    pool, features, label = study(samples=1500, width=40)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(len(pool.label), generator=generator)
    seen = pool.features["mae"] @ torch.linalg.lstsq(pool.features["mae"], pool.own["oracle_pair"][:, None]).solution
    common = seen[:, 0] + 1e-6 * noise, pool.label, pool.ids, pool.teacher_score, pool.teacher_label
    arms = [Arm("surrogate", pairing="surrogate"), dose_arm(0), dose_arm(1)]
    pool = replace(pool, own={dose_arm(dose).name: dosed(dose, *common) for dose in (0, 1)})
    settings = HeadSettings(epochs=60, lrs=(3e-2,), weight_decays=(0.01, 0.1, 1.0), inner_folds=3)
    aurocs = np.array(
        [
            [roc_auc_score(label, head.scores(features)) for head in heads.values()]
            for heads in fit_heads(pool, cohorts_of(pool, 40, 10), arms, settings)
        ]
    )
    for column, gains in ((1, False), (2, True)):
        interval = stats.ttest_1samp(aurocs[:, column] - aurocs[:, 0], 0).confidence_interval(0.95)
        assert (interval.low > 0) == gains


def test_names_sort_by_dose_and_a_dose_out_of_range_is_refused() -> None:
    names = [dose_arm(dose).name for dose in (1, 0.25, 0, 0.75)]
    assert dose_names([*names, "full", names[0]]) == ["dose_0", "dose_0.25", "dose_0.75", "dose_1"]
    with pytest.raises(ConfigError, match=r"1\.5 is not in \[0, 1\]"):
        targets(1.5)

"""Heads on frozen features: the batched trainer, and what each arm can and cannot gain."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn

from tests.controls.standin import PREVALENCE, cohorts_of, study
from xmkd.controls.arms import ARMS, Arm
from xmkd.controls.heads import (
    EPSILON,
    Cohort,
    Columns,
    HeadSettings,
    Pool,
    fit_heads,
    inner_folds,
    recalibrated_log_loss,
    train,
)
from xmkd.data.partners import Pairing, Targets
from xmkd.data.rng import mix
from xmkd.errors import ConfigError, RunError
from xmkd.losses.classification import balanced_weights, classification_loss
from xmkd.losses.distillation import auto_alpha, distillation_loss, distillation_weight, mixed_loss
from xmkd.methods.optim import factor

NAMED = {arm.name: arm for arm in ARMS}
QUICK = HeadSettings(epochs=100, lrs=(3e-3, 1e-2), weight_decays=(1.0, 5.0))  # near the best: luck in choosing is small


def aurocs(names: list[str], *, size: int, count: int, rho: float = 0.6) -> dict[str, np.ndarray]:
    """Test AUROC of each arm on each cohort."""
    pool, features, label = study(rho=rho)
    arms = [NAMED[name] for name in names]
    fitted = list(fit_heads(pool, cohorts_of(pool, size, count), arms, QUICK))
    return {n: np.array([roc_auc_score(label, heads[n].scores(features)) for heads in fitted]) for n in names}


def gain(found: dict[str, np.ndarray], arm: str, against: str) -> tuple[float, float, float]:
    """Mean difference over cohorts and its 95 % interval."""
    difference = found[arm] - found[against]
    half = stats.t.ppf(0.975, difference.size - 1) * difference.std(ddof=1) / difference.size**0.5
    return float(difference.mean()), float(difference.mean() - half), float(difference.mean() + half)


def plain(x: Tensor, label: Tensor, wanted: Tensor, arm: Arm, lr: float, weight_decay: float) -> Tensor:
    """One head by torch's own Adam and the losses of a whole network's training."""
    weight, bias = (nn.Parameter(torch.zeros(k, dtype=x.dtype)) for k in (x.shape[1] - 1, 1))
    groups = [{"params": [weight], "weight_decay": weight_decay}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.Adam(groups, lr=lr, eps=EPSILON)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, 0, len(wanted), cosine=True))
    alpha, offset = (0.0, 1) if arm.pairing is None else (auto_alpha(len(wanted)), 0)
    balance = balanced_weights((int((label == 0).sum()), int((label == 1).sum())))
    for epoch, target in enumerate(wanted):
        logits = x[:, :-1] @ weight + bias
        supervised = classification_loss(logits, label, weight=balance)
        if arm.label_smoothing:  # torch's own smoothing, the mean weighted as above
            two = torch.stack([torch.zeros_like(logits), logits], dim=1)
            each = F.cross_entropy(two, label, reduction="none", label_smoothing=arm.label_smoothing)
            supervised = (balance[label] * each).sum() / balance[label].sum()
        distilled = distillation_loss(logits, target, norm=arm.norm)
        optimizer.zero_grad()
        mixed_loss(distilled, supervised, distillation_weight(alpha, epoch, offset)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return torch.cat([weight, bias]).detach()


def test_all_heads_at_once_equal_one_head_at_a_time() -> None:
    arms = [NAMED["ptm"], NAMED["full"], NAMED["constant_mean"], NAMED["label_smoothing"], Arm("kl", norm="kl")]
    arms[-1] = replace(arms[-1], pairing="same-class")
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(48, 6, generator=generator), torch.ones(48, 1)], dim=1).double()
    label = (torch.arange(48) % 3 == 0).long()
    fold = inner_folds(label, torch.arange(48), 4, seed=0)
    wanted = torch.rand(60, 48, len(arms), generator=generator).double()
    held_out = (-1, 2)  # none, and the third inner fold
    columns = Columns(
        torch.arange(len(arms)).repeat_interleave(2),
        fold[:, None] != torch.tensor(held_out).repeat(len(arms)),
        torch.linspace(1e-3, 3e-2, 2 * len(arms)),
        torch.linspace(0.5, 0.0, 2 * len(arms)),
    )
    found = train(x, label, arms, columns, wanted)
    for c in range(2 * len(arms)):
        a, rows = c // 2, fold != held_out[c % 2]
        lr, weight_decay = columns.lr[c].item(), columns.weight_decay[c].item()
        expected = plain(x[rows], label[rows], wanted[:, rows, a], arms[a], lr, weight_decay)
        torch.testing.assert_close(found[:, c], expected, rtol=0, atol=1e-6)


def test_labels_alone_come_near_the_best_auroc() -> None:
    pool, features, label = study(tested=5000)
    (heads,) = fit_heads(pool, cohorts_of(pool, 2000, 1), [NAMED["ptm"]], QUICK)
    best = stats.norm.cdf(1.5 / 2**0.5)  # of N(0, 1) against N(1.5, 1)
    assert roc_auc_score(label, heads["ptm"].scores(features)) == pytest.approx(best, abs=0.012)


def test_scores_that_never_saw_an_examination_teach_as_well_as_a_teachers() -> None:
    found = aurocs(["full", "surrogate", "shuffled", "ptm"], size=60, count=12)
    mean, low, high = gain(found, "full", "surrogate")
    assert abs(mean) < 0.002
    assert -0.005 < low < high < 0.005
    assert gain(found, "shuffled", "ptm")[0] < 0.005
    assert gain(found, "shuffled", "full")[0] < 0.005


def test_paired_scores_teach_where_they_tell_of_the_image() -> None:
    assert gain(aurocs(["ptm", "oracle_pair"], size=60, count=12, rho=0.9), "oracle_pair", "ptm")[1] > 0


def test_paired_scores_teach_nothing_where_they_depend_on_the_label_alone() -> None:
    mean, low, high = gain(aurocs(["full", "oracle_pair"], size=60, count=12, rho=0.0), "oracle_pair", "full")
    assert abs(mean) < 0.005
    assert low < 0.003 < high + 0.005


def test_an_encoder_that_shows_more_is_better() -> None:
    found = aurocs(["scratch", "kd_without_mae", "ptm"], size=60, count=6)
    assert gain(found, "ptm", "scratch")[1] > 0.05
    assert gain(found, "ptm", "kd_without_mae")[1] > 0.05


def cohort_of(pool: Pool, rows: Tensor, settings: HeadSettings = QUICK) -> Cohort:
    return Cohort(pool.features["mae"][rows], pool.label[rows], pool.ids[rows], rows, settings)


def test_own_scores_are_out_of_fold_and_at_the_cohorts_prevalence() -> None:
    """Noise of more features than samples is separated by any head that has seen the labels."""
    pool, _, _ = study()
    noise = torch.randn(len(pool.label), 200, generator=torch.Generator().manual_seed(0))
    rows = cohorts_of(pool, 100, 1)[0]
    label = pool.label[rows]
    own = cohort_of(replace(pool, features={"mae": noise}), rows).own_scores()
    assert 0.3 < roc_auc_score(label, own) < 0.7
    own = cohort_of(pool, rows).own_scores()
    assert roc_auc_score(label, own) > 0.7
    assert own.mean().item() == pytest.approx(PREVALENCE, abs=0.08)


def test_arms_share_their_trials_and_their_draws() -> None:
    pool, features, _ = study(samples=400, tested=50)
    rows = cohorts_of(pool, 30, 1)
    (heads,) = fit_heads(pool, rows, ARMS, QUICK)
    assert list(heads) == [arm.name for arm in ARMS]
    for head in heads.values():
        assert (head.lr, head.weight_decay) in QUICK.trials
        scores = head.scores(features)
        assert scores.shape == (50,)
        assert scores.dtype == torch.float32
    cohort = cohort_of(pool, rows[0])
    pairings: tuple[Pairing, Pairing] = ("same-class", "surrogate")
    full, surrogate = (
        cohort.draw(NAMED["full"], Targets.build(pairing, pool.teacher_score, pool.teacher_label))
        for pairing in pairings
    )
    for k in (0, 1):
        mine = pool.label[rows[0]] == k
        assert stats.spearmanr(full[:, mine].flatten(), surrogate[:, mine].flatten()).statistic > 0.99
    expected = Targets.build("same-class", pool.teacher_score, pool.teacher_label)
    drawn = expected.draw(mix(QUICK.seed, 5, pool.ids[rows[0]]), pool.label[rows[0]], rows[0])
    assert torch.equal(full[5], drawn)


def test_a_cohort_comes_out_the_same_alone_and_again_but_not_under_another_seed() -> None:
    pool, _, _ = study(samples=400, tested=50)
    rows, arms = cohorts_of(pool, 30, 2), [NAMED["full"], NAMED["self_distillation"]]
    both = list(fit_heads(pool, rows, arms, QUICK))
    (alone,) = fit_heads(pool, rows[1:], arms, QUICK)
    (other,) = fit_heads(pool, rows[1:], arms, replace(QUICK, seed=1))
    for name, head in alone.items():
        assert torch.equal(head.weight, both[1][name].weight)
    assert not torch.equal(alone["full"].weight, other["full"].weight)


def test_features_are_standardised_by_the_cohort() -> None:
    """A head does not notice another unit of its features, nor one feature that is the same in all."""
    pool, features, _ = study(samples=400, tested=50)
    rows = cohorts_of(pool, 30, 1)
    other = torch.cat([pool.features["mae"] * 40 - 7, torch.full((400, 1), 3.0)], dim=1)
    test = torch.cat([features * 40 - 7, torch.full((50, 1), 3.0)], dim=1)
    (found,) = fit_heads(pool, rows, [NAMED["full"]], QUICK)
    (changed,) = fit_heads(replace(pool, features={"mae": other}), rows, [NAMED["full"]], QUICK)
    torch.testing.assert_close(found["full"].scores(features), changed["full"].scores(test), rtol=0, atol=1e-4)


def test_inner_folds_spread_both_classes_and_follow_the_samples() -> None:
    label, ids = (torch.arange(37) % 4 == 0).long(), torch.arange(37) * 12345
    fold = inner_folds(label, ids, 5, seed=3)
    for k in (0, 1):
        counts = torch.bincount(fold[label == k], minlength=5)
        assert counts.max() - counts.min() <= 1
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    assert torch.equal(inner_folds(label[order], ids[order], 5, seed=3), fold[order])
    assert not torch.equal(inner_folds(label, ids, 5, seed=4), fold)


def test_choice_is_by_the_log_loss_after_recalibration() -> None:
    generator = torch.Generator().manual_seed(0)
    label = (torch.arange(40) < 12).long()
    logits = torch.randn(40, 3, generator=generator) + label[:, None] * torch.tensor([0.5, 1.5, 6.0])
    weight = balanced_weights((28, 12))[label]
    found = recalibrated_log_loss(logits, label)
    for z, loss in zip(logits[:, :2].T.double(), found, strict=False):  # the third separates the classes
        fit = LogisticRegression(C=40).fit(z[:, None] / z.std(), label, sample_weight=weight / 20)
        expected = log_loss(label, fit.predict_proba(z[:, None] / z.std()), sample_weight=weight)
        assert loss.item() == pytest.approx(expected, abs=2e-4)
    assert found[0] > found[1] > found[2]
    assert found.isfinite().all()
    torch.testing.assert_close(recalibrated_log_loss(logits * 20 - 3, label), found)
    assert recalibrated_log_loss(-logits, label).tolist() == pytest.approx([math.log(2)] * 3)


def test_bad_cohorts_and_pools_are_refused() -> None:
    pool, _, _ = study(samples=400, tested=50)
    rows = cohorts_of(pool, 30, 1)[0]

    def fit(pool: Pool, rows: Tensor, name: str = "full") -> None:
        list(fit_heads(pool, [rows], [NAMED[name]], QUICK))

    with pytest.raises(ConfigError, match="twice"):
        fit(pool, torch.cat([rows, rows[:1]]))
    with pytest.raises(ConfigError, match="21 negatives and 1 positives"):
        fit(pool, rows[8:])
    with pytest.raises(ConfigError, match="scratch needs features of the random encoder"):
        fit(replace(pool, features={"mae": pool.features["mae"]}), rows, "scratch")
    with pytest.raises(ConfigError, match="oracle_pair needs a score"):
        fit(replace(pool, own={}), rows, "oracle_pair")
    with pytest.raises(RunError, match="probabilities"):
        fit(replace(pool, teacher_score=pool.teacher_score * 3), rows)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"inner_folds": 1}, {"lrs": ()}, {"lrs": (0.0,)}, {"weight_decays": (-1,)}]
)
def test_settings_that_fit_no_head_are_refused(wrong: dict[str, Any]) -> None:
    pool, _, _ = study(samples=400, tested=50)
    settings = replace(QUICK, **wrong)
    assert len(settings.problems()) == 1
    assert not QUICK.problems()
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        list(fit_heads(pool, cohorts_of(pool, 30, 1), [NAMED["ptm"]], settings))

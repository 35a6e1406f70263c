"""Targets of distillation: what each pairing draws, and from what it draws it."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from xmkd.data.partners import OWN, Pairing, Targets
from xmkd.data.rng import mix, sample_keys
from xmkd.errors import ConfigError, RunError
from xmkd.losses.distillation import EPSILON, Norm, distillation_loss

POOLED: tuple[Pairing, ...] = tuple(p for p in get_args(Pairing) if p not in OWN)
SAMPLES = 20_000


def teacher(count: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores of Beta(2, 5) in negatives and Beta(5, 1.5) in positives, a third of all."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3 == 0).astype(int)
    scores = np.where(labels == 1, rng.beta(5, 1.5, count), rng.beta(2, 5, count))
    return torch.from_numpy(scores).float(), torch.from_numpy(labels)


def draws(targets: Targets, epoch: int = 0, count: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """Targets of samples of alternating class, and their labels."""
    ids = torch.arange(count)
    labels = ids % 2
    return targets.draw(mix(7, epoch, ids), labels, ids), labels


def test_same_class_draws_every_score_of_the_class_equally_often_and_no_other() -> None:
    scores, labels = teacher(60)
    found, drawn = draws(Targets.build("same-class", scores, labels))
    for k in (0, 1):
        values, counts = found[drawn == k].unique(return_counts=True)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(values, scores[labels == k].sort().values)
        assert stats.chisquare(counts.numpy()).pvalue > 0.001


def test_any_draws_both_kinds_whatever_the_label() -> None:
    scores, labels = teacher(60)
    found, drawn = draws(Targets.build("any", scores, labels))
    for k in (0, 1):
        assert set(found[drawn == k].tolist()) == set(scores.tolist())


@pytest.mark.parametrize("norm", ["l1", "l2", "kl"])
def test_constant_is_one_value_per_class(norm: Norm) -> None:
    scores, labels = teacher()
    found, drawn = draws(Targets.build("constant", scores, labels, norm=norm))
    centre = np.median if norm == "l1" else np.mean
    for k in (0, 1):
        assert sorted(set(found[drawn == k].tolist())) == pytest.approx([centre(scores[labels == k].numpy())])


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("space", ["prob", "logit"])
def test_constant_is_where_the_loss_of_same_class_targets_is_least(norm: Norm, space: str) -> None:
    scores = torch.tensor([0.2, 0.9, 0.99, 0.5])
    labels = torch.tensor([1, 1, 1, 0])
    kwargs = {"norm": norm, "space": space}
    best = Targets.build("constant", scores, labels, **kwargs).pools[1].logit()  # type: ignore[arg-type]

    def loss(logit: Tensor) -> float:
        return distillation_loss(logit.expand(3), scores[:3], **kwargs).item()  # type: ignore[arg-type]

    assert loss(best) < min(loss(best - 0.05), loss(best + 0.05))


def test_shuffled_scores_are_all_there_but_say_nothing_of_the_class() -> None:
    scores, labels = teacher(3000)
    targets = Targets.build("shuffled", scores, labels)
    torch.testing.assert_close(targets.pools.sort().values, scores.sort().values)
    assert targets.sizes.tolist() == [2000, 1000]
    negative, positive = targets.pools[:2000].numpy(), targets.pools[2000:].numpy()
    assert stats.ks_2samp(negative, positive).pvalue > 0.001
    assert torch.equal(targets.pools, Targets.build("shuffled", scores, labels).pools)


def test_surrogate_has_the_histograms_of_the_scores_without_the_scores() -> None:
    scores, labels = teacher(3000)
    found, drawn = draws(Targets.build("surrogate", scores, labels))
    for k, truth in ((0, stats.beta(2, 5)), (1, stats.beta(5, 1.5))):
        assert stats.ks_1samp(found[drawn == k].numpy(), truth.cdf).statistic < 0.03
    assert len(set(found.tolist()) & set(scores.tolist())) < 20


@pytest.mark.parametrize(
    "positives", [[0.7], [0.7, 0.7, 0.7], [0.7, 0.70001], [0.5, 0.5005, 0.5], [1.0, 1.0], [0.5, 0.9], [0.1, 0.3, 0.8]]
)
def test_surrogate_of_few_or_equal_scores_keeps_their_mean(positives: list[float]) -> None:
    scores = torch.tensor([0.1, 0.3, *positives])
    labels = torch.tensor([0, 0, *[1] * len(positives)])
    found, drawn = draws(Targets.build("surrogate", scores, labels))
    assert ((found >= 0) & (found <= 1)).all()
    assert found[drawn == 1].mean().item() == pytest.approx(np.mean(positives), abs=0.05)


def test_surrogate_of_certain_scores_is_certain_too() -> None:
    scores, labels = torch.tensor([0.1, 0.3, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1, 1])
    found, drawn = draws(Targets.build("surrogate", scores, labels))
    found = found[drawn == 1]
    assert ((found < 0.01) | (found > 0.99)).float().mean() > 0.6
    assert found.mean() > 0.5


def test_hard_is_the_label_and_own_scores_are_the_samples_own() -> None:
    scores, labels = teacher()
    found, drawn = draws(Targets.build("hard", scores, labels))
    assert torch.equal(found, drawn.float())
    own = torch.rand(50)
    index = torch.randint(50, (200,))
    for pairing in OWN:
        targets = Targets.build(pairing, scores, labels, own=own)
        assert torch.equal(targets.draw(sample_keys(0, 0, ["a"] * 200), index % 2, index), own[index])


@pytest.mark.parametrize("pairing", POOLED)
def test_a_draw_depends_on_its_key_and_label_alone(pairing: Pairing) -> None:
    targets = Targets.build(pairing, *teacher())
    whole, labels = draws(targets, count=64)
    ids = torch.arange(64).flip(0)[:10]
    again = targets.draw(mix(7, 0, ids), labels[ids], torch.zeros(10, dtype=torch.int64))
    assert torch.equal(again, whole[ids])


@pytest.mark.parametrize("pairing", ["same-class", "any", "shuffled", "surrogate"])
def test_partners_are_drawn_anew_in_each_epoch(pairing: Pairing) -> None:
    targets = Targets.build(pairing, *teacher())
    first, second = (draws(targets, epoch)[0] for epoch in (0, 1))
    assert (first != second).float().mean() > 0.9
    assert abs(np.corrcoef(first[::2], second[::2])[0, 1]) < 0.05


def test_two_pairings_draw_the_same_quantile_under_one_key() -> None:
    scores, labels = teacher(3000)
    (full, drawn), (surrogate, _) = (draws(Targets.build(p, scores, labels)) for p in ("same-class", "surrogate"))
    for k in (0, 1):
        assert stats.spearmanr(full[drawn == k], surrogate[drawn == k]).statistic > 0.999


def test_students_own_checkpoint_holds_no_target() -> None:
    student = nn.Module()
    student.targets = Targets.build("same-class", *teacher())
    assert not student.state_dict()
    student.to(torch.device("meta"))
    assert all(buffer.is_meta for buffer in student.targets.buffers())


def test_distillation_alone_on_drawn_targets_reaches_median_or_mean() -> None:
    """A free scalar per class under scores {0.2, 0.9, 1.0}: 0.9 by the absolute, 0.7 by the squared difference."""
    scores, labels = torch.tensor([0.2, 0.9, 1.0, 0.0, 0.1, 0.8]), torch.tensor([1, 1, 1, 0, 0, 0])
    targets = Targets.build("same-class", scores, labels)
    ids = torch.arange(64)
    for norm, best in (("l1", 0.9), ("l2", 0.7)):
        logit = nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.Adam([logit], lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.985)
        for epoch in range(300):
            optimizer.zero_grad()
            wanted = targets.draw(mix(0, epoch, ids), ids % 2, ids)
            distillation_loss(logit[ids % 2], wanted, norm=norm).backward()  # type: ignore[no-untyped-call,arg-type]
            optimizer.step()
            schedule.step()
        assert logit.sigmoid().tolist() == pytest.approx([1 - best, best], abs=0.02)


def test_bad_targets_are_refused() -> None:
    scores, labels = teacher()
    with pytest.raises(ConfigError, match="no pairing"):
        Targets.build("same_class", scores, labels)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="self needs a score of each"):
        Targets.build("self", scores, labels)
    with pytest.raises(ConfigError, match="any has no use"):
        Targets.build("any", scores, labels, own=scores)
    for value in (1.2, -EPSILON, float("nan")):
        with pytest.raises(RunError, match="1 are none"):
            Targets.build("same-class", torch.cat([scores[1:], torch.tensor([value])]), labels)
        with pytest.raises(RunError, match="1 are none"):
            Targets.build("oracle_pair", scores, labels, own=torch.tensor([0.3, value]))
    for wrong in (labels * 0, labels[1:]):
        with pytest.raises(RunError, match="both classes"):
            Targets.build("hard", scores, wrong)

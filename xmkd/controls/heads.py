"""Linear heads on frozen features, for every arm, training cohort and trial of the optimiser.

One matrix holds all heads of a cohort, a column each: an arm under one trial of learning rate and weight decay, with
one inner fold held out. They share the batch, the keys of their targets and the number of steps, so they differ in
nothing but the arm. Every arm gets the same trials and keeps the one whose held-out scores order the classes best
(`recalibrated_log_loss`); it is then fitted anew on the whole cohort. Test patients decide nothing.

Weight decay enters the gradient, so what a head comes to is the penalised optimum. Decoupled decay (AdamW) would leave
heads of few samples where Adam's steps of equal size took them, and whatever disturbs those steps then looks like a
gain: on Gaussian features of 60 samples shuffled targets lifted the AUROC from 0.735 to 0.758, against 0.769 and 0.768
with the penalty, each at its best trial.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.controls.arms import Arm
from xmkd.data.partners import Targets
from xmkd.data.rng import id_hash, mix, uniform
from xmkd.errors import ConfigError
from xmkd.losses.distillation import Norm

BETAS, EPSILON = (0.9, 0.999), 1e-6  # above the rounding error of a slope of zero, which Adam would scale up to a step
NEWTON = 25  # steps to slope and intercept
LABELS_ALONE = Arm("ptm")
_FOLDS = id_hash("inner folds")  # the draw of the folds shares no number with that of the targets


@dataclass(frozen=True)
class HeadSettings:
    """Budget of every head.

    Attributes:
        epochs: Full-batch steps; the learning rate falls to 0 along a cosine.
        lrs: Learning rates to try.
        weight_decays: Factors of half the squared weights in the loss, to try with each.
        inner_folds: Parts of the training cohort that the trials are judged on.
        seed: Of the targets and the inner folds.
    """

    epochs: int = 200
    lrs: tuple[float, ...] = (1e-2, 3e-2)
    weight_decays: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    inner_folds: int = 5
    seed: int = 0

    @property
    def trials(self) -> list[tuple[float, float]]:
        """Every pair of learning rate and weight decay, the strongest decay first: it is kept where none is better."""
        return [(lr, decay) for decay, lr in product(sorted(self.weight_decays, reverse=True), self.lrs)]

    def problems(self) -> list[str]:
        """What no head can be fitted with."""
        found = []
        if self.epochs < 1 or self.inner_folds < 2:
            found.append(f"epochs ({self.epochs}) must be 1 or more, inner_folds ({self.inner_folds}) 2 or more")
        if not self.lrs or not self.weight_decays or min(self.lrs) <= 0 or min(self.weight_decays) < 0:
            found.append("lrs and weight_decays: at least one each, rates above 0 and decays not below")
        return found


@dataclass(frozen=True)
class Pool:
    """The labelled samples that training cohorts are drawn from, and the teacher.

    Attributes:
        features: Of each encoder, frozen, `(P, F)`.
        label: Training labels, int64 `(P,)`.
        ids: `id_hash` of each sample, int64 `(P,)`.
        teacher_score: Recalibrated out-of-fold probabilities of the teacher's own examinations, `(N,)`.
        teacher_label: Their classes, int64 `(N,)`.
        own: For arms of the pairing `oracle_pair` a probability of each of these samples' own, `(P,)`, by arm.
    """

    features: Mapping[str, Tensor]
    label: Tensor
    ids: Tensor
    teacher_score: Tensor
    teacher_label: Tensor
    own: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """A fitted head.

    Attributes:
        arm: Its arm.
        weight: Of the standardised features, then the intercept, `(F + 1,)`.
        mean: Of the training cohort's features, `(F,)`.
        scale: Their standard deviation, `(F,)`.
        lr: The learning rate that was chosen.
        weight_decay: The weight decay that was chosen.
        inner_loss: Recalibrated log loss of held-out scores that they were chosen for.
    """

    arm: Arm
    weight: Tensor
    mean: Tensor
    scale: Tensor
    lr: float
    weight_decay: float
    inner_loss: float

    def scores(self, features: Tensor) -> Tensor:
        """Probabilities of samples by the features `(T, F)` of this arm's encoder, float32 `(T,)`."""
        return (_standardised(features, self.mean, self.scale) @ self.weight).sigmoid()


def fit_heads(
    pool: Pool, cohorts: Sequence[Tensor], arms: Sequence[Arm], settings: HeadSettings
) -> Iterator[dict[str, Head]]:
    """The heads of each training cohort by the name of their arm, cohort after cohort.

    Args:
        pool: What the cohorts are drawn from.
        cohorts: Rows of the pool, int64 `(n,)` each.
        arms: Those to fit.
        settings: Their budget.

    Raises:
        ConfigError: The settings have problems; a cohort holds a sample twice, or fewer than two samples of a class; or
            an arm lacks its features or its targets.
        RunError: Scores of the teacher are no probabilities, or of one class.
    """
    if settings.problems():
        fixes = ("correct the settings of the heads", "leave them out: the defaults")
        raise ConfigError("; ".join(settings.problems()), where="settings of the heads", fixes=fixes)
    shared = {arm.name: _targets(arm, pool) for arm in arms if arm.pairing not in (None, "self")}
    for rows in cohorts:
        _check_cohort(pool.label[rows], rows)
        heads: dict[str, Head] = {}
        for encoder in dict.fromkeys(arm.encoder for arm in arms):
            mine = [arm for arm in arms if arm.encoder == encoder]
            cohort = Cohort(_features(pool, mine[0])[rows], pool.label[rows], pool.ids[rows], rows, settings)
            wanted = torch.stack([cohort.draw(arm, shared.get(arm.name)) for arm in mine], dim=2)  # (E, n, A)
            heads |= cohort.fit(mine, wanted)
        yield {arm.name: heads[arm.name] for arm in arms}


class Cohort:
    """A training cohort as one encoder shows it: standardised features, inner folds and keys."""

    def __init__(self, features: Tensor, label: Tensor, ids: Tensor, rows: Tensor, settings: HeadSettings) -> None:
        features = features.float()
        self.mean, self.scale = features.mean(dim=0), features.std(dim=0, correction=0)
        self.scale = torch.where(self.scale > 1e-6, self.scale, 1.0)  # a feature that is the same in all says nothing
        self.x = _standardised(features, self.mean, self.scale)  # (n, F + 1)
        self.label, self.rows, self.settings = label, rows, settings
        self.folds = min(settings.inner_folds, int(torch.bincount(label).min()))
        self.fold = inner_folds(label, ids, self.folds, settings.seed)  # (n,)
        self.keys = torch.stack([mix(settings.seed, epoch, ids) for epoch in range(settings.epochs)])  # (E, n)

    def draw(self, arm: Arm, targets: Targets | None) -> Tensor:
        """Targets of an arm in each epoch, `(E, n)`; a given pool is read by rows of the whole pool of samples."""
        index = self.rows
        if arm.pairing is None:
            return torch.full(self.keys.shape, 0.5)  # weighs nothing
        if targets is None:
            own = self.own_scores()
            targets, index = Targets.build("self", own, self.label, own=own), torch.arange(len(own))
        epochs = len(self.keys)
        return targets.draw(self.keys.flatten(), self.label.repeat(epochs), index.repeat(epochs)).view(epochs, -1)

    def own_scores(self) -> Tensor:
        """Probabilities `(n,)` by heads on labels alone, each sample's by one that was not fitted on it.

        At the cohort's prevalence, since the loss weighs both classes alike. In inner cross-validation they have seen
        the held-out fold: that bears on the choice of a trial alone.
        """
        _, _, logits = self._cross_validate([LABELS_ALONE], self.draw(LABELS_ALONE, None)[:, :, None])
        return (logits[:, 0] + self.label.float().mean().logit()).sigmoid()

    def fit(self, arms: Sequence[Arm], wanted: Tensor) -> dict[str, Head]:
        """Each arm with the trial that suits it best, on the whole cohort; targets `(E, n, A)`."""
        chosen, loss, _ = self._cross_validate(arms, wanted)
        trials = torch.tensor(self.settings.trials)[chosen]  # (A, 2)
        everyone = torch.ones(len(self.label), len(arms), dtype=torch.bool)
        columns = Columns(torch.arange(len(arms)), everyone, trials[:, 0], trials[:, 1])
        weight = train(self.x, self.label, arms, columns, wanted)
        heads = {}
        for a, (arm, trial, inner) in enumerate(zip(arms, chosen.tolist(), loss.tolist(), strict=True)):
            lr, weight_decay = self.settings.trials[trial]
            heads[arm.name] = Head(arm, weight[:, a], self.mean, self.scale, lr, weight_decay, inner)
        return heads

    def _cross_validate(self, arms: Sequence[Arm], wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best trial of each arm `(A,)`, its log loss `(A,)`, and its logits of held-out samples `(n, A)`."""
        trials = torch.tensor(self.settings.trials)
        shape = len(arms), len(trials), self.folds
        arm, trial, fold = (i.flatten() for i in torch.meshgrid(*map(torch.arange, shape), indexing="ij"))
        columns = Columns(arm, self.fold[:, None] != fold, trials[trial, 0], trials[trial, 1])
        weight = train(self.x, self.label, arms, columns, wanted)
        each = torch.arange(len(self.label))
        held_out = (self.x @ weight).view(-1, *shape)[each, :, :, self.fold]  # (n, A, T)
        loss, best = recalibrated_log_loss(held_out, self.label).min(dim=1)  # (A,), the first of equal ones
        return best, loss, held_out[:, torch.arange(len(arms)), best]


@dataclass(frozen=True)
class Columns:
    """What each head is: its arm `(C,)`, the samples that it is fitted on `(n, C)`, learning rate and decay `(C,)`."""

    arm: Tensor
    fitted: Tensor
    lr: Tensor
    weight_decay: Tensor


def train(x: Tensor, label: Tensor, arms: Sequence[Arm], columns: Columns, wanted: Tensor) -> Tensor:
    """All heads at once by Adam from zero; the classes weigh alike in L_PTM.

    The slope of `w L_KD + (1 - w) L_PTM` in each logit is written out: of losses that are sums over the samples of a
    column, and of columns that share no weight, it is all that is needed.

    Args:
        x: Standardised features and a column of ones, `(n, F + 1)`.
        label: int64 `(n,)`.
        arms: The arms.
        columns: The heads.
        wanted: Targets of distillation in each epoch, `(E, n, A)`.

    Returns:
        Weights of the features and then the intercept, which does not decay, `(F + 1, C)`.
    """
    epochs, a = len(wanted), columns.arm
    fitted = columns.fitted.to(x.dtype)  # (n, C)
    of_class = torch.stack([label == k for k in (0, 1)]).to(x.dtype)  # (2, n)
    distilled, supervised = fitted / fitted.sum(dim=0), 0.5 * fitted / (of_class @ fitted)[label]
    smoothing = torch.tensor([arm.label_smoothing for arm in arms], dtype=x.dtype)
    soft = (label[:, None] * (1 - smoothing) + smoothing / 2)[:, a]  # (n, C)
    weights = [[arm.weight(epoch, epochs) for arm in arms] for epoch in range(epochs)]
    share = torch.tensor(weights, dtype=x.dtype)[:, a]  # (E, C)
    used = dict.fromkeys(arm.norm for arm in arms)
    norms = {norm: torch.tensor([arm.norm == norm for arm in arms])[a] for norm in used}  # (C,) each
    adam = _Adam(torch.zeros(x.shape[1], len(a), dtype=x.dtype))
    for epoch in range(epochs):
        p = (x @ adam.weight).sigmoid()
        target, w = wanted[epoch][:, a], share[epoch]
        slope = (1 - w) * supervised * (p - soft)
        for norm, those in norms.items():
            slope += w * those * distilled * _slope(p, target, norm)
        adam.step(x.T @ slope, columns, 0.5 * (1 + math.cos(math.pi * epoch / epochs)))
    return adam.weight


def _slope(p: Tensor, target: Tensor, norm: Norm) -> Tensor:
    """Derivative by the logit of the distance between probabilities."""
    gap = p - target
    if norm == "kl":
        return gap
    return (gap.sign() if norm == "l1" else 2 * gap) * p * (1 - p)


class _Adam:
    """Adam (Kingma and Ba, ICLR 2015) with a learning rate and a decay per column."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.steps = weight, 0
        self.first, self.second = torch.zeros_like(weight), torch.zeros_like(weight)

    def step(self, gradient: Tensor, columns: Columns, factor: float) -> None:
        """One step at `factor` times the learning rates; the gradient `(F + 1, C)` is used up."""
        self.steps += 1
        gradient[:-1] += columns.weight_decay * self.weight[:-1]
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        spread = (self.second / (1 - BETAS[1] ** self.steps)).sqrt_().add_(EPSILON)
        self.weight -= columns.lr * factor / (1 - BETAS[0] ** self.steps) * self.first / spread


def inner_folds(label: Tensor, ids: Tensor, folds: int, seed: int) -> Tensor:
    """An inner fold for each sample, both classes spread evenly over them, int64 `(n,)`."""
    place = label + uniform(mix(seed, 0, ids) ^ _FOLDS, 1)[:, 0]
    return place.argsort(stable=True).argsort() % folds


def recalibrated_log_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Log loss that logits would have after a fit of slope and intercept, both classes weighing alike.

    How certain an arm is taught to be, and of which prevalence, then decides nothing: as with the AUROC, what counts is
    which patient comes before which, but by how much as well, so that few samples tell trials apart.

    Args:
        logits: Held-out, `(n, ...)`.
        label: `(n,)`.

    Returns:
        `(...)`; log 2 where higher logits don't go with more positives.
    """
    positive = (label == 1).view(-1, *[1] * (logits.ndim - 1)).to(logits.dtype)
    weight = positive / (2 * positive.sum()) + (1 - positive) / (2 * (1 - positive).sum())
    z = logits - logits.mean(dim=0)
    z = z / z.std(dim=0).clamp_min(1e-6)
    slope, intercept, ridge = torch.zeros_like(z[0]), torch.zeros_like(z[0]), 0.5 / len(label)
    for _ in range(NEWTON):
        p = (slope * z + intercept).sigmoid()
        error, spread = weight * (p - positive), weight * p * (1 - p)
        by_slope, by_intercept = (error * z).sum(dim=0) + ridge * slope, error.sum(dim=0)
        a, b, c = (spread * z * z).sum(dim=0) + ridge, (spread * z).sum(dim=0), spread.sum(dim=0) + 1e-6
        scale = a * c - b * b
        slope = slope - ((c * by_slope - b * by_intercept) / scale).clamp(-2, 2)
        intercept = intercept - ((a * by_intercept - b * by_slope) / scale).clamp(-2, 2)
    fitted = slope * z + intercept
    loss = (weight * (F.softplus(fitted) - positive * fitted)).sum(dim=0)
    return torch.where(slope > 0, loss, math.log(2))


def _standardised(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """`(T, F + 1)`, the last column ones."""
    return torch.cat([(features.float() - mean) / scale, torch.ones(len(features), 1)], dim=1)


def _targets(arm: Arm, pool: Pool) -> Targets:
    """The pools of an arm whose targets are the same for all cohorts."""
    assert arm.pairing is not None
    own = pool.own.get(arm.name) if arm.pairing == "oracle_pair" else None
    return Targets.build(arm.pairing, pool.teacher_score, pool.teacher_label, own=own, norm=arm.norm)


def _features(pool: Pool, arm: Arm) -> Tensor:
    if arm.encoder not in pool.features:
        raise ConfigError(
            f"arm {arm.name} needs features of the {arm.encoder} encoder",
            where=f"features of {', '.join(pool.features) or 'no encoder'}",
            fixes=("add them", "leave the arm out"),
        )
    return pool.features[arm.encoder]


def _check_cohort(label: Tensor, rows: Tensor) -> None:
    """Refuse a cohort that can't be split into inner folds."""
    if len(rows.unique()) < len(rows):  # type: ignore[no-untyped-call]
        raise ConfigError(
            "a training cohort holds a sample twice: it would be fitted on and held out at once",
            where=f"{len(rows)} rows",
            fixes=("draw cohorts without replacement", "name each row once"),
        )
    counts = torch.bincount(label, minlength=2).tolist()
    if min(counts) < 2:
        raise ConfigError(
            f"a training cohort of {counts[0]} negatives and {counts[1]} positives can't be split into inner folds",
            where=f"{len(rows)} labels",
            fixes=("draw cohorts stratified by class", "take more labels"),
        )

"""Gaussian features whose best AUROC is known, with a teacher of a second modality."""

from __future__ import annotations

import torch
from torch import Tensor

from xmkd.controls.heads import Pool

PREVALENCE = 0.3


def evidence(samples: int, rho: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Label, and evidence N(1.5 y, 1) of student and N(2.5 y, 1) of teacher, correlated by rho given the label."""
    generator = torch.Generator().manual_seed(seed)
    label = (torch.rand(samples, generator=generator) < PREVALENCE).long()
    first, second = torch.randn(2, samples, generator=generator)
    return label, 1.5 * label + first, 2.5 * label + rho * first + (1 - rho**2) ** 0.5 * second


def posterior(seen: Tensor, shift: float) -> Tensor:
    """Probability of the positive class after evidence N(shift y, 1)."""
    return torch.sigmoid(shift * seen - shift**2 / 2 + torch.tensor(PREVALENCE).logit())


def features_of(seen: Tensor, width: int, seed: int = 1) -> Tensor:
    """The evidence among nuisances, turned so that no single feature shows it, `(P, width)`."""
    generator = torch.Generator().manual_seed(seed)
    turn: Tensor = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(9)))[0]
    return torch.cat([seen[:, None], torch.randn(len(seen), width - 1, generator=generator)], dim=1) @ turn


def study(samples: int = 3000, tested: int = 2000, width: int = 24, rho: float = 0.6) -> tuple[Pool, Tensor, Tensor]:
    """A pool, and features and labels of test samples."""
    label, seen, other = evidence(samples + tested, rho)
    features = features_of(seen, width)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    teacher_label, _, unpaired = evidence(600, rho, seed=5)
    pool = Pool(
        {"mae": features[:samples], "random": (0.3 * features + noise)[:samples]},
        label[:samples],
        torch.arange(samples) * 0x9E3779B97F4A7C1,
        posterior(unpaired, 2.5),
        teacher_label,
        {"oracle_pair": posterior(other[:samples], 2.5)},
    )
    return pool, features[samples:], label[samples:]


def cohorts_of(pool: Pool, size: int, count: int) -> list[Tensor]:
    """Disjoint training cohorts, stratified by class."""
    order = torch.randperm(len(pool.label), generator=torch.Generator().manual_seed(3))
    positive, negative = order[pool.label[order] == 1], order[pool.label[order] == 0]
    p = round(size * PREVALENCE)
    n = size - p
    return [torch.cat([positive[i * p : (i + 1) * p], negative[i * n : (i + 1) * n]]) for i in range(count)]

"""Distillation by output regression on unpaired data, and the weight that hands over to supervision.

Zhang et al., "Distilling Missing Modality Knowledge from Ultrasound for Endometriosis Diagnosis with Magnetic
Resonance Images", ISBI 2023, arXiv 2307.02000:
    l = w L_KD + (1 - w) L_PTM,    w = alpha^(epoch + offset),
    L_KD = mean over (m, y), u drawn with y_u = y, of | p_T(u) - p_S(m) |,
    L_PTM the supervised loss of the pre-trained student on labelled MRI m.
The norm, the pairing and alpha are not published: they are options here.

What L_KD can carry: with a random partner of the same class the target of an MRI is a draw from the teacher's
scores of that class, whatever the MRI shows. Alone it is least where the student gives one constant per class, the
median of those scores (l1) or their mean (l2, kl).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Norm = Literal["l1", "l2", "kl"]
Space = Literal["prob", "logit"]

EPSILON = 1e-6  # teacher scores are kept this far from 0 and 1, whose logits are infinite


def auto_alpha(epochs: int) -> float:
    """The alpha that gives both terms the same weight in the middle of training, `2^(-2 / epochs)`."""
    if epochs < 1:
        raise ValueError(f"{epochs} epochs have no middle")
    return float(2.0 ** (-2.0 / epochs))


def distillation_weight(alpha: float, epoch: int, offset: int = 0) -> float:
    """Weight of the distillation term in an epoch, `alpha^(epoch + offset)`.

    With offset 0 the first epoch is pure distillation whatever alpha is, since 0^0 = 1: supervision alone needs
    alpha 0 and offset 1.

    Args:
        alpha: In [0, 1].
        epoch: Counted from 0, over the whole training: a resumed one goes on counting.
        offset: 0 or more.

    Raises:
        ValueError: An argument is out of its range.
    """
    if not 0 <= alpha <= 1 or epoch < 0 or offset < 0:
        raise ValueError(f"alpha {alpha} must be in [0, 1], epoch {epoch} and offset {offset} at least 0")
    return float(alpha ** (epoch + offset))


def distillation_loss(logits: Tensor, teacher: Tensor, *, norm: Norm = "l1", space: Space = "prob") -> Tensor:
    """Regression of the student's output to the teacher's, L_KD.

    Args:
        logits: The student's, `(B,)`.
        teacher: The teacher's probabilities of the partners, `(B,)`; no gradient reaches them.
        norm: Absolute difference, squared difference, or Kullback-Leibler divergence of the two Bernoulli
            distributions, from the teacher's to the student's.
        space: Compare probabilities, or logits (l1 and l2).

    Returns:
        The mean over the batch, a scalar, in float32.

    Raises:
        ValueError: The shapes differ, or kl of logits is asked for.
    """
    if logits.shape != teacher.shape:
        raise ValueError(f"student logits {tuple(logits.shape)} and teacher scores {tuple(teacher.shape)} don't pair")
    logits, target = logits.float(), teacher.detach().float()
    if norm == "kl":
        if space == "logit":
            raise ValueError("kl compares distributions: space must be 'prob'")
        entropy = -(torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target)).mean()
        return F.binary_cross_entropy_with_logits(logits, target) - entropy
    found = logits.sigmoid() if space == "prob" else logits
    wanted = target if space == "prob" else target.logit(EPSILON)
    return F.l1_loss(found, wanted) if norm == "l1" else F.mse_loss(found, wanted)


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of pooled features, both scaled to length 1: `2 - 2 cos`, between 0 and 4.

    The lengths of two networks' features have no common unit; a linear map to the teacher's width is the caller's.

    Args:
        student: `(B, C)`.
        teacher: `(B, C)`, of the partners; no gradient reaches them.

    Raises:
        ValueError: The shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student features {tuple(student.shape)} and teacher's {tuple(teacher.shape)} don't pair")
    return (2 - 2 * F.cosine_similarity(student.float(), teacher.detach().float(), dim=1)).mean()


def mixed_loss(distillation: Tensor, supervised: Tensor, weight: float) -> Tensor:
    """`w L_KD + (1 - w) L_PTM`; at weight 0 or 1 the other term takes no part, not even as a zero gradient.

    Args:
        distillation: L_KD, a scalar.
        supervised: L_PTM, a scalar.
        weight: w, in [0, 1].

    Raises:
        ValueError: The weight is out of its range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight {weight} of the distillation term is not in [0, 1]")
    if weight in {0, 1}:
        return distillation if weight == 1 else supervised
    return weight * distillation + (1 - weight) * supervised

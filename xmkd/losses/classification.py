"""Losses of classifiers whose classes are unequally frequent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(
    logits: Tensor,
    label: Tensor,
    *,
    weight: Tensor | None = None,
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy with class weights, optionally focal; of one logit (binary) or of K logits.

    Focal loss multiplies a sample's cross-entropy by (1 - p_t)^gamma, p_t being the probability of the true class
    (Lin et al. 2017, arXiv 1708.02002, eq. 4); gamma 0 is cross-entropy. The mean is weighted: sum(w l) / sum(w), as
    torch's `cross_entropy` has it, so that weights change the balance of the classes and not the size of the step.

    Args:
        logits: `(B,)` for two classes (the logit of class 1), `(B, K)` for K.
        label: Class indices, int64 `(B,)`.
        weight: Weight of each class, `(2,)` or `(K,)`.
        focal_gamma: Exponent of the focal factor.
        label_smoothing: Share of the target that all classes get alike (Szegedy et al. 2016, arXiv 1512.00567).

    Returns:
        The mean loss, a scalar.
    """
    two = torch.stack([torch.zeros_like(logits), logits], dim=1) if logits.ndim == 1 else logits  # (B, K)
    loss = F.cross_entropy(two, label, reduction="none", label_smoothing=label_smoothing)  # (B,)
    if focal_gamma:
        # Kept from 0, where the slope of a power below 1 is infinite: one certain sample would turn all weights to NaN.
        loss = loss * (-torch.expm1(-loss)).clamp_min(1e-8) ** focal_gamma
    if weight is None:
        return loss.mean()
    w = weight[label]
    return (w * loss).sum() / w.sum()


def balanced_weights(counts: tuple[int, ...]) -> Tensor:
    """Weights inversely proportional to class counts, mean 1 over the samples: `N / (K n_k)`; absent classes get 0."""
    n = torch.tensor(counts, dtype=torch.float32)
    return torch.where(n > 0, n.sum() / ((n > 0).sum() * n.clamp_min(1)), 0.0)

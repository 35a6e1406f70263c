"""The few figures that are watched while a model trains; statements with intervals are made by `classification`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmkd.errors import RunError


@dataclass(frozen=True)
class Predictions:
    """Scores of one pass over evaluation data, each sample once.

    Attributes:
        index: Row of each sample in its stream's table, int64 `(N,)`, ascending.
        label: Class index, int64 `(N,)`.
        score: Probability of class 1 of two, float64 `(N,)`, or of each class, `(N, K)`; or a method's figures.
        features: Features that the method keeps, `(N, F)`.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    features: NDArray[np.float32] | None = None


def check_finite(finite: bool, where: str) -> None:
    """Stop where a network's scores are no numbers any more.

    Raises:
        RunError: They are not.
    """
    if not finite:
        raise RunError(
            "the network's scores are no numbers any more: the training diverged",
            where=where,
            fixes=("lower the learning rate: optim.lr", "clip the gradients: trainer.gradient_clip_val=1"),
        )


def quick_metrics(predictions: Predictions) -> dict[str, float]:
    """Log loss, and AUROC of two classes or macro-F1 of several; point values of all samples pooled."""
    from sklearn.metrics import f1_score, log_loss, roc_auc_score

    label, score = predictions.label, predictions.score
    if score.ndim == 1:
        loss = log_loss(label, score, labels=[0, 1])
        auroc = roc_auc_score(label, score) if 0 < label.sum() < len(label) else float("nan")
        return {"loss": float(loss), "auroc": float(auroc)}
    loss = log_loss(label, score / score.sum(axis=1, keepdims=True), labels=list(range(score.shape[1])))
    return {"loss": float(loss), "macro_f1": float(f1_score(label, score.argmax(axis=1), average="macro"))}

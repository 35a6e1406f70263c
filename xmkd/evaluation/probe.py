"""What frozen features know of a label: nearest neighbours and a linear classifier, for watching a pre-training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def probe(
    train: Features, train_label: Labels, features: Features, label: Labels, *, neighbours: int = 20
) -> dict[str, float]:
    """AUROC of two probes of features that are fitted on some patients and scored on others.

    Args:
        train: Features of the first, `(N, F)`.
        train_label: Their classes, 0 or 1, `(N,)`.
        features: Features of the others, `(M, F)`.
        label: Their classes, `(M,)`.
        neighbours: Of the nearest-neighbour probe; by cosine similarity of standardised features, weighted by it.

    Returns:
        `knn_auroc` and `linear_auroc`; nothing where either side lacks a class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    if len(np.unique(train_label)) < 2 or len(np.unique(label)) < 2:
        return {}
    centre, spread = train.mean(axis=0), train.std(axis=0) + 1e-6
    train, features = (train - centre) / spread, (features - centre) / spread
    linear = LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced").fit(train, train_label)
    scores = {
        "linear": linear.decision_function(features),
        "knn": _neighbours(train, train_label, features, neighbours),
    }
    return {f"{name}_auroc": float(roc_auc_score(label, score)) for name, score in scores.items()}


def _neighbours(train: Features, label: Labels, features: Features, count: int) -> NDArray[np.float64]:
    """Share of class 1 among the nearest, weighted by similarity, `(M,)`."""
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12) for x in (features, train))
    similarity = one @ other.T
    count = min(count, len(train))
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    weight = np.exp(np.take_along_axis(similarity, nearest, axis=1) / 0.1)
    return np.asarray((weight * label[nearest]).sum(axis=1) / weight.sum(axis=1))

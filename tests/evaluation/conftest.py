"""Simulated prediction tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

Predictions = Callable[..., pd.DataFrame]


def simulated(
    patients: int = 60, images: int = 5, *, prevalence: float = 0.4, shift: float = 1.5, seed: int = 0
) -> pd.DataFrame:
    """Correlated images of patients with one label each, scores as probabilities."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), images)
    label = (patient < round(prevalence * patients)).astype(int)
    logit = shift * (label - 0.5) + rng.normal(size=patients)[patient] + rng.normal(size=patient.size)
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(patient.size)],
            "patient_id": [f"p{i}" for i in patient],
            "site": np.where(patient % 2 == 0, "north", "south"),
            "fold": np.nan,
            "label": label,
            "score": 1 / (1 + np.exp(-logit)),
        }
    )


@pytest.fixture
def predictions() -> Predictions:
    return simulated

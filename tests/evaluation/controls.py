"""Made-up results of controls, and claims about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from xmkd.evaluation.statistics import auroc

AT: dict[str, Any] = {"tier": "head", "rho": 0.6, "labels": 80}


def spread(mean: float, sd: float, cohorts: int) -> list[float]:
    """Values with exactly this mean and standard deviation (divided by n - 1)."""
    values = np.random.default_rng(cohorts).normal(size=cohorts)
    values = (values - values.mean()) / values.std(ddof=1)
    return list(mean + sd * values)


def rows(arms: Mapping[str, Sequence[float]], *, lock: str = "c0ffee", **at: Any) -> pd.DataFrame:
    """One row per training: the AUROC of each arm on cohorts 0, 1, ..."""
    return pd.DataFrame(
        [
            {**AT, **at, "arm": arm, "cohort": cohort, "auroc": value, "lock": lock}
            for arm, values in arms.items()
            for cohort, value in enumerate(values)
        ]
    )


def against(differences: Sequence[float], arm: str = "full", other: str = "surrogate", **at: Any) -> pd.DataFrame:
    """Two arms with these differences; the cohorts themselves differ far more."""
    level = np.linspace(0.7, 0.9, len(differences))
    return rows({other: list(level), arm: list(level + np.asarray(differences))}, **at)


def claim(name: str = "one", **changes: Any) -> dict[str, Any]:
    """A claim as it stands in a file."""
    plain = {"name": name, "arm": "full", "against": "surrogate", "test": "equivalent", "cohorts": 10, "why": "because"}
    return {**plain, **AT, **changes}


def write_claims(file: Path, *claims: dict[str, Any], **changes: Any) -> Path:
    """A file of claims."""
    head = {"metric": "auroc", "margin": 0.01, "alpha": 0.05, "correction": "holm"}
    file.write_text(yaml.safe_dump({**head, "claims": list(claims), **changes}))
    return file


def scored(folder: Path, spreads: Mapping[str, float], cohorts: int, patients: int = 200) -> Path:
    """A folder with results.csv and scores.npz of arms whose scores have noise of these sizes."""
    rng = np.random.default_rng(0)
    label = (np.arange(patients) % 10 < 3).astype(int)
    arrays: dict[str, Any] = {"label": label, "patient_id": np.array([f"p{i}" for i in range(patients)])}
    found: dict[str, list[float]] = {}
    for arm, noise in spreads.items():
        for cohort in range(cohorts):
            score = (label + noise * rng.normal(size=patients)).astype(np.float32)
            arrays["{tier}/{rho}/{labels}".format(**AT) + f"/{arm}/{cohort}"] = score
            found.setdefault(arm, []).append(round(auroc(label, score), 4))
    folder.mkdir(exist_ok=True)
    rows(found).to_csv(folder / "results.csv", index=False)
    np.savez(folder / "scores.npz", **arrays)
    return folder

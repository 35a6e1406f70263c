"""How often do the AUROC intervals hold the truth? A simulation with several correlated images per patient.

    score = mu y + sqrt(ICC) u(patient) + sqrt(1 - ICC) e(image),   u, e ~ N(0, 1),   AUROC = Phi(mu / sqrt 2)

where the AUROC is that of a random positive against a random negative image of another patient. Settings:

| setting | patients | who is positive |
| --- | --- | --- |
| per class | in each class | half of the patients |
| total | in both classes together | 30 % of the patients |
| blocks | groups in all | 30 % of the images of every group, as in blocks of consecutive image numbers |
| folds | in each class | half; every one of 5 folds shifts its scores by an offset ~ N(0, 1) |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special, stats

from xmkd.evaluation.classification import BINARY, binary_metrics
from xmkd.evaluation.inputs import FloatArray, IntArray
from xmkd.evaluation.resampling import clustered_bootstrap, logit_interval
from xmkd.evaluation.statistics import auroc_interval, clustered_delong

Setting = Literal["per class", "total", "blocks", "folds"]
SETTINGS: tuple[Setting, ...] = ("per class", "total", "blocks", "folds")
PATIENTS = (10, 15, 30, 60, 120)
DEFAULT = "default"
AUROC = 0.85
ICC = 0.5
IMAGES = 8
FOLDS = 5
PREVALENCE = 0.3
Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class SimulatedSet:
    """One simulated set: labels, scores, patients and folds, each `(n,)`."""

    label: IntArray
    score: FloatArray
    patient: IntArray
    fold: IntArray | None = None


def simulate(setting: Setting, patients: int, rng: np.random.Generator) -> SimulatedSet:
    """Draw one set.

    Args:
        setting: Who is positive and what `patients` counts, see the table above.
        patients: Number of patients (groups).
        rng: Source of randomness.
    """
    positives = {"per class": patients, "folds": patients, "total": max(2, round(PREVALENCE * patients)), "blocks": 0}
    positive = positives[setting]
    everyone = 2 * patients if setting in ("per class", "folds") else patients
    patient = np.repeat(np.arange(everyone), IMAGES)
    label = (patient < positive).astype(np.intp)
    if setting == "blocks":
        label = (rng.random(patient.size) < PREVALENCE).astype(np.intp)
    mu = np.sqrt(2) * stats.norm.ppf(AUROC)
    shared, own = rng.normal(size=everyone)[patient], rng.normal(size=patient.size)
    score = mu * label + np.sqrt(ICC) * shared + np.sqrt(1 - ICC) * own
    if setting != "folds":
        return SimulatedSet(label, score, patient)
    fold = patient % FOLDS
    return SimulatedSet(label, score + rng.normal(size=FOLDS)[fold], patient, fold)


def default_bounds(data: SimulatedSet) -> Bounds:
    """What `auroc_interval` gives without further arguments; None with under 10 patients in a class."""
    interval = auroc_interval(data.label, data.score, data.patient, fold=data.fold)
    return None if interval.low is None or interval.high is None else (interval.low, interval.high)


def delong_bounds(data: SimulatedSet, *, clustered: bool = True) -> Bounds:
    """Clustered or plain DeLong without the rule about 10 patients."""
    result = clustered_delong(data.label, data.score, data.patient if clustered else None)
    if not 0 < result.auroc < 1 or not result.variance > 0:
        return result.auroc, result.auroc
    df = min(result.positive_clusters, result.negative_clusters) - 1
    return logit_interval(result.auroc, float(stats.t.ppf(0.975, df) * np.sqrt(result.variance)))


def run(
    sets: int = 2000,
    seed: int = 0,
    *,
    patients: Sequence[int] = PATIENTS,
    settings: Sequence[Setting] = SETTINGS,
    resamples: int = 2000,
    compare: bool = True,
    report: Callable[[str], object] = lambda line: None,
) -> pd.DataFrame:
    """Share of simulated sets whose 95 % interval holds the true AUROC.

    Args:
        sets: Simulated sets per setting and number of patients.
        seed: Seed of everything.
        patients: Numbers of patients.
        settings: Settings; "blocks" and "folds" need at least 15 patients and try the default method only.
        resamples: Resamples of the bootstrap.
        compare: Also try the other methods; without it only the default.
        report: Called with one line per setting and number of patients.

    Returns:
        One row per setting, number of patients and method: `given` is the share of sets that got an interval,
        `coverage` is among those, `standard_error` its Monte Carlo error, `width` the mean width.
    """
    rows: list[dict[str, str | int | float]] = []
    for setting in settings:
        others = compare and setting in ("per class", "total")
        for count in patients:
            if setting in ("blocks", "folds") and count < 15:
                continue
            found: dict[str, list[Bounds]] = {}
            for number in range(sets):
                rng = np.random.default_rng([seed, SETTINGS.index(setting), count, number])
                data = simulate(setting, count, rng)
                for method, bounds in _bounds(data, others, resamples, number).items():
                    found.setdefault(method, []).append(bounds)
            lines = [_summary(setting, count, method, bounds) for method, bounds in found.items()]
            report(f"{setting} {count}: " + ", ".join(f"{line['method']} {line['coverage']:.3f}" for line in lines))
            rows.extend(lines)
    return pd.DataFrame(rows)


def run_metrics(
    sets: int = 1000,
    seed: int = 0,
    *,
    patients: Sequence[int] = (10, 15, 30, 60),
    resamples: int = 1000,
    report: Callable[[str], object] = lambda line: None,
) -> pd.DataFrame:
    """The same question for all metrics of `classification.binary_metrics`, setting "per class".

    The truth of each metric is its value on 40,000 patients per class.

    Args:
        sets: Simulated sets per number of patients.
        seed: Seed of everything.
        patients: Numbers of patients in each class.
        resamples: Resamples of the bootstrap.
        report: Called with one line per number of patients.

    Returns:
        Columns `patients, metric, truth, sets, coverage, standard_error`.
    """
    large = binary_metrics(_table("per class", 40_000, np.random.default_rng([seed, 1])), resamples=2)
    truth = {name: interval.value for name, interval in large.items() if name in BINARY}
    rows: list[dict[str, str | int | float]] = []
    for count in patients:
        inside = dict.fromkeys(truth, 0)
        for number in range(sets):
            table = _table("per class", count, np.random.default_rng([seed, 2, count, number]))
            found = binary_metrics(table, resamples=resamples, seed=number)
            for name, value in truth.items():
                low, high = found[name].low, found[name].high
                inside[name] += low is not None and high is not None and low <= value <= high
        for name, value in truth.items():
            share = inside[name] / sets
            error = round(float(np.sqrt(share * (1 - share) / sets)), 4)
            found_row = {"truth": round(value, 4), "sets": sets, "coverage": round(share, 4), "standard_error": error}
            rows.append({"patients": count, "metric": name, **found_row})
        report(f"metrics {count}: " + ", ".join(f"{name} {hits / sets:.3f}" for name, hits in inside.items()))
    return pd.DataFrame(rows)


def _table(setting: Setting, patients: int, rng: np.random.Generator) -> pd.DataFrame:
    """A simulated set as a predictions table, cut at 1/2 halfway between the classes."""
    data = simulate(setting, patients, rng)
    middle = stats.norm.ppf(AUROC) / np.sqrt(2)
    return pd.DataFrame(
        {
            "sample_id": np.arange(data.label.size),
            "patient_id": data.patient,
            "label": data.label,
            "score": special.expit(data.score - middle),
        }
    )


def _bounds(data: SimulatedSet, others: bool, resamples: int, seed: int) -> dict[str, Bounds]:
    found: dict[str, Bounds] = {DEFAULT: default_bounds(data)}
    if others:
        boot = clustered_bootstrap("auroc", data.label, data.score, data.patient, resamples, seed)
        found["clustered DeLong"] = delong_bounds(data)
        found["cluster bootstrap, percentiles"] = (boot.low, boot.high)
        found["cluster bootstrap, t"] = boot.t_interval()
        found["plain DeLong, patients ignored"] = delong_bounds(data, clustered=False)
    return found


def _summary(setting: Setting, patients: int, method: str, bounds: list[Bounds]) -> dict[str, str | int | float]:
    given = np.array([b for b in bounds if b is not None]).reshape(-1, 2)
    inside = (given[:, 0] <= AUROC) & (given[:, 1] >= AUROC)
    coverage = float(inside.mean()) if len(given) else float("nan")
    return {
        "setting": setting,
        "patients": patients,
        "method": method,
        "sets": len(bounds),
        "given": round(len(given) / len(bounds), 4),
        "coverage": round(coverage, 4),
        "standard_error": round(float(np.sqrt(coverage * (1 - coverage) / max(1, len(given)))), 4),
        "width": round(float(np.ptp(given, axis=1).mean()), 4) if len(given) else float("nan"),
    }

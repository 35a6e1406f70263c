"""Metrics of classification from a predictions table, each with an interval whose unit is the patient.

| figure | interval |
| --- | --- |
| AUROC | clustered DeLong, pairs of the same fold only |
| sensitivity, specificity, accuracy | exact: Clopper-Pearson, or Korn-Graubard with several samples per patient |
| all others | cluster bootstrap: its standard error with a t quantile, logit scale |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from xmkd.errors import EvaluationError
from xmkd.evaluation import weighted
from xmkd.evaluation.inputs import binary_score, check_both_classes, check_groups, check_table, score_columns
from xmkd.evaluation.proportions import proportion_interval
from xmkd.evaluation.resampling import WeightedMetric, clustered_bootstrap
from xmkd.evaluation.statistics import MIN_PATIENTS, TOO_FEW, Interval, auroc_interval
from xmkd.evaluation.thresholds import Threshold, cuts

BINARY = ("auroc", "auprc", "sensitivity", "specificity", "balanced_accuracy", "f1", "brier")


def metrics(
    table: pd.DataFrame,
    threshold: float | Threshold = 0.5,
    classes: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Interval]:
    """All metrics of a predictions table, binary or multi-class by its score columns.

    Args:
        table: Columns `sample_id, patient_id, label`, `score` or `score_0 ..`, optionally `site, fold`.
        threshold: Positive from this score on (binary only), or an operating point.
        classes: Names of the classes in order (multi-class only).
        level: Nominal coverage.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.

    Raises:
        EvaluationError: The table is unusable, or only one class occurs in it.
    """
    if score_columns(table) == ["score"]:
        return binary_metrics(table, threshold, level=level, seed=seed, resamples=resamples)
    return multiclass_metrics(table, classes, level=level, seed=seed, resamples=resamples)


def binary_metrics(
    table: pd.DataFrame,
    threshold: float | Threshold = 0.5,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Interval]:
    """AUROC, AUPRC, sensitivity, specificity, balanced accuracy, F1 and Brier score.

    Where patients have several samples and all samples of a patient have one label, the same again as `patient/...`,
    from each patient's mean score.

    Args:
        table: Columns `sample_id, patient_id, label` (1 = positive), `score`, optionally `fold`.
        threshold: Positive from this score on, or an operating point.
        level: Nominal coverage.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.

    Raises:
        EvaluationError: The table is unusable, or only one class occurs in it.
    """
    table = binary_score(table)
    check_both_classes(table["label"].to_numpy(dtype=bool))
    found = _binary(table, threshold, level, seed, resamples)
    patients = by_patient(table)
    if patients is not None and len(patients) < len(table):
        at_patients = _binary(patients, threshold, level, seed, resamples)
        found.update({f"patient/{name}": interval for name, interval in at_patients.items()})
    return found


def _binary(
    table: pd.DataFrame, threshold: float | Threshold, level: float, seed: int, resamples: int
) -> dict[str, Interval]:
    label, score, patient = (table[c].to_numpy() for c in ("label", "score", "patient_id"))
    fold, both, cut = fold_codes(table), np.arange(2), cuts(table, threshold)
    found = {"auroc": auroc_interval(label, score, patient, level=level, fold=fold)}
    found.update(rates(table, threshold, level))
    bootstrapped: dict[str, WeightedMetric] = {
        "auprc": weighted.average_precision,
        "balanced_accuracy": lambda y, s, w: weighted.balanced_accuracy(y, s >= cut, w, both),
        "f1": lambda y, s, w: weighted.macro_f1(y, s >= cut, w, both[1:]),
        "brier": weighted.brier,
    }
    notes = {"auprc": [f"prevalence {label.mean():.3f}"]}
    for name, metric in bootstrapped.items():
        note = "; ".join(notes.get(name, []) + ([] if fold is None else ["pooled over folds"]))
        found[name] = _bootstrap_interval(metric, table, ["score"], level, seed, resamples, note)
    if score.min() < 0 or score.max() > 1:
        found["brier"] = Interval(float("nan"), None, None, len(table), len(set(patient)), "none", "not probabilities")
    return {name: found[name] for name in BINARY}


def rates(table: pd.DataFrame, threshold: float | Threshold = 0.5, level: float = 0.95) -> dict[str, Interval]:
    """Sensitivity and specificity at a threshold; defined for one class too, the other is then NaN.

    Args:
        table: Columns `patient_id, label` (1 = positive), `score`.
        threshold: Positive from this score on, or an operating point.
        level: Nominal coverage.
    """
    label, patient = table["label"].to_numpy(), table["patient_id"].to_numpy()
    called = table["score"].to_numpy() >= cuts(table, threshold)
    rule = threshold.rule if isinstance(threshold, Threshold) else f"positive from {threshold:.4g} on"
    sides = {"sensitivity": (label == 1, called), "specificity": (label == 0, ~called)}
    return {name: proportion_interval(right[rows], patient[rows], level, rule) for name, (rows, right) in sides.items()}


def multiclass_metrics(
    table: pd.DataFrame,
    classes: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Interval]:
    """Macro-F1, balanced accuracy and macro one-vs-rest AUROC over the classes present, accuracy, and each class.

    Args:
        table: Columns `sample_id, patient_id, label` (class number), `score_0 .. score_{K-1}`, optionally `fold`.
        classes: Names of the K classes in order.
        level: Nominal coverage.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.

    Raises:
        EvaluationError: The table is unusable, or only one class occurs in it.
    """
    names, columns = class_names(table, classes), score_columns(table)
    table = check_table(table)
    label, patient = table["label"].to_numpy(), table["patient_id"].to_numpy()
    score, fold = table[columns].to_numpy(dtype=np.float64), fold_codes(table)
    present = np.unique(label)
    if present.size == 1:
        raise EvaluationError(
            f"all {label.size} samples are of the class {names[int(present[0])]!r}",
            fixes=("evaluate on samples of several classes (another split, fold or site)", "report accuracy alone"),
        )
    bootstrapped: dict[str, WeightedMetric] = {
        "macro_f1": lambda y, s, w: weighted.macro_f1(y, s.argmax(axis=1), w, present),
        "balanced_accuracy": lambda y, s, w: weighted.balanced_accuracy(y, s.argmax(axis=1), w, present),
        "macro_auroc": partial(weighted.macro_auroc, classes=present, fold=fold),
    }
    absent = [name for k, name in enumerate(names) if k not in present]
    note = f"over {present.size} classes; missing: {', '.join(absent)}" if absent else ""
    found = {
        name: _bootstrap_interval(metric, table, columns, level, seed, resamples, note)
        for name, metric in bootstrapped.items()
    }
    chosen = score.argmax(axis=1)
    found["accuracy"] = proportion_interval(chosen == label, patient, level)
    for k in present.tolist():
        rows = label == k
        found[f"auroc/{names[k]}"] = auroc_interval(rows, score[:, k], patient, level=level, fold=fold)
        found[f"sensitivity/{names[k]}"] = proportion_interval(chosen[rows] == k, patient[rows], level)
    return found


def _bootstrap_interval(
    metric: WeightedMetric,
    table: pd.DataFrame,
    columns: list[str],
    level: float,
    seed: int,
    resamples: int,
    note: str,
) -> Interval:
    label, patient = table["label"].to_numpy(), table["patient_id"].to_numpy()
    score = table[columns].to_numpy(dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample can lose a class of mixed patients: NaN
        boot = clustered_bootstrap(
            metric, label, score[:, 0] if len(columns) == 1 else score, patient, resamples, seed, level=level
        )
    bounds, reason = boot.t_interval(), ""
    if boot.smaller < MIN_PATIENTS:
        bounds, reason = None, f"{TOO_FEW}: {boot.smaller} in the smallest class, {MIN_PATIENTS} needed"
    elif bounds is None:
        reason = "no spread between resamples"
    low, high = bounds or (None, None)
    return Interval(
        boot.value, low, high, boot.n, boot.patients, "cluster bootstrap, t", "; ".join(filter(None, (reason, note)))
    )


def by_patient(table: pd.DataFrame) -> pd.DataFrame | None:
    """One row per patient with the mean of its scores; None where a patient has samples of several labels.

    Args:
        table: A checked predictions table.

    Raises:
        EvaluationError: A patient has predictions from several folds, so that it was trained on as well.
    """
    patients = table.groupby("patient_id", sort=False)
    if (patients["label"].nunique() > 1).any():
        return None
    kept = [column for column in ("label", "site", "fold") if column in table.columns]
    if "fold" in kept and (folds := patients["fold"].nunique() > 1).any():
        raise EvaluationError(
            f"{int(folds.sum())} patients have predictions from several folds",
            where=f"patient_id {', '.join(map(str, folds.index[folds][:5]))}",
            fixes=("make the folds by patient (xmkd.data.manifest.split)", "evaluate one repetition at a time"),
        )
    frame = patients[kept].first().join(patients[score_columns(table)].mean())
    frame = frame.reset_index()
    frame.insert(0, "sample_id", frame["patient_id"])
    return frame


def confusion_matrix(
    table: pd.DataFrame, threshold: float | Threshold = 0.5, classes: Sequence[str] | None = None
) -> pd.DataFrame:
    """Counts of samples, rows = truth, columns = prediction.

    Args:
        table: A predictions table.
        threshold: Positive from this score on (binary only), or an operating point.
        classes: Names of the classes in order; two for a binary table, the positive one last.
    """
    names, columns = class_names(table, classes), score_columns(table)
    table = check_table(table)
    score = table[columns].to_numpy(dtype=np.float64)
    called = score.argmax(axis=1) if len(columns) > 1 else (score[:, 0] >= cuts(table, threshold)).astype(int)
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (table["label"].to_numpy(), called), 1)
    return pd.DataFrame(counts, index=pd.Index(names, name="truth"), columns=pd.Index(names, name="predicted"))


def per_site(
    table: pd.DataFrame,
    threshold: float | Threshold = 0.5,
    classes: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, dict[str, Interval]]:
    """The metrics of every site, by its name; a site of one class keeps what is still defined.

    Args:
        table: A predictions table with a column `site`.
        threshold: Positive from this score on (binary only), or an operating point.
        classes: Names of the classes in order (multi-class only).
        level: Nominal coverage.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.
    """
    table = check_table(table)
    sites = table["site"] if "site" in table.columns else pd.Series([None] * len(table))
    of_site = {}
    for site, rows in table.groupby(sites.fillna("not given").astype(str), sort=True):
        if rows["label"].nunique() > 1:
            found = metrics(rows, threshold, classes, level=level, seed=seed, resamples=resamples)
        elif "score" in rows.columns:
            found = {name: interval for name, interval in rates(rows, threshold, level).items() if interval.n}
        else:
            hit = rows[score_columns(rows)].to_numpy(dtype=np.float64).argmax(axis=1) == rows["label"].to_numpy()
            found = {"accuracy": proportion_interval(hit, rows["patient_id"].to_numpy(), level, "one class only")}
        of_site[str(site)] = found
    return of_site


def to_frame(intervals: Mapping[str, Interval]) -> pd.DataFrame:
    """One row per metric: `metric, value, low, high, n, patients, method, note`."""
    fields = ("value", "low", "high", "n", "patients", "method", "note")
    rows = [{"metric": name, **{f: getattr(i, f) for f in fields}} for name, i in intervals.items()]
    return pd.DataFrame(rows).astype({"low": float, "high": float})


def fold_codes(table: pd.DataFrame) -> npt.NDArray[np.intp] | None:
    """Folds `(n,)` as numbers; None without folds or with a single one.

    Raises:
        EvaluationError: Some samples have a fold and others don't.
    """
    if "fold" not in table.columns or table["fold"].isna().all() or table["fold"].nunique(dropna=False) == 1:
        return None
    return check_groups(table["fold"].to_numpy(), len(table), "fold")


def class_names(table: pd.DataFrame, classes: Sequence[str] | None) -> list[str]:
    """Names of the classes, or their numbers where no names are given.

    Raises:
        EvaluationError: There are more or fewer names than classes.
    """
    expected = max(2, len(score_columns(table)))
    names = list(classes) if classes is not None else [str(k) for k in range(expected)]
    if len(names) != expected:
        raise EvaluationError(
            f"{len(names)} class names for {expected} classes",
            where=", ".join(names),
            fixes=("pass the card's classes in order", "leave the names out"),
        )
    return names

"""A model against human readers of the same patients.

Each reader is one point on the model's ROC: his or her sensitivity and specificity. The model is set to the reader's
specificity on the same patients and their sensitivities are compared, paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from xmkd.errors import EvaluationError
from xmkd.evaluation.classification import by_patient
from xmkd.evaluation.inputs import SHOWN, FloatArray, binary_score, check_both_classes
from xmkd.evaluation.proportions import proportion_interval
from xmkd.evaluation.resampling import clustered_bootstrap
from xmkd.evaluation.statistics import MIN_PATIENTS, TOO_FEW, Interval, auroc_interval


@dataclass(frozen=True)
class ReaderComparison:
    """One reader and the model at that reader's specificity, on the patients that the reader read.

    Attributes:
        reader: Name of the reader.
        sensitivity: The reader's.
        specificity: The reader's.
        model_sensitivity: The model's at `threshold`.
        model_specificity: The model's at `threshold`, the smallest that is not below the reader's.
        difference: Model minus reader, sensitivity; specificity and threshold are found anew in every resample.
        p: Exact McNemar test on the positive patients, two-sided.
        threshold: The model is positive from here on.
        auroc: The reader's AUROC where scores were given.
        cut: The reader's score is a positive call from here on; None where calls were given.
        unread: Patients of the model's table that this reader didn't read.
    """

    reader: str
    sensitivity: Interval
    specificity: Interval
    model_sensitivity: Interval
    model_specificity: Interval
    difference: Interval
    p: float
    threshold: float
    auroc: Interval | None
    unread: int
    cut: float | None = None


def load_readers(path: Path) -> pd.DataFrame:
    """Read a readers.csv with the columns `reader, patient` and `score` or `call`; ids stay text."""
    try:
        return pd.read_csv(path, dtype={"reader": str, "patient": str})
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"the readers' file can't be read: {error}",
            where=path,
            fixes=("pass a CSV with the columns reader, patient and score or call", "check the path"),
        ) from error


def compare_readers(
    table: pd.DataFrame,
    readers: pd.DataFrame,
    *,
    cut: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> list[ReaderComparison]:
    """Compare a model's patient scores with every reader.

    Args:
        table: Predictions of the model; a patient's score is the mean of its samples.
        readers: Columns `reader, patient` and `call` (0 or 1) or `score`; one row per reader and patient.
        cut: A reader's score is a positive call from here on, for instance 4 on a scale from 1 to 5; by default 0.5,
            of scores within 0 .. 1 only.
        level: Nominal coverage.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.

    Raises:
        EvaluationError: Columns are missing, a reader read a patient twice or one that the model didn't, a call can't
            be used, patients have no single label, or a reader's patients are of one class.
    """
    patients = by_patient(binary_score(table))
    if patients is None:
        raise EvaluationError(
            "readers judge patients, but some patients have samples of both labels",
            fixes=("evaluate a patient-level label", "compare readers on one sample per patient"),
        )
    patients = patients.set_index(patients["patient_id"].astype(str))
    readers, cut = _check_readers(readers, patients.index, cut)
    found = []
    for reader, rows in readers.groupby("reader", sort=False):
        read = patients.loc[rows["patient"]]
        has_scores = "score" in rows.columns and bool(rows["score"].notna().all())
        scores = rows["score"].to_numpy(dtype=np.float64) if has_scores else None
        data = (read["label"].to_numpy(), read["score"].to_numpy(), rows["call"].to_numpy(dtype=np.float64))
        one = _compare_reader(str(reader), data, scores, len(patients) - len(rows), level, seed, resamples)
        found.append(replace(one, cut=cut))
    return found


def _compare_reader(
    reader: str,
    data: tuple[npt.NDArray[np.int64], FloatArray, FloatArray],
    reader_score: FloatArray | None,
    unread: int,
    level: float,
    seed: int,
    resamples: int,
) -> ReaderComparison:
    label, score, call = data
    positive = label == 1
    check_both_classes(positive)
    kept_out = int((call[~positive] == 0).sum())  # the reader's true negatives: as many for the model, at least
    negative = np.sort(score[~positive])
    threshold = float(np.nextafter(negative[kept_out - 1], np.inf)) if kept_out else float("-inf")
    model = score >= threshold
    boot = clustered_bootstrap(
        _sensitivity_gain, label, np.column_stack([score, call]), None, resamples, seed, level=level
    )
    bounds, note = boot.t_interval("linear"), ""
    if boot.smaller < MIN_PATIENTS:
        bounds, note = None, f"{TOO_FEW}: {boot.smaller} in the smaller class, {MIN_PATIENTS} needed"
    elif bounds is None:
        note = "no spread between resamples"
    low, high = (max(-1.0, bounds[0]), min(1.0, bounds[1])) if bounds else (None, None)
    only_model = int((model & (call == 0) & positive).sum())
    only_reader = int((~model & (call == 1) & positive).sum())
    discordant = only_model + only_reader
    return ReaderComparison(
        reader=reader,
        sensitivity=proportion_interval(call[positive] == 1, None, level),
        specificity=proportion_interval(call[~positive] == 0, None, level),
        model_sensitivity=proportion_interval(model[positive], None, level),
        model_specificity=proportion_interval(~model[~positive], None, level),
        difference=Interval(boot.value, low, high, label.size, label.size, "cluster bootstrap, t", note),
        p=float(stats.binomtest(only_model, discordant).pvalue) if discordant else 1.0,
        threshold=threshold,
        auroc=None if reader_score is None else auroc_interval(label, reader_score, level=level),
        unread=unread,
    )


def _sensitivity_gain(label: npt.NDArray[np.generic], pair: FloatArray, weight: FloatArray) -> FloatArray:
    """Sensitivity of the model at the reader's specificity, minus the reader's, `(R,)`.

    Args:
        label: `(n,)`.
        pair: `(n, 2)`, the model's score and the reader's call.
        weight: `(R, n)`.
    """
    positive = np.flatnonzero(label == 1)
    negative = np.flatnonzero(label != 1)
    negative = negative[np.argsort(pair[negative, 0], kind="stable")]
    excluded = np.cumsum(weight[:, negative], axis=1)  # weight of the j lowest negatives
    wanted = weight[:, negative] @ (pair[negative, 1] == 0)
    last = np.where(wanted > 0, (excluded >= wanted[:, None] - 1e-9).argmax(axis=1), -1)
    outranked = np.searchsorted(pair[negative, 0], pair[positive, 0], side="left")
    found = outranked[None, :] > last[:, None]  # the positives above the last excluded negative
    weight = weight[:, positive]
    gain: FloatArray = (weight * (found - pair[positive, 1])).sum(axis=1) / weight.sum(axis=1)
    return gain


def _check_readers(readers: pd.DataFrame, patients: pd.Index, cut: float | None) -> tuple[pd.DataFrame, float | None]:
    """The readers' table with text ids and a column `call` of 0 and 1, and the cut that made it from scores."""
    columns = set(map(str, readers.columns))
    if not {"reader", "patient"} <= columns or not columns & {"score", "call"} or readers.empty:
        raise EvaluationError(
            "the readers' table needs rows with the columns reader, patient and score or call",
            where=f"columns {', '.join(sorted(columns))}, {len(readers)} rows",
            fixes=("rename its columns", "write one row per reader and patient"),
        )
    readers = readers.astype({"reader": str, "patient": str})
    values = pd.to_numeric(readers["call" if "call" in columns else "score"], errors="coerce")
    unknown, twice = ~readers["patient"].isin(patients), readers.duplicated(["reader", "patient"])
    wrong = ~values.isin([0, 1]) if "call" in columns else values.isna()
    problems = (
        (unknown, "name a patient that the model was not evaluated on", "use the patient_id of the predictions"),
        (twice, "repeat a reader and patient", "keep one reading, for instance the first"),
        (wrong, "have no call of 0 or 1, nor a score", "fill in the call, or leave the row out"),
    )
    for mask, problem, fix in problems:
        if mask.any():
            shown = (readers["reader"] + " / " + readers["patient"])[mask].tolist()[:SHOWN]
            raise EvaluationError(
                f"{int(mask.sum())} rows of the readers' table {problem}",
                where=f"reader / patient {', '.join(shown)}",
                fixes=(fix, "leave these rows out and say so"),
            )
    if "call" in columns:
        if cut is not None:
            raise EvaluationError(
                f"the readers' table has calls, so there is nothing to cut at {cut:g}",
                where=f"columns {', '.join(sorted(columns))}",
                fixes=("leave the cut out", "take the column call out of the table"),
            )
        return readers.assign(call=values), None
    cut = _cut(values, cut)
    return readers.assign(call=(values >= cut).astype(int)), cut


def _cut(scores: pd.Series, cut: float | None) -> float:
    """The score from which a reading is positive; the default is for probabilities, of no other scale."""
    low, high = scores.min(), scores.max()
    name = "name the score from which a reading is positive: --cut 3 (compare_readers(cut=3))"
    if cut is None and (low < 0 or high > 1):
        raise EvaluationError(
            f"the readers' scores run from {low:g} to {high:g}: which of them are positive calls is not known",
            fixes=(name, "add a column call with 0 and 1"),
        )
    cut = 0.5 if cut is None else cut
    if not low < cut <= high:
        raise EvaluationError(
            f"the cut {cut:g} calls all readings alike; the scores run from {low:g} to {high:g}",
            fixes=(name, "add a column call with 0 and 1"),
        )
    return cut


def format_readers(found: Sequence[ReaderComparison]) -> str:
    """A short text for the terminal: the cut where scores were cut, then four lines per reader."""
    lines = [f"a reader's score is a positive call from {cut:g} on" for cut in {c.cut for c in found} - {None}]
    for c in found:
        low, high = c.difference.low, c.difference.high
        bounds = f"({c.difference.note})" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"
        unread = f"; {c.unread} patients not read" if c.unread else ""
        lines += [
            f"reader {c.reader}: sensitivity {c.sensitivity}, specificity {c.specificity}{unread}",
            f"  model there: sensitivity {c.model_sensitivity}, specificity {c.model_specificity}",
            f"  model - reader, sensitivity: {c.difference.value:+.3f} {bounds}  McNemar p={c.p:.3g}",
        ]
        if c.auroc is not None:
            lines.append(f"  reader's own auroc {c.auroc}")
    return "\n".join(lines)

"""Checks of labels, scores and groups, shared by the evaluation modules: bad input stops here, with a named cause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from xmkd.errors import EvaluationError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

SHOWN = 5  # offenders named in a message


def check_labels(label: npt.ArrayLike) -> BoolArray:
    """Binary labels `(n,)` as booleans.

    Raises:
        EvaluationError: A label is neither 0 nor 1, or there are none.
    """
    values = np.asarray(label)
    if values.ndim != 1 or values.size == 0:
        raise EvaluationError(
            f"labels must be a non-empty list with one entry per sample, not of shape {values.shape}",
            fixes=("pass one label per sample", "check the filter that chose the samples"),
        )
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        raise EvaluationError(
            f"{int(wrong.sum())} labels are neither 0 nor 1",
            where=f"rows {_first(np.flatnonzero(wrong))}, values {_first(values[wrong])}",
            fixes=("code the card's positive class as 1 and all others as 0", "leave unlabelled samples out"),
        )
    return values.astype(bool)


def check_scores(score: npt.ArrayLike, samples: int) -> FloatArray:
    """Scores `(n,)` as float64, all finite.

    Raises:
        EvaluationError: A score is not finite, or there are more or fewer scores than samples.
    """
    values = np.asarray(score, dtype=np.float64)
    if values.shape != (samples,):
        raise EvaluationError(
            f"{samples} labels, but scores of shape {values.shape}",
            fixes=("pass one score per sample", "for more than two classes use one column of scores"),
        )
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise EvaluationError(
            f"{int(wrong.sum())} scores are not finite",
            where=f"rows {_first(np.flatnonzero(wrong))}",
            fixes=("find out why the model gives NaN there (damaged input?)", "exclude these samples and say so"),
        )
    return values


def check_groups(groups: npt.ArrayLike | None, samples: int, name: str = "groups") -> IntArray:
    """Groups `(n,)` of any type as numbers 0 .. G-1; without groups every sample is its own.

    Raises:
        EvaluationError: A group is missing, or there are more or fewer groups than samples.
    """
    if groups is None:
        return np.arange(samples)
    values = np.asarray(groups, dtype=object)
    if values.shape != (samples,):
        raise EvaluationError(
            f"{samples} labels, but {name} of shape {values.shape}",
            fixes=(f"pass one entry of {name} per sample", f"leave {name} out"),
        )
    codes, _ = pd.factorize(values, sort=False)
    if (codes < 0).any():
        raise EvaluationError(
            f"{int((codes < 0).sum())} samples have no entry in {name}",
            where=f"rows {_first(np.flatnonzero(codes < 0))}",
            fixes=("fill in the patient of every sample", "exclude these samples and say so"),
        )
    return np.asarray(codes, dtype=np.intp)


def check_both_classes(positive: BoolArray) -> None:
    """Refuse labels of one class.

    Raises:
        EvaluationError: Only one class occurs.
    """
    if positive.all() or not positive.any():
        present, absent = ("positive", "negative") if positive.all() else ("negative", "positive")
        raise EvaluationError(
            f"all {positive.size} samples are {present}: nothing compares them with {absent} ones",
            fixes=(
                f"evaluate on samples that include {absent} patients (another split, fold or site)",
                "report sensitivity or specificity alone (xmkd.evaluation.classification.per_site shows it)",
            ),
        )


def check_table(table: pd.DataFrame, name: str = "predictions") -> pd.DataFrame:
    """Check a predictions table: columns, unique samples, no missing patient, label or score.

    Args:
        table: Columns `sample_id, patient_id, label` and either `score` or `score_0 .. score_{K-1}`; `site` and `fold`
            are optional.
        name: What the messages call the table.

    Returns:
        A copy with a fresh index and `label` as integers.

    Raises:
        EvaluationError: The table is empty or any of the above doesn't hold; offending samples are named.
    """
    scores = score_columns(table, name)
    missing = [column for column in ("sample_id", "patient_id", "label") if column not in table.columns]
    if missing:
        raise EvaluationError(
            f"{name}: missing columns {', '.join(missing)}",
            where=f"columns {', '.join(map(str, table.columns))}",
            fixes=("use the predictions_*.csv of a run", "add the columns"),
        )
    if table.empty:
        raise EvaluationError(
            f"{name}: no rows", fixes=("check the filter or split that chose them", "evaluate another split")
        )
    table = table.reset_index(drop=True)
    ids = table["sample_id"]
    _refuse(name, "occur more than once", ids[ids.duplicated()], "keep one prediction per sample")
    _refuse(name, "have no patient", ids[table["patient_id"].isna()], "fill in the patient of every sample")
    _refuse(name, "have no label", ids[table["label"].isna()], "leave unlabelled samples out")
    values = table[scores].to_numpy(dtype=np.float64, na_value=np.nan)
    finite = np.isfinite(values).all(axis=1)
    _refuse(name, "have a score that is not finite", ids[~finite], "find out why the model gives NaN there")
    number = pd.to_numeric(table["label"], errors="coerce")
    classes = max(len(scores), 2)
    inside = number.isin(range(classes))
    _refuse(name, f"have a label outside 0 .. {classes - 1}", ids[~inside], "code labels as the card orders them")
    table["label"] = number.astype(int)
    return table


def score_columns(table: pd.DataFrame, name: str = "predictions") -> list[str]:
    """Score columns in order: `["score"]`, or `["score_0", ...]` for more than two classes.

    Raises:
        EvaluationError: There are none, both kinds, or a number is left out.
    """
    several = [column for column in map(str, table.columns) if column.startswith("score_")]
    expected = [f"score_{k}" for k in range(len(several))]
    if "score" in table.columns and not several:
        return ["score"]
    if len(several) > 1 and "score" not in table.columns and set(several) == set(expected):
        return expected
    raise EvaluationError(
        f"{name}: scores must be one column `score` or the columns `score_0 .. score_(K-1)`",
        where=f"columns {', '.join(map(str, table.columns))}",
        fixes=("use the predictions_*.csv of a run", "rename the columns"),
    )


def binary_score(table: pd.DataFrame, name: str = "predictions") -> pd.DataFrame:
    """Check a table and that it has two classes.

    Raises:
        EvaluationError: It has one score column per class, or fails `check_table`.
    """
    if score_columns(table, name) != ["score"]:
        raise EvaluationError(
            f"{name}: two classes are needed here, and the table has one score per class",
            fixes=("choose one class: label = (label == k), score = score_k", "use the multi-class metrics"),
        )
    return check_table(table, name)


def _refuse(name: str, problem: str, samples: pd.Series, fix: str) -> None:
    if len(samples):
        raise EvaluationError(
            f"{name}: {len(samples)} samples {problem}",
            where=f"sample_id {_first(samples.tolist())}",
            fixes=(fix, "exclude these samples and say so"),
        )


def _first(values: Sequence[object] | npt.NDArray[np.generic]) -> str:
    shown = ", ".join(str(value) for value in values[:SHOWN])
    return shown + (" ..." if len(values) > SHOWN else "")

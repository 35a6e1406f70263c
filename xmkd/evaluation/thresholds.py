"""Operating points, chosen on validation patients so that they hold for new ones.

For `sens>=S`, let x_(1) <= ... <= x_(n) be the scores of the n positive validation patients and

    k = floor((1 - S) (n + 1)),   threshold = x_(k):   a patient is called positive from there on.

A new positive patient's score is exchangeable with those n, so it falls below x_(k) with a probability of at most
k / (n + 1) <= 1 - S. With k < 1 nothing can be promised: S = 0.95 needs 19 positive patients. (The order-statistic
argument of split conformal prediction; Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd

from xmkd.errors import EvaluationError
from xmkd.evaluation.inputs import FloatArray, binary_score, check_both_classes

DEFAULT_THRESHOLD = 0.5
OWN_THRESHOLDS = "each fold at its own threshold, fixed on its validation patients"
POLICY = re.compile(r"(sens|spec)\s*>=\s*(\S+)")


@dataclass(frozen=True)
class Threshold:
    """An operating point: a sample or patient is called positive from `value` on.

    Attributes:
        value: The threshold; a score equal to it is positive.
        policy: How it was chosen, as in "sens>=0.95".
        positive_patients: Validation patients with positive samples.
        negative_patients: Validation patients with negative samples.
        note: What a reader must know about it.
        folds: After a cross-validation the threshold of each fold, by its number; `value` is then the one of folds
            that could not choose any. Empty: `value` is for all.
    """

    value: float
    policy: str
    positive_patients: int
    negative_patients: int
    note: str = ""
    folds: Sequence[float] = ()

    @property
    def rule(self) -> str:
        """What is called positive."""
        if not self.folds:
            return f"positive from {self.value:.4g} on"
        return "; ".join(filter(None, (OWN_THRESHOLDS, self.note)))

    def __str__(self) -> str:
        patients = f"{self.positive_patients} positive and {self.negative_patients} negative validation patients"
        origin = "" if self.positive_patients + self.negative_patients == 0 else f", from {patients}"
        notes = [self.note] if self.note else []
        if POLICY.fullmatch(self.policy):
            notes.append("promised for a patient's mean score, not for single images")
        if self.folds:
            values = f"from {min(self.folds):.4f} to {max(self.folds):.4f}"
            return "; ".join([f"{OWN_THRESHOLDS} ({self.policy}, {values})", *notes])
        return "; ".join([f"positive from {self.value:.4f} on ({self.policy}{origin})", *notes])


def operating_point(policy: str | float, validation: pd.DataFrame | None = None) -> Threshold:
    """Choose a threshold.

    Args:
        policy: "sens>=S" or "spec>=S" with 0 < S < 1, "youden", or a fixed number.
        validation: Predictions of patients that neither trained the model nor chose its checkpoint, and that aren't
            tested on; not needed for a fixed number. A patient's score is the mean over its positive samples, or over
            its negative ones where it counts as negative.

    Raises:
        EvaluationError: The policy is unknown, needs validation predictions, or needs more patients than there are.
    """
    if is_number(policy):
        if not math.isfinite(float(policy)):
            raise _unknown(policy)
        return Threshold(float(policy), "fixed", 0, 0)
    policy = str(policy).strip().lower()
    match = POLICY.fullmatch(policy)
    if policy != "youden" and match is None:
        raise _unknown(policy)
    if validation is None:
        raise EvaluationError(
            f"the operating point {policy!r} is chosen on validation predictions, and there are none",
            fixes=("pass predictions_val.csv or out-of-fold predictions", "use a fixed threshold such as 0.5"),
        )
    positive, negative = patient_scores(validation)
    sizes = positive.size, negative.size
    if match is None:
        note = "optimistic: no guarantee for new patients, both rates were maximised on these"
        return Threshold(_youden(positive, negative), policy, *sizes, note)
    side, share = match[1], _share(policy, match[2])
    if side == "sens":
        return Threshold(float(positive[_rank(share, positive.size, "positive") - 1]), policy, *sizes)
    # the mirror image: at most k of n + 1 negative scores may lie above the threshold's lower neighbour
    last_negative = negative[negative.size - _rank(share, negative.size, "negative")]
    return Threshold(float(np.nextafter(last_negative, np.inf)), policy, *sizes)


def of_folds(points: Sequence[Threshold]) -> Threshold:
    """The operating point of a cross-validation: each fold's own, since out-of-fold scores may not choose theirs.

    Args:
        points: The folds' operating points in order. Those with "refused" in their note were not chosen: 0.5 stays.
    """
    refused = [str(k) for k, point in enumerate(points) if "refused" in point.note]
    if len(refused) == len(points):
        note = f"no fold has a threshold of its own: {points[0].note}"
        return Threshold(DEFAULT_THRESHOLD, "fixed", 0, 0, note)
    chosen = [point for point in points if "refused" not in point.note]
    if all(point.policy == "fixed" for point in points) and not refused:
        return points[0]
    note = chosen[0].note
    if refused:
        why = next(point.note for point in points if "refused" in point.note)
        where = f"fold{'s' if len(refused) > 1 else ''} {', '.join(refused)} at {DEFAULT_THRESHOLD:g}: {why}"
        note = "; ".join(filter(None, (note, where)))
    values = [DEFAULT_THRESHOLD if "refused" in point.note else point.value for point in points]
    return Threshold(DEFAULT_THRESHOLD, chosen[0].policy, 0, 0, note, values)


def cuts(table: pd.DataFrame, threshold: float | Threshold) -> FloatArray:
    """The threshold of each row `(n,)`.

    Args:
        table: Predictions; with the column `fold` where each fold has its own threshold.
        threshold: A number or an operating point.
    """
    if isinstance(threshold, Threshold) and threshold.folds:
        of_fold: FloatArray = np.asarray(threshold.folds, dtype=np.float64)
        return of_fold[table["fold"].to_numpy().astype(np.intp)]
    return np.full(len(table), threshold.value if isinstance(threshold, Threshold) else threshold)


def is_number(policy: str | float) -> bool:
    """Whether an operating point is a fixed number, which needs no validation patients."""
    try:
        float(policy)
    except ValueError:
        return False
    return True


def patient_scores(table: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Sorted patient scores of the positive and of the negative class; a patient with both counts in both.

    Args:
        table: Predictions with `sample_id, patient_id, label` (1 = positive), `score`.

    Raises:
        EvaluationError: The table is unusable or holds one class only.
    """
    table = binary_score(table, "validation")
    check_both_classes(table["label"].to_numpy(dtype=bool))
    means = table.groupby(["label", "patient_id"])["score"].mean()
    positive, negative = (np.sort(means.loc[label].to_numpy(dtype=np.float64)) for label in (1, 0))
    return positive, negative


def _rank(share: Fraction, patients: int, name: str) -> int:
    """The rank k = floor((1 - S) (n + 1)), in exact arithmetic: (1 - 0.9) * 10 is below 1 in floating point."""
    rank = math.floor((1 - share) * (patients + 1))
    if rank < 1:
        needed = math.ceil(1 / (1 - share)) - 1
        raise EvaluationError(
            f"{float(share):g} can't be promised from {patients} {name} validation patients: it needs {needed}",
            where=f"k = floor((1 - {float(share):g}) * ({patients} + 1)) = {rank}",
            fixes=(
                f"validate on at least {needed} {name} patients, for instance on out-of-fold predictions",
                f"ask for at most {math.floor(1000 * patients / (patients + 1)) / 1000:.3f}",
            ),
        )
    return min(rank, patients)


def _share(policy: str, text: str) -> Fraction:
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise _unknown(policy) from None
    if not 0 < share < 1:
        raise EvaluationError(
            f"{policy!r} asks for a share that must lie between 0 and 1",
            fixes=('write for instance "sens>=0.95"', "use a fixed threshold"),
        )
    return share


def _youden(positive: FloatArray, negative: FloatArray) -> float:
    """The patient score with the largest sensitivity + specificity - 1, the lowest such score."""
    candidates = np.unique(np.concatenate([positive, negative]))
    found = positive.size - np.searchsorted(positive, candidates, side="left")
    spared = np.searchsorted(negative, candidates, side="left")
    return float(candidates[np.argmax(found * negative.size + spared * positive.size)])  # in whole numbers: exact ties


def _unknown(policy: str | float) -> EvaluationError:
    return EvaluationError(
        f"unknown operating point {policy!r}",
        fixes=('use "sens>=0.95" or "spec>=0.90"', 'use "youden" or a fixed number such as 0.5'),
    )

"""Are the scores probabilities, and what makes them so.

Recalibration acts on the logit z of a score: p' = sigmoid(slope z + intercept). Platt scaling fits both, for models
trained with class weights, focal loss or a balanced sampler, whose prevalence is wrong. Temperature scaling fits the
slope 1 / T alone (Guo et al., ICML 2017).

Assessment (Van Calster et al., J Clin Epidemiol 74, 2016): the slope of a logistic regression of the outcome on z,
ideal 1; the intercept with the slope held at 1, ideal 0; log loss; a smooth curve with a band; net benefit. The
expected calibration error depends on its bins and only describes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, special

from xmkd.errors import EvaluationError
from xmkd.evaluation.curves import pointwise_band
from xmkd.evaluation.inputs import (
    FloatArray,
    binary_score,
    check_both_classes,
    check_table,
    score_columns,
)
from xmkd.evaluation.logistic import logistic_fits, spline_design
from xmkd.evaluation.resampling import WeightedMetric, clustered_bootstrap
from xmkd.evaluation.statistics import MIN_PATIENTS, TOO_FEW, Interval

Method = Literal["platt", "temperature"]
EPSILON = 1e-6  # scores are kept this far from 0 and 1, whose logits are infinite
SLOPE_LIMITS = (0.01, 100.0)  # a temperature of 100 to 0.01; separated validation data would ask for an infinite slope
BINS = 10


@dataclass(frozen=True)
class Calibrator:
    """A fitted recalibration, p' = sigmoid(slope z + intercept); for several classes softmax(slope log p).

    Attributes:
        method: "platt" or "temperature".
        slope: Factor of the logit; 1 / T for temperature.
        intercept: Added to it; 0 for temperature.
        samples: Validation samples it was fitted on.
        note: What a reader must know about it.
    """

    method: Method
    slope: float
    intercept: float
    samples: int
    note: str = ""

    def apply(self, score: npt.ArrayLike) -> FloatArray:
        """Recalibrated probabilities of scores `(n,)`, or `(n, K)` for K classes."""
        values = np.asarray(score, dtype=np.float64)
        if values.ndim == 2:
            return np.asarray(special.softmax(self.slope * np.log(np.clip(values, EPSILON, 1)), axis=1))
        return np.asarray(special.expit(self.slope * logits(values) + self.intercept))

    def apply_table(self, table: pd.DataFrame) -> pd.DataFrame:
        """A copy of a predictions table with recalibrated scores."""
        columns = score_columns(table)
        score = table[columns].to_numpy(dtype=np.float64)
        changed = self.apply(score[:, 0])[:, None] if len(columns) == 1 else self.apply(score)
        return table.assign(**dict(zip(columns, changed.T, strict=True)))


@dataclass(frozen=True)
class Calibration:
    """How well the scores of a test table serve as probabilities.

    Attributes:
        slope: Calibration slope, ideal 1; below 1 the scores are too extreme.
        intercept: Calibration in the large, ideal 0; below 0 the scores are too high on the whole.
        log_loss: Mean negative log likelihood, in nats.
        ece: Expected calibration error over 10 bins of equal counts; descriptive.
        curve: `score, observed, low, high`: smooth observed share of positives, with a pointwise band.
        net_benefit: `threshold, model, low, high, treat_all, treat_none`.
    """

    slope: Interval
    intercept: Interval
    log_loss: Interval
    ece: float
    curve: pd.DataFrame
    net_benefit: pd.DataFrame


def logits(score: FloatArray) -> FloatArray:
    """Log odds of probabilities, kept finite."""
    return np.asarray(special.logit(np.clip(score, EPSILON, 1 - EPSILON)))


def prior_shift(score: npt.ArrayLike, source: float, target: float) -> FloatArray:
    """Probabilities as they would be at another prevalence, the images of each class staying what they are.

    Bayes' theorem adds a constant to the logit: z + logit(target) - logit(source) (Saerens et al., Neural
    Computation 14(1), 2002). It holds for calibrated scores.

    Args:
        score: Probabilities of the positive class, `(n,)`, calibrated where the prevalence is `source`.
        source: Prevalence that the scores belong to.
        target: Prevalence that they are wanted for.

    Raises:
        EvaluationError: A prevalence is not between 0 and 1.
    """
    for name, prevalence in (("source", source), ("target", target)):
        if not 0 < prevalence < 1:
            raise EvaluationError(
                f"the {name} prevalence {prevalence} is not between 0 and 1",
                fixes=("take it from patients of both classes", "leave the scores as they are"),
            )
    return np.asarray(special.expit(logits(np.asarray(score)) + special.logit(target) - special.logit(source)))


def fit_calibrator(validation: pd.DataFrame, method: Method) -> Calibrator:
    """Fit a recalibration on patients that neither trained the model, chose its checkpoint nor are tested on.

    Args:
        validation: A predictions table.
        method: "platt" after class weights, focal loss or a balanced sampler, else "temperature".

    Raises:
        EvaluationError: The table is unusable, of one class, or has several classes (Platt).
    """
    columns = score_columns(validation, "validation")
    if len(columns) > 1 and method == "platt":
        raise EvaluationError(
            "Platt scaling is for two classes, and the validation table has one score per class",
            fixes=('use "temperature"', "choose one class: label = (label == k), score = score_k"),
        )
    table = check_table(validation, "validation")
    label, score = table["label"].to_numpy(), probabilities(table, columns)
    if len(columns) == 1:
        check_both_classes(label.astype(bool))
    slope, intercept = platt(label, score[:, 0]) if method == "platt" else (_inverse_temperature(label, score), 0.0)
    note = ""
    if slope <= 0:
        note = "warning: the slope is not positive: higher validation scores don't go with more positives"
    elif method == "temperature" and not SLOPE_LIMITS[0] * 1.01 < slope < SLOPE_LIMITS[1] * 0.99:
        note = "warning: at the limit of the search; the validation scores separate the classes, or say nothing"
    return Calibrator(method, slope, intercept, len(table), note)


def platt(label: npt.NDArray[np.generic], score: FloatArray, weight: FloatArray | None = None) -> tuple[float, float]:
    """Slope and intercept with Platt's (1999) targets, which keep the slope finite on separated data.

    Args:
        label: `(n,)`, both classes.
        score: `(n,)`, probabilities.
        weight: `(n,)`, of each sample; 1 if left out. The targets count weights.
    """
    weight = np.ones(score.size) if weight is None else weight
    positive = label == 1
    high, low = (weight[positive].sum() + 1) / (weight[positive].sum() + 2), 1 / (weight[~positive].sum() + 2)
    design = np.column_stack([np.ones(score.size), logits(score)])
    intercept, slope = logistic_fits(design, np.where(positive, high, low), weight[None])[0]
    return float(slope), float(intercept)


def _inverse_temperature(label: npt.NDArray[np.generic], score: FloatArray) -> float:
    logit = np.log(np.clip(score, EPSILON, 1))
    if score.shape[1] == 1:
        logit = np.column_stack([np.zeros(len(score)), logits(score[:, 0])])

    def loss(log_slope: float) -> float:
        scaled = np.exp(log_slope) * logit
        return float(np.mean(special.logsumexp(scaled, axis=1) - scaled[np.arange(len(label)), label]))

    found = optimize.minimize_scalar(loss, bounds=tuple(np.log(SLOPE_LIMITS)), method="bounded")
    return float(np.exp(found.x))


def calibration(
    table: pd.DataFrame, *, level: float = 0.95, seed: int = 0, resamples: int = 1000, points: int = 50
) -> Calibration:
    """Assess a test table of two classes.

    Args:
        table: A predictions table whose scores are probabilities.
        level: Nominal coverage.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.
        points: Points of the curve, over the middle 95 % of the scores.

    Raises:
        EvaluationError: The table is unusable, holds one class, or its scores are no probabilities.
    """
    table = binary_score(table)
    check_both_classes(table["label"].to_numpy(dtype=bool))
    label, score = table["label"].to_numpy(), probabilities(table, ["score"])[:, 0]
    patient = table["patient_id"].to_numpy()

    def interval(metric: WeightedMetric) -> Interval:
        boot = clustered_bootstrap(metric, label, score, patient, resamples, seed, level=level)
        bounds, note = boot.t_interval("linear"), ""
        if boot.smaller < MIN_PATIENTS:
            bounds, note = None, f"{TOO_FEW}: {boot.smaller} in the smaller class, {MIN_PATIENTS} needed"
        elif bounds is None:
            note = "no spread between resamples"
        low, high = bounds or (None, None)
        return Interval(boot.value, low, high, boot.n, boot.patients, "cluster bootstrap, t", note)

    slope = interval(_slope)
    if score[label == 1].min() > score[label == 0].max():
        slope = replace(slope, value=float("nan"), low=None, high=None, note="complete separation: no finite slope")
    first, last = np.quantile(score, (0.025, 0.975)).tolist()
    grid = np.linspace(first, last, points)
    curve = pointwise_band(_Curve(score, grid), table, level, seed, resamples)
    thresholds = np.arange(1, 100) / 100
    benefit = pointwise_band(_NetBenefit(thresholds), table, level, seed, resamples)
    prevalence = float(np.mean(label == 1))
    return Calibration(
        slope=slope,
        intercept=interval(_intercept),
        log_loss=interval(_log_loss),
        ece=expected_calibration_error(label, score),
        curve=pd.DataFrame(
            {"score": grid, **dict(zip(("observed", "low", "high"), special.expit(curve), strict=True))}
        ),
        net_benefit=pd.DataFrame(
            {
                "threshold": thresholds,
                **dict(zip(("model", "low", "high"), benefit, strict=True)),
                "treat_all": prevalence - (1 - prevalence) * thresholds / (1 - thresholds),
                "treat_none": 0.0,
            }
        ),
    )


def probabilities(table: pd.DataFrame, columns: list[str]) -> FloatArray:
    """Scores `(n, K)` of a checked table.

    Raises:
        EvaluationError: A score lies outside 0 .. 1.
    """
    score = table[columns].to_numpy(dtype=np.float64)
    outside = np.flatnonzero((score.min(axis=1) < 0) | (score.max(axis=1) > 1))
    if outside.size:
        raise EvaluationError(
            f"{outside.size} scores are no probabilities",
            where=f"sample_id {', '.join(map(str, table['sample_id'].iloc[outside[:5]]))}",
            fixes=("store the sigmoid or softmax of the logits", "leave calibration out"),
        )
    return score


def expected_calibration_error(label: npt.NDArray[np.generic], score: FloatArray, bins: int = BINS) -> float:
    """Mean distance between score and share of positives over bins of equal counts."""
    parts = np.array_split(np.argsort(score, kind="stable"), min(bins, score.size))
    gaps = [abs(float(score[part].mean()) - float((label[part] == 1).mean())) * part.size for part in parts]
    return sum(gaps) / score.size


def _slope(label: npt.NDArray[np.generic], score: FloatArray, weight: FloatArray) -> FloatArray:
    design = np.column_stack([np.ones(score.size), logits(score)])
    return logistic_fits(design, (label == 1).astype(float), weight)[:, 1]


def _intercept(label: npt.NDArray[np.generic], score: FloatArray, weight: FloatArray) -> FloatArray:
    design = np.ones((score.size, 1))
    return logistic_fits(design, (label == 1).astype(float), weight, offset=logits(score))[:, 0]


def _log_loss(label: npt.NDArray[np.generic], score: FloatArray, weight: FloatArray) -> FloatArray:
    loss = -special.log_expit(np.where(label == 1, 1, -1) * logits(score))
    result: FloatArray = weight @ loss / weight.sum(axis=1)
    return result


class _Curve:
    """Logit of the observed share of positives at each point of a grid, by a logistic regression on a spline."""

    def __init__(self, score: FloatArray, grid: FloatArray) -> None:
        self.design, self.at = spline_design(logits(score), logits(grid))

    def __call__(self, label: npt.NDArray[np.generic], score: FloatArray, weight: FloatArray) -> FloatArray:
        return logistic_fits(self.design, (label == 1).astype(float), weight, ridge=1e-2) @ self.at.T


class _NetBenefit:
    """TP / n - FP / n * t / (1 - t) at each threshold t (Vickers and Elkin 2006)."""

    def __init__(self, thresholds: FloatArray) -> None:
        self.thresholds = thresholds

    def __call__(self, label: npt.NDArray[np.generic], score: FloatArray, weight: FloatArray) -> FloatArray:
        gain = np.where(label[:, None] == 1, 1.0, -self.thresholds / (1 - self.thresholds))
        result: FloatArray = weight @ (gain * (score[:, None] >= self.thresholds)) / weight.sum(axis=1, keepdims=True)
        return result

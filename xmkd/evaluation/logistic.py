"""Logistic regressions of the same samples under many weights at once, and a spline to put into them."""

from __future__ import annotations

import numpy as np
from scipy import special

from xmkd.evaluation.inputs import FloatArray

ITERATIONS = 50
HALVINGS = 20  # of a Newton step that overshoots
TOLERANCE = 1e-8
KNOT_QUANTILES = (0.05, 0.35, 0.65, 0.95)  # Harrell, Regression Modeling Strategies (2015), table 2.3, 4 knots


def logistic_fits(
    design: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    *,
    offset: FloatArray | float = 0.0,
    ridge: float = 1e-6,
) -> FloatArray:
    """Maximum-likelihood coefficients `(R, p)` by Newton's method with halved steps, one regression per row of weights.

    Args:
        design: `(n, p)`.
        target: `(n,)`, between 0 and 1.
        weight: `(R, n)`.
        offset: `(n,)`, added to the linear predictor with a coefficient of 1.
        ridge: Half the penalty on squared coefficients; keeps separated data finite.
    """
    rows, size = len(weight), design.shape[1]
    coefficients = np.zeros((rows, size))
    if rows > 1:  # start where the unweighted fit ends: a resample's optimum is near
        coefficients += logistic_fits(design, target, np.ones((1, len(design))), offset=offset, ridge=ridge)
    outer = (design[:, :, None] * design[:, None, :]).reshape(-1, size * size)
    active = np.arange(rows)
    for _ in range(ITERATIONS):
        w, now = weight[active], coefficients[active]
        predictor = now @ design.T + offset
        probability = special.expit(predictor)
        gradient = (w * (target - probability)) @ design - ridge * now
        curvature = ((w * probability * (1 - probability)) @ outer).reshape(-1, size, size) + ridge * np.eye(size)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        before = _objective(predictor, target, w, now, ridge)
        for _ in range(HALVINGS):
            tried = now + step
            worse = _objective(tried @ design.T + offset, target, w, tried, ridge) < before - TOLERANCE
            if not worse.any():
                break
            step[worse] /= 2
        coefficients[active] = now + step
        active = active[np.abs(step).max(axis=1) > TOLERANCE]
        if active.size == 0:
            break
    return coefficients


def _objective(
    predictor: FloatArray, target: FloatArray, weight: FloatArray, coefficients: FloatArray, ridge: float
) -> FloatArray:
    """Penalised log likelihood `(R,)` of predictors `(R, n)`."""
    likelihood: FloatArray = np.einsum("rn,rn->r", weight, target * predictor - np.logaddexp(0, predictor))
    penalised: FloatArray = likelihood - ridge / 2 * (coefficients**2).sum(axis=1)
    return penalised


def spline_design(values: FloatArray, at: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Restricted cubic spline: columns 1, x and two that are linear beyond the outer knots; fewer on few values.

    Args:
        values: `(n,)`, standardised and given four knots at their quantiles.
        at: `(T,)`, further points.

    Returns:
        The design of `values`, `(n, p)`, and of `at`, `(T, p)`.
    """
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    knots = np.unique(np.quantile((values - centre) / scale, KNOT_QUANTILES))
    return _spline((values - centre) / scale, knots), _spline((at - centre) / scale, knots)


def _spline(x: FloatArray, knots: FloatArray) -> FloatArray:
    columns = [np.ones_like(x), x]
    if knots.size > 2:
        last, before = knots[-1], knots[-2]
        cubes = np.maximum(x[:, None] - knots, 0) ** 3
        for j, knot in enumerate(knots[:-2]):
            shares = (last - knot) / (last - before), (before - knot) / (last - before)
            columns.append((cubes[:, j] - cubes[:, -2] * shares[0] + cubes[:, -1] * shares[1]) / (last - knots[0]) ** 2)
    return np.column_stack(columns)

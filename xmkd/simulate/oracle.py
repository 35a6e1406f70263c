"""The oracle: how well a few fixed measurements on pictures, made with true masks and pose, tell the ill apart.

At most ten numbers per examination go into a logistic regression with a fixed L2 penalty. It is fitted on reserved
patients, who belong to no cohort, and scored on as many others. It never sees a method and no method sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pandas as pd

from xmkd.evaluation.statistics import Interval, auroc_interval
from xmkd.simulate import mri, mri_measure
from xmkd.simulate.ceilings import site_shares
from xmkd.simulate.evidence import Invasion
from xmkd.simulate.examination import draw
from xmkd.simulate.lock import STILLS
from xmkd.simulate.mr_protocol import Sequence
from xmkd.simulate.plan import Patient
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scan import Scan
from xmkd.simulate.spec import CohortSpec, Modality, Sites, VolumePart
from xmkd.simulate.ultrasound import tvus
from xmkd.simulate.ultrasound.measure import measure_clip, measure_still

MOST = 10
C = 1.0  # inverse strength of the L2 penalty on coefficients of standardised measurements; fixed once and for all
COLUMNS = ("number", "ill")  # of a table of measurements, before the measurements


@dataclass(frozen=True)
class Oracle:
    """What the measurements were worth.

    Attributes:
        auroc: On the patients scored.
        fitted: Patients it was fitted on.
        scored: Patients it was scored on.
        weights: Coefficient of each standardised measurement.
    """

    auroc: Interval
    fitted: int
    scored: int
    weights: dict[str, float]


def reserved(spec: CohortSpec, modality: Modality, count: int) -> list[Patient]:
    """Patients for the oracle alone: every other one ill, sites as in the cohort but never confounded.

    Their ids are none of the cohort's. A smaller number gives the first of a larger one.
    """
    shares = np.cumsum(site_shares(Sites(spec.sites.names, spec.sites.shares), ill=False))
    found = []
    for number in range(count):
        key = f"{spec.cohort}{spec.seed}-oracle-{modality}-{number + 1:05d}"
        which = Seeds(spec.seed, key, "site").numpy("label").random()
        site = spec.sites.names[min(int(np.searchsorted(shares, which, side="right")), len(shares) - 1)]
        ill = number % 2 == 1
        found.append(Patient(key, modality, "train", number, site, ill, ill))
    return found


def measurements(spec: CohortSpec, modality: Modality, visibility: float, patient: Patient) -> dict[str, float]:
    """Draw one reserved patient as the cohort would and measure what was drawn.

    A clip where the cohort has clips, else the mean over up to `STILLS` stills; the first sequence of an MRI. What one
    modality shows does not depend on rho, which is 0 here.

    Args:
        spec: The cohort; its own visibilities are not looked at.
        modality: Who looks.
        visibility: How plainly the disease shows.
        patient: One of `reserved`.
    """
    pelvis, evidence = draw(replace(spec, visibility={modality: visibility}, rho=0.0), patient)
    part = spec.parts()[modality]
    if isinstance(part, VolumePart):
        name = cast(Sequence, part.sequences[0])
        seeds = Seeds(spec.seed, patient.id, modality)
        wanted = Scan(part.size, part.spacing, patient.site)
        return mri_measure.measure(mri.render(pelvis, evidence, seeds, wanted, (name,))[name], pelvis, evidence)
    settings = tvus.Settings(part.frames, part.size, patient.site)
    if part.clips:
        seeds = Seeds(spec.seed, patient.id, "tvus clip1")
        return measure_clip(tvus.render_clip(pelvis, evidence, seeds, settings), pelvis, seeds, settings)
    looks = []
    for number in range(1, min(part.stills, STILLS) + 1):
        seeds = Seeds(spec.seed, patient.id, f"tvus still{number}")
        still = tvus.render_still(pelvis, evidence, seeds, settings)
        looks.append(measure_still(still, pelvis, cast(Invasion, evidence), seeds, settings))
    return {name: float(np.mean([look[name] for look in looks])) for name in looks[0]}


def judge(table: pd.DataFrame) -> Oracle:
    """Fit on every other pair of one healthy and one ill patient, score the others.

    Args:
        table: A row per reserved patient: `number`, `ill` and at most ten measurements; what could not be measured is
            NaN and counts as the mean.

    Raises:
        ValueError: More than ten measurements, or rows that do not pair.
    """
    from sklearn.linear_model import LogisticRegression

    table = table.sort_values("number")
    names = [c for c in table.columns if c not in COLUMNS]
    if not 1 <= len(names) <= MOST:
        raise ValueError(f"the oracle takes 1 to {MOST} measurements, not {len(names)}: {', '.join(names)}")
    number, ill = table["number"].to_numpy(), table["ill"].to_numpy().astype(int)
    if len(table) % 4 or (number != np.arange(len(table))).any():
        raise ValueError("the oracle takes reserved patients from the first on, a multiple of four")
    fit = number // 2 % 2 == 0
    values = table[names].to_numpy(dtype=float)
    values = np.where(np.isfinite(values), values, np.nan)
    centre, spread = _mean(values[fit]), _spread(values[fit])
    standard = np.nan_to_num((values - centre) / spread)
    model = LogisticRegression(C=C, max_iter=1000).fit(standard[fit], ill[fit])
    score = model.decision_function(standard[~fit])
    weights = dict(zip(names, model.coef_[0].tolist(), strict=True))
    return Oracle(auroc_interval(ill[~fit], score), int(fit.sum()), int((~fit).sum()), weights)


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    total: np.ndarray = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return total


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation of what is known; 1 where it does not vary."""
    squares = _mean((values - _mean(values)) ** 2)
    return np.sqrt(np.where(squares > 0, squares, 1.0))

"""How much must a paired score tell of the student's own image before a table shows it? Targets of a chosen agreement.

`oracle_pair` asks what the pairs of one teacher transfer. Where it gains nothing, that teacher may tell too little, or
the table may be blind. A dose tells the two apart: within a class its targets are quantiles of the teacher's scores,
handed to the students in an order that agrees with what their images show by a correlation r. So doses differ in the
order of their targets alone: dose 0 hands them out by lot, once for all, and dose 1 by the images themselves. No real
teacher could give them. The order is made from the truth, by weights that were fitted to the labels of the whole pool
and not of one training cohort: what a dose gains is an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from xmkd.controls.arms import Arm
from xmkd.data.rng import id_hash, uniform
from xmkd.errors import ConfigError

Floats = npt.NDArray[np.floating[Any]]

DOSE = "dose_"
_LOT = id_hash("doses")  # the lot shares no number with what else is drawn of a sample


def dose_arm(dose: float) -> Arm:
    """The arm of a dose; it is `oracle_pair` but for its targets."""
    return Arm(f"{DOSE}{dose:g}", pairing="oracle_pair")


def dose_names(arms: Iterable[str]) -> list[str]:
    """Those of the arms that are doses, each once, from the lowest."""
    return sorted({arm for arm in arms if arm.startswith(DOSE)}, key=lambda arm: float(arm.removeprefix(DOSE)))


def dosed(dose: float, shown: Tensor, label: Tensor, ids: Tensor, scores: Tensor, teacher_label: Tensor) -> Tensor:
    """Targets whose order agrees with what the images show.

    With s the normal score of an image's rank in its class and e that of the patient's lot, targets of a class are
    ordered by r s + sqrt(1 - r^2) e, and are quantiles of the teacher's scores of the class. Their rank correlation
    with what is shown is (6 / pi) asin(r / 2) for large classes.

    Args:
        dose: r, from 0 to 1.
        shown: How ill each image looks, on any scale, `(P,)`.
        label: Their classes, int64 `(P,)`.
        ids: `id_hash` of each sample, int64 `(P,)`.
        scores: Probabilities of the teacher, `(N,)`.
        teacher_label: Classes of its examinations, int64 `(N,)`.

    Returns:
        Probabilities, float32 `(P,)`.

    Raises:
        ConfigError: The dose is no correlation from 0 to 1.
    """
    if not 0 <= dose <= 1:
        raise ConfigError(f"{dose} is not in [0, 1]", where="doses", fixes=("choose a correlation", "leave it out"))
    lot = uniform(ids ^ _LOT, 1)[:, 0].double().numpy()
    found = torch.empty(len(label))
    for k in (0, 1):
        here = label == k
        if here.any():
            order = dose * _normal(shown[here].double().numpy())
            order += (1 - dose**2) ** 0.5 * _normal(lot[here.numpy()])
            values = np.quantile(scores[teacher_label == k].double().numpy(), _places(order))
            found[here] = torch.from_numpy(values).float()
    return found


def _places(values: Floats) -> Floats:
    """Ranks from 0 to 1, neither of which is reached."""
    places: Floats = (stats.rankdata(values) - 0.5) / len(values)
    return places


def _normal(values: Floats) -> Floats:
    """Normal scores: the quantiles of N(0, 1) at the ranks."""
    scores: Floats = stats.norm.ppf(_places(values))
    return scores

"""How far a disease shows: the standardised signs of a patient, and the exact evidence that they hold.

A sign k of a modality (the coupling of bowel and uterus, the thickness of plaque, ...) is a normal number

    t_k = visibility * mean_k(state) + sum over f of loading_kf * factor_f + own_k * noise_k          Var(t_k) = 1

whose mean is 0 without disease. `state` is what the disease is like (where it is stuck and how firmly; how deep it
reaches), the factors are how tight or how clear everything at one place looks in this patient, the noise is the
sign's own. A sign loads on its factor in proportion to its mean, so that signs cannot be set off against each other
to cancel the factor: together they say no more than the factor's own overlap allows. `difficulty` turns signs into
evidence by monotone maps; the likelihood ratio of the signs, a ratio of Gaussian mixtures, is therefore that of the
evidence, and `ceilings` needs no image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from xmkd.simulate.spec import Modality

Disease = Literal["pod", "carcinoma"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

MODALITIES: tuple[Modality, ...] = ("tvus", "mri", "ct")
STAGES: dict[Disease, tuple[str, ...]] = {
    "pod": ("free", "obliterated"),
    "carcinoma": ("none", "superficial", "deep"),
}

# Layout of a patient's standard normals of one modality.
STATE, GRADE, FACTORS, NOISE = 0, 1, 2, 4
DRAWS = 20

# Standard deviations between free and wholly stuck, visibility 1, if a place could be seen without own noise.
DISTANCE = 4.25
# Which places are stuck: retrocervical only, fundal only, both; and how firmly, against wholly. Assumptions.
PATTERNS = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
PATTERN_WEIGHTS = np.array([0.35, 0.10, 0.55])
GRADES = np.array([0.52, 1.0])
GRADE_WEIGHTS = np.array([0.3, 0.7])

# Depth of invasion over wall thickness; a third to two fifths of invasive tumours reach half of the wall.
DEPTH = stats.beta(1.3, 1.7)
HALF_WALL = float(DEPTH.cdf(0.5))  # share of invasive tumours that stay superficial
DEPTH_NODES = 100
# A tumour is seen where its width sign exceeds this: in 45 % of those without invasion (an assumption: a referral
# cohort with many tumours confined to the endometrium, lest a mass alone decide).
SEEN = float(stats.norm.ppf(0.55))


@dataclass(frozen=True)
class Sign:
    """One sign.

    Attributes:
        name: What it is.
        place: 0 retrocervical, 1 fundal; None: it shows wherever the disease is.
        mean: Standard deviations between healthy and diseased at visibility 1, by modality; 0: the modality does not
            show it.
        per_depth: What a tumour through the whole wall adds to the mean.
    """

    name: str
    place: int | None
    mean: dict[Modality, float]
    per_depth: dict[Modality, float] | None = None


def _means(tvus: float, mri: float, ct: float) -> dict[Modality, float]:
    return {"tvus": tvus, "mri": mri, "ct": ct}


# Static means on MRI are the d' (difference of the normal quantiles of sensitivity and specificity) of Macario et al.
# (AJR 2012): plaque 97.1/83.7 %, displaced fluid 95.0/88.7 %, tethered rectum 83.7/91.2 %. The rest, and how much less
# a still ultrasound or CT shows, are assumptions; the coupling's mean makes slip over excursion 0.8 free, 0.35 partly
# fixed, 0.08 stuck (an assumption too: no figure in mm is published).
PLAQUE, TETHER, GAP = _means(0.4, 2.9, 1.0), _means(0.3, 2.3, 1.2), _means(0.4, 2.0, 1.2)
POD_SIGNS = (
    Sign("coupling_retrocervical", 0, _means(3.83, 0.0, 0.0)),
    Sign("coupling_fundal", 1, _means(3.83, 0.0, 0.0)),
    Sign("plaque_retrocervical", 0, PLAQUE),
    Sign("plaque_fundal", 1, PLAQUE),
    Sign("contrast", None, _means(0.3, 2.0, 0.6)),
    Sign("tether_retrocervical", 0, TETHER),
    Sign("tether_fundal", 1, TETHER),
    Sign("gap_retrocervical", 0, GAP),
    Sign("gap_fundal", 1, GAP),
    Sign("fluid", None, _means(0.4, 2.9, 1.5)),
    Sign("kink", 0, _means(0.3, 1.7, 1.0)),
)
# The blur of the apparent depth is 1 / per_depth: 0.12 (MRI) and 0.15 (ultrasound) of the wall, the spread of readers;
# CT an assumption. Width makes tumours about 18 mm wide when confined, 28 when superficial and 34 when deep.
CARCINOMA_SIGNS = (
    Sign("width", None, _means(1.1, 1.1, 0.8), _means(1.1, 1.1, 0.8)),
    Sign("reach", None, _means(0.0, 0.0, 0.0), _means(6.7, 8.3, 5.0)),
    Sign("interruption", None, _means(0.9, 1.5, 0.5), _means(1.4, 2.0, 1.0)),
    Sign("roughness", None, _means(0.8, 0.8, 0.5), _means(0.5, 0.5, 0.3)),
)
CARCINOMA_LOADING = 0.5  # of every sign on how clearly this tumour shows; an assumption
SIGNS: dict[Disease, tuple[Sign, ...]] = {"pod": POD_SIGNS, "carcinoma": CARCINOMA_SIGNS}


@dataclass(frozen=True, eq=False)
class SignModel:
    """The distribution of a modality's signs.

    Attributes:
        disease: The disease.
        modality: Who looks.
        shown: Indices into `SIGNS[disease]` of the K signs that the modality shows.
        loadings: `(K, F)`.
        means: `(J, K)`, of the states of the diseased at visibility 1; the healthy have 0.
        weights: `(J,)`, how frequent the states are.
    """

    disease: Disease
    modality: Modality
    shown: tuple[int, ...]
    loadings: FloatArray
    means: FloatArray
    weights: FloatArray

    @property
    def names(self) -> tuple[str, ...]:
        """The K signs."""
        return tuple(SIGNS[self.disease][k].name for k in self.shown)

    @property
    def own(self) -> FloatArray:
        """Standard deviation of each sign's own noise, `(K,)`."""
        own: FloatArray = np.sqrt(1 - (self.loadings**2).sum(axis=1))
        return own

    @property
    def covariance(self) -> FloatArray:
        """Of the signs given the state, `(K, K)`; its diagonal is 1."""
        return self.loadings @ self.loadings.T + np.diag(self.own**2)

    def signs(self, stage: npt.ArrayLike, normals: FloatArray, visibility: float) -> FloatArray:
        """Signs of n patients, `(n, K)`.

        Args:
            stage: `(n,)`, indices into `STAGES[disease]`.
            normals: `(n, DRAWS)`, all that is random about them.
            visibility: How far the disease shows; 0: not at all.
        """
        means = state_means(self.disease, self.modality, np.asarray(stage, dtype=np.intp), normals)[:, self.shown]
        factors = normals[:, FACTORS : FACTORS + self.loadings.shape[1]]
        noise = normals[:, NOISE + np.array(self.shown)]
        return visibility * means + factors @ self.loadings.T + self.own * noise

    def log_ratio(self, signs: FloatArray, visibility: float) -> FloatArray:
        """Log P(evidence | diseased) / P(evidence | healthy), `(n,)`, of signs `(n, K)`.

        A tumour that is not seen leaves no other sign: its evidence is only that its width stayed below `SEEN`.
        """
        lower = np.linalg.cholesky(self.covariance)
        whitened = np.linalg.solve(lower, np.column_stack([signs.T, visibility * self.means.T]))
        white, means = whitened[:, : len(signs)].T, whitened[:, len(signs) :].T
        exponents = np.log(self.weights) - 0.5 * (means**2).sum(axis=1)
        ratio = _log_sum_exp(white, means, exponents)
        if self.disease == "carcinoma":
            unseen = special.ndtr(SEEN - visibility * self.means[:, 0]) @ self.weights
            ratio = np.where(signs[:, 0] > SEEN, ratio, np.log(unseen / special.ndtr(SEEN)))
        return ratio


@cache
def sign_model(disease: Disease, modality: Modality) -> SignModel:
    """The distribution of the signs of a disease in a modality."""
    signs = SIGNS[disease]
    shown = tuple(k for k, s in enumerate(signs) if s.mean[modality] or (s.per_depth and s.per_depth[modality]))
    if disease == "pod":
        loadings = np.zeros((len(shown), 2))
        for row, k in enumerate(shown):
            place, size = signs[k].place, signs[k].mean[modality] / DISTANCE
            loadings[row] = size / np.sqrt(2) if place is None else size * (np.arange(2) == place)
        means = _pod_table(modality).reshape(-1, len(signs))
        weights = np.outer(PATTERN_WEIGHTS, GRADE_WEIGHTS).ravel()
    else:
        loadings = np.full((len(shown), 1), CARCINOMA_LOADING)
        depths = DEPTH.ppf((np.arange(DEPTH_NODES) + 0.5) / DEPTH_NODES)
        means, weights = _carcinoma_means(modality, depths), np.full(DEPTH_NODES, 1 / DEPTH_NODES)
    return SignModel(disease, modality, shown, loadings, means[:, list(shown)], weights)


def state_means(disease: Disease, modality: Modality, stage: IntArray, normals: FloatArray) -> FloatArray:
    """Means at visibility 1 of all signs of n patients, `(n, len(SIGNS[disease]))`; 0 where stage is 0.

    The state comes from the normals, so that it is as alike between two modalities as they are.
    """
    if disease == "carcinoma":
        return _carcinoma_means(modality, depth(stage, normals)) * (stage > 0)[:, None]
    pattern = np.searchsorted(np.cumsum(PATTERN_WEIGHTS)[:-1], special.ndtr(normals[:, STATE]))
    grade = np.searchsorted(np.cumsum(GRADE_WEIGHTS)[:-1], special.ndtr(normals[:, GRADE]))
    means: FloatArray = _pod_table(modality)[pattern, grade] * (stage > 0)[:, None]
    return means


def depth(stage: IntArray, normals: FloatArray) -> FloatArray:
    """Depth of invasion over wall thickness, `(n,)`: below one half where superficial, above it where deep, else 0."""
    low = np.where(stage == 2, HALF_WALL, 0.0)
    high = np.where(stage == 2, 1.0, HALF_WALL)
    return np.where(stage > 0, DEPTH.ppf(low + (high - low) * special.ndtr(normals[:, STATE])), 0.0)


def stage(disease: Disease, ill: npt.NDArray[np.bool_], uniform: FloatArray) -> IntArray:
    """Stage of n patients, `(n,)`: 0 for the healthy; a uniform number decides how deep a tumour goes."""
    if disease == "pod":
        return ill.astype(np.intp)
    return np.where(ill, 1 + (uniform >= HALF_WALL), 0).astype(np.intp)


@cache
def _pod_table(modality: Modality) -> FloatArray:
    """Means at visibility 1 of every sign by pattern and grade, `(3, 2, len(POD_SIGNS))`."""
    return np.stack([[_pod_means(modality, p, g) for g in GRADES] for p in range(len(PATTERNS))])


def _pod_means(modality: Modality, pattern: int, grade: float) -> FloatArray:
    stuck = PATTERNS[pattern]
    return np.array([s.mean[modality] * grade * (1.0 if s.place is None else stuck[s.place]) for s in POD_SIGNS])


def _carcinoma_means(modality: Modality, depths: FloatArray) -> FloatArray:
    columns = [s.mean[modality] + (s.per_depth or s.mean)[modality] * depths for s in CARCINOMA_SIGNS]
    return np.stack(columns, axis=-1)


def _log_sum_exp(white: FloatArray, means: FloatArray, exponents: FloatArray, rows: int = 4096) -> FloatArray:
    """Log sum over j of exp(white @ means_j + exponents_j), a few thousand rows at a time to spare memory."""
    parts = [special.logsumexp(white[i : i + rows] @ means.T + exponents, axis=1) for i in range(0, len(white), rows)]
    return np.concatenate(parts) if parts else np.empty(0)

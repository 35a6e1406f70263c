"""How well anybody can tell the ill from the healthy: the AUROC of P(ill | evidence), by Monte Carlo without images.

A picture is made of evidence and of what the label has no part in. No model of pictures can therefore order patients
better than the likelihood ratio of the evidence does (Neyman and Pearson); one that seems to has been leaked to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from xmkd.errors import LeakageError
from xmkd.evaluation.statistics import Interval, auroc_interval
from xmkd.simulate import latent
from xmkd.simulate.difficulty import mix
from xmkd.simulate.latent import DRAWS, Disease, FloatArray, IntArray, sign_model
from xmkd.simulate.spec import Modality, Sites

PATIENTS = 200_000


@dataclass(frozen=True)
class Sample:
    """Simulated patients, half of them ill, without an anatomy.

    Attributes:
        stage: `(n,)`.
        shared: `(n, DRAWS)`, what the modalities have in common.
        own: `(2, n, DRAWS)`, what each of two modalities has for itself.
        uniform: `(n,)`, for anything else.
    """

    stage: IntArray
    shared: FloatArray
    own: FloatArray
    uniform: FloatArray

    @property
    def ill(self) -> IntArray:
        """`(n,)`, 1 for the ill."""
        return (self.stage > 0).astype(np.intp)


def sample(disease: Disease, patients: int, seed: int) -> Sample:
    """Draw patients; the same seed gives the same ones at every visibility."""
    rng = np.random.default_rng([seed, 0xCE111])
    ill = np.arange(patients) % 2 == 1
    stage = latent.stage(disease, ill, rng.random(patients))
    shared, own = rng.standard_normal((patients, DRAWS)), rng.standard_normal((2, patients, DRAWS))
    return Sample(stage, shared, own, rng.random(patients))


def latent_ceiling(
    disease: Disease,
    modality: Modality,
    visibility: float,
    *,
    sites: Sites | None = None,
    patients: int = PATIENTS,
    seed: int = 0,
) -> Interval:
    """The best AUROC that a model of one modality can have.

    Args:
        disease: What the ill have.
        modality: Who looks.
        visibility: How far the modality shows the disease.
        sites: Where the label depends on the site among those that are tested; a model may then know the site from
            the style of the picture, and the ceiling counts it as known.
        patients: Number of patients drawn.
        seed: Of the Monte Carlo.
    """
    drawn = sample(disease, patients, seed)
    model = sign_model(disease, modality)
    score = model.log_ratio(model.signs(drawn.stage, drawn.shared, visibility), visibility)
    if sites is not None:
        score = score + _site_log_ratio(drawn, sites)
    return auroc_interval(drawn.ill, score)


def spearman(
    disease: Disease,
    first: tuple[Modality, float],
    second: tuple[Modality, float],
    rho: float,
    *,
    patients: int = PATIENTS,
    seed: int = 0,
) -> dict[str, float]:
    """Rank correlation of the log likelihood ratios of two modalities, within each stage.

    It is below rho where two modalities show different signs. A tumour's stage is no part of the label "any invasion":
    among all the ill of a cohort with rho = 0 modalities still agree as far as deep tumours show more than superficial
    ones.

    Args:
        disease: What the ill have.
        first: A modality and its visibility.
        second: Another modality and its visibility.
        rho: Correlation of the normals given the stage.
        patients: Number of patients drawn.
        seed: Of the Monte Carlo.
    """
    drawn = sample(disease, patients, seed)
    scores = []
    for (modality, visibility), own in zip((first, second), drawn.own, strict=True):
        model = sign_model(disease, modality)
        scores.append(model.log_ratio(model.signs(drawn.stage, mix(drawn.shared, own, rho), visibility), visibility))
    found = {}
    for stage, name in enumerate(latent.STAGES[disease]):
        who = drawn.stage == stage
        found[name] = float(stats.spearmanr(scores[0][who], scores[1][who]).statistic)
    return found


def check_against(model: Interval, ceiling_high: float, where: object = None) -> str:
    """Stop where a model orders test patients better than the evidence in their pictures allows.

    Args:
        model: AUROC of a model on a simulated test set, with its interval.
        ceiling_high: Upper bound of the latent ceiling.
        where: The run, for the message.

    Returns:
        A warning where only the figure itself, not its interval, lies above the ceiling; else nothing. On few test
        patients a perfect model can be luckier than the ceiling without a leak.

    Raises:
        LeakageError: The whole interval lies above the ceiling.
    """
    low = model.value if model.low is None else model.low
    if low > ceiling_high:
        raise LeakageError(
            f"AUROC {model} is above the latent ceiling of this cohort, {ceiling_high:.3f}: something other than the "
            "disease's evidence tells the label",
            where=where,
            fixes=(
                "look for the leak: patients on both sides of the split, or a shortcut (python -m benchmarks.probes)",
                "calibrate anew if the simulator was changed: xmkd simulate SPEC --calibrate",
            ),
        )
    if model.value > ceiling_high:
        return f"AUROC {model} is above the latent ceiling {ceiling_high:.3f}, by no more than chance explains"
    return ""


def _site_log_ratio(drawn: Sample, sites: Sites) -> FloatArray:
    """Log P(site | ill) / P(site | healthy) of the site of each patient, `(n,)`."""
    shares = np.stack([site_shares(sites, ill) for ill in (False, True)])
    reached = np.stack([np.searchsorted(np.cumsum(s)[:-1], drawn.uniform, side="right") for s in shares])
    site = reached[drawn.ill, np.arange(len(drawn.ill))]
    tiny = np.finfo(float).tiny  # full confounding: a site of one class only decides
    ratio: FloatArray = np.log(np.maximum(shares[1, site], tiny)) - np.log(np.maximum(shares[0, site], tiny))
    return ratio


def site_shares(sites: Sites, ill: bool) -> FloatArray:
    """Fractions of the ill or the healthy patients that each site has where it is confounded."""
    weights = np.array(sites.shares or [1.0] * len(sites.names), dtype=float)
    weights /= weights.sum()
    if not sites.confounding:
        return weights
    half = np.arange(len(weights)) < len(weights) // 2
    follows = weights * (half if ill else ~half)
    mixed: FloatArray = sites.confounding * follows / follows.sum() + (1 - sites.confounding) * weights
    return mixed

"""From a label to what an examination shows of it: the only way by which a label reaches a renderer.

    ill or not, seeds -> normals by modality, correlated by rho -> signs (`latent`) -> evidence (`evidence`)

The normals are a fixed number and never depend on the label, so that the same patient can be drawn with another one.
Given the stage, the normals of two modalities have correlation rho, number by number: the place and grade of the
disease as well as the noise. With rho = 0 nothing that an ultrasound shows of the disease tells more about the MRI
than the label does. What a label says nothing about, such as the side of a tumour, is the same in all modalities.

Every map from a sign to a millimetre is monotone. Free and stuck overlap in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import special

from xmkd.errors import ConfigError
from xmkd.simulate import latent
from xmkd.simulate.evidence import Adhesion, Invasion
from xmkd.simulate.latent import DRAWS, MODALITIES, SEEN, Disease, FloatArray, sign_model
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.spec import Modality

Evidence = Adhesion | Invasion

NUISANCES = 4  # further normals of the evidence that no label moves
SHARPEST = 0.25  # below this visibility the apparent depth gets no blurrier, only less related to the true one


def stage_of(disease: Disease, ill: bool, seeds: Seeds) -> int:
    """Index into `latent.STAGES`, were this patient ill or healthy: how deep a tumour goes is the patient's own."""
    uniform = seeds.numpy("label", shared=True).random(1)
    return int(latent.stage(disease, np.array([ill]), uniform)[0])


def draw_evidence(
    disease: Disease, ill: bool, seeds: Seeds, visibility: Mapping[Modality, float], rho: float
) -> dict[Modality, Evidence]:
    """What each modality shows of a patient's disease.

    Args:
        disease: What the ill patients have.
        ill: The truth.
        seeds: The patient's; the examination plays no part.
        visibility: How far each modality shows the disease; 0: not at all. One value per modality that is wanted.
        rho: Correlation of the modalities given the stage.

    Raises:
        ConfigError: A negative visibility, or rho outside 0 to 1.
    """
    for modality, value in visibility.items():
        if not (np.isfinite(value) and value >= 0):
            raise ConfigError(
                f"the visibility on {modality} must be 0 or more",
                where=f"visibility={value}",
                fixes=("use 0 for a modality that shows nothing", "solve it: xmkd simulate SPEC --calibrate"),
            )
    normals, nuisances = patient_normals(seeds, rho)
    stage = np.array([stage_of(disease, ill, seeds)])
    found: dict[Modality, Evidence] = {}
    for modality, value in visibility.items():
        model = sign_model(disease, modality)
        row = model.signs(stage, normals[modality], value)[0]
        signs = dict(zip(model.names, row.tolist(), strict=True))
        found[modality] = adhesion(signs) if disease == "pod" else invasion(signs, nuisances, modality, value)
    return found


def patient_normals(seeds: Seeds, rho: float) -> tuple[dict[Modality, FloatArray], FloatArray]:
    """All that is random about a patient's evidence.

    Returns:
        Per modality `(1, DRAWS)`, correlated by rho, and `(NUISANCES,)` that all modalities share.

    Raises:
        ConfigError: rho is outside 0 to 1.
    """
    drawn = seeds.numpy("evidence", shared=True).standard_normal((len(MODALITIES) + 2, DRAWS))
    own = dict(zip(MODALITIES, drawn[1:-1, None], strict=True))
    return {m: mix(drawn[:1], own[m], rho) for m in MODALITIES}, drawn[-1, :NUISANCES]


def mix(shared: FloatArray, own: FloatArray, rho: float) -> FloatArray:
    """Standard normals of which two with the same `shared` part have correlation rho.

    Raises:
        ConfigError: rho is outside 0 to 1.
    """
    if not 0 <= rho <= 1:
        raise ConfigError(
            "the correlation of the modalities given the label must lie between 0 and 1",
            where=f"rho={rho}",
            fixes=("use 0 for a negative control", "use the default, 0.6"),
        )
    mixed: FloatArray = np.sqrt(rho) * shared + np.sqrt(1 - rho) * own
    return mixed


def adhesion(signs: Mapping[str, float]) -> Adhesion:
    """Evidence of an obliterated pouch from its signs; what a modality does not show stays as in the healthy.

    At visibility 1 the slip over the uterus' excursion, 1 - coupling, is about 0.8 free, 0.35 partly fixed and 0.08
    stuck; plaque is about 1 mm against 7 mm thick, the tether 2 against 11 mm high. The film between uterus and bowel
    has a median of 1.5 mm with a log SD of 0.8 where free.
    """

    def pair(name: str, show: Mapping[str, float]) -> tuple[float, float]:
        return show[f"{name}_retrocervical"], show[f"{name}_fundal"]

    t = np.array(list(signs.values()))
    maps = {
        "coupling": special.expit(t - 1.386),
        "plaque": _at_most(16, 3.5 * _softplus(t - 0.9)),
        "contrast": special.expit(1.5 * (t - 1.0)),
        "tether": _at_most(25, 9.0 * _softplus(t - 1.5)),
        "gap": 1.5 * np.exp(-0.8 * t),
        "fluid": 3.0 * _softplus(-1.3 * t - 0.3),
        "kink": _at_most(75, 14.0 * _softplus(t - 0.8)),
    }
    shown = {name: float(maps[name.partition("_")[0]][i]) for i, name in enumerate(signs)}
    coupling = pair("coupling", shown) if "coupling_fundal" in shown else Adhesion().coupling
    return Adhesion(
        coupling=coupling,
        plaque_mm=pair("plaque", shown),
        plaque_contrast=shown["contrast"],
        tether_mm=pair("tether", shown),
        gap_mm=pair("gap", shown),
        fluid_mm=shown["fluid"],
        kink_deg=shown["kink"],
    )


def invasion(signs: Mapping[str, float], nuisances: FloatArray, modality: Modality, visibility: float) -> Invasion:
    """Evidence of a tumour from its signs; none where its width stays below what can be seen.

    The apparent depth is the true one blurred by 1 / visibility times the spread of readers.

    Args:
        signs: Values by name.
        nuisances: `(NUISANCES,)`: place, side, thickness and contrast, which say nothing of the label.
        modality: Who looks.
        visibility: As it was used for the signs.
    """
    place, side, thick, contrast = special.ndtr(nuisances)
    where = {"site": 0.60 + 0.30 * float(place), "side": 1.0 if side > 0.5 else -1.0}
    if signs["width"] <= SEEN:
        return Invasion(present=False, **where)
    reader = (latent.CARCINOMA_SIGNS[1].per_depth or {})[modality]
    t = np.array([signs["width"], signs["reach"], signs["interruption"], signs["roughness"]])
    raw = _softplus(t[1]) / (reader * max(visibility, SHARPEST))
    return Invasion(
        present=True,
        **where,
        width_mm=float(_at_most(80, 12.5 * np.exp(0.6 * (t[0] - SEEN)))),
        thickness_mm=float(6.0 + 8.0 * thick),
        reach=float(0.98 * raw / (1 + raw**8) ** (1 / 8)),
        interruption=float(special.expit(1.5 * (t[2] - 1.5))),
        contrast=float(0.5 + 0.5 * contrast),
        roughness_mm=float(_at_most(5, np.exp(0.35 * t[3]))),
    )


def _softplus(t: FloatArray) -> FloatArray:
    return np.logaddexp(0.0, t)


def _at_most(limit: float, value: FloatArray) -> FloatArray:
    """Nearly unchanged well below the limit, never above it, rising everywhere."""
    return limit * np.tanh(value / limit)

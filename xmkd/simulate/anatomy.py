"""A random female pelvis: the numbers that describe it. `organs.scene` turns them into regions on a grid.

Sizes, angles and frequencies follow published series where there are any (named at the numbers below); the rest are
assumptions, called so. Nothing here depends on a label: disease enters through `evidence` alone, and look-alikes
(retroflexion, fibroids, adenomyosis, endometrioma, polyp, thick endometrium) occur in both classes alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from xmkd.simulate import waves
from xmkd.simulate.curves import Curve, Point, smooth
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.waves import Waves

Profile = Literal["pod", "carcinoma"]
Examination = Literal["tvus", "mri", "ct"]
Phase = Literal["proliferative", "secretory", "atrophic", "hyperplastic"]

_FIBROIDS, _FOLLICLES, _CYSTS = 3, 7, 8  # most of each; drawn for everybody so that the number of draws is fixed


@dataclass(frozen=True)
class Fibroid:
    """A fibroid: place along the uterus (fraction), angle about its axis (rad, 0 = back), radius and bulge in mm."""

    site: float
    angle: float
    radius: float
    bulge: float


@dataclass(frozen=True)
class Ovary:
    """An ovary: centre (x, y, z in mm), half axes in mm, tilt (rad) and follicles (offset, radius in mm)."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    tilt: float
    follicles: tuple[tuple[tuple[float, float, float], float], ...]


@dataclass(frozen=True)
class Endometrioma:
    """A cyst of old blood: centre (x, y, z in mm) and radius in mm."""

    centre: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Uterus:
    """Shape and wall of the uterus; lengths in mm.

    Attributes:
        axis: From the external os to the fundus.
        body: Half the front-back diameter of the body.
        cervix: The same of the cervix.
        isthmus: Arc length at which the cervix ends, as a fraction of the whole.
        flatness: Width over front-back diameter.
        deviation: Sideways shift of the fundus.
        endometrium: Thickness of both layers together.
        cavity: Half width of the cavity at the fundus.
        junction: Thickness of the junctional zone.
        phase: State of the endometrium.
        adenomyosis: Extra thickness of the junctional zone where adenomyosis is; 0 for none.
        adenomyosis_side: -1 front wall, +1 back wall.
        cysts: Adenomyotic cysts: place (fraction), depth in the zone (0 to 1), x and radius.
        fibroids: Those that there are.
        polyp: Radius of a polyp in the cavity, 0 for none, and its place (fraction of the length).
        scar: Depth of a caesarean scar in the front wall at the isthmus, 0 for none.
        unevenness: Waves of the outer surface.
    """

    axis: Curve
    body: float
    cervix: float
    isthmus: float
    flatness: float
    deviation: float
    endometrium: float
    cavity: float
    junction: float
    phase: Phase
    adenomyosis: float
    adenomyosis_side: float
    cysts: tuple[tuple[float, float, float, float], ...]
    fibroids: tuple[Fibroid, ...]
    polyp: float
    polyp_site: float
    scar: float
    unevenness: Waves

    @property
    def length(self) -> float:
        """External os to fundus along the axis, in mm."""
        return self.axis.length


@dataclass(frozen=True)
class Pelvis:
    """One patient at one examination. Body coordinates in mm, origin at the external os (see `grids`).

    Attributes:
        age: Years.
        menopause: Whether it is past.
        retroverted: Whether the cervix points to the sacrum.
        retroflexed: Whether the body is bent to the back.
        uterus: The uterus.
        vagina: From the introitus to behind the external os.
        vagina_radius: Half its front-back diameter, mm.
        bladder_neck: y, z in mm.
        bladder_ml: Filling at this examination.
        urethra: From the neck to the meatus.
        rectum: Radius of the bowel, mm.
        rectum_wall: mm.
        bowel_path: How the bowel runs above the pouch: y and z shifts of its free points, mm.
        gas: Share of the bowel's content that is gas, 0 to 1.
        ovaries: Right and left.
        endometriomas: None, one or two.
        waves: Unevenness of bladder, bowel, ovary and lesions, by name.
    """

    age: float
    menopause: bool
    retroverted: bool
    retroflexed: bool
    uterus: Uterus
    vagina: Curve
    vagina_radius: float
    bladder_neck: Point
    bladder_ml: float
    urethra: Curve
    rectum: float
    rectum_wall: float
    bowel_path: tuple[float, ...]
    gas: float
    ovaries: tuple[Ovary, ...]
    endometriomas: tuple[Endometrioma, ...]
    waves: dict[str, Waves]


def draw(seeds: Seeds, profile: Profile = "pod", examination: Examination = "mri") -> Pelvis:
    """Draw a patient.

    Args:
        seeds: The anatomy comes from the patient's shared generator; the bladder's filling and the bowel's content from
            that of the examination.
        profile: "pod" is a woman of reproductive age, "carcinoma" one with bleeding, mostly after the menopause.
        examination: Decides how full the bladder is (emptied before an endovaginal scan).
    """
    rng, state = seeds.numpy("anatomy", shared=True), seeds.numpy("state")
    normal, uniform = rng.normal(size=32), rng.uniform(size=32)
    age, menopause = _age(profile, normal[0], uniform[0])
    retroverted, bend = _position(profile, uniform[1], uniform[2], normal[1:4])
    full = _bladder(examination, state.normal())
    content = state.uniform(size=4)
    uterus = _uterus(rng, menopause, profile, normal[4:16], uniform[3:16], bend, min(full, 250.0))
    path = tuple(float(v) for v in rng.normal(size=6) * (5, 6, 7, 7, 9, 9))
    vagina_angle = np.deg2rad(_VAGINA_TILT + 6 * normal[16])
    vagina = _vagina(vagina_angle, 72 + 6 * normal[17], rng.normal(size=4))
    neck = (-36.0 + 3 * normal[18], -27.0 + 3 * normal[19])
    return Pelvis(
        age=age,
        menopause=menopause,
        retroverted=retroverted,
        retroflexed=bend[1] < 0,
        uterus=uterus,
        vagina=vagina,
        vagina_radius=float(np.clip(5.5 + 0.8 * normal[20], 4, 8)),
        bladder_neck=neck,
        bladder_ml=full,
        urethra=smooth(
            [neck, (neck[0] - 1 + 2 * normal[21], neck[1] - 12), (neck[0] - 6 + 2 * normal[22], neck[1] - 25),
             (neck[0] - 11, neck[1] - 36 - 2 * normal[23])], 8),
        rectum=float(np.clip(13 + 2.5 * normal[24] + 3 * (content[0] - 0.5), 9, 20)),
        rectum_wall=float(np.clip(2.8 + 0.6 * normal[25], 1.8, 4.5)),
        bowel_path=path,
        gas=float(0.75 * content[1] ** 2),
        ovaries=_ovaries(rng, age),
        endometriomas=_endometriomas(rng, profile),
        waves={
            "bladder": waves.draw(rng, 2.2, 38),
            "bowel": waves.draw(rng, 1.1, 24),
            "haustra": waves.draw(rng, 1.0, 11),
            "ovary": waves.draw(rng, 0.8, 14),
            "lesion": waves.draw(rng, 0.9, 10),
            "fine": waves.draw(rng, 0.5, 5),
            "vagina": waves.draw(rng, 1.0, 17),
        },
    )  # fmt: skip


_VAGINA_TILT = 30.0  # degrees to the back of the body's axis, lying; assumption


def _age(profile: Profile, normal: float, uniform: float) -> tuple[float, bool]:
    """Years, and whether the menopause is past: 65 +- 10 years and 89.5 % in Epstein et al. (UOG 2018)."""
    if profile == "carcinoma":
        age = float(np.clip(65 + 10 * normal, 40, 92))
        return age, uniform < 0.895 and age > 45
    return float(np.clip(33 + 6.5 * normal, 18, 48)), False


def _position(profile: Profile, version: float, flexion: float, normal: np.ndarray) -> tuple[bool, tuple[float, float]]:
    """Whether retroverted, and the bends (degrees to the front) at the vagina's end and at the isthmus.

    Retroversion in 18 % of women (transvaginal series of 480) and in 36 % with endometriosis (MRI series of 105):
    25 % in "pod", in both classes alike. Flexion angles of 125 +- 17 and 235 +- 18 degrees: Xholli et al. 2022.
    Version angles lying with some urine in the bladder: assumption.
    """
    retroverted = version < (0.25 if profile == "pod" else 0.18)
    straight = flexion < 0.07
    opposite = flexion > 0.95  # an anteverted uterus whose body is bent back
    at_os = -8 + 12 * normal[0] if retroverted else 62 + 13 * normal[0]
    at_isthmus = 12 * normal[1] if straight else 48 + 14 * normal[1]
    if retroverted != opposite:
        at_isthmus = -abs(at_isthmus)
    return retroverted, (float(at_os), float(at_isthmus))


def _bladder(examination: Examination, normal: float) -> float:
    """Filling in mL: emptied before an endovaginal scan, moderate at MRI, full at CT (assumption)."""
    mean, spread = {"tvus": (25, 0.6), "mri": (120, 0.45), "ct": (220, 0.45)}[examination]
    return float(np.clip(mean * np.exp(spread * normal), 8, 450))


def _uterus(
    rng: np.random.Generator,
    menopause: bool,
    profile: Profile,
    normal: np.ndarray,
    uniform: np.ndarray,
    bend: tuple[float, float],
    bladder_ml: float,
) -> Uterus:
    """Length x width x thickness of nulliparous, parous and postmenopausal women from textbook ranges."""
    if menopause:
        length, width, thickness = 60 + 8 * normal[0], 38 + 5 * normal[1], 27 + 4 * normal[2]
    else:
        parity = int(uniform[0] > 0.45) + int(uniform[0] > 0.7)
        length = (72, 80, 88)[parity] + 8 * normal[0]
        width, thickness = (44, 50, 54)[parity] + 5 * normal[1], (35, 40, 44)[parity] + 5 * normal[2]
    length, thickness = float(np.clip(length, 48, 108)), float(np.clip(thickness, 20, 56))
    lift = 18 * (bladder_ml / 250)  # degrees: a full bladder straightens and lifts the uterus; assumption
    phase, endometrium = _endometrium(menopause, profile, uniform[1], normal[3])
    adenomyosis = uniform[2] < 0.18
    body = thickness / 2
    return Uterus(
        axis=_axis(length, bend, lift, normal[4]),
        body=body,
        cervix=float(np.clip(13 + 1.3 * normal[5] - 2 * menopause, 9.5, 16)),
        isthmus=float(np.clip((0.48 if menopause else 0.40) + 0.03 * normal[6], 0.3, 0.58)),
        flatness=float(np.clip(width / thickness, 1.05, 1.5)),
        deviation=float(6 * normal[7]),
        endometrium=min(endometrium, 1.1 * body),
        cavity=float(np.clip(13 + 2 * normal[8], 8, 18)) * (0.75 if menopause else 1.0),
        junction=float(np.clip((3.2 if menopause else 4.6) + 1.2 * normal[9], 1.5, 8)),
        phase=phase,
        adenomyosis=float(np.clip(6.5 + 2.5 * normal[10], 2, 0.5 * body)) if adenomyosis else 0.0,
        adenomyosis_side=1.0 if uniform[3] < 0.6 else -1.0,
        cysts=_cysts(rng, adenomyosis),
        fibroids=_fibroids(rng, body, uniform[4]),
        polyp=float(np.clip(5 + 1.8 * normal[11], 2.5, 9)) if uniform[5] < (0.34 if menopause else 0.08) else 0.0,
        polyp_site=float(0.66 + 0.2 * uniform[6]),
        scar=float(2 + 4 * uniform[8]) if uniform[7] < 0.2 and not menopause else 0.0,
        unevenness=waves.draw(rng, 0.8, 30),
    )


def _endometrium(menopause: bool, profile: Profile, uniform: float, normal: float) -> tuple[Phase, float]:
    """State and double-layer thickness in mm (Epstein et al., Sokalska et al.; hyperplasia: assumption)."""
    if menopause:
        if uniform < 0.25:
            return "hyperplastic", float(np.clip(11 * np.exp(0.35 * normal), 5, 25))
        return "atrophic", float(np.clip(2.9 + 1.2 * normal, 1.0, 6))
    if profile == "carcinoma" and uniform < 0.3:
        return "hyperplastic", float(np.clip(14 * np.exp(0.3 * normal), 7, 26))
    if uniform < 0.55:
        return "proliferative", float(np.clip(7 + 2.2 * normal, 2.5, 13))
    return "secretory", float(np.clip(10.5 + 2.4 * normal, 5, 17))


def _axis(length: float, bend: tuple[float, float], lift: float, normal: float) -> Curve:
    """The line from os to fundus: two nearly straight parts, and a gentle arch of the body."""
    version, flexion = bend
    forward = version + flexion > 40  # only a uterus that lies on the bladder is lifted by it
    cervix = np.deg2rad(_VAGINA_TILT - version + (lift if forward else 0.0))
    body = cervix - np.deg2rad(flexion - (0.4 * lift if forward else 0.0))
    turn = 0.5 + 0.5 * np.tanh((np.linspace(0, 1, 65) - 0.40) / 0.11)
    arch = np.deg2rad(10 * normal) * (np.linspace(0, 1, 65) - 0.5)
    angle = cervix + (body - cervix) * turn + arch
    steps = np.stack((np.sin(angle), np.cos(angle)), axis=1)[:-1] * length / 64
    points = np.concatenate((np.zeros((1, 2)), np.cumsum(steps, axis=0)))
    return smooth([(float(y), float(z)) for y, z in points], 16)


def _fibroids(rng: np.random.Generator, body: float, uniform: float) -> tuple[Fibroid, ...]:
    """None in 70 % of women; then 1 + Poisson(0.7), median diameter 22 mm (Taj-Aldean 2017: 20-40 % have them)."""
    sites, angles = rng.uniform(0.45, 0.95, _FIBROIDS), rng.uniform(-np.pi, np.pi, _FIBROIDS)
    radii, bulges, more = 11 * np.exp(0.4 * rng.normal(size=_FIBROIDS)), rng.uniform(size=_FIBROIDS), rng.uniform()
    count = 1 + int(more > 0.5) + int(more > 0.84) if uniform < 0.3 else 0  # 1 + Poisson(0.7), cut at 3
    found = []
    for k in range(count):
        back = abs(angles[k]) < np.pi / 3  # at the back they stay within the wall, where the bowel slides
        radius = float(np.clip(radii[k], 4, 0.55 * body if back else 1.3 * body))
        found.append(Fibroid(float(sites[k]), float(angles[k]), radius, 0.0 if back else float(bulges[k])))
    return tuple(found)


def _cysts(rng: np.random.Generator, present: bool) -> tuple[tuple[float, float, float, float], ...]:
    """Adenomyotic cysts of 2-5 mm across."""
    draws = rng.uniform(size=(_CYSTS, 4))
    found = [(0.5 + 0.42 * a, 0.15 + 0.8 * b, 24 * (c - 0.5), 0.8 + 1.4 * d) for a, b, c, d in draws.tolist()]
    return tuple(found) if present else ()


def _vagina(angle: float, length: float, normal: np.ndarray) -> Curve:
    """From the introitus up and back to behind the cervix, with a bend at the levator; shape: assumption."""
    along, back = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
    stations = ((-1.0, -1.0), (-0.68, 1.5 + 2 * normal[0]), (-0.38, 3.5 + 2.2 * normal[1]), (-0.12, 3 + normal[2]),
                (0.10, 9 + normal[3]))  # fmt: skip
    points = [along * length * t + back * n for t, n in stations]
    return smooth([(float(p[0]), float(p[1])) for p in points], 14)


def _ovaries(rng: np.random.Generator, age: float) -> tuple[Ovary, ...]:
    """Volume by age after Pavlik et al. (Kentucky screening): 6.1 mL in the thirties, 2.6 in the fifties."""
    found = []
    for side in (-1.0, 1.0):
        place, size, follicles = rng.normal(size=3), rng.normal(), rng.uniform(size=(_FOLLICLES, 5))
        volume = np.interp(age, (20, 35, 45, 55, 65, 75), (6.6, 6.1, 4.8, 2.6, 2.1, 1.8)) * np.exp(0.4 * size)
        scale = (volume / (4 / 3 * np.pi * 1.6 * 1.1 * 0.85)) ** (1 / 3) * 10  # axes 3.2 : 2.2 : 1.7
        axes = (1.1 * scale, 1.6 * scale, 0.85 * scale)
        centre = (side * (32 + 5 * place[0]), 12 + 8 * place[1], 42 + 9 * place[2])
        cysts = []
        for a, b, c, d, e in follicles.tolist():
            radius = (1.5 + 3.5 * d**2 + 5 * (e > 0.93)) * (0.35 if age > 52 else 1.0)
            cysts.append((((a - 0.5) * axes[0], (b - 0.5) * 1.2 * axes[1], (c - 0.5) * axes[2]), radius))
        tilt = float(np.deg2rad(40) * (2 * follicles[0, 0] - 1))
        found.append(Ovary(tuple(float(v) for v in centre), axes, tilt, tuple(cysts)))  # type: ignore[arg-type]
    return tuple(found)


def _endometriomas(rng: np.random.Generator, profile: Profile) -> tuple[Endometrioma, ...]:
    """In one woman of four of a referral cohort (assumption), 38 +- 17 mm across, on both sides in 30 %."""
    uniform, normal = rng.uniform(size=3), rng.normal(size=(2, 4))
    if profile != "pod" or uniform[0] > 0.25:
        return ()
    first = -1.0 if uniform[1] < 0.5 else 1.0
    found = []
    for side, (a, b, c, d) in zip((first, -first), normal.tolist(), strict=True):
        radius = float(np.clip(19 + 8 * d, 8, 38))
        found.append(Endometrioma((side * (18 + radius + 4 * abs(a)), 22 + 7 * b, 45 + 7 * c), radius))
    return tuple(found[: 2 if uniform[2] < 0.3 else 1])

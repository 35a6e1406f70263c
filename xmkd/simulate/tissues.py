"""What tissues are made of: MR relaxation, proton density, diffusion, enhancement, and CT numbers.

Every row names where its values come from. "ratio" means that the value keeps the published ratio to the outer
myometrium; a value that is called an assumption was chosen within the range that textbooks give. Most relaxation times
of pelvic organs have been measured in few women and differ by method, so that the *order* of the tissues is what a
simulated image can be held to, not the single value. Publications:

- Takatsu 2015: Takatsu et al., Acta Radiologica (T1 and T2 of the uterus, 1.5 T).
- BMC 2023: BMC Medical Imaging, s12880-022-00960-w (T2 of uterus, fat and muscle, 1.5 and 3 T).
- de Bazelaire 2004: de Bazelaire et al., Radiology (T1 and T2 of abdomen and pelvis, 1.5 and 3 T).
- Xu 2023: Xu et al., Diagnostic and Interventional Radiology (T2 of endometrial lesions, 3 T).
- Jha 2014: Jha et al., Abdominal Imaging; Cao 2012: PMID 21592709; Zagazig 2025: Zagazig University Medical Journal
  (diffusion of the uterus and its tumours); PMC4731347: a review of diffusion; PMC5854227: polyp and carcinoma.
- Zhang 2013: Zhang et al., Chinese Journal of Radiology (enhancement of carcinoma against wall).
- CT cycle study: biocloudy.com (enhancement of the uterus over the cycle, portal venous phase).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmkd.simulate.textures import Texture


@dataclass(frozen=True)
class Tissue:
    """Mean values of one tissue.

    Attributes:
        t1: ms at 1.5 and 3 T.
        t2: ms at 1.5 and 3 T, as a turbo spin echo train sees it.
        pd: Proton density, water = 1.
        adc: Apparent diffusion coefficient, 1e-3 mm2/s.
        enhancement: Signal 150 s after contrast over that before, T1-weighted.
        hu: CT number in the portal venous phase.
        spread: Between patients, SD: of T2 (relative), of ADC (1e-3 mm2/s) and of the CT number.
        texture: Pattern inside, and its relative amplitude on MRI.
        source: Where the values come from.
    """

    t1: tuple[float, float]
    t2: tuple[float, float]
    pd: float
    adc: float
    enhancement: float
    hu: float
    spread: tuple[float, float, float]
    texture: tuple[Texture, float]
    source: str


_A = "assumption"
_FAT = "T1, T2 de Bazelaire 2004 and BMC 2023 (apparent T2 of an echo train); rest assumption"
_VOID = Tissue((300.0, 300.0), (1.0, 1.0), 0.02, 0.0, 1.0, -950.0, (0.0, 0.0, 10.0), ("grain", 0.0), _A)

TABLE: dict[str, Tissue] = {
    "myometrium_outer": Tissue(
        (1330, 1530), (112, 83), 0.83, 1.60, 2.15, 98, (0.12, 0.20, 14), ("soft", 0.07),
        "as myometrium, less dense: 6 % on either side of it, assumption"),
    "myometrium": Tissue(
        (1310, 1510), (100, 75), 0.82, 1.55, 2.1, 96, (0.12, 0.20, 14), ("soft", 0.06),
        "T1 Takatsu 2015, de Bazelaire 2004; T2 between Takatsu 2015 and BMC 2023; ADC PMC4731347; HU CT cycle study"),
    "junctional_zone": Tissue(
        (1170, 1350), (60, 45), 0.76, 1.12, 1.9, 90, (0.12, 0.15, 12), ("soft", 0.05),
        "T1 Takatsu 2015; T2 ratio to the outer wall 0.56 (0.52 Takatsu 2015, 0.63 BMC 2023); ADC Cao 2012"),
    "endometrium_proliferative": Tissue(
        (1450, 1650), (147, 110), 0.90, 1.20, 1.7, 55, (0.12, 0.16, 11), ("soft", 0.05),
        "T1 de Bazelaire 2004; T2 ratio 1.39 (1.40 BMC 2023); ADC PMC4731347; rest assumption"),
    "endometrium_secretory": Tissue(
        (1700, 1950), (165, 122), 0.92, 1.35, 1.7, 55, (0.12, 0.18, 11), ("soft", 0.05),
        "T1 Takatsu 2015; T2 ratio 1.56 (1.55 Takatsu 2015); ADC PMC4731347; rest assumption"),
    "endometrium_atrophic": Tissue(
        (1400, 1550), (124, 95), 0.87, 1.15, 1.6, 52, (0.12, 0.16, 11), ("soft", 0.05), "assumption"),
    "endometrium_hyperplastic": Tissue(
        (1500, 1700), (152, 116), 0.90, 1.45, 1.7, 56, (0.14, 0.2, 11), ("soft", 0.08),
        "T2 within Xu 2023; ADC between endometrium and polyp (PMC5854227); rest assumption"),
    "cavity": Tissue((2200, 2500), (320, 260), 0.96, 2.0, 1.1, 25, (0.12, 0.2, 8), ("grain", 0.03), _A),
    "cervix_stroma": Tissue(
        (1200, 1550), (62, 60), 0.78, 1.60, 1.9, 70, (0.12, 0.18, 13), ("soft", 0.06),
        "T1, T2 de Bazelaire 2004 and assumption; ADC PMC4731347"),
    "cervix": Tissue(
        (1250, 1550), (86, 72), 0.80, 1.60, 2.0, 78, (0.12, 0.18, 13), ("soft", 0.06),
        "outer stroma, between inner stroma and body (de Bazelaire 2004: 83 ms at 3 T); ADC PMC4731347"),
    "cervix_mucosa": Tissue((1500, 1750), (190, 160), 0.92, 1.8, 1.7, 55, (0.12, 0.2, 10), ("soft", 0.10), _A),
    "mucus": Tissue((2200, 2500), (330, 280), 0.97, 2.2, 1.0, 20, (0.12, 0.2, 8), ("grain", 0.04), _A),
    "vagina_wall": Tissue((1100, 1300), (64, 56), 0.80, 1.5, 2.0, 75, (0.12, 0.2, 12), ("soft", 0.07), _A),
    "vagina_lumen": Tissue((1700, 1950), (170, 150), 0.92, 1.9, 1.6, 45, (0.15, 0.2, 10), ("soft", 0.10), _A),
    "bladder_wall": Tissue((1000, 1200), (55, 48), 0.76, 1.4, 1.7, 65, (0.10, 0.2, 10), ("soft", 0.06), _A),
    "urine": Tissue(
        (3000, 3500), (1500, 1200), 1.0, 3.0, 1.0, 5, (0.05, 0.12, 5), ("grain", 0.015),
        "ADC Jha 2014; rest assumption"),
    "urethra_wall": Tissue((1000, 1200), (50, 44), 0.76, 1.4, 1.7, 65, (0.10, 0.2, 10), ("soft", 0.07), _A),
    "urethra_lumen": Tissue((2000, 2300), (250, 210), 0.95, 2.2, 1.1, 30, (0.15, 0.2, 8), ("grain", 0.03), _A),
    "urethra": Tissue((1200, 1400), (88, 76), 0.82, 1.5, 1.8, 70, (0.12, 0.2, 10), ("soft", 0.08), _A),
    "rectal_muscularis": Tissue((1000, 1200), (45, 40), 0.78, 1.3, 1.7, 80, (0.10, 0.2, 12), ("soft", 0.05), _A),
    "rectal_submucosa": Tissue((1100, 1300), (92, 80), 0.80, 1.4, 1.7, 62, (0.12, 0.2, 12), ("soft", 0.06), _A),
    "rectal_mucosa": Tissue((1200, 1450), (68, 60), 0.78, 1.3, 1.9, 92, (0.10, 0.2, 12), ("soft", 0.05), _A),
    "stool": Tissue((900, 950), (44, 38), 0.58, 1.1, 1.0, 30, (0.35, 0.3, 15), ("stool", 0.70), _A),
    "gas": _VOID,
    "bowel_wall": Tissue((1000, 1200), (58, 52), 0.78, 1.3, 1.9, 88, (0.10, 0.2, 12), ("soft", 0.06), _A),
    "chyme": Tissue((1100, 1250), (62, 55), 0.70, 1.5, 1.0, 35, (0.3, 0.35, 14), ("chyme", 0.30),
                    "what a collapsed loop holds: assumption"),
    "bowel_content": Tissue((1500, 1700), (110, 100), 0.85, 1.8, 1.0, 20, (0.35, 0.4, 14), ("chyme", 0.16), _A),
    "ovary_stroma": Tissue(
        (1480, 1700), (120, 105), 0.86, 1.2, 1.7, 60, (0.15, 0.2, 12), ("soft", 0.09),
        "T1, T2 at 1.5 T Takatsu 2015; rest assumption"),
    "follicle": Tissue(
        (2300, 2700), (600, 500), 0.98, 2.6, 1.0, 10, (0.12, 0.25, 7), ("grain", 0.01),
        "T1, T2 at 1.5 T Takatsu 2015; rest assumption"),
    "endometrioma_wall": Tissue((1000, 1150), (50, 44), 0.75, 0.9, 1.5, 60, (0.14, 0.2, 12), ("soft", 0.06), _A),
    "endometrioma": Tissue(
        (480, 540), (125, 105), 0.93, 1.1, 1.0, 35, (0.30, 0.35, 13), ("chyme", 0.05),
        "old blood, bright on T1: assumption"),
    "endometrioma_layer": Tissue(
        (420, 480), (40, 34), 0.93, 0.9, 1.0, 42, (0.25, 0.3, 13), ("chyme", 0.05),
        "shading towards the back, assumption"),
    "fibroid_rim": Tissue((1150, 1350), (85, 70), 0.80, 1.2, 1.9, 95, (0.14, 0.2, 14), ("soft", 0.06), _A),
    "fibroid": Tissue(
        (1100, 1300), (58, 50), 0.76, 0.85, 1.7, 90, (0.22, 0.22, 18), ("soft", 0.13),
        "ADC Jha 2014, Zagazig 2025; rest assumption"),
    "adenomyosis": Tissue(
        (1150, 1350), (65, 56), 0.77, 0.95, 1.85, 85, (0.15, 0.18, 14), ("soft", 0.10),
        "ADC Jha 2014, Zagazig 2025; rest assumption"),
    "adenomyotic_cyst": Tissue((1100, 1250), (240, 200), 0.95, 1.7, 1.0, 40, (0.2, 0.2, 10), ("grain", 0.03), _A),
    "plaque": Tissue((1000, 1150), (45, 40), 0.70, 0.85, 1.4, 70, (0.14, 0.18, 14), ("soft", 0.12), _A),
    "carcinoma": Tissue(
        (1350, 1500), (118, 94), 0.86, 0.88, 1.55, 72, (0.14, 0.11, 11), ("soft", 0.09),
        "T2 at 3 T Xu 2023; ADC PMC5854227, Cao 2012; enhancement Zhang 2013 (0.72 of the wall); rest assumption"),
    "polyp": Tissue(
        (1500, 1650), (130, 112), 0.90, 1.55, 1.8, 70, (0.18, 0.22, 13), ("soft", 0.12),
        "T2 at 3 T Xu 2023; ADC PMC5854227; rest assumption"),
    "free_fluid": Tissue((2800, 3200), (900, 800), 1.0, 2.7, 1.0, 8, (0.12, 0.25, 6), ("grain", 0.01), _A),
    "fat": Tissue((340, 380), (125, 100), 0.90, 0.1, 1.0, -100, (0.04, 0.02, 7), ("subcutis", 1.0), _FAT),
    "peritoneal_fat": Tissue((345, 385), (122, 98), 0.90, 0.1, 1.0, -98, (0.04, 0.02, 7), ("fat", 1.0), _FAT),
    "muscle": Tissue(
        (1000, 1300), (42, 38), 0.75, 1.3, 1.45, 60, (0.07, 0.12, 7), ("muscle", 0.6),
        "T1, T2 de Bazelaire 2004 and BMC 2023; rest assumption"),
    "gluteal_muscle": Tissue(
        (950, 1200), (45, 41), 0.75, 1.3, 1.45, 56, (0.07, 0.12, 8), ("gluteal", 0.9), "as muscle, more fat between"),
    "marrow": Tissue(
        (550, 590), (80, 70), 0.70, 0.4, 1.15, 150, (0.12, 0.1, 40), ("marrow", 0.09),
        "T1 de Bazelaire 2004; rest assumption"),
    "cortical_bone": Tissue((500, 500), (2, 2), 0.10, 0.2, 1.0, 850, (0.1, 0.05, 120), ("grain", 0.0), _A),
    "disc": Tissue((1200, 1350), (52, 46), 0.70, 1.4, 1.05, 85, (0.25, 0.2, 12), ("soft", 0.10), _A),
    "csf": Tissue((3500, 4000), (1500, 1300), 1.0, 3.1, 1.0, 10, (0.05, 0.15, 4), ("soft", 0.04), _A),
    "nerve": Tissue((1100, 1300), (75, 65), 0.80, 1.3, 1.1, 35, (0.1, 0.2, 6), ("grain", 0.02), _A),
    "artery": Tissue((1500, 1650), (12, 9), 0.60, 0.0, 4.5, 150, (0.2, 0.0, 18), ("grain", 0.03),
                     "flow void of a spin echo, bright after contrast: assumption"),
    "vessel": Tissue((1500, 1650), (70, 55), 0.80, 1.2, 4.0, 135, (0.4, 0.2, 18), ("grain", 0.05),
                     "veins, slow to fast flow: assumption"),
    "slow_vein": Tissue((1450, 1600), (190, 150), 0.88, 1.5, 3.8, 125, (0.25, 0.2, 18), ("grain", 0.04),
                        "veins with slow flow, bright on T2: assumption"),
    "plexus": Tissue((1400, 1550), (75, 62), 0.84, 1.5, 3.2, 60, (0.15, 0.2, 14), ("plexus", 0.55),
                     "venous plexus in fibrous fat: assumption"),
    "ligament": Tissue((1000, 1150), (46, 40), 0.72, 1.1, 1.4, 62, (0.12, 0.15, 10), ("soft", 0.08), _A),
    "labia": Tissue((900, 1050), (62, 55), 0.80, 1.2, 1.7, 45, (0.10, 0.2, 12), ("soft", 0.13), _A),
    "skin": Tissue((900, 1050), (34, 30), 0.65, 1.0, 1.4, 40, (0.12, 0.15, 10), ("grain", 0.05), _A),
    "air": Tissue((300, 300), (1, 1), 0.0, 0.0, 1.0, -1000, (0.0, 0.0, 0.0), ("grain", 0.0), _A),
}  # fmt: skip

# Tissues of the uterus share most of what differs between patients, so that the order of its layers stays.
_UTERUS = frozenset(
    {"myometrium", "myometrium_outer", "junctional_zone", "endometrium_proliferative", "endometrium_secretory",
     "endometrium_atrophic", "endometrium_hyperplastic", "cervix", "cervix_stroma"}
)  # fmt: skip
_SHARED = 0.85  # of the relative spread of T2 in the uterus; assumption
_LIMIT = 2.5  # SD


@dataclass(frozen=True)
class Values:
    """One tissue of one patient at one field strength; units as in `Tissue`."""

    t1: float
    t2: float
    pd: float
    adc: float
    enhancement: float
    hu: float


def draw(rng: np.random.Generator, field: float = 1.5, *, menopause: bool = False) -> dict[str, Values]:
    """A patient's tissues.

    Args:
        rng: Makes a number of draws that is fixed by the table.
        field: Tesla (1.5 or 3); the values of the same patient at either field belong together.
        menopause: Whether it is past: then diffusion in the wall is lower (3 T series: 1.15 against 1.7) and it
            enhances less on CT.
    """
    normal = np.clip(rng.normal(size=(len(TABLE), 4)), -_LIMIT, _LIMIT)
    common = float(np.clip(rng.normal(), -_LIMIT, _LIMIT))
    strong = int(field > 2)
    names = list(TABLE)
    normal[names.index("peritoneal_fat")] = normal[names.index("fat")]  # one fat in two places
    found = {}
    for (name, tissue), (a, b, c, d) in zip(TABLE.items(), normal.tolist(), strict=True):
        own = _SHARED * common + (1 - _SHARED**2) ** 0.5 * a if name in _UTERUS else a
        of_t2, of_adc, of_hu = tissue.spread
        older = menopause and name.startswith("myometrium")
        found[name] = Values(
            t1=tissue.t1[strong] * float(np.exp(0.06 * d)),
            t2=tissue.t2[strong] * float(np.exp(of_t2 * own)),
            pd=tissue.pd,
            adc=max(0.0, tissue.adc - 0.35 * older + of_adc * b),
            enhancement=max(1.0, tissue.enhancement * float(np.exp(0.12 * b)) if tissue.enhancement > 1 else 1.0),
            hu=tissue.hu - 18 * older + of_hu * c,
        )
    return found

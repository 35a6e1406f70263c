"""How tissues look to ultrasound: echo level, attenuation and texture.

Levels are in dB relative to the middle layer of the myometrium, attenuation in dB/cm/MHz. Attenuation of myometrium,
fibroid and cervix lies below what was measured in excised specimens (PMC3056396: 0.83, 1.0 and 1.26 at 5 MHz); that of
fat and muscle follows PMC10346919, table A2. All other values are assumptions within what textbooks describe; what a
picture can be held to is the order of the tissues.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Echo:
    """One tissue.

    Attributes:
        level: Mean echo level in dB.
        attenuation: In dB/cm/MHz.
        spread: Standard deviation of the level between patients, dB.
        patchy: dB of unevenness over about 10 mm.
        mottled: The same over about 3.5 mm.
        grainy: The same over about 1.2 mm.
        streaky: dB of streaks along the organ's run, about 8 x 1 mm.
        septa: dB of thin bright sheets.
        gas: Share of gas: it reflects, shadows and rings.
    """

    level: float
    attenuation: float = 0.55
    spread: float = 1.0
    patchy: float = 0.8
    mottled: float = 0.8
    grainy: float = 0.5
    streaky: float = 0.0
    septa: float = 0.0
    gas: float = 0.0


_FLUID = Echo(-45, 0.01, 0.0, 0.5, 0.0, 0.0)

TABLE: dict[str, Echo] = {
    "fat": Echo(5.0, 0.62, 1.5, 4.0, 3.0, 1.5, 4.0, 10.0),
    "myometrium": Echo(0.0, 0.55, 0.0, 1.5, 1.2, 0.8, 1.2),
    "myometrium_outer": Echo(-2.0, 0.55, 0.7, 1.2, 1.2, 0.8, 1.5),
    "junctional_zone": Echo(-9.5, 0.6, 1.5, 0.8, 0.8, 0.5),
    "endometrium_proliferative": Echo(-2.0, 0.5, 1.5, 0.6, 0.8, 0.6),
    "endometrium_secretory": Echo(7.0, 0.5, 1.5, 1.6, 1.6, 1.0),
    "endometrium_atrophic": Echo(7.0, 0.5, 1.5, 0.5, 0.5, 0.5),
    "endometrium_hyperplastic": Echo(7.0, 0.5, 2.0, 1.5, 2.2, 1.2),
    "cavity": Echo(10.0, 0.5, 1.0, 0.5, 0.5, 0.5),
    "polyp": Echo(7.0, 0.5, 2.0, 0.8, 1.5, 0.8),
    "carcinoma": Echo(3.0, 0.6, 2.5, 2.0, 3.0, 1.5),
    "adenomyosis": Echo(-1.5, 0.85, 1.5, 2.0, 3.0, 1.5, 3.0),
    "adenomyotic_cyst": Echo(-30, 0.05, 0.0, 0.0, 0.0, 0.0),
    "fibroid": Echo(-5.5, 1.15, 1.8, 1.5, 2.2, 1.0, 1.5),
    "fibroid_rim": Echo(-8.0, 0.8, 1.5, 0.5, 1.0, 0.5),
    "cervix": Echo(-1.5, 0.75, 1.0, 1.2, 1.0, 0.8, 1.5),
    "cervix_stroma": Echo(-1.0, 0.75, 1.5, 1.2, 1.2, 0.8, 2.0),
    "cervix_mucosa": Echo(-3.0, 0.6, 2.0, 0.5, 1.5, 1.0),
    "mucus": Echo(-14.0, 0.1, 6.0, 0.5, 2.0, 1.0),
    "vagina_wall": Echo(1.0, 0.6, 1.0, 1.0, 1.0, 1.0, 3.0, 4.0),
    "vagina_lumen": Echo(8.0, 0.6, 1.5, 1.0, 2.0, 1.5),
    "urethra_wall": Echo(-3.0, 0.6, 1.0),
    "urethra": Echo(-7.0, 0.6, 1.0),
    "urethra_lumen": Echo(-2.0, 0.5, 1.0),
    "bladder_wall": Echo(1.0, 0.55, 1.0, 0.8, 0.8, 0.5),
    "urine": _FLUID,
    "free_fluid": Echo(-40, 0.01, 3.0, 1.0, 0.5, 0.0),
    "ovary_stroma": Echo(-1.0, 0.5, 1.5, 1.2, 1.5, 1.0),
    "follicle": Echo(-42, 0.03, 0.0, 0.5, 0.0, 0.0),
    "endometrioma_wall": Echo(1.0, 0.55, 1.0),
    "endometrioma": Echo(-12.0, 0.3, 2.0, 0.8, 0.5, 0.3),
    "endometrioma_layer": Echo(-9.0, 0.3, 2.0, 0.8, 0.5, 0.3),
    "plaque": Echo(-9.0, 1.3, 1.5, 1.2, 2.0, 1.5, 1.0),
    "rectal_muscularis": Echo(-9.0, 0.7, 1.0, 0.6, 0.6, 0.5),
    "rectal_submucosa": Echo(8.0, 0.7, 1.0, 0.8, 1.5, 1.0),
    "rectal_mucosa": Echo(-4.0, 0.6, 1.0, 0.6, 1.0, 0.8),
    "stool": Echo(3.0, 0.9, 2.0, 3.5, 5.0, 2.5, 2.0),
    "gas": Echo(20.0, 5.0, 2.0, 4.0, 5.0, 3.0, gas=1.0),
    "bowel_muscularis": Echo(-8.0, 0.6, 1.0, 0.6, 0.8, 0.5),
    "bowel_submucosa": Echo(4.0, 0.6, 1.0, 1.0, 1.5, 1.0),
    "bowel_content": Echo(-4.0, 0.5, 3.0, 4.0, 5.0, 2.0),
}

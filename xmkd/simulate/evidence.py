"""What an examination shows of the disease: all that a renderer learns of the label.

One object per patient and modality. Rendering with the same evidence and seeds gives the same bytes whatever the
label is.
"""

from __future__ import annotations

from dataclasses import dataclass

# The two places where the sliding sign is judged, as a fraction of the uterine length from the external os.
SITES = {"retrocervical": 0.20, "fundal": 0.78}


@dataclass(frozen=True)
class Adhesion:
    """Evidence of an obliterated pouch of Douglas; pairs are (retrocervical, fundal).

    Attributes:
        coupling: Share of the uterus' tangential motion that the bowel follows, 0 (free) to 1 (stuck).
        plaque_mm: Thickness of fibrous tissue between uterus and bowel, 0 for none.
        plaque_contrast: How far the plaque stands out, 0 (as its surroundings) to 1 (as fibrous tissue).
        tether_mm: Height of the peak by which the front wall of the bowel is drawn to the uterus.
        gap_mm: Fat or film between uterus and bowel.
        fluid_mm: Depth of free fluid in the recess.
        kink_deg: Angle by which the rectum is bent at the adhesion.
    """

    coupling: tuple[float, float] = (0.15, 0.15)
    plaque_mm: tuple[float, float] = (0.0, 0.0)
    plaque_contrast: float = 0.0
    tether_mm: tuple[float, float] = (0.0, 0.0)
    gap_mm: tuple[float, float] = (2.0, 2.0)
    fluid_mm: float = 2.0
    kink_deg: float = 0.0


@dataclass(frozen=True)
class Invasion:
    """Evidence of an endometrial tumour that grows into the wall.

    Attributes:
        present: Whether there is a tumour at all.
        site: Place along the uterus (fraction of its length from the external os).
        side: Wall it grows into: -1 front, +1 back.
        width_mm: Extent along the cavity.
        thickness_mm: Extent into the cavity.
        reach: Deepest point from the endometrium-myometrium junction over the local wall thickness, 0 to 1.
        interruption: Part of the junctional zone that is gone at the tumour's base, 0 to 1.
        contrast: How far the tumour differs from the wall, 0 to 1.
        roughness_mm: Unevenness of its front.
    """

    present: bool = False
    site: float = 0.8
    side: float = 1.0
    width_mm: float = 0.0
    thickness_mm: float = 0.0
    reach: float = 0.0
    interruption: float = 0.0
    contrast: float = 1.0
    roughness_mm: float = 1.0

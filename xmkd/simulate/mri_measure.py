"""Fixed measurements on a rendered MRI, made with the true pose and masks: what an oracle may use.

All are ratios to the wall of the uterus next to where they are made, so that coil and scale play no part.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.simulate import uterus as womb
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import SITES, Adhesion, Invasion
from xmkd.simulate.organs import Evidence
from xmkd.simulate.rendered import Volume
from xmkd.simulate.scene import ORGANS

_HALF_MM = 11.0  # of the strip along the uterus at a site
_SIDEWAYS_MM = torch.arange(-9.0, 9.1, 3.0)
_BEYOND_MM = torch.arange(-8.0, 22.1, 0.5)  # from the back surface of the uterus
_DEPTHS = 24  # points from the junction to the serosa


def measure(volume: Volume, pelvis: Pelvis, evidence: Evidence) -> dict[str, float]:
    """At most ten numbers.

    Args:
        volume: A T2-weighted volume of `mri.render`.
        pelvis: The patient it shows.
        evidence: What it was rendered with; only where to look is taken from it, never how far the disease goes.
    """
    with torch.inference_mode():
        image = torch.from_numpy(volume.array.astype(np.float32))
        if isinstance(evidence, Adhesion):
            return _adhesion(image, volume, pelvis)
        return _invasion(image, volume, pelvis, evidence)


def sample(image: Tensor, affine: np.ndarray, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Values of a volume at points.

    Args:
        image: float `(D, H, W)`.
        affine: Index to LPS.
        points: x, y, z in mm, `(..., 3)`.
        mode: Of `grid_sample`; points outside take the nearest voxel's value.
    """
    inverse = torch.from_numpy(np.linalg.inv(affine)).float()
    index = points @ inverse[:3, :3].T + inverse[:3, 3]
    size = torch.tensor(image.shape, dtype=torch.float32)
    unit = (2 * index / (size - 1) - 1).flip(-1).reshape(1, 1, 1, -1, 3)
    values = F.grid_sample(image[None, None], unit, mode=mode, padding_mode="border", align_corners=True)
    return values.reshape(points.shape[:-1])


def uterine_points(pelvis: Pelvis, s: Tensor, n: Tensor, x: Tensor) -> Tensor:
    """Body coordinates of places in the uterus, `(..., 3)`; `s`, `n` and `x` (mm) broadcast against each other."""
    uterus = pelvis.uterus
    shape = np.broadcast_shapes(s.shape, n.shape, x.shape)
    s, n, x = s.expand(shape), n.expand(shape), x.expand(shape)
    line = uterus.axis
    k = torch.searchsorted(line.arc, s.contiguous()).clamp_(1, len(line.arc) - 1)
    start, step = line.points[k - 1], line.points[k] - line.points[k - 1]
    tangent = step / step.norm(dim=-1, keepdim=True)
    middle = start + (s - line.arc[k - 1])[..., None] * tangent
    y, z = middle[..., 0] + n * tangent[..., 1], middle[..., 1] - n * tangent[..., 0]
    return torch.stack((x + uterus.deviation * (s / uterus.length).clamp(0, 1), y, z), -1)


def _adhesion(image: Tensor, volume: Volume, pelvis: Pelvis) -> dict[str, float]:
    """The pouch of Douglas.

    Per site how dark the strip behind the uterus is (`dark_*`), the bright line of fat or film in it (`line_*`), how
    far the bowel is (`gap_*`, mm) and the peak by which it is drawn in (`peak_*`, mm); then the brightest layer of the
    recess (`fluid`).
    """
    labels = torch.from_numpy(volume.mask.astype(np.float32))
    rectum = float(ORGANS.index("rectum"))
    found: dict[str, float] = {}
    for name, site in SITES.items():
        s = site * pelvis.uterus.length + torch.arange(-17.0, 17.1, 1.0)
        points = _behind(pelvis, s)
        strip = sample(image, volume.affine, points)  # (along, beyond, sideways)
        wall = strip[:, (_BEYOND_MM > -7) & (_BEYOND_MM < -2.5)].mean().clamp_min(1.0)
        near = (s - s.mean()).abs() <= _HALF_MM
        inside = strip[near] / wall
        found[f"dark_{name}"] = float(inside[:, (_BEYOND_MM >= 0.5) & (_BEYOND_MM <= 5)].mean())
        found[f"line_{name}"] = float(inside[:, (_BEYOND_MM >= 0) & (_BEYOND_MM <= 6)].amax(1).mean())
        bowel = (sample(labels, volume.affine, points, "nearest") - rectum).abs() < 0.5
        gap = torch.where(bowel, _BEYOND_MM[:, None], float(_BEYOND_MM[-1])).amin(1)[:, 2:5].mean(1).clamp_min(0)
        away = (s - s.mean()).abs()
        found[f"gap_{name}"] = float(gap[away <= 4].mean())
        found[f"peak_{name}"] = float(gap[away >= 13].mean() - gap[away <= 4].mean())
    s = torch.arange(-4.0, 0.42 * pelvis.uterus.length, 1.5)
    strip = sample(image, volume.affine, _behind(pelvis, s))
    wall = strip[:, (_BEYOND_MM > -7) & (_BEYOND_MM < -2.5)].mean().clamp_min(1.0)
    recess = strip[:, (_BEYOND_MM >= -1) & (_BEYOND_MM <= 5)][..., _SIDEWAYS_MM.abs() < 4]
    found["fluid"] = float(recess.amax(1).mean() / wall)
    return found


def _behind(pelvis: Pelvis, s: Tensor) -> Tensor:
    """Points behind the uterus, `(along, beyond, sideways, 3)`."""
    outer = womb.radius(pelvis.uterus, s)
    n = outer[:, None, None] + _BEYOND_MM[:, None]
    return uterine_points(pelvis, s[:, None, None], n, _SIDEWAYS_MM)


def _invasion(image: Tensor, volume: Volume, pelvis: Pelvis, invasion: Invasion) -> dict[str, float]:
    """The wall at the tumour's place against the same place of the other wall.

    Brightness of the junction (`junction`) and of three thirds of the wall (`inner`, `middle`, `outer`), how deep it
    stays bright (`depth`, fraction) and along how much of the cavity (`extent`, mm); brightness of what lies in the
    cavity (`cavity`) and its thickness (`thickness`, mm).
    """
    uterus = pelvis.uterus
    s = invasion.site * uterus.length + torch.arange(-4.0, 4.1, 1.0)
    x = torch.arange(-4.0, 4.1, 2.0)
    half = womb.thickness(uterus, s, invasion)
    wall = womb.radius(uterus, s) - half
    depth = (torch.arange(_DEPTHS) + 0.5) / _DEPTHS
    own, other = (
        _wall(image, volume, pelvis, invasion, side, s, depth, x).mean((0, 2))
        for side in (invasion.side, -invasion.side)
    )
    level = other[depth > 0.45].mean().clamp_min(1.0)
    n = half[:, None, None] * torch.linspace(-0.6, 0.6, 7)[:, None]
    cavity = sample(image, volume.affine, uterine_points(pelvis, s[:, None, None], n, x)).mean() / level
    excess = (own - other) / level
    zone = depth < (uterus.junction / wall.mean()).clamp(0.08, 0.5)
    thirds = [(depth >= low) & (depth < low + 1 / 3) for low in (0.0, 1 / 3, 2 / 3)]
    bright = excess > 0.5 * (own[depth < 0.2].mean() / level - 0.75).clamp_min(0.08)
    along = torch.arange((uterus.isthmus + 0.12) * uterus.length, 0.93 * uterus.length, 1.5)
    rows = _wall(image, volume, pelvis, invasion, invasion.side, along, depth[zone], x).mean((1, 2)) / level
    return {
        "junction": float(excess[zone].mean()),
        "inner": float(excess[thirds[0]].mean()),
        "middle": float(excess[thirds[1]].mean()),
        "outer": float(excess[thirds[2]].mean()),
        "depth": float(bright.float().cumprod(0).mean()),
        "extent": float((rows > 0.5 * (1 + cavity)).float().sum() * 1.5),
        "cavity": float(cavity),
        "thickness": float(2 * half.mean()),
    }


def _wall(
    image: Tensor,
    volume: Volume,
    pelvis: Pelvis,
    invasion: Invasion,
    side: float,
    s: Tensor,
    depth: Tensor,
    x: Tensor,
) -> Tensor:
    """Signal of one wall, `(along, depth, sideways)`; depth 0 at the junction, 1 at the serosa."""
    half = womb.thickness(pelvis.uterus, s, invasion)[:, None, None]
    wall = womb.radius(pelvis.uterus, s)[:, None, None] - half
    n = side * (half + depth[:, None] * wall)
    return sample(image, volume.affine, uterine_points(pelvis, s[:, None, None], n, x))

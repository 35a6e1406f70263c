"""The uterus on a grid: its own coordinates, and the layers, lesions and tumour that are functions of them.

A point has a place `s` along the axis (mm from the external os) and an offset `n` from it in the sagittal plane
(positive to the back surface, which faces the pouch of Douglas). Everything of the uterus is a function of (s, n, x),
so that truths such as the depth of invasion are exact by construction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xmkd.simulate.anatomy import Fibroid, Pelvis, Uterus
from xmkd.simulate.curves import project_on
from xmkd.simulate.evidence import Invasion
from xmkd.simulate.grids import Box, Grid
from xmkd.simulate.scene import Region, bounds

FLAT = 2.6  # width over thickness of cavity and junctional zone: the cavity is a flat triangle


@dataclass(frozen=True)
class UterineCoordinates:
    """Where the points of a grid lie in the uterus.

    Attributes:
        s: Arc length from the external os in mm, `(P, Q)`; runs on beyond both ends.
        n: Signed offset from the axis in mm, `(P, Q)`, positive to the back surface.
        x: Sideways distance from the axis in mm, `(X, P, Q)` or `(X, 1, 1)`-like.
        rho: Distance from the axis, scaled to that of the front-back diameter, `(X, P, Q)`.
        distance: Signed distance to the outer surface in mm, negative inside, `(X, P, Q)`.
    """

    s: Tensor
    n: Tensor
    x: Tensor
    rho: Tensor
    distance: Tensor

    def crop(self, box: Box) -> UterineCoordinates:
        """The points of a box."""
        plane = box[1:]
        x, rho, distance = (v[box[0]][..., plane[0], plane[1]] for v in (self.x, self.rho, self.distance))
        return UterineCoordinates(self.s[plane], self.n[plane], x, rho, distance)


def radius(uterus: Uterus, s: Tensor) -> Tensor:
    """Half the front-back diameter at `s` (mm), without the closing ends, any shape.

    Beyond the fundus and below the os it runs on, so that n = radius(s) is also the surface on which bowel slides.
    """
    q = s / uterus.length
    waist = 0.86 * uterus.cervix
    neck = uterus.cervix + (waist - uterus.cervix) * torch.sigmoid((q - (uterus.isthmus - 0.10)) / 0.045)
    return neck + (uterus.body - waist) * torch.sigmoid((q - (uterus.isthmus + 0.15)) / 0.055)


def coordinates(pelvis: Pelvis, grid: Grid) -> UterineCoordinates:
    """Place of every point of a grid in the uterus."""
    uterus = pelvis.uterus
    s, n = project_on(uterus.axis, grid)
    x = grid.x - uterus.deviation * (s / uterus.length).clamp(0, 1)
    wide = 1 + (uterus.flatness - 1) * torch.sigmoid((s / uterus.length - uterus.isthmus) / 0.06)
    rho = torch.hypot(n, x / wide)
    outer = radius(uterus, s)
    top, bottom = uterus.length - 0.95 * uterus.body, 0.55 * uterus.cervix
    beyond = (s - top).clamp_min(0) + (bottom - s).clamp_min(0) * 1.15
    distance = torch.hypot(rho, beyond) - outer
    steep = torch.hypot(n, x / wide.square()).div_(rho.clamp_min(1e-3)).clamp_min_(0.6)  # |gradient| of rho
    distance = distance.div_(steep.clamp_max_(1.0)) + uterus.unevenness.on(grid)
    for fibroid in uterus.fibroids:
        if fibroid.bulge > 0:
            distance = _smooth_minimum(distance, _fibroid_distance(uterus, fibroid, s, n, x) - 1.5, 4.0)
    if uterus.scar:
        notch = torch.exp(-(((s / uterus.length - uterus.isthmus) / 0.05) ** 2)) * (n < 0)
        distance = distance + uterus.scar * 0.5 * notch * torch.exp(-((x / 12) ** 2))
    return UterineCoordinates(s, n, x, rho, distance)


def _smooth_minimum(a: Tensor, b: Tensor, width: float) -> Tensor:
    """The smaller of two distances, with a fillet of about `width` mm where they meet."""
    h = (0.5 + 0.5 * (b - a) / width).clamp_(0, 1)
    return b + (a - b) * h - width * h * (1 - h)


def _fibroid_distance(uterus: Uterus, fibroid: Fibroid, s: Tensor, n: Tensor, x: Tensor) -> Tensor:
    """Signed distance to a fibroid; it sits in the wall, or stands out by `bulge` of its diameter."""
    place = torch.tensor(fibroid.site * uterus.length)
    outer = float(radius(uterus, place))
    depth = outer - fibroid.radius - 1.5 + 2 * fibroid.bulge * fibroid.radius
    across = torch.tensor(fibroid.angle)
    back, side = depth * torch.cos(across), depth * torch.sin(across) * uterus.flatness
    flat = (s - place).square() + (n - back).square()
    return (flat + (x - side).square()).sqrt_() - fibroid.radius


def thickness(uterus: Uterus, s: Tensor, invasion: Invasion | None = None) -> Tensor:
    """Half thickness of the endometrium with what lies in the cavity at `s` (mm), any shape; the junction is there."""
    q = s / uterus.length
    top = 1 - (uterus.body * 0.62) / uterus.length
    profile = torch.sigmoid((q - uterus.isthmus - 0.06) / 0.035) * torch.sigmoid((top - q) / 0.03 + 2)
    half = 0.5 * uterus.endometrium * profile
    if uterus.polyp:
        half = torch.maximum(half, 0.9 * uterus.polyp * _bump(q, uterus.polyp_site, 1.1 * uterus.polyp / uterus.length))
    if invasion is not None and invasion.present:
        swelling = 0.5 * invasion.thickness_mm * _bump(q, invasion.site, 0.55 * invasion.width_mm / uterus.length)
        half = half + swelling
    return half.clamp_max(0.72 * uterus.body)


def _bump(q: Tensor, centre: float, width: float) -> Tensor:
    return torch.exp(-(((q - centre) / max(width, 1e-3)) ** 2))


def _flat_distance(at: UterineCoordinates, uterus: Uterus, half: Tensor, width: Tensor) -> Tensor:
    """Signed distance to a flat body about the axis: half thickness `half`, half width `width`, closed at both ends."""
    top, bottom = uterus.length - 0.72 * uterus.body, uterus.isthmus * uterus.length
    cap = torch.where(at.s > top, 0.25 * uterus.body, 4.0)  # mm over which it closes
    end = ((at.s - top).clamp_min(0) + (bottom - at.s).clamp_min(0)) / cap
    half, width = half.clamp_min(0.3), width.clamp_min(0.6)
    thin, wide = (at.n / half).square(), (at.x / width).square()
    q = (thin + wide + end.square()).sqrt_()
    slope = ((thin / half.square()) + wide / width.square() + (end / cap).square()).sqrt_().clamp_min_(1e-4)
    return (q - 1) * q.clamp_min(1e-3) / torch.maximum(slope, q / (3 * half + 6))


def _cavity_width(uterus: Uterus, s: Tensor) -> Tensor:
    """Half width of the triangular cavity at `s` (mm)."""
    q = ((s / uterus.length - uterus.isthmus) / (0.86 - uterus.isthmus)).clamp(0, 1)
    return 1.5 + uterus.cavity * q


def wall(pelvis: Pelvis, at: UterineCoordinates, grid: Grid, invasion: Invasion | None = None) -> Iterator[Region]:
    """The layers of the uterus and what grows in it, from the outside in.

    Args:
        pelvis: The patient.
        at: Coordinates of the grid's points.
        grid: The same grid, for the unevenness of lesions.
        invasion: The tumour; None for none.
    """
    uterus = pelvis.uterus
    yield Region("myometrium_outer", at.distance, organ="uterus", edge=0.4)
    yield Region("myometrium", at.distance + 0.3 * uterus.body, organ=None, edge=2.0)
    half, width = thickness(uterus, at.s, invasion), _cavity_width(uterus, at.s)
    endometrium = _flat_distance(at, uterus, half, width + half)
    zone = torch.full_like(at.s, uterus.junction)
    if uterus.adenomyosis:
        side = torch.sigmoid(at.n * uterus.adenomyosis_side / 2)
        zone = zone + uterus.adenomyosis * side * _bump(at.s / uterus.length, 0.72, 0.2)
    inside = at.distance + 1.5  # the zone never reaches the serosa
    junction = torch.maximum(endometrium - zone, inside)
    yield Region("junctional_zone", junction, organ="junctional zone", edge=1.6 if uterus.adenomyosis else 0.7)
    if uterus.adenomyosis:
        patch = torch.maximum(junction, 3 - (at.n * uterus.adenomyosis_side)) + pelvis.waves["lesion"].on(grid)
        yield Region("adenomyosis", patch, organ=None, edge=1.5, opacity=0.7)
        yield from _adenomyotic_cysts(uterus, at, half)
    for fibroid in uterus.fibroids:
        lump = _fibroid_distance(uterus, fibroid, at.s, at.n, at.x) + 0.6 * pelvis.waves["lesion"].on(grid)
        yield Region("fibroid_rim", lump - 0.8, organ="fibroid", edge=0.5, opacity=0.8)
        yield Region("fibroid", lump, organ="fibroid", edge=0.6)
    yield from _cervix(pelvis, at)
    if invasion is not None and invasion.present:
        rough = pelvis.waves["lesion"].on(grid)
        eaten = _front(uterus, at, half, invasion, rough, 3.0)
        lost = torch.maximum(eaten, torch.maximum(junction, -endometrium))
        yield Region("myometrium", lost, organ=None, edge=0.7, opacity=invasion.interruption)
    yield Region(f"endometrium_{uterus.phase}", endometrium, organ="endometrium", edge=0.4)
    line = torch.maximum(at.n.abs() - 0.3, endometrium + 0.35 * half)
    yield Region("cavity", line, organ=None, edge=0.3)
    if uterus.polyp:
        lump = _ball(
            at, uterus.polyp_site * uterus.length, 0.15 * uterus.polyp, uterus.polyp * 1.35, uterus.polyp * 0.85
        )
        yield Region("polyp", torch.maximum(lump, endometrium), organ="polyp", edge=0.4)
    if invasion is not None and invasion.present:
        yield from _tumour(uterus, at, half, endometrium, invasion, rough)


def _adenomyotic_cysts(uterus: Uterus, at: UterineCoordinates, half: Tensor) -> Iterator[Region]:
    for site, depth, sideways, size in uterus.cysts:
        place = torch.tensor(site * uterus.length)
        level = float(thickness(uterus, place)) + depth * (uterus.junction + uterus.adenomyosis)
        centre = uterus.adenomyosis_side * level
        flat = (at.s - place).square() + (at.n - centre).square()
        ball = (flat + (at.x - sideways).square()).sqrt_() - size
        box = bounds(ball, 1.5)
        if box is not None:
            yield Region("adenomyotic_cyst", ball[box], box, edge=0.3)


def _cervix(pelvis: Pelvis, at: UterineCoordinates) -> Iterator[Region]:
    """Stroma as a dark ring, mucosa and mucus along the canal, up to the isthmus."""
    uterus = pelvis.uterus
    below = at.s - uterus.isthmus * uterus.length
    yield Region("cervix", torch.maximum(at.distance, below), organ="cervix", edge=0.5)
    yield Region("cervix_stroma", torch.maximum(at.distance + 2.6, below - 2), organ="cervix", edge=0.9)
    open_ends = torch.maximum(below - 6, 1.0 - at.s)
    folds = 0.3 * torch.sin(at.s * 2.1 + 0.9 * torch.sin(at.s * 0.7)) * at.n.sign()  # plicae palmatae, about every 3 mm
    yield Region("cervix_mucosa", torch.maximum(at.rho - 2.5 + folds, open_ends), organ="cervix", edge=0.5)
    yield Region("mucus", torch.maximum(at.rho - 0.8, open_ends), organ=None, edge=0.4)


def _ball(at: UterineCoordinates, s: float, n: float, long: float, thin: float) -> Tensor:
    """Signed distance (about) to an ellipsoid of half axes `long` (along the axis and sideways) and `thin`."""
    q = (((at.s - s) / long).square() + ((at.n - n) / thin).square() + (at.x / long).square()).sqrt_()
    return (q - 1) * min(long, thin)


def wall_depth(uterus: Uterus, invasion: Invasion) -> float:
    """Wall thickness at the tumour's site, junction to serosa, in mm."""
    s = torch.tensor(invasion.site * uterus.length)
    return float(radius(uterus, s) - thickness(uterus, s, invasion))


def _front(
    uterus: Uterus, at: UterineCoordinates, half: Tensor, invasion: Invasion, unevenness: Tensor, margin: float
) -> Tensor:
    """Signed distance to the part of a tumour that is in the wall, plus a margin; its deepest point is the reach."""
    depth = max(invasion.reach * wall_depth(uterus, invasion), 0.05) + margin
    long = 0.42 * invasion.width_mm + margin
    inward = at.n * invasion.side - half  # mm beyond the junction
    lateral = torch.hypot((at.s - invasion.site * uterus.length) / long, at.x / long)
    inside = torch.hypot(inward.clamp_min(0) / depth, lateral)
    rough = invasion.roughness_mm * unevenness.abs() * lateral.clamp_max(1).square()  # only ever less deep
    return torch.maximum((inside - 1) * min(depth, long) + rough, -inward - 1)


def _tumour(
    uterus: Uterus, at: UterineCoordinates, half: Tensor, endometrium: Tensor, invasion: Invasion, rough: Tensor
) -> Iterator[Region]:
    """In the cavity, and as far into the wall as it reaches."""
    lump = _ball(at, invasion.site * uterus.length, 0.0, 0.5 * invasion.width_mm, max(invasion.thickness_mm, 1.0))
    yield Region("carcinoma", torch.maximum(lump, endometrium), organ="tumour", edge=0.6, opacity=invasion.contrast)
    if invasion.reach > 0:
        front = _front(uterus, at, half, invasion, rough, 0.0)
        yield Region("carcinoma", front, organ="tumour", edge=0.6, opacity=invasion.contrast)

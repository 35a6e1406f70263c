"""The bony pelvis: sacrum and coccyx with discs and canal, pubic bones, hips, and how they vary between patients.

Positions are of a typical adult woman lying on her back, relative to the external os of the cervix; assumptions within
the ranges of pelvimetry (true conjugate 11-13 cm, sacrum 10-12 cm long, 5-6 cm deep where it is hollow).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmkd.simulate import curves, shapes
from xmkd.simulate.curves import Curve
from xmkd.simulate.grids import Box, Grid
from xmkd.simulate.scene import Region
from xmkd.simulate.shapes import Point3

_LUMBAR = 68.0  # mm of the lumbar spine above the promontory
# Discs along the curve, as a fraction of the length from promontory to tip; thickness of the bodies behind its front.
_DISCS = (-0.47, -0.045, 0.215, 0.385, 0.53, 0.65, 0.755, 0.85, 0.93)
_DEPTH = ((-0.5, 33), (-0.06, 34), (0.0, 31), (0.2, 22), (0.38, 17), (0.55, 13), (0.75, 9), (0.87, 8), (1.0, 4))
_CANAL = ((-0.5, 14), (0.0, 13), (0.3, 10), (0.55, 6), (0.72, 3), (0.8, -3), (1.0, -6))
_WIDTH = (
    (-0.5, 24),
    (-0.1, 26),
    (-0.03, 48),
    (0.12, 56),
    (0.35, 47),
    (0.5, 36),
    (0.64, 25),
    (0.75, 17),
    (0.8, 9),
    (1.0, 5),
)


@dataclass(frozen=True)
class Bones:
    """The bony pelvis of one patient; lengths in mm, angles in rad.

    Attributes:
        spine: Front surface of the spine from the fourth lumbar body (or so) down to the tip of the coccyx.
        thickness: Factor on the depth of the bodies.
        disc: Factor on the height of the discs.
        symphysis: y, z of its middle.
        inclination: Of its long axis from the horizontal, falling to the back.
        size: Half its length and half its thickness.
        width: Factor on everything from left to right.
        shift: The left side against the right: y and z.
        back: How far the sacrum lies behind its usual place.
    """

    spine: Curve
    thickness: float
    disc: float
    symphysis: tuple[float, float]
    inclination: float
    size: tuple[float, float]
    width: float
    shift: tuple[float, float]
    back: float = 0.0

    def beside(self, at: float, n: float) -> tuple[float, float]:
        """Where a place of the spine is (0 promontory, 1 tip), `n` mm behind its front: y, z."""
        return self.spine.beside(_LUMBAR + at * (self.spine.length - _LUMBAR), -n)

    @property
    def tip(self) -> tuple[float, float]:
        """Where the coccyx ends: y, z."""
        y, z = self.spine.points[-1].tolist()
        return y, z


def draw(rng: np.random.Generator) -> Bones:
    """Draw the bones of a patient; the number of draws is fixed."""
    normal = rng.normal(size=20)
    length = float(np.clip(134 + 8 * normal[0], 116, 152))
    promontory = (30 + 6 * normal[1], 92 + 5 * normal[2])
    slope = np.deg2rad(56 + 8 * normal[3])  # of the first sacral body, from the vertical towards the back
    bend = np.deg2rad(-16 + 8 * normal[4])  # of the last one
    coccyx = np.deg2rad(-30 - 14 * abs(normal[5]) - 8 * normal[6])
    t = np.linspace(0, 1, 81)
    even = float(np.clip(1.0 + 0.3 * normal[7], 0.5, 1.7))  # how early the sacrum bends
    angle = slope + (bend - slope) * np.clip(t / 0.76, 0, 1) ** even
    angle += coccyx * np.clip((t - 0.74) / 0.2, 0, 1) + np.deg2rad(4 * normal[8]) * np.sin(9 * t)
    # At the promontory the axis bends over two bodies; the sharp edge is their front's alone.
    angle = angle - 0.35 * slope * np.exp(-t * length / 30)
    above = np.linspace(0, _LUMBAR, 17)[1:]
    lumbar = np.deg2rad(6 + 7 * normal[9]) - 0.3 * above / _LUMBAR  # lordosis
    lumbar += (angle[0] - np.deg2rad(6 + 7 * normal[9])) * np.exp(-above / 46)
    steps = np.stack((np.sin(angle), -np.cos(angle)), 1) * length / 80
    down = np.asarray(promontory) + np.concatenate((np.zeros((1, 2)), np.cumsum(steps[:-1], 0)))
    up = np.asarray(promontory) - np.cumsum(np.stack((np.sin(lumbar), -np.cos(lumbar)), 1) * _LUMBAR / 16, 0)
    points = np.concatenate((up[::-1], down))
    # Many points: behind a hollow bend, what is drawn beside a line of few has steps.
    spine = curves.smooth([(float(y), float(z)) for y, z in points], 90)
    return Bones(
        spine=spine,
        thickness=float(np.clip(1 + 0.08 * normal[10], 0.8, 1.2)),
        disc=float(np.clip(1 + 0.25 * normal[11], 0.5, 1.5)),
        symphysis=(-67.0 + 3 * normal[12], -19.0 + 3 * normal[13]),
        inclination=float(np.deg2rad(47 + 7 * normal[14])),
        size=(19.0 + 1.5 * normal[15], 7.6 + 0.8 * normal[16]),
        width=float(np.clip(1 + 0.05 * normal[17], 0.88, 1.12)),
        shift=(1.5 * normal[18], 1.5 * normal[19]),
    )


def regions(bones: Bones, grid: Grid) -> Iterator[Region]:
    """Hips, pubic bones and spine; organs give way to them."""
    for side in (-1.0, 1.0):
        yield from _ilium(bones, side, grid)
        for name, points, radii in _limbs(bones, side):
            margin = 3.0 if name == "superior" else 0.0
            yield from _bone(grid, shapes.around(points, max(radii) + 6), _tube(points, radii, name), margin)
    yield from _pubis(bones, grid)
    yield from _spine(bones, grid)


def _profile(table: Sequence[tuple[float, float]], at: Tensor) -> Tensor:
    """Linear interpolation in a table, with its ends held."""
    x, y = (torch.tensor(column, dtype=torch.float32) for column in zip(*table, strict=True))
    k = torch.searchsorted(x, at.contiguous()).clamp_(1, len(x) - 1)
    t = ((at - x[k - 1]) / (x[k] - x[k - 1])).clamp_(0, 1)
    return y[k - 1] + t * (y[k] - y[k - 1])


def _spine(bones: Bones, grid: Grid) -> Iterator[Region]:
    """Sacrum, coccyx and the last lumbar bodies, in a little fat."""
    ys, zs = bones.spine.points.T.tolist()
    box = grid.box((-62, 62), (min(ys) - 8, max(ys) + 50), (min(zs) - 8, max(zs)))
    if box is None:
        return
    part = grid.crop(box)
    s, n = curves.project_on(bones.spine, part)
    length = bones.spine.length - _LUMBAR
    s = (s - _LUMBAR) / length  # 0 at the promontory, 1 at the tip
    n = -n  # the line runs to the feet: behind it is on its left
    wide = part.x.abs() / bones.width
    depth, canal, width = (_profile(t, s) for t in (_DEPTH, _CANAL, _WIDTH))
    depth = depth * bones.thickness
    gaps = torch.stack([(s - d).abs() * length - 0.5 * _height(d, bones) for d in _DISCS]).amin(0)
    waist = 1.6 * torch.exp(-(gaps / 7.0).square()) - 0.6  # bodies are a little hollow at the front
    ala = (wide - 24).clamp_(min=0)
    wing = _profile(((-0.06, 0.0), (0.02, 1.0), (0.6, 0.6), (0.75, 0.0)), s)
    waist = waist + 3.5 * torch.exp(-(((s + 0.01) * length / 9) ** 2))  # the promontory
    front = (n + waist) - 0.0030 * wide.square() * wing
    body = torch.maximum(-front, front - (depth + 0.35 * ala * wing))
    body = torch.maximum(body, wide - width)
    body = torch.maximum(body, (s - 1) * length + 1)
    yield Region("peritoneal_fat", body - 1.5, box, "background", 0.7)
    yield Region("cortical_bone", body, box, "bone", 0.35)
    inner = torch.maximum(body + 1.5, torch.minimum(1.1 - gaps, 22 - wide))
    yield Region("marrow", inner, box, "bone", 0.4)
    disc = torch.maximum(torch.maximum(gaps + 0.5, body + 1.0), wide - 24)
    yield Region("disc", disc, box, None, 0.4)
    hole = _profile(((0.0, 27.0), (0.55, 15.0)), s)
    foramen = (((s - _nearest(s)) * length).square() + (wide - hole).square()).sqrt_()
    foramen = foramen - _profile(((0.2, 5.0), (0.55, 3.0)), s)
    foramen = torch.maximum(foramen, torch.maximum((s - 0.6) * 100, (0.1 - s) * 100))
    foramen = torch.maximum(foramen, torch.maximum(-front - 1, front - depth - 26))
    yield Region("peritoneal_fat", foramen, box, "background", 0.5)
    yield Region("nerve", foramen + 2.6, box, None, 0.5)
    yield from _behind_bodies(box, s, front, depth, canal, wide)


def _behind_bodies(box: Box, s: Tensor, front: Tensor, depth: Tensor, canal: Tensor, wide: Tensor) -> Iterator[Region]:
    """Sacral canal, arches and spinous crest."""
    behind = front - depth
    middle, half = 0.5 * canal, (0.5 * canal).clamp_min(0.5)
    across = torch.hypot(behind - middle, wide * 0.62)  # canal and arch are wider than deep
    arch = torch.maximum(across - half - 5.0, 1 - behind)
    yield Region("cortical_bone", torch.maximum(arch, (s - 0.74) * 100), box, "bone", 0.4)
    crest = torch.maximum(torch.hypot(behind - canal - 5.5, wide * 0.8) - 3.2, (s - 0.70) * 100)
    yield Region("marrow", crest, box, "bone", 0.5)
    hollow = torch.maximum(across - half, (s - 0.76) * 100)
    yield Region("peritoneal_fat", hollow, box, "background", 0.4)
    sac = torch.maximum(torch.hypot(behind - 0.9 * middle, wide * 0.7) - 0.68 * middle, (s - 0.36) * 60)
    yield Region("csf", sac, box, None, 0.5)
    roots = torch.maximum((behind - 1.2 * middle).abs() - 0.2 * middle, (s - 0.30) * 60)
    yield Region("nerve", torch.maximum(roots, wide - 0.5 * canal), box, None, 0.6, 0.75)


def _height(disc: float, bones: Bones) -> float:
    """Disc height in mm: full ones above the sacrum, remnants within it."""
    return 10.0 * bones.disc if disc < 0.1 else (3.2 * bones.disc if disc < 0.3 else 1.8)


def _nearest(s: Tensor) -> Tensor:
    """The sacral disc nearest to a place along the sacrum."""
    discs = torch.tensor(_DISCS[2:6])
    return discs[(s[..., None] - discs).abs().argmin(-1)]


# The wing of the ilium at a height (mm): x, y of its front and of its back end.
_WING_FRONT = ((22, (72, -28)), (45, (88, -32)), (95, (124, -46)), (112, (126, -24)), (128, (112, 12)))
_WING_BACK = ((22, (66, 24)), (40, (64, 40)), (60, (62, 62)), (95, (50, 82)), (112, (56, 74)), (128, (92, 40)))


def wing(bones: Bones, side: float, part: Grid) -> tuple[Tensor, Tensor]:
    """Where points lie about the wing of an ilium.

    Returns:
        Distance to its middle sheet (mm), and signed offset from it, positive to the outside, `(X, P, Q)` each.
    """
    dy, dz = bones.shift if side > 0 else (0.0, 0.0)
    z = part.z - dz
    (ax, ay), (bx, by) = (
        [_profile([(h, xy[k]) for h, xy in table], z) for k in (0, 1)] for table in (_WING_FRONT, _WING_BACK)
    )
    ax, bx, by = ax * bones.width, bx * bones.width, by + bones.back
    px, py = side * part.x - ax, part.y - dy - ay
    ux, uy = bx - ax, by - ay
    size = torch.hypot(ux, uy)
    ux, uy = ux / size, uy / size
    along, across = px * ux + py * uy, px * uy - py * ux
    across = across + 9.0 * (1 - (2 * along / size - 1).square().clamp(max=1))  # it is hollow on the inside
    beyond = (-along).clamp_min(0) + (along - size).clamp_min(0) + (22 - z).clamp_min(0) + (z - 128).clamp_min(0)
    return torch.hypot(across, beyond), across


def _ilium(bones: Bones, side: float, grid: Grid) -> Iterator[Region]:
    limits = ((30.0, 150.0) if side > 0 else (-150.0, -30.0), (-80.0, 110.0 + bones.back), (14.0, 142.0))

    def distance(part: Grid, _: Box) -> Tensor:
        thick = _profile(((22, 11.0), (50, 5.0), (90, 5.5), (110, 7.5), (140, 7.0)), part.z)
        return wing(bones, side, part)[0] - thick

    yield from _bone(grid, limits, distance)


def _limbs(bones: Bones, side: float) -> Iterator[tuple[str, list[Point3], list[float]]]:
    """Rami, ischium, ilium and femur of one side."""
    sy, sz = bones.symphysis
    dy, dz = bones.shift if side > 0 else (0.0, 0.0)

    def at(x: float, y: float, z: float) -> Point3:
        return (side * x * bones.width, y + dy, z + dz)

    yield "ischium", [at(62, 14, 22), at(58, 20, -12), at(54, 14, -44), at(54, 6, -62)], [13.0, 11.0, 12.0, 13.0]
    yield "spine", [at(56, 24, -2), at(47, 34, -8)], [7.0, 3.0]
    yield "superior", [at(18, sy + 6, sz + 8), at(38, sy + 12, sz + 20), at(62, sy + 30, sz + 32)], [11.0, 10.0, 14.0]
    yield "inferior", [at(11, sy + 10, sz - 11), at(24, sy + 26, sz - 28), at(46, sy + 62, sz - 46)], [9.0, 8.5, 9.5]
    yield "socket", [at(70, -10, 6), at(66, 4, 8)], [23.0, 20.0]
    yield "femur", [at(90, -14, 6), at(90.1, -14, 6)], [22.5, 22.5]
    yield "femur", [at(92, -14, 5), at(118, -4, -14), at(124, 0, -40), at(118, -6, -130)], [16.0, 13.0, 17.0, 14.0]


def _tube(points: list[Point3], radii: list[float], name: str) -> Callable[[Grid, Box], Tensor]:
    tube = shapes.thick_tube if min(radii) > 5 else shapes.tube
    return lambda part, _: tube(part, points, radii, flat=0.75 if name in ("superior", "ischium") else 1.0)


def _bone(
    grid: Grid, limits: shapes.Limits, distance: Callable[[Grid, Box], Tensor], margin: float = 0.0
) -> Iterator[Region]:
    """Cortex and marrow of a solid, in `margin` mm of fat."""
    cortex = shapes.region(grid, limits, "cortical_bone", distance, organ="bone", edge=0.4)
    if cortex is not None:
        if margin:
            yield Region("peritoneal_fat", cortex.distance - margin, cortex.box, "background", 0.6)
        yield cortex
        yield Region("marrow", cortex.distance + 2.2, cortex.box, "bone", 0.5)


def _pubis(bones: Bones, grid: Grid) -> Iterator[Region]:
    """Both pubic bodies and the disc between them, in a little fat."""
    (sy, sz), (length, thickness) = bones.symphysis, bones.size
    for side in (-1.0, 1.0):
        centre = (side * 15.0 * bones.width, sy + 1, sz)

        def distance(part: Grid, _: Box, centre: Point3 = centre) -> Tensor:
            tilted = shapes.ellipsoid(part, centre, (15.5, 1.12 * length, 1.18 * thickness), -bones.inclination)
            return torch.maximum(tilted, 2.2 - part.x.abs())

        yield from _bone(grid, shapes.around([centre], length + 8), distance, 3.0)
    disc = shapes.region(
        grid, shapes.around([(0.0, sy, sz)], length + 4), "ligament",
        lambda part, _: torch.maximum(
            shapes.ellipsoid(part, (0.0, sy, sz), (40.0, length, thickness), -bones.inclination), part.x.abs() - 3.2),
        edge=0.5,
    )  # fmt: skip
    if disc is not None:
        yield disc
        core = torch.maximum(disc.distance + 2.2, grid.crop(disc.box).x.abs() - 2.2)
        yield Region("disc", core, disc.box, None, 0.8, 0.8)

"""Muscles of pelvis and wall, pelvic floor and ligaments, iliac vessels: soft parts about the central organs.

Positions are assumptions from sectional anatomy; each point is moved by a draw of the patient, other on each side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmkd.simulate import shapes
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.bones import Bones, wing
from xmkd.simulate.curves import Curve
from xmkd.simulate.grids import Box, Grid
from xmkd.simulate.scene import Region
from xmkd.simulate.shapes import Point3
from xmkd.simulate.waves import Waves

_JITTER = 3.0  # mm, SD of every point of a muscle or vessel


@dataclass(frozen=True)
class Muscles:
    """What varies between patients.

    Attributes:
        bulk: Factor on the thickness of muscles.
        floor: Sag of the levator plate, mm.
        jitter: Shifts in mm, `(2, 64, 3)`: side, point, axis.
        waves: Unevenness of their surfaces, and bends of sheets.
    """

    bulk: float
    floor: float
    jitter: np.ndarray
    coarse: Waves
    fine: Waves


@dataclass(frozen=True)
class Relief:
    """Unevenness of surfaces on a whole grid in mm, `(X, P, Q)` each: computed once, cut to every box."""

    coarse: Tensor
    fine: Tensor


def relief(muscles: Muscles, grid: Grid) -> Relief:
    """The unevenness of a patient's muscles, vessels and bowel on a grid."""
    return Relief(muscles.coarse.on(grid), muscles.fine.on(grid))


def limbs(muscles: Muscles, side: int, back: float) -> Iterator[tuple[str, list[Point3], list[float], float]]:
    """Muscles that are tubes, of one side: tissue, points, radii, width over thickness.

    Args:
        muscles: The patient's.
        side: 0 right, 1 left.
        back: How far the sacrum lies behind its usual place, mm.
    """
    sign, shift, k = (1.0 if side else -1.0), _JITTER * muscles.jitter[side], muscles.bulk
    count = iter(range(len(shift)))

    def at(x: float, y: float, z: float) -> Point3:
        dx, dy, dz = shift[next(count)]
        return sign * (x + float(dx)), y + float(dy), z + float(dz)

    yield "muscle", [at(46, 12, 140), at(56, -14, 84), at(72, -40, 38), at(84, -48, 0), at(94, -30, -40)], [
        19 * k, 17 * k, 16 * k, 15 * k, 10 * k], 0.85  # fmt: skip
    yield "gluteal_muscle", [at(18, -54, -46), at(32, -52, -80), at(46, -46, -130)], [12 * k, 22 * k, 32 * k], 1.0
    yield "gluteal_muscle", [at(30, -64, -2), at(48, -60, -44), at(62, -58, -110)], [5 * k, 13 * k, 17 * k], 1.0
    yield "gluteal_muscle", [at(20, -30, -52), at(34, -8, -84), at(44, 0, -130)], [6 * k, 13 * k, 20 * k], 1.0
    yield "gluteal_muscle", [at(56, 18, -70), at(62, 22, -140)], [10 * k, 20 * k], 1.0
    yield "gluteal_muscle", [at(26, -48, -36), at(50, -26, -40), at(92, 12, -18)], [
        12 * k, 15 * k, 8 * k], 1.3  # fmt: skip
    yield "gluteal_muscle", [at(96, -56, 20), at(104, -52, -60), at(104, -50, -130)], [
        12 * k, 26 * k, 34 * k], 1.0  # fmt: skip
    for high, deep in ((0.0, 8.0 + back), (-30.0, 4.0 + 0.8 * back), (-58.0, -8.0 + 0.5 * back)):
        points = [at(26, 92 + deep, 72 + high), at(64, 86 + deep, 30 + high), at(114, 44 + 0.5 * deep, -4 + high)]
        yield "gluteal_muscle", points, [11 * k, 15 * k, 10 * k], 1.3
    yield "gluteal_muscle", [at(126, -18, 60), at(128, -8, 26), at(124, 0, -6)], [17 * k, 15 * k, 7 * k], 0.8
    yield "muscle", [at(112, -62, 74), at(112, -74, 10), at(116, -66, -70)], [4 * k, 9 * k, 12 * k], 1.5


def vessels(muscles: Muscles, side: int) -> Iterator[tuple[str, list[Point3], list[float]]]:
    """Iliac arteries and veins of one side, with the sacrum `back` mm behind its usual place: tissue, points, radii."""
    sign, shift = (1.0 if side else -1.0), _JITTER * muscles.jitter[side, 40:]
    count = iter(range(len(shift)))

    def at(x: float, y: float, z: float) -> Point3:
        dx, dy, dz = shift[next(count)]
        return sign * (x + float(dx)), y + float(dy), z + float(dz)

    fork = at(30, 24, 96)
    yield "vessel", [at(18, 32, 130), at(33, 32, 92), at(47, 4, 62), at(60, -34, 30), at(70, -56, 8)], [7, 6.5, 6, 6, 6]
    yield "artery", [at(16, 22, 132), fork, at(46, -10, 66), at(60, -42, 34), at(72, -62, 8)], [5, 4.6, 4.2, 4.0, 4.0]
    yield "artery", [fork, at(38, 38, 64), at(46, 40, 38)], [4.0, 3.2, 2.6]
    yield "vessel", [at(34, 36, 90), at(43, 48, 62), at(50, 42, 30)], [4.5, 4.2, 3.4]


def regions(muscles: Muscles, bones: Bones, uneven: Relief, grid: Grid) -> Iterator[Region]:
    """Muscles of both sides."""
    for side in (0, 1):
        for tissue, points, radii, flat in limbs(muscles, side, bones.back):
            yield from shapes.tube_region(grid, tissue, points, radii, flat=flat, uneven=(uneven.coarse, 1.0), edge=0.6)
        yield from _on_wing(muscles, bones, uneven, side, grid)
        yield from _side_wall(muscles, uneven, side, grid)
        yield from _piriformis(muscles, bones, uneven, side, grid)


def iliac(muscles: Muscles, uneven: Relief, grid: Grid) -> Iterator[Region]:
    """Iliac vessels of both sides: a thin dark wall about the lumen."""
    for side in (0, 1):
        for tissue, points, radii in vessels(muscles, side):
            for wall in shapes.tube_region(grid, "ligament", points, radii, uneven=(uneven.fine, 0.4)):
                yield wall
                yield Region(tissue, wall.distance + 0.9, wall.box, None, 0.4)


def _on_wing(muscles: Muscles, bones: Bones, uneven: Relief, side: int, grid: Grid) -> Iterator[Region]:
    """Iliacus on the inside of the wing of the ilium, gluteus medius and minimus on its outside."""
    sign, k = (1.0 if side else -1.0), muscles.bulk
    limits = ((34.0, 176.0) if side else (-176.0, -34.0), (-84.0, 96.0 + bones.back), (10.0, 140.0))
    box = shapes.box_of(grid, limits)
    if box is None:
        return
    part = grid.crop(box)
    sheet, outward = wing(bones, sign, part)
    rough = uneven.coarse[box]
    ends = (sheet.square() - outward.square()).clamp_min(0).sqrt()  # beyond the ends of the sheet
    outside = torch.maximum((outward - 17 * k).abs() - 14 * k, ends - 8) + rough
    near = torch.maximum(part.z - 118, 64 - part.x.abs())  # the back ends lie on the sacrum
    yield Region("gluteal_muscle", torch.maximum(outside, near), box, None, 0.7)
    inside = torch.maximum((outward + 10 * k).abs() - 8 * k, ends - 2) + rough
    yield Region("muscle", torch.maximum(inside, near), box, None, 0.7)


def _side_wall(muscles: Muscles, uneven: Relief, side: int, grid: Grid) -> Iterator[Region]:
    """Obturator internus: a plate that lines the side wall and bulges inwards."""
    sign = 1.0 if side else -1.0
    dx, dy, dz = (2.0 * muscles.jitter[side, -1]).tolist()
    centre = (sign * (58.0 + 0.5 * dx), -8.0 + dy, -8.0 + dz)
    axes = (13.0 * muscles.bulk, 44.0, 33.0)

    def distance(part: Grid, box: Box) -> Tensor:
        return shapes.ellipsoid(part, centre, axes, 0.45).add_(uneven.coarse[box], alpha=1.4)

    found = shapes.region(grid, shapes.around([centre], 48), "muscle", distance, edge=0.6)
    if found is not None:
        yield found


def _piriformis(muscles: Muscles, bones: Bones, uneven: Relief, side: int, grid: Grid) -> Iterator[Region]:
    """From the front of the sacrum through the sciatic notch: a flat wedge that lies on the bone."""
    sign, k = (1.0 if side else -1.0), muscles.bulk
    (ay, az), (by, bz) = bones.beside(0.34, -5.0), bones.beside(0.56, -6.0)
    for y, z, r in ((ay, az, 7.0 * k), (by, bz, 6.0 * k)):
        points: list[Point3] = [(sign * 20, y, z), (sign * 46, y - 6, z - 9), (sign * 84, 36, 16), (sign * 116, 16, 0)]
        radii = [0.5 * r, r, r, 0.5 * r]
        yield from shapes.tube_region(grid, "gluteal_muscle", points, radii, uneven=(uneven.coarse, 1.0), edge=0.7)


def floor(muscles: Muscles, bones: Bones, pelvis: Pelvis, bowel: Curve, uneven: Relief, grid: Grid) -> Iterator[Region]:
    """Levator ani as a bowl with its hiatus, puborectal sling, anal sphincter and perineal body."""
    (ay, az), _ = bowel.at(38.0)  # about where the rectum becomes the anal canal
    yield from _levator(muscles, bones, (ay, az), uneven, grid)
    for side in (-1.0, 1.0):
        sling = [
            (side * 9, -50.0, -34.0),
            (side * 17, -24.0, az - 1),
            (side * 14, ay + 4, az - 3),
            (0.0, ay + 15, az - 3),
        ]
        radii = [2.5, 4.0, 4.5, 5.0]
        yield from shapes.tube_region(grid, "muscle", sling, radii, flat=0.8, uneven=(uneven.fine, 0.8), edge=0.7)
    yield from _anus(pelvis, bowel, uneven, grid)


def _levator(
    muscles: Muscles, bones: Bones, junction: tuple[float, float], uneven: Relief, grid: Grid
) -> Iterator[Region]:
    (ay, az), (tip_y, tip_z), sag = junction, bones.tip, muscles.floor
    limits = (-58, 58), (-50, tip_y + 12), (min(az, tip_z) - 34 - abs(sag), max(az, tip_z) + 42)
    box = shapes.box_of(grid, limits)
    if box is None:
        return
    part = grid.crop(box)
    wide = part.x.abs()
    slope = min(max((tip_z - az + 3) / max(tip_y - ay - 8, 12.0), -0.3), 0.8)
    plate = az - 3 + slope * (part.y - ay - 8).clamp(-30, 60) + sag * torch.sin((part.y - ay) / 11.0)
    rise = 0.012 * wide.square() + 0.10 * wide  # to the arch on the obturator internus
    height = part.z - (plate + rise) - 0.6 * uneven.coarse[box]
    half = 2.0 * muscles.bulk + 0.5 * uneven.fine[box] + 0.9 * torch.sigmoid((12 - wide) / 3)
    sheet = height.abs().mul_(0.86).sub_(half)
    sheet = torch.maximum(sheet, torch.maximum(part.y - tip_y - 2, wide - 52))
    sheet = torch.maximum(sheet, -42 - part.y - 0.2 * wide)
    sheet = torch.maximum(sheet, torch.minimum(18 - wide, ay + 8 - part.y))  # the hiatus
    yield Region("muscle", sheet, box, None, 0.7)


def _anus(pelvis: Pelvis, bowel: Curve, uneven: Relief, grid: Grid) -> Iterator[Region]:
    """The sphincters about the anal canal, and the perineal body between it and the vagina."""
    points = [(0.0, *bowel.at(4.0)[0]), (0.0, *bowel.at(36.0)[0])]
    rough = (uneven.coarse, 1.0)
    yield from shapes.tube_region(grid, "muscle", points, [14.0, 13.0], flat=0.95, uneven=rough, edge=0.9)
    (vy, vz), _ = pelvis.vagina.at(8.0)
    (by, bz), _ = bowel.at(16.0)
    y, z = 0.45 * vy + 0.55 * by - 3, 0.5 * (vz + bz) + 2
    body = [(-6.0, y - 2, z + 3), (6.0, y + 2, z - 3)]
    yield from shapes.tube_region(grid, "ligament", body, [9.5, 9.5], uneven=rough, edge=1.4, opacity=0.85)

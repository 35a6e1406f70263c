"""Everything in a picture of the pelvis that is not its central organs: wall, fat, muscles, bones, vessels, bowel.

They depend on no label. `regions` is painted before the central organs, over fat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from xmkd.simulate import bones, bowel_loops, curves, muscles, organs, shapes, uterus, waves
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.bones import Bones
from xmkd.simulate.bowel_loops import Loop
from xmkd.simulate.curves import Curve
from xmkd.simulate.evidence import Adhesion
from xmkd.simulate.grids import Box, Grid
from xmkd.simulate.muscles import Muscles, Relief
from xmkd.simulate.organs import Evidence
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scene import Region
from xmkd.simulate.shapes import Point3
from xmkd.simulate.waves import Waves


@dataclass(frozen=True)
class Twig:
    """A small vessel: its blood, its centre line (x, y, z in mm) and its radii in mm."""

    tissue: str
    points: tuple[Point3, ...]
    radii: tuple[float, ...]


# Where small vessels run: how many, middle (x, y, z), spread, direction, and spread of it. Both sides, mm; assumptions.
_BEDS = (
    (11, (30, 4, 10), (7, 8, 16), (0.3, 0.5, 0.6), 0.9),  # beside uterus and cervix
    (8, (22, -14, -12), (6, 13, 9), (0.2, 0.6, 0.6), 0.9),  # beside the vagina
    (7, (31, -36, -8), (6, 9, 9), (0.4, 0.6, 0.3), 0.7),  # beside the bladder
    (9, (9, 46, 38), (10, 7, 20), (0.1, -0.3, 1.0), 0.5),  # behind the rectum
    (10, (22, -10, 88), (18, 24, 18), (0.5, -0.7, -0.5), 0.8),  # mesentery
    (6, (36, 34, 44), (7, 10, 16), (0.3, -0.4, -0.8), 0.6),  # branches of the internal iliacs
)
_RECTI = 62.0  # mm from the middle to where the flat muscles begin
_SQUEEZE = 14.0  # mm by which a sacrum may flatten the bowel
_CLEAR = 9.0  # mm between uterus and sacrum: a flattened bowel has room there
_FARTHEST = 42.0  # mm by which a sacrum may lie behind its usual place
_BLOOD = ("vessel", "slow_vein", "slow_vein", "artery")


@dataclass(frozen=True)
class Surroundings:
    """One patient's surroundings; lengths in mm.

    Attributes:
        bones: The bony pelvis.
        muscles: Muscles and vessels.
        loops: Small bowel.
        twigs: Small vessels in the fat.
        fat: Thickness of the fat under the skin at the front and at the back.
        half_width: From the middle to the skin at the side.
        wall: Thickness of the abdominal wall's muscles.
        slope: Of the abdominal wall: how far it bulges per mm towards the head.
        labia: Shifts of the outline of vulva and perineum.
        contour: Unevenness of skin and fascia.
    """

    bones: Bones
    muscles: Muscles
    loops: tuple[Loop, ...]
    twigs: tuple[Twig, ...]
    fat: tuple[float, float]
    half_width: float
    wall: float
    slope: float
    labia: tuple[float, ...]
    contour: Waves

    @property
    def fascia(self) -> float:
        """Where (y) the fascia lies in front of the recti, in the middle just above the symphysis."""
        return self.bones.symphysis[0] - 16


def draw(seeds: Seeds) -> Surroundings:
    """Draw a patient's surroundings, the same for all examinations; the number of draws is fixed."""
    rng = seeds.numpy("surroundings", shared=True)
    normal = rng.normal(size=16)
    skeleton = bones.draw(rng)
    fat = float(np.clip(24 * np.exp(0.38 * normal[0]), 10, 62))  # body mass: assumption
    return Surroundings(
        bones=skeleton,
        muscles=Muscles(
            bulk=float(np.clip(1 + 0.09 * normal[1], 0.8, 1.2)),
            floor=float(1.8 * normal[2]),
            jitter=rng.normal(size=(2, 64, 3)),
            coarse=waves.draw(rng, 1.3, 26),
            fine=waves.draw(rng, 0.8, 11),
        ),
        loops=bowel_loops.draw(rng),
        twigs=tuple(_twigs(rng)),
        fat=(fat, float(0.85 * fat * np.exp(0.2 * normal[3]))),
        half_width=float(158 + 0.9 * fat + 6 * normal[4]),
        wall=float(np.clip(9 + 1.6 * normal[5], 6, 13)),
        slope=float(0.10 + 0.09 * normal[6]),
        labia=tuple(float(v) for v in normal[7:12]),
        contour=waves.draw(rng, 1.6, 60),
    )


def _twigs(rng: np.random.Generator) -> Iterator[Twig]:
    """Crooked lines of four points; the number of draws is fixed."""
    for count, middle, spread, direction, scatter in _BEDS:
        for k in range(2 * count):
            normal, uniform = rng.normal(size=(6, 3)), rng.uniform(size=3)
            sign = np.array([1.0 if k % 2 else -1.0, 1.0, 1.0])
            start = (np.asarray(middle) + normal[0] * spread) * sign
            heading = (np.asarray(direction) + scatter * normal[1]) * sign
            step = 9.5 * heading / np.linalg.norm(heading)
            path = start + np.cumsum(step + 3.2 * normal[2:], axis=0)
            radius = 0.8 + 1.3 * uniform[0] ** 1.5
            yield Twig(
                _BLOOD[int(len(_BLOOD) * uniform[1])],
                tuple((float(a), float(b), float(c)) for a, b, c in path),
                tuple(float(radius * f) for f in (1.0, 1.05, 0.9, 0.6)),
            )


def fitted(around: Surroundings, pelvis: Pelvis) -> Surroundings:
    """The same surroundings with the sacrum as far back as uterus and bowel need; bowel may be flattened a little."""
    line, axis = organs.bowel(pelvis, Adhesion()), pelvis.uterus.axis
    womb = uterus.radius(pelvis.uterus, axis.arc)[:, None] * torch.tensor([1.0, 0.0])
    needed = torch.cat(
        (line.points + torch.tensor([pelvis.rectum - _SQUEEZE, 0.0]), axis.points + womb + torch.tensor([_CLEAR, 0.0]))
    )
    spine = around.bones.spine.points
    order = spine[:, 1].argsort()
    z, y = spine[order, 1].contiguous(), spine[order, 0]
    k = torch.searchsorted(z, needed[:, 1].contiguous()).clamp_(1, len(z) - 1)
    front = torch.minimum(y[k - 1], y[k])
    inside = (needed[:, 1] > float(z[0])) & (needed[:, 1] < 115)
    short = float(torch.where(inside, needed[:, 0] - front, 0.0).max().clamp(0, _FARTHEST))
    moved = curves.Curve(spine + torch.tensor([short, 0.0]), around.bones.spine.arc)
    return replace(around, bones=replace(around.bones, spine=moved, back=short))


def _under_skin(around: Surroundings, bowel: Curve, grid: Grid) -> Iterator[Region]:
    """Fat under the skin and in the ischioanal fossae, which has septa, unlike that of the pelvis."""
    spine = around.bones
    (ay, az), (ty, tz) = bowel.at(38.0)[0], spine.tip
    below = grid.z - (az - 4 + (tz - az) * ((grid.y - ay) / max(ty - ay, 10.0)).clamp(-0.5, 1.0)) - 0.3 * grid.x.abs()
    behind = spine.tip[0] + 20 - grid.y + 0.9 * (grid.z - tz).clamp(min=0)
    yield Region("fat", torch.minimum(below, behind), edge=3.0)
    box = shapes.box_of(grid, (None, (-400.0, _behind_wall(around, grid)), None))
    if box is not None:
        yield Region("fat", _front_of(around, grid.crop(box)), box, edge=2.0)


def scene(around: Surroundings, pelvis: Pelvis, evidence: Evidence, grid: Grid) -> Iterator[Region]:
    """The whole pelvis: surroundings, the central organs over them, and what these do not push aside."""
    uneven = muscles.relief(around.muscles, grid)
    yield from regions(around, pelvis, uneven, grid)
    yield from organs.scene(pelvis, grid, evidence)
    yield from front(around, pelvis, uneven, grid)


def regions(around: Surroundings, pelvis: Pelvis, uneven: Relief, grid: Grid) -> Iterator[Region]:
    """All that is painted before the central organs, over fat, back to front."""
    bowel = organs.bowel(pelvis, Adhesion())
    yield from _under_skin(around, bowel, grid)
    yield from _back(around, uneven, grid)
    yield from muscles.regions(around.muscles, around.bones, uneven, grid)
    yield from _ligaments(pelvis, uneven, grid)
    yield from muscles.iliac(around.muscles, uneven, grid)
    for twig in around.twigs:
        yield from shapes.tube_region(grid, twig.tissue, twig.points, twig.radii, edge=0.4, opacity=0.85)
    yield from bowel_loops.regions(around.loops, uneven.fine, _front_of(around, grid) - around.wall, grid)
    yield from muscles.floor(around.muscles, around.bones, pelvis, bowel, uneven, grid)
    yield from _vulva(around, uneven, grid)


def front(around: Surroundings, pelvis: Pelvis, uneven: Relief, grid: Grid) -> Iterator[Region]:
    """What organs give way to: abdominal wall, bones; and the skin and air around all."""
    yield from _wall(around, uneven, grid)
    yield from bones.regions(around.bones, grid)
    yield from _outline(around, organs.bowel(pelvis, Adhesion()), grid)


def _front_of(around: Surroundings, grid: Grid) -> Tensor:
    """Depth behind the fascia in front of the recti (mm), `(X, P, Q)`: a curved sheet, flatter in the middle."""
    line = around.fascia - around.slope * (grid.z + 10).clamp(min=0)
    curve = 62 * (grid.x / (around.half_width - 12)).abs().clamp(max=1.2).pow(2.6)
    return grid.y - line - curve


def _behind_wall(around: Surroundings, grid: Grid) -> float:
    """Where (y) the abdominal wall has ended, in all slices of a grid."""
    widest = float(grid.x.abs().max()) / (around.half_width - 12)
    return float(around.fascia + 62 * min(widest, 1.2) ** 2.6 + around.wall + 18)


def _wall(around: Surroundings, uneven: Relief, grid: Grid) -> Iterator[Region]:
    """Recti with the white line between them, and the flat muscles beside."""
    _, sz = around.bones.symphysis
    box = shapes.box_of(grid, (None, (-400.0, _behind_wall(around, grid)), (sz + 4, 400.0)))
    if box is None:
        return
    part = grid.crop(box)
    depth = _front_of(around, part) + 0.5 * around.contour.on(part)
    low = torch.maximum(part.x.abs() * 0.95 - 24, torch.zeros(())) + sz + 14 - part.z  # it ends at the groin
    yield Region("peritoneal_fat", torch.maximum(depth - around.wall - 3, low), box, "background", 0.8)
    yield Region("fat", torch.maximum(depth, low), box, None, 0.8)
    taper = (around.wall + 0.9 * uneven.coarse[box]) * torch.sigmoid((part.z - sz - 18) / 5)
    wide = part.x.abs()
    end = 1.2 * torch.sigmoid((sz + 16 - part.z) / 3) - 0.3
    sheet = (depth - 0.5 * taper).abs() - 0.5 * taper + end
    yield Region("ligament", torch.maximum(sheet - 0.6, wide - 68), box, None, 0.5)
    recti = torch.maximum(sheet + 0.3, (wide - 34).abs() - 31.5)
    yield Region("muscle", recti, box, None, 0.5)
    yield from _flat_muscles(depth, part, box)


def _flat_muscles(depth: Tensor, part: Grid, box: Box) -> Iterator[Region]:
    """The muscles beside the recti, with fat between them; they end at the inguinal ligament."""
    wide = part.x.abs()
    if float(wide.max()) < _RECTI:
        return
    groin = torch.maximum(0.95 * wide - 24 - part.z, _RECTI - wide)
    yield Region("muscle", torch.maximum((depth - 8).abs() - 7, groin), box, None, 0.6)
    for level in (4.5, 11.0):
        yield Region("fat", torch.maximum((depth - level).abs() - 0.5, groin + 2), box, None, 0.5, 0.6)


def _back(around: Surroundings, uneven: Relief, grid: Grid) -> Iterator[Region]:
    """The fascia in front of the sacrum, and the erector muscles behind it."""
    spine = around.bones.spine
    low = min(y for y, _ in spine.points.tolist())
    box = shapes.box_of(grid, ((-58, 58), (low - 16, 400.0), None))
    if box is None:
        return
    part = grid.crop(box)
    s, n = curves.project_on(spine, part)
    n = -n
    wide = part.x.abs()
    rough = uneven.coarse[box]
    sheet = (n + 7 + 0.8 * rough).abs() - 0.25
    sheet = torch.maximum(torch.maximum(sheet, (wide - 34)), torch.maximum(84 - s, s - spine.length + 16))
    yield Region("ligament", sheet, box, None, 0.5, 0.45)
    thick = 15 * torch.sigmoid((128 - s) / 12)
    erector = torch.hypot((n - 45 - 0.5 * thick) / thick.clamp_min(1.0), (wide - 19) / 18.5).clamp_max(4) - 1
    yield Region("gluteal_muscle", 10 * erector + rough + 18 * torch.sigmoid((s - 128) / 5), box, None, 0.7)
    fascia = (n - 46 - 1.5 * thick + 0.004 * wide.square()).abs() - 0.5
    yield Region("ligament", torch.maximum(fascia, torch.maximum(wide - 40, 35 - part.z)), box, None, 0.5, 0.7)


def _ligaments(pelvis: Pelvis, uneven: Relief, grid: Grid) -> Iterator[Region]:
    """Broad and round ligaments: veins and fibrous fat beside the uterus, a cord to the groin; the parametria."""
    (y, z), _ = pelvis.uterus.axis.at(0.86 * pelvis.uterus.length)
    (my, mz), _ = pelvis.uterus.axis.at(0.35 * pelvis.uterus.length)
    wide = pelvis.uterus.body * pelvis.uterus.flatness
    coarse, fine = (uneven.coarse, 2.2), (uneven.fine, 0.5)
    for side in (-1.0, 1.0):
        broad = [(side * (wide - 4), 0.6 * y + 0.4 * my, 0.6 * z + 0.4 * mz), (side * 34, my + 4, mz + 8),
                 (side * 48, my + 8, mz + 4)]  # fmt: skip
        low = [(side * 14, my, mz - 6), (side * 32, my + 6, mz - 6), (side * 46, my + 12, mz)]
        for points, radii in ((broad, [9.0, 9.0, 7.0]), (low, [10.0, 11.0, 8.0])):
            yield from shapes.tube_region(
                grid, "plexus", points, radii, flat=1.2, uneven=coarse, edge=2.2, opacity=0.75
            )
        cord = [(side * (wide - 6), y, z), (side * 48, 0.5 * y - 22, max(z, 26.0)), (side * 66, -62.0, 30.0)]
        yield from shapes.tube_region(grid, "ligament", cord, [3.4, 2.4, 2.0], uneven=fine, edge=0.6)


def _interpolate(stations: Sequence[tuple[float, float]], at: Tensor) -> Tensor:
    """A smooth line through stations, evaluated on a tensor."""
    x, y = (np.asarray(c, dtype=np.float64) for c in zip(*stations, strict=True))
    fine = np.linspace(x[0], x[-1], 256)
    values = np.interp(at.numpy(), fine, gaussian_filter1d(np.interp(fine, x, y), 6, mode="nearest"))
    return torch.from_numpy(values).float()


def _vulva(around: Surroundings, uneven: Relief, grid: Grid) -> Iterator[Region]:
    """Labia and what lies beneath them, down to the skin."""
    front, _ = around.bones.symphysis
    box = shapes.box_of(grid, ((-30, 30), (front - 20, -10), (-200, -40)))
    if box is not None:
        part = grid.crop(box)
        flesh = torch.maximum(torch.maximum(part.y + 22, front - 6 - part.y), part.z + 52)
        flesh = torch.maximum(flesh, part.x.abs() - 15) + uneven.coarse[box]
        yield Region("labia", flesh, box, None, 2.5, 0.8)


def _outline(around: Surroundings, bowel: Curve, grid: Grid) -> Iterator[Region]:
    """Skin and the air around the body."""
    body = outline(around, bowel, grid)
    yield Region("skin", (body + 0.9).abs() - 0.8, edge=0.5, opacity=0.8)
    yield Region("air", -body, organ="background", edge=0.4)


def resting(around: Surroundings) -> float:
    """How far back (y, mm) the skin reaches: what she lies on."""
    return float(around.bones.spine.points[:, 0].max()) + around.fat[1] + 80


def outline(around: Surroundings, bowel: Curve, grid: Grid) -> Tensor:
    """Signed distance (about) to the skin, negative inside, `(X, P, Q)`."""
    (by, bz), _ = bowel.at(0.0)
    (sy, sz), (front_fat, back_fat), labia = around.bones.symphysis, around.fat, around.labia
    uneven = around.contour.on(grid)
    front = _front_of(around, grid) + front_fat * (1 + 0.35 * torch.exp(-(((grid.z - sz) / 26) ** 2))) + uneven
    points = around.bones.spine.points.tolist()
    hind = sorted((z, y) for y, z in points)
    back_line = _interpolate([(hind[0][0] - 120, hind[0][1] + 46), (hind[0][0] + 10, hind[0][1] + 46),
                              *[(z, y + 62 - 14 * (z < 20)) for z, y in hind[12::10]]], grid.z)  # fmt: skip
    bulge = 26 * (grid.x.abs() / 70).clamp(max=1) - 85 * ((grid.x.abs() / around.half_width).clamp(max=1.15)) ** 4
    back = grid.y - back_line - back_fat - bulge + uneven
    a, b, c, d, e = (2.5 * v for v in labia)
    low = _interpolate(
        [(sy - 60, sz - 6 + a), (sy - 30, sz - 30 + b), (sy - 8, -70 + c), (-48, -84 + d), (-22, -84 + e),
         (by - 14, bz + 4), (by, bz + 5), (by + 14, bz - 2), (by + 40, bz + 12), (hind[0][1] + 44, -46.0),
         (hind[0][1] + 70, -4.0)],
        grid.y)  # fmt: skip
    cleft = torch.where(grid.y < by - 10, 22.0, 13.0)
    drop = 150 * (1 - torch.exp(-((grid.x.abs() / cleft - 0.15).clamp(min=0) ** 2) / 2.2))
    under = (low - drop - grid.z) * 0.8 + uneven
    side = grid.x.abs() - around.half_width
    return torch.maximum(torch.maximum(-front, back), torch.maximum(under, side))

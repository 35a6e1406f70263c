"""The central pelvis as regions: uterus, vagina, bladder, rectum and sigmoid, ovaries, the recess and what lies in it.

`scene` is what every modality paints. The bowel touches the back surface of the uterus at the two sites where the
sliding sign is judged; how closely, and what lies between, is the evidence of adhesion.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from xmkd.simulate import uterus as womb
from xmkd.simulate.anatomy import Endometrioma, Ovary, Pelvis
from xmkd.simulate.curves import Curve, Point, project, project_on, smooth
from xmkd.simulate.evidence import SITES, Adhesion, Invasion
from xmkd.simulate.grids import Box, Grid
from xmkd.simulate.scene import Region, bounds, placed
from xmkd.simulate.uterus import UterineCoordinates

Evidence = Adhesion | Invasion
_TETHER_WIDTH, _PLAQUE_LENGTH, _PLAQUE_WIDTH = 8.0, 24.0, 13.0  # mm; assumptions
_PRESS = 3.0  # mm by which the bowel's line lies too close, so that its wall follows the uterus at the given gap


def scene(pelvis: Pelvis, grid: Grid, evidence: Evidence, at: UterineCoordinates | None = None) -> Iterator[Region]:
    """All regions of the central pelvis, back to front.

    Args:
        pelvis: The patient.
        grid: Where to look.
        evidence: What the examination shows of the disease.
        at: `uterus.coordinates` of that grid, where the caller has them already.
    """
    at = at or womb.coordinates(pelvis, grid)
    adhesion = evidence if isinstance(evidence, Adhesion) else Adhesion()
    invasion = evidence if isinstance(evidence, Invasion) else None
    tube = bowel_distance(pelvis, grid, at, adhesion)
    yield from _urethra(pelvis, grid)
    yield from _bladder(pelvis, grid, at)
    for ovary in pelvis.ovaries:
        yield from _ovary(pelvis, grid, at, ovary)
    around = bounds(at.distance, 30.0)
    if around is not None:
        recess = _fluid(pelvis, at.crop(around), _cut(tube, around), adhesion)
        yield from placed(recess, around)
    near_bowel = bounds(tube, 4.0)
    if near_bowel is not None:
        yield from placed(_bowel(pelvis, grid.crop(near_bowel), _cut(tube, near_bowel)), near_bowel)
    yield from _vagina(pelvis, grid)
    for cyst in pelvis.endometriomas:
        yield from _endometrioma(pelvis, grid, at, cyst)
    if around is not None:
        yield from placed(_plaque(pelvis, grid.crop(around), at.crop(around), adhesion), around)
    near_uterus = bounds(at.distance, 6.0)
    if near_uterus is not None:
        wall = womb.wall(pelvis, at.crop(near_uterus), grid.crop(near_uterus), invasion)
        yield from placed(wall, near_uterus)


def _inside(grid: Grid, centre: tuple[float, float, float], reach: float) -> tuple[Box, Grid] | None:
    """The box about a small organ, and the grid in it; None where the grid does not come near."""
    x, y, z = centre
    box = grid.box((x - reach, x + reach), (y - reach, y + reach), (z - reach, z + reach))
    return None if box is None else (box, grid.crop(box))


def _cut(values: Tensor, box: Box) -> Tensor:
    """The part of `(X, P, Q)` values (or `(1, P, Q)`) that lies in a box."""
    return values[box if values.shape[0] > 1 else (slice(None), *box[1:])]


def _along(grid: Grid, line: Curve, half_width: float) -> tuple[Box, Grid, Tensor, Tensor] | None:
    """The box about a tube of at most 14 mm to the front and back, the grid in it, and its points' `s` and `n`."""
    low, high = (line.points.amin(0) - 14).tolist(), (line.points.amax(0) + 14).tolist()
    box = grid.box((-half_width, half_width), (low[0], high[0]), (low[1], high[1]))
    if box is None:
        return None
    near = grid.crop(box)
    return box, near, *project_on(line, near)


def _vagina(pelvis: Pelvis, grid: Grid) -> Iterator[Region]:
    """A flat tube whose lumen is a thin wavy line; it reaches up behind the cervix as the posterior fornix."""
    found = _along(grid, pelvis.vagina, 20.0)
    if found is None:
        return
    box, near, s, n = found
    ends = (s - pelvis.vagina.length + 4).clamp_min(0) + (6 - s).clamp_min(0)
    half, width = pelvis.vagina_radius, 15.0 - 5.0 * (1 - s / pelvis.vagina.length).clamp(0, 1)
    uneven = pelvis.waves["vagina"].on(near)
    q = ((n + 0.6 * uneven) / half).square() + (near.x / width).square() + (ends / 6).square()
    wall = (q.sqrt() - 1) * half
    yield Region("vagina_wall", wall, box, organ="vagina", edge=0.6)
    sag = 1.2 * uneven - 0.012 * near.x.square()  # the lumen is an H: a line that bends at its ends
    opening = 0.45 + 0.25 * uneven.abs()
    lumen = torch.maximum((n - sag).abs() - opening, wall + 0.45 * half)
    yield Region("vagina_lumen", lumen, box, edge=0.5)


def _urethra(pelvis: Pelvis, grid: Grid) -> Iterator[Region]:
    """Three rings: dark muscle, bright submucosa, lumen; painted before the bladder, which covers its upper end."""
    found = _along(grid, pelvis.urethra, 12.0)
    if found is None:
        return
    box, near, s, n = found
    within = torch.maximum(-s - 1, s - pelvis.urethra.length)
    across = torch.hypot(n + 0.3 * pelvis.waves["vagina"].on(near), near.x)
    yield Region("urethra_wall", torch.maximum(across - 6.0, within), box, edge=0.8)
    yield Region("urethra", torch.maximum(across - 3.4, within), box, edge=0.9)
    yield Region("urethra_lumen", torch.maximum(across - 0.6, within), box, edge=0.5, opacity=0.6)


def _bladder(pelvis: Pelvis, grid: Grid, at: UterineCoordinates) -> Iterator[Region]:
    """An uneven egg that widens upwards from the neck; the uterus lies in its dome."""
    height = 10 * (pelvis.bladder_ml / 3.6) ** (1 / 3)  # mm; volume of an ellipsoid of these axes, less the dent
    y, z = pelvis.bladder_neck
    centre = (0.0, y - 0.12 * height, z + 0.82 * height)
    found = _inside(grid, centre, 1.35 * height + 8)
    if found is None:
        return
    box, near = found
    up = (near.z - centre[2]) / height
    taper = 1.0 + 0.22 * up.clamp(-1, 1)
    q = (
        (near.x / (1.12 * taper)).square() + ((near.y - centre[1]) / taper).square() + (near.z - centre[2]).square()
    ).sqrt()
    shape = q - height + pelvis.waves["bladder"].on(near) * min(1.0, height / 25)
    womb_at = _cut(at.distance, box)
    thick = 2.2 + 26.0 / height  # an empty bladder has a thicker wall
    lumen = torch.maximum(shape, thick + 0.6 - womb_at)
    yield Region("bladder_wall", torch.maximum(lumen - thick, 0.4 - womb_at), box, organ="bladder", edge=0.5)
    yield Region("urine", lumen, box, organ="bladder", edge=0.4)


def bowel(pelvis: Pelvis, adhesion: Adhesion) -> Curve:
    """The centre line of rectum and sigmoid, from the anal verge past the two sites.

    Args:
        pelvis: The patient.
        adhesion: Gap, tether and kink shift it.
    """
    first, second = (contact(pelvis, adhesion, k) for k in (0, 1))
    a, b, c, d, e, f = pelvis.bowel_path
    (vy, vz), (ty, tz) = pelvis.vagina.at(0.45 * pelvis.vagina.length)
    beside = pelvis.vagina_radius + pelvis.rectum + 2.0
    back = 0.5 * torch.tan(torch.deg2rad(torch.tensor(adhesion.kink_deg / 2))).item() * 14
    lower = [(14.0, -88.0), (9.0, -66.0), (vy + beside * tz + back, vz - beside * ty)]
    if pelvis.uterus.axis.at(pelvis.uterus.length)[0][0] > 8:  # the fundus lies in the sacral hollow
        middle, upper = [first, second], [(second[0] + 22 + 0.4 * a, second[1] + 42 + b), (20 + c, second[1] + 88 + d)]
    else:
        hollow = (max(42 + a, first[0] + 16), max(44 + b, first[1] + 18))
        turn = (min(16 + c, hollow[0] - 14), max(86 + d, second[1] + 26))
        middle, upper = [first, hollow, turn], [second, (second[0] - 24 + 0.5 * e, second[1] + 34 + f)]
    return smooth(lower + middle + upper, 26)


def contact(pelvis: Pelvis, adhesion: Adhesion, site: int) -> Point:
    """Where the bowel's centre line passes a site: y, z in mm."""
    uterus = pelvis.uterus
    s = list(SITES.values())[site] * uterus.length
    outer = float(womb.radius(uterus, torch.tensor(s)))
    fluid = 0.6 * adhesion.fluid_mm if site == 0 else 0.0
    away = space(adhesion, site) + 0.8 * adhesion.tether_mm[site] + fluid - _PRESS
    return uterus.axis.beside(s, outer + away + pelvis.rectum)


def space(adhesion: Adhesion, site: int) -> float:
    """Distance from uterus to bowel at a site in mm: the gap, or the plaque that fills it."""
    return max(adhesion.gap_mm[site], 0.7 * adhesion.plaque_mm[site])


def bowel_distance(pelvis: Pelvis, grid: Grid, at: UterineCoordinates, adhesion: Adhesion) -> Tensor:
    """Signed distance to the outer surface of rectum and sigmoid in mm, `(X, P, Q)`."""
    line = bowel(pelvis, adhesion)
    s, n = project_on(line, grid)
    q = s / line.length
    radius = _bowel_radius(pelvis, line, s, adhesion)
    aside = 9 * torch.sin(6.0 * q) * torch.sigmoid((q - 0.5) / 0.06) * torch.sigmoid((0.85 - q) / 0.04)
    end = (s - line.length).clamp_min(0)  # beyond, small bowel takes over
    distance = torch.hypot(torch.hypot(n, end), (grid.x - aside) / 1.15) - radius
    distance = distance + pelvis.waves["bowel"].on(grid) + pelvis.waves["haustra"].on(grid) * (q > 0.35)
    least = torch.full_like(at.s, 0.5)
    for k, place in enumerate(SITES.values()):
        along = at.s - place * pelvis.uterus.length
        least = torch.maximum(least, space(adhesion, k) * torch.exp(-((along / 14) ** 4)))
        height = adhesion.tether_mm[k]
        if height > 0:
            ridge = torch.exp(-((along / _TETHER_WIDTH) ** 2)) * (at.n > 0)
            ridge = ridge * torch.sigmoid((height + 8 - (at.n - womb.radius(pelvis.uterus, at.s))) / 2)
            distance = distance - 0.8 * height * ridge * torch.exp(-((at.x / 10) ** 2))
    return torch.maximum(distance, least - at.distance)


def _bowel_radius(pelvis: Pelvis, line: Curve, s: Tensor, adhesion: Adhesion) -> Tensor:
    """Half its width at arc length `s`: stretches with and without content, the canal narrow, the sites as given."""
    phase, second = pelvis.waves["bowel"].phases[:2].tolist()
    filling = 0.24 * torch.sin(s / 15.0 + phase) + 0.12 * torch.sin(s / 6.5 + second)
    for k in range(2):
        y, z = contact(pelvis, adhesion, k)
        here = float(project(line, torch.tensor(y), torch.tensor(z))[0])
        filling = filling * (1 - torch.exp(-(((s - here) / 20) ** 4)))
    anal = torch.sigmoid((30 - s) / 5)
    return pelvis.rectum * (1 - 0.45 * anal) * (0.92 + filling * (s > 30))


def _bowel(pelvis: Pelvis, grid: Grid, tube: Tensor) -> Iterator[Region]:
    """Muscularis, submucosa, mucosa, content and gas, from the outside in; gas collects in front, lying."""
    wall = pelvis.rectum_wall
    yield Region("rectal_muscularis", tube, organ="rectum", edge=0.4)
    yield Region("rectal_submucosa", tube + 0.5 * wall, organ="rectum", edge=0.35)
    yield Region("rectal_mucosa", tube + 0.75 * wall, organ="rectum", edge=0.35)
    folds = 1.2 * pelvis.waves["haustra"].on(grid)
    lumen = tube + wall + 0.8 + folds.abs()
    yield Region("stool", lumen, organ="rectum", edge=0.6)
    clumps = pelvis.waves["bladder"].on(grid) + pelvis.waves["bowel"].on(grid)
    level = 1.9 * (1 - 2 * pelvis.gas)
    yield Region("gas", torch.maximum(lumen + 1.0, (level - clumps) * 2.0), organ="rectum", edge=0.6)


def _ovary(pelvis: Pelvis, grid: Grid, at: UterineCoordinates, ovary: Ovary) -> Iterator[Region]:
    found = _inside(grid, ovary.centre, max(ovary.axes) + 4)
    if found is None:
        return
    box, near = found
    y, z = near.y - ovary.centre[1], near.z - ovary.centre[2]
    turn = torch.tensor(ovary.tilt)
    along, across = y * torch.cos(turn) + z * torch.sin(turn), z * torch.cos(turn) - y * torch.sin(turn)
    x = near.x - ovary.centre[0]
    q = ((x / ovary.axes[0]).square() + (along / ovary.axes[1]).square() + (across / ovary.axes[2]).square()).sqrt()
    shell = (q - 1) * min(ovary.axes) + 0.6 * pelvis.waves["ovary"].on(near)
    shell = torch.maximum(shell, 1.0 - _cut(at.distance, box))
    yield Region("ovary_stroma", shell, box, organ="ovary", edge=0.5)
    for (dx, dy, dz), radius in ovary.follicles:
        ball = ((x - dx).square() + (along - dy).square() + (across - dz).square()).sqrt() - radius
        yield Region("follicle", torch.maximum(ball, shell + 0.6), box, organ="ovary", edge=0.4)


def _endometrioma(pelvis: Pelvis, grid: Grid, at: UterineCoordinates, cyst: Endometrioma) -> Iterator[Region]:
    """A thick-walled cyst with old blood that settles towards the back."""
    found = _inside(grid, cyst.centre, cyst.radius + 6)
    if found is None:
        return
    box, near = found
    x, y, z = near.x - cyst.centre[0], near.y - cyst.centre[1], near.z - cyst.centre[2]
    ball = (x.square() + (y / 1.1).square() + z.square()).sqrt() - cyst.radius + 1.5 * pelvis.waves["ovary"].on(near)
    ball = torch.maximum(ball, 1.0 - _cut(at.distance, box))
    yield Region("endometrioma_wall", ball, box, organ="endometrioma", edge=0.5)
    yield Region("endometrioma", ball + 1.8, box, organ="endometrioma", edge=0.5)
    yield Region("endometrioma_layer", torch.maximum(ball + 1.8, 0.1 * cyst.radius - y), box, edge=4.0, opacity=0.6)


def _fluid(pelvis: Pelvis, at: UterineCoordinates, tube: Tensor, adhesion: Adhesion) -> Iterator[Region]:
    """Free fluid in the recess between uterus and bowel; painted before both, so that it fills what is left."""
    if adhesion.fluid_mm <= 0.1:
        return
    q = at.s / pelvis.uterus.length
    low, high = -0.03, 0.16 + 0.028 * adhesion.fluid_mm
    depth = adhesion.fluid_mm * torch.sigmoid((q - low) / 0.03) * torch.sigmoid((high - q) / 0.06)
    sheet = at.rho - womb.radius(pelvis.uterus, at.s) - depth * (1 - (at.x / 26).square()).clamp_min(0)
    along = torch.maximum((low - 0.05 - q) * pelvis.uterus.length, (q - high - 0.2) * pelvis.uterus.length)
    around = torch.maximum(0.3 - tube, torch.maximum(along, -at.n))
    pool = torch.maximum(sheet + 0.3 * _ripple(pelvis, at), around)
    yield Region("free_fluid", pool, organ="free fluid", edge=0.4)


def _ripple(pelvis: Pelvis, at: UterineCoordinates) -> Tensor:
    """A slight unevenness along the recess in mm, `(P, Q)`."""
    vectors, phases = pelvis.waves["fine"].vectors, pelvis.waves["fine"].phases
    return torch.sin(at.s * float(vectors[0, 1]) + float(phases[0]))


def _plaque(pelvis: Pelvis, grid: Grid, at: UterineCoordinates, adhesion: Adhesion) -> Iterator[Region]:
    """Fibrous tissue between uterus and bowel, spiky at its edges."""
    if adhesion.plaque_contrast <= 0:
        return
    for k, place in enumerate(SITES.values()):
        thick = adhesion.plaque_mm[k]
        if thick <= 0.2:
            continue
        s = place * pelvis.uterus.length
        outer = womb.radius(pelvis.uterus, at.s)
        uneven = pelvis.waves["fine"].on(grid) + pelvis.waves["lesion"].on(grid)
        q = (
            ((at.s - s + 2 * uneven) / (0.5 * _PLAQUE_LENGTH)).square()
            + ((at.n - outer - 0.35 * thick) / (0.65 * thick)).square()
            + (at.x / _PLAQUE_WIDTH).square()
        ).sqrt()
        lump = (q - 1) * 0.65 * thick + 0.25 * uneven
        yield Region("plaque", lump, organ="plaque", edge=0.5, opacity=adhesion.plaque_contrast)

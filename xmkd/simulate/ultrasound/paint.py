"""The patient at rest as the fan sees it: echo level, attenuation and gas of every point, and its organs.

The shared anatomy says what lies where; what only ultrasound shows is added here: lines where surfaces lie across the
beam, the three lines of a proliferative endometrium, arcuate vessels, loops of small bowel, texture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.simulate import noise, organs, scene
from xmkd.simulate import uterus as womb
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import Adhesion, Invasion
from xmkd.simulate.grids import EVERYWHERE, Grid
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scene import Region
from xmkd.simulate.ultrasound.echo import TABLE, Echo
from xmkd.simulate.ultrasound.fan import Fan
from xmkd.simulate.ultrasound.probe import Pose
from xmkd.simulate.uterus import UterineCoordinates

Evidence = Adhesion | Invasion
_BANK_MM = 0.5  # pitch of the texture banks
_LOOPS = 9
_PRESSED_MM = 24.0  # nearer to the face than this the probe has pressed the gas out of the bowel


@dataclass(frozen=True, eq=False)
class Painting:
    """Maps on a fan at rest, each `(P, Q)`.

    Attributes:
        level: Echo level in dB relative to myometrium.
        attenuation: In dB/cm/MHz.
        gas: Share of gas.
        organs: Labels by `scene.ORGANS`, uint8.
        at: Uterine coordinates.
    """

    level: Tensor
    attenuation: Tensor
    gas: Tensor
    organs: Tensor
    at: UterineCoordinates


class Textures:
    """Unevenness of the tissues of one examination, crops of banks laid over the fan's plane in mm.

    Args:
        lateral: Lateral positions, `(P, Q)`, mm.
        axial: Axial positions.
        generator: Draws a fixed number of places.
    """

    def __init__(self, lateral: Tensor, axial: Tensor, generator: torch.Generator) -> None:
        turn, first, second = torch.rand(3, generator=generator).tolist()
        banks = _banks()
        rows, columns = (size * _BANK_MM for size in banks.shape[-2:])
        angle = 1.6 * (turn - 0.5)  # fascia and bowel wall lie across the beam rather than along it
        x = lateral * math.cos(angle) - axial * math.sin(angle)
        y = lateral * math.sin(angle) + axial * math.cos(angle)
        where = torch.stack(((x / columns + first) % 1, (y / rows + second) % 1), -1) * 2 - 1
        crops = F.grid_sample(banks[None], where[None], padding_mode="border", align_corners=False)[0]
        self.patchy, self.mottled, self.grainy, self.streaky, sheets = crops
        self.septa = torch.exp(-(sheets / 0.11).square()) * torch.sigmoid(4 * self.patchy + 1)


@lru_cache(maxsize=1)
def _banks() -> Tensor:
    """Periodic noise at the scales of `Echo`, `(5, rows, columns)`."""
    shape = (512, 512)
    sigma = ((10.0, 10.0), (3.5, 3.5), (1.2, 1.2), (1.1, 6.0), (2.2, 7.0))
    return torch.stack([noise.bank(shape, (0.42 * a / _BANK_MM, 0.42 * b / _BANK_MM)) for a, b in sigma])


def paint(pelvis: Pelvis, evidence: Evidence, pose: Pose, fan: Fan, seeds: Seeds) -> Painting:
    """Paint a patient at rest on a fan.

    Args:
        pelvis: The patient.
        evidence: What ultrasound shows of the disease.
        pose: How the probe is held.
        fan: Where to paint; wider and deeper than what is shown, so that there is something to move in.
        seeds: Components "texture" of the patient (levels of the tissues) and of the examination (their unevenness).
    """
    lateral, axial = fan.points()
    grid = pose.grid(lateral, axial)
    at = womb.coordinates(pelvis, grid)
    generator = seeds.torch("texture")
    texture = Textures(lateral, axial, generator)
    normals = torch.randn(len(TABLE), generator=seeds.torch("texture", shared=True)).tolist()
    levels = {name: echo.level + echo.spread * z for (name, echo), z in zip(TABLE.items(), normals, strict=True)}
    free = torch.sigmoid((fan.depths()[:, None] - _PRESSED_MM) / 5.0).expand(grid.y.shape)
    canvas = _Canvas(grid, texture, levels, free)
    for region in _small_bowel(pelvis, grid, at, generator):
        canvas.put(region)
    lost = torch.zeros(grid.shape)
    for region in organs.scene(pelvis, grid, evidence, at):
        canvas.put(region)
        if region.tissue == "plaque":  # a plaque blots out the line of the serosa
            near = torch.sigmoid((1.0 - region.distance) / 0.5) * region.opacity
            lost[region.box] = torch.maximum(lost[region.box], near)
        if region.tissue == "endometrium_proliferative":
            canvas.add(region, 11 * torch.exp(-(region.distance / 0.8).square()))
    _vessels(canvas, pelvis, at, texture)
    _serosa(canvas, at, fan, lost)
    return Painting(canvas.level, canvas.attenuation, canvas.gas, canvas.labels, at)


class _Canvas:
    """Level, attenuation and gas of a fan, painted from back to front.

    Args:
        grid: The fan's points.
        texture: Its textures.
        levels: dB per tissue in this patient.
        gas_free: Share of the gas that the probe has not pressed away, `(P, Q)`.
    """

    def __init__(self, grid: Grid, texture: Textures, levels: dict[str, float], gas_free: Tensor) -> None:
        self._grid, self._texture, self._levels, self._gas_free = grid, texture, levels, gas_free
        shape = grid.y.shape
        self.level = self._value("fat", EVERYWHERE)
        self.attenuation = torch.full(shape, TABLE["fat"].attenuation)
        self.gas = torch.zeros(shape)
        self.labels = torch.zeros(shape, dtype=torch.uint8)

    def put(self, region: Region) -> None:
        """Paint one region over what is there."""
        echo, plane = TABLE[region.tissue], region.box[1:]
        cover = scene.coverage(region, self._grid)
        cover = cover[0] if cover.ndim == 3 else cover
        if echo.gas:
            cover = cover * self._gas_free[plane]
        self.level[plane].lerp_(self._value(region.tissue, region.box), cover)
        self.attenuation[plane].lerp_(torch.tensor(echo.attenuation), cover)
        self.gas[plane].lerp_(torch.tensor(echo.gas), cover)
        scene.mark(self.labels[None], region)

    def add(self, region: Region, decibel: Tensor) -> None:
        """Add to the level in a region's box."""
        self.level[region.box[1:]] += decibel[0] if decibel.ndim == 3 else decibel

    def _value(self, tissue: str, box: tuple[slice, slice, slice]) -> Tensor:
        echo: Echo = TABLE[tissue]
        value = torch.tensor(self._levels[tissue])
        for name in ("patchy", "mottled", "grainy", "streaky", "septa"):
            amount = getattr(echo, name)
            if amount:
                value = torch.add(value, getattr(self._texture, name)[box[1:]], alpha=amount)
        return value


def _small_bowel(pelvis: Pelvis, grid: Grid, at: UterineCoordinates, generator: torch.Generator) -> list[Region]:
    """Loops that fill the space above the bladder and behind the uterus, before anything else is painted."""
    draws = torch.rand(_LOOPS, 6, generator=generator)
    fy, fz = pelvis.uterus.axis.at(pelvis.uterus.length)[0]
    across, up, turn, long, thin, gas = draws.T[..., None, None]
    y, z = grid.coarse_plane()
    dy, dz = y - 0.7 * fy - 110 * (across - 0.45), z - 0.6 * fz - 18 - 62 * up  # (loops, P', Q')
    turn, long, thin = math.pi * turn, 11 + 9 * long, 6.5 + 3.5 * thin
    along, beside = dy * turn.cos() + dz * turn.sin(), dz * turn.cos() - dy * turn.sin()
    distance = (torch.hypot(along / long, beside / thin) - 1) * thin
    nearest, second = distance.topk(2, dim=0, largest=False).values
    tube = torch.maximum(nearest, (nearest - second) / 2)  # where two loops touch there is a wall between them
    pocket = torch.maximum(distance + 3.0, beside.abs() - 1.2) + 50 * (gas < 0.6)
    tube, pocket = grid.refine(torch.stack((tube, pocket.amin(0))))
    uneven = pelvis.waves["haustra"].on(grid)[0]
    loops = torch.maximum(tube + 0.8 * uneven, 1.5 - at.distance[0])
    return [
        Region("bowel_muscularis", loops, edge=0.5),
        Region("bowel_submucosa", loops + 1.4, edge=0.4),
        Region("bowel_content", loops + 2.4, edge=0.5),
        Region("gas", torch.maximum(pocket - uneven, loops + 2.4), edge=0.6, opacity=0.8),
    ]


def _vessels(canvas: _Canvas, pelvis: Pelvis, at: UterineCoordinates, texture: Textures) -> None:
    """Arcuate vessels: dark dots and short lines between the outer and the middle layer of the wall."""
    shell = torch.exp(-((at.distance[0] + 0.30 * pelvis.uterus.body) / 1.6).square())
    body = torch.sigmoid((at.s / pelvis.uterus.length - pelvis.uterus.isthmus - 0.05) / 0.03)
    dots = (texture.grainy * 0.6 + texture.mottled * 0.8 - 1.15).clamp_(0, 0.5)
    canvas.level -= 34 * shell * body * dots


def _serosa(canvas: _Canvas, at: UterineCoordinates, fan: Fan, lost: Tensor) -> None:
    """The bright line of the peritoneum on the uterus, where it lies across the beam."""
    distance = at.distance[0]
    down = (distance[2:] - distance[:-2]) / (2 * fan.step_mm)
    down = F.pad(down[None], (0, 0, 1, 1), mode="replicate")[0].abs().clamp_(max=1)
    line = torch.exp(-((distance + 0.1) / 0.45).square()) * down.pow(6)
    canvas.level += 11 * line * (1 - lost[0])

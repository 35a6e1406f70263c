"""Where the probe is held: its tip in the fornix, its fan near the sagittal plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmkd.simulate import uterus as womb
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import SITES
from xmkd.simulate.grids import Grid
from xmkd.simulate.randomness import Seeds

Vector = tuple[float, float, float]
_VAGINA = np.deg2rad(30.0)  # direction of the vagina, to the back of the body's axis
POSE_DRAWS = 8  # of the component "protocol"
_WALL_MM = 3.0  # vaginal wall and what little else lies between the face and the cervix


@dataclass(frozen=True)
class Pose:
    """A rigid map from the fan's plane to the body (mm).

    Attributes:
        tip: The foremost point of the probe's face, x, y, z.
        lateral: Unit vector to the right of the picture.
        axial: Unit vector away from the probe.
        anterior: Whether the tip lies in the anterior fornix.
    """

    tip: Vector
    lateral: Vector
    axial: Vector
    anterior: bool

    def grid(self, lateral: Tensor, axial: Tensor, coarse: tuple[int, int] = (4, 2)) -> Grid:
        """Points of the plane, `(P, Q)` in mm, in body coordinates."""
        x, y, z = (
            tip + lateral * right + axial * down
            for tip, right, down in zip(self.tip, self.lateral, self.axial, strict=True)
        )
        return Grid(x[None], y, z, coarse)

    def plane(self, y: float, z: float) -> tuple[float, float]:
        """Lateral and axial position in the plane of the point of the body's sagittal plane nearest to it."""
        offset = np.array((0.0, y, z)) - self.tip
        return float(offset @ self.lateral), float(offset @ self.axial)


def hold(pelvis: Pelvis, seeds: Seeds) -> Pose:
    """Place the probe: against the cervix in the fornix on whose side the uterus lies, aimed at the body.

    Anteverted uteri are looked at from the anterior fornix, retroverted ones from the posterior.
    """
    rng = seeds.numpy("protocol")
    normal = rng.normal(size=POSE_DRAWS)
    axis, length = pelvis.uterus.axis, pelvis.uterus.length
    fundus = axis.at(length)[0]
    anterior = fundus[0] * np.cos(_VAGINA) - fundus[1] * np.sin(_VAGINA) < 0
    side = -1.0 if anterior else 1.0
    place = float(np.clip(9 + 3 * normal[0], 3, 15) if anterior else np.clip(1 + 2 * normal[0], -3, 5))
    outer = float(womb.radius(pelvis.uterus, torch.tensor(place)))
    tip = np.array(axis.beside(place, side * (outer + _WALL_MM + abs(normal[1]))))
    middle = np.array(axis.beside((0.52 + 0.06 * normal[2]) * length, 0.0)) - tip
    aim = middle / np.linalg.norm(middle) + 0.55 * np.array((np.sin(_VAGINA), np.cos(_VAGINA)))
    angle = np.arctan2(aim[0], aim[1]) + np.deg2rad(6) * normal[3]
    y, z = float(np.sin(angle)), float(np.cos(angle))
    roll, tilt = np.deg2rad(5) * normal[4:6]
    sideways = 2.0 * float(normal[6])
    axial = _unit((float(np.sin(tilt)), y * np.cos(tilt), z * np.cos(tilt)))
    right = np.array((float(np.sin(roll)), z * np.cos(roll), -y * np.cos(roll)))
    right -= np.dot(right, axial) * np.array(axial)
    return Pose((sideways, float(tip[0]), float(tip[1])), _unit(tuple(right)), axial, bool(anterior))


def _unit(vector: tuple[float, ...]) -> Vector:
    x, y, z = np.asarray(vector) / np.linalg.norm(vector)
    return float(x), float(y), float(z)


def sites(pelvis: Pelvis, pose: Pose, ahead: float = 0.0) -> Tensor:
    """Where the sliding sign is judged: points of the back surface of the uterus in the plane, mm, `(2, 2)`.

    Args:
        pelvis: The patient.
        pose: How the probe is held.
        ahead: Points that much further along the uterus, as a fraction of its length.
    """
    found = []
    for fraction in SITES.values():
        s = (fraction + ahead) * pelvis.uterus.length
        outer = float(womb.radius(pelvis.uterus, torch.tensor(s)))
        found.append(pose.plane(*pelvis.uterus.axis.beside(s, outer)))
    return torch.tensor(found)


def reach(pelvis: Pelvis, pose: Pose) -> float:
    """Distance in mm from the face to the farthest part of the uterus' back surface."""
    points = []
    for fraction in (0.2, 0.5, 0.78, 1.0):
        s = fraction * pelvis.uterus.length
        outer = float(womb.radius(pelvis.uterus, torch.tensor(s))) if fraction < 1 else 0.0
        points.append(pose.plane(*pelvis.uterus.axis.beside(s, outer)))
    return float(np.hypot(*np.array(points).T).max())

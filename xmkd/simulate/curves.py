"""Centre lines of tubular organs in the sagittal plane, and where a point lies along and beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from xmkd.simulate.grids import Grid

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A poly-line in the sagittal plane.

    Attributes:
        points: y, z in mm, `(K, 2)`.
        arc: Arc length at each point in mm, `(K,)`.
    """

    points: Tensor
    arc: Tensor

    @property
    def length(self) -> float:
        """Arc length in mm."""
        return float(self.arc[-1])

    def at(self, s: float) -> tuple[Point, Point]:
        """Point and unit tangent at arc length `s` (mm); straight on beyond both ends."""
        k = int(torch.searchsorted(self.arc, torch.tensor(s)).clamp(1, len(self.arc) - 1))
        start, end = self.points[k - 1], self.points[k]
        tangent = (end - start) / (end - start).norm()
        y, z = (start + (s - self.arc[k - 1]) * tangent).tolist()
        return (y, z), (float(tangent[0]), float(tangent[1]))

    def beside(self, s: float, n: float) -> Point:
        """The point at arc length `s` and signed offset `n` (mm)."""
        (y, z), (ty, tz) = self.at(s)
        return y + n * tz, z - n * ty


def smooth(points: Sequence[Point], count: int = 16) -> Curve:
    """A smooth line through points: monotone cubic in each coordinate, so that it does not overshoot.

    Args:
        points: Where it passes, y, z in mm.
        count: Points of the poly-line.
    """
    through = np.asarray(points)
    knots = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(through, axis=0), axis=1))))
    fine = PchipInterpolator(knots, through)(np.linspace(0, knots[-1], 8 * count))
    arc = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))))
    even = np.linspace(0, arc[-1], count)
    corners = np.stack([np.interp(even, arc, fine[:, k]) for k in (0, 1)], axis=1)
    length = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))))
    return Curve(torch.from_numpy(corners).float(), torch.from_numpy(length).float())


def project(curve: Curve, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Arc length and signed offset of points, by their nearest segment.

    Args:
        curve: The line.
        y: Front-back positions (mm), any shape.
        z: Foot-head positions (mm), the same shape.

    Returns:
        `s` (mm), running on beyond both ends, and `n` (mm), positive on the side that is the back where the line runs
        to the head; both smooth across the line, which an unsigned distance is not.
    """
    start, step = curve.points[:-1], curve.points[1:] - curve.points[:-1]
    size = step.norm(dim=1)
    ty, tz = (step / size[:, None]).unbind(1)
    flat_y, flat_z = y.reshape(-1, 1) - start[:, 0], z.reshape(-1, 1) - start[:, 1]  # (N, K - 1)
    along = flat_y * ty + flat_z * tz
    across = flat_y * tz - flat_z * ty
    lower, upper = torch.zeros_like(size), size.clone()
    lower[0], upper[-1] = -torch.inf, torch.inf  # the ends run on
    inside = torch.minimum(torch.maximum(along, lower), upper)
    nearest = ((along - inside).square_() + across.square()).argmin(1, keepdim=True)
    s = (inside + curve.arc[:-1]).gather(1, nearest)
    beyond = (along - inside).gather(1, nearest)
    offset = across.gather(1, nearest)
    n = torch.copysign(torch.hypot(offset, beyond), offset)
    return s.reshape(y.shape), n.reshape(y.shape)


def project_on(curve: Curve, grid: Grid) -> tuple[Tensor, Tensor]:
    """Arc length and signed offset on a grid's plane, `(P, Q)` each, from its coarse points.

    Far from the line the sign changes abruptly (beyond its bends), and between two coarse points the offset would pass
    through 0 there; the unsigned distance, which is smooth, forbids that.
    """
    y, z = grid.coarse_plane()
    s, n = project(curve, y, z)
    steps = [float(torch.hypot(y.diff(dim=k), z.diff(dim=k)).max()) for k in (0, 1) if y.shape[k] > 1]
    pitch = max(steps, default=0.0)
    s, n, far = grid.refine(torch.stack((s, n, n.abs())))
    return s, torch.copysign(torch.maximum(n.abs(), far - pitch), n)

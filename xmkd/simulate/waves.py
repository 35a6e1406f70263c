"""Unevenness of surfaces: a few random plane waves, the same at a point whichever grid looks at it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.simulate.grids import Grid


@dataclass(frozen=True)
class Waves:
    """A sum of plane waves in body coordinates.

    Attributes:
        vectors: Wave vectors in rad/mm, `(K, 3)` for x, y, z.
        phases: `(K,)`.
        amplitude: Standard deviation of the sum, in mm.
    """

    vectors: Tensor
    phases: Tensor
    amplitude: float

    def on(self, grid: Grid) -> Tensor:
        """Values on a grid, `(X, P, Q)`."""
        if not grid.is_stack:
            return self._on_fan(grid)
        plane = self.vectors[:, 1, None, None] * grid.y + self.vectors[:, 2, None, None] * grid.z
        plane = plane + self.phases[:, None, None]
        across = self.vectors[:, 0] * grid.x.reshape(-1, 1)  # sin(a + b), with a in the plane and b across it
        left = torch.cat((across.cos(), across.sin()), 1).mul_(self._scale)  # (X, 2K)
        right = torch.cat((plane.sin(), plane.cos())).flatten(1)  # (2K, P * Q)
        return (left @ right).reshape(grid.shape)

    @property
    def _scale(self) -> float:
        return self.amplitude * math.sqrt(2 / len(self.phases))

    def _on_fan(self, grid: Grid) -> Tensor:
        """Values on a fan, `(1, P, Q)`: beams are sampled far more densely than these waves are long."""
        step = grid.coarse[0]
        points = F.avg_pool2d(torch.stack((grid.x[0], grid.y, grid.z))[None], (step, 1), ceil_mode=True)[0]
        phases = torch.addmm(self.phases[:, None], self.vectors, points.flatten(1))
        values = phases.sin_().sum(0).mul_(self._scale).view(1, 1, *points.shape[1:])
        fine = F.interpolate(values, size=(step * points.shape[1], points.shape[2]), mode="bilinear")
        return fine[0, :, : grid.y.shape[0]]


def draw(generator: np.random.Generator, amplitude: float, wavelength: float, count: int = 6) -> Waves:
    """Waves of about one length in all directions.

    Args:
        generator: Makes `4 * count` draws.
        amplitude: Standard deviation in mm.
        wavelength: mm, varied by a factor of 0.7 to 1.4.
        count: How many.
    """
    directions = generator.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = wavelength * np.geomspace(0.7, 1.4, count)
    phases = generator.uniform(0, 2 * np.pi, count)
    vectors = directions * (2 * np.pi / lengths)[:, None]
    return Waves(torch.from_numpy(vectors).float(), torch.from_numpy(phases).float(), amplitude)

"""Unevenness of surfaces: a few random plane waves, the same at a point whichever grid looks at it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmkd.simulate.grids import Grid

_STRIDE = 16


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
        """Values on a fan, `(1, P, Q)`.

        Columns are straight and evenly sampled, so that sin(a + b) saves most sines: a at every 16th sample of a
        column, b at the first 16.
        """
        points = torch.stack((grid.x[0], grid.y, grid.z), -1)  # (P, Q, 3)
        starts = points[::_STRIDE] @ self.vectors.T + self.phases  # (P / 16, Q, K)
        ahead = (points[:_STRIDE] - points[0]) @ self.vectors.T  # (16, Q, K)
        left = torch.cat((starts.sin(), starts.cos()), -1).transpose(0, 1)
        right = torch.cat((ahead.cos(), ahead.sin()), -1).permute(1, 2, 0)
        values = torch.bmm(left, right).mul_(self._scale)  # (Q, P / 16, 16)
        return values.flatten(1).T[None, : len(points)].contiguous()


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

"""Unevenness of surfaces: a few random plane waves, the same at a point whichever grid looks at it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
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
        plane = self.vectors[:, 1, None, None] * grid.y + self.vectors[:, 2, None, None] * grid.z
        plane = plane + self.phases[:, None, None]
        scale = self.amplitude * (2 / len(self.phases)) ** 0.5
        if grid.x.shape[1] != 1:
            return (plane + self.vectors[:, 0, None, None] * grid.x).sin_().sum(0, keepdim=True).mul_(scale)
        across = self.vectors[:, 0] * grid.x.reshape(-1, 1)  # sin(a + b), with a in the plane and b across it
        left = torch.cat((across.cos(), across.sin()), 1).mul_(scale)  # (X, 2K)
        right = torch.cat((plane.sin(), plane.cos())).flatten(1)  # (2K, P * Q)
        return (left @ right).reshape(grid.shape)


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

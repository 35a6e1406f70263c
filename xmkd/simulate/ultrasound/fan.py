"""The fan of beams of a transvaginal probe, and the table that turns it into a picture.

Polar arrays are ordered `(P, ..., Q)`: P samples along the beam (depth), Q lines. The plane's own coordinates are
`lateral` (mm to the right of the picture) and `axial` (mm below the foremost point of the probe's face).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fan:
    """Beams that leave a curved face at right angles.

    Attributes:
        depth_mm: Distance along a beam from the face to the last sample.
        half_angle: Half the opening angle (rad).
        radius_mm: Radius of the probe's face.
        samples: Samples along a beam.
        lines: Number of beams.
    """

    depth_mm: float = 83.0
    half_angle: float = math.radians(66.0)
    radius_mm: float = 10.5
    samples: int = 288
    lines: int = 168

    @property
    def step_mm(self) -> float:
        """Distance between samples of a beam."""
        return self.depth_mm / self.samples

    @property
    def step_angle(self) -> float:
        """Angle between beams (rad)."""
        return 2 * self.half_angle / self.lines

    def depths(self) -> Tensor:
        """Distance of each sample from the face in mm, `(P,)`: the middles of the cells."""
        return (torch.arange(self.samples, dtype=torch.float32) + 0.5) * self.step_mm

    def angles(self) -> Tensor:
        """Direction of each beam (rad), `(Q,)`, positive to the right."""
        return (torch.arange(self.lines, dtype=torch.float32) + 0.5) * self.step_angle - self.half_angle

    def points(self) -> tuple[Tensor, Tensor]:
        """Lateral and axial position of every sample in mm, each `(P, Q)`."""
        reach = self.depths()[:, None] + self.radius_mm
        angles = self.angles()[None]
        return reach * angles.sin(), reach * angles.cos() - self.radius_mm

    def padded(self, rows: int, lines: int) -> Fan:
        """The same fan, `rows` samples deeper and `lines` beams wider on either side, with the same steps."""
        return replace(
            self,
            depth_mm=self.depth_mm + rows * self.step_mm,
            half_angle=self.half_angle + lines * self.step_angle,
            samples=self.samples + rows,
            lines=self.lines + 2 * lines,
        )

    def index(self, lateral: Tensor, axial: Tensor) -> Tensor:
        """Where points of the plane lie in this fan, `(..., 2)` for `grid_sample` with `align_corners=False`."""
        down = axial + self.radius_mm
        line = torch.atan2(lateral, down) / self.half_angle
        sample = (torch.hypot(lateral, down) - self.radius_mm) * (2 / self.depth_mm) - 1
        return torch.stack((line, sample), dim=-1)


@dataclass(frozen=True)
class Picture:
    """The screen on which a fan is shown.

    Attributes:
        shape: Rows and columns.
        spacing_mm: Pixel size, the same in both directions.
        top_mm: Axial position of the upper edge of the first row; negative where the face is shown whole.
        mirrored: Whether the plane's right is shown on the left.
    """

    shape: tuple[int, int]
    spacing_mm: float
    top_mm: float
    mirrored: bool = False

    def finer(self, factor: int) -> Picture:
        """The same picture with `factor` pixels for one along each side."""
        shape = (self.shape[0] * factor, self.shape[1] * factor)
        return replace(self, shape=shape, spacing_mm=self.spacing_mm / factor)

    def points(self) -> tuple[Tensor, Tensor]:
        """Lateral and axial position of every pixel in mm, each `(H, W)`; the fan's axis is the middle column."""
        rows, columns = (torch.arange(size, dtype=torch.float32) + 0.5 for size in self.shape)
        axial = rows[:, None] * self.spacing_mm + self.top_mm
        lateral = (columns[None] - self.shape[1] / 2) * (-self.spacing_mm if self.mirrored else self.spacing_mm)
        return lateral.expand(self.shape), axial.expand(self.shape)

    def pixel(self, lateral: Tensor, axial: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column (fractions of pixels, centres at integers) of points of the plane."""
        row = (axial - self.top_mm) / self.spacing_mm - 0.5
        return row, lateral / (-self.spacing_mm if self.mirrored else self.spacing_mm) + self.shape[1] / 2 - 0.5

    def pixel_of(self, lateral: float, axial: float) -> tuple[float, float]:
        """The same of one point."""
        row, column = self.pixel(torch.tensor(lateral), torch.tensor(axial))
        return float(row), float(column)

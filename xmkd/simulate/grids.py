"""Where the anatomy is looked at: the points of a stack of slices or of an ultrasound fan, in body coordinates.

Body coordinates are DICOM's patient coordinates (LPS, mm): x to the patient's left, y to the back, z to the head.
The origin is the external os of the cervix. Tensors are ordered `(X, P, Q)`: X sagittal slices (1 for a fan),
P rows, Q columns. In a stack the rows run from head to foot and the columns from front to back, as on a screen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[slice, slice, slice]
EVERYWHERE: Box = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class Grid:
    """Points in body coordinates (mm).

    Attributes:
        x: Left-right position, `(X, 1, 1)` for a stack or `(1, P, Q)` for a fan.
        y: Front-back position, `(P, Q)`.
        z: Foot-head position, `(P, Q)`.
        coarse: How many points share one of the coarse grid on which distances to centre lines are computed.
        blur: Axis across which a voxel is thick, so that slanted surfaces are blurred (partial volume): 0 for
            sagittal slices, 1 for axial ones; None where no axis is thick.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    coarse: tuple[int, int] = (2, 2)
    blur: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(X, P, Q)`."""
        return (self.x.shape[0], *self.y.shape)

    @property
    def is_stack(self) -> bool:
        """Whether x is one number per slice, rather than one per point of a plane."""
        return self.x.shape[1:] == (1, 1)

    def crop(self, box: Box) -> Grid:
        """The points of a box."""
        x = self.x[box[0]] if self.is_stack else self.x[:, box[1], box[2]]
        return Grid(x, self.y[box[1:]], self.z[box[1:]], self.coarse, self.blur)

    def box(
        self,
        x: tuple[float, float] | None = None,
        y: tuple[float, float] | None = None,
        z: tuple[float, float] | None = None,
    ) -> Box | None:
        """The smallest box that holds all points between the given limits (mm); None where there are none."""
        plane = torch.ones_like(self.y, dtype=torch.bool)
        for limits, values in ((y, self.y), (z, self.z)):
            if limits is not None:
                plane &= (values >= limits[0]) & (values <= limits[1])
        if x is not None and not self.is_stack:
            plane &= (self.x[0] >= x[0]) & (self.x[0] <= x[1])
        rows, columns = plane.any(1).nonzero(), plane.any(0).nonzero()
        if not len(rows):
            return None
        slices = slice(0, self.shape[0])
        if x is not None and self.is_stack:
            inside = ((self.x >= x[0]) & (self.x <= x[1])).flatten().nonzero()
            if not len(inside):
                return None
            slices = slice(int(inside[0]), int(inside[-1]) + 1)
        return (
            slices,
            slice(int(rows[0]), int(rows[-1]) + 1),
            slice(int(columns[0]), int(columns[-1]) + 1),
        )

    def coarse_plane(self) -> tuple[Tensor, Tensor]:
        """Positions y and z (mm) of the coarse grid: means of its cells, the convention of `align_corners=False`."""
        stacked = torch.stack((self.y, self.z))[None]
        y, z = F.avg_pool2d(stacked, self.coarse, ceil_mode=True, count_include_pad=False)[0]
        return y, z

    def refine(self, coarse: Tensor) -> Tensor:
        """Bilinear values on the fine plane, `(..., P', Q')` -> `(..., P, Q)`."""
        leading, (rows, columns) = coarse.shape[:-2], self.y.shape
        flat = coarse.reshape(1, -1, *coarse.shape[-2:])
        step = self.coarse
        fine = F.interpolate(flat, size=(flat.shape[-2] * step[0], flat.shape[-1] * step[1]), mode="bilinear")
        return fine[..., :rows, :columns].reshape(*leading, rows, columns)


def stack(
    centre: tuple[float, float, float],
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    *,
    tilt: float = 0.0,
    coarse_mm: float = 2.2,
    blur: int | None = 0,
) -> Grid:
    """A box of voxels.

    Args:
        centre: x, y, z of its middle (mm).
        shape: `(X, P, Q)`: sagittal slices, rows (head to foot), columns (front to back).
        spacing: mm between them.
        tilt: Rotation about the left-right axis (rad): how the patient lies in the scanner.
        coarse_mm: Pitch of the coarse grid.
        blur: The axis across which a voxel is thick.
    """

    def axis(k: int, sign: float) -> Tensor:
        return sign * (torch.arange(shape[k], dtype=torch.float32) - (shape[k] - 1) / 2) * spacing[k]

    rows, columns = torch.meshgrid(axis(1, -1.0), axis(2, 1.0), indexing="ij")
    angle = torch.tensor(tilt)
    y = centre[1] + torch.cos(angle) * columns - torch.sin(angle) * rows
    z = centre[2] + torch.sin(angle) * columns + torch.cos(angle) * rows
    step = (max(1, round(coarse_mm / spacing[1])), max(1, round(coarse_mm / spacing[2])))
    return Grid((axis(0, 1.0) + centre[0])[:, None, None], y, z, step, blur)

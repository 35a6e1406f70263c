"""Put parallel slices in order along their normal and check that they fill a regular grid.

Positions and directions are DICOM's: Image Position (Patient) is the centre of the first pixel in LPS mm, Image
Orientation (Patient) the directions of increasing column and row index (PS3.3, C.7.6.2.1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmkd.errors import ReadError

SAME_POSITION_MM = 0.01
PARALLEL = 1e-3  # about 0.06 degrees; headers with four decimals differ by 1e-4
UNEVEN = 0.1  # of the slice step: the affine would misplace a slice by more than that


@dataclass(frozen=True, eq=False)
class Plane:
    """Where one slice lies.

    Attributes:
        position: `(3,)` LPS mm of the centre of the first pixel.
        along_w: `(3,)` unit vector of increasing column index.
        along_h: `(3,)` unit vector of increasing row index.
        spacing: `(H, W)` pixel size in mm.
        step: Distance to the next slice in mm as the header states it; only used where there is no next slice.
    """

    position: np.ndarray
    along_w: np.ndarray
    along_h: np.ndarray
    spacing: tuple[float, float]
    step: float = 1.0

    @property
    def normal(self) -> np.ndarray:
        """`(3,)` unit vector across the slice, towards the next one of a right-handed volume."""
        return np.cross(self.along_w, self.along_h)

    def affine(self, step: np.ndarray | None = None) -> np.ndarray:
        """`(4, 4)` matrix from index `(d, h, w, 1)` to LPS mm; `step` is the `(3,)` way to the next slice in mm."""
        result = np.eye(4)
        result[:3, 0] = self.normal * self.step if step is None else step
        result[:3, 1] = self.along_h * self.spacing[0]
        result[:3, 2] = self.along_w * self.spacing[1]
        result[:3, 3] = self.position
        return result


def plane(
    position: Sequence[float] | None,
    orientation: Sequence[float] | None,
    spacing: Sequence[float] | None,
    step: float | None,
) -> Plane | None:
    """The plane of DICOM's position, orientation and spacing; None where one is absent or no frame of reference."""
    if position is None or orientation is None or spacing is None:
        return None
    along_w, along_h = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = float(np.linalg.norm(along_w)), float(np.linalg.norm(along_h))
    if not np.allclose(lengths, 1, atol=1e-2) or abs(along_w @ along_h) > 1e-2:
        return None
    return Plane(
        np.array(position), along_w / lengths[0], along_h / lengths[1], (spacing[0], spacing[1]), abs(step or 1.0)
    )


def stack(
    planes: Sequence[Plane], names: Sequence[str], *, where: Path, hint: str = ""
) -> tuple[list[int], np.ndarray]:
    """Order slices by position along their normal and describe the volume they make.

    Args:
        planes: At least two slices, in any order.
        names: What to call each slice in a message.
        where: The file or folder they are of.
        hint: What tells slices at one position apart, added to that message.

    Returns:
        The order, and the `(4, 4)` affine from index `(d, h, w, 1)` to LPS mm.

    Raises:
        ReadError: The slices are not parallel, two share a position, one is missing, or the steps are uneven.
    """
    _check_parallel(planes, names, where)
    heights = np.array([p.position @ planes[0].normal for p in planes])
    order: list[int] = np.argsort(heights, kind="stable").tolist()
    heights, names = heights[order], [names[i] for i in order]
    steps = np.diff(heights)
    if steps.min() < SAME_POSITION_MM:
        _raise_duplicate(heights, names, where, hint)
    typical = float(np.quantile(steps, 0.5, method="lower"))
    gaps = np.flatnonzero(steps > 1.5 * typical)
    if len(gaps):
        _raise_gap(heights, names, gaps.tolist(), typical, where)
    positions = np.array([planes[i].position for i in order])
    grid = np.linspace(positions[0], positions[-1], len(positions))
    off = np.linalg.norm(positions - grid, axis=1)
    if off.max() > UNEVEN * typical:
        worst = int(off.argmax())
        raise ReadError(
            f"the slices are unevenly placed: {names[worst]} at {heights[worst]:.2f} mm lies {off[worst]:.2f} mm off "
            f"the regular grid of {typical:.2f} mm steps",
            where=where,
            fixes=("export the series again, with all slices of one acquisition only", "resample it to a NIfTI volume"),
        )
    return order, planes[order[0]].affine((positions[-1] - positions[0]) / (len(positions) - 1))


def voxel_size(affine: np.ndarray) -> tuple[float, float, float]:
    """`(D, H, W)` voxel size in mm of an affine: the lengths of its first three columns."""
    depth, height, width = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return depth, height, width


def same_place(planes: Sequence[Plane]) -> bool:
    """Whether all slices lie at one position, as the frames of a cine do."""
    return all(np.linalg.norm(p.position - planes[0].position) < SAME_POSITION_MM for p in planes)


def _check_parallel(planes: Sequence[Plane], names: Sequence[str], where: Path) -> None:
    first = planes[0]
    for other, name in zip(planes, names, strict=True):
        turned = max(np.abs(other.along_w - first.along_w).max(), np.abs(other.along_h - first.along_h).max())
        if turned > PARALLEL:
            raise ReadError(
                f"the slices point in different directions ({names[0]} and {name}), as those of a localiser do",
                where=where,
                fixes=("move the slices of each direction to a folder of their own", "leave this series out"),
            )
        if not np.allclose(other.spacing, first.spacing, rtol=1e-3):
            raise ReadError(
                f"the slices differ in pixel size: {names[0]} has {first.spacing} mm, {name} {other.spacing} mm",
                where=where,
                fixes=("keep the slices of one acquisition only", "leave this series out"),
            )


def _raise_duplicate(heights: np.ndarray, names: Sequence[str], where: Path, hint: str) -> None:
    index = int(np.flatnonzero(np.diff(heights) < SAME_POSITION_MM)[0])
    places = 1 + int((np.diff(heights) >= SAME_POSITION_MM).sum())
    raise ReadError(
        f"{len(heights)} slices share {places} positions: {names[index]} and {names[index + 1]} both lie at "
        f"{heights[index]:.2f} mm along the slice normal{hint}",
        where=where,
        fixes=(
            "move the slices of each volume (b-value, echo, time point) to a folder of their own, or delete the copies",
            "convert the series to one NIfTI file per volume, for example with dcm2niix",
        ),
    )


def _raise_gap(heights: np.ndarray, names: Sequence[str], gaps: list[int], typical: float, where: Path) -> None:
    missing = [round(float(heights[i + 1] - heights[i]) / typical) - 1 for i in gaps]
    i = gaps[0]
    raise ReadError(
        f"{max(1, sum(missing))} slice(s) missing: at {heights[i] + typical:.2f} mm along the slice normal there is "
        f"nothing between {names[i]} ({heights[i]:.2f} mm) and {names[i + 1]} ({heights[i + 1]:.2f} mm), while other "
        f"slices are {typical:.2f} mm apart",
        where=where,
        fixes=("copy the missing slices again from the source", "leave this series out"),
    )

"""Simple solids of the surroundings: boxes of a grid, tubes and ellipsoids, each a signed distance in mm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from xmkd.simulate.grids import Box, Grid
from xmkd.simulate.scene import Region

Point3 = tuple[float, float, float]
_THICK_MM = 5.0  # radius from which a tube is computed on coarse points of about 2 mm
Limits = tuple[tuple[float, float] | None, tuple[float, float] | None, tuple[float, float] | None]


def box_of(grid: Grid, limits: Limits) -> Box | None:
    """`grid.box` of a stack in a tenth of the time: from its corner and steps, at most a point larger at each end."""
    x, y, z = limits
    if grid.x.shape[1] != 1 or y is None or z is None or min(grid.y.shape) < 2:
        return grid.box(x, y, z)
    slices = slice(0, len(grid.x))
    if x is not None and len(grid.x) > 1:
        first, second = float(grid.x[0, 0, 0]), float(grid.x[1, 0, 0])
        low, high = (math.floor((v - first) / (second - first)) for v in x)
        slices = slice(max(low, 0), min(high + 2, len(grid.x)))
    ((y0, yc), (yr, _)), ((z0, zc), (zr, _)) = grid.y[:2, :2].tolist(), grid.z[:2, :2].tolist()
    a, b, c, d = yr - y0, yc - y0, zr - z0, zc - z0  # (y, z) = origin + row (a, c) + column (b, d)
    size = a * d - b * c
    corners = [(p - y0, q - z0) for p in y for q in z]
    rows = [(d * p - b * q) / size for p, q in corners]
    columns = [(a * q - c * p) / size for p, q in corners]
    across = [
        slice(max(math.floor(min(values)), 0), min(math.ceil(max(values)) + 1, count))
        for values, count in ((rows, grid.y.shape[0]), (columns, grid.y.shape[1]))
    ]
    if any(part.start >= part.stop for part in (slices, *across)):
        return None
    return slices, across[0], across[1]


def region(
    grid: Grid,
    limits: Limits,
    tissue: str,
    distance: Callable[[Grid, Box], Tensor],
    *,
    organ: str | None = None,
    edge: float = 0.5,
    opacity: float = 1.0,
) -> Region | None:
    """A region whose distance is computed only between limits (x, y, z in mm); None where the grid has none of it.

    Args:
        grid: Where.
        limits: Of its box.
        tissue: Of which tissue.
        distance: Of the points of a box (and which box it is).
        organ: Of the region.
        edge: Of the region.
        opacity: Of the region.
    """
    box = box_of(grid, limits)
    if box is None:
        return None
    return Region(tissue, distance(grid.crop(box), box), box, organ, edge, opacity)


def around(points: Sequence[Point3], reach: float) -> Limits:
    """The limits of a box that holds all points with `reach` mm to spare."""
    low, high = [[f(p[k] for p in points) for k in range(3)] for f in (min, max)]
    x, y, z = ((a - reach, b + reach) for a, b in zip(low, high, strict=True))
    return x, y, z


def tube_region(
    grid: Grid,
    tissue: str,
    points: Sequence[Point3],
    radii: Sequence[float],
    *,
    flat: float = 1.0,
    uneven: tuple[Tensor, float] | None = None,
    edge: float = 0.5,
    opacity: float = 1.0,
) -> Iterator[Region]:
    """A tube as a region, if the grid has any of it.

    Args:
        grid: Where.
        tissue: Of which tissue.
        points: Its centre line, x, y, z in mm.
        radii: Radius at each point in mm.
        flat: Width from left to right over front-back diameter.
        uneven: Unevenness of its surface in mm, `(X, P, Q)` of the whole grid, and a factor on it.
        edge: Of the region.
        opacity: Of the region.
    """

    def distance(part: Grid, box: Box) -> Tensor:
        d = (thick_tube if min(radii) > _THICK_MM else tube)(part, points, radii, flat=flat)
        return d if uneven is None else d.add_(uneven[0][box], alpha=uneven[1])

    spare = 3.0 if uneven is None else 3.0 + 2.5 * uneven[1]
    found = region(
        grid, around(points, max(radii) * max(1.0, flat) + spare), tissue, distance, edge=edge, opacity=opacity
    )
    if found is not None:
        yield found


def tube(grid: Grid, points: Sequence[Point3], radii: Sequence[float], *, flat: float = 1.0) -> Tensor:
    """Distance to a chain of round cones, `(X, P, Q)`.

    Args:
        grid: Where.
        points: Its centre line, x, y, z in mm.
        radii: Radius at each point in mm.
        flat: Width from left to right over front-back diameter.
    """
    best: Tensor | None = None
    for start, end, radius, other in zip(points, points[1:], radii, radii[1:], strict=False):
        dx, dy, dz = ((b - a) for a, b in zip(start, end, strict=True))
        x, y, z = (grid.x - start[0]) / flat, grid.y - start[1], grid.z - start[2]
        dx /= flat
        size = dx * dx + dy * dy + dz * dz
        q = x * (dx / size) + (y * dy + z * dz) / size
        t = q.clamp(0.0, 1.0)
        square = (x * x + (y * y + z * z)).sub_((2 * q).sub_(t).mul_(t).mul_(size)).clamp_(min=0)
        d = square.sqrt_().sub_(t.mul_(other - radius)).sub_(radius)
        best = d if best is None else torch.minimum(best, d, out=best)
    if best is None:
        raise ValueError("a tube needs two points")
    return best


def thick_tube(grid: Grid, points: Sequence[Point3], radii: Sequence[float], *, flat: float = 1.0) -> Tensor:
    """As `tube`, from the grid's coarse points: for tubes much wider than these are apart."""
    if grid.coarse == (1, 1):
        return tube(grid, points, radii, flat=flat)
    return grid.refine(tube(Grid(grid.x, *grid.coarse_plane()), points, radii, flat=flat))


def ellipsoid(grid: Grid, centre: Point3, axes: Point3, angle: float = 0.0) -> Tensor:
    """Distance to an ellipsoid to first order, `(X, P, Q)`.

    Args:
        grid: Where.
        centre: x, y, z in mm.
        axes: Half axes in mm: left-right, then the two in the sagittal plane, front-back and foot-head before turning.
        angle: Turn in the sagittal plane (rad), from the back towards the head.
    """
    c, s = float(torch.cos(torch.tensor(angle))), float(torch.sin(torch.tensor(angle)))
    y, z = grid.y - centre[1], grid.z - centre[2]
    x = ((grid.x - centre[0]) / axes[0]).square()
    p, q = ((c * y + s * z) / axes[1]).square(), ((c * z - s * y) / axes[2]).square()
    level = (x + (p + q)).add_(1e-6).sqrt_()
    slope = (x / axes[0] ** 2 + (p / axes[1] ** 2 + q / axes[2] ** 2)).add_(1e-9).sqrt_()
    return (level - 1).mul_(level).div_(slope)

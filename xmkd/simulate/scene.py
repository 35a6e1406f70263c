"""What lies where: an ordered list of regions, painted from back to front by every modality in its own values.

The anatomy gives the regions; what a tissue looks like is the modality's business. Masks come from the same
distances, so that they are aligned with every picture by construction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xmkd.simulate.grids import EVERYWHERE, Box, Grid

# The values 0, 1, ... of every mask; a card's `mask_classes`. Later organs are painted over earlier ones.
ORGANS = (
    "background", "uterus", "cervix", "endometrium", "junctional zone", "vagina", "bladder", "rectum",
    "ovary", "free fluid", "fibroid", "endometrioma", "plaque", "tumour", "polyp", "bone",
)  # fmt: skip
# By how much the edge of a slanted surface is wider, over how far the surface moves within a thick voxel; assumption.
_BLUR = 0.13


@dataclass(frozen=True)
class Region:
    """One tissue's place.

    Attributes:
        tissue: Key in the tissue tables.
        distance: Signed distance to its surface in mm, negative inside, broadcastable to the box.
        box: The part of the grid that `distance` covers; outside it there is none of this region.
        organ: The name in `ORGANS` that its inside gets in the mask; None leaves the mask as it is.
        edge: Half width of the transition at its surface, in mm.
        opacity: How much of what lies below it replaces, 0 to 1.
    """

    tissue: str
    distance: Tensor
    box: Box = EVERYWHERE
    organ: str | None = None
    edge: float = 0.5
    opacity: float = 1.0


def coverage(region: Region, grid: Grid) -> Tensor:
    """How much of each point a region covers, 0 to 1, in the shape of the region's box.

    Across the grid's thick axis the edge widens with the slope of the surface: the partial volume of a thick slice.
    """
    distance = region.distance
    width: Tensor | float = region.edge
    if grid.blur is not None and distance.shape[grid.blur] > 2:
        steps = (distance.narrow(grid.blur, 2, distance.shape[grid.blur] - 2)
                 - distance.narrow(grid.blur, 0, distance.shape[grid.blur] - 2)).abs_()  # fmt: skip
        first, last = steps.narrow(grid.blur, 0, 1), steps.narrow(grid.blur, steps.shape[grid.blur] - 1, 1)
        width = torch.cat((first, steps, last), grid.blur).mul_(_BLUR / 2).add_(region.edge)
    alpha = torch.sigmoid(distance.neg() / width)
    return alpha if region.opacity == 1.0 else alpha.mul_(region.opacity)


def bounds(distance: Tensor, margin: float) -> Box | None:
    """The smallest box that holds all points closer than `margin` (mm) to the inside; None where there are none.

    Args:
        distance: Signed distance in mm, `(X, P, Q)`.
        margin: mm.
    """
    near = distance < margin
    sides = (near.flatten(1).any(1), near.any(2).any(0), near.any(0).any(0))
    found = [side.nonzero() for side in sides]
    if not all(len(f) for f in found):
        return None
    return (
        slice(int(found[0][0]), int(found[0][-1]) + 1),
        slice(int(found[1][0]), int(found[1][-1]) + 1),
        slice(int(found[2][0]), int(found[2][-1]) + 1),
    )


def placed(regions: Iterable[Region], box: Box) -> Iterator[Region]:
    """Regions that were made on the grid of a box, as regions of the whole grid."""
    for region in regions:
        yield replace(region, box=_within(box, region.box))


def _within(outer: Box, inner: Box) -> Box:
    """A box of a box; both with plain starts and stops."""

    def one(a: slice, b: slice) -> slice:
        start = a.start or 0
        return slice(start + (b.start or 0), a.stop if b.stop is None else start + b.stop)

    return one(outer[0], inner[0]), one(outer[1], inner[1]), one(outer[2], inner[2])


def mark(labels: Tensor, region: Region) -> None:
    """Write one region into a mask, uint8 `(X, P, Q)`, in place."""
    if region.organ is not None:
        part = labels[region.box]
        part.masked_fill_((region.distance < 0).expand(part.shape), ORGANS.index(region.organ))

"""What a test looks at in a scene: the mask alone, without any picture."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from xmkd.simulate.grids import Grid
from xmkd.simulate.scene import Region, mark


def mask(regions: Iterable[Region], grid: Grid) -> torch.Tensor:
    """Organ labels, uint8 `(X, P, Q)`, by `scene.ORGANS`."""
    labels = torch.zeros(grid.shape, dtype=torch.uint8)
    for region in regions:
        mark(labels, region)
    return labels

"""One pass over a scene for all channels of an examination: coverage once, one blend per channel, and the mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xmkd.simulate.grids import Grid
from xmkd.simulate.scene import Region, coverage, mark
from xmkd.simulate.textures import Texture, Textures

# Sections show surfaces more sharply than regions are described, for the receiver blurs them once more; but a voxel is
# a mean, so that no edge is narrower than about a third of it.
_SHARP, _VOXEL = 0.6, 0.3


@dataclass(frozen=True)
class Look:
    """What a tissue looks like in every channel.

    Attributes:
        values: Mean value, one per channel.
        ripples: Amplitude of its texture, in units of the value, one per channel.
        texture: Which.
    """

    values: tuple[float, ...]
    ripples: tuple[float, ...]
    texture: Texture


def paint(
    regions: Iterable[Region],
    grid: Grid,
    looks: Mapping[str, Look],
    textures: Textures,
    *,
    background: str,
) -> tuple[Tensor, Tensor]:
    """Paint a scene.

    Args:
        regions: Back to front.
        grid: Where.
        looks: Of every tissue.
        textures: The patient's textures.
        background: The tissue that everything starts as.

    Returns:
        Channels, float32 `(C, X, P, Q)`, and organ labels, uint8 `(X, P, Q)`.
    """
    base = looks[background]
    pattern = textures[base.texture]
    picture = torch.stack([pattern * ripple + value for value, ripple in zip(base.values, base.ripples, strict=True)])
    labels = torch.zeros(grid.shape, dtype=torch.uint8)
    narrowest = _VOXEL * float(torch.hypot(grid.y[0, 1] - grid.y[0, 0], grid.z[0, 1] - grid.z[0, 0]))
    for region in regions:
        mark(labels, region)
        share, look = coverage(_sharper(region, narrowest), grid), looks[region.tissue]
        pattern = textures[look.texture][region.box]
        for channel, value, ripple in zip(picture, look.values, look.ripples, strict=True):
            level = torch.tensor(float(value))
            channel[region.box].lerp_(torch.add(level, pattern, alpha=ripple) if ripple else level, share)
    return picture, labels


def _sharper(region: Region, narrowest: float) -> Region:
    return replace(region, edge=max(_SHARP * region.edge, narrowest))

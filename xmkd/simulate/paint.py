"""One pass over a scene for all channels of an examination: coverage once, one blend per channel, and the mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from xmkd.simulate.grids import Grid
from xmkd.simulate.scene import Region, coverage, mark
from xmkd.simulate.textures import Texture, Textures


def paint(
    regions: Iterable[Region],
    grid: Grid,
    values: Mapping[str, tuple[float, ...]],
    patterns: Mapping[str, tuple[Texture, float]],
    textures: Textures,
    *,
    background: str,
) -> tuple[Tensor, Tensor]:
    """Paint a scene.

    Args:
        regions: Back to front.
        grid: Where.
        values: For every tissue its value in each of C channels.
        patterns: For every tissue its texture and the amplitude of it, relative to the value.
        textures: The patient's textures.
        background: The tissue that everything starts as.

    Returns:
        Channels, float32 `(C, X, P, Q)`, and organ labels, uint8 `(X, P, Q)`.
    """
    name, amplitude = patterns[background]
    picture = torch.stack([v + textures[name] * (v * amplitude) for v in values[background]])
    labels = torch.zeros(grid.shape, dtype=torch.uint8)
    for region in regions:
        mark(labels, region)
        share = coverage(region, grid)
        name, amplitude = patterns[region.tissue]
        pattern = textures[name][region.box] if amplitude else None
        for channel, value in zip(picture, values[region.tissue], strict=True):
            part = channel[region.box]
            if pattern is None:
                part.lerp_(torch.tensor(float(value)), share)
            else:
                part.lerp_(torch.add(torch.tensor(float(value)), pattern, alpha=value * amplitude), share)
    return picture, labels

"""Contact sheet of masked auto-encoding: what was there, what the network saw, what it made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xmkd.files import in_one_step

_SLICES = (0.35, 0.5, 0.65)  # of the depth
_WIDTH = 64  # pixels: narrower slices are enlarged, so that the names fit above them
_TITLE = 14  # pixels above each column
_GAP = 4


def write_sheet(path: Path, volume: Tensor, masked: Tensor, painted: Tensor) -> None:
    """Write a PNG: a row for each volume, and for each of three slices the true, the masked and the painted one.

    Args:
        path: The file.
        volume: `(B, C, D, H, W)`; the first channel is shown.
        masked: The same with hidden patches dark.
        painted: The same with hidden patches as they were predicted.
    """
    from PIL import Image, ImageDraw

    rows, factor = [], -(-_WIDTH // volume.shape[-1])
    for triple in zip(volume[:, 0], masked[:, 0], painted[:, 0], strict=True):
        low, high = np.percentile(triple[0].float().numpy(), (0.5, 99.5))
        places = [int(share * (len(triple[0]) - 1)) for share in _SLICES]
        tiles = [
            _grey(part[place], low, high).repeat(factor, 0).repeat(factor, 1) for place in places for part in triple
        ]
        rows.append(np.concatenate([np.pad(tile, ((0, _GAP), (0, _GAP))) for tile in tiles], axis=1))
    sheet = np.pad(np.concatenate(rows), ((_TITLE, 0), (0, 0)))
    picture = Image.fromarray(sheet)
    draw, width = ImageDraw.Draw(picture), factor * volume.shape[-1] + _GAP
    for column, name in enumerate(("true", "seen", "painted") * len(_SLICES)):
        draw.text((column * width + 2, 1), name, fill=255)
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(path) as unfinished:
        picture.save(unfinished, format="PNG")


def _grey(part: Tensor, low: float, high: float) -> NDArray[np.uint8]:
    values = (part.float().numpy() - low) / max(high - low, 1e-6)
    return np.asarray(np.clip(values, 0, 1) * 255, dtype=np.uint8)

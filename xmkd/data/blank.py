"""Ultrasound pictures with the lesion, its surroundings or everything but the rim blanked: for the shortcut audit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WHOLE, BLANKED, ONLY, BORDER = "whole", "lesion blanked", "lesion only", "border only"
MARGIN, RING = 0.025, 0.05  # of the longer side: how far a mask is dilated, and how wide the ring is that fills it
FRAME = 0.12  # of each side of the picture

Pictures = NDArray[np.uint8]
Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class Change:
    """Makes the pictures of one condition; an object, since loader workers must be able to take it with them.

    Attributes:
        condition: One of the four above.
        masks: The lesion of every row of the stream, `(N, H, W)`; empty where there is no mask.
    """

    condition: str
    masks: Masks

    def __call__(self, rows: NDArray[np.int64], pictures: Pictures) -> Pictures:
        """Pictures `(B, 1, H, W)` of these rows, `(B,)`, changed."""
        changed = [changed_picture(p[0], self.masks[r], self.condition) for r, p in zip(rows, pictures, strict=True)]
        return np.stack(changed)[:, None]


def changed_picture(picture: Pictures, mask: Masks, condition: str) -> Pictures:
    """A picture `(H, W)` under a condition; as it is where the mask is empty."""
    from scipy import ndimage

    if condition == WHOLE or not mask.any() or not picture.any():
        return picture
    box = np.zeros(mask.shape, bool)
    box[box_of(picture > 0)] = True  # without the black that fills the picture up to the grid
    distance = ndimage.distance_transform_edt(~mask) / max(mask.shape)
    lesion = distance <= MARGIN
    if condition == BORDER:
        kept = box & ~lesion  # a lesion may reach into the rim
        kept[tuple(_inner(side) for side in box_of(box))] = False
        return _filled(picture, box & ~kept, kept)
    if condition == ONLY:
        return _filled(picture, ~lesion, box & ~lesion)
    return _filled(picture, lesion, box & ~lesion & (distance <= MARGIN + RING))


def box_of(mask: Masks) -> tuple[slice, slice]:
    """The smallest box around what is set."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _inner(side: slice) -> slice:
    frame = round(FRAME * (side.stop - side.start))
    return slice(side.start + frame, side.stop - frame)


def _filled(picture: Pictures, where: Masks, like: Masks) -> Pictures:
    """The picture with the mean of one region (of the whole, if that is empty) in another."""
    out = picture.copy()
    out[where] = round(float(picture[like].mean() if like.any() else picture.mean()))
    return out

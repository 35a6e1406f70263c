"""Finding the insonated sector of an ultrasound image, and taking burnt-in marks off it.

Everything here is careful rather than thorough: a mark left behind costs a model little, tissue taken away costs more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_WORKING_SIDE = 256  # the sector is looked for at about this size (pixels); the lengths below are at this size
_ABOVE_BACKGROUND = 6  # grey levels; the flat background of a screen stays below this, its JPEG noise included
_COLOURED = 40  # levels between two channels that no grey map or faint tint explains
_STROKE = 70  # levels by which a letter's strokes rise over what is behind them
_SMALLEST_SECTOR = 0.05  # of the picture: anything smaller is not the sector
_NEAR, _FAR = 2.0, 6.0  # pixels: spreads of the averages that fill marks, near what is known and far from it
_FAR_FILTERED = int(4 * _FAR + 0.5)  # pixels beyond which scipy's filter looks at nothing
_MOST_COLOURED = 0.25  # of the picture: beyond this it is a colour picture, not a picture with coloured marks


def to_grey(frames: Bytes) -> Bytes:
    """Luma (ITU-R BT.601) of `(C, T, H, W)`, as `(T, H, W)`."""
    if frames.shape[0] < 3:
        return np.asarray(frames[0])
    luma = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), frames[:3].astype(np.float32), axes=1)
    return np.asarray(luma.round(), dtype=np.uint8)


def coloured_marks(frames: Bytes) -> Mask | None:
    """Coloured text, calipers, colour bars and Doppler of `(C, T, H, W)`, as `(T, H, W)`; None if there are none.

    A faintly tinted grey map (sepia, blue) is not a mark: the tint, taken as proportional to the brightness, is
    subtracted first.
    """
    from scipy import ndimage

    if frames.shape[0] < 3 or (np.array_equal(frames[0], frames[1]) and np.array_equal(frames[1], frames[2])):
        return None
    red, green, blue = (channel.astype(np.float32) for channel in frames[:3])
    bright = green > 30
    tints = [float(np.median(c[bright] / green[bright])) if bright.any() else 1.0 for c in (red, blue)]
    marks = _off_map(red, green, blue, tints)
    if marks[bright].mean() > 0.1:  # so it is no tinted map but a neutral one with much colour in it
        marks = _off_map(red, green, blue, [1.0, 1.0])
    if not marks.any() or marks.mean() > _MOST_COLOURED:
        return None
    wider: Mask = ndimage.binary_dilation(marks, np.ones((1, 5, 5), bool))  # JPEG smears colour over its neighbours
    return wider


def _off_map(
    red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32], tints: list[float]
) -> Mask:
    """Where red or blue is far from this multiple of green."""
    return (abs(red - tints[0] * green) > _COLOURED) | (abs(blue - tints[1] * green) > _COLOURED)


def fill(grey: Bytes, marks: Mask) -> Bytes:
    """Replace marked pixels of `(T, H, W)` by what surrounds them: a smooth average of the unmarked, nearest first."""
    out = grey.copy()
    filler: _Filler | None = None
    for mask, target in zip(marks, out, strict=True):
        if not mask.any() or mask.all():
            continue
        if filler is None or not np.array_equal(mask, filler.marks):  # burnt-in marks stay where they are
            filler = _Filler(mask)
        filler.apply(target)
    return out


class _Filler:
    """What filling the marks of one mask `(H, W)` needs, whatever the picture; all else is left alone."""

    def __init__(self, marks: Mask) -> None:
        from scipy import ndimage

        self.marks = marks
        reach = _FAR_FILTERED + 1
        top, left, bottom, right = bounding_box(marks)
        self.box = (slice(max(0, top - reach), bottom + reach), slice(max(0, left - reach), right + reach))
        self.mask = marks[self.box]
        self.known = (~self.mask).astype(np.float32)
        self.nearest = tuple(ndimage.distance_transform_edt(self.mask, return_distances=False, return_indices=True))
        self.weight = ndimage.gaussian_filter(self.known, _NEAR)

    def apply(self, frame: Bytes) -> None:
        """Fill a frame `(H, W)` in place."""
        from scipy import ndimage

        part = frame[self.box]
        values = ndimage.gaussian_filter(part[self.nearest].astype(np.float32), _FAR)  # far from anything known
        smooth = ndimage.gaussian_filter(part * self.known, _NEAR) / np.maximum(self.weight, 1e-3)
        values = np.where(self.weight > 0.05, smooth, values)
        part[self.mask] = values[self.mask].round().astype(np.uint8)


def edge_text(grey: Bytes) -> Mask | None:
    """Bright lines of text flush with the left or right edge of `(T, H, W)`, as `(H, W)`; None if there are none.

    Text elsewhere on the sector is left alone: at working size a row of specular echoes looks the same.
    """
    from scipy import ndimage

    step = _step(grey)
    still = grey.min(axis=0)  # in a clip, text stays while echoes move
    strokes = still.astype(np.int16) - ndimage.grey_opening(still, (6 * step, 6 * step)) > _STROKE
    letters, count = ndimage.label(strokes, np.ones((3, 3), bool))
    heights, widths, bottoms = (np.zeros(count + 1) for _ in range(3))
    for index, (rows, columns) in enumerate(ndimage.find_objects(letters), start=1):
        heights[index], widths[index], bottoms[index] = rows.stop - rows.start, columns.stop - columns.start, rows.stop
    fits = (3 * step <= heights) & (heights <= 14 * step) & (widths <= 16 * step)
    letters[~fits[letters]] = 0
    gap = 9 * step
    lines, _ = ndimage.label(ndimage.maximum_filter1d(letters > 0, gap, axis=1), np.ones((3, 3), bool))
    margin = 0.06 * still.shape[1] + gap // 2
    text = np.zeros(still.shape, bool)
    for index, box in enumerate(ndimage.find_objects(lines), start=1):
        line = lines[box] == index
        inside = np.unique(letters[box][line])[1:]  # without the 0 of the gaps
        flush = box[1].start < margin or box[1].stop > still.shape[1] - margin
        aligned = np.ptp(bottoms[inside]) <= 2 * step and np.ptp(heights[inside]) <= 2 * step
        if flush and aligned and len(inside) >= 3:
            text[box] |= line
    return ndimage.binary_dilation(text, iterations=step) if text.any() else None


def find_sector(grey: Bytes) -> Mask | None:
    """The insonated sector of `(T, H, W)`, as a filled `(H, W)` mask; None where nothing stands out.

    The largest bright regions that survive an opening (text and scale bars do not), and their convex hull: sectors
    are convex but for the probe's own edge, and dark cysts, shadows and far fields inside must not be cut away.
    In a clip only what moves counts, so that frozen text, logos and scale bars drop out.
    """
    from scipy import ndimage
    from skimage.morphology import convex_hull_image

    step = _step(grey)
    brightest = _blocks(grey.max(axis=0).astype(np.float32), step)
    lit = brightest > _background(grey[0], step) + _ABOVE_BACKGROUND
    if len(grey) > 2:
        moving = _blocks(grey.std(axis=0, dtype=np.float32), step) > 0.7
        if moving.mean() > 0.05:  # else a frozen clip
            lit &= moving
    regions, count = ndimage.label(ndimage.binary_opening(lit, np.ones((4, 4), bool)))
    if count == 0:
        return None
    areas = np.bincount(regions.ravel())[1:]
    sector: Mask = np.isin(regions, 1 + np.flatnonzero(areas >= 0.04 * areas.max()))
    hull = ndimage.binary_dilation(convex_hull_image(sector), iterations=2)
    if hull.mean() < _SMALLEST_SECTOR:
        return None
    return np.kron(hull, np.ones((step, step), bool))[: grey.shape[1], : grey.shape[2]]


def _background(frame: Bytes, rim: int) -> int:
    """Grey level of the screen: a dark level that much of the picture, or of its rim, has; 0 where there is none."""
    edges = [side.ravel() for part in (frame, frame.T) for side in (part[:rim], part[-rim:])]
    levels = []
    for pixels in (frame.ravel(), np.concatenate(edges)):
        dark = np.bincount(pixels, minlength=256)[:64]
        levels.append(int(dark.argmax()) if dark.max() > 0.05 * len(pixels) else 0)
    return min(levels)


def _step(grey: Bytes) -> int:
    return max(1, round(int(max(grey.shape[1:])) / _WORKING_SIDE))


def _blocks(image: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Mean over blocks of `step` pixels, the last block filled up with the edge."""
    if step == 1:
        return image
    h, w = (-n % step for n in image.shape)
    padded = np.pad(image, ((0, h), (0, w)), mode="edge")
    return np.asarray(padded.reshape(padded.shape[0] // step, step, -1, step).mean(axis=(1, 3)))


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1

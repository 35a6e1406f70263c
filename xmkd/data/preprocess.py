"""From an image as it was read to the array a network sees: the part that involves no chance.

Plain numpy, without torch, because prediction on a clinic's machine runs these very steps.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xmkd.data import mri, ultrasound
from xmkd.data.image import SKIP, Image
from xmkd.errors import ConfigError, ReadError

# The files beside this one that have a part in a prepared array; cached arrays are made again when one of them changes.
_CODE = (
    "dicom", "dicom_header", "dicom_series", "image", "mri", "pictures", "preprocess", "readers", "slices",
    "ultrasound", "volumes",
)  # fmt: skip

Array = NDArray[np.generic]
_WAYS = ("export the image again from its source", SKIP)


@dataclass(frozen=True)
class UltrasoundPrep:
    """Ultrasound images and clips.

    Attributes:
        size: Height and width of the output in pixels; the aspect is kept and the rest is black.
        frames: Number of frames of a clip, evenly spaced in time; None keeps all.
        crop_sector: Cut away what surrounds the insonated sector.
        remove_overlays: Fill in burnt-in coloured marks, text and calipers.
    """

    size: tuple[int, int] = (128, 128)
    frames: int | None = None
    crop_sector: bool = True
    remove_overlays: bool = True

    def __post_init__(self) -> None:
        _at_least_one("size", self.size)
        _at_least_one("frames", () if self.frames is None else (self.frames,))


@dataclass(frozen=True)
class MriPrep:
    """MR volumes.

    Attributes:
        orientation: Where the columns, rows and slices run to, in ITK's letters (`LPS`: left, posterior, superior).
        spacing_mm: Voxel size (D, H, W) after resampling; None keeps the scanner's.
        size: Shape (D, H, W) after a centred crop or padding; None keeps what there is.
        percentiles: Intensities outside are clipped.
        n4: Correct the bias field first (N4ITK; seconds to minutes per volume).
    """

    orientation: str = "LPS"
    spacing_mm: tuple[float, float, float] | None = None
    size: tuple[int, int, int] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    n4: bool = False

    def __post_init__(self) -> None:
        _at_least_one("size", self.size or ())
        if not all(s > 0 for s in self.spacing_mm or ()):
            raise ConfigError(f"spacing_mm must be above 0, not {self.spacing_mm}")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"percentiles must rise within 0 to 100, not {self.percentiles}")
        axes = ("RL", "AP", "IS")
        if len(self.orientation) != 3 or any(len(set(axis) & set(self.orientation)) != 1 for axis in axes):
            raise ConfigError(f"orientation takes a letter each of {', '.join(axes)}, not {self.orientation!r}")


Prep = UltrasoundPrep | MriPrep


def _at_least_one(name: str, counts: tuple[int, ...]) -> None:
    if any(count < 1 for count in counts):
        raise ConfigError(f"{name} must be 1 or more, not {', '.join(map(str, counts))}")


@dataclass(frozen=True)
class Prepared:
    """A prepared image and where it came from.

    Attributes:
        array: Ultrasound uint8 `(1, H, W)` or `(1, T, H, W)`; MR float16 `(C, D, H, W)`.
        spacing_mm: (H, W) or (D, H, W); None if unknown.
        affine: 4x4, from an index of `array` (d, h, w, 1) to LPS mm, d = 0 for images and clips; None if unknown.
        to_source: Homogeneous matrix from an index of `array` (h, w, 1) or (d, h, w, 1) to an index of the source.
    """

    array: Array
    spacing_mm: tuple[float, ...] | None
    affine: NDArray[np.float64] | None
    to_source: NDArray[np.float64]


def spec_hash(prep: Prep) -> str:
    """A name for what `prepare` does under these settings and with this source code."""
    return hashlib.blake2b(f"{code_hash()} {prep!r}".encode(), digest_size=8).hexdigest()


@cache
def code_hash() -> str:
    """A hash of the source code that reads and prepares images, taken once per process."""
    code = hashlib.blake2b(digest_size=8)
    for name in _CODE:
        code.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return code.hexdigest()


def prepare(image: Image, prep: Prep) -> Prepared:
    """Run the deterministic steps on one image.

    Raises:
        ReadError: The image holds NaN or infinite values, is constant, or is of a kind the settings do not fit.
    """
    _check_values(image.array)
    if isinstance(prep, UltrasoundPrep):
        return _ultrasound(image, prep)
    return _mri(image, prep)


def mask_classes(mask: Array) -> NDArray[np.uint8]:
    """Class indices of a mask as stored: 0 and 255 mean 0 and 1.

    Raises:
        ReadError: It holds other values than whole numbers from 0 to 255.
    """
    values = set(np.unique(mask).tolist())
    if not values <= set(range(256)):
        raise ReadError(
            f"a mask must hold whole numbers from 0 to 255, not {min(values)} to {max(values)}",
            fixes=("save class numbers in it", "empty the mask cell of its row"),
        )
    labels = mask.astype(np.uint8)
    return np.minimum(labels, 1) if values <= {0, 255} else labels


def prepare_mask(mask: Array, prepared: Prepared) -> Array:
    """Bring a mask that belongs to the source image, `(H, W)` or `(D, H, W)`, onto the prepared grid (nearest)."""
    from scipy import ndimage

    matrix = prepared.to_source
    shape = prepared.array.shape[-mask.ndim :]
    out: Array = ndimage.affine_transform(mask, matrix[:-1, :-1], matrix[:-1, -1], output_shape=shape, order=0)
    return out


def _check_values(array: Array) -> None:
    if array.size == 0:
        raise ReadError("the image is empty", fixes=_WAYS)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise ReadError(
            f"the image holds {count} values that are NaN or infinite",
            fixes=_WAYS,
        )
    if array.min() == array.max():
        raise ReadError(f"every pixel of the image has the same value ({array.flat[0]})", fixes=_WAYS)


def _ultrasound(image: Image, prep: UltrasoundPrep) -> Prepared:
    if image.kind == "volume":
        raise ReadError(
            "a volume was given where an ultrasound image or clip was expected",
            fixes=("correct its modality in the manifest", SKIP),
        )
    frames = image.array if image.kind == "clip" else image.array[:, None]  # (C, T, H, W)
    if prep.frames is not None and image.kind == "clip":
        frames = frames[:, np.linspace(0, frames.shape[1] - 1, prep.frames).round().astype(int)]
    grey, (top, left, bottom, right) = _clean(_to_bytes(frames), prep)
    out, scale, pad = _fit(grey[:, top:bottom, left:right], prep.size)
    # Pixel centres: output i lies at (i - pad + 0.5) / scale - 0.5 of the crop.
    to_source = np.eye(3)
    for axis, start in enumerate((top, left)):
        to_source[axis, axis] = 1 / scale[axis]
        to_source[axis, 2] = start + (0.5 - pad[axis]) / scale[axis] - 0.5
    spacing = None if image.spacing_mm is None else tuple(s / f for s, f in zip(image.spacing_mm, scale, strict=True))
    affine = None
    if image.affine is not None:
        in_plane = np.eye(4)
        in_plane[1:, 1:] = to_source
        affine = image.affine @ in_plane
    return Prepared(out[None] if image.kind == "clip" else out, spacing, affine, to_source)


def _mri(image: Image, prep: MriPrep) -> Prepared:
    if image.kind != "volume":
        raise ReadError(
            f"{'an' if image.kind == 'image' else 'a'} {image.kind} was given where an MR volume was expected",
            fixes=("correct its modality in the manifest", SKIP),
        )
    source = mri.grid_of(image, needed=prep.spacing_mm is not None)
    volumes = [mri.to_itk(channel, source) for channel in image.array]
    if prep.n4:
        volumes = [mri.correct_bias(v) for v in volumes]
    volumes = [mri.resample(v, prep.orientation, prep.spacing_mm) for v in volumes]
    array = np.stack([mri.normalise(mri.to_numpy(v), prep.percentiles) for v in volumes])
    affine = mri.affine_of(volumes[0])
    if prep.size is not None:
        array, shift = mri.crop_or_pad(array, prep.size)
        affine[:3, 3] += affine[:3, :3] @ shift
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Prepared(array.astype(np.float16), spacing, affine, np.linalg.inv(source) @ affine)


def _to_bytes(array: Array) -> NDArray[np.uint8]:
    """Eight bits, from whatever was stored: values that do not fit are spread over 0 to 255."""
    if array.dtype == np.uint8:
        return np.asarray(array, dtype=np.uint8)
    values = array.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 1 < high <= 255:
        return values.round().astype(np.uint8)
    return ((values - low) * (255 / (high - low))).round().astype(np.uint8)


def _clean(frames: NDArray[np.uint8], prep: UltrasoundPrep) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """Grey `(T, H, W)` of `(C, T, H, W)` without marks, and the box (top, left, bottom, right) to keep of it."""
    grey = ultrasound.to_grey(frames)
    if prep.remove_overlays and (marks := ultrasound.coloured_marks(frames)) is not None:
        grey = ultrasound.fill(grey, marks)
    sector = ultrasound.find_sector(grey)
    if prep.remove_overlays:
        if (text := ultrasound.edge_text(grey)) is not None:
            grey = ultrasound.fill(grey, np.broadcast_to(text, grey.shape))
        if sector is not None:
            grey = grey * sector
    whole = (0, 0, *grey.shape[1:])
    return grey, ultrasound.bounding_box(sector) if prep.crop_sector and sector is not None else whole


def _fit(
    frames: NDArray[np.uint8], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], tuple[float, float], tuple[int, int]]:
    """Resize `(T, H, W)` to fit `size` with the aspect kept, black around; also the scale and the padding per axis."""
    from PIL import Image as Pillow

    h, w = frames.shape[1:]
    ratio = min(size[0] / h, size[1] / w)
    new = (max(1, round(h * ratio)), max(1, round(w * ratio)))
    pad = ((size[0] - new[0]) // 2, (size[1] - new[1]) // 2)
    out = np.zeros((len(frames), *size), np.uint8)
    for frame, target in zip(frames, out, strict=True):
        small = Pillow.fromarray(frame).resize((new[1], new[0]), Pillow.Resampling.BICUBIC)  # antialiased
        target[pad[0] : pad[0] + new[0], pad[1] : pad[1] + new[1]] = np.asarray(small)
    return out, (new[0] / h, new[1] / w), pad

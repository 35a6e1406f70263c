"""From an image as it was read to the array a network sees: the part that involves no chance.

Plain numpy, without torch, because prediction on a clinic's machine runs these very steps.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xmkd.errors import ReadError

if TYPE_CHECKING:
    import SimpleITK

    from xmkd.data.readers import Image

CODE_VERSION = 1  # raise it whenever the output of this file changes: cached arrays made before are then rebuilt

Array = NDArray[np.generic]


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


Prep = UltrasoundPrep | MriPrep


@dataclass(frozen=True)
class Prepared:
    """A prepared image and where it came from.

    Attributes:
        array: Ultrasound uint8 `(1, H, W)` or `(1, T, H, W)`; MR float16 `(C, D, H, W)`.
        spacing_mm: (H, W) or (D, H, W); None if unknown.
        affine: 4x4, from index (d, h, w, 1) to LPS mm; None if unknown.
        to_source: Homogeneous matrix from an index of `array` (h, w, 1) or (d, h, w, 1) to an index of the source.
    """

    array: Array
    spacing_mm: tuple[float, ...] | None
    affine: NDArray[np.float64] | None
    to_source: NDArray[np.float64]


def spec_hash(prep: Prep) -> str:
    """A name for what `prepare` does under these settings and this version of the code."""
    spec = {"kind": type(prep).__name__, "version": CODE_VERSION, **dataclasses.asdict(prep)}
    return hashlib.blake2b(json.dumps(spec, sort_keys=True).encode(), digest_size=8).hexdigest()


def prepare(image: Image, prep: Prep) -> Prepared:
    """Run the deterministic steps on one image.

    Raises:
        ReadError: The image holds NaN or infinite values, is constant, or is of a kind the settings do not fit.
    """
    _check_values(image.array)
    if isinstance(prep, UltrasoundPrep):
        return _ultrasound(image, prep)
    return _mri(image, prep)


def prepare_mask(mask: Array, prepared: Prepared) -> Array:
    """Bring a mask that belongs to the source image, `(H, W)` or `(D, H, W)`, onto the prepared grid (nearest)."""
    from scipy import ndimage

    matrix = prepared.to_source
    shape = prepared.array.shape[-mask.ndim :]
    out: Array = ndimage.affine_transform(mask, matrix[:-1, :-1], matrix[:-1, -1], output_shape=shape, order=0)
    return out


def _check_values(array: Array) -> None:
    if array.size == 0:
        raise ReadError("the image is empty")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise ReadError(
            f"the image holds {count} values that are NaN or infinite",
            fixes=("export the image again from its source", "leave it out: remove its row, or set data.on_error=skip"),
        )
    if array.min() == array.max():
        raise ReadError(f"every pixel of the image has the same value ({array.flat[0]})")


# --- ultrasound ---


def _ultrasound(image: Image, prep: UltrasoundPrep) -> Prepared:
    if image.kind == "volume":
        raise ReadError("a volume was given where an ultrasound image or clip was expected")
    frames = image.array if image.kind == "clip" else image.array[:, None]  # (C, T, H, W)
    if prep.frames is not None and image.kind == "clip":
        frames = frames[:, np.linspace(0, frames.shape[1] - 1, prep.frames).round().astype(int)]
    grey = _to_grey(_to_bytes(frames))  # (T, H, W)
    top, left, bottom, right = 0, 0, *grey.shape[1:]
    out, scale, pad = _fit(grey[:, top:bottom, left:right], prep.size)
    # Pixel centres: output i lies at (i - pad + 0.5) / scale - 0.5 of the crop.
    to_source = np.eye(3)
    for axis, start in enumerate((top, left)):
        to_source[axis, axis] = 1 / scale[axis]
        to_source[axis, 2] = start + (0.5 - pad[axis]) / scale[axis] - 0.5
    spacing = None if image.spacing_mm is None else tuple(s / f for s, f in zip(image.spacing_mm, scale, strict=True))
    return Prepared(out[None] if image.kind == "clip" else out, spacing, image.affine, to_source)


def _to_bytes(array: Array) -> NDArray[np.uint8]:
    """Eight bits, from whatever was stored: other types are spread over 0 to 255."""
    if array.dtype == np.uint8:
        return np.asarray(array, dtype=np.uint8)
    values = array.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    return ((values - low) * (255 / (high - low))).round().astype(np.uint8)


def _to_grey(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of `(C, T, H, W)`, as `(T, H, W)` (ITU-R BT.601 weights)."""
    if frames.shape[0] == 1:
        return frames[0]
    luma = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), frames[:3].astype(np.float32), axes=1)
    return np.asarray(luma.round(), dtype=np.uint8)


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


# --- MR ---


def _mri(image: Image, prep: MriPrep) -> Prepared:
    import SimpleITK

    if image.kind != "volume":
        raise ReadError(f"an {image.kind} was given where an MR volume was expected")
    source = image.affine
    if source is None:
        source = np.diag([0.0, 0.0, 0.0, 1.0])
        source[[2, 1, 0], [0, 1, 2]] = image.spacing_mm or (1.0, 1.0, 1.0)
    channels = [_resample(_to_sitk(channel, source), prep) for channel in image.array]
    affine = _affine_of(channels[0])
    array = np.stack([_normalise(SimpleITK.GetArrayFromImage(c), prep.percentiles) for c in channels])
    if prep.size is not None:
        array, shift = _crop_or_pad(array, prep.size)
        affine[:3, 3] += affine[:3, :3] @ shift
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Prepared(array.astype(np.float16), spacing, affine, np.linalg.inv(source) @ affine)


def _to_sitk(array: Array, affine: NDArray[np.float64]) -> SimpleITK.Image:
    import SimpleITK

    out = SimpleITK.GetImageFromArray(array.astype(np.float32))
    columns = affine[:3, [2, 1, 0]]  # ITK counts columns, rows, slices
    spacing = np.linalg.norm(columns, axis=0)
    out.SetSpacing([float(s) for s in spacing])
    out.SetDirection((columns / spacing).ravel().tolist())
    out.SetOrigin(affine[:3, 3].tolist())
    return out


def _affine_of(volume: SimpleITK.Image) -> NDArray[np.float64]:
    affine = np.eye(4)
    columns = np.array(volume.GetDirection()).reshape(3, 3) * np.array(volume.GetSpacing())
    affine[:3, :3] = columns[:, ::-1]
    affine[:3, 3] = volume.GetOrigin()
    return affine


def _resample(volume: SimpleITK.Image, prep: MriPrep) -> SimpleITK.Image:
    import SimpleITK

    volume = SimpleITK.DICOMOrient(volume, prep.orientation)
    if prep.spacing_mm is None:
        return volume
    spacing = np.array(prep.spacing_mm[::-1], dtype=float)
    old = np.array(volume.GetSpacing())
    size = np.maximum(1, np.round(np.array(volume.GetSize()) * old / spacing)).astype(int)
    direction = np.array(volume.GetDirection()).reshape(3, 3)
    origin = np.array(volume.GetOrigin()) + direction @ ((spacing - old) / 2)  # the outer edge stays where it was
    return SimpleITK.Resample(
        volume, size.tolist(), SimpleITK.Transform(), SimpleITK.sitkLinear, origin.tolist(), spacing.tolist(),
        volume.GetDirection(), 0.0, SimpleITK.sitkFloat32, True,
    )  # fmt: skip


def _normalise(volume: NDArray[np.float32], percentiles: tuple[float, float]) -> NDArray[np.float32]:
    """Clip at the percentiles, then mean 0 and standard deviation 1 over the body."""
    low, high = np.percentile(volume, percentiles)
    volume = np.clip(volume, low, high)
    body = volume[volume > low + 0.1 * (high - low)]
    return np.asarray((volume - body.mean()) / max(float(body.std()), 1e-6), dtype=np.float32)


def _crop_or_pad(
    array: NDArray[np.float32], size: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Centre `(C, D, H, W)` in `size`, air outside; also the index of the new first voxel in the old array."""
    out = np.full((array.shape[0], *size), array.min(), dtype=np.float32)
    start = np.array([(old - new) // 2 for old, new in zip(array.shape[1:], size, strict=True)])
    source = tuple(slice(max(s, 0), s + n if s >= 0 else None) for s, n in zip(start, size, strict=True))
    part = array[(slice(None), *source)]
    target = tuple(slice(max(-s, 0), max(-s, 0) + n) for s, n in zip(start, part.shape[1:], strict=True))
    out[(slice(None), *target)] = part
    return out, start.astype(np.float64)

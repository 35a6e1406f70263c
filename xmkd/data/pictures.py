"""PNG, JPEG and other pictures through Pillow, and clips kept as NumPy files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from xmkd.data.image import SKIP, Image, Kind, modality_name, native
from xmkd.errors import ReadError

_AS_STORED = ("L", "I", "F", "I;16", "I;16B", "I;16L", "RGB")
_GREY = {"1": "L", "LA": "L", "La": "L"}  # bits, and grey with transparency; everything else becomes RGB


def read_picture(path: Path, modality: str | None) -> Image:
    """Read a picture `(C, H, W)`: grey with C = 1 (uint8, or uint16 for 16 bits), else RGB. It has no spacing.

    Raises:
        ReadError: It has several pages.
    """
    with warnings.catch_warnings(), Pillow.open(path) as picture:
        warnings.simplefilter("ignore")
        pages = getattr(picture, "n_frames", 1)
        if pages > 1:
            raise ReadError(
                f"{pages} pages in one picture file", where=path, fixes=("save them as one .npz clip", SKIP)
            )
        target = picture.mode if picture.mode in _AS_STORED else _GREY.get(picture.mode, "RGB")
        array = native(np.array(picture.convert(target)))
        form = (picture.format or path.suffix[1:]).lower()
    if array.ndim == 2:
        array = array[..., None]
    array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return Image(array, "image", modality=modality_name(modality), metadata={"format": form})


def read_array(path: Path, modality: str | None) -> Image:
    """Read a NumPy clip: `.npz` with an array `frames`, or `.npy`, `(T, H, W)` or `(T, H, W, C)`; `(H, W)` is an image.

    An `.npz` may also hold `spacing_mm` (H, W) and `frame_time_ms`.

    Raises:
        ReadError: The array is missing or of another shape or type.
    """
    loaded = np.load(path, allow_pickle=False)
    extras: Mapping[str, np.ndarray] = {}
    if path.suffix.lower() == ".npz":
        with loaded:
            if "frames" not in loaded:
                raise ReadError(
                    f"no array named frames, only {', '.join(loaded.files) or 'nothing'}",
                    where=path,
                    fixes=("save the clip with numpy.savez(path, frames=clip)", "save it as .npy"),
                )
            frames = loaded["frames"]
            extras = {key: loaded[key] for key in ("spacing_mm", "frame_time_ms") if key in loaded}
    else:
        frames = loaded
    frames = native(_clip_axes(frames, path))
    kind: Kind = "clip" if frames.ndim == 4 else "image"
    spacing = tuple(float(v) for v in extras["spacing_mm"]) if "spacing_mm" in extras else None
    time = float(extras["frame_time_ms"]) if "frame_time_ms" in extras else None
    return Image(frames, kind, spacing, None, modality_name(modality), time, {"format": path.suffix[1:].lower()})


def _clip_axes(frames: np.ndarray, path: Path) -> np.ndarray:
    """`(T, H, W)` or `(T, H, W, C)` to `(C, T, H, W)`, `(H, W)` to `(1, H, W)`."""
    if frames.dtype.kind not in "buif":
        raise ReadError(f"values of type {frames.dtype}", where=path, fixes=("save them as uint8 or float32", SKIP))
    if frames.ndim == 2:
        return np.ascontiguousarray(frames[None])
    if frames.ndim == 3 and frames.shape[-1] > 4:
        return np.ascontiguousarray(frames[None])
    if frames.ndim == 4 and frames.shape[-1] in (1, 3):
        return np.ascontiguousarray(np.moveaxis(frames, -1, 0))
    raise ReadError(
        f"an array of shape {frames.shape} is no clip: it must be (T, H, W) or (T, H, W, C) with 1 or 3 channels",
        where=path,
        fixes=("reorder its axes; one colour image is (1, H, W, 3)", "save single images as PNG"),
    )

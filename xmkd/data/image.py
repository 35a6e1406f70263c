"""What every reader returns: the array, its geometry in millimetres and a few facts about where it came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from xmkd.errors import ReadError, XmkdError

Kind = Literal["image", "clip", "volume"]

SKIP = "leave the file out with data.on_error=skip"

# DICOM codes and manifest names on the left. "OT" (other) says nothing about the modality, so it counts as unknown.
_MODALITIES = {
    "us": "us", "ivus": "us", "tvus": "us", "ultrasound": "us",
    "mr": "mri", "mri": "mri", "ct": "ct", "pt": "pet", "pet": "pet",
    "cr": "xray", "dx": "xray", "rg": "xray", "mg": "mammography",
    "ot": None, "": None,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Image:
    """One image, clip or volume as read from disk, before any preprocessing.

    Attributes:
        array: `(C, H, W)` for an image, `(C, T, H, W)` for a clip, `(C, D, H, W)` for a volume, in the stored or
            rescaled dtype. Colour is RGB with C = 3, grey has C = 1.
        kind: Which of the three it is.
        spacing_mm: Pixel or voxel size in mm, `(H, W)` or `(D, H, W)`; None where the file does not say.
        affine: `(4, 4)` float64, maps the array index `(d, h, w, 1)` to LPS mm (the DICOM and ITK convention: x to the
            patient's left, y to the back, z to the head); None where the orientation is unknown.
        modality: "us", "mri", "ct" and so on; None where neither the file nor the caller says.
        frame_time_ms: Time between two frames of a clip, in ms.
        metadata: A few technical facts such as the manufacturer; never names, ids, dates or free text.
    """

    array: np.ndarray
    kind: Kind
    spacing_mm: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
    modality: str | None = None
    frame_time_ms: float | None = None
    metadata: dict[str, str | float | int] = field(default_factory=dict)


def modality_name(code: str | None) -> str | None:
    """The project's lower-case name of a DICOM modality code or manifest modality; None for unknown ones.

    >>> modality_name("MR"), modality_name("tvus"), modality_name("OT")
    ('mri', 'us', None)
    """
    lower = (code or "").strip().lower()
    return _MODALITIES.get(lower, lower)


def agreed_modality(found: str | None, wanted: str | None, *, where: Path) -> str | None:
    """The file's modality, or the caller's where the file does not say.

    Args:
        found: DICOM code or name in the file.
        wanted: What the caller expects, None for anything.
        where: The file, for the message.

    Raises:
        ReadError: Both are known and differ.
    """
    found, wanted = modality_name(found), modality_name(wanted)
    if found and wanted and found != wanted:
        raise ReadError(
            f'expected an image of modality "{wanted}", but the file says "{found}"',
            where=where,
            fixes=("correct the path or the modality in the manifest", SKIP),
        )
    return found or wanted


def native(array: np.ndarray) -> np.ndarray:
    """The array in the machine's byte order, which torch insists on."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_finite(array: np.ndarray, path: Path) -> None:
    """Raise a ReadError where values are NaN or infinite."""
    bad = int(array.size - np.isfinite(array).sum()) if array.dtype.kind == "f" else 0
    if bad:
        raise ReadError(
            f"{bad} of {array.size} values are NaN or infinite",
            where=path,
            fixes=("write the file again with them replaced, for example by numpy.nan_to_num", SKIP),
        )


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoding library raises on a damaged file into a ReadError with its path."""
    try:
        yield
    except XmkdError:
        raise
    except ImportError as error:
        raise ReadError(
            f"reading this kind of file needs a library that is not installed: {error}",
            where=path,
            fixes=("run `make setup`", "work from a cache that was made where the library is installed"),
        ) from error
    except Exception as error:  # codecs raise anything, from zlib.error to IndexError
        text = " ".join(str(error).split())[:300]
        raise ReadError(
            f"the file can't be decoded ({type(error).__name__}: {text})",
            where=path,
            fixes=("copy or export the file again: it may be cut short or damaged", SKIP),
        ) from error

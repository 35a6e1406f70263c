"""Organ masks beside the images: NIfTI in the geometry of a series, PNG for stills and the first frames of clips.

Their values are those of `scene.ORGANS`; the same bytes for the same input. The NIfTI files are written here because
SimpleITK leaves half a file on a full disk without an error, and takes four times as long.
"""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from scipy.spatial.transform import Rotation

from xmkd.simulate.identity import NOTE
from xmkd.simulate.output import write_file
from xmkd.simulate.rendered import Clip, Volume
from xmkd.simulate.slice_order import along_normal

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_FAST = 1  # of gzip: level 6 takes four times as long for files smaller by a third


def write_volume_mask(volume: Volume, path: Path) -> None:
    """Write the mask of a volume as NIfTI-1, voxel for voxel on the grid of the series.

    Args:
        volume: What was rendered; its mask is uint8 `(D, H, W)`.
        path: `.nii.gz`, replaced in one step; its folder is made.

    Raises:
        RunError: The disk is full, or the place can't be written.
        ValueError: The axes are not at right angles.
    """
    volume = along_normal(volume)
    header = _nifti_header(volume.mask.shape, volume.affine)
    write_file(path, gzip.compress(header + volume.mask.astype(np.uint8).tobytes(), _FAST, mtime=0))


def write_clip_mask(clip: Clip, path: Path) -> None:
    """Write the mask of a still, or of a clip's first frame, as a PNG file.

    Args:
        clip: What was rendered; its mask is uint8 `(H, W)`.
        path: `.png`, replaced in one step; its folder is made.

    Raises:
        RunError: The disk is full, or the place can't be written.
    """
    buffer = io.BytesIO()
    Pillow.fromarray(clip.mask).save(buffer, "PNG")
    write_file(path, buffer.getvalue())


def _nifti_header(shape: tuple[int, ...], affine: np.ndarray) -> bytes:
    """Header of uint8 `(D, H, W)` voxels (nifti1.h), with the geometry both as quaternion and as matrix.

    Args:
        shape: `(D, H, W)`.
        affine: `(4, 4)` from index `(d, h, w, 1)` to LPS mm, right-handed in the order w, h, d.
    """
    to_ras = _LPS_TO_RAS @ affine[:, [2, 1, 0, 3]]  # NIfTI counts w, h, d and maps to RAS
    size = np.linalg.norm(to_ras[:3, :3], axis=0)
    x, y, z, w = Rotation.from_matrix(to_ras[:3, :3] / size).as_quat()
    b, c, d = (-v if w < 0 else v for v in (x, y, z))  # nifti1.h stores no w: it is at least 0
    return b"".join(
        [
            struct.pack("<i35xB", 348, 0),  # size of the header; bytes no longer in use
            struct.pack("<8h", 3, *shape[::-1], 1, 1, 1, 1),
            struct.pack("<3f4h", 0, 0, 0, 0, 2, 8, 0),  # intent; uint8; 8 bits; first slice
            struct.pack("<8f", 1, *size, 0, 0, 0, 0),  # 1: right-handed
            struct.pack("<3fhBB", 352, 1, 0, 0, 0, 2),  # where voxels start; slope and intercept; mm
            struct.pack("<4f2i", 0, 0, 0, 0, 0, 0),  # display range; slice timing
            struct.pack("<80s24s", NOTE.encode(), b""),
            struct.pack("<2h", 1, 1),  # both are coordinates of the scanner
            struct.pack("<6f", b, c, d, *to_ras[:3, 3]),
            struct.pack("<12f", *to_ras[:3].ravel()),
            struct.pack("<16s4s4x", b"", b"n+1\0"),
        ]
    )

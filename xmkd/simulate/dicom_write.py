"""Rendered images as DICOM files: clips and stills of ultrasound, and the slices of MR and CT series.

The files are uncompressed, so that their size tells nothing of what they show, and the same bytes for the same input.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from xmkd.files import writing
from xmkd.simulate import dicom_tags as tags
from xmkd.simulate.dicom_bytes import DicomFiles
from xmkd.simulate.identity import Identity
from xmkd.simulate.output import OTHER_PLACE, write_file
from xmkd.simulate.rendered import Clip, Volume
from xmkd.simulate.slice_order import along_normal

_INT16 = np.iinfo(np.int16)
_BRIGHT = 99.5  # percentile of the values that is shown as white


def write_clip(
    clip: Clip,
    path: Path,
    identity: Identity,
    *,
    series: str = "tvus",
    number: int = 1,
    colour: bool = False,
) -> None:
    """Write a clip, or a still where it has one frame, with its calibrated region.

    Args:
        clip: What was rendered.
        path: The file, replaced in one step; its folder is made.
        identity: Patient, hospital and study.
        series: Name of the series of which it is one image.
        number: Of this image within the series.
        colour: Store grey as RGB, as some machines do.

    Raises:
        RunError: The disk is full, or the place can't be written.
        ValueError: The header holds something that is no DICOM.
    """
    several = len(clip.frames) > 1
    header = tags.common(identity, "US", series, 1)
    tags.ultrasound(header, clip.header, _region(clip))
    tags.pixels(header, clip.frames.shape[1:], 8, signed=False, colour=colour)
    if several:
        tags.put(header, {"FrameTime": 1000 / clip.frame_rate, "CineRate": clip.frame_rate})
        tags.put(header, {"NumberOfFrames": len(clip.frames)})
        header.FrameIncrementPointer = tag_for_keyword("FrameTime")
    tags.put(header, {"InstanceNumber": number})
    files = DicomFiles(header, UltrasoundMultiFrameImageStorage if several else UltrasoundImageStorage)
    frames = np.repeat(clip.frames[..., None], 3, axis=-1) if colour else clip.frames  # (T, H, W[, C])
    write_file(path, files.file({"SOPInstanceUID": identity.uid(series, number)}, frames))


def write_series(
    volume: Volume,
    folder: Path,
    identity: Identity,
    modality: Literal["mri", "ct"],
    *,
    number: int = 1,
) -> None:
    """Write one file per slice, in the order of their positions along the slice normal.

    Args:
        volume: What was rendered.
        folder: Replaced as a whole, so that there is never a part of a series.
        identity: Patient, hospital and study.
        modality: What it is.
        number: Of the series within the study.

    Raises:
        RunError: The disk is full, or the place can't be written.
        ValueError: The axes are not at right angles, a value does not fit, or the header holds something that is no
            DICOM.
    """
    contents = list(_slices(along_normal(volume), identity, modality, number))
    unfinished = folder.with_name(f".{folder.name}.tmp")
    with writing(folder, OTHER_PLACE):
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            unfinished.mkdir(parents=True)
            for index, content in enumerate(contents, start=1):
                (unfinished / f"IM{index:04d}.dcm").write_bytes(content)
            if folder.exists():
                shutil.rmtree(folder)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _region(clip: Clip) -> dict[str, float | int]:
    """Where the calibrated region lies (its last row and column included) and the size of a pixel in cm."""
    top, left, bottom, right = clip.sector
    return {
        "RegionLocationMinX0": left, "RegionLocationMinY0": top,
        "RegionLocationMaxX1": right - 1, "RegionLocationMaxY1": bottom - 1,
        "PhysicalDeltaX": clip.spacing_mm[1] / 10, "PhysicalDeltaY": clip.spacing_mm[0] / 10,
    }  # fmt: skip


def _slices(volume: Volume, identity: Identity, modality: Literal["mri", "ct"], number: int) -> Iterator[bytes]:
    """The files of a series."""
    array = volume.array
    if modality == "ct":
        array = array.astype(np.int32) - tags.AIR_HU
        if array.max() > _INT16.max:
            raise ValueError(f"CT of {volume.array.max()} HU does not fit into 16 bits above {tags.AIR_HU} HU")
    varying = ("InstanceNumber", "ImagePositionPatient", "SliceLocation")
    kind = CTImageStorage if modality == "ct" else MRImageStorage
    files = DicomFiles(_series_header(volume, identity, modality, number), kind, varying)
    step = volume.affine[:3, 0]
    normal = step / np.linalg.norm(step)
    for index, plane in enumerate(array.astype(np.int16, copy=False)):
        position = volume.affine[:3, 3] + index * step
        values = {
            "SOPInstanceUID": identity.uid(volume.sequence, index + 1),
            "InstanceNumber": str(index + 1),
            "ImagePositionPatient": "\\".join(map(tags.decimal, position)),
            "SliceLocation": tags.decimal(position @ normal),
        }
        yield files.file(values, plane)


def _series_header(volume: Volume, identity: Identity, modality: Literal["mri", "ct"], number: int) -> Dataset:
    """What the slices have in common."""
    size = np.linalg.norm(volume.affine[:3, :3], axis=0)  # (D, H, W) mm
    _, along_h, along_w = (volume.affine[:3, :3] / size).T
    header = tags.common(identity, "CT" if modality == "ct" else "MR", volume.sequence, number)
    tags.put(
        header,
        {
            "FrameOfReferenceUID": identity.uid("frame of reference"), "PositionReferenceIndicator": "",
            "PatientPosition": "HFS", "ImageOrientationPatient": [*along_w, *along_h], "PixelSpacing": [*size[1:]],
            "SliceThickness": volume.thickness_mm, "SpacingBetweenSlices": size[0],
        },
    )  # fmt: skip
    tags.pixels(header, volume.array.shape[1:], 16, signed=True)
    if modality == "ct":
        tags.computed_tomography(header, volume.header)
    else:
        white = max(1.0, float(f"{np.percentile(volume.array[:, ::4, ::4], _BRIGHT):.2g}"))
        tags.put(header, {"WindowCenter": white / 2, "WindowWidth": white})
        tags.magnetic_resonance(header, volume.header, volume.sequence)
    return header

"""Small volumes and DICOM objects with known content and geometry, for the tests of the readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from xmkd.data.readers import Image

TOLERANCE_MM = 1e-3


def rotation(angles: Sequence[float]) -> np.ndarray:
    """`(3, 3)` rotation about x, y and z by `angles` in radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = result @ turn
    return result


def oblique_affine(
    spacing: Sequence[float] = (3.3, 0.5, 0.7), angles: Sequence[float] = (0.3, -0.2, 0.5)
) -> np.ndarray:
    """`(4, 4)` from index (d, h, w, 1) to LPS mm; right-handed, as slices sorted along their normal are."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles)[:, ::-1] * spacing
    affine[:3, 3] = [-30.5, 12.25, 71.125]
    return affine


def dataset(sop_class: str, pixels: np.ndarray, **elements: object) -> Dataset:
    """A file with grey `(T, H, W)` or `(H, W)`, or colour `(..., 3)` pixels; `elements` replace header fields."""
    colour = pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if colour else pixels.shape
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    result.SOPClassUID = sop_class
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    result.StudyInstanceUID = generate_uid()
    result.SeriesInstanceUID = generate_uid()
    result.PatientID = "P1"
    result.Rows, result.Columns = shape[-2:]
    if len(shape) == 3:
        result.NumberOfFrames = shape[0]
    result.SamplesPerPixel = 3 if colour else 1
    if colour:
        result.PlanarConfiguration = 0
    result.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    result.BitsAllocated = result.BitsStored = 8 * pixels.dtype.itemsize
    result.HighBit = result.BitsStored - 1
    result.PixelRepresentation = int(pixels.dtype.kind == "i")
    result.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(result, keyword, value)
    return result


def save(file: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def us_image(pixels: np.ndarray, **elements: object) -> Dataset:
    return dataset(UltrasoundImageStorage, pixels, **{"Modality": "US", **elements})


def us_clip(pixels: np.ndarray, **elements: object) -> Dataset:
    return dataset(UltrasoundMultiFrameImageStorage, pixels, **{"Modality": "US", **elements})


def us_region(delta: tuple[float, float], box: tuple[int, int, int, int], kind: int = 1, units: int = 3) -> Dataset:
    """A calibrated region: `delta` (x, y) per pixel in `units` (3 = cm), `box` (x0, y0, x1, y1)."""
    region = Dataset()
    region.RegionSpatialFormat = region.RegionDataType = kind
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = units
    region.PhysicalDeltaX, region.PhysicalDeltaY = delta
    region.RegionLocationMinX0, region.RegionLocationMinY0 = box[:2]
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = box[2:]
    return region


def mr_slices(volume: np.ndarray, affine: np.ndarray, **elements: object) -> list[Dataset]:
    """The slices of a `(D, H, W)` volume as one MR series."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    series, study = generate_uid(), generate_uid()
    return [
        dataset(
            MRImageStorage,
            pixels,
            **{
                "Modality": "MR",
                "SeriesInstanceUID": series,
                "StudyInstanceUID": study,
                "InstanceNumber": index + 1,
                "ImagePositionPatient": decimals(affine @ [index, 0, 0, 1])[:3],
                "ImageOrientationPatient": decimals([*(affine[:3, 2] / spacing[2]), *(affine[:3, 1] / spacing[1])]),
                "PixelSpacing": decimals(spacing[1:]),
                "SliceThickness": decimals(spacing[:1])[0],
                **elements,
            },
        )
        for index, pixels in enumerate(volume)
    ]


def write_series(slices: Sequence[Dataset], folder: Path, order: Sequence[int] | None = None) -> Path:
    """Write slices under names whose order is `order`, not that of their positions."""
    for name, index in enumerate(order if order is not None else range(len(slices))):
        save(slices[index], folder / f"IM{name:04d}.dcm")
    return folder


def enhanced_mr(volume: np.ndarray, affine: np.ndarray, rescale: Sequence[tuple[float, float]]) -> Dataset:
    """A `(D, H, W)` volume as one enhanced multi-frame object; one (slope, intercept) per frame."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    result = dataset(EnhancedMRImageStorage, volume, Modality="MR")
    result.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[
                item(ImageOrientationPatient=decimals([*(affine[:3, 2] / spacing[2]), *(affine[:3, 1] / spacing[1])]))
            ],
            PixelMeasuresSequence=[
                item(PixelSpacing=decimals(spacing[1:]), SliceThickness=decimals(spacing[:1])[0]),
            ],
        )
    ]
    result.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=decimals(affine @ [index, 0, 0, 1])[:3])],
            PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")],
        )
        for index, (slope, intercept) in enumerate(rescale)
    ]
    return result


def item(**elements: object) -> Dataset:
    result = Dataset()
    for keyword, value in elements.items():
        setattr(result, keyword, value)
    return result


def decimals(values: Sequence[float] | np.ndarray) -> list[str]:
    """Decimal strings of at most 16 characters, as DICOM's DS takes them."""
    return [f"{float(v):.10f}"[:16] for v in values]


def without(file: Dataset, *keywords: str, **elements: object) -> Dataset:
    """The file without some header fields and with others replaced."""
    for keyword in keywords:
        delattr(file, keyword)
    replace: Mapping[str, object] = elements
    for keyword, value in replace.items():
        setattr(file, keyword, value)
    return file


def volume(*shape: int) -> np.ndarray:
    values: np.ndarray = np.random.default_rng(0).integers(0, 900, shape).astype(np.int16)
    return values


def corners(shape: Sequence[int]) -> np.ndarray:
    """`(8, 4)` homogeneous corner indices of a `(D, H, W)` volume."""
    return np.array([[d, h, w, 1] for d in (0, shape[0] - 1) for h in (0, shape[1] - 1) for w in (0, shape[2] - 1)])


def assert_same_place(image: Image, affine: np.ndarray) -> None:
    """Every corner of the volume lies within a thousandth of a millimetre of where it should."""
    assert image.kind == "volume"
    assert image.affine is not None
    index = corners(image.array.shape[1:])
    np.testing.assert_allclose(index @ image.affine.T, index @ affine.T, atol=TOLERANCE_MM)
    assert image.spacing_mm == pytest.approx(tuple(np.linalg.norm(affine[:3, :3], axis=0)), abs=TOLERANCE_MM)

"""What a DICOM header says: whether there is an image, where it lies, its calibration, what may leave the file.

References to PS3.3 are to the DICOM standard, part 3: https://dicom.nema.org/medical/dicom/current/output/html/part03.html
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID

from xmkd.data import slices
from xmkd.data.image import SKIP
from xmkd.errors import ReadError

# Objects that carry pixel data without being an image of the patient, with what to do instead.
NOT_PICTURES = {
    "RTDOSE": "a radiotherapy dose map",
    "SEG": "a segmentation; turn it into a NIfTI mask, for example with dcmqi's segimage2itkimage",
}

# What may leave the header: settings of the machine. Free text (descriptions, comments) can hold names, so none of it.
_TEXTS = {
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "model",
    "BodyPartExamined": "body_part",
    "TransducerType": "transducer",
}
_NUMBERS = {
    "MagneticFieldStrength": "field_strength_t",
    "EchoTime": "echo_time_ms",
    "RepetitionTime": "repetition_time_ms",
    "FlipAngle": "flip_angle_deg",
    "SliceThickness": "slice_thickness_mm",
    "DiffusionBValue": "b_value",
}

_CENTIMETRES = 3  # Physical Units X/Y Direction, PS3.3 C.8.5.5.1.15
_TISSUE_2D = 1  # Region Spatial Format and Region Data Type, PS3.3 C.8.5.5.1.1 and C.8.5.5.1.2


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by content: the mark after the preamble, or a data set that starts at once."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    # Without a preamble the first element is of group 0002 or 0008, in either byte order where its type is spelt out.
    if start[4:6].isalpha() and start[4:6].isupper():
        return start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
    return start[:2] == b"\x08\x00" and start[3:4] == b"\x00" and int.from_bytes(start[4:8], "little") < 1024


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Keep pydicom's and the codecs' warnings off the terminal; they are collected in the list.

    Their text can quote the header, so only their number may go further.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "pylibjpeg", "openjpeg", "libjpeg")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield caught
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def check_is_image(dataset: Dataset, path: Path, *, pixels: bool = True) -> None:
    """Refuse what is not a picture: reports, plans, structure sets, wave forms, masks, empty and encrypted files.

    Args:
        dataset: The header, with the pixel data unless `pixels` is off.
        path: The file, for the message.
        pixels: Whether pixel data must be present.
    """
    sop_class = UID(text(dataset, "SOPClassUID")).name or "of no stated kind"
    leave = "leave the file out of the manifest"
    code = text(dataset, "Modality")
    if code in NOT_PICTURES:
        raise ReadError(f"a DICOM object, but no image: {NOT_PICTURES[code]}", where=path, fixes=(leave, SKIP))
    has_pixels = any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
    if "Rows" in dataset and (has_pixels or not pixels):
        return
    if "EncryptedAttributesSequence" in dataset:
        raise ReadError(
            "the image in this DICOM file is encrypted", where=path, fixes=("export it without encryption", SKIP)
        )
    if "Rows" in dataset or "Image Storage" in sop_class or has_pixels:
        missing = "pixel data" if "Rows" in dataset or not has_pixels else "image size"
        raise ReadError(
            f"a DICOM image ({sop_class}) without {missing}: the file is cut short, or the data were removed",
            where=path,
            fixes=("copy or export the file again", SKIP),
        )
    what = f"{code}, {sop_class}" if code else sop_class
    if len(dataset) == 0:
        what = "it holds no elements; it may be cut short"
    raise ReadError(f"no image in this DICOM file ({what})", where=path, fixes=(leave, SKIP))


def text(dataset: Dataset, keyword: str) -> str:
    """A header value as stripped text, "" where absent or several."""
    value = dataset.get(keyword)
    return value.strip() if isinstance(value, str) else ""


def number(dataset: Dataset, keyword: str) -> float | None:
    """A header value as a finite float, None where absent, several or no number."""
    found = numbers(dataset, keyword, 1)
    return found[0] if found else None


def numbers(dataset: Dataset, keyword: str, count: int, *, positive: bool = False) -> tuple[float, ...] | None:
    """`count` finite header values, None where they are absent, malformed or (if asked) not positive."""
    try:
        value = dataset.get(keyword)
        values = [value] if count == 1 else list(value or [])
        result = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        return None
    if len(result) != count or not all(math.isfinite(v) for v in result):
        return None
    return None if positive and min(result) <= 0 else result


def metadata_of(dataset: Dataset) -> dict[str, str | float | int]:
    """The technical facts that may leave the header."""
    syntax = dataset.file_meta.TransferSyntaxUID
    facts: dict[str, str | float | int] = {
        "format": "dicom",
        "series_uid": text(dataset, "SeriesInstanceUID"),
        "photometric": text(dataset, "PhotometricInterpretation"),
        "compression": "private" if syntax.is_private else syntax.name,
    }
    facts |= {key: text(dataset, keyword)[:64] for keyword, key in _TEXTS.items() if text(dataset, keyword)}
    for keyword, key in _NUMBERS.items():
        value = number(dataset, keyword)
        if value is not None:
            facts[key] = value
    if text(dataset, "LossyImageCompression") == "01":
        facts["lossy"] = 1
    return facts


def plane_of(dataset: Dataset) -> slices.Plane | None:
    """Where a single-frame image lies in the patient, None where its header does not say (PS3.3 C.7.6.2)."""
    return slices.plane(
        numbers(dataset, "ImagePositionPatient", 3),
        numbers(dataset, "ImageOrientationPatient", 6),
        numbers(dataset, "PixelSpacing", 2, positive=True),
        number(dataset, "SpacingBetweenSlices") or number(dataset, "SliceThickness"),
    )


def pixel_size(dataset: Dataset, facts: dict[str, str | float | int]) -> tuple[float, float] | None:
    """Pixel size `(H, W)` in mm: of the ultrasound regions, else of the header; where it is from goes to `facts`."""
    region = _tissue_region(dataset)
    if region is not None:
        corners = [int(region.get(f"RegionLocation{k}") or 0) for k in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if corners[2] <= dataset.Columns and corners[3] <= dataset.Rows:
            facts["calibration"] = "ultrasound region"
            facts |= dict(zip(("region_x0", "region_y0", "region_x1", "region_y1"), corners, strict=True))
        else:  # someone cropped or shrank the image and kept the header: the box is of no use, the scale in doubt
            facts["calibration"] = "ultrasound region, larger than the image"
        return 10 * abs(region.PhysicalDeltaY), 10 * abs(region.PhysicalDeltaX)  # cm to mm
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = numbers(dataset, keyword, 2, positive=True)
        if spacing is not None:
            facts["calibration"] = keyword
            return spacing[0], spacing[1]
    return None


def _tissue_region(dataset: Dataset) -> Dataset | None:
    """The largest calibrated 2D region, tissue before colour flow (PS3.3 C.8.5.5); None where there is none."""

    def area(region: Dataset) -> float:
        corners = [number(region, f"RegionLocation{k}") or 0 for k in ("MinX0", "MaxX1", "MinY0", "MaxY1")]
        return (corners[1] - corners[0]) * (corners[3] - corners[2])

    calibrated = [
        region
        for region in dataset.get("SequenceOfUltrasoundRegions") or []
        if region.get("RegionSpatialFormat") == _TISSUE_2D
        and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == _CENTIMETRES
        and number(region, "PhysicalDeltaX")
        and number(region, "PhysicalDeltaY")
    ]
    return max(calibrated, key=lambda r: (r.get("RegionDataType") == _TISSUE_2D, area(r)), default=None)


def frame_time_ms(dataset: Dataset, count: int) -> float | None:
    """Time between frames in ms, of the first header field that states it (PS3.3 C.7.6.5)."""
    time = number(dataset, "FrameTime")
    if time and time > 0:
        return time
    steps = numbers(dataset, "FrameTimeVector", count)  # the first entry is 0
    if steps and sum(steps[1:]) > 0:
        return sum(steps[1:]) / (count - 1)
    for keyword in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = number(dataset, keyword)
        if rate and rate > 0:
            return 1000 / rate
    return None

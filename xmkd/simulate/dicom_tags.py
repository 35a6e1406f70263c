"""What stands in the headers: the elements of each kind of image, in the modules of DICOM PS3.3.

The machine's settings come with the rendered image, under DICOM keywords; what they leave out is filled in here.
https://dicom.nema.org/medical/dicom/current/output/html/part03.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from xmkd.simulate.identity import DATE, NOTE, TIME, Identity

_Value = str | float | int | Sequence[float] | Sequence[str] | list[Dataset]

# Keywords of `Clip.header` that belong to the calibrated region (PS3.3, C.8.5.5) rather than to the image.
_OF_REGION = frozenset(
    {"TransducerFrequency", "PulseRepetitionFrequency", "SteeringAngle", "RegionFlags", "ReferencePixelX0",
     "ReferencePixelY0", "ReferencePixelPhysicalValueX", "ReferencePixelPhysicalValueY"}
)  # fmt: skip
_CENTIMETRES, _TISSUE_2D = 3, 1  # PS3.3, C.8.5.5.1.15 and C.8.5.5.1.1

# Of a curved array in a body cavity; 0001 stands for 2D imaging (PS3.3, C.8.5.6.1).
_CLIP: Mapping[str, _Value] = {
    "ImageType": "ORIGINAL\\PRIMARY\\ENDOVAGINAL\\0001", "TransducerType": "ENDOCAV_CLA",
}  # fmt: skip

# How each sequence is acquired (PS3.3, C.8.3.1): turbo spin echo, spoiled gradient echo, echo planar imaging.
_SPIN_ECHO = {"ScanningSequence": "SE", "SequenceVariant": "SK", "MRAcquisitionType": "2D"}
_GRADIENT_ECHO = {"ScanningSequence": "GR", "SequenceVariant": "SP", "MRAcquisitionType": "3D"}
_ECHO_PLANAR = {"ScanningSequence": "SE\\EP", "SequenceVariant": "SK", "MRAcquisitionType": "2D"}
_SEQUENCES: Mapping[str, Mapping[str, str]] = {
    "t2_sag": _SPIN_ECHO,
    "t1_sag": _SPIN_ECHO,
    "t1ce_sag": {**_GRADIENT_ECHO, "ContrastBolusAgent": "gadolinium chelate, simulated"},
    "dwi_sag": _ECHO_PLANAR,
    "adc_sag": {**_ECHO_PLANAR, "ImageType": "DERIVED\\PRIMARY\\DIFFUSION MAP"},
}
_MR: Mapping[str, _Value] = {
    "ImageType": "ORIGINAL\\PRIMARY\\OTHER", "ScanningSequence": "RM", "SequenceVariant": "NONE",  # RM: research mode
    "ScanOptions": "", "MRAcquisitionType": "2D", "RepetitionTime": "", "EchoTime": "", "EchoTrainLength": "",
}  # fmt: skip

_NAME = 40  # characters of an id that its 64 leave for a person's name (PS3.5, 6.2)
AIR_HU = -1024  # what a stored 0 means, as most scanners have it
_CT: Mapping[str, _Value] = {
    "ImageType": "ORIGINAL\\PRIMARY\\AXIAL", "KVP": "", "AcquisitionNumber": 1, "RescaleIntercept": AIR_HU,
    "RescaleSlope": 1, "RescaleType": "HU", "WindowCenter": 50, "WindowWidth": 400,  # soft tissue
}  # fmt: skip


def common(identity: Identity, code: str, series: str, number: int) -> Dataset:
    """Patient, study, series, equipment and image notes that every file has.

    Args:
        identity: Who and where.
        code: DICOM modality, "US", "MR" or "CT".
        series: Name of the series; it becomes its description.
        number: Of the series within the study.
    """
    header = Dataset()
    # Synthetic Data (0008,001C) would say it too, but validators that are older than the attribute call it an error.
    facts: dict[str, _Value] = {
        "SpecificCharacterSet": "ISO_IR 192", "ImageComments": NOTE, "QualityControlImage": "YES",
        "BurnedInAnnotation": "NO", "LossyImageCompression": "00",
        "PatientName": f"SIMULATED^{identity.patient[-_NAME:]}^NOT A PATIENT", "PatientID": identity.patient,
        "PatientBirthDate": "", "PatientSex": "F", "PatientAge": f"{identity.age:03d}Y", "PatientComments": NOTE,
        "StudyInstanceUID": identity.uid(), "StudyDate": DATE, "StudyTime": TIME, "ContentDate": DATE,
        "ContentTime": TIME, "StudyID": "1", "AccessionNumber": "", "ReferringPhysicianName": "",
        "StudyDescription": "simulated pelvis", "BodyPartExamined": "PELVIS", "PatientOrientation": "",
        "Modality": code, "SeriesInstanceUID": identity.uid(series), "SeriesNumber": number,
        "SeriesDescription": series, "InstitutionName": f"Simulated hospital {identity.site}",
        "StationName": f"SIM-{code}-{identity.site}", "Manufacturer": f"Simulated maker {identity.site}",
        "ManufacturerModelName": f"Simulated {code} {identity.site}", "DeviceSerialNumber": "0",
        "SoftwareVersions": "simulated",
    }  # fmt: skip
    put(header, facts)
    return header


def ultrasound(header: Dataset, facts: Mapping[str, str | float | int], region: Mapping[str, float | int]) -> None:
    """Add what an ultrasound image has, with its one calibrated region of 2D tissue.

    Args:
        header: Changed in place.
        facts: `Clip.header`.
        region: Location (pixels) and size of a pixel (cm) of the region.
    """
    item = Dataset()
    fixed: dict[str, _Value] = {
        "RegionSpatialFormat": _TISSUE_2D, "RegionDataType": _TISSUE_2D, "RegionFlags": 0,
        "PhysicalUnitsXDirection": _CENTIMETRES, "PhysicalUnitsYDirection": _CENTIMETRES,
    }  # fmt: skip
    put(item, {**fixed, **region, **{key: value for key, value in facts.items() if key in _OF_REGION}})
    put(header, {**_CLIP, "UltrasoundColorDataPresent": 0, "SequenceOfUltrasoundRegions": [item]})
    put(header, {key: value for key, value in facts.items() if key not in _OF_REGION})


def magnetic_resonance(header: Dataset, facts: Mapping[str, str | float | int], sequence: str) -> None:
    """Add what an MR image has; `facts` (`Volume.header`) replace what the sequence's name suggests."""
    put(header, {**_MR, **_SEQUENCES.get(sequence, {}), **facts})


def computed_tomography(header: Dataset, facts: Mapping[str, str | float | int]) -> None:
    """Add what a CT image has, with HU as stored values above air."""
    put(header, {**_CT, **facts})


def pixels(header: Dataset, size: Sequence[int], bits: int, *, signed: bool, colour: bool = False) -> None:
    """Add how the pixels of images of `size` (rows, columns) are stored."""
    facts: dict[str, _Value] = {
        "SamplesPerPixel": 3 if colour else 1, "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "Rows": size[0], "Columns": size[1], "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
    }  # fmt: skip
    put(header, facts | ({"PlanarConfiguration": 0} if colour else {}))


def put(header: Dataset, facts: Mapping[str, _Value]) -> None:
    """Set elements by keyword: numbers as decimal strings where the standard wants text.

    Raises:
        ValueError: No such keyword, or a value that the element can't hold.
    """
    for keyword, value in facts.items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise ValueError(f"{keyword!r} is no DICOM keyword")
        kind = dictionary_VR(tag)
        try:
            header[tag] = DataElement(tag, kind, _in_form(value, kind), validation_mode=RAISE)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{keyword}: {error}") from error


def _in_form(value: _Value, kind: str) -> object:
    """A value as its value representation (PS3.5, 6.2) wants it; "" stays an empty element."""
    if isinstance(value, str) or kind == "SQ":
        return value
    if isinstance(value, Sequence):
        return [_in_form(one, kind) for one in value]  # type: ignore[arg-type]
    if kind == "DS":
        return decimal(value)
    if kind in ("IS", "US", "SS", "UL", "SL"):
        return round(value)
    return float(value) if kind in ("FD", "FL") else str(value)


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters, as exact as they allow; never a negative zero."""
    return format_number_as_ds(float(value) + 0.0)

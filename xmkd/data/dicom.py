"""One DICOM file to an Image: an image, a clip, or the volume of an enhanced multi-frame object.

pydicom does the decoding (with the pylibjpeg codecs); this file decides what the numbers mean. References to PS3.3 are
to the DICOM standard, part 3: https://dicom.nema.org/medical/dicom/current/output/html/part03.html
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from xmkd.data import dicom_header as header
from xmkd.data import slices
from xmkd.data.image import SKIP, Image, agreed_modality, decoding, modality_name, native
from xmkd.errors import ReadError

_Facts = dict[str, str | float | int]


def read_file(path: Path, *, modality: str | None = None, series: str | None = None) -> Image:
    """Read one DICOM file: an image, or a clip or volume where it has several frames.

    Args:
        path: The file.
        modality: What the caller expects, such as "us"; None for anything.
        series: The Series Instance UID the caller expects; None for any.

    Raises:
        ReadError: It is damaged, no image, of another modality or series, or a volume without sound geometry.
    """
    with decoding(path), header.quiet() as caught:
        dataset = pydicom.dcmread(path, force=True)
        header.check_is_image(dataset, path)
        found = agreed_modality(header.text(dataset, "Modality"), modality, where=path)
        uid = header.text(dataset, "SeriesInstanceUID")
        if series is not None and series != uid:
            raise ReadError(
                f"the file is of series {uid or 'without a UID'}, not {series}",
                where=path,
                fixes=("leave out series=", "name the folder of that series"),
            )
        image = _image_of(dataset, path, found)
        if caught:
            image.metadata["reader_warnings"] = len(caught)
    return image


def frames(dataset: Dataset, path: Path) -> np.ndarray:
    """Decode all frames.

    Returns:
        `(T, H, W, C)`: colour as RGB, palettes resolved, grey rescaled and with dark = low. float64 where a rescale
        was applied (see `compact`), else the stored dtype.
    """
    _complete_syntax(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        array = pixel_array(dataset)
    except (NotImplementedError, RuntimeError) as error:  # what pydicom raises when no codec can do it
        raise ReadError(
            f"the pixel data ({syntax.name}) can't be decoded: {' '.join(str(error).split())[:300]}",
            where=path,
            fixes=("convert the file to an uncompressed transfer syntax, for example with `gdcmconv --raw`", SKIP),
        ) from error
    photometric = header.text(dataset, "PhotometricInterpretation")
    colour = int(dataset.get("SamplesPerPixel", 1)) > 1
    if photometric == "PALETTE COLOR":
        array, colour = _through_palette(array, dataset), True
    if not colour:
        array = array[..., None]
    if array.ndim == 3:
        array = array[None]
    if photometric == "MONOCHROME1" and modality_name(header.text(dataset, "Modality")) not in ("ct", "pet"):
        array = _inverted(array, dataset)  # CT and PET values are quantities; the photometric only concerns display
    return _rescaled(array, dataset)


def compact(array: np.ndarray) -> np.ndarray:
    """The smallest dtype that holds rescaled float64 values: int16 or int32 where exact, else float32."""
    if array.dtype != np.float64:
        return array
    low, high = float(array.min()), float(array.max())
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            whole = array.astype(dtype)
            if np.array_equal(whole, array):
                return whole
    return array.astype(np.float32)


def _image_of(dataset: Dataset, path: Path, modality: str | None) -> Image:
    array = frames(dataset, path)  # (T, H, W, C)
    facts = header.metadata_of(dataset)
    if len(array) > 1 and "PerFrameFunctionalGroupsSequence" in dataset:
        return _enhanced(dataset, array, path, modality, facts)
    plane = header.plane_of(dataset)
    spacing = header.pixel_size(dataset, facts)
    affine = plane.affine() if plane else None
    if len(array) > 1:
        time = header.frame_time_ms(dataset, len(array))
        return Image(channels_first(array), "clip", spacing, affine, modality, time, facts)
    return Image(channels_first(array)[:, 0], "image", spacing, affine, modality, None, facts)


def channels_first(array: np.ndarray) -> np.ndarray:
    """Frames `(T, H, W, C)` to the project's `(C, T, H, W)`, contiguous and in a compact dtype."""
    return np.ascontiguousarray(np.moveaxis(native(compact(array)), -1, 0))  # (T, H, W, C) -> (C, T, H, W)


def _complete_syntax(dataset: Dataset) -> None:
    """Files without a meta header carry no transfer syntax: state the one they were parsed with."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _through_palette(array: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Look colours up; 16-bit entries, of which a display uses the upper byte, become uint8 (PS3.3 C.7.6.3.1.6)."""
    if dataset.original_encoding[1] is False:  # big-endian: apply_color_lut takes the entries as little-endian
        for colour in ("Red", "Green", "Blue"):
            entries = dataset.get(f"{colour}PaletteColorLookupTableData")
            if entries and len(entries) > 256:
                swapped = np.frombuffer(entries, ">u2").astype("<u2").tobytes()
                setattr(dataset, f"{colour}PaletteColorLookupTableData", swapped)
    rgb = apply_color_lut(array, dataset)[..., :3]
    count, first = dataset.RedPaletteColorLookupTableDescriptor[:2]
    table = apply_color_lut(np.arange(first, first + (count or 65536)), dataset)
    return (rgb >> 8 if table.max() > 255 else rgb).astype(np.uint8)


def _inverted(array: np.ndarray, dataset: Dataset) -> np.ndarray:
    """MONOCHROME1 (low = bright) to MONOCHROME2, within the range of the stored bits."""
    bits = int(dataset.BitsStored)
    flipped: np.ndarray = ~array if array.dtype.kind == "i" else ((1 << bits) - 1) - array.astype(np.int64)
    return flipped.astype(array.dtype)


def _rescaled(array: np.ndarray, dataset: Dataset) -> np.ndarray:
    identity = header.number(dataset, "RescaleSlope") == 1 and header.number(dataset, "RescaleIntercept") == 0
    return array if identity and not dataset.get("ModalityLUTSequence") else apply_modality_lut(array, dataset)


def _enhanced(dataset: Dataset, array: np.ndarray, path: Path, modality: str | None, facts: _Facts) -> Image:
    """Enhanced multi-frame (PS3.3 C.7.6.16): each frame has its own position, pixel size and rescale.

    Returns:
        A volume in the order of the positions, or a clip where every frame lies at the same place.

    Raises:
        ReadError: Frames without position, or positions that make no regular grid.
    """
    count = len(array)
    described = len(dataset.PerFrameFunctionalGroupsSequence)
    if described < count:
        raise ReadError(
            f"{count} frames, but only {described} of them are described: the file is damaged",
            where=path,
            fixes=("export the file again", SKIP),
        )
    transformations = [_group(dataset, i, "PixelValueTransformationSequence") for i in range(count)]
    array = np.stack([_rescaled(frame, t) for frame, t in zip(array, transformations, strict=True)])
    planes = [plane for i in range(count) if (plane := _frame_plane(dataset, i)) is not None]
    # The groups of a 2D ultrasound clip may hold other things than positions; those of a 3D one place it in its volume.
    in_volume = any(_group(dataset, i, "PlanePositionVolumeSequence") for i in range(count))
    is_clip = not planes and modality == "us" and not in_volume
    if len(planes) < count and not is_clip:
        raise ReadError(
            f"{count - len(planes)} of {count} frames have no position in the patient, orientation or pixel spacing",
            where=path,
            fixes=("export the series again with its geometry", SKIP),
        )
    if is_clip or slices.same_place(planes):
        spacing, affine = (
            (planes[0].spacing, planes[0].affine()) if planes else (header.pixel_size(dataset, facts), None)
        )
        time = header.frame_time_ms(dataset, count)
        return Image(channels_first(array), "clip", spacing, affine, modality, time, facts)
    order, affine = slices.stack(planes, [f"frame {i + 1}" for i in range(count)], where=path)
    return Image(channels_first(array[order]), "volume", slices.voxel_size(affine), affine, modality, None, facts)


def _group(dataset: Dataset, frame: int, keyword: str) -> Dataset:
    """The item of a functional group: the frame's own, else the shared one, else an empty one."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (dataset.PerFrameFunctionalGroupsSequence[frame], *shared):
        items = groups.get(keyword)
        if items:
            found: Dataset = items[0]
            return found
    return Dataset()


def _frame_plane(dataset: Dataset, frame: int) -> slices.Plane | None:
    found = Dataset()
    for keyword in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
        found.update(_group(dataset, frame, keyword))
    return header.plane_of(found)

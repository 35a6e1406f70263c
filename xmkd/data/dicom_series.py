"""Folders and DICOMDIR sets: which series they hold, and the slices of one series to a volume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from xmkd.data import dicom, slices
from xmkd.data import dicom_header as header
from xmkd.data.image import Image, agreed_modality, decoding, modality_name
from xmkd.errors import ReadError

# What tells several volumes within one series apart; also the header fields a scan of a folder has to read.
_VOLUME_KEYS = ("DiffusionBValue", "EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "AcquisitionNumber")
_SCANNED = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "EncryptedAttributesSequence", "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness", *_VOLUME_KEYS, "ImageType",
)  # fmt: skip
_PIXELS = "PixelData"
_KEPT = 64 * 2**20  # bytes of files that a scan for one volume keeps in memory, so that they are parsed only once


@dataclass(frozen=True)
class Series:
    """The image files of one series.

    Attributes:
        uid: Series Instance UID; "" where the files have none.
        modality: "us", "mri" and so on; None where unknown.
        description: The scanner's name of the series. Free text: fine on a screen, not in anything that is published.
        number: Series number, 0 where unknown.
        files: Its files, sorted by name.
    """

    uid: str
    modality: str | None
    description: str
    number: int
    files: tuple[Path, ...]


def list_series(path: str | os.PathLike[str]) -> list[Series]:
    """The image series in a folder (with its sub-folders) or of a DICOMDIR, by series number.

    Raises:
        ReadError: There is none, or a DICOM file is damaged.
    """
    return [series for series, _ in _series_of(Path(path))]


def read_series(path: Path, *, modality: str | None = None, series: str | None = None) -> Image:
    """Read the one series of a folder or DICOMDIR, or the one named: slices to a volume, a single file as it is.

    Raises:
        ReadError: Several series and none chosen, no such series, or slices that make no regular volume.
    """
    found = _series_of(path, keep=_KEPT)
    chosen = [member for member in found if series is None or member[0].uid == series]
    if len(chosen) != 1:
        listing = "; ".join(
            f"{s.uid or 'without a UID'} ({s.modality or 'unknown modality'}, {len(s.files)} files, {_folder(s, path)})"
            for s, _ in found[:20]
        )
        what = f"{len(found)} series here" if series is None else f"no series {series} here, but"
        raise ReadError(
            f"{what}: {listing}{' ...' if len(found) > 20 else ''}",
            where=path,
            fixes=("choose one with series=UID", "name the sub-folder of one series"),
        )
    return _read_one(*chosen[0], path, modality)


def read_all(path: Path) -> list[Image]:
    """Every series of a folder or DICOMDIR; of a series of stills or clips, every file."""
    images: list[Image] = []
    for series, headers in _series_of(path):
        if _are_slices(headers):
            images.append(_read_one(series, headers, path, None))
        else:
            images += [dicom.read_file(file) for file in series.files]
    return images


def _series_of(path: Path, keep: int = 0) -> list[tuple[Series, list[Dataset]]]:
    """Each series with the headers of its files, or with all of the first ones: as many bytes as are to be kept."""
    groups: dict[str, list[tuple[Path, Dataset]]] = {}
    others: dict[str, int] = {}
    with decoding(path), header.quiet():
        for file in _dicom_files(path):
            size = file.stat().st_size
            found = _scan(file, whole=size <= keep)
            keep -= size
            if isinstance(found, str):
                others[found] = others.get(found, 0) + 1
            else:
                groups.setdefault(header.text(found, "SeriesInstanceUID"), []).append((file, found))
        result = [
            (_series(uid, tuple(file for file, _ in members), members[0][1]), [head for _, head in members])
            for uid, members in groups.items()
        ]
    if not result:
        objects = ", ".join(f"{count} x {name}" for name, count in others.items())
        raise ReadError(
            f"no DICOM image here{f' (only {objects})' if others else ''}",
            where=path,
            fixes=("name a folder of DICOM slices", "name a single image file"),
        )
    return sorted(result, key=lambda member: (member[0].number, member[0].uid))


def _read_one(series: Series, headers: Sequence[Dataset], path: Path, modality: str | None) -> Image:
    if len(series.files) == 1:
        return dicom.read_file(series.files[0], modality=modality)
    found = agreed_modality(series.modality, modality, where=path)
    names = [file.name for file in series.files]
    _check_one_stack(headers, names, path)
    with decoding(path), header.quiet() as caught:
        planes = [plane for head in headers if (plane := header.plane_of(head)) is not None]
        order, affine = slices.stack(planes, names, where=path, hint=_what_differs(headers))
        parts: list[np.ndarray] = []
        for i in order:
            with decoding(series.files[i]):
                head = headers[i]
                dataset = head if _PIXELS in head else pydicom.dcmread(series.files[i], force=True)
                header.check_is_image(dataset, series.files[i])
                parts.append(dicom.frames(dataset, series.files[i]))  # (1, H, W, C)
        facts = header.metadata_of(dataset)
        if caught:
            facts["reader_warnings"] = len(caught)
        volume = dicom.channels_first(np.concatenate(parts))
    return Image(volume, "volume", slices.voxel_size(affine), affine, found, None, facts)


def _are_slices(headers: Sequence[Dataset]) -> bool:
    return len(headers) > 1 and any("ImagePositionPatient" in head for head in headers) and not _clips(headers)


def _clips(headers: Sequence[Dataset]) -> int:
    return sum((header.number(head, "NumberOfFrames") or 1) > 1 for head in headers)


def _check_one_stack(headers: Sequence[Dataset], names: Sequence[str], path: Path) -> None:
    """Refuse a series whose files can't be the slices of one volume."""
    if not _are_slices(headers):
        kind = "files of several frames" if _clips(headers) else "images without a position in space"
        raise ReadError(
            f"the series is no stack of slices: it has {len(headers)} {kind}, such as {names[0]}",
            where=path,
            fixes=("name one file", "take them all with xmkd.data.readers.read_all"),
        )
    lost = [name for name, head in zip(names, headers, strict=True) if header.plane_of(head) is None]
    if lost:
        raise ReadError(
            f"{len(lost)} of {len(headers)} slices have no position, orientation or pixel spacing, such as {lost[0]}",
            where=path,
            fixes=("export the series again with its geometry", "remove the files that are no slices"),
        )
    sizes = {(head.Rows, head.Columns): name for name, head in zip(names, headers, strict=True)}
    if len(sizes) > 1:
        listing = ", ".join(f"{h} x {w} ({name})" for (h, w), name in sizes.items())
        raise ReadError(
            f"the slices differ in size: {listing}",
            where=path,
            fixes=("move the slices of each size to a folder of their own", "remove the files that are no slices"),
        )


def _what_differs(headers: Sequence[Dataset]) -> str:
    """For the message on slices at one position: the header field that tells the volumes apart."""
    if len({header.text(head, "SOPInstanceUID") for head in headers}) < len(headers):
        return "; some are copies of the same object"
    for keyword in _VOLUME_KEYS:
        values = sorted({value for head in headers if (value := header.number(head, keyword)) is not None})
        if 1 < len(values) < len(headers):
            return f"; they differ in {keyword}: {', '.join(f'{v:g}' for v in values[:8])}"
    return ""


def is_dicomdir(path: Path) -> bool:
    """Whether a DICOM file is the directory of a set rather than an object of it."""
    with header.quiet():
        dataset = pydicom.dcmread(path, force=True, specific_tags=["Modality"], stop_before_pixels=True)
        return bool(dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage)


def _folder(series: Series, root: Path) -> str:
    folders = {file.parent for file in series.files}
    if len(folders) > 1:
        return f"in {len(folders)} folders"
    folder = folders.pop()
    return f"in {folder.relative_to(root) if folder.is_relative_to(root) else folder.name}"


def _dicom_files(path: Path) -> list[Path]:
    """DICOM files of a folder by content, or those that a DICOMDIR names; directories of sets are left out."""
    if not path.is_dir():
        return _members(path)
    files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    # A pipe or a device would block: regular files only.
    regular = (f for f in sorted(files) if f.is_file() and not f.name.upper().startswith("DICOMDIR"))
    return [f for f in regular if header.is_dicom(f) or f.suffix.lower() in (".dcm", ".ima")]


def _members(dicomdir: Path) -> list[Path]:
    records = pydicom.dcmread(dicomdir).get("DirectoryRecordSequence") or []
    names = [r.ReferencedFileID for r in records if r.get("DirectoryRecordType") == "IMAGE" and "ReferencedFileID" in r]
    files = [dicomdir.parent.joinpath(*([name] if isinstance(name, str) else name)) for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ReadError(
            f"the DICOMDIR names {len(files)} images, but {len(missing)} are not there, such as "
            f"{missing[0].relative_to(dicomdir.parent)}",
            where=dicomdir,
            fixes=("copy the whole set again", "name the folder itself, to read what is there"),
        )
    return files


def _scan(file: Path, *, whole: bool) -> Dataset | str:
    """The header of an image or the whole of it, or the name of what the file is instead.

    Raises:
        ReadError: The file should be an image but is damaged; a lost slice must not go unseen.
    """
    if file.stat().st_size == 0:
        raise ReadError("the file is empty", where=file, fixes=("copy it again", "delete it"))
    with decoding(file):
        tags = None if whole else list(_SCANNED)
        dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not whole, specific_tags=tags)
        sop_class = dataset.get("SOPClassUID")
        if "Rows" not in dataset and sop_class is not None and "Image Storage" not in sop_class.name:
            return str(sop_class.name)
        if header.text(dataset, "Modality") in header.NOT_PICTURES:
            return header.text(dataset, "Modality")
        header.check_is_image(dataset, file, pixels=False)
    return dataset


def _series(uid: str, files: tuple[Path, ...], head: Dataset) -> Series:
    number = int(header.number(head, "SeriesNumber") or 0)
    return Series(
        uid, modality_name(header.text(head, "Modality")), header.text(head, "SeriesDescription"), number, files
    )

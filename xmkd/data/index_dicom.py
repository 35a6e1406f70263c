"""The DICOM part of indexing: which files and series are samples, and whose.

A series of several MRI or CT files is one volume, and its folder the sample; of ultrasound each file is a sample.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from xmkd.data.manifest import MODALITIES, Card
from xmkd.errors import XmkdError

_VOLUME_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
SUFFIXES = (*_VOLUME_SUFFIXES, ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npz", ".npy")
_VOLUMES = ("mri", "ct")  # modalities whose series of several files is one volume; of others each file is a sample
_NOBODY = "no patient id; give a patient_pattern"

Skipped = list[tuple[str, str]]


def dicom_rows(root: Path, card: Card | None = None) -> tuple[pd.DataFrame, Skipped]:
    """Index the DICOM files below a folder: a row per MRI or CT series (its folder), else per file.

    Args:
        root: The folder.
        card: Its `modality` turns US into tvus and rejects others; its `patient_pattern` goes before the header's id.

    Returns:
        Rows with sample_id, patient_id, modality, sequence and path, and what was left out.
    """
    rows: list[dict[str, str | None]] = []
    skipped: Skipped = []
    seen: dict[str, str] = {}
    for folder in _dicom_folders(root):
        rows += _folder_rows(folder, root, card, skipped, seen)
    return pd.DataFrame(rows), skipped


def row_of(path: Path, root: Path, modality: str, patient: str, sequence: str | None) -> dict[str, str | None]:
    """Return the row of a file or of a folder with one volume."""
    relative = path.relative_to(root).as_posix()
    stem = unlinked(root).name if relative == "." else relative.removesuffix(suffix_of(relative))
    return {
        "sample_id": stem.replace("/", "__"),
        "patient_id": patient,
        "modality": modality,
        "sequence": sequence,
        "path": relative,
    }


def suffix_of(name: str) -> str:
    """Return the known ending of a file name as it is written, "" where it has none."""
    return next((name[-len(s) :] for s in (*SUFFIXES, ".dcm", ".ima") if name.lower().endswith(s)), "")


def unlinked(path: Path) -> Path:
    """Return the full path without following links: a link's target (in DVC's or git-annex's store) names nobody."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps `..`, Path.resolve follows links


def _dicom_folders(root: Path) -> Iterable[Path]:
    """Folders that directly hold DICOM files."""
    for name, folders, files in os.walk(root):
        folders.sort()
        folder = Path(name)
        if any(_is_dicom(folder / f) for f in files):
            yield folder


def _is_dicom(file: Path) -> bool:
    """Whether a file is DICOM by its content or, where that is lost, by its name."""
    from xmkd.data.dicom_header import is_dicom

    if not file.is_file() or file.name.startswith("."):
        return False
    return is_dicom(file) or file.suffix.lower() in (".dcm", ".ima")


def _folder_rows(
    folder: Path, root: Path, card: Card | None, skipped: Skipped, seen: dict[str, str]
) -> Iterable[dict[str, str | None]]:
    from xmkd.data.readers import list_series

    here = folder.relative_to(root).as_posix()
    try:
        found = list_series(folder)
    except XmkdError:
        yield from _rows_beside_damage(folder, root, card, skipped)
        return
    for series in found:
        files = [f for f in series.files if f.parent == folder]
        if not files:
            continue  # of a folder below, which has its turn
        modality = _modality(series.modality, card)
        volume = series.modality in _VOLUMES and len(files) > 1
        if modality is None:
            skipped.append((here, f"series of modality {series.modality or 'unknown'}"))
        elif volume and len(found) > 1:
            skipped.append((here, f"{len(found)} series share this folder; put each into a folder of its own"))
            return
        elif volume and series.uid in seen:
            skipped.append((here, f"part of a series that also lies in {seen[series.uid]}; put it into one folder"))
        else:
            seen[series.uid] = here
            for path in [folder] if volume else files:
                patient, description = _who_and_what(files[0] if volume else path, root, card)
                if patient is None:
                    skipped.append((path.relative_to(root).as_posix(), _NOBODY))
                    continue
                yield row_of(path, root, modality, patient, description)


def _rows_beside_damage(
    folder: Path, root: Path, card: Card | None, skipped: Skipped
) -> Iterable[dict[str, str | None]]:
    """Read file by file where one is damaged: it is named, the others are samples, and slices may lack one of them."""
    from xmkd.data.readers import read

    slices = 0
    for file in sorted(f for f in folder.iterdir() if _is_dicom(f) and not f.name.upper().startswith("DICOMDIR")):
        here = file.relative_to(root).as_posix()
        try:
            found = read(file).modality
        except XmkdError as error:
            skipped.append((here, error.what))
            continue
        modality = _modality(found, card)
        patient, description = _who_and_what(file, root, card)
        if found in _VOLUMES:
            slices += 1
        elif modality is None:
            skipped.append((here, f"of modality {found or 'unknown'}"))
        elif patient is None:
            skipped.append((here, _NOBODY))
        else:
            yield row_of(file, root, modality, patient, description)
    if slices:
        reason = f"{slices} slices, but their volume may lack the damaged file here or in a folder below"
        skipped.append((folder.relative_to(root).as_posix(), reason))


def _modality(found: str | None, card: Card | None) -> str | None:
    """The manifest's name of a header's modality; None when it is unknown or not the card's."""
    wanted = None if card is None else card.modality
    if found == "us" and wanted == "tvus":
        return "tvus"
    return found if found in MODALITIES and wanted in (None, found) else None


def _who_and_what(file: Path, root: Path, card: Card | None) -> tuple[str | None, str | None]:
    """Patient id, of the path where the card has a pattern, and the series description."""
    import pydicom

    from xmkd.data import dicom_header as header

    tags = ["PatientID", "SeriesDescription"]
    with header.quiet():
        found = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=tags)
    patient = header.text(found, "PatientID")
    if card is not None and card.patient_pattern is not None:
        match = re.search(card.patient_pattern, file.relative_to(root).as_posix())
        patient = match["patient"] if match else ""
    return patient or None, header.text(found, "SeriesDescription") or None

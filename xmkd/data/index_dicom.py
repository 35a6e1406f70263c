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
    from xmkd.data.dicom_header import is_dicom

    for name, folders, files in os.walk(root):
        folders.sort()
        folder = Path(name)
        if any((folder / f).is_file() and not f.startswith(".") and is_dicom(folder / f) for f in files):
            yield folder


def _folder_rows(
    folder: Path, root: Path, card: Card | None, skipped: Skipped, seen: dict[str, str]
) -> Iterable[dict[str, str | None]]:
    from xmkd.data.readers import list_series

    here = folder.relative_to(root).as_posix()
    try:
        found = list_series(folder)
    except XmkdError as error:
        skipped.append((here, error.what))
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
                patient = _dicom_patient(files[0] if volume else path, root, card)
                if patient is None:
                    skipped.append((path.relative_to(root).as_posix(), "no patient id; give a patient_pattern"))
                    continue
                yield row_of(path, root, modality, patient, series.description or None)


def _modality(found: str | None, card: Card | None) -> str | None:
    """The manifest's name of a header's modality; None when it is unknown or not the card's."""
    wanted = None if card is None else card.modality
    if found == "us" and wanted == "tvus":
        return "tvus"
    return found if found in MODALITIES and wanted in (None, found) else None


def _dicom_patient(file: Path, root: Path, card: Card | None) -> str | None:
    import pydicom

    from xmkd.data import dicom_header as header

    if card is not None and card.patient_pattern is not None:
        match = re.search(card.patient_pattern, file.relative_to(root).as_posix())
        return match["patient"] if match else None
    with header.quiet():
        found = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=["PatientID"])
    return header.text(found, "PatientID") or None

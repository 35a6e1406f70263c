"""Ljubljana multiple sclerosis MRI (30 patients): FLAIR, T1, T1 after gadolinium, T2 and a consensus lesion mask.

Lesjak et al., Neuroinformatics 2017; GitHub muschellij2/open_ms_data. Original layout, one folder per patient in
`cross_sectional/coregistered/` (FLAIR space) or `cross_sectional/MNI/`, with or without the patient in the file name:

    patientNN/[patientNN_]FLAIR.nii.gz, T1W, T1WKS (gadolinium), T2W, consensus_gt, brainmask
    MNI: patientNN/FLAIR_..._regtoMNI.nii.gz, T1_, T1POST_, T2_, GOLD_STANDARD_

`raw/` is left out: its sequences do not lie on one another.
Copy: patientNN_{flair,t1,t1post,t2,lesion}.nii.gz, index.csv.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from xmkd.data.sources.layout import copy_table, no_layout, visible

SEQUENCES = {
    "FLAIR": "flair",
    "T1W": "t1", "T1": "t1",
    "T1WKS": "t1post", "T1KS": "t1post", "T1POST": "t1post",
    "T2W": "t2", "T2": "t2",
}  # fmt: skip


def index(root: Path) -> pd.DataFrame:
    """Index either layout.

    Raises:
        ManifestError: `root` has neither.
    """
    table = copy_table(root, ["patient", "lesion_voxels_mm3"])
    if table is not None:
        return pd.DataFrame(
            _row(patient, sequence, f"{patient}_{sequence}.nii.gz", f"{patient}_lesion.nii.gz")
            for patient in table["patient"]
            for sequence in ("flair", "t1", "t1post", "t2")
        )
    for base in ("cross_sectional/coregistered", "coregistered", "cross_sectional/MNI", "MNI", "."):
        rows = [row for folder in sorted((root / base).glob("patient[0-9]*")) for row in _patient(root, folder)]
        if rows:
            return pd.DataFrame(rows)
    raise no_layout(root, "patientNN_flair.nii.gz and index.csv", "cross_sectional/coregistered/patientNN/")


def _patient(root: Path, folder: Path) -> list[dict[str, str | None]]:
    found: dict[str, str] = {}
    mask = None
    for file in visible(folder, "*.nii.gz"):
        name = re.sub(r"^patient\d+_", "", file.name).removesuffix(".nii.gz")
        path = file.relative_to(root).as_posix()
        if name.startswith(("consensus_gt", "GOLD_STANDARD")):
            mask = path
        elif (sequence := SEQUENCES.get(name.split("_")[0])) is not None:
            found.setdefault(sequence, path)
    return [_row(folder.name, sequence, path, mask) for sequence, path in sorted(found.items())]


def _row(patient: str, sequence: str, path: str, mask: str | None) -> dict[str, str | None]:
    return {
        "sample_id": f"{patient}_{sequence}",
        "patient_id": patient,
        "modality": "mri",
        "sequence": sequence,
        "path": path,
        "mask": mask,
    }

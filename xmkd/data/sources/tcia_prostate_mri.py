"""Male pelvic MRI of The Cancer Imaging Archive: Prostate-3T and PROSTATEx.

Litjens et al. 2015 and 2017 (doi 10.7937/K9/TCIA.2015.QJTV5IL5, 10.7937/K9TCIA.2017.MURS5CL). Original layout, as the
archive's downloader writes it, one folder per series:

    PatientID/STUDY/SERIES/*.dcm

Copy: <patient>_<sequence>.nii.gz, index.csv.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from xmkd.data.sources.layout import copy_table, no_layout

# Series descriptions of the two collections, first match counts.
_SEQUENCES = [
    (r"adc", "adc"),
    (r"calc.?bval", "dwi_calc_highb"),
    (r"diff|dwi", "dwi"),
    (r"loc", "localizer"),
    (r"vibe.*tra|tra.*vibe", "t1_vibe_tra"),
    (r"dce|twist|dyn", "t1_dce_tra"),
    (r"pd", "pd_tra"),
    (r"t2.*tra|tra.*t2", "t2_tra"),
    (r"t2.*sag|sag.*t2", "t2_sag"),
    (r"t2.*cor|cor.*t2", "t2_cor"),
]


def index(root: Path) -> pd.DataFrame:
    """Index either layout; localizers are left out.

    Raises:
        ManifestError: `root` has neither.
    """
    table = copy_table(root, ["id", "patient", "sequence"])
    if table is not None:
        return pd.DataFrame(
            {
                "sample_id": table["id"],
                "patient_id": table["patient"],
                "modality": "mri",
                "sequence": table["sequence"],
                "path": [f"{name}.nii.gz" for name in table["id"]],
            }
        )
    from xmkd.data.index import dicom_rows  # it looks up this module by name, so not at the top

    rows, _ = dicom_rows(root)
    if rows.empty:
        raise no_layout(root, "<patient>_<sequence>.nii.gz and index.csv", "PatientID/STUDY/SERIES/*.dcm")
    rows["sequence"] = rows["sequence"].map(_sequence)
    rows = rows[(rows["modality"] == "mri") & (rows["sequence"] != "localizer")].reset_index(drop=True)
    repeat = rows.groupby(["patient_id", "sequence"]).cumcount()
    rows["sample_id"] = rows["patient_id"] + "_" + rows["sequence"] + repeat.map(lambda n: f"_{n + 1}" if n else "")
    return rows


def _sequence(description: object) -> str:
    text = str(description).lower() if isinstance(description, str) else "unknown"
    for pattern, name in _SEQUENCES:
        if re.search(pattern, text):
            return name
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_")

"""Lung ultrasound clips of the COVID-19 data base (POCUS).

Born et al., Applied Sciences 2021, 11(2):672; GitHub jannisborn/covid19_ultrasound. Original layout:

    data/pocus_videos/{convex,linear}/NAME.{mp4,mov,avi,mpeg,gif,...}
    data/dataset_metadata.csv      Filename, Label, License, Probe, Source ID, Patient ID / Name, ...

The data base holds clips under many licences; only those marked CC BY are indexed. Its videos have to be turned into
`.npz` clips (array `frames`, uint8, T x H x W) before they can be read. Copy: clip_NNN.npz, index.csv.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from xmkd.data.manifest import read_table
from xmkd.data.sources.layout import OTHER_FILE, copy_table, no_layout, visible
from xmkd.errors import ManifestError

CLASSES = ["regular", "covid19", "pneumonia"]
PATIENT = "Patient ID / Name"
_NEEDED = ("Filename", "Label", "License", "Probe", "Source ID", PATIENT)


def index(root: Path) -> pd.DataFrame:
    """Index either layout.

    Raises:
        ManifestError: `root` has neither, or the metadata lack a column.
    """
    table = copy_table(root, ["id", "source_label", "group"])
    if table is not None:
        return _rows(
            table["id"],
            "pocus_" + table["group"],
            table["probe"],
            [f"{name}.npz" for name in table["id"]],
            table["source_label"],
            table["licence"],
            table["source"],
        )
    for base in ("", "data/"):
        if (root / base / "dataset_metadata.csv").is_file():
            return _original(root, base)
    raise no_layout(root, "clip_NNN.npz and index.csv", "data/pocus_videos and data/dataset_metadata.csv")


def _original(root: Path, base: str) -> pd.DataFrame:
    file = root / base / "dataset_metadata.csv"
    table = read_table(file)
    missing = [name for name in _NEEDED if name not in table.columns]
    if missing:
        raise ManifestError(f"the metadata have no column {missing[0]!r}", where=file, fixes=OTHER_FILE)
    videos = {p.stem: p.relative_to(root).as_posix() for p in visible(root / base / "pocus_videos", "*/*")}
    free = table["License"].str.fullmatch(r"CC[ -]BY[ -]\d\.\d", na=False)
    table = table[free & table["Filename"].isin(videos)].drop_duplicates("Filename").reset_index(drop=True)
    # Where the patient is not known, all clips of a source are kept together: they may be of one person.
    group = ("patient_" + table[PATIENT]).fillna("source_" + table["Source ID"]).fillna("clip_" + table["Filename"])
    link = table["URL (Video Name)"] if "URL (Video Name)" in table.columns else table["Source ID"]
    return _rows(
        table["Filename"],
        "pocus_" + group,
        table["Probe"].str.lower(),
        [videos[name] for name in table["Filename"]],
        table["Label"],
        table["License"],
        link,
    )


def _rows(
    names: pd.Series,
    patients: pd.Series,
    probe: pd.Series,
    paths: list[str],
    label: pd.Series,
    licence: pd.Series,
    source: pd.Series,
) -> pd.DataFrame:
    finding = label.map(_finding)
    return pd.DataFrame(
        {
            "sample_id": names,
            "patient_id": patients,
            "modality": "us",
            "sequence": probe,
            "path": paths,
            "finding": finding,
            "regular_vs_ill": finding.map({"regular": "regular", "covid19": "ill", "pneumonia": "ill"}),
            "licence": licence,
            "source": source,
        }
    )


def _finding(label: object) -> str | None:
    """The class of a label as the data base writes it; None for others ("other", uncertain)."""
    text = str(label).strip().lower()
    if text in {"regular", "healthy"}:
        return "regular"
    if text in {"covid-19", "covid"}:
        return "covid19"
    return "pneumonia" if text.endswith("pneumonia") else None

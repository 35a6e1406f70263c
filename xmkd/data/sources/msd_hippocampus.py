"""Medical Segmentation Decathlon, Task04_Hippocampus: T1 MRI cropped around one hippocampus, with two labelled parts.

Simpson et al. 2019, arXiv 1902.09063. Original layout:

    Task04_Hippocampus/imagesTr/hippocampus_NNN.nii.gz, labelsTr/hippocampus_NNN.nii.gz, imagesTs/ (no labels)
    Task04_Hippocampus/dataset.json     "training": [{"image": "./imagesTr/...", "label": "./labelsTr/..."}, ...]

Copy: images/ and labels/ with the same file names, index.csv.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from xmkd.data.sources.layout import OTHER_FILE, copy_table, existing, no_layout, visible
from xmkd.errors import ManifestError


def index(root: Path) -> pd.DataFrame:
    """Index either layout; unlabelled volumes of imagesTs have no `mask`.

    Raises:
        ManifestError: `root` has neither, or dataset.json can't be read.
    """
    table = copy_table(root, ["id", "vox_anterior"])
    if table is not None:
        return _rows([(f"images/{name}.nii.gz", f"labels/{name}.nii.gz") for name in table["id"]])
    for base in ("", "Task04_Hippocampus/"):
        if (root / base / "dataset.json").is_file():
            return _rows(_listed(root, base))
        if (root / base / "imagesTr").is_dir():
            return _rows(_found(root, base))
    raise no_layout(root, "images/, labels/ and index.csv", "imagesTr, labelsTr and dataset.json")


def _listed(root: Path, base: str) -> list[tuple[str, str | None]]:
    file = root / base / "dataset.json"
    try:
        content = json.loads(file.read_text())
        labelled = [(_path(base, case["image"]), _path(base, case["label"])) for case in content["training"]]
        return [*labelled, *((_path(base, image), None) for image in content.get("test", []))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"can't read the list of cases: {error!r}", where=file, fixes=OTHER_FILE) from error


def _found(root: Path, base: str) -> list[tuple[str, str | None]]:
    files = visible(root / base, "imagesT[rs]/*.nii.gz")
    return [(f.relative_to(root).as_posix(), existing(root, f"{base}labelsTr/{f.name}")) for f in files]


def _path(base: str, listed: str) -> str:
    return base + listed.removeprefix("./")


def _rows(pairs: list[tuple[str, str | None]]) -> pd.DataFrame:
    names = [Path(path).name.removesuffix(".nii.gz") for path, _ in pairs]
    return pd.DataFrame(
        {
            "sample_id": names,
            "patient_id": names,
            "modality": "mri",
            "sequence": "t1",
            "path": [path for path, _ in pairs],
            "mask": [mask for _, mask in pairs],
        }
    )

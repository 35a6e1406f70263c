"""HC18: 999 ultrasound images of the fetal head with an outline of the skull and its circumference.

Van den Heuvel et al., PLoS ONE 2018. Original layout (Zenodo 1327317):

    training_set/NNN_HC.png, NNN_2HC.png ...     the same number: the same examination
    training_set/NNN_HC_Annotation.png           the outline, one pixel wide: no mask until it is filled
    training_set_pixel_size_and_HC.csv           filename, pixel size(mm), head circumference (mm)

Copy: images/*.jpg, masks/*.png (filled), index.csv.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from xmkd.data.manifest import read_table
from xmkd.data.sources.layout import OTHER_FILE, copy_table, no_layout
from xmkd.errors import ManifestError

LIST = "training_set_pixel_size_and_HC.csv"
TRIMESTERS = ["first", "second", "third"]


def index(root: Path) -> pd.DataFrame:
    """Index either layout; the original has no `mask`, because its outlines are not filled.

    Raises:
        ManifestError: `root` has neither.
    """
    table = copy_table(root, ["id", "hc_mm"])
    if table is not None:
        paths = [f"images/{name}.jpg" for name in table["id"]]
        masks = pd.Series([f"masks/{name}.png" for name in table["id"]])
        return _rows(table["id"], paths, masks, table["hc_mm"])
    if not (root / LIST).is_file():
        raise no_layout(root, "images/, masks/ and index.csv", f"training_set/ and {LIST}")
    table = read_table(root / LIST)
    wanted = {"filename", "head circumference (mm)"}
    if not wanted <= set(table.columns):
        raise ManifestError(f"expected the columns {', '.join(sorted(wanted))}", where=root / LIST, fixes=OTHER_FILE)
    names = table["filename"].str.removesuffix(".png")
    masks = pd.Series([None] * len(names), dtype=object)
    return _rows(names, [f"training_set/{name}.png" for name in names], masks, table["head circumference (mm)"])


def _rows(names: pd.Series, paths: list[str], masks: pd.Series, circumference: pd.Series) -> pd.DataFrame:
    mm = circumference.astype(float)
    # 100 and 200 mm are reached at about 14 and 22 to 23 weeks: a rough stand-in for the trimester.
    trimester = pd.cut(mm, [0, 100, 200, float("inf")], labels=TRIMESTERS, right=False).astype(str)
    return pd.DataFrame(
        {
            "sample_id": names,
            "patient_id": ["hc18_exam_" + _examination(name) for name in names],
            "modality": "us",
            "path": paths,
            "mask": masks,
            "trimester": trimester,
            "hc_mm": circumference,
        }
    )


def _examination(name: str) -> str:
    match = re.fullmatch(r"(\d+)_\d*HC", name)
    if match is None:
        raise ManifestError(f"{name!r} is not of the form NNN_HC or NNN_2HC", fixes=OTHER_FILE)
    return match[1]

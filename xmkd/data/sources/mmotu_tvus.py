"""MMOTU, sub-set OTU_2d: 1,469 ovarian ultrasound images of 8 classes, each with a mask of the lesion or ovary.

Zhao et al. 2022, arXiv 2207.06799. Original layout (figshare 25058690):

    OTU_2d/images/N.JPG                 N = 1 .. 1469
    OTU_2d/annotations/N_binary.PNG     mask; N.PNG is the same with a colour per class
                                        (of a coloured mask the cache takes all that is not black)
    OTU_2d/train_cls.txt, val_cls.txt   lines `N.JPG CLASS` with CLASS = 0 .. 7

Copy: images/NNNN.jpg, masks/NNNN.png, index.csv.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from xmkd.data.sources.layout import OTHER_FILE, copy_table, existing, no_layout
from xmkd.errors import ManifestError

CLASSES = [
    "Chocolate_Cyst",  # endometrioma
    "Serous_Cystadenoma",
    "Teratoma",
    "Theca_Cell_Tumor",
    "Simple_Cyst",
    "Ovary_Normal",
    "Mucinous_Cystadenoma",
    "High-grade_Serous_Cystadenoma",
]
BLOCK = 20  # there are no patient ids; runs of one label reach over 5 to 20 numbers, so neighbours stay together


def index(root: Path) -> pd.DataFrame:
    """Index either layout.

    Raises:
        ManifestError: `root` has neither, or a line of the class lists is wrong.
    """
    table = copy_table(root, ["id", "class_name"])
    if table is not None:
        numbers = table["id"].astype(int)
        paths = [f"images/{name}.jpg" for name in table["id"]]
        masks: list[str | None] = [f"masks/{name}.png" for name in table["id"]]
        return _rows(numbers, paths, masks, table["class_name"])
    for base in ("", "OTU_2d/", "MMOTU/OTU_2d/"):
        if (root / base / "train_cls.txt").is_file():
            return _original(root, base)
    raise no_layout(root, "images/, masks/ and index.csv", "OTU_2d/images, OTU_2d/annotations and OTU_2d/train_cls.txt")


def _original(root: Path, base: str) -> pd.DataFrame:
    names, classes = [], []
    for name in ("train_cls.txt", "val_cls.txt"):
        file = root / base / name
        for number, line in enumerate(file.read_text().splitlines() if file.is_file() else [], start=1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2 or not Path(words[0]).stem.isdigit() or words[1] not in map(str, range(len(CLASSES))):
                raise ManifestError(
                    f"expected `N.JPG CLASS`, got {line!r}", where=f"{file}, line {number}", fixes=OTHER_FILE
                )
            names.append(words[0])
            classes.append(CLASSES[int(words[1])])
    numbers = pd.Series([int(Path(name).stem) for name in names])
    masks = [_mask(root, f"{base}annotations/{number}") for number in numbers]
    return _rows(numbers, [f"{base}images/{name}" for name in names], masks, pd.Series(classes))


def _mask(root: Path, stem: str) -> str | None:
    return existing(root, f"{stem}_binary.PNG") or existing(root, f"{stem}.PNG")


def _rows(numbers: pd.Series, paths: list[str], masks: list[str | None], diagnosis: pd.Series) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": numbers.map("{:04d}".format),
            "patient_id": ((numbers - 1) // BLOCK).map("mmotu_block_{:02d}".format),
            "modality": "tvus",
            "path": paths,
            "mask": masks,
            "diagnosis": diagnosis,
            "endometrioma": diagnosis.eq(CLASSES[0]).map({True: "endometrioma", False: "rest"}),
        }
    )

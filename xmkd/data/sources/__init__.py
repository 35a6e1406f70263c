"""One module per public data set: each turns the files, as published or as copied, into the table of a manifest.

Every module has one function, `index(root)`, which returns the columns of a manifest and the label columns of the set's
card. It knows two layouts: the original one and that of the reduced copies used for tests (an index.csv beside the
files). Both give the same sample and patient ids, so that a split made on one holds on the other (but for the POCUS
clips, whose copy was numbered and grouped by hand).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from xmkd.data.sources import (
    hc18_fetal_head_us,
    mmotu_tvus,
    msd_hippocampus,
    open_ms_brain,
    pocus_lung_clips,
    tcia_prostate_mri,
)

SOURCES: dict[str, Callable[[Path], pd.DataFrame]] = {
    "hc18_fetal_head_us": hc18_fetal_head_us.index,
    "mmotu_tvus": mmotu_tvus.index,
    "msd_hippocampus": msd_hippocampus.index,
    "open_ms_brain": open_ms_brain.index,
    "pocus_lung_clips": pocus_lung_clips.index,
    "tcia_prostate_mri": tcia_prostate_mri.index,
}

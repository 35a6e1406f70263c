"""What the source modules share: finding a layout, and saying so when there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xmkd.data.manifest import read_table
from xmkd.errors import ManifestError

COPY_INDEX = "index.csv"
OTHER_FILE = ("name the folder of this set", "get the set again from its source (see its card)")


def copy_table(root: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    """Return the index.csv of a reduced copy as text, or None where `root` is no such copy.

    Raises:
        ManifestError: There is an index.csv, but not of this set.
    """
    file = root / COPY_INDEX
    if not file.is_file():
        return None
    table = read_table(file)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        what = f"index.csv has no column {missing[0]!r}: it belongs to another set"
        raise ManifestError(what, where=file, fixes=OTHER_FILE)
    return table


def no_layout(root: Path, copy: str, original: str) -> ManifestError:
    """The error of a folder that holds neither layout."""
    return ManifestError(
        "this folder has neither the original layout of the set nor that of its copy",
        where=root,
        fixes=(f"name the folder with {original}", f"name the folder with {copy}"),
    )


def existing(root: Path, path: str) -> str | None:
    """Return `path` when it is a file below `root`, else None."""
    return path if (root / path).is_file() else None


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return the files that match, sorted, without the hidden `._x` twins that macOS packs into archives."""
    return sorted(p for p in folder.glob(pattern) if p.is_file() and not p.name.startswith("."))

"""Look at a data set before trusting a number made from it: counts, broken files, duplicates, labels, leakage.

Near-duplicates are found by difference hashes (N. Krawetz, "Kind of like that", 2013): the signs of the horizontal
differences of a 17 x 16 thumbnail, 256 bits. In MMOTU all 20 pairs at most 30 bits apart that were unlikely neighbours
(other class, or more than 20 numbers apart) were looked at: each shows the same view.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from xmkd.data.manifest import Card, Manifest
from xmkd.data.splits import PARTS, Split
from xmkd.errors import XmkdError

NEAR = 30 / 256  # share of differing bits up to which two pictures count as near-duplicates
_SIDE = 16
_BLOCK = 2048  # rows compared at once: 2,048 x 20,000 distances are 160 MB
_SHOWN = 5

Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        title: The set in one line.
        errors: What makes results wrong or impossible.
        warnings: What makes them doubtful.
        tables: Counts by part, by label and part, and by site.
        near: Pairs of near-duplicates of different patients, with columns a, b (sample ids), patient_a, patient_b, bits
            (of 256), other_part and other_label; None when files were not read.
    """

    title: str
    errors: list[str]
    warnings: list[str]
    tables: dict[str, pd.DataFrame]
    near: pd.DataFrame | None = None

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def text(self) -> str:
        """Return the report for the terminal."""
        lines = [self.title]
        for name, table in self.tables.items():
            lines += ["", name, table.to_string()]
        lines += ["", *(f"error: {e}" for e in self.errors), *(f"warning: {w}" for w in self.warnings)]
        if self.ok and not self.warnings:
            lines.append("nothing wrong was found")
        return "\n".join(lines)


@dataclass
class _Files:
    """What reading the files gave, by row of the table."""

    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    sha256: dict[int, str] = field(default_factory=dict)
    bits: dict[int, Bits] = field(default_factory=dict)


def check(
    manifest: Manifest, split: Split | None = None, deep: bool = True, on_file: Callable[[], None] | None = None
) -> CheckReport:
    """Check a manifest and its files.

    Args:
        manifest: The data set.
        split: Who stands where; default: the manifest's own split column.
        deep: Read every file, which unreadable files, duplicates and masks of another shape need; else only look
            whether it exists.
        on_file: Called after each file, for a progress bar.

    Raises:
        DataMissingError: The data root is not there.
    """
    manifest.require_root()
    table = manifest.table.reset_index(drop=True)
    table = table.assign(_part=table["split"] if split is None else split.of(table))
    errors = _leaks(table, split) + _patient_labels(table, manifest.card)
    warnings = [] if split is None else list(split.notes)
    files = _read(manifest, table, deep, on_file)
    errors += _summed("missing", files.missing) + _summed("unreadable", files.unreadable)
    errors += _summed("mask of another size", files.misfits)
    near = None
    if deep:
        found = _exact(table, files.sha256, list(manifest.card.labels))
        errors, warnings = errors + found[0], warnings + found[1]
        near = near_duplicates(table, files.bits, list(manifest.card.labels))
        warnings += _near_warnings(near, table)
    warnings += _single_site(table, manifest.card)
    card = manifest.card
    title = f"{card.name}: {len(table)} samples of {table['patient_id'].nunique()} patients ({card.title})"
    return CheckReport(title, errors, warnings, _tables(table, card), near)


def check_together(manifests: Sequence[Manifest]) -> list[str]:
    """Errors that only several manifests show: patients on different sides of the split."""
    rows = [m.table.assign(patient_id=m.card.ids + m.table["patient_id"]) for m in manifests]
    sides = pd.concat(rows, ignore_index=True).groupby("patient_id")["split"].nunique()
    return _summed("on two sides of the split, in different manifests", sorted(sides.index[sides > 1]), "patient")


def near_duplicates(table: pd.DataFrame, bits: dict[int, Bits], labels: list[str]) -> pd.DataFrame:
    """Return the pairs of different patients whose hashes differ in at most 30 of 256 bits.

    Args:
        table: Rows with sample_id, patient_id, `_part` and labels, indexed as `bits`.
        bits: Hash of each row; only hashes of one length are compared.
        labels: Columns whose difference is marked in `other_label`.
    """
    pairs: list[tuple[int, int, float]] = []
    for length in sorted({len(b) for b in bits.values()}):
        rows = np.array([row for row, b in bits.items() if len(b) == length])
        signs = np.where(np.stack([bits[row] for row in rows]), np.float32(1), np.float32(-1))
        patients = table["patient_id"].to_numpy()[rows]
        for start in range(0, len(rows), _BLOCK):
            block = signs[start : start + _BLOCK]
            differing = (1 - block @ signs[start:].T / length) / 2  # share of bits; exact in float32 for such lengths
            close = np.triu(differing <= NEAR, k=1)
            close &= patients[start : start + _BLOCK, None] != patients[None, start:]
            for i, j in np.argwhere(close):
                pairs.append((int(rows[start + i]), int(rows[start + j]), float(differing[i, j])))
    first, second = table.loc[[p[0] for p in pairs]], table.loc[[p[1] for p in pairs]]
    other = np.zeros(len(pairs), dtype=bool)
    for label in labels:
        left, right = first[label].to_numpy(), second[label].to_numpy()
        other |= (left != right) & ~(pd.isna(left) | pd.isna(right))
    parts = first["_part"].to_numpy(), second["_part"].to_numpy()
    return pd.DataFrame(
        {
            "a": first["sample_id"].to_numpy(),
            "b": second["sample_id"].to_numpy(),
            "patient_a": first["patient_id"].to_numpy(),
            "patient_b": second["patient_id"].to_numpy(),
            "bits": [round(p[2] * 256) for p in pairs],
            "other_part": (parts[0] != parts[1]) & ~(pd.isna(parts[0]) | pd.isna(parts[1])),
            "other_label": other,
        }
    ).sort_values(["bits", "a", "b"], ignore_index=True)


def look_hash(array: npt.NDArray[np.generic], kind: str) -> Bits:
    """Return the difference hash of an image, of a clip's middle frame or of a volume's three middle slices.

    Args:
        array: `(C, H, W)`, `(C, T, H, W)` or `(C, D, H, W)`.
        kind: "image", "clip" or "volume".

    Returns:
        256 bits, or 768 for a volume.
    """
    from PIL import Image as Picture

    grey = array.mean(axis=0, dtype=np.float32)
    if kind == "image":
        views = [grey]
    else:
        middle = [size // 2 for size in grey.shape]
        views = [grey[middle[0]]]
        if kind == "volume":
            views += [grey[:, middle[1]], grey[:, :, middle[2]]]
    hashes = []
    for view in views:
        small = Picture.fromarray(view).resize((_SIDE + 1, _SIDE), Picture.Resampling.LANCZOS)
        pixels = np.asarray(small)
        hashes.append((pixels[:, 1:] > pixels[:, :-1]).ravel())
    return np.concatenate(hashes)


def _read(manifest: Manifest, table: pd.DataFrame, deep: bool, on_file: Callable[[], None] | None) -> _Files:
    files = _Files()
    for row, path, mask in table[["path", "mask"]].itertuples():
        there = [p for p in (path, mask) if isinstance(p, str)]
        lost = [p for p in there if not (manifest.root / p).exists()]
        files.missing += lost
        if deep and path not in lost:
            _read_one(manifest, files, int(row), path, mask if isinstance(mask, str) and mask not in lost else None)
        if on_file is not None:
            on_file()
    return files


def _read_one(manifest: Manifest, files: _Files, row: int, path: str, mask: str | None) -> None:
    from xmkd.data.readers import read

    try:
        image = read(manifest.root / path)
    except XmkdError as error:
        files.unreadable.append(f"{path}: {error.what}")
        return
    # Of the pixels, so that a copy under another name or header is found as well.
    shape = str((image.array.shape, image.array.dtype.str))
    files.sha256[row] = hashlib.sha256(shape.encode() + np.ascontiguousarray(image.array).tobytes()).hexdigest()
    files.bits[row] = look_hash(image.array, image.kind)
    if mask is None:
        return
    try:
        shape_of_mask = read(manifest.root / mask).array.shape[1:]
    except XmkdError as error:
        files.unreadable.append(f"{mask}: {error.what}")
        return
    expected = image.array.shape[2:] if image.kind == "clip" else image.array.shape[1:]  # of a clip's first frame
    if shape_of_mask != expected:
        files.misfits.append(f"{mask} is {shape_of_mask}, {path} is {expected}")


def _leaks(table: pd.DataFrame, split: Split | None) -> list[str]:
    """Patients on two sides, by the column or by a split that was put together by hand."""
    sides = table.groupby("patient_id")["_part"].nunique()
    both = set(sides.index[sides > 1])
    members = [] if split is None else [(patient, part) for part, group in split.parts.items() for patient in group]
    seen: dict[str, str] = {}
    for patient, part in members:
        if seen.setdefault(patient, part) != part:
            both.add(patient)
    return _summed("on two sides of the split", sorted(map(str, both)), "patient")


def _patient_labels(table: pd.DataFrame, card: Card) -> list[str]:
    errors = []
    for label, spec in card.labels.items():
        if spec.per_patient:
            classes = table.groupby("patient_id")[label].nunique()
            errors += _summed(f"with several values of {label}, which the card says is by patient",
                              list(classes.index[classes > 1]), "patient")  # fmt: skip
    return errors


def _exact(table: pd.DataFrame, sha256: dict[int, str], labels: list[str]) -> tuple[list[str], list[str]]:
    """Identical pictures: an error across parts or with another label, else a warning across patients."""
    same = pd.Series(sha256, dtype=object)
    across: list[str] = []
    conflicts: list[str] = []
    patients: list[str] = []
    for rows in (list(group.index) for _, group in same.groupby(same) if len(group) > 1):
        group = table.loc[rows]
        name = " = ".join(group["sample_id"])
        if group["_part"].nunique() > 1:
            across.append(name)
        elif group["patient_id"].nunique() > 1:
            patients.append(name)
        if any(group[label].nunique() > 1 for label in labels):
            conflicts.append(name)
    errors = _summed("in several parts of the split (same pixels)", across, "picture")
    errors += _summed("with several labels (same pixels)", conflicts, "picture")
    return errors, _summed("of several patients (same pixels)", patients, "picture")


def _near_warnings(near: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    warnings = []
    for column, what in (("other_part", "in two parts of the split"), ("other_label", "with different labels")):
        pairs = [f"{p.a} ~ {p.b}" for p in near[near[column]].itertuples()]
        warnings += _summed(f"of near-duplicates of different patients {what}", pairs, "pair")
    if len(near) and not table["_part"].notna().any():
        pairs = [f"{p.a} ~ {p.b}" for p in near.itertuples()]
        warnings += _summed("of near-duplicates of different patients", pairs, "pair")
    return warnings


def _single_site(table: pd.DataFrame, card: Card) -> list[str]:
    """Labels that the site alone tells."""
    warnings = []
    if table["site"].nunique() > 1:
        for label in card.labels:
            known = table.dropna(subset=["site", label])
            if known[label].nunique() > 1 and (known.groupby("site")[label].nunique() == 1).all():
                warnings.append(f"each site has a single value of {label}: a model can learn the site instead")
    return warnings


def _tables(table: pd.DataFrame, card: Card) -> dict[str, pd.DataFrame]:
    parts = table["_part"].astype(object).where(table["_part"].notna(), "(none)")
    tables = {"by part of the split": _sizes(table, parts)}
    for label, spec in card.labels.items():
        counts = pd.crosstab(parts, table[label].astype(object).where(table[label].notna(), "(unlabelled)"))
        order = [c for c in (*spec.classes, "(unlabelled)") if c in counts.columns]
        counts = counts[order].rename_axis(None).rename_axis(None, axis=1)
        if spec.positive in counts.columns:
            counts["prevalence"] = counts[spec.positive] / counts[[c for c in order if c in spec.classes]].sum(axis=1)
            positive = table[table[label] == spec.positive]
            counts["positive patients"] = (
                positive.groupby(parts)["patient_id"].nunique().reindex(counts.index).fillna(0)
            )
            counts = counts.round({"prevalence": 3}).astype({"positive patients": int})
        tables[f"{label} by part"] = _in_order(counts)
    if table["site"].notna().any():
        tables["by site"] = _sizes(table, table["site"].astype(object).where(table["site"].notna(), "(none)"))
    return tables


def _sizes(table: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    grouped = table.groupby(by)
    sizes = pd.DataFrame({"samples": grouped.size(), "patients": grouped["patient_id"].nunique()})
    return _in_order(sizes.rename_axis(None))


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of the parts; what is no part (a site, a fold) comes after, sorted."""
    return table.loc[sorted(table.index, key=lambda name: (PARTS.index(name) if name in PARTS else len(PARTS), name))]


def _summed(what: str, items: list[str], unit: str = "file") -> list[str]:
    """One line for any number of items: "3 files missing: a, b, c"."""
    if not items:
        return []
    more = ", ..." if len(items) > _SHOWN else ""
    return [f"{len(items)} {unit}{'s' * (len(items) > 1)} {what}: {', '.join(items[:_SHOWN])}{more}"]

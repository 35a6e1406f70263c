"""Patients on one side only: grouped, label-stratified splits and folds.

A split assigns *patients*, so that all rows of a patient follow it, in however many tables they are. It depends on the
patients, their labels, the fractions and the seed, never on the order of the rows.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from xmkd.errors import ManifestError

PARTS = ("train", "val", "calib", "test")
_UNLABELLED = "(unlabelled)"
_ATTEMPTS = 20  # shuffles tried; the first is usually taken
_MISSING_CELL = 10.0  # cost of a part without a class: far above any misfit of counts, which is of order 1

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Which patients are in which part.

    Attributes:
        parts: Patient ids, sorted, by part: "train", "val", ..., or "0", "1", ... for folds.
        hash: 16 hexadecimal digits, the same for the same assignment however it was made.
        origin: Whether a column of the table or the seed decided ("mixed": the column for some patients).
        notes: What is not as one might expect, such as a rare class that some parts lack.
    """

    parts: dict[str, tuple[str, ...]]
    hash: str
    origin: Literal["column", "seed", "mixed"]
    notes: tuple[str, ...] = field(default=(), compare=False)

    def select(self, table: pd.DataFrame, *parts: str | int) -> pd.DataFrame:
        """Return the rows of the named parts, in the table's order.

        Raises:
            ManifestError: There is no such part.
        """
        unknown = [str(p) for p in parts if str(p) not in self.parts]
        if unknown:
            raise ManifestError(
                f"the split has no part {unknown[0]!r}; it has {', '.join(self.parts)}",
                fixes=("give it a fraction above 0 (data.split)", "add it to the manifest's split column"),
            )
        wanted = [patient for part in parts for patient in self.parts[str(part)]]
        return table[table["patient_id"].isin(wanted)]

    def rest(self, table: pd.DataFrame, *parts: str | int) -> pd.DataFrame:
        """Return the rows of all other parts, such as the training side of a fold."""
        return self.select(table, *(p for p in self.parts if p not in {str(part) for part in parts}))

    def of(self, table: pd.DataFrame) -> pd.Series:
        """Return the part of each row (NaN where the patient was not assigned)."""
        lookup = {patient: part for part, patients in self.parts.items() for patient in patients}
        return table["patient_id"].map(lookup)


def split(table: pd.DataFrame, label: str | None, fractions: Mapping[str, float] | None = None, seed: int = 0) -> Split:
    """Divide the patients into train, val, calib and test, with like class frequencies in each.

    A `split` column is honoured: where it names a part for every patient it is the split; patients without one are
    divided so that the whole comes near the fractions.

    Args:
        table: Rows with patient_id; several manifests may be concatenated.
        label: Column to stratify by; None: by number of patients and samples alone.
        fractions: Of the samples, by part; parts at 0 are left out, and "train" is the rest unless named.
        seed: Decides among the many splits that fit equally well.

    Raises:
        ManifestError: The request can't be met, such as fewer positive patients than parts.
    """
    wanted = _checked_fractions({"val": 0.15, "test": 0.2} if fractions is None else fractions)
    fixed = _column_parts(table, "split")
    if fixed is not None and fixed.notna().all():
        return _made({p: fixed.index[fixed == p] for p in PARTS if (fixed == p).any()}, "column")
    counts = _patient_counts(table, label)
    parts = list(wanted)
    needed = _needed_classes(counts, len(parts), label, "parts", "give fewer parts a fraction (data.split)")
    locked = None if fixed is None else fixed.reindex(counts.index).map({p: i for i, p in enumerate(parts)})
    if fixed is not None and not set(fixed.dropna()) <= set(parts):
        extra = ", ".join(sorted(set(fixed.dropna()) - set(parts)))
        raise ManifestError(
            f"the split column names parts without a fraction: {extra}",
            fixes=("give them a fraction (data.split)", "empty these cells or fill all of the column"),
        )
    chosen = _assign(counts, np.array(list(wanted.values())), needed, seed, locked)
    members = {part: counts.index[chosen == i] for i, part in enumerate(parts)}
    return _made(members, "seed" if fixed is None else "mixed", counts)


def folds(table: pd.DataFrame, label: str | None, k: int, seed: int = 0) -> Split:
    """Divide the patients into k folds named "0" .. "k-1" (scikit-learn's StratifiedGroupKFold).

    A `fold` column is honoured. A class that fewer than k patients have is an error when there are two classes; with
    more, some folds go without it and a note says so.

    Args:
        table: Rows with patient_id; several manifests may be concatenated.
        label: Column to stratify by; None: by number of samples alone.
        k: Number of folds.
        seed: Seed of the shuffle.

    Raises:
        ManifestError: The request can't be met.
    """
    if k < 2:
        raise ManifestError(f"{k} folds: at least 2 are needed", fixes=("set data.folds", "use a single split instead"))
    fixed = _column_parts(table, "fold")
    if fixed is not None:
        return _column_folds(fixed, k)
    counts = _patient_counts(table, label)
    needed = _needed_classes(counts, k, label, "folds", f"ask for fewer folds (data.folds={max(2, k - 1)})")
    for attempt in range(_ATTEMPTS):
        fold = _stratified_folds(table, label, k, seed + attempt * 1_000_003)
        members = {str(i): fold.index[fold == i] for i in range(k)}
        if all(len(m) and (counts.loc[m, needed].sum() > 0).all() for m in members.values()):
            return _made(members, "seed", counts)
    raise ManifestError(
        f"no division of {len(counts)} patients into {k} folds was found with every class of {label!r} in every fold",
        fixes=("ask for fewer folds", "write a fold column into the manifest"),
    )


def _stratified_folds(table: pd.DataFrame, label: str | None, k: int, seed: int) -> pd.Series:
    """Return the fold of each patient."""
    from sklearn.model_selection import StratifiedGroupKFold

    order = [c for c in ("patient_id", "sample_id", "path") if c in table.columns]
    rows = table.sort_values(order, kind="stable")  # scikit-learn does not promise to ignore the order
    strata = np.zeros(len(rows), dtype=np.int64) if label is None else _strata(rows, label).factorize(sort=True)[0]
    fold = np.empty(len(rows), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # said in `Split.notes`
        splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed % 2**32)
        for i, (_, test) in enumerate(splitter.split(rows, strata, groups=rows["patient_id"].to_numpy())):
            fold[test] = i
    return pd.Series(fold, index=rows["patient_id"].to_numpy()).groupby(level=0).first()


def _column_folds(fixed: pd.Series, k: int) -> Split:
    if fixed.isna().any():
        raise ManifestError(
            f"the fold column is empty for {int(fixed.isna().sum())} patients, as {fixed.index[fixed.isna()][0]!r}",
            fixes=("fill it for all patients", "remove the column; the folds are then made from the seed"),
        )
    numbers = sorted({int(f) for f in fixed})
    if numbers != list(range(k)):
        raise ManifestError(
            f"the fold column holds {numbers}, but {k} folds were asked for",
            fixes=(f"set data.folds={len(numbers)} and number the folds from 0", "remove the column"),
        )
    return _made({str(i): fixed.index[fixed.astype(int) == i] for i in range(k)}, "column")


def _checked_fractions(fractions: Mapping[str, float]) -> dict[str, float]:
    unknown = [part for part in fractions if part not in PARTS]
    if unknown:
        raise ManifestError(f"{unknown[0]!r} is no part of a split; the parts are {', '.join(PARTS)}")
    others = {p: float(fractions[p]) for p in PARTS[1:] if fractions.get(p, 0) != 0}
    train = fractions.get("train", 1 - sum(others.values()))
    total = train + sum(others.values())
    if min([train, *others.values()]) <= 0 or not np.isclose(total, 1):
        raise ManifestError(
            f"fractions {dict(fractions)}: each must be positive and all parts together, with train, 1",
            fixes=("lower them so that patients are left for training", "leave `train` out: it is the rest"),
        )
    return {"train": train, **others}


def _column_parts(table: pd.DataFrame, column: str) -> pd.Series | None:
    """The part of each patient as its column says; None where there is no such column or nothing in it."""
    if column not in table.columns or table[column].isna().all():
        return None
    sides = table.groupby("patient_id")[column].nunique()
    if (sides > 1).any():
        raise ManifestError(
            f"patient {sides.index[sides > 1][0]!r} is on {int(sides.max())} sides of the {column} column at once",
            fixes=("keep each patient on one side", f"empty the {column} column"),
        )
    return table.groupby("patient_id")[column].first()  # the first that is not missing


def _strata(table: pd.DataFrame, label: str) -> pd.Series:
    if label not in table.columns:
        raise ManifestError(f"there is no label column {label!r} to stratify by")
    return table[label].astype(object).where(table[label].notna(), _UNLABELLED).astype(str)


def _patient_counts(table: pd.DataFrame, label: str | None) -> pd.DataFrame:
    """Samples by patient (sorted) and class."""
    if table.empty:
        raise ManifestError("there are no rows to split")
    strata = pd.Series(_UNLABELLED, index=table.index) if label is None else _strata(table, label)
    return pd.crosstab(table["patient_id"].to_numpy(), strata.to_numpy()).astype(float)


def _needed_classes(counts: pd.DataFrame, sides: int, label: str | None, what: str, fix: str) -> list[str]:
    """Classes that every side must have: both of a binary label; of several, those that enough patients have."""
    patients = (counts > 0).sum().drop(_UNLABELLED, errors="ignore")
    if len(counts) < sides:
        raise ManifestError(
            f"{len(counts)} patients can't make {sides} {what}", fixes=(fix, "add patients; images alone do not help")
        )
    if label is None:
        return []
    if len(patients) < 2:
        raise ManifestError(
            f"label {label!r} has {len(patients)} class(es) among these rows; two or more are needed to stratify by it",
            fixes=("check the filter of the rows (`where`)", "choose another label"),
        )
    rare = patients[patients < sides]
    if len(patients) == 2 and len(rare):
        raise ManifestError(
            f"{int(rare.iloc[0])} patients have {label}={rare.index[0]!r}: too few for {sides} {what} with each class",
            fixes=(fix, f"add patients with {rare.index[0]!r}; further images of the same patients do not help"),
        )
    if len(rare) == len(patients):
        raise ManifestError(
            f"no class of {label!r} is in {sides} patients, so no class can be in each of {sides} {what}",
            fixes=(fix, "stratify by a coarser label"),
        )
    return [str(c) for c in patients.index[patients >= sides]]


def _made(
    members: Mapping[str, pd.Index], origin: Literal["column", "seed", "mixed"], counts: pd.DataFrame | None = None
) -> Split:
    parts = {part: tuple(sorted(map(str, patients))) for part, patients in members.items()}
    text = "\n".join(f"{part}\t{patient}" for part in sorted(parts) for patient in parts[part])
    notes = () if counts is None else tuple(_missing_classes(parts, counts))
    return Split(parts, hashlib.sha256(text.encode()).hexdigest()[:16], origin, notes)


def _missing_classes(parts: dict[str, tuple[str, ...]], counts: pd.DataFrame) -> list[str]:
    notes = []
    for part, patients in parts.items():
        present = counts.loc[list(patients)].sum()
        lacking = [str(c) for c in present.index[present == 0] if c != _UNLABELLED]
        if lacking:
            notes.append(f"{part} has no sample of {', '.join(lacking)}: too few patients have it")
    return notes


def _assign(
    counts: pd.DataFrame, fractions: Counts, needed: list[str], seed: int, locked: pd.Series | None
) -> npt.NDArray[np.int64]:
    """Assign patients to parts so that each part's share of every class, of samples and of patients is its fraction.

    Greedy from the largest patient down, then single patients are moved while that helps; the best of several shuffles.

    Args:
        counts: Samples by patient and class.
        fractions: By part, adding to 1.
        needed: Classes that no part may lack.
        seed: Of the shuffles.
        locked: Part of the patients that are fixed, NaN for the others.

    Returns:
        The part of each patient, `(patients,)`.
    """
    features = np.column_stack([counts.to_numpy(), counts.sum(axis=1), np.ones(len(counts))])
    shares = features / features.sum(axis=0)  # each column adds to 1 over the patients
    must = np.array([c in needed for c in counts.columns] + [False, True])  # no part without a patient
    start = np.full(len(counts), -1) if locked is None else locked.fillna(-1).to_numpy(dtype=np.int64)
    best, best_cost = start, np.inf
    for rng in np.random.default_rng(seed).spawn(_ATTEMPTS):
        chosen = _improve(shares, fractions, must, _greedy(shares, fractions, start, rng), start < 0)
        cost = _cost(_part_shares(shares, chosen, len(fractions)), fractions, must)
        if cost < best_cost - 1e-12:
            best, best_cost = chosen, cost
    if best_cost >= _MISSING_CELL:
        raise ManifestError(
            "no split was found in which every part has patients of every class",
            fixes=("raise the smallest fraction (data.split)", "write a split column into the manifest"),
        )
    return best


def _greedy(
    shares: Counts, fractions: Counts, start: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    chosen = start.copy()
    filled = _part_shares(shares, chosen, len(fractions))
    free = rng.permutation(np.flatnonzero(start < 0))
    for patient in free[np.argsort(-shares[free].max(axis=1), kind="stable")]:
        misfit = (filled - fractions[:, None]) / fractions[:, None]
        part = int(np.argmin((misfit * shares[patient]).sum(axis=1)))  # the part that lacks most of what this one has
        chosen[patient] = part
        filled[part] += shares[patient]
    return chosen


def _improve(
    shares: Counts,
    fractions: Counts,
    must: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.int64],
    free: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    """Move the patient that helps most, until none does (or as often as there are patients, at most 200 times)."""
    for _ in range(min(200, len(shares))):
        filled = _part_shares(shares, chosen, len(fractions))
        gain, move = 1e-9, None
        before = _part_costs(filled, fractions, must)
        left = _part_costs(filled[chosen] - shares, fractions[chosen], must)  # cost of the old part without the patient
        for part in range(len(fractions)):
            joined = _part_costs(filled[part] + shares, fractions[part], must)
            gains = np.where(free & (chosen != part), before[chosen] + before[part] - left - joined, -np.inf)
            patient = int(np.argmax(gains))
            if gains[patient] > gain:
                gain, move = float(gains[patient]), (patient, part)
        if move is None:
            break
        chosen[move[0]] = move[1]
    return chosen


def _part_shares(shares: Counts, chosen: npt.NDArray[np.int64], parts: int) -> Counts:
    return np.stack([shares[chosen == part].sum(axis=0) for part in range(parts)])


def _cost(filled: Counts, fractions: Counts, must: npt.NDArray[np.bool_]) -> float:
    return float(_part_costs(filled, fractions, must).sum())


def _part_costs(filled: Counts, fraction: Counts | np.float64, must: npt.NDArray[np.bool_]) -> Counts:
    """Squared misfit of shares, `(..., features)` -> `(...)`, plus a fixed cost for each missing needed class."""
    target = np.asarray(fraction)[..., None]
    missing = (filled < 1e-9) & must
    return np.asarray(((filled - target) ** 2).sum(axis=-1) + _MISSING_CELL * missing.sum(axis=-1))

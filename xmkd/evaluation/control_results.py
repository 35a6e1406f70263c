"""The results of a table of controls: every arm trained on every training cohort, all tested on the same patients.

`results.csv` has one row per training: `tier, rho, labels, arm, cohort, auroc, lock`. Beside it may lie `scores.npz`
with `label` and `patient_id` of the test patients and, under `tier/rho/labels/arm/cohort`, their scores.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xmkd.errors import EvaluationError
from xmkd.evaluation.inputs import SHOWN, FloatArray, check_labels, check_scores
from xmkd.evaluation.statistics import auroc

RESULTS, SCORES = "results.csv", "scores.npz"
WORDS, NUMBERS = ("tier", "arm", "lock"), ("rho", "labels", "cohort", "auroc")
TRAINING = ["tier", "rho", "labels", "arm", "cohort"]
ROUNDED = 1e-3  # an AUROC in the table may have been rounded to three digits

Key = tuple[str, float, int, str, int]  # a training, as TRAINING


@dataclass(frozen=True)
class Setting:
    """What two arms have in common where they are compared: the tier, the cohorts' rho, the number of labelled MRI."""

    tier: str
    rho: float
    labels: int

    def __str__(self) -> str:
        return f"{self.tier}, rho {self.rho:g}, {self.labels} labels"


@dataclass(frozen=True)
class Tested:
    """Scores of the test patients.

    Attributes:
        label: `(n,)`.
        patient: `(n,)`.
        scores: By training, each `(n,)`.
    """

    label: npt.NDArray[np.bool_]
    patient: npt.NDArray[Any]
    scores: dict[Key, FloatArray]


@dataclass(frozen=True)
class ControlResults:
    """All that was measured.

    Attributes:
        path: The table.
        table: One row per training, columns TRAINING, `auroc` and `lock`.
        locks: By rho, the lock of its simulated cohorts; "" where they are not calibrated.
        tested: Scores of the test patients, where there are any.
    """

    path: Path
    table: pd.DataFrame
    locks: dict[float, str] = field(default_factory=dict)
    tested: Tested | None = None

    def at(self, setting: Setting) -> pd.DataFrame:
        """The rows of a setting."""
        t = self.table
        same = (t["tier"] == setting.tier) & np.isclose(t["rho"], setting.rho) & (t["labels"] == setting.labels)
        return t[same]

    def aurocs(self, setting: Setting, arm: str) -> pd.Series:
        """AUROC of an arm by cohort, in order of the cohorts."""
        rows = self.at(setting)
        return rows[rows["arm"] == arm].set_index("cohort")["auroc"].sort_index()

    def scores(self, setting: Setting, arm: str, cohorts: Iterable[int]) -> FloatArray | None:
        """Scores `(cohorts, n)` of the test patients; None unless those of every cohort are there.

        Raises:
            EvaluationError: They are not the scores that the table's AUROCs were computed from.
        """
        keys = [(setting.tier, round(setting.rho, 6), setting.labels, arm, cohort) for cohort in cohorts]
        if self.tested is None or not keys or any(key not in self.tested.scores for key in keys):
            return None
        found, listed = np.stack([self.tested.scores[key] for key in keys]), self.aurocs(setting, arm)
        for key, row in zip(keys, found, strict=True):
            computed = auroc(self.tested.label.astype(int), row)
            if abs(computed - listed[key[-1]]) > ROUNDED:
                raise EvaluationError(
                    f"the scores of a training give an AUROC of {computed:.4f}, its row says {listed[key[-1]]:.4f}",
                    where=f"{self.path.with_name(SCORES)}: {_name(key)}",
                    fixes=(f"write {RESULTS} and {SCORES} in one run", f"remove {SCORES}: no test-patient intervals"),
                )
        return found


def load(path: Path) -> ControlResults:
    """Read a table of controls and the scores beside it.

    Args:
        path: The table, or the folder that holds it as results.csv.

    Raises:
        EvaluationError: The table is missing, can't be read, lacks columns, holds what can't be, repeats a training, or
            mixes cohorts of different difficulty; or the scores can't be used.
    """
    file = path / RESULTS if path.is_dir() else path
    table = _checked(_read(file), file)
    return ControlResults(file, table, _locks(table, file), _scores(file.with_name(SCORES)))


def _read(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' own errors of parsing are ValueErrors
        problem = "there is no such table of results" if not file.is_file() else f"this table can't be read: {error}"
        fixes = (f"name a {RESULTS} of the controls, or the folder that holds it", "run the controls: they write it")
        raise EvaluationError(problem, where=file, fixes=fixes) from error
    missing = [name for name in (*TRAINING, "auroc", "lock") if name not in table.columns]
    if missing:
        raise EvaluationError(
            f"no table of controls: columns {', '.join(missing)} are missing",
            where=file,
            fixes=(f"name the {RESULTS} of a run of the controls", "leave out --claims to compare runs"),
        )
    return table


def _checked(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in NUMBERS}
    whole = [numbers[name] % 1 == 0 for name in ("labels", "cohort")]
    sound = np.logical_and.reduce([n.notna() for n in numbers.values()] + whole) & numbers["auroc"].between(0, 1)
    if not sound.all():
        rows = np.flatnonzero(~sound) + 2  # the first line holds the names
        raise EvaluationError(
            f"{len(rows)} rows hold no number where one belongs, or an AUROC outside 0 .. 1",
            where=f"{file}: line {', '.join(map(str, rows[:SHOWN]))}",
            fixes=("find out why the training gave none", "leave the row out: its cohort then counts as missing"),
        )
    kept = table[list(WORDS)].assign(**numbers).astype({"labels": int, "cohort": int})
    kept["rho"] = kept["rho"].round(6)
    twice = kept[kept.duplicated(TRAINING)]
    if len(twice):
        raise EvaluationError(
            f"{len(twice)} trainings have more than one row",
            where=f"{file}: {'; '.join(_name(key) for key in twice[TRAINING].head(SHOWN).itertuples(index=False))}",
            fixes=("keep the row of the run that counts", "number further cohorts on"),
        )
    return kept


def _locks(table: pd.DataFrame, file: Path) -> dict[float, str]:
    """One lock per rho: cohorts of another rho are other pictures, so they have a lock of their own."""
    found: dict[float, str] = {}
    for rho in sorted(map(float, table["rho"].unique())):
        locks = sorted(map(str, table["lock"][table["rho"] == rho].unique()))
        if len(locks) > 1:
            raise EvaluationError(
                "results on simulated cohorts of different difficulty are not put together",
                where=f"{file}: rho {rho:g} has locks {', '.join(lock or '(none)' for lock in locks)}",
                fixes=("keep the rows of one lock", "run the arms that are missing on one cohort"),
            )
        found[rho] = locks[0]
    return found


def _scores(file: Path) -> Tested | None:
    if not file.is_file():
        return None
    fixes = (f"write it anew with {RESULTS}", "remove it: no test-patient intervals")
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
        label, patient = check_labels(arrays.pop("label")), arrays.pop("patient_id")
        scores = {_key(name): check_scores(values, label.size) for name, values in arrays.items()}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise EvaluationError(f"these scores can't be used: {error}", where=file, fixes=fixes) from error
    except EvaluationError as error:
        raise EvaluationError(f"these scores can't be used: {error.what}", where=file, fixes=fixes) from error
    if patient.shape != label.shape:
        raise EvaluationError(f"{label.size} labels, but {patient.size} patients", where=file, fixes=fixes)
    return Tested(label, patient, scores)


def _key(name: str) -> Key:
    try:
        tier, rho, labels, arm, cohort = name.split("/")
        return tier, round(float(rho), 6), int(labels), arm, int(cohort)
    except ValueError as error:
        raise ValueError(f"{name!r} names no tier/rho/labels/arm/cohort") from error


def _name(key: Iterable[Any]) -> str:
    tier, rho, labels, arm, cohort = key
    return f"{tier}/{rho:g}/{labels}/{arm}/{cohort}"

"""Where the results of the controls are kept: thousands of trainings, which can be stopped and gone on with.

    results.csv      a row per training: tier, rho, labels, arm, cohort, auroc, lock, lr, weight_decay
    scores/          the test patients' scores of each training, float32: <tier>/<rho>/<labels>/<arm>/<cohort>.npy
    scores.npz       the same in one file, with label and patient_id of the test patients, once `bundle` was called
    made_from.json   what the rows of each setting were made from: other settings or data don't go on with them

A training's scores are written before its row, so a row has its scores; several processes may add rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from xmkd.controls.arms import Arm
from xmkd.controls.heads import HeadSettings, Pool, fit_heads
from xmkd.errors import RunError
from xmkd.evaluation.control_results import RESULTS, SCORES, TRAINING, Setting
from xmkd.evaluation.inputs import check_labels
from xmkd.evaluation.resampling import auroc
from xmkd.files import in_one_step, write_json, write_table, writing

COLUMNS = [*TRAINING, "auroc", "lock", "lr", "weight_decay"]
TYPES = {"tier": str, "rho": float, "labels": int, "arm": str, "cohort": int, "auroc": float, "lock": str}
TYPES |= {"lr": float, "weight_decay": float}
PARTS, MADE_FROM, LOCK = "scores", "made_from.json", ".lock"
PAIRS = "oracle_pair"


@dataclass(frozen=True)
class Training:
    """One arm trained on one cohort.

    Attributes:
        arm: The arm's name.
        cohort: Number of the training cohort.
        scores: Of the test patients, `(n,)`.
        lr: Learning rate that inner validation chose.
        weight_decay: Weight decay that it chose.
    """

    arm: str
    cohort: int
    scores: npt.NDArray[np.floating[Any]]
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class TestSet:
    """The patients that every training is tested on.

    Attributes:
        features: Of each encoder, frozen, `(n, F)`.
        label: `(n,)`.
    """

    __test__ = False  # no test, though its name says so

    features: Mapping[str, Tensor]
    label: npt.NDArray[np.int64]


class ControlTable:
    """The folder of a table of controls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self) -> pd.DataFrame:
        """What is there, with the columns of results.csv.

        Raises:
            RunError: results.csv is damaged.
        """
        path = self.folder / RESULTS
        if not path.is_file():
            return pd.DataFrame(columns=COLUMNS).astype(TYPES)
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)  # numbers as text: pandas' reader rounds them
            table = table.replace({"lr": "", "weight_decay": ""}, "nan")
            return table[COLUMNS].astype(TYPES)
        except (OSError, ValueError, KeyError) as error:
            raise _unreadable(path, error) from error

    def require(self, setting: Setting, made_from: Mapping[str, object]) -> None:
        """Note what the rows of a setting are made from, or refuse to go on with rows made from something else.

        Args:
            setting: Tier, rho and number of labels.
            made_from: By name, what JSON can hold; a name that is new is added.

        Raises:
            RunError: Something noted before has another value now.
        """
        with self._alone():
            path = self.folder / MADE_FROM
            try:
                noted = json.loads(path.read_text()) if path.is_file() else {}
            except (OSError, ValueError) as error:
                raise _unreadable(path, error) from error
            here = noted.setdefault(_place(setting), {})
            wanted = json.loads(json.dumps(made_from))
            changed = sorted(name for name, value in wanted.items() if here.get(name, value) != value)
            if changed:
                raise RunError(
                    f"the results of {setting} were made from something else: {', '.join(changed)} changed",
                    where=path,
                    fixes=("write to another folder", "go on with the settings and data of the first run"),
                )
            here.update(wanted)
            write_json(path, noted)

    def missing(self, setting: Setting, arms: Sequence[str], cohort: int) -> list[str]:
        """Those of the arms whose training on this cohort is not there yet."""
        rows = self.rows()
        same = (rows["tier"] == setting.tier) & (rows["rho"] == setting.rho) & (rows["labels"] == setting.labels)
        there = set(rows["arm"][same & (rows["cohort"] == cohort)])
        return [arm for arm in arms if arm not in there or not self._part(setting, arm, cohort).is_file()]

    def add(self, setting: Setting, lock: str, label: npt.ArrayLike, trainings: Sequence[Training]) -> None:
        """Add trainings; one that is there already is replaced.

        Args:
            setting: Tier, rho and number of labels.
            lock: Of the simulated cohort; "" where it is not calibrated.
            label: Of the test patients, `(n,)`.
            trainings: What to add.

        Raises:
            EvaluationError: A score is not finite, or there are more or fewer of them than labels.
            RunError: The folder can't be written.
        """
        new = []
        for one in trainings:
            scores = one.scores.astype(np.float32)
            area = auroc(label, scores)
            part = self._part(setting, one.arm, one.cohort)
            with writing(part.parent):
                part.parent.mkdir(parents=True, exist_ok=True)
            with in_one_step(part) as unfinished, unfinished.open("wb") as file:
                np.save(file, scores)
            key = (setting.tier, setting.rho, setting.labels, one.arm, one.cohort)
            new.append((*key, area, lock, one.lr, one.weight_decay))
        with self._alone():
            both = pd.concat([self.rows(), pd.DataFrame(new, columns=COLUMNS)], ignore_index=True)
            write_table(self.folder / RESULTS, both.drop_duplicates(TRAINING, keep="last"))

    def bundle(self, label: npt.ArrayLike, patient_id: npt.ArrayLike) -> Path:
        """Write scores.npz from the scores of all rows.

        Args:
            label: Of the test patients, `(n,)`.
            patient_id: Of the test patients, `(n,)`.

        Raises:
            RunError: Scores are missing or can't be read, or the folder can't be written.
        """
        arrays: dict[str, Any] = {"label": check_labels(label), "patient_id": np.asarray(patient_id, dtype=str)}
        for tier, rho, labels, arm, cohort in self.rows()[TRAINING].itertuples(index=False):
            part = self._part(Setting(tier, rho, labels), arm, cohort)
            try:
                arrays[part.relative_to(self.folder / PARTS).with_suffix("").as_posix()] = np.load(part)
            except (OSError, ValueError) as error:
                raise _unreadable(part, error) from error
        path = self.folder / SCORES
        with in_one_step(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)
        return path

    def _part(self, setting: Setting, arm: str, cohort: int) -> Path:
        return self.folder / PARTS / _place(setting) / arm / f"{cohort}.npy"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process changes the folder's tables."""
        import fcntl

        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / LOCK).open("w")
        with file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield


def run_heads(
    table: ControlTable,
    setting: Setting,
    lock: str,
    pool: Pool,
    cohorts: Sequence[Tensor],
    test: TestSet,
    arms: Sequence[Arm],
    settings: HeadSettings,
) -> Iterator[int]:
    """Fit and test the heads that a setting lacks, and keep them cohort by cohort.

    Args:
        table: Where results are kept.
        setting: Tier, rho and number of labels.
        lock: Of the simulated cohort; "" where it is not calibrated.
        pool: What the cohorts are drawn from.
        cohorts: Rows of the pool, int64 `(n,)` each; a cohort is known by its place.
        test: The test patients.
        arms: Those to fit.
        settings: Their budget.

    Yields:
        The number of each cohort when it is done.

    Raises:
        RunError: Rows of this setting were made from other data or settings.
        ConfigError: As `fit_heads`.
    """
    table.require(setting, {"lock": lock, "budget": asdict(settings), **_made_from(pool, cohorts, test, arms)})
    for number, rows in enumerate(cohorts):
        names = table.missing(setting, [arm.name for arm in arms], number)
        if names:
            (heads,) = fit_heads(pool, [rows], [arm for arm in arms if arm.name in names], settings)
            done = [
                Training(name, number, head.scores(test.features[head.arm.encoder]).numpy(), head.lr, head.weight_decay)
                for name, head in heads.items()
            ]
            table.add(setting, lock, test.label, done)
        yield number


def _made_from(pool: Pool, cohorts: Sequence[Tensor], test: TestSet, arms: Sequence[Arm]) -> dict[str, object]:
    """All that decides the results but the budget."""
    paired = [pool.own[PAIRS]] if PAIRS in pool.own else []  # the teacher's scores too
    others = {name: values for name, values in pool.own.items() if name != PAIRS}
    return {
        "training labels": fingerprint(pool.label, pool.ids),
        "test labels": fingerprint(torch.from_numpy(test.label)),
        "teacher": fingerprint(pool.teacher_score, pool.teacher_label, *paired),
        **{f"own targets of {name}": fingerprint(values) for name, values in others.items()},
        **{f"features of {name}": fingerprint(pool.features[name], test.features[name]) for name in pool.features},
        **{f"arm {arm.name}": asdict(arm) for arm in arms},
        **{f"cohort {number}": fingerprint(rows) for number, rows in enumerate(cohorts)},
    }


def fingerprint(*tensors: Tensor) -> str:
    """Twelve hexadecimal digits that other values would not have."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(
        f"results can't be read: {error}",
        where=path,
        fixes=("remove the file and run the same command: what it held is done again", "restore the file"),
    )


def _place(setting: Setting) -> str:
    return f"{setting.tier}/{setting.rho:g}/{setting.labels}"

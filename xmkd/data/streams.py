"""Which samples a run uses, and on which side each patient stands: from manifests to one table per stream.

Everything here is decided before a file is opened, and is the same for every process of a run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xmkd.config import DataConfig, StreamConfig
from xmkd.data import manifest as manifests
from xmkd.data.manifest import LabelSpec, Manifest, Split
from xmkd.errors import ManifestError

Side = Literal["val", "calib", "test"]
MODALITIES = {"image": ("tvus", "us"), "clip": ("tvus", "us"), "volume": ("mri",), "patch": ("mri",)}
"""What the rows of a stream may be under each view."""
EVALUATED: tuple[Side, ...] = ("val", "calib", "test")


@dataclass(frozen=True)
class Stream:
    """The samples of one stream.

    Attributes:
        name: Its name in the experiment.
        config: Its settings.
        manifest: Where the rows come from.
        table: The rows kept, index 0..N-1, with a column `side` (train, val, calib or test).
        label: The label column's definition, None for unlabelled streams.
    """

    name: str
    config: StreamConfig
    manifest: Manifest
    table: pd.DataFrame
    label: LabelSpec | None

    def label_index(self) -> NDArray[np.int64]:
        """Class index of each row, -1 where unlabelled."""
        if self.label is None or self.config.label is None:
            return np.full(len(self.table), -1, dtype=np.int64)
        position = {name: i for i, name in enumerate(self.label.classes)}
        return np.array(self.table[self.config.label].map(position).fillna(-1), dtype=np.int64)

    def patients(self, *sides: str) -> set[str]:
        """Patients on these sides, each with whose id it is."""
        rows = self.table[self.table["side"].isin(sides)]
        return {self.manifest.card.ids + p for p in rows["patient_id"]}

    def as_split(self) -> Split:
        """The patients of each side, in the form that `xmkd.data.check` takes."""
        sides = self.table.groupby("side")["patient_id"]
        parts = {str(side): tuple(sorted(set(patients))) for side, patients in sides}
        return Split(parts, hash="", origin="seed")

    def class_counts(self, side: str) -> dict[str, int]:
        """Samples of each class on a side, in the card's order; empty for unlabelled streams."""
        if self.label is None:
            return {}
        counts = self.table.loc[self.table["side"] == side, self.config.label].value_counts()
        return {name: int(counts.get(name, 0)) for name in self.label.classes}


@dataclass(frozen=True)
class Study:
    """All streams of a run, split by patient once for all of them.

    Attributes:
        streams: By name.
        split_hash: SHA-256 of who stands where.
    """

    streams: dict[str, Stream]
    split_hash: str

    def patients(self, *sides: str, but: tuple[str, ...] = ()) -> set[str]:
        """Patients on these sides of any stream but those named."""
        found: set[str] = set()
        return found.union(*(stream.patients(*sides) for name, stream in self.streams.items() if name not in but))


def plan(data: DataConfig, *, rest: Side | None = None) -> Study:
    """Load the manifests, keep the rows asked for and split their patients.

    With `data.fold = k` the test side is fold k of `data.folds`, and `data.split.val` and `.calib` are fractions of the
    other folds' patients. A patient stands on one side in all streams: where the labelled ones put him, else where a
    `split` column of an unlabelled one does, else he is drawn among that stream's patients.

    Args:
        data: Settings.
        rest: Put everyone whom no `split` column places on this side, instead of splitting.

    Raises:
        ManifestError: A manifest is wrong, no row is left, or the split is impossible.
    """
    rows = {name: _rows(name, config) for name, config in data.streams.items()}
    sides = _sides(rows, data) if rest is None else pd.Series(dtype=str)
    streams = {}
    for name, (manifest, table) in rows.items():
        config = data.streams[name]
        side = _keys(manifest, table).map(sides) if rest is None else table["split"].fillna(rest)
        table = _budgeted(table.assign(side=side), name, data).reset_index(drop=True)
        label = manifest.card.labels[config.label] if config.label else None
        streams[name] = Stream(name, config, manifest, table, label)
    lines = sorted(f"{n}\t{i}\t{s}" for n, st in streams.items() for i, s in st.table[["sample_id", "side"]].to_numpy())
    return Study(streams, hashlib.sha256("\n".join(lines).encode()).hexdigest())


def division(data: DataConfig) -> dict[str, float | int | None]:
    """The settings that decide on which side a patient stands, by their names in an experiment."""
    settings: dict[str, float | int | None] = {f"data.split.{name}": value for name, value in vars(data.split).items()}
    if data.fold is not None:
        del settings["data.split.test"]  # the fold is the test side
        settings["data.folds"] = data.folds
    return settings | {"data.fold": data.fold}


def _budgeted(table: pd.DataFrame, name: str, data: DataConfig) -> pd.DataFrame:
    """The table without the training patients beyond `train_patients`.

    Each class is put in a random order of its own and the orders are merged evenly, so that any first part of the
    result has the classes' proportions.
    """
    config = data.streams[name]
    if config.train_patients is None:
        return table
    train = table[table["side"] == "train"]
    of_class = train[config.label] if config.label else pd.Series("", index=train.index)
    patients = of_class.groupby(train["patient_id"]).first().rename("class").sort_index()
    if not 1 <= config.train_patients <= len(patients):
        raise ManifestError(
            f"data.streams.{name}.train_patients is {config.train_patients}, but {len(patients)} patients can train",
            where=config.manifest,
            fixes=(f"use 1 to {len(patients)}", "leave it out: all of them train"),
        )
    rng = np.random.default_rng([data.split.seed, 0x7B6D])
    place = pd.Series(0.0, index=patients.index)
    for _, members in patients.groupby(patients):
        place[members.index] = (rng.permutation(len(members)) + 0.5) / len(members)
    kept = place.sort_values(kind="stable").index[: config.train_patients]
    return table[(table["side"] != "train") | table["patient_id"].isin(kept)]


def _rows(name: str, config: StreamConfig) -> tuple[Manifest, pd.DataFrame]:
    """The manifest of a stream and the rows that `where` and a label leave of it."""
    manifest = manifests.load(config.manifest, root=config.root)
    table = manifest.table
    for column, wanted in config.where.items():
        if column not in table.columns:
            raise ManifestError(
                f"data.streams.{name}.where names the column {column!r}, which the manifest does not have",
                where=manifest.path,
                fixes=(f"use one of {', '.join(table.columns)}", "leave the condition out"),
            )
        values = wanted if isinstance(wanted, list) else [wanted]
        table = table[table[column].astype(str).isin([str(v) for v in values])]
    if config.label is not None:
        if config.label not in manifest.card.labels:
            raise ManifestError(
                f"data.streams.{name}.label: the card has no label {config.label!r}",
                where=manifest.path.with_suffix(".yaml"),
                fixes=(f"use one of {', '.join(manifest.card.labels) or '(none)'}", "describe the label in the card"),
            )
        table = table[table[config.label].notna()]
    if table.empty:
        raise ManifestError(
            f"no sample is left for the stream {name!r}",
            where=manifest.path,
            fixes=(f"loosen data.streams.{name}.where", "check the label column"),
        )
    _check_modality(name, config, manifest, table)
    return manifest, table.sort_values("sample_id")


def _check_modality(name: str, config: StreamConfig, manifest: Manifest, table: pd.DataFrame) -> None:
    """Refuse rows that the view can't show."""
    fitting = MODALITIES[config.view]
    others = sorted(set(table["modality"]) - set(fitting))
    if not others:
        return
    of = "ultrasound" if "tvus" in fitting else "MRI"
    views = " or ".join(view for view, modalities in MODALITIES.items() if others[0] in modalities)
    key = f"data.streams.{name}"
    raise ManifestError(
        f"the stream {name!r} reads {of} ({key}.view={config.view}), but some of its rows are {', '.join(others)}",
        where=manifest.path,
        fixes=(
            f"keep the others: {key}.where.modality=[{','.join(fitting)}]",
            f"choose a view for them: {key}.view={views}" if views else "correct the modality column",
        ),
    )


def _keys(manifest: Manifest, table: pd.DataFrame) -> pd.Series:
    """`<data set>/<patient>` of each row."""
    return manifest.card.ids + table["patient_id"]


def _sides(rows: dict[str, tuple[Manifest, pd.DataFrame]], data: DataConfig) -> pd.Series:
    """Side of each patient, indexed by `<data set>/<patient>`."""
    labels = {name: config.label for name, config in data.streams.items() if config.label is not None}
    classes = " and ".join(sorted(set(labels.values())))  # the column's name, as messages show it
    parts: dict[bool, list[pd.DataFrame]] = {True: [], False: []}
    for name, (manifest, table) in rows.items():
        part = table[["split", "fold"]].assign(sample_id=name + "/" + table["sample_id"])
        part["patient_id"] = _keys(manifest, table)
        parts[name in labels].append(part.assign(**{classes: table[labels[name]]} if name in labels else {}))
    sides = pd.Series(dtype=str)
    try:
        if parts[True]:
            table = pd.concat(parts[True], ignore_index=True)
            sides = _by_patient(table, _divided(table, classes, data))
        if parts[False]:
            sides = sides.combine_first(_unlabelled(pd.concat(parts[False], ignore_index=True), sides, data))
    except ManifestError as error:
        where = ", ".join(sorted({str(manifest.path) for manifest, _ in rows.values()}))
        raise ManifestError(error.what, where=where, fixes=error.fixes) from None
    return sides


def _by_patient(table: pd.DataFrame, side: pd.Series) -> pd.Series:
    return side.groupby(table["patient_id"]).first()


def _unlabelled(table: pd.DataFrame, decided: pd.Series, data: DataConfig) -> pd.Series:
    """Side of each patient of the unlabelled streams; those whom nothing places fill the fractions up."""
    own = table["patient_id"].map(decided)
    table = table.assign(split=own.where(own.notna(), table["split"]))
    placed = table[table["split"].notna()]
    sides = pd.Series(dtype=str)
    if len(placed):
        sides = _by_patient(placed, manifests.split(placed, None).of(placed))
    free = ~table["patient_id"].isin(sides.index)
    if not free.any():
        return sides
    with_share = {"train", *(side for side in EVALUATED if getattr(data.split, side))}
    counted = table[free if data.fold is not None else free | table["split"].isin(with_share)]
    return sides.combine_first(_by_patient(counted, _divided(counted, None, data)))


def _divided(table: pd.DataFrame, label: str | None, data: DataConfig) -> pd.Series:
    """Side of each row."""
    fractions = {"val": data.split.val, "calib": data.split.calib, "test": data.split.test}
    if data.fold is None:
        return manifests.split(table, label, fractions, data.split.seed).of(table)
    if (table["split"] == "test").any():
        raise ManifestError(
            "the split column keeps patients for the test; folds would train on them",
            fixes=(
                "leave them out: data.streams.NAME.where.split=[train,val]",
                "test on them: xmkd fit, without folds",
            ),
        )
    fold = manifests.folds(table, label, data.folds, data.split.seed)
    rest = fold.rest(table, data.fold).assign(split=None)
    return manifests.split(rest, label, fractions | {"test": 0.0}, data.split.seed).of(table).fillna("test")

"""Run folders: one folder holds all that a run was made from and all that came out of it.

`runs/<experiment>/<run_id>/` with config.yaml, provenance.json, metrics.csv, predictions_*.csv, checkpoints/,
summary.json (written last: a run with it is finished) and report.html. The id is a hash of what is computed, so the
same command finds its own folder again and goes on from where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xmkd import config as configuration
from xmkd.config import Experiment
from xmkd.data.pseudonyms import SALT_FILE
from xmkd.data.streams import Study
from xmkd.errors import RunError
from xmkd.files import in_one_step, write_json, writing

LOCK = ".lock"
PRODUCTS = ("predictions_oof.csv", "checkpoints/last.ckpt")  # of a cross-validation, of a run


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        folder: `runs/<experiment>/<run_id>` (or `fold_<k>` below a cross-validation's folder).
    """

    folder: Path

    @property
    def id(self) -> str:
        """Names the folder, the W&B run and the SLURM job."""
        parent = self.folder.parent
        return f"{parent.name}-{self.folder.name}" if self.folder.name.startswith("fold_") else self.folder.name

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").is_file()

    def provenance(self) -> dict[str, Any]:
        """What the run was made from.

        Raises:
            RunError: The file is missing or damaged.
        """
        keys = {"commit", "versions", "manifests", "split", "salt", "fitted_on", "ancestors", "continued"}
        return _read_json(self.folder / "provenance.json", keys, "copy it from where the run was made")

    def summary(self) -> dict[str, Any]:
        """The headline figures of a finished run.

        Raises:
            RunError: The run is not finished, or the file is damaged.
        """
        path = self.folder / "summary.json"
        way = "delete it; the same xmkd fit then evaluates again" if path.is_file() else "finish the run: xmkd fit"
        return _read_json(path, {"side", "classes", "metrics", "threshold", "calibration"}, way)

    def experiment(self, overrides: list[str] | None = None) -> Experiment:
        """The resolved experiment of this run, with overrides."""
        return configuration.load(self.folder / "config.yaml", overrides)

    def predictions(self, side: str) -> pd.DataFrame:
        """Predictions of `val`, `calib`, `test` or `oof`; ids are text.

        Raises:
            RunError: There are none.
        """
        path = self.folder / f"predictions_{side}.csv"
        if not path.is_file():
            raise RunError(
                f"the run has no predictions for {side!r}",
                where=path,
                fixes=("finish it: xmkd fit", "name another run"),
            )
        return read_predictions(path)


def read_predictions(path: Path) -> pd.DataFrame:
    """A predictions table with text ids; empty cells of `site` and `fold` are missing.

    Raises:
        RunError: It is no table.
    """
    text = {"sample_id": str, "patient_id": str, "site": str}
    missing = {column: [""] for column in ("site", "fold", "score")}
    with _reading(path, "write it again: xmkd test RUN"):
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=missing)
        lacking = sorted({"sample_id", "patient_id", "label"} - set(table.columns))
        if lacking:
            raise ValueError(f"it has no column {', '.join(lacking)}")
        return table


def read_text_table(path: Path, types: Mapping[str, type] | None = None) -> pd.DataFrame:
    """Another table of a run folder, such as skipped.csv, as text but for `types`; what is empty is "".

    Raises:
        RunError: It is no such table.
    """
    with _reading(path, "delete it"):
        return pd.read_csv(path, dtype=str, keep_default_na=False).astype(types or {})


def checkpoint(path: Path) -> dict[str, Any]:
    """The content of a run's checkpoint: tensors and plain values.

    Raises:
        RunError: It is damaged.
    """
    import torch

    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        damage = "" if {"state_dict", "global_step", "epoch"} <= set(content) else "other content"
    except Exception as error:  # torch raises several kinds for a damaged file
        damage = type(error).__name__
    if damage:
        raise RunError(
            f"the checkpoint can't be read ({damage}): it is cut short, or no checkpoint of a run",
            where=path,
            fixes=("delete it and train anew: xmkd fit", "start anew: resume=never"),
        )
    return content


@contextmanager
def _reading(path: Path, way: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:  # pandas' own and UnicodeDecodeError are ValueErrors
        raise RunError(
            f"{path.name} can't be read: {' '.join(str(error).split())}",
            where=path,
            fixes=(way, "name another run"),
        ) from error


def find(path: str | Path) -> Run:
    """The run of a folder or of a file inside it.

    Raises:
        RunError: There is none.
    """
    start = Path(path)
    for folder in (start, *start.parents) if start.exists() else ():
        if (folder / "config.yaml").is_file() and (folder / "provenance.json").is_file():
            return Run(folder)
    raise RunError(
        "this is no run folder: config.yaml and provenance.json are not there",
        where=path,
        fixes=("name a folder like runs/<experiment>/<run_id>", "make one: xmkd fit EXPERIMENT"),
    )


def run_id(experiment: Experiment, study: Study) -> str:
    """Twelve hexadecimal digits: the settings that matter, the contents of manifests and weights, and the split."""
    manifests = {name: stream.manifest.hash for name, stream in study.streams.items()}
    weights = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files_of(experiment.method)]
    parts = [configuration.to_tree(experiment, runtime=False), manifests, study.split_hash, *weights]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def locate(experiment: Experiment, study: Study, folder: Path | None = None) -> Run:
    """The run of an experiment: in `folder`, or in `<runs>/<experiment>/<run_id>`; it need not exist yet."""
    return Run(folder or Path(experiment.runs) / experiment.name / run_id(experiment, study))


def prepare(run: Run, experiment: Experiment, record: dict[str, Any]) -> None:
    """Make the folder, or empty it for `resume=never`, and write what the run is made from.

    Raises:
        RunError: The folder can't be written.
    """
    with writing(run.folder):
        if experiment.resume == "never":
            for path in [p for p in run.folder.iterdir() if p.name != LOCK]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (run.folder / "checkpoints").mkdir(exist_ok=True)
    write_record(run, experiment, record)


def write_record(run: Run, experiment: Experiment, record: dict[str, Any]) -> None:
    """config.yaml and provenance.json."""
    write_json(run.folder / "provenance.json", record)
    with in_one_step(run.folder / "config.yaml") as unfinished:
        configuration.save(experiment, unfinished)


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Make the folder and keep a second process out of it.

    Raises:
        RunError: Another process has it, or it can't be made.
    """
    import fcntl

    with writing(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        file = (run.folder / LOCK).open("w")
    with file:
        try:
            # A record lock: unlike flock's it is not inherited by loader workers, which outlive a killed parent.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise RunError(
                "another process is working on this run",
                where=run.folder,
                fixes=("wait for it", "change a setting: other settings have another folder"),
            ) from error
        yield


def is_first_process() -> bool:
    """Whether this process writes and speaks for all those that train together."""
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0)) == 0


def root_of(run: Run, experiment: Experiment) -> Path:
    """The folder above a run that holds its salt; it may have moved since, or be named from elsewhere."""
    above = [folder for folder in run.folder.absolute().parents if (folder / SALT_FILE).is_file()]
    return above[0] if above else Path(experiment.runs)


def files_of(method: object) -> list[Path]:
    """The files that a method's settings name, such as weights; of a run folder what other runs take from it."""
    paths = [Path(value) for value in vars(method).values() if isinstance(value, str)]
    inside = [path / name for path in paths if path.is_dir() for name in PRODUCTS]
    return [path for path in [*paths, *inside] if path.is_file()]


def _read_json(path: Path, keys: set[str], way: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        content = None
    if isinstance(content, dict) and keys <= set(content):
        return content
    raise RunError(
        "the run folder is incomplete: this file is missing or damaged",
        where=path,
        fixes=(way, "start the run anew: xmkd fit with resume=never"),
    )

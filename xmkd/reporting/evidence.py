"""Everything that a report is made from, read once: the run folder, and the manifests where they are at hand."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from xmkd import runs
from xmkd.config import Experiment
from xmkd.data.limits import lock_of
from xmkd.data.pseudonyms import SALT_FILE, SALT_VARIABLE, fingerprint, pseudonym, salt
from xmkd.data.streams import Stream, Study, plan
from xmkd.errors import RunError, XmkdError
from xmkd.evaluation.calibration import Calibrator
from xmkd.evaluation.statistics import Interval
from xmkd.evaluation.thresholds import Threshold
from xmkd.methods import METHODS
from xmkd.runs import Run

OUT_OF_FOLD = "oof"


@dataclass(frozen=True)
class Evidence:
    """A finished run, as a report sees it.

    Attributes:
        run: Its folder.
        experiment: Its settings.
        summary: summary.json.
        provenance: provenance.json.
        study: The tables behind it, planned anew; None where they can't be had.
        study_problem: Why not.
        folds: The runs of a cross-validation, in order.
    """

    run: Run
    experiment: Experiment
    summary: dict[str, Any]
    provenance: dict[str, Any]
    study: Study | None
    study_problem: str = ""
    folds: list[Evidence] = field(default_factory=list)

    @property
    def side(self) -> str:
        """The predictions that the figures are about: "test", or "oof" of a cross-validation."""
        return str(self.summary["side"])

    @property
    def crossval(self) -> bool:
        return self.side == OUT_OF_FOLD

    @property
    def source(self) -> str:
        """File name of these predictions."""
        return f"predictions_{self.side}.csv"

    @property
    def classes(self) -> list[str]:
        return list(self.summary["classes"])

    @property
    def binary(self) -> bool:
        return len(self.classes) == 2

    @cached_property
    def table(self) -> pd.DataFrame:
        """The predictions."""
        return self.run.predictions(self.side)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Every figure of summary.json."""
        return {name: Interval(**values) for name, values in self.summary["metrics"].items()}

    @cached_property
    def limits(self) -> dict[str, Interval]:
        """How well a simulated label can be told, "oracle" and "ceiling"; empty for any other data."""
        return {name: Interval(**values) for name, values in self.summary.get("limits", {}).items()}

    @property
    def lock(self) -> str:
        """Hash of the lock that the evaluated cohort was simulated under; "" where there is none."""
        return str(self.provenance["manifests"].get(self.evaluated, {}).get("lock", ""))

    @property
    def threshold(self) -> Threshold | None:
        return Threshold(**self.summary["threshold"]) if self.summary["threshold"] else None

    @property
    def calibrator(self) -> Calibrator | None:
        return Calibrator(**self.summary["calibration"]) if self.summary["calibration"] else None

    @property
    def evaluated(self) -> str:
        """Name of the stream that the model predicts."""
        return METHODS[self.experiment.method_name].evaluates

    @property
    def stream(self) -> Stream | None:
        return None if self.study is None else self.study.streams[self.evaluated]

    @property
    def checkpoint(self) -> Path | None:
        """The weights that the predictions come from; those of a folder made by `xmkd test` lie one folder up."""
        name = "best.ckpt" if getattr(self.experiment.method, "select", "last") == "inner_val" else "last.ckpt"
        found = (folder / "checkpoints" / name for folder in (self.run.folder, self.run.folder.parent))
        return next((path for path in found if path.is_file()), None)

    @cached_property
    def trained(self) -> dict[str, Any]:
        """Provenance of the run that trained the weights: another one's in a folder made by `xmkd test`."""
        if self.checkpoint is None or self.checkpoint.parents[1] == self.run.folder:
            return self.provenance
        return Run(self.checkpoint.parents[1]).provenance()

    @property
    def elsewhere(self) -> bool:
        """Whether the evaluated patients are others than the test patients of the run that trained the weights."""
        return _hashes(self.trained) != _hashes(self.provenance)

    @property
    def external(self) -> bool:
        """Whether the evaluated patients are of another data set than those that trained the weights."""
        return not _data_sets(self.trained) & _data_sets(self.provenance)

    @cached_property
    def weights(self) -> dict[str, Any]:
        """The checkpoint's content; empty where it is not there."""
        return {} if self.checkpoint is None else runs.checkpoint(self.checkpoint)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """metrics.csv; empty where the run has none."""
        if not self.run.metrics.is_file():
            return pd.DataFrame(columns=["epoch", "step", "metric", "value"])
        return runs.read_text_table(self.run.metrics, {"epoch": int, "step": int, "value": float})

    @cached_property
    def skipped(self) -> pd.DataFrame:
        """skipped.csv: samples whose files could not be read; empty where there are none."""
        found = self.table_of("skipped.csv")
        return pd.DataFrame(columns=["sample_id", "side", "stream", "reason"]) if found is None else found

    def read(self, stream: Stream) -> Stream:
        """A stream without the samples whose files could not be read."""
        left_out = self.skipped.loc[self.skipped["stream"] == stream.name, "sample_id"]
        return replace(stream, table=stream.table[~stream.table["sample_id"].isin(left_out)])

    def table_of(self, name: str) -> pd.DataFrame | None:
        """A further CSV of the run folder, such as skipped.csv; None where there is none."""
        path = self.run.folder / name
        return runs.read_text_table(path) if path.is_file() else None


def collect(run: Run, experiment: Experiment | None = None, study: Study | None = None) -> Evidence:
    """Read a finished run.

    Args:
        run: Its folder, an ordinary run or the parent of a cross-validation.
        experiment: Its settings, where they are at hand; else config.yaml.
        study: Its tables, where they are at hand; else planned anew from the manifests.

    Raises:
        RunError: The run is not finished, or its files are damaged.
    """
    if not run.finished:
        raise RunError(
            "the run is not finished, so there is nothing to report",
            where=run.folder,
            fixes=("finish it: xmkd fit", "name another run"),
        )
    experiment = experiment or run.experiment()
    summary, record, problem = run.summary(), run.provenance(), ""
    lock_of(record)
    if study is None:
        study, problem = _planned(experiment, record)
    folds = []
    if summary["side"] == OUT_OF_FOLD:
        for k in range(experiment.data.folds):
            part = replace(experiment, data=replace(experiment.data, fold=k))
            folds.append(collect(Run(run.folder / f"fold_{k}"), part))
    found = Evidence(run, experiment, summary, record, study, problem, folds)
    return _only_if_same_samples(found)


def disjoint_by_hash(evidence: Evidence) -> list[tuple[str, int, int]] | str:
    """Patients of the predictions that a run was fitted on, by keyed hash: this run first, then its ancestors.

    Returns:
        Name, number shared and number looked up of each run; or why nothing can be said.
    """
    record = evidence.provenance
    secret = _salt(evidence)
    if secret is None:
        return "the project's salt is not here, so the hashes of patients can't be made"
    data_set = evidence.stream.manifest.card.name if evidence.stream else _data_set(evidence)
    patients = {pseudonym(secret, f"{data_set}/{p}") for p in evidence.table["patient_id"]}
    found = []
    for source in [{"run": "this run", **record}, *record["ancestors"]]:
        name = str(source["run"])
        if source["salt"] != fingerprint(secret):
            return f"{name} hashed its patients with another salt, so overlaps can't be seen"
        found.append((name, len(patients & set(source["fitted_on"])), len(patients)))
    return found


def _data_set(evidence: Evidence) -> str:
    return str(evidence.provenance["manifests"][evidence.evaluated]["data_set"])


def _hashes(record: dict[str, Any]) -> tuple[dict[str, str], str]:
    """What a provenance says of the data: the hash of each stream's manifest, and of the split."""
    return {name: manifest["hash"] for name, manifest in record["manifests"].items()}, record["split"]


def _data_sets(record: dict[str, Any]) -> set[str]:
    return {str(manifest["data_set"]) for manifest in record["manifests"].values()}


def _planned(experiment: Experiment, record: dict[str, Any]) -> tuple[Study | None, str]:
    """The study anew; in a further test (`xmkd test` on another manifest) everyone may stand on the test side."""
    try:
        study = plan(experiment.data)
        if study.split_hash != record["split"]:
            whole = plan(experiment.data, rest="test")
            study = whole if whole.split_hash == record["split"] else study
    except XmkdError as error:
        return None, error.what
    return study, ""


def _only_if_same_samples(evidence: Evidence) -> Evidence:
    """Drop the study where the predictions are of other samples: the manifest, or the data, changed since."""
    stream = evidence.stream
    if stream is None:
        return evidence
    rows = stream.table if evidence.crossval else stream.table[stream.table["side"] == evidence.side]
    unknown = set(evidence.table["sample_id"]) - set(rows["sample_id"])
    if not unknown:
        return evidence
    problem = f"{len(unknown)} of the predicted samples are not where the manifest has them now: it changed since"
    return replace(evidence, study=None, study_problem=problem)


def _salt(evidence: Evidence) -> bytes | None:
    """The project's secret, without making one: a report must not write anything but itself."""
    root = runs.root_of(evidence.run, evidence.experiment)
    known = bool(os.environ.get(SALT_VARIABLE)) or (root / SALT_FILE).is_file()
    return salt(root) if known else None

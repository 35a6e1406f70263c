"""The stages that all arms share, each a folder that is there already or is made now: cohorts, teacher, encoder.

Every model is an ordinary run, made by `xmkd fit` or `crossval`; features and paired scores are kept beside the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import stats

from xmkd import config, training
from xmkd.config import Experiment
from xmkd.controls.spec import ControlsSpec, Step
from xmkd.data import manifest as manifests
from xmkd.data.datamodule import UnpairedDataModule
from xmkd.data.streams import plan
from xmkd.errors import ConfigError
from xmkd.evaluation.logistic import logistic_fits
from xmkd.evaluation.teacher_scores import calibrated_by
from xmkd.files import in_one_step, write_table
from xmkd.methods.base import Task
from xmkd.methods.distill import Distill
from xmkd.runs import Run, run_id
from xmkd.simulate import cohort as simulation
from xmkd.simulate.cards import TRUTH
from xmkd.simulate.examination import examine
from xmkd.simulate.plan import patients
from xmkd.simulate.spec import CohortSpec

PAIRS, SIGN = "oracle_pair", "evidence_"
LABELS_ALONE = ["method.alpha=0", "method.epoch_offset=1"]


@dataclass(frozen=True)
class Simulated:
    """A cohort on disk.

    Attributes:
        spec: Its specification.
        folder: Where it lies.
    """

    spec: CohortSpec
    folder: Path

    def manifest(self, part: str) -> Path:
        """The table of a part."""
        return self.folder / f"{self.spec.cohort}_{part}.csv"

    @property
    def limits(self) -> dict[str, float]:
        """AUROC of the oracle and of the ceiling on MRI, by name; empty where the cohort is not calibrated."""
        card = manifests.load_card(self.manifest("mri").with_suffix(".yaml"))
        return {name: limit.auroc for name, limit in next(iter(card.labels.values())).limits.items()}


@dataclass(frozen=True)
class Samples:
    """Labelled MRI as an encoder shows them.

    Attributes:
        sample_id: `(n,)`.
        patient_id: `(n,)`.
        label: `(n,)`.
        features: By encoder, float32 `(n, F)`.
    """

    sample_id: npt.NDArray[np.str_]
    patient_id: npt.NDArray[np.str_]
    label: npt.NDArray[np.int64]
    features: dict[str, npt.NDArray[np.float32]]


def check(spec: ControlsSpec) -> None:
    """Whatever may refuse without any data: hours of simulation and training come after it.

    Raises:
        ConfigError: An experiment or a cohort can't be read; a cohort lacks a part or patients; or the cohorts have
            other test patients.
    """
    for step in (spec.teacher, spec.mae, spec.student):
        config.load(step.experiment, step.words)
    needed = spec.head_cohorts * max(spec.labels)
    tested: set[tuple[tuple[str, bool], ...]] = set()
    for number, file in enumerate(spec.cohorts):
        cohort = simulation.load(Path(file))
        parts = ("mri", PAIRS) if number else ("mri", PAIRS, "tvus", "mri_unlabelled")
        lacking = [part for part in parts if part not in cohort.parts()]
        if lacking:
            fixes = ("add it to the specification", "name another one: experiments/cohorts/pod_controls.yaml")
            raise ConfigError(f"the controls need its part {', '.join(lacking)}", where=file, fixes=fixes)
        mri = patients(cohort, "mri")
        tested.add(tuple((p.id, p.ill) for p in mri if p.split == "test"))
        there = sum(p.split == "train" for p in mri)
        if there < needed:
            what = f"{spec.head_cohorts} training cohorts of {max(spec.labels)} MRI need {needed} patients, not {there}"
            fixes = ("raise mri.patients.train of the specification", "lower head_cohorts or labels")
            raise ConfigError(what, where=file, fixes=fixes)
    if len(tested) > 1:
        fixes = ("use specifications of one seed, prevalence and number of test patients", "make a table for each")
        raise ConfigError("the cohorts have other test patients", where=", ".join(spec.cohorts), fixes=fixes)


def simulate(spec: ControlsSpec, number: int) -> Simulated:
    """A cohort; of all but the first only the labelled MRI and the ultrasound of the same patients."""
    file = Path(spec.cohorts[number])
    cohort, folder = simulation.load(file), Path(spec.data) / file.stem
    for part in ("mri", PAIRS) if number else (None,):
        for made in simulation.simulate(cohort, folder, examine, only=part):
            print(made.text(), flush=True)
    return Simulated(cohort, folder)


def teacher(spec: ControlsSpec, first: Simulated) -> Run:
    """The teacher's cross-validation."""
    words = [f"data.streams.tvus.manifest={first.manifest('tvus')}", "data.streams.tvus.where.split=[train,val]"]
    return training.crossval(_experiment(spec, spec.teacher, words))


def auto_encoder(spec: ControlsSpec, first: Simulated) -> Run:
    """The masked auto-encoder; where its experiment probes the features, by the first cohort's labelled MRI."""
    words = [f"data.streams.mri.manifest={first.manifest('mri_unlabelled')}"]
    if "probe" in _experiment(spec, spec.mae, []).data.streams:
        words.append(f"data.streams.probe.manifest={first.manifest('mri')}")
    return training.fit(_experiment(spec, spec.mae, words))


def student(spec: ControlsSpec, manifest: Path, root: Path, words: list[str]) -> Experiment:
    """The student's experiment on a table of MRI."""
    where = [f"data.streams.mri.manifest={manifest}", f"data.streams.mri.root={root}"]
    return _experiment(spec, spec.student, [*where, *words])


def samples(spec: ControlsSpec, cohort: Simulated, mae: Run, side: str) -> Samples:
    """All labelled MRI of a side, seen by the pre-trained encoder and by one as the seed gives it."""
    experiment = student(spec, cohort.manifest("mri"), cohort.folder, [*LABELS_ALONE, f"method.mae={mae.folder}"])
    made_from = run_id(experiment, plan(experiment.data))  # of the encoder, and of how its volumes are read
    file = spec.table / "features" / f"{cohort.spec.name}_{side}_{made_from}.npz"
    if not file.is_file():
        found = _encoded(experiment, side)
        arrays = {f"features_{name}": values for name, values in found.features.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        with in_one_step(file) as unfinished, unfinished.open("wb") as stream:
            np.savez(
                stream, sample_id=found.sample_id, patient_id=found.patient_id, label=found.label,
                allow_pickle=False, **arrays,
            )  # fmt: skip
    with np.load(file) as kept:
        features = {name.removeprefix("features_"): kept[name] for name in kept if name.startswith("features_")}
        return Samples(kept["sample_id"], kept["patient_id"], kept["label"], features)


def with_signs(cohort: Simulated, found: Samples) -> Samples:
    """Features of an encoder that sees the disease: those of the auto-encoder, and the true signs of each MRI.

    Simulation alone knows them, and a head is free to use them. Whatever the encoder of a table is worth, this tells
    what the targets can carry to a student that could use it.
    """
    signs = _signs(cohort, found)
    return replace(found, features={"mae": np.concatenate([found.features["mae"], signs], axis=1)})


def shown(cohort: Simulated, found: Samples) -> npt.NDArray[np.float64]:
    """How ill each MRI looks: its true signs, put together by a logistic regression of the label, `(n,)`.

    Args:
        cohort: Where the truth lies.
        found: Labelled MRI, all of which the regression is fitted to.
    """
    signs = _signs(cohort, found).astype(np.float64)
    signs = (signs - signs.mean(axis=0)) / np.maximum(signs.std(axis=0), 1e-6)
    design = np.column_stack([signs, np.ones(len(signs))])
    looks: npt.NDArray[np.float64] = (
        design @ logistic_fits(design, found.label.astype(np.float64), np.ones((1, len(design))))[0]
    )
    return looks


def agreement(looks: npt.ArrayLike, scores: npt.ArrayLike, label: npt.ArrayLike) -> dict[str, float]:
    """How far scores follow how ill the MRI look, by class: Spearman's correlation.

    Within a class that is all that an MRI can learn from a score besides its label.

    Args:
        looks: As `shown`, `(n,)`.
        scores: Of the same patients, `(n,)`.
        label: `(n,)`.
    """
    looks, scores, label = (np.asarray(values) for values in (looks, scores, label))
    return {
        name: float(stats.spearmanr(looks[label == k], scores[label == k]).statistic)
        for k, name in enumerate(("negatives", "positives"))
    }


def _signs(cohort: Simulated, found: Samples) -> npt.NDArray[np.float32]:
    """The true signs of each MRI, `(n, signs)`; what an MRI can't show is the same for all patients."""
    truth = pd.read_csv(cohort.folder / f"{TRUTH}{cohort.spec.variant}.csv", dtype={"patient_id": str})
    mri = truth[truth["part"] == "mri"].set_index("patient_id").filter(like=SIGN)
    return mri.loc[list(found.patient_id)].to_numpy(dtype=np.float32)


def paired_file(cohort: Simulated, trained: Run) -> Path:
    """Where the teacher's scores of the students' own ultrasound lie: in its folder, which tells whom it has seen."""
    return trained.folder / f"paired_{cohort.spec.name}_{cohort.spec.hash}.csv"


def paired_scores(spec: ControlsSpec, cohort: Simulated, trained: Run) -> pd.DataFrame:
    """The teacher's scores of the students' own ultrasound, a row per examination.

    By the model of its first fold: an ensemble of all folds would be a better teacher than the one that scored the
    unpaired examinations out of fold.
    """
    file = paired_file(cohort, trained)
    if not file.is_file():
        # Whoever is scored here belongs to no fold.
        manifest = _as_test(cohort, spec.table / "manifests")
        words = [f"data.streams.tvus.manifest={manifest}", f"data.streams.tvus.root={cohort.folder}"]
        words += ["data.streams.tvus.where.split=test", "data.fold=null"]
        scored = training.test(Run(trained.folder / "fold_0"), words)
        write_table(file, scored.predictions("test").assign(fold=None))
    return pd.read_csv(file, dtype={"sample_id": str, "patient_id": str, "site": str})


def paired_probabilities(trained: Run, scores: pd.DataFrame, found: Samples) -> npt.NDArray[np.float32]:
    """The teacher's probability for each labelled MRI, from the ultrasound of the same patient, `(n,)`."""
    made = calibrated_by(trained.predictions("oof"), scores, float(found.label.mean()))
    by_patient = made.groupby("patient_id")["score"].mean()
    return by_patient.loc[list(found.patient_id)].to_numpy(dtype=np.float32)


def _experiment(spec: ControlsSpec, step: Step, words: list[str]) -> Experiment:
    return config.load(step.experiment, [*step.words, f"runs={spec.runs}", *words])


def _as_test(cohort: Simulated, folder: Path) -> Path:
    """The paired examinations as a table of test patients."""
    source = cohort.manifest(PAIRS)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{cohort.spec.name}_{PAIRS}.csv"
    write_table(target, manifests.read_table(source).assign(split="test"))
    target.with_suffix(".yaml").write_bytes(source.with_suffix(".yaml").read_bytes())
    return target


def _encoded(experiment: Experiment, side: str) -> Samples:
    data = UnpairedDataModule(experiment.data, plan(experiment.data), seed=experiment.seed, evaluated="mri")
    data.setup()
    shape, label = data.shape("mri"), data.datasets["mri"].label.numpy()
    nets = {}
    for name, source in (("mae", experiment.method.mae), ("random", "none")):
        torch.manual_seed(experiment.seed)
        settings = replace(experiment.method, mae=source)
        nets[name] = Distill(settings, Task(("0", "1"), (1, 1), shape), experiment.optim).student.eval()
    rows = data.rows("mri", side)
    features: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in nets}
    with torch.inference_mode():
        for batch in data.batches("mri", side):
            for name, net in nets.items():
                features[name].append(net.features(batch["image"]).numpy())
    table = data.study.streams["mri"].table.iloc[rows]
    whole = {name: np.concatenate(parts) for name, parts in features.items()}
    sample_id, patient_id = (table[column].to_numpy(dtype=str) for column in ("sample_id", "patient_id"))
    return Samples(sample_id, patient_id, label[rows], whole)

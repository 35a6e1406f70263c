"""`xmkd controls`: from specifications to a table of all arms, in stages that are gone on with where they stopped.

    shared        cohorts, cross-validated teacher, masked auto-encoder: made once, for all arms
    head          every arm as a linear head on frozen features, many training cohorts
    signs         the same, with the true signs of the MRI beside the features: an encoder that sees them
    finetuned     a few arms with the whole network trained, few training cohorts

A training cohort of n labels is n successive patients of the pool, and its smaller budgets are its first ones. Every
training is tested on the same patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from xmkd import training
from xmkd.config import Experiment, to_tree
from xmkd.controls import heads, stages
from xmkd.controls.arms import ARMS, Arm
from xmkd.controls.doses import dose_arm, dosed
from xmkd.controls.figure import draw, draw_doses, draw_gains, text
from xmkd.controls.markdown import write
from xmkd.controls.spec import ControlsSpec
from xmkd.controls.stages import Samples, Simulated
from xmkd.controls.table import ControlTable, TestSet, Training, run_heads
from xmkd.data import manifest as manifests
from xmkd.data.rng import id_hash
from xmkd.errors import ConfigError
from xmkd.evaluation.control_results import Setting
from xmkd.evaluation.statistics import auroc_interval
from xmkd.evaluation.teacher_scores import recalibrated
from xmkd.files import write_table
from xmkd.runs import Run
from xmkd.simulate.pool import Pool

BY_NAME = {arm.name: arm for arm in ARMS}


@dataclass(frozen=True)
class Shared:
    """What all arms share.

    Attributes:
        teacher: Its cross-validation.
        mae: The masked auto-encoder's run.
    """

    teacher: Run
    mae: Run


@dataclass(frozen=True)
class Student:
    """A student of the tier `finetuned`: the number of its training cohort, its arm, its learning rate."""

    cohort: int
    arm: str
    lr: float


def run(spec: ControlsSpec) -> Path:
    """Make what is missing of the table; returns its folder.

    Raises:
        XmkdError: A stage can't be made; what is there stays.
    """
    stages.check(spec)
    table = ControlTable(spec.table)
    limits: dict[float, dict[str, float]] = {}
    notes: dict[float, str] = {}
    shared: Shared | None = None
    for number in range(len(spec.cohorts)):
        cohort = stages.simulate(spec, number)
        limits[cohort.spec.rho] = cohort.limits
        if shared is None:
            shared = Shared(stages.teacher(spec, cohort), stages.auto_encoder(spec, cohort))
            _tell_teacher(shared.teacher)
        pool, test = (stages.samples(spec, cohort, shared.mae, side) for side in ("train", "test"))
        _check_pool(spec, pool, cohort)
        doses = doses_of(spec, number)
        looks = stages.shown(cohort, pool)
        targets = _targets(shared, stages.paired_scores(spec, cohort, shared.teacher), pool, looks, doses)
        follows = {name: stages.agreement(looks, own.numpy(), pool.label) for name, own in targets.own.items()}
        notes[cohort.spec.rho] = _told(cohort, follows)
        _heads(spec, table, "head", cohort, targets, ARMS, pool, test)
        seeing = [stages.with_signs(cohort, side) for side in (pool, test)]
        _heads(spec, table, "signs", cohort, targets, (*ARMS, *map(dose_arm, doses)), *seeing)
        for labels in spec.finetuned.labels if number == 0 else []:
            _finetuned(spec, table, cohort, shared, test, labels)
        table.bundle(test.label, test.patient_id)  # what is there can be looked at before the next rho is
        draw(table.rows(), limits, spec.table / "auroc.png")
        draw_gains(table.rows(), spec.table / "gains.png")
        if doses:
            draw_doses(table.rows(), follows, spec.table / "doses.png")
        write(table.rows(), limits, len(test.label), spec.table / "table.md", notes)
    print(text(table.rows()))
    return spec.table


def doses_of(spec: ControlsSpec, number: int) -> list[float]:
    """The doses of a cohort's tier `signs`: they are made of what MRI show, so one rho is enough."""
    return spec.doses if number == 0 else []


def members(spec: ControlsSpec, cohort: int, labels: int) -> slice:
    """Rows of the pool that a training cohort of so many labels holds."""
    first = cohort * max(spec.labels)
    return slice(first, first + labels)


@dataclass(frozen=True)
class Targets:
    """What heads may regress to: probabilities of the teacher's own examinations, and of the students' ultrasound.

    Attributes:
        score: Recalibrated out-of-fold probabilities, `(N,)`.
        label: Their classes, `(N,)`.
        own: By arm, for each labelled MRI, `(P,)`: from the ultrasound of the same patient, or of a dose.
    """

    score: Tensor
    label: Tensor
    own: dict[str, Tensor]


def _targets(
    shared: Shared, paired: pd.DataFrame, found: Samples, looks: npt.NDArray[np.float64], doses: list[float]
) -> Targets:
    teacher = recalibrated(shared.teacher.predictions("oof"), float(found.label.mean()))
    score = torch.tensor(teacher["score"].to_numpy(), dtype=torch.float32)
    label = torch.tensor(teacher["label"].to_numpy(), dtype=torch.int64)
    pool = torch.from_numpy(looks), torch.from_numpy(found.label), _ids(found)
    own = {"oracle_pair": torch.from_numpy(stages.paired_probabilities(shared.teacher, paired, found))}
    own |= {dose_arm(dose).name: dosed(dose, *pool, score, label) for dose in doses}
    return Targets(score, label, own)


def _ids(found: Samples) -> Tensor:
    return torch.tensor([id_hash(str(i)) for i in found.sample_id], dtype=torch.int64)


def _heads(
    spec: ControlsSpec,
    table: ControlTable,
    tier: str,
    cohort: Simulated,
    targets: Targets,
    arms: Sequence[Arm],
    found: Samples,
    test: Samples,
) -> None:
    """A tier of heads of one rho, for those arms whose encoder's features are there."""
    pool = heads.Pool(
        {name: torch.from_numpy(values) for name, values in found.features.items()},
        torch.from_numpy(found.label),
        _ids(found),
        targets.score,
        targets.label,
        {arm.name: targets.own[arm.name] for arm in arms if arm.name in targets.own},
    )
    tested = TestSet({name: torch.from_numpy(values) for name, values in test.features.items()}, test.label)
    arms = [arm for arm in arms if arm.encoder in found.features]
    for labels in spec.labels:
        setting = Setting(tier, cohort.spec.rho, labels)
        rows = [torch.arange(len(found.label))[members(spec, k, labels)] for k in range(spec.head_cohorts)]
        for done in run_heads(table, setting, cohort.spec.lock, pool, rows, tested, arms, spec.head):
            if (done + 1) % 10 == 0 or done + 1 == len(rows):
                print(f"{setting}: {done + 1} of {len(rows)} training cohorts", flush=True)


def _finetuned(
    spec: ControlsSpec, table: ControlTable, cohort: Simulated, shared: Shared, test: Samples, labels: int
) -> None:
    """The tier `finetuned`, of the first rho and a number of labels."""
    tuned, setting = spec.finetuned, Setting("finetuned", cohort.spec.rho, labels)
    paired = stages.paired_file(cohort, shared.teacher)
    made_from = {"lock": cohort.spec.lock, "mae": shared.mae.id, "teacher": shared.teacher.folder.name}
    tables = [_manifest(spec, cohort, number, labels) for number in range(tuned.cohorts)]
    common = stages.student(spec, tables[0], cohort.folder, stages.LABELS_ALONE)
    arms = {f"arm {name}": asdict(BY_NAME[name]) for name in tuned.arms}
    table.require(setting, {**made_from, **arms, "student": to_tree(common, runtime=False), "lrs": tuned.lrs})

    def experiment(student: Student) -> Experiment:
        words = [*arm_words(BY_NAME[student.arm], shared, paired), f"optim.lr={student.lr}"]
        return stages.student(spec, tables[student.cohort], cohort.folder, words)

    def keep(student: Student, run: Run) -> None:
        scores = run.predictions("test").set_index("sample_id")["score"].loc[list(test.sample_id)].to_numpy()
        decay = run.experiment().optim.weight_decay
        done = Training(student.arm, student.cohort, scores, student.lr, decay)
        table.add(setting, cohort.spec.lock, test.label, [done])
        print(f"{setting}: cohort {student.cohort}, {student.arm}: {auroc_interval(test.label, scores)}", flush=True)

    first = [Student(0, arm, lr) for arm in tuned.arms for lr in tuned.lrs]
    tried = dict(trained_students({student: experiment(student) for student in first}, tuned.workers))
    best = [max((s for s in first if s.arm == arm), key=lambda s: _inner(tried[s])) for arm in tuned.arms]
    for student in best:
        keep(student, tried[student])
    others = [replace(student, cohort=number) for number in range(1, tuned.cohorts) for student in best]
    for student, run in trained_students({other: experiment(other) for other in others}, tuned.workers):
        keep(student, run)


def trained_students(experiments: dict[Student, Experiment], workers: int) -> Iterator[tuple[Student, Run]]:
    """Train students, or take those that are trained already; in the order in which they are done.

    Args:
        experiments: Of each student.
        workers: Processes of one thread each; below 2 this one trains them in turn, with all its threads.
    """
    if workers < 2:
        for student, experiment in experiments.items():
            yield student, training.fit(experiment)
        return
    quiet = {s: replace(e, trainer=replace(e.trainer, enable_progress_bar=False)) for s, e in experiments.items()}
    with Pool(workers) as pool:
        yield from pool.run(_train, list(quiet.items()))


def _train(job: tuple[Student, Experiment]) -> tuple[Student, Run]:
    student, experiment = job
    return student, training.fit(experiment)


def arm_words(arm: Arm, shared: Shared, paired: Path) -> list[str]:
    """Settings of the student that make an arm."""
    mae = shared.mae.folder if arm.encoder == "mae" else "none"
    teacher = "none" if arm.pairing in (None, "hard") else shared.teacher.folder
    words = [f"method.mae={mae}", f"method.teacher={teacher}", f"method.label_smoothing={arm.label_smoothing}"]
    if arm.encoder == "random":
        words.append("method.layer_decay=1.0")  # lower layers that know nothing yet must learn as fast as the others
    if arm.pairing is None:
        return [*words, *stages.LABELS_ALONE]
    words += [f"method.pairing={arm.pairing}", f"method.kd_norm={arm.norm}"]
    return [*words, f"method.own_scores={paired}"] if arm.pairing == "oracle_pair" else words


def _manifest(spec: ControlsSpec, cohort: Simulated, number: int, labels: int) -> Path:
    """A training cohort with the validation and the test patients, as a table of its own."""
    source = cohort.manifest("mri")
    whole = manifests.read_table(source).sort_values("sample_id")
    train = whole[whole["split"] == "train"]
    patients = train["patient_id"].unique()[members(spec, number, labels)]
    train = train[train["patient_id"].isin(patients)]
    target = spec.table / "manifests" / f"{cohort.spec.name}_{labels}_{number}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_table(target, pd.concat([train, whole[whole["split"] != "train"]]))
    target.with_suffix(".yaml").write_bytes(source.with_suffix(".yaml").read_bytes())
    return target


def _inner(tried: Run) -> float:
    """Validation AUROC of a run."""
    table = tried.predictions("val")
    return auroc_interval(table["label"].to_numpy(), table["score"].to_numpy()).value


def _check_pool(spec: ControlsSpec, pool: Samples, cohort: Simulated) -> None:
    needed = spec.head_cohorts * max(spec.labels)
    if len(pool.label) < needed or len(np.unique(pool.patient_id)) != len(pool.patient_id):
        raise ConfigError(
            f"{spec.head_cohorts} cohorts of {max(spec.labels)} need {needed} training patients with one MRI each, but "
            f"{cohort.spec.name} has {len(pool.label)} MRI of {len(np.unique(pool.patient_id))} patients",
            where=cohort.manifest("mri"),
            fixes=("raise mri.patients.train of the specification", "lower head_cohorts or labels"),
        )


def _told(cohort: Simulated, follows: Mapping[str, Mapping[str, float]]) -> str:
    said = "; ".join(
        f"{arm} " + ", ".join(f"{correlation:.2f} ({name})" for name, correlation in by_class.items())
        for arm, by_class in follows.items()
    )
    note = f"rank correlation of each patient's own targets with the signs on her MRI, given the label: {said}"
    print(f"rho {cohort.spec.rho:g}: {note}", flush=True)
    return note


def _tell_teacher(teacher: Run) -> None:
    table = teacher.predictions("oof")
    fold = table["fold"].to_numpy(dtype=float).astype(int)
    print(f"teacher, out of fold: {auroc_interval(table['label'], table['score'], fold=fold)}", flush=True)

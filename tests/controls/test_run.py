"""The table of controls: which patients train an arm, and what makes an arm of a student."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import REPOSITORY
from xmkd import config, training
from xmkd.config import Experiment
from xmkd.controls import run as module
from xmkd.controls import spec as specs
from xmkd.controls.arms import ARMS, Arm
from xmkd.controls.run import BY_NAME, Shared, Student, arm_words, members, trained_students
from xmkd.controls.spec import ControlsSpec
from xmkd.controls.stages import Samples, Simulated
from xmkd.controls.table import ControlTable
from xmkd.errors import ConfigError, RunError
from xmkd.methods.distill import Distill, DistillSettings
from xmkd.runs import Run
from xmkd.simulate import spec as cohorts
from xmkd.simulate.plan import patients
from xmkd.simulate.pool import Pool

SHARED = Shared(Run(Path("runs/teacher_pod/cv5-0123456789ab")), Run(Path("runs/mae_pod/0123456789ab")))
PAIRED = Path("runs/controls/demo/paired/pod.csv")
NOT_FINETUNED = {"self_distillation"}
EPOCHS = 30


@pytest.fixture
def spec(tmp_path: Path) -> ControlsSpec:
    """The table for tests, in a folder of its own."""
    return specs.load(REPOSITORY / "experiments" / "controls" / "tiny.yaml", [f"out={tmp_path}"])


@pytest.fixture
def cohort(tmp_path: Path) -> Simulated:
    """The cohort of that table as far as its table of MRI; no picture is rendered."""
    plan = cohorts.load(REPOSITORY / "experiments" / "cohorts" / "pod_controls_tiny.yaml")
    rows = [
        {"sample_id": f"{p.id}-t2_sag", "patient_id": p.id, "modality": "mri", "path": p.id, "split": p.split}
        | {"pod": "obliterated" if p.shown else "free"}
        for p in patients(plan, "mri")
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "pod_mri.csv", index=False)
    (tmp_path / "pod_mri.yaml").write_text("name: sim_pod\n")
    return Simulated(plan, tmp_path)


def settings_of(arm: Arm) -> DistillSettings:
    """The student's settings, as its experiment and the words of an arm make them."""
    words = arm_words(arm, SHARED, PAIRED)
    return cast(DistillSettings, config.load(REPOSITORY / "experiments" / "distill_pod.yaml", words).method)


def weight(settings: DistillSettings, epoch: int) -> float:
    """The weight of distillation in an epoch of a student's training."""
    trainer = SimpleNamespace(max_epochs=EPOCHS)
    method: Any = SimpleNamespace(settings=settings, trainer=trainer, current_epoch=epoch)
    found: float = Distill.weight.fget(method)  # type: ignore[attr-defined]  # the property's own function
    return found


@pytest.mark.parametrize("labels", [[20, 40, 80, 160], [4, 8]])
def test_smaller_budgets_are_the_first_patients_of_larger_ones_and_cohorts_share_nobody(labels: list[int]) -> None:
    spec = specs.load(
        REPOSITORY / "experiments" / "controls" / "demo.yaml", [f"labels={labels}", "finetuned.labels=[]"]
    )
    seen: set[int] = set()
    for cohort in range(spec.head_cohorts):
        rows = [list(range(10_000)[members(spec, cohort, n)]) for n in labels]
        for n, smaller, larger in zip(labels, rows, rows[1:], strict=False):
            assert len(smaller) == n
            assert larger[:n] == smaller
        assert not seen & set(rows[-1])
        seen |= set(rows[-1])
    assert seen == set(range(spec.head_cohorts * labels[-1]))


def test_doses_are_arms_of_the_first_cohort_alone(spec: ControlsSpec) -> None:
    assert [module.doses_of(spec, number) for number in range(3)] == [[0.0, 1.0], [], []]


def test_every_training_cohort_of_the_study_has_both_classes_and_the_same_prevalence() -> None:
    spec = specs.load(REPOSITORY / "experiments" / "controls" / "demo.yaml")
    plan = cohorts.load(REPOSITORY / spec.cohorts[0])
    ill = np.array([p.shown for p in patients(plan, "mri") if p.split == "train"])
    for labels in spec.labels:
        counts = [int(ill[members(spec, cohort, labels)].sum()) for cohort in range(spec.head_cohorts)]
        assert max(counts) - min(counts) <= 2
        assert min(counts) >= 0.3 * labels - 1


def test_both_tiers_train_on_the_same_patients(spec: ControlsSpec, cohort: Simulated) -> None:
    whole = pd.read_csv(cohort.manifest("mri"))
    pool = whole[whole["split"] == "train"].reset_index(drop=True)  # the order in which a stream has them
    for number in range(2):
        for labels in spec.labels:
            file = module._manifest(spec, cohort, number, labels)
            table = pd.read_csv(file)
            heads = pool["patient_id"][members(spec, number, labels)]
            assert list(table.loc[table["split"] == "train", "patient_id"]) == list(heads)
            rest = whole[whole["split"] != "train"]
            assert set(table.loc[table["split"] != "train", "patient_id"]) == set(rest["patient_id"])
            assert file.with_suffix(".yaml").read_text() == "name: sim_pod\n"


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm.name not in NOT_FINETUNED], ids=lambda arm: arm.name)
def test_the_words_of_an_arm_make_a_valid_student_with_its_weight(arm: Arm) -> None:
    settings = settings_of(arm)
    assert [weight(settings, e) for e in range(EPOCHS)] == [arm.weight(e, EPOCHS) for e in range(EPOCHS)]
    assert settings.mae == ("none" if arm.encoder == "random" else str(SHARED.mae.folder))
    assert settings.teacher == (str(SHARED.teacher.folder) if settings.needs_teacher else "none")
    assert settings.label_smoothing == arm.label_smoothing
    assert (settings.layer_decay == 1) == (arm.encoder == "random"), "layers that know nothing yet learn alike"
    if arm.pairing is not None:
        assert (settings.pairing, settings.kd_norm) == (arm.pairing, arm.norm)
        assert weight(settings, 0) == 1
        assert weight(settings, EPOCHS // 2) == pytest.approx(0.5)
    assert settings.own_scores == (str(PAIRED) if arm.name == "oracle_pair" else "none")


def test_arms_on_labels_alone_never_distil_and_never_read_a_teacher() -> None:
    alone = [arm for arm in ARMS if arm.pairing is None]
    assert [arm.name for arm in alone] == ["scratch", "ptm", "label_smoothing"]
    for arm in alone:
        settings = settings_of(arm)
        assert settings.supervised_alone
        assert not settings.needs_teacher
        assert [weight(settings, epoch) for epoch in range(EPOCHS)] == [0.0] * EPOCHS
        assert [arm.weight(epoch, EPOCHS) for epoch in range(EPOCHS)] == [0.0] * EPOCHS


def test_arms_that_decide_differ_from_the_method_in_nothing_but_their_targets() -> None:
    full = settings_of(BY_NAME["full"])
    for name in ("surrogate", "constant", "shuffled"):
        other = vars(settings_of(BY_NAME[name]))
        assert {key for key, value in vars(full).items() if other[key] != value} == {"pairing"}, name


@pytest.mark.parametrize("workers", [0, 2])
def test_students_are_trained_in_turn_or_at_once(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    started: list[tuple[int, bool]] = []

    class Processes(Pool):
        """As many as are asked for, all of them this one."""

        def __init__(self, workers: int) -> None:
            started.append((workers, False))
            super().__init__(1)

    def fit(experiment: Experiment) -> Run:
        started.append((int(experiment.optim.lr), experiment.trainer.enable_progress_bar))
        return Run(Path(f"run_{experiment.optim.lr:g}"))

    monkeypatch.setattr(module, "Pool", Processes)
    monkeypatch.setattr(training, "fit", fit)
    whole = config.load(REPOSITORY / "experiments" / "distill_pod.yaml")
    wanted = {Student(0, "full", lr): replace(whole, optim=replace(whole.optim, lr=lr)) for lr in (1.0, 2.0)}
    found = dict(trained_students(wanted, workers))
    assert {student.lr: run.folder.name for student, run in found.items()} == {1.0: "run_1", 2.0: "run_2"}
    in_turn = [(1, True), (2, True)]
    assert started == (in_turn if workers == 0 else [(2, False), (1, False), (2, False)]), "bars of two would mix"


@pytest.mark.parametrize("sequences", [1, 2])
def test_a_pool_of_too_few_or_repeated_patients_is_refused(
    spec: ControlsSpec, cohort: Simulated, sequences: int
) -> None:
    n = spec.head_cohorts * max(spec.labels)
    who = np.repeat([f"p{i}" for i in range(n)], sequences)[: n if sequences == 2 else n - 1]
    label = torch.zeros(len(who), dtype=torch.int64).numpy()
    pool = Samples(np.array([f"{p}-{i}" for i, p in enumerate(who)]), who, label, {})
    with pytest.raises(ConfigError, match=f"2 cohorts of 8 need {n} training patients with one MRI each"):
        module._check_pool(spec, pool, cohort)
    enough = np.array([f"p{i}" for i in range(n)])
    module._check_pool(spec, Samples(enough, enough, np.zeros(n, dtype=np.int64), {}), cohort)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda s: replace(s, student=replace(s.student, words=[*s.student.words, "optim.weight_decay=0.5"])),
            "student",
        ),
        (lambda s: replace(s, finetuned=replace(s.finetuned, lrs=[0.5])), "lrs"),
    ],
    ids=["student", "trials"],
)
def test_rows_of_fine_tuned_students_do_not_go_on_with_other_settings(
    spec: ControlsSpec,
    cohort: Simulated,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[ControlsSpec], ControlsSpec],
    named: str,
) -> None:
    who, label = np.array(["a", "b", "c"]), np.array([0, 1, 1])

    class Trained:
        """A student that nobody trained."""

        def predictions(self, side: str) -> pd.DataFrame:
            return pd.DataFrame({"sample_id": who, "label": label, "score": [0.1, 0.6, 0.9]})

        def experiment(self) -> Experiment:
            return config.load(REPOSITORY / "experiments" / "distill_pod.yaml")

    monkeypatch.setattr(module, "trained_students", lambda wanted, workers: [(s, Trained()) for s in wanted])
    monkeypatch.chdir(REPOSITORY)
    table, tested = ControlTable(tmp_path / "table"), Samples(who, who, label, {})
    module._finetuned(spec, table, cohort, SHARED, tested, 8)
    module._finetuned(spec, table, cohort, SHARED, tested, 8)
    assert len(table.rows()) == spec.finetuned.cohorts * len(spec.finetuned.arms)
    with pytest.raises(RunError, match=f"made from something else: {named} changed"):
        module._finetuned(change(spec), table, cohort, SHARED, tested, 8)

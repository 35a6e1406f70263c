"""Stages that all arms share: refused before anything is made, and no patient on two sides of a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from xmkd.controls import spec as specs
from xmkd.controls import stages
from xmkd.controls.spec import ControlsSpec
from xmkd.controls.stages import Samples, Simulated, paired_probabilities
from xmkd.errors import ConfigError, LeakageError
from xmkd.evaluation.teacher_scores import calibrated_by
from xmkd.runs import Run
from xmkd.simulate import spec as cohorts
from xmkd.simulate.plan import patients

COHORTS = REPOSITORY / "experiments" / "cohorts"
OURS = ["pod_controls", "pod_controls_null", "pod_controls_full", "pod_controls_full_null", "pod_controls_tiny"]


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> ControlsSpec:
    """The table for tests."""
    monkeypatch.chdir(REPOSITORY)
    return specs.load("experiments/controls/tiny.yaml")


def variant(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(f"base: {COHORTS / 'pod_controls_tiny.yaml'}\n{text}")
    return str(path)


def test_the_table_for_tests_may_be_made(spec: ControlsSpec) -> None:
    stages.check(spec)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("oracle_pair: null\n", ["oracle_pair"]),
        ("oracle_pair: null\nmri_unlabelled: null\n", ["oracle_pair, mri_unlabelled"]),
        ("mri: {patients: {train: 15}}\n", ["2 training cohorts of 8 MRI need 16 patients, not 15"]),
    ],
)
def test_cohorts_without_what_is_needed_are_refused(
    spec: ControlsSpec, tmp_path: Path, text: str, words: list[str]
) -> None:
    changed = variant(tmp_path, "lacking", text)
    with pytest.raises(ConfigError) as caught:
        stages.check(replace(spec, cohorts=[changed]))
    assert str(caught.value.where) == changed
    assert all(word in caught.value.what for word in words), caught.value.what


@pytest.mark.parametrize("text", ["seed: 32\n", "mri: {patients: {test: 8}}\n", "prevalence: 0.25\n"])
def test_cohorts_of_other_test_patients_are_refused(spec: ControlsSpec, tmp_path: Path, text: str) -> None:
    stages.check(replace(spec, cohorts=[*spec.cohorts, variant(tmp_path, "null", "rho: 0.0\n")]))
    with pytest.raises(ConfigError, match="other test patients"):
        stages.check(replace(spec, cohorts=[*spec.cohorts, variant(tmp_path, "other", text)]))


def test_a_later_cohort_needs_no_stage_of_its_own(spec: ControlsSpec, tmp_path: Path) -> None:
    later = variant(tmp_path, "later", "mri_unlabelled: null\n")
    stages.check(replace(spec, cohorts=[*spec.cohorts, later]))
    with pytest.raises(ConfigError, match="mri_unlabelled"):
        stages.check(replace(spec, cohorts=[later, *spec.cohorts]))


@pytest.mark.parametrize("step", ["teacher", "mae", "student"])
def test_a_misspelt_setting_of_the_last_stage_stops_the_first(
    spec: ControlsSpec, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from xmkd.controls.run import run

    monkeypatch.setattr(stages, "simulate", lambda _: pytest.fail("hours of rendering"))
    wrong = replace(getattr(spec, step), words=["optim.lrr=1"])
    with pytest.raises(ConfigError, match=r"optim\.lrr"):
        run(replace(spec, **{step: wrong}))


class Teacher(Run):
    """A cross-validation of which the out-of-fold table alone is looked at."""

    def predictions(self, side: str) -> pd.DataFrame:
        assert side == "oof"
        return scored([f"u{i}" for i in range(40)]).assign(fold=np.arange(40) % 2)


def scored(who: list[str], clips: int = 1) -> pd.DataFrame:
    """Scores that tell the classes apart, but not always."""
    ids = np.repeat(who, clips)
    label = np.repeat(np.arange(len(who)) % 2, clips)
    score = 1 / (1 + np.exp(-np.random.default_rng(len(ids)).normal(label * 2.0 - 1)))
    return pd.DataFrame(
        {"sample_id": [f"{p}-{i}" for i, p in enumerate(ids)], "patient_id": ids, "label": label, "score": score}
    )


def students(who: list[str], label: list[int]) -> Samples:
    return Samples(np.array([f"{p}-t2" for p in who]), np.array(who), np.array(label, dtype=np.int64), {})


def test_each_mri_has_the_score_of_its_own_patient_whatever_the_order(tmp_path: Path) -> None:
    teacher, own = Teacher(tmp_path), scored([f"m{i}" for i in range(8)], clips=2)
    found = students(["m5", "m0", "m3"], [1, 0, 0])
    by_hand = calibrated_by(teacher.predictions("oof"), own, 1 / 3)
    wanted = [by_hand.loc[by_hand["patient_id"] == p, "score"].mean() for p in found.patient_id]
    np.testing.assert_allclose(paired_probabilities(teacher, own, found), wanted, rtol=1e-6)


def test_students_whose_ultrasound_taught_the_teacher_stop_the_controls(tmp_path: Path) -> None:
    who = ["m0", "u7", "m2", "u8"]
    with pytest.raises(LeakageError, match="2 patients of its own training are scored again, such as u7, u8"):
        paired_probabilities(Teacher(tmp_path), scored(who), students(who, [0, 1, 0, 1]))


@pytest.mark.parametrize("name", OURS)
def test_no_stage_of_the_shipped_cohorts_sees_a_test_patient(name: str) -> None:
    spec = cohorts.load(COHORTS / f"{name}.yaml")
    who = {part: patients(spec, part) for part in spec.parts()}
    tested = {p.id for p in who["mri"] if p.split == "test"}
    trained = {p.id for p in who["mri"] if p.split != "test"}
    unlabelled, ultrasound, pairs = ({p.id for p in who[part]} for part in ("mri_unlabelled", "tvus", "oracle_pair"))
    assert tested
    assert not tested & (unlabelled | ultrasound | pairs | trained)
    assert not unlabelled & (trained | ultrasound), "the corpus is of patients of its own"
    assert not ultrasound & (pairs | trained), "the teacher never saw the students' patients"
    assert pairs == trained, "each training patient has her own ultrasound"


@pytest.mark.parametrize("names", [OURS[:2], OURS[2:4]])
def test_the_cohorts_of_a_table_have_one_test_set_and_one_unlabelled_corpus(names: list[str]) -> None:
    found = [cohorts.load(COHORTS / f"{name}.yaml") for name in names]
    assert [spec.rho for spec in found] == [0.6, 0.0]
    first, second = ([(p.id, p.ill) for p in patients(spec, "mri")] for spec in found)
    assert first == second
    assert sum("-test-" in who for who, _ in first) == 2000


def test_the_true_signs_of_an_mri_stand_beside_its_features(tmp_path: Path) -> None:
    cohort = Simulated(cohorts.load(COHORTS / "pod_controls_tiny.yaml"), tmp_path)
    truth = pd.DataFrame(
        {"patient_id": ["01", "02", "02"], "part": ["mri", "oracle_pair", "mri"]}
        | {"evidence_fluid_mm": [2.0, 9.0, 3.0], "evidence_kink_deg": [5.0, 9.0, 7.0], "age": [30, 40, 40]}
    )
    truth.to_csv(tmp_path / "truth.csv", index=False)
    features = {"mae": np.array([[0.5], [0.25]], dtype=np.float32), "random": np.zeros((2, 1), dtype=np.float32)}
    who = np.array(["02", "01"])
    found = stages.with_signs(cohort, Samples(who, who, np.array([1, 0]), features))
    assert list(found.features) == ["mae"], "a random encoder is no part of this tier"
    assert found.features["mae"].tolist() == [[0.5, 3.0, 7.0], [0.25, 2.0, 5.0]], "of the MRI, row by row"


def test_agreement_is_a_rank_correlation_within_each_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 100)
    sign = 2 * label + rng.normal(size=200)
    who = np.array([f"{i:03}" for i in range(200)])
    truth = pd.DataFrame({"patient_id": who, "part": "mri", "evidence_kink_deg": sign, "evidence_coupling": 0.15})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    cohort = Simulated(cohorts.load(COHORTS / "pod_controls_tiny.yaml"), tmp_path)
    looks = stages.shown(cohort, Samples(who, who, label, {}))
    follows = np.where(label == 1, sign**3, -sign).astype(np.float32)
    assert stages.agreement(looks, follows, label) == pytest.approx({"negatives": -1.0, "positives": 1.0})
    of_label = (label + rng.normal(size=200) / 10).astype(np.float32)
    assert all(abs(r) < 0.3 for r in stages.agreement(looks, of_label, label).values()), "the label is no agreement"

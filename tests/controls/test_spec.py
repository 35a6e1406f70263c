"""Tables of controls as files: those of the project are sound, and what can't be made is refused before it is begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from xmkd.controls import spec as specs
from xmkd.controls.heads import HeadSettings
from xmkd.errors import ConfigError

FOLDER = REPOSITORY / "experiments" / "controls"
LEAST = "cohorts: [a.yaml]\nteacher: {experiment: t.yaml}\nmae: {experiment: m.yaml}\nstudent: {experiment: s.yaml}\n"


def problems(path: Path, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        specs.load(path, list(words))
    assert str(caught.value.where) == str(path)
    assert len(caught.value.fixes) == 2
    return caught.value.what


@pytest.fixture
def least(tmp_path: Path) -> Path:
    path = tmp_path / "least.yaml"
    path.write_text(LEAST)
    return path


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_table_of_the_project_names_files_that_are_there(path: Path) -> None:
    spec = specs.load(path)
    assert spec.name == path.stem
    files = [*spec.cohorts, spec.teacher.experiment, spec.mae.experiment, spec.student.experiment]
    assert [file for file in files if not (REPOSITORY / file).is_file()] == []


def test_what_a_table_leaves_out_is_the_budget_of_the_study(least: Path) -> None:
    spec = specs.load(least, ["out=elsewhere"])
    assert (spec.labels, spec.head_cohorts, spec.head) == ([20, 40, 80, 160], 30, HeadSettings())
    assert (spec.finetuned.labels, spec.finetuned.cohorts) == ([80], 5)
    assert spec.table == Path("elsewhere/least")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["finetuned.arms=[ptm,fulll]"], "finetuned.arms: 'fulll' is no arm; did you mean 'full'?"),
        (["finetuned.arms=[self_distillation]"], "self_distillation is an arm of heads alone"),
        (["cohorts=[]"], "cohorts: at least one specification is needed"),
        (["labels=[40,20,80]"], "labels: [40, 20, 80] must rise"),
        (["labels=[20,20,80]"], "labels: [20, 20, 80] must rise"),
        (["labels=[]", "finetuned.labels=[]"], "labels: at least one number"),
        (["doses=[0,1.5]"], "doses: [0.0, 1.5] must be different numbers from 0 to 1"),
        (["doses=[0.5,0.5]"], "doses: [0.5, 0.5] must be different numbers from 0 to 1"),
        (["doses=[0.5,0.50000001]"], "must be different numbers from 0 to 1"),
        (["labels=[3,80]"], "labels: at least one number, and none below 4"),
        (["head_cohorts=1", "finetuned.cohorts=1"], "two at least in each tier"),
        (["head_cohorts=4"], "finetuned: its cohorts and labels are among those of the tier head"),
        (["finetuned.labels=[30]"], "finetuned: its cohorts and labels are among those of the tier head"),
        (["finetuned.lrs=[]"], "finetuned.lrs: at least one learning rate"),
        (["finetuned.lrs=[0.001,0.0]"], "finetuned.lrs: at least one learning rate, and all above 0"),
        (["finetuned.workers=-1"], "finetuned.workers: -1 is less than 0"),
        (["head.epochs=0"], "head.epochs (0) must be 1 or more"),
        (["head.lrs=[]"], "head.lrs and weight_decays: at least one each"),
        (["head_cohort=4"], "head_cohort: unknown key; did you mean 'head_cohorts'?"),
    ],
)
def test_what_can_not_be_made_is_said(least: Path, words: list[str], line: str) -> None:
    assert line in problems(least, *words)


def test_all_problems_are_listed_at_once(least: Path) -> None:
    words = ["labels=[40,20]", "finetuned.arms=[ptn]", "finetuned.lrs=[]", "head.inner_folds=1", "head_cohorts=1"]
    said = problems(least, *words)
    lines = said.splitlines()[1:]
    assert len(lines) == 6  # the last: more cohorts are fine-tuned, and with other labels, than there are
    for word in ("labels: [40, 20]", "'ptn'", "finetuned.lrs", "inner_folds", "two at least", "finetuned: its cohorts"):
        assert sum(word in line for line in lines) == 1, (word, lines)


def test_a_table_that_lacks_a_stage_or_is_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(LEAST.replace("mae: {experiment: m.yaml}\n", ""))
    assert "mae" in problems(path)
    path.unlink()
    problems(path)

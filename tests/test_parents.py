"""Runs that a method starts from: named themselves, or by the folder of their experiment."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from xmkd import config, runs
from xmkd.config import Experiment
from xmkd.errors import RunError
from xmkd.parents import resolved


def made(folder: Path, *, crossval: bool = False, finished: bool = True, second: int = 0) -> Path:
    """A run folder as far as it is looked at, finished at this second."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    if crossval:
        (folder / "predictions_oof.csv").touch()
        (folder / "fold_0").mkdir()
    if finished:
        (folder / "summary.json").touch()
        os.utime(folder / "summary.json", (second, second))
    return folder


def student(teacher: object = "none", mae: object = "none") -> Experiment:
    alone = ["method.alpha=0", "method.epoch_offset=1"] if teacher == "none" else []
    words = [f"method.teacher={teacher}", f"method.mae={mae}", *alone]
    return config.load(REPOSITORY / "experiments" / "distill_pod.yaml", words)


def parents(experiment: Experiment) -> tuple[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method: Any = resolved(experiment).method
    return method.teacher, method.mae


def test_the_newest_finished_run_is_taken_and_told(tmp_path: Path) -> None:
    made(tmp_path / "mae_pod" / "zz", second=10)
    newest = made(tmp_path / "mae_pod" / "aa", second=30)
    made(tmp_path / "mae_pod" / "mm", second=20)
    made(tmp_path / "mae_pod" / "later", finished=False)
    (tmp_path / "mae_pod" / "notes.txt").touch()
    with pytest.warns(UserWarning, match="mae_pod holds 3 finished runs; the newest is taken, aa"):
        assert resolved(student(mae=tmp_path / "mae_pod")).method.mae == str(newest)


def test_one_run_is_taken_without_a_word(tmp_path: Path) -> None:
    only = made(tmp_path / "mae_pod" / "aa")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolved(student(mae=tmp_path / "mae_pod")).method.mae == str(only)


def test_a_teacher_is_a_cross_validation_and_an_auto_encoder_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    crossval, fit = made(folder / "cv5-aa", crossval=True, second=10), made(folder / "bb", second=20)
    assert parents(student(teacher=folder, mae=folder)) == (str(crossval), str(fit))
    os.utime(crossval / "summary.json", (30, 30))
    assert parents(student(teacher=folder, mae=folder)) == (str(crossval), str(fit))


def test_a_run_that_is_named_is_left_as_it_is(tmp_path: Path) -> None:
    made(tmp_path / "mae_pod" / "newer", second=20)
    old = made(tmp_path / "mae_pod" / "older", second=10)
    unfinished = made(tmp_path / "teacher_pod" / "cv5-aa", crossval=True, finished=False)
    assert parents(student(teacher=unfinished, mae=old)) == (str(unfinished), str(old))


def test_without_a_parent_nothing_changes() -> None:
    experiment = student()
    assert resolved(experiment) is experiment
    teacher = config.load(REPOSITORY / "experiments" / "teacher_pod.yaml")
    assert resolved(teacher) is teacher


@pytest.mark.parametrize(("key", "command"), [("teacher", "crossval"), ("mae", "fit")])
def test_a_folder_that_is_not_there_names_the_command_that_makes_it(tmp_path: Path, key: str, command: str) -> None:
    with pytest.raises(RunError, match="no such run") as caught:
        resolved(student(**{key: tmp_path / "some_pod"}))
    assert str(caught.value.where) == str(tmp_path / "some_pod")
    assert f"xmkd {command} experiments/some_pod.yaml" in caught.value.fixes[0]


@pytest.mark.parametrize(("key", "command"), [("teacher", "crossval"), ("mae", "fit")])
def test_a_folder_without_a_finished_run_of_the_kind_is_refused(tmp_path: Path, key: str, command: str) -> None:
    folder = tmp_path / "some_pod"
    made(folder / "begun", crossval=key == "teacher", finished=False)
    made(folder / "of_the_other_kind", crossval=key == "mae")
    with pytest.raises(RunError, match=f"no finished run of xmkd {command}") as caught:
        resolved(student(**{key: folder}))
    assert f"xmkd {command} experiments/some_pod.yaml" in caught.value.fixes[0]


def test_another_parent_makes_another_run(tmp_path: Path) -> None:
    study: Any = SimpleNamespace(streams={}, split_hash="s")
    folder = tmp_path / "mae_pod"

    def identity() -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return runs.run_id(resolved(student(mae=folder)), study)

    made(folder / "aa", second=10)
    first = identity()
    assert identity() == first
    made(folder / "bb", second=20)
    assert identity() != first
    named = student(mae=folder)
    assert runs.run_id(replace(named, method=replace(named.method, mae=str(folder / "aa"))), study) == first

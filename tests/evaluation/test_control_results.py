"""Tables of controls, sound and damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.evaluation.controls import AT, rows, scored
from xmkd.errors import EvaluationError
from xmkd.evaluation.control_results import Setting, load

HERE = Setting(**AT)
ARMS = {"full": [0.81, 0.82], "ptm": [0.7, 0.71, 0.72]}


def written(folder: Path, table: pd.DataFrame) -> Path:
    table.to_csv(folder / "results.csv", index=False)
    return folder / "results.csv"


def test_arms_are_found_by_setting_and_in_order_of_their_cohorts(tmp_path: Path) -> None:
    table = pd.concat([rows(ARMS), rows({"full": [0.5]}, labels=20), rows({"full": [0.6]}, rho=0, lock="beef")])
    file = written(tmp_path, table.sample(frac=1, random_state=0).assign(lr=0.1))
    for named in (file, tmp_path):
        found = load(named)
        assert list(found.aurocs(HERE, "ptm").items()) == [(0, 0.7), (1, 0.71), (2, 0.72)]
        assert list(found.aurocs(Setting("head", 0.0, 80), "full")) == [0.6]
        assert found.aurocs(HERE, "nobody").empty
        assert found.locks == {0.0: "beef", 0.6: "c0ffee"}
        assert found.scores(HERE, "full", [0]) is None


def test_rho_is_a_number_however_it_is_written(tmp_path: Path) -> None:
    text = rows({"full": [0.5]}).assign(rho="0.60").to_csv(index=False)
    (tmp_path / "results.csv").write_text(text)
    assert len(load(tmp_path).at(HERE)) == 1


def test_locks_of_digits_stay_words(tmp_path: Path) -> None:
    assert load(written(tmp_path, rows(ARMS, lock="0012e4"))).locks == {0.6: "0012e4"}
    assert load(written(tmp_path, rows(ARMS, lock=""))).locks == {0.6: ""}


@pytest.mark.parametrize("other", ["beef", ""])
def test_two_locks_under_one_rho_are_not_put_together(tmp_path: Path, other: str) -> None:
    file = written(tmp_path, pd.concat([rows(ARMS), rows({"hard": [0.5]}, lock=other, labels=20)]))
    with pytest.raises(EvaluationError, match="of different difficulty") as caught:
        load(file)
    assert "c0ffee" in str(caught.value)
    assert (other or "(none)") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns=["lock", "cohort"]), "columns cohort, lock are missing"),
        (lambda t: t.assign(auroc=[1.01, *t["auroc"][1:]]), "line 2"),
        (lambda t: t.assign(auroc=[*t["auroc"][:-1], np.nan]), "line 6"),
        (lambda t: t.assign(cohort=t["cohort"] + 0.5), "5 rows"),
        (lambda t: t.assign(labels="many"), "no number where one belongs"),
        (lambda t: pd.concat([t, t.iloc[1:2]]), "head/0.6/80/full/1"),
    ],
)
def test_what_can_not_be_is_named(tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], words: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        load(written(tmp_path, change(rows(ARMS))))
    assert words in str(caught.value)
    assert len(caught.value.fixes) == 2


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"", b'a,b\n"1'])
def test_no_table(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "results.csv").write_bytes(content)
    with pytest.raises(EvaluationError) as caught:
        load(tmp_path)
    assert "results.csv" in str(caught.value)


def test_scores_of_all_cohorts_or_none(tmp_path: Path) -> None:
    found = load(scored(tmp_path, {"full": 1.0, "ptm": 1.2}, cohorts=3))
    scores = found.scores(HERE, "full", [2, 0])
    assert scores is not None
    with np.load(tmp_path / "scores.npz") as stored:
        assert np.array_equal(scores[0], stored["head/0.6/80/full/2"])
    assert found.scores(HERE, "full", [0, 1, 2, 3]) is None
    assert found.scores(HERE, "full", []) is None
    assert found.scores(HERE, "hard", [0]) is None


def test_scores_that_are_not_those_of_the_table(tmp_path: Path) -> None:
    scored(tmp_path, {"full": 1.0}, cohorts=3)
    table = pd.read_csv(tmp_path / "results.csv")
    found = load(written(tmp_path, table.assign(auroc=table["auroc"] - 0.002)))
    with pytest.raises(EvaluationError, match="its row says") as caught:
        found.scores(HERE, "full", [0, 1])
    assert "head/0.6/80/full/0" in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "label"),
        ({"label": np.array([0, 1])}, "patient_id"),
        ({"label": np.array([0, 2]), "patient_id": np.array(["a", "b"])}, "neither 0 nor 1"),
        ({"label": np.array([0, 1]), "patient_id": np.array(["a"])}, "1 patients"),
        ({"label": np.array([0, 1]), "patient_id": np.array(["a", "b"], dtype=object)}, "allow_pickle"),
        ({"label": np.array([0, 1]), "patient_id": np.array(["a", "b"]), "full": np.zeros(2)}, "'full' names no"),
        ({"label": np.array([0, 1]), "patient_id": np.array(["a", "b"]), "head/0/1/a/2": np.zeros(3)}, "shape"),
    ],
)
def test_scores_that_can_not_be_used(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    file = written(tmp_path, rows(ARMS))
    np.savez(tmp_path / "scores.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    with pytest.raises(EvaluationError) as caught:
        load(file)
    assert words in str(caught.value)
    (tmp_path / "scores.npz").write_bytes(b"PK not really")
    with pytest.raises(EvaluationError, match="can't be used"):
        load(file)

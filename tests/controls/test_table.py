"""Results of the controls on disk: gone on with, never mixed, never doubled."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from torch import Tensor

from tests.controls.standin import cohorts_of, study
from xmkd.controls import table as module
from xmkd.controls.arms import ARMS, Arm
from xmkd.controls.heads import HeadSettings, Pool, fit_heads
from xmkd.controls.table import COLUMNS, ControlTable, TestSet, Training, fingerprint, run_heads
from xmkd.errors import EvaluationError, RunError
from xmkd.evaluation import control_results
from xmkd.evaluation.control_results import Setting
from xmkd.evaluation.resampling import auroc

SETTING = Setting("head", 0.6, 30)
QUICK = HeadSettings(epochs=10, lrs=(1e-2,), weight_decays=(0.1, 1.0))
FEW = [arm for arm in ARMS if arm.name in {"scratch", "ptm", "full"}]
Data = tuple[Pool, list[Tensor], TestSet]


@pytest.fixture(scope="module")
def data() -> Data:
    """A pool, three cohorts of 30 and 80 test samples."""
    pool, features, label = study(samples=400, tested=80)
    return pool, cohorts_of(pool, 30, 3), TestSet({"mae": features, "random": features}, label.numpy())


def run(folder: Path, data: Data, arms: list[Arm] = FEW, settings: HeadSettings = QUICK) -> list[int]:
    pool, cohorts, test = data
    return list(run_heads(ControlTable(folder), SETTING, "lock", pool, cohorts, test, arms, settings))


def files(folder: Path) -> dict[str, bytes]:
    """Content of all files, but for the order of the rows of the table."""
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    found["results.csv"] = b"".join(sorted(found["results.csv"].splitlines()))
    return found


def test_rows_and_scores_say_the_same(tmp_path: Path, data: Data) -> None:
    assert run(tmp_path, data) == [0, 1, 2]
    label = data[2].label
    rows = pd.read_csv(tmp_path / "results.csv")
    assert list(rows.columns) == COLUMNS
    assert len(rows) == 9
    assert set(rows["lr"]) == {1e-2}
    assert set(rows["weight_decay"]) <= {0.1, 1.0}
    for row in rows.itertuples():
        scores = np.load(tmp_path / "scores" / "head" / "0.6" / "30" / str(row.arm) / f"{row.cohort}.npy")
        assert scores.dtype == np.float32
        assert row.auroc == pytest.approx(roc_auc_score(label, scores), abs=1e-12)


def test_compare_reads_what_was_written(tmp_path: Path, data: Data) -> None:
    run(tmp_path, data)
    label = data[2].label
    ControlTable(tmp_path).bundle(label, [f"p{i}" for i in range(label.size)])
    found = control_results.load(tmp_path)
    assert found.locks == {0.6: "lock"}
    scores = found.scores(SETTING, "full", range(3))
    assert scores is not None
    expected = [roc_auc_score(label, row) for row in scores]
    assert found.aurocs(SETTING, "full").tolist() == pytest.approx(expected, abs=1e-12)


def test_an_interrupted_table_goes_on_and_ends_as_an_unbroken_one(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", data)
    pool, cohorts, test = data
    first = run_heads(ControlTable(tmp_path / "broken"), SETTING, "lock", pool, cohorts, test, FEW, QUICK)
    assert next(first) == 0
    first.close()  # type: ignore[attr-defined]
    fitted: list[Tensor] = []

    def watched(pool: Pool, cohorts: list[Tensor], *others: object) -> object:
        fitted.extend(cohorts)
        return fit_heads(pool, cohorts, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fit_heads", watched)
    for _ in range(2):
        assert run(tmp_path / "broken", data) == [0, 1, 2]
    assert [rows.tolist() for rows in fitted] == [rows.tolist() for rows in cohorts[1:]]
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_a_further_arm_is_added_and_lost_scores_are_made_again(tmp_path: Path, data: Data) -> None:
    run(tmp_path, data, FEW[:2])
    before = files(tmp_path)
    run(tmp_path, data)
    after = files(tmp_path)
    assert all(after[name] == content for name, content in before.items() if name.endswith(".npy"))
    (tmp_path / "scores" / "head" / "0.6" / "30" / "full" / "1.npy").unlink()
    run(tmp_path, data)
    assert files(tmp_path) == after


def test_other_settings_or_data_do_not_go_on_with_a_table(tmp_path: Path, data: Data) -> None:
    pool, cohorts, test = data
    run(tmp_path, data)
    before = files(tmp_path)
    others: list[tuple[str, Data, list[Arm], HeadSettings]] = [
        ("budget", data, FEW, replace(QUICK, epochs=11)),
        ("arm full", data, [replace(FEW[2], norm="l2")], QUICK),
        ("cohort 0, cohort 2", (pool, cohorts[::-1], test), FEW, QUICK),
        ("teacher", (replace(pool, teacher_score=pool.teacher_score / 2), cohorts, test), FEW, QUICK),
        ("features of mae", (replace(pool, features={"mae": pool.features["mae"] + 1}), cohorts, test), FEW, QUICK),
        ("test labels", (pool, cohorts, TestSet(test.features, 1 - test.label)), FEW, QUICK),
    ]
    for name, changed, arms, settings in others:
        with pytest.raises(RunError, match=f"{name}.* changed"):
            run(tmp_path, changed, arms, settings)
    with pytest.raises(RunError, match="lock changed"):
        list(run_heads(ControlTable(tmp_path), SETTING, "other", pool, cohorts, test, FEW, QUICK))
    assert files(tmp_path) == before


@pytest.mark.parametrize(("arm", "named"), [("oracle_pair", "teacher"), ("dose_1", "own targets of dose_1")])
def test_other_targets_of_ones_own_do_not_go_on_with_a_table(tmp_path: Path, data: Data, arm: str, named: str) -> None:
    pool, cohorts, test = data
    pairs = pool.own["oracle_pair"]
    pool = replace(pool, own={"oracle_pair": pairs, "dose_1": pairs.sqrt()})
    arms = [Arm(name, pairing="oracle_pair") for name in pool.own]
    run(tmp_path, (pool, cohorts, test), arms)
    other = replace(pool, own={**pool.own, arm: pool.own[arm] / 2})
    with pytest.raises(RunError, match=f": {named} changed"):
        run(tmp_path, (other, cohorts, test), arms)


def test_values_survive_the_file(tmp_path: Path) -> None:
    label, scores = np.array([0, 1, 0, 1, 1, 0, 1]), np.arange(7, dtype=np.float32) / 7
    table, setting = ControlTable(tmp_path), Setting("finetuned", 0.0, 80)
    table.add(setting, "00012e4", label, [Training("ptm", 0, scores, 0.1 + 0.2, float("nan"))])
    (row,) = table.rows().to_dict("records")
    assert row["lock"] == "00012e4"
    assert row["lr"] == 0.1 + 0.2
    assert np.isnan(row["weight_decay"])
    assert row["auroc"] == auroc(label, scores)
    assert table.missing(setting, ["ptm", "full"], 0) == ["full"]
    assert table.missing(setting, ["ptm"], 1) == ["ptm"]
    assert table.missing(Setting("finetuned", 0.6, 80), ["ptm"], 0) == ["ptm"]
    table.add(setting, "00012e4", label, [Training("ptm", 0, 1 - scores, 0.1, 0.0)])
    assert table.rows()["auroc"].tolist() == pytest.approx([1 - row["auroc"]])


def _add(folder: Path, arm: str) -> None:
    for cohort in range(20):
        scores = np.random.default_rng(cohort).random(8, dtype=np.float32)
        ControlTable(folder).add(SETTING, "", [0, 1] * 4, [Training(arm, cohort, scores, 0.1, 0.1)])


def test_two_processes_lose_no_row(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_add, args=(tmp_path, arm)) for arm in ("ptm", "full")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(ControlTable(tmp_path).rows()) == 40


def test_bad_scores_and_damaged_files(tmp_path: Path, data: Data) -> None:
    table = ControlTable(tmp_path)
    for scores in (np.ones(3, np.float32), np.full(4, np.nan, np.float32)):
        with pytest.raises(EvaluationError):
            table.add(SETTING, "", [0, 1, 0, 1], [Training("ptm", 0, scores, 0.1, 0.1)])
    assert table.rows().empty
    run(tmp_path, data)
    part = tmp_path / "scores" / "head" / "0.6" / "30" / "ptm" / "2.npy"
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(RunError, match=r"can't be read[^$]*2\.npy"):
        table.bundle(data[2].label, np.arange(80))
    (tmp_path / "results.csv").write_text("tier,rho\nhead,x\n")
    with pytest.raises(RunError, match=r"can't be read[^$]*results\.csv"):
        table.rows()
    (tmp_path / "made_from.json").write_text("{")
    with pytest.raises(RunError, match=r"can't be read[^$]*made_from\.json"):
        run(tmp_path, data)


def test_fingerprints_tell_values_shapes_and_types_apart(data: Data) -> None:
    ids = data[0].ids[:12]
    same, *others = (fingerprint(t) for t in (ids.clone(), ids + 1, ids.view(3, 4), ids.double()))
    assert fingerprint(ids) == same
    assert len({same, *others}) == 4

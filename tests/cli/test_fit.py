"""fit -> the same command again -> test -> overrides, through the real command line."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Cli, start
from xmkd.data.toy import write_study


def only_run(experiment: Path) -> Path:
    (folder,) = (p for p in (experiment.parent / "runs" / experiment.stem).iterdir() if p.is_dir())
    return folder


def metric(folder: Path, name: str) -> list[float]:
    table = pd.read_csv(folder / "metrics.csv")
    return table.loc[table["metric"] == name, "value"].tolist()


@pytest.fixture
def trained(cli: Cli, experiment: Path) -> Path:
    assert cli("fit", experiment).code == 0
    return only_run(experiment)


def test_fit_leaves_a_whole_run_folder(trained: Path) -> None:
    for name in ("config.yaml", "provenance.json", "metrics.csv", "metrics_test.csv", "summary.json"):
        assert (trained / name).is_file(), name
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    test = pd.read_csv(trained / "predictions_test.csv")
    assert list(test.columns) == ["sample_id", "patient_id", "site", "fold", "label", "score"]
    assert test["sample_id"].is_unique
    assert test["score"].between(0, 1).all()
    record = json.loads((trained / "provenance.json").read_text())
    assert record["versions"]["torch"] != "none"
    text = (trained / "provenance.json").read_text()  # in quotes: a hash may begin like an id
    assert not any(f'"{patient}"' in text for patient in test["patient_id"]), "ids must be hashed"


def test_fit_prints_headlines_with_intervals(cli: Cli, experiment: Path) -> None:
    called = cli("fit", experiment)
    lines = called.out.splitlines()
    assert any(line.startswith("test/auroc ") and "n=" in line and "patients=" in line for line in lines)
    again = cli("fit", experiment)
    assert again.code == 0
    assert again.out.splitlines()[-3:] == lines[-3:], "a finished run prints its result and does not train"
    assert "Epoch" not in again.out


def test_another_setting_is_another_run_and_a_runtime_setting_is_not(cli: Cli, experiment: Path) -> None:
    cli("fit", experiment)
    first = only_run(experiment)
    cli("fit", experiment, "data.num_workers=1", "logging.project=other")
    assert only_run(experiment) == first
    cli("fit", experiment, "optim.lr=0.002")
    assert len([p for p in first.parent.iterdir() if p.is_dir()]) == 2


def test_result_does_not_depend_on_workers(cli: Cli, experiment: Path) -> None:
    scores = []
    for workers in (0, 1, 2):
        assert cli("fit", experiment, f"data.num_workers={workers}", "resume=never").code == 0
        scores.append(pd.read_csv(only_run(experiment) / "predictions_test.csv"))
    pd.testing.assert_frame_equal(scores[0], scores[1], check_exact=True)
    pd.testing.assert_frame_equal(scores[0], scores[2], check_exact=True)


def test_seed_changes_the_result(cli: Cli, experiment: Path) -> None:
    cli("fit", experiment)
    before = pd.read_csv(only_run(experiment) / "predictions_test.csv")
    cli("fit", experiment, "seed=1", f"runs={experiment.parent / 'other'}")
    (other,) = (p for p in (experiment.parent / "other" / experiment.stem).iterdir() if p.is_dir())
    after = pd.read_csv(other / "predictions_test.csv")
    assert before["sample_id"].tolist() == after["sample_id"].tolist(), "the split has a seed of its own"
    assert not before["score"].equals(after["score"])


def test_killed_in_mid_epoch_ends_as_if_never_killed(cli: Cli, experiment: Path, tmp_path: Path) -> None:
    words = ["trainer.max_epochs=6", "trainer.log_every_n_steps=1", "data.num_workers=1"]
    assert cli("fit", experiment, *words, f"runs={tmp_path / 'whole'}").code == 0
    whole = next(p for p in (tmp_path / "whole" / experiment.stem).iterdir() if p.is_dir())

    process = start("fit", experiment, *words)
    wait_for_steps(experiment, 12)
    process.send_signal(signal.SIGKILL)
    process.wait()
    broken = only_run(experiment)
    assert not (broken / "summary.json").exists(), "killed too late: the run had finished"
    steps = pd.read_csv(broken / "metrics.csv")["step"].max()
    assert steps < pd.read_csv(whole / "metrics.csv")["step"].max()

    assert cli("fit", experiment, *words).code == 0
    expected, found = (pd.read_csv(p / "metrics.csv") for p in (whole, broken))
    pd.testing.assert_frame_equal(expected, found, rtol=0, atol=1e-6)
    assert not found.duplicated(["step", "metric"]).any()
    assert sorted(found.loc[found["metric"] == "train/loss", "step"]) == list(range(1, found["step"].max() + 1))
    scores = [pd.read_csv(p / "predictions_test.csv")["score"] for p in (whole, broken)]
    assert (scores[0] - scores[1]).abs().max() <= 1e-6


def wait_for_steps(experiment: Path, steps: int) -> None:
    """Until a run's metrics.csv has seen so many steps."""
    for _ in range(600):
        files = list((experiment.parent / "runs").glob("*/*/metrics.csv"))
        if files and sum("train/loss" in line for line in files[0].read_text().splitlines()) >= steps:
            return
        time.sleep(0.1)
    pytest.fail("the run did not get going")


def test_test_command_repeats_the_predictions(cli: Cli, trained: Path) -> None:
    before = (trained / "predictions_test.csv").read_bytes()
    (trained / "predictions_test.csv").unlink()
    assert cli("test", trained).code == 0
    assert (trained / "predictions_test.csv").read_bytes() == before


def test_a_ruined_checkpoint_is_a_clear_error(cli: Cli, trained: Path, experiment: Path) -> None:
    (trained / "summary.json").unlink()
    (trained / "checkpoints" / "last.ckpt").write_bytes(b"not a checkpoint")
    called = cli("fit", experiment)
    assert called.code == 2
    assert "last.ckpt" in called.err
    assert "resume=never" in called.err


def test_crossval_gives_every_sample_one_out_of_fold_score(cli: Cli, experiment: Path, toy: Path) -> None:
    called = cli("crossval", experiment, "data.folds=3", "data.split.val=0", "trainer.max_epochs=1")
    assert called.code == 0, called.err
    assert "oof/auroc" in called.out
    parent = only_run(experiment)
    oof = pd.read_csv(parent / "predictions_oof.csv")
    assert sorted(oof["sample_id"]) == sorted(pd.read_csv(toy)["sample_id"])
    assert oof.groupby("patient_id")["fold"].nunique().eq(1).all()
    assert sorted(p.name for p in parent.glob("fold_*")) == ["fold_0", "fold_1", "fold_2"]
    assert len(set(json.loads((parent / "provenance.json").read_text())["fold_splits"])) == 3


def test_another_manifest_is_test_data_as_a_whole(cli: Cli, trained: Path, tmp_path: Path) -> None:
    other = write_study(tmp_path / "other", patients=12, each=2, size=32, seed=9, name="elsewhere")
    called = cli("test", trained, f"data.streams.tvus.manifest={other}")
    assert called.code == 0, called.err
    (folder,) = trained.glob("test_*")
    assert sorted(pd.read_csv(folder / "predictions_test.csv")["sample_id"]) == sorted(pd.read_csv(other)["sample_id"])
    thresholds = [json.loads((f / "summary.json").read_text())["threshold"]["value"] for f in (trained, folder)]
    assert thresholds[0] == thresholds[1], "the threshold was fixed on the run's own validation patients"


def test_a_trained_method_keeps_its_settings(cli: Cli, trained: Path) -> None:
    called = cli("test", trained, "method.select=inner_val")
    assert called.code == 2
    assert "method" in called.err


def test_a_folder_that_is_not_there_is_not_its_parent(cli: Cli, trained: Path) -> None:
    called = cli("report", trained / "fold_99")
    assert called.code == 2
    assert "fold_99" in called.err

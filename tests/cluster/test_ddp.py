"""Two processes on one machine: each sample once, and the same figures as one process gives."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.test_fit import only_run
from tests.conftest import Cli, start

TWO = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
LOOPBACK = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}


def run_in_two(*words: object) -> str:
    process = start(*words, *TWO, **LOOPBACK)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def test_two_processes_validate_one_checkpoint_alike(cli: Cli, experiment: Path) -> None:
    # 23 test samples cannot be shared out evenly: one is read twice and must count once.
    assert cli("fit", experiment, "data.split.test=0.29").code == 0
    run = only_run(experiment)
    before = pd.read_csv(run / "predictions_test.csv")
    figures = json.loads((run / "summary.json").read_text())["metrics"]
    (run / "predictions_test.csv").unlink()
    (run / "summary.json").write_text("{}")  # both must come back

    run_in_two("test", run)

    after = pd.read_csv(run / "predictions_test.csv")
    assert after["sample_id"].tolist() == before["sample_id"].tolist()
    assert (after["score"] - before["score"]).abs().max() <= 1e-6
    again = json.loads((run / "summary.json").read_text())["metrics"]
    expected = {name: pytest.approx(figure["value"], abs=1e-6, nan_ok=True) for name, figure in figures.items()}
    assert {name: figure["value"] for name, figure in again.items()} == expected


def test_two_processes_train_one_run(experiment: Path) -> None:
    out = run_in_two("fit", experiment)
    run = only_run(experiment)
    assert (run / "summary.json").is_file()
    assert out.count("run folder:") == 1, "only the first process speaks"
    losses = pd.read_csv(run / "metrics.csv").query("metric == 'train/loss'")
    assert not losses["step"].duplicated().any()
    test = pd.read_csv(run / "predictions_test.csv")
    assert test["sample_id"].is_unique

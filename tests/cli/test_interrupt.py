"""Signals and downloads: what a cluster or a firewall does to a run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.test_fit import only_run, wait_for_steps
from tests.conftest import Cli, start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_says_so_and_is_not_finished(experiment: Path, number: signal.Signals) -> None:
    process = start("fit", experiment, "trainer.max_epochs=500", "trainer.log_every_n_steps=1")
    wait_for_steps(experiment, 6)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert "goes on from the last checkpoint" in out
    assert "Traceback" not in out
    assert not (only_run(experiment) / "summary.json").exists()


def test_weights_that_cannot_be_downloaded_are_a_clear_error(
    cli: Cli, experiment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    called = cli("fit", experiment, "method.weights=imagenet", "method.backbone=resnet18")
    assert called.code == 2
    assert "method.weights=PATH" in called.err
    assert not (experiment.parent / "runs" / experiment.stem).exists()

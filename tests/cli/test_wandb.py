"""Weights & Biases without a network: offline runs carry the run's own id, before and after a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_fit import only_run
from tests.conftest import Cli


def offline_runs(run: Path) -> list[str]:
    return sorted(p.name.rsplit("-", 1)[-1] for p in (run / "wandb").glob("offline-run-*"))


def test_offline_run_has_the_run_id_and_keeps_it(
    cli: Cli, experiment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert cli("fit", experiment, "logging.wandb=offline").code == 0
    run = only_run(experiment)
    assert offline_runs(run) == [run.name]
    (run / "summary.json").unlink()  # as if it had been stopped before the evaluation
    assert cli("fit", experiment, "logging.wandb=offline").code == 0
    assert offline_runs(run) == [run.name, run.name]


def test_disabled_writes_nothing(cli: Cli, experiment: Path) -> None:
    assert cli("fit", experiment).code == 0
    assert not (only_run(experiment) / "wandb").exists()

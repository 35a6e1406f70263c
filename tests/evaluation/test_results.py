"""What a run says in the end, from run folders that no training made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.conftest import Predictions
from xmkd.config import Experiment, load
from xmkd.errors import RunError
from xmkd.results import _held_out, _threshold
from xmkd.runs import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    return Run(tmp_path / "run")


@pytest.mark.parametrize(("policy", "value"), [("1e-05", 1e-5), ("0.3", 0.3), (" .5 ", 0.5)])
def test_a_number_needs_no_validation_however_it_is_written(experiment: Path, policy: str, value: float) -> None:
    settings = load(experiment, [f"evaluation.operating_point='{policy}'"])
    point = _threshold(settings, ["no", "yes"], None, "there are no validation patients")
    assert (point.value, point.policy, point.note) == (value, "fixed", "")


def test_without_validation_a_promise_is_refused(experiment: Path) -> None:
    settings = load(experiment, ["evaluation.operating_point=sens>=0.9"])
    assert "sens>=0.9 refused: no patients" in _threshold(settings, ["no", "yes"], None, "no patients").note


def test_damaged_calibration_predictions_are_no_missing_ones(
    experiment: Path, run: Run, predictions: Predictions
) -> None:
    settings: Experiment = load(experiment)
    predictions().to_csv(run.folder / "predictions_val.csv", index=False)
    found, doubt = _held_out(run, settings)
    assert found is not None
    assert doubt == ""
    (run.folder / "predictions_calib.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="can't be read"):
        _held_out(run, settings)

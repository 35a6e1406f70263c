"""What a run says in the end, from run folders that no training made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import Cli
from tests.evaluation.conftest import Predictions
from xmkd.config import Experiment, load
from xmkd.data.limits import Limit
from xmkd.data.streams import plan
from xmkd.errors import LeakageError, RunError
from xmkd.evaluation.thresholds import operating_point
from xmkd.reporting.blocks import Matrix
from xmkd.reporting.evidence import Evidence
from xmkd.reporting.overview import cards
from xmkd.reporting.performance import operating_point as operating_section
from xmkd.results import _held_out, _threshold, announce, comparison, join_folds, write_summary
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


def a_run(folder: Path, table: pd.DataFrame, salt: str = "one", lock: str = "") -> Path:
    """A folder that `compare` takes for a run."""
    folder.mkdir(parents=True)
    table.to_csv(folder / "predictions_test.csv", index=False)
    (folder / "config.yaml").touch()
    keys = ("commit", "versions", "split", "fitted_on", "ancestors", "continued")
    manifest = {"file": f"{folder.name}.csv", **({"lock": lock} if lock else {})}
    record = {**dict.fromkeys(keys, ""), "manifests": {"tvus": manifest}, "salt": salt}
    (folder / "provenance.json").write_text(json.dumps(record))
    return folder


def test_runs_of_different_difficulty_are_not_compared(tmp_path: Path, predictions: Predictions) -> None:
    table = predictions()
    first, second = a_run(tmp_path / "a", table, lock="0a"), a_run(tmp_path / "b", table, lock="0b")
    with pytest.raises(RunError, match="of different difficulty") as caught:
        comparison(first, [second])
    assert "a.csv: lock 0a; b.csv: lock 0b" in str(caught.value)
    assert "a - c" in comparison(first, [a_run(tmp_path / "c", table, lock="0a")])


CEILING = Limit(0.99, 0.985, 0.995, 200_000)


def test_a_simulated_label_s_limits_are_printed_with_the_gap(
    run: Run, predictions: Predictions, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"oracle": Limit(0.97, 0.96, 0.98, 4000), "ceiling": CEILING}
    write_summary(run, predictions(images=1), "test", ["no", "yes"], operating_point(0.5), None, limits, "0a1b")
    announce(run)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["oracle/auroc"] == "oracle/auroc 0.970 [0.960, 0.980] n=4000 patients=4000"
    model = run.summary()["metrics"]["auroc"]
    low = 0.97 - model["value"] - np.hypot(0.01, model["high"] - model["value"])
    assert lines["test/gap_to_oracle"].startswith(f"test/gap_to_oracle {0.97 - model['value']:.3f} [{low:.3f}, ")
    assert set(pd.read_csv(run.folder / "metrics_test.csv", dtype=str)["lock"]) == {"0a1b"}


def test_a_model_above_the_ceiling_is_a_leak(run: Run, predictions: Predictions) -> None:
    perfect = predictions(patients=300, images=1)
    perfect["score"] = 0.2 + 0.6 * perfect["label"] + 0.1 * perfect["score"]
    with pytest.raises(LeakageError, match="above the latent ceiling"):
        write_summary(
            run, perfect, "test", ["no", "yes"], operating_point(0.5), None, {"ceiling": Limit(0.8, 0.79, 0.81, 9)}
        )
    assert not run.finished


def test_runs_under_different_salts_are_not_compared(tmp_path: Path, predictions: Predictions) -> None:
    table = predictions()
    first, second = a_run(tmp_path / "a", table), a_run(tmp_path / "b", table.assign(score=0.5))
    assert "a - b" in comparison(first, [second])
    with pytest.raises(RunError, match="different salts") as caught:
        comparison(first, [a_run(tmp_path / "c", table.assign(score=0.5), salt="two")])
    assert len(caught.value.fixes) == 2
    assert "c: salt two" in str(caught.value)


def test_the_command_line_takes_the_cut_of_the_readers(cli: Cli, tmp_path: Path, predictions: Predictions) -> None:
    table = predictions()
    run, readers = a_run(tmp_path / "a", table), tmp_path / "readers.csv"
    labels = table.groupby("patient_id", sort=False)["label"].first()
    scores = pd.DataFrame({"reader": "ann", "patient": labels.index, "score": labels.to_numpy() + 2})
    scores.to_csv(readers, index=False)
    refused = cli("compare", run, readers)
    assert refused.code == 2
    assert "run from 2 to 3" in refused.err
    assert "--cut" in refused.err
    called = cli("compare", run, readers, "--cut", "3")
    assert called.code == 0, called.err
    assert "a reader's score is a positive call from 3 on" in called.out
    assert "reader ann: sensitivity 1.000" in called.out
    assert "--cut" in cli("compare", run, a_run(tmp_path / "b", table), "--cut", "3").err


def test_figures_of_patients_come_first(run: Run, predictions: Predictions, capsys: pytest.CaptureFixture[str]) -> None:
    table = predictions()
    write_summary(run, table, "test", ["no", "yes"], operating_point("sens>=0.9", predictions(seed=1)), None)
    announce(run)
    printed = capsys.readouterr().out.splitlines()
    names = ["patient/auroc", "patient/sensitivity", "patient/specificity", "auroc", "sensitivity", "specificity"]
    assert [line.split()[0] for line in printed[:6]] == [f"test/{name}" for name in names]
    assert "n=24 patients=24" in printed[1]
    assert "n=120 patients=24" in printed[4]
    assert any(line.startswith("operating point: ") and "a patient's mean score" in line for line in printed)


def test_one_sample_per_patient_has_one_kind_of_figures(
    run: Run, experiment: Path, predictions: Predictions, capsys: pytest.CaptureFixture[str]
) -> None:
    write_summary(run, predictions(images=1), "test", ["no", "yes"], operating_point(0.5), None)
    announce(run)
    assert "patient/" not in capsys.readouterr().out
    found = cards(Evidence(run, load(experiment), run.summary(), {}, None))
    assert [name for name, _, _ in found] == ["AUROC", "Sensitivity", "Specificity"]


def test_the_report_shows_figures_of_patients_in_large_type(
    run: Run, experiment: Path, predictions: Predictions
) -> None:
    write_summary(run, predictions(), "test", ["no", "yes"], operating_point(0.5), None)
    found = cards(Evidence(run, load(experiment), run.summary(), {}, None))
    assert [name for name, _, _ in found] == [f"{n}, per patient" for n in ("AUROC", "Sensitivity", "Specificity")]
    assert found[1][1] == f"{run.summary()['metrics']['patient/sensitivity']['value']:.3f}"


def test_a_cross_validation_calls_each_fold_at_its_own_threshold(
    tmp_path: Path, run: Run, experiment: Path, predictions: Predictions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two folds on scales of their own: no common threshold would do."""
    settings = load(experiment, ["data.folds=2"])
    scales, folds = (0.1, 1.0), [Run(tmp_path / f"fold_{k}") for k in (0, 1)]
    for k, (fold, scale) in enumerate(zip(folds, scales, strict=True)):
        table = predictions(seed=k, shift=4)
        table["score"] *= scale
        a_run(fold.folder, table.assign(patient_id=f"{k}" + table["patient_id"], sample_id=f"{k}" + table["sample_id"]))
        validation = predictions(seed=9 + k, shift=4)
        point = operating_point("sens>=0.9", validation.assign(score=scale * validation["score"]))
        write_summary(fold, fold.predictions("test"), "test", ["no", "yes"], point, None)
    join_folds(run, settings, plan(settings.data), folds)
    parts, joined = [fold.summary()["metrics"] for fold in folds], run.summary()["metrics"]
    for name in ("sensitivity", "specificity", "patient/sensitivity", "patient/specificity", "balanced_accuracy"):
        assert joined[name]["value"] == pytest.approx(sum(part[name]["value"] for part in parts) / 2), name
    assert joined["sensitivity"]["method"] == "Korn-Graubard"
    assert joined["sensitivity"]["note"] == "each fold at its own threshold, fixed on its validation patients"
    announce(run)
    assert "operating point: each fold at its own threshold, fixed on its" in capsys.readouterr().out

    table = run.predictions("oof")
    called = table["score"] >= np.where(table["fold"] == 0, *(fold.summary()["threshold"]["value"] for fold in folds))
    evidence = Evidence(run, settings, run.summary(), run.provenance(), None)
    (matrix,) = (block for block in operating_section(evidence).blocks if isinstance(block, Matrix))
    assert matrix.counts[1] == [
        int((~called & (table["label"] == 1)).sum()),
        int((called & (table["label"] == 1)).sum()),
    ]

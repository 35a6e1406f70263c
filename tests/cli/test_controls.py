"""`xmkd controls` as users call it: a whole table from nothing, gone on with, mended, and read by its claims."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.chain import small_networks
from tests.cli.conftest import refused
from tests.conftest import REPOSITORY, Cli
from xmkd import training
from xmkd.controls.arms import ARMS
from xmkd.evaluation.control_results import load
from xmkd.evaluation.statistics import auroc

TABLE = "experiments/controls/tiny.yaml"
TUNED = ["ptm", "full", "oracle_pair"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small networks, no reports, and nothing outside the test's folder."""
    small_networks(monkeypatch)
    monkeypatch.setattr(training, "write_or_warn", lambda *_: None)
    monkeypatch.setenv("XMKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return ["controls", TABLE, f"data={tmp_path / 'data'}", f"out={tmp_path / 'out'}", f"runs={tmp_path / 'runs'}"]


def trained(runs: Path) -> dict[str, int]:
    """When each checkpoint and each line of losses was written."""
    files = [*runs.rglob("*.ckpt"), *runs.rglob("metrics.csv")]
    return {str(p.relative_to(runs)): p.stat().st_mtime_ns for p in files}


def test_a_table_from_nothing_is_complete_and_is_gone_on_with(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    called = cli(*command)
    assert called.code == 0, called.err
    folder = tmp_path / "out" / "tiny"
    assert f"table: {folder}" in called.out
    for word in ("teacher, out of fold", "head, rho 0.6, 8 labels: 2 of 2", "cohort 1, oracle_pair"):
        assert word in called.out

    table = load(folder).table
    cells = table.groupby(["tier", "labels"])["arm"].value_counts().to_dict()
    heads = {("head", labels, arm.name): 2 for labels in (4, 8) for arm in ARMS}
    heads |= {("signs", labels, arm.name): 2 for labels in (4, 8) for arm in ARMS if arm.encoder == "mae"}
    heads |= {("signs", labels, dose): 2 for labels in (4, 8) for dose in ("dose_0", "dose_1")}
    assert {path.name for path in folder.glob("*.png")} == {"auroc.png", "gains.png", "doses.png"}
    assert cells == heads | {("finetuned", 8, arm): 2 for arm in TUNED}
    check_scores(folder)
    check_features(folder)
    said = (folder / "table.md").read_text()
    assert re.match(r"Rho 0.6: rank correlation .+, given the label: oracle_pair -?0\.\d\d \(\w+\)", said)
    assert said.count("| minus surrogate |") == 2, "no surrogate is fine-tuned in this table"
    assert said.count("| minus ptm |") == 3
    assert said.count("| minus dose_0 |") == 1

    results, models = (folder / "results.csv").read_bytes(), trained(tmp_path / "runs")
    assert len({Path(name).parts[:2] for name in models}) == 1 + 1 + 2 * len(TUNED), "teacher, auto-encoder, students"
    assert cli(*command).code == 0
    assert (folder / "results.csv").read_bytes() == results
    assert trained(tmp_path / "runs") == models, "nothing is trained again"

    judged = cli("compare", "--claims", "experiments/claims.yaml", folder)
    assert judged.code == 0, judged.err
    assert "not yet measured" in judged.out

    for lost in ("head/0.6/8/full/1.npy", "finetuned/0.6/8/ptm/0.npy"):
        whole = (folder / "scores" / lost).read_bytes()
        (folder / "scores" / lost).unlink()
        assert cli(*command).code == 0
        assert (folder / "scores" / lost).read_bytes() == whole
    assert sorted((folder / "results.csv").read_bytes().splitlines()) == sorted(results.splitlines())
    assert trained(tmp_path / "runs") == models

    other = "student.words=['data.streams.mri.mri={spacing_mm: [12.0, 5.0, 5.0], size: [8, 48, 48]}']"
    refused(cli(*command, other), "made from something else", "features of mae")
    assert (folder / "results.csv").is_file()


def check_scores(folder: Path) -> None:
    """Every row has its scores, and they are of the test patients alone."""
    table, found = load(folder).table, np.load(folder / "scores.npz")
    assert len(found.files) == 2 + len(table)
    assert all("-mri-test-" in who for who in found["patient_id"])
    for row in table.itertuples():
        scores = found[f"{row.tier}/{row.rho:g}/{row.labels}/{row.arm}/{row.cohort}"]
        assert auroc(found["label"], scores) == pytest.approx(row.auroc, abs=1e-9)


def check_features(folder: Path) -> None:
    """The pool is in the order in which the fine-tuned tier takes its cohorts, and both encoders differ."""
    for side, count in (("train", 16), ("test", 6)):
        (file,) = (folder / "features").glob(f"*_{side}_*.npz")
        with np.load(file) as kept:
            who = list(kept["patient_id"])
            assert who == sorted(who)
            assert len(who) == count
            assert not np.allclose(kept["features_mae"], kept["features_random"])
    for cohort, first in ((0, 0), (1, 8)):
        table = pd.read_csv(folder / "manifests" / f"pod_controls_tiny_8_{cohort}.csv")
        with np.load(next((folder / "features").glob("*_train_*.npz"))) as kept:
            assert list(table.loc[table["split"] == "train", "patient_id"]) == list(
                kept["patient_id"][first : first + 8]
            )

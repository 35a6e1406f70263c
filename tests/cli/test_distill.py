"""Students whose teacher, auto-encoder or data don't fit: a clear refusal before anything is made or lost."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.chain import DISTILL, MAE, Chain, build, small_networks
from tests.cli.conftest import contents, refused, run_folders
from tests.conftest import EXPERIMENT, Cli
from xmkd.nets.vit3d import PRESETS

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*higher scores don't go with more positives", "ignore:.*lies in no run folder"
)
ALONE = ["method.alpha=0", "method.epoch_offset=1", "method.teacher=none"]


@pytest.fixture(scope="module")
def chain_once(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    with pytest.MonkeyPatch.context() as patch:
        small_networks(patch)
        return build(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def chain(chain_once: Chain, monkeypatch: pytest.MonkeyPatch) -> Chain:
    small_networks(monkeypatch)
    monkeypatch.setattr("xmkd.training.write_or_warn", lambda *_: None)
    return chain_once


@pytest.fixture
def student(chain: Chain, tmp_path: Path) -> Path:
    return chain.write("distill", DISTILL, chain.labelled, tmp_path / "runs")


def copied(folder: Path, name: str, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / name))


def test_it_trains_and_tells_the_headlines(cli: Cli, student: Path) -> None:
    called = cli("fit", student)
    assert called.code == 0, called.err
    assert "test/auroc" in called.out
    assert cli("test", run_folders(student)[0]).code == 0


def test_a_teacher_of_another_label(cli: Cli, chain: Chain, student: Path, tmp_path: Path) -> None:
    manifest, card = tmp_path / "other.csv", tmp_path / "other.yaml"
    pd.read_csv(chain.labelled, dtype=str).rename(columns={"filled": "lit"}).to_csv(manifest, index=False)
    card.write_text(chain.labelled.with_suffix(".yaml").read_text().replace("  filled:", "  lit:"))
    stream = "data.streams.mri"
    words = [f"{stream}.manifest={manifest}", f"{stream}.root={chain.labelled.parent}", f"{stream}.label=lit"]
    refused(cli("fit", student, *words), "the teacher tells filled", "the student is to tell lit")
    card.write_text(chain.labelled.with_suffix(".yaml").read_text().replace("empty", "hollow"))
    table = pd.read_csv(chain.labelled, dtype=str).replace({"filled": {"empty": "hollow"}})
    table.to_csv(manifest, index=False)
    refused(cli("fit", student, *words[:2]), "(empty, filled)", "(hollow, filled)")
    assert not run_folders(student)


def test_a_teacher_without_out_of_fold_scores(cli: Cli, chain: Chain, student: Path, tmp_path: Path) -> None:
    single = chain.teacher / "fold_0"
    refused(cli("fit", student, f"method.teacher={single}"), "no finished cross-validation", "xmkd crossval")
    cut = copied(chain.teacher, "cut", chain.base / "runs")
    (cut / "summary.json").unlink()
    refused(cli("fit", student, f"method.teacher={cut}"), "no finished cross-validation")
    (cut / "provenance.json").unlink()
    refused(cli("fit", student, f"method.teacher={cut}"), "no run folder")
    refused(cli("fit", student, f"method.teacher={tmp_path / 'nowhere'}"), "nowhere")
    shutil.rmtree(cut)
    assert not run_folders(student)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("fold", "", ["not out-of-fold"]),
        ("score", "nan", ["score"]),
        ("score", "1.5", ["20 scores are no probabilities"]),
        ("patient_id", "p000", ["two folds"]),
    ],
)
def test_a_teacher_whose_scores_are_none(
    cli: Cli, chain: Chain, student: Path, column: str, value: str, words: list[str]
) -> None:
    folder = copied(chain.teacher, "spoilt", chain.base / "runs")
    table = pd.read_csv(folder / "predictions_oof.csv", dtype=str, keep_default_na=False)
    table.assign(**{column: value}).to_csv(folder / "predictions_oof.csv", index=False)
    called = cli("fit", student, f"method.teacher={folder}")
    shutil.rmtree(folder)
    refused(called, "predictions_oof.csv", *words)
    assert not run_folders(student)


def test_features_that_the_teacher_did_not_keep(cli: Cli, chain: Chain, student: Path) -> None:
    folder = copied(chain.teacher, "without", chain.base / "runs")
    (folder / "fold_0" / "features_test.npy").write_bytes(b"no array")
    words = [f"method.teacher={folder}", "method.feature_weight=1"]
    spoilt = cli("fit", student, *words)
    (folder / "fold_0" / "features_test.npy").unlink()
    gone = cli("fit", student, *words)
    shutil.rmtree(folder)
    refused(spoilt, "features_test.npy", "method.feature_weight=0")
    refused(gone, "keeps no features", "method.feature_weight=0")
    assert not run_folders(student)


def test_an_auto_encoder_of_another_network(
    cli: Cli, chain: Chain, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(cli("fit", student, "method.patch=[4,4,8]", *ALONE), "another network", "(4, 8, 8)", "24 channels")
    called = cli("fit", student, "method.patch=[2,8,16]", *ALONE)
    refused(called, "another network", "patch (4, 8, 8)", "patch (2, 8, 16)")  # as many voxels in another shape
    monkeypatch.setitem(PRESETS, "small", PRESETS["large"])  # a student of other widths, whose sizes are these
    refused(cli("fit", student, "method.student=small", *ALONE), "another network", "tiny")
    assert not run_folders(student)


def test_what_is_no_auto_encoder(cli: Cli, chain: Chain, student: Path, tmp_path: Path) -> None:
    refused(cli("fit", student, f"method.mae={chain.teacher / 'fold_0'}", *ALONE), "one of method teacher")
    refused(cli("fit", student, f"method.mae={tmp_path / 'nowhere'}", *ALONE), "nowhere")
    folder = copied(chain.mae, "cut", chain.base / "runs" / "mae")
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"PK nonsense")
    spoilt = cli("fit", student, f"method.mae={folder}", *ALONE)
    (folder / "checkpoints" / "last.ckpt").unlink()
    gone = cli("fit", student, f"method.mae={folder}", *ALONE)
    (folder / "summary.json").unlink()
    cut = cli("fit", student, f"method.mae={folder}", *ALONE)
    shutil.rmtree(folder)
    refused(spoilt, "last.ckpt")
    refused(gone, "last.ckpt", "name one of its folds")
    refused(cut, "not finished")
    assert not run_folders(student)


def test_stages_of_different_folds(cli: Cli, chain: Chain, student: Path, tmp_path: Path) -> None:
    stage = chain.write("stage", MAE, chain.labelled, tmp_path / "stages")
    fold = ["data.folds=3", "data.split.test=0"]
    assert cli("fit", stage, *chain.probe, *fold, "data.fold=2").code == 0
    (mae,) = (tmp_path / "stages" / "stage").iterdir()
    words = [f"method.mae={mae}", *ALONE, *fold]
    refused(cli("fit", student, *words, "data.fold=1"), "used to fit", "data.fold is 2 there and 1 here")
    called = cli("fit", student, *words, "data.fold=2", "data.split.seed=1")
    refused(called, "used to fit", "data.split.seed is 0 there and 1 here")
    assert not run_folders(student)
    assert cli("fit", student, *words, "data.fold=2").code == 0


def test_volumes_without_labels(cli: Cli, chain: Chain, student: Path, tmp_path: Path) -> None:
    refused(cli("fit", student, "data.streams.mri.label=null"), "needs a label column", "method mae")
    refused(cli("fit", student, f"data.streams.mri.manifest={chain.corpus}"), "no label 'filled'")
    manifest = tmp_path / "bare.csv"
    pd.read_csv(chain.labelled, dtype=str).assign(filled="").to_csv(manifest, index=False)
    manifest.with_suffix(".yaml").write_text(chain.labelled.with_suffix(".yaml").read_text())
    words = [f"data.streams.mri.manifest={manifest}", f"data.streams.mri.root={chain.labelled.parent}"]
    refused(cli("fit", student, *words), "no sample is left", "check the label column")
    assert not run_folders(student)


def test_volumes_that_are_no_whole_number_of_patches(cli: Cli, chain: Chain, student: Path, tmp_path: Path) -> None:
    pretraining = chain.write("mae", MAE, chain.corpus, tmp_path / "runs")
    for experiment in (student, pretraining):
        refused(cli("fit", experiment, "data.streams.mri.mri.size=[8,16,20]"), "W = 20 is not divisible by 8")
    assert not run_folders(student)


@pytest.mark.parametrize("alpha", ["1.1", "-0.1", "often", "nan"])
def test_an_alpha_out_of_its_range(cli: Cli, student: Path, alpha: str) -> None:
    refused(cli("fit", student, f"method.alpha={alpha}"), "method.alpha")
    assert not run_folders(student)


def test_own_scores(cli: Cli, chain: Chain, student: Path, tmp_path: Path) -> None:
    table = pd.read_csv(chain.labelled, dtype=str)[["sample_id", "patient_id", "filled"]]
    table["label"] = (table.pop("filled") == "filled").astype(int)
    given = table.assign(score=np.linspace(0.2, 0.8, len(table)), fold=np.arange(len(table)) // 2 % 2)
    path = tmp_path / "own.csv"
    words = ["method.pairing=self", "method.teacher=none", f"method.own_scores={path}"]
    refused(cli("fit", student, *words), "no file of the samples' own scores", "own.csv")
    for spoilt, said in (
        (given.iloc[:20], "have no score of their own"),
        (given.drop(columns="score"), "score"),
        (given.drop(columns="fold"), "not out-of-fold"),
        (given.assign(score=2.0), "no probabilities"),
        (given.assign(score=np.nan), "score"),
        (given.assign(label=0), "negative"),
        (given.iloc[:0], "no rows"),
    ):
        spoilt.to_csv(path, index=False)
        refused(cli("fit", student, *words), said, "own.csv")
    path.write_bytes(b"\xff\xfe")
    refused(cli("fit", student, *words), "own.csv")
    assert not run_folders(student)
    given.to_csv(path, index=False)
    assert cli("fit", student, *words).code == 0


def test_a_refusal_loses_nothing_of_an_earlier_run(cli: Cli, chain: Chain, student: Path) -> None:
    folder = copied(chain.teacher, "moved", chain.base / "runs")
    words = [f"method.teacher={folder}"]
    assert cli("fit", student, *words).code == 0
    (run,) = run_folders(student)
    before = contents(run)
    (folder / "summary.json").unlink()
    called = cli("fit", student, *words, "resume=never")
    shutil.rmtree(folder)
    refused(called, "no finished cross-validation")
    assert contents(run) == before


def test_an_auto_encoder_of_other_volumes_is_warned_about(cli: Cli, student: Path) -> None:
    told = "saw other volumes: spacing_mm .4.0, 1.0, 1.0. there and .4.0, 1.0, 2.0. here"
    with pytest.warns(UserWarning, match=told):
        assert cli("fit", student, "data.streams.mri.mri.spacing_mm=[4,1,2]", *ALONE).code == 0
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*saw other volumes.*")
        assert cli("fit", student, *ALONE).code == 0


def test_a_label_of_three_classes(cli: Cli, chain: Chain, student: Path, tmp_path: Path) -> None:
    table = pd.read_csv(chain.labelled, dtype=str)
    table["filled"] = [("empty", "half", "filled")[i % 3] for i in range(len(table))]
    table.to_csv(tmp_path / "three.csv", index=False)
    card = chain.labelled.with_suffix(".yaml").read_text().replace("[empty, filled]", "[empty, half, filled]")
    (tmp_path / "three.yaml").write_text(card.replace("    positive: filled\n", ""))
    stream = "data.streams.mri"
    words = [f"{stream}.manifest={tmp_path / 'three.csv'}", f"{stream}.root={chain.labelled.parent}"]
    for more in ([], ALONE):
        refused(cli("fit", student, *words, *more), "the student tells two classes", "empty, half, filled")
    assert not run_folders(student)


def test_volumes_of_one_class(cli: Cli, chain: Chain, student: Path, tmp_path: Path) -> None:
    table = pd.read_csv(chain.labelled, dtype=str)
    table[table["filled"] == "empty"].to_csv(tmp_path / "one.csv", index=False)
    (tmp_path / "one.yaml").write_text(chain.labelled.with_suffix(".yaml").read_text())
    words = [f"data.streams.mri.manifest={tmp_path / 'one.csv'}", f"data.streams.mri.root={chain.labelled.parent}"]
    refused(cli("fit", student, *words), "1 class(es) among these rows")
    assert not run_folders(student)


def test_a_teacher_is_no_experiment_of_its_own_data(cli: Cli, chain: Chain, tmp_path: Path) -> None:
    """A stream of ultrasound given to a student, and one of MRI to a teacher, are refused by their views."""
    student = chain.write("distill", DISTILL, chain.base / "ultrasound" / "tvus.csv", tmp_path / "runs")
    refused(cli("fit", student), "tvus")
    ultrasound = tmp_path / "teacher.yaml"
    cache = chain.base / "cache"
    ultrasound.write_text(EXPERIMENT.format(manifest=chain.labelled, cache=cache, runs=tmp_path / "runs"))
    refused(cli("fit", ultrasound), "mri")

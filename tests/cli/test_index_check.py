"""Bring your own study: index -> check -> fit on a small DICOM tree, word for word as docs/own_study.md tells it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.conftest import contents, refused
from tests.conftest import REPOSITORY, Cli, real_data
from tests.data.dicom_files import save, us_image
from xmkd.data.toy import _sample

Change = Callable[[pd.DataFrame], pd.DataFrame]
GUIDE = (REPOSITORY / "docs" / "own_study.md").read_text()
CARD, EXPERIMENT = re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.M | re.S)
COMMANDS = [line.split() for line in re.findall(r"^\$ xmkd (.*)$", GUIDE, re.M)]
FAST = ["method.backbone=test_resnet", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"]
INDEX = ("index", "study/dicom", "--card", "study/ours.yaml", "--labels", "study/labels.csv")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 patients with two stills each, a label table that misses one and names a stranger; this is the work folder."""
    folder = tmp_path / "study"
    for number in range(24):
        rng = np.random.default_rng(number)
        for image in range(2):
            pixels = _sample(rng, 96, 1, filled=bool(number % 2))[0]
            header = {
                "PatientID": f"HOSP{1000 + number}",
                "PatientName": "Doe^Marguerite",
                "SeriesDescription": "ovary",
            }
            save(us_image(pixels, **header), folder / "dicom" / f"case{number:02d}" / f"image{image}.dcm")
    numbers = range(1, 25)
    labels = {
        "patient_id": [f"HOSP{1000 + n}" for n in numbers],
        "endometriosis": ["yes" if n % 2 else "no" for n in numbers],
        "site": ["north" if n % 3 else "south" for n in numbers],
    }
    pd.DataFrame(labels).to_csv(folder / "labels.csv", index=False)
    (folder / "ours.yaml").write_text(CARD)
    (folder / "ours_teacher.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XMKD_CACHE", str(tmp_path / "cache"))
    return folder


def test_index_lists_what_matches_on_neither_side(cli: Cli, study: Path) -> None:
    called = cli(*INDEX)
    assert called.code == 0, called.err
    assert called.out.splitlines() == [
        "study/ours.csv written: 48 samples of 24 patients",
        "1 in the label table, but not in the folder:",
        "  HOSP1024",
        "1 in the folder, but not in the label table:",
        "  HOSP1000",
    ]
    table = pd.read_csv(study / "ours.csv", dtype=str).set_index("sample_id")
    assert list(table.loc["case01__image0"]) == [
        "HOSP1001", "tvus", "ovary", "dicom/case01/image0.dcm", "north", "yes",
    ]  # fmt: skip
    assert table.loc["case00__image0", ["site", "endometriosis"]].isna().all()
    assert "unchanged" in cli(*INDEX).out


def test_index_does_not_overwrite_another_manifest(cli: Cli, study: Path) -> None:
    (study / "ours.csv").write_text("precious")
    before = contents(study)
    refused(cli(*INDEX), "another manifest is here", "--force")
    assert contents(study) == before
    assert "48 samples" in cli(*INDEX, "--out", study / "theirs.csv").out
    assert (study / "ours.csv").read_text() == "precious"
    assert cli(*INDEX, "--force").code == 0
    assert "case01__image0" in (study / "ours.csv").read_text()


def test_own_study_from_files_to_a_result_without_ids(cli: Cli, study: Path) -> None:
    assert [command[0] for command in COMMANDS] == ["index", "check", "fit"]
    assert "--pseudonymise" in COMMANDS[0]
    for command in COMMANDS:
        called = cli(*command, *(FAST if command[0] == "fit" else []))
        assert called.code == 0, called.err
    assert "test/auroc" in called.out
    (run,) = (p for p in Path("runs/ours_teacher").iterdir() if p.is_dir())
    written = [study / "ours.csv", *(p for p in [*run.rglob("*"), *Path("cache").iterdir()] if p.is_file())]
    assert {"report.html", "provenance.json", "predictions_test.csv"} <= {p.name for p in written}
    for file in written:
        for secret in (b"HOSP10", b"Marguerite"):
            assert secret not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("index", "study/nowhere", "--card", "study/ours.yaml"), "no such folder"),
        (("index", "study/dicom", "--card", "study/nowhere.yaml"), "nowhere.yaml"),
        (("index", "study/dicom", "--card", "study/ours.yaml", "--labels", "study/nowhere.csv"), "nowhere.csv"),
        (
            ("index", "study/dicom", "--card", "study/ours.yaml", "--labels", "study/ours_teacher.yaml"),
            "can't read the table",
        ),
        ((*INDEX, "--on", "sample_id"), "no column 'sample_id'"),
        (("index", "runs", "--card", "study/ours.yaml"), "nothing to index"),
    ],
)
def test_index_of_what_is_not_there(cli: Cli, study: Path, words: tuple[str, ...], message: str) -> None:
    Path("runs").mkdir()
    before = contents(study)
    refused(cli(*words), message)
    assert contents(study) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(endometriosis=t["endometriosis"].replace("yes", "Yes")), "'Yes' is no class"),
        (lambda t: pd.concat([t, t.assign(endometriosis="no")]), "contradicts itself"),
        (lambda t: t[["patient_id"]], "no label column"),
    ],
)
def test_a_wrong_label_table(cli: Cli, study: Path, change: Change, message: str) -> None:
    change(pd.read_csv(study / "labels.csv", dtype=str)).to_csv(study / "labels.csv", index=False)
    refused(cli(*INDEX), message, "labels.csv")
    assert not (study / "ours.csv").exists()


def test_check_counts_each_side_of_an_experiment(cli: Cli, study: Path) -> None:
    assert cli(*INDEX).code == 0
    called = cli("check", "study/ours_teacher.yaml")
    assert called.code == 0, called.out
    lines = [line.split() for line in called.out.splitlines()]
    sizes = {
        words[0]: words[1:] for words in lines if words and words[0] in {"train", "val", "test"} and len(words) == 3
    }
    assert sum(int(patients) for _, patients in sizes.values()) == 23, "the unlabelled one is on no side"
    assert ["test", "6", "8", "0", "0.571", "4"] in lines, "no, yes, unlabelled, prevalence, positive patients"
    assert "nothing wrong was found" in called.out
    assert cli("check", "study/ours_teacher.yaml", "data.split.test=0.2").out != called.out, "overrides count"


def test_check_finds_what_is_wrong(cli: Cli, study: Path) -> None:
    assert cli(*INDEX).code == 0
    experiment = "study/ours_teacher.yaml"
    table = pd.read_csv("study/ours.csv", dtype=str)
    fitted, tested = "case03", "case04"
    table = table.assign(
        split=["test" if tested in p else "val" if p > "dicom/case15" else "train" for p in table["path"]]
    )
    table.to_csv("study/ours.csv", index=False)
    dicom = study / "dicom"
    same = (dicom / fitted / "image0.dcm").read_bytes()
    (dicom / tested / "image0.dcm").write_bytes(same)
    (dicom / "case05" / "image0.dcm").unlink()
    (dicom / "case06" / "image0.dcm").write_bytes(same[: len(same) // 2])
    called = cli("check", experiment)
    assert called.code == 2
    assert "Traceback" not in called.err
    for words in (
        "1 file missing: dicom/case05/image0.dcm",
        "1 file unreadable: dicom/case06/image0.dcm",
        "1 picture in several parts of the split (same pixels): case03__image0 = case04__image0",
        "1 picture with several labels (same pixels)",
        "1 pair of near-duplicates of different patients in two parts of the split",
    ):
        assert words in called.out, f"{words!r} is not in: {called.out}"
    quick = cli("check", experiment, "--quick")
    assert "1 file missing" in quick.out
    assert "unreadable" not in quick.out, "--quick opens nothing"


def test_check_of_what_is_not_there(cli: Cli, study: Path) -> None:
    refused(cli("check", "study/nowhere.csv"), "no such manifest")
    refused(cli("check", "study/nowhere.yaml"), "no such experiment")
    refused(cli("check", "study/ours_teacher.yaml"), "no such manifest", "ours.csv")
    refused(cli("check", "study/ours_teacher.yaml", "optim.lrr=1"), "optim.lrr")


def test_check_of_mmotu_counts_and_finds_near_duplicates(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    real_data("mmotu_tvus")
    monkeypatch.chdir(REPOSITORY)
    called = cli("check", "experiments/teacher_mmotu.yaml")
    assert called.code == 0, called.out
    assert "1469 samples of 74 patients" in called.out
    assert "near-duplicates of different patients in two parts of the split" in called.out


def test_manifests_of_a_folder_are_checked_together(cli: Cli, toy: Path, tmp_path: Path) -> None:
    """A patient who trains in one manifest and tests in another is seen although each is sound."""
    table = pd.read_csv(toy, dtype=str).assign(split="train")
    for name, split in (("a", "train"), ("b", "test")):
        rows = table[table["patient_id"].isin(["p001", "p002"])] if name == "b" else table
        rows.assign(split=split).to_csv(tmp_path / f"{name}.csv", index=False)
        (tmp_path / f"{name}.yaml").write_text(toy.with_suffix(".yaml").read_text())
    (tmp_path / "labels.csv").write_text("no manifest: it has no card\n")
    (tmp_path / "images").symlink_to(toy.parent / "images")
    assert cli("check", tmp_path / "a.csv").code == cli("check", tmp_path / "b.csv").code == 0
    called = cli("check", tmp_path)
    assert called.code == 2
    assert "error: 2 patients on two sides of the split, in different manifests: toy/p001, toy/p002" in called.out
    refused(cli("check", tmp_path / "images"), "no manifest")

"""Indexing a folder: DICOM series, files, labels, pseudonyms, and what is left out and why."""

from __future__ import annotations

import hmac
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xmkd.data import pseudonyms
from xmkd.data.index import IndexReport, dicom_rows, index_folder
from xmkd.data.manifest import load
from xmkd.data.readers import read
from xmkd.errors import ConfigError, ManifestError

from . import dicom_files

LABELS = "labels:\n  finding: {classes: [rest, lesion], positive: lesion}\n"


def card(folder: Path, text: str = "modality: tvus\n" + LABELS) -> Path:
    path = folder / "study.yaml"
    path.write_text("name: study\nroot: ./files\n" + text)
    return path


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def slices(folder: Path, patient: str, description: str, count: int = 3) -> None:
    volume = np.arange(count * 20, dtype=np.int16).reshape(count, 4, 5)
    series = dicom_files.mr_slices(
        volume, np.diag([3.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]], PatientID=patient, SeriesDescription=description
    )
    dicom_files.write_series(series, folder)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two patients, P1 with two pictures and P20 with one."""
    for seed, name in enumerate(["P1/a.png", "P1/b.jpg", "P20/a.png"]):
        picture(tmp_path / "files" / name, seed)
    return tmp_path


def index(study: Path, labels: str | None = None, **options: object) -> tuple[IndexReport, pd.DataFrame]:
    if labels is not None:
        (study / "labels.csv").write_text(labels)
    given = {} if labels is None else {"labels": study / "labels.csv"}
    path = study / "study.yaml" if (study / "study.yaml").exists() else card(study)
    report = index_folder(study / "files", path, **given, runs_root=study / "runs", **options)  # type: ignore[arg-type]
    return report, load(report.path).table


def test_pictures_are_grouped_by_their_folder(study: Path) -> None:
    report, table = index(study)
    assert table["sample_id"].tolist() == ["P1__a", "P1__b", "P20__a"]
    assert table["patient_id"].tolist() == ["P1", "P1", "P20"]
    assert table["modality"].unique().tolist() == ["tvus"]
    assert (report.rows, report.patients, report.written) == (3, 2, True)
    manifest = load(report.path)
    assert all(read(manifest.resolve(path)).kind == "image" for path in table["path"])
    assert report.warnings == ["label finding: no sample has one; give them with --labels TABLE.csv"]


def test_a_pattern_gives_patient_sequence_and_site(tmp_path: Path) -> None:
    for name in ("oslo_007_t2.png", "oslo_008_t1.png", "notes.png"):
        picture(tmp_path / "files" / name)
    card(tmp_path, "modality: mri\npatient_pattern: '(?P<site>[a-z]+)_(?P<patient>[0-9]+)_(?P<sequence>t[12])'\n")
    report, table = index(tmp_path)
    assert table[["patient_id", "sequence", "site"]].to_numpy().tolist() == [
        ["007", "t2", "oslo"],
        ["008", "t1", "oslo"],
    ]
    assert [name for name, _ in report.skipped] == ["notes.png"]


@pytest.mark.parametrize("names", [("P1/left", "P1/right", "P2/left", "P2/right"), ("images/P1", "more/P1")])
def test_one_folder_name_in_several_places_is_not_taken_for_a_patient(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        picture(tmp_path / "files" / name / "a.png")
    with pytest.raises(ManifestError, match=f"such as {names[0]} and ") as caught:
        index(tmp_path)
    assert "patient_pattern" in caught.value.fixes[0]
    assert "rename" in caught.value.fixes[1]
    assert not (tmp_path / "study.csv").exists()
    card(tmp_path, "modality: tvus\npatient_pattern: '(?P<patient>P[0-9]+)'\n")
    assert index(tmp_path)[1]["patient_id"].tolist() == [p for name in names for p in ("P1", "P2") if p in name]


def test_links_into_a_store_do_not_change_the_patient(study: Path) -> None:
    (study / "store" / "f3").mkdir(parents=True)
    for number, file in enumerate(sorted((study / "files").rglob("*.*"))):  # as DVC and git-annex keep their files
        file.rename(study / "store" / "f3" / f"{number}{file.suffix}")
        file.symlink_to(study / "store" / "f3" / f"{number}{file.suffix}")
    table = index(study)[1]
    assert table["patient_id"].tolist() == ["P1", "P1", "P20"]
    assert table["path"].tolist() == ["P1/a.png", "P1/b.jpg", "P20/a.png"]


def test_a_linked_folder_keeps_its_name_and_root(study: Path) -> None:
    (study / "files" / "P1").rename(study / "stored")
    (study / "files" / "P1").symlink_to(study / "stored")
    report = index_folder(study / "files" / "P1", card(study))
    table = load(report.path).table
    assert table["path"].tolist() == ["P1/a.png", "P1/b.jpg"]
    assert table["patient_id"].unique().tolist() == ["P1"]


def test_the_work_folder_can_be_the_patient(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study / "files" / "P1")
    table = load(index_folder(".", card(study)).path).table
    assert table["patient_id"].unique().tolist() == ["P1"]


def test_masks_are_found_and_are_no_samples(study: Path) -> None:
    picture(study / "files" / "masks" / "P1" / "a.png")
    card(study, "modality: tvus\nmask_pattern: 'masks/{parent}/{stem}.png'\n")
    _, table = index(study)
    assert table["sample_id"].tolist() == ["P1__a", "P1__b", "P20__a"]
    assert table["mask"].dropna().tolist() == ["masks/P1/a.png"]


def test_the_same_name_with_two_endings_gives_two_samples(study: Path) -> None:
    picture(study / "files" / "P1" / "a.jpg")
    _, table = index(study)
    assert table["sample_id"].tolist() == ["P1__a.jpg", "P1__a.png", "P1__b", "P20__a"]


def test_dicom_series_and_clips(tmp_path: Path) -> None:
    files = tmp_path / "files"
    slices(files / "x" / "t2", "P1", "t2_tse_sag")
    slices(files / "x" / "dwi", "P1", "ep2d_diff")
    slices(files / "y" / "t2", "P2", "t2_tse_sag")
    clip = np.zeros((3, 6, 8), np.uint8)
    for name in ("1.dcm", "2.dcm"):
        dicom_files.save(dicom_files.us_clip(clip, PatientID="P3", PatientName="Doe^Jane"), files / "us" / name)
    card(tmp_path, LABELS)
    report, table = index(tmp_path)
    assert table["path"].tolist() == ["us/1.dcm", "us/2.dcm", "x/dwi", "x/t2", "y/t2"]
    assert table["patient_id"].tolist() == ["P3", "P3", "P1", "P1", "P2"]
    assert table["modality"].tolist() == ["us", "us", "mri", "mri", "mri"]
    assert table["sequence"].fillna("").tolist() == ["", "", "ep2d_diff", "t2_tse_sag", "t2_tse_sag"]
    manifest = load(report.path)
    assert [read(manifest.resolve(p)).kind for p in table["path"]] == ["clip", "clip", "volume", "volume", "volume"]
    assert "Doe" not in report.path.read_text()


def test_what_can_not_be_indexed_is_listed_with_a_reason(tmp_path: Path) -> None:
    files = tmp_path / "files"
    slices(files / "good", "P1", "t2")
    for name in ("t1", "t2"):  # two series in one folder: a path could not say which
        slices(tmp_path / name, "P2", name)
        for file in (tmp_path / name).iterdir():
            (files / "mixed").mkdir(exist_ok=True)
            file.rename(files / "mixed" / f"{name}_{file.name}")
    slices(files / "cut", "P3", "t2")
    cut = next((files / "cut").iterdir())
    cut.write_bytes(cut.read_bytes()[:400])
    dicom_files.save(dicom_files.us_image(np.zeros((4, 4), np.uint8), PatientID=""), files / "anon" / "1.dcm")
    card(tmp_path, "")
    report, table = index(tmp_path)
    assert table["path"].tolist() == ["good"]
    reasons = dict(report.skipped)
    assert "2 series share this folder" in reasons["mixed"]
    assert "2 slices" in reasons["cut"]
    assert f"cut/{cut.name}" in reasons
    assert "no patient id" in reasons["anon/1.dcm"]
    assert "4 left out" in report.text()


def test_a_damaged_file_is_named_and_costs_no_other(tmp_path: Path) -> None:
    files = tmp_path / "files"
    still = np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)
    for name in ("1.dcm", "2.dcm", "3.dcm"):
        dicom_files.save(dicom_files.us_image(still, SeriesDescription="ovary"), files / "P1" / name)
    for name in ("P1/4.dcm", "P2/1.dcm"):  # P2 has nothing else
        (files / name).parent.mkdir(exist_ok=True)
        (files / name).touch()
    slices(files / "P1", "P1", "t2")  # whether the damaged one was a slice of these nobody knows
    card(tmp_path, "modality: tvus\n")
    report, table = index(tmp_path)
    assert table["path"].tolist() == ["P1/1.dcm", "P1/2.dcm", "P1/3.dcm"]
    assert table[["patient_id", "modality", "sequence"]].drop_duplicates().to_numpy().tolist() == [
        ["P1", "tvus", "ovary"]
    ]
    reasons = dict(report.skipped)
    assert reasons["P1/4.dcm"] == "the file is empty"
    assert reasons["P2/1.dcm"] == "the file is empty"
    assert "3 slices" in reasons["P1"]
    assert len(reasons) == 3


def test_the_card_decides_between_us_and_tvus_and_refuses_others(tmp_path: Path) -> None:
    files = tmp_path / "files"
    dicom_files.save(dicom_files.us_image(np.zeros((4, 4), np.uint8)), files / "a" / "1.dcm")
    slices(files / "b", "P2", "t2")
    card(tmp_path, "modality: tvus\n")
    report, table = index(tmp_path)
    assert table["modality"].tolist() == ["tvus"]
    assert report.skipped == [("b", "series of modality mri")]


def test_a_pattern_goes_before_the_header(tmp_path: Path) -> None:
    for patient in ("P7", "P8"):  # anonymised exports often give everybody the same id
        slices(tmp_path / "files" / patient / "t2", "ANON", "t2")
    card(tmp_path, "patient_pattern: '(?P<patient>P[0-9]+)/'\n")
    assert index(tmp_path)[1]["patient_id"].tolist() == ["P7", "P8"]
    rows, _ = dicom_rows(tmp_path / "files")
    assert rows["patient_id"].unique().tolist() == ["ANON"]


def test_labels_are_joined_and_both_sides_reported(study: Path) -> None:
    labels = "patient_id,finding,split,comment\nP1,lesion,train,x\nP1,lesion,train,y\nP3,rest,test,z\n"
    report, table = index(study, labels)
    assert table["finding"].fillna("-").tolist() == ["lesion", "lesion", "-"]
    assert table["split"].fillna("-").tolist() == ["train", "train", "-"]
    assert "comment" not in table.columns
    assert (report.unmatched_labels, report.unlabelled) == (["P3"], ["P20"])
    assert "1 in the label table, but not in the folder:\n  P3" in report.text()


def test_labels_by_sample(study: Path) -> None:
    _, table = index(study, "sample_id,finding\nP1__a,rest\nP1__b,lesion\n", on="sample_id")
    assert table["finding"].fillna("-").tolist() == ["rest", "lesion", "-"]


def test_lost_leading_zeros_are_pointed_out(tmp_path: Path) -> None:
    for name in ("007", "008"):
        picture(tmp_path / "files" / name / "a.png")
    report, _ = index(tmp_path, "patient_id,finding\n7,rest\n8,lesion\n")
    assert report.warnings == ["2 ids would match but for leading zeros, which spreadsheets drop"]


@pytest.mark.parametrize(
    "labels, words",
    [
        ("patient_id,finding\nP1,lesion\nP1,rest\n", "contradicts itself for 1 ids, as 'P1'"),
        ("patient_id,finding\nP1,leson\n", "finding: 'leson' is no class of the card; did you mean 'lesion'?"),
        ("patient,finding\nP1,lesion\n", "did you mean 'patient'?"),
        ("patient_id,diagnosis\nP1,lesion\n", "no label column"),
    ],
)
def test_wrong_label_tables_write_nothing(study: Path, labels: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words.replace("?", r"\?")):
        index(study, labels)
    assert not (study / "study.csv").exists()
    assert sorted(p.name for p in study.iterdir()) == ["files", "labels.csv", "study.yaml"]


def test_another_manifest_is_not_overwritten(study: Path) -> None:
    assert index(study)[0].written
    assert not index(study)[0].written  # the same again
    target = study / "study.csv"
    target.write_text(target.read_text().replace("P20,", "P21,"))  # somebody's correction
    with pytest.raises(ManifestError, match="--force"):
        index(study)
    assert "P21" in target.read_text()
    assert index(study, force=True)[0].written
    assert "P21" not in target.read_text()


def test_paths_start_from_the_root_when_a_part_of_it_is_indexed(study: Path) -> None:
    table = load(index_folder(study / "files" / "P1", card(study)).path).table
    assert table["path"].tolist() == ["P1/a.png", "P1/b.jpg"]
    assert table["patient_id"].unique().tolist() == ["P1"]


def test_a_root_elsewhere_and_a_single_patient_are_pointed_out(study: Path) -> None:
    picture(study / "elsewhere" / "images" / "1.png")
    picture(study / "elsewhere" / "images" / "2.png")
    warnings = index_folder(study / "elsewhere", card(study), out=study / "other.csv").warnings
    assert any("the card's root is" in w for w in warnings)
    assert any("all 2 samples are of one patient, 'images'" in w for w in warnings)
    assert any("copy study.yaml to" in w for w in warnings)


@pytest.mark.parametrize("text, words", [("", "modality"), ("indexer: mmotu\n", "did you mean 'mmotu_tvus'")])
def test_cards_that_can_not_be_used(study: Path, text: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        index_folder(study / "files", card(study, text))


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    with pytest.raises(ManifestError, match="nothing to index"):
        index(tmp_path)
    with pytest.raises(ManifestError, match="no such folder"):
        index_folder(tmp_path / "nowhere", tmp_path / "study.yaml")


def test_pseudonyms_replace_ids_and_leaks_are_reported(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMKD_SALT", "a secret of sixteen or more")
    picture(study / "files" / "X3" / "P20_scan.png")  # P20's id in the path of another: not this row's
    report, table = index(study, "patient_id,finding\nP1,lesion\n", pseudonymise=True)
    assert table["patient_id"].str.fullmatch("p[0-9a-f]{16}").all()
    assert table["sample_id"].str.fullmatch("s[0-9a-f]{16}").all()
    assert table["patient_id"].nunique() == 3
    assert table["finding"].eq("lesion").sum() == 2  # matched before the ids went
    leak = "4 cells of column path still hold the original patient id: rename the files or folders"
    assert leak in report.warnings
    again, _ = index(study, "patient_id,finding\nP1,lesion\n", pseudonymise=True)
    assert not again.written  # the same secret, the same pseudonyms


def test_pseudonymising_keeps_of_a_description_only_known_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XMKD_SALT", "a secret of sixteen or more")
    for number, words in enumerate(["T2w TSE sag Fr. Doe 12.3.1980", "Jane Doe", "ep2d_diff ADC", "doet2", "t1"]):
        slices(tmp_path / "files" / str(number), f"P{number}", words)
    card(tmp_path, "modality: mri\n")
    report, table = index(tmp_path, pseudonymise=True)
    kept = table.set_index("path")["sequence"].fillna("-")
    assert kept.to_dict() == {"0": "t2_tse_sag", "1": "-", "2": "diff_adc", "3": "-", "4": "t1"}
    assert not any(word in report.path.read_text().lower() for word in ("doe", "jane", "1980"))
    assert (
        "2 samples have no sequence: --pseudonymise found no known word in their series descriptions" in report.warnings
    )


def test_pseudonyms_are_keyed(tmp_path: Path) -> None:
    one, other = b"k" * 32, b"l" * 32
    assert pseudonyms.pseudonym(one, "P1") != pseudonyms.pseudonym(other, "P1")
    assert pseudonyms.fingerprint(one) != pseudonyms.fingerprint(other)
    expected = hmac.new(one, b"patient\0P1", "sha256").hexdigest()[:16]
    assert pseudonyms.pseudonym(one, "P1") == "p" + expected
    assert pseudonyms.sample_pseudonym(one, "P1") != "s" + expected  # a sample of that name is not linked to it


def test_the_salt_is_made_once_and_kept_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XMKD_SALT", raising=False)
    made = pseudonyms.salt(tmp_path / "runs")
    assert pseudonyms.salt(tmp_path / "runs") == made
    assert len(made) == 64
    file = tmp_path / "runs" / ".xmkd_salt"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [".xmkd_salt"]
    assert pseudonyms.salt(tmp_path / "others") != made
    monkeypatch.setenv("XMKD_SALT", "named in the environment")
    assert pseudonyms.salt(tmp_path / "runs") == b"named in the environment"
    monkeypatch.setenv("XMKD_SALT", "short")
    with pytest.raises(ConfigError, match="5 characters"):
        pseudonyms.salt(tmp_path / "runs")


def test_a_process_that_comes_second_keeps_the_salt_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XMKD_SALT", raising=False)
    first = pseudonyms.salt(tmp_path)
    monkeypatch.setattr(Path, "exists", lambda _: False)  # both had looked before either wrote
    assert pseudonyms.salt(tmp_path) == first
    assert [p.name for p in tmp_path.iterdir()] == [".xmkd_salt"]

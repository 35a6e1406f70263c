"""Manifests and cards: what is read, what is refused, and that everything wrong is said at once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from xmkd.data.manifest import COLUMNS, Manifest, data_root, load, load_card
from xmkd.errors import DataMissingError, ManifestError

CARD = """
name: demo
title: A made-up set
licence: CC BY 4.0
source: the moon
root: demo
labels:
  finding: {classes: [rest, lesion], positive: lesion}
  kind: {classes: [None, NA, other]}
"""
ROWS = """sample_id,patient_id,modality,path,finding,kind
0001,007,tvus,a/1.png,rest,None
0002,007,tvus,a/2.png,lesion,NA
0003,08,mri,b/3.nii.gz,,
"""


def write(folder: Path, rows: str = ROWS, card: str = CARD) -> Path:
    (folder / "demo.yaml").write_text(card.replace("[None, NA, other]", "['None', 'NA', other]"))
    (folder / "demo.csv").write_text(rows)
    return folder / "demo.csv"


def problems(folder: Path, rows: str = ROWS, card: str = CARD) -> str:
    with pytest.raises(ManifestError) as caught:
        load(write(folder, rows, card))
    return str(caught.value)


def test_ids_stay_text_and_only_empty_cells_are_missing(tmp_path: Path) -> None:
    manifest = load(write(tmp_path))
    table = manifest.table
    assert list(table.columns) == [*COLUMNS, "finding", "kind"]
    assert table["sample_id"].tolist() == ["0001", "0002", "0003"]
    assert table["patient_id"].tolist() == ["007", "007", "08"]
    assert table["kind"].tolist()[:2] == ["None", "NA"]
    assert table["finding"].isna().tolist() == [False, False, True]
    assert table["mask"].isna().all()
    assert manifest.card.labels["finding"].positive == "lesion"


def test_fold_is_a_number_where_it_is_given(tmp_path: Path) -> None:
    rows = "sample_id,patient_id,modality,path,finding,kind,fold\n1,a,mri,x,,,0.0\n2,b,mri,y,,,1\n3,c,mri,z,,,\n"
    fold = load(write(tmp_path, rows)).table["fold"]
    assert fold.dtype == pd.Int64Dtype()
    assert fold.isna().tolist() == [False, False, True]
    assert fold[:2].tolist() == [0, 1]


def test_every_problem_is_listed_at_once_with_line_column_and_value(tmp_path: Path) -> None:
    rows = (
        "sample_id,patient_id,modality,path,finding,kind,split,fold,mask\n"
        "1,a,tvus,/abs/1.png,lesion,None,train,0,\n"  # line 2
        "1,a,tvus,x/../../2.png,lesoin,None,test,0,m\\1.png\n"  # line 3: the same sample and patient on another side
        "2,,xray,C:/3.png,rest,None,holdout,x,\n"  # line 4
        "3, b,tvus,4.png,rest,None,train,0,\n"
    )
    text = problems(tmp_path, rows)
    assert "10 problems" in text
    assert "lines 2, 3, column sample_id: '1' is there more than once" in text
    assert "line 4, column patient_id: is empty" in text
    assert "line 5, column patient_id: ' b' has spaces around it" in text
    assert "line 4, column modality: 'xray' is none of tvus, us, mri, ct" in text
    assert "lines 2, 3, 4, column path: '/abs/1.png', 'x/../../2.png', 'C:/3.png' is absolute" in text
    assert "line 3, column mask" in text
    assert "line 3, column finding: 'lesoin' is none of rest, lesion" in text
    assert "line 4, column split: 'holdout' is none of train, val, calib, test" in text
    assert "line 4, column fold: 'x' is no fold number" in text
    assert "lines 2, 3, column split: patient 'a' is in test, train at once" in text
    assert "demo.csv" in text
    assert "either:" in text


@pytest.mark.parametrize("column", ["split", "fold"])
def test_a_patient_in_two_splits_or_folds_is_refused(tmp_path: Path, column: str) -> None:
    sides = {"split": ("train", "val"), "fold": ("0", "1")}[column]
    rows = f"sample_id,patient_id,modality,path,finding,kind,{column}\n"
    rows += f"1,p,mri,x,,,{sides[0]}\n2,p,mri,y,,,{sides[1]}\n3,q,mri,z,,,{sides[0]}\n"
    assert f"column {column}: patient 'p' is in {', '.join(sides)} at once" in problems(tmp_path, rows)


def test_missing_columns_name_the_nearest(tmp_path: Path) -> None:
    text = problems(tmp_path, "sample_id,patientid,modality,path,findings\n1,a,mri,x,rest\n")
    assert "column patient_id: missing; did you mean 'patientid'?" in text
    assert "column finding: missing; did you mean 'findings'?" in text
    assert "column kind: missing" in text


@pytest.mark.parametrize("rows", ["", "sample_id,patient_id,modality,path,finding,kind\n"])
def test_an_empty_manifest_is_refused(tmp_path: Path, rows: str) -> None:
    assert "there are no rows" in problems(tmp_path, rows)


@pytest.mark.parametrize(
    "rows, words",
    [
        (ROWS.replace(",", ";"), "semicolons"),
        (ROWS.replace("a/1.png,rest,None", "a/1.png,rest,None,surplus"), "can't read the table"),
        (ROWS + "4,a,tvus,x.png,rest,None,surplus,surplus\n", "can't read the table"),
    ],
)
def test_tables_that_are_no_tables(tmp_path: Path, rows: str, words: str) -> None:
    assert words in problems(tmp_path, rows)


def test_the_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    first = load(write(tmp_path)).hash
    head, *body = ROWS.splitlines()
    assert load(write(tmp_path, "\r\n".join([head, *reversed(body)]))).hash == first
    assert load(write(tmp_path, "\ufeff" + ROWS)).hash == first  # a byte order mark
    moved = pd.read_csv(tmp_path / "demo.csv", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    assert load(write(tmp_path, moved[moved.columns[::-1]].to_csv(index=False))).hash == first
    assert load(write(tmp_path, card=CARD + "cautions: [new]\n")).hash == first  # words about the set do not count
    for key in ("lock", "specification"):  # of simulated sets, whose pictures change under the same names
        assert load(write(tmp_path, card=CARD + f"{key}: abc\n")).hash != first
    assert load(write(tmp_path, ROWS.replace("a/2.png,lesion", "a/2.png,rest"))).hash != first
    assert load(write(tmp_path, card=CARD.replace("NA, other", "other, NA"))).hash != first  # the order of classes does


def test_a_missing_root_says_what_the_set_is_and_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XMKD_DATA", str(tmp_path / "nowhere"))
    manifest = load(write(tmp_path))  # cached arrays can be trained from without the files
    with pytest.raises(DataMissingError) as caught:
        manifest.resolve("a/1.png")
    for words in ("demo", "A made-up set", "CC BY 4.0", "the moon", "XMKD_DATA", str(tmp_path / "nowhere")):
        assert words in str(caught.value)


def test_where_the_root_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMKD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OTHER", str(tmp_path / "other"))
    (tmp_path / "data" / "demo" / "a").mkdir(parents=True)
    manifest = load(write(tmp_path))
    assert manifest.resolve(manifest.table.iloc[0]) == tmp_path / "data" / "demo" / "a" / "1.png"
    assert load(write(tmp_path), root=tmp_path / "x").root == tmp_path / "x"
    assert root_of(tmp_path, "root_env: OTHER") == tmp_path / "other" / "demo"
    assert root_of(tmp_path, "", root=".") == tmp_path
    assert root_of(tmp_path, "", root="./files") == tmp_path / "files"
    monkeypatch.delenv("OTHER")
    assert not root_of(tmp_path, "root_env: OTHER").exists()
    monkeypatch.delenv("XMKD_DATA")
    assert root_of(tmp_path, "").parts[-3:] == ("shared", "data", "demo")


def root_of(folder: Path, line: str, root: str = "demo") -> Path:
    write(folder, card=CARD.replace("root: demo", f"root: {root}") + line)
    return data_root(load_card(folder / "demo.yaml"), folder)


@pytest.mark.parametrize(
    "card, words",
    [
        ("name: x\nlicense: CC0\n", "license: unknown key; did you mean 'licence'?"),
        ("title: x\n", "name: a value is needed"),
        ("name: x\nlabels:\n  y: {classes: [no, yes], positive: yes}\n", "expected str, got False"),
        ("name: x\nlabels:\n  y: {classes: [a, b], positive: c}\n", "'c' is no class"),
        ("name: x\nlabels:\n  y: {classes: [a, b], positive: a}\n", "stands second"),
        ("name: x\nlabels:\n  y: {classes: [a, b]}\n", "stands second"),
        ("name: x\nlabels:\n  y: {classes: [a, a, b]}\n", "different names"),
        ("name: x\nlabels:\n  split: {classes: [a, b], positive: b}\n", "meaning of its own"),
        ("name: x\nroot: /data/x\n", "root_env"),
        ("name: x\nmodality: xray\n", "'xray' is unknown"),
        ("name: x\npatient_pattern: '(P[0-9]+)'\n", "named group"),
        ("name: x\npatient_pattern: '(P[0-9]+'\n", "patient_pattern"),
        ("name: [x\n", "can't read the card as YAML"),
        ("name: x\nlicense: 1\nmodality: xry\nroot: ../x\n", "license: unknown key"),
    ],
)
def test_wrong_cards(tmp_path: Path, card: str, words: str) -> None:
    assert words in problems(tmp_path, card=card)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ManifestError, match=r"did you mean 'demo\.csv'"):
        load(tmp_path / "dmo.csv")
    (tmp_path / "demo.yaml").unlink()
    with pytest.raises(ManifestError, match="card"):
        load(tmp_path / "demo.csv")


SHIPPED = sorted((Path(__file__).parents[2] / "data_manifests").glob("*.csv"))


@pytest.mark.parametrize("path", SHIPPED, ids=[p.stem for p in SHIPPED])
def test_shipped_manifests_load_and_their_files_are_there(path: Path) -> None:
    manifest: Manifest = load(path)
    card = manifest.card
    assert card.name == path.stem
    assert "not stated" not in (card.title, card.licence, card.citation, card.source, card.grouping)
    assert card.cautions
    if not manifest.root.is_dir():
        pytest.skip(f"the data set is not at {manifest.root}: set XMKD_DATA")
    files = [*manifest.table["path"], *manifest.table["mask"].dropna()]
    assert all(manifest.resolve(file).is_file() for file in files)


def test_six_sets_are_shipped_with_the_counts_of_their_papers() -> None:
    tables = {p.stem: load(p).table for p in SHIPPED}
    sizes = {name: (len(t), t["patient_id"].nunique()) for name, t in tables.items()}
    assert sizes == {
        "hc18_fetal_head_us": (999, 806),
        "mmotu_tvus": (1469, 74),
        "msd_hippocampus": (260, 260),
        "open_ms_brain": (12, 3),
        "pocus_lung_clips": (43, 13),
        "tcia_prostate_mri": (25, 8),
    }
    assert tables["mmotu_tvus"]["endometrioma"].eq("endometrioma").sum() == 336

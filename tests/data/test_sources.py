"""The six public sets: tiny trees in the original layout and in that of the reduced copy give manifests that load."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xmkd.data.cache import ArrayCache, CacheItem
from xmkd.data.index import index_folder
from xmkd.data.manifest import load
from xmkd.data.preprocess import UltrasoundPrep
from xmkd.data.sources import SOURCES
from xmkd.errors import ManifestError

from . import dicom_files

CARDS = Path(__file__).parents[2] / "data_manifests"


def tree(root: Path, *files: str, **texts: str) -> Path:
    """Empty files, and files with text (`__` in a name stands for `/`, a trailing `_csv` for `.csv`)."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, text in texts.items():
        stem, _, ending = name.replace("__", "/").rpartition("_")
        (root / f"{stem}.{ending}").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{stem}.{ending}").write_text(text)
    return root


def mmotu_copy(root: Path) -> None:
    rows = "id,class_id,class_name\n0001,4,Simple_Cyst\n0020,0,Chocolate_Cyst\n0021,0,Chocolate_Cyst\n"
    names = ("0001", "0020", "0021")
    tree(root, *(f"images/{n}.jpg" for n in names), *(f"masks/{n}.png" for n in names), index_csv=rows)


def mmotu_original(root: Path) -> None:
    tree(
        root,
        *(f"OTU_2d/images/{n}.JPG" for n in (1, 20, 21)),
        "OTU_2d/annotations/1.PNG",
        "OTU_2d/annotations/1_binary.PNG",
        "OTU_2d/annotations/20.PNG",
        OTU_2d__train_cls_txt="1.JPG  4\n21.JPG  0\n",
        OTU_2d__val_cls_txt="20.JPG  0\n",
    )


def hc18_copy(root: Path) -> None:
    rows = "id,group,hc_mm\n000_HC,0,44.3\n010_HC,10,150\n010_2HC,10,200\n"
    names = ("000_HC", "010_HC", "010_2HC")
    tree(root, *(f"images/{n}.jpg" for n in names), *(f"masks/{n}.png" for n in names), index_csv=rows)


def hc18_original(root: Path) -> None:
    names = ("000_HC", "010_HC", "010_2HC")
    rows = "filename,pixel size(mm),head circumference (mm)\n"
    rows += "000_HC.png,0.07,44.3\n010_HC.png,0.1,150\n010_2HC.png,0.1,200\n"
    tree(
        root,
        *(f"training_set/{n}.png" for n in names),
        *(f"training_set/{n}_Annotation.png" for n in names),
        training_set_pixel_size_and_HC_csv=rows,
    )


def hippocampus_copy(root: Path) -> None:
    names = ("hippocampus_001", "hippocampus_003")
    files = [f"{folder}/{n}.nii.gz" for n in names for folder in ("images", "labels")]
    tree(root, *files, index_csv="id,vox_anterior\nhippocampus_001,1\nhippocampus_003,1\n")


def hippocampus_original(root: Path) -> None:
    base = "Task04_Hippocampus"
    names = ("hippocampus_001", "hippocampus_003")
    tree(root, *(f"{base}/{folder}/{n}.nii.gz" for n in names for folder in ("imagesTr", "labelsTr")))
    tree(root, f"{base}/imagesTr/._hippocampus_001.nii.gz", f"{base}/imagesTs/hippocampus_002.nii.gz")
    cases = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    listed = {"training": cases, "test": ["./imagesTs/hippocampus_002.nii.gz"]}
    (root / base / "dataset.json").write_text(json.dumps(listed))


def ms_copy(root: Path) -> None:
    files = [f"patient07_{s}.nii.gz" for s in ("flair", "t1", "t1post", "t2", "lesion")]
    tree(root, *files, index_csv="patient,lesion_voxels_mm3\npatient07,1300\n")


def ms_original(root: Path) -> None:
    names = ("patient07_FLAIR", "T1W", "patient07_T1WKS", "T2W", "brainmask", "consensus_gt")
    base = "cross_sectional/coregistered/patient07"
    tree(root, *(f"{base}/{n}.nii.gz" for n in names), f"{base}/T1W_to_FLAIR.txt")
    tree(root, "cross_sectional/raw/patient07/FLAIR.nii.gz")


POCUS_HEADER = "Filename,Current location,Label,License,Probe,Source ID,Patient ID / Name,URL (Video Name)\n"


def pocus_copy(root: Path) -> None:
    rows = (
        "id,source_label,probe,group,licence,source\n"
        "clip_000,regular,linear,pat0,CC BY 4.0,charlotte\n"
        "clip_001,COVID-19,convex,volpicelli,CC BY 4.0,link\n"
        "clip_002,Viral pneumonia,convex,vir,CC BY 2.0,link\n"
    )
    tree(root, "clip_000.npz", "clip_001.npz", "clip_002.npz", index_csv=rows)


def pocus_original(root: Path) -> None:
    rows = (
        "Reg_a,data/pocus_videos/linear,Regular,CC BY 4.0,Linear,50,12,x\n"
        "Cov_b,data/pocus_videos/convex,COVID-19,CC BY 4.0,convex,34,,x\n"
        "Cov_b2,data/pocus_videos/convex,COVID-19,CC BY 4.0,convex,34,,x\n"
        "Vir_c,pocus_videos/convex,Viral pneumonia,CC BY 2.0,convex,29,7,x\n"
        "Pneu_d,pocus_videos/convex,Bacterial pneumonia,CC BY-NC 4.0,convex,18,8,x\n"  # another licence
        "Reg_e,butterfly,regular,CC BY 4.0,convex,1,9,x\n"  # not in the folder
    )
    videos = ("linear/Reg_a.mp4", "convex/Cov_b.mov", "convex/Cov_b2.mov", "convex/Vir_c.avi", "convex/Pneu_d.mp4")
    tree(root, *(f"data/pocus_videos/{v}" for v in videos), data__dataset_metadata_csv=POCUS_HEADER + rows)


def tcia_copy(root: Path) -> None:
    rows = (
        "id,patient,sequence\nProstateX-0000_t2_tra,ProstateX-0000,t2_tra\nProstateX-0000_adc,ProstateX-0000,adc\n"
        "Prostate3T-03-0001_t2_tra,Prostate3T-03-0001,t2_tra\n"
    )
    files = ("ProstateX-0000_t2_tra", "ProstateX-0000_adc", "Prostate3T-03-0001_t2_tra")
    tree(root, *(f"{f}.nii.gz" for f in files), index_csv=rows)


def tcia_original(root: Path) -> None:
    series = [
        ("ProstateX-0000/07-07-2011/3.000000-t2tsetra-87368", "ProstateX-0000", "t2_tse_tra"),
        ("ProstateX-0000/07-07-2011/7.000000-ep2d-48780", "ProstateX-0000", "ep2d_diff_tra_DYNDIST_ADC"),
        ("ProstateX-0000/07-07-2011/1.000000-loc-1", "ProstateX-0000", "localizer"),
        ("Prostate3T-03-0001/1.3.6.1/1.3.6.2", "Prostate3T-03-0001", "t2_tse_tra"),
    ]
    affine = np.diag([3.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    for folder, patient, description in series:
        volume = np.zeros((3, 4, 5), np.int16)
        slices = dicom_files.mr_slices(volume, affine, PatientID=patient, SeriesDescription=description)
        dicom_files.write_series(slices, root / folder)


LAYOUTS: list[tuple[str, Callable[[Path], None]]] = [
    ("mmotu_tvus", mmotu_copy),
    ("mmotu_tvus", mmotu_original),
    ("hc18_fetal_head_us", hc18_copy),
    ("hc18_fetal_head_us", hc18_original),
    ("msd_hippocampus", hippocampus_copy),
    ("msd_hippocampus", hippocampus_original),
    ("open_ms_brain", ms_copy),
    ("open_ms_brain", ms_original),
    ("pocus_lung_clips", pocus_copy),
    ("pocus_lung_clips", pocus_original),
    ("tcia_prostate_mri", tcia_copy),
    ("tcia_prostate_mri", tcia_original),
]


def table_of(tmp_path: Path, name: str, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Index through the shipped card, as `xmkd index` does, and load the manifest."""
    monkeypatch.setenv("XMKD_DATA", str(tmp_path))
    make(tmp_path / name)
    card = tmp_path / f"{name}.yaml"
    card.write_text((CARDS / card.name).read_text())
    report = index_folder(tmp_path / name, card)
    assert report.warnings == []
    manifest = load(report.path)
    for path in [*manifest.table["path"], *manifest.table["mask"].dropna()]:
        assert manifest.resolve(path).exists(), path
    return manifest.table.set_index("sample_id")


@pytest.mark.parametrize("name, make", LAYOUTS, ids=[make.__name__ for _, make in LAYOUTS])
def test_every_layout_gives_a_manifest_whose_files_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[Path], None]
) -> None:
    assert len(table_of(tmp_path, name, make, monkeypatch)) >= 2


@pytest.mark.parametrize("name", [n for n in SOURCES if n != "pocus_lung_clips"])
def test_both_layouts_give_the_same_ids_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    copy, original = (table_of(tmp_path / make.__name__, name, make, monkeypatch) for n, make in LAYOUTS if n == name)
    original = original.drop("hippocampus_002", errors="ignore")  # unlabelled, left out of the copy
    columns = [c for c in copy.columns if c not in ("path", "mask")]
    pd.testing.assert_frame_equal(copy[columns].sort_index(), original[columns].sort_index())


def test_mmotu_blocks_labels_and_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(tmp_path, "mmotu_tvus", mmotu_original, monkeypatch)
    assert table["patient_id"].tolist() == ["mmotu_block_00", "mmotu_block_00", "mmotu_block_01"]
    assert table["diagnosis"].tolist() == ["Simple_Cyst", "Chocolate_Cyst", "Chocolate_Cyst"]
    assert table["endometrioma"].tolist() == ["rest", "endometrioma", "endometrioma"]
    masks = ["OTU_2d/annotations/1_binary.PNG", "OTU_2d/annotations/20.PNG", "-"]
    assert table["mask"].fillna("-").tolist() == masks


def test_a_coloured_mask_covers_whatever_has_a_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where N_binary.PNG is missing: N.PNG has a colour per class, and the red of a green lesion is 0."""
    table = table_of(tmp_path, "mmotu_tvus", mmotu_original, monkeypatch)
    files = [tmp_path / "mmotu_tvus" / str(table.loc["0020", column]) for column in ("path", "mask")]
    Image.fromarray(np.random.default_rng(0).integers(1, 255, (40, 60), np.uint8)).save(files[0])
    colours = np.zeros((40, 60, 3), np.uint8)
    colours[10:20, 10:30] = (0, 128, 0)
    Image.fromarray(colours).save(files[1])
    prep = UltrasoundPrep(size=(40, 60), crop_sector=False, remove_overlays=False)
    cache = ArrayCache(tmp_path / "cache")
    mask = cache.entry(CacheItem(files[0], prep, mask=files[1])).array
    np.testing.assert_array_equal(mask, colours[..., 1] > 0)
    grey = np.repeat((colours[..., 1:2] > 0) * np.uint8(3), 3, axis=2)  # class 3, saved as RGB: it stays class 3
    Image.fromarray(grey).save(files[1])
    assert np.unique(cache.entry(CacheItem(files[0], prep, mask=files[1])).array).tolist() == [0, 3]


def test_hc18_examinations_and_trimesters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(tmp_path, "hc18_fetal_head_us", hc18_original, monkeypatch)
    assert table.loc[["010_HC", "010_2HC"], "patient_id"].unique().tolist() == ["hc18_exam_010"]
    assert table.loc[["000_HC", "010_HC", "010_2HC"], "trimester"].tolist() == ["first", "second", "third"]
    assert table["mask"].isna().all()  # outlines are no masks


def test_hippocampus_without_the_list_and_without_hidden_twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_list(root: Path) -> None:
        hippocampus_original(root)
        (root / "Task04_Hippocampus" / "dataset.json").unlink()

    table = table_of(tmp_path, "msd_hippocampus", without_list, monkeypatch)
    assert table["mask"].isna().tolist() == [False, True, False]


def test_ms_sequences_share_the_consensus_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(tmp_path, "open_ms_brain", ms_original, monkeypatch)
    assert table["sequence"].tolist() == ["flair", "t1", "t1post", "t2"]
    assert table["mask"].unique().tolist() == ["cross_sectional/coregistered/patient07/consensus_gt.nii.gz"]
    assert not table["path"].str.contains("raw").any()


def test_pocus_takes_free_clips_and_keeps_unknown_patients_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(tmp_path, "pocus_lung_clips", pocus_original, monkeypatch)
    assert table.index.tolist() == ["Cov_b", "Cov_b2", "Reg_a", "Vir_c"]
    groups = ["pocus_source_34", "pocus_source_34", "pocus_patient_12", "pocus_patient_7"]
    assert table["patient_id"].tolist() == groups
    assert table["finding"].tolist() == ["covid19", "covid19", "regular", "pneumonia"]
    assert table["regular_vs_ill"].tolist() == ["ill", "ill", "regular", "ill"]
    assert table["licence"].tolist() == ["CC BY 4.0", "CC BY 4.0", "CC BY 4.0", "CC BY 2.0"]


def test_tcia_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(tmp_path, "tcia_prostate_mri", tcia_original, monkeypatch)
    assert sorted(table.index) == ["Prostate3T-03-0001_t2_tra", "ProstateX-0000_adc", "ProstateX-0000_t2_tra"]


@pytest.mark.parametrize("name", SOURCES)
def test_another_folder_is_refused_with_both_layouts_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(ManifestError, match="neither") as caught:
        SOURCES[name](tmp_path)
    assert len(caught.value.fixes) == 2
    (tmp_path / "index.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ManifestError, match="another set"):
        SOURCES[name](tmp_path)


def test_a_broken_class_list_names_the_line(tmp_path: Path) -> None:
    mmotu_original(tmp_path)
    (tmp_path / "OTU_2d" / "train_cls.txt").write_text("1.JPG 4\n2.JPG 9\n")
    with pytest.raises(ManifestError, match=r"train_cls\.txt, line 2"):
        SOURCES["mmotu_tvus"](tmp_path)


def test_the_readme_names_every_set_and_its_command() -> None:
    text = (CARDS / "README.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == sorted(SOURCES)
    assert "--card data_manifests/mmotu_tvus.yaml --force" in text

"""The check of a data set: every kind of trouble is planted once and must be found; a sound set must pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from xmkd.data.check import CheckReport, check, look_hash, near_duplicates
from xmkd.data.manifest import Manifest, load
from xmkd.data.splits import Split, split
from xmkd.errors import DataMissingError

CARD = """
name: demo
root: ./files
labels:
  finding: {classes: [rest, lesion], positive: lesion, per_patient: true}
"""


def texture(seed: int, shape: tuple[int, ...] = (60, 80)) -> np.ndarray:
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def build(folder: Path, count: int = 12) -> pd.DataFrame:
    """`count` patients with two pictures each, alternately rest and lesion, on three sides."""
    (folder / "files").mkdir()
    (folder / "demo.yaml").write_text(CARD)
    rows = []
    for patient in range(count):
        for picture in range(2):
            name = f"{patient}_{picture}.png"
            Image.fromarray(texture(10 * patient + picture)).save(folder / "files" / name)
            rows.append([name[:-4], f"p{patient}", "tvus", name, "rest" if patient % 2 else "lesion"])
    table = pd.DataFrame(rows, columns=["sample_id", "patient_id", "modality", "path", "finding"])
    sides = {f"p{i}": side for i, side in enumerate(["train"] * 6 + ["val"] * 3 + ["test"] * 3)}
    return table.assign(split=table["patient_id"].map(sides))


def run(folder: Path, table: pd.DataFrame, made: Split | None = None, deep: bool = True) -> CheckReport:
    table.to_csv(folder / "demo.csv", index=False)
    return check(load(folder / "demo.csv"), made, deep=deep)


def test_a_sound_set_passes_and_is_counted(tmp_path: Path) -> None:
    report = run(tmp_path, build(tmp_path))
    assert report.ok
    assert report.warnings == []
    sizes = report.tables["by part of the split"]
    assert sizes.index.tolist() == ["train", "val", "test"]
    assert sizes["samples"].tolist() == [12, 6, 6]
    assert sizes["patients"].tolist() == [6, 3, 3]
    labels = report.tables["finding by part"]
    assert labels["lesion"].tolist() == [6, 4, 2]
    assert labels["positive patients"].tolist() == [3, 2, 1]
    assert labels["prevalence"].tolist() == pytest.approx([0.5, 0.667, 0.333])
    assert "24 samples of 12 patients" in report.text()
    assert "nothing wrong was found" in report.text()


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    table = build(tmp_path)
    (tmp_path / "files" / "0_0.png").unlink()
    broken = tmp_path / "files" / "1_0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    report = run(tmp_path, table)
    assert not report.ok
    assert report.errors[0] == "1 file missing: 0_0.png"
    assert report.errors[1].startswith("1 file unreadable: 1_0.png: ")
    shallow = run(tmp_path, table, deep=False)
    assert shallow.errors == ["1 file missing: 0_0.png"]
    assert shallow.near is None


def test_masks_are_read_too(tmp_path: Path) -> None:
    table = build(tmp_path).assign(mask=None)
    for name, shape in {"good": (60, 80), "small": (30, 40)}.items():
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "files" / f"{name}.png")
    table.loc[0, "mask"] = "good.png"
    table.loc[1, "mask"] = "small.png"
    table.loc[2, "mask"] = "gone.png"
    errors = run(tmp_path, table).errors
    assert errors[0] == "1 file missing: gone.png"
    assert "small.png is (30, 40), 0_1.png is (60, 80)" in errors[1]
    assert len(errors) == 2


def copy(folder: Path, source: str, target: str, change: int = 0) -> None:
    pixels = np.asarray(Image.open(folder / "files" / source)).astype(int)
    noise = np.random.default_rng(0).integers(-change, change + 1, pixels.shape) if change else 0
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(folder / "files" / target)


def test_the_same_pixels_in_two_parts_are_an_error(tmp_path: Path) -> None:
    table = build(tmp_path)
    copy(tmp_path, "0_0.png", "6_0.png")  # p0 trains, p6 validates; both have a lesion
    errors = run(tmp_path, table).errors
    assert errors == ["1 picture in several parts of the split (same pixels): 0_0 = 6_0"]


def test_the_same_pixels_with_two_labels_are_an_error_and_of_two_patients_a_warning(tmp_path: Path) -> None:
    table = build(tmp_path)
    copy(tmp_path, "0_0.png", "1_0.png")  # both train; p0 has a lesion, p1 has none
    report = run(tmp_path, table)
    assert report.errors == ["1 picture with several labels (same pixels): 0_0 = 1_0"]
    assert "1 picture of several patients (same pixels): 0_0 = 1_0" in report.warnings


def test_near_duplicates_across_parts_are_a_warning_with_a_count(tmp_path: Path) -> None:
    table = build(tmp_path)
    copy(tmp_path, "0_0.png", "6_0.png", change=6)
    copy(tmp_path, "0_1.png", "7_1.png", change=6)  # p7 has no lesion
    copy(tmp_path, "2_0.png", "2_1.png", change=6)  # one patient: of no consequence
    report = run(tmp_path, table)
    assert report.ok
    assert report.near is not None
    assert report.near[["a", "b"]].to_numpy().tolist() == [["0_0", "6_0"], ["0_1", "7_1"]]
    assert report.near["other_label"].tolist() == [False, True]
    assert report.near["other_part"].all()
    across, labels = report.warnings
    assert across.startswith("2 pairs of near-duplicates of different patients in two parts of the split: 0_0 ~ 6_0")
    assert labels == "1 pair of near-duplicates of different patients with different labels: 0_1 ~ 7_1"
    unsplit = run(tmp_path, table.drop(columns="split"))
    assert any(w.startswith("2 pairs of near-duplicates of different patients:") for w in unsplit.warnings)


def test_labels_that_differ_within_a_patient(tmp_path: Path) -> None:
    table = build(tmp_path)
    table.loc[0, "finding"] = "rest"
    errors = run(tmp_path, table).errors
    assert errors == ["1 patient with several values of finding, which the card says is by patient: p0"]


def test_a_patient_on_two_sides(tmp_path: Path) -> None:
    table = build(tmp_path)
    made = split(table.drop(columns="split"), "finding", {"val": 0.25, "test": 0.25})
    assert run(tmp_path, table, made).ok
    leaking = Split({**made.parts, "test": (*made.parts["test"], made.parts["train"][0])}, "", "seed")
    assert f"1 patient on two sides of the split: {made.parts['train'][0]}" in run(tmp_path, table, leaking).errors
    manifest = load(tmp_path / "demo.csv")
    by_hand = manifest.table.assign(split=["train", "test"] * 12)
    report = check(Manifest(by_hand, manifest.card, manifest.root, "", manifest.path), deep=False)
    assert report.errors[0].startswith("12 patients on two sides of the split: p0, p1")


def test_a_site_that_tells_the_label(tmp_path: Path) -> None:
    table = build(tmp_path)
    table["site"] = table["finding"].map({"rest": "oslo", "lesion": "rome"})
    report = run(tmp_path, table)
    assert report.warnings == ["each site has a single value of finding: a model can learn the site instead"]
    assert report.tables["by site"]["samples"].tolist() == [12, 12]


def test_a_missing_root(tmp_path: Path) -> None:
    table = build(tmp_path)
    (tmp_path / "files").rename(tmp_path / "moved")
    with pytest.raises(DataMissingError):
        run(tmp_path, table)


def test_the_hash_sees_clips_volumes_and_small_changes() -> None:
    volume = np.stack([texture(i) for i in range(5)])[None]
    assert look_hash(volume, "volume").shape == (768,)
    assert look_hash(volume, "clip").tolist() == look_hash(volume[:, 2], "image").tolist()
    image = texture(1, (200, 300))
    smaller = np.asarray(Image.fromarray(image).resize((150, 100)))
    darker = (image * 0.7).astype(np.uint8)
    first = look_hash(image[None], "image")
    assert np.mean(first != look_hash(smaller[None], "image")) < 0.05
    assert np.mean(first != look_hash(darker[None], "image")) < 0.05
    assert np.mean(first != look_hash(texture(2, (200, 300))[None], "image")) > 0.3


def test_fifteen_hundred_hashes_are_compared_exactly() -> None:
    rng = np.random.default_rng(0)
    hashes = {i: rng.random(256) < 0.5 for i in range(1500)}
    for i, flips in ((1, 30), (2, 31)):  # at the limit and one bit beyond it
        hashes[1000 + i] = hashes[i] ^ (np.arange(256) < flips)
    table = pd.DataFrame({"sample_id": [f"{i}" for i in range(1500)]})
    table = table.assign(patient_id=table["sample_id"], _part=None)
    near = near_duplicates(table, hashes, [])
    assert near[["a", "b", "bits"]].to_numpy().tolist() == [["1", "1001", 30]]


DATA = load(Path(__file__).parents[2] / "data_manifests" / "mmotu_tvus.csv")


@pytest.mark.skipif(not DATA.root.is_dir(), reason=f"the data set is not at {DATA.root}: set XMKD_DATA")
def test_blocks_of_numbers_keep_most_near_duplicates_of_mmotu_on_one_side() -> None:
    fractions = {"val": 0.15, "test": 0.2}
    blocks = split(DATA.table, "endometrioma", fractions).of(DATA.table)
    alone = DATA.table.assign(patient_id=DATA.table["sample_id"])  # as if each image were a patient
    random = split(alone, "endometrioma", fractions).of(alone)
    report = check(Manifest(alone.assign(split=blocks), DATA.card, DATA.root, DATA.hash, DATA.path))
    assert report.ok
    assert report.near is not None
    assert len(report.near) == 124
    side = random.set_axis(alone["sample_id"])
    scattered = side[report.near["a"]].to_numpy() != side[report.near["b"]].to_numpy()
    assert report.near["other_part"].sum() < 0.3 * scattered.sum()

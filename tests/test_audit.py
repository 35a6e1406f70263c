"""The shortcut audit: what is blanked, whose scores are joined, and that it finds a shortcut where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.conftest import EXPERIMENT, Cli
from xmkd import audit, config, training
from xmkd.data.blank import BLANKED, BORDER, FRAME, MARGIN, ONLY, WHOLE, Change, changed_picture
from xmkd.data.streams import plan
from xmkd.runs import Run

CARD = """\
name: marked
root: .
labels:
  kind:
    classes: [plain, marked]
    positive: marked
"""


def write_marked(folder: Path, *, patients: int = 24, each: int = 2) -> Path:
    """Speckle with a grey disc that says nothing; positives have a bright bar at the rim, and larger files."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:32, 0:32]
    rows = []
    for p in range(patients):
        for i in range(each):
            name = f"p{p:02d}_{i}"
            pixels = rng.uniform(20, 90, (32, 32))
            disc = (y - rng.uniform(13, 19)) ** 2 + (x - rng.uniform(13, 19)) ** 2 < 25
            pixels[disc] += 80
            if p % 2:
                pixels[:2, 6:26] = 250
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{name}.png")
            Image.fromarray((255 * disc).astype(np.uint8)).save(folder / "masks" / f"{name}.png")
            label = "marked" if p % 2 else "plain"
            rows.append((name, f"p{p:02d}", "tvus", f"images/{name}.png", f"masks/{name}.png", label))
    columns = ["sample_id", "patient_id", "modality", "path", "mask", "kind"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "marked.csv", index=False)
    (folder / "marked.yaml").write_text(CARD)
    return folder / "marked.csv"


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """An experiment on the study with a shortcut."""
    manifest = write_marked(tmp_path / "study")
    text = EXPERIMENT.format(manifest=manifest, cache=tmp_path / "cache", runs=tmp_path / "runs")
    path = tmp_path / "marked.yaml"
    path.write_text(text.replace("label: filled", "label: kind"))
    return path


WORDS = ["data.folds=2", "data.split.val=0", "optim.lr=0.01"]


def only_folder(experiment: Path) -> Path:
    (folder,) = (experiment.parent / "runs" / "marked").glob("cv2-*")
    return folder


def test_audit_finds_the_shortcut(cli: Cli, marked: Path) -> None:
    called = cli("crossval", marked, *WORDS, "trainer.max_epochs=4")
    assert called.code == 0, called.err
    folder = only_folder(marked)
    table = pd.read_csv(folder / "audit.csv").set_index("condition")
    assert list(table.columns) == ["auroc", "low", "high", "n", "patients", "note"]
    assert list(table.index) == list(audit.NOTES)
    assert set(table["n"]) == {48}
    assert set(table["patients"]) == {24}
    auroc = table["auroc"]
    assert auroc[WHOLE] > 0.95
    assert auroc[BLANKED] > 0.95, "the bar at the rim gives it away"
    assert auroc[BORDER] > 0.95
    assert 0.25 < auroc[ONLY] < 0.75, "the disc says nothing"
    assert "at most 0" in table["note"][WHOLE]
    printed = [line for line in called.out.splitlines() if line.startswith("audit/")]
    assert [line.split()[0] for line in printed] == [f"audit/{name.replace(' ', '_')}" for name in audit.NOTES]
    assert printed[0].startswith(f"audit/whole {auroc[WHOLE]:.3f} [")
    sheet = Image.open(folder / "audit.png")
    assert sheet.width > 300
    assert not list(folder.glob(".*tmp"))


def test_whole_equals_the_out_of_fold_scores_and_is_not_audited_twice(cli: Cli, marked: Path) -> None:
    words = [*WORDS, "trainer.max_epochs=1"]
    cli("crossval", marked, *words)
    folder = only_folder(marked)
    experiment = config.load(folder / "config.yaml")
    folds = [Run(folder / f"fold_{k}") for k in range(2)]
    study = plan(experiment.data)
    masks = np.zeros((48, 32, 32), bool)
    oof = pd.read_csv(folder / "predictions_oof.csv").set_index("sample_id")["score"]
    for k, run in enumerate(folds):
        fold = config.load(run.folder / "config.yaml")
        (table,) = training.rescore(run, fold, [Change(WHOLE, masks)])
        assert set(table["fold"]) == {k}
        assert np.abs(table["score"].to_numpy() - oof[table["sample_id"]].to_numpy()).max() <= 1e-5
    assert audit.applies(experiment, study)
    (folder / "audit.csv").write_text((folder / "audit.csv").read_text().replace("whole,", "hole,"))
    assert "audit/hole" in cli("crossval", marked, *words).out, "what is there is left and printed again"
    assert "audit/hole" not in cli("crossval", marked, *words, "resume=never").out


def test_metadata_that_tell_the_classes_apart_are_found(cli: Cli, marked: Path) -> None:
    images = marked.parent / "study" / "images"
    for file in images.glob("*.png"):
        if int(file.stem[1:3]) % 2:
            with file.open("ab") as stream:
                stream.write(bytes(5000))  # readers ignore what follows the last chunk
    assert cli("crossval", marked, *WORDS, "trainer.max_epochs=1").code == 0
    table = pd.read_csv(only_folder(marked) / "audit.csv").set_index("condition")
    assert table["auroc"][audit.METADATA] > 0.95
    assert "no pixels" in table["note"][audit.METADATA]


def test_samples_without_a_readable_mask_are_left_out_and_counted(cli: Cli, marked: Path) -> None:
    folder = marked.parent / "study"
    (folder / "masks" / "p03_0.png").unlink()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "masks" / "p04_1.png")
    manifest = pd.read_csv(folder / "marked.csv", dtype=str)
    manifest.loc[0, "mask"] = None
    manifest.to_csv(folder / "marked.csv", index=False)
    assert cli("crossval", marked, *WORDS, "trainer.max_epochs=1").code == 0
    table = pd.read_csv(only_folder(marked) / "audit.csv")
    assert set(table["n"]) == {45}
    assert table["note"].str.contains("3 without a mask left out").all()


@pytest.mark.parametrize("change", ["no masks", "clips", "no label"])
def test_it_applies_to_labelled_stills_with_masks_alone(marked: Path, change: str) -> None:
    experiment = config.load(marked)
    stream = experiment.data.streams["tvus"]
    assert audit.applies(experiment, plan(experiment.data))
    if change == "no masks":
        path = marked.parent / "study" / "marked.csv"
        manifest = pd.read_csv(path, dtype=str)
        manifest.loc[:5, "mask"] = None
        manifest.to_csv(path, index=False)
    elif change == "clips":
        stream.view = "clip"
    else:
        stream.label = None
    assert not audit.applies(experiment, plan(experiment.data))


def picture_and_mask() -> tuple[np.ndarray, np.ndarray]:
    """A padded picture, rows 10 to 89 of 100, of value 100 + 50 in a lesion that is a square."""
    picture, mask = np.zeros((100, 100), np.uint8), np.zeros((100, 100), bool)
    picture[10:90] = 100
    mask[40:60, 30:50] = True
    picture[mask] = 150
    return picture, mask


def test_lesion_blanked_by_hand() -> None:
    picture, mask = picture_and_mask()
    found = changed_picture(picture, mask, BLANKED)
    assert (found[10:90] == 100).all()
    assert (found[:10] == 0).all()
    noisy = picture.copy()
    noisy[~mask & (picture > 0)] = np.random.default_rng(0).integers(50, 150, int((~mask & (picture > 0)).sum()))
    found = changed_picture(noisy, mask, BLANKED)
    dilated = found[45, 30 - round(100 * MARGIN) : 50]
    assert len(set(dilated.tolist())) == 1
    far = np.ones_like(mask)
    far[40 - 3 : 60 + 3, 30 - 3 : 50 + 3] = False
    assert (found[far] == noisy[far]).all()
    assert picture[45, 35] == 150, "the cache's picture stays as it is"


def test_lesion_only_by_hand() -> None:
    picture, mask = picture_and_mask()
    picture[70:90] = 40
    found = changed_picture(picture, mask, ONLY)
    assert (found[mask] == 150).all()
    outside = found[~mask & (found != 100)]
    assert set(outside.tolist()) == {found[0, 0]}, "no trace of the rest, nor of the padding"
    assert 40 < found[0, 0] < 100


def test_border_only_by_hand() -> None:
    picture, mask = picture_and_mask()
    picture[10:14] = 200
    found = changed_picture(picture, mask, BORDER)
    top, left = round(FRAME * 80), round(FRAME * 100)
    assert (found[:10] == 0).all()
    assert (found[10 : 10 + top] == picture[10 : 10 + top]).all()
    assert (found[:, :left] == picture[:, :left]).all()
    inner = found[10 + top : 90 - top, left : 100 - left]
    assert len(set(inner.ravel().tolist())) == 1
    frame = picture[10:90].astype(float).sum() - picture[10 + top : 90 - top, left : 100 - left].astype(float).sum()
    assert inner[0, 0] == round(frame / (80 * 100 - inner.size))
    mask[40:60, :10] = True
    found = changed_picture(picture, mask, BORDER)
    assert len(set(found[40:60, :10].ravel().tolist())) == 1, "a lesion that reaches into the rim is blanked there"
    assert (found[70:88, :left] == picture[70:88, :left]).all()


@pytest.mark.parametrize("condition", [BLANKED, ONLY, BORDER])
def test_without_a_mask_a_picture_stays(condition: str) -> None:
    picture, mask = picture_and_mask()
    assert changed_picture(picture, np.zeros_like(mask), condition) is picture
    both = Change(condition, np.stack([mask, np.zeros_like(mask)]))
    found = both(np.array([1, 0]), np.stack([picture, picture])[:, None])
    assert found.shape == (2, 1, 100, 100)
    assert (found[0, 0] == picture).all()
    assert (found[1, 0] != picture).any()


@pytest.mark.parametrize("condition", [BLANKED, ONLY])
def test_a_lesion_that_fills_the_picture(condition: str) -> None:
    picture = np.random.default_rng(0).integers(1, 255, (20, 20)).astype(np.uint8)
    found = changed_picture(picture, np.ones((20, 20), bool), condition)
    expected = picture if condition == ONLY else np.full_like(picture, round(float(picture.mean())))
    assert (found == expected).all()

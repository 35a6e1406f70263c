"""Reports of pre-training and of distillation, read as a reader would."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.chain import Chain, build, small_networks
from tests.conftest import Cli
from tests.reporting.page import Page, load
from xmkd import runs, training
from xmkd.reporting import report
from xmkd.reporting.blocks import ABSOLUTE_PATH
from xmkd.reporting.reconstructions import write_sheet

pytestmark = pytest.mark.filterwarnings("ignore:.*higher scores don't go with more positives")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    with pytest.MonkeyPatch.context() as patch:
        small_networks(patch)
        return build(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def pretrained(chain: Chain) -> Page:
    report.write_report(runs.find(chain.mae))
    return load(chain.mae)


@pytest.fixture(scope="module")
def student(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        small_networks(patch)
        return training.fit(chain.student(tmp_path_factory.mktemp("student") / "runs")).folder


def pictures(page: Page, words: str) -> list[Image.Image]:
    found = [src.split(",")[1] for src, alt in page.images if re.search(words, alt)]
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_a_pretraining_has_a_report_without_diagnostic_parts(pretrained: Page) -> None:
    assert pretrained.problems == []
    wanted = ["Result", "Data", "Flow of samples and split", "Training", "Reconstructions", "Limits", "Reproduction"]
    assert [title for title in pretrained.headings if title != "Before reading on"] == wanted
    assert "checklist" not in pretrained.ids
    assert not [link for link in pretrained.links if link.removeprefix("#") not in pretrained.ids]
    for word in ("AUROC", "Grad-CAM", "Prevalence", "class"):
        assert word not in pretrained.text.split("Reproduction What the run")[0], word
    assert all(re.search(r"From .+\.$", caption.strip()) for caption in pretrained.captions)


def test_figures_of_a_pretraining_stand_beside_those_of_the_baselines(pretrained: Page, chain: Chain) -> None:
    metrics = json.loads((chain.mae / "summary.json").read_text())["metrics"]
    table = pd.read_csv(chain.mae / "predictions_test.csv")
    starts = {"loss": "Loss", "psnr": "PSNR", "ssim": "SSIM"}
    for kind, name in starts.items():
        beside, minus = (row for row in pretrained.rows if row[0].startswith(f"{name} ") and len(row) > 2)
        for cell, of in zip(beside[2:], ("model", "mean_patch", "linear"), strict=True):
            assert cell.startswith(f"{metrics[f'{kind}_{of}']['value']:.3f} ")
        for cell, of in zip(minus[1:], ("mean_patch", "linear"), strict=True):
            assert cell.startswith(f"{(table[f'{kind}_model'] - table[f'{kind}_{of}']).mean():.3f} ")
    assert "Too few patients for an interval of Loss" in pretrained.text


def test_the_first_and_the_last_sheet_are_in_the_report(pretrained: Page, chain: Chain) -> None:
    sheets = pictures(pretrained, "reconstructed slices")
    assert len(sheets) == 2
    assert sheets[0].tobytes() == Image.open(chain.mae / "pictures" / "epoch_0001.png").tobytes()
    assert sheets[1].tobytes() == Image.open(chain.mae / "pictures" / "epoch_0000.png").tobytes()
    assert "must stay with the run folder" in pretrained.text


def test_nothing_tells_who_or_where(pretrained: Page, student: Path) -> None:
    for page in (pretrained, load(student)):
        assert not ABSOLUTE_PATH.search(page.text), ABSOLUTE_PATH.search(page.text)
        assert not re.search(r"\b(labelled|corpus|p)\d\d\d?\b(?!_)", page.readable)


def test_without_pictures_or_test_patients(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small_networks(patch)
        words = ["data.split.test=0", "method.normalise=true", "trainer.max_epochs=1"]
        run = training.fit(chain.pretraining(tmp_path / "runs", *words))
    shutil.rmtree(run.folder / "pictures")
    assert cli("report", run.folder).code == 0
    found = load(run.folder)
    assert "Reconstructions" not in found.headings
    assert "validation patients" in found.row("Predictions of")[1]
    assert "an error of 1 is that of knowing nothing" in found.text
    assert "PSNR" not in found.text.split("Reproduction What the run")[0]
    assert "The flow of samples and the split can't be shown" not in found.text


def test_a_probe_and_folds_of_a_pretraining(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small_networks(patch)
        words = [*chain.probe, "data.folds=2", "trainer.max_epochs=1"]
        run = training.crossval(chain.pretraining(tmp_path / "runs", *words))
    found = load(run.folder)
    assert found.problems == []
    assert "16 all patients, each predicted by the fold" in found.text
    assert "Validation AUROC of a linear probe" in found.text
    assert len(pictures(found, "reconstructed slices")) == 1


def test_a_student_says_which_arm_it_is(student: Path, chain: Chain) -> None:
    found = load(student)
    assert found.problems == []
    assert found.row("Arm")[1] == "distillation (same-class) and supervision, after pre-training"
    assert "random examination of the same class" in found.row("Target")[1]
    assert found.row("Distance")[1] == "l1 of probabilities"
    told = "alpha 0.5, chosen for equal weights in the middle, offset 0: 1 in the first epoch, 0.5 in the last"
    assert found.row("Weight of distillation")[1] == told
    area = json.loads((chain.teacher / "summary.json").read_text())["metrics"]["auroc"]["value"]
    assert f"AUROC out of fold {area:.3f}" in found.row("Teacher")[1]
    assert chain.mae.name in found.row("Encoder starts")[1]
    assert "no proof that knowledge was transferred" in found.text
    assert "another mixture of its terms" in found.text
    for title in ("Terms of the loss", "Weight of distillation", "Loss"):
        assert title in found.text
    assert any("from 1.000 to 0.500" in alt for _, alt in found.images)
    assert any("train/l_kd, train/l_ptm" in alt for _, alt in found.images)


def test_other_arms_are_told_of_no_partner_and_no_mixture(student: Path, tmp_path: Path, cli: Cli) -> None:
    folder = Path(shutil.copytree(student, tmp_path / "copy"))
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("pairing: same-class", "pairing: surrogate"))
    metrics = pd.read_csv(folder / "metrics.csv")
    metrics.loc[metrics["metric"] == "train/w", "value"] = 0.0
    metrics.to_csv(folder / "metrics.csv", index=False)
    assert cli("report", folder).code == 0
    found = load(folder)
    assert "Beta distribution" in found.row("Target")[1]
    assert "no proof that knowledge was transferred" not in found.text
    assert "another mixture of its terms" not in found.text


def test_mistakes_of_volumes_are_three_slices_without_a_map(student: Path) -> None:
    found = load(student)
    shown = pictures(found, "as the model saw it")
    table = runs.find(student).predictions("test")
    assert 0 < len(shown) <= len(table)
    assert {image.size for image in shown} == {(3 * 224, 224)}, "enlarged slices of 16 x 16"
    assert "There is no Grad-CAM of volumes" in found.text
    assert "The same with the Grad-CAM map" not in [alt for _, alt in found.images]
    assert "Grad-CAM shows where" not in found.text
    answers = {row[1]: row[2] for row in found.rows if len(row) == 3}
    assert answers["Preprocessing"].startswith("MRI: resampled to 4 x 1 x 1 mm, cropped or padded to 8 x 16 x 16")
    assert answers["Explainability or interpretability"] == "not reported"
    assert answers["Initial values of the parameters"].startswith("Weights from ")


def test_supervision_alone_and_a_teacher_that_is_gone(chain: Chain, student: Path, tmp_path: Path, cli: Cli) -> None:
    folder = Path(shutil.copytree(student, tmp_path / "copy"))
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace(str(chain.teacher), "runs/gone"))
    assert cli("report", folder).code == 0
    assert load(folder).row("Teacher")[1] == "runs/gone, which is not there any more"
    text = text.replace("alpha: auto", "alpha: 0").replace("epoch_offset: 0", "epoch_offset: 1")
    (folder / "config.yaml").write_text(text.replace(f"mae: {chain.mae}", "mae: none"))
    assert cli("report", folder).code == 0
    found = load(folder)
    assert found.row("Arm")[1] == "supervision alone, from scratch"
    assert found.row("Teacher")[1] == "none: this arm needs no teacher"
    assert found.row("Encoder starts")[1] == "at random"
    assert "no proof that knowledge" not in found.text


def test_a_sheet_shows_each_volume_three_times(tmp_path: Path) -> None:
    volume = torch.randn(2, 1, 10, 70, 80)
    masked, painted = torch.full_like(volume, -9.0), torch.full_like(volume, 9.0)
    write_sheet(tmp_path / "a" / "sheet.png", volume, masked, painted)
    with Image.open(tmp_path / "a" / "sheet.png") as image:
        pixels = torch.from_numpy(np.array(image))
    assert pixels.shape == (14 + 2 * 74, 9 * 84)
    body = pixels[14:].view(2, 74, 9, 84)[:, :70, :, :80]
    assert body[:, :, 1::3].max() == 0
    assert body[:, :, 2::3].min() == 255
    assert body[:, :, ::3].float().std() > 40
    write_sheet(tmp_path / "small.png", *(x[..., :16] for x in (volume, masked, painted)))
    with Image.open(tmp_path / "small.png") as image:
        assert image.width == 9 * (4 * 16 + 4), "narrow slices are enlarged"

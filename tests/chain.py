"""A whole chain of distillation in seconds: an ultrasound teacher, an auto-encoder of MRI, and students of both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import EXPERIMENT
from xmkd import config, training
from xmkd.config import Experiment
from xmkd.data.image import Image
from xmkd.data.readers import write_nifti
from xmkd.data.toy import write_study
from xmkd.nets.vit3d import PRESETS

SIZE = (8, 16, 16)
CARD = """\
name: {name}
labels:
  filled:
    classes: [empty, filled]
    positive: filled
"""
VOLUMES = """\
data:
  streams:
    mri:
      manifest: {manifest}
      view: volume
      batch_size: 4
      mri: {{spacing_mm: [4, 1, 1], size: [8, 16, 16]}}
  split: {{val: 0.25, test: 0.25}}
  cache: {cache}
trainer: {{max_epochs: 2, log_every_n_steps: 1, enable_progress_bar: false, accelerator: cpu, devices: 1}}
runs: {runs}
"""
MAE = VOLUMES + "method: {{name: mae, student: tiny, patch: [4, 8, 8], normalise: false, pictures: 2}}\n"
DISTILL = VOLUMES.replace("      view", "      label: filled\n      view")
DISTILL += "method: {{name: distill, student: tiny, patch: [4, 8, 8], mae: {mae}, teacher: {teacher}}}\n"


@dataclass(frozen=True)
class Chain:
    """What the students are made from.

    Attributes:
        base: Folder of everything.
        labelled: Manifest of labelled volumes of 24 patients.
        corpus: Manifest of volumes of 16 others, without labels.
        teacher: A cross-validation in two folds, of ultrasound of yet other patients.
        mae: A finished auto-encoder of the corpus.
    """

    base: Path
    labelled: Path
    corpus: Path
    teacher: Path
    mae: Path

    @property
    def probe(self) -> tuple[str, ...]:
        """Words that add the labelled volumes as a probe to an auto-encoder."""
        settings = (f"manifest={self.labelled}", "label=filled", "view=volume", "batch_size=5")
        size = "mri={spacing_mm: [4, 1, 1], size: [8, 16, 16]}"
        return tuple(f"data.streams.probe.{setting}" for setting in (*settings, size))

    def pretraining(self, runs: Path, *words: str) -> Experiment:
        """Another auto-encoder, with its runs in a folder of its own."""
        return self._experiment("mae", MAE, self.corpus, runs, words)

    def student(self, runs: Path, *words: str) -> Experiment:
        """A student that starts from the auto-encoder and learns from the teacher."""
        return self._experiment("distill", DISTILL, self.labelled, runs, words)

    def _experiment(self, name: str, text: str, manifest: Path, runs: Path, words: tuple[str, ...]) -> Experiment:
        return config.load(self.write(name, text, manifest, runs), list(words))

    def write(self, name: str, text: str, manifest: Path, runs: Path) -> Path:
        """An experiment file beside its runs, which share the chain's salt."""
        runs.mkdir(parents=True, exist_ok=True)
        (runs / ".xmkd_salt").write_text((self.base / "runs" / ".xmkd_salt").read_text())
        path = runs.parent / f"{name}.yaml"
        made = {"manifest": manifest, "cache": self.base / "cache", "runs": runs}
        path.write_text(text.format(**made, mae=self.mae, teacher=self.teacher))
        return path


def small_networks(patch: pytest.MonkeyPatch) -> None:
    """A student of 18 thousand weights in the place of the smallest preset."""
    small = replace(PRESETS["tiny"], width=24, depth=2, heads=2, decoder_width=12, decoder_depth=2, decoder_heads=2)
    patch.setitem(PRESETS, "tiny", small)


def build(base: Path) -> Chain:
    """Write the studies and train what a student needs; under `small_networks`."""
    ultrasound = write_study(base / "ultrasound", patients=20, each=1, size=32, name="tvus")
    labelled = write_volumes(base / "labelled", patients=24, name="labelled")
    corpus = write_volumes(base / "corpus", patients=16, name="corpus", seed=1, label=False)
    text = EXPERIMENT.replace("resnet10t", "test_resnet").replace("max_epochs: 2", "max_epochs: 1")
    (base / "teacher.yaml").write_text(text.format(manifest=ultrasound, cache=base / "cache", runs=base / "runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_or_warn", lambda *_: None)
        teacher = training.crossval(config.load(base / "teacher.yaml", ["data.folds=2", "data.split.test=0"]))
        (base / "mae.yaml").write_text(MAE.format(manifest=corpus, cache=base / "cache", runs=base / "runs"))
        mae = training.fit(config.load(base / "mae.yaml"))
    return Chain(base, labelled, corpus, teacher.folder, mae.folder)


def write_volumes(folder: Path, *, patients: int, name: str, seed: int = 0, label: bool = True) -> Path:
    """Smooth volumes of patients, half of them with a bright ball; each its own manifest."""
    folder.mkdir(parents=True)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = (4, 1, 1, 1)
    rows: list[dict[str, Any]] = []
    for p in range(patients):
        rng = np.random.default_rng([seed, p])
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
        volume = 300 + sum(100 * rng.normal() * axis for axis in axes) + 10 * rng.normal(size=SIZE)
        ball = sum((axis - at) ** 2 for axis, at in zip(axes, rng.uniform(-0.3, 0.3, 3), strict=True)) < 0.25
        volume = volume + 150 * (p % 2) * ball
        image = Image(volume[None].astype(np.float32), "volume", (4, 1, 1), affine, "mri")
        write_nifti(image, folder / f"{p}.nii")
        row = {"sample_id": f"{name}{p:02d}_a", "patient_id": f"{name}{p:02d}", "modality": "mri", "path": f"{p}.nii"}
        rows.append(row | ({"filled": "filled" if p % 2 else "empty"} if label else {}))
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    card = CARD if label else CARD.split("labels:")[0]
    (folder / f"{name}.yaml").write_text(card.format(name=name))
    return folder / f"{name}.csv"

"""One trained run of the toy study, copied for each test that changes something in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import EXPERIMENT
from xmkd import config, training
from xmkd.data.toy import write_study

WORDS = ["data.split.val=0.25", "data.split.test=0.55", "evaluation.operating_point=sens>=0.8"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `study/`, `experiments/tiny.yaml` and the run `runs/tiny/<id>`; 11 test patients of each class."""
    base = tmp_path_factory.mktemp("report")
    manifest = write_study(base / "study", patients=40, each=2, size=32)
    (base / "experiments").mkdir()
    file = base / "experiments" / "tiny.yaml"
    file.write_text(EXPERIMENT.format(manifest=manifest, cache=base / "cache", runs=base / "runs"))
    training.fit(config.load(file, WORDS))
    return base


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A run folder of one's own, with a study of one's own."""
    base = tmp_path / "copied"
    shutil.copytree(finished, base)
    run = only_run(base)
    text = (run / "config.yaml").read_text().replace(str(finished), str(base))
    (run / "config.yaml").write_text(text)
    return run


def only_run(base: Path) -> Path:
    (folder,) = (p for p in (base / "runs" / "tiny").iterdir() if p.is_dir())
    return folder

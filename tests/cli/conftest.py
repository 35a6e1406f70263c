"""What the tests of bad input share: what a refusal looks like, and a finished run to spoil."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import EXPERIMENT, Called

Variant = Callable[..., list[str]]


def refused(called: Called, *words: str) -> str:
    """The message of a refusal: exit code 2, one message with what, where and two ways out, no traceback."""
    assert called.code == 2, called
    assert "Traceback" not in called.out + called.err
    messages = [line for line in called.err.splitlines() if line.startswith("xmkd: ") and "warning" not in line]
    assert len(messages) == 1, called.err
    for part in ("\n  where: ", "\n  either: ", "\n  or: "):
        assert called.err.count(part) == 1, called.err
    for word in words:
        assert word in called.err, f"{word!r} is not in: {called.err}"
    return called.err


def run_folders(experiment: Path) -> list[Path]:
    """The folders of the runs of an experiment that lie below its own folder."""
    return sorted(p for p in (experiment.parent / "runs").glob("*/*") if p.is_dir())


def unfinished_files(folder: Path) -> list[Path]:
    """Temporary files, which should be gone whatever happened."""
    return [p for p in folder.rglob("*") if "tmp" in p.name.lower()]


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, to see that it is as it was."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture
def variant(tmp_path: Path, toy: Path) -> Variant:
    """Writes a changed copy of the toy manifest, and of its card; returns the overrides that name it."""

    def write(
        change: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
        *,
        text: str | None = None,
        card: Callable[[str], str | None] = lambda card: card,
    ) -> list[str]:
        table = pd.read_csv(toy, dtype=str)
        file = tmp_path / "changed.csv"
        file.write_text((table if change is None else change(table)).to_csv(index=False) if text is None else text)
        content = card(toy.with_suffix(".yaml").read_text())
        if content is not None:
            file.with_suffix(".yaml").write_text(content)
        return [f"data.streams.tvus.manifest={file}", f"data.streams.tvus.root={toy.parent}"]

    return write


@pytest.fixture
def quick(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny experiment with the smallest network that timm has, and without reports."""
    monkeypatch.setattr("xmkd.training.write_or_warn", lambda *_: None)
    experiment.write_text(experiment.read_text().replace("resnet10t", "test_resnet"))
    return experiment


@pytest.fixture(scope="session")
def finished_once(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from xmkd import config, training

    folder = tmp_path_factory.mktemp("finished")
    text = EXPERIMENT.format(manifest=toy, cache=toy.parent / "cache", runs=folder / "runs")
    (folder / "tiny.yaml").write_text(text.replace("resnet10t", "test_resnet"))
    training.fit(config.load(folder / "tiny.yaml"))
    return folder


@pytest.fixture
def finished(finished_once: Path, quick: Path) -> Path:
    """The folder of a finished run of `quick`, for this test alone."""
    shutil.copytree(finished_once / "runs", quick.parent / "runs")
    (folder,) = run_folders(quick)
    return folder

"""A tiny generated study, and the command line called as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from xmkd.data.toy import write_study

REPOSITORY = Path(__file__).resolve().parents[1]
EXPERIMENT = """\
data:
  streams:
    tvus:
      manifest: {manifest}
      label: filled
      batch_size: 8
      ultrasound: {{size: [32, 32], crop_sector: false, remove_overlays: false}}
  split: {{val: 0.3, test: 0.3}}
  cache: {cache}
method: {{name: teacher, backbone: resnet10t, drop_rate: 0.2}}
trainer: {{max_epochs: 2, log_every_n_steps: 2, enable_progress_bar: false, accelerator: cpu, devices: 1}}
runs: {runs}
"""


@dataclass(frozen=True)
class Called:
    """What a command did."""

    code: int
    out: str
    err: str


Cli = Callable[..., Called]


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of 40 generated patients with 2 stills of 32 x 32 each."""
    return write_study(tmp_path_factory.mktemp("toy"), patients=40, each=2, size=32)


@pytest.fixture
def experiment(tmp_path: Path, toy: Path) -> Path:
    """An experiment on the toy study that trains in seconds; its runs lie in the test's own folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT.format(manifest=toy, cache=toy.parent / "cache", runs=tmp_path / "runs"))
    return path


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`python -m xmkd` in this process: the exit code and what was printed."""
    from xmkd.cli import main

    def call(*words: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["xmkd", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
            main()
        printed = capfd.readouterr()
        code = stop.value.code
        return Called(code if isinstance(code, int) else 0, printed.out, printed.err)

    return call


def start(*words: object, **variables: str) -> subprocess.Popen[str]:
    """`python -m xmkd` as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "xmkd", *map(str, words)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def real_data(name: str) -> Path:
    """Folder of a public data set; skips the test where it is not there."""
    root = Path(os.environ.get("XMKD_DATA", REPOSITORY.parent / "shared" / "data")) / name
    if not root.is_dir():
        pytest.skip(f"needs the data set {name}: set XMKD_DATA")
    return root

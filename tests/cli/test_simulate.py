"""`xmkd simulate` as a user calls it: a cohort from nothing, again, elsewhere, interrupted, and with mistakes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import contents, refused
from tests.conftest import REPOSITORY, Cli, start

COHORTS = REPOSITORY / "experiments" / "cohorts"
TINY = COHORTS / "pod_tiny.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny cohort, as two processes write it."""
    out = tmp_path_factory.mktemp("made") / "pod"
    process = start("simulate", TINY, "--out", out, "--workers", 2)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return out


def test_a_cohort_from_nothing(cli: Cli, tmp_path: Path, made: Path) -> None:
    called = cli("simulate", TINY, "--out", tmp_path / "pod", "--workers", 1)
    assert called.code == 0, called.err
    lines = called.out.splitlines()
    assert lines[0].startswith("tvus: 10 patients, 20 samples, prevalence 0.500; 10 simulated in ")
    assert lines[0].endswith("examinations/s with all files)")
    assert [line.strip() for line in lines if line.startswith("  ")] == [
        str(tmp_path / "pod" / f"pod_{name}.csv") for name in ("tvus", "tvus_stills", "mri", "mri_unlabelled")
    ]
    ours, theirs = contents(tmp_path / "pod"), contents(made)
    assert ours.keys() == theirs.keys()
    # The record names the code, which may be edited while its tests run.
    different = [name for name in ours if ours[name] != theirs[name] and name != "cohort.json"]
    assert not different, "one process or two: the same bytes"


def test_what_was_made_passes_the_check_and_can_be_trained_on(cli: Cli, made: Path, tmp_path: Path) -> None:
    called = cli("check", made)
    assert called.code == 0, called.out
    assert called.out.count("sim_pod: ") == len(list(made.glob("pod_*.csv"))) == 4
    assert "error:" not in called.out
    words = (
        f"data.streams.tvus.manifest={made / 'pod_tvus.csv'}",
        "data.streams.tvus.ultrasound={size: [32, 32], frames: 4}",
        "method.clip_frames=4",
        f"data.cache={tmp_path / 'cache'}",
        f"runs={tmp_path / 'runs'}",
        "trainer={max_epochs: 1, accelerator: cpu, devices: 1, enable_progress_bar: false}",
    )
    called = cli("fit", REPOSITORY / "experiments" / "teacher_pod.yaml", *words)
    assert called.code == 0, called.err
    (predictions,) = (tmp_path / "runs").glob("*/*/predictions_test.csv")
    assert len(pd.read_csv(predictions)) == 4


def test_the_same_command_again_changes_nothing(cli: Cli, made: Path) -> None:
    before = contents(made)
    called = cli("simulate", TINY, "--out", made, "--workers", 1)
    assert called.code == 0, called.err
    assert called.out.count("complete already") == 3
    assert contents(made) == before


def test_one_part_alone(cli: Cli, made: Path, tmp_path: Path) -> None:
    called = cli("simulate", TINY, "--out", tmp_path / "pod", "--workers", 1, "--only", "mri")
    assert called.code == 0, called.err
    assert sorted(p.name for p in (tmp_path / "pod").glob("pod_*")) == ["pod_mri.csv", "pod_mri.yaml"]
    assert contents(tmp_path / "pod" / "mri") == contents(made / "mri")
    refused(cli("simulate", TINY, "--out", tmp_path / "pod", "--only", "mir"), "did you mean 'mri'?")


def test_nothing_is_overwritten_without_force(cli: Cli, made: Path) -> None:
    before = contents(made)
    called = cli("simulate", TINY, "--out", made, "--workers", 1, "seed=9")
    refused(called, "another cohort is here", "--force", "--out FOLDER")
    assert contents(made) == before


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["tvus.patients.train=-4", "prevalence=0", "tvus.size=[-1,160]"],
            ["3 problems", "-4 is negative", "[-1, 160]"],
        ),
        (["prevalance=0.2"], ["did you mean 'prevalence'?"]),
        (["mri.patients.test=0"], ["mri.patients.test: without test patients"]),
        (["mri.spacing=[140,4.5,4.5]"], ["the slices cover 840 mm"]),
        (["visibility=from lock"], ["pod_tiny.lock", "--calibrate"]),
    ],
)
def test_bad_specifications_are_refused(cli: Cli, tmp_path: Path, words: list[str], parts: list[str]) -> None:
    refused(cli("simulate", TINY, "--out", tmp_path / "pod", *words), *parts)
    assert not (tmp_path / "pod").exists()


def test_bad_places_are_refused(cli: Cli, tmp_path: Path) -> None:
    refused(cli("simulate", tmp_path / "pod.yaml", "--out", tmp_path / "a"), "there is no such cohort file")
    (tmp_path / "file").write_text("")
    refused(cli("simulate", TINY, "--out", tmp_path / "file"), "can't be written")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    refused(cli("simulate", TINY, "--out", tmp_path / "mine", "--force"), "thesis.tex")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    refused(cli("simulate", TINY, "--out", tmp_path / "closed" / "pod"), "can't be written")


def test_ctrl_c_leaves_a_cohort_that_goes_on(cli: Cli, tmp_path: Path) -> None:
    more = ["tvus.patients.train=24", "tvus.stills=0"]
    process = start("simulate", TINY, "--out", tmp_path / "pod", "--workers", 2, "--only", "tvus", *more)
    while process.poll() is None and len(list(tmp_path.glob("pod/tvus/pod*/examination.json"))) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert "the same command goes on" in out
    assert "Traceback" not in out
    done = len(list(tmp_path.glob("pod/tvus/pod*/examination.json")))
    assert 3 <= done < 30
    called = cli("simulate", TINY, "--out", tmp_path / "pod", "--workers", 1, "--only", "tvus", *more)
    assert called.code == 0, called.err
    assert called.out.startswith("tvus: 30 patients, 30 samples")
    assert f"; {30 - done} simulated in" in called.out
    assert not list(tmp_path.glob("pod/tvus/.*.tmp"))

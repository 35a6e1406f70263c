"""Run folders that are damaged, full, locked or of leaking patients: a clear refusal, and nothing lost."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.conftest import Variant, contents, refused, run_folders, unfinished_files
from tests.conftest import Cli

SALT = "a salt of sixteen characters or more"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"split": '])
@pytest.mark.parametrize("name", ["provenance.json", "summary.json"])
def test_a_damaged_record(cli: Cli, quick: Path, finished: Path, name: str, content: bytes) -> None:
    (finished / name).write_bytes(content)
    if name == "summary.json":
        refused(cli("fit", quick), name, "delete it", "resume=never")
        return
    refused(cli("test", finished), name, "resume=never")
    (finished / "summary.json").unlink()
    before = contents(finished)
    refused(cli("fit", quick), name, "resume=never")
    assert contents(finished) == before
    assert cli("fit", quick, "resume=never").code == 0


def test_a_lost_summary_is_made_again(cli: Cli, quick: Path, finished: Path) -> None:
    before = (finished / "summary.json").read_bytes()
    (finished / "summary.json").unlink()
    assert cli("fit", quick).code == 0
    assert (finished / "summary.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"optim: {lrr: 1}\n", b"\xff\xfe"])
def test_a_damaged_config(cli: Cli, finished: Path, content: bytes) -> None:
    (finished / "config.yaml").write_bytes(content)
    refused(cli("test", finished), "config.yaml")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a,b\n1,2\n"])
def test_damaged_predictions(cli: Cli, finished: Path, finished_once: Path, content: bytes) -> None:
    (finished / "predictions_test.csv").write_bytes(content)
    refused(cli("compare", finished, next((finished_once / "runs" / "tiny").iterdir())), "predictions")
    assert cli("test", finished).code == 0, "they can be written again"


def test_a_metrics_file_of_garbage_does_not_stop_a_run(cli: Cli, quick: Path, finished: Path) -> None:
    (finished / "summary.json").unlink()
    (finished / "metrics.csv").write_bytes(b"\xff\xfe\n1,2\n")
    assert cli("fit", quick).code == 0


@pytest.mark.parametrize("name", ["metrics.csv", "predictions_test.csv", "summary.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a,b\n1,2\n"])
def test_a_report_of_a_damaged_run(cli: Cli, finished: Path, name: str, content: bytes) -> None:
    (finished / name).write_bytes(content)
    before = contents(finished)
    refused(cli("report", finished), name.removesuffix(".csv"))
    assert contents(finished) == before


@pytest.mark.parametrize("command", ["test", "report"])
def test_a_damaged_checkpoint(cli: Cli, finished: Path, command: str) -> None:
    (finished / "checkpoints" / "last.ckpt").write_bytes(b"PK nonsense")
    refused(cli(command, finished), "last.ckpt")


def test_what_is_no_finished_run_can_not_be_tested(cli: Cli, quick: Path, finished: Path, tmp_path: Path) -> None:
    refused(cli("test", tmp_path), "no run folder", str(tmp_path))
    refused(cli("test", tmp_path / "nowhere"), "no run folder")
    refused(cli("test", finished, "optim.lrr=1"), "optim.lrr")
    (finished / "summary.json").unlink()
    before = contents(finished)
    refused(cli("test", finished), "not finished", "xmkd fit")
    assert contents(finished) == before, "a test may not pass an unfinished run off as finished"


def test_a_cross_validation_is_tested_by_its_folds(cli: Cli, quick: Path) -> None:
    words = ["data.folds=2", "data.split.val=0", "trainer.max_epochs=1"]
    assert cli("crossval", quick, *words).code == 0
    (parent,) = run_folders(quick)
    refused(cli("test", parent), "one of its folds")
    assert cli("test", parent / "fold_1").code == 0


def test_two_processes_on_one_run(cli: Cli, quick: Path, finished: Path, tmp_path: Path) -> None:
    (finished / "summary.json").unlink()
    before = contents(finished)
    # Another process has to hold the lock: a process does not keep itself out.
    holder = subprocess.Popen(
        ["python3", "-c", f"import fcntl\nf = open({str(finished / '.lock')!r}, 'w')\n"
         "fcntl.lockf(f, fcntl.LOCK_EX)\nprint('locked', flush=True)\ninput()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout
    holder.stdout.readline()
    try:
        for more in ([], ["resume=never"]):
            refused(cli("fit", quick, *more), "another process")
            assert contents(finished) == before
    finally:
        holder.communicate(b"\n")
    assert cli("fit", quick).code == 0


def test_a_restart_keeps_the_lock_that_others_look_at(cli: Cli, quick: Path, finished: Path) -> None:
    (finished / "stale.txt").touch()
    before = (finished / ".lock").stat().st_ino
    assert cli("fit", quick, "resume=never").code == 0
    assert (finished / ".lock").stat().st_ino == before
    assert not (finished / "stale.txt").exists()


def test_a_refused_restart_leaves_the_finished_run(cli: Cli, quick: Path, finished: Path, toy: Path) -> None:
    before = contents(finished)
    words = ["resume=never", "data.streams.tvus.root=/nowhere"]
    refused(cli("fit", quick, *words), "/nowhere")
    assert contents(finished) == before


@pytest.mark.parametrize("place", ["/dev/null", "/proc/nowhere", "{tmp}/tiny.yaml/runs"])
def test_a_place_that_can_not_be_written(cli: Cli, quick: Path, tmp_path: Path, place: str) -> None:
    folder = place.format(tmp=tmp_path)
    before = quick.read_bytes()
    refused(cli("fit", quick, f"runs={folder}"), folder, "can't be written")
    refused(cli("fit", quick, f"data.cache={folder}"), folder, "can't be written")
    assert quick.read_bytes() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Any]:
    """A real disk of a given size; its size can be changed by calling again."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def of(size: str) -> Path:
        nonlocal mounted
        options = f"remount,size={size}" if mounted else f"size={size}"
        call = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            subprocess.run(call, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting is not allowed here")
        mounted = True
        return place

    yield of
    if mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # memory maps of the cache may still be open


def test_a_full_disk_under_the_cache(cli: Cli, quick: Path, small_disk: Any) -> None:
    disk = small_disk("4k")  # room for an array, none for its sidecar
    refused(cli("fit", quick, f"data.cache={disk / 'cache'}"), "the disk is full", str(disk / "cache"))
    assert not unfinished_files(disk)
    assert {p.suffix for p in (disk / "cache").iterdir()} <= {".npy", ".json"}
    assert len(list(disk.rglob("*.npy"))) == len(list(disk.rglob("*.json")))
    assert not run_folders(quick)
    small_disk("4m")
    assert cli("fit", quick, f"data.cache={disk / 'cache'}").code == 0


@pytest.mark.parametrize("size", ["8k", "12k", "64k", "10m"])  # full at the record, a metric, a checkpoint, the next
def test_a_full_disk_under_the_runs(cli: Cli, quick: Path, finished_once: Path, small_disk: Any, size: str) -> None:
    disk = small_disk(size)
    refused(cli("fit", quick, f"runs={disk / 'runs'}"), "the disk is full", str(disk / "runs"))
    assert not unfinished_files(disk)
    small_disk("64m")
    assert cli("fit", quick, f"runs={disk / 'runs'}").code == 0
    (whole,), (resumed,) = ((p / "runs" / "tiny").iterdir() for p in (finished_once, disk))
    assert (resumed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert (resumed / "predictions_test.csv").read_bytes() == (whole / "predictions_test.csv").read_bytes()


@pytest.mark.parametrize("file", ["provenance.json", "predictions_val.csv", "summary.json"])
def test_a_full_disk_at_any_file(cli: Cli, quick: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """As above, where nothing can be mounted."""
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target).name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        refused(cli("fit", quick), "the disk is full")
    (folder,) = run_folders(quick)
    assert not unfinished_files(folder)
    assert not (folder / file).exists()
    assert cli("fit", quick).code == 0


def test_patients_of_an_ancestor_are_not_evaluated_on(cli: Cli, quick: Path, finished: Path) -> None:
    weights = f"method.weights={finished / 'checkpoints' / 'last.ckpt'}"
    message = refused(
        cli("fit", quick, weights, "data.split.seed=1"), "toy/p0", "patients to be evaluated", "data.split"
    )
    assert "last.ckpt" in message
    assert run_folders(quick) == [finished]
    assert cli("fit", quick, weights).code == 0
    (child,) = set(run_folders(quick)) - {finished}
    ancestors = json.loads((child / "provenance.json").read_text())["ancestors"]
    fitted = json.loads((finished / "provenance.json").read_text())["fitted_on"]
    assert [a["fitted_on"] for a in ancestors] == [fitted]
    # The grandparent's patients count too, and no other name hides it.
    (finished / "alias.ckpt").symlink_to(child / "checkpoints" / "last.ckpt")
    refused(cli("fit", quick, f"method.weights={finished / 'alias.ckpt'}", "data.split.seed=1"), "toy/p0")


def test_weights_from_nowhere_are_warned_about(cli: Cli, quick: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "checkpoints" / "last.ckpt", tmp_path / "elsewhere.ckpt")
    with pytest.warns(UserWarning, match="nothing is known of the patients"):
        assert cli("fit", quick, f"method.weights={tmp_path / 'elsewhere.ckpt'}").code == 0


def test_another_salt_is_an_error_and_not_a_pass(
    cli: Cli, quick: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = f"method.weights={finished / 'checkpoints' / 'last.ckpt'}"
    monkeypatch.setenv("XMKD_SALT", SALT)
    refused(cli("test", finished), "another salt", "XMKD_SALT")
    refused(cli("fit", quick, weights), "another salt", "XMKD_SALT")
    monkeypatch.setenv("XMKD_SALT", "short")
    refused(cli("test", finished), "5 characters")
    assert run_folders(quick) == [finished]


def test_other_data_of_the_same_set_may_not_hold_training_patients(cli: Cli, finished: Path, variant: Variant) -> None:
    held_out = [pd.read_csv(finished / f"predictions_{side}.csv", dtype=str) for side in ("val", "test")]
    unseen = set(pd.concat(held_out)["patient_id"])
    before = contents(finished)
    refused(cli("test", finished, *variant(lambda t: t.assign(split="test"))), "16 patients", "toy/p", "changed.csv")
    assert contents(finished) == before
    called = cli("test", finished, *variant(lambda t: t[t["patient_id"].isin(unseen)].assign(split="test")))
    assert called.code == 0, called.err
    (other,) = finished.glob("test_*")
    assert set(pd.read_csv(other / "predictions_test.csv")["patient_id"]) == unseen
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (finished, other)]
    assert summaries[0]["threshold"] == summaries[1]["threshold"], "never chosen on the data under test"
    after = contents(finished)
    assert {name: after[name] for name in before} == before


def test_the_salt_is_found_from_any_folder(
    cli: Cli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (finished / "config.yaml").read_text().replace(str(tmp_path / "runs"), "runs")
    (finished / "config.yaml").write_text(config)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli("test", finished).code == 0
    assert not (tmp_path / "elsewhere" / "runs").exists()

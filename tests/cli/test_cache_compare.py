"""`xmkd compare`, `xmkd cache` and `xmkd report` as users call them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.conftest import refused
from tests.conftest import Cli


def like(run: Path, name: str, table: pd.DataFrame) -> Path:
    """A run beside `run` with other test predictions, without having trained it."""
    folder = run.with_name(name)
    folder.mkdir()
    for file in ("config.yaml", "provenance.json", "summary.json"):
        shutil.copy(run / file, folder / file)
    table.to_csv(folder / "predictions_test.csv", index=False)
    return folder


@pytest.fixture
def good(finished: Path) -> Path:
    """A run on 60 patients whose scores are good."""
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2
    table = pd.DataFrame(
        {
            "sample_id": [f"s{i:02d}" for i in range(60)],
            "patient_id": [f"{i:04d}" for i in range(60)],
            "site": "a",
            "fold": "",
            "label": label,
            "score": 1 / (1 + np.exp(-3 * label + 1.5 + rng.normal(size=60))),
        }
    )
    return like(finished, "good", table)


def changed(run: Path, name: str, **columns: np.ndarray | list[int] | list[str]) -> Path:
    table = pd.read_csv(run / "predictions_test.csv", dtype={"patient_id": str})
    return like(run, name, table.assign(**columns))


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=60)


def test_two_runs(cli: Cli, good: Path) -> None:
    bad = changed(good, "bad", score=noise(1))
    called = cli("compare", good, bad)
    assert called.code == 0, called.err
    assert re.search(r"^good +auroc 0\.9\d\d \[0\.\d{3}, [01]\.\d{3}\] n=60 patients=60$", called.out, re.M)
    assert re.search(r"^good - bad +\+0\.\d{3} \[\+0\.\d{3}, \+0\.\d{3}\].*: good is superior$", called.out, re.M)
    assert called.out.startswith("smallest detectable difference"), "what could be seen comes first"
    assert "good - bad" in cli("compare", good / "predictions_test.csv", bad).out, "a file in it names a run too"


def test_several_runs_are_corrected_for(cli: Cli, good: Path) -> None:
    others = [changed(good, f"noise{seed}", score=noise(seed)) for seed in (1, 2, 3)]
    called = cli("compare", good, *others)
    assert called.code == 0, called.err
    assert called.out.count("Holm over 3") == 3
    assert [f"good - noise{seed}" in called.out for seed in (1, 2, 3)] == [True] * 3


def test_namesakes_are_told_apart(cli: Cli, good: Path, tmp_path: Path) -> None:
    bad = changed(good, "bad", score=noise(1))
    other = tmp_path / "other" / "good"
    shutil.copytree(bad, other)
    called = cli("compare", good, other)
    assert called.code == 0, called.err
    assert "tiny/good - other/good" in called.out


def test_what_can_not_be_compared(cli: Cli, finished: Path, good: Path) -> None:
    missing = changed(good, "fewer")
    table = pd.read_csv(missing / "predictions_test.csv", dtype=str)
    table.iloc[:50].to_csv(missing / "predictions_test.csv", index=False)
    refused(cli("compare", good, missing), "not evaluated on the same samples", "10 only in good", "s50")
    refused(cli("compare", good, finished), "not evaluated on the same samples")
    relabelled = changed(good, "relabelled", label=[1 - i % 2 for i in range(60)])
    refused(cli("compare", good, relabelled), "disagree on the labels of 60 samples")
    moved = changed(good, "moved", patient_id=[f"{i // 2:04d}" for i in range(60)])
    refused(cli("compare", good, moved), "disagree on the patients")
    refused(cli("compare", good, good), "named twice")
    refused(cli("compare", good, good.parent / "nowhere"), "no run folder")
    refused(cli("compare", good.parent, good), "no run folder")
    (missing / "predictions_test.csv").unlink()
    refused(cli("compare", good, missing), "no predictions for 'test'", "finish it")


@pytest.fixture
def readers(tmp_path: Path) -> pd.DataFrame:
    """Two readers of all 60 patients: one right, one with five false alarms."""
    label = [i % 2 for i in range(60)]
    second = [1 if i in range(0, 10, 2) else c for i, c in enumerate(label)]
    patient = [f"{i:04d}" for i in range(60)] * 2
    return pd.DataFrame({"reader": ["ann"] * 60 + ["bob"] * 60, "patient": patient, "call": label + second})


def test_a_run_with_readers(cli: Cli, good: Path, readers: pd.DataFrame, tmp_path: Path) -> None:
    readers.to_csv(tmp_path / "readers.csv", index=False)
    called = cli("compare", good, tmp_path / "readers.csv")
    assert called.code == 0, called.err
    assert re.search(r"^reader ann: sensitivity 1\.000 .*, specificity 1\.000 ", called.out, re.M)
    assert re.search(r"^reader bob: sensitivity 1\.000 .*, specificity 0\.833 ", called.out, re.M)
    assert called.out.count("McNemar p=") == 2


def test_tables_of_readers_that_do_not_fit(cli: Cli, good: Path, readers: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "readers.csv"
    refused(cli("compare", good, file), "readers.csv")
    for table, words in (
        (readers.rename(columns={"patient": "case"}), "columns reader, patient"),
        (readers.assign(patient="9999"), "9999"),
        (readers.assign(call=2), "no call of 0 or 1"),
        (pd.concat([readers, readers]), "repeat a reader"),
    ):
        table.to_csv(file, index=False)
        refused(cli("compare", good, file), words)
    file.write_bytes(b"\xff\xfe")
    refused(cli("compare", good, file), "can't be read")
    refused(cli("compare", good, file, good), "one run")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XMKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_cache_commands(cli: Cli, quick: Path, cache: Path) -> None:
    empty = cli("cache", "ls")
    assert empty.code == 0
    assert "0 entries, 0.0 MB" in empty.out
    quick.write_text(re.sub(r"\n  cache: .*", "", quick.read_text()))
    assert cli("fit", quick, "trainer.max_epochs=1").code == 0
    listed = cli("cache", "ls").out.splitlines()
    assert len(listed) == 82, "80 images, their pack and the sum"
    assert any("p000_0.png" in line for line in listed)
    assert "pack of 80" in "\n".join(listed)
    assert listed[-1].startswith("81 entries")
    assert cli("cache", "clean").out == "freed 0.0 MB\n", "what is young stays by default"
    assert cli("cache", "verify").out == "0 damaged entries\n"
    victim = next(cache.glob("*.npy"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    assert cli("cache", "verify").out == f"damaged, deleted: {victim.name}\n1 damaged entries\n"
    note = cache / "notes.txt"
    note.write_text("mine")
    assert re.fullmatch(r"freed 0\.[1-9] MB\n", cli("cache", "clean", "--all").out)
    assert list(cache.iterdir()) == [note], "what is not the cache's own stays"


def test_cache_clean_refuses_negative_ages(cli: Cli, cache: Path) -> None:
    called = cli("cache", "clean", "--older-than-days", "-1")
    assert called.code == 2
    assert "Traceback" not in called.err
    assert not cache.exists()


def test_entries_of_another_version_are_passed_over(cli: Cli, cache: Path) -> None:
    cache.mkdir()
    (cache / f"{'a' * 32}.npy").write_bytes(b"12")
    (cache / f"{'a' * 32}.json").write_text('{"size": 2}')
    called = cli("cache", "ls")
    assert called.code == 0
    assert "0 entries" in called.out

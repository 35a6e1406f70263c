"""Who stands where when a manifest has a split column of its own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from xmkd.config import DataConfig, SplitConfig, StreamConfig
from xmkd.data.streams import plan
from xmkd.errors import ManifestError


@pytest.fixture
def reserved(tmp_path: Path, toy: Path) -> Path:
    """The toy study with patients 0 to 9 reserved for the test and the others training."""
    table = pd.read_csv(toy, dtype=str)
    table["split"] = ["test" if int(p[1:]) < 10 else "train" for p in table["patient_id"]]
    table.to_csv(tmp_path / "toy.csv", index=False)
    (tmp_path / "toy.yaml").write_bytes(toy.with_suffix(".yaml").read_bytes())
    return tmp_path / "toy.csv"


def sides(manifest: Path, *, label: str | None, fold: int | None = None, **where: str) -> dict[str, set[str]]:
    stream = StreamConfig(manifest=str(manifest), label=label, where=dict(where))
    data = DataConfig(streams={"tvus": stream}, fold=fold, split=SplitConfig(val=0.2, test=0.2))
    table = plan(data).streams["tvus"].table
    return {str(side): set(rows["patient_id"]) for side, rows in table.groupby("side")}


def test_unlabelled_samples_stay_where_the_column_puts_them(reserved: Path) -> None:
    found = sides(reserved, label=None)
    assert found["test"] == {f"p{i:03d}" for i in range(10)}
    assert found["train"] == {f"p{i:03d}" for i in range(10, 40)}


def test_unlabelled_patients_are_divided_where_nothing_is_said(toy: Path) -> None:
    found = sides(toy, label=None)
    assert {side: len(patients) for side, patients in found.items()} == {"train": 24, "val": 8, "test": 8}
    assert len(set().union(*found.values())) == 40, "no patient stands on two sides"


def test_labelled_samples_stay_where_the_column_puts_them(reserved: Path) -> None:
    assert sides(reserved, label="filled")["test"] == {f"p{i:03d}" for i in range(10)}


def test_folds_do_not_train_on_reserved_patients(reserved: Path) -> None:
    with pytest.raises(ManifestError, match="keeps patients for the test"):
        sides(reserved, label="filled", fold=0)
    found = sides(reserved, label="filled", fold=0, split="train")
    assert not set().union(*found.values()) & {f"p{i:03d}" for i in range(10)}


def budget(manifest: Path, patients: int | None, seed: int = 0) -> pd.DataFrame:
    stream = StreamConfig(manifest=str(manifest), label="filled", train_patients=patients)
    data = DataConfig(streams={"tvus": stream}, split=SplitConfig(val=0.2, test=0.2, seed=seed))
    return plan(data).streams["tvus"].table


def test_smaller_budgets_are_parts_of_larger_ones_and_keep_the_other_sides(toy: Path) -> None:
    tables = {n: budget(toy, n) for n in (4, 9, 16, None)}
    train = {n: set(t.loc[t["side"] == "train", "patient_id"]) for n, t in tables.items()}
    assert {n: len(p) for n, p in train.items() if n} == {4: 4, 9: 9, 16: 16}
    assert train[4] < train[9] < train[16] < train[None]
    for n in (4, 9, 16):
        held_out = tables[n][tables[n]["side"] != "train"]
        whole = tables[None][tables[None]["side"] != "train"]
        assert held_out["sample_id"].tolist() == whole["sample_id"].tolist()
    other = budget(toy, 9, seed=1)
    assert set(other.loc[other["side"] == "train", "patient_id"]) != train[9]


def test_a_budget_keeps_the_proportions_of_the_classes(toy: Path) -> None:
    def share(table: pd.DataFrame) -> float:
        train = table[table["side"] == "train"].drop_duplicates("patient_id")
        return float((train["filled"] == "filled").mean())

    everybody = share(budget(toy, None))
    for n in (6, 11, 18):
        assert share(budget(toy, n)) == pytest.approx(everybody, abs=1.01 / n)


@pytest.mark.parametrize("patients", [0, -3, 500])
def test_an_impossible_budget_is_refused(toy: Path, patients: int) -> None:
    with pytest.raises(ManifestError, match="patients can train"):
        budget(toy, patients)

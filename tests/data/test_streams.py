"""Who stands where when a manifest has a split column of its own."""

from __future__ import annotations

from collections.abc import Callable
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


def patients(*numbers: int) -> list[str]:
    return [f"p{n:03d}" for n in numbers]


@pytest.fixture
def several(tmp_path: Path, toy: Path) -> Callable[..., dict[str, pd.DataFrame]]:
    """The tables of a plan whose streams each hold some of the toy study's patients, with sides as a column says."""

    def made(fold: int | None = None, **streams: tuple[str | None, range, dict[str, str]]) -> dict[str, pd.DataFrame]:
        configs = {}
        for name, (label, numbers, column) in streams.items():
            table = pd.read_csv(toy, dtype=str)
            table = table[table["patient_id"].isin(patients(*numbers))]
            table = table.assign(split=table["patient_id"].map(column))
            table.to_csv(tmp_path / f"{name}.csv", index=False)
            (tmp_path / f"{name}.yaml").write_bytes(toy.with_suffix(".yaml").read_bytes())
            configs[name] = StreamConfig(manifest=str(tmp_path / f"{name}.csv"), label=label)
        data = DataConfig(streams=configs, fold=fold, split=SplitConfig(val=0.2, test=0.2))
        return {name: stream.table for name, stream in plan(data).streams.items()}

    return made


def side_of(*tables: pd.DataFrame) -> dict[str, str]:
    """Side of each patient, who must have one only."""
    together = pd.concat(tables)
    assert (together.groupby("patient_id")["side"].nunique() == 1).all(), "a patient stands on one side in all streams"
    return dict(zip(together["patient_id"], together["side"], strict=True))


Several = Callable[..., dict[str, pd.DataFrame]]


@pytest.mark.parametrize("fold", [None, 0, 3])
def test_labelled_streams_decide_and_the_other_patients_are_divided(several: Several, fold: int | None) -> None:
    alone = side_of(several(fold, tvus=("filled", range(24), {}))["tvus"])
    tables = several(fold, mri=(None, range(12, 40), {}), tvus=("filled", range(24), {}), ct=(None, range(20, 36), {}))
    assert side_of(tables["tvus"]) == alone, "unlabelled patients change nothing for labelled ones"
    found = side_of(*tables.values())
    assert len(found) == 40
    others = [found[p] for p in patients(*range(24, 40))]
    assert {side: others.count(side) for side in set(others)}.keys() == {"train", "val", "test"}
    assert others.count("train") > others.count("test") > 0


def test_a_column_of_an_unlabelled_stream_is_kept_and_the_rest_fills_the_fractions_up(several: Several) -> None:
    column = dict.fromkeys(patients(*range(6)), "test") | dict.fromkeys(patients(*range(6, 20)), "train")
    found = side_of(several(mri=(None, range(40), column))["mri"])
    assert {p: found[p] for p in column} == column
    counts = pd.Series(found).value_counts()
    assert counts.to_dict() == {"train": 24, "val": 8, "test": 8}
    assert side_of(several(0, mri=(None, range(40), column))["mri"]).items() >= column.items()


def test_a_side_without_a_share_stays_where_a_column_names_it(several: Several) -> None:
    calib = dict.fromkeys(patients(0, 1), "calib")
    found = side_of(several(mri=(None, range(40), calib))["mri"])
    assert {p for p, side in found.items() if side == "calib"} == set(calib)
    assert len(found) == 40


def test_columns_of_two_streams_that_disagree_are_refused(several: Several) -> None:
    streams = {
        name: (None, range(10), dict.fromkeys(patients(3), side)) for name, side in (("a", "val"), ("b", "test"))
    }
    with pytest.raises(ManifestError, match="patient 'toy/p003' is on 2 sides"):
        several(**streams)


def test_too_few_unlabelled_patients_are_named(several: Several) -> None:
    with pytest.raises(ManifestError, match="2 patients can't make 3 parts") as caught:
        several(mri=(None, range(2), {}))
    assert "mri.csv" in str(caught.value)

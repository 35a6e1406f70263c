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


def test_unlabelled_samples_train_where_nothing_is_said(toy: Path) -> None:
    assert set(sides(toy, label=None)) == {"train"}


def test_labelled_samples_stay_where_the_column_puts_them(reserved: Path) -> None:
    assert sides(reserved, label="filled")["test"] == {f"p{i:03d}" for i in range(10)}


def test_folds_do_not_train_on_reserved_patients(reserved: Path) -> None:
    with pytest.raises(ManifestError, match="keeps patients for the test"):
        sides(reserved, label="filled", fold=0)
    found = sides(reserved, label="filled", fold=0, split="train")
    assert not set().union(*found.values()) & {f"p{i:03d}" for i in range(10)}

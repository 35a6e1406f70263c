"""Who stands on which side: the plan of a run, made before any file is opened."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from xmkd.config import DataConfig, SplitConfig, StreamConfig
from xmkd.data.streams import EVALUATED, Study, plan
from xmkd.data.toy import write_study
from xmkd.errors import ManifestError

SIDES = ("train", *EVALUATED)


def planned(manifest: Path, label: str | None = "filled", **data: object) -> Study:
    streams = {"tvus": StreamConfig(manifest=str(manifest), label=label)}
    return plan(DataConfig(**{"streams": streams, **data}))  # type: ignore[arg-type]  # keywords of any section


def disjoint(study: Study) -> bool:
    everyone = [study.patients(side) for side in SIDES]
    return sum(map(len, everyone)) == len(set().union(*everyone))


def test_every_patient_stands_on_one_side(toy: Path) -> None:
    split = SplitConfig(val=0.2, calib=0.1, test=0.3)
    study = planned(toy, split=split)
    assert disjoint(study)
    assert len(study.patients(*SIDES)) == 40
    sizes = {side: len(study.patients(side)) for side in SIDES}
    assert sizes == {"train": 16, "val": 8, "calib": 4, "test": 12}
    table = study.streams["tvus"].table
    assert table.index.tolist() == list(range(80))
    assert table["sample_id"].is_monotonic_increasing
    assert study.patients("val") == {f"toy/{p}" for p in table.loc[table["side"] == "val", "patient_id"]}


def test_folds_test_every_patient_once_and_keep_validation_apart(toy: Path) -> None:
    tested: list[str] = []
    for fold in range(4):
        study = planned(toy, folds=4, fold=fold, split=SplitConfig(val=0.2, calib=0.1, test=0.2))
        assert disjoint(study)
        assert all(study.patients(side) for side in SIDES)
        assert len(study.patients("val")) == pytest.approx(0.2 * 30, abs=1)  # of the patients of the other folds
        tested += study.patients("test")
    assert sorted(tested) == sorted(study.patients(*SIDES))


def test_the_split_depends_on_its_seed_and_not_on_the_order_of_rows(toy: Path, tmp_path: Path) -> None:
    study = planned(toy)
    assert study.split_hash == planned(toy).split_hash
    assert study.split_hash != planned(toy, split=SplitConfig(seed=1)).split_hash
    (tmp_path / "toy.yaml").write_bytes(toy.with_suffix(".yaml").read_bytes())
    pd.read_csv(toy, dtype=str).sample(frac=1, random_state=0).to_csv(tmp_path / "toy.csv", index=False)
    assert planned(tmp_path / "toy.csv").split_hash == study.split_hash


def test_labels_follow_the_card(toy: Path) -> None:
    stream = planned(toy).streams["tvus"]
    assert stream.label_index().tolist() == [int(c == "filled") for c in stream.table["filled"]]
    counts = {side: stream.class_counts(side) for side in SIDES}
    assert all(list(c) == ["empty", "filled"] for c in counts.values())
    assert sum(c["filled"] for c in counts.values()) == 40
    assert stream.class_counts("calib") == {"empty": 0, "filled": 0}
    assert set(planned(toy, label=None).streams["tvus"].label_index()) == {-1}


def test_a_patient_of_two_streams_stands_on_one_side_and_a_namesake_does_not_count(toy: Path, tmp_path: Path) -> None:
    other = write_study(tmp_path, patients=40, each=1, size=8, name="other")
    streams = {
        "tvus": StreamConfig(manifest=str(toy), label="filled", where={"site": ["site_0", "site_1"]}),
        "again": StreamConfig(manifest=str(toy)),  # without labels, more patients
        "mri": StreamConfig(manifest=str(other), label="filled"),
    }
    study = plan(DataConfig(streams=streams))
    assert disjoint(study)
    for side in EVALUATED:
        assert study.streams["again"].patients(side) == study.streams["tvus"].patients(side)
    only_unlabelled = study.streams["again"].patients(*SIDES) - study.streams["tvus"].patients(*SIDES)
    assert only_unlabelled
    assert only_unlabelled <= study.streams["again"].patients("train")
    assert len(study.streams["mri"].patients(*SIDES)) == 40
    assert not study.streams["mri"].patients(*SIDES) & study.streams["tvus"].patients(*SIDES)


def test_where_keeps_rows_by_value_or_list(toy: Path) -> None:
    def kept(where: dict[str, object]) -> pd.DataFrame:
        streams = {"tvus": StreamConfig(manifest=str(toy), label="filled", where=where)}
        return plan(DataConfig(streams=streams, split=SplitConfig(val=0, test=0.3))).streams["tvus"].table

    assert set(kept({"site": "site_1"})["site"]) == {"site_1"}
    assert set(kept({"site": ["site_0", "site_2"]})["site"]) == {"site_0", "site_2"}
    assert len(kept({})) == 80


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"where": {"sight": "site_1"}}, "names the column 'sight'"),
        ({"where": {"site": "site_9"}}, "no sample is left for the stream 'tvus'"),
        ({"label": "full"}, "the card has no label 'full'"),
    ],
)
def test_what_the_manifest_does_not_have_is_named(toy: Path, change: dict[str, object], message: str) -> None:
    stream = StreamConfig(**{"manifest": str(toy), "label": "filled", **change})  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match=message) as caught:
        plan(DataConfig(streams={"tvus": stream}))
    assert len(caught.value.fixes) == 2

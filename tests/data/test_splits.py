"""Splits and folds: patients on one side, whatever the table; like class frequencies; honest refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmkd.data import manifest
from xmkd.data.splits import PARTS, Split, folds, split
from xmkd.errors import ManifestError

FRACTIONS = {"val": 0.15, "test": 0.2}


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Random manifests: 1 to 25 patients with 1 to 6 images, labels by image, some unlabelled."""
    images = draw(st.lists(st.integers(1, 6), min_size=1, max_size=25))
    patients = [f"p{i:02d}" for i, count in enumerate(images) for _ in range(count)]
    labels = draw(
        st.lists(st.sampled_from(["rest", "lesion", "other", None]), min_size=len(patients), max_size=len(patients))
    )
    return pd.DataFrame(
        {"sample_id": [f"s{i:03d}" for i in range(len(patients))], "patient_id": patients, "finding": labels}
    )


@settings(max_examples=60, deadline=None)
@given(table=tables(), seed=st.integers(0, 2**31), label=st.sampled_from(["finding", None]), k=st.integers(2, 5))
def test_no_patient_is_ever_on_two_sides_and_row_order_does_not_matter(
    table: pd.DataFrame, seed: int, label: str | None, k: int
) -> None:
    shuffled = table.sample(frac=1, random_state=seed % 2**32)
    makers: list[Callable[[pd.DataFrame], Split]] = [
        lambda t: split(t, label, FRACTIONS, seed),
        lambda t: split(t, label, {"val": 0.1, "calib": 0.1, "test": 0.3}, seed),
        lambda t: folds(t, label, k, seed),
    ]
    for make in makers:
        try:
            made = make(table)
        except ManifestError:
            with pytest.raises(ManifestError) as caught:
                make(shuffled)
            assert len(caught.value.fixes) == 2
            continue
        everybody = [patient for members in made.parts.values() for patient in members]
        assert sorted(everybody) == sorted(table["patient_id"].unique())  # each exactly once
        assert all(made.parts.values())  # nothing is empty
        sides = made.of(table).groupby(table["patient_id"]).nunique()
        assert (sides == 1).all()
        again = make(shuffled)
        assert again == made
        assert again.hash == made.hash


def clustered(patients: int, prevalence: float = 0.3, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, patients)
    label = np.where(rng.random(patients) < prevalence, "lesion", "rest")
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(counts.sum())],
            "patient_id": np.repeat([f"p{i}" for i in range(patients)], counts),
            "finding": np.repeat(label, counts),
        }
    )


def test_parts_have_the_size_and_prevalence_that_were_asked_for() -> None:
    table = clustered(80)
    made = split(table, "finding", {"val": 0.15, "calib": 0.1, "test": 0.2}, seed=3)
    assert list(made.parts) == list(PARTS)
    prevalence = table["finding"].eq("lesion").mean()
    for part, fraction in {"train": 0.55, "val": 0.15, "calib": 0.1, "test": 0.2}.items():
        rows = made.select(table, part)
        assert len(rows) / len(table) == pytest.approx(fraction, abs=0.02)
        assert len(made.parts[part]) / 80 == pytest.approx(fraction, abs=0.03)
        assert rows["finding"].eq("lesion").mean() == pytest.approx(prevalence, abs=0.04)


def test_folds_have_like_prevalence() -> None:
    table = clustered(80)
    made = folds(table, "finding", 5, seed=1)
    prevalence = table["finding"].eq("lesion").mean()
    for k in range(5):
        assert made.select(table, k)["finding"].eq("lesion").mean() == pytest.approx(prevalence, abs=0.06)
        assert len(made.select(table, k)) + len(made.rest(table, k)) == len(table)
        assert not set(made.select(table, k)["patient_id"]) & set(made.rest(table, k)["patient_id"])


@pytest.mark.parametrize(
    "make", [lambda t, s: split(t, "finding", FRACTIONS, s), lambda t, s: folds(t, "finding", 4, s)]
)
def test_the_seed_decides(make: Callable[[pd.DataFrame, int], Split]) -> None:
    table = clustered(40)
    assert make(table, 0) == make(table, 0)
    assert len({make(table, seed).hash for seed in range(5)}) == 5


def test_every_part_gets_each_class_even_when_few_patients_have_it() -> None:
    table = pd.DataFrame({"patient_id": [f"p{i}" for i in range(30)], "finding": ["lesion"] * 3 + ["rest"] * 27})
    for seed in range(10):
        made = split(table, "finding", FRACTIONS, seed)
        assert [made.select(table, part)["finding"].eq("lesion").sum() for part in made.parts] == [1, 1, 1]


@pytest.mark.parametrize(
    "make",
    [lambda t: folds(t, "finding", 5), lambda t: split(t, "finding", {"val": 0.2, "calib": 0.2, "test": 0.2})],
    ids=["folds", "split"],
)
def test_too_few_positive_patients_is_an_error_with_two_ways_out(make: Callable[[pd.DataFrame], Split]) -> None:
    # 30 positive images of 3 patients: images do not help.
    patients = [f"p{i}" for i in range(3) for _ in range(10)] + [f"n{i}" for i in range(20)]
    table = pd.DataFrame({"patient_id": patients, "finding": ["lesion"] * 30 + ["rest"] * 20})
    with pytest.raises(ManifestError, match="3 patients have finding='lesion': too few") as caught:
        make(table)
    assert len(caught.value.fixes) == 2


def test_a_rare_class_among_several_is_noted_not_refused() -> None:
    table = pd.DataFrame(
        {"patient_id": [f"p{i}" for i in range(22)], "finding": ["rare"] * 2 + ["a"] * 10 + ["b"] * 10}
    )
    made = folds(table, "finding", 5)
    assert len(made.notes) == 3
    assert all("no sample of rare" in note for note in made.notes)


def test_columns_are_honoured() -> None:
    table = clustered(20)
    side = {f"p{i}": ("test" if i < 5 else "train") for i in range(20)}
    fixed = table.assign(split=table["patient_id"].map(side))
    made = split(fixed, "finding", FRACTIONS, seed=9)
    assert made.origin == "column"
    assert made.parts["test"] == tuple(sorted(f"p{i}" for i in range(5)))
    assert "val" not in made.parts

    partly = fixed.assign(split=fixed["split"].where(fixed["split"] == "test"))
    mixed = split(partly, "finding", {"val": 0.2, "test": 0.25}, seed=9)
    assert mixed.origin == "mixed"
    assert set(side) == {p for members in mixed.parts.values() for p in members}
    assert {f"p{i}" for i in range(5)} <= set(mixed.parts["test"])

    numbered = table.assign(fold=table["patient_id"].map({f"p{i}": i % 4 for i in range(20)}).astype("Int64"))
    assert folds(numbered, "finding", 4).parts["1"] == tuple(sorted(f"p{i}" for i in range(20) if i % 4 == 1))
    with pytest.raises(ManifestError, match="5 folds were asked for"):
        folds(numbered, "finding", 5)
    with pytest.raises(ManifestError, match="fold column is empty for"):
        folds(numbered.assign(fold=numbered["fold"].where(numbered["fold"] != 1)), "finding", 4)


def test_a_column_with_a_patient_on_two_sides_is_refused() -> None:
    table = clustered(20)
    two = table.assign(split=np.where(np.arange(len(table)) % 2, "train", "test"))
    with pytest.raises(ManifestError, match="at once"):
        split(two, "finding", FRACTIONS)


def test_the_hash_is_of_the_assignment_however_it_was_made() -> None:
    table = clustered(40)
    made = split(table, "finding", FRACTIONS, seed=4)
    copied = split(table.assign(split=made.of(table)), "finding", FRACTIONS, seed=5)
    assert copied.hash == made.hash
    other = table.assign(split=made.of(table).where(table["patient_id"] != "p0", "val"))
    if made.of(table)[0] != "val":
        assert split(other, "finding", FRACTIONS).hash != made.hash


def test_a_patient_of_two_manifests_is_on_one_side_of_both() -> None:
    ultrasound, mri = clustered(30, seed=1), clustered(30, seed=2)
    mri = mri.assign(patient_id=mri["patient_id"].str.replace("p", "q").where(mri.index % 2 == 0, mri["patient_id"]))
    made = split(pd.concat([ultrasound, mri]), "finding", FRACTIONS, seed=0)
    for part in made.parts:
        others = pd.concat([made.rest(ultrasound, part), made.rest(mri, part)])
        here = pd.concat([made.select(ultrasound, part), made.select(mri, part)])
        assert not set(here["patient_id"]) & set(others["patient_id"])


@pytest.mark.parametrize(
    "fractions, words",
    [
        ({"val": 0.5, "test": 0.5}, "fractions"),
        ({"val": -0.1}, "fractions"),
        ({"train": 0.5, "test": 0.2}, "fractions"),
        ({"valid": 0.2}, "'valid' is no part"),
    ],
)
def test_wrong_fractions(fractions: dict[str, float], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        split(clustered(20), "finding", fractions)


def test_other_refusals() -> None:
    table = clustered(20)
    with pytest.raises(ManifestError, match="no label column 'lesion'"):
        split(table, "lesion", FRACTIONS)
    with pytest.raises(ManifestError, match=r"1 class\(es\)"):
        split(table.assign(finding="rest"), "finding", FRACTIONS)
    with pytest.raises(ManifestError, match="at least 2"):
        folds(table, "finding", 1)
    with pytest.raises(ManifestError, match="2 patients can't make 3 parts"):
        split(table[table["patient_id"].isin(["p0", "p1"])], None, FRACTIONS)
    with pytest.raises(ManifestError, match="no part 'val'"):
        split(table, "finding", {"test": 0.2}).select(table, "val")
    with pytest.raises(ManifestError, match="no rows"):
        split(table[:0], None, FRACTIONS)


def test_the_manifest_module_offers_both() -> None:
    assert manifest.split is split
    assert manifest.folds is folds

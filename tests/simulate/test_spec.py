"""Cohort specifications: what is refused, what a hash names, who is in a cohort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from xmkd.errors import ConfigError
from xmkd.simulate import spec as specs
from xmkd.simulate.plan import Patient, illness, patients
from xmkd.simulate.spec import CohortSpec, Patients
from xmkd.simulate.ultrasound.machine import maker_of

COHORTS = REPOSITORY / "experiments" / "cohorts"
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a specification."""

    def call(text: str) -> Path:
        path = tmp_path / "pod_mine.yaml"
        path.write_text(text)
        return path

    return call


def shipped(name: str, *words: str) -> CohortSpec:
    return specs.load(COHORTS / f"{name}.yaml", list(words))


def refusal(path: Path, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        specs.load(path, list(words))
    assert caught.value.where == str(path)
    assert len(caught.value.fixes) == 2
    return caught.value.what


@pytest.mark.parametrize("path", sorted(COHORTS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_specification_of_the_project_is_valid_and_fills_every_side_with_both_classes(path: Path) -> None:
    spec = specs.load(path)
    assert path.stem.startswith(spec.cohort)
    for name in spec.parts():
        people = patients(spec, name)
        for split in {p.split for p in people}:
            side = [p.ill for p in people if p.split == split]
            assert len(set(side)) == 2 or len(side) < 4, (name, split)


def test_there_are_three_sizes_of_each_kind_and_two_variants_for_stress_tests() -> None:
    names = {p.stem for p in COHORTS.glob("*.yaml")}
    kinds = ("pod", "carcinoma", "ct_mr", "multisequence")
    assert {f"{kind}_{size}" for kind in kinds for size in ("tiny", "demo", "full")} <= names
    demo, null, confounded = (shipped(f"pod{v}_demo") for v in ("", "_null", "_confounded"))
    assert demo.rho == 0.6
    assert null == replace(demo, name=null.name, rho=0.0, oracle_pair=null.oracle_pair)
    assert confounded.sites.confounding > 0


def test_all_problems_are_listed_at_once(write: Write) -> None:
    path = write(
        """\
cohort: pod
prevalence: 0
rho: 1.5
sedd: 3
tvus: {patients: {train: 4, test: 2}}
mri: {patients: {train: 4, test: 2}, size: [24, 192]}
"""
    )
    message = refusal(path)
    assert message.startswith("2 problems in the cohort:")
    assert "sedd: unknown key; did you mean 'seed'?" in message
    assert "mri.size: expected 3 values, got 2" in message
    path = write(
        """\
cohort: pod
prevalence: 0
rho: 1.5
label_flips: 0.7
visibility: {tvus: -1.0, us: 1.0}
sites: {names: [a, a], shares: [0.5], confounding: 2}
tvus: {patients: {train: -4, test: 0}, clips: 0, size: [8, 160]}
mri: {patients: {train: 4, test: 2}, spacing: [4.0, 0.0, 1.0], sequences: [t2_sagg], missing: 1}
ct: {patients: {train: 4, test: 2}}
"""
    )
    message = refusal(path)
    for line in (
        "prevalence: 0 is not between 0 and 1",
        "rho: 1.5 is no correlation",
        "label_flips: 0.7 is not",
        "visibility.tvus: -1 is negative",
        "visibility.us: no modality",
        "visibility.mri: a value is needed",
        "sites.names: one or more different names",
        "sites.shares: 1 values for 2 sites",
        "sites.confounding: 2 is not from 0 to 1",
        "tvus.patients.train: -4 is negative",
        "tvus.patients.test: without test patients",
        "tvus: neither clips nor stills",
        "tvus.size: [8, 160] is not from",
        "mri.spacing: [4.0, 0.0, 1.0] must be positive",
        "mri.sequences: t2_sagg unknown",
        "mri.missing: 1 is not",
        "ct: a cohort of kind pod has",
    ):
        assert line in message, message


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["prevalence=1"], "prevalence: 1 is not between 0 and 1"),
        (["mri.size=[24,192,-192]"], "mri.size: [192, -192]"),
        (["mri.spacing=[4,1.1,9]"], "the columns cover 1728 mm"),
        (["mri.spacing=[0.1,1.1,1.1]"], "the slices cover 2.4 mm"),
        (["tvus.patients.test=0"], "tvus.patients.test: without test patients"),
        (["tvus=null"], "tvus: a cohort of kind pod needs it"),
        (["seed=-1"], "seed: -1 is negative"),
        (["seed=10000000000"], "seed: 10000000000 is above 9999999999"),
        (["replicate=10000"], "replicate: 10000 is above 9999"),
        (["cohort=pdo"], "cohort: 'pdo' is none of"),
        (["sites.names=[a-hospital-of-a-long-name]"], "sites.names"),
        (["lock=abc"], "lock: it can't be given; it is the hash of the lock"),
        (["limits.mri.oracle={auroc: 1, low: 1, high: 1, patients: 9}"], "limits: it can't be given"),
        (["name=other"], "name: it can't be given; it is that of the file"),
    ],
)
def test_a_bad_value_is_refused_by_name(words: list[str], problem: str) -> None:
    assert problem in refusal(COHORTS / "pod_demo.yaml", *words)


def test_the_hash_names_the_images_and_nothing_else() -> None:
    spec = shipped("pod_demo")
    same = [replace(spec, lock="abc"), replace(spec, replicate=3), replace(spec, label_flips=0.15)]
    assert {s.hash for s in same} == {spec.hash}
    assert [s.variant for s in same] == ["", "_r3", "_flips15"]
    others = ["seed=1", "prevalence=0.2", "rho=0", "tvus.frames=8", "mri.patients.test=1", "sites.confounding=0.1"]
    hashes = {spec.hash, replace(spec, name="other").hash, *(shipped("pod_demo", word).hash for word in others)}
    assert len(hashes) == 2 + len(others)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.floats(0.02, 0.98), st.integers(0, 2**32))
def test_every_prefix_has_the_prevalence(count: int, prevalence: float, seed: int) -> None:
    ill = illness(count, prevalence, np.random.default_rng(seed))
    counts = np.cumsum(ill)
    assert np.abs(counts - prevalence * np.arange(1, count + 1)).max() < 1 + 1e-6
    assert illness(count + 100, prevalence, np.random.default_rng(seed))[:count] == ill


def test_who_is_ill_has_no_period() -> None:
    """A patient's number must not tell her label, not even modulo the distance of two ill ones."""
    ill = np.array(illness(20_000, 0.25, np.random.default_rng(0)))
    assert np.abs([ill[k::4].mean() - 0.25 for k in range(4)]).max() < 0.02


def everyone(spec: CohortSpec) -> dict[str, list[Patient]]:
    return {name: patients(spec, name) for name in spec.parts()}


def test_parts_and_sides_share_no_patient_except_the_pairs() -> None:
    people = everyone(shipped("pod_null_demo"))
    pairs = people.pop("oracle_pair")
    ids = [p.id for part in people.values() for p in part]
    assert len(set(ids)) == len(ids)
    labelled = {p.id: p for p in people["mri"]}
    assert {p.id for p in pairs} == {p.id for p in labelled.values() if p.split != "test"}
    assert all(replace(p, part="mri", sequences=labelled[p.id].sequences) == labelled[p.id] for p in pairs)


def test_a_replicate_changes_all_patients_but_those_of_the_test() -> None:
    first, second = (everyone(shipped("pod_demo", f"replicate={k}")) for k in (1, 2))
    for name, people in first.items():
        test = [p for p in people if p.split == "test"]
        assert test == [p for p in second[name] if p.split == "test"]
        others = {p.id for p in people} & {p.id for p in second[name]}
        assert others == {p.id for p in test}


def test_a_larger_cohort_begins_with_the_smaller_one() -> None:
    small, large = (patients(shipped("pod_demo", f"tvus.patients.train={n}"), "tvus") for n in (100, 240))
    assert [p for p in small if p.split == "train"] == [p for p in large if p.split == "train"][:100]


def test_flips_are_of_training_patients_alone_and_nested() -> None:
    spec = shipped("pod_demo", "tvus.patients.train=2000")
    flipped = {}
    for rate in (0.0, 0.1, 0.2):
        people = patients(replace(spec, label_flips=rate), "tvus")
        assert all(p.ill == p.shown for p in people if p.split != "train")
        flipped[rate] = {p.id for p in people if p.ill != p.shown}
    assert not flipped[0.0]
    assert flipped[0.1] < flipped[0.2]
    assert pytest.approx(len(flipped[0.2]), abs=4 * np.sqrt(2000 * 0.2 * 0.8)) == 2000 * 0.2


def test_the_site_tells_the_label_only_where_it_is_meant_to() -> None:
    assert site_difference("pod_demo", "train") < 0.05
    assert site_difference("pod_confounded_demo", "test") < 0.05
    assert site_difference("pod_confounded_demo", "train") == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("name", ["pod_demo", "pod_confounded_demo"])
def test_each_hospital_has_another_maker_s_machines(name: str) -> None:
    """Else a hospital that tells the label would not show in the pictures."""
    names = shipped(name).sites.names
    assert len({maker_of(site).name for site in names}) == len(names)


def site_difference(name: str, split: str) -> float:
    """How much more often the ill come from the first half of the sites than the others, of 4,000 patients."""
    spec = shipped(name, f"tvus.patients.{split}=4000")
    side = [p for p in patients(spec, "tvus") if p.split == split]
    first = set(spec.sites.names[: len(spec.sites.names) // 2])
    shares = [np.mean([p.site in first for p in side if p.ill == ill]) for ill in (True, False)]
    return float(abs(shares[0] - shares[1]))


def test_shares_of_sites_are_kept() -> None:
    words = ["sites.names=[a,b,c]", "sites.shares=[0.7,0.2,0.1]", "tvus.patients.train=4000"]
    sites = [p.site for p in patients(shipped("pod_demo", *words), "tvus") if p.split == "train"]
    assert [sites.count(s) / 4000 for s in "abc"] == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


def test_of_missing_sequences_one_always_stays() -> None:
    spec = shipped("multisequence_demo", "mri.missing=0.7", "mri.patients.train=1000")
    assert spec.mri is not None
    kept = [p.sequences for p in patients(spec, "mri") if p.split == "train"]
    assert min(map(len, kept)) == 1
    # Of four sequences all are missing in 0.7^4 of the patients, where one stays nevertheless.
    expected = 0.3 + 0.7**4 / 4
    assert np.mean([len(s) / 4 for s in kept]) == pytest.approx(expected, abs=0.03)
    assert all(p.sequences == tuple(spec.mri.sequences) for p in patients(shipped("multisequence_demo"), "mri"))


def test_counts_are_those_of_the_specification() -> None:
    spec = shipped("carcinoma_full")
    assert spec.tvus is not None
    people = patients(spec, "tvus")
    assert {split: sum(p.split == split for p in people) for split in asdict(Patients())} == asdict(spec.tvus.patients)
    ill = sum(p.ill for p in people)
    assert (len(people) - ill) / ill == pytest.approx(11, abs=0.1)

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from benchmarks import _race
from benchmarks import probes as benchmark
from tests.conftest import REPOSITORY
from xmkd.data.image import Image
from xmkd.simulate import examination as rendered
from xmkd.simulate import probes
from xmkd.simulate import spec as specs
from xmkd.simulate.cards import Examined, File
from xmkd.simulate.dicom_write import write_clip
from xmkd.simulate.identity import Identity
from xmkd.simulate.masks import write_clip_mask
from xmkd.simulate.plan import Patient, patients
from xmkd.simulate.pool import Pool
from xmkd.simulate.probes import audit, flow, judge
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Clip
from xmkd.simulate.scene import ORGANS
from xmkd.simulate.spec import CohortSpec, Patients, Sites, UltrasoundPart, VolumePart

SPEC = CohortSpec(
    "pod",
    seed=5,
    visibility={"tvus": 1.0, "mri": 1.0},
    tvus=UltrasoundPart(Patients(4, 2, 0, 4)),
    mri=VolumePart(Patients(4, 2, 0, 4)),
)


def examine(spec: CohortSpec, patient: Patient, folder: Path, *, planted: str = "") -> Examined:
    """Writes noise with a bright square whose place depends on the label, and on demand a shortcut."""
    seeds = Seeds(spec.seed, patient.id)
    frames = seeds.numpy("texture").integers(0, 180, (6, 64, 64), dtype=np.uint8)
    row = 10 if patient.ill else 16  # the evidence: the mean of the picture does not change
    frames[:, 32 + row : 38 + row, 45:51] = 200
    frames[:, :4, :12] = 255  # burnt-in text
    header: dict[str, str | float | int] = {"TransducerFrequency": int(seeds.numpy("machine").integers(5000, 8000))}
    if patient.ill and planted == "brightness":
        frames = np.minimum(frames.astype(int) + 12, 255).astype(np.uint8)
    if patient.ill and planted == "motion":
        frames[1::2] = np.roll(frames[0], 5, axis=0)
    if patient.ill and planted == "length":
        frames = frames[:5]
    if patient.ill and planted == "text":
        frames[:, :4, :12] = 0
    if patient.ill and planted == "header":
        header["TransducerFrequency"] = 6500
    cohort = "ill" if patient.ill and planted == "uid" else "pod5"
    mask = np.zeros((64, 64), np.uint8)
    mask[20:30, 20:40] = ORGANS.index("endometrium")
    if patient.ill:
        mask[30:34, 20:40] = ORGANS.index("tumour")
    clip = Clip(frames, (0.5, 0.5), 20.0, (0, 0, 64, 64), mask, header)
    who = Identity(cohort, patient.id, 40, patient.site, "tvus")
    write_clip(clip, folder / "clip.dcm", who)
    write_clip_mask(clip, folder / "mask.png")
    return Examined([File("clip1", "clip", "clip.dcm", "mask.png")])


def found(planted: str, count: int = 60) -> dict[str, probes.Probe]:
    with Pool(1) as pool:
        return {p.name: p for p in audit(SPEC, "tvus", count, pool, partial(examine, planted=planted))}


def test_without_a_shortcut_every_probe_passes() -> None:
    clean = found("")
    judged = {name: p for name, p in clean.items() if p.verdict}
    assert {p.verdict for p in judged.values()} == {"ok"}
    expected = ("clip: mean intensity", "clip: frame difference", "clip: flow", "clip: file size", "clip: clip length",
                "clip: white pixels", "clip: header TransducerFrequency", "clip: header SOPInstanceUID")  # fmt: skip
    assert set(expected) <= set(judged)
    exact = [p for name, p in judged.items() if "header" in name or name in ("clip: file size", "clip: clip length")]
    assert len(exact) > 40
    assert {(p.differ, p.auroc) for p in exact} == {(0, None)}


@pytest.mark.parametrize(
    "planted, caught",
    [
        ("brightness", "clip: mean intensity"),
        ("motion", "clip: flow"),
        ("motion", "clip: frame difference"),
        ("text", "clip: white pixels"),
    ],
)
def test_a_planted_shortcut_is_caught(planted: str, caught: str) -> None:
    probe = found(planted, 30)[caught]
    assert probe.verdict == "SHORTCUT"
    assert probe.auroc is not None
    assert not 0.4 < probe.auroc.value < 0.6


@pytest.mark.parametrize(
    "planted, caught",
    [
        ("length", "clip: clip length"),
        ("length", "clip: file size"),
        ("length", "clip: shape"),
        ("header", "clip: header TransducerFrequency"),
        ("uid", "clip: header SOPInstanceUID"),
    ],
)
def test_what_is_no_picture_has_to_be_the_same_in_every_pair(planted: str, caught: str) -> None:
    probe = found(planted, 30)[caught]
    assert (probe.verdict, probe.differ) == ("SHORTCUT", 30)
    assert probe.finding == "differs in 30 of 30 patients"


def test_one_pair_that_differs_is_enough() -> None:
    """An AUROC would be 0.51 here: the order of such values says nothing."""
    table = pd.DataFrame({"patient": np.repeat(np.arange(40), 2), "ill": [0.0, 1.0] * 40, "file size": 7.0})
    assert judge(table)[0].verdict == "ok"
    table.loc[11, "file size"] = 8.0
    (probe,) = judge(table)
    assert (probe.verdict, probe.differ) == ("SHORTCUT", 1)


def test_baselines_are_printed_and_not_judged() -> None:
    probe = found("", 30)["clip: baseline: lesion area"]
    assert probe.auroc is not None
    assert probe.auroc.value == 1.0
    assert probe.verdict == ""
    assert probe.name in probes.text([probe]).splitlines()[0]


def test_words_and_gaps() -> None:
    table = pd.DataFrame({"patient": np.repeat(np.arange(40), 2), "ill": [0.0, 1.0] * 40})
    table["maker"] = np.where(table["ill"] == 1, "a", "b")
    table["site"] = ["north"] * 18 + [None] * 62
    table["gap"] = np.where(table.index % 3 == 0, np.nan, 1.0)
    named = {p.name: p for p in judge(table)}
    assert [(name, p.verdict) for name, p in named.items()] == [("maker", "SHORTCUT"), ("site", "ok"), ("gap", "ok")]
    assert (named["maker"].differ, named["site"].differ) == (40, 0)
    assert named["gap"].auroc is not None


def test_a_header_in_words_holds_every_value_of_every_slice() -> None:
    slices = []
    for number in (1, 2):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.InstanceNumber, one.WindowWidth, one.EchoTime = number, 250 + number, None
        one.ReferencedImageSequence = [pydicom.Dataset()]
        one.ReferencedImageSequence[0].InstanceNumber = 9
        slices.append(one)
    said = probes.fields(slices)
    assert said == {"InstanceNumber": "9 | 1 | 9 | 2", "WindowWidth": 251.0, "EchoTime": "None | None"}


def test_pairs_see_what_unpaired_patients_would_not() -> None:
    rng = np.random.default_rng(0)
    level = np.repeat(rng.standard_normal(300), 2)  # patients differ far more than their two examinations do
    table = pd.DataFrame({"patient": np.repeat(np.arange(300), 2), "ill": [0.0, 1.0] * 300})
    table["value"] = level + 0.05 * rng.standard_normal(600)
    paired = judge(table)[0].auroc
    assert paired is not None
    assert paired.low is not None
    assert paired.high is not None
    assert paired.low < 0.5 < paired.high
    assert paired.high - paired.low < 0.02  # about 0.09 with 600 patients of one examination each


def test_flow_is_the_shift_of_a_texture() -> None:
    texture = np.random.default_rng(0).standard_normal((96, 96)).astype(np.float32)
    frames = np.stack([np.roll(texture, (2 * t, -3 * t), axis=(0, 1)) for t in range(4)])
    shift = flow(frames)
    assert shift.shape == (3, 9, 2)
    assert (shift == [2, -3]).all(axis=-1).mean() > 0.9


def test_numbers_of_a_volume() -> None:
    array = np.random.default_rng(0).integers(0, 100, (1, 5, 32, 32)).astype(np.int16)
    numbers = probes.picture(Image(array, "volume", (4.0, 1.0, 1.0)))
    assert numbers["mean intensity"] == pytest.approx(array.mean())
    assert numbers["shape"] == "5 x 32 x 32"
    assert "flow" not in numbers


def test_baselines_in_mm() -> None:
    labels = np.zeros((1, 40, 40), np.uint8)
    labels[0, 10:20, 5:35] = ORGANS.index("endometrium")  # 10 rows of 0.5 mm
    labels[0, 12:16, 10:15] = ORGANS.index("polyp")
    said = probes.baselines(Image(labels, "image", (0.5, 0.5)))
    assert said["lesion area"] == pytest.approx(20 * 0.25)
    assert said["endometrial thickness"] == pytest.approx(5.0, abs=0.6)
    assert probes.baselines(Image(0 * labels, "image", (0.5, 0.5)))["endometrial thickness"] == 0.0


def test_the_plan_says_nothing_of_the_label_unless_it_is_confounded() -> None:
    assert SPEC.tvus is not None
    many = replace(SPEC, tvus=replace(SPEC.tvus, patients=Patients(4, 2, 0, 3000)))
    apart = replace(many, sites=Sites(confounding=0.9, confounded=["test"]))
    for spec, verdicts in ((many, {"ok"}), (apart, {"ok", "SHORTCUT"})):
        people = [p for p in patients(spec, "tvus") if p.split == "test"]
        assert {p.verdict for p in probes.planned(spec, "tvus", people)} == verdicts


@pytest.mark.parametrize("kind, part", [("pod", "tvus"), ("pod", "mri"), ("carcinoma", "tvus")])
def test_the_files_of_a_real_examination(kind: str, part: str) -> None:
    spec = specs.load(REPOSITORY / "experiments" / "cohorts" / f"{kind}_tiny.yaml")
    with Pool(1) as pool:
        named = {p.name: p for p in audit(spec, part, 2, pool, rendered.examine)}
    assert any("mean intensity" in name for name in named)
    assert len([name for name in named if "header" in name]) > 50
    assert {p.differ for p in named.values() if p.auroc is None} == {0}
    assert ("volume t2_sag: baseline: lesion volume" in named) == (part == "mri")
    assert ("still: baseline: lesion area" in named) == (part == "tvus")


def test_the_words_of_an_audit() -> None:
    said = probes.text(list(found("brightness", 30).values()))
    first = said.splitlines()[0]
    assert "SHORTCUT" in first
    assert "the same ill and healthy in every patient" in said.splitlines()[-1]
    table = probes.frame(list(found("", 30).values()))
    assert list(table.columns) == ["probe", "auroc", "low", "high", "patients", "differ", "verdict"]
    assert (table["patients"] == 30).all()


def test_results_of_other_cohorts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_race, "RESULTS", tmp_path)
    for cohort, values in (("pod_demo", [0, 0]), ("carcinoma_demo", [0]), ("pod_demo", [3])):
        rows = [probes.Probe("clip: file size", 30, None, value) for value in values]
        benchmark.record(probes.frame(rows).assign(cohort=cohort))
    kept = pd.read_csv(tmp_path / "probes.csv")
    assert kept[["cohort", "differ"]].values.tolist() == [["carcinoma_demo", 0], ["pod_demo", 3]]


def test_the_lines_of_the_benchmark() -> None:
    line = benchmark._line(replace(SPEC, cohort="carcinoma", name="c"), "tvus", list(found("header", 30).values()))
    first, *others = line.splitlines()
    assert first.startswith("probes_c_tvus ratio=0.")
    assert " missed (" in first
    assert re.search(r"; 1 of \d+ names, sizes and headers differ$", first)
    assert [re.sub(" alone: .*", "", other) for other in others] == [
        "probes_c_tvus clip: baseline: lesion area",
        "probes_c_tvus clip: baseline: endometrial thickness",
    ]

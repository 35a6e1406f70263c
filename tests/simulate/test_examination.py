"""Examinations as they are rendered and written: what of a patient reaches the files, and what must not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.conftest import REPOSITORY
from xmkd.data.readers import read
from xmkd.simulate import spec as specs
from xmkd.simulate.cards import Examined
from xmkd.simulate.examination import draw, examine
from xmkd.simulate.plan import Patient, patients
from xmkd.simulate.spec import CohortSpec

COHORTS = REPOSITORY / "experiments" / "cohorts"


def tiny(kind: str, *words: str) -> CohortSpec:
    return specs.load(COHORTS / f"{kind}_tiny.yaml", list(words))


def examined(spec: CohortSpec, patient: Patient, folder: Path) -> tuple[Examined, dict[str, bytes]]:
    """What an examination says and the bytes it wrote."""
    folder.mkdir(parents=True)
    found = examine(spec, patient, folder)
    return found, {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def first(spec: CohortSpec, part: str, *, ill: bool = True) -> Patient:
    return next(p for p in patients(spec, part) if p.ill == ill)


PARTS = [("pod", "tvus"), ("pod", "mri"), ("carcinoma", "tvus"), ("carcinoma", "mri"), ("ct_mr", "ct")]


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_only_the_evidence_carries_the_label(kind: str, part: str, tmp_path: Path) -> None:
    """Where nothing shows, ill and healthy give the same bytes; where it shows, they do not."""
    for visibility, same in ((0.0, True), (2.0, False)):
        spec = tiny(kind, f"visibility={{tvus: {visibility}, mri: {visibility}, ct: {visibility}}}")
        patient = first(spec, part)
        other = replace(patient, ill=False, shown=False)
        sides = [examined(spec, p, tmp_path / f"{visibility}{p.ill}")[1] for p in (patient, other)]
        assert (sides[0] == sides[1]) == same


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_an_examination_is_the_same_at_every_run(kind: str, part: str, tmp_path: Path) -> None:
    spec = tiny(kind)
    patient = first(spec, part)
    once, again = (examined(spec, patient, tmp_path / name) for name in ("a", "b"))
    assert once == again


def test_files_are_what_the_specification_asks_for(tmp_path: Path) -> None:
    spec = tiny("pod")
    assert spec.tvus is not None
    assert spec.mri is not None
    found, _ = examined(spec, first(spec, "tvus"), tmp_path / "tvus")
    clip, still = (read(tmp_path / "tvus" / f.path, modality="tvus") for f in found.files)
    assert clip.array.shape[1:] == (spec.tvus.frames, *spec.tvus.size)
    assert (clip.kind, still.kind, still.array.shape[1:]) == ("clip", "image", spec.tvus.size)
    assert read(tmp_path / "tvus" / found.files[1].mask).array.shape[1:] == spec.tvus.size
    found, _ = examined(spec, first(spec, "mri"), tmp_path / "mri")
    volume, mask = (read(tmp_path / "mri" / name) for name in (found.files[0].path, found.files[0].mask))
    assert volume.array.shape[1:] == spec.mri.size
    assert volume.spacing_mm == pytest.approx(spec.mri.spacing, rel=0.2), "patients differ by a few per cent"
    assert mask.array.shape == volume.array.shape
    assert mask.affine == pytest.approx(volume.affine, abs=1e-3)


def test_an_ultrasound_pair_is_of_the_same_woman(tmp_path: Path) -> None:
    spec = tiny("pod", "oracle_pair={frames: 4, size: [64, 64]}")
    pair = first(spec, "oracle_pair")
    volume = next(p for p in patients(spec, "mri") if p.id == pair.id)
    ours, hers = (draw(spec, p)[0] for p in (pair, volume))
    assert (ours.age, ours.ovaries) == (hers.age, hers.ovaries)
    assert (ours.uterus.junction, ours.uterus.fibroids) == (hers.uterus.junction, hers.uterus.fibroids)
    assert ours.bladder_ml != hers.bladder_ml, "it is another day"
    other = draw(spec, first(spec, "tvus"))[0]
    assert other.uterus.junction != ours.uterus.junction


def test_a_missing_sequence_changes_nothing_in_the_others(tmp_path: Path) -> None:
    spec = tiny("multisequence")
    assert spec.mri is not None
    patient = next(p for p in patients(spec, "mri") if len(p.sequences) < 4)
    whole = replace(patient, sequences=tuple(spec.mri.sequences))
    some, everything = examined(spec, patient, tmp_path / "some"), examined(spec, whole, tmp_path / "all")
    assert [f.sequence for f in some[0].files] == list(patient.sequences)
    pixels = {
        name: [pydicom.dcmread(p).PixelData for p in sorted((tmp_path / name / patient.sequences[0]).iterdir())]
        for name in ("some", "all")
    }
    assert pixels["some"] == pixels["all"]
    assert len(everything[0].files) == 4


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_only_pixels_tell_what_an_examination_shows(kind: str, part: str, tmp_path: Path) -> None:
    """However plain the disease is, names, sizes and headers of the files are those of the healthy."""
    spec = tiny(kind, "visibility={tvus: 3, mri: 3, ct: 3}")
    patient = first(spec, part)
    folders = {ill: tmp_path / str(ill) for ill in (True, False)}
    sides = [examined(spec, replace(patient, ill=ill, shown=ill), folder) for ill, folder in folders.items()]
    ours, theirs = ({name: len(data) for name, data in files.items() if name.endswith(".dcm")} for _, files in sides)
    assert ours == theirs
    assert [vars(f) for f in sides[0][0].files] == [vars(f) for f in sides[1][0].files]
    for name in ours:
        differences = {
            element.keyword
            for element, other in zip(*(pydicom.dcmread(f / name) for f in folders.values()), strict=True)
            if element != other
        }
        # The grey scale window of MRI follows the brightest voxels of the volume.
        assert differences <= {"PixelData", *(("WindowCenter", "WindowWidth") if part == "mri" else ())}
    assert any(sides[0][1][name] != sides[1][1][name] for name in ours)


def test_the_longest_id_fits_into_a_header(tmp_path: Path) -> None:
    part = "mri_unlabelled={patients: {train: 1}, size: [6, 48, 48], spacing: [12.0, 4.5, 4.5]}"
    spec = tiny("carcinoma", part, "seed=9999999999", "replicate=9999")
    patient = patients(spec, "mri_unlabelled")[0]
    examined(spec, patient, tmp_path / "a")
    header = pydicom.dcmread(tmp_path / "a" / "t2_sag" / "IM0001.dcm")
    assert header.PatientID == patient.id == "carcinoma9999999999-mri_unlabelled-train-r9999-00001"
    assert len(str(header.PatientName)) == 64
    assert str(header.PatientName).split("^")[1] == patient.id[-40:]


def test_the_truth_holds_the_evidence_and_the_anatomy(tmp_path: Path) -> None:
    found, _ = examined(tiny("pod"), first(tiny("pod"), "tvus"), tmp_path / "tvus")
    assert {"evidence_coupling_retrocervical", "evidence_plaque_mm_fundal", "uterus_mm"} <= set(found.truth)


def test_the_record_survives_the_disk(tmp_path: Path) -> None:
    found, _ = examined(tiny("carcinoma"), first(tiny("carcinoma"), "mri"), tmp_path / "a")
    found.save(tmp_path / "a")
    loaded = Examined.load(tmp_path / "a")
    assert loaded.files == found.files
    assert loaded.truth == pytest.approx(json.loads(json.dumps(found.truth, default=np.generic.item)))


@pytest.mark.parametrize(("kind", "part"), [("pod", "tvus"), ("pod", "mri"), ("ct_mr", "ct")])
def test_cohorts_of_one_seed_share_pictures_but_no_uid(kind: str, part: str, tmp_path: Path) -> None:
    spec = tiny(kind)
    patient = first(spec, part)
    sides = []
    for name in (spec.name, "other"):
        _, files = examined(replace(spec, name=name), patient, tmp_path / name)
        headers = [pydicom.dcmread(path) for path in sorted((tmp_path / name).rglob("*.dcm"))]
        own = {str(e.value) for h in headers for e in h.iterall() if e.VR == "UI" and str(e.value).startswith("2.25.")}
        sides.append((own, [h.PixelData for h in headers], {n for n in files if not n.endswith(".dcm")}))
    (uids, pixels, names), (other_uids, other_pixels, other_names) = sides
    assert len(uids) > 3
    assert not uids & other_uids
    assert (pixels, names) == (other_pixels, other_names)

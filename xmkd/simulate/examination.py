"""One examination of one patient: draw her, render what was asked for, write it as DICOM.

The label enters here and leaves as evidence: nothing else that depends on it reaches a renderer or a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal, cast

from xmkd.simulate import anatomy, ct, difficulty, mri
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.cards import Examined, File, Truth
from xmkd.simulate.dicom_write import write_clip, write_series
from xmkd.simulate.difficulty import Evidence
from xmkd.simulate.evidence import SITES
from xmkd.simulate.identity import Identity
from xmkd.simulate.masks import write_clip_mask, write_volume_mask
from xmkd.simulate.mr_protocol import Sequence
from xmkd.simulate.plan import DISEASE, Patient
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Clip, Volume
from xmkd.simulate.scan import Scan
from xmkd.simulate.spec import CohortSpec, PairPart, UltrasoundPart, VolumePart, modality_of
from xmkd.simulate.ultrasound import tvus


def examine(spec: CohortSpec, patient: Patient, folder: Path) -> Examined:
    """Render and write one examination.

    Args:
        spec: The cohort, with its visibilities.
        patient: Who, and which part of the cohort examines her.
        folder: Where the files go; it is there and empty.
    """
    part, modality = spec.parts()[patient.part], modality_of(patient.part)
    pelvis, evidence = draw(spec, patient)
    who = Identity(f"{spec.name} {spec.cohort}{spec.seed}", patient.id, round(pelvis.age), patient.site, modality)
    truth = _truth(pelvis, evidence)
    if not isinstance(part, VolumePart):
        colour = spec.sites.names.index(patient.site) % 2 == 1  # the habit of a hospital's machines
        clips = _clips(spec, patient, part, pelvis, evidence)
        files = [_write_clip(folder, name, clip, who, truth, colour=colour) for name, clip in clips]
        return Examined(files, truth)
    volumes = _volumes(spec, patient, part, pelvis, evidence)
    files = [_write_volume(folder, number, volume, who, truth) for number, volume in enumerate(volumes, start=1)]
    return Examined(files, truth)


def draw(spec: CohortSpec, patient: Patient) -> tuple[Pelvis, Evidence]:
    """The patient as she is at this examination, and what it shows of her disease."""
    assert isinstance(spec.visibility, dict)  # `cohort.simulate` has seen to it
    disease, modality = DISEASE[spec.cohort], modality_of(patient.part)
    seeds = Seeds(spec.seed, patient.id, modality)
    visibility = {modality: spec.visibility[modality]}
    evidence = difficulty.draw_evidence(disease, patient.ill, seeds, visibility, spec.rho)[modality]
    return anatomy.draw(seeds, disease, modality), evidence


def _clips(
    spec: CohortSpec, patient: Patient, part: UltrasoundPart | PairPart, pelvis: Pelvis, evidence: Evidence
) -> Iterator[tuple[str, Clip]]:
    """The clips and then the stills, by name; each with a pose of the probe and machine settings of its own."""
    settings = tvus.Settings(part.frames, part.size, patient.site)
    for kind, count, render in (("clip", part.clips, tvus.render_clip), ("still", part.stills, tvus.render_still)):
        for number in range(1, count + 1):
            name = f"{kind}{number}"
            yield name, render(pelvis, evidence, Seeds(spec.seed, patient.id, f"tvus {name}"), settings)


def _volumes(
    spec: CohortSpec, patient: Patient, part: VolumePart, pelvis: Pelvis, evidence: Evidence
) -> Iterator[Volume]:
    modality = modality_of(patient.part)
    seeds, wanted = Seeds(spec.seed, patient.id, modality), Scan(part.size, part.spacing, patient.site)
    if modality == "ct":
        yield ct.render(pelvis, evidence, seeds, wanted)
        return
    sequences = cast(tuple[Sequence, ...], tuple(part.sequences))
    rendered = mri.render(pelvis, evidence, seeds, wanted, sequences)
    # All are rendered, so that one that is missing does not change the noise of the others.
    yield from (rendered[name] for name in sequences if name in patient.sequences)


def _write_clip(folder: Path, name: str, clip: Clip, who: Identity, truth: Truth, *, colour: bool) -> File:
    truth |= {f"{name}_{key}": value for key, value in clip.truth.items()}
    still = len(clip.frames) == 1
    write_clip(clip, folder / f"{name}.dcm", who, series=name, colour=colour)
    if not still:  # a mask of the first frame alone does not fit a clip's manifest
        return File(name, "clip", f"{name}.dcm")
    write_clip_mask(clip, folder / f"{name}_mask.png")
    return File(name, "still", f"{name}.dcm", f"{name}_mask.png")


def _write_volume(folder: Path, number: int, volume: Volume, who: Identity, truth: Truth) -> File:
    name = volume.sequence
    modality: Literal["ct", "mri"] = "ct" if who.study == "ct" else "mri"
    truth |= {f"{name}_{key}": value for key, value in volume.truth.items()}
    write_series(volume, folder / name, who, modality, number=number)
    write_volume_mask(volume, folder / f"{name}_mask.nii.gz")
    return File(name, "volume", name, f"{name}_mask.nii.gz", name if modality == "mri" else "")


def _truth(pelvis: Pelvis, evidence: Evidence) -> Truth:
    """The evidence and the main numbers of the anatomy."""
    shown: Truth = {}
    for key, value in asdict(evidence).items():
        if isinstance(value, tuple):
            shown |= {f"evidence_{key}_{site}": v for site, v in zip(SITES, value, strict=True)}
        else:
            shown[f"evidence_{key}"] = value
    uterus = pelvis.uterus
    return shown | {
        "age": pelvis.age,
        "menopause": pelvis.menopause,
        "retroverted": pelvis.retroverted,
        "retroflexed": pelvis.retroflexed,
        "uterus_mm": uterus.length,
        "endometrium_mm": uterus.endometrium,
        "phase": uterus.phase,
        "junctional_zone_mm": uterus.junction,
        "adenomyosis_mm": uterus.adenomyosis,
        "fibroids": len(uterus.fibroids),
        "polyp_mm": uterus.polyp,
        "scar_mm": uterus.scar,
        "bladder_ml": pelvis.bladder_ml,
        "gas": pelvis.gas,
        "endometriomas": len(pelvis.endometriomas),
    }

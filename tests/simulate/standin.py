"""A renderer of noise in place of the physics: all that it knows of the label is the evidence, as the real ones."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import numpy as np

from xmkd.simulate import difficulty
from xmkd.simulate.cards import Examined, File
from xmkd.simulate.dicom_write import write_clip, write_series
from xmkd.simulate.identity import Identity
from xmkd.simulate.masks import write_clip_mask, write_volume_mask
from xmkd.simulate.plan import DISEASE, Patient
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Clip, Volume
from xmkd.simulate.spec import CohortSpec, modality_of


def examine(spec: CohortSpec, patient: Patient, folder: Path) -> Examined:
    """Noise of a strength that the evidence decides."""
    modality = modality_of(patient.part)
    seeds = Seeds(spec.seed, patient.id, modality)
    assert isinstance(spec.visibility, dict)
    visibility = {modality: spec.visibility[modality]}
    shown = difficulty.draw_evidence(DISEASE[spec.cohort], patient.ill, seeds, visibility, spec.rho)[modality]
    strength = hashlib.sha256(repr(shown).encode()).digest()[0]
    rng = seeds.numpy("texture")
    who = Identity("test", patient.id, 40, patient.site, modality)
    if modality == "tvus":
        for name, count in (("clip0", 3), ("still0", 1)):
            frames = (rng.random((count, 24, 20)) * strength).astype(np.uint8)
            clip = Clip(frames, (0.5, 0.5), 20.0, (0, 0, 24, 20), np.ones((24, 20), np.uint8))
            write_clip(clip, folder / f"{name}.dcm", who, series=name)
        write_clip_mask(clip, folder / "still0_mask.png")
        files = [File("clip0", "clip", "clip0.dcm"), File("still0", "still", "still0.dcm", "still0_mask.png")]
        return Examined(files, {"strength": strength})
    files = []
    for number, sequence in enumerate(patient.sequences or ("ct",), start=1):
        array = (rng.random((4, 12, 10)) * strength).astype(np.int16)
        affine = np.diag([4.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]]
        volume = Volume(array, affine, np.ones((4, 12, 10), np.uint8), sequence, 4.0)
        write_series(volume, folder / sequence, who, "ct" if modality == "ct" else "mri", number=number)
        write_volume_mask(volume, folder / f"{sequence}_mask.nii.gz")
        files.append(File(sequence, "volume", sequence, f"{sequence}_mask.nii.gz", sequence))
    return Examined(files, {"strength": strength})


def examine_and_die(spec: CohortSpec, patient: Patient, folder: Path) -> Examined:
    """Kills its process in the middle of the fourth training patient, with half of her files written."""
    examined = examine(spec, patient, folder)
    if patient.split == "train" and patient.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return examined


def examine_and_fail(spec: CohortSpec, patient: Patient, folder: Path) -> Examined:
    """As Ctrl-C in the middle of the third training patient."""
    examined = examine(spec, patient, folder)
    if patient.split == "train" and patient.number == 2:
        raise KeyboardInterrupt
    return examined

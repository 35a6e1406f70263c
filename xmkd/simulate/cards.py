"""The tables of a simulated cohort: a manifest with its card for each part, and the truth apart from them.

What only the simulator knows goes to truth.csv and the examinations' own records, never to a manifest, so that no
method can be given it by mistake.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml

import xmkd
from xmkd.data.manifest import load_card
from xmkd.errors import DataMissingError
from xmkd.simulate import difficulty
from xmkd.simulate.latent import STAGES
from xmkd.simulate.output import write_file
from xmkd.simulate.plan import DISEASE, Patient
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scene import ORGANS
from xmkd.simulate.spec import CohortSpec, VolumePart, modality_of

View = Literal["clip", "still", "volume"]

Truth = dict[str, str | float | int | bool]

LABEL = {"pod": "pod", "carcinoma": "invasion"}
"""The label that a lock knows the limits of, by disease."""
RECORD = "examination.json"
"""In the folder of an examination once it is complete."""
TRUTH = "truth"
BASES = Path(xmkd.__file__).parents[1] / "data_manifests"


@dataclass(frozen=True)
class File:
    """One sample of an examination.

    Attributes:
        name: Unique within the examination, such as "clip1".
        view: What it is.
        path: File or folder, from the examination's folder.
        mask: Its mask likewise, "" for none.
        sequence: For the manifest.
    """

    name: str
    view: View
    path: str
    mask: str = ""
    sequence: str = ""


@dataclass(frozen=True)
class Examined:
    """What an examination gave.

    Attributes:
        files: Its samples.
        truth: What only the simulator knows.
    """

    files: list[File]
    truth: Truth = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it into the folder of the examination, with the number of slices of each series there."""
        slices = {f.path: _slices(folder / f.path) for f in self.files if (folder / f.path).is_dir()}
        content = {"files": [vars(f) for f in self.files], "slices": slices, "truth": self.truth}
        (folder / RECORD).write_text(json.dumps(content, indent=1, default=np.generic.item) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Examined:
        """Read what `save` wrote."""
        return cls.of(json.loads((folder / RECORD).read_text()))

    @classmethod
    def of(cls, content: dict[str, Any]) -> Examined:
        """From the content of the record."""
        return cls([File(**values) for values in content["files"]], dict(content["truth"]))


def complete(folder: Path) -> bool:
    """Whether an examination lies in a folder with a record that can be read and all that it names, slices too."""
    try:
        content = json.loads((folder / RECORD).read_text())
        files, slices = Examined.of(content).files, content.get("slices", {})
        there = all((folder / place).exists() for file in files for place in (file.path, file.mask))
        return there and all(_slices(folder / path) == count for path, count in slices.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _slices(series: Path) -> int:
    return sum(1 for _ in series.iterdir())


def base(spec: CohortSpec) -> Path:
    """The card of this kind of cohort in data_manifests/.

    Raises:
        DataMissingError: It is not there.
        ManifestError: It is wrong.
    """
    path = BASES / f"sim_{spec.cohort}.yaml"
    if not path.is_file():
        raise DataMissingError(
            "the card of this kind of cohort is not there",
            where=path,
            fixes=("call xmkd from a checkout of the project", f"put a copy of the project's {path.name} there"),
        )
    load_card(path)
    return path


def write(spec: CohortSpec, out: Path, part: str, patients: Sequence[Patient]) -> list[Path]:
    """Write the manifests of a part, each with its card: one of clips or volumes, one of stills.

    Args:
        spec: The cohort, whose examinations of this part are complete.
        out: Its folder.
        part: The part.
        patients: Those of the part.

    Returns:
        The manifests.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for patient in patients:
        for file in Examined.load(out / part / patient.id).files:
            rows.setdefault(file.view, []).append(_row(spec, patient, file))
    written = []
    for view, members in rows.items():
        path = out / f"{spec.cohort}_{part}{'_stills' if view == 'still' else ''}{spec.variant}.csv"
        _write_table(path, pd.DataFrame(members).dropna(axis=1, how="all"))
        text = yaml.safe_dump(_card(spec, part, view), sort_keys=False, width=110)
        write_file(path.with_suffix(".yaml"), text.encode())
        written.append(path)
    return written


def write_truth(spec: CohortSpec, out: Path, patients: Sequence[Patient]) -> Path:
    """Write truth.csv, one row per examination: the label, whether the manifest says so, the evidence, the anatomy."""
    rows = []
    for patient in patients:
        known = {
            "patient_id": patient.id,
            "part": patient.part,
            "split": patient.split,
            "site": patient.site,
            "disease": DISEASE[spec.cohort],
            "ill": patient.ill,
            "stage": _stage(spec, patient, patient.ill),
            "flipped": patient.ill != patient.shown,
        }
        rows.append(known | Examined.load(out / patient.part / patient.id).truth)
    path = out / f"{TRUTH}{spec.variant}.csv"
    _write_table(path, pd.DataFrame(rows))
    return path


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_file(path, table.to_csv(index=False, lineterminator="\n").encode())


def _row(spec: CohortSpec, patient: Patient, file: File) -> dict[str, Any]:
    place = f"{patient.part}/{patient.id}"
    row = {
        "sample_id": f"{patient.id}-{file.name}",
        "patient_id": patient.id,
        "modality": modality_of(patient.part),
        "sequence": file.sequence or None,
        "path": f"{place}/{file.path}",
        "mask": f"{place}/{file.mask}" if file.mask else None,
        "site": patient.site,
        "split": patient.split,
    }
    return row if patient.part == "mri_unlabelled" else row | _labels(spec, patient)


def _labels(spec: CohortSpec, patient: Patient) -> dict[str, str]:
    """The label columns of a patient, as they stand in the manifest."""
    stage = _stage(spec, patient, patient.shown)
    if DISEASE[spec.cohort] == "pod":
        return {"pod": stage}
    return {"invasion": "present" if patient.shown else "absent", "depth": stage}


def _stage(spec: CohortSpec, patient: Patient, ill: bool) -> str:
    disease = DISEASE[spec.cohort]
    return STAGES[disease][difficulty.stage_of(disease, ill, Seeds(spec.seed, patient.id))]


def _card(spec: CohortSpec, part: str, view: str) -> dict[str, Any]:
    """The cohort's card in data_manifests/, made into that of one manifest."""
    card: dict[str, Any] = yaml.safe_load(base(spec).read_text())
    modality = modality_of(part)
    card |= {"title": f"{card['title']}: {part}, {view}s", "root": ".", "modality": modality}
    card |= {"lock": spec.lock, "specification": spec.hash}
    label = LABEL[DISEASE[spec.cohort]]
    if modality in spec.limits and label in card["labels"]:
        seen = {"ceiling"} if view == "still" and _has_clips(spec, part) else {"oracle", "ceiling"}
        limits = {name: asdict(limit) for name, limit in spec.limits[modality].items() if name in seen}
        card["labels"] = {**card["labels"], label: {**card["labels"][label], "limits": limits}}
    if part == "mri_unlabelled":
        del card["labels"]
    card["mask_classes"] = list(ORGANS)
    card["cautions"] = [*card.get("cautions", []), _settings(spec)]
    return card


def _has_clips(spec: CohortSpec, part: str) -> bool:
    """Whether the oracle measures clips, so that its figure says nothing of stills."""
    found = spec.parts()[part]
    return not isinstance(found, VolumePart) and found.clips > 0


def _settings(spec: CohortSpec) -> str:
    visibility = spec.visibility if isinstance(spec.visibility, dict) else {}
    shown = ", ".join(f"{modality} {value:g}" for modality, value in sorted(visibility.items()))
    return (
        f"Specification {spec.name} ({spec.hash}): seed {spec.seed}, replicate {spec.replicate}, prevalence "
        f"{spec.prevalence:g}, rho {spec.rho:g}, visibility {shown}, {spec.label_flips:.0%} of the training labels "
        f"flipped, confounding by site {spec.sites.confounding:g}."
    )

"""The specification of a simulated cohort: how many patients, how they are imaged, how visible the disease is.

The dataclasses are the schema of experiments/cohorts/*.yaml. Everything that the files of a cohort depend on stands in
its specification, so that its hash names them (together with the versions of the simulator and its libraries).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from xmkd import settings
from xmkd.binding import bind
from xmkd.data.limits import Limit
from xmkd.errors import ConfigError

Kind = Literal["pod", "carcinoma", "ct_mr", "multisequence"]
Split = Literal["train", "val", "calib", "test"]
Modality = Literal["tvus", "mri", "ct"]

SPLITS: tuple[Split, ...] = ("train", "val", "calib", "test")
FROM_LOCK: Literal["from lock"] = "from lock"
HOME = "experiments/cohorts/"

# Which parts a cohort of each kind has; the first are needed, the others may be left out.
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pod": (("tvus", "mri"), ("mri_unlabelled", "oracle_pair")),
    "carcinoma": (("tvus", "mri"), ("mri_unlabelled", "oracle_pair")),
    "ct_mr": (("ct", "mri"), ()),
    "multisequence": (("mri",), ()),
}
SEQUENCES = ("t2_sag", "t1_sag", "t1ce_sag", "dwi_sag", "adc_sag")
_FIELD_OF_VIEW = (120.0, 500.0)  # mm in a slice: from a zoomed uterus to a whole trunk
_COVERAGE = (40.0, 500.0)  # mm over all slices: a uterus is 40 to 60 mm wide
_PIXELS = (16, 1024)
_LARGEST = {"seed": 10**10 - 1, "replicate": 10**4 - 1}  # both stand in the patients' ids
_NOT_GIVEN = {
    "name": "it is that of the file",
    "lock": "it is the hash of the lock beside the file",
    "limits": "they stand in the lock beside the file",
}
UNHASHED: dict[str, Any] = {"lock": "", "limits": {}, "replicate": 0, "label_flips": 0.0}
"""What of a specification says nothing of the files in its folder, each with the value that stands for it there."""
_SITE = r"[\w-]{1,8}"  # it stands in the DICOM header as the station's name too


@dataclass(frozen=True)
class Patients:
    """Number of patients on each side of the split."""

    train: int = 0
    val: int = 0
    calib: int = 0
    test: int = 0


@dataclass(frozen=True)
class UltrasoundPart:
    """Patients with a transvaginal examination.

    Attributes:
        patients: How many.
        clips: Clips of each patient.
        stills: Still images of each patient, with masks.
        frames: Frames of a clip.
        size: Rows and columns of the picture.
        prevalence: Instead of the cohort's.
    """

    patients: Patients
    clips: int = 1
    stills: int = 0
    frames: int = 16
    size: tuple[int, int] = (160, 160)
    prevalence: float | None = None


@dataclass(frozen=True)
class PairPart:
    """Ultrasound of the very patients of the labelled MRI, which no real unpaired study has: a ceiling for methods.

    Attributes:
        clips: Clips of each patient.
        stills: Still images of each patient.
        frames: Frames of a clip.
        size: Rows and columns of the picture.
    """

    clips: int = 1
    stills: int = 0
    frames: int = 16
    size: tuple[int, int] = (160, 160)


@dataclass(frozen=True)
class VolumePart:
    """Patients with an MRI or CT examination.

    Attributes:
        patients: How many.
        sequences: MR sequences of each patient; of no meaning for CT.
        missing: Probability that a sequence of a patient is missing; one always stays.
        size: Slices, rows, columns.
        spacing: Distance of slices, rows and columns in mm.
        prevalence: Instead of the cohort's.
    """

    patients: Patients
    sequences: list[str] = field(default_factory=lambda: ["t2_sag"])
    missing: float = 0.0
    size: tuple[int, int, int] = (24, 192, 192)
    spacing: tuple[float, float, float] = (4.0, 1.12, 1.12)
    prevalence: float | None = None


Part = UltrasoundPart | PairPart | VolumePart


@dataclass(frozen=True)
class Sites:
    """Hospitals.

    Attributes:
        names: Their names; each has its own machines.
        shares: Fractions of the patients; empty for equal ones.
        confounding: 0: the label says nothing of the site. 1: ill patients come from the first half of the sites, the
            others from the second. Between: so for that fraction of the patients, the others come from any site.
        confounded: Sides of the split on which this is so.
    """

    names: list[str] = field(default_factory=lambda: ["north", "south", "lake"])
    shares: list[float] = field(default_factory=list)
    confounding: float = 0.0
    confounded: list[Split] = field(default_factory=lambda: ["train", "val", "calib"])


@dataclass(frozen=True)
class CohortSpec:
    """A simulated cohort.

    Attributes:
        cohort: What it is for.
        name: Name of the file; it stands in the UIDs.
        seed: Seed of everything; of two cohorts of one kind and seed the patients of one number are the same woman.
        replicate: Draws other patients for training, validation and calibration; test patients stay, and are not
            rendered again in the same folder.
        prevalence: Fraction of ill patients, kept in every prefix of the patient numbers to within one patient.
        rho: Correlation between what ultrasound and MRI show of the disease, given the label.
        visibility: By modality, how plainly the disease shows; or as found by calibration, in the lock beside the file.
        label_flips: Probability that the label of a training patient in the manifest is wrong.
        sites: Hospitals.
        tvus: Ultrasound.
        mri: Labelled MRI.
        mri_unlabelled: Further MRI of other patients, without labels.
        ct: CT.
        oracle_pair: Ultrasound of the training, validation and calibration patients of `mri`.
        lock: Hash of the lock that the visibilities are from; "" where the specification gives them.
        limits: From the lock, by modality: AUROC of the oracle and of the ceiling.
    """

    cohort: Kind
    name: str = ""
    seed: int = 0
    replicate: int = 0
    prevalence: float = 0.3
    rho: float = 0.6
    visibility: Literal["from lock"] | dict[str, float] = FROM_LOCK
    label_flips: float = 0.0
    sites: Sites = field(default_factory=Sites)
    tvus: UltrasoundPart | None = None
    mri: VolumePart | None = None
    mri_unlabelled: VolumePart | None = None
    ct: VolumePart | None = None
    oracle_pair: PairPart | None = None
    lock: str = ""
    limits: dict[str, dict[str, Limit]] = field(default_factory=dict)

    def parts(self) -> dict[str, Part]:
        """The parts that there are, by name."""
        needed, optional = PARTS[self.cohort]
        found = {name: getattr(self, name) for name in (*needed, *optional)}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of all that the images depend on; their UIDs depend on the name.

        Replicates and flipped labels are left out: they lie in one folder and share its test patients, under manifests
        of their own (see `variant`).
        """
        text = json.dumps(asdict(replace(self, **UNHASHED)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def variant(self) -> str:
        """What the names of the tables end in: "" or, for example, "_r3_flips15"."""
        replicate = f"_r{self.replicate}" if self.replicate else ""
        return replicate + (f"_flips{100 * self.label_flips:g}" if self.label_flips else "")


def load(path: str | Path, overrides: list[str] | None = None) -> CohortSpec:
    """Read a cohort's specification, follow its `base:`, apply overrides and check everything.

    Args:
        path: YAML file in experiments/cohorts/.
        overrides: `key.sub=value` words.

    Raises:
        ConfigError: The file is missing or no YAML, or keys or values are wrong; all problems are listed.
    """
    sections = "keys such as cohort:, prevalence: and tvus:"
    tree = settings.read(path, overrides, what="cohort", home=HOME, sections=sections)
    problems = [f"{key}: it can't be given; {why}" for key, why in _NOT_GIVEN.items() if key in tree]
    spec = bind(CohortSpec, {"name": Path(path).stem, **tree}, "", problems)
    if spec is not None and not problems:
        problems = contradictions(spec)
    if spec is None or problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise ConfigError(
            f"{count} in the cohort:\n  - " + "\n  - ".join(problems),
            where=path,
            fixes=("correct the keys in the file", "correct the key=value words on the command line"),
        )
    return spec


def contradictions(spec: CohortSpec) -> list[str]:
    """What is wrong with values that each have the right type."""
    problems = _fractions(spec) + _sites(spec.sites) + _parts(spec)
    for name, part in spec.parts().items():
        if not isinstance(part, PairPart):
            problems += _counts(name, part)
        problems += _volume(name, part) if isinstance(part, VolumePart) else _ultrasound(name, part)
    return problems


def _fractions(spec: CohortSpec) -> list[str]:
    problems = []
    for name, most in _LARGEST.items():
        value = getattr(spec, name)
        if value < 0:
            problems.append(f"{name}: {value} is negative")
        elif value > most:
            problems.append(f"{name}: {value} is above {most}: patients' ids would be too long for DICOM")
    prevalences = {"prevalence": spec.prevalence}
    for name, part in spec.parts().items():
        if not isinstance(part, PairPart) and part.prevalence is not None:
            prevalences[f"{name}.prevalence"] = part.prevalence
    for name, value in prevalences.items():
        if not 0 < value < 1:
            problems.append(f"{name}: {value:g} is not between 0 and 1, so one class would be empty")
    if not 0 <= spec.rho < 1:
        problems.append(f"rho: {spec.rho:g} is no correlation from 0 to below 1")
    if not 0 <= spec.label_flips < 0.5:
        problems.append(f"label_flips: {spec.label_flips:g} is not from 0 to below 0.5, where labels would say nothing")
    if isinstance(spec.visibility, dict):
        for modality, value in spec.visibility.items():
            if modality not in ("tvus", "mri", "ct"):
                problems.append(f"visibility.{modality}: no modality; known: tvus, mri, ct")
            elif value < 0:
                problems.append(f"visibility.{modality}: {value:g} is negative")
        used = {modality_of(name) for name in spec.parts()}
        problems += [f"visibility.{m}: a value is needed" for m in sorted(used - set(spec.visibility))]
    return problems


def _sites(sites: Sites) -> list[str]:
    problems = []
    if not sites.names or len(set(sites.names)) < len(sites.names):
        problems.append("sites.names: one or more different names are needed")
    long = [name for name in sites.names if not re.fullmatch(_SITE, name)]
    if long:
        problems.append(f"sites.names: {', '.join(long)}: a name has 1 to 8 letters, digits, - and _")
    if sites.shares and len(sites.shares) != len(sites.names):
        problems.append(f"sites.shares: {len(sites.shares)} values for {len(sites.names)} sites")
    if sites.shares and (min(sites.shares) <= 0 or abs(sum(sites.shares) - 1) > 1e-6):
        problems.append("sites.shares: they must be positive and add up to 1")
    if not 0 <= sites.confounding <= 1:
        problems.append(f"sites.confounding: {sites.confounding:g} is not from 0 to 1")
    elif sites.confounding and len(sites.names) < 2:
        problems.append("sites.confounding: this needs two sites or more")
    return problems


def _parts(spec: CohortSpec) -> list[str]:
    needed, optional = PARTS[spec.cohort]
    known = {name for pair in PARTS.values() for names in pair for name in names}
    problems = [f"{name}: a cohort of kind {spec.cohort} needs it" for name in needed if getattr(spec, name) is None]
    others = sorted(name for name in known - {*needed, *optional} if getattr(spec, name) is not None)
    own = ", ".join((*needed, *optional))
    return problems + [f"{name}: a cohort of kind {spec.cohort} has {own} instead" for name in others]


def _counts(name: str, part: UltrasoundPart | VolumePart) -> list[str]:
    problems = []
    counts = asdict(part.patients)
    for split, count in counts.items():
        if count < 0:
            problems.append(f"{name}.patients.{split}: {count} is negative")
    if counts["train"] == 0:
        problems.append(f"{name}.patients.train: without training patients there is nothing to learn from")
    if counts["test"] == 0 and name != "mri_unlabelled":
        problems.append(f"{name}.patients.test: without test patients nothing can be shown")
    return problems


def _ultrasound(name: str, part: UltrasoundPart | PairPart) -> list[str]:
    counts = {"clips": part.clips, "stills": part.stills}
    problems = [f"{name}.{key}: {count} is negative" for key, count in counts.items() if count < 0]
    if part.clips == part.stills == 0:
        problems.append(f"{name}: neither clips nor stills")
    if part.clips and not 2 <= part.frames <= 1000:
        problems.append(f"{name}.frames: {part.frames} is not from 2 to 1000")
    return problems + _pixels(name, part.size)


def _volume(name: str, part: VolumePart) -> list[str]:
    problems = []
    if not part.sequences or len(set(part.sequences)) < len(part.sequences):
        problems.append(f"{name}.sequences: one or more different names are needed")
    unknown = [s for s in part.sequences if s not in SEQUENCES]
    if unknown:
        problems.append(f"{name}.sequences: {', '.join(unknown)} unknown; known: {', '.join(SEQUENCES)}")
    if not 0 <= part.missing < 1:
        problems.append(f"{name}.missing: {part.missing:g} is not from 0 to below 1")
    if part.size[0] < 3:
        problems.append(f"{name}.size: {part.size[0]} slices; at least 3 are needed")
    if min(part.spacing) <= 0:
        return [*problems, *_pixels(name, part.size[1:]), f"{name}.spacing: {list(part.spacing)} must be positive"]
    extent = [n * step for n, step in zip(part.size, part.spacing, strict=True)]
    limits = (_COVERAGE, _FIELD_OF_VIEW, _FIELD_OF_VIEW)
    for axis, length, (low, high) in zip(("slices", "rows", "columns"), extent, limits, strict=True):
        if not low <= length <= high:
            problems.append(f"{name}.spacing: the {axis} cover {length:g} mm; a pelvis needs {low:g} to {high:g}")
    return problems + _pixels(name, part.size[1:])


def _pixels(name: str, size: tuple[int, ...]) -> list[str]:
    low, high = _PIXELS
    if all(low <= n <= high for n in size):
        return []
    return [f"{name}.size: {list(size)} is not from {low} to {high} pixels"]


def modality_of(part: str) -> Modality:
    """The modality of a part, by its name."""
    return "ct" if part == "ct" else "mri" if part.startswith("mri") else "tvus"

"""A table of controls as a file in experiments/controls/: which cohorts, which experiments, which sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from xmkd import settings
from xmkd.binding import bind, nearest
from xmkd.controls.arms import ARMS
from xmkd.controls.doses import dose_arm
from xmkd.controls.heads import HeadSettings
from xmkd.errors import ConfigError


@dataclass(frozen=True)
class Step:
    """An experiment of which a run is made.

    Attributes:
        experiment: A file in experiments/.
        words: `key.sub=value` overrides.
    """

    experiment: str
    words: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tuned:
    """The tier in which the whole network is trained.

    Attributes:
        arms: Names of the arms.
        labels: Numbers of labelled MRI.
        cohorts: Training cohorts.
        lrs: Learning rates to try. Every arm gets all of them on its first cohort, and on the others the one with the
            best validation AUROC there.
        workers: Trainings at once, in processes of one thread each, where there is no GPU; 0 trains one after another.
    """

    arms: list[str] = field(default_factory=lambda: ["scratch", "ptm", "full", "surrogate", "oracle_pair"])
    labels: list[int] = field(default_factory=lambda: [80])
    cohorts: int = 5
    lrs: list[float] = field(default_factory=lambda: [3e-4, 1e-3])
    workers: int = 0


@dataclass(frozen=True)
class ControlsSpec:
    """A table of controls.

    Attributes:
        cohorts: Specifications in experiments/cohorts/, one for each rho; the first is also where the teacher and the
            auto-encoder are trained, for all.
        teacher: The ultrasound teacher, cross-validated.
        mae: The masked auto-encoder.
        student: The student that the tier `finetuned` trains; its stream also says how MRI are read for the heads.
        labels: Numbers of labelled MRI of the tiers `head` and `signs`.
        head_cohorts: Training cohorts of these tiers.
        head: Budget of each head.
        doses: Agreements of paired targets with the students' own images (`xmkd.controls.doses`), each an arm of the
            tier `signs` in the first cohort.
        finetuned: The other tier.
        data: Folder for the cohorts.
        out: Folder for the table.
        runs: Folder for the runs.
    """

    cohorts: list[str]
    teacher: Step
    mae: Step
    student: Step
    labels: list[int] = field(default_factory=lambda: [20, 40, 80, 160])
    head_cohorts: int = 30
    head: HeadSettings = field(default_factory=HeadSettings)
    doses: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    finetuned: Tuned = field(default_factory=Tuned)
    data: str = "runs/cohorts"
    out: str = "runs/controls"
    runs: str = "runs"
    name: str = ""

    @property
    def table(self) -> Path:
        """Folder of the table."""
        return Path(self.out) / self.name


def load(path: str | Path, overrides: list[str] | None = None) -> ControlsSpec:
    """Read a table of controls.

    Raises:
        ConfigError: The file is missing or no YAML, or keys or values are wrong; all problems are listed.
    """
    sections = "keys such as cohorts:, teacher: and student:"
    tree = settings.read(path, overrides, what="table of controls", home="experiments/controls/", sections=sections)
    problems: list[str] = []
    spec = bind(ControlsSpec, {"name": Path(path).stem, **tree}, "", problems)
    if spec is not None and not problems:
        problems = _contradictions(spec)
    if spec is None or problems:
        raise ConfigError(
            "problems in the table of controls:\n  - " + "\n  - ".join(problems),
            where=path,
            fixes=("correct the keys in the file", "correct the key=value words on the command line"),
        )
    return spec


def _contradictions(spec: ControlsSpec) -> list[str]:
    known = [arm.name for arm in ARMS]
    problems = [f"finetuned.arms: {a!r} is no arm{nearest(a, known)}" for a in spec.finetuned.arms if a not in known]
    problems += [] if spec.cohorts else ["cohorts: at least one specification is needed"]
    if spec.labels and spec.labels != sorted(set(spec.labels)):
        problems.append(f"labels: {spec.labels} must rise")
    if not spec.labels or min([*spec.labels, *spec.finetuned.labels]) < 4:
        problems.append("labels: at least one number, and none below 4")
    if spec.head_cohorts < 2 or spec.finetuned.cohorts < 2:
        problems.append("cohorts are the unit of every interval: two at least in each tier")
    if spec.finetuned.cohorts > spec.head_cohorts or not set(spec.finetuned.labels) <= set(spec.labels):
        problems.append("finetuned: its cohorts and labels are among those of the tier head")
    if "self_distillation" in spec.finetuned.arms:
        problems.append("finetuned.arms: self_distillation is an arm of heads alone")
    names = {dose_arm(dose).name for dose in spec.doses}
    if any(not 0 <= dose <= 1 for dose in spec.doses) or len(names) < len(spec.doses):
        problems.append(f"doses: {spec.doses} must be different numbers from 0 to 1")
    if not spec.finetuned.lrs or min(spec.finetuned.lrs) <= 0:
        problems.append("finetuned.lrs: at least one learning rate, and all above 0")
    if spec.finetuned.workers < 0:
        problems.append(f"finetuned.workers: {spec.finetuned.workers} is less than 0")
    return problems + [f"head.{problem}" for problem in spec.head.problems()]

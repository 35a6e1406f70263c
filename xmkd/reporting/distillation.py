"""Which arm of the distillation a student is: where its targets come from, how much they weigh, what that can show."""

from __future__ import annotations

from pathlib import Path

from xmkd import runs
from xmkd.errors import XmkdError
from xmkd.evaluation.statistics import Interval
from xmkd.losses.distillation import auto_alpha, distillation_weight
from xmkd.methods.distill import NONE, DistillSettings
from xmkd.reporting.blocks import Section, Table, Text, public
from xmkd.reporting.evidence import Evidence
from xmkd.reporting.overview import with_bounds

TARGETS = {
    "same-class": "the teacher's score of a random examination of the same class, drawn anew in each epoch",
    "any": "the teacher's score of a random examination of any class",
    "constant": "one number per class: the centre of the teacher's scores of it",
    "shuffled": "the teacher's scores, handed round over all classes",
    "surrogate": "draws from a Beta distribution fitted to the teacher's scores of the class",
    "hard": "the label itself",
    "self": "the sample's own out-of-fold score by a model of MRI",
    "oracle_pair": "the teacher's score of the same patient's ultrasound",
}
UNPAIRED = (
    "The partner of an MRI is another patient, so a target tells no more of the MRI at hand than its label does. A "
    "gain over supervision alone is no proof that knowledge was transferred: compare with the pairing surrogate first."
)


def arm(evidence: Evidence) -> Section | None:
    """The arm of a student; nothing for other methods."""
    settings = evidence.experiment.method
    if not isinstance(settings, DistillSettings):
        return None
    section = Section("arm", "Distillation")
    rows = [["Arm", _name(settings)]]
    if not settings.supervised_alone:
        rows.append(["Target", f"{settings.pairing}: {TARGETS[settings.pairing]}"])
        distance = f"{settings.kd_norm} of {'probabilities' if settings.kd_space == 'prob' else 'logits'}"
        features = f"; features of partners with weight {settings.feature_weight:g}" * bool(settings.feature_weight)
        rows.append(["Distance", distance + features])
    rows.append(["Weight of distillation", _weight(settings, evidence.experiment.trainer.max_epochs)])
    rows.append(["Teacher", _teacher(settings)])
    if settings.own_scores != NONE:
        rows.append(["Own scores", public(settings.own_scores)])
    rows.append(["Encoder starts", "at random" if settings.mae == NONE else f"from {public(settings.mae)}"])
    rows.append(["Supervised loss", f"cross-entropy, {settings.loss}; smoothing {settings.label_smoothing:g}"])
    section.blocks.append(Table(["", ""], rows, "What this student learnt from.", "config.yaml"))
    if not settings.supervised_alone and settings.pairing in ("same-class", "any"):
        section.blocks.append(Text(UNPAIRED))
    section.blocks.append(Text("In use the student takes the MRI alone: it holds no teacher and no decoder."))
    return section


def _name(settings: DistillSettings) -> str:
    start = "from scratch" if settings.mae == NONE else "after pre-training"
    if settings.supervised_alone:
        return f"supervision alone, {start}"
    return f"distillation ({settings.pairing}) and supervision, {start}"


def _weight(settings: DistillSettings, epochs: int) -> str:
    if settings.supervised_alone:
        return "0 in every epoch (alpha 0, offset 1)"
    alpha = auto_alpha(epochs) if isinstance(settings.alpha, str) else settings.alpha
    first, last = (distillation_weight(alpha, epoch, settings.epoch_offset) for epoch in (0, epochs - 1))
    chosen = ", chosen for equal weights in the middle" if isinstance(settings.alpha, str) else ""
    told = f"{first:.3g} in the first epoch, {last:.3g} in the last"
    return f"alpha {alpha:.4g}{chosen}, offset {settings.epoch_offset}: {told}"


def _teacher(settings: DistillSettings) -> str:
    if not settings.needs_teacher:
        return "none: this arm needs no teacher"
    text = public(settings.teacher)
    try:
        found = runs.find(Path(settings.teacher)).summary()["metrics"].get("auroc")
    except XmkdError:
        return f"{text}, which is not there any more"
    return f"{text}, AUROC out of fold {with_bounds(Interval(**found))}" if found else text

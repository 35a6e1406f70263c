"""Unpaired distillation: an MRI student that learns from its labels and from an ultrasound teacher's scores.

    l = w L_KD + (1 - w) L_PTM,    w = alpha^(epoch + offset),
    L_KD = mean over (m, y), u drawn with y_u = y, of | p_T(u) - p_S(m) |,    L_PTM = BCE(f_S(m), y).
Zhang et al., "Distilling Missing Modality Knowledge from Ultrasound for Endometriosis Diagnosis with Magnetic Resonance
Images", ISBI 2023, arXiv 2307.02000. Norm, pairing, alpha and all sizes are not published: they are options here.

The teacher is never run: a partner's score p_T comes from the out-of-fold predictions of its cross-validation, made
probabilities at the prevalence of the student's training patients. The student takes MRI alone.

With a partner at random the target says nothing of the MRI at hand, so a gain over supervision is no proof of transfer.
`pairing` and the settings below make every control: supervision alone is `alpha: 0, epoch_offset: 1`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from xmkd import runs
from xmkd.config import Experiment, OptimConfig
from xmkd.data.partners import FEATURES, OWN, FeaturePool, Pairing, Targets
from xmkd.data.streams import Stream as Table
from xmkd.data.streams import Study
from xmkd.errors import ConfigError, EvaluationError, LeakageError, RunError
from xmkd.evaluation.teacher_scores import calibrated_by, recalibrated
from xmkd.losses.classification import balanced_weights, classification_loss
from xmkd.losses.distillation import (
    Norm,
    Space,
    auto_alpha,
    distillation_loss,
    distillation_weight,
    feature_loss,
    mixed_loss,
)
from xmkd.methods.base import Batch, Method, StepResult, Stream, Task
from xmkd.nets.vit3d import PRESETS, Architecture, Pool, Size, VolumeClassifier, layer_rates

NONE = "none"
_FEATURES = "features_test.npy"


@dataclass(frozen=True)
class DistillSettings:
    """Settings of the student and its distillation.

    Attributes:
        student: Sizes of the network; its volumes are those of the stream.
        patch: Another patch (D, H, W) than the preset's.
        mae: Run folder of the masked auto-encoder that the encoder starts from; "none" starts at random.
        teacher: Folder of the teacher's cross-validation; "none" where no arm of the loss needs one.
        pairing: Where the target of an MRI comes from; see `xmkd.data.partners`.
        own_scores: For the pairings `self` and `oracle_pair`, a predictions CSV with a score for each training patient.
        kd_norm: Distance of student and teacher.
        kd_space: Whether it is one of probabilities or of logits.
        alpha: Base of the weight's decay, 0 to 1; "auto" gives both terms the same weight in the middle of training.
        epoch_offset: 0: the first epoch is pure distillation; 1 with alpha 0: none ever is.
        feature_weight: Weight of feature distillation within L_KD, with the pairing `same-class` alone: beside the
            partner's score the pooled features of another examination of the class.
        loss: Supervised cross-entropy as it is, or weighted by inverse class frequency.
        label_smoothing: Of the supervised loss.
        pool: Features are the mean of the tokens, or the class token.
        drop_path: Probability of skipping a branch in the last block.
        drop_rate: Dropout before the last layer.
        layer_decay: Factor of the learning rate from each layer to the one below.
        select: The checkpoint to test: the last, or the best on validation.
    """

    student: Literal["tiny", "small", "large"] = "small"
    patch: Size | None = None
    mae: str = NONE
    teacher: str = NONE
    pairing: Pairing = "same-class"
    own_scores: str = NONE
    kd_norm: Norm = "l1"
    kd_space: Space = "prob"
    alpha: str | float = "auto"
    epoch_offset: int = 0
    feature_weight: float = 0.0
    loss: Literal["plain", "weighted"] = "weighted"
    label_smoothing: float = 0.0
    pool: Pool = "mean"
    drop_path: float = 0.1
    drop_rate: float = 0.0
    layer_decay: float = 0.75
    select: Literal["last", "inner_val"] = "last"

    @property
    def supervised_alone(self) -> bool:
        """Whether the distillation term never has any weight."""
        return self.alpha == 0 and self.epoch_offset > 0

    @property
    def needs_teacher(self) -> bool:
        """Whether some target or its calibration comes from the teacher."""
        return not self.supervised_alone and self.pairing not in ("hard", "self")


class Distill(Method):
    """Student of one labelled MRI stream, named `mri`."""

    streams = ("mri",)
    evaluates = "mri"
    Settings = DistillSettings

    def __init__(self, settings: DistillSettings, task: Task, optim_config: OptimConfig) -> None:
        super().__init__(task, optim_config)
        self.settings = settings
        channels, *size = task.shape
        preset = PRESETS[settings.student]
        patch = settings.patch or preset.patch
        sizes = replace(preset, size=cast(Size, tuple(size)), patch=patch, channels=channels)
        self.student = VolumeClassifier(
            sizes, 1, pool=settings.pool, drop_path=settings.drop_path, drop_rate=settings.drop_rate
        )
        if settings.mae != NONE:
            self.student.encoder.load_state_dict(encoder_weights(Path(settings.mae), sizes))
        weight = balanced_weights(task.counts) if settings.loss == "weighted" else torch.ones(2)
        self.register_buffer("class_weight", weight, persistent=False)
        self.class_weight: Tensor
        self.targets: Targets | None = None
        self.partners: FeaturePool | None = None
        self.to_teacher: nn.Linear | None = None
        if settings.feature_weight:
            self.to_teacher = nn.Linear(sizes.width, FEATURES)

    @staticmethod
    def contradictions(experiment: Experiment) -> list[str]:
        settings, stream = experiment.method, experiment.data.streams["mri"]
        problems = [] if stream.view == "volume" else [f"data.streams.mri.view: {stream.view!r} is no volume"]
        if stream.label is None:
            problems.append(
                "data.streams.mri.label: the student needs a label column; unlabelled MRI are for method mae"
            )
        if stream.sampler == "balanced" and settings.loss != "plain":
            problems.append("method.loss: imbalance is met twice, by the balanced sampler and by weights; choose one")
        return problems + _option_problems(settings) + _size_problems(settings, stream.mri.size)

    def before_fit(self, study: Study) -> None:
        mri = study.streams["mri"]
        if len(self.task.classes) != 2:
            raise ConfigError(
                f"the student tells two classes; the label {mri.config.label} has {', '.join(self.task.classes)}",
                where="data.streams.mri.label",
                fixes=("choose a label of two classes", "make one of two classes in the manifest and its card"),
            )
        if self.settings.mae != NONE:
            _warn_of_other_volumes(Path(self.settings.mae), mri)
        if not self.settings.supervised_alone:
            self.targets, self.partners = read_targets(self.settings, mri)

    def forward(self, volume: Tensor) -> Tensor:
        """Logits `(B,)` of z-scored volumes `(B, C, D, H, W)`."""
        logits: Tensor = self.student(volume)[:, 0]
        return logits

    def rated_parameters(self) -> list[tuple[float, list[Parameter]]]:
        groups = layer_rates(self.student, self.settings.layer_decay)
        return groups if self.to_teacher is None else [*groups, (1.0, list(self.to_teacher.parameters()))]

    def step(self, batch: Batch) -> StepResult:
        mri = batch["mri"]
        label = mri["label"]  # (B,)
        features = self.student.features(mri["image"])  # (B, C, D, H, W) -> (B, width)
        logits = self.student.head(features)[:, 0]  # (B,)
        smoothing = self.settings.label_smoothing
        supervised = classification_loss(logits, label, weight=self.class_weight, label_smoothing=smoothing)
        weight = self.weight
        if self.targets is None or weight == 0:
            return StepResult(supervised, {"l_ptm": supervised})
        target = self.targets.draw(mri["key"], label, mri["index"])  # (B,), redrawn in every epoch
        distilled = distillation_loss(logits, target, norm=self.settings.kd_norm, space=self.settings.kd_space)
        if self.partners is not None and self.to_teacher is not None:
            partner = self.partners.draw(mri["key"], label)  # (B, FEATURES)
            distilled = distilled + self.settings.feature_weight * feature_loss(self.to_teacher(features), partner)
        return StepResult(mixed_loss(distilled, supervised, weight), {"l_kd": distilled, "l_ptm": supervised})

    @property
    def weight(self) -> float:
        """Weight of the distillation term in this epoch; it goes on where a resumed training does."""
        alpha = self.settings.alpha
        base = auto_alpha(self.trainer.max_epochs or 1) if isinstance(alpha, str) else alpha
        return distillation_weight(base, self.current_epoch, self.settings.epoch_offset)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._write({"train/w": self.weight})

    def scores(self, stream: Stream) -> Tensor:
        return self.forward(stream["image"]).float().sigmoid()  # (B,)


def encoder_weights(path: Path, sizes: Architecture) -> dict[str, Tensor]:
    """The encoder of a masked auto-encoder's run.

    Raises:
        RunError: It is no such run, or is not finished.
        ConfigError: Its patches or widths are other ones.
    """
    run = runs.find(path)
    experiment = run.experiment()
    if experiment.method_name != "mae" or not run.finished:
        what = "is not finished" if experiment.method_name == "mae" else f"is one of method {experiment.method_name}"
        fixes = ("name a finished run of method mae", "train without one: method.mae=none")
        raise RunError(f"the student starts from a masked auto-encoder, but this run {what}", where=path, fixes=fixes)
    if not run.last.is_file():
        fixes = ("name one of its folds, if it is a cross-validation", "train it: xmkd fit")
        raise RunError("the auto-encoder's run has no checkpoint", where=run.last, fixes=fixes)
    state = runs.checkpoint(run.last)["state_dict"]
    name = "net.encoder."
    weights = {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
    found, wanted = tuple(weights["embed.weight"].shape), (sizes.width, sizes.voxels)
    blocks = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    patch = tuple(experiment.method.patch or PRESETS[experiment.method.student].patch)
    if found != wanted or blocks != sizes.depth or patch != tuple(sizes.patch):
        own = f"{experiment.method.student}, patch {patch}"
        raise ConfigError(
            f"the masked auto-encoder is another network ({own}: {found[0]} channels of {found[1]} voxels, {blocks} "
            f"blocks) than this student (patch {tuple(sizes.patch)}: {wanted[0]} channels of {wanted[1]} voxels, "
            f"{sizes.depth} blocks)",
            where=path,
            fixes=("use its method.student and method.patch here", "pre-train with these: xmkd fit of method mae"),
        )
    return weights


def _warn_of_other_volumes(path: Path, table: Table) -> None:
    """A patch of another orientation or voxel size is another thing to an encoder, though all numbers fit."""
    there, here = runs.find(path).experiment().data.streams["mri"].mri, table.config.mri
    other = [
        f"{name} {getattr(there, name)} there and {getattr(here, name)} here"
        for name in ("orientation", "spacing_mm")
        if getattr(there, name) != getattr(here, name)
    ]
    if other:
        warnings.warn(f"the masked auto-encoder {path} saw other volumes: {', '.join(other)}", stacklevel=2)


def read_targets(settings: DistillSettings, table: Table) -> tuple[Targets, FeaturePool | None]:
    """The targets of a pairing for the rows of a stream, and the teacher's features where they are distilled too.

    Raises:
        RunError: The teacher is no finished cross-validation of the same label.
        ConfigError: A training sample has no score of its own.
    """
    label = table.label_index()
    train = table.table["side"].to_numpy() == "train"
    patients = table.table["patient_id"][train]
    prevalence = float(np.average(label[train] == 1, weights=1 / patients.groupby(patients).transform("size")))
    own, scores, labels = None, torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    partners, oof = None, None
    if settings.needs_teacher:
        teacher = _teacher(Path(settings.teacher), table)
        oof = teacher.predictions("oof")
        with _naming(teacher.folder / "predictions_oof.csv"):
            found = recalibrated(oof, prevalence)
        scores, labels = torch.tensor(found["score"].to_numpy()), torch.tensor(found["label"].to_numpy())
        if settings.feature_weight:
            partners = _feature_pool(teacher)
    if settings.pairing in OWN:
        own = _own_scores(Path(settings.own_scores), table, oof, prevalence)  # `self` looks at no teacher
    if settings.pairing == "hard":
        scores, labels = torch.tensor([0.0, 1.0]), torch.tensor([0, 1])
    built = Targets.build(settings.pairing, scores, labels, own=own, norm=settings.kd_norm, space=settings.kd_space)
    return built, partners


def _teacher(path: Path, table: Table) -> runs.Run:
    run = runs.find(path)
    fixes = ("cross-validate it on this label: xmkd crossval", "name another folder: method.teacher=RUN")
    if not run.finished or not (run.folder / "predictions_oof.csv").is_file():
        what = "the teacher has no out-of-fold scores: it is no finished cross-validation"
        raise RunError(what, where=path, fixes=fixes)
    experiment, classes = run.experiment(), tuple(table.label.classes) if table.label else ()
    if experiment.method_name != "teacher":
        raise RunError(f"the teacher is a run of method {experiment.method_name}", where=path, fixes=fixes)
    told = {name: stream.label for name, stream in experiment.data.streams.items()}
    if table.config.label not in told.values() or tuple(run.summary()["classes"]) != classes:
        what = (
            f"the teacher tells {', '.join(map(str, told.values()))} ({', '.join(run.summary()['classes'])}), "
            f"the student is to tell {table.config.label} ({', '.join(classes)})"
        )
        raise RunError(what, where=path, fixes=fixes)
    return run


def _feature_pool(teacher: runs.Run) -> FeaturePool:
    """Features of the patients that the first fold's model was not fitted on: of one network, hence in one space."""
    fold = runs.Run(teacher.folder / "fold_0")
    path = fold.folder / _FEATURES
    fixes = ("cross-validate the teacher anew: resume=never", "distil scores alone: method.feature_weight=0")
    if not path.is_file():
        raise RunError("the teacher's run keeps no features", where=path, fixes=fixes)
    label = fold.predictions("test")["label"].to_numpy()
    try:
        features = torch.from_numpy(np.load(path).astype(np.float32))
    except (OSError, ValueError) as error:
        raise RunError("the teacher's features can't be read", where=path, fixes=fixes) from error
    return FeaturePool.build(features, torch.tensor(label))


def _own_scores(path: Path, table: Table, oof: pd.DataFrame | None, prevalence: float) -> Tensor:
    """A probability for each row of the stream, by sample or else by patient; 0.5 for those that don't train.

    Out-of-fold scores of a model of MRI are recalibrated as the teacher's are. Those of the teacher itself (`oof` is
    given) are of other examinations: they are recalibrated by its out-of-fold map, and matched by patient alone.
    """
    if not path.is_file():
        fixes = ("name a predictions CSV: method.own_scores=FILE", "choose another method.pairing")
        raise ConfigError("there is no file of the samples' own scores", where=path, fixes=fixes)
    given = runs.read_predictions(path)
    with _naming(path):
        given = recalibrated(given, prevalence) if oof is None else calibrated_by(oof, given, prevalence)
    rows = table.table
    found = rows["patient_id"].map(given.groupby("patient_id")["score"].mean())
    if oof is None:
        by_sample = given.set_index("sample_id")["score"]
        found = rows["sample_id"].map(by_sample[~by_sample.index.duplicated()]).fillna(found)
    missing = rows.loc[(rows["side"] == "train") & found.isna(), "sample_id"]
    if len(missing):
        raise ConfigError(
            f"{len(missing)} training samples have no score of their own, such as {', '.join(missing[:3])}",
            where=path,
            fixes=("predict them out of fold and name that file", "choose another method.pairing"),
        )
    return torch.from_numpy(found.fillna(0.5).to_numpy(dtype=np.float32))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says which file it was whose scores were refused."""
    try:
        yield
    except (EvaluationError, LeakageError) as error:
        where = f"{path}: {error.where}" if error.where else path
        raise type(error)(error.what, where=where, fixes=error.fixes) from error


def _option_problems(settings: DistillSettings) -> list[str]:
    alpha, problems = settings.alpha, []
    if alpha != "auto" and (isinstance(alpha, str) or not 0 <= alpha <= 1):
        problems.append(f"method.alpha: {alpha!r} is neither in [0, 1] nor 'auto'")
    if settings.epoch_offset not in (0, 1):
        problems.append(f"method.epoch_offset: {settings.epoch_offset} is neither 0 nor 1")
    if settings.kd_norm == "kl" and settings.kd_space == "logit":
        problems.append("method.kd_space: kl compares probabilities")
    if settings.needs_teacher and settings.teacher == NONE:
        problems.append(
            "method.teacher: distillation needs the folder of the teacher's cross-validation (for supervision alone "
            "set method.alpha=0 method.epoch_offset=1)"
        )
    if (settings.own_scores != NONE) != (settings.pairing in OWN):
        problems.append(
            f"method.own_scores: a predictions CSV, which {' and '.join(OWN)} need and no other pairing uses"
        )
    for name, top in (("drop_path", 1.0), ("drop_rate", 1.0), ("label_smoothing", 1.0)):
        if not 0 <= getattr(settings, name) < top:
            problems.append(f"method.{name}: {getattr(settings, name)} is not in [0, 1)")
    if not 0 < settings.layer_decay <= 1:
        problems.append(f"method.layer_decay: {settings.layer_decay} is not in (0, 1]")
    if settings.feature_weight < 0:
        problems.append(f"method.feature_weight: {settings.feature_weight} is less than 0")
    if settings.feature_weight > 0 and settings.pairing != "same-class":
        problems.append(
            f"method.feature_weight: features are real examinations', which pairing {settings.pairing} rules out"
        )
    return problems


def _size_problems(settings: DistillSettings, size: Size | None) -> list[str]:
    preset = PRESETS[settings.student]
    try:
        replace(preset, size=size or preset.size, patch=settings.patch or preset.patch)
    except ValueError as error:
        return [f"method.student {settings.student}: {error}"]
    return []

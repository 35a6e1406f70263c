"""Ultrasound teacher: a classifier of stills or clips, trained with class weights and tested over several views.

The teacher f_T minimises cross-entropy on labelled ultrasound u,
    l_T = sum_i w(y_i) BCE(f_T(u_i), y_i) / sum_i w(y_i),    w(c) = N / (K N_c),
and its probability is the mean over views (mirrored; for clips also shifted in time). It is the first stage of
Zhang et al., "Distilling Missing Modality Knowledge from Ultrasound for Endometriosis Diagnosis with Magnetic
Resonance Images", ISBI 2023, arXiv 2307.02000, which leaves the network and its settings open: they are ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from xmkd.binding import nearest
from xmkd.config import Experiment, OptimConfig
from xmkd.data.rng import id_hash, uniform
from xmkd.errors import ConfigError
from xmkd.losses.classification import balanced_weights, classification_loss
from xmkd.methods.base import Batch, Method, StepResult, Stream, Task
from xmkd.nets.classifiers import CLIP_BACKBONES, ClipClassifier, ImageClassifier, take_frames

_START = id_hash("start of a clip")  # a sample's key also augments it: where it starts is drawn from other numbers


@dataclass(frozen=True)
class TeacherSettings:
    """Settings of the teacher.

    Attributes:
        backbone: For stills any timm model; for clips "r2plus1d_18", "small" or "motion".
        weights: "none", "imagenet" (stills), "kinetics" (r2plus1d_18), or the path of a checkpoint.
        loss: Cross-entropy as it is, weighted by inverse class frequency, or weighted and focal.
        focal_gamma: Exponent of the focal loss.
        drop_rate: Dropout before the last layer.
        clip_frames: Frames that the network sees of a clip.
        test_views: Views averaged at test: 1, or an even number, half of it mirrored.
        select: The checkpoint to test: the last, or the best on validation.
    """

    backbone: str = "resnet18"
    weights: str = "none"
    loss: Literal["plain", "weighted", "focal"] = "weighted"
    focal_gamma: float = 2.0
    drop_rate: float = 0.0
    clip_frames: int = 16
    test_views: int = 2
    select: Literal["last", "inner_val"] = "last"


class Teacher(Method):
    """Classifier of one labelled ultrasound stream, named `tvus`."""

    streams = ("tvus",)
    evaluates = "tvus"
    Settings = TeacherSettings

    def __init__(self, settings: TeacherSettings, task: Task, optim_config: OptimConfig) -> None:
        super().__init__(task, optim_config)
        self.settings = settings
        self.binary = len(task.classes) == 2
        self.is_clip = len(task.shape) == 4
        kind = ClipClassifier if self.is_clip else ImageClassifier
        outputs = 1 if self.binary else len(task.classes)
        self.net: ClipClassifier | ImageClassifier
        with _downloading(settings.weights):
            pretrained = settings.weights in {"imagenet", "kinetics"}
            self.net = kind(settings.backbone, outputs, pretrained=pretrained, drop_rate=settings.drop_rate)
        if settings.weights not in {"none", "imagenet", "kinetics"}:
            load_weights(self.net, Path(settings.weights))
        weight = balanced_weights(task.counts) if settings.loss != "plain" else torch.ones(len(task.classes))
        self.register_buffer("class_weight", weight, persistent=False)
        self.class_weight: Tensor

    @staticmethod
    def contradictions(experiment: Experiment) -> list[str]:
        settings, stream = experiment.method, experiment.data.streams["tvus"]
        if stream.is_volumetric:
            return [f"data.streams.tvus.view: the teacher sees images or clips of ultrasound, no {stream.view}s"]
        problems = _backbone_problems(settings, stream.view)
        if stream.label is None:
            problems.append("data.streams.tvus.label: the teacher needs a label column")
        if stream.sampler == "balanced" and settings.loss != "plain":
            problems.append("method.loss: imbalance is met twice, by the balanced sampler and by weights; choose one")
        views = settings.test_views
        if views != 1 and (views < 1 or views % 2 or (stream.view == "image" and views > 2)):
            allowed = "1 nor 2, all that a still has" if stream.view == "image" else "1 nor an even number"
            problems.append(f"method.test_views: {views} is neither {allowed}")
        if not 0 <= settings.drop_rate < 1:
            problems.append(f"method.drop_rate: {settings.drop_rate} is not in [0, 1)")
        if settings.focal_gamma < 0:
            problems.append(f"method.focal_gamma: {settings.focal_gamma} is less than 0")
        frames = stream.ultrasound.frames
        if stream.view == "clip" and frames is not None and not 1 <= settings.clip_frames <= frames:
            problems.append(f"method.clip_frames: {settings.clip_frames} is not in 1..{frames} (ultrasound.frames)")
        return problems

    def forward(self, image: Tensor) -> Tensor:
        """Logits of `(B, 1, H, W)` or `(B, 1, T, H, W)` in [0, 1]: `(B,)` for two classes, else `(B, K)`."""
        logits: Tensor = self.net(image)
        return logits[:, 0] if self.binary else logits

    def step(self, batch: Batch) -> StepResult:
        stream = batch["tvus"]
        image = stream["image"]  # (B, 1, H, W) or (B, 1, T, H, W)
        if self.is_clip:
            start = uniform(stream["key"] ^ _START, 1)[:, 0]  # (B,), of (seed, epoch, sample) alone
            image = take_frames(image, self.settings.clip_frames, start)
        logits = self(image)  # (B,) or (B, K)
        gamma = self.settings.focal_gamma if self.settings.loss == "focal" else 0.0
        loss = classification_loss(logits, stream["label"], weight=self.class_weight, focal_gamma=gamma)
        return StepResult(loss, {})

    def scores(self, stream: Stream) -> Tensor:
        probabilities = [self._probability(view) for view in self._views(stream["image"])]
        return torch.stack(probabilities).mean(dim=0)  # (B,) or (B, K)

    def features(self, stream: Stream) -> Tensor:
        views = [self.net.features(view).flatten(2).mean(dim=2) for view in self._views(stream["image"])]
        return torch.stack(views).mean(dim=0)  # (B, C)

    def _probability(self, image: Tensor) -> Tensor:
        logits = self.forward(image).float()
        return logits.sigmoid() if self.binary else logits.softmax(dim=1)

    def _views(self, image: Tensor) -> list[Tensor]:
        views = self.settings.test_views
        shifts = max(1, views // 2)
        clips = [image]
        if self.is_clip:
            starts = [(i + 0.5) / shifts for i in range(shifts)]
            clips = [take_frames(image, self.settings.clip_frames, image.new_full((len(image),), s)) for s in starts]
        return clips if views == 1 else [v for clip in clips for v in (clip, clip.flip(-1))]


def _backbone_problems(settings: TeacherSettings, view: str) -> list[str]:
    """A backbone that does not exist or does not take the view, and weights that are not made for it."""
    import timm

    name, clip = settings.backbone, settings.backbone in CLIP_BACKBONES
    problems = []
    if view == "clip" and not clip:
        problems.append(f"method.backbone: {name!r} takes no clips; known: {', '.join(CLIP_BACKBONES)}")
    elif view == "image" and clip:
        problems.append(f"method.backbone: {name!r} takes clips; for stills name a timm model such as 'resnet18'")
    elif view == "image" and not (timm.is_model(name) or ":" in name):  # "hf-hub:..." is for timm to find
        problems.append(f"method.backbone: timm has no model {name!r}" + nearest(name, timm.list_models()))
    if (settings.weights == "imagenet" and clip) or (settings.weights == "kinetics" and name != "r2plus1d_18"):
        problems.append(f"method.weights: there are no {settings.weights!r} weights of {name!r}")
    return problems


@contextmanager
def _downloading(weights: str) -> Iterator[None]:
    """Turn whatever a download dies of into one message."""
    try:
        yield
    except Exception as error:
        if weights not in {"imagenet", "kinetics"}:
            raise
        raise ConfigError(
            f"the {weights} weights can't be had: {str(error).splitlines()[0]}",
            where="method.weights",
            fixes=("load them on a machine with internet and name the file: method.weights=PATH", "use none"),
        ) from error


def load_weights(net: torch.nn.Module, path: Path) -> None:
    """Load the network's weights from a run's checkpoint, or from a state dict of the network or its backbone.

    A first convolution of colour pictures is summed over their channels, which is what it makes of grey ones. Tensors
    of another shape, such as a head of another size, are left out with a warning.

    Raises:
        ConfigError: The file is missing, no checkpoint, or of another network.
    """
    if not path.is_file():
        raise ConfigError("there is no such weights file", where=path, fixes=("correct method.weights", "use none"))
    own = net.state_dict()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content.get("state_dict", content)
        # A method holds the network as `net`, and a network for stills its backbone again as `net`.
        named = [
            state,
            {k.removeprefix("net."): v for k, v in state.items()},
            {f"net.{k}": v for k, v in state.items()},
        ]
        of_grey = ({k: _for_grey(v, own[k]) for k, v in n.items() if k in own} for n in named)
        fitting = max(({k: v for k, v in n.items() if own[k].shape == v.shape} for n in of_grey), key=len)
    except Exception as error:  # torch raises several kinds for files that are no checkpoint
        raise ConfigError(
            f"can't read the weights: {error}", where=path, fixes=("name a checkpoint of xmkd or a state dict",)
        ) from error
    if len(fitting) < 0.5 * len(own):
        raise ConfigError(
            f"only {len(fitting)} of {len(own)} tensors fit this backbone",
            where=path,
            fixes=("name the backbone that the weights belong to", "use other weights"),
        )
    if left := [k for k in own if k not in fitting]:
        warnings.warn(f"{path} has no fitting values for {', '.join(left)}: these start at random", stacklevel=2)
    net.load_state_dict(fitting, strict=False)


def _for_grey(weight: Tensor, own: Tensor) -> Tensor:
    """A convolution of colour pictures for grey ones; any other tensor as it is."""
    if weight.ndim == own.ndim >= 4 and weight.shape[1] == 3 and own.shape[1] == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight

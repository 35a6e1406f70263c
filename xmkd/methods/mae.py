"""Pre-training of the MRI student: a masked auto-encoder of unlabelled volumes.

Of the patches of a volume a random quarter is kept, and the masked ones M are predicted from it:
    l_MAE = 1/|M| sum_{p in M} || x_p - xhat_p ||^2,    each patch normalised.
He et al., CVPR 2022, arXiv 2111.06377, in three dimensions; the second stage of Zhang et al., "Distilling Missing
Modality Knowledge from Ultrasound for Endometriosis Diagnosis with Magnetic Resonance Images", ISBI 2023,
arXiv 2307.02000, which leaves sizes and settings open: they are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from xmkd.config import Experiment, OptimConfig
from xmkd.data.datamodule import UnpairedDataModule
from xmkd.data.rng import id_hash, uniform
from xmkd.data.streams import Study
from xmkd.errors import ConfigError
from xmkd.evaluation.quick import Predictions
from xmkd.evaluation.reconstruction import fill_linearly, psnr, ssim
from xmkd.methods.base import Batch, Method, StepResult, Stream, Task
from xmkd.nets.mae3d import PRESETS, Architecture, MaskedAutoencoder3d
from xmkd.nets.vit3d import Size, patchify, unpatchify

BASELINES = ("model", "mean_patch", "linear")
_MASK = id_hash("mask")  # a sample's key also augments it: its mask is drawn from other numbers
PROBE_EVERY = 10  # parts of the training after which features are probed and pictures drawn


@dataclass(frozen=True)
class MaeSettings:
    """Settings of the masked auto-encoder.

    Attributes:
        student: Sizes of the network; its volumes are those of the stream, whatever size the preset is drawn for.
        patch: Another patch (D, H, W) than the preset's.
        mask_ratio: Share of the patches that are masked.
        decode_ratio: Share of the masked patches that are decoded: below 1 a cheaper step on a random subset.
        normalise: Predict each patch with mean 0 and variance 1. Without, reconstructions have a brightness of their
            own, and PSNR and SSIM are told.
        pictures: Volumes whose reconstructions are drawn into the run folder, ten times in a training.
    """

    student: Literal["tiny", "small", "large"] = "small"
    patch: Size | None = None
    mask_ratio: float = 0.75
    decode_ratio: float = 1.0
    normalise: bool = True
    pictures: int = 4


class Mae(Method):
    """Masked auto-encoder of one stream named `mri`, whose labels are not looked at.

    A stream `probe` may name labelled volumes: as the training goes on, frozen features of its training patients are
    fitted to their labels and scored on its validation patients. Nothing of that reaches the weights. Patients of both
    streams are divided as the labelled one is, which is how a student of these labels will divide them too.
    """

    streams = ("mri",)
    optional = ("probe",)
    evaluates = "mri"
    Settings = MaeSettings

    def __init__(self, settings: MaeSettings, task: Task, optim_config: OptimConfig) -> None:
        super().__init__(task, optim_config)
        self.settings = settings
        self.figures = tuple(f"loss_{name}" for name in BASELINES)
        if not settings.normalise:
            self.figures += tuple(f"{figure}_{name}" for figure in ("psnr", "ssim") for name in BASELINES)
        self.net = MaskedAutoencoder3d(
            architecture(settings, task.shape),
            mask_ratio=settings.mask_ratio,
            decode_ratio=settings.decode_ratio,
            normalise=settings.normalise,
        )
        self._shown: list[Tensor] = []

    @staticmethod
    def contradictions(experiment: Experiment) -> list[str]:
        settings, stream = experiment.method, experiment.data.streams["mri"]
        problems = [] if stream.is_volumetric else [f"data.streams.mri.view: {stream.view!r} is no volume or patch"]
        for name in ("mask_ratio", "decode_ratio"):
            value, top = getattr(settings, name), 1 if name == "mask_ratio" else np.nextafter(1, 2)
            if not 0 < value < top:
                problems.append(f"method.{name}: {value} is not in (0, 1{')' if name == 'mask_ratio' else ']'}")
        size = stream.mri.size if stream.view == "volume" else stream.patch
        if size is not None and not problems:
            problems += _size_problems(settings, size)
        if stream.label is not None:
            problems.append("data.streams.mri.label: no label is looked at; name labelled volumes as the stream probe")
        if settings.pictures < 0:
            problems.append(f"method.pictures: {settings.pictures} is less than 0")
        probe = experiment.data.streams.get("probe")
        if probe is not None and (probe.label is None or probe.view != stream.view):
            problems.append(f"data.streams.probe: it needs a label, and the view {stream.view!r} of the stream mri")
        elif probe is not None and (probe.mri.size, probe.patch) != (stream.mri.size, stream.patch):
            problems.append("data.streams.probe: its mri.size and patch are not those of the stream mri")
        return problems

    def before_fit(self, study: Study) -> None:
        probe = study.streams.get("probe")
        if probe is None or probe.label is None or not study.streams["mri"].patients("val"):
            return  # without validation patients nothing is probed
        counts = [probe.class_counts(side) for side in ("train", "val")]
        if len(probe.label.classes) != 2 or not all(sum(count.values()) for count in counts):
            told = "; ".join(", ".join(f"{n} {name}" for name, n in count.items()) for count in counts)
            raise ConfigError(
                f"a probe needs a label of two classes and patients to train and to validate on; there are {told}",
                where="data.streams.probe",
                fixes=("choose another label, or raise data.split.val", "leave the stream probe out"),
            )

    def forward(self, volume: Tensor) -> Tensor:
        """Mean of the encoder's tokens of whole volumes `(B, C, D, H, W)`: `(B, width)`."""
        return cast(Tensor, self.net.encoder(volume)[:, 1:].mean(dim=1))

    def step(self, batch: Batch) -> StepResult:
        volume = batch["mri"]["image"]  # (B, C, D, H, W)
        noise = uniform(batch["mri"]["key"] ^ _MASK, self.net.architecture.tokens)  # (B, N), of (seed, epoch, sample)
        return StepResult(self.net(volume, noise).loss, {})

    def scores(self, stream: Stream) -> Tensor:
        """The figures of each volume, `(B, figures)`: of the model, then of two baselines that learn nothing."""
        volume, net = stream["image"], self.net
        noise = uniform(stream["hash"], net.architecture.tokens)  # the same patches of a volume, whatever the epoch
        found = net(volume, noise, whole=True)
        hidden = _voxels(found.decoded, net.architecture)  # (B, 1, D, H, W)
        visible = torch.where(hidden, 0.0, volume)
        painted = net.paint(volume, found)
        self._show(volume, hidden, painted)
        filled = [mean_patch(volume, found.kept, net.architecture), fill_linearly(visible, ~hidden)]
        true = self._targets(volume, found.decoded)  # (B, M, voxels)
        losses = [found.prediction.float(), *(self._targets(other, found.decoded) for other in filled)]
        columns = [(prediction - true).square().mean(dim=(1, 2)) for prediction in losses]
        if not self.settings.normalise:
            whole = [painted, *(torch.where(hidden, other, volume) for other in filled)]
            columns += [psnr(other, volume, hidden) for other in whole] + [ssim(other, volume) for other in whole]
        return torch.stack(columns, dim=1)

    def watched(self, predictions: Predictions) -> dict[str, float]:
        values = dict(zip(self.figures, predictions.score.mean(axis=0).tolist(), strict=True))
        told = {"loss": values["loss_model"], "loss_over_linear": values["loss_model"] / values["loss_linear"]}
        if not self.settings.normalise:
            told |= {"psnr": values["psnr_model"], "ssim": values["ssim_model"]}
        if self._is_milestone():
            told |= self._probed()
            self._draw()
        self._shown = []
        return told

    def _targets(self, volume: Tensor, patches: Tensor) -> Tensor:
        """What is to be predicted of these patches `(B, M)`, `(B, M, voxels)`."""
        parts = patchify(volume, self.net.architecture)
        return self.net.target(parts[torch.arange(len(parts), device=parts.device)[:, None], patches])

    def _is_milestone(self) -> bool:
        """Whether a tenth of the training was completed since the validation before this one, or all of it."""
        epochs, every = self.trainer.max_epochs or 1, self.trainer.check_val_every_n_epoch or 1
        done, part = self.current_epoch + 1, max(1, epochs // PROBE_EVERY)
        return done == epochs or done // part > (done - every) // part

    def _probed(self) -> dict[str, float]:
        """AUROC of probes of the features, by name; nothing without a stream for it."""
        from xmkd.evaluation.probe import probe

        data = cast(UnpairedDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        if "probe" not in data.datasets:
            return {}
        sides = []
        for side in ("train", "val"):
            batches = list(data.batches("probe", side))
            features = [self(batch["image"].to(self.device)).float().cpu() for batch in batches]
            sides += [torch.cat(features).numpy(), torch.cat([batch["label"] for batch in batches]).numpy()]
        return probe(*sides)

    def _show(self, volume: Tensor, hidden: Tensor, painted: Tensor) -> None:
        """Keep the first volumes of a pass for a picture."""
        missing = self.settings.pictures - (len(self._shown[0]) if self._shown else 0)
        if missing > 0:
            least = volume.amin(dim=(1, 2, 3, 4), keepdim=True)
            parts = [x[:missing].cpu() for x in (volume, volume.where(~hidden, least), painted)]
            self._shown = [torch.cat(pair) for pair in zip(self._shown, parts, strict=True)] if self._shown else parts

    def _draw(self) -> None:
        from xmkd.reporting.reconstructions import write_sheet

        if self.trainer.is_global_zero and self.settings.pictures:
            folder = Path(self.trainer.default_root_dir) / "pictures"
            write_sheet(folder / f"epoch_{self.current_epoch:04d}.png", *self._shown)


def architecture(settings: MaeSettings, shape: tuple[int, ...]) -> Architecture:
    """The network's sizes for volumes of a shape (C, D, H, W).

    Raises:
        ValueError: They are no whole number of patches.
    """
    channels, *size = shape
    preset = PRESETS[settings.student]
    patch = settings.patch or preset.patch
    return replace(preset, size=cast(Size, tuple(size)), patch=patch, channels=channels)


def mean_patch(volume: Tensor, kept: Tensor, sizes: Architecture) -> Tensor:
    """Volumes `(B, C, D, H, W)` of nothing but the mean of each one's kept patches."""
    patches = patchify(volume, sizes)
    mean = patches[torch.arange(len(patches), device=patches.device)[:, None], kept].mean(dim=1, keepdim=True)
    return unpatchify(mean.expand_as(patches), sizes)


def _voxels(patches: Tensor, sizes: Architecture) -> Tensor:
    """Which voxels belong to these patches `(B, M)`: bool `(B, 1, D, H, W)`."""
    chosen = torch.zeros(len(patches), sizes.tokens, dtype=torch.bool, device=patches.device).scatter(1, patches, True)
    one = replace(sizes, channels=1)
    return unpatchify(chosen[..., None].expand(-1, -1, one.voxels), one)


def _size_problems(settings: MaeSettings, size: Size) -> list[str]:
    try:
        tokens = architecture(settings, (1, *size)).tokens
    except ValueError as error:
        return [f"method.student {settings.student}: {error}"]
    return [] if tokens > 1 else ["method.patch: a volume of a single patch leaves nothing to mask"]

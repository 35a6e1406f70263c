"""What every method shares: a step that returns its loss, sparse logging, gathered predictions, the optimiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import Parameter

from xmkd.config import Experiment, OptimConfig
from xmkd.data.streams import Study
from xmkd.evaluation.quick import Predictions, check_finite, quick_metrics
from xmkd.methods import optim

Stream = dict[str, Any]
"""One stream's part of a batch: "image", "label", "index", "valid", "key", "sample_id" and "patient_id"."""
Batch = dict[str, Stream]


class StepResult(NamedTuple):
    """The loss to minimise, and further scalars to log; all still on the device."""

    loss: Tensor
    logs: dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """What a method must know of the data before it builds its network.

    Attributes:
        classes: Class names in the card's order, the positive one last of two; empty for unlabelled streams.
        counts: Training samples of each class.
        shape: Shape of one sample, `(C, H, W)` or `(C, T or D, H, W)`.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    shape: tuple[int, ...]


class Method(LightningModule, ABC):
    """Base of all methods. A method gives `streams`, `evaluates`, `Settings`, `step` and `scores`.

    Attributes:
        streams: Names of the streams that the method needs.
        optional: Names of streams that it only looks at, where they are given; nothing is fitted to them.
        figures: Names of what `scores` gives, where that is no probability.
        evaluates: The stream whose labels it predicts.
        Settings: Dataclass of the method's section of an experiment.
        log_every: Optimiser steps between two rows of training metrics.
        predictions: Scores of the latest validation or test pass.
    """

    streams: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    figures: tuple[str, ...] = ()
    evaluates: ClassVar[str]
    Settings: ClassVar[type]
    log_every: int = 10

    def __init__(self, task: Task, optim_config: OptimConfig) -> None:
        super().__init__()
        self.task, self.optim_config = task, optim_config
        self.predictions: Predictions | None = None
        self._seen: list[tuple[Tensor, ...]] = []
        self._sums: dict[str, Tensor] = {}
        self._summed, self._logged_at = 0, 0

    @staticmethod
    def contradictions(experiment: Experiment) -> list[str]:
        """Settings of this method that do not fit the rest of the experiment, a line each."""
        return []

    @abstractmethod
    def step(self, batch: Batch) -> StepResult:
        """One training step."""

    @abstractmethod
    def scores(self, stream: Stream) -> Tensor:
        """For a batch of the evaluated stream, probabilities `(B,)` of class 1 of two, or `(B, K)`; or `figures`."""

    def features(self, stream: Stream) -> Tensor | None:
        """What a test pass keeps beside the scores, `(B, F)`: another method may be distilled from it."""
        return None

    def before_fit(self, study: Study) -> None:
        """Read what training needs beside its batches, or refuse; a trained method needs none of it."""

    def watched(self, predictions: Predictions) -> dict[str, float]:
        """What is told of a validation pass."""
        return quick_metrics(predictions)

    def rated_parameters(self) -> list[tuple[float, list[Parameter]]]:
        """All weights, in groups with a factor of the learning rate each."""
        return [(1.0, list(self.parameters()))]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        result = self.step(batch)
        for name, value in {"loss": result.loss, **result.logs}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._summed += 1
        return result.loss

    def on_train_epoch_start(self) -> None:
        self._sums, self._summed, self._logged_at = {}, 0, self.global_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        steps = self.global_step - self._logged_at
        if steps >= self.log_every or (steps and self.trainer.is_last_batch):
            self._write_means()

    def _write_means(self) -> None:
        """The one place where training waits for the device."""
        means = self.trainer.strategy.reduce(torch.stack(list(self._sums.values())) / self._summed, reduce_op="mean")
        values = {f"train/{k}": v for k, v in zip(self._sums, means.tolist(), strict=True)}
        self.log("train/loss", values["train/loss"], prog_bar=True, logger=False)
        self._write(values | {"train/lr": self.trainer.optimizers[0].param_groups[0]["lr"]})
        self._sums, self._summed, self._logged_at = {}, 0, self.global_step

    def _write(self, values: dict[str, float]) -> None:
        # Not through Lightning's log connector: five values a step there cost more than a small model's step.
        for logger in self.loggers:
            logger.log_metrics({**values, "epoch": self.current_epoch}, step=self.global_step)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        stream = batch[self.evaluates]
        kept = self.features(stream) if self.trainer.testing else None
        found = (stream["index"], stream["valid"], stream["label"], self.scores(stream).double())
        self._seen.append(found if kept is None else (*found, kept.float()))

    def on_validation_epoch_end(self) -> None:
        self.predictions = self._gather()
        values = {f"val/{k}": v for k, v in self.watched(self.predictions).items()}
        self._write(values)
        self.log_dict(values, prog_bar=True, logger=False, sync_dist=True)

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.predictions = self._gather()

    def _gather(self) -> Predictions:
        """All processes' samples, once each and in table order."""
        parts = [cast(Tensor, self.all_gather(torch.cat(part))) for part in zip(*self._seen, strict=True)]
        self._seen = []
        if self.trainer.world_size > 1:  # (W, N, ...)
            parts = [part.flatten(0, 1) for part in parts]
        index, valid, label, score, *features = parts
        check_finite(bool(score.isfinite().all()), f"epoch {self.current_epoch}")
        keep = torch.nonzero(valid).flatten()  # the others only filled up the last batches
        keep = keep[torch.argsort(index[keep])]
        return Predictions(*(part[keep].cpu().numpy() for part in (index, label, score, *features)))

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        per_epoch = steps / max(1, self.trainer.max_epochs or 1)
        weights, settings = self.rated_parameters(), self.optim_config
        optimizer, schedule = optim.build(weights, settings, steps=steps, steps_per_epoch=per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

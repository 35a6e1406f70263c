"""Lightning callbacks and plugins that make a run resumable to the last digit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint

from xmkd.files import in_one_step
from xmkd.runs import Run

MONITORED = {"val/auroc": 1.0, "val/macro_f1": 1.0, "val/loss": -1.0}
"""Metric and sign: the first of these that a method reports chooses the best checkpoint."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there: a killed job leaves the old one or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with in_one_step(Path(path)) as unfinished, unfinished.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch hides that the disk is full behind one of its own
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise


class ReseedEachEpoch(Callback):
    """Sets torch's generators from (seed, epoch, rank), so that an epoch's dropout does not depend on a restart."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        key = hash((self.seed, trainer.current_epoch, trainer.global_rank))  # of integers: the same in every process
        seed_everything(key % 2**32, workers=False, verbose=False)


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt` (every epoch) and `best.ckpt` (by the first monitored metric, the earlier epoch on a tie)."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.best: float | None = None
        self.best_epoch = -1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = trainer.callback_metrics
        score = next((sign * found[name].item() for name, sign in MONITORED.items() if name in found), None)
        if score is not None and (self.best is None or score > self.best):
            self.best, self.best_epoch = score, trainer.current_epoch
            trainer.save_checkpoint(self.run.best)
        trainer.save_checkpoint(self.run.last)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

"""Race: a training run through Lightning against a loop written by hand, MobileViT-XXS at 192 x 192 on the CPU.

Ours is what `xmkd fit` trains with: UnpairedDataModule, Teacher, the Trainer with its callbacks, metrics.csv every ten
steps, a checkpoint each epoch. The loop by hand takes the same samples in the same order straight from the same memory
map, changes them by the same function, and writes its mean loss every ten steps and a checkpoint each epoch, too. Both
must end with the same weights. The ratio is our time over the loop's: at most 1.05.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._race import Race, UnequalWorkError, run_all
from xmkd import config, training
from xmkd.config import Experiment
from xmkd.data.augment import augment
from xmkd.data.datamodule import EpochSampler
from xmkd.data.rng import id_hash, mix
from xmkd.data.streams import plan
from xmkd.data.toy import write_study
from xmkd.losses.classification import classification_loss
from xmkd.metrics_log import MetricsCsv
from xmkd.nets.classifiers import ImageClassifier
from xmkd.runs import Run

TARGET = 1.05
TOLERANCE = 1e-5
SIZE, BATCH, LOG_EVERY, SEED = 192, 4, 10, 0

Weights = dict[str, Tensor]


class Contest:
    """A generated study, and two ways to train on it.

    Args:
        folder: Where to write.
        steps: Steps of an epoch.
        epochs: Epochs of a training.
    """

    def __init__(self, folder: Path, steps: int, epochs: int) -> None:
        self.folder, self.steps, self.epochs = folder, steps, epochs
        manifest = write_study(folder, patients=steps * BATCH // 2, each=2, size=SIZE)
        self.experiment = self._experiment(manifest)
        self.study = plan(self.experiment.data)
        data, _ = training._build(self.experiment, self.study, restored=False)  # fills the cache
        self.dataset = data.datasets["tvus"]

    def _experiment(self, manifest: Path) -> Experiment:
        stream = {
            "manifest": str(manifest),
            "label": "filled",
            "batch_size": BATCH,
            "ultrasound": {"size": [SIZE, SIZE], "crop_sector": False, "remove_overlays": False},
        }
        tree = {
            "seed": SEED,
            "data": {
                "streams": {"tvus": stream},
                "split": {"val": 0.0, "test": 0.0},
                "cache": str(self.folder / "cache"),
            },
            "method": {"name": "teacher", "backbone": "mobilevit_xxs", "loss": "plain"},
            "optim": {"lr": 1e-3, "warmup_epochs": 0, "schedule": "constant"},
            "trainer": {
                "max_epochs": self.epochs,
                "log_every_n_steps": LOG_EVERY,
                "enable_progress_bar": False,
                "accelerator": "cpu",
                "devices": 1,
            },
        }
        return config.from_tree(tree, name="loop", where="benchmarks/loop.py")

    def ours(self) -> Weights:
        """A training as `xmkd fit` does it; returns the network's weights."""
        run = Run(self.folder / "ours")
        (run.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        run.metrics.unlink(missing_ok=True)
        data, method = training._build(self.experiment, self.study, restored=False)
        trainer = training._trainer(self.experiment, run, loggers=[MetricsCsv(run.metrics)])
        trainer.fit(method, data)
        return {name.removeprefix("net."): value for name, value in method.state_dict().items()}

    def by_hand(self) -> Weights:
        """The same training as a plain loop."""
        settings = self.experiment
        torch.manual_seed(SEED)
        net = ImageClassifier("mobilevit_xxs", 1)
        weights = [p for p in net.parameters() if p.ndim > 1]
        others = [p for p in net.parameters() if p.ndim <= 1]
        decay = settings.optim.weight_decay
        groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=settings.optim.lr)
        sampler = EpochSampler(self.rows(), self.dataset.label.numpy(), "uniform", (SEED, id_hash("tvus") % 2**32))
        for epoch in range(self.epochs):
            sampler.set_epoch(epoch)
            order = torch.tensor(list(sampler))
            losses: list[Tensor] = []
            for step, rows in enumerate(torch.split(order, BATCH), start=1):
                keys = mix(SEED, epoch, self.dataset.hash[rows])
                pictures = torch.from_numpy(self.dataset.pictures(rows.numpy()))
                image = augment(pictures, keys, settings.data.streams["tvus"].augment)
                loss = classification_loss(net(image)[:, 0], self.dataset.label[rows], weight=torch.ones(2))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())
                if step % LOG_EVERY == 0:
                    self.log(epoch, step, torch.stack(losses).mean().item())
                    losses = []
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, self.folder / "by_hand.ckpt")
        return net.state_dict()

    def rows(self) -> NDArray[np.int64]:
        return np.arange(len(self.dataset))

    def log(self, epoch: int, step: int, loss: float) -> None:
        with (self.folder / "by_hand.csv").open("a", newline="") as file:
            csv.writer(file).writerow([epoch, step, "train/loss", loss])

    def check(self) -> None:
        """Both trainings end with the same weights.

        Raises:
            UnequalWorkError: They don't.
        """
        ours, theirs = self.ours(), self.by_hand()
        if ours.keys() != theirs.keys():
            raise UnequalWorkError("the networks have different tensors")
        worst = max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)
        if not worst <= TOLERANCE:
            raise UnequalWorkError(f"final weights differ by {worst:.2g}, more than {TOLERANCE:g}")
        print(f"loop: final weights after {self.epochs * self.steps} steps differ by {worst:.1g} at most")


def main(quick: bool = False) -> int:
    """Race two epochs; `quick` takes one of three steps once and records nothing."""
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(Path(folder), *((3, 1) if quick else (16, 2)))
        race = Race(
            "loop", ours=contest.ours, baseline=contest.by_hand, check=contest.check, target=TARGET, bound="at most"
        )
        return run_all("loop", [race], packages=("torch", "lightning", "timm"), quick=quick)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv))

"""Race: training samples per second of our loader against MONAI's PersistentDataset with dictionary transforms.

Both sides start from their own filled cache of the same prepared images, deliver shuffled batches of 32 (8 for clips),
and flip, turn, zoom, shift, change contrast and brightness and add noise, each over the same range with probability 1.
Ours is the `UnpairedDataModule` as a training run uses it. MONAI's side follows its tutorials (`loader`); the race
`loader_lean` takes off the tracking of metadata, which its users may switch off, too. A clip is (frames, H, W) to
MONAI, so that it, too, moves all frames at once. The race of volumes is about reading: both sides deliver random crops
without further changes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks._race import Race, UnequalWorkError, run_all
from xmkd.config import DataConfig, SplitConfig, StreamConfig
from xmkd.data import augment as augmenting
from xmkd.data.augment import AugmentSettings, augment, sample_keys
from xmkd.data.cache import ArrayCache
from xmkd.data.datamodule import UnpairedDataModule
from xmkd.data.preprocess import UltrasoundPrep
from xmkd.data.rng import uniform
from xmkd.data.streams import plan
from xmkd.data.toy import write_study

SETTINGS = AugmentSettings(gamma=0, gain=0, shadow=0, depth=0)  # what both sides have
TARGET = 4.5
CROP, VOLUME = 96, 192

Batches = Callable[[], list[Tensor]]


class Study:
    """A generated study on disk, and either side's way to load an epoch of it.

    Args:
        folder: Where to write.
        samples: How many; a multiple of the batch size.
        size: Height and width in pixels.
        frames: 0 for stills.
        workers: Loader processes of either side.
    """

    def __init__(self, folder: Path, samples: int, size: int, frames: int = 0, workers: int = 0) -> None:
        self.folder, self.size, self.workers = folder, size, workers
        self.batch_size = 8 if frames else 32
        manifest = write_study(folder, patients=samples // 4, each=4, size=size, frames=frames)
        stream = StreamConfig(
            manifest=str(manifest),
            view="clip" if frames else "image",
            ultrasound=UltrasoundPrep(size=(size, size), crop_sector=False, remove_overlays=False),
            batch_size=self.batch_size,
            augment=SETTINGS,
        )
        data = DataConfig(
            streams={"us": stream}, split=SplitConfig(val=0, test=0), num_workers=workers, cache=str(folder / "cache")
        )
        self.ours = UnpairedDataModule(data, plan(data), seed=0, evaluated="us")
        self.ours.trainer = cast(Trainer, SimpleNamespace(training=True, current_epoch=0, global_rank=0, world_size=1))
        self.ours.setup()
        self.images = self.ours.datasets["us"].pictures(np.arange(samples))
        self.loader = self.ours.train_dataloader()

    def our_epoch(self) -> list[Tensor]:
        """Every sample once, batch by batch; what is returned shows only that all was done."""
        sums = []
        for batch, _, _ in iter(self.loader):
            sums.append(self.ours.on_after_batch_transfer(batch, 0)["us"]["image"].sum())
        return sums

    def monai_loader(self, *, lean: bool) -> DataLoader[dict[str, Tensor]]:
        """MONAI's side; the part before the first random transform is cached on disk at its first use."""
        from monai.data import DataLoader as MonaiLoader
        from monai.data import PersistentDataset
        from monai.transforms import Compose, EnsureTyped, Lambdad

        prepared = [Lambdad("image", partial(_prepared, self.images)), EnsureTyped("image", track_meta=not lean)]
        files = [{"image": i} for i in range(len(self.images))]
        cache = self.folder / f"monai_{'lean' if lean else 'plain'}"
        dataset = PersistentDataset(files, Compose([*prepared, *_monai_random(self.size)]), cache_dir=cache)
        return cast(
            DataLoader[dict[str, Tensor]],
            MonaiLoader(
                dataset,
                batch_size=self.batch_size,
                shuffle=True,
                num_workers=self.workers,
                persistent_workers=self.workers > 0,
            ),
        )


def _prepared(images: Any, index: int) -> Tensor:
    """Image `index` in [0, 1], frames as channels: what reading and resizing would give."""
    return torch.from_numpy(np.array(images[index])).flatten(0, -3).float() / 255


def _monai_random(size: int) -> list[object]:
    from monai.transforms import RandAffined, RandFlipd, RandGaussianNoised, RandScaleIntensityd, RandShiftIntensityd

    return [
        RandFlipd("image", prob=0.5, spatial_axis=1),
        RandAffined(
            "image",
            prob=1,
            rotate_range=np.deg2rad(SETTINGS.rotate_deg),
            scale_range=SETTINGS.scale,
            translate_range=SETTINGS.translate * size,
            spatial_size=(size, size),
            mode="bilinear",
            padding_mode="zeros",
            cache_grid=True,
        ),
        RandScaleIntensityd("image", factors=SETTINGS.contrast, prob=1),
        RandShiftIntensityd("image", offsets=SETTINGS.brightness, prob=1),
        RandGaussianNoised("image", std=SETTINGS.noise, prob=1),
    ]


def monai_epoch(loader: DataLoader[dict[str, Tensor]], *, lean: bool) -> list[Tensor]:
    """An epoch of MONAI's side."""
    from monai.data import set_track_meta

    set_track_meta(not lean)
    return [batch["image"].sum() for batch in loader]


def same_work(study: Study, loader: DataLoader[dict[str, Tensor]]) -> None:
    """Both sides deliver as many samples of one shape, turn a picture alike, and spread samples alike.

    Raises:
        UnequalWorkError: They don't.
    """
    from monai.transforms import Affine

    ours = torch.cat(
        [study.ours.on_after_batch_transfer(batch, 0)["us"]["image"].flatten(1, -3) for batch, _, _ in study.loader]
    )
    theirs = torch.cat([torch.as_tensor(batch["image"]) for batch in loader])
    if ours.shape != theirs.shape:
        raise UnequalWorkError(f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)} differ")
    for name, statistic in (("mean", torch.mean), ("spread", torch.std)):
        a, b = statistic(ours).item(), statistic(theirs).item()
        if abs(a - b) > 0.1 * abs(b):
            raise UnequalWorkError(f"the {name} of the samples differs: {a:.4f} and {b:.4f}")
    picture = _prepared(study.images, 0)
    key = sample_keys(0, 0, ["one"])
    off = AugmentSettings(False, 10.0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    angle = float(np.deg2rad(10) * (2 * uniform(key, augmenting.ROTATE + 1)[0, -1] - 1))
    turned = Affine(rotate_params=-angle, padding_mode="zeros", image_only=True)(picture)
    worst = float((augment(picture[None], key, off)[0] - torch.as_tensor(turned)).abs().max())
    if worst > 1e-3:
        raise UnequalWorkError(f"the same rotation differs by {worst:.2g}")


class Volumes:
    """Generated volumes on disk and random crops of them: ours from memory maps, MONAI's from its cache."""

    def __init__(self, folder: Path, count: int) -> None:
        self.cache = ArrayCache(folder / "cache")
        self.keys = [f"{i:032x}" for i in range(count)]
        rng = np.random.default_rng(0)
        for key in self.keys:
            volume = rng.random((1, VOLUME, VOLUME, VOLUME), dtype=np.float32).astype(np.float16)
            self.cache.files.write(key, [volume], None, {"source": key})
        self.folder, self.rng = folder, rng

    def _open(self, key: str) -> Any:
        meta = self.cache.files.meta(key)
        if meta is None:
            raise UnequalWorkError("a volume is missing from the cache")
        return self.cache.files.open(key, meta)

    def our_epoch(self) -> Tensor:
        """One crop of each volume, float32 `(volumes, 1, 96, 96, 96)`."""
        crops = []
        for key in self.keys:
            d, h, w = self.rng.integers(0, VOLUME - CROP + 1, 3)
            crops.append(torch.from_numpy(self._open(key)[:, d : d + CROP, h : h + CROP, w : w + CROP].copy()))
        return torch.stack(crops).float()

    def monai_epoch(self, loader: DataLoader[dict[str, Tensor]]) -> Tensor:
        return torch.cat([batch["image"] for batch in loader])

    def monai_loader(self) -> DataLoader[dict[str, Tensor]]:
        from monai.data import DataLoader as MonaiLoader
        from monai.data import PersistentDataset
        from monai.transforms import Compose, EnsureTyped, Lambdad, RandSpatialCropd

        steps = [
            Lambdad("image", self._whole),
            EnsureTyped("image"),
            RandSpatialCropd("image", (CROP,) * 3, random_size=False),
        ]
        files = [{"image": key} for key in self.keys]
        dataset = PersistentDataset(files, Compose(steps), cache_dir=self.folder / "monai")
        return cast(DataLoader[dict[str, Tensor]], MonaiLoader(dataset, batch_size=len(files), shuffle=True))

    def _whole(self, key: str) -> Tensor:
        return torch.from_numpy(self._open(key).astype(np.float32))

    def check(self, loader: DataLoader[dict[str, Tensor]]) -> None:
        ours, theirs = self.our_epoch(), self.monai_epoch(loader)
        if ours.shape != theirs.shape or abs(ours.mean() - theirs.mean()) > 0.01 or ours.dtype != theirs.dtype:
            raise UnequalWorkError("the crops differ in shape, type or mean")


def image_race(name: str, study: Study, *, lean: bool, target: float | None) -> Race:
    loader = study.monai_loader(lean=lean)
    return Race(
        name,
        ours=study.our_epoch,
        baseline=partial(monai_epoch, loader, lean=lean),
        check=partial(same_work, study, loader),
        target=target,
    )


def main(quick: bool = False) -> int:
    """Race stills, clips and volumes; `quick` loads few samples once and records nothing."""
    samples = 64 if quick else 256
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stills = Study(folder / "stills", samples, 128)
        clips = Study(folder / "clips", samples // 2, 64, frames=16)
        shared = Study(folder / "workers", samples, 128, workers=2)
        volumes = Volumes(folder / "volumes", 2 if quick else 4)
        crops = volumes.monai_loader()
        races = [
            image_race("loader", stills, lean=False, target=TARGET),
            image_race("loader_lean", stills, lean=True, target=TARGET),
            image_race("loader_clips", clips, lean=False, target=TARGET),
            image_race("loader_clips_lean", clips, lean=True, target=TARGET),
            image_race("loader_2_workers", shared, lean=False, target=TARGET),
            Race(
                "loader_crops",
                ours=volumes.our_epoch,
                baseline=partial(volumes.monai_epoch, crops),
                check=partial(volumes.check, crops),
            ),
        ]
        return run_all("loader", races, packages=("torch", "monai"), quick=quick)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv))

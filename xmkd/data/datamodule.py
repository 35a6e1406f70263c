"""The one LightningDataModule: named streams, drawn independently, each from memory maps.

Which sample comes when depends on (seed, epoch) alone, and what is done to it on (seed, epoch, sample_id): neither on
the number of loader workers nor on the process that gets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from xmkd.config import DataConfig
from xmkd.data.augment import augment
from xmkd.data.augment3d import augment_volumes
from xmkd.data.cache import ArrayCache, CacheItem, PackedArray
from xmkd.data.datasets import Change, PackedDataset, PatchDataset, Samples, StreamDataset, VolumeFiles
from xmkd.data.rng import id_hash, mix
from xmkd.data.samplers import DatedSampler, EpochSampler, EvaluationSampler
from xmkd.data.streams import Side, Stream, Study
from xmkd.errors import ConfigError, ManifestError

__all__ = ["Change", "EpochSampler", "EvaluationSampler", "StreamDataset", "UnpairedDataModule"]


class UnpairedDataModule(LightningDataModule):
    """All streams of a run.

    Batches are `{stream: {"image", "label", "index", "valid", "key", "sample_id", "patient_id"}}`, images float32
    `(B, C, H, W)`, clips `(B, C, T, H, W)`, both in [0, 1], volumes and patches `(B, C, D, H, W)`, z-scores. The label
    is the class index, -1 in unlabelled streams. In training an epoch is as long as the longest stream,
    and shorter ones go on with another order and other augmentation; in evaluation only the stream that the method
    predicts is read.

    Args:
        data: Settings.
        study: The tables.
        seed: The run's seed.
        evaluated: Name of the stream for validation and test.

    Attributes:
        study: The tables; after `setup` without the rows that can't be read, where `data.on_error` is "skip".
        tested: The side that `Trainer.test` reads.
        first_epoch: The epoch that a resumed training goes on with.
        watched: Names of streams that are not trained on.
        skipped: The rows left out: stream, sample_id, side and reason.
    """

    def __init__(
        self, data: DataConfig, study: Study, *, seed: int, evaluated: str, watched: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.data, self.study, self.seed, self.evaluated, self.watched = data, study, seed, evaluated, watched
        self.planned = study
        self.cache = ArrayCache(Path(data.cache) if data.cache else None)
        self.datasets: dict[str, StreamDataset] = {}
        self.tested: Side = "test"
        self.first_epoch = 0
        self.skipped = pd.DataFrame(columns=["stream", "sample_id", "side", "reason"])

    def prepare_data(self) -> None:
        """Fill the cache, by one process of each machine."""
        for stream in self.planned.streams.values():
            self._source(stream)

    def setup(self, stage: str = "") -> None:
        for name, stream in self.planned.streams.items():
            if name in self.datasets:
                continue
            source = self._source(stream)
            kept = replace(stream, table=stream.table[source.rows >= 0].reset_index(drop=True))
            self.study = replace(self.study, streams={**self.study.streams, name: kept})
            self.datasets[name] = self._dataset(kept, source)
            self.skipped = pd.concat([self.skipped, _left_out(stream, source)], ignore_index=True)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one sample of a stream."""
        self.setup()
        return self.datasets[name].shape

    def rows(self, name: str, side: str) -> NDArray[np.int64]:
        """Rows of a stream on a side.

        Raises:
            ManifestError: There are none.
        """
        self.setup()
        rows = np.flatnonzero(self.study.streams[name].table["side"].to_numpy() == side)
        if not len(rows):
            raise ManifestError(
                f"the stream {name!r} has no readable sample on the side {side!r}",
                where=self.study.streams[name].manifest.path,
                fixes=(f"raise data.split.{side}", "check the files: xmkd check"),
            )
        return rows

    def train_dataloader(self) -> CombinedLoader:
        loaders = {name: self._train_loader(name) for name in self.study.streams if name not in self.watched}
        steps = max(len(loader) for loader in loaders.values())
        for name, loader in loaders.items():
            if len(loader) < steps:
                loaders[name] = self._train_loader(name, steps)
        return CombinedLoader(loaders, "max_size")

    def val_dataloader(self) -> CombinedLoader | list[Any]:
        """Validation samples; none where the split has no such side."""
        on_val = self.study.streams[self.evaluated].table["side"] == "val"
        return self.evaluation_loader("val") if on_val.any() else []

    def test_dataloader(self) -> CombinedLoader:
        return self.evaluation_loader(self.tested)

    def evaluation_loader(self, side: Side) -> CombinedLoader:
        """Each sample of a side once, in table order."""
        sampler = EvaluationSampler(self.rows(self.evaluated, side), *self._rank_and_world())
        return CombinedLoader({self.evaluated: self._loader(self.evaluated, sampler, drop_last=False)}, "max_size")

    def batches(self, name: str, side: str) -> Iterator[Samples]:
        """Each sample of a side of any stream once, in table order and unchanged, by this process alone."""
        size = self.data.streams[name].batch_size
        for rows in np.array_split(self.rows(name, side), range(size, len(self.rows(name, side)), size)):
            batch = self.datasets[name].__getitems__(rows.tolist())
            yield batch | {"image": self._float(name, batch["image"], batch["hash"], training=False)}

    def on_after_batch_transfer(self, batch: dict[str, Samples | None], dataloader_idx: int) -> dict[str, Samples]:
        """The random part of each sample, for the whole batch at once and on its device."""
        training = self.trainer is not None and bool(self.trainer.training)
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        streams = {name: part for name, part in batch.items() if part is not None}
        for name, part in streams.items():
            part["key"] = mix(self.seed, epoch, part["hash"])
            part["image"] = self._float(name, part["image"], part["key"], training)
        return streams

    def _float(self, name: str, image: Tensor, key: Tensor, training: bool) -> Tensor:
        config = self.data.streams[name]
        if training and config.is_volumetric:
            prep = config.mri
            return augment_volumes(
                image, key, config.volume_augment, orientation=prep.orientation, spacing_mm=prep.spacing_mm
            )
        if training:
            return augment(image, key, config.augment)
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()

    def _source(self, stream: Stream) -> PackedArray | VolumeFiles:
        """The prepared arrays of a stream, made where they are missing."""
        root = stream.manifest.require_root()
        files = zip(stream.table["path"], stream.table["modality"], strict=True)
        items = [CacheItem(root / str(path), stream.config.prep, str(modality)) for path, modality in files]
        if stream.config.view == "patch":
            return VolumeFiles.of(self.cache, items, on_error=self.data.on_error)
        return self.cache.pack(items, on_error=self.data.on_error)

    def _dataset(self, stream: Stream, source: PackedArray | VolumeFiles) -> StreamDataset:
        if isinstance(source, VolumeFiles):
            assert stream.config.patch is not None  # else the experiment would have been refused
            return PatchDataset(stream, source, stream.config.patch, self.seed)
        _check_view(stream, source)
        return PackedDataset(stream, source)

    def _train_loader(self, name: str, steps: int | None = None) -> DataLoader[Samples]:
        """Batches of a stream: each row once, or as many as make `steps` full ones."""
        rows, config = self.rows(name, "train"), self.data.streams[name]
        labels = cast(NDArray[np.int64], self.datasets[name].label.numpy()[rows])
        seed, (rank, world), share = (self.seed, id_hash(name) % 2**32), self._rank_and_world(), self._share(name)
        count = None if steps is None else steps * share
        kind = DatedSampler if config.view == "patch" else EpochSampler
        sampler = kind(rows, labels, config.sampler, seed, rank, world, self.first_epoch, count)
        # A last batch of one sample would break batch normalisation.
        return self._loader(name, sampler, drop_last=len(sampler) > share)

    def _loader(self, name: str, sampler: Sampler[int], *, drop_last: bool) -> DataLoader[Samples]:
        workers = self.data.num_workers
        return DataLoader(
            self.datasets[name],
            batch_size=self._share(name),
            sampler=sampler,
            num_workers=workers,
            collate_fn=_as_it_is,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            # Without one of its own the loader takes numbers from torch's, more often with fresh workers than without.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _share(self, name: str) -> int:
        """Samples per step of this process."""
        size, world = self.data.streams[name].batch_size, self._rank_and_world()[1]
        if size % world:
            raise ConfigError(
                f"a batch of {size} can't be shared out evenly over {world} processes",
                where=f"data.streams.{name}.batch_size",
                fixes=(f"use a multiple of {world}", "use another number of trainer.devices"),
            )
        return size // world

    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


def _check_view(stream: Stream, pack: PackedArray) -> None:
    if stream.config.is_volumetric:  # the preprocessing refuses all but volumes
        return
    view, found = stream.config.view, "clip" if pack.array.ndim == 5 else "image"
    if view != found:
        raise ManifestError(
            f"data.streams.{stream.name}.view is {view!r}, but the files hold {found}s",
            where=stream.manifest.path,
            fixes=(f"set data.streams.{stream.name}.view={found}", f"choose rows with {view}s by `where`"),
        )


def _left_out(stream: Stream, source: PackedArray | VolumeFiles) -> pd.DataFrame:
    """The rows whose files can't be read; without the files' names, which may tell who the patient is."""
    rows = stream.table[source.rows < 0]
    root = stream.manifest.require_root()
    errors = {
        str(path): message.splitlines()[0].replace(str(path), "the file") for path, message in source.errors.items()
    }
    reasons = [errors[str(root / path)] for path in rows["path"]]
    return rows[["sample_id", "side"]].assign(stream=stream.name, reason=reasons)


def _as_it_is(batch: Any) -> Any:
    return batch

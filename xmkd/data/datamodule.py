"""The one LightningDataModule: named streams, drawn independently, each from a packed memory map.

Which sample comes when depends on (seed, epoch) alone, and what is done to it on (seed, epoch, sample_id): neither on
the number of loader workers nor on the process that gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from torch.utils.data import DataLoader, Dataset, Sampler

from xmkd.config import DataConfig
from xmkd.data.augment import augment
from xmkd.data.cache import ArrayCache, CacheItem, PackedArray
from xmkd.data.preprocess import UltrasoundPrep
from xmkd.data.rng import id_hash, mix
from xmkd.data.streams import Side, Stream, Study
from xmkd.errors import ConfigError, ManifestError

Samples = dict[str, Any]
Change = Callable[[NDArray[np.int64], NDArray[np.uint8]], NDArray[np.uint8]]
"""Takes the rows and the pictures of a batch and gives other pictures."""


_AGAIN = 1 << 40  # a sampler's number is row + _AGAIN * (how often the row came before in this epoch)
_REPEAT = 0x9E3779B97F4A7C1  # an odd number: repeats of a sample get keys of their own


class StreamDataset(Dataset[Samples]):
    """Whole batches of one stream by row number; a row `~i` is row i marked as not valid (it only fills up a batch).

    Args:
        stream: The readable rows.
        pack: The arrays of all planned rows.

    Attributes:
        change: What is done to every batch of pictures; None leaves them as they are.
    """

    def __init__(self, stream: Stream, pack: PackedArray) -> None:
        self.change: Change | None = None
        self.pack = pack
        self.rows = pack.rows[pack.rows >= 0]
        self.label = torch.from_numpy(stream.label_index())
        self.sample_id = stream.table["sample_id"].tolist()
        self.patient_id = stream.table["patient_id"].tolist()
        self.hash = torch.tensor([id_hash(i) for i in self.sample_id], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.label)

    def __getitems__(self, rows: list[int]) -> Samples:
        """A batch; torch's loader calls this instead of asking for samples one by one."""
        code = np.asarray(rows)
        row, again = np.where(code < 0, code, code % _AGAIN), np.where(code < 0, 0, code // _AGAIN)
        index = np.where(row < 0, ~row, row)
        image = self.pictures(index)
        return {
            "image": torch.from_numpy(image if self.change is None else self.change(index, image)),
            "label": self.label[index],
            "index": torch.from_numpy(index),
            "valid": torch.from_numpy(row >= 0),
            "hash": self.hash[index] + torch.from_numpy(again) * _REPEAT,
            "sample_id": [self.sample_id[i] for i in index],
            "patient_id": [self.patient_id[i] for i in index],
        }

    def pictures(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The prepared arrays of these rows, `(B, C, [T,] H, W)`."""
        return cast(NDArray[np.uint8], self.pack.array[self.rows[index]])

    def __getitem__(self, row: int) -> Samples:
        return self.__getitems__([row])


class EpochSampler(Sampler[int]):
    """Rows of one process for training: a new order each epoch, the same for any number of workers.

    All processes draw the same order and take turns in it, so no sample comes twice in an epoch; the remainder that
    can't be shared out evenly is left out, another one each epoch. "balanced" draws every class equally often and
    repeats the samples of rare classes as evenly as possible. Where a longer stream sets the epoch's length, the rows
    come again in another order; a number then also tells how often its row has come before (see `_AGAIN`), so that each
    time another augmentation is drawn.

    Args:
        rows: Row numbers of the training side.
        labels: Class of each of these rows.
        how: "uniform" or "balanced".
        seed: The run's seed, and what tells this stream from others: of two streams of one length drawn with one seed,
            rows of the same number would always meet.
        rank: This process.
        world: Number of processes.
        epoch: The first epoch. Lightning starts the loader workers of a resumed run before it calls `set_epoch`.
        count: Samples per epoch of this process; None for as many as there are rows to share out.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        how: str,
        seed: Sequence[int],
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
        count: int | None = None,
    ) -> None:
        self.rows, self.labels, self.how = rows, labels, how
        self.count = len(rows) // world if count is None else count
        self.seed, self.rank, self.world, self.epoch = seed, rank, world, epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        rng, total = np.random.default_rng([*self.seed, self.epoch]), self.count * self.world
        draw = (lambda: rng.permutation(self.rows)) if self.how == "uniform" else (lambda: self._balanced(rng))
        order = np.concatenate([draw() for _ in range(-(-total // len(self.rows)))] or [self.rows])
        return iter((order + _AGAIN * _times_before(order))[self.rank : total : self.world].tolist())

    def _balanced(self, rng: np.random.Generator) -> NDArray[np.int64]:
        groups = [self.rows[self.labels == c] for c in np.unique(self.labels)]
        share = -(-len(self.rows) // len(groups))
        drawn = [np.concatenate([rng.permutation(g) for _ in range(-(-share // len(g)))])[:share] for g in groups]
        return rng.permutation(np.concatenate(drawn))[: len(self.rows)]


def _times_before(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each entry has come before."""
    by_value = np.argsort(order, kind="stable")
    values = order[by_value]
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    before = np.empty_like(order)
    before[by_value] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return before


class EvaluationSampler(Sampler[int]):
    """Rows of one process for evaluation, in order; rows `~i` fill up so that all processes have equally many."""

    def __init__(self, rows: NDArray[np.int64], rank: int = 0, world: int = 1) -> None:
        each = -(-len(rows) // world)
        padded = np.concatenate([rows, np.full(each * world - len(rows), ~rows[0])])
        self.rows: list[int] = padded[rank::world].tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)


class UnpairedDataModule(LightningDataModule):
    """All streams of a run.

    Batches are `{stream: {"image", "label", "index", "valid", "key", "sample_id", "patient_id"}}`, images float32
    `(B, C, H, W)` or `(B, C, T, H, W)`, ultrasound in [0, 1]. In training an epoch is as long as the longest stream,
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
        skipped: The rows left out: stream, sample_id, side and reason.
    """

    def __init__(self, data: DataConfig, study: Study, *, seed: int, evaluated: str) -> None:
        super().__init__()
        self.data, self.study, self.seed, self.evaluated = data, study, seed, evaluated
        self.planned = study
        self.cache = ArrayCache(Path(data.cache) if data.cache else None)
        self.datasets: dict[str, StreamDataset] = {}
        self.tested: Side = "test"
        self.first_epoch = 0
        self.skipped = pd.DataFrame(columns=["stream", "sample_id", "side", "reason"])

    def prepare_data(self) -> None:
        """Fill the cache, by one process of each machine."""
        for stream in self.planned.streams.values():
            self._pack(stream)

    def setup(self, stage: str = "") -> None:
        for name, stream in self.planned.streams.items():
            if name in self.datasets:
                continue
            pack = self._pack(stream)
            _check_view(stream, pack)
            readable = pack.rows >= 0
            kept = replace(stream, table=stream.table[readable].reset_index(drop=True))
            self.study = replace(self.study, streams={**self.study.streams, name: kept})
            self.datasets[name] = StreamDataset(kept, pack)
            self.skipped = pd.concat([self.skipped, _left_out(stream, pack)], ignore_index=True)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one sample of a stream."""
        self.setup()
        return self.datasets[name].pack.array.shape[1:]

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
        loaders = {name: self._train_loader(name) for name in self.study.streams}
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
        if training:
            return augment(image, key, self.data.streams[name].augment)
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()

    def _pack(self, stream: Stream) -> PackedArray:
        root = stream.manifest.require_root()
        prep: UltrasoundPrep = stream.config.ultrasound
        files = zip(stream.table["path"], stream.table["modality"], strict=True)
        items = [CacheItem(root / str(path), prep, str(modality)) for path, modality in files]
        return self.cache.pack(items, on_error=self.data.on_error)

    def _train_loader(self, name: str, steps: int | None = None) -> DataLoader[Samples]:
        """Batches of a stream: each row once, or as many as make `steps` full ones."""
        rows, config = self.rows(name, "train"), self.data.streams[name]
        labels = cast(NDArray[np.int64], self.datasets[name].label.numpy()[rows])
        seed, (rank, world), share = (self.seed, id_hash(name) % 2**32), self._rank_and_world(), self._share(name)
        count = None if steps is None else steps * share
        sampler = EpochSampler(rows, labels, config.sampler, seed, rank, world, self.first_epoch, count)
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
    view, found = stream.config.view, "clip" if pack.array.ndim == 5 else "image"
    if view != found:
        raise ManifestError(
            f"data.streams.{stream.name}.view is {view!r}, but the files hold {found}s",
            where=stream.manifest.path,
            fixes=(f"set data.streams.{stream.name}.view={found}", f"choose rows with {view}s by `where`"),
        )


def _left_out(stream: Stream, pack: PackedArray) -> pd.DataFrame:
    """The rows whose files can't be read; without the files' names, which may tell who the patient is."""
    rows = stream.table[pack.rows < 0]
    root = stream.manifest.require_root()
    errors = {
        str(path): message.splitlines()[0].replace(str(path), "the file") for path, message in pack.errors.items()
    }
    reasons = [errors[str(root / path)] for path in rows["path"]]
    return rows[["sample_id", "side"]].assign(stream=stream.name, reason=reasons)


def _as_it_is(batch: Any) -> Any:
    return batch

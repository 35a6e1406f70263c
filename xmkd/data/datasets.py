"""Batches of one stream by row number, out of memory maps: whole samples from a pack, or patches cut out of volumes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from xmkd.data.augment3d import COUNT, PATCH
from xmkd.data.cache import ArrayCache, CacheItem, OnError, PackedArray
from xmkd.data.rng import id_hash, mix, uniform
from xmkd.data.samplers import decode
from xmkd.data.streams import Stream
from xmkd.errors import ReadError

Array = NDArray[np.generic]
Rows = NDArray[np.int64]
Samples = dict[str, Any]
Change = Callable[[NDArray[np.int64], NDArray[np.uint8]], NDArray[np.uint8]]
"""Takes the rows and the pictures of a batch and gives other pictures."""

_REPEAT = 0x9E3779B97F4A7C1  # an odd number: repeats of a sample get keys of their own


class VolumeFile(NamedTuple):
    """One array in a file: where its first number lies, in bytes, and its shape (C, D, H, W)."""

    path: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class VolumeFiles:
    """The prepared volumes of many items, each in a file of its own, so that they may differ in size.

    Attributes:
        files: The volumes.
        rows: For each item its place in `files`, int64 `(items,)`; -1 where the item could not be read and was skipped.
        errors: The message of each skipped source.
    """

    files: list[VolumeFile]
    rows: Rows
    errors: dict[Path, str]

    @classmethod
    def of(cls, cache: ArrayCache, items: Sequence[CacheItem], *, on_error: OnError) -> VolumeFiles:
        """Prepare what is missing.

        Raises:
            XmkdError: A source failed and `on_error` is "raise", all failed, or they differ in channels.
        """
        errors = cache.warm(items, on_error=on_error).errors
        readable = [item for item in items if item.source not in errors]
        if not readable:
            raise ReadError("none of the files can be read: " + next(iter(errors.values()), "the list is empty"))
        files = []
        for item in readable:
            array = cast(np.memmap[Any, Any], cache.entry(item).array)
            files.append(VolumeFile(str(array.filename), array.dtype, array.offset, array.shape))
            if array.shape[0] != files[0].shape[0]:
                raise ReadError(
                    f"the prepared volume has {array.shape[0]} channels, others have {files[0].shape[0]}",
                    where=item.source,
                    fixes=("choose volumes of one kind by `where`", "leave it out of the manifest"),
                )
        good = np.array([item.source not in errors for item in items])
        return cls(files, np.where(good, np.cumsum(good) - 1, -1), errors)

    def open(self, row: int) -> Array:
        """A volume as a read-only memory map: opened for each use, since a process may hold few files open."""
        file = self.files[row]
        return np.memmap(file.path, file.dtype, "r", file.offset, file.shape)


class StreamDataset(Dataset[Samples], ABC):
    """Whole batches of one stream by row number; a row `~i` is row i marked as not valid (it only fills up a batch).

    Args:
        stream: The readable rows.
        rows: Where each planned row lies in its source, -1 for those that can't be read.

    Attributes:
        change: What is done to every batch of pictures; None leaves them as they are.
        shape: Of one sample.
    """

    shape: tuple[int, ...]

    def __init__(self, stream: Stream, rows: Rows) -> None:
        self.change: Change | None = None
        self.rows = rows[rows >= 0]
        self.label = torch.from_numpy(stream.label_index())
        self.sample_id = stream.table["sample_id"].tolist()
        self.patient_id = stream.table["patient_id"].tolist()
        self.hash = torch.tensor([id_hash(i) for i in self.sample_id], dtype=torch.int64)

    @abstractmethod
    def pictures(self, index: Rows) -> NDArray[np.uint8]:
        """The prepared arrays of these rows as evaluation sees them: uint8, or float16 where they are of volumes."""

    def __len__(self) -> int:
        return len(self.label)

    def __getitems__(self, rows: list[int]) -> Samples:
        """A batch; torch's loader calls this instead of asking for samples one by one."""
        row, again, epoch = decode(rows)
        index = np.where(row < 0, ~row, row)
        hashes = self.hash[index] + torch.from_numpy(again) * _REPEAT
        image = self._drawn(index, hashes, int(epoch[0]))
        return {
            "image": torch.from_numpy(image if self.change is None else self.change(index, image)),
            "label": self.label[index],
            "index": torch.from_numpy(index),
            "valid": torch.from_numpy(row >= 0),
            "hash": hashes,
            "sample_id": [self.sample_id[i] for i in index],
            "patient_id": [self.patient_id[i] for i in index],
        }

    def __getitem__(self, row: int) -> Samples:
        return self.__getitems__([row])

    def _drawn(self, index: Rows, hashes: Tensor, epoch: int) -> NDArray[np.uint8]:
        """The arrays of a batch, where `epoch` is -1 in evaluation."""
        return self.pictures(index)


class PackedDataset(StreamDataset):
    """Samples of one shape out of one memory map: `(B, C, [T or D,] H, W)`, a batch in one indexing operation."""

    def __init__(self, stream: Stream, pack: PackedArray) -> None:
        super().__init__(stream, pack.rows)
        self.pack = pack
        self.shape = pack.array.shape[1:]

    def pictures(self, index: Rows) -> NDArray[np.uint8]:
        return cast(NDArray[np.uint8], self.pack.array[self.rows[index]])


class PatchDataset(StreamDataset):
    """Patches of volumes: in training from where (seed, epoch, sample_id) says, in evaluation from the middle.

    Args:
        stream: The readable rows.
        volumes: The volumes of all planned rows.
        patch: Shape (D, H, W); along an axis on which a volume is shorter it is centred, with its least value around.
        seed: The run's seed.
    """

    def __init__(self, stream: Stream, volumes: VolumeFiles, patch: tuple[int, int, int], seed: int) -> None:
        super().__init__(stream, volumes.rows)
        self.volumes, self.seed = volumes, seed
        self._least: dict[int, float] = {}  # of the volumes that were too short for a patch
        self.shape = (volumes.files[0].shape[0], *patch)
        shapes = np.array([file.shape[1:] for file in volumes.files])
        self.spare = shapes[self.rows] - np.array(patch)  # (N, 3)

    def pictures(self, index: Rows) -> NDArray[np.uint8]:
        return self._cut(index, self.spare[index] // 2)

    def _drawn(self, index: Rows, hashes: Tensor, epoch: int) -> NDArray[np.uint8]:
        return self.pictures(index) if epoch < 0 else self._cut(index, self.starts(index, hashes, epoch))

    def starts(self, index: Rows, hashes: Tensor, epoch: int) -> Rows:
        """First voxel (d, h, w) of each patch in training, `(B, 3)`; every place in a volume is equally likely."""
        u = uniform(mix(self.seed, epoch, hashes), COUNT)[:, PATCH : PATCH + 3].double().numpy()
        spare = self.spare[index]
        starts: Rows = np.where(spare < 0, spare // 2, np.floor(u * (spare + 1))).astype(np.int64)
        return starts

    def _cut(self, index: Rows, starts: Rows) -> NDArray[np.uint8]:
        """The one loop over samples: from each map only the patch is read."""
        out = np.empty((len(index), *self.shape), self.volumes.files[0].dtype)
        for target, row, start in zip(out, self.rows[index], starts, strict=True):
            volume = self.volumes.open(row)
            if (start < 0).any():
                if row not in self._least:
                    self._least[row] = float(volume.min())
                target[:] = self._least[row]
            ends = np.minimum(start + self.shape[1:], volume.shape[1:])
            from_, to = np.maximum(start, 0), np.maximum(-start, 0)
            part = volume[(slice(None), *map(slice, from_, ends))]
            target[(slice(None), *map(slice, to, to + part.shape[1:]))] = part
        return cast(NDArray[np.uint8], out)

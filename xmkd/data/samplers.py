"""Which rows come when: in training in an order of (seed, epoch), in evaluation each once.

A sampler's number holds more than a row, since a loader worker knows nothing of the epoch: see `decode`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

ROWS = 1 << 31  # above a row's 31 bits: how often the row came before in this epoch, 16 bits
TIMES = 1 << 16  # above that: the epoch, 16 bits, for whom it matters
EPOCH = ROWS * TIMES


def decode(numbers: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows, how often each came before, and the epoch; for numbers without an epoch the latter is -1.

    A row `~i` stays what it is: row i, marked as not valid.
    """
    code = np.asarray(numbers, dtype=np.int64)
    rest = np.where(code < 0, 0, code // ROWS)
    return np.where(code < 0, code, code % ROWS), rest % TIMES, rest // TIMES - 1


class EpochSampler(Sampler[int]):
    """Rows of one process for training: a new order each epoch, the same for any number of workers.

    All processes draw the same order and take turns in it, so no sample comes twice in an epoch; the remainder that
    can't be shared out evenly is left out, another one each epoch. "balanced" draws every class equally often and
    repeats the samples of rare classes as evenly as possible. Where a longer stream sets the epoch's length, the rows
    come again in another order; a number then also tells how often its row has come before, so that each time another
    augmentation is drawn.

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
        return iter((order + ROWS * (_times_before(order) % TIMES))[self.rank : total : self.world].tolist())

    def _balanced(self, rng: np.random.Generator) -> NDArray[np.int64]:
        groups = [self.rows[self.labels == c] for c in np.unique(self.labels)]
        share = -(-len(self.rows) // len(groups))
        drawn = [np.concatenate([rng.permutation(g) for _ in range(-(-share // len(g)))])[:share] for g in groups]
        return rng.permutation(np.concatenate(drawn))[: len(self.rows)]


class DatedSampler(EpochSampler):
    """Its numbers tell the epoch as well, for data sets that draw something themselves."""

    def __iter__(self) -> Iterator[int]:
        date = EPOCH * (self.epoch % (TIMES - 1) + 1)
        return (number + date for number in super().__iter__())


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

"""Many jobs in several processes of one thread each.

The processes are started afresh (spawned), since a fork of a process in which torch has used threads may hang.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from xmkd.errors import RunError

Job = TypeVar("Job")
Result = TypeVar("Result")

# Large arrays come and go by the hundred: keeping their pages renders a clip in a sixth less time (glibc's mallopt).
KEEPING_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "2000000000"}


def available() -> int:
    """How many processes this one may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Processes for one kind of work after another; a context manager, which ends them.

    Leaving it early, by an error or an interruption, drops the jobs that are not begun and waits for those that are.

    Args:
        workers: Number of processes; 1 works in this one.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Do all jobs; the results come in the order in which they are done.

        Args:
            function: What to do; a function of a module, so that it can be sent to other processes.
            jobs: Its arguments.

        Raises:
            RunError: A process died, most likely for want of memory.
        """
        if self.workers == 1 or not jobs:
            with _one_thread():
                yield from map(function, jobs)
            return
        if self._executor is None:  # processes start as jobs come: an idle one would cost seconds and memory
            for name, value in KEEPING_MEMORY.items():  # read by the C library when a process starts
                os.environ.setdefault(name, value)
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start)
        futures = [self._executor.submit(function, job) for job in jobs]
        try:
            for done in as_completed(futures):
                yield done.result()
        except BrokenProcessPool as error:
            raise RunError(
                "a simulating process died; a process killed for want of memory looks like this",
                where=f"{self.workers} processes",
                fixes=("use fewer: --workers N; finished examinations are kept", "free memory: each needs up to 1 GB"),
            ) from error


def _start() -> None:
    """What every process does first."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process decides what follows
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End this process when the first one is killed, which a waiting pool would not notice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in several threads are not the same to the last bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

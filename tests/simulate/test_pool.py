"""Jobs in several processes: all are done, errors arrive, and none outlives the first process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from xmkd.errors import ReadError, RunError
from xmkd.simulate.pool import Pool


def square(number: int) -> tuple[int, int, int]:
    """The result, the process and its threads."""
    return number * number, os.getpid(), torch.get_num_threads()


def fail(number: int) -> int:
    raise ReadError(f"number {number} is bad", where="here", fixes=("this", "that"))


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep(marks: Path) -> None:
    """Leave a mark with this process' id, and stay."""
    (marks / str(os.getpid())).touch()
    time.sleep(60)


@pytest.mark.parametrize("workers", [1, 2])
def test_all_jobs_are_done_in_processes_of_one_thread(workers: int) -> None:
    before = torch.get_num_threads()
    with Pool(workers) as pool:
        for jobs in (range(5), range(0), range(5, 8)):  # one kind of work after another
            results = list(pool.run(square, jobs))
            assert sorted(r[0] for r in results) == [n * n for n in jobs]
            assert {r[2] for r in results} <= {1}
            assert (os.getpid() in {r[1] for r in results}) == (workers == 1 and len(jobs) > 0)
    assert torch.get_num_threads() == before


def test_an_error_keeps_its_words_and_a_death_is_explained() -> None:
    with pytest.raises(ReadError, match="number 3 is bad") as caught, Pool(2) as pool:
        list(pool.run(fail, [3]))
    assert caught.value.fixes == ("this", "that")
    with pytest.raises(RunError, match="want of memory"), Pool(2) as pool:
        list(pool.run(die, [1, 2]))


def test_no_process_outlives_the_first_one(tmp_path: Path) -> None:
    """Not even where that one is killed: a waiting pool would keep a gigabyte each for ever."""
    first = subprocess.Popen([sys.executable, "-c", _CODE, str(tmp_path)], cwd=REPOSITORY)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    workers = [int(p.name) for p in tmp_path.iterdir()]
    first.kill()
    first.wait()
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


_CODE = """
import sys
from pathlib import Path
from tests.simulate.test_pool import sleep
from xmkd.simulate.pool import Pool
list(Pool(2).run(sleep, [Path(sys.argv[1])] * 2))
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

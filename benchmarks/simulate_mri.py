"""MRI and CT volumes that a core simulates per second, anatomy and mask included, nothing written."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from xmkd.simulate import anatomy, ct, mri
from xmkd.simulate.evidence import Adhesion
from xmkd.simulate.mr_protocol import SEQUENCES
from xmkd.simulate.randomness import Seeds

TARGET = 3.0  # T2 volumes of 24 x 192 x 192 per second and core


def measure(volumes: int = 24, warmup: int = 3) -> float:
    """T2 volumes of 24 x 192 x 192 per second of one core: 1 over the median processor time of one.

    Args:
        volumes: How many are timed, each of another patient.
        warmup: How many are rendered before, so that the banks are made.
    """
    return 1 / _median(_t2, volumes, warmup)


def _median(render: Callable[[int], object], count: int, warmup: int) -> float:
    """Median processor time in s of one thread: what else runs on the machine counts for little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for number in range(-warmup, count):
            start = time.process_time()
            render(number)
            times.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[warmup:])


def _t2(number: int) -> object:
    seeds = Seeds(0, f"benchmark {number}", "mri")
    return mri.render(anatomy.draw(seeds, "pod", "mri"), Adhesion(), seeds)


def _all(number: int) -> object:
    seeds = Seeds(0, f"benchmark {number}", "mri")
    return mri.render(anatomy.draw(seeds, "pod", "mri"), Adhesion(), seeds, mri.MriSettings(SEQUENCES))


def _ct(number: int) -> object:
    seeds = Seeds(0, f"benchmark {number}", "ct")
    return ct.render(anatomy.draw(seeds, "pod", "ct"), Adhesion(), seeds)


def main(quick: bool = False) -> int:
    """Print the rate of T2 volumes against its target, and those of five sequences together and of CT."""
    size = (3, 1) if quick else (24, 3)
    rate = measure(*size)
    five, axial = (1 / _median(render, *size) for render in (_all, _ct))
    print(
        f"simulate_mri ratio={rate / TARGET:.2f} target=1.00 {'ok' if rate >= TARGET else 'missed'} "
        f"({rate:.1f} T2 volumes/s; {five:.1f}/s with five sequences; {axial:.1f} CT volumes of 40 x 192 x 192/s)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))

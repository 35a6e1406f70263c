"""Transvaginal clips that a core simulates per second: 16 frames of 160 x 160, anatomy included, nothing written."""

from __future__ import annotations

import statistics
import sys
import time

import torch

from xmkd.simulate import anatomy
from xmkd.simulate.evidence import Adhesion
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.ultrasound import tvus

TARGET = 10.0  # clips per second and core


def measure(clips: int = 40, warmup: int = 4) -> float:
    """Clips per second of one thread: 1 over the median processor time of one, which waits for no other program.

    Args:
        clips: How many are timed, each of another patient.
        warmup: How many are rendered before, so that banks and tables are made.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for number in range(-warmup, clips):
            start = time.process_time()
            seeds = Seeds(0, f"benchmark {number}", "clip")
            tvus.render_clip(anatomy.draw(seeds, "pod", "tvus"), Adhesion(), seeds)
            times.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return 1 / statistics.median(times[warmup:])


def main(quick: bool = False) -> int:
    """Print the rate against its target."""
    rate = measure(*((3, 1) if quick else ()))
    print(
        f"simulate_us ratio={rate / TARGET:.2f} target=1.00 {'ok' if rate >= TARGET else 'missed'} ({rate:.1f} clips/s)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))

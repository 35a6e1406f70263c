"""Two contenders, one interleaved process: the part that every benchmark shares.

A benchmark is a script of this shape:

    def main(quick: bool = False) -> int:
        race = Race("mae_16", ours=our_step, baseline=their_step, check=same_loss, target=1.20)
        return run_all("mae", [race], packages=("torch", "monai"), quick=quick)

`run_all` checks equal work first, warms up, times the contenders in turn, prints one line per race and adds one row
per race to `benchmarks/results/<benchmark>.csv`. Times depend on the machine; their ratio in one process much less.
"""

from __future__ import annotations

import csv
import gc
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("date", "race", "ratio_min", "ratio_median", "target", "versions", "threads", "machine")


class UnequalWorkError(Exception):
    """The contenders don't do the same work, so that their times can't be compared."""


@dataclass(frozen=True)
class Race:
    """Two contenders for the same work.

    A contender does its whole work before it returns: on a GPU it ends with `torch.cuda.synchronize()`. One that takes
    less than about a millisecond loops inside, else the clock is what is measured.

    Attributes:
        name: Name of the race, unique within its benchmark.
        ours: Our side.
        baseline: The other side.
        check: Called once before any timing; raises (`UnequalWorkError` or an assertion) when the work isn't equal.
            A race can't be made without it.
        target: The ratio to reach; None when the ratio is only reported.
        bound: "at least": the ratio is baseline time over our time (a speed-up). "at most": our time over baseline
            time (an overhead).
        repeats: Timed rounds, at least 9.
        warmup: Rounds that aren't timed.
    """

    name: str
    ours: Callable[[], object]
    baseline: Callable[[], object]
    check: Callable[[], object]
    target: float | None = None
    bound: Literal["at least", "at most"] = "at least"
    repeats: int = 9
    warmup: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 9:
            raise ValueError(f"race {self.name}: {self.repeats} rounds are too few; repeat at least 9 times")


@dataclass(frozen=True)
class Outcome:
    """What a race measured: one ratio per round, seconds per side and round."""

    race: Race
    ours_s: tuple[float, ...]
    baseline_s: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """One ratio per round; the two sides of a round ran one after the other, under the same load."""
        pairs = zip(self.ours_s, self.baseline_s, strict=True)
        if self.race.bound == "at least":
            return tuple(baseline / ours for ours, baseline in pairs)
        return tuple(ours / baseline for ours, baseline in pairs)

    @property
    def ratio_min(self) -> float:
        return min(self.ratios)

    @property
    def ratio_median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> Literal["ok", "missed", "reported"]:
        """The median ratio against the target."""
        target = self.race.target
        if target is None:
            return "reported"
        reached = self.ratio_median >= target if self.race.bound == "at least" else self.ratio_median <= target
        return "ok" if reached else "missed"

    def line(self) -> str:
        """The closing line: `NAME ratio=1.31 target=1.20 ok`."""
        target = "none" if self.race.target is None else f"{self.race.target:.2f}"
        return f"{self.race.name} ratio={self.ratio_median:.2f} target={target} {self.verdict}"

    def details(self) -> str:
        """Minimum and median ratio, and the median time of either side."""
        ours, baseline = (1e3 * statistics.median(times) for times in (self.ours_s, self.baseline_s))
        return (
            f"{self.race.name}: ratio min {self.ratio_min:.2f} median {self.ratio_median:.2f} over {len(self.ours_s)} "
            f"rounds; ours {ours:.2f} ms, baseline {baseline:.2f} ms"
        )


def run_race(race: Race, *, quick: bool = False) -> Outcome:
    """Check equal work, warm up, then time the contenders in turn.

    Args:
        race: The race.
        quick: One round without warm-up, to see that the race still runs; its ratio means nothing.

    Raises:
        UnequalWorkError: The race's check failed.
    """
    try:
        race.check()
    except AssertionError as error:
        raise UnequalWorkError(f"race {race.name}: the contenders don't do equal work: {error}") from error
    for _ in range(0 if quick else race.warmup):
        race.ours()
        race.baseline()
    ours: list[float] = []
    baseline: list[float] = []
    for turn in range(1 if quick else race.repeats):
        sides = [(race.ours, ours), (race.baseline, baseline)]
        if turn % 2:  # who goes first alternates, so that neither always inherits the other's warm cache or clock
            sides.reverse()
        for contender, times in sides:
            times.append(_seconds(contender))
    return Outcome(race, tuple(ours), tuple(baseline))


def run_all(benchmark: str, races: Sequence[Race], *, packages: Sequence[str] = (), quick: bool = False) -> int:
    """Run the races, print one line for each at the end and record them in `results/<benchmark>.csv`.

    Args:
        benchmark: Name of the benchmark and of its CSV.
        races: The races, run one after the other.
        packages: Distributions whose versions matter here; Python and numpy are always named.
        quick: A short run that only shows that the races work; nothing is recorded.

    Returns:
        0: a missed target is a result, not an error.
    """
    outcomes = []
    for race in races:
        outcomes.append(run_race(race, quick=quick))
        print(outcomes[-1].details(), flush=True)
    if not quick:
        record(benchmark, outcomes, packages)
    for outcome in outcomes:
        print(outcome.line(), flush=True)
    return 0


def record(benchmark: str, outcomes: Sequence[Outcome], packages: Sequence[str] = ()) -> Path:
    """Add one row per race to the benchmark's CSV, so that the file keeps its history."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{benchmark}.csv"
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS)
        for outcome in outcomes:
            race = outcome.race
            target = "" if race.target is None else f"{'>=' if race.bound == 'at least' else '<='} {race.target:g}"
            ratios = (f"{outcome.ratio_min:.3f}", f"{outcome.ratio_median:.3f}")
            row = (today(), race.name, *ratios, target, versions(packages), threads(), machine())
            writer.writerow(row)
    return path


def today() -> str:
    """Today's date (UTC), as 2026-01-31."""
    return datetime.now(UTC).date().isoformat()


def versions(packages: Sequence[str]) -> str:
    """Python, numpy and the named distributions, as `python 3.11.2; numpy 2.4.6`."""
    names = dict.fromkeys(("numpy", *packages))
    return "; ".join([f"python {platform.python_version()}", *(f"{n} {importlib.metadata.version(n)}" for n in names)])


def threads() -> int:
    """Threads that one operation may use: torch's own count where torch is loaded, else OMP's, else the cores."""
    if "torch" in sys.modules:
        import torch

        return torch.get_num_threads()
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def machine() -> str:
    """Processor, number of cores and GPU, without the name of the host."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    parts = [f"{name} x{os.cpu_count()}"]
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name())
    return " + ".join(parts)


def _seconds(contender: Callable[[], object]) -> float:
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()  # a collection of one side's garbage must not fall into the other side's time
    try:
        start = time.perf_counter()
        contender()
        return time.perf_counter() - start
    finally:
        if was_enabled:
            gc.enable()

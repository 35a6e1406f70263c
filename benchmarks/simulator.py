"""The simulator: how fast it renders, how much memory it takes, and whether its pictures obey the physics they claim.

Rates are of processor time on one core, so that what else runs on the machine counts for little; the end-to-end rate
is of wall time with all files written. One row per figure in `benchmarks/results/simulator.csv`.
"""

from __future__ import annotations

import csv
import operator
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks._race import RESULTS
from xmkd.simulate import anatomy, ct, mri, mri_validate, plan
from xmkd.simulate.evidence import Adhesion
from xmkd.simulate.examination import examine
from xmkd.simulate.mr_protocol import SEQUENCES
from xmkd.simulate.pool import KEEPING_MEMORY
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.spec import load
from xmkd.simulate.ultrasound import tvus, validate

COHORT = Path(__file__).parents[1] / "experiments" / "cohorts" / "pod_demo.yaml"
COLUMNS = ("date", "name", "value", "target", "verdict", "machine", "torch")

# Figures with a target; "least" and "most" say on which side of it they have to lie.
TARGETS: dict[str, tuple[str, float]] = {
    "tvus clips per second and core": ("least", 10.0),
    "T2 volumes per second and core": ("least", 3.0),
    "memory of a process, tvus clips (GB)": ("most", 1.0),
    "memory of a process, patients with five MR sequences (GB)": ("most", 1.0),
    "memory of a process, CT volumes (GB)": ("most", 1.0),
    "speckle KS distance": ("most", 0.05),
    "attenuation, largest relative error": ("most", 0.10),
    "geometry error mm, largest": ("most", 1e-3),
}


def clip(number: int) -> object:
    """A clip of 16 x 160 x 160, anatomy included."""
    seeds = Seeds(0, f"benchmark {number}", "clip")
    return tvus.render_clip(anatomy.draw(seeds, "pod", "tvus"), Adhesion(), seeds)


def t2(number: int) -> object:
    """A T2 volume of 24 x 192 x 192."""
    return _mri(number, ("t2_sag",))


def sequences(number: int) -> object:
    """All five sequences of that size."""
    return _mri(number, SEQUENCES)


def _mri(number: int, wanted: tuple[mri.Sequence, ...]) -> object:
    seeds = Seeds(0, f"benchmark {number}", "mri")
    return mri.render(anatomy.draw(seeds, "pod", "mri"), Adhesion(), seeds, sequences=wanted)


def axial(number: int) -> object:
    """A CT volume."""
    seeds = Seeds(0, f"benchmark {number}", "ct")
    return ct.render(anatomy.draw(seeds, "pod", "ct"), Adhesion(), seeds)


def rate(render: Callable[[int], object], count: int, warmup: int = 3) -> float:
    """How many a core renders per second: 1 over the median processor time, each of another patient.

    Args:
        render: Renders the patient of a number.
        count: How many are timed.
        warmup: How many are rendered before, so that banks and tables are made.
    """
    times = []
    for number in range(-warmup, count):
        start = time.process_time()
        render(number)
        times.append(time.process_time() - start)
    return 1 / statistics.median(times[warmup:])


def in_a_process(name: str, count: int) -> tuple[float, float]:
    """Rate of a function of this module, and the largest memory in GB, in a process like those of a cohort."""
    code = (
        "import torch; torch.set_num_threads(1); import benchmarks.simulator as s\n"
        f"print(s.rate(s.{name}, {count}))\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=COHORT.parents[2],
        env={**os.environ, **KEEPING_MEMORY},
        capture_output=True,
        text=True,
        check=True,
    )
    per_second, kilobytes = done.stdout.split()
    return float(per_second), int(kilobytes) * 1024 / 1e9


def end_to_end(part: str, count: int) -> float:
    """Examinations of the demo cohort per second and process, wall time, files written."""
    spec = load(COHORT, ["visibility={tvus: 1.4, mri: 0.7}"])
    patients = plan.patients(spec, part)[: count + 1]
    with tempfile.TemporaryDirectory() as folder:
        starts = []
        for patient in patients:
            starts.append(time.perf_counter())
            examine(spec, patient, Path(folder) / patient.id)
    return count / (time.perf_counter() - starts[1])


def measure(quick: bool) -> dict[str, float]:
    """Every figure, by name."""
    few, found = 3 if quick else 40, {}
    for what, name, count in (
        ("tvus clips", "clip", few),
        ("T2 volumes", "t2", max(2, few // 2)),
        ("patients with five MR sequences", "sequences", max(2, few // 4)),
        ("CT volumes", "axial", max(2, few // 8)),
    ):
        found[f"{what} per second and core"], found[f"memory of a process, {what} (GB)"] = in_a_process(name, count)
    found |= {
        "tvus examinations per second and process, with files": end_to_end("tvus", few),
        "T2 examinations per second and process, with files": end_to_end("mri", max(2, few // 2)),
    }
    with torch.inference_mode():
        physics = validate.report()
    slopes = {name: value for name, value in physics.items() if name.startswith("attenuation read off for")}
    errors = [abs(value / float(name.split()[4]) - 1) for name, value in slopes.items()]
    found |= physics | {"attenuation, largest relative error": max(errors)}
    return found | mri_validate.summary(4 if quick else 24)


def main(quick: bool = False) -> int:
    """Print all figures, those with a target last, and record them unless `quick`."""
    found, verdicts = measure(quick), {}
    for name, (side, target) in TARGETS.items():
        reached = (operator.ge if side == "least" else operator.le)(found[name], target)
        verdicts[name] = "ok" if reached else "missed"
    for name, value in found.items():
        print(f"{name}: {value:.4g}")
    for name, verdict in verdicts.items():
        print(f"simulator: {name} {found[name]:.4g} target={TARGETS[name][1]:g} {verdict}")
    if not quick:
        _record(found, verdicts)
    return 0


def _record(found: dict[str, float], verdicts: dict[str, str]) -> None:
    path = RESULTS / "simulator.csv"
    is_new = not path.exists()
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS)
        for name, value in found.items():
            target = TARGETS[name][1] if name in TARGETS else ""
            row = (date, name, f"{value:.4g}", target, verdicts.get(name, ""), platform.machine(), torch.__version__)
            writer.writerow(row)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))

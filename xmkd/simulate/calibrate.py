"""Solve for the difficulty of a cohort: the visibility at which the oracle's AUROC is what it is to be.

0.97 for ultrasound and 0.88 for MRI, each to within 0.005. The same reserved patients with the same seeds are drawn at
every visibility, so that the AUROC rises smoothly with it; the first steps take few of them, the last all. Every
measurement is kept in a folder: an interrupted calibration goes on, and a cohort that looks alike takes no new picture.
No method is ever looked at here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from xmkd.data.limits import Limit
from xmkd.errors import ConfigError
from xmkd.evaluation.statistics import Interval
from xmkd.files import writing
from xmkd.simulate.ceilings import PATIENTS, latent_ceiling, spearman
from xmkd.simulate.lock import (
    FORMAT,
    Difficulty,
    Lock,
    calibrated,
    path_of,
    read,
    simulator_hash,
    specification_hash,
    view,
    write,
)
from xmkd.simulate.oracle import Oracle, judge, measurements, reserved
from xmkd.simulate.output import write_file
from xmkd.simulate.plan import DISEASE, Patient
from xmkd.simulate.pool import Pool, available
from xmkd.simulate.spec import CohortSpec, Modality, load

TARGETS: dict[Modality, float] = {"tvus": 0.97, "mri": 0.88}
TOLERANCE = 0.005
SIZES = (800, 3200, 8000)  # reserved patients of successive steps; half are fitted on, half scored
HIGHEST = 4.0  # visibility; beyond it every sign is at the end of its range
STEPS = (1.05, 1.5)  # least and most by which a visibility that is too low is raised, until one is too high
MOST_STEPS = 24
FEWEST = 400
DIGITS = 3  # of a visibility
CHUNK = 40  # patients between two writes to the folder

Measure = Callable[[CohortSpec, Modality, float, Patient], dict[str, float]]
"""Draws one reserved patient at a visibility and measures what is drawn; a function of a module."""
Report = Callable[[str], None]
Row = dict[str, float]


@dataclass(frozen=True)
class Point:
    """One evaluation of the oracle."""

    visibility: float
    auroc: float


@dataclass(frozen=True)
class Workshop:
    """Draws and measures reserved patients, and keeps what it measured.

    Attributes:
        spec: The cohort; its own visibilities are not looked at.
        measure: Draws and measures.
        folder: For the measurements.
        pool: Processes.
        report: Told of every step.
    """

    spec: CohortSpec
    measure: Measure
    folder: Path
    pool: Pool
    report: Report = print

    def oracle(self, modality: Modality, visibility: float, size: int) -> Oracle:
        """The oracle on the first reserved patients."""
        oracle = judge(self.table(modality, visibility, size))
        self.report(f"{modality}: visibility {visibility:g} on {size} patients: oracle {oracle.auroc}")
        return oracle

    def solved(self, modality: Modality, target: float, size: int) -> float | None:
        """A visibility that was found to reach the target for a cohort of the same pictures."""
        for file in sorted(self._folder(modality).glob("*.jsonl")):
            if len(_kept(file)) >= size:
                visibility = float(file.stem)
                if abs(judge(self.table(modality, visibility, size)).auroc.value - target) <= TOLERANCE:
                    return visibility
        return None

    def table(self, modality: Modality, visibility: float, size: int) -> pd.DataFrame:
        """Measurements of the first reserved patients, a row each: `number`, `ill` and the measurements."""
        file = self._folder(modality) / f"{visibility:.{DIGITS}f}.jsonl"
        rows = _kept(file)
        missing = [p for p in reserved(self.spec, modality, size) if p.number not in rows]
        job = partial(_row, self.measure, self.spec, modality, visibility)
        fresh: list[Row] = []
        for done, row in enumerate(self.pool.run(job, missing), 1):
            fresh.append(row)
            rows[int(row["number"])] = row
            if done % CHUNK == 0 or done == len(missing):
                _keep(file, fresh)
                fresh = []
            if done % 400 == 0:
                self.report(f"{modality}: visibility {visibility:g}: {done} of {len(missing)} drawn and measured")
        return pd.DataFrame([rows[number] for number in range(size)])

    def _folder(self, modality: Modality) -> Path:
        return self.folder / f"{modality}_{key(self.spec, modality)}"


def make_lock(
    path: Path,
    work: Path,
    *,
    overrides: Sequence[str] | None = None,
    patients: int = SIZES[-1],
    workers: int | None = None,
    monte_carlo: int = PATIENTS,
    report: Report = print,
) -> tuple[Path, Lock]:
    """Calibrate a cohort and write its lock beside its specification.

    Args:
        path: The specification.
        work: Folder for measurements, shared by all cohorts.
        overrides: `key.sub=value` words of the command line; none are taken.
        patients: Number of reserved patients: half are fitted on, half scored.
        workers: Number of processes; default: one per core.
        monte_carlo: Patients of the latent ceiling.
        report: Told of every step.

    Raises:
        ConfigError: The specification is wrong, has nothing to calibrate, or no visibility reaches a target.
        RunError: A folder can't be written, or a process died.
    """
    if overrides:
        raise ConfigError(
            "a lock is of a specification as its file has it, without changes from the command line",
            where=" ".join(overrides),
            fixes=("write them into a file of its own with base:", "leave them out"),
        )
    if patients < FEWEST or patients % 4:
        raise ConfigError(
            f"calibration needs {FEWEST} reserved patients or more, a multiple of four",
            where=f"--reserved {patients}",
            fixes=(f"use {SIZES[-1]}", "use 4000 where time is short"),
        )
    spec, place = load(path), path_of(path)
    sizes = [*(n for n in SIZES if 2 * n <= patients), patients]
    start: dict[str, float] = {}
    if place.is_file():
        with suppress(ConfigError):  # a damaged lock is replaced
            start = read(place).visibility
    with Pool(available() if workers is None else workers) as pool:
        found = calibrate(
            Workshop(spec, measurements, work, pool, report), start=start, sizes=sizes, monte_carlo=monte_carlo
        )
    write(found, place)
    report(f"{place}: {found.hash}")
    return place, found


def calibrate(
    shop: Workshop,
    *,
    start: Mapping[str, float] | None = None,
    sizes: Sequence[int] = SIZES,
    monte_carlo: int = PATIENTS,
) -> Lock:
    """Solve all modalities of a cohort and compute what belongs into its lock.

    Args:
        shop: Draws and measures.
        start: Visibilities of an earlier lock, from which to start.
        sizes: Reserved patients of successive steps, multiples of four.
        monte_carlo: Patients of the latent ceiling.

    Raises:
        ConfigError: The cohort has nothing to calibrate, or no visibility reaches a target.
    """
    spec = shop.spec
    disease, modalities = DISEASE[spec.cohort], calibrated(spec)
    if not modalities:
        raise ConfigError(
            f"a cohort of kind {spec.cohort} has no label whose difficulty could be solved for",
            where=spec.name,
            fixes=("give visibility: {...} in the specification", "calibrate a pod or a carcinoma cohort"),
        )
    sites = spec.sites if "test" in spec.sites.confounded else None
    visibility: dict[str, float] = {}
    found: dict[str, Difficulty] = {}
    for modality in modalities:
        best = partial(latent_ceiling, disease, modality, sites=sites, seed=spec.seed)
        target = TARGETS[modality]
        known = shop.solved(modality, target, sizes[-1]) or (start or {}).get(modality)
        first = known or 1.15 * lowest(partial(best, patients=min(20_000, monte_carlo)), target)
        near = 2.0 if known else 0.5
        value, oracle = solve(partial(shop.oracle, modality), target, first, sizes=sizes, near=near, name=modality)
        ceiling = best(value, patients=monte_carlo)
        shop.report(f"{modality}: solved: visibility {value:g}, oracle {oracle.auroc}, latent ceiling {ceiling}")
        visibility[modality] = value
        found[modality] = Difficulty(target, _figure(oracle.auroc), oracle.fitted, _figure(ceiling), oracle.weights)
    both = [(m, visibility[m]) for m in modalities]
    ranks = spearman(disease, both[0], both[1], spec.rho, patients=monte_carlo, seed=spec.seed) if both[1:] else {}
    code, wanted = simulator_hash(), specification_hash(spec)
    return Lock(FORMAT, spec.name, wanted, code, spec.seed, spec.rho, visibility, found, ranks)


def solve(
    examine: Callable[[float, int], Oracle],
    target: float,
    start: float,
    *,
    sizes: Sequence[int] = SIZES,
    near: float = 0.5,
    name: str = "",
) -> tuple[float, Oracle]:
    """The visibility at which the oracle's AUROC is the target, by bisection on more and more patients.

    Each number of patients starts from the solution of the smaller one.

    Args:
        examine: The oracle at a visibility, on a number of patients.
        target: AUROC to reach.
        start: The first visibility to try.
        sizes: Numbers of patients.
        near: How near is near enough on all but the last of them, in standard errors.
        name: The modality, for messages.

    Raises:
        ConfigError: No visibility reaches the target.
    """
    guess, oracle = min(start, HIGHEST), None
    for size in sizes:
        chance = 0.0 if size == sizes[-1] else near * _standard_error(target, size // 4)
        guess, oracle = _bisect(partial(_at, examine, size), target, guess, max(TOLERANCE, chance), name)
    if oracle is None:
        raise ValueError("no number of patients to solve on")
    return guess, oracle


def _at(examine: Callable[[float, int], Oracle], size: int, visibility: float) -> Oracle:
    return examine(visibility, size)


def _bisect(
    examine: Callable[[float], Oracle], target: float, guess: float, near: float, name: str
) -> tuple[float, Oracle]:
    """One bisection; points are placed by interpolation of probits but never close to an end of the bracket."""
    low, high, best = Point(0.0, 0.5), None, 0.0
    for _ in range(MOST_STEPS):
        guess = round(min(guess, HIGHEST), DIGITS)
        oracle = examine(guess)
        value = oracle.auroc.value
        best = max(best, value)
        if abs(value - target) <= near:
            return guess, oracle
        if value < target:
            low = Point(guess, value)
        else:
            high = Point(guess, value)
        if high is None and guess == HIGHEST:
            break
        guess = _above(low, target) if high is None else _between(low, high, target)
    raise ConfigError(
        f"no visibility up to {HIGHEST:g} brings the oracle to an AUROC of {target:g}; the best was {best:.3f}",
        where=name,
        fixes=("let the measurements see more of the evidence", "draw it so that it can be seen, or give more pixels"),
    )


def _above(low: Point, target: float) -> float:
    """Where the target should lie if the probit of the AUROC rises in proportion to the visibility."""
    factor = _probit(target) / max(_probit(low.auroc), 1e-3)
    return low.visibility * float(np.clip(factor, *STEPS))


def _between(low: Point, high: Point, target: float) -> float:
    a, b, aim = (_probit(v) for v in (low.auroc, high.auroc, target))
    share = 0.5 if b <= a else (aim - a) / (b - a)
    return low.visibility + float(np.clip(share, 0.15, 0.85)) * (high.visibility - low.visibility)


def _probit(auroc: float) -> float:
    return float(stats.norm.ppf(np.clip(auroc, 1e-3, 1 - 1e-3)))


def _standard_error(auroc: float, each: int) -> float:
    """Of an AUROC with so many patients in each class (Hanley and McNeil 1982)."""
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (each - 1) * (q1 + q2 - 2 * auroc**2)
    return float(np.sqrt(variance) / each)


def lowest(ceiling: Callable[[float], Interval], target: float) -> float:
    """The visibility at which even the best model would only just reach a target, to three digits."""
    low, high = 0.0, HIGHEST
    while high - low > 10**-DIGITS:
        middle = (low + high) / 2
        low, high = (middle, high) if ceiling(middle).value < target else (low, middle)
    return round(high, DIGITS)


def key(spec: CohortSpec, modality: Modality) -> str:
    """Names measurements by all that they depend on, but for the visibility."""
    text = json.dumps([view(spec, modality), spec.seed, simulator_hash()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _row(measure: Measure, spec: CohortSpec, modality: Modality, visibility: float, patient: Patient) -> Row:
    return {"number": patient.number, "ill": int(patient.ill), **measure(spec, modality, visibility, patient)}


def _keep(file: Path, rows: Sequence[Row]) -> None:
    with writing(file, "--work FOLDER"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)


def _kept(file: Path) -> dict[int, Row]:
    """Rows of an earlier call; a last line that was cut off is taken away."""
    if not file.is_file():
        return {}
    whole, _, rest = file.read_text().rpartition("\n")
    if rest:
        write_file(file, f"{whole}\n".encode())
    rows = [json.loads(line) for line in whole.splitlines() if line]
    return {int(row["number"]): row for row in rows}


def _figure(interval: Interval) -> Limit:
    low, high = (interval.value if bound is None else bound for bound in (interval.low, interval.high))
    return Limit(interval.value, low, high, interval.patients)

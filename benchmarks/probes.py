"""Shortcut probes of the simulated cohorts: the same patients examined ill and healthy, 400 per part.

No race: the lines at the end give the AUROC that is furthest from one half where others give a ratio, how many of the
names, sizes and headers differ between ill and healthy, and the trivial baselines of a carcinoma cohort. Writes
`benchmarks/results/probes.csv`, one row per cohort, part and probe; rows of other cohorts stay. A cohort that has not
been calibrated yet is examined at visibility 1.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from benchmarks import _race
from xmkd.simulate import cohort, plan, probes
from xmkd.simulate.examination import examine
from xmkd.simulate.lock import path_of
from xmkd.simulate.pool import Pool, available
from xmkd.simulate.spec import FROM_LOCK, CohortSpec, Patients, load, modality_of

COHORTS = Path(__file__).parents[1] / "experiments" / "cohorts"
PARTS = ("tvus", "mri")
PATIENTS, PLANNED = 400, 4000


def main(quick: bool = False, specs: tuple[Path, ...] = (), patients: int = PATIENTS, workers: int = 0) -> int:
    """Probe the demo cohorts of both diseases; `quick` examines 12 patients per part and records nothing.

    Args:
        quick: Only to see that it runs.
        specs: Other cohorts.
        patients: Examined twice each, per part.
        workers: Number of processes; 0 for one per core.

    Returns:
        0: a shortcut is a result, not an error.
    """
    found, lines = [], []
    with Pool(workers or available()) as pool:
        for path in specs or (COHORTS / "pod_demo.yaml", COHORTS / "carcinoma_demo.yaml"):
            spec = _ready(path)
            for part in (name for name in PARTS if name in spec.parts()):
                audited = probes.audit(spec, part, 12 if quick else patients, pool, examine)
                audited += probes.planned(spec, part, _planned(spec, part))
                print(f"{spec.name} {part} at visibility {spec.visibility}\n{probes.text(audited)}\n", flush=True)
                found.append(probes.frame(audited).assign(cohort=spec.name, part=part))
                lines.append(_line(spec, part, audited))
    if not quick:
        record(pd.concat(found).assign(date=_race.today(), versions=_race.versions(("torch", "scipy"))))
    print("\n".join(lines))
    return 0


def record(rows: pd.DataFrame, name: str = "probes.csv") -> None:
    """Put rows into a table of results, in place of those of the same cohorts."""
    path = _race.RESULTS / name
    if path.is_file():
        old = pd.read_csv(path, dtype={"differ": "Int64"})
        rows = pd.concat([old[~old["cohort"].isin(rows["cohort"])], rows])[list(rows.columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(path, index=False)


def _ready(path: Path) -> CohortSpec:
    spec = load(path)
    if spec.visibility != FROM_LOCK or path_of(path).is_file():
        return cohort.load(path)
    return replace(spec, visibility={modality_of(name): 1.0 for name in spec.parts()})


def _planned(spec: CohortSpec, part: str) -> list[plan.Patient]:
    many = replace(spec, **{part: replace(spec.parts()[part], patients=Patients(train=4, test=PLANNED))})  # type: ignore[arg-type]
    return [p for p in plan.patients(many, part) if p.split == "test"]


def _line(spec: CohortSpec, part: str, audited: list[probes.Probe]) -> str:
    scored = [(p, p.auroc.value) for p in audited if p.verdict and p.auroc]
    worst, value = max(scored, key=lambda one: abs(one[1] - 0.5))
    exact = [p for p in audited if p.auroc is None]
    differ = sum(p.verdict != "ok" for p in exact)
    verdict = "missed" if any(p.verdict == "SHORTCUT" for p in audited) else "ok"
    limits, name = f"{probes.LOWEST:.2f}..{probes.HIGHEST:.2f}", f"probes_{spec.name}_{part}"
    line = f"{name} ratio={value:.3f} target={limits} {verdict} ({worst.name})"
    lines = [f"{line}; {differ} of {len(exact)} names, sizes and headers differ"]
    if plan.DISEASE[spec.cohort] == "carcinoma":
        lines += [f"{name} {p.name} alone: {p.auroc}" for p in audited if probes.BASELINE in p.name]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", type=Path, help="files of experiments/cohorts/")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.quick, tuple(given.specs), given.patients, given.workers))

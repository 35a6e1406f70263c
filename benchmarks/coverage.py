"""Coverage of the AUROC intervals at 10 to 120 patients: 2,000 simulated sets each, correlated images.

No race: the lines at the end give the default method's coverage where others give a ratio. Writes
`benchmarks/results/coverage.csv`, one row per setting, number of patients and method, and `coverage_metrics.csv`
for the other metrics (1,000 sets).
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np

from benchmarks import _race
from xmkd.evaluation import coverage

TARGET = 0.94


def main(quick: bool = False) -> int:
    """Run the study; `quick` draws 100 sets with 200 resamples and records nothing."""
    sets, resamples = (100, 200) if quick else (2000, 2000)
    table = coverage.run(sets, resamples=resamples, report=partial(print, flush=True))
    metrics = coverage.run_metrics(sets // 2, resamples=resamples // 2, report=partial(print, flush=True))
    if not quick:
        _race.RESULTS.mkdir(parents=True, exist_ok=True)
        for name, found in (("coverage", table), ("coverage_metrics", metrics)):
            stamped = found.assign(date=_race.today(), versions=_race.versions(("scipy",)), machine=_race.machine())
            stamped.to_csv(_race.RESULTS / f"{name}.csv", index=False)
    default = table[table["method"] == coverage.DEFAULT]
    for setting, patients, share in default[["setting", "patients", "coverage"]].to_numpy().tolist():
        name = f"coverage_{setting.replace(' ', '_')}_{patients}"
        if np.isnan(share):
            print(f"{name} ratio=none target={TARGET:.2f} no interval given")
        else:
            print(f"{name} ratio={share:.3f} target={TARGET:.2f} {'ok' if share >= TARGET else 'missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv))

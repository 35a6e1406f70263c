"""The latent ceiling of every disease and modality against visibility: 200,000 patients each, no pictures.

No race: a line of AUROCs where others give a ratio. Writes `benchmarks/results/ceilings.csv`, one row per disease,
modality and visibility.
"""

from __future__ import annotations

import sys
from itertools import product

import pandas as pd

from benchmarks import _race
from xmkd.simulate.ceilings import PATIENTS, latent_ceiling
from xmkd.simulate.latent import Disease
from xmkd.simulate.lock import CALIBRATED

VISIBILITIES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
DISEASES: tuple[Disease, ...] = ("pod", "carcinoma")


def main(quick: bool = False) -> int:
    """Compute all of them; `quick` draws 2,000 patients and records nothing."""
    rows = []
    for disease, modality in product(DISEASES, CALIBRATED):
        found = [latent_ceiling(disease, modality, v, patients=2000 if quick else PATIENTS) for v in VISIBILITIES]
        rows += [
            {"disease": disease, "modality": modality, "visibility": v, "auroc": i.value, "low": i.low,
             "high": i.high, "patients": i.patients} for v, i in zip(VISIBILITIES, found, strict=True)
        ]  # fmt: skip
        said = ", ".join(f"{i.value:.3f} at {v:g}" for v, i in zip(VISIBILITIES, found, strict=True))
        print(f"ceiling_{disease}_{modality} {said}", flush=True)
    if not quick:
        _race.RESULTS.mkdir(parents=True, exist_ok=True)
        stamped = pd.DataFrame(rows).round(6).assign(date=_race.today(), versions=_race.versions(("scipy",)))
        stamped.to_csv(_race.RESULTS / "ceilings.csv", index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv))

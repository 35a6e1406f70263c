"""Race: the clustered bootstrap of the AUROC against a loop over scikit-learn, 2,000 resamples of whole patients.

Both sides draw the same resamples from the same seed and must give the same 2,000 values to 1e-12. The loop gathers
the rows of a resample, which is faster than passing them as sample weights.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks._race import Race, UnequalWorkError, run_all
from xmkd.evaluation.coverage import ICC
from xmkd.evaluation.inputs import FloatArray, IntArray
from xmkd.evaluation.resampling import clustered_bootstrap, resample_counts

SIZES = ((300, 60, 80.0), (1500, 75, None), (5000, 800, None))  # images, patients, target
RESAMPLES = 2000
TOLERANCE = 1e-12


def draw_set(images: int, patients: int, seed: int = 0) -> tuple[IntArray, FloatArray, IntArray]:
    """Labels, scores and patients `(images,)`: 30 % of the patients positive, images of a patient correlated."""
    rng = np.random.default_rng(seed)
    patient = np.sort(rng.permutation(np.arange(images) % patients))
    label = (patient < 0.3 * patients).astype(np.intp)
    shift = 1.4657 * label  # sqrt(2) * Phi^-1(0.85): the AUROC of the coverage study
    score = shift + np.sqrt(ICC) * rng.normal(size=patients)[patient] + np.sqrt(1 - ICC) * rng.normal(size=images)
    return label, score, patient


def ours(label: IntArray, score: FloatArray, patient: IntArray, resamples: int) -> FloatArray:
    """Our side: all resamples at once."""
    return clustered_bootstrap("auroc", label, score, patient, resamples, seed=1).replicates


def loop(label: IntArray, score: FloatArray, patient: IntArray, resamples: int) -> FloatArray:
    """The other side: one call of scikit-learn per resample."""
    counts = resample_counts(label, patient, resamples, seed=1)
    values = []
    for row in counts:
        drawn = np.repeat(np.arange(label.size), row[patient].astype(np.intp))
        values.append(roc_auc_score(label[drawn], score[drawn]))
    return np.array(values)


def same_values(label: IntArray, score: FloatArray, patient: IntArray, resamples: int) -> None:
    """Both sides give the same values.

    Raises:
        UnequalWorkError: They don't.
    """
    worst = float(np.abs(ours(label, score, patient, resamples) - loop(label, score, patient, resamples)).max())
    if worst > TOLERANCE:
        raise UnequalWorkError(f"replicates differ by {worst:.2g}, more than {TOLERANCE:g}")


def main(quick: bool = False) -> int:
    """Race at three sizes; `quick` takes 50 resamples once and records nothing."""
    races = []
    for images, patients, target in SIZES:
        data = draw_set(images, patients)
        resamples = 50 if quick else RESAMPLES
        races.append(
            Race(
                # the headline race carries the benchmark's own name
                "bootstrap" if target else f"bootstrap_{images}_{patients}",
                ours=partial(ours, *data, resamples),
                baseline=partial(loop, *data, resamples),
                check=partial(same_values, *data, resamples),
                target=target,
            )
        )
    return run_all("bootstrap", races, packages=("scikit-learn", "scipy"), quick=quick)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv))

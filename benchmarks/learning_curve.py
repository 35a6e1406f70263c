"""How the ultrasound teacher learns: AUROC against the number of training patients, with the oracle's line.

Simulates the pod cohort with 1,000 test patients, then trains the teacher of `experiments/teacher_pod.yaml` on nested
sets of patients; beside it the same network on a single frame, and the 3D network that gets frames alone. Every run is
resumable, so is the whole. Writes `benchmarks/results/learning_curve.csv` and `docs/figures/learning_curve.png`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from benchmarks._race import RESULTS
from xmkd import config, training
from xmkd.data import manifest as manifests
from xmkd.simulate import cohort
from xmkd.simulate.examination import examine

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "experiments" / "cohorts" / "pod_demo.yaml"
FOLDER = Path("runs/cohorts/pod_curve")
FIGURE = ROOT / "docs" / "figures" / "learning_curve.png"
TEST = 1000


@dataclass(frozen=True)
class Arm:
    """One teacher.

    Attributes:
        name: In table and figure.
        patients: Numbers of training patients.
        overrides: Its settings.
    """

    name: str
    patients: tuple[int, ...]
    overrides: tuple[str, ...] = ()


ARMS = (
    Arm("clips, motion maps", (50, 100, 200, 400)),
    Arm("single frame", (400,), ("method.clip_frames=1",)),
    Arm("clips, 3D network", (400,), ("method.backbone=small",)),
)


def main(quick: bool = False) -> int:
    """Run what is missing and write table and figure; `quick` trains two epochs on few patients and records nothing."""
    test, folder = (40, Path("runs/cohorts/pod_curve_quick")) if quick else (TEST, FOLDER)
    words = [f"tvus.patients.test={test}", *(["tvus.patients.train=60", "tvus.patients.val=40"] if quick else [])]
    for part in cohort.simulate(cohort.load(SPEC, words), folder, examine, only="tvus"):
        print(part.text())
    manifest = folder / "pod_tvus.csv"
    card = manifests.load(manifest).card
    rows = []
    for arm in ARMS:
        for patients in (20,) if quick else arm.patients:
            rows.append(_row(manifest, arm, patients, ("trainer.max_epochs=2",) if quick else ()))
            print(f"learning_curve: {rows[-1]}", flush=True)
    table = pd.DataFrame(rows).assign(date=datetime.now(UTC).strftime("%Y-%m-%d"), lock=card.lock)
    if not quick:
        table.to_csv(RESULTS / "learning_curve.csv", index=False)
        draw(table, {name: limit.auroc for name, limit in card.labels["pod"].limits.items()}, FIGURE)
    return 0


def _row(manifest: Path, arm: Arm, patients: int, more: tuple[str, ...]) -> dict[str, object]:
    words = [f"data.streams.tvus.manifest={manifest}", f"data.streams.tvus.train_patients={patients}"]
    experiment = config.load(ROOT / "experiments" / "teacher_pod.yaml", [*words, *arm.overrides, *more])
    found = training.fit(experiment).summary()["metrics"]["auroc"]
    figures = {key: round(found[key], 4) for key in ("value", "low", "high") if found[key] is not None}
    return {
        "arm": arm.name,
        "patients": patients,
        "seed": experiment.seed,
        **figures,
        "test_patients": found["patients"],
    }


def draw(table: pd.DataFrame, limits: dict[str, float], path: Path) -> None:
    """The curve of each arm with its intervals, and the cohort's limits as lines."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.2, 4.0), layout="constrained")
    for marker, (name, rows) in zip("osD^", table.groupby("arm", sort=False), strict=False):
        bars = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        axes.errorbar(rows["patients"], rows["value"], bars, fmt=f"{marker}-", capsize=3, label=str(name))
    for style, (name, auroc) in zip(("--", ":"), limits.items(), strict=False):
        axes.axhline(auroc, color="0.4", linestyle=style, linewidth=1)
        axes.annotate(f"{name} {auroc:.3f}", (50, auroc), xytext=(0, 3), textcoords="offset points", fontsize=8)
    axes.axhline(0.5, color="0.8", linewidth=1)
    axes.set(xscale="log", xlabel="training patients", ylabel="AUROC, 1,000 test patients", ylim=(0.4, 1.03))
    axes.set_xticks([50, 100, 200, 400], ["50", "100", "200", "400"])
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0.88), fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))

"""The main figure of the controls, AUROC against the number of labelled MRI with a line per arm; and it as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
from scipy import stats

from xmkd.files import in_one_step

# Colour-blind safe (Okabe and Ito 2008); what is compared in the verdict is drawn thick.
STYLE: dict[str, tuple[str, str, float]] = {
    "scratch": ("#999999", "-", 1.5),
    "ptm": ("#000000", "-", 2.2),
    "kd_without_mae": ("#999999", "--", 1.2),
    "full": ("#D55E00", "-", 2.2),
    "hard": ("#E69F00", "--", 1.2),
    "constant": ("#56B4E9", "--", 1.2),
    "constant_mean": ("#56B4E9", ":", 1.2),
    "surrogate": ("#0072B2", "-", 2.2),
    "shuffled": ("#CC79A7", ":", 1.2),
    "label_smoothing": ("#F0E442", "-", 1.2),
    "self_distillation": ("#009E73", "--", 1.2),
    "oracle_pair": ("#009E73", "-", 2.2),
}
TIERS = ("head", "signs", "finetuned")
BESIDE, MARGIN = 1.025, 1.4  # of numbers of labels, whose axis is logarithmic


def means(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Mean AUROC over training cohorts with a t interval, a row for each tier, rho, labels and arm.

    Args:
        table: Columns of results.csv.
        level: Of the interval.
    """
    groups = table.groupby(["tier", "rho", "labels", "arm"])["auroc"]
    found = groups.agg(["mean", "std", "size"]).rename(columns={"size": "cohorts"}).reset_index()
    quantile = stats.t.ppf(0.5 + level / 2, (found["cohorts"] - 1).clip(lower=1))
    half = quantile * found["std"] / found["cohorts"] ** 0.5
    return found.assign(low=found["mean"] - half, high=found["mean"] + half)


def panels(table: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Tier, rho and their rows; the heads come first, and the cohorts with most in common."""
    there = set(zip(table["tier"], table["rho"], strict=True))
    for tier, rho in sorted(there, key=lambda panel: (TIERS.index(panel[0]), -panel[1])):
        yield tier, rho, table[(table["tier"] == tier) & (table["rho"] == rho)]


def draw(table: pd.DataFrame, limits: Mapping[float, Mapping[str, float]], path: Path) -> None:
    """Draw a panel for each tier and rho: a column per tier, a row per rho.

    Args:
        table: Columns of results.csv.
        limits: By rho the AUROC of the oracle and of the ceiling, by name; may be empty.
        path: The PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    found = list(panels(means(table)))
    tiers, rhos = (list(dict.fromkeys(panel[axis] for panel in found)) for axis in (0, 1))
    size = (5.2 * len(tiers) + 1.6, 4.0 * len(rhos) + 0.4)
    figure, axes = plt.subplots(len(rhos), len(tiers), figsize=size, sharey=True, squeeze=False, layout="constrained")
    legend: dict[str, Line2D] = {}
    for tier, rho, rows in found:
        axis = axes[rhos.index(rho)][tiers.index(tier)]
        single = rows["labels"].nunique() == 1
        arms = [arm for arm in STYLE if arm in set(rows["arm"])]
        for place, arm in enumerate(arms):
            one = rows[rows["arm"] == arm].sort_values("labels")
            colour, line, width = STYLE[arm]
            shift = BESIDE ** (place - (len(arms) - 1) / 2)  # so that intervals can be told apart
            errors = [one["mean"] - one["low"], one["high"] - one["mean"]]
            drawn = axis.errorbar(
                one["labels"] * shift, one["mean"], errors, color=colour, ls="" if single else line, lw=width,
                marker="o", ms=4, capsize=2,
            )  # fmt: skip
            legend.setdefault(arm, drawn.lines[0])
        for name, value in limits.get(rho, {}).items():
            axis.axhline(value, color="grey", ls=":", lw=1)
            axis.annotate(name, (0.01, value), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
        axis.set_xscale("log")
        ticks = sorted(rows["labels"].unique())
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_xlim(ticks[0] / MARGIN, ticks[-1] * MARGIN)
        axis.minorticks_off()
        axis.set_xlabel("labelled MRI")
        axis.set_title(f"{tier}, rho {rho:g} ({int(rows['cohorts'].max())} training cohorts)")
    for line in axes:
        line[0].set_ylabel("AUROC on the test patients")
    for axis in axes.flat:
        if not axis.has_data():
            axis.remove()
    arms = [arm for arm in STYLE if arm in legend]  # of all panels: not every arm is in each
    figure.legend(handles=[legend[arm] for arm in arms], labels=arms, fontsize=9, loc="outside right center")
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)
    plt.close(figure)


def text(table: pd.DataFrame) -> str:
    """The table for the terminal: a row per arm, a column per tier, rho and number of labels."""
    found = pd.concat([rows for _, _, rows in panels(means(table))])
    cells = found.assign(
        column=[f"{t[:4]} {r:g} n{n}" for t, r, n in zip(found["tier"], found["rho"], found["labels"], strict=True)],
        cell=[f"{m:.3f}±{(h - m):.3f}" for m, h in zip(found["mean"], found["high"], strict=True)],
    )
    wide = cells.pivot(index="arm", columns="column", values="cell").reindex(
        [a for a in STYLE if a in set(cells["arm"])]
    )
    order = list(dict.fromkeys(cells["column"]))
    legend = "columns: tier (sign: signs, fine: finetuned), rho, labelled MRI; mean AUROC ± half the 95 % interval"
    return f"{wide[order].fillna('').to_string()}\n{legend}"

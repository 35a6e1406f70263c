"""Figures of the controls, with a line per arm against the number of labelled MRI; and the table as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from xmkd.controls.doses import DOSE, dose_names
from xmkd.controls.summary import gains, means, panels
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
COLOURS = ("#009E73", "#0072B2", "#D55E00", "#000000", "#CC79A7", "#E69F00")
"""Of numbers of labels."""
BESIDE, MARGIN = 1.025, 1.4  # of numbers of labels, whose axis is logarithmic
APART = 0.01  # of correlations


def draw(table: pd.DataFrame, limits: Mapping[float, Mapping[str, float]], path: Path) -> None:
    """Draw the AUROC of every arm in a panel for each tier and rho: a column per tier, a row per rho.

    Args:
        table: Columns of results.csv.
        limits: By rho the AUROC of the oracle and of the ceiling, by name; may be empty.
        path: The PNG.
    """
    _draw(means(table), limits, "AUROC on the test patients", path)


def draw_gains(table: pd.DataFrame, path: Path, other: str = "surrogate") -> None:
    """Draw what every arm gains over another one, in the same panels; no file is left where no setting has that arm.

    Args:
        table: Columns of results.csv.
        path: The PNG.
        other: The arm that the others are compared with.
    """
    found = gains(table, other)
    if len(found):
        _draw(found, {rho: {"": 0.0} for rho in found["rho"]}, f"AUROC minus that of {other}", path)
    else:
        path.unlink(missing_ok=True)


def draw_doses(
    table: pd.DataFrame, follows: Mapping[str, Mapping[str, float]], path: Path, other: str = "surrogate"
) -> None:
    """Draw what paired targets gain over another arm against how far they follow the images, a line per budget.

    The pairs of the real teacher are drawn as crosses, at their own agreement. Without doses no file is left.

    Args:
        table: Columns of results.csv.
        follows: By arm and class, the rank correlation of its targets with what the images show.
        path: The PNG.
        other: The arm that the others are compared with.
    """
    agreement = {arm: sum(by_class.values()) / len(by_class) for arm, by_class in follows.items()}
    given = table[table["arm"].str.startswith(DOSE)]
    if given.empty:
        path.unlink(missing_ok=True)
        return
    tier, rho = given[["tier", "rho"]].iloc[0]
    there = (table["tier"] == tier) & (table["rho"] == rho) & table["arm"].isin([other, *agreement])
    found = gains(table[there], other)
    found = found.assign(agreement=found["arm"].map(agreement)).sort_values("agreement")
    dosed = found["arm"].str.startswith(DOSE)
    figure, axis = _plot().subplots(figsize=(7.0, 4.5), layout="constrained")
    for number, (labels, rows) in enumerate(found.groupby("labels")):
        shade, shift = COLOURS[number % len(COLOURS)], APART * (number - (found["labels"].nunique() - 1) / 2)
        for those, mark in ((dosed, "o-"), (~dosed, "x")):
            one = rows[those.loc[rows.index]]
            errors = [one["mean"] - one["low"], one["high"] - one["mean"]]
            name = f"{labels} labelled MRI" if mark == "o-" else None
            axis.errorbar(
                one["agreement"] + shift, one["mean"], errors, fmt=mark, color=shade, ms=6, capsize=2, label=name
            )
    axis.axhline(0, color="grey", ls=":", lw=1)
    axis.set_xlabel("rank correlation of paired targets with what the images show, given the label\n(x: the teacher's)")
    axis.set_ylabel(f"AUROC minus that of {other}")
    axis.set_title(_title(tier, rho, found))
    axis.legend(fontsize=9)
    _save(figure, path)


def _title(tier: str, rho: float, rows: pd.DataFrame) -> str:
    fewest, most = int(rows["cohorts"].min()), int(rows["cohorts"].max())
    counted = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{tier}, rho {rho:g} ({counted} training cohorts)"


def _plot() -> Any:
    """Matplotlib's pyplot without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)
    _plot().close(figure)


def _draw(found: pd.DataFrame, limits: Mapping[float, Mapping[str, float]], quantity: str, path: Path) -> None:
    """Panels of means with intervals, columns as `means` has them, and lines at the limits of each rho."""
    from matplotlib.lines import Line2D

    parts = list(panels(found))
    tiers, rhos = (list(dict.fromkeys(panel[axis] for panel in parts)) for axis in (0, 1))
    size = (5.2 * len(tiers) + 1.6, 4.0 * len(rhos) + 0.4)
    grid = {"figsize": size, "sharey": True, "squeeze": False, "layout": "constrained"}
    figure, axes = _plot().subplots(len(rhos), len(tiers), **grid)
    legend: dict[str, Line2D] = {}
    for tier, rho, rows in parts:
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
        axis.set_title(_title(tier, rho, rows))
    for line in axes:
        line[0].set_ylabel(quantity)
    for axis in axes.flat:
        if not axis.has_data():
            axis.remove()
    arms = [arm for arm in STYLE if arm in legend]  # of all panels: not every arm is in each
    figure.legend(handles=[legend[arm] for arm in arms], labels=arms, fontsize=9, loc="outside right center")
    _save(figure, path)


def text(table: pd.DataFrame) -> str:
    """The table for the terminal: a row per arm, a column per tier, rho and number of labels."""
    found = pd.concat([rows for _, _, rows in panels(means(table))])
    cells = found.assign(
        column=[f"{t[:4]} {r:g} n{n}" for t, r, n in zip(found["tier"], found["rho"], found["labels"], strict=True)],
        cell=[f"{m:.3f}±{(h - m):.3f}" for m, h in zip(found["mean"], found["high"], strict=True)],
    )
    wide = cells.pivot(index="arm", columns="column", values="cell").reindex(
        [a for a in (*STYLE, *dose_names(cells["arm"])) if a in set(cells["arm"])]
    )
    order = list(dict.fromkeys(cells["column"]))
    legend = "columns: tier (sign: signs, fine: finetuned), rho, labelled MRI; mean AUROC ± half the 95 % interval"
    return f"{wide[order].fillna('').to_string()}\n{legend}"

"""The table of the controls for a document: every arm at every budget, then what it gains over some of the others.

The intervals of a single arm hold the spread between training cohorts, which all arms share. Two arms are compared by
their differences on the same cohorts, so two intervals of the first table may overlap where the difference is clear.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from xmkd.controls.arms import ARMS
from xmkd.controls.doses import dose_names
from xmkd.controls.summary import LEVEL, difference, means, panels
from xmkd.evaluation.replicates import CohortDifference
from xmkd.files import in_one_step

BASELINES = ("surrogate", "ptm", "dose_0")


def write(
    table: pd.DataFrame,
    limits: Mapping[float, Mapping[str, float]],
    tested: int,
    path: Path,
    notes: Mapping[float, str] | None = None,
) -> None:
    """Write all tables.

    Args:
        table: Columns of results.csv.
        limits: By rho the AUROC of the oracle and of the ceiling, by name; may be empty.
        tested: Number of test patients.
        path: The file.
        notes: By rho, a sentence about its cohort.
    """
    sections = [_section(tier, rho, rows, limits.get(rho, {}), tested) for tier, rho, rows in panels(table)]
    sections[:0] = [f"Rho {rho:g}: {note}." for rho, note in (notes or {}).items()]
    with in_one_step(path) as unfinished:
        unfinished.write_text("\n\n".join([*sections, _legend()]) + "\n")


def _section(tier: str, rho: float, rows: pd.DataFrame, limits: Mapping[str, float], tested: int) -> str:
    arms = [arm.name for arm in ARMS if arm.name in set(rows["arm"])] + dose_names(rows["arm"])
    budgets = sorted(rows["labels"].unique())
    whole = int(rows["cohort"].nunique())
    known = "".join(f"; {name} {value:.3f}" for name, value in limits.items())
    locks = ", ".join(sorted({lock or "not calibrated" for lock in rows["lock"]}))
    head = f"**Tier {tier}, rho {rho:g}**: {whole} training cohorts, {tested} test patients; lock {locks}{known}."
    one = means(rows, LEVEL)
    cells = {arm: [_mean(one, arm, labels, whole) for labels in budgets] for arm in arms}
    parts = [head, _table("AUROC", budgets, cells)]
    for other in BASELINES:
        if other in arms:
            of = {labels: rows[rows["labels"] == labels] for labels in budgets}
            cells = {
                arm: [_gain(difference(of[labels], arm, other), whole) for labels in budgets]
                for arm in arms
                if arm != other
            }
            parts.append(_table(f"minus {other}", budgets, cells))
    return "\n\n".join(parts)


def _table(corner: str, budgets: list[int], cells: Mapping[str, list[str]]) -> str:
    lines = [[corner, *(f"{labels} labels" for labels in budgets)], ["---"] * (1 + len(budgets))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *([arm, *row] for arm, row in cells.items())])


def _mean(found: pd.DataFrame, arm: str, labels: int, whole: int) -> str:
    row = found[(found["arm"] == arm) & (found["labels"] == labels)]
    if row.empty:
        return ""
    mean, low, high = (float(row[name].iloc[0]) for name in ("mean", "low", "high"))
    return _cell(f"{mean:.3f}", f"{low:.3f}, {high:.3f}", low, int(row["cohorts"].iloc[0]), whole)


def _gain(found: CohortDifference, whole: int) -> str:
    if not found.cohorts:
        return ""
    ends = f"{found.low:+.3f}, {found.high:+.3f}"
    cell = _cell(f"{found.value:+.3f}", ends, found.low, found.cohorts, whole)
    return f"**{cell}**" if found.low > 0 or found.high < 0 else cell


def _cell(value: str, ends: str, low: float, cohorts: int, whole: int) -> str:
    interval = " (no interval)" if np.isnan(low) else f" [{ends}]"
    return f"{value}{interval}" + (f", {cohorts} of {whole} cohorts" if cohorts < whole else "")


def _legend() -> str:
    return (
        f"Means over training cohorts, with t intervals of {LEVEL:.0%} over them; the test patients are the same "
        "throughout. Differences are paired by cohort, and **bold where the interval excludes 0**. These intervals are "
        "not corrected for their number: `xmkd compare --claims` gives the corrected verdicts."
    )

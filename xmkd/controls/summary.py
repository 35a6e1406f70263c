"""What a table of the controls says: means over training cohorts, and differences of two arms on the same cohorts."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from scipy import stats

from xmkd.evaluation.replicates import CohortDifference, paired_over_cohorts

TIERS = ("head", "signs", "finetuned")
PANEL = ["tier", "rho", "labels"]
LEVEL = 0.95


def means(table: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Mean AUROC over training cohorts with a t interval, a row for each tier, rho, labels and arm.

    Args:
        table: Columns of results.csv.
        level: Of the interval.
    """
    groups = table.groupby([*PANEL, "arm"])["auroc"]
    found = groups.agg(["mean", "std", "size"]).rename(columns={"size": "cohorts"}).reset_index()
    quantile = stats.t.ppf(0.5 + level / 2, (found["cohorts"] - 1).clip(lower=1))
    half = quantile * found["std"] / found["cohorts"] ** 0.5
    return found.assign(low=found["mean"] - half, high=found["mean"] + half)


def panels(table: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Tier, rho and their rows; the heads come first, and the cohorts with most in common."""
    there = set(zip(table["tier"], table["rho"], strict=True))
    for tier, rho in sorted(there, key=lambda panel: (TIERS.index(panel[0]), -panel[1])):
        yield tier, rho, table[(table["tier"] == tier) & (table["rho"] == rho)]


def difference(rows: pd.DataFrame, arm: str, other: str) -> CohortDifference:
    """One arm minus another over the training cohorts that both have.

    Args:
        rows: Columns of results.csv, of one tier, rho and number of labels.
        arm: The arm.
        other: What it is compared with.
    """
    by_cohort = rows.pivot(index="cohort", columns="arm", values="auroc").reindex(columns=[arm, other]).dropna()
    return paired_over_cohorts(by_cohort[arm] - by_cohort[other], margin=0.0, level=LEVEL)  # no margin: an interval


def gains(table: pd.DataFrame, other: str) -> pd.DataFrame:
    """What every arm gains over another one, paired by cohort; columns as those of `means`.

    Args:
        table: Columns of results.csv.
        other: The arm that the others are compared with; settings that lack it are left out.
    """
    found = []
    for place, rows in table.groupby(PANEL):
        if other in set(rows["arm"]):
            for arm in rows["arm"].unique():
                if arm != other:
                    one = difference(rows, arm, other)
                    found.append([*place, arm, one.value, one.low, one.high, one.cohorts])
    return pd.DataFrame(found, columns=[*PANEL, "arm", "mean", "low", "high", "cohorts"])

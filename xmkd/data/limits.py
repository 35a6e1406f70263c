"""What is known of a simulated label: how well it can be told, and under which lock that holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xmkd.errors import RunError


@dataclass(frozen=True)
class Limit:
    """How well a label of a simulated set can be told, as an AUROC with its interval.

    Attributes:
        auroc: The figure.
        low: Lower bound.
        high: Upper bound.
        patients: Number of patients it was computed on.
    """

    auroc: float
    low: float
    high: float
    patients: int


def lock_of(*records: dict[str, Any]) -> str:
    """The lock of the simulated cohorts in these provenances, "" where there are none.

    Raises:
        RunError: There are several: tasks of different difficulty.
    """
    found = {
        m["lock"]: f"{m['file']}: lock {m['lock']}" for r in records for m in r["manifests"].values() if "lock" in m
    }
    if len(found) > 1:
        raise RunError(
            "results on simulated cohorts of different difficulty are not put together",
            where="; ".join(found.values()),
            fixes=("run both on one cohort", "report each by itself: xmkd report RUN"),
        )
    return next(iter(found), "")

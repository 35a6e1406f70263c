"""metrics.csv: the source of truth for everything that was measured while a run trained.

One row per value (`epoch,step,metric,value`): metrics may come and go without rewriting a header, and a row is
written at once, so a killed run loses nothing that its checkpoint knows.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from xmkd.files import in_one_step, writing

HEADER = ["epoch", "step", "metric", "value"]


class MetricsCsv(Logger):
    """Lightning logger that appends to a run's metrics.csv."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run's config.yaml holds them already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row for each value; `epoch` among the metrics becomes the column."""
        values = dict(metrics)
        epoch = int(values.pop("epoch", -1))
        new = not self.path.exists()
        with writing(self.path.parent), self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(HEADER)
            writer.writerows([epoch, step, name, repr(float(value))] for name, value in values.items())


def truncate(path: Path, step: int) -> None:
    """Drop the rows that a checkpoint at `step` knows nothing of, and a row that was cut short; they come again."""
    if not path.is_file():
        return
    with path.open(newline="", errors="replace") as file:  # what is damaged does not look like a row
        rows = [row for row in csv.reader(file) if len(row) == len(HEADER)]
    kept = [row for row in rows[1:] if row[1].isdigit() and int(row[1]) <= step]
    with in_one_step(path) as unfinished, unfinished.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *kept])

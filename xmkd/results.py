"""What a run says in the end: prediction tables, headline figures, lines for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xmkd import config as configuration
from xmkd.config import Experiment
from xmkd.data.streams import Stream, Study
from xmkd.evaluation.quick import Predictions
from xmkd.runs import Run, write_json, write_table


def prediction_table(stream: Stream, predictions: Predictions) -> pd.DataFrame:
    """One row per sample: ids, site, fold, class index and probability (one column per class from three on)."""
    rows = stream.table.iloc[predictions.index]
    table = rows[["sample_id", "patient_id", "site", "fold"]].assign(label=predictions.label)
    if predictions.score.ndim == 1:
        return table.assign(score=predictions.score)
    return table.assign(**{f"score_{k}": predictions.score[:, k] for k in range(predictions.score.shape[1])})


def write_skipped(run: Run, skipped: dict[str, dict[Path, str]]) -> None:
    """`skipped.csv`: files that could not be read, by stream."""
    lines = [
        {"stream": name, "file": path.name, "reason": reason.splitlines()[0]}
        for name, files in skipped.items()
        for path, reason in files.items()
    ]
    if lines:
        write_table(run.folder / "skipped.csv", pd.DataFrame(lines))


def tree(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain types."""
    return configuration.to_tree(experiment)


def evaluate(run: Run, experiment: Experiment, study: Study) -> None:
    """stub for now"""
    from xmkd.evaluation.statistics import auroc_interval
    t = run.predictions("test")
    print(auroc_interval(t.label, t.score, t.patient_id))
    write_json(run.folder / "summary.json", {})


def announce(run: Run) -> None:
    print(run.folder)

"""Shortcut audit by masks: what does a cross-validated classifier still tell when the lesion is taken away?

Each fold's model scores its own test pictures again, changed on the grid that the network sees: the lesion blanked,
the lesion alone, the picture's rim alone (text, calipers, the sector's outline). A logistic regression of size and
metadata, which sees no pixel, stands beside them. AUROCs well above 0.5 without the lesion are shortcuts, or signs
outside the mask that a reader should know of.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from xmkd import training
from xmkd.config import Experiment
from xmkd.data.blank import BLANKED, BORDER, FRAME, ONLY, WHOLE, Change, Masks, box_of
from xmkd.data.cache import CacheItem
from xmkd.data.datamodule import StreamDataset, UnpairedDataModule
from xmkd.data.readers import read
from xmkd.data.streams import Stream, Study, plan
from xmkd.evaluation.statistics import Interval, auroc_interval
from xmkd.files import in_one_step, write_table
from xmkd.methods import METHODS
from xmkd.runs import Run, is_first_process

ENOUGH_MASKS = 0.95  # of the evaluated stills: with fewer the figures would be about other patients
METADATA = "size and metadata only"
UNLIKE = "unlike any picture in training, so that only a high figure says something"
NOTES = {
    WHOLE: "the pictures as they are",
    BLANKED: "filled with the mean of a ring around it; place, size and outline of the hole still show",
    ONLY: f"the mask, a little dilated; all else set to its mean; {UNLIKE}",
    BORDER: f"a frame of {FRAME:.0%} of each side; all else, and the lesion, set to its mean; {UNLIKE}",
    METADATA: "logistic regression of the mask's area and box, the stored size and the file's size; no pixels",
}


def applies(experiment: Experiment, study: Study) -> bool:
    """Whether the run tells two classes apart on stills that (nearly) all have a mask."""
    stream = study.streams[METHODS[experiment.method_name].evaluates]
    binary = stream.label is not None and len(stream.label.classes) == 2
    return binary and stream.config.view == "image" and bool(stream.table["mask"].notna().mean() >= ENOUGH_MASKS)


def audit(parent: Run, folds: list[Run], experiment: Experiment, study: Study) -> pd.DataFrame:
    """Audit a cross-validation; writes `audit.csv` and the contact sheet `audit.png` into its folder.

    Args:
        parent: The cross-validation, with its out-of-fold predictions.
        folds: Its finished runs, in order.
        experiment: The settings without a fold.
        study: Its data.

    Returns:
        `condition, auroc, low, high, n, patients, note`, a row for each condition; pairs of the same fold count.

    Raises:
        XmkdError: No mask can be read, or a fold has lost its checkpoint.
    """
    evaluated = METHODS[experiment.method_name].evaluates
    data = UnpairedDataModule(experiment.data, study, seed=experiment.seed, evaluated=evaluated)
    data.setup()
    stream = data.study.streams[evaluated]
    masks = _masks(stream, data)
    changes = [Change(name, masks) for name in (WHOLE, BLANKED, ONLY, BORDER)]
    facts = _facts(stream, masks)
    experiment = replace(experiment, trainer=replace(experiment.trainer, enable_progress_bar=False))
    scores = pd.concat([_fold(k, run, experiment, changes, facts) for k, run in enumerate(folds)], ignore_index=True)
    with_oof = scores.merge(parent.predictions("oof")[["sample_id", "score"]], on="sample_id", validate="1:1")
    worst = float((with_oof[WHOLE] - with_oof["score"]).abs().max())
    scores = scores.dropna(subset=METADATA)
    left_out = f"{len(facts) - len(scores)} without a mask left out" if len(scores) < len(facts) else ""
    rows = []
    for name, note in NOTES.items():
        found = auroc_interval(scores["label"], scores[name], scores["patient_id"], fold=scores["fold"])
        same = f"scores differ from the out-of-fold ones by at most {worst:.1g}" if name == WHOLE else ""
        numbers = (found.value, found.low, found.high, found.n, found.patients)
        rows.append((name, *numbers, "; ".join(filter(None, (note, same, left_out, found.note)))))
    table = pd.DataFrame(rows, columns=["condition", "auroc", "low", "high", "n", "patients", "note"])
    if is_first_process():
        write_table(parent.folder / "audit.csv", table)
        _contact_sheet(parent.folder / "audit.png", stream, data.datasets[evaluated], changes)
    return table


def lines(table: pd.DataFrame) -> list[str]:
    """A line for each condition, as in `audit/lesion_blanked 0.712 [0.640, 0.775] n=1469 patients=74`."""
    found = []
    for row in table.to_dict("records"):
        low, high = (None if pd.isna(row[bound]) else row[bound] for bound in ("low", "high"))
        interval = Interval(row["auroc"], low, high, row["n"], row["patients"], "")
        found.append(f"audit/{str(row['condition']).replace(' ', '_')} {interval}")
    return found


def _masks(stream: Stream, data: UnpairedDataModule) -> Masks:
    """The lesion of each row on the prepared grid; empty where there is none, or none that can be read."""
    root = stream.manifest.require_root()
    rows = np.flatnonzero(stream.table["mask"].notna())
    items = [
        CacheItem(root / str(row.path), stream.config.ultrasound, str(row.modality), root / str(row.mask))
        for row in stream.table.iloc[rows].itertuples()
    ]
    pack = data.cache.pack(items, on_error="skip")
    masks = np.zeros((len(stream.table), *pack.array.shape[1:]), bool)
    there = pack.rows >= 0
    masks[rows[there]] = pack.array[pack.rows[there]] != 0
    return masks


def _facts(stream: Stream, masks: Masks) -> pd.DataFrame:
    """What can be known of each sample without its pixels, by sample; missing where the mask is."""
    root = stream.manifest.require_root()
    rows = {}
    for name, path, mask in zip(stream.table["sample_id"], stream.table["path"], masks, strict=True):
        if not mask.any():
            rows[name] = [np.nan] * 8
            continue
        file = root / str(path)
        box = [bound / side for s, side in zip(box_of(mask), mask.shape, strict=True) for bound in (s.start, s.stop)]
        rows[name] = [mask.mean(), *box, *read(file).array.shape[-2:], file.stat().st_size]
    columns = ["area", "top", "bottom", "left", "right", "height", "width", "bytes"]
    facts = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float)
    return facts.assign(label=stream.label_index())


def _fold(number: int, run: Run, experiment: Experiment, changes: list[Change], facts: pd.DataFrame) -> pd.DataFrame:
    """Scores of a fold's test samples, a column for each condition; of its metadata, missing where the mask is."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fold = replace(experiment, data=replace(experiment.data, fold=number))
    tables = training.rescore(run, fold, changes)
    scores = (
        tables[0]
        .drop(columns="score")
        .assign(**{c.condition: t["score"] for c, t in zip(changes, tables, strict=True)})
    )
    table = plan(fold.data).streams[METHODS[experiment.method_name].evaluates].table
    known = facts.dropna()
    fitted_on = known[known.index.isin(table.loc[table["side"] == "train", "sample_id"])]
    tested = known[known.index.isin(scores["sample_id"])]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    model.fit(fitted_on.drop(columns="label"), fitted_on["label"])
    probability = pd.Series(model.predict_proba(tested.drop(columns="label"))[:, 1], tested.index)
    return scores.assign(**{METADATA: scores["sample_id"].map(probability)})


def _contact_sheet(path: Path, stream: Stream, dataset: StreamDataset, changes: list[Change], each: int = 3) -> None:
    """A few pictures of each class under each condition."""
    from matplotlib.figure import Figure

    label, there = stream.label_index(), changes[0].masks.any(axis=(1, 2))
    of_class = [np.flatnonzero(there & (label == c)) for c in (1, 0)]
    shown = [int(r) for rows in of_class for r in rows[np.linspace(0, len(rows) - 1, min(each, len(rows))).astype(int)]]
    figure = Figure(figsize=(2 * len(changes), 2.1 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(changes), squeeze=False)
    for row, line in zip(shown, axes, strict=True):
        at = np.array([row])
        for change, ax in zip(changes, line, strict=True):
            ax.imshow(change(at, dataset.pictures(at))[0, 0], cmap="gray", vmin=0, vmax=255)
            ax.set(xticks=[], yticks=[], title=change.condition if row == shown[0] else "")
        assert stream.label is not None
        line[0].set_ylabel(f"{stream.label.classes[label[row]]}\n{stream.table['sample_id'].iloc[row]}")
    with in_one_step(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100)

"""What a run says in the end: prediction tables, headline figures, lines for the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xmkd import config as configuration
from xmkd import runs
from xmkd.config import Experiment
from xmkd.data.limits import Limit, lock_of
from xmkd.data.manifest import Manifest, Split
from xmkd.data.streams import Stream, Study, plan
from xmkd.errors import EvaluationError, ManifestError, RunError
from xmkd.evaluation import classification, thresholds
from xmkd.evaluation.calibration import Calibrator, fit_calibrator
from xmkd.evaluation.quick import Predictions
from xmkd.evaluation.reconstruction import figures
from xmkd.evaluation.statistics import Interval, difference
from xmkd.evaluation.thresholds import DEFAULT_THRESHOLD, Threshold
from xmkd.files import in_one_step, write_json, write_table
from xmkd.methods import METHODS
from xmkd.runs import Run

# Patients first where they have several samples: an operating point is chosen on, and promised for, their mean scores.
HEADLINES = (
    *("patient/auroc", "patient/sensitivity", "patient/specificity"),
    *("auroc", "sensitivity", "specificity", "macro_f1", "balanced_accuracy"),
)
SKIPPED = "skipped.csv"
IDS = ("sample_id", "patient_id", "site", "fold", "label")


def prediction_table(
    stream: Stream, predictions: Predictions, fold: int | None = None, figures: tuple[str, ...] = ()
) -> pd.DataFrame:
    """One row per sample: ids, site, fold, class index and probability (one column per class from three on).

    Of a method that predicts no class: ids, site, fold, a missing label and its figures.
    """
    rows = stream.table.iloc[predictions.index]
    # The manifest's own folds say nothing about which model made these scores; `fold` does.
    table = rows[["sample_id", "patient_id", "site"]].assign(fold=fold, label=predictions.label)
    if figures:
        return table.assign(label=None, **dict(zip(figures, predictions.score.T, strict=True)))
    if predictions.score.ndim == 1:
        return table.assign(score=predictions.score)
    return table.assign(**{f"score_{k}": predictions.score[:, k] for k in range(predictions.score.shape[1])})


def write_features(run: Run, side: str, predictions: Predictions | None) -> None:
    """`features_<side>.npy`, float16 `(N, F)`, a row for each of predictions_<side>.csv, where a method keeps any."""
    if predictions is not None and predictions.features is not None:
        with in_one_step(run.folder / f"features_{side}.npy") as unfinished, unfinished.open("wb") as file:
            np.save(file, predictions.features.astype(np.float16))


def evaluate(run: Run, experiment: Experiment, study: Study, trained: Run) -> None:
    """Evaluate the test predictions and write summary.json, which marks the run as finished.

    Args:
        run: Where the test predictions are and the figures go.
        experiment: Its settings.
        study: Its data.
        trained: The run whose held-out patients set threshold and calibration: `run`, unless that is a further test.
    """
    stream = study.streams[METHODS[experiment.method_name].evaluates]
    if stream.label is None:
        _write_figures(run, "test" if (run.folder / "predictions_test.csv").is_file() else "val")
        return
    classes = list(stream.label.classes)
    held_out, doubt = _held_out(trained, experiment)
    threshold, fitted = _threshold(experiment, classes, held_out, doubt), None
    if held_out is not None and len(classes) == 2:
        fitted = _calibration(experiment, held_out)
    lock = stream.manifest.card.lock
    write_summary(run, run.predictions("test"), "test", classes, threshold, fitted, stream.label.limits, lock)


def _write_figures(run: Run, side: str) -> None:
    """metrics_<side>.csv and summary.json of a method that predicts no class: its figures' means over patients."""
    found: dict[str, Interval] = {}
    if (run.folder / f"predictions_{side}.csv").is_file():
        table = run.predictions(side)
        found = figures(table, [name for name in table.columns if name not in IDS])
        write_table(run.folder / f"metrics_{side}.csv", classification.to_frame(found))
    metrics = {name: asdict(interval) for name, interval in found.items()}
    nothing: dict[str, Any] = {"classes": [], "threshold": None, "calibration": None, "limits": {}}
    write_json(run.folder / "summary.json", {"side": side, "metrics": metrics, **nothing})


def write_summary(
    run: Run,
    table: pd.DataFrame,
    side: str,
    classes: list[str],
    threshold: Threshold,
    fitted: Calibrator | None,
    limits: Mapping[str, Limit] | None = None,
    lock: str = "",
) -> None:
    """Figures with intervals to metrics_<side>.csv and summary.json.

    Raises:
        LeakageError: The model is better than a simulated label can be told.
    """
    found = classification.metrics(table, threshold, classes if len(classes) > 2 else None)
    known = {name: limit_interval(limit) for name, limit in (limits or {}).items()}
    if "ceiling" in known and "auroc" in found:
        from xmkd.simulate.ceilings import check_against

        warning = check_against(found["auroc"], known["ceiling"].high or 1.0, run.folder)
        if warning:
            warnings.warn(warning, stacklevel=2)
    rows = classification.to_frame(found)
    write_table(run.folder / f"metrics_{side}.csv", rows.assign(lock=lock) if lock else rows)
    summary: dict[str, Any] = {
        "side": side,
        "classes": classes,
        "metrics": {name: asdict(interval) for name, interval in found.items()},
        "threshold": asdict(threshold) if len(classes) == 2 else None,
        "calibration": asdict(fitted) if fitted else None,
        "limits": {name: asdict(interval) for name, interval in known.items()},
    }
    write_json(run.folder / "summary.json", summary)


def limit_interval(limit: Limit) -> Interval:
    """A limit of a simulated label as an interval; each of its patients has one examination."""
    return Interval(limit.auroc, limit.low, limit.high, limit.patients, limit.patients, "from the cohort's lock")


def join_folds(parent: Run, experiment: Experiment, study: Study, folds: list[Run]) -> None:
    """`predictions_oof.csv` and the summary of a cross-validation.

    Each fold's samples are called positive from its own threshold on: out-of-fold test scores may not choose theirs.
    """
    table = pd.concat([run.predictions("test").assign(fold=k) for k, run in enumerate(folds)], ignore_index=True)
    write_table(parent.folder / "predictions_oof.csv", table)
    records = [run.provenance() for run in folds]
    everyone = sorted(set().union(*(record["fitted_on"] for record in records)))
    whole = {"split": study.split_hash, "fold_splits": [r["split"] for r in records], "fitted_on": everyone}
    runs.write_record(parent, experiment, {**records[0], **whole, "division": {}})  # of each fold another one
    if (folds[0].folder / SKIPPED).is_file():
        write_table(parent.folder / SKIPPED, pd.read_csv(folds[0].folder / SKIPPED, dtype=str))
    stream = study.streams[METHODS[experiment.method_name].evaluates]
    if stream.label is None:
        _write_figures(parent, "oof")
        return
    chosen = [run.summary()["threshold"] for run in folds]  # None for several classes
    threshold = Threshold(DEFAULT_THRESHOLD, "fixed", 0, 0)
    if all(chosen):
        threshold = thresholds.of_folds([Threshold(**values) for values in chosen])
    classes, lock = list(stream.label.classes), stream.manifest.card.lock
    write_summary(parent, table, "oof", classes, threshold, None, stream.label.limits, lock)


def announce(run: Run) -> None:
    """Print the headline figures, one line each, and where everything is."""
    from xmkd import audit

    if not runs.is_first_process():
        return
    summary = run.summary()
    for name in HEADLINES if summary["classes"] else summary["metrics"]:
        if name in summary["metrics"]:
            values = summary["metrics"][name]
            note = f"  ({values['note']})" if values["note"] else ""
            print(f"{summary['side']}/{name} {Interval(**values)}{note}")
    for name, values in summary.get("limits", {}).items():
        print(f"{name}/auroc {Interval(**values)}")
    if "oracle" in summary.get("limits", {}) and "auroc" in summary["metrics"]:
        gap = difference(Interval(**summary["limits"]["oracle"]), Interval(**summary["metrics"]["auroc"]))
        print(f"{summary['side']}/gap_to_oracle {gap}")
    if (run.folder / "audit.csv").is_file():
        for line in audit.lines(pd.read_csv(run.folder / "audit.csv")):
            print(line)
    if summary["threshold"]:
        print(f"operating point: {Threshold(**summary['threshold'])}")
    if (run.folder / SKIPPED).is_file():
        print(_left_out(run))
    print(f"run folder: {run.folder}")


def check_text(target: Path, overrides: list[str], *, deep: bool) -> tuple[str, bool]:
    """The report of `xmkd check` on a manifest, on those of a folder, or on every stream of an experiment.

    Returns:
        The report, and whether all is well.

    Raises:
        ManifestError: A manifest is wrong, or a folder holds none.
    """
    from rich.console import Console
    from rich.progress import Progress

    from xmkd.data import manifest as manifests
    from xmkd.data.check import check, check_together

    found: list[tuple[Manifest, Split | None]]
    together: list[str] = []
    if target.is_dir():
        found = [(manifests.load(p), None) for p in sorted(target.glob("*.csv")) if p.with_suffix(".yaml").is_file()]
        if not found:
            fixes = ("name a CSV file that has its card beside it", "make a manifest: xmkd index")
            raise ManifestError("no manifest with its card lies in this folder", where=target, fixes=fixes)
        together = check_together([manifest for manifest, _ in found])
    elif target.suffix.lower() == ".csv":
        found = [(manifests.load(target), None)]
    else:
        study = plan(configuration.load(target, overrides).data)
        found = [(s.manifest, s.as_split()) for s in study.streams.values()]
    reports = []
    for manifest, split in found:
        with Progress(transient=True, console=Console(stderr=True)) as progress:
            task = progress.add_task(f"checking {manifest.card.name}", total=len(manifest.table))
            reports.append(check(manifest, split, deep, partial(progress.advance, task)))
    texts = [*(r.text() for r in reports), *(f"error: {e}" for e in together)]
    return "\n\n".join(texts), all(r.ok for r in reports) and not together


def comparison(first: Path, others: list[Path], cut: float | None = None) -> str:
    """The text of `xmkd compare`: each other run with the first, or a run with a table of readers.

    Args:
        first: A run.
        others: Further runs, or a table of readers.
        cut: A reader's score is a positive call from here on.

    Raises:
        RunError: A run is missing, unfinished or named twice, or hashed its patients with another salt.
        EvaluationError: They were not evaluated on the same patients.
    """
    from xmkd.evaluation import compare

    run = runs.find(first)
    if others[0].suffix.lower() == ".csv":
        if len(others) > 1:
            raise RunError(
                "a table of readers is compared with one run",
                where=", ".join(map(str, others)),
                fixes=("join the readers in one table", "compare the runs in a call of their own"),
            )
        return compare.format_readers(compare.compare_readers(_tested(run), compare.load_readers(others[0]), cut=cut))
    if cut is not None:
        raise RunError(
            f"a cut ({cut:g}) is for the scores of readers, and these are runs",
            where=", ".join(map(str, others)),
            fixes=("leave --cut out", "name a table of readers: a file that ends in .csv"),
        )
    found = [run, *map(runs.find, others)]
    if len({r.folder.resolve() for r in found}) < len(found):
        raise RunError(
            "a run is named twice",
            where=", ".join(map(str, (first, *others))),
            fixes=("name each run once", "compare it with a run of another seed or setting"),
        )
    _require_one_salt(found)
    lock_of(*(r.provenance() for r in found))
    # The shortest names that tell them apart: fold_0, or <experiment>/<run_id>, ...
    parts = [r.folder.resolve().parts for r in found]
    depth = next(n for n in range(1, 100) if len({p[-n:] for p in parts}) == len(parts))
    (name, table), *rest = (("/".join(p[-depth:]), _tested(r)) for p, r in zip(parts, found, strict=True))
    return compare.format_comparisons(compare.compare_many(table, dict(rest), name=name))


def _require_one_salt(found: list[Run]) -> None:
    """Refuse runs whose patients were hashed with different secrets: nothing shows what either was fitted on."""
    salts = {run: str(run.provenance()["salt"]) for run in found}
    if len(set(salts.values())) > 1:
        raise RunError(
            "the runs hashed their patients with different salts, so nobody can see whether they share patients",
            where="; ".join(f"{run.folder}: salt {salt}" for run, salt in salts.items()),
            fixes=("train them under one salt: one runs folder, or one XMKD_SALT", "compare runs of one project"),
        )


def write_skipped(run: Run, skipped: pd.DataFrame) -> None:
    """`skipped.csv`: the samples that could not be read, with the reason; said on the terminal as well."""
    path = run.folder / SKIPPED
    if skipped.empty:
        path.unlink(missing_ok=True)
        return
    write_table(path, skipped)
    warnings.warn(_left_out(run), stacklevel=2)


def _left_out(run: Run) -> str:
    skipped = pd.read_csv(run.folder / SKIPPED, dtype=str)
    counts = ", ".join(f"{n} of {side}" for side, n in skipped["side"].value_counts(sort=False).items())
    return f"samples left out because they can't be read: {counts}; see {run.folder / SKIPPED}"


def _tested(run: Run) -> pd.DataFrame:
    """Test predictions, or the out-of-fold ones of a cross-validation."""
    return run.predictions("oof" if (run.folder / "predictions_oof.csv").is_file() else "test")


def _held_out(run: Run, experiment: Experiment) -> tuple[pd.DataFrame | None, str]:
    """Predictions that may set threshold and calibration: never those that chose the checkpoint."""
    chosen_on_val = getattr(experiment.method, "select", "last") == "inner_val"
    for side in ("calib",) if chosen_on_val else ("calib", "val"):
        if (run.folder / f"predictions_{side}.csv").is_file():
            return run.predictions(side), ""
    if chosen_on_val:
        return None, "validation chose the checkpoint, so it can't choose the threshold: set data.split.calib"
    return None, "there are no validation patients: set data.split.val"


def _threshold(experiment: Experiment, classes: list[str], held_out: pd.DataFrame | None, doubt: str) -> Threshold:
    policy = str(experiment.evaluation.operating_point)
    if len(classes) != 2:
        return Threshold(DEFAULT_THRESHOLD, "fixed", 0, 0)
    try:
        if held_out is None and not thresholds.is_number(policy):
            return Threshold(DEFAULT_THRESHOLD, "fixed", 0, 0, f"{policy} refused: {doubt}")
        return thresholds.operating_point(policy, held_out)
    except EvaluationError as error:
        return Threshold(DEFAULT_THRESHOLD, "fixed", 0, 0, f"{policy} refused: {error.what}")


def _calibration(experiment: Experiment, held_out: pd.DataFrame) -> Calibrator | None:
    how = experiment.evaluation.calibration
    if how == "none":
        return None
    if how == "auto":
        reweighted = getattr(experiment.method, "loss", "plain") != "plain" or any(
            stream.sampler == "balanced" for stream in experiment.data.streams.values()
        )
        how = "platt" if reweighted else "temperature"
    return fit_calibrator(held_out, how)

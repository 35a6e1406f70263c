"""From an experiment to a finished run folder: train, resume, predict, cross-validate."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerStatus

from xmkd import provenance, results, runs
from xmkd.callbacks import AtomicCheckpointIO, Checkpoints, ReseedEachEpoch
from xmkd.config import Experiment, to_tree
from xmkd.data.datamodule import Change, UnpairedDataModule
from xmkd.data.streams import EVALUATED, Side, Study, plan
from xmkd.errors import ConfigError, EvaluationError, Interrupted, RunError, XmkdError
from xmkd.files import write_table
from xmkd.methods import METHODS
from xmkd.methods.base import Method, Task
from xmkd.metrics_log import MetricsCsv, truncate
from xmkd.parents import resolved
from xmkd.reporting.report import write_or_warn
from xmkd.runs import Run

WEIGHTS = ("weights", "mae")
"""Settings of methods that name what their weights start from."""


def fit(experiment: Experiment, folder: Path | None = None) -> Run:
    """Train (or go on training), predict validation and test patients, evaluate, and mark the run as finished.

    A finished run is left as it is.

    Raises:
        XmkdError: The data, the folder or the settings do not allow it; what was computed before stays.
    """
    experiment = resolved(experiment)
    study = plan(experiment.data)
    _require_classes(study, experiment)
    run = runs.locate(experiment, study, folder)
    if run.finished and experiment.resume == "auto":
        return run
    # Whatever may refuse comes before the folder is made, let alone emptied.
    record = provenance.record_of(run, experiment, study) if runs.is_first_process() else None
    data, method = _build(experiment, study, restored=experiment.resume == "auto" and run.last.is_file())
    _require_classes(data.study, experiment)  # again: files that can't be read may have been left out
    method.before_fit(data.study)
    trainer = _trainer(experiment, run, loggers=_loggers(experiment, run))
    with runs.locked(run) if record else nullcontext():
        if record:
            runs.prepare(run, experiment, record)
            results.write_skipped(run, data.skipped)
        _train(experiment, study, run, trainer, data, method)
        if record:
            write_or_warn(run, experiment, study)
    return run


def test(run: Run, overrides: list[str]) -> Run:
    """Predict and evaluate the test patients with a run's selected checkpoint.

    Another manifest is test data as a whole, unless it has a split column. It and other settings (an operating point,
    say) write to `<run>/test_<id>/` instead of the run folder,
    with the run's own validation patients for threshold and calibration; what changes nothing (devices, workers) writes
    the run's own predictions anew.

    Raises:
        XmkdError: The run is not finished, or its fitted patients would be evaluated.
    """
    experiment = run.experiment(overrides)
    if not run.finished:
        raise RunError(
            "the run is not finished, so it can't be tested",
            where=run.folder,
            fixes=("finish it: xmkd fit with the same settings", "name another run"),
        )
    checkpoint, record = _selected(experiment, run), run.provenance()
    if to_tree(experiment)["method"] != to_tree(run.experiment())["method"]:
        raise ConfigError(
            "a trained method can't be tested under other method settings",
            where=run.folder,
            fixes=("leave the method.* words out", "train a run of its own: xmkd fit"),
        )
    study = plan(experiment.data)
    if not provenance.has_manifests(record, study):
        study = plan(experiment.data, rest="test")
    provenance.guard(record, study, runs.root_of(run, experiment))
    same = provenance.is_of(record, study) and to_tree(experiment, runtime=False) == to_tree(
        run.experiment(), runtime=False
    )
    target = run if same else Run(run.folder / f"test_{runs.run_id(experiment, study)}")
    data, method = _build(experiment, study, restored=True)
    _require_classes(data.study, experiment, ("test",))
    trainer = _trainer(experiment, run, loggers=[])
    with runs.locked(target) if runs.is_first_process() else nullcontext():
        _predict(trainer, method, data, checkpoint, EVALUATED if same else ("test",), target)
        if trainer.is_global_zero:
            if not same:
                runs.write_record(target, experiment, {**record, **provenance.data_record(study)})
            results.write_skipped(target, data.skipped)
            results.evaluate(target, experiment, study, run)
            write_or_warn(target, experiment, study)
    return target


def crossval(experiment: Experiment) -> Run:
    """Train every fold (each an ordinary run in `fold_<k>`), join their test predictions out of fold, and audit them.

    The audit by masks (`xmkd.audit`) needs stills with masks and two classes.

    Raises:
        XmkdError: As `fit`.
    """
    experiment = resolved(experiment)
    folds = [_fold(experiment, k) for k in range(experiment.data.folds)]
    whole = replace(experiment, data=replace(experiment.data, fold=None))
    for fold in folds:  # before the first is trained
        _require_classes(plan(fold.data), fold)
    study = plan(whole.data)
    parent = Run(Path(experiment.runs) / experiment.name / f"cv{experiment.data.folds}-{runs.run_id(whole, study)}")
    places = [parent.folder / f"fold_{k}" for k in range(len(folds))]
    if runs.is_first_process() and not (experiment.resume == "auto" and all(Run(p).finished for p in places)):
        (parent.folder / "audit.csv").unlink(missing_ok=True)  # of models that will be replaced
    done = [fit(fold, place) for fold, place in zip(folds, places, strict=True)]
    if runs.is_first_process():
        results.join_folds(parent, whole, study, done)
    _audit(parent, done, whole, study)
    if runs.is_first_process():
        write_or_warn(parent, whole, study)
    return parent


def _fold(experiment: Experiment, number: int) -> Experiment:
    """A fold of a cross-validation; where weights come from another one, they come from its fold of this number."""
    named = {name: Path(getattr(experiment.method, name, "none")) / f"fold_{number}" for name in WEIGHTS}
    found = {name: str(folder) for name, folder in named.items() if folder.is_dir()}
    method = replace(experiment.method, **found)
    return replace(experiment, data=replace(experiment.data, fold=number), method=method)


def rescore(run: Run, experiment: Experiment, changes: Sequence[Change]) -> list[pd.DataFrame]:
    """Test predictions of a finished run from changed pictures: a table for each change.

    Raises:
        XmkdError: The run has no checkpoint, or its data can't be read.
    """
    data, method = _build(experiment, plan(experiment.data), restored=True)
    method.load_state_dict(runs.checkpoint(_selected(experiment, run))["state_dict"])
    trainer = _trainer(experiment, run, loggers=[])
    tables = []
    for change in changes:
        data.datasets[data.evaluated].change = change
        tables.append(_scored(trainer, method, data, "test"))
    return tables


def _audit(parent: Run, folds: list[Run], experiment: Experiment, study: Study) -> None:
    """The audit by masks, where it applies and isn't there yet; the cross-validation stands without it."""
    from xmkd import audit

    if (parent.folder / "audit.csv").is_file() or not audit.applies(experiment, study):
        return
    try:
        audit.audit(parent, folds, experiment, study)
    except XmkdError as error:
        warnings.warn(f"no shortcut audit: {error}", stacklevel=2)


def _train(
    experiment: Experiment, study: Study, run: Run, trainer: Trainer, data: UnpairedDataModule, method: Method
) -> None:
    # Not "where there is one": with `resume=never` processes may look before the first of them has emptied the folder.
    checkpoint = run.last if experiment.resume == "auto" and run.last.is_file() else None
    step, data.first_epoch = _progress(checkpoint)
    if runs.is_first_process():
        truncate(run.metrics, step)
    # SystemExit is Lightning's answer to Ctrl-C and SIGTERM, after the latter with code 0.
    # `weights_only` holds: a checkpoint is tensors and plain values, never code.
    with _explained(run), suppress(SystemExit):
        trainer.fit(method, data, ckpt_path=checkpoint, weights_only=True)
    _finish_wandb(experiment)
    if trainer.state.status != TrainerStatus.FINISHED:
        raise Interrupted(run.folder)
    _predict(trainer, method, data, _selected(experiment, run), EVALUATED, run)
    if trainer.is_global_zero:
        results.evaluate(run, experiment, study, run)
    trainer.strategy.barrier()


@contextmanager
def _explained(run: Run) -> Iterator[None]:
    """What torch refuses only while it trains, although the settings are the cause."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        fixes = ("lower batch_size of the streams", "use less per sample: trainer.precision=16-mixed, a smaller size")
        raise RunError("the memory of the device is full", where=run.folder, fixes=fixes) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        what = "batch normalisation sees a single value per channel: one sample, shrunk to one position"
        raise RunError(what, where=run.folder, fixes=("raise batch_size above 1", "use larger images")) from error


def _build(experiment: Experiment, study: Study, *, restored: bool) -> tuple[UnpairedDataModule, Method]:
    """The data, and the method with the weights that the seed gives, or with any where a checkpoint holds them."""
    seed_everything(experiment.seed, workers=False, verbose=False)
    kind = METHODS[experiment.method_name]
    seed, watched = experiment.seed, kind.optional
    data = UnpairedDataModule(experiment.data, study, seed=seed, evaluated=kind.evaluates, watched=watched)
    data.setup()
    counts = data.study.streams[kind.evaluates].class_counts("train")
    task = Task(tuple(counts), tuple(counts.values()), data.shape(kind.evaluates))
    settings = experiment.method
    if restored:  # nothing to download or to load, and the files may be gone by now
        settings = replace(settings, **{name: "none" for name in WEIGHTS if hasattr(settings, name)})
    method = kind(settings, task, experiment.optim)  # type: ignore[call-arg, arg-type]  # methods add settings
    method.log_every = experiment.trainer.log_every_n_steps
    return data, method


def _trainer(experiment: Experiment, run: Run, loggers: list[Logger]) -> Trainer:
    settings = vars(experiment.trainer)
    callbacks: list[Any] = [ReseedEachEpoch(experiment.seed), Checkpoints(run)]
    if experiment.trainer.enable_progress_bar:
        callbacks.append(RichProgressBar())
    _quiet()
    try:
        return Trainer(
            **settings,
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the data module shares the samples out itself
            default_root_dir=run.folder,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:  # devices, accelerator and strategy
        raise ConfigError(
            f"Lightning refuses these settings: {' '.join(str(error).split())}",
            where=", ".join(f"trainer.{key}={settings[key]}" for key in ("accelerator", "devices", "strategy")),
            fixes=("let Lightning choose: all three on auto", "name what this machine has"),
        ) from error


def _loggers(experiment: Experiment, run: Run) -> list[Logger]:
    loggers: list[Logger] = [MetricsCsv(run.metrics)]
    if experiment.logging.wandb != "disabled":
        from lightning.pytorch.loggers import WandbLogger

        offline = experiment.logging.wandb == "offline"
        loggers.append(
            WandbLogger(
                project=experiment.logging.project,
                name=f"{experiment.name}-{run.id}",
                id=run.id,
                resume=None if offline else "allow",
                offline=offline,
                save_dir=run.folder,
                config=to_tree(experiment),
            )
        )
    return loggers


def _finish_wandb(experiment: Experiment) -> None:
    """Close the W&B run, so that the next one in this process (a fold, say) does not go on writing into it."""
    if experiment.logging.wandb != "disabled":
        import wandb

        wandb.finish()


def _predict(
    trainer: Trainer, method: Method, data: UnpairedDataModule, checkpoint: Path, sides: tuple[Side, ...], target: Run
) -> None:
    """Write `predictions_<side>.csv` for each side that has samples, from the checkpoint's weights."""
    method.load_state_dict(runs.checkpoint(checkpoint)["state_dict"])
    for side in sides:
        if not (data.study.streams[data.evaluated].table["side"] == side).any():
            continue
        table = _scored(trainer, method, data, side)
        if trainer.is_global_zero:
            write_table(target.folder / f"predictions_{side}.csv", table)
            results.write_features(target, side, method.predictions)


def _scored(trainer: Trainer, method: Method, data: UnpairedDataModule, side: Side) -> pd.DataFrame:
    data.tested = side
    trainer.test(method, datamodule=data, verbose=False)
    assert method.predictions is not None
    return results.prediction_table(
        data.study.streams[data.evaluated], method.predictions, data.data.fold, method.figures
    )


def _selected(experiment: Experiment, run: Run) -> Path:
    path = run.best if getattr(experiment.method, "select", "last") == "inner_val" else run.last
    if not path.is_file():
        fixes = ("name one of its folds, if it is a cross-validation", "train it: xmkd fit")
        raise RunError("the run has no checkpoint", where=path, fixes=fixes)
    return path


def _require_classes(study: Study, experiment: Experiment, sides: tuple[str, ...] = ("train", *EVALUATED)) -> None:
    """An AUROC of one class does not exist: say so before training, not after."""
    stream = study.streams[METHODS[experiment.method_name].evaluates]
    if stream.label is None:
        return
    for side in sides:
        counts = stream.class_counts(side)
        if sum(n > 0 for n in counts.values()) > 1 or (side in {"val", "calib"} and not sum(counts.values())):
            continue
        found = ", ".join(f"{n} {name}" for name, n in counts.items())
        raise EvaluationError(
            f"the side {side!r} holds {found}: two classes are needed to learn or to evaluate anything",
            where=stream.manifest.path,
            fixes=("choose other shares or another seed in data.split", "correct the split column, or `where`"),
        )


def _progress(checkpoint: Path | None) -> tuple[int, int]:
    """Optimiser steps done at a checkpoint, and the epoch that comes next."""
    if checkpoint is None:
        return 0, 0
    state = runs.checkpoint(checkpoint)
    return int(state["global_step"]), int(state["epoch"]) + 1


def _quiet() -> None:
    """Keep Lightning's notes off the terminal: those below say nothing that a user of xmkd could act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for words in (
        "srun",
        "treespec",
        "torch.distributed.nn",
        "Total length of",
        "does not have many workers",
        "smaller than the logging interval",
    ):
        warnings.filterwarnings("ignore", message=f".*{words}.*")

"""From an experiment to a finished run folder: train, resume, predict, cross-validate."""

from __future__ import annotations

import logging
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerStatus

from xmkd import results, runs
from xmkd.callbacks import AtomicCheckpointIO, Checkpoints, ReseedEachEpoch
from xmkd.config import Experiment, to_tree
from xmkd.data.datamodule import Side, UnpairedDataModule
from xmkd.data.streams import EVALUATED, Study, plan
from xmkd.errors import EvaluationError, RunError
from xmkd.files import write_table
from xmkd.methods import METHODS
from xmkd.methods.base import Method, Task
from xmkd.metrics_log import MetricsCsv, truncate
from xmkd.runs import Run


def fit(experiment: Experiment, folder: Path | None = None) -> Run:
    """Train (or go on training), predict validation and test patients, evaluate, and mark the run as finished.

    A finished run is left as it is.

    Raises:
        XmkdError: The data, the folder or the settings do not allow it; what was computed before stays.
    """
    study = plan(experiment.data)
    _require_classes(study, METHODS[experiment.method_name].evaluates)
    run = runs.locate(experiment, study, folder)
    if run.finished and experiment.resume == "auto":
        return run
    # Whatever may refuse comes before the folder is made, let alone emptied.
    record = runs.record_of(run, experiment, study) if runs.is_first_process() else None
    data, method = _build(experiment, study)
    trainer = _trainer(experiment, run, loggers=_loggers(experiment, run))
    with runs.locked(run) if record else nullcontext():
        if record:
            runs.prepare(run, experiment, record)
            results.write_skipped(run, data.skipped)
        _train(experiment, study, run, trainer, data, method)
    return run


def test(run: Run, overrides: list[str]) -> Run:
    """Predict and evaluate the test patients with a run's selected checkpoint.

    Overrides that change the data (another manifest, another root) write to `<run>/test_<id>/` instead of the run
    folder; those that do not (devices, workers) write the run's own predictions anew.

    Raises:
        XmkdError: The run has no checkpoint, or its fitted patients would be evaluated.
    """
    experiment = run.experiment(overrides)
    study = plan(experiment.data)
    target = run
    if runs.run_id(experiment, study) != runs.run_id(run.experiment(), plan(run.experiment().data)):
        target = Run(run.folder / f"test_{runs.run_id(experiment, study)}")
    if runs.is_first_process():
        runs.guard(run.provenance(), study, Path(experiment.runs))
        target.folder.mkdir(exist_ok=True)
    data, method = _build(experiment, study)
    trainer = _trainer(experiment, run, loggers=[])
    sides: list[Side] = ["test"] if target is run else [s for s in ("val", "calib", "test") if _has(study, data, s)]
    _predict(trainer, method, data, _selected(experiment, run), sides, target)
    if trainer.is_global_zero:
        if target is not run:
            for name in ("config.yaml", "provenance.json"):
                (target.folder / name).write_bytes((run.folder / name).read_bytes())
        results.evaluate(target, experiment, study)
    return target


def crossval(experiment: Experiment) -> Run:
    """Train every fold (each an ordinary run in `fold_<k>`) and join their test predictions out of fold.

    Raises:
        XmkdError: As `fit`.
    """
    folds = [replace(experiment, data=replace(experiment.data, fold=k)) for k in range(experiment.data.folds)]
    whole = replace(experiment, data=replace(experiment.data, fold=None))
    study = plan(whole.data)
    parent = Run(Path(experiment.runs) / experiment.name / f"cv{experiment.data.folds}-{runs.run_id(whole, study)}")
    done = [fit(fold, parent.folder / f"fold_{k}") for k, fold in enumerate(folds)]
    if runs.is_first_process():
        results.join_folds(parent, whole, study, done)
    return parent


def _train(
    experiment: Experiment, study: Study, run: Run, trainer: Trainer, data: UnpairedDataModule, method: Method
) -> None:
    checkpoint = run.last if run.last.is_file() else None
    step, data.first_epoch = _progress(checkpoint)
    if runs.is_first_process():
        truncate(run.metrics, step)
    # `weights_only` holds: a checkpoint is tensors and plain values, never code.
    trainer.fit(method, data, ckpt_path=checkpoint, weights_only=True)
    _finish_wandb(experiment)
    if trainer.state.status != TrainerStatus.FINISHED:  # Lightning returns quietly after SIGTERM
        raise RunError("training was interrupted", where=run.folder, fixes=("the same command goes on from here",))
    sides: list[Side] = [side for side in ("val", "calib", "test") if _has(study, data, side)]
    _predict(trainer, method, data, _selected(experiment, run), sides, run)
    if trainer.is_global_zero:
        results.evaluate(run, experiment, study)
    trainer.strategy.barrier()


def _build(experiment: Experiment, study: Study) -> tuple[UnpairedDataModule, Method]:
    """The data, and the method with the weights that the seed gives."""
    seed_everything(experiment.seed, workers=False, verbose=False)
    kind = METHODS[experiment.method_name]
    data = UnpairedDataModule(experiment.data, study, seed=experiment.seed, evaluated=kind.evaluates)
    data.setup()
    stream = study.streams[kind.evaluates]
    counts = stream.class_counts("train")
    task = Task(tuple(counts), tuple(counts.values()), data.shape(kind.evaluates))
    method = kind(experiment.method, task, experiment.optim)  # type: ignore[call-arg, arg-type]  # methods add settings
    method.log_every = experiment.trainer.log_every_n_steps
    return data, method


def _trainer(experiment: Experiment, run: Run, loggers: list[Logger]) -> Trainer:
    settings = vars(experiment.trainer)
    callbacks: list[Any] = [ReseedEachEpoch(experiment.seed), Checkpoints(run)]
    if experiment.trainer.enable_progress_bar:
        callbacks.append(RichProgressBar())
    _quiet()
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
    trainer: Trainer, method: Method, data: UnpairedDataModule, checkpoint: Path, sides: list[Side], target: Run
) -> None:
    """Write `predictions_<side>.csv` for each side, from the checkpoint's weights."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    method.load_state_dict(state["state_dict"])
    for side in sides:
        data.tested = side
        trainer.test(method, datamodule=data, verbose=False)
        if trainer.is_global_zero and method.predictions is not None:
            table = results.prediction_table(data.study.streams[data.evaluated], method.predictions, data.data.fold)
            write_table(target.folder / f"predictions_{side}.csv", table)


def _selected(experiment: Experiment, run: Run) -> Path:
    path = run.best if getattr(experiment.method, "select", "last") == "inner_val" else run.last
    if not path.is_file():
        raise RunError("the run has no checkpoint yet", where=path, fixes=("train it: xmkd fit", "name another run"))
    return path


def _has(study: Study, data: UnpairedDataModule, side: Side) -> bool:
    return bool((study.streams[data.evaluated].table["side"] == side).any())


def _require_classes(study: Study, evaluated: str) -> None:
    """An AUROC of one class does not exist: say so before training, not after."""
    stream = study.streams[evaluated]
    if stream.label is None:
        return
    for side in ("train", *EVALUATED):
        counts = stream.class_counts(side)
        if side in {"val", "calib"} and not sum(counts.values()):
            continue
        if sum(n > 0 for n in counts.values()) < 2:
            raise EvaluationError(
                f"the side {side!r} holds {counts}: one class, so nothing can be learned or evaluated there",
                where=stream.manifest.path,
                fixes=(f"raise data.split.{side}", "choose another data.split.seed or label"),
            )


def _progress(checkpoint: Path | None) -> tuple[int, int]:
    """Optimiser steps done at a checkpoint, and the epoch that comes next."""
    if checkpoint is None:
        return 0, 0
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return int(state["global_step"]), int(state["epoch"]) + 1
    except Exception as error:  # torch raises several kinds for a damaged file
        raise RunError(
            f"the checkpoint can't be read: {error}",
            where=checkpoint,
            fixes=("delete it to train anew", "start anew: resume=never"),
        ) from error


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

"""The runs that a method starts from: an experiment may name a run, or the folder of an experiment's runs."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from xmkd.config import Experiment
from xmkd.errors import RunError
from xmkd.runs import Run

NAMED = {"teacher": "crossval", "mae": "fit"}
"""Settings of methods that name a run, and the command that makes such a run."""


def resolved(experiment: Experiment) -> Experiment:
    """The experiment with `runs/<experiment>` replaced by the newest finished run in it.

    The run that is named then stands in config.yaml, and another one gives another run id.

    Raises:
        RunError: There is none.
    """
    found = {name: getattr(experiment.method, name, "none") for name in NAMED}
    changed = {name: str(_run(value, NAMED[name])) for name, value in found.items() if value != "none"}
    return replace(experiment, method=replace(experiment.method, **changed)) if changed else experiment


def _run(value: str, command: str) -> Path:
    path = Path(value)
    if not path.is_dir() or (path / "config.yaml").is_file():
        if path.exists():
            return path
        fixes = (f"make it first: xmkd {command} experiments/{path.name}.yaml", "name the folder of a finished run")
        raise RunError("there is no such run", where=value, fixes=fixes)
    runs = [folder for folder in path.iterdir() if Run(folder).finished and _is_crossval(folder) == (command != "fit")]
    if not runs:
        fixes = (f"make one: xmkd {command} experiments/{path.name}.yaml", "name the folder of a finished run")
        raise RunError(f"no finished run of xmkd {command} lies in this folder", where=value, fixes=fixes)
    newest = max(runs, key=lambda folder: (folder / "summary.json").stat().st_mtime_ns)
    if len(runs) > 1:
        warnings.warn(f"{value} holds {len(runs)} finished runs; the newest is taken, {newest.name}", stacklevel=2)
    return newest


def _is_crossval(folder: Path) -> bool:
    return (folder / "predictions_oof.csv").is_file()

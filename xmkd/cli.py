"""The commands. Each one parses, calls one function, prints and sets the exit code.

0: done. 1: a defect of xmkd, with its traceback. 2: the user's input, as one message without a traceback.
Everything heavy is imported inside the commands, so that `xmkd --help` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from xmkd.errors import ConfigError, Interrupted, RunError, XmkdError

app = typer.Typer(
    name="xmkd",
    help="Cross-modal knowledge distillation for medical imaging.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cache_app = typer.Typer(help="Look after the cache of prepared arrays.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Overrides = Annotated[Optional[list[str]], typer.Argument(help="key.sub=value, as many as you like")]  # noqa: UP045
ExperimentFile = Annotated[Path, typer.Argument(help="a YAML file of experiments/")]
RunFolder = Annotated[Path, typer.Argument(help="runs/<experiment>/<run_id>")]


class On(StrEnum):
    """What a label table is matched on."""

    patient = "patient_id"
    sample = "sample_id"


@app.command()
def simulate(
    spec: Annotated[Path, typer.Argument(help="a YAML file of experiments/cohorts/")],
    overrides: Overrides = None,
    out: Annotated[Optional[Path], typer.Option(help="folder for the cohort")] = None,  # noqa: UP045
    workers: Annotated[Optional[int], typer.Option(help="processes; default: one per core")] = None,  # noqa: UP045
    only: Annotated[Optional[str], typer.Option(help="one part, such as tvus")] = None,  # noqa: UP045
    force: Annotated[bool, typer.Option(help="replace a cohort that is there")] = False,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="solve for the difficulty: SPEC's .lock")] = False,
    reserved: Annotated[Optional[int], typer.Option(help="patients to calibrate on; default: 8000")] = None,  # noqa: UP045
    work: Annotated[Optional[Path], typer.Option(help="of calibration; default: runs/calibration")] = None,  # noqa: UP045
) -> None:
    """Make a cohort of simulated patients with known truth, as DICOM; the same command again goes on."""
    from xmkd.simulate import calibrate as calibration
    from xmkd.simulate import cohort
    from xmkd.simulate.examination import examine

    try:
        if calibrate:
            if out is not None or only is not None or force:
                fixes = ("leave out --out, --only and --force", "leave out --calibrate to simulate the cohort")
                raise ConfigError("calibration writes a lock and no cohort", where="--calibrate", fixes=fixes)
            folder, count = work or Path("runs/calibration"), calibration.SIZES[-1] if reserved is None else reserved
            calibration.make_lock(spec, folder, overrides=overrides, patients=count, workers=workers)
            return
        if reserved is not None or work is not None:
            fixes = ("add --calibrate", "leave out --reserved and --work to simulate the cohort")
            raise ConfigError("these are options of calibration", where="--reserved, --work", fixes=fixes)
        found = cohort.load(spec, overrides)
        if out is None:
            fixes = ("add --out FOLDER", "add --calibrate to solve for its difficulty instead")
            raise ConfigError("it is not said where the cohort is to go", where=spec, fixes=fixes)
        for part in cohort.simulate(found, out, examine, workers=workers, only=only, force=force):
            print(part.text())
    except KeyboardInterrupt:
        print("xmkd: interrupted; the same command goes on with the patients that are missing", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def index(
    source: Annotated[Path, typer.Argument(help="folder with DICOM, NIfTI or image files")],
    card: Annotated[Path, typer.Option(help="the data set's card; the manifest is written beside it")],
    out: Annotated[Optional[Path], typer.Option(help="another place for the manifest")] = None,  # noqa: UP045
    labels: Annotated[Optional[Path], typer.Option(help="CSV with one label column or more")] = None,  # noqa: UP045
    on: Annotated[On, typer.Option(help="column that the label table is matched on")] = On.patient,
    pseudonymise: Annotated[bool, typer.Option(help="keyed hashes instead of patient ids")] = False,
    force: Annotated[bool, typer.Option(help="replace a manifest that differs")] = False,
) -> None:
    """Turn a folder of files into a manifest."""
    from xmkd.data.index import index_folder

    report = index_folder(source, card, out, labels=labels, on=on.value, pseudonymise=pseudonymise, force=force)
    print(report.text())


@app.command()
def check(
    target: Annotated[Path, typer.Argument(help="a manifest (CSV), a folder of them, or an experiment (YAML)")],
    overrides: Overrides = None,
    quick: Annotated[bool, typer.Option(help="do not open the files")] = False,
) -> None:
    """Look for missing, damaged, duplicated and leaking data."""
    from xmkd.results import check_text

    text, ok = check_text(target, overrides or [], deep=not quick)
    print(text)
    raise typer.Exit(0 if ok else 2)


@app.command()
def fit(experiment: ExperimentFile, overrides: Overrides = None) -> None:
    """Train, predict and evaluate; the same command again goes on from where it stopped."""
    from xmkd import config, results, training

    results.announce(training.fit(config.load(experiment, overrides)))


@app.command()
def crossval(experiment: ExperimentFile, overrides: Overrides = None) -> None:
    """Train every fold and join the out-of-fold predictions."""
    from xmkd import config, results, training

    results.announce(training.crossval(config.load(experiment, overrides)))


@app.command()
def controls(
    table: Annotated[Path, typer.Argument(help="a YAML file of experiments/controls/")],
    overrides: Overrides = None,
) -> None:
    """Train every arm that tells transfer from regularisation; the same command again goes on."""
    from xmkd.controls import run, spec

    print(f"table: {run.run(spec.load(table, overrides))}")


@app.command("test")
def predict_again(run: RunFolder, overrides: Overrides = None) -> None:
    """Predict and evaluate test patients again, or other data by overrides."""
    from xmkd import results, runs, training

    results.announce(training.test(runs.find(run), overrides or []))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="runs/<experiment>/<run_id>; with --claims the results of controls")],
    others: Annotated[list[Path] | None, typer.Argument(help="further runs, or one table of readers (CSV)")] = None,
    cut: Annotated[float | None, typer.Option(help="a reader's score is a positive call from here on")] = None,
    claims: Annotated[Path | None, typer.Option(help="predictions to judge by a results.csv of controls")] = None,
) -> None:
    """Compare runs, or a run with readers, on the same patients; or judge claims by the results of controls."""
    if claims is not None:
        if others or cut is not None:
            fixes = ("name one table: results.csv of the controls", "leave out --claims to compare runs")
            raise ConfigError("claims are judged by one table, without --cut", where=f"--claims {claims}", fixes=fixes)
        from xmkd.evaluation.claims_report import report as judged

        print(judged(claims, first))
        return
    if not others:
        fixes = ("name another run, or a readers.csv", "add --claims FILE to judge predictions by a table of controls")
        raise ConfigError("there is nothing to compare this with", where=first, fixes=fixes)
    from xmkd.results import comparison

    print(comparison(first, others, cut))


@app.command()
def report(run: RunFolder) -> None:
    """Write report.html into the run folder."""
    from xmkd import runs
    from xmkd.reporting.report import write_report

    print(write_report(runs.find(run)))


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="name of a file in benchmarks")],
    quick: Annotated[bool, typer.Option(help="fewer repeats, to see that it runs")] = False,
) -> None:
    """Race against a real baseline and print the ratio."""
    raise typer.Exit(_benchmark(name, quick))


@cache_app.command("ls")
def cache_ls() -> None:
    """List what the cache holds."""
    from xmkd.data.cache import ArrayCache

    cache = ArrayCache()
    entries = cache.ls()
    for entry in entries:
        print(f"{entry.nbytes / 1e6:9.1f} MB  {entry.age_days:6.1f} days  {entry.shape}  {entry.source}")
    print(f"{len(entries)} entries, {sum(e.nbytes for e in entries) / 1e6:.1f} MB in {cache.folder}")


@cache_app.command("clean")
def cache_clean(
    older_than_days: Annotated[float, typer.Option(min=0, help="keep what is younger")] = 30.0,
    everything: Annotated[bool, typer.Option("--all", help="keep nothing")] = False,
) -> None:
    """Delete old entries of the cache."""
    from xmkd.data.cache import ArrayCache

    freed = ArrayCache().clean(older_than_days, all=everything)
    print(f"freed {freed / 1e6:.1f} MB")


@cache_app.command("verify")
def cache_verify() -> None:
    """Delete entries whose content is damaged, so that they are made again."""
    from xmkd.data.cache import ArrayCache

    damaged = ArrayCache().verify()
    for path in damaged:
        print(f"damaged, deleted: {path.name}")
    print(f"{len(damaged)} damaged entries")


def _benchmark(name: str, quick: bool) -> int:
    """Run `benchmarks/<name>.py` of the checkout that this package lies in."""
    import importlib

    root = Path(__file__).resolve().parents[1]
    known = sorted(p.stem for p in (root / "benchmarks").glob("[a-z]*.py"))
    if name not in known:
        raise RunError(
            f"there is no benchmark {name!r}",
            where=root / "benchmarks",
            fixes=(f"choose one of {', '.join(known) or '(none here)'}", "run it from a checkout of the project"),
        )
    sys.path.insert(0, str(root))
    return int(importlib.import_module(f"benchmarks.{name}").main(quick=quick))


def main() -> NoReturn:
    """Entry point of `python -m xmkd` and of the installed `xmkd`."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.formatwarning = lambda message, *_, **__: f"xmkd: warning: {message}\n"
    try:
        app()
    except XmkdError as error:
        print(f"xmkd: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}:
            raise  # a defect of ours
        fixes = ("free space or make it writable", "use another folder")
        print(f"xmkd: {XmkdError(str(error.strerror), where=error.filename, fixes=fixes)}", file=sys.stderr)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt):
        print("xmkd: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)

"""report.html: the whole of a run in one file that needs neither a network nor JavaScript."""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path

from xmkd.config import Experiment
from xmkd.data.streams import Study
from xmkd.files import in_one_step
from xmkd.reporting.blocks import Section, public
from xmkd.reporting.calibration import assessed
from xmkd.reporting.checklist import checklist
from xmkd.reporting.cohort import data, flow
from xmkd.reporting.distillation import arm
from xmkd.reporting.evidence import Evidence, collect
from xmkd.reporting.folds import audit, folds
from xmkd.reporting.learning import training
from xmkd.reporting.mistakes import mistakes
from xmkd.reporting.overview import SPACE, cards, headline, limits, warnings_of
from xmkd.reporting.performance import discrimination, operating_point, sites
from xmkd.reporting.pretraining import limits as limits_of_pretraining
from xmkd.reporting.pretraining import pictures, reconstruction
from xmkd.reporting.reproduction import reproduction
from xmkd.runs import Run

NAME = "report.html"
SECTIONS = (
    headline,
    arm,
    data,
    flow,
    training,
    discrimination,
    operating_point,
    assessed,
    sites,
    folds,
    audit,
    mistakes,
    limits,
    reproduction,
)
WITHOUT_CLASSES = (reconstruction, data, flow, training, pictures, limits_of_pretraining, reproduction)


def write_report(run: Run, experiment: Experiment | None = None, study: Study | None = None) -> Path:
    """Write `report.html` into a finished run's folder.

    Args:
        run: An ordinary run or the parent of a cross-validation.
        experiment: Its settings, where they are at hand; else config.yaml.
        study: Its tables, where they are at hand; else planned anew from the manifests.

    Returns:
        The file.

    Raises:
        RunError: The run is not finished, its files are damaged, or its folder can't be written.
    """
    text = render(collect(run, experiment, study))
    path = run.folder / NAME
    with in_one_step(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def write_or_warn(run: Run, experiment: Experiment, study: Study) -> None:
    """Write the report at the end of a run; what goes wrong here must not lose the run."""
    try:
        write_report(run, experiment, study)
    except Exception as error:  # of any kind: the results are on disk already
        warnings.warn(
            f"{NAME} could not be written ({type(error).__name__}: {error}); xmkd report {run.folder} tries again",
            stacklevel=2,
        )


def render(evidence: Evidence) -> str:
    """The report as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = [make(evidence) for make in (SECTIONS if evidence.classes else WITHOUT_CLASSES)]
    sections: list[Section] = [section for section in found if section is not None]
    environment = Environment(
        loader=PackageLoader("xmkd.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text: str = environment.get_template("report.html.j2").render(
        title=f"{evidence.experiment.name} {evidence.run.id}",
        experiment=evidence.experiment.name,
        run=evidence.run.id,
        data_sets=", ".join(dict.fromkeys(str(m["data_set"]) for m in evidence.provenance["manifests"].values())),
        written=datetime.date.today().isoformat(),
        cards=cards(evidence),
        warnings=[public(text) for text in warnings_of(evidence)],
        sections=sections,
        guidelines=checklist(evidence) if evidence.classes else [],  # they are for models that are told to tell
    )
    return text.replace("95 %", f"95{SPACE}%")

"""Do the scores mean what they say, and would acting on them do more good than harm."""

from __future__ import annotations

import pandas as pd

from xmkd.errors import EvaluationError
from xmkd.evaluation.calibration import Calibration, calibration
from xmkd.reporting import figures
from xmkd.reporting.blocks import Figure, Section, Table, Text
from xmkd.reporting.evidence import Evidence
from xmkd.reporting.overview import with_bounds
from xmkd.reporting.performance import BAND, NO_BAND


def assessed(evidence: Evidence) -> Section:
    """Calibration before and after recalibration, and net benefit."""
    section = Section("calibration", "Calibration and net benefit")
    if not evidence.binary:
        section.blocks.append(Text("Calibration is assessed for two classes; this model has more."))
        return section
    table = _recalibrated(evidence)
    try:
        raw = calibration(evidence.table)
        mended = None if table is None else calibration(table)
    except EvaluationError as error:
        section.blocks.append(Text(f"Calibration can't be assessed: {error.what}."))
        return section
    if mended is None:
        section.blocks.append(Text("The scores are shown as the model gives them: nothing recalibrates them."))
    elif evidence.crossval:
        section.blocks.append(Text("Recalibrated: each fold's scores by that fold's own validation patients."))
    section.blocks.append(_table(evidence, raw, mended))
    if raw.curve["low"].notna().any():
        section.blocks.append(_curve(evidence, raw, mended))
    else:
        section.blocks.append(Text("There are too few patients for a calibration curve."))
    section.blocks.append(_net_benefit(evidence, mended or raw, recalibrated=mended is not None))
    return section


def _recalibrated(evidence: Evidence) -> pd.DataFrame | None:
    """The predictions after the recalibration that validation patients set; None where there is none."""
    if evidence.calibrator is not None:
        return evidence.calibrator.apply_table(evidence.table)
    fitted = [part.calibrator for part in evidence.folds]
    if not fitted or None in fitted:
        return None
    tables = [evidence.table[evidence.table["fold"] == k] for k in range(len(fitted))]
    parts = [f.apply_table(table) for f, table in zip(fitted, tables, strict=True) if f is not None]
    return pd.concat(parts, ignore_index=True)


def _table(evidence: Evidence, raw: Calibration, mended: Calibration | None) -> Table:
    both = [raw] if mended is None else [raw, mended]
    rows = [
        ["Slope (ideal 1)", *(with_bounds(c.slope) for c in both)],
        ["Intercept (ideal 0)", *(with_bounds(c.intercept) for c in both)],
        ["Log loss", *(with_bounds(c.log_loss) for c in both)],
        ["ECE, descriptive", *(f"{c.ece:.3f}" for c in both)],
    ]
    header = ["", "as predicted", *(["recalibrated"] if mended else [])]
    caption = "Calibration with 95 % intervals. A slope below 1: scores too extreme. An intercept below 0: too high."
    return Table(header, rows, caption, f"{evidence.source} and summary.json (recalibration)")


def _curve(evidence: Evidence, raw: Calibration, mended: Calibration | None) -> Figure:
    with figures.drawing() as drawing:
        axes = drawing.axes
        axes.plot([0, 1], [0, 1], color=figures.GREY, linewidth=1, linestyle=":", label="ideal")
        curves = [(raw, figures.ORANGE, "--", "as predicted")]
        curves += [] if mended is None else [(mended, figures.BLUE, "-", "recalibrated")]
        for found, colour, style, label in curves:
            curve = found.curve
            figures.band(axes, curve["score"], curve["low"], curve["high"], colour)
            axes.plot(curve["score"], curve["observed"], style, color=colour, label=label)
        figures.unit_square(axes, "score", f"observed share of {evidence.classes[1]}")
        axes.legend(loc="best")
    caption = (
        "Observed share of positives by score: a logistic regression on a restricted cubic spline, over the middle "
        f"95 % of the scores. {BAND}"
    )
    alt = f"Calibration curve, slope {raw.slope.value:.2f}, intercept {raw.intercept.value:.2f} as predicted"
    return Figure(drawing.src, "Calibration curve", alt, caption, evidence.source)


def _net_benefit(evidence: Evidence, found: Calibration, *, recalibrated: bool) -> Figure:
    table = found.net_benefit
    prevalence = float((evidence.table["label"] == 1).mean())
    with figures.drawing() as drawing:
        axes = drawing.axes
        axes.plot(table["threshold"], table["treat_all"], "--", color=figures.ORANGE, linewidth=1.2, label="treat all")
        axes.plot(table["threshold"], table["treat_none"], ":", color=figures.GREY, linewidth=1.2, label="treat none")
        figures.band(axes, table["threshold"], table["low"], table["high"])
        axes.plot(table["threshold"], table["model"], color=figures.BLUE, label="model")
        lowest = max(-prevalence, min(-0.2 * prevalence, 1.1 * float(table["model"].min())))
        axes.set(xlim=(0, 1), ylim=(lowest, 1.1 * prevalence))
        axes.set(xlabel="risk from which one would act", ylabel="net benefit")
        axes.legend(loc="upper right")
    scores = "recalibrated scores" if recalibrated else "scores as predicted"
    caption = (
        f"Net benefit (true positives less weighted false positives, per sample) of acting on the {scores}, against "
        f"acting on everyone or on no one. {BAND if table['low'].notna().any() else NO_BAND}"
    )
    return Figure(drawing.src, "Net benefit", "Net benefit by threshold probability", caption, evidence.source)

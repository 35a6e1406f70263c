"""How well the model tells the classes apart, at its operating point and at all others, and at each site."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from xmkd.evaluation.classification import confusion_matrix, per_site
from xmkd.evaluation.curves import pr_band, roc_band
from xmkd.evaluation.inputs import score_columns
from xmkd.evaluation.proportions import proportion_interval
from xmkd.evaluation.statistics import Interval
from xmkd.evaluation.thresholds import DEFAULT_THRESHOLD, Threshold, cuts
from xmkd.reporting import figures
from xmkd.reporting.blocks import Figure, Matrix, Section, Table, Text
from xmkd.reporting.evidence import Evidence
from xmkd.reporting.figures import HEIGHT
from xmkd.reporting.overview import metric_name, with_bounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND = "Shaded: pointwise 95 % band, bootstrap of whole patients."
NO_BAND = "No band: too few patients."
AXES = ("1 - specificity", "sensitivity")


def discrimination(evidence: Evidence) -> Section:
    """ROC and precision-recall curves and the scores behind them; of several classes each against the rest."""
    section = Section("discrimination", "Discrimination")
    if evidence.binary:
        section.blocks += [_roc(evidence), _precision_recall(evidence), _scores(evidence)]
    else:
        section.blocks += [_one_against_rest(evidence), _per_class(evidence)]
    return section


def operating_point(evidence: Evidence) -> Section:
    """Who is called positive and how often that is right; of several classes who is taken for whom."""
    threshold = evidence.threshold or DEFAULT_THRESHOLD
    matrix = confusion_matrix(evidence.table, threshold, evidence.classes)
    counts: list[list[int]] = matrix.to_numpy().tolist()
    if not evidence.binary:
        caption = "Samples by true and predicted class (the class with the highest score); percent of the true class."
        matrix_block = Matrix(evidence.classes, counts, caption, evidence.source)
        return Section("operating-point", "Confusion matrix", [matrix_block])
    section = Section("operating-point", "At the operating point")
    chosen = str(evidence.threshold)
    section.blocks.append(Text(f"{chosen[0].upper()}{chosen[1:]}."))
    if isinstance(threshold, Threshold) and evidence.crossval and not threshold.folds:
        section.blocks.append(Text("One threshold for all folds: out-of-fold test scores may not choose their own."))
    caption = "Samples by truth and call at the operating point; percent of the true class."
    section.blocks.append(Matrix(evidence.classes, counts, caption, evidence.source))
    rows = [
        [metric_name(name), *_cells(evidence.intervals[name]), "summary.json"]
        for name in ("patient/sensitivity", "patient/specificity", "sensitivity", "specificity")
        if name in evidence.intervals
    ]
    rows += [[name, *_cells(interval), evidence.source] for name, interval in _predictive(evidence, threshold)]
    caption = "Rates at the operating point; per patient: by the mean score of a patient's samples. Predictive values "
    caption += "hold at this set's prevalence only."
    header = ["rate", "value [95 % interval]", "samples", "patients", "from"]
    section.blocks.append(Table(header, rows, caption, f"summary.json and {evidence.source}"))
    return section


def sites(evidence: Evidence) -> Section:
    """The main figures of every site."""
    section = Section("sites", "Sites")
    table = evidence.table
    if "site" not in table.columns or table["site"].isna().all():
        section.blocks.append(Text("The manifest names no site, so differences between sites can't be seen."))
        return section
    wanted = ["auroc", "sensitivity", "specificity"] if evidence.binary else ["macro_auroc", "macro_f1", "accuracy"]
    rows = []
    threshold, classes = evidence.threshold or DEFAULT_THRESHOLD, None if evidence.binary else evidence.classes
    parts = dict(list(table.groupby(table["site"].fillna("not given").astype(str))))
    for site, found in per_site(table, threshold, classes, resamples=1000).items():
        part = parts[site]
        cells = [with_bounds(found[n]) if n in found and found[n].n else "not defined here" for n in wanted]
        rows.append([site, str(len(part)), str(part["patient_id"].nunique()), *cells])
    header = ["site", "samples", "patients", *(metric_name(n) for n in wanted)]
    section.blocks.append(Table(header, rows, "The main figures of each site, with 95 % intervals.", evidence.source))
    if len(rows) == 1:
        section.blocks.append(Text("There is one site only: differences between sites can't be seen here."))
    return section


def _roc(evidence: Evidence) -> Figure:
    table, interval = evidence.table, evidence.intervals["auroc"]
    curve = roc_band(table)
    with figures.drawing() as drawing:
        axes = drawing.axes
        axes.plot([0, 1], [0, 1], color=figures.GREY, linewidth=1, linestyle=":", label="guessing")
        if evidence.crossval:
            _fold_curves(axes, table)
        figures.band(axes, curve["fpr"], curve["low"], curve["high"])
        axes.plot(curve["fpr"], curve["tpr"], color=figures.BLUE, label=f"AUROC {interval.value:.3f}")
        _mark(evidence, axes)
        figures.unit_square(axes, *AXES)
        axes.legend(loc="lower right")
    caption = f"ROC curve. {BAND if curve['low'].notna().any() else NO_BAND} Circle: the operating point with the exact"
    caption += " 95 % intervals of both rates."
    if evidence.crossval:
        caption += " Blue: mean of the folds' curves, weighted by pairs; thin: each fold; dashed: all scores pooled."
    alt = f"ROC curve with an area of {with_bounds(interval)}"
    return Figure(drawing.src, "ROC curve", alt, caption, evidence.source)


def _fold_curves(axes: Axes, table: pd.DataFrame) -> None:
    for _, part in table.groupby("fold"):
        if part["label"].nunique() == 2:
            curve = roc_band(part.assign(fold=0), resamples=2)
            axes.plot(curve["fpr"], curve["tpr"], color=figures.GREY, linewidth=0.8, alpha=0.8)
    pooled = roc_band(table.assign(fold=0), resamples=2)
    axes.plot(pooled["fpr"], pooled["tpr"], color=figures.ORANGE, linewidth=1.2, linestyle="--", label="pooled")


def _mark(evidence: Evidence, axes: Axes) -> None:
    sensitivity, specificity = evidence.intervals["sensitivity"], evidence.intervals["specificity"]
    x, y = 1 - specificity.value, sensitivity.value
    if sensitivity.low is not None and sensitivity.high is not None:
        axes.plot([x, x], [sensitivity.low, sensitivity.high], color=figures.BLACK, linewidth=1)
    if specificity.low is not None and specificity.high is not None:
        axes.plot([1 - specificity.high, 1 - specificity.low], [y, y], color=figures.BLACK, linewidth=1)
    axes.plot([x], [y], "o", markerfacecolor="white", color=figures.BLACK, markersize=6, label="operating point")


def _precision_recall(evidence: Evidence) -> Figure:
    table, interval = evidence.table, evidence.intervals["auprc"]
    curve, prevalence = pr_band(table), float((table["label"] == 1).mean())
    called = table["score"] >= cuts(table, evidence.threshold or DEFAULT_THRESHOLD)
    with figures.drawing() as drawing:
        axes = drawing.axes
        axes.axhline(prevalence, color=figures.GREY, linewidth=1, linestyle=":", label=f"prevalence {prevalence:.2f}")
        figures.band(axes, curve["recall"], curve["low"], curve["high"])
        axes.plot(curve["recall"], curve["precision"], color=figures.BLUE, label=f"AUPRC {interval.value:.3f}")
        if called.any():
            precision = float((table.loc[called, "label"] == 1).mean())
            recall = evidence.intervals["sensitivity"].value
            axes.plot([recall], [precision], "o", markerfacecolor="white", color=figures.BLACK, label="operating point")
        figures.unit_square(axes, "recall (sensitivity)", "precision (positive predictive value)")
        axes.legend(loc="best")
    caption = f"Precision-recall curve. {BAND if curve['low'].notna().any() else NO_BAND} Dotted: precision of a guess."
    if evidence.crossval:
        caption += " Scores of all folds pooled."
    alt = f"Precision-recall curve with an area of {with_bounds(interval)}, prevalence {prevalence:.3f}"
    return Figure(drawing.src, "Precision and recall", alt, caption, evidence.source)


def _scores(evidence: Evidence) -> Figure:
    table = evidence.table
    with figures.drawing(3.0) as drawing:
        groups = [
            (name, table.loc[table["label"] == k, "score"], colour)
            for k, (name, colour) in enumerate(zip(evidence.classes, (figures.BLUE, figures.ORANGE), strict=True))
        ]
        figures.histogram(drawing.axes, groups)
        if evidence.threshold is not None and not evidence.threshold.folds:
            drawing.axes.axvline(evidence.threshold.value, color=figures.BLACK, linewidth=1, linestyle="--")
        drawing.axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    caption = "Scores of the samples of each class, before recalibration."
    if evidence.threshold is not None and not evidence.threshold.folds:
        caption += " Dashed: the operating point."
    alt = "Histograms of the scores of both classes"
    return Figure(drawing.src, "Scores by class", alt, caption, evidence.source)


def _one_against_rest(evidence: Evidence) -> Figure:
    table = evidence.table
    with figures.drawing(HEIGHT + 0.18 * len(evidence.classes)) as drawing:
        axes = drawing.axes
        axes.plot([0, 1], [0, 1], color=figures.GREY, linewidth=1, linestyle=":")
        for k, name in enumerate(evidence.classes):
            if not 0 < (table["label"] == k).sum() < len(table):
                continue
            curve = roc_band(_against_rest(table, k), resamples=2)
            colour, style = figures.MANY[k % len(figures.MANY)], ("-", "--", "-.", ":")[k % 4]
            area = evidence.intervals[f"auroc/{name}"].value
            axes.plot(curve["fpr"], curve["tpr"], style, color=colour, label=f"{name} {area:.3f}")
        figures.unit_square(axes, *AXES)
        drawing.axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))
    caption = "ROC curve of each class against all others, with its AUROC; classes that do not occur are left out."
    alt = f"ROC curves of {len(evidence.classes)} classes, each against the rest"
    return Figure(drawing.src, "ROC curve of each class", alt, caption, evidence.source)


def _against_rest(table: pd.DataFrame, number: int) -> pd.DataFrame:
    columns = score_columns(table)
    binary = table.assign(label=(table["label"] == number).astype(int), score=table[columns[number]])
    return binary.drop(columns=columns)


def _per_class(evidence: Evidence) -> Table:
    table = evidence.table
    chosen = table[score_columns(table)].to_numpy().argmax(axis=1)
    rows = []
    for k, name in enumerate(evidence.classes):
        here, called = table["label"] == k, chosen == k
        right = proportion_interval(here[called].to_numpy(), table["patient_id"][called].to_numpy())
        area, found = (evidence.intervals.get(f"{metric}/{name}") for metric in ("auroc", "sensitivity"))
        rows.append(
            [name, str(int(here.sum())), str(table["patient_id"][here].nunique())]
            + ["does not occur" if i is None else with_bounds(i) for i in (area, found)]
            + [with_bounds(right) if called.any() else "never predicted"]
        )
    header = ["class", "samples", "patients", "AUROC against the rest", "sensitivity", "positive predictive value"]
    caption = "Each class, with 95 % intervals whose unit is the patient."
    return Table(header, rows, caption, f"summary.json and {evidence.source}")


def _predictive(evidence: Evidence, threshold: float | Threshold) -> list[tuple[str, Interval]]:
    """Positive and negative predictive value."""
    table = evidence.table
    called, positive = (table["score"] >= cuts(table, threshold)).to_numpy(), (table["label"] == 1).to_numpy()
    patient = table["patient_id"].to_numpy()
    return [
        ("Positive predictive value", proportion_interval(positive[called], patient[called])),
        ("Negative predictive value", proportion_interval(~positive[~called], patient[~called])),
    ]


def _cells(interval: Interval) -> list[str]:
    if interval.n == 0:
        return ["no such sample", "0", "0"]
    return [with_bounds(interval), f"{interval.n:,}", f"{interval.patients:,}"]

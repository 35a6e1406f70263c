"""What a cross-validation adds: each fold by itself, within-fold against pooled, and the shortcut audit."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xmkd.evaluation.classification import rates
from xmkd.evaluation.statistics import POOLED_TOLERANCE, auroc
from xmkd.reporting import figures
from xmkd.reporting.blocks import Block, Figure, Section, Table, Text, public
from xmkd.reporting.evidence import Evidence
from xmkd.reporting.overview import metric_name, with_bounds


def folds(evidence: Evidence) -> Section | None:
    """The folds of a cross-validation; None for an ordinary run."""
    if not evidence.crossval:
        return None
    section = Section("folds", "Folds")
    names = ["auroc"] if evidence.binary else ["macro_auroc", "macro_f1", "balanced_accuracy"]
    if evidence.binary:
        section.blocks += _pooled(evidence)
    section.blocks.append(_table(evidence, names))
    values = np.array([part.intervals[names[0]].value for part in evidence.folds])
    section.blocks.append(
        Text(
            f"{metric_name(names[0])} over the {len(values)} folds: mean {values.mean():.3f}, standard deviation "
            f"{values.std(ddof=1):.3f}, from {values.min():.3f} to {values.max():.3f}. The folds share training "
            "patients, so this spread is no standard error."
        )
    )
    return section


def audit(evidence: Evidence) -> Section | None:
    """The shortcut audit; None where there is no audit.csv."""
    table = evidence.table_of("audit.csv")
    if table is None or table.empty:
        return None
    rows, drawn = [], []
    for row in table.to_dict("records"):
        value, low, high = (_number(row.get(key, "")) for key in ("auroc", "low", "high"))
        name = str(row["condition"])
        shown = "undefined" if value is None else f"{value:.3f}"
        limits = "" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
        rows.append([name, shown, limits, str(row["n"]), str(row["patients"]), public(str(row["note"]))])
        if value is not None:
            drawn.append((name, value, low, high))
    header = ["condition", "AUROC", "95 % interval", "samples", "patients", "note"]
    caption = (
        "What the model, or a simple rule, still tells when only part of the picture is left. Figures well above 0.5 "
        "without the lesion point to a shortcut."
    )
    blocks: list[Block] = [Table(header, rows, caption, "audit.csv"), _forest(drawn)]
    return Section("audit", "Shortcut audit", blocks)


def _pooled(evidence: Evidence) -> list[Block]:
    table, within = evidence.table, evidence.intervals["auroc"]
    pooled = auroc(table["label"].to_numpy(), table["score"].to_numpy())
    gap = pooled - within.value
    rows = [
        ["Within folds: pairs of the same fold", with_bounds(within)],
        ["Pooled: all pairs, scores of several models mixed", f"{pooled:.3f}"],
        ["Pooled minus within", f"{gap:+.3f}"],
    ]
    verdict = "more than" if abs(gap) > POOLED_TOLERANCE else "no more than"
    caption = f"The two AUROCs of a cross-validation; they differ by {verdict} {POOLED_TOLERANCE}."
    return [Table(["", "AUROC"], rows, caption, f"summary.json and {evidence.source}")]


def _table(evidence: Evidence, names: list[str]) -> Table:
    rows = []
    for number, part in enumerate(evidence.folds):
        here: pd.DataFrame = evidence.table[evidence.table["fold"] == number]
        cells = [str(number), f"{here['patient_id'].nunique():,}", f"{len(here):,}"]
        if evidence.binary and evidence.threshold is not None:
            cells.append(f"{(here['label'] == 1).mean():.3f}")
        cells += [with_bounds(part.intervals[name]) for name in names]
        if evidence.binary and evidence.threshold is not None:
            cells += [with_bounds(i) for i in rates(here, evidence.threshold).values()]
        rows.append(cells)
    header = ["fold", "patients", "samples", *(["prevalence"] if evidence.binary else []), *map(metric_name, names)]
    caption = "Each fold's model on its own test patients, with 95 % intervals."
    if evidence.binary and evidence.threshold is not None:
        header += ["sensitivity", "specificity"]
        common = f"the common threshold {evidence.threshold.value:g}"
        caption += f" Rates at {'each fold’s own threshold' if evidence.threshold.folds else common}."
    return Table(header, rows, caption, f"fold_*/summary.json and {evidence.source}")


def _forest(rows: list[tuple[str, float, float | None, float | None]]) -> Figure:
    with figures.drawing(1.0 + 0.32 * len(rows)) as drawing:
        figures.forest(drawing.axes, rows, 0.5)
        drawing.axes.set(xlabel="AUROC", xlim=(min([0.4, *(r[2] or r[1] for r in rows)]) - 0.02, 1.0))
    alt = "AUROC of each condition: " + "; ".join(f"{name} {value:.3f}" for name, value, *_ in rows)
    caption = "The same figures. Dotted: guessing."
    return Figure(drawing.src, "AUROC by condition", alt, caption, "audit.csv")


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if np.isfinite(value) else None

"""How training went: losses and validation figures over the epochs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xmkd.evaluation.inputs import FloatArray
from xmkd.reporting import figures
from xmkd.reporting.blocks import Figure, Section, Text
from xmkd.reporting.evidence import Evidence
from xmkd.reporting.overview import metric_name


def training(evidence: Evidence) -> Section:
    """Learning curves; of a cross-validation all folds in one drawing."""
    section = Section("training", "Training")
    parts = [part for part in (evidence.folds or [evidence]) if len(part.metrics)]
    if not parts:
        section.blocks.append(Text("There is no metrics.csv here, so the learning curves can't be shown."))
        return section
    names = list(dict.fromkeys(name for part in parts for name in part.metrics["metric"]))
    section.blocks.append(_losses(evidence, parts))
    terms = [name for name in names if name.startswith("train/l_")]
    if len(terms) > 1:
        section.blocks.append(_terms(evidence, parts, terms))
    if "train/w" in names:
        section.blocks.append(_weight(evidence, parts))
    section.blocks += [_validated(evidence, parts, n) for n in names if n.startswith("val/") and n != "val/loss"]
    if not any(name.startswith("val/") for name in names):
        section.blocks.append(Text("There were no validation patients, so nothing was measured on them in training."))
    return section


def _losses(evidence: Evidence, parts: list[Evidence]) -> Figure:
    with figures.drawing(3.0) as drawing:
        axes = drawing.axes
        for part in parts:
            for name, colour, style in (("train/loss", figures.BLUE, "-"), ("val/loss", figures.ORANGE, "--")):
                epoch, value = _curve(part, name)
                if epoch.size:
                    label = name.replace("/", " ") if part is parts[0] else None
                    marker = "o" if name.startswith("val") else None
                    axes.plot(epoch, value, style, color=colour, label=label, marker=marker, markersize=3.5)
        _finish(evidence, drawing, "loss")
    caption = "Training loss (mean over the steps since the last point, on augmented pictures) and validation loss."
    if getattr(evidence.experiment.method, "loss", "plain") != "plain":
        caption += " The training loss is weighted by class, the validation loss is plain, so their levels differ."
    if any((_curve(part, "train/w")[1] > 0).any() for part in parts):
        caption += " The training loss is another mixture of its terms in each epoch: see them one by one."
    return Figure(drawing.src, "Loss", "Training and validation loss by epoch", caption + _folds(parts), _file(parts))


def _terms(evidence: Evidence, parts: list[Evidence], names: list[str]) -> Figure:
    """The terms that a loss is mixed of."""
    with figures.drawing(3.0) as drawing:
        for part in parts:
            for name, colour in zip(names, figures.MANY, strict=False):
                epoch, value = _curve(part, name)
                drawing.axes.plot(epoch, value, color=colour, label=name if part is parts[0] else None)
        _finish(evidence, drawing, "term of the loss")
    told = {"train/l_kd": "train/l_kd, the distance to the targets", "train/l_ptm": "train/l_ptm, of the labels"}
    caption = f"Terms of the training loss before they are mixed: {'; '.join(told.get(n, n) for n in names)}."
    alt = f"Terms of the training loss by epoch: {', '.join(names)}"
    return Figure(drawing.src, "Terms of the loss", alt, caption + _folds(parts), _file(parts))


def _weight(evidence: Evidence, parts: list[Evidence]) -> Figure:
    with figures.drawing(3.0) as drawing:
        for part in parts:
            rows = part.metrics[part.metrics["metric"] == "train/w"]
            epochs, values = [*rows["epoch"], rows["epoch"].max() + 1], [*rows["value"], rows["value"].iloc[-1]]
            drawing.axes.step(epochs, values, where="post", color=figures.BLUE)
        _finish(evidence, drawing, "weight of distillation")
        drawing.axes.set_ylim(-0.03, 1.03)
    alt = f"Weight of the distillation term by epoch, from {values[0]:.3f} to {values[-1]:.3f}"
    caption = "Weight w of the distillation term in each epoch; supervision has 1 - w."
    return Figure(drawing.src, "Weight of distillation", alt, caption, _file(parts))


def _validated(evidence: Evidence, parts: list[Evidence], name: str) -> Figure:
    title = metric_name(name.removeprefix("val/"))
    with figures.drawing(3.0) as drawing:
        for part in parts:
            epoch, value = _curve(part, name)
            drawing.axes.plot(epoch, value, "--o", color=figures.ORANGE, markersize=3.5)
        _finish(evidence, drawing, title)
    last = [float(_curve(part, name)[1][-1]) for part in parts]
    alt = f"{title} on validation patients by epoch, last {', '.join(f'{v:.3f}' for v in last)}"
    caption = f"{title} on validation patients, all samples pooled, without intervals: for watching, not for reporting."
    return Figure(drawing.src, f"Validation {title}", alt, caption + _folds(parts), _file(parts))


def _curve(part: Evidence, name: str) -> tuple[FloatArray, FloatArray]:
    """Epochs done and value of a metric."""
    metrics: pd.DataFrame = part.metrics
    steps_per_epoch = metrics["step"].max() / (metrics["epoch"].max() + 1)
    rows = metrics[metrics["metric"] == name]
    return np.asarray(rows["step"] / steps_per_epoch, float), np.asarray(rows["value"], float)


def _finish(evidence: Evidence, drawing: figures.Drawing, label: str) -> None:
    axes = drawing.axes
    axes.set(xlabel="epochs done", ylabel=label)
    axes.locator_params(axis="x", integer=True)
    epoch = evidence.weights.get("epoch")
    if epoch is not None and not evidence.folds:
        axes.axvline(int(epoch) + 1, color=figures.GREY, linewidth=1, linestyle=":", label="weights used")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _folds(parts: list[Evidence]) -> str:
    return f" One line for each of {len(parts)} folds." if len(parts) > 1 else ""


def _file(parts: list[Evidence]) -> str:
    return "metrics.csv" if len(parts) == 1 else "fold_*/metrics.csv"

"""The first page: headline figures, what they rest on, and what a reader must be warned of."""

from __future__ import annotations

from xmkd.evaluation.statistics import MIN_PATIENTS, TOO_FEW, Interval, difference
from xmkd.reporting.blocks import Points, Section, Table, Text, public
from xmkd.reporting.evidence import Evidence, disjoint_by_hash

NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "brier": "Brier score",
    "macro_f1": "Macro-F1",
    "macro_auroc": "Macro AUROC",
    "loss_model": "Loss",
    "psnr_model": "PSNR, dB",
    "ssim_model": "SSIM",
    "loss_over_linear": "Loss relative to interpolation",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "knn_auroc": "AUROC of a nearest-neighbour probe",
    "linear_auroc": "AUROC of a linear probe",
}
SIDES = {
    "test": "test patients",
    "val": "validation patients",
    "oof": "all patients, each predicted by the fold that did not train on it",
}

CARDS = ("auroc", "sensitivity", "specificity", "macro_auroc", "macro_f1", "balanced_accuracy")
CARDS_WITHOUT_CLASSES = ("loss_model", "psnr_model", "ssim_model")
"""Figures in large type, the first three that there are."""

KNOWN = {
    "oracle": ("Oracle", "up to ten true measurements on the drawn pictures"),
    "ceiling": ("Latent ceiling", "the most that any model of these pictures can reach"),
}
"""What is known of a simulated label, by its name in summary.json."""

SPACE = "\N{NO-BREAK SPACE}"


def metric_name(name: str) -> str:
    """The name of a metric for people, as in "Sensitivity for Teratoma"."""
    level, _, rest = name.rpartition("patient/")
    head, _, of = rest.partition("/")
    text = NAMES.get(head, head)
    if of:
        text += f" of {of} against the rest" if head == "auroc" else f" for {of}"
    return f"{text}, per patient" if level or name.startswith("patient/") else text


def bounds(interval: Interval) -> str:
    """`[low, high]`, or why there is none."""
    if interval.low is None or interval.high is None:
        return "too few patients" if interval.note.startswith(TOO_FEW) else "no interval"
    return f"[{interval.low:.3f},{SPACE}{interval.high:.3f}]"


def with_bounds(interval: Interval) -> str:
    """`0.749 [0.650, 0.828]`, which no line break may divide."""
    return f"{interval.value:.3f}{SPACE}{bounds(interval)}"


def cards(evidence: Evidence) -> list[tuple[str, str, str]]:
    """Name, value and interval of the figures in large type; of patients where they have several samples."""
    both = ((f"patient/{name}", name) for name in (CARDS if evidence.classes else CARDS_WITHOUT_CLASSES))
    found = [next(n for n in pair if n in evidence.intervals) for pair in both if set(pair) & set(evidence.intervals)]
    within = ", within folds" if evidence.crossval and evidence.binary else ""
    names = {n: metric_name(n) + (within if n.endswith("auroc") else "") for n in found[:3]}
    return [(name, f"{evidence.intervals[n].value:.3f}", bounds(evidence.intervals[n])) for n, name in names.items()]


def headline(evidence: Evidence) -> Section:
    """What was found, on whom, at which operating point, with which weights."""
    section = Section("summary", "Result")
    section.blocks.append(Text(_sentence(evidence)))
    rows = [
        [metric_name(name), f"{i.value:.3f}", bounds(i), f"{i.n:,}", f"{i.patients:,}", i.method, i.note]
        for name, i in evidence.intervals.items()
        if "/" not in name or name.startswith("patient/")
    ]
    header = ["figure", "value", "95 % interval", "samples", "patients", "interval by", "note"]
    caption = f"Figures on {SIDES.get(evidence.side, evidence.side)}. The unit of every interval is the patient."
    section.blocks.append(Table(header, rows, caption, "summary.json"))
    if evidence.limits:
        section.blocks.append(simulated(evidence))
    section.blocks.append(Table(["", ""], facts(evidence), "What the figures rest on.", f"summary.json, {_sources()}"))
    return section


def simulated(evidence: Evidence) -> Table:
    """How well the label of a simulated cohort can be told at all, and how far the model stays behind."""
    rows = [
        [KNOWN[name][0], f"{i.value:.3f}", bounds(i), f"{i.patients:,}", KNOWN[name][1]]
        for name, i in evidence.limits.items()
    ]
    model, oracle = evidence.intervals.get("auroc"), evidence.limits.get("oracle")
    if model is not None:
        rows.insert(0, ["This model", f"{model.value:.3f}", bounds(model), f"{model.patients:,}", "as above"])
    if model is not None and oracle is not None:
        gap = difference(oracle, model)
        words = f"oracle minus model, on different patients ({gap.method})"
        rows.append(["Gap to the oracle", f"{gap.value:.3f}", bounds(gap), "", words])
    header = ["AUROC of", "value", "95 % interval", "patients", "which is"]
    caption = f"How well the simulated label can be told, under the cohort's lock {evidence.lock}."
    return Table(header, rows, caption, "summary.json and provenance.json")


def facts(evidence: Evidence) -> list[list[str]]:
    """Name and value of what the figures rest on."""
    table = evidence.table
    rows = [["Predictions of", SIDES.get(evidence.side, evidence.side)]]
    rows.append(["Samples, patients", f"{len(table):,} samples of {table['patient_id'].nunique():,} patients"])
    if evidence.stream is not None:
        rows.append(["A patient is", evidence.stream.manifest.card.grouping])
    if evidence.lock:
        rows.append(["Simulated, under lock", f"{evidence.lock}: figures under another lock are of another task"])
    if evidence.classes:
        rows.append(["Prevalence" if evidence.binary else "Classes", prevalence(evidence)])
    if evidence.threshold is not None:
        rows.append(["Operating point", str(evidence.threshold)])
    if evidence.binary:
        rows.append(["Recalibration", _recalibration(evidence)])
    rows.append(["Model", model(evidence)])
    rows.append(["Weights", weights(evidence)])
    return rows


def prevalence(evidence: Evidence) -> str:
    """How often each class occurs among the predictions."""
    table = evidence.table
    if not evidence.binary:
        counts = table["label"].value_counts()
        return "; ".join(f"{name} {int(counts.get(k, 0))}" for k, name in enumerate(evidence.classes))
    positive = table[table["label"] == 1]
    patients, share = table["patient_id"].nunique(), 100 * len(positive) / len(table)
    return (
        f"{share:.1f} % of samples are {evidence.classes[1]} ({len(positive):,} of {len(table):,}); "
        f"{positive['patient_id'].nunique()} of {patients} patients have such a sample"
    )


def model(evidence: Evidence) -> str:
    """Method, backbone and size."""
    experiment = evidence.experiment
    text = experiment.method_name
    backbone = getattr(experiment.method, "backbone", None) or getattr(experiment.method, "student", None)
    if backbone:
        text += f", {backbone}"
    source = evidence.folds[0] if evidence.folds else evidence
    tensors = source.weights.get("state_dict", {})
    if tensors:
        text += f", {sum(t.numel() for t in tensors.values()) / 1e6:.1f} million parameters"
    return text


def weights(evidence: Evidence) -> str:
    """Which checkpoint was used, and why that one."""
    if evidence.folds:
        return f"each fold's own ({weights(evidence.folds[0])})"
    best = getattr(evidence.experiment.method, "select", "last") == "inner_val"
    why = "best on validation patients" if best else "the last, whatever its validation figures"
    if evidence.checkpoint is None:
        return f"checkpoint {why}; the file is not there any more"
    epoch = evidence.weights.get("epoch")
    after = "" if epoch is None else f" after {int(epoch) + 1} of {evidence.experiment.trainer.max_epochs} epochs"
    return f"{evidence.checkpoint.name}{after}: {why}"


def warnings_of(evidence: Evidence) -> list[str]:
    """What must stand at the top, most serious first."""
    return [public(text) for text in [*_leaks(evidence), *_figures(evidence), *_origins(evidence)]]


def _leaks(evidence: Evidence) -> list[str]:
    found = []
    for part in evidence.folds or [evidence]:
        hashed = disjoint_by_hash(part)
        if isinstance(hashed, list):
            found += [
                f"LEAK: {shared} of {looked} evaluated patients were used to fit {name}; the figures are not valid"
                for name, shared, looked in hashed
                if shared
            ]
    return found


def _figures(evidence: Evidence) -> list[str]:
    found = []
    few = [metric_name(name) for name, i in evidence.intervals.items() if i.note.startswith(TOO_FEW)]
    if few:
        more = f" and {len(few) - 4} further figures" if len(few) > 4 else ""
        found.append(
            f"Too few patients for an interval of {', '.join(few[:4])}{more}: {MIN_PATIENTS} are needed"
            f"{' in each class' if evidence.classes else ''}."
        )
    for name, interval in evidence.intervals.items():
        parts = [p.strip() for p in interval.note.split(";")]
        found += [f"{metric_name(name)}: {p.replace('warning, ', '')}." for p in parts if "warning" in p]
        found += [f"{metric_name(name)}: {p}." for p in parts if p.startswith("missing:") or "left out" in p]
    threshold, calibrator = evidence.threshold, evidence.calibrator
    if threshold is not None and ("refused" in threshold.note or "optimistic" in threshold.note):
        text = f"Operating point: {threshold.note}."
        if "refused" in threshold.note:
            text += f" The figures use {threshold.value:g} instead, which nobody chose for these patients."
        found.append(text)
    if calibrator is not None and "warning" in calibrator.note:
        found.append(f"Recalibration: {calibrator.note.replace('warning: ', '')}.")
    return list(dict.fromkeys(found))


def _origins(evidence: Evidence) -> list[str]:
    found = []
    record = evidence.provenance
    found += [f"The run went on under other code: {', '.join(changes)}." for changes in record["continued"]]
    if str(record["commit"]).endswith("+"):
        found.append(f"The run's code differed from commit {str(record['commit'])[:-1]}, which alone can't repeat it.")
    if record["commit"] == "unknown":
        found.append("The commit of the run's code is not known.")
    if evidence.study is None:
        found.append(f"The flow of samples and the split can't be shown: {evidence.study_problem}.")
    else:
        for name, stream in evidence.study.streams.items():
            then = record["manifests"].get(name, {}).get("hash")
            if then != stream.manifest.hash:
                found.append(f"The manifest of the stream {name} is not the one that the run was made from.")
        if record["split"] != evidence.study.split_hash:
            found.append("The split, made anew, is not the one that the run was made from.")
    if evidence.elsewhere:
        found.append("The evaluated patients are others than the run's own test patients (xmkd test with overrides).")
    if len(evidence.skipped):
        found.append(f"{len(evidence.skipped)} samples were left out because their files could not be read.")
    return found


def limits(evidence: Evidence) -> Section:
    """What the figures do not say."""
    stream = evidence.stream
    items = []
    if evidence.crossval:
        items.append("Intervals are conditional on the fitted models of the folds.")
    else:
        items.append("Intervals are conditional on the fitted model: training again, with another seed, gives another.")
    if not evidence.external:
        items.append(
            "Test patients come from the same data set as the training patients: nothing here shows how the model does "
            "at another hospital or on another machine."
        )
    if evidence.binary:
        items.append("Predictive values, calibration and net benefit hold at this set's prevalence.")
    if stream is None or not stream.config.is_volumetric:
        items.append("Grad-CAM shows where a feature map raised a score, coarsely; it is no explanation of a decision.")
    if stream is not None and stream.manifest.card.cautions:
        items.append("The data set's own cautions stand under “Data”.")
    items.append("A research result: not a medical device, and not validated for use in patients.")
    return Section("limits", "Limits", [Points(items)])


def _sentence(evidence: Evidence) -> str:
    key = "auroc" if evidence.binary else "macro_auroc"
    interval = evidence.intervals[key]
    target = f" for {evidence.classes[1]} against {evidence.classes[0]}" if evidence.binary else ""
    if evidence.crossval and evidence.binary:
        target += " (pairs of the same fold)"
    name = "AUROC" if evidence.binary else "macro AUROC (mean over the classes, each against the rest)"
    text = f"On {interval.n:,} samples of {interval.patients:,} patients the {name}{target} is {_spoken(interval)}"
    of_patients = evidence.intervals.get(f"patient/{key}")
    return f"{text}; of patients, by their mean score, {_spoken(of_patients)}." if of_patients else f"{text}."


def _spoken(interval: Interval) -> str:
    limits = "" if interval.low is None else f" (95 % interval {interval.low:.3f} to {interval.high:.3f})"
    return f"{interval.value:.3f}{limits}"


def _recalibration(evidence: Evidence) -> str:
    fitted = evidence.calibrator
    if evidence.folds and all(part.calibrator for part in evidence.folds):
        return "each fold by its own validation patients (see “Calibration and net benefit”); not in these figures"
    if fitted is None:
        return "none"
    numbers = f"slope {fitted.slope:.3f}, intercept {fitted.intercept:.3f}"
    name, origin = fitted.method.capitalize(), f"from {fitted.samples:,} samples kept apart from test"
    return f"{name} scaling ({numbers}), {origin}; not in these figures"


def _sources() -> str:
    return "provenance.json, config.yaml, checkpoints/"

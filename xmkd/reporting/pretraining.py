"""Reports of runs that predict no class: how well masked parts of volumes were filled in, in figures and pictures."""

from __future__ import annotations

from xmkd.evaluation.reconstruction import figures
from xmkd.reporting.blocks import Points, Section, Sheet, Table, Text, data_uri
from xmkd.reporting.evidence import Evidence
from xmkd.reporting.overview import SIDES, facts, with_bounds

KINDS = {
    "loss": ("Loss (mean squared error of masked patches)", "lower"),
    "psnr": ("PSNR of masked voxels, dB", "higher"),
    "ssim": ("SSIM of whole volumes", "higher"),
}
BASELINES = {"mean_patch": "mean of what is visible", "linear": "linear interpolation"}


def reconstruction(evidence: Evidence) -> Section:
    """The model beside two baselines that learn nothing, and its difference from each, patient by patient."""
    section = Section("summary", "Result")
    section.blocks.append(Text(_sentence(evidence)))
    kinds = [kind for kind in KINDS if f"{kind}_model" in evidence.intervals]
    rows = []
    for kind in kinds:
        found = (evidence.intervals[f"{kind}_{name}"] for name in ("model", *BASELINES))
        rows.append([KINDS[kind][0], KINDS[kind][1], *(with_bounds(interval) for interval in found)])
    one = evidence.intervals[f"{kinds[0]}_model"]
    caption = (
        f"Means over {one.patients:,} {SIDES.get(evidence.side, evidence.side)} ({one.n:,} samples), with 95 % "
        "intervals; the same patches of a sample are masked for all three."
    )
    header = ["figure", "better", "model", *BASELINES.values()]
    section.blocks.append(Table(header, rows, caption, "summary.json"))
    section.blocks.append(_differences(evidence, kinds))
    section.blocks.append(Table(["", ""], facts(evidence), "What the figures rest on.", "provenance.json, config.yaml"))
    return section


def pictures(evidence: Evidence) -> Section | None:
    """The first and the last sheet of reconstructions; of a cross-validation those of its first fold."""
    part = evidence.folds[0] if evidence.folds else evidence
    sheets = sorted((part.run.folder / "pictures").glob("epoch_*.png"))
    if not sheets:
        return None
    section = Section("pictures", "Reconstructions")
    section.blocks.append(Text("These are patients' pictures: this file must stay with the run folder."))
    for path in dict.fromkeys((sheets[-1], sheets[0])):
        epoch = int(path.stem.removeprefix("epoch_")) + 1
        caption = (
            "Validation volumes, a row each, at three slices: as they are, what the network saw (masked patches dark), "
            "and what it made of that."
        )
        if getattr(evidence.experiment.method, "normalise", False):
            caption += " Predicted patches carry the mean and the spread of the true ones, which the network never saw."
        title = f"After {epoch} of {evidence.experiment.trainer.max_epochs} epochs"
        source = f"{'fold_0/' if evidence.folds else ''}pictures/{path.name}"
        alt = f"True, masked and reconstructed slices after {epoch} epochs"
        section.blocks.append(Sheet(data_uri(path.read_bytes(), "image/png"), title, alt, caption, source))
    return section


def limits(evidence: Evidence) -> Section:
    """What the figures do not say."""
    items = [
        "How well patches are filled in says little about what the features are worth for a diagnosis: judge the "
        "pre-training by a student that starts from it, against one that starts at random.",
        "Intervals are conditional on the fitted model: training again, with another seed, gives another.",
    ]
    if any(name.startswith("psnr") for name in evidence.intervals):
        items.append("PSNR and SSIM reward smooth guesses: neither tells whether a structure is in its place.")
    if evidence.stream is not None and evidence.stream.config.view == "patch":
        items.append("Samples are parts of volumes; in evaluation the middle of each, so the rest was not judged.")
    if evidence.stream is not None and evidence.stream.manifest.card.cautions:
        items.append("The data set's own cautions stand under “Data”.")
    items.append("A research result: not a medical device, and not validated for use in patients.")
    return Section("limits", "Limits", [Points(items)])


def _differences(evidence: Evidence, kinds: list[str]) -> Table:
    """Model minus baseline within each patient: the intervals above overlap where patients differ."""
    names = [f"{kind}_{baseline}" for kind in kinds for baseline in BASELINES]
    table = evidence.table
    minus = {name: table[f"{name.split('_')[0]}_model"] - table[name] for name in names}
    found = figures(table.assign(**minus), names)
    rows = [[KINDS[kind][0], *(with_bounds(found[f"{kind}_{baseline}"]) for baseline in BASELINES)] for kind in kinds]
    header = ["model minus", *BASELINES.values()]
    caption = "Differences within patients, with 95 % intervals; better is below 0 for the loss, above 0 for the rest."
    return Table(header, rows, caption, evidence.source)


def _sentence(evidence: Evidence) -> str:
    settings = evidence.experiment.method
    model, linear = evidence.intervals["loss_model"], evidence.intervals["loss_linear"]
    share = 100 * settings.mask_ratio
    text = (
        f"Of {share:g} % masked patches the network's mean squared error is {model.value:.3f} on "
        f"{SIDES.get(evidence.side, evidence.side)}; that of linear interpolation is {linear.value:.3f}."
    )
    if settings.normalise:
        text += " Each patch is compared at mean 0 and variance 1, so an error of 1 is that of knowing nothing."
    return text

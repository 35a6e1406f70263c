"""The reporting checklists, filled from the run where it knows, and "not reported" where it does not. Never scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xmkd.config import StreamConfig
from xmkd.reporting.blocks import public
from xmkd.reporting.evidence import Evidence
from xmkd.reporting.overview import cards, model, prevalence, weights

NOT_REPORTED = "not reported"
UNSTATED = "not stated"  # a card's default
FILE = Path(__file__).with_name("reporting.yaml")


@dataclass(frozen=True)
class Item:
    """One item of a guideline.

    Attributes:
        number: Its number there.
        title: What it asks for, in our words.
        answer: What the run says, or "not reported".
        section: The section of the report with more, or "".
    """

    number: str
    title: str
    answer: str
    section: str = ""

    @property
    def reported(self) -> bool:
        return self.answer != NOT_REPORTED


@dataclass(frozen=True)
class Guideline:
    """A guideline with its items.

    Attributes:
        name: As in "TRIPOD+AI".
        title: Its full name and year.
        citation: Where it is published.
        items: In its order.
    """

    name: str
    title: str
    citation: str
    items: list[Item]


def checklist(evidence: Evidence) -> list[Guideline]:
    """All guidelines of reporting.yaml, filled from the run."""
    from omegaconf import OmegaConf

    known = facts(evidence)
    found = []
    for entry in OmegaConf.to_container(OmegaConf.load(FILE)):  # type: ignore[union-attr]
        assert isinstance(entry, dict)  # our own file, under test
        items = [
            Item(str(i["item"]), i["title"], _answer(i.get("facts", []), known), i.get("section", ""))
            for i in entry["items"]
        ]
        found.append(Guideline(entry["name"], entry["title"], entry["citation"], items))
    return found


def _answer(names: list[str], known: dict[str, str]) -> str:
    texts = [known[name] for name in names if known[name]]
    return public(" ".join(texts)) or NOT_REPORTED


def facts(evidence: Evidence) -> dict[str, str]:
    """What the run knows, by the names that reporting.yaml uses; an empty text where it knows nothing."""
    return {**_design(evidence), **_data(evidence), **_model(evidence), **_results(evidence)}


def _design(evidence: Evidence) -> dict[str, str]:
    split = evidence.experiment.data.split
    shares = ", ".join(f"{k} {v:g}" for k, v in (("val", split.val), ("calib", split.calib), ("test", split.test)) if v)
    partition = f"Patients divided at random, stratified by label: {shares} of the samples, the rest trains."
    if evidence.crossval:
        partition = f"{len(evidence.folds)} cross-validation folds by patient, stratified by label."
    internal = "Patients of the same data set, apart from those of training."
    return {
        "technology": f"Deep learning ({evidence.experiment.method_name}) on medical images, made with xmkd.",
        "goal": f"Classification into {', '.join(evidence.classes)}.",
        "partition": partition,
        "disjoint": "By patient, counted anew in this report and by keyed hash against the runs that it starts from.",
        "internal": "" if evidence.external else internal,
        "external": "Another data set than in training." if evidence.external else "",
        "threshold": "" if evidence.threshold is None else f"{str(evidence.threshold).capitalize()}.",
        "recalibration": _recalibration(evidence),
        "uncertainty": "95 % intervals whose unit is the patient: clustered DeLong (AUROC), exact (rates), cluster "
        "bootstrap (others).",
        "metrics": "See “Result”: " + ", ".join(n for n in evidence.intervals if "/" not in n) + ".",
        "explainability": "" if _volumetric(evidence) else "Grad-CAM of the worst mistakes; not validated.",
        "audit": "" if evidence.table_of("audit.csv") is None else "Shortcut audit: parts of the picture blanked.",
        "sites": _sites(evidence),
    }


def _data(evidence: Evidence) -> dict[str, str]:
    stream = evidence.stream
    if stream is None:
        names = ("source", "eligibility", "subset", "preprocessing", "labels", "missing", "flow", "modality", "license")
        return dict.fromkeys(names, "")
    card = stream.manifest.card
    where = ", ".join(f"{k} = {v}" for k, v in stream.config.where.items())
    left_out = len(evidence.skipped)
    label = stream.config.label
    return {
        "source": " ".join(f"{t.rstrip('.')}." for t in (card.title, card.source, card.citation) if t != UNSTATED),
        "eligibility": f"Rows of the manifest with a label {label}" + (f" and {where}." if where else "."),
        "subset": f"Rows with {where}." if where else "",
        "preprocessing": f"{_preprocessing(stream.config)}; as in config.yaml.",
        "labels": f"Label {label} ({', '.join(evidence.classes)}) as the data set gives it; see its citation for how.",
        "missing": f"Samples without a label are left out; {left_out} unreadable files were left out.",
        "flow": f"{len(stream.manifest.table)} samples indexed, {len(evidence.read(stream).table)} used, "
        f"{len(evidence.table)} evaluated.",
        "modality": card.modality_note,
        "license": f"Data: {card.licence}; {card.source}." if card.licence != UNSTATED else "",
    }


def _preprocessing(stream: StreamConfig) -> str:
    if not stream.is_volumetric:
        prep = stream.ultrasound
        size = f"resized to {prep.size[0]} x {prep.size[1]}" if prep.size else "size as stored"
        steps = [size, *(["sector cropped"] * prep.crop_sector), *(["overlays removed"] * prep.remove_overlays)]
        return f"Ultrasound: {', '.join(steps)}"
    mri = stream.mri
    steps = ["bias field corrected"] * mri.n4
    if mri.spacing_mm:
        steps.append(f"resampled to {' x '.join(f'{s:g}' for s in mri.spacing_mm)} mm")
    if mri.size:
        steps.append(f"cropped or padded to {' x '.join(map(str, mri.size))}")
    return f"MRI: {', '.join([*steps, 'intensities clipped and scaled to mean 0 and standard deviation 1'])}"


def _model(evidence: Evidence) -> dict[str, str]:
    experiment, settings = evidence.experiment, evidence.experiment.method
    optim, trainer = experiment.optim, experiment.trainer
    start = getattr(settings, "weights", getattr(settings, "mae", None))
    loss = getattr(settings, "loss", None)
    stream = experiment.data.streams[evidence.evaluated]
    views = getattr(settings, "test_views", 1)
    versions = evidence.provenance["versions"]
    imbalance = [f"{loss} loss"] if loss not in (None, "plain") else []
    imbalance += ["balanced sampler"] if stream.sampler == "balanced" else []
    return {
        "model": f"{model(evidence)}.",
        "software": ", ".join(f"{name} {v}" for name, v in versions.items() if v != "none") + ".",
        "initialization": "" if start is None else ("Random." if start == "none" else f"Weights from {start}."),
        "training": f"{optim.name}, learning rate {optim.lr:g}, {trainer.max_epochs} epochs, batches of "
        f"{stream.batch_size}" + (f", {loss} loss" if loss else "") + "; augmentation as in config.yaml.",
        "selection": f"{weights(evidence)[0].upper()}{weights(evidence)[1:]}.",
        "ensembling": f"Mean over {views} views of each sample." if views > 1 else "",
        "imbalance": f"Met by: {', '.join(imbalance)}." if imbalance else "",
        "output": f"A probability for each class{'; positive: ' + evidence.classes[1] if evidence.binary else ''}.",
        "code": f"Code: commit {evidence.provenance['commit']}; the command stands under “Reproduction”.",
        "stored": "Every prediction is kept in the run folder (predictions_*.csv).",
    }


def _results(evidence: Evidence) -> dict[str, str]:
    patients = evidence.table["patient_id"].nunique()
    return {
        "figures": "; ".join(" ".join(card) for card in cards(evidence)) + ".",
        "counts": f"{len(evidence.table)} samples of {patients} patients evaluated. {prevalence(evidence)}.",
        "size": f"{len(evidence.table)} samples of {patients} patients, all there are on this side; no calculation of "
        "the size is on record.",
        "confusion": "Cross-tabulation with counts.",
        "failures": "The most confident mistakes as pictures, and the confusion matrix.",
        "limitations": "See “Limits” and the cautions under “Data”.",
    }


def _volumetric(evidence: Evidence) -> bool:
    return evidence.experiment.data.streams[evidence.evaluated].is_volumetric


def _sites(evidence: Evidence) -> str:
    if "site" not in evidence.table.columns or evidence.table["site"].nunique() < 2:
        return ""
    return f"{evidence.table['site'].nunique()} sites, each by itself."


def _recalibration(evidence: Evidence) -> str:
    fitted = evidence.calibrator
    if fitted is None:
        return ""
    return f"{fitted.method.capitalize()} scaling fitted on {fitted.samples} samples apart from test."

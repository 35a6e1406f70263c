"""Who was studied: the data set's card, the way of the samples from files to sides, and that no patient is on two."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import cast

from xmkd.data.streams import Stream
from xmkd.reporting.blocks import Block, Flow, Points, Section, Table, Text, public
from xmkd.reporting.evidence import Evidence, disjoint_by_hash
from xmkd.reporting.overview import SPACE

SIDE_NAMES = {"train": "Training", "val": "Validation", "calib": "Calibration", "test": "Test"}


def data(evidence: Evidence) -> Section:
    """The card of each data set."""
    section = Section("data", "Data")
    if evidence.study is None:
        section.blocks.append(Text(f"The data sets' cards are not at hand: {public(evidence.study_problem)}."))
        return section
    seen = set()
    for stream in evidence.study.streams.values():
        card = stream.manifest.card
        if card.name in seen:
            continue
        seen.add(card.name)
        rows = [
            ["Title", card.title],
            ["Licence", card.licence],
            ["Citation", card.citation],
            ["Source", card.source],
            ["A patient is", card.grouping],
            ["Modality", ", ".join(sorted(set(stream.manifest.table["modality"]))) + _after(card.modality_note)],
        ]
        rows += [
            [f"Label {name}", ", ".join(spec.classes) + (f"; positive: {spec.positive}" if spec.positive else "")]
            for name, spec in card.labels.items()
        ]
        caption = f"Card of the data set {card.name}."
        section.blocks.append(Table(["", ""], rows, caption, stream.manifest.path.with_suffix(".yaml").name))
        if card.cautions:
            section.blocks += [Text("Cautions, as the card gives them:"), Points(list(card.cautions))]
    return section


def flow(evidence: Evidence) -> Section:
    """From indexed files to the sides, and the proof that the sides share no patient."""
    section = Section("flow", "Flow of samples and split")
    study = evidence.study
    if study is None:
        section.blocks.append(Text(f"This can't be shown: {public(evidence.study_problem)}."))
    else:
        for name, stream in study.streams.items():
            section.blocks.append(_flow(evidence, name, stream))
    section.blocks += _skipped(evidence)
    section.blocks += [_sides(evidence), *_disjoint(evidence)] if study is not None else _by_hash(evidence)
    return section


def _flow(evidence: Evidence, name: str, stream: Stream) -> Flow:
    table, config = stream.manifest.table, stream.config
    kept = table
    for column, wanted in config.where.items():
        values = [str(v) for v in (wanted if isinstance(wanted, list) else [wanted])]
        kept = kept[kept[column].astype(str).isin(values)]
    read = evidence.read(stream).table
    steps = [("Indexed in the manifest", _count(len(table), table["patient_id"].nunique()), "")]
    if config.where:
        asked = ", ".join(f"{k} = {v}" for k, v in config.where.items())
        left = f"{len(table) - len(kept)} left out: not {asked}"
        steps.append(("Chosen", _count(len(kept), kept["patient_id"].nunique()), left))
    if config.label:
        left = f"{len(kept) - len(stream.table)} left out: no label {config.label}"
        steps.append(("Labelled", _count(len(stream.table), stream.table["patient_id"].nunique()), left))
    left = f"{len(stream.table) - len(read)} left out: file not readable"
    steps.append(("Read", _count(len(read), read["patient_id"].nunique()), left))
    ends = []
    if evidence.folds:
        ends.append((f"{len(evidence.folds)} folds", ["each patient is tested once, by the fold without them"]))
    else:
        for side, title in SIDE_NAMES.items():
            rows = read[read["side"] == side]
            if len(rows):
                ends.append((title, [_count(len(rows), rows["patient_id"].nunique())]))
    caption = f"Samples of the stream {name}, from the manifest to the split."
    return Flow(steps, ends, caption, f"{stream.manifest.path.name}, skipped.csv where there is one")


def _skipped(evidence: Evidence) -> list[Block]:
    """The unreadable files by reason."""
    skipped = evidence.skipped
    if skipped.empty:
        return []
    counts = Counter(zip(skipped["stream"], skipped["side"], skipped["reason"].map(public), strict=True))
    rows = [[*(str(cell) for cell in key), str(n)] for key, n in counts.items()]
    caption = "Samples whose files could not be read and were left out, by reason."
    return [Table(["stream", "side", "reason", "samples"], rows, caption, "skipped.csv")]


def _sides(evidence: Evidence) -> Table:
    """Patients, samples and classes of each side; in a cross-validation a row for each fold."""
    parts = [part for part in (evidence.folds or [evidence]) if part.stream is not None]
    streams = [evidence.read(cast(Stream, part.stream)) for part in parts]
    source = "the manifest and config.yaml"
    if evidence.folds:
        present = [side for side in SIDE_NAMES if any((s.table["side"] == side).any() for s in streams)]
        rows = [[str(part.experiment.data.fold)] for part in parts]
        for row, stream in zip(rows, streams, strict=True):
            for side in present:
                patients = stream.table.loc[stream.table["side"] == side, "patient_id"].nunique()
                classes = ", ".join(f"{name}{SPACE}{n:,}" for name, n in stream.class_counts(side).items())
                row.append(f"{patients:,} patients: {classes}")
        caption = "Patients and samples of each class on each side of each fold, planned anew from the manifest."
        return Table(["fold", *(SIDE_NAMES[side].lower() for side in present)], rows, caption, source)
    rows = []
    for side, title in SIDE_NAMES.items():
        here = streams[0].table[streams[0].table["side"] == side]
        if len(here):
            counts = streams[0].class_counts(side).values()
            rows.append([title, *(f"{n:,}" for n in (here["patient_id"].nunique(), len(here), *counts))])
    counted = "Patients, samples and samples of each class" if evidence.classes else "Patients and samples"
    caption = f"{counted} on each side, planned anew from the manifest."
    return Table(["side", "patients", "samples", *evidence.classes], rows, caption, source)


def _disjoint(evidence: Evidence) -> list[Block]:
    """Patients on two sides, for each pair of sides; in a cross-validation a row for each fold."""
    studies = [part.study for part in (evidence.folds or [evidence]) if part.study is not None]
    pairs = [
        pair for pair in combinations(SIDE_NAMES, 2) if all(any(s.patients(side) for s in studies) for side in pair)
    ]
    counts = [[str(len(study.patients(a) & study.patients(b))) for a, b in pairs] for study in studies]
    names = [f"{SIDE_NAMES[a].lower()} and {SIDE_NAMES[b].lower()}" for a, b in pairs]
    caption = "Patients that two sides share, over all streams, counted anew for this report. Every count must be 0."
    source = "the manifests and config.yaml"
    if evidence.folds:
        rows = [[str(k), *row] for k, row in enumerate(counts)]
        return [Table(["fold", *names], rows, caption, source), *_by_hash(evidence)]
    rows = [[name, n] for name, n in zip(names, counts[0], strict=True)]
    return [Table(["sides", "patients on both"], rows, caption, source), *_by_hash(evidence)]


def _by_hash(evidence: Evidence) -> list[Block]:
    rows = []
    for part in evidence.folds or [evidence]:
        hashed = disjoint_by_hash(part)
        if isinstance(hashed, str):
            return [Text(f"Patients can't be compared with those of earlier runs: {public(hashed)}.")]
        prefix = f"fold {part.experiment.data.fold}, " if evidence.folds else ""
        rows += [[prefix + public(name), f"{looked:,}", f"{shared:,}"] for name, shared, looked in hashed]
    caption = (
        "Evaluated patients among those that this run, or a run whose weights it starts from, was fitted on, by keyed "
        "hash. The last column must be 0."
    )
    header = ["fitted run", "patients evaluated", "of these used to fit it"]
    return [Table(header, rows, caption, f"provenance.json and {evidence.source}")]


def _count(samples: int, patients: int) -> str:
    return f"{samples:,} samples of {patients:,} patients"


def _after(note: str) -> str:
    return f". {note}" if note else ""

"""Make a manifest of a folder: which files there are, whose they are, and what they are called in a table of labels.

Only patient id, modality and series description are ever taken from a header. `--pseudonymise` puts keyed hashes in
place of the ids and keeps of a series description, which is free text, only the words of a fixed list; what it cannot
hide (a path that holds the patient's number) it reports.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from xmkd.binding import nearest
from xmkd.data import pseudonyms
from xmkd.data.index_dicom import SUFFIXES, Skipped, dicom_rows, row_of, suffix_of, unlinked
from xmkd.data.manifest import Card, check_table, data_root, load_card, read_table
from xmkd.errors import ManifestError

__all__ = ["IndexReport", "dicom_rows", "index_folder"]

_TABLE_COLUMNS = ("site", "split", "fold")  # what a table of labels may also bring
_SHOWN = 20

# What may stay of a series description: weightings, techniques, planes and probes, none of them anybody's name.
_SEQUENCE_WORDS = {
    "t1", "t2", "pd", "flair", "dwi", "diff", "adc", "dti", "swi", "gre", "tse", "fse", "haste", "tirm", "stir",
    "dixon", "dce", "mra", "tof", "fs", "fatsat", "pre", "post", "t1post", "tra", "ax", "axial", "sag", "sagittal",
    "cor", "coronal", "localizer", "2d", "3d", "doppler", "bmode", "cine", "convex", "linear",
}  # fmt: skip


@dataclass(frozen=True)
class IndexReport:
    """What `index_folder` found and did. It names original ids: for the screen, not for a run folder.

    Attributes:
        path: The manifest.
        written: False when the same manifest was there already.
        rows: Number of samples.
        patients: Number of patients.
        skipped: Files or folders left out, each with the reason.
        unmatched_labels: Ids of the label table that no sample has.
        unlabelled: Ids of samples that the label table does not have.
        warnings: Whatever else the user should know.
    """

    path: Path
    written: bool
    rows: int
    patients: int
    skipped: Skipped
    unmatched_labels: list[str]
    unlabelled: list[str]
    warnings: list[str]

    def text(self) -> str:
        """Return the report for the terminal."""
        done = "written" if self.written else "unchanged"
        lines = [f"{self.path} {done}: {self.rows} samples of {self.patients} patients"]
        lists = (
            ("in the label table, but not in the folder", self.unmatched_labels),
            ("in the folder, but not in the label table", self.unlabelled),
            ("left out", [f"{name}: {reason}" for name, reason in self.skipped]),
        )
        for title, items in lists:
            if items:
                lines.append(f"{len(items)} {title}:")
                lines += [f"  {item}" for item in items[:_SHOWN]]
                lines += [f"  ... and {len(items) - _SHOWN} more"] * (len(items) > _SHOWN)
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def index_folder(
    source_dir: Path | str,
    card_path: Path | str,
    out: Path | str | None = None,
    labels: Path | str | None = None,
    on: Literal["patient_id", "sample_id"] = "patient_id",
    pseudonymise: bool = False,
    *,
    force: bool = False,
    runs_root: Path | str = "runs",
) -> IndexReport:
    """Walk a folder of DICOM, NIfTI or image files and write the manifest beside its card.

    Args:
        source_dir: The folder.
        card_path: The card; it says modality and labels, and may name an `indexer` or a `patient_pattern`.
        out: The manifest; default: the card's name with .csv.
        labels: CSV file with the column `on`, label columns of the card and possibly site, split and fold.
        on: What the rows of `labels` are matched by.
        pseudonymise: Replace patient and sample ids by keyed hashes, and leave of a sequence only its known words
            (t1, t2, dwi, adc, flair, ...; in lower case, joined by _), since a series description may hold a name.
        force: Replace a manifest that says something else.
        runs_root: Where the secret of the hashes lies (see `pseudonyms.salt`).

    Raises:
        ManifestError: The folder or the label table is wrong, nothing was found, or another manifest is in the way.
    """
    source, card_file = Path(source_dir), Path(card_path)
    card = load_card(card_file)
    target = card_file.with_suffix(".csv") if out is None else Path(out)
    table, skipped = _table(source, card)
    warnings = _root_warnings(table, source, card, card_file, target)
    unmatched: list[str] = []
    unlabelled: list[str] = []
    if labels is not None:
        unmatched, unlabelled, hints = _join(table, Path(labels), on, card)
        warnings += hints
    for name in card.labels:
        if name not in table.columns:
            table[name] = None
            warnings.append(f"label {name}: no sample has one; give them with --labels TABLE.csv")
    if pseudonymise:
        warnings += _pseudonymise(table, pseudonyms.salt(runs_root))
    table = check_table(table.sort_values("sample_id"), card, target)
    table = table.dropna(axis="columns", how="all")  # no columns that say nothing, apart from the card's
    table = table.reindex(columns=[*table.columns, *(name for name in card.labels if name not in table.columns)])
    written = _write(table.to_csv(index=False, lineterminator="\n"), target, force=force)
    patients = table["patient_id"].nunique()
    return IndexReport(target, written, len(table), patients, skipped, unmatched, unlabelled, warnings)


def _table(source: Path, card: Card) -> tuple[pd.DataFrame, Skipped]:
    from xmkd.data.sources import SOURCES

    if not source.is_dir():
        raise ManifestError(
            "there is no such folder to index",
            where=source,
            fixes=("name the folder of the images", "correct its path"),
        )
    skipped: Skipped = []
    if card.indexer is not None:
        if card.indexer not in SOURCES:
            raise ManifestError(
                f"the card's indexer {card.indexer!r} is unknown" + nearest(card.indexer, SOURCES),
                fixes=("correct it in the card", "leave it out, for a set without a layout of its own"),
            )
        table = SOURCES[card.indexer](source)
    else:
        dicom, skipped = dicom_rows(source, card)
        files, others = _file_rows(source, card)
        table = pd.concat([dicom, files], ignore_index=True)
        skipped = skipped + others
    if table.empty:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise ManifestError(
            "nothing to index was found" + (f" ({len(skipped)} left out, such as {reasons})" if skipped else ""),
            where=source,
            fixes=("name the folder that holds the images", f"known files: DICOM, {', '.join(SUFFIXES)}"),
        )
    return table, skipped


def _file_rows(source: Path, card: Card) -> tuple[pd.DataFrame, Skipped]:
    """Index the files that are not DICOM."""
    files = sorted(p for p in source.rglob("*") if p.is_file() and not p.name.startswith(".") and _is_image(p.name))
    masks = {file: _mask(file, source, card) for file in files}
    taken = set(masks.values())
    rows: list[dict[str, str | None]] = []
    skipped: Skipped = []
    for file in files:
        relative = file.relative_to(source).as_posix()
        if relative in taken:
            continue  # it is the mask of another
        if card.modality is None:
            skipped.append((relative, "the card has to say its `modality`"))
            continue
        who = _from_path(file, relative, card)
        if who is None:
            skipped.append((relative, "the patient_pattern does not fit its path"))
            continue
        row = row_of(file, source, card.modality, who["patient"] or "", who.get("sequence"))
        rows.append(row | {"mask": masks[file], "site": who.get("site")})
    table = pd.DataFrame(rows)
    if not table.empty and card.patient_pattern is None:
        _check_folder_names(table, source)
    if not table.empty:  # the same name with two endings in one folder
        twice = table["sample_id"].duplicated(keep=False)
        table.loc[twice, "sample_id"] = table.loc[twice, "path"].str.replace("/", "__")
    return table, skipped


def _check_folder_names(table: pd.DataFrame, source: Path) -> None:
    """Refuse one folder name in several places: `left` of P1/left and P2/left would be one patient of two women."""
    folders = table["path"].map(lambda path: Path(path).parent.as_posix())
    places = folders.groupby(table["patient_id"]).unique()
    several = places[places.map(len) > 1]
    if len(several):
        first, second = sorted(several.iloc[0])[:2]
        raise ManifestError(
            f"the card has no patient_pattern, so that the parent folder of a file is taken for the patient, but "
            f"{len(several)} folder names occur in several places, such as {first} and {second}",
            where=source,
            fixes=(
                "say in the card which part of the path is the patient: patient_pattern: '^(?P<patient>[^/]+)/' for "
                "the first folder, '(?P<patient>[^/]+)/[^/]+$' for the last",
                "rename the folders, so that a name stands for one patient",
            ),
        )


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _from_path(file: Path, relative: str, card: Card) -> dict[str, str | None] | None:
    if card.patient_pattern is None:
        return {"patient": unlinked(file).parent.name}
    match = re.search(card.patient_pattern, relative)
    return dict(match.groupdict()) if match and match["patient"] else None


def _mask(file: Path, source: Path, card: Card) -> str | None:
    if card.mask_pattern is None:
        return None
    relative = file.relative_to(source)
    stem = relative.name.removesuffix(suffix_of(relative.name))
    path = card.mask_pattern.format(stem=stem, parent=relative.parent.as_posix())
    return path if path != relative.as_posix() and (source / path).is_file() else None


def _root_warnings(table: pd.DataFrame, source: Path, card: Card, card_file: Path, target: Path) -> list[str]:
    """Make the paths start from the card's root where it contains the folder; say so where it does not."""
    warnings = []
    root = unlinked(data_root(card, card_file.parent))
    start = unlinked(source)
    if not start.is_relative_to(root):  # by other names, perhaps: through a link
        root, start = root.resolve(), start.resolve()
    if start.is_relative_to(root):
        prefix = start.relative_to(root).as_posix()
        for column in [c for c in ("path", "mask") if c in table.columns and prefix != "."]:
            table[column] = [f"{prefix}/{p}" if isinstance(p, str) else None for p in table[column]]
        table["path"] = table["path"].str.removesuffix("/.")
    else:
        warnings.append(f"the paths start from {source}, but the card's root is {root}: move one of them")
    if card.indexer is None and table["patient_id"].nunique() == 1 and len(table) > 1:
        one = table["patient_id"].iloc[0]
        warnings.append(f"all {len(table)} samples are of one patient, {one!r}; a patient_pattern in the card may help")
    if target.with_suffix(".yaml").resolve() != card_file.resolve():
        warnings.append(
            f"the manifest needs its card beside it: copy {card_file.name} to {target.with_suffix('.yaml')}"
        )
    return warnings


def _join(table: pd.DataFrame, file: Path, on: str, card: Card) -> tuple[list[str], list[str], list[str]]:
    """Add the columns of a label table in place; return what did not match, and hints."""
    if not file.is_file():
        raise ManifestError(
            "there is no such table of labels", where=file, fixes=("correct its name", "leave out --labels")
        )
    given = read_table(file)
    if on not in given.columns:
        raise ManifestError(
            f"the label table has no column {on!r}" + nearest(on, list(given.columns)),
            where=file,
            fixes=(f"name its column of ids {on}", "choose the other one with --on"),
        )
    columns = [c for c in given.columns if c in card.labels or c in _TABLE_COLUMNS]
    if not columns:
        raise ManifestError(
            "the label table has no label column of the card",
            where=file,
            fixes=(f"name a column {' or '.join(card.labels) or 'as in the card'}", "describe the label in the card"),
        )
    _check_classes(given, file, card)
    given = given.dropna(subset=[on]).assign(**{on: lambda t: t[on].str.strip()})
    differing = given.groupby(on)[columns].nunique(dropna=False).max(axis=1) > 1
    if differing.any():
        raise ManifestError(
            f"the label table contradicts itself for {int(differing.sum())} ids, as {differing.index[differing][0]!r}",
            where=file,
            fixes=("keep one row per id", "use --on sample_id if labels differ within a patient"),
        )
    lookup = given.drop_duplicates(on).set_index(on)
    for column in columns:
        new = table[on].map(lookup[column])
        table[column] = new if column not in table.columns else new.where(new.notna(), table[column])
    unmatched = sorted(set(lookup.index) - set(table[on]))
    unlabelled = sorted(set(table[on]) - set(lookup.index))
    rescued = {i.lstrip("0") for i in unmatched} & {i.lstrip("0") for i in unlabelled}
    hint = f"{len(rescued)} ids would match but for leading zeros, which spreadsheets drop"
    return unmatched, unlabelled, [hint] if rescued else []


def _check_classes(given: pd.DataFrame, file: Path, card: Card) -> None:
    problems = []
    for name, spec in card.labels.items():
        unknown = [] if name not in given.columns else sorted(set(given[name].dropna()) - set(spec.classes))
        problems += [f"{name}: {value!r} is no class of the card" + nearest(value, spec.classes) for value in unknown]
    if problems:
        raise ManifestError(
            "the label table does not fit the card:\n  - " + "\n  - ".join(problems),
            where=file,
            fixes=("correct the table", "add the class to the card"),
        )


def _pseudonymise(table: pd.DataFrame, secret: bytes) -> list[str]:
    """Replace the ids in place; return warnings about originals that remain elsewhere in the row."""
    warnings = _known_words_only(table)
    leaks: dict[str, int] = {}
    texts = [c for c in table.columns if c not in ("sample_id", "patient_id", "modality")]
    for _, row in table.iterrows():
        original = re.compile(rf"(?<![A-Za-z0-9]){re.escape(row['patient_id'])}(?![A-Za-z0-9])", re.IGNORECASE)
        for column in texts:
            if isinstance(row[column], str) and original.search(row[column]):
                leaks[column] = leaks.get(column, 0) + 1
    table["patient_id"] = [pseudonyms.pseudonym(secret, patient) for patient in table["patient_id"]]
    table["sample_id"] = [pseudonyms.sample_pseudonym(secret, sample) for sample in table["sample_id"]]
    return warnings + [
        f"{count} cells of column {column} still hold the original patient id: rename the files or folders"
        for column, count in leaks.items()
    ]


def _known_words_only(table: pd.DataFrame) -> list[str]:
    """Leave of the sequences, in place, only what is in the list; return a warning about those left with nothing."""
    if "sequence" not in table.columns:
        return []
    before = table["sequence"].notna()
    table["sequence"] = [_known_words(s) if isinstance(s, str) else None for s in table["sequence"]]
    lost = int((before & table["sequence"].isna()).sum())
    what = "samples have no sequence: --pseudonymise found no known word in their series descriptions"
    return [f"{lost} {what}"] if lost else []


def _known_words(description: str) -> str | None:
    """Return "t2_tse_sag" of "T2w TSE sag Jane Doe", None where no word is known."""
    words = [re.sub(r"^(t1|t2|pd)wi?$", r"\1", word) for word in re.split(r"[\W_]+", description.lower())]
    return "_".join(dict.fromkeys(word for word in words if word in _SEQUENCE_WORDS)) or None


def _write(text: str, target: Path, *, force: bool) -> bool:
    """Write at once or not at all; return False when the file says this already."""
    if target.exists():
        if target.read_text(encoding="utf-8") == text:
            return False
        if not force:
            raise ManifestError(
                "another manifest is here already",
                where=target,
                fixes=("replace it with --force", "write this one elsewhere with --out"),
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return True

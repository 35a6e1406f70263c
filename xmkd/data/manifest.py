"""A study is a table of files: the manifest (CSV) and its card (YAML of the same name beside it).

The table has one row per image, clip or volume: who (`patient_id`), what (`modality`, `sequence`, label columns),
where (`path` below the data root) and on which side (`split`, `fold`). The card says what the set is, under which
licence, what a label may be and which class is positive. `load` checks both and lists every problem at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import xmkd
from xmkd.binding import bind, nearest
from xmkd.data.limits import Limit
from xmkd.data.splits import PARTS, Split, folds, split
from xmkd.errors import DataMissingError, ManifestError

if TYPE_CHECKING:
    import pandera.pandas as pa

__all__ = ["Card", "LabelSpec", "Manifest", "Split", "check_table", "data_root", "folds", "load", "load_card", "split"]

MODALITIES = ("tvus", "us", "mri", "ct")
REQUIRED = ("sample_id", "patient_id", "modality", "path")
COLUMNS = ("sample_id", "patient_id", "modality", "sequence", "path", "mask", "site", "split", "fold")
ROOT_VARIABLE = "XMKD_DATA"
_SHOWN = 5  # rows named per problem; a wrong column would otherwise fill the screen


@dataclass(frozen=True)
class LabelSpec:
    """What a label column may hold.

    Attributes:
        classes: Names in order; a name's position is its index.
        positive: The class that a sensitivity is about. Of two classes it is the second, so that its index is 1.
        per_patient: Whether all samples of a patient must agree; `xmkd check` reports those that do not.
        limits: Of a simulated label: "oracle", measurements that know the true anatomy, and "ceiling", which no model
            can pass.
    """

    classes: list[str]
    positive: str | None = None
    per_patient: bool = False
    limits: dict[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """What a data set is, as written in the YAML beside its manifest.

    Attributes:
        name: Short name, also of the files.
        title: One line for people.
        licence: Licence and, where it was not read at the source, who states it.
        citation: Papers to cite.
        source: Where to get the data.
        root: Folder below the data root that the manifest's paths start from; "." or "./x" is beside the card instead.
        root_env: Environment variable that holds the data root; default `XMKD_DATA`.
        grouping: What a patient_id stands for.
        modality: Modality of all samples, for files whose header does not say (or says US where it is tvus).
        modality_note: What the modality column hides, such as a few images of another kind.
        labels: Label columns.
        mask_classes: Names of the values 0, 1, ... of the masks; with two names any value above 0 is the second.
        cautions: What a reader of the results must know.
        indexer: Name of the indexer in `xmkd.data.sources`, for sets with a layout of their own.
        patients: Whose ids these are; default: the data set's name. Two sets that give one person one id (ultrasound
            and MRI of a hospital, say) must name the same here, so that nobody stands on two sides unseen.
        patient_pattern: Regular expression searched in a file's path; its named groups `patient` (needed), `sequence`
            and `site` fill these columns. Default: the parent folder is the patient.
        mask_pattern: Where the mask of a file is, such as `masks/{stem}.png`.
        lock: Of a simulated set, the hash of the lock that its difficulty is from; results under two are not compared.
        specification: Of a simulated set, the hash of what its pictures are made from; two may name the same files.
    """

    name: str
    title: str = "not stated"
    licence: str = "not stated"
    citation: str = "not stated"
    source: str = "not stated"
    root: str = "."
    root_env: str | None = None
    grouping: str = "not stated"
    modality: str | None = None
    modality_note: str = ""
    labels: dict[str, LabelSpec] = field(default_factory=dict)
    mask_classes: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    indexer: str | None = None
    patients: str = ""
    patient_pattern: str | None = None
    mask_pattern: str | None = None
    lock: str = ""
    specification: str = ""

    @property
    def ids(self) -> str:
        """What stands before a patient id, so that two sets' patient 7 stay two."""
        return f"{self.patients or self.name}/"


@dataclass(frozen=True)
class Manifest:
    """A checked table of samples.

    Attributes:
        table: One row per sample with the columns `COLUMNS`, the card's label columns and any others; ids are text,
            `fold` is Int64, and what is missing is NaN.
        card: The data set's card.
        root: Folder that the paths start from; needed for training too, since the cache looks at the sources' times.
        hash: SHA-256 of the rows, label definitions, `lock` and `specification`, whatever the order of the rows.
        path: The CSV file.
    """

    table: pd.DataFrame
    card: Card
    root: Path
    hash: str
    path: Path

    def resolve(self, row_or_path: str | pd.Series) -> Path:
        """Return the file of a row (or of a `path` or `mask` cell).

        Raises:
            DataMissingError: The data root is not there.
        """
        self.require_root()
        return self.root / (row_or_path if isinstance(row_or_path, str) else str(row_or_path["path"]))

    def require_root(self) -> Path:
        """Return the data root.

        Raises:
            DataMissingError: It is not there; the message says what the set is, its licence and where to get it.
        """
        if self.root.is_dir():
            return self.root
        variable = self.card.root_env or ROOT_VARIABLE
        raise DataMissingError(
            f"the data set '{self.card.name}' ({self.card.title}; licence: {self.card.licence}) is not there",
            where=self.root,
            fixes=(
                f"get it from {self.card.source}",
                f"export {variable}=DIR, the folder that holds {self.card.root!r}, or give data.streams.NAME.root=DIR",
            ),
        )


def load(path: Path | str, root: Path | str | None = None) -> Manifest:
    """Read and check a manifest and its card.

    Args:
        path: The CSV file; the card is the YAML file of the same name.
        root: Folder that the paths start from, instead of the one that the card names.

    Raises:
        ManifestError: A file is missing, or table or card are wrong; all problems are listed.
    """
    file = Path(path)
    if not file.is_file():
        beside = sorted(p.name for p in file.parent.glob("*.csv")) if file.parent.is_dir() else []
        raise ManifestError(
            "there is no such manifest" + nearest(file.name, beside),
            where=file,
            fixes=("name a CSV file in data_manifests/", "make one: xmkd index DIR --card CARD.yaml"),
        )
    card = load_card(file.with_suffix(".yaml"))
    table = check_table(read_table(file), card, file)
    return Manifest(
        table=table,
        card=card,
        root=data_root(card, file.parent) if root is None else Path(root),
        hash=_content_hash(table, card),
        path=file,
    )


def load_card(path: Path | str) -> Card:
    """Read a card.

    Raises:
        ManifestError: It is missing, no YAML, or has wrong keys or values; all problems are listed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    file = Path(path)
    if not file.is_file():
        raise ManifestError(
            "a manifest needs its card: a YAML file of the same name beside it",
            where=file,
            fixes=("write one with at least `name:` and the `labels:`", "copy one of data_manifests/*.yaml"),
        )
    try:
        tree = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ManifestError(
            f"can't read the card as YAML: {error}",
            where=file,
            fixes=("correct its indentation, quotes and brackets", "copy one of data_manifests/*.yaml"),
        ) from error
    problems: list[str] = []
    card = bind(Card, tree, "", problems)
    if card is not None:
        problems += _card_problems(card)
    if card is None or problems:
        raise _listed(problems, "card", file, ("correct the card", "put words such as yes, no or 1 in quotes"))
    return card


def data_root(card: Card, beside: Path) -> Path:
    """Return the folder that a card's paths start from.

    Args:
        card: The card.
        beside: The folder that the card lies in, for a root of "." or "./x".
    """
    variable = card.root_env or ROOT_VARIABLE
    if card.root_env is None and (card.root == "." or card.root.startswith("./")):
        return beside / card.root
    if os.environ.get(variable):
        return Path(os.environ[variable]) / card.root
    if card.root_env is not None:
        return Path(f"${variable}") / card.root  # nothing is there; `require_root` then shows which variable is unset
    repository = Path(xmkd.__file__).parents[1]
    found = [base for base in (repository, Path.cwd()) if (base.parent / "shared" / "data").is_dir()]
    return (found or [repository])[0].parent / "shared" / "data" / card.root


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a CSV file as text: "0001" stays "0001", and "None" and "NA" stay names; only an empty cell is missing.

    Raises:
        ManifestError: It is not a comma-separated UTF-8 table.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, na_values=[""], index_col=False, encoding="utf-8-sig"
            )
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError, OSError) as error:
        raise ManifestError(
            f"can't read the table: {error}",
            where=path,
            fixes=("save it as comma-separated UTF-8", "put cells with commas in double quotes"),
        ) from error
    if len(table.columns) == 1 and ";" in str(table.columns[0]):
        raise ManifestError(
            "the table is separated by semicolons", where=path, fixes=("save it with commas", "replace ; by ,")
        )
    return table


def check_table(table: pd.DataFrame, card: Card, where: object) -> pd.DataFrame:
    """Check a table against its card and bring it into the form that `Manifest.table` promises.

    Args:
        table: As read by `read_table`: text and NaN.
        card: Names the label columns and their classes.
        where: The file, for the message.

    Raises:
        ManifestError: Listing every problem.
    """
    missing = [name for name in (*REQUIRED, *card.labels) if name not in table.columns]
    problems = [f"column {name}: missing" + nearest(name, list(table.columns)) for name in missing]
    if table.empty:
        problems.append("there are no rows")
    else:
        problems += _column_problems(table, card) + _patient_problems(table)
    if problems:
        raise _listed(problems, "manifest", where, ("correct the rows", "make the table anew: xmkd index"))
    ordered = [*COLUMNS, *card.labels, *(c for c in table.columns if c not in COLUMNS and c not in card.labels)]
    checked = table.reindex(columns=ordered).reset_index(drop=True)
    checked["fold"] = checked["fold"].astype("Float64").astype("Int64")
    return checked


def _listed(problems: list[str], what: str, where: object, fixes: tuple[str, ...]) -> ManifestError:
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    return ManifestError(f"{count} in the {what}:\n  - " + "\n  - ".join(problems), where=where, fixes=fixes)


def _card_problems(card: Card) -> list[str]:
    """What no single value of a card shows."""
    problems = []
    if not _is_relative(card.root):
        problems.append(f"root: {card.root!r} is not below the data root; name the variable that holds it in root_env")
    if card.modality is not None and card.modality not in MODALITIES:
        problems.append(f"modality: {card.modality!r} is unknown" + nearest(card.modality, MODALITIES))
    if card.patient_pattern is not None:
        try:
            if "patient" not in re.compile(card.patient_pattern).groupindex:
                problems.append("patient_pattern: needs a named group, as in (?P<patient>P[0-9]+)")
        except re.error as error:
            problems.append(f"patient_pattern: {error}")
    for name, spec in card.labels.items():
        if name in COLUMNS:
            problems.append(f"labels.{name}: this column has a meaning of its own")
        if len(spec.classes) < 2 or len(set(spec.classes)) < len(spec.classes):
            problems.append(f"labels.{name}.classes: at least two different names are needed")
        if spec.positive is not None and spec.positive not in spec.classes:
            problems.append(
                f"labels.{name}.positive: {spec.positive!r} is no class" + nearest(spec.positive, spec.classes)
            )
        elif len(spec.classes) == 2 and spec.positive != spec.classes[1]:
            problems.append(f"labels.{name}: of two classes the positive one is named and stands second (index 1)")
    return problems


def _schema(table: pd.DataFrame, card: Card) -> pa.DataFrameSchema:
    """The rules of single columns, for those columns that are there."""
    import pandera.pandas as pa

    def rule(test: Callable[[pd.Series], pd.Series], message: str) -> pa.Check:
        return pa.Check(test, error=message)

    trimmed = rule(lambda s: s == s.str.strip(), "has spaces around it")
    relative = rule(lambda s: s.map(_is_relative), "is absolute, leaves the data root or has backslashes")
    optional = {"nullable": True}
    columns = {
        "sample_id": pa.Column(checks=trimmed, unique=True),
        "patient_id": pa.Column(checks=trimmed),
        "modality": pa.Column(checks=rule(lambda s: s.isin(MODALITIES), f"is none of {', '.join(MODALITIES)}")),
        "path": pa.Column(checks=relative),
        "mask": pa.Column(checks=relative, **optional),
        "split": pa.Column(checks=rule(lambda s: s.isin(PARTS), f"is none of {', '.join(PARTS)}"), **optional),
        "fold": pa.Column(checks=rule(lambda s: s.str.fullmatch(r"\d+(\.0)?"), "is no fold number"), **optional),
    }
    for name, spec in card.labels.items():
        known = pa.Check.isin(spec.classes, error=f"is none of {', '.join(spec.classes)}")
        columns[name] = pa.Column(checks=known, **optional)
    return pa.DataFrameSchema({name: column for name, column in columns.items() if name in table.columns})


def _column_problems(table: pd.DataFrame, card: Card) -> list[str]:
    import pandera.pandas as pa

    try:
        _schema(table, card).validate(table.reset_index(drop=True), lazy=True)
    except pa.errors.SchemaErrors as error:
        failures = error.failure_cases
    else:
        return []
    words = {"not_nullable": "is empty", "field_uniqueness": "is there more than once"}
    problems = []
    for (column, check), group in failures.groupby(["column", "check"], sort=False):
        values = [str(v) for v in group["failure_case"].dropna().unique()]
        shown = ", ".join(map(repr, values[:_SHOWN])) + (" ..." if len(values) > _SHOWN else "")
        lines = sorted(int(i) + 2 for i in group["index"])  # line 1 is the header
        problems.append(f"{_lines(lines)}, column {column}: {shown + ' ' if values else ''}{words.get(check, check)}")
    return problems


def _patient_problems(table: pd.DataFrame) -> list[str]:
    """Patients that are on two sides at once."""
    problems = []
    for column in ("split", "fold"):
        if column not in table.columns or "patient_id" not in table.columns:
            continue
        sides = table.groupby("patient_id")[column].nunique()
        for patient in sides.index[sides > 1][:_SHOWN]:
            rows = table[table["patient_id"] == patient]
            names = ", ".join(sorted(rows[column].dropna().unique()))
            lines = _lines([int(i) + 2 for i in rows.index])
            problems.append(f"{lines}, column {column}: patient {patient!r} is in {names} at once")
        if (sides > 1).sum() > _SHOWN:
            problems.append(f"column {column}: {(sides > 1).sum() - _SHOWN} further patients are on two sides")
    return problems


def _lines(lines: list[int]) -> str:
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines[:_SHOWN]))}{more}"


def _is_relative(path: str) -> bool:
    """Whether a path stays below its root on every system."""
    parts = path.split("/")
    return bool(path) and not (path.startswith(("/", "~")) or "\\" in path or ".." in parts or ":" in parts[0])


def _content_hash(table: pd.DataFrame, card: Card) -> str:
    columns = table[sorted(table.columns)].sort_values("sample_id")
    labels = {name: [spec.classes, spec.positive] for name, spec in card.labels.items()}
    parts = columns.to_csv(index=False, lineterminator="\n"), json.dumps(labels, sort_keys=True)
    return hashlib.sha256("".join([*parts, card.lock, card.specification]).encode()).hexdigest()

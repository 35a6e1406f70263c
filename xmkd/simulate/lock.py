"""The lock of a cohort: how visible the disease has to be, how well anybody can see it, and what this holds for.

`<cohort>.lock` stands beside the specification and is committed with it. Its hash goes into every result, so that
results under different difficulties are never compared. A lock holds for one rendering: when what the pictures depend
on moves, it has to be made anew.
"""

from __future__ import annotations

import ast
import hashlib
import json
import warnings
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from xmkd.binding import bind
from xmkd.data.limits import Limit
from xmkd.errors import ConfigError
from xmkd.simulate.output import write_file
from xmkd.simulate.spec import FROM_LOCK, CohortSpec, Modality, UltrasoundPart, VolumePart, modality_of

FORMAT = 1
AGAIN = "calibrate: xmkd simulate SPEC --calibrate"
CHECKSUM = "checksum"
"""Key of the file alone: `_digest` of all else in it, so that a lock that was edited by hand is told from one made."""
STILLS = 4  # most that the oracle averages over where there are no clips
CALIBRATED: tuple[Modality, ...] = ("tvus", "mri")
HEADER = "# Made by `xmkd simulate SPEC --calibrate`. Not to be edited: difficulty is solved for, never chosen.\n"

# Files of this package that decide neither what an examination looks like nor what is measured on it.
ELSEWHERE = frozenset(
    ("calibrate.py", "cards.py", "ceilings.py", "cohort.py", "ct.py", "dicom_bytes.py", "dicom_tags.py",
     "dicom_write.py", "examination.py", "identity.py", "lock.py", "masks.py", "mri_validate.py", "output.py",
     "plan.py", "pool.py", "probes.py", "spec.py", "ultrasound/validate.py")
)  # fmt: skip


@dataclass(frozen=True)
class Difficulty:
    """One modality of a cohort.

    Attributes:
        target: The oracle's AUROC that was aimed at.
        oracle: What it came to, on the patients scored.
        fitted: Number of patients the oracle was fitted on.
        measurements: What the oracle measures, with coefficients of the standardised values.
        ceiling: The best AUROC that any model can have.
    """

    target: float
    oracle: Limit
    fitted: int
    ceiling: Limit
    measurements: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Lock:
    """The difficulty of a cohort.

    Attributes:
        format: Version of this file's layout.
        cohort: Name of the specification.
        specification: `specification_hash` of what was calibrated.
        simulator: `simulator_hash` of what was calibrated.
        seed: Seed of the reserved patients and of the Monte Carlo.
        rho: Correlation of the modalities given the stage.
        visibility: How plainly each modality shows the disease: what was solved for.
        modalities: What that makes of the task, by modality.
        spearman: Rank correlation of the evidences of the modalities (log likelihood ratios) within each stage.
    """

    format: int
    cohort: str
    specification: str
    simulator: str
    seed: int
    rho: float
    visibility: dict[str, float]
    modalities: dict[str, Difficulty]
    spearman: dict[str, float] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that name this difficulty; every result row carries them."""
        return hashlib.sha256(_text(self).encode()).hexdigest()[:12]


def path_of(spec: str | Path) -> Path:
    """Where the lock of a specification lies."""
    return Path(spec).with_suffix(".lock")


def write(lock: Lock, path: Path) -> None:
    """Write a lock and the checksum of its content; the same content gives the same bytes."""
    text = _text(lock)
    write_file(path, f"{text}{CHECKSUM}: '{_digest(yaml.safe_load(text))}'\n".encode())


def read(path: str | Path) -> Lock:
    """Read a lock.

    Raises:
        ConfigError: It is missing, damaged, or not as calibration wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            "this cohort has not been calibrated: there is no lock",
            where=path,
            fixes=(AGAIN, "give visibility: {tvus: 1.0, mri: 1.0} in the specification"),
        )
    problems: list[str] = []
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        tree, problems = None, [str(error)]
    if not problems and not isinstance(tree, dict):
        problems = ["it holds no keys and values"]
    written = tree.pop(CHECKSUM, None) if isinstance(tree, dict) else None
    found = bind(Lock, tree, "", problems) if isinstance(tree, dict) else None
    problems += [f"visibility.{m}: {v:g} is negative" for m, v in found.visibility.items() if v < 0] if found else []
    if found is None or problems or found.format != FORMAT:
        text = "; ".join(problems) or f"format {getattr(found, 'format', None)}, not {FORMAT}"
        raise ConfigError(f"this lock is damaged: {text}", where=path, fixes=(AGAIN, "take it from version control"))
    if written != (content := _digest(tree)):
        found_there = "it has no checksum" if written is None else f"checksum {written}, but its content has {content}"
        raise ConfigError(
            f"this lock is not as calibration wrote it, so it was edited by hand: {found_there}",
            where=path,
            fixes=("take it from version control", AGAIN),
        )
    return found


def check(spec: CohortSpec, path: str | Path, *, strict: bool = False) -> Lock:
    """The lock of a specification, if it holds for what the specification and the simulator are now.

    Args:
        spec: The cohort.
        path: Its lock.
        strict: Whether other code than was calibrated is an error, as it is in the tests, or a warning.

    Raises:
        ConfigError: The lock is missing or damaged, or what it was made for has moved since.
    """
    found = read(path)
    if found.specification != specification_hash(spec):
        raise ConfigError(
            "the lock was made for other pictures, sites or rho than the specification now asks for "
            f"(hash {found.specification} then, {specification_hash(spec)} now)",
            where=path,
            fixes=(AGAIN, "take back what was changed in the specification"),
        )
    lacking = sorted({modality_of(part) for part in spec.parts()} - set(found.visibility))
    if lacking:
        raise ConfigError(
            f"the lock gives no visibility on {', '.join(lacking)}",
            where=path,
            fixes=(AGAIN, "take it from version control"),
        )
    if isinstance(spec.visibility, dict) and not spec.visibility.items() >= found.visibility.items():
        raise ConfigError(
            f"the specification gives other visibilities than the lock, {found.visibility}",
            where=path,
            fixes=(f"write visibility: {FROM_LOCK}", "delete the lock: results then name no calibrated difficulty"),
        )
    if found.simulator != simulator_hash():
        moved = ConfigError(
            "the code that draws and measures is not the one that was calibrated "
            f"(hash {found.simulator} then, {simulator_hash()} now), so the task may be easier or harder than it says",
            where=path,
            fixes=(f"{AGAIN} (starts from this lock: quick where little has changed)", "take back the change"),
        )
        if strict:
            raise moved
        warnings.warn(str(moved), stacklevel=2)
    return found


def calibrated(spec: CohortSpec) -> tuple[Modality, ...]:
    """The modalities of a cohort whose visibility is solved for."""
    return tuple(m for m in CALIBRATED if spec.cohort in ("pod", "carcinoma") and m in spec.parts())


def specification_hash(spec: CohortSpec) -> str:
    """16 hexadecimal digits of all in a specification that decides how hard its task is.

    How many patients there are, how many are ill and whose labels are wrong is not of it, nor is the seed.
    """
    views = {m: view(spec, m) for m in calibrated(spec)}
    return _digest([spec.cohort, spec.rho, asdict(spec.sites), views])


def view(spec: CohortSpec, modality: Modality) -> dict[str, Any]:
    """What the examinations of a modality look like, as far as a specification decides it."""
    part = spec.parts()[modality]
    if isinstance(part, UltrasoundPart):
        looks: dict[str, int] = {"frames": part.frames} if part.clips else {"stills": min(part.stills, STILLS)}
        shown: dict[str, Any] = {"size": part.size, **looks}
    else:
        assert isinstance(part, VolumePart)
        shown = {"size": part.size, "spacing": part.spacing, "sequence": part.sequences[0]}
    return {"cohort": spec.cohort, "sites": spec.sites.names, "shares": spec.sites.shares, **shown}


def simulator_hash() -> str:
    """16 hexadecimal digits of the code that decides what an examination looks like and what is measured on it."""
    return code_hash(ELSEWHERE)


@cache
def code_hash(apart: frozenset[str] = frozenset()) -> str:
    """16 hexadecimal digits of this package's code; comments, docstrings and layout are not of it.

    Args:
        apart: Files that are left out.
    """
    folder = Path(__file__).parent
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*.py")}
    return _digest({name: _code(files[name].read_text()) for name in sorted(files.keys() - apart)})


def _code(source: str) -> str:
    """The syntax tree of a module without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not _is_text(n)]  # type: ignore[attr-defined]
    return _dump(tree)


def _dump(value: object) -> str:
    """As `ast.dump` of Python 3.11 has it, whatever Python this is: a lock holds under all of them.

    Later ones add `type_params`, leave empty lists out, or put an empty text into the format of a value.
    """
    if isinstance(value, list):
        return f"[{', '.join(map(_dump, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    found = {name: getattr(value, name, None) for name in value._fields}
    kept = {n: v for n, v in found.items() if v is not None or getattr(type(value), n, ...) is not None}
    if not kept.get("type_params", True):
        del kept["type_params"]
    if isinstance(value, ast.JoinedStr):
        kept["values"] = [v for v in value.values if not (isinstance(v, ast.Constant) and v.value == "")]
    return f"{type(value).__name__}({', '.join(f'{n}={_dump(v)}' for n, v in kept.items())})"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _text(lock: Lock) -> str:
    return HEADER + yaml.safe_dump(_rounded(asdict(lock)), sort_keys=False)


def _rounded(value: Any) -> Any:
    """Floats to six digits: more of them would say which processor summed them."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 6) if isinstance(value, float) else value

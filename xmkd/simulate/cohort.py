"""Simulate a cohort: every examination a folder of real DICOM, rendered in parallel, resumable, with its manifests.

    <out>/cohort.json                   the specification, its hash and the versions that made the files
    <out>/<part>/<patient>/             an examination; it appears when it is complete
    <out>/<cohort>_<part>.csv, .yaml    manifests and cards
    <out>/truth.csv                     what only the simulator knows

Replicates of a cohort, and variants with flipped training labels, may share a folder: the examinations that they have
in common are rendered once, and the names of their tables tell them apart. A specification with larger numbers of
patients and no other change goes on in the folder of the smaller one. The same specification and versions give
the same bytes on the same kind of machine, whatever the number of processes.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from xmkd.binding import nearest
from xmkd.errors import ConfigError, RunError
from xmkd.files import writing
from xmkd.simulate import cards
from xmkd.simulate import lock as locks
from xmkd.simulate import spec as specs
from xmkd.simulate.cards import TRUTH, Examined
from xmkd.simulate.output import OTHER_PLACE, write_file
from xmkd.simulate.plan import Patient, patients
from xmkd.simulate.pool import Pool, available
from xmkd.simulate.spec import FROM_LOCK, PARTS, SPLITS, UNHASHED, CohortSpec

COHORT = "cohort.json"
LOCKED = ".lock"
"""In the folder of a part; held by the process that writes it."""
QUIET = 30.0
"""Where there is no terminal for a progress bar: seconds after which a word is due, though no tenth is done."""
_VERSIONED = ("torch", "numpy", "scipy", "pydicom")

Examine = Callable[[CohortSpec, Patient, Path], Examined]
"""Renders one examination of a patient into a folder."""


@dataclass(frozen=True)
class Simulated:
    """What became of a part.

    Attributes:
        name: The part.
        patients: Number of its patients.
        rendered: How many of them were simulated now; the others were there.
        samples: Rows of its manifests.
        prevalence: Fraction of ill patients in truth.
        seconds: Time for those simulated now, writing included.
        manifests: Where its tables are.
    """

    name: str
    patients: int
    rendered: int
    samples: int
    prevalence: float
    seconds: float
    manifests: list[Path]

    def text(self) -> str:
        """The part in one line for the terminal, and its manifests."""
        done = "complete already"
        if self.rendered:
            rate = self.rendered / max(self.seconds, 1e-9)
            done = f"{self.rendered} simulated in {self.seconds:.0f} s ({rate:.1f} examinations/s with all files)"
        line = (
            f"{self.name}: {self.patients} patients, {self.samples} samples, prevalence {self.prevalence:.3f}; {done}"
        )
        return "\n".join([line, *(f"  {path}" for path in self.manifests)])


def load(path: Path, overrides: list[str] | None = None) -> CohortSpec:
    """Read a specification that is ready to be simulated, with visibilities from its lock where it refers to it.

    Raises:
        ConfigError: The specification is wrong; the lock is missing, damaged or does not hold any more.
    """
    spec = specs.load(path, overrides)
    if spec.visibility != FROM_LOCK:
        return spec
    found = locks.check(spec, locks.path_of(path))
    limits = {m: {"oracle": known.oracle, "ceiling": known.ceiling} for m, known in found.modalities.items()}
    return replace(spec, visibility=found.visibility, lock=found.hash, limits=limits)


def simulate(
    spec: CohortSpec,
    out: Path,
    examine: Examine,
    *,
    workers: int | None = None,
    only: str | None = None,
    force: bool = False,
) -> list[Simulated]:
    """Write a cohort, or what is missing of it; how far it is goes to stderr.

    Args:
        spec: The cohort, with its visibilities.
        out: Folder for it.
        examine: What renders an examination; a function of a module.
        workers: Number of processes; default: one per core.
        only: The only part to simulate.
        force: Replace a cohort that is there.

    Raises:
        ConfigError: The visibilities are not known, there is no such part, or the number of processes is below 1.
        RunError: The folder holds another cohort or other files, or can't be written; a process died.
    """
    names = _chosen(spec, only)
    workers = available() if workers is None else workers
    if workers < 1:
        fixes = ("give 1 or more", "leave it out: one per core")
        raise ConfigError("at least one process is needed", where=f"--workers {workers}", fixes=fixes)
    cards.base(spec)  # before hours of rendering, not after
    _claim(spec, out, names, force)
    with Pool(workers) as pool:
        found = [_part(spec, out, name, examine, pool) for name in names]
    everyone = [p for name in spec.parts() for p in patients(spec, name)]
    there = [p for p in everyone if cards.complete(out / p.part / p.id)]
    cards.write_truth(spec, out, there)
    return found


def _chosen(spec: CohortSpec, only: str | None) -> list[str]:
    if spec.visibility == FROM_LOCK:
        raise ConfigError(
            "it is not known how visible the disease is to be",
            where=f"visibility: {FROM_LOCK}",
            fixes=("take the values of the lock: xmkd.simulate.cohort.load", "give visibility: {tvus: 1.0, mri: 1.0}"),
        )
    names = list(spec.parts())
    if only is None:
        return names
    if only not in names:
        raise ConfigError(
            f"the cohort has no part {only!r}" + nearest(only, names),
            where=f"--only {only}",
            fixes=(f"choose one of {', '.join(names)}", "leave it out: all parts"),
        )
    return [only]


def _part(spec: CohortSpec, out: Path, name: str, examine: Examine, pool: Pool) -> Simulated:
    people = patients(spec, name)
    begun = time.perf_counter()
    with _alone(out / name):
        missing = [p for p in people if not cards.complete(out / name / p.id)]
        done = pool.run(partial(_examination, spec, out, examine), missing)
        _follow(done, name, len(people) - len(missing), len(people))
        seconds = time.perf_counter() - begun
        manifests = cards.write(spec, out, name, people)
    samples = sum(len(Examined.load(out / name / p.id).files) for p in people)
    ill = sum(p.ill for p in people) / len(people)
    return Simulated(name, len(people), len(missing), samples, ill, seconds, manifests)


def _follow(results: Iterable[None], name: str, before: int, total: int) -> None:
    """Wait for results and say on stderr how far they are: by a bar, or by lines where there is no terminal.

    Args:
        results: One for each examination that is made now.
        name: Their part.
        before: How many were there.
        total: How many there will be.
    """
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, transient=True, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"simulating {name}", total=total, completed=before)
        begun = said = time.monotonic()
        for count, _ in enumerate(results, before + 1):
            progress.advance(task)
            now, tenth = time.monotonic(), 10 * count // total > 10 * (count - 1) // total
            if not console.is_terminal and (tenth or now - said >= QUIET):
                said = now
                print(f"simulating {name}: {count} of {total} patients after {now - begun:.0f} s", file=sys.stderr)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from writing the same part.

    Raises:
        RunError: Another one does, or the folder can't be written.
    """
    with writing(folder, OTHER_PLACE):
        folder.mkdir(exist_ok=True)
        file = (folder / LOCKED).open("w")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
        except (BlockingIOError, PermissionError) as error:
            raise RunError(
                "another process is simulating this part",
                where=folder,
                fixes=("wait for it", "simulate another part meanwhile: --only PART"),
            ) from error
        yield


def _examination(spec: CohortSpec, out: Path, examine: Examine, patient: Patient) -> None:
    """Render one patient into a folder beside her own, which then takes its place."""
    folder = out / patient.part / patient.id
    unfinished = folder.with_name(f".{folder.name}.tmp")
    with writing(folder, OTHER_PLACE):
        for old in (unfinished, folder):  # left by a process that was killed, or damaged by hand
            if old.exists():
                shutil.rmtree(old)
        unfinished.mkdir()
        examine(spec, patient, unfinished).save(unfinished)
        unfinished.rename(folder)


def _claim(spec: CohortSpec, out: Path, parts: list[str], force: bool) -> None:
    """Make the folder this cohort's own, unless it is another's.

    Args:
        spec: The cohort.
        out: The folder.
        parts: Those that are about to be simulated; of the same cohort `force` removes these alone.
        force: Whether to remove what is there.

    Raises:
        RunError: It is another's, or has more patients, or can't be written.
    """
    record: dict[str, Any] = {"hash": spec.hash, "versions": _versions(), "specification": _plain(spec)}
    with writing(out, OTHER_PLACE):
        out.mkdir(parents=True, exist_ok=True)
        entries = sorted(p.name for p in out.iterdir() if not p.name.endswith(".tmp"))
    if COHORT in entries:
        old = _record(out)
        grown = old["hash"] != spec.hash and _grown(old["specification"], record["specification"])
        if (grown or old["hash"] == spec.hash) and not (force and set(parts) == set(spec.parts())):
            if force:
                _remove(out, spec.cohort, parts)
            _compare_versions(old["versions"], record["versions"])
            if grown:
                _save_record(out, record | {"versions": old["versions"]})
            return
        if not force:
            fewer = _grown(record["specification"], old["specification"])
            raise RunError(
                f"another cohort is here: specification {old['specification']['name']} ({old['hash']}), "
                f"not {spec.name} ({spec.hash}){', which has fewer patients' if fewer else ''}",
                where=out,
                fixes=("write elsewhere: --out FOLDER", "replace it: --force"),
            )
        _remove(out, old["specification"]["cohort"], [name for names in PARTS.values() for name in sum(names, ())])
    elif entries:
        raise RunError(
            f"the folder is not empty and holds no cohort: {', '.join(entries[:3])}{' ...' * (len(entries) > 3)}",
            where=out,
            fixes=("write elsewhere: --out FOLDER", "empty it"),
        )
    _save_record(out, record)


def _save_record(out: Path, record: dict[str, Any]) -> None:
    write_file(out / COHORT, (json.dumps(record, indent=1) + "\n").encode())


def _plain(spec: CohortSpec) -> dict[str, Any]:
    """A specification as it is read back from JSON."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(spec)))
    return found


def _grown(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a specification asks for more patients than another, or as many, and is alike in all else.

    Those of the smaller cohort are then the first of the larger one, with the same files.
    """
    counts: list[dict[tuple[str, str], int]] = []
    others = []
    for specification in (old, new):
        kept = {key: value for key, value in specification.items() if key not in UNHASHED}
        parts = {k: dict(v) for k, v in kept.items() if isinstance(v, dict) and isinstance(v.get("patients"), dict)}
        counts.append({(name, split): n for name, part in parts.items() for split, n in part.pop("patients").items()})
        others.append(kept | parts)
    return others[0] == others[1] and all(counts[1].get(key, 0) >= n for key, n in counts[0].items())


def _remove(out: Path, cohort: str, parts: list[str]) -> None:
    """Delete the examinations and tables of these parts, and nothing else.

    Raises:
        RunError: Another process writes one of them, or something can't be deleted.
    """
    examinations = re.compile(rf"\.?{cohort}\d+-\w+-({'|'.join(SPLITS)})(-r\d+)?-\d+(\.tmp)?")
    tables = re.compile(rf"{cohort}_({'|'.join(parts)})(_stills)?(_r\d+)?(_flips[\d.]+)?\.(csv|yaml)")
    for folder in (out / part for part in parts if (out / part).is_dir()):
        with _alone(folder), writing(folder, OTHER_PLACE):
            for path in folder.iterdir():
                if examinations.fullmatch(path.name):
                    shutil.rmtree(path)
            if [path.name for path in folder.iterdir()] == [LOCKED]:
                shutil.rmtree(folder)
    with writing(out, OTHER_PLACE):
        for path in out.iterdir():
            if tables.fullmatch(path.name) or re.fullmatch(rf"{TRUTH}.*\.csv", path.name):
                path.unlink()


def _record(out: Path) -> dict[str, Any]:
    try:
        content = json.loads((out / COHORT).read_text())
    except (OSError, ValueError):
        content = None
    if isinstance(content, dict) and "hash" in content and isinstance(content.get("versions"), dict):
        specification = content.get("specification")
        if isinstance(specification, dict) and "name" in specification and specification.get("cohort") in PARTS:
            return content
    raise RunError(
        "this file, which says which cohort is here, is damaged",
        where=out / COHORT,
        fixes=("copy it from where the cohort was made", "delete the folder and simulate again"),
    )


def _compare_versions(old: dict[str, str], new: dict[str, str]) -> None:
    changed = [f"{name} {old.get(name)} -> {value}" for name, value in new.items() if old.get(name) != value]
    if changed:
        warnings.warn(
            f"this cohort was begun with other code ({', '.join(changed)}); what is added now may differ from what a "
            "fresh simulation gives: --force makes all of it anew",
            stacklevel=4,
        )


def _versions() -> dict[str, str]:
    """Of the libraries, and a hash of the simulator's own code."""
    return {"simulator": locks.code_hash(), **{name: version(name) for name in _VERSIONED}}

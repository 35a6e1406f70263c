"""What a run was made from, and the guard against evaluating patients that a stage before was fitted on.

A provenance (`provenance.json` of a run folder) holds the commit, versions, hashes of manifests and split, and salted
hashes of the patients fitted on, of the run itself and of every run whose checkpoint or predictions it starts from.
"""

from __future__ import annotations

import json
import subprocess
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xmkd.config import Experiment
from xmkd.data.pseudonyms import fingerprint, pseudonym, salt
from xmkd.data.streams import EVALUATED, Study, division
from xmkd.errors import LeakageError, RunError
from xmkd.runs import Run, files_of, find

PACKAGES = ("xmkd", "torch", "lightning", "timm", "monai", "numpy", "scipy", "scikit-learn", "pandas", "pydicom")


def record_of(run: Run, experiment: Experiment, study: Study) -> dict[str, Any]:
    """What the run is made from, or was begun from; a warning where it would go on under other code.

    Raises:
        RunError: The record of a run begun before is damaged, or its salt is another one.
        LeakageError: Patients that the run or its ancestors are fitted on would be evaluated.
    """
    record = _begun(experiment, study)
    if experiment.resume == "auto" and (run.folder / "provenance.json").is_file():
        record = _continued(run.provenance(), record)
    guard(record, study, Path(experiment.runs))
    return record


def data_record(study: Study) -> dict[str, Any]:
    """The part of a provenance that tells which data were read."""
    manifests = {}
    for name, stream in study.streams.items():
        card = stream.manifest.card
        file = {"file": str(stream.config.manifest), "data_set": card.name, "hash": stream.manifest.hash}
        manifests[name] = file | ({"lock": card.lock} if card.lock else {})
    return {"manifests": manifests, "split": study.split_hash}


def has_manifests(record: dict[str, Any], study: Study) -> bool:
    """Whether a provenance tells of these very manifests, wherever they lie."""
    hashes = {name: manifest["hash"] for name, manifest in record["manifests"].items()}
    return hashes == {name: stream.manifest.hash for name, stream in study.streams.items()}


def is_of(record: dict[str, Any], study: Study) -> bool:
    """Whether a provenance tells of these very data, with the same patients on each side."""
    return has_manifests(record, study) and record["split"] == study.split_hash


def guard(record: dict[str, Any], study: Study, runs_root: Path) -> None:
    """Stop when a patient to be evaluated is one that this run or an ancestor of it was fitted on.

    Args:
        record: A run's provenance.
        study: The data to be evaluated on.
        runs_root: Where the salt lies.

    Raises:
        LeakageError: Naming some of the patients.
        RunError: The hashes were made with another salt, so nothing can be said.
    """
    secret = salt(runs_root)
    for source in [record, *record["ancestors"]]:
        if source["salt"] != fingerprint(secret):
            raise RunError(
                f"{source.get('run', 'this run')} hashed its patients with another salt, so overlaps can't be seen",
                where=f"salt {source['salt']} there, {fingerprint(secret)} here",
                fixes=("set XMKD_SALT to the one used there", "train anew under this salt: resume=never"),
            )
        fitted = set(source["fitted_on"])
        shared = sorted(p for p in study.patients(*EVALUATED) if pseudonym(secret, p) in fitted)
        if shared:
            name = source.get("run", "this run")
            more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
            manifests = ", ".join(str(stream.manifest.path) for stream in study.streams.values())
            raise LeakageError(
                f"{len(shared)} patients to be evaluated were used to fit {name}: {', '.join(shared[:5])}{more}",
                where="; ".join([manifests, *_apart(source, record)]),
                fixes=(
                    "divide the patients of both stages alike: the same data.split, data.fold and labelled streams",
                    "evaluate on patients that no stage was fitted on",
                ),
            )


def _apart(other: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Which settings divided the patients of another run otherwise than those of this one."""
    there, here = other.get("division", {}), record.get("division", {})
    return [
        f"{key} is {json.dumps(value)} there and {json.dumps(here[key])} here"
        for key, value in there.items()
        if key in here and value != here[key]
    ]


def _begun(experiment: Experiment, study: Study) -> dict[str, Any]:
    secret = salt(Path(experiment.runs))
    return {
        "experiment": experiment.name,
        "commit": _commit(),
        "versions": {name: _version(name) for name in PACKAGES},
        **data_record(study),
        "division": division(experiment.data),
        "salt": fingerprint(secret),
        "fitted_on": sorted(pseudonym(secret, p) for p in study.patients("train", but=_optional(experiment))),
        "ancestors": _ancestors(experiment),
        "continued": [],
    }


def _optional(experiment: Experiment) -> tuple[str, ...]:
    """Streams that nothing is fitted to."""
    from xmkd.methods import METHODS

    return METHODS[experiment.method_name].optional


def _ancestors(experiment: Experiment) -> list[dict[str, Any]]:
    """The provenance of the runs whose checkpoints the method starts from, and of theirs in turn."""
    found: list[dict[str, Any]] = []
    for file in files_of(experiment.method):
        try:
            run = find(file.resolve())
        except RunError:
            warnings.warn(
                f"{file} lies in no run folder: nothing is known of the patients it was fitted on", stacklevel=2
            )
            continue
        record = run.provenance()
        kept = ("salt", "fitted_on", "division")
        found.append({"run": str(file)} | {key: record[key] for key in kept if key in record})
        found.extend(record["ancestors"])
    return found


def _continued(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The first record stays; what has changed since is noted in it and warned about."""
    changed = [
        f"{k} {old['versions'].get(k)} -> {v}" for k, v in new["versions"].items() if old["versions"].get(k) != v
    ]
    if old["commit"] != new["commit"]:
        changed.append(f"commit {old['commit']} -> {new['commit']}")
    if changed and (not old["continued"] or old["continued"][-1] != changed):
        old["continued"].append(changed)
    if changed:
        warnings.warn(f"this run was begun with other code: {', '.join(changed)}", stacklevel=3)
    return old


def _commit() -> str:
    """The commit of the code, with "+" where files differ from it; "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        call = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"

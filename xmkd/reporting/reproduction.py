"""How to make the run again: what ran, on which data, and the command."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xmkd
from xmkd import config as configuration
from xmkd.reporting.blocks import Code, Section, Table, Text, public
from xmkd.reporting.evidence import Evidence


def reproduction(evidence: Evidence) -> Section:
    """Versions, hashes, command and the whole configuration."""
    section = Section("reproduce", "Reproduction")
    record = evidence.provenance
    rows = [
        ["Experiment", evidence.experiment.name],
        ["Run id", evidence.run.id],
        ["Commit", _commit(str(record["commit"]))],
        ["Split hash", str(record["split"])],
        *([f"Manifest of {n}", f"{public(m['file'])}, hash {m['hash']}"] for n, m in record["manifests"].items()),
        ["Seeds", f"training {evidence.experiment.seed}, split {evidence.experiment.data.split.seed}"],
        ["Versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())],
        ["Report by", f"xmkd {xmkd.__version__}, Python {platform.python_version()}"],
    ]
    section.blocks.append(Table(["", ""], rows, "What the run was made from.", "provenance.json and config.yaml"))
    for changes in record["continued"]:
        section.blocks.append(Text(f"It went on under other code: {public(', '.join(changes))}."))
    caption = "The command that makes this run again, from the folder that holds the experiment's file."
    section.blocks.append(Code(command(evidence), caption, "config.yaml and the experiment's file"))
    text = public((evidence.run.folder / "config.yaml").read_text())
    caption = "All settings, defaults included; absolute paths are cut to their last part. This file can be run too: "
    caption += "python -m xmkd fit config.yaml."
    section.blocks.append(Code(text, caption, "config.yaml"))
    return section


def command(evidence: Evidence) -> str:
    """`python -m xmkd fit FILE key=value ...`, with what the run's settings add to the experiment's file.

    Settings of how to run rather than what to compute (devices, workers, folders) are left out. Where the experiment's
    file is not at hand, or can't be brought to these settings, the run's own config.yaml stands in its place.
    """
    verb = "crossval" if evidence.crossval else "fit"
    wanted = configuration.to_tree(evidence.experiment, runtime=False)
    name = Path("experiments") / f"{evidence.experiment.name}.yaml"
    file = next((p for p in (name, Path(xmkd.__file__).parents[1] / name) if p.is_file()), None)
    if file is not None:
        given = dict(_flat(configuration.to_tree(configuration.load(file), runtime=False)))
        words = [f"{k}={_value(v)}" for k, v in _flat(wanted) if given.get(k, _NOTHING) != v]
        if configuration.to_tree(configuration.load(file, words), runtime=False) == wanted:
            return " ".join(["python -m xmkd", verb, str(name), *(public(shlex.quote(w)) for w in words)])
    return public(f"python -m xmkd {verb} {shlex.quote(str(evidence.run.folder / 'config.yaml'))}")


_NOTHING = object()


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; lists stay whole, and so do empty sections."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: object) -> str:
    """A value as YAML in one line, as the command line reads it; in quotes where it would be read as something else."""
    from omegaconf import OmegaConf

    if isinstance(value, str) and OmegaConf.from_dotlist([f"key={value}"]).get("key") == value:
        return value
    return json.dumps(value)


def _commit(commit: str) -> str:
    return f"{commit[:-1]}, with changes that were not committed" if commit.endswith("+") else commit

"""Who is in a cohort: ids, labels, sites and sides of the split, all decided by the specification alone.

A patient is decided by her id and the cohort's seed, never by how many others there are: a larger cohort of the same
seed begins with the patients of the smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from xmkd.simulate.latent import Disease
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.spec import SPLITS, CohortSpec, PairPart, Sites, Split, UltrasoundPart, VolumePart

DISEASE: dict[str, Disease] = {"pod": "pod", "carcinoma": "carcinoma", "ct_mr": "pod", "multisequence": "carcinoma"}
"""What the ill patients of a cohort have."""


@dataclass(frozen=True)
class Patient:
    """One examination of one simulated patient.

    Attributes:
        id: Unique among all simulated cohorts of other seeds or kinds.
        part: Which part of the cohort examines her, such as "tvus".
        split: Her side.
        number: Her number on that side, from 0.
        site: The hospital.
        ill: The truth.
        shown: What the manifest says; the opposite where a training label is flipped.
        sequences: MR sequences that she has.
    """

    id: str
    part: str
    split: Split
    number: int
    site: str
    ill: bool
    shown: bool
    sequences: tuple[str, ...] = ()


def patients(spec: CohortSpec, name: str) -> list[Patient]:
    """The patients of a part, in order.

    Args:
        spec: The cohort.
        name: The part, such as "tvus".
    """
    part = spec.parts()[name]
    if isinstance(part, PairPart):
        others = patients(spec, "mri")
        return [replace(p, part=name, sequences=()) for p in others if p.split != "test"]
    return [patient for split in SPLITS for patient in _side(spec, name, part, split)]


def _side(spec: CohortSpec, name: str, part: UltrasoundPart | VolumePart, split: Split) -> list[Patient]:
    count: int = getattr(part.patients, split)
    replicate = f"-r{spec.replicate}" if spec.replicate and split != "test" else ""
    stem = f"{spec.cohort}{spec.seed}-{name}-{split}{replicate}"
    prevalence = spec.prevalence if part.prevalence is None else part.prevalence
    ill = illness(count, prevalence, Seeds(spec.seed, stem, "labels").numpy("label"))
    flips = spec.label_flips if split == "train" else 0.0  # those of a lower rate stay flipped at a higher one
    found = []
    for number in range(count):
        key = f"{stem}-{number + 1:05d}"
        seeds = Seeds(spec.seed, key)
        flipped = replace(seeds, examination="flip").numpy("label").random() < flips
        found.append(
            Patient(
                id=key,
                part=name,
                split=split,
                number=number,
                site=_site(spec.sites, ill[number], split, replace(seeds, examination="site").numpy("label")),
                ill=ill[number],
                shown=ill[number] != flipped,
                sequences=_sequences(part, replace(seeds, examination="sequences").numpy("protocol")),
            )
        )
    return found


def illness(count: int, prevalence: float, rng: np.random.Generator) -> list[bool]:
    """Who is ill: one at random out of each successive `1 / prevalence` patients.

    Any first n patients thus have the prevalence to within one patient, and the first ones do not depend on `count`.
    Independent draws would give 60 validation patients anything from 11 to 25 ill ones at a prevalence of 0.3.

    Args:
        count: Number of patients.
        prevalence: Fraction of ill ones, between 0 and 1.
        rng: Where the places within the intervals come from.
    """
    rare = min(prevalence, 1 - prevalence)
    borders = np.ceil(np.arange(int(np.ceil(count * rare)) + 2) / rare - 1e-9).astype(int)
    chosen = borders[:-1] + np.floor(rng.random(len(borders) - 1) * np.diff(borders)).astype(int)
    marked = np.zeros(max(count, borders[-1]), dtype=bool)
    marked[chosen] = True
    ill: list[bool] = (marked[:count] == (prevalence <= 0.5)).tolist()
    return ill


def _site(sites: Sites, ill: bool, split: Split, rng: np.random.Generator) -> str:
    """The patient's hospital; the number of draws does not depend on the label."""
    follows, which = rng.random(2)
    weights = np.array(sites.shares or [1.0] * len(sites.names))
    if split in sites.confounded and follows < sites.confounding:
        half = np.arange(len(weights)) < len(weights) // 2
        weights = weights * (half if ill else ~half)
    reached = np.searchsorted(np.cumsum(weights / weights.sum()), which, side="right")
    return sites.names[min(int(reached), len(weights) - 1)]


def _sequences(part: UltrasoundPart | VolumePart, rng: np.random.Generator) -> tuple[str, ...]:
    """The sequences that are not missing; where all would be, the one that was least so stays."""
    if not isinstance(part, VolumePart):
        return ()
    draws = rng.random(len(part.sequences))
    kept = (draws >= part.missing) | (draws == draws.max())
    return tuple(name for name, here in zip(part.sequences, kept, strict=True) if here)

"""Shortcut probes: what may not tell the ill from the healthy, measured on the files that a method would read.

The same patients are examined twice, once ill and once healthy, everything else alike: all that differs between the
two is what the evidence changes. A probe whose AUROC leaves 0.45 to 0.55 shows a shortcut, such as more motion, darker
pictures or larger files of the ill. Paired examinations see it with hundreds of patients; unpaired ones would need
thousands. Numbers that the disease may well change, such as the thickness of the endometrium, are baselines: printed,
not judged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
from scipy import ndimage
from scipy.fft import fft2, ifft2

from xmkd.data import readers
from xmkd.data.image import Image
from xmkd.evaluation.statistics import Interval, auroc_interval
from xmkd.simulate.cards import Examined, File
from xmkd.simulate.plan import Patient
from xmkd.simulate.pool import Pool
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scene import ORGANS
from xmkd.simulate.spec import CohortSpec, VolumePart

LOWEST, HIGHEST = 0.45, 0.55
BASELINE = "baseline: "
KEY = ("patient", "ill")
MOST_LEVELS = 12  # of a header field in words; beyond them its values are ranked in the order of the alphabet
BLOCK = 32  # pixels of a block whose shift between two frames is found
WHITE = 235  # grey level of burnt-in text

Value = float | str
Row = dict[str, Value]
Examine = Callable[[CohortSpec, Patient, Path], Examined]


@dataclass(frozen=True)
class Probe:
    """What a number said of the label.

    Attributes:
        name: The number.
        auroc: With its interval; a patient's two examinations are one cluster.
        same: Fraction of patients in whom it is the same ill and healthy.
    """

    name: str
    auroc: Interval
    same: float

    @property
    def verdict(self) -> str:
        """Whether the limits hold: "ok" or "SHORTCUT"; "" for a baseline."""
        if BASELINE in self.name:
            return ""
        return "ok" if LOWEST <= self.auroc.value <= HIGHEST else "SHORTCUT"


def audit(spec: CohortSpec, part: str, patients: int, pool: Pool, examine: Examine) -> list[Probe]:
    """Examine patients of a part ill and healthy, and judge every number of their files.

    Args:
        spec: The cohort, with its visibilities.
        part: Such as "tvus".
        patients: How many, each examined twice.
        pool: Processes.
        examine: Renders and writes an examination.
    """
    people = subjects(spec, part, patients)
    rows = [row for pair in pool.run(partial(_both, spec, examine), people) for row in pair]
    return judge(pd.DataFrame(rows))


def subjects(spec: CohortSpec, part: str, count: int) -> list[Patient]:
    """Patients for the probes alone, of all sites alike and with all sequences."""
    shape = spec.parts()[part]
    sequences = tuple(shape.sequences) if isinstance(shape, VolumePart) else ()
    found = []
    for number in range(count):
        key = f"{spec.cohort}{spec.seed}-probe-{part}-{number + 1:05d}"
        site = spec.sites.names[number % len(spec.sites.names)]
        found.append(Patient(key, part, "train", number, site, False, False, sequences=sequences))
    return found


def judge(table: pd.DataFrame) -> list[Probe]:
    """The AUROC of every column.

    Args:
        table: Two rows per patient: `patient`, `ill` (0 or 1) and numbers or words. What is missing gets the median; a
            column in words becomes one column per word.
    """
    table = table.sort_values(list(KEY)).reset_index(drop=True)
    ill, patient = table["ill"].to_numpy().astype(int), table["patient"].to_numpy()
    probes = []
    for name in [c for c in table.columns if c not in KEY]:
        for part, values in _numbers(name, table[name]).items():
            pairs = values.reshape(-1, 2)
            probes.append(Probe(part, auroc_interval(ill, values, patient), float(np.mean(pairs[:, 0] == pairs[:, 1]))))
    return probes


def text(probes: Sequence[Probe]) -> str:
    """A line per probe: those that leave the limits and the baselines first, fields that no label touches in one."""
    moved = [p for p in probes if p.same < 1]
    width = max((len(p.name) for p in moved), default=0)
    order = sorted(moved, key=lambda p: (p.verdict == "ok", -abs(p.auroc.value - 0.5)))
    lines = [f"{p.name:{width}}  {p.auroc}  {p.verdict}".rstrip() for p in order]
    same = sorted(p.name for p in probes if p.same == 1)
    return "\n".join([*lines, f"the same ill and healthy in every patient ({len(same)}): {', '.join(same)}"])


def frame(probes: Sequence[Probe]) -> pd.DataFrame:
    """One row per probe."""
    rows = [
        {"probe": p.name, "auroc": round(p.auroc.value, 4), "low": p.auroc.low, "high": p.auroc.high,
         "patients": p.auroc.patients, "same": round(p.same, 4), "verdict": p.verdict} for p in probes
    ]  # fmt: skip
    return pd.DataFrame(rows).round(4)


def _both(spec: CohortSpec, examine: Examine, patient: Patient) -> list[Row]:
    """The numbers of a patient, healthy and ill."""
    found = []
    for ill in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            examined = examine(spec, replace(patient, ill=ill, shown=ill), Path(folder))
            numbers = examination(Path(folder), examined)
        found.append({"patient": patient.id, "ill": float(ill), **numbers})
    return found


def examination(folder: Path, examined: Examined) -> Row:
    """All numbers of an examination: of the first file of each view and sequence, and of the whole.

    Args:
        folder: Where it was written.
        examined: What is there.
    """
    numbers: Row = {"files": float(len(examined.files))}
    seen: set[str] = set()
    for file in examined.files:
        kind = " ".join(filter(None, (file.view, file.sequence if file.view == "volume" else "")))
        if kind in seen:
            continue
        seen.add(kind)
        numbers |= {f"{kind}: {name}": value for name, value in _file(folder, file).items()}
    return numbers


def _file(folder: Path, file: File) -> Row:
    path = folder / file.path
    slices = sorted(path.iterdir()) if path.is_dir() else [path]
    numbers: Row = {"file size": float(sum(p.stat().st_size for p in slices))}
    image = readers.read(path)
    numbers |= picture(image)
    header = pydicom.dcmread(slices[0], stop_before_pixels=True)
    numbers |= {f"header {name}": value for name, value in fields(header).items()}
    if file.mask:
        mask = readers.read(folder / file.mask)
        numbers |= {BASELINE + name: value for name, value in baselines(mask).items()}
    return numbers


def picture(image: Image) -> Row:
    """Numbers that need no idea of what is in a picture.

    Args:
        image: An image, a clip or a volume.
    """
    array = image.array[0].astype(np.float32)  # (H, W), (T, H, W) or (D, H, W)
    steps = np.abs(np.diff(array, axis=-1))
    numbers: Row = {
        "mean intensity": float(array.mean()),
        "spread of intensity": float(array.std()),
        "sharpness": float(steps.mean()),
        "shape": " x ".join(map(str, array.shape)),
    }
    if image.kind == "volume":
        return numbers | {"step between slices": float(np.abs(np.diff(array, axis=0)).mean())}
    numbers |= {
        "white pixels": float((array.min(axis=0) >= WHITE).sum() if array.ndim == 3 else (array >= WHITE).sum())
    }
    if image.kind == "clip":
        numbers |= {
            "clip length": float(len(array)),
            "frame difference": float(np.abs(np.diff(array, axis=0)).mean()),
            "flow": float(np.linalg.norm(flow(array), axis=-1).mean()),
        }
    return numbers


def flow(frames: np.ndarray, block: int = BLOCK) -> np.ndarray:
    """Shift in pixels of every block from frame to frame by phase correlation, `(T - 1, N, 2)`.

    Args:
        frames: `(T, H, W)`.
        block: Edge of a block; what is left over at the edges is not looked at.
    """
    count, height, width = frames.shape
    rows, columns = height // block, width // block
    tiles = frames[:, : rows * block, : columns * block].reshape(count, rows, block, columns, block)
    tiles = tiles.transpose(0, 1, 3, 2, 4).reshape(count, rows * columns, block, block)
    window = np.outer(np.hanning(block), np.hanning(block)).astype(np.float32)
    spectrum = fft2((tiles - tiles.mean(axis=(2, 3), keepdims=True)) * window)
    cross = spectrum[1:] * spectrum[:-1].conj()
    peaks = ifft2(cross / np.maximum(np.abs(cross), 1e-6)).real.reshape(count - 1, rows * columns, -1).argmax(axis=-1)
    shift = np.stack(np.unravel_index(peaks, (block, block)), axis=-1)
    return np.where(shift > block // 2, shift - block, shift)


def fields(header: pydicom.Dataset) -> Row:
    """Every element of a header: numbers as such, ids by their last digits, all else in words."""
    found: Row = {}
    for element in header.iterall():
        name = element.keyword or str(element.tag)
        if element.VR == "SQ" or name in found or element.value is None:
            continue
        value = str(element.value)
        digits = value.replace(".", "")[-12:] if element.VR in ("UI", "DA", "TM", "DT") else value
        try:
            found[name] = float(digits)
        except ValueError:
            found[name] = value
    return found


def baselines(mask: Image) -> dict[str, float]:
    """What the true mask alone says: area or volume of a lesion, thickness of the endometrium with what lies in it.

    Args:
        mask: Organ labels of one picture or volume, by `scene.ORGANS`.
    """
    labels = mask.array.reshape(-1, *mask.array.shape[-2:])
    spacing = mask.spacing_mm or (1.0, 1.0)
    pixel = float(np.prod(spacing))
    lesion = np.isin(labels, [ORGANS.index(name) for name in ("tumour", "polyp")])
    cavity = lesion | (labels == ORGANS.index("endometrium"))
    thick = [ndimage.distance_transform_edt(c, sampling=spacing[-2:]).max() for c in cavity if c.any()]
    return {"lesion size": float(lesion.sum()) * pixel, "endometrial thickness": 2 * float(max(thick, default=0.0))}


def _numbers(name: str, column: pd.Series[Any]) -> dict[str, np.ndarray]:
    """A column as numbers; words become one column of 0 and 1 each, or their rank where there are many."""
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(dtype=float)
        known = values[np.isfinite(values)]
        return {name: np.where(np.isfinite(values), values, np.median(known) if known.size else 0.0)}
    words = column.fillna("").astype(str)
    levels = sorted(set(words))
    if len(levels) == 1:
        return {name: np.zeros(len(words))}
    if len(levels) > MOST_LEVELS:
        return {name: words.rank(method="dense").to_numpy(dtype=float)}
    return {f"{name}={level}": (words == level).to_numpy(dtype=float) for level in levels}


def planned(spec: CohortSpec, part: str, patients: Sequence[Patient]) -> list[Probe]:
    """What the plan itself says of the label on the test side: a patient's number, site and id.

    Args:
        spec: The cohort.
        part: The part, for names.
        patients: Its patients.
    """
    rows = []
    for patient in patients:
        digest = Seeds(spec.seed, patient.id).numpy("texture").random()
        rows.append({"patient": patient.id, "ill": float(patient.ill), f"{part}: number": float(patient.number),
                     f"{part}: site": patient.site, f"{part}: id": digest})  # fmt: skip
    table = pd.DataFrame(rows)
    ill = table["ill"].to_numpy().astype(int)
    columns = [c for c in table.columns if c not in KEY]
    return [
        Probe(name, auroc_interval(ill, values), 0.0)
        for column in columns
        for name, values in _numbers(column, table[column]).items()
    ]

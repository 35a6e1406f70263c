"""Shortcut probes: what may not tell the ill from the healthy, measured on the files that a method would read.

The same patients are examined twice, once ill and once healthy, everything else alike: all that differs between the
two is what the evidence changes. What is no picture (names, sizes, headers) has to be the same in every pair. A number
of the picture moves a little with the evidence: where its AUROC leaves 0.45 to 0.55 there is a shortcut, such as more
motion or darker pictures of the ill. Paired examinations see it with hundreds of patients; unpaired ones would need
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
EXACT = ("files", "file size", "shape", "clip length")  # the same in every pair, as all in words has to be
OF_PIXELS = ("WindowCenter", "WindowWidth")  # of a header, but computed from grey levels: numbers of the picture
BLOCK = 32  # pixels of a block whose shift between two frames is found
WHITE = 235  # grey level of burnt-in text

Value = float | str
Row = dict[str, Value]
Examine = Callable[[CohortSpec, Patient, Path], Examined]


@dataclass(frozen=True)
class Probe:
    """What a number, or anything in words, said of the label.

    Attributes:
        name: The number.
        patients: How many.
        auroc: With its interval, a patient's two examinations being one cluster; None where nothing may differ.
        differ: Patients in whom it is not the same ill and healthy; None where each is examined once.
    """

    name: str
    patients: int
    auroc: Interval | None
    differ: int | None

    @property
    def verdict(self) -> str:
        """Whether the limits hold: "ok" or "SHORTCUT"; "" for a baseline."""
        if BASELINE in self.name:
            return ""
        kept = LOWEST <= self.auroc.value <= HIGHEST if self.auroc else self.differ == 0
        return "ok" if kept else "SHORTCUT"

    @property
    def finding(self) -> str:
        """The figure in words."""
        return str(self.auroc) if self.auroc else f"differs in {self.differ} of {self.patients} patients"


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
    """Judge every column: numbers of a picture by their AUROC, all else by being the same in every pair.

    Args:
        table: Two rows per patient: `patient`, `ill` (0 or 1) and numbers or words. A number that is missing gets the
            median for its AUROC.
    """
    table = table.sort_values(list(KEY)).reset_index(drop=True)
    ill, patient = table["ill"].to_numpy().astype(int), table["patient"].to_numpy()
    probes = []
    for name in [c for c in table.columns if c not in KEY]:
        healthy, sick = (table.loc[ill == side, name].reset_index(drop=True) for side in (0, 1))
        differ = int((~((healthy == sick) | (healthy.isna() & sick.isna()))).sum())
        exact = name.rpartition(": ")[2] in EXACT or not pd.api.types.is_numeric_dtype(table[name])
        auroc = None if exact else auroc_interval(ill, _filled(table[name]), patient)
        probes.append(Probe(name, len(healthy), auroc, differ))
    return probes


def text(probes: Sequence[Probe]) -> str:
    """A line per probe that moved: those that show a shortcut and the baselines first; all that did not in one line."""
    moved = [p for p in probes if p.differ != 0]
    width = max((len(p.name) for p in moved), default=0)
    order = sorted(moved, key=lambda p: (p.verdict == "ok", -abs(p.auroc.value - 0.5) if p.auroc else -1.0))
    lines = [f"{p.name:{width}}  {p.finding}  {p.verdict}".rstrip() for p in order]
    same = sorted(p.name for p in probes if p.differ == 0)
    return "\n".join([*lines, f"the same ill and healthy in every patient ({len(same)}): {', '.join(same)}"])


def frame(probes: Sequence[Probe]) -> pd.DataFrame:
    """One row per probe."""
    rows = []
    for p in probes:
        value, low, high = (p.auroc.value, p.auroc.low, p.auroc.high) if p.auroc else (None, None, None)
        rows.append({"probe": p.name, "auroc": value, "low": low, "high": high, "patients": p.patients,
                     "differ": p.differ, "verdict": p.verdict})  # fmt: skip
    kinds: dict[str, Any] = {"auroc": float, "low": float, "high": float, "differ": "Int64"}
    return pd.DataFrame(rows).astype(kinds).round(4)


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
    headers = [pydicom.dcmread(one, stop_before_pixels=True) for one in slices]
    numbers |= {f"header {name}": value for name, value in fields(headers).items()}
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


def fields(headers: Sequence[pydicom.Dataset]) -> Row:
    """Every element of the headers of a file or series in words, all its values in order; `OF_PIXELS` as numbers.

    Args:
        headers: Of a file, or of the slices of a series.
    """
    found: Row = {}
    for element in (e for header in headers for part in (header.file_meta, header) for e in part.iterall()):
        name = element.keyword or str(element.tag)
        if name in OF_PIXELS:
            found.setdefault(name, float(element.value))
        elif element.VR != "SQ":
            found[name] = f"{found[name]} | {element.value}" if name in found else str(element.value)
    return found


def baselines(mask: Image) -> dict[str, float]:
    """What the true mask alone says: area or volume of a lesion, thickness of the endometrium with what lies in it.

    They are what a reader without any eye for invasion would go by.

    Args:
        mask: Organ labels of one picture or volume, by `scene.ORGANS`.
    """
    labels = mask.array.reshape(-1, *mask.array.shape[-2:])
    spacing = mask.spacing_mm or (1.0, 1.0)
    pixel = float(np.prod(spacing))
    lesion = np.isin(labels, [ORGANS.index(name) for name in ("tumour", "polyp")])
    cavity = lesion | (labels == ORGANS.index("endometrium"))
    thick = [ndimage.distance_transform_edt(c, sampling=spacing[-2:]).max() for c in cavity if c.any()]
    name = "lesion volume" if mask.kind == "volume" else "lesion area"
    return {name: float(lesion.sum()) * pixel, "endometrial thickness": 2 * float(max(thick, default=0.0))}


def _filled(column: pd.Series[Any]) -> np.ndarray:
    """A column of numbers, with the median for what is missing."""
    values = column.to_numpy(dtype=float)
    known = values[np.isfinite(values)]
    return np.where(np.isfinite(values), values, np.median(known) if known.size else 0.0)


def planned(spec: CohortSpec, part: str, patients: Sequence[Patient]) -> list[Probe]:
    """What the plan itself says of the label on the test side: a patient's number, site and id.

    Args:
        spec: The cohort.
        part: The part, for names.
        patients: Its patients.
    """
    ill = np.array([p.ill for p in patients]).astype(int)
    columns = {"number": np.array([float(p.number) for p in patients])}
    columns |= {f"site={site}": np.array([float(p.site == site) for p in patients]) for site in spec.sites.names}
    columns["id"] = np.array([Seeds(spec.seed, p.id).numpy("texture").random() for p in patients])
    return [Probe(f"{part}: {name}", len(ill), auroc_interval(ill, v), None) for name, v in columns.items()]

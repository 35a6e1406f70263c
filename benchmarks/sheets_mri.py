"""Contact sheets of simulated MRI and CT, and what their checks measure: `python benchmarks/sheets_mri.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from xmkd.simulate import anatomy, ct, mri, mri_validate
from xmkd.simulate.evidence import Adhesion, Invasion
from xmkd.simulate.mr_protocol import SEQUENCES
from xmkd.simulate.mri import MriSettings
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Volume
from xmkd.simulate.scene import ORGANS

FINE = MriSettings(shape=(24, 320, 320), spacing=(4.0, 0.68, 0.68))


def picture(plane: np.ndarray, low: float, high: float, size: int = 192) -> np.ndarray:
    """A plane as grey levels, scaled to `size` pixels."""
    grey = (np.clip((plane - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC))


def sheet(pictures: list[np.ndarray], columns: int) -> Image.Image:
    """Pictures in rows."""
    rows = [np.hstack(pictures[k : k + columns]) for k in range(0, len(pictures), columns)]
    return Image.fromarray(np.vstack(rows))


def patient(number: int, sequences: tuple[mri.Sequence, ...] = ("t2_sag",)) -> dict[str, Volume]:
    """MRI of a healthy patient."""
    seeds = Seeds(0, f"sheet {number}", "mri")
    return mri.render(anatomy.draw(seeds, "pod", "mri"), Adhesion(), seeds, MriSettings(sequences))


def middle_slices(count: int = 12) -> Image.Image:
    """The middle T2 slice of one patient after the other."""
    volumes = [patient(k)["t2_sag"].array for k in range(count)]
    return sheet([picture(v[len(v) // 2], 0, float(np.percentile(v, 98.7))) for v in volumes], 4)


def all_slices(number: int = 1) -> Image.Image:
    """Every T2 slice of a patient, from her right to her left."""
    array = patient(number)["t2_sag"].array
    return sheet([picture(plane, 0, float(np.percentile(array, 98.7)), 144) for plane in array], 6)


def sequences(numbers: tuple[int, ...] = (1, 2)) -> Image.Image:
    """The middle slice of every sequence: T2, T1, T1 with contrast, b 1000, ADC."""
    pictures = []
    for number in numbers:
        for name, volume in patient(number, SEQUENCES).items():
            high = 3200.0 if name == "adc_sag" else float(np.percentile(volume.array, 99.3))
            pictures.append(picture(volume.array[len(volume.array) // 2], 0, high))
    return sheet(pictures, len(SEQUENCES))


def tumours() -> Image.Image:
    """One patient with tumours that reach ever deeper into the back wall: none, a quarter, over half, nearly all."""
    seeds = Seeds(0, "sheet tumour 31", "mri")
    pelvis = anatomy.draw(seeds, "carcinoma", "mri")
    pictures = []
    for reach in (0.0, 0.25, 0.6, 0.95):
        evidence = Invasion(reach > 0, 0.75, 1.0, 28.0, 9.0, reach, 1.0)
        pictures.append(_uterus(mri.render(pelvis, evidence, seeds, FINE)["t2_sag"]))
    return sheet(pictures, 4)


def adhesions() -> Image.Image:
    """One patient with a free pouch and with ever more of it obliterated."""
    seeds = Seeds(0, "sheet 3", "mri")
    pelvis = anatomy.draw(seeds, "pod", "mri")
    pictures = []
    for share in (0.0, 0.4, 0.7, 1.0):
        evidence = Adhesion(
            plaque_mm=(8 * share, 7 * share),
            plaque_contrast=share,
            tether_mm=(12 * share, 10 * share),
            gap_mm=(3 - 3 * share, 3 - 3 * share),
            fluid_mm=6 - 6 * share,
            kink_deg=40 * share,
        )
        pictures.append(_uterus(mri.render(pelvis, evidence, seeds, FINE)["t2_sag"]))
    return sheet(pictures, 4)


def _uterus(volume: Volume) -> np.ndarray:
    """The middle slice about the uterus, 110 mm across."""
    middle = len(volume.array) // 2
    womb = np.argwhere(np.isin(volume.mask[middle], [ORGANS.index(o) for o in ("uterus", "junctional zone", "cervix")]))
    half = round(55 / float(np.linalg.norm(volume.affine[:3, 2])))
    row, column = np.clip(womb.mean(0).round().astype(int), half, np.array(volume.mask.shape[1:]) - half)
    part = volume.array[middle, row - half : row + half, column - half : column + half]
    return picture(part, 0, 0.9 * float(np.percentile(volume.array, 98.7)))


def axial(number: int = 3) -> Image.Image:
    """Twelve CT slices from foot to head, window 50 / 400 HU."""
    seeds = Seeds(0, f"sheet {number}", "ct")
    volume = ct.render(anatomy.draw(seeds, "pod", "ct"), Adhesion(), seeds)
    return sheet([picture(volume.array[k], -150, 250) for k in range(3, 39, 3)], 4)


def main(folder: Path) -> int:
    """Write all sheets and print the measurements."""
    folder.mkdir(parents=True, exist_ok=True)
    for make in (middle_slices, all_slices, sequences, tumours, adhesions, axial):
        make().save(folder / f"{'ct' if make is axial else 'mri'}_{make.__name__}.png", optimize=True)
    for name, value in mri_validate.summary().items():
        print(f"{name}: {value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""Contact sheets of the simulator: `make sheets`.

With `--beside` simulated pictures stand beside real ones, of MMOTU and of the pelvic MRI set. Those sheets show
patients' images: they go to a run folder and nowhere else.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from xmkd.data import manifest as manifests
from xmkd.data.readers import read
from xmkd.simulate import anatomy, ct, mri
from xmkd.simulate.evidence import Adhesion, Invasion
from xmkd.simulate.mr_protocol import SEQUENCES
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Clip, Volume
from xmkd.simulate.scan import Scan
from xmkd.simulate.scene import ORGANS
from xmkd.simulate.ultrasound import tvus

FINE = Scan((24, 320, 320), (4.0, 0.68, 0.68))


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
    return mri.render(anatomy.draw(seeds, "pod", "mri"), Adhesion(), seeds, sequences=sequences)


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


def clips(count: int = 12) -> Image.Image:
    """The first frame of clips of one patient after the other."""
    return sheet([_clip(k).frames[0] for k in range(count)], 4)


def motion(count: int = 4) -> Image.Image:
    """Every other frame of clips, a patient per row; stuck and free in turn."""
    pictures = []
    for number in range(count):
        pictures += list(_clip(number, stuck=number % 2 == 1).frames[::2])
    return sheet(pictures, 8)


def _clip(number: int, *, stuck: bool = False) -> Clip:
    seeds = Seeds(0, f"sheet {number}", "clip1")
    evidence = Adhesion(coupling=(0.9, 0.9), plaque_mm=(5, 5), plaque_contrast=0.8) if stuck else Adhesion()
    return tvus.render_clip(anatomy.draw(seeds, "pod", "tvus"), evidence, seeds)


def stills(count: int = 12) -> Image.Image:
    """Stills of the carcinoma cohort: in turn no tumour, one within the endometrium, one deep in the wall."""
    pictures = []
    for number in range(count):
        seeds = Seeds(0, f"sheet {number}", "still1")
        reach = (0.0, 0.0, 0.7)[number % 3]
        evidence = Invasion(number % 3 > 0, 0.75, 1.0, 26.0, 9.0, reach, 1.0)
        pelvis = anatomy.draw(seeds, "carcinoma", "tvus")
        pictures.append(tvus.render_still(pelvis, evidence, seeds, tvus.Settings(shape=(240, 300))).frames[0])
    return sheet(pictures, 4)


def beside_mmotu() -> Image.Image:
    """Simulated stills in the upper rows, real ovarian ultrasound in the lower ones."""
    found = manifests.load("data_manifests/mmotu_tvus.csv")
    rows = found.table.sample(8, random_state=0)["path"]
    real = [picture(read(found.root / path).array.mean(0), 0, 255, 240) for path in rows]
    made = [picture(np.asarray(_still(k), dtype=float), 0, 255, 240) for k in range(8)]
    return sheet(made + real, 4)


def _still(number: int) -> np.ndarray:
    seeds = Seeds(0, f"sheet {number}", "still1")
    pelvis = anatomy.draw(seeds, "pod", "tvus")
    frame: np.ndarray = tvus.render_still(pelvis, Adhesion(), seeds, tvus.Settings(shape=(320, 320))).frames[0]
    return frame


def beside_pelvis() -> Image.Image:
    """Simulated middle slices above, slices of real (male) pelvic T2 MRI below."""
    found = manifests.load("data_manifests/tcia_prostate_mri.csv")
    real = []
    for path in found.table["path"].head(4):
        volume = read(found.root / path).array[0]
        real.append(picture(volume[len(volume) // 2], 0, float(np.percentile(volume, 99)), 240))
    made = []
    for number in range(4):
        volume = patient(number)["t2_sag"].array
        made.append(picture(volume[len(volume) // 2], 0, float(np.percentile(volume, 98.7)), 240))
    return sheet(made + real, 4)


FIGURES = {
    "mri_middle_slices": middle_slices, "mri_all_slices": all_slices, "mri_sequences": sequences,
    "mri_tumours": tumours, "mri_adhesions": adhesions, "ct_axial": axial,
    "tvus_clips": clips, "tvus_motion": motion, "tvus_stills": stills,
}  # fmt: skip


def main() -> int:
    """Write the sheets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--beside", action="store_true", help="beside real images, if XMKD_DATA has them")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    wanted = dict(FIGURES)
    if chosen.beside:
        data = Path(os.environ.get("XMKD_DATA", "../shared/data"))
        wanted = {}
        for name, make in (("mmotu_tvus", beside_mmotu), ("tcia_prostate_mri", beside_pelvis)):
            if (data / name).is_dir():
                wanted[f"beside_{name}"] = make
            else:
                print(f"no {name} in {data}: no sheet beside it")
    for name, make in wanted.items():
        make().save(chosen.folder / f"{name}.png", optimize=True)
        print(chosen.folder / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
